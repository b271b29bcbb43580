"""What lies beside the state of a training: event files, markers of failures; when it saves."""

import math
import time
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from selftrans.runtime.errors import Interrupted, InUse, Unavailable, UserError
from selftrans.runtime.events import EventStream
from selftrans.runtime.files import read_json
from selftrans.training import control
from selftrans.training.control import Control
from selftrans.training.events import ScalarLog
from selftrans.training.failure import FailureMarker
from selftrans.training.progress import HISTORY_COLUMNS
from selftrans.training.throughput import Reached
from tests.support.events import values

REACHED = Reached(
    images_per_second=8.0,
    tflops=2.0,
    share_of_stated_rate=None,
    data_wait_seconds=0.25,
    peak_memory_gib=1.5,
)


def row(step, loss):
    return {**dict.fromkeys(HISTORY_COLUMNS, 1.0), "step": float(step), "loss": loss}


def write_events(directory, step, rows, second=0):
    """TensorBoard reads files in the order of the second in their names."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.25)
    started = mock.patch("time.time", return_value=1.7e9 + second)
    with started, ScalarLog([EventStream(directory, step)], torch.device("cpu")) as log:
        for one in rows:
            log.write_interval(one, REACHED, optimizer)


def curve(directory, name="train/loss"):
    return values(directory, name)


@pytest.mark.parametrize("resumed", [0, 2, 3, 5])
def test_a_resumed_training_hides_the_events_beyond_its_step(tmp_path, resumed):
    """Killed after step 5, and resumed from a state that was saved before."""
    write_events(tmp_path, 0, [row(step, 1.0) for step in range(1, 6)])
    write_events(tmp_path, resumed, [row(step, 2.0) for step in range(resumed + 1, 5)], second=1)
    again = range(resumed + 1, 5)
    kept = dict.fromkeys(range(1, resumed + 1 if again else 6), 1.0)
    assert curve(tmp_path) == kept | dict.fromkeys(again, 2.0)


def test_a_value_that_is_not_finite_is_no_event(tmp_path):
    write_events(tmp_path, 0, [row(1, 1.0), {**row(2, math.nan), "gradient_norm": math.inf}])
    assert list(curve(tmp_path)) == list(curve(tmp_path, "train/gradient_norm")) == [1]
    assert list(curve(tmp_path, "train/denoising")) == [1, 2]
    assert list(curve(tmp_path, "speed/images_per_second")) == [1, 2]


def test_the_learning_rate_is_logged(tmp_path):
    write_events(tmp_path, 0, [row(1, 1.0), row(2, 1.0)])
    assert curve(tmp_path, "train/learning_rate") == {1: 0.25, 2: 0.25}


@pytest.mark.parametrize(
    ("device", "memory"),
    [("cpu", "memory/peak_resident_gib"), ("cuda", "memory/peak_allocated_gib")],
)
def test_what_an_interval_reached_is_logged(tmp_path, device, memory):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.25)
    reached = REACHED._replace(share_of_stated_rate=0.5)
    with ScalarLog([EventStream(tmp_path, 0)], torch.device(device)) as log:
        log.write_interval(row(1, 1.0), REACHED, optimizer)
        log.write_interval(row(2, 1.0), reached, optimizer)
    assert curve(tmp_path, "speed/images_per_second") == {1: 8.0, 2: 8.0}
    assert curve(tmp_path, "speed/tflops") == {1: 2.0, 2: 2.0}
    assert curve(tmp_path, "speed/share_of_stated_rate") == {2: 0.5}  # where a rate is stated
    assert curve(tmp_path, "speed/data_wait_seconds") == {1: 0.25, 2: 0.25}
    assert curve(tmp_path, memory) == {1: 1.5, 2: 1.5}


def test_without_a_row_no_file_is_made(tmp_path):
    write_events(tmp_path / "none", 0, [])
    assert not list(tmp_path.iterdir())


# -- failures


def fail(marker, error):
    with pytest.raises(type(error)), marker:
        raise error


def test_a_failure_stops_later_attempts_with_its_message(tmp_path):
    marker = FailureMarker(tmp_path / "failed-8.json")
    fail(marker, UserError("the loss is not finite"))
    for attempt in (2, 3):
        with pytest.raises(UserError, match=r"^the loss is not finite$"):
            marker.check(attempt)
    assert read_json(marker.path) == {"message": "the loss is not finite"}
    marker.check(1)  # the user may have mended the cause
    assert not marker.path.exists()
    marker.check(2)


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("no card"), InUse("another training"), Interrupted("SIGTERM"),
        RuntimeError("a crash"), KeyboardInterrupt(), SystemExit(1),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_what_may_pass_leaves_no_marker(tmp_path, error):
    marker = FailureMarker(tmp_path / "failed-8.json")
    fail(marker, error)
    assert not list(tmp_path.iterdir())
    marker.check(2)


def test_success_leaves_no_marker(tmp_path):
    with FailureMarker(tmp_path / "failed-8.json"):
        pass
    assert not list(tmp_path.iterdir())


# -- saving


class Processes:
    """A stand-in for an accelerator, with the answers of the other processes."""

    device = torch.device("cpu")

    def __init__(self, *others):
        self.num_processes, self.others, self.queries = 1 + len(others), others, 0

    def gather(self, tensor):
        self.queries += 1
        return torch.cat([tensor, *(torch.tensor([other]) for other in self.others)])


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(control.time, "monotonic", lambda: now.seconds)
    return now


def test_a_save_is_due_as_long_after_the_last_one(clock):
    saving = Control(Processes(), SimpleNamespace(reason=None), save_seconds=60)
    answers = []
    for seconds in (0, 59, 1, 59, 1, 200, 59):
        clock.seconds += seconds
        answers.append(saving.poll(1))
    assert answers == [None, None, "save", None, "save", "save", None]


def test_a_signal_is_more_urgent_than_a_save(clock):
    stop = SimpleNamespace(reason=None)
    saving = Control(Processes(), stop, save_seconds=60)
    clock.seconds += 100
    stop.reason = "SIGTERM"
    assert saving.poll(1) == "stop"


@pytest.mark.parametrize(
    ("others", "mine", "answer"),
    [
        ((0, 0), None, None),
        ((0, 1), None, "save"),
        ((2, 0), None, "stop"),
        ((1, 0), "SIGTERM", "stop"),
        ((0, 0), "SIGUSR1", "stop"),
    ],
)
def test_several_processes_do_what_the_most_urgent_wants(clock, others, mine, answer):
    saving = Control(Processes(*others), SimpleNamespace(reason=mine), save_seconds=60)
    assert saving.poll(Control.POLL_STEPS) == answer


def test_several_processes_ask_each_other_at_the_same_steps_only(clock):
    """By the step alone: no process waits for an answer that never comes."""
    processes = Processes(2)
    saving = Control(processes, SimpleNamespace(reason="SIGTERM"), save_seconds=60)
    answers = {step: saving.poll(step) for step in range(1, 31)}
    assert {step for step, answer in answers.items() if answer} == {10, 20, 30}
    assert processes.queries == 3


def test_the_clock_is_the_systems():
    assert control.time is time
