"""Interpolants and samplers against a flow between Gaussians.

Its velocity and score are known in closed form.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from selftrans.flow import sampler
from selftrans.flow.interpolant import INTERPOLANTS, sample_time
from selftrans.flow.sampler import GuidedVelocity, InternalGuidance, euler, euler_maruyama, heun
from selftrans.flow.times import guidance_acts, ode_times, sde_times
from selftrans.runtime.random import Stream, generator

MEAN, STD = 1.7, 0.6


class GaussianFlow:
    """The flow from data N(MEAN, STD^2): x_t ~ N(alpha m, alpha^2 s^2 + sigma^2).

    Its velocity is v = alpha' E[z|x] + sigma' E[eps|x].
    """

    def __init__(self, path):
        self.path = path

    def moments(self, t):
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        return alpha * MEAN, alpha**2 * STD**2 + sigma**2

    def velocity(self, x, t):
        t = torch.as_tensor(t, dtype=torch.float64)
        mean, variance = self.moments(t)
        z = MEAN + self.path.alpha(t) * STD**2 / variance * (x - mean)
        noise = self.path.sigma(t) / variance * (x - mean)
        return self.path.velocity(z, noise, t)

    def score(self, x, t):
        mean, variance = self.moments(t)
        return -(x - mean) / variance

    def data_of(self, x):
        """Where the probability flow takes x from t=1: it keeps the quantile."""
        return MEAN + STD * x


@pytest.fixture(params=["linear", "cosine"])
def flow(request):
    return GaussianFlow(INTERPOLANTS[request.param])


def unguided(_):
    return False


def field_of(flow):
    return lambda x, t, guided: flow.velocity(x, t)


def test_path_runs_from_data_to_noise(flow):
    z, noise = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(flow.path.noised(z, noise, ends[0]), z, atol=1e-15, rtol=0)
    torch.testing.assert_close(flow.path.noised(z, noise, ends[1]), noise, atol=1e-15, rtol=0)


def test_velocity_is_the_derivative_of_the_path(flow):
    z, noise = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    t = torch.linspace(0.01, 0.99, 5, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(flow.path.noised(z, noise, t).sum(), t)
    torch.testing.assert_close(flow.path.velocity(z, noise, t), slope.detach(), check_dtype=False)


def test_score_from_velocity_is_the_gaussian_score(flow):
    t = torch.linspace(0.02, 1, 50, dtype=torch.float64)
    x = torch.randn(50, dtype=torch.float64)
    torch.testing.assert_close(flow.path.score(flow.velocity(x, t), x, t), flow.score(x, t))


def test_score_is_the_general_formula(flow):
    """s = (r v - x) / (sigma^2 - r sigma' sigma) with r = alpha / alpha'.

    Each path has its own form of it, in which terms have cancelled.
    """
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    v, x = torch.randn(19, dtype=torch.float64), torch.randn(19, dtype=torch.float64)
    path = flow.path
    ratio = path.alpha(t) / path.d_alpha(t)
    general = (ratio * v - x) / (path.sigma(t) ** 2 - ratio * path.d_sigma(t) * path.sigma(t))
    torch.testing.assert_close(path.score(v, x, t), general)


@pytest.mark.parametrize(("method", "order"), [(euler, 1), (heun, 2)])
def test_ode_samplers_reach_the_data_at_their_order(flow, method, order):
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    errors = [
        (method(field_of(flow), unguided, x, n) - flow.data_of(x)).abs().max().item()
        for n in (80, 160, 320)
    ]
    observed = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert errors[-1] < 0.01
    assert min(observed) > order - 0.15


@pytest.mark.slow
def test_sde_sampler_reaches_the_data_distribution(flow):
    rng = torch.Generator().manual_seed(0)
    count = 40_000

    def noise():
        return torch.randn(count, generator=rng, dtype=torch.float64)

    x = euler_maruyama(field_of(flow), unguided, noise(), 400, flow.path, noise)
    assert abs(x.mean().item() - MEAN) < 4 * STD / math.sqrt(count) + 0.01
    assert abs(x.std().item() - STD) < 0.01


@pytest.mark.slow
def test_sde_with_wrong_noise_is_noticed(flow):
    """Negative control of the test above: half the noise gives the wrong spread."""
    rng = torch.Generator().manual_seed(0)

    def noise():
        return torch.randn(40_000, generator=rng, dtype=torch.float64)

    x = euler_maruyama(field_of(flow), unguided, noise(), 400, flow.path, lambda: noise() / 2)
    assert abs(x.std().item() - STD) > 0.05


@pytest.mark.parametrize("num_steps", [2, 5, 40])
def test_the_last_step_of_the_sde_draws_no_noise(flow, num_steps):
    """Every other step draws once: from 1 to 0.04 in ``num_steps - 1`` steps, then to 0."""
    draws = []

    def noise():
        draws.append(torch.zeros(1, dtype=torch.float64))
        return draws[-1]

    euler_maruyama(field_of(flow), unguided, torch.zeros(1).double(), num_steps, flow.path, noise)
    assert len(draws) == num_steps - 1


@pytest.mark.parametrize("num_steps", [2, 3, 7, 50, 250])
def test_times_fall_from_noise_to_data(num_steps):
    for times in (ode_times(num_steps), sde_times(num_steps)):
        assert (times[0], times[-1]) == (1.0, 0.0)
        assert all(now > after for now, after in pairwise(times))
        assert times == pytest.approx(sorted(times, reverse=True))


@pytest.mark.parametrize("t", [0.01, 0.2, 0.5, 0.77, 0.99])
def test_the_time_of_a_ratio_is_the_inverse_of_the_ratio(flow, t):
    at = torch.tensor(t, dtype=torch.float64)
    ratio = (flow.path.sigma(at) / flow.path.alpha(at)).numpy()
    assert flow.path.time_of_ratio(ratio) == pytest.approx(t, rel=1e-12)


@pytest.mark.parametrize("t", [0.0, 0.1, 0.37, 0.5, 0.9, 1.0])
def test_data_and_noise_come_back_from_the_path_and_its_velocity(flow, t):
    """x and v are two equations in z and eps, which the samplers and the score solve."""
    rng = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, 7, generator=rng, dtype=torch.float64)
    at = torch.tensor(t, dtype=torch.float64)
    x, v = flow.path.noised(z, noise, at), flow.path.velocity(z, noise, at)
    alpha, sigma = flow.path.alpha(at), flow.path.sigma(at)
    d_alpha, d_sigma = flow.path.d_alpha(at), flow.path.d_sigma(at)
    determinant = alpha * d_sigma - sigma * d_alpha
    torch.testing.assert_close((d_sigma * x - sigma * v) / determinant, z)
    torch.testing.assert_close((alpha * v - d_alpha * x) / determinant, noise)
    if t > 0:
        torch.testing.assert_close(flow.path.score(v, x, at), -noise / sigma)


@pytest.mark.parametrize("scale", [0.0, 1.5, 4.0])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.2, 0.65), (0.5, 0.5), (0.9, 1.0)])
def test_guidance_acts_in_its_closed_interval_only(scale, low, high):
    for t in (0.0, 0.2, 0.21, 0.5, 0.65, 0.9, 1.0):
        assert guidance_acts(t, scale, low, high) is (low <= t <= high)
        assert not guidance_acts(t, 1.0, low, high)


GRIDS = {
    "ode": (ode_times, lambda linspace, n: linspace(1, 0, n + 1)),
    "sde": (sde_times, lambda linspace, n: linspace(1, 0.04, n)),
}
LINSPACES = {
    "numpy": np.linspace,
    "torch": lambda *span: torch.linspace(*span, dtype=torch.float64).numpy(),
}


@pytest.mark.parametrize("linspace", LINSPACES.values(), ids=LINSPACES)
@pytest.mark.parametrize(("times", "grid"), GRIDS.values(), ids=GRIDS)
def test_an_interval_that_ends_on_a_grid_point_guides_it(times, grid, linspace):
    """As the ancestors' exact comparison with their own grid does, whose last bits differ."""
    differing = 0
    for num_steps in [*range(2, 60), 100, 125, 250, 1000]:
        other = grid(linspace, num_steps)
        ours = times(num_steps)[: len(other)]
        differing += (other != ours).any()
        for end in other[:: max(1, num_steps // 50)]:
            for low, high in ((end, 1.0), (0.0, end), (end, end)):
                guided = [guidance_acts(t, 2.0, low, high) for t in ours]
                assert guided == ((low <= other) & (other <= high)).tolist(), (num_steps, end)
    assert differing > 5  # else exact comparison would do


@pytest.mark.parametrize("num_steps", [10, 20, 50, 100, 250])
def test_an_interval_that_ends_on_a_decimal_number_guides_that_grid_point(num_steps):
    for point in range(num_steps + 1):
        end = float(f"{1 - point / num_steps:.3f}")
        low, high = ([guidance_acts(t, 2.0, *interval) for t in ode_times(num_steps)]
                     for interval in ((end, 1.0), (0.0, end)))  # fmt: skip
        assert (sum(low), sum(high)) == (point + 1, num_steps + 1 - point)


def test_time_grids():
    assert ode_times(4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    times = sde_times(250)
    np.testing.assert_allclose(times[:-1], np.linspace(1, 0.04, 250), atol=1e-12)
    assert times[-2:] == [0.04, 0.0]
    assert len(times) == 251


class CountingModel:
    """A velocity that depends on the label, and a record of its arguments."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, t, labels):
        self.calls.append((t[0].item(), len(x)))
        return x * 0.1 + labels.to(x.dtype).reshape(-1, 1, 1, 1)


def test_guidance_is_the_formula_inside_its_interval_and_one_pass_outside():
    model = CountingModel()
    x = torch.randn(3, 4, 2, 2, dtype=torch.float64)
    labels = torch.tensor([1, 2, 3])
    field = GuidedVelocity(
        model=model,
        condition_B=labels,
        null_condition=torch.tensor([10]),
        scale=1.9,
        low=0.2,
        high=0.65,
        dtype=torch.float64,
    )
    for t, inside in (
        (1.0, False),
        (0.65, True),
        (0.4, True),
        (0.2, True),
        (0.19, False),
        (0.0, False),
    ):
        assert field.is_guided(t) is inside
        conditional = x * 0.1 + labels.reshape(-1, 1, 1, 1)
        unconditional = x * 0.1 + 10
        expected = unconditional + 1.9 * (conditional - unconditional) if inside else conditional
        torch.testing.assert_close(field(x, t, field.is_guided(t)), expected)
        assert model.calls[-1][1] == (6 if inside else 3)


def test_scale_one_costs_one_pass():
    field = GuidedVelocity(
        model=CountingModel(), condition_B=torch.tensor([1]), null_condition=torch.tensor([10])
    )
    assert not any(field.is_guided(t) for t in (0.0, 0.5, 1.0))


def test_heun_asks_the_interval_at_the_start_of_the_step():
    requested = []

    def field(x, t, guided):
        requested.append((round(t, 3), guided))
        return x

    heun(field, lambda t: t <= 0.5, torch.ones(1, dtype=torch.float64), 4)
    assert requested == [
        (1.0, False),
        (0.75, False),
        (0.75, False),
        (0.5, False),
        (0.5, True),
        (0.25, True),
        (0.25, True),
    ]


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_log_normal_times_have_log_normal_noise_ratio(name):
    path = INTERPOLANTS[name]
    times = torch.tensor(
        [sample_time(generator(0, Stream.BATCH, 0, i), path, "log-normal") for i in range(4000)]
    )
    logs = (path.sigma(times.double()) / path.alpha(times.double())).log()
    assert abs(logs.mean().item()) < 0.06
    assert abs(logs.std().item() - 1) < 0.05


@pytest.mark.parametrize("internal_scale", [None, 1.5])
def test_a_large_batch_goes_through_the_network_in_parts(monkeypatch, internal_scale):
    """Each row with its own time, condition and guidance, as in one pass of all."""
    calls = []

    def both_velocities(x_BCHW, t_B, condition_B):
        calls.append(len(x_BCHW))
        velocity = x_BCHW * (t_B + condition_B)[:, None, None, None]
        return velocity, velocity / 2

    class Network:
        def __call__(self, *inputs):
            return both_velocities(*inputs)[0]

    network = Network()
    network.both_velocities = both_velocities
    internal = internal_scale and InternalGuidance(
        model=network, scale=internal_scale, low=0.0, high=0.5
    )
    field = GuidedVelocity(
        model=network, condition_B=torch.arange(7), null_condition=torch.tensor([9]), scale=3.0,
        dtype=torch.float64, internal=internal or None,
    )  # fmt: skip
    x, t = torch.randn(7, 2, 4, 4, dtype=torch.float64), torch.linspace(0, 1, 7).double()
    guided = torch.tensor([True, False, True, True, False, False, True])
    whole = field(x, t, guided)
    assert calls == [11]
    monkeypatch.setattr(sampler, "CPU_BYTES_AT_ONCE", 3 * x[0].nbytes // torch.get_num_threads())
    assert torch.equal(field(x, t, guided), whole)
    assert sum(calls[1:]) == 11
    assert max(calls[1:]) <= 3
