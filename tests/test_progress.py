"""The sums behind the history: means over steps, processes and samples, and how they resume."""

import math
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from selftrans.runtime.errors import UserError
from selftrans.training.model import StepLosses
from selftrans.training.precision import MixedPrecision, make_accelerator
from selftrans.training.progress import IntervalSums, TrainingProgress, training_clock
from selftrans.training.state import StateDirectory

CPU = torch.device("cpu")


def losses(*values):
    return StepLosses(*map(torch.tensor, map(float, values)))


def progress():
    model = nn.Linear(1, 1)
    return TrainingProgress(
        model,
        nn.Linear(1, 1),
        torch.optim.AdamW(model.parameters(), fused=True),
        MixedPrecision("fp32", CPU),
        make_accelerator(on_gpu=False),
    )


def test_on_one_thread_of_a_cpu_jobs_beside_a_training_do_not_count(monkeypatch):
    """Nor does waiting: sleeping costs nothing there."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    counted = progress()
    time.sleep(0.3)
    assert counted.seconds_spent < 0.1
    counted.seconds = 5.0  # of earlier attempts
    assert 5 <= counted.seconds_spent < 5.1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    for device in (CPU, torch.device("cuda")):
        assert training_clock(device) is time.monotonic
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert training_clock(torch.device("cuda")) is time.monotonic


def test_a_row_has_means_over_steps_and_over_samples():
    counted = progress()
    counted.count(1, losses(3, 2, 1, 0.5, 1), torch.tensor(4.0))
    counted.count(2, losses(5, 4, 1, 1.5, 3), torch.tensor(8.0))
    counted.share()
    row = counted.close_interval(2, (6.0, 7.0))
    assert row == {
        "step": 2,
        "loss": 4,
        "denoising": 3,
        "alignment": 1,
        "gradient_norm": 6,
        "cosine": 0.5,
        "denoising_gradient": 6,
        "alignment_gradient": 7,
    }
    assert all(value == 0 for value in counted.sums)
    assert counted.tables()["history"].splitlines()[1] == "2,4.0,3.0,1.0,6.0,0.5,6.0,7.0"


def test_a_skipped_step_has_no_norm_and_no_samples_have_no_cosine():
    counted = progress()
    counted.count(1, losses(3, 2, 1, 0, 0), None)
    counted.count(2, losses(3, 2, 1, 0, 0), torch.tensor(8.0))
    counted.share()
    row = counted.close_interval(2, (0.0, 0.0))
    assert row["gradient_norm"] == 8
    assert math.isnan(row["cosine"])


@pytest.mark.parametrize("name", StepLosses._fields)
def test_any_value_that_is_not_finite_names_its_step(tmp_path, name):
    counted = progress()
    counted.count(1, losses(1, 1, 1, 1, 1), torch.tensor(1.0))
    counted.require_finite(tmp_path)
    bad = losses(1, 1, 1, 1, 1)._replace(**{name: torch.tensor(math.nan)})
    counted.count(2, bad, torch.tensor(1.0))
    counted.count(3, bad, torch.tensor(1.0))
    counted.share()
    with pytest.raises(UserError, match="not finite at step 2"):
        counted.require_finite(tmp_path)


def test_sums_of_processes_are_gathered_and_averaged():
    own = IntervalSums(*torch.arange(8.0))
    other = torch.arange(8.0) * 3
    accelerator = SimpleNamespace(gather=lambda rows: torch.cat([rows, other[None]]))
    gathered = own.gathered(accelerator)
    assert gathered.loss.tolist() == [1, 3]
    assert gathered.cosine_count.tolist() == [7, 21]
    assert torch.stack(gathered.mean()).tolist() == [2.0 * value for value in range(8)]


def test_an_interval_continues_in_a_resumed_training(tmp_path):
    states = StateDirectory(tmp_path, "f")
    first = progress()
    first.count(1, losses(3, 2, 1, 0.5, 1), torch.tensor(4.0))
    first.share()
    states.save(1, *first.state())
    second = progress()
    assert second.resume(states, 5) == 1
    second.count(2, losses(5, 4, 1, 1.5, 3), torch.tensor(8.0))
    second.share()
    assert second.close_interval(2, (0.0, 0.0))["loss"] == 4


def test_the_state_of_other_processes_shares_their_mean(tmp_path):
    states = StateDirectory(tmp_path, "f")
    first = progress()
    first.all_sums = IntervalSums(*(torch.tensor([1.0, 3.0]) for _ in range(8)))
    states.save(1, *first.state())
    second = progress()
    second.resume(states, 5)
    assert all(value == 2 for value in second.sums)
