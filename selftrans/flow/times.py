"""The times that samplers visit, and where guidance acts. Needs no torch."""

from itertools import pairwise

from selftrans.config import SamplerName

DOPRI5_EVALUATIONS = 100
"""Of the velocity for a sample, an estimate for plans: at rtol 1e-3 and atol 1e-6 a tiny SiT took
20 after 600 steps of training and 34 after 3,000, and larger networks change faster."""
LAST_SDE_TIME = 0.04
"""Where the noise of the SDE ends; one deterministic step leads from here to 0."""
GUIDANCE_TOLERANCE = 1e-9
"""How far a time may lie outside the interval of guidance and still be guided. The same grid point
has other last bits in the grids here, in ``torch.linspace`` (the ancestors') and in a decimal
number; steps are far longer."""


def ode_times(num_steps: int) -> list[float]:
    """The grid 1 = t_0 > ... > t_n = 0 of the ODE samplers."""
    return [1 - step / num_steps for step in range(num_steps)] + [0.0]


def sde_times(num_steps: int) -> list[float]:
    """``num_steps`` points from 1 to 0.04, then 0."""
    span = 1 - LAST_SDE_TIME
    return [1 - span * step / (num_steps - 1) for step in range(num_steps - 1)] + [
        LAST_SDE_TIME,
        0.0,
    ]


def guidance_acts(t: float, scale: float, low: float, high: float) -> bool:
    """Whether classifier-free guidance acts at ``t``: in its interval, unless its scale is 1."""
    return scale != 1.0 and low - GUIDANCE_TOLERANCE <= t <= high + GUIDANCE_TOLERANCE


def velocity_passes(
    sampler: SamplerName, num_steps: int, scale: float, low: float, high: float
) -> int:
    """Forward passes of a sampler for one sample: two where guidance acts.

    Heun's method evaluates twice but for the last step, and guides both where the first is guided.
    What ``dopri5`` evaluates depends on the network: an estimate.
    """
    if sampler == "dopri5":
        return round(DOPRI5_EVALUATIONS * (1 if scale == 1 else 1 + high - low))
    times = sde_times(num_steps) if sampler == "euler-maruyama" else ode_times(num_steps)
    return sum(
        (2 if guidance_acts(now, scale, low, high) else 1)
        * (2 if sampler == "heun" and after > 0 else 1)
        for now, after in pairwise(times)
    )
