"""How benchmarks measure: in turns, with the spread and the load, and without unsteady ratios."""

from itertools import pairwise

import pytest
import torch

from benchmarks import timing
from benchmarks.sampling import sides
from benchmarks.timing import WIDEST, Result, Seconds, faster, interleaved
from benchmarks.training import products_of
from selftrans.config import BackboneConfig


class Clock:
    """A clock that the sides put forward."""

    def __init__(self):
        self.now, self.order = 0.0, []

    def side(self, name, seconds):
        left = iter(seconds)

        def side():
            self.order.append(name)
            self.now += next(left)

        return side


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    return clock


def test_sides_take_turns_and_the_first_round_does_not_count(clock):
    sides = clock.side("a", [100, 1, 2, 3]), clock.side("b", [100, 5, 5, 5])
    assert interleaved(*sides, repetitions=3) == [2, 5]
    assert all(one != other for one, other in pairwise(clock.order))


@pytest.mark.parametrize(
    ("seconds", "steady"), [([9, 1, 1, 1, 1, 1, 1, 9], True), ([9, 1, 2, 1, 2, 1, 2, 1], False)]
)
def test_a_ratio_of_a_busy_machine_is_not_printed(clock, monkeypatch, seconds, steady):
    monkeypatch.setattr(timing.os, "getloadavg", lambda: (7.25, 0, 0))
    ours = clock.side("ours", seconds)
    result = faster("row", ours, clock.side("baseline", [3.0] * 8), "note")
    assert result.is_steady == steady == (result.spread <= WIDEST)
    written = result.to_json()
    assert (written["load"], written["ratio"]) == (7.25, 3 if steady else None)
    assert ("unsteady" in result.line()) != steady
    assert " 7.2 " in result.line()


def test_both_samplers_draw_the_same_latents():
    ours, plain = sides(BackboneConfig(depth=3, hidden_size=48, num_heads=3, patch_size=2), 4)
    expected = plain()
    for precision, tolerance in (("fp32", 1e-5), ("bf16", 0.03)):
        assert (ours[precision]() - expected).abs().max() < tolerance * expected.abs().max()


def test_what_was_not_timed_in_turns_has_no_spread():
    result = Result(name="share", ours=1.0, baseline=2.0, ratio=0.5, unit="s", note="")
    assert result.spread == 0
    assert result.to_json()["ratio"] == 0.5
    assert Seconds([2, 2, 4, 2]).spread == pytest.approx(0.75)  # quartiles 2 and 3.5


def test_the_products_are_those_that_a_linear_layer_and_its_gradients_are():
    x, layer = torch.randn(6, 3, requires_grad=True), torch.nn.Linear(3, 5, bias=False)
    gradient, output = torch.randn(6, 5), layer(x)
    output.backward(gradient)
    weight = layer.weight.detach()
    products = products_of(x.detach(), weight, gradient)
    for product, expected in zip(products, (output, x.grad, layer.weight.grad), strict=True):
        torch.testing.assert_close(product(), expected.detach())
