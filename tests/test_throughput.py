"""What a training reports of its speed, and the trace of a step."""

import gzip
import json
import time
from types import SimpleNamespace

import pytest
import torch

from selftrans.config import load_experiment
from selftrans.runtime.cards import stated_rates
from selftrans.training import throughput
from selftrans.training.throughput import Throughput
from selftrans.training.tracing import traced
from selftrans.training.work import segment_work
from tests.support.events import values
from tests.support.trainings import assert_equal, everything, run

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture
def clock(monkeypatch):
    """Seconds that only the test lets pass."""
    time = SimpleNamespace(now=100.0)
    monkeypatch.setattr(throughput.time, "monotonic", lambda: time.now)
    return time


@pytest.fixture
def card(monkeypatch):
    """A card of known name and peaks of memory."""
    card = SimpleNamespace(name="NVIDIA H100 80GB HBM3", peaks=[3 * 2**29, 2**30, 2**29], resets=0)

    def reset(_):
        card.resets += 1

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: card.name)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: card.peaks[card.resets])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    return card


def counting(experiment, device=CPU, processes=1, step=0, precision="bf16"):
    return Throughput(
        experiment, "sit", precision=precision, device=device, processes=processes, step=step
    )


def test_a_rate_is_work_over_the_time_that_passed(tiny, clock):
    experiment = load_experiment(tiny())
    counted = counting(experiment, processes=2)
    clock.now += 4
    first = counted.close_interval(3)
    clock.now += 1
    second = counted.close_interval(4)
    work = sum(segment_work(experiment, experiment.runs["sit"], 0, 3).values())
    assert first.images_per_second == 3 * 8 / 4
    assert first.tflops == pytest.approx(work / 2 / 4 / 1e12)  # of one of two processes
    assert second.images_per_second == 8
    assert counted.total(4).images_per_second == 4 * 8 / 5
    assert first.share_of_stated_rate is None  # nobody states one of a CPU
    assert first.peak_memory_gib > 0.05


def test_an_attempt_counts_from_where_it_began(tiny, clock):
    counted = counting(load_experiment(tiny()), step=4)
    assert counted.total(4) is None
    clock.now += 2
    assert counted.total(8).images_per_second == 4 * 8 / 2


def test_only_waiting_for_a_batch_is_waiting(tiny, clock):
    counted = counting(load_experiment(tiny()))

    def batches():
        for batch in range(3):
            clock.now += 0.5
            yield batch

    for batch in counted.timed(batches()):
        clock.now += 10
        if batch == 1:
            assert counted.close_interval(2).data_wait_seconds == 1.0
    assert counted.close_interval(3).data_wait_seconds == 0.5
    assert counted.total(3).data_wait_seconds == 1.5


@pytest.mark.parametrize(("precision", "rate"), [("bf16", 989.4e12), ("fp16", 989.4e12)])
def test_the_share_is_of_the_rate_that_the_cards_manufacturer_states(
    tiny, clock, card, precision, rate
):
    experiment = load_experiment(tiny(**{"training.precision": precision}))
    counted = counting(experiment, CUDA, precision=precision)
    clock.now += 2
    reached = counted.close_interval(3)
    assert reached.share_of_stated_rate == pytest.approx(reached.tflops * 1e12 / rate)


def test_auto_counts_as_the_precision_that_it_means(tiny, clock, card):
    counted = counting(load_experiment(tiny()), CUDA, precision="fp32")
    clock.now += 2
    reached = counted.close_interval(3)
    assert reached.share_of_stated_rate == pytest.approx(reached.tflops / 66.9)


def test_peaks_of_memory_begin_again_and_the_largest_is_kept(tiny, clock, card):
    counted = counting(load_experiment(tiny()), CUDA)
    clock.now += 1
    assert [counted.close_interval(step).peak_memory_gib for step in (1,)] == [1.5]
    clock.now += 1
    assert counted.close_interval(2).peak_memory_gib == 1.0
    assert counted.total(2).peak_memory_gib == 1.5


@pytest.mark.parametrize(
    ("name", "bf16"),
    [
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.4),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA L40", 181.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA A10", 125.0),
    ],
)
def test_cards_are_known_by_name(name, bf16):
    assert stated_rates(name)["bf16"] == bf16


@pytest.mark.parametrize("name", ["NVIDIA A10G", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "Tesla T4"])
def test_of_another_card_or_of_a_part_of_one_nothing_is_stated(name):
    assert stated_rates(name) is None


@pytest.mark.parametrize("step", [None, 2, 9])
def test_without_the_step_among_them_batches_are_passed_on(tmp_path, step):
    found = list(traced([3, 4, 5, 6], 2, step, tmp_path, CPU))
    assert found == [3, 4, 5, 6]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_traced_training_is_the_same_training(tiny, tmp_path, manifest, monkeypatch):
    run(tiny(), "sit", tmp_path / "plain", manifest, until=4)
    started, export = time.monotonic(), torch.profiler.profile.export_chrome_trace

    def slow(self, path):
        time.sleep(0.5)
        export(self, path)

    monkeypatch.setattr(torch.profiler.profile, "export_chrome_trace", slow)
    run(tiny(**{"training.profile": {"step": 3}}), "sit", tmp_path / "traced", manifest, until=4)
    seconds = time.monotonic() - started
    assert_equal(everything(tmp_path / "plain", 4), everything(tmp_path / "traced", 4))
    assert not (tmp_path / "plain/profile").exists()
    (trace,) = (tmp_path / "traced/profile").iterdir()
    assert trace.name == "step-3.pt.trace.json.gz"
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    names = {event.get("name") for event in events}
    assert {"aten::addmm", "autograd::engine::evaluate_function: AddmmBackward0"} <= names
    assert any("AdamW" in str(name) for name in names)  # the whole step, to its end
    described = json.loads((tmp_path / "traced/checkpoints/4/checkpoint.json").read_text())
    reached = described["reached"]
    assert 0 < reached["data_wait_seconds"] < 0.5  # writing the trace is no waiting for data
    assert reached["images_per_second"] > 4 * 8 / seconds
    assert values(tmp_path / "traced/tensorboard", "speed/tflops")[3] > 0
