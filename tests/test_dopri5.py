"""Dormand-Prince sample by sample against SciPy's, and what guidance is under it."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import RK45

from selftrans.config import ConfigError, GuidanceConfig, SamplerConfig, load_experiment
from selftrans.flow.dopri5 import dopri5
from selftrans.flow.sampler import GuidedVelocity
from selftrans.runtime.errors import UserError
from selftrans.sampling.latents import SampleNoise, sample_latents

STIFFNESS = torch.tensor([0.0, 0.3, 3.0, 40.0, 300.0], dtype=torch.float64)
START = torch.randn(5, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Field:
    """Nonlinear in x and in t, of another stiffness for each sample; counts its evaluations."""

    def __init__(self, stiffness=STIFFNESS):
        self.stiffness, self.evaluations = stiffness, [0] * len(stiffness)

    def __call__(self, x, t, rows):
        for row in rows.tolist():
            self.evaluations[row] += 1
        k, t = (value.reshape(-1, 1, 1, 1) for value in (self.stiffness[rows], t))
        return k * (x - torch.cos(5 * t)) + torch.sin(3 * x) * t - 0.2 * x**2


def scipys(stiffness, start, rtol, atol):
    """The end, and the evaluations of the field."""
    field = Field(stiffness[None])

    def slope(t, y):
        x = torch.from_numpy(y).reshape(1, *start.shape)
        return field(x, x.new_tensor([t]), torch.tensor([0])).flatten().numpy()

    solver = RK45(slope, 1.0, start.flatten().numpy(), 0.0, rtol=rtol, atol=atol)
    while solver.status == "running":
        solver.step()
    assert solver.status == "finished"
    return solver.y.reshape(start.shape), field.evaluations[0]


@pytest.mark.parametrize(("rtol", "atol"), [(1e-3, 1e-6), (1e-6, 1e-9)])
def test_each_sample_takes_scipys_steps(rtol, atol):
    field = Field()
    found = dopri5(field, START, 5000, rtol, atol)
    expected = [scipys(k, x, rtol, atol) for k, x in zip(STIFFNESS, START, strict=True)]
    assert field.evaluations == [count for _, count in expected]
    assert len(set(field.evaluations)) > 3
    np.testing.assert_allclose(found, np.stack([end for end, _ in expected]), rtol=1e-11)


def test_a_sample_does_not_depend_on_its_batch():
    together = dopri5(Field(), START, 5000, 1e-3, 1e-6)
    for row in range(len(START)):
        one = slice(row, row + 1)
        alone = dopri5(Field(STIFFNESS[one]), START[one], 5000, 1e-3, 1e-6)
        assert torch.equal(alone, together[one])


def test_its_error_falls_with_its_tolerance():
    """dx/dt = -2 t x from t = 1: x(0) = x(1) e."""
    ends = [
        dopri5(lambda x, t, _: -2 * t.reshape(-1, 1, 1, 1) * x, START, 500, rtol, rtol / 1e3)
        for rtol in (1e-3, 1e-6, 1e-9)
    ]
    errors = [((end - START * math.e).abs().max() / START.abs().max()).item() for end in ends]
    assert errors[0] > 20 * errors[1] > 400 * errors[2]
    assert errors[2] < 1e-8


def test_too_many_steps_and_numbers_that_are_none_are_one_line():
    with pytest.raises(UserError, match=r"^dopri5: num_steps: after 5 steps a sample is at t = 0"):
        dopri5(Field(), START, 5, 1e-3, 1e-6)
    with pytest.raises(UserError, match=r"^dopri5: rtol: .* needs a step below rounding"):
        dopri5(lambda x, t, _: x * math.nan, START, 5000, 1e-3, 1e-6)


def network(x, t, labels):
    """Elementwise, so that its rounding does not depend on the batch; 9 is the null class."""
    label = labels.reshape(-1, 1, 1, 1).to(x.dtype)
    return torch.sin(2 * x + label) + t.reshape(-1, 1, 1, 1) * label / 5


def settings(**changes):
    guidance = GuidanceConfig(scale=2.0, low=0.2, high=0.6)
    return SamplerConfig(**{"sampler": "dopri5", "num_samples": 4, "guidance": guidance, **changes})


def latents(indices, **changes):
    noise = SampleNoise(0, indices, (4, 2, 2), torch.device("cpu"))
    labels = torch.tensor(indices) % 4
    return sample_latents(
        network, settings(**changes), labels, noise, null_condition=torch.tensor([9])
    )


def test_guided_in_an_interval_a_sample_does_not_depend_on_its_batch():
    whole = latents(range(4))
    assert torch.equal(torch.cat([latents(range(row, row + 1)) for row in range(4)]), whole)
    assert not torch.allclose(whole, latents(range(4), guidance=GuidanceConfig()), atol=1e-3)
    assert torch.equal(
        latents(range(4), guidance=GuidanceConfig(scale=2.0, low=0.2, high=0.6, channels=4)), whole
    )


@pytest.mark.parametrize("guided", [True, torch.tensor([True, False, True])])
def test_only_the_first_channels_are_guided(guided):
    """SiT's forward_with_cfg: three of four, the others are those of the conditional pass."""
    labels = torch.arange(3)
    x, t = torch.randn(3, 4, 2, 2, dtype=torch.float64), torch.tensor([0.3, 0.5, 0.7])
    field = GuidedVelocity(
        model=network,
        condition_B=labels,
        null_condition=torch.tensor([9]),
        scale=1.7,
        channels=3,
        dtype=torch.float64,
    )
    found = field(x, t, guided)
    v_c, v_u = (network(x, t.double(), one) for one in (labels, torch.full_like(labels, 9)))
    acts = torch.as_tensor(guided).expand(3).reshape(-1, 1, 1, 1)
    first = torch.where(acts, v_u + 1.7 * (v_c - v_u), v_c)[:, :3]
    torch.testing.assert_close(found, torch.cat([first, v_c[:, 3:]], dim=1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rtol": 1e-4}, r"ode\.rtol: 0.0001 is given for euler \(allowed: for dopri5\)"),
        ({"atol": 1e-4}, r"ode\.atol: 0.0001 is given for euler"),
        ({"guidance": {"channels": 5}}, r"ode\.guidance\.channels: 5 is beyond .* 4 channels"),
        ({"guidance": {"channels": 0}}, r"ode\.guidance\.channels: "),
    ],
)
def test_what_a_sampler_does_not_have_is_refused(tiny, change, message):
    sampler = {"sampler": "euler", "num_steps": 2, "num_samples": 20, **change}
    with pytest.raises(ConfigError, match=message) as caught:
        load_experiment(tiny(**{"evaluation.samplers": {"ode": sampler}}))
    assert "\n" not in str(caught.value)


def test_channels_beyond_the_latents_are_refused_when_they_are_known():
    with pytest.raises(UserError, match="channels: 5 is beyond the latents' 4 channels"):
        latents(range(2), guidance=GuidanceConfig(scale=2.0, channels=5))


def test_tolerances_are_part_of_what_identifies_samples(tiny):
    sampler = {"sampler": "dopri5", "num_samples": 20}
    loaded = load_experiment(tiny(**{"evaluation.samplers": {"ode": sampler}}))
    found = loaded.evaluation.samplers["ode"]
    assert (found.rtol, found.atol) == (1e-3, 1e-6)
