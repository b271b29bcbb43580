"""The trainer: exact resume, segments, protection of what was trained, several processes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from selftrans.config import load_experiment
from selftrans.runtime.errors import Interrupted, UserError
from selftrans.runtime.tensors import load_tensors, read_metadata
from selftrans.training.freeze import freeze_teacher
from selftrans.training.precision import make_accelerator
from selftrans.training.state import StateDirectory
from selftrans.training.trainer import Segment, train
from tests.conftest import REPOSITORY

ARMS = ("sit", "vae-align", "self-transcendence")


class StopAt:
    """A stop request that arrives after a number of polls, as a signal would."""

    def __init__(self, polls=None):
        self.polls = polls

    @property
    def reason(self):
        if self.polls is None:
            return None
        self.polls -= 1
        return "SIGTERM" if self.polls < 0 else None


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, manifest):
    """A frozen teacher of the tiny stage-1 run."""
    directory = tmp_path_factory.mktemp("teacher")
    path = directory / "tiny.yaml"
    import yaml

    from tests.conftest import tiny_values

    path.write_text(yaml.safe_dump(tiny_values(), sort_keys=False))
    os.chdir(REPOSITORY)
    run(path, "vae-align", directory / "run", manifest, until=4)
    freeze_teacher(directory / "run/checkpoints/4/raw.safetensors", 3, directory / "teacher.safetensors")
    return directory / "teacher.safetensors"


def run(path, arm, directory, manifest, *, until, teacher=None, stop=None):
    segment = Segment(
        experiment=load_experiment(path), run=arm, seed=0, until=until, latents=manifest,
        teacher=teacher if arm == "self-transcendence" else None, directory=directory,
    )  # fmt: skip
    train(segment, make_accelerator("fp32", on_gpu=False), stop or StopAt())


def everything(directory, step):
    """All of a state but the time it took."""
    tensors, metadata = load_tensors(directory / f"state/step-{step:08}.safetensors", "state")
    return tensors, metadata["digest"]


def assert_equal(first, second):
    assert first[0].keys() == second[0].keys()
    for name, tensor in first[0].items():
        assert torch.equal(tensor, second[0][name]), name
    assert first[1] == second[1]


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_stopped_and_resumed_equals_undisturbed_bit_for_bit(tiny, tmp_path, manifest, teacher, arm, accumulate):
    path = tiny(**{"training.accumulate": accumulate})
    run(path, arm, tmp_path / "whole", manifest, until=8, teacher=teacher)
    for polls in (0, 2, 1):  # leaves at steps 1, 4 and 6: within a logging interval, and at its end
        with pytest.raises(Interrupted, match="the same command goes on"):
            run(path, arm, tmp_path / "parts", manifest, until=8, teacher=teacher, stop=StopAt(polls))
    run(path, arm, tmp_path / "parts", manifest, until=8, teacher=teacher)
    assert_equal(everything(tmp_path / "parts", 8), everything(tmp_path / "whole", 8))
    for name in ("ema.safetensors", "raw.safetensors", "history.csv"):
        files = [tmp_path / which / "checkpoints/8" / name for which in ("parts", "whole")]
        assert files[0].read_bytes() == files[1].read_bytes(), name


@pytest.mark.parametrize("arm", ARMS)
def test_segments_equal_one_piece_also_when_one_is_inserted_later(tiny, tmp_path, manifest, teacher, arm):
    path = tiny()
    run(path, arm, tmp_path / "whole", manifest, until=8, teacher=teacher)
    for until in (4, 8, 6):
        run(path, arm, tmp_path / "parts", manifest, until=until, teacher=teacher)
    assert_equal(everything(tmp_path / "parts", 8), everything(tmp_path / "whole", 8))
    run(path, arm, tmp_path / "to six", manifest, until=6, teacher=teacher)
    assert_equal(everything(tmp_path / "parts", 6), everything(tmp_path / "to six", 6))


def test_a_finished_segment_is_exported_again_without_training(tiny, tmp_path, manifest):
    run(tiny(), "sit", tmp_path / "run", manifest, until=4)
    weights = tmp_path / "run/checkpoints/4/ema.safetensors"
    before = weights.read_bytes()
    weights.unlink()
    run(tiny(), "sit", tmp_path / "run", manifest, until=4, stop=StopAt(0))  # would leave at its first step
    assert weights.read_bytes() == before


def test_a_damaged_state_is_passed_over_for_the_one_before(tiny, tmp_path, manifest):
    run(tiny(), "sit", tmp_path / "whole", manifest, until=8)
    run(tiny(), "sit", tmp_path / "run", manifest, until=4)
    newer = tmp_path / "run/state/step-00000006.safetensors"
    whole = (tmp_path / "run/state/step-00000004.safetensors").read_bytes()
    for content in (whole[:-100], whole[:-100] + bytes(100), b"", b"{}"):
        newer.write_bytes(content)
        run(tiny(), "sit", tmp_path / "run", manifest, until=8)
        assert_equal(everything(tmp_path / "run", 8), everything(tmp_path / "whole", 8))
        (tmp_path / "run/state/step-00000008.safetensors").unlink()


def test_a_state_of_another_definition_is_refused(tmp_path):
    StateDirectory(tmp_path, "a").save(3, {"x": torch.ones(2)}, {})
    with pytest.raises(UserError, match=r"step-00000003\.safetensors: belongs to a run of another definition"):
        StateDirectory(tmp_path, "b").load_newest(5)


def test_states_are_pruned_to_the_newest_two_and_the_milestones(tmp_path):
    states = StateDirectory(tmp_path, "a")
    for step in (10, 20, 30, 40, 50, 90):
        states.save(step, {"x": torch.ones(2)}, {})
    states.prune(50, {20})
    assert states.steps() == [20, 40, 50, 90]  # what lies beyond belongs to a later segment
    assert states.load_newest(45)[0] == 40


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"training.learning_rate": 2e-3}, ["training.learning_rate (trained: 0.001, now: 0.002)"]),
        ({"model.depth": 5, "training.batch_size": 4}, ["model.depth", "training.batch_size"]),
        ({"runs.sit": {"guidance": {"method": "vae-alignment", "depth": 1}}}, ["guidance.method"]),
    ],
)
def test_another_definition_is_refused_with_its_keys(tiny, tmp_path, manifest, changes, keys):
    run(tiny(), "sit", tmp_path / "run", manifest, until=4)
    with pytest.raises(UserError, match="another definition") as caught:
        run(tiny(**changes), "sit", tmp_path / "run", manifest, until=8)
    assert all(key in str(caught.value) for key in keys)
    assert "rm -r" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_changes_no_number_is_no_other_definition(tiny, tmp_path, manifest):
    run(tiny(), "sit", tmp_path / "run", manifest, until=4)
    changes = {"training.checkpoints": [4, 6, 8], "training.log_every": 3, "training.save_minutes": 1.0}
    run(tiny(**changes), "sit", tmp_path / "run", manifest, until=6)


def test_other_latents_are_another_definition(tiny, tmp_path, manifest):
    from tests.conftest import write_store

    run(tiny(), "sit", tmp_path / "run", manifest, until=4)
    with pytest.raises(UserError, match=r"inputs\.latents"):
        run(tiny(), "sit", tmp_path / "run", write_store(tmp_path / "other", seed=5), until=8)


def test_all_arms_start_from_the_same_backbone(tiny, manifest, teacher):
    from selftrans.data.store import LatentStore
    from selftrans.training.trainer import build_model

    experiment, store = load_experiment(tiny()), LatentStore(manifest)
    fresh = [build_model(experiment, arm, store, 0, teacher).backbone for arm in ARMS]
    for name, tensor in fresh[0].state_dict().items():
        assert all(torch.equal(tensor, other.state_dict()[name]) for other in fresh[1:]), name
    other_seed = build_model(experiment, "sit", store, 1).backbone
    assert not torch.equal(other_seed.blocks[0].mlp.fc1.weight, fresh[0].blocks[0].mlp.fc1.weight)


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_good_state(tiny, tmp_path, manifest, monkeypatch):
    run(tiny(), "sit", tmp_path / "run", manifest, until=4)
    from selftrans.data.store import LatentStore

    draw = LatentStore.latents
    monkeypatch.setattr(LatentStore, "latents", lambda self, *given: draw(self, *given) * float("inf"))
    with pytest.raises(UserError, match="not finite at step 5; the last good state is kept"):
        run(tiny(), "sit", tmp_path / "run", manifest, until=8)
    assert StateDirectory(tmp_path / "run/state", "").steps() == [4]
    assert not (tmp_path / "run/checkpoints/8").exists()


def test_a_head_without_a_term_does_not_move(tiny, tmp_path, manifest, teacher):
    """After stop_after neither a gradient nor Adam's momentum moves the projector."""
    path = tiny(**{"runs.self-transcendence.guidance.stop_after": 4})
    run(path, "self-transcendence", tmp_path / "run", manifest, until=4, teacher=teacher)
    run(path, "self-transcendence", tmp_path / "run", manifest, until=8, teacher=teacher)
    before, after = everything(tmp_path / "run", 4)[0], everything(tmp_path / "run", 8)[0]
    for name in before:
        if name.startswith("model.guidance."):
            assert torch.equal(before[name], after[name]), name
    assert not torch.equal(
        before["model.backbone.blocks.0.mlp.fc1.weight"], after["model.backbone.blocks.0.mlp.fc1.weight"]
    )


def test_ema_is_its_recursion(tiny, tmp_path, manifest):
    path = tiny(**{"training.checkpoints": [1, 2, 3, 4, 8], "training.log_every": 1})
    name = "blocks.0.mlp.fc1.weight"
    expected = None
    from selftrans.data.store import LatentStore
    from selftrans.training.trainer import build_model

    fresh = build_model(load_experiment(path), "sit", LatentStore(manifest), 0)
    expected = fresh.backbone.state_dict()[name].double()
    for step in (1, 2, 3, 4):
        run(path, "sit", tmp_path / "run", manifest, until=step)
        raw, _ = load_tensors(tmp_path / f"run/checkpoints/{step}/raw.safetensors", "weights")
        expected = 0.9 * expected + 0.1 * raw[name].double()
    ema, _ = load_tensors(tmp_path / "run/checkpoints/4/ema.safetensors", "weights")
    torch.testing.assert_close(ema[name].double(), expected, rtol=1e-5, atol=1e-7)


def test_checkpoints_say_what_they_are(tiny, tmp_path, manifest):
    run(tiny(), "sit", tmp_path / "run", manifest, until=4)
    facts = read_metadata(tmp_path / "run/checkpoints/4/ema.safetensors", "weights")
    assert (facts["run"], facts["seed"], facts["step"], facts["weights"]) == ("sit", 0, 4, "ema")
    assert facts["shape"]["latent_shape"] == [4, 8, 8]
    described = json.loads((tmp_path / "run/checkpoints/4/checkpoint.json").read_text())
    assert described["digests"]["ema"] == facts["digest"]


def words_of(path, arm, directory, manifest, until, teacher, *options):
    words = [sys.executable, "-m", "selftrans.training", path, "--run", arm, "--seed", 0, "--until", until]
    words += ["--latents", manifest, "--directory", directory, *options]
    if arm == "self-transcendence":
        words += ["--teacher", teacher]
    return list(map(str, words))


def command(*given):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(words_of(*given), cwd=REPOSITORY, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("arm", ARMS)
def test_two_processes_equal_one(tiny, tmp_path, manifest, teacher, arm):
    path = tiny(**{"training.checkpoints": [4, 50], "training.log_every": 1, "figures.sample_checkpoints": [4]})
    run(path, arm, tmp_path / "one", manifest, until=50, teacher=teacher)
    ended = command(path, arm, tmp_path / "two", manifest, 50, teacher, "--processes", 2)
    assert ended.returncode == 0, ended.stderr
    one, two = everything(tmp_path / "one", 50)[0], everything(tmp_path / "two", 50)[0]
    torch.testing.assert_close(two["history"], one["history"], rtol=2e-4, atol=1e-6)
    for name in one:
        if name.startswith(("model.", "ema.")) and not name.endswith("k_norm.bias"):
            torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=2e-4, msg=name)


def test_command_line_errors_are_one_line(tiny, tmp_path, manifest):
    ended = command(tiny(), "nobody", tmp_path / "run", manifest, 4, None)
    assert ended.returncode == 1
    assert ended.stderr.strip() == (
        "error: --run: 'nobody' is no run of the experiment (allowed: sit, vae-align, self-transcendence)"
    )
    ended = command(tiny(), "sit", tmp_path / "run", tmp_path / "none.json", 4, None)
    assert ended.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "none.json: no such file" in ended.stderr


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_compiled_training_is_the_same_training(tiny, tmp_path, manifest):
    run(tiny(), "sit", tmp_path / "plain", manifest, until=4)
    run(tiny(**{"training.compile": True}), "sit", tmp_path / "compiled", manifest, until=4)
    plain, compiled = everything(tmp_path / "plain", 4)[0], everything(tmp_path / "compiled", 4)[0]
    assert plain.keys() == compiled.keys()
    torch.testing.assert_close(compiled["history"], plain["history"], rtol=1e-4, atol=1e-6)


def test_a_signal_saves_and_leaves_and_the_same_command_goes_on(tiny, tmp_path, manifest):
    changes = {"training.checkpoints": [300], "figures.sample_checkpoints": [300], "runs": {"sit": {}}}
    path = tiny(**changes)
    run(path, "sit", tmp_path / "whole", manifest, until=300)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        words = words_of(path, "sit", tmp_path / "parts", manifest, 300, None)
        child = subprocess.Popen(words, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
        while not list((tmp_path / "parts/state").glob("owner.json")):
            time.sleep(0.05)
            assert child.poll() is None
        time.sleep(0.5)
        child.send_signal(number)
        _, messages = child.communicate(timeout=60)
        assert child.returncode == 75, messages
        assert f"interrupted: sit seed 0: {number.name} at step" in messages
    run(path, "sit", tmp_path / "parts", manifest, until=300)
    assert_equal(everything(tmp_path / "parts", 300), everything(tmp_path / "whole", 300))


@pytest.mark.parametrize("arm", ["sit", "self-transcendence"])
def test_killed_at_random_moments_a_training_ends_with_the_same_bits(tiny, tmp_path, manifest, teacher, arm):
    """SIGKILL, while states are being written all the time: never an unreadable state, and at the end no difference."""
    changes = {"training.checkpoints": [4, 400], "figures.sample_checkpoints": [4]}
    run(tiny(**changes), arm, tmp_path / "whole", manifest, until=400, teacher=teacher)
    path = tiny(**changes, **{"training.save_minutes": 1e-6})
    rng = random.Random(0)
    killed = 0
    while killed < 5:
        words = words_of(path, arm, tmp_path / "parts", manifest, 400, teacher)
        child = subprocess.Popen(words, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
        before = newest(tmp_path / "parts")
        while newest(tmp_path / "parts") == before and child.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.3))
        child.kill()
        if child.wait() == 0:
            break
        killed += 1
    assert killed >= 3
    run(tiny(**changes), arm, tmp_path / "parts", manifest, until=400, teacher=teacher)
    assert_equal(everything(tmp_path / "parts", 400), everything(tmp_path / "whole", 400))
    assert not list((tmp_path / "parts/state").glob(".step*"))


def newest(directory):
    return max((path.name for path in (directory / "state").glob("step-*.safetensors")), default="")
