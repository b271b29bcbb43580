"""What happens to jobs: signals, kills at any moment, failing processes, retries.

Also several processes that agree.
"""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from selftrans.runtime.errors import UserError
from selftrans.runtime.signals import StopRequest
from selftrans.training.launch import first_host, rendezvous
from selftrans.training.progress import HISTORY_COLUMNS
from tests.support import REPOSITORY
from tests.support.experiments import EVERY_METHOD, TINY
from tests.support.trainings import (
    assert_close,
    assert_equal,
    command,
    command_here,
    everything,
    run,
    words_of,
)


@pytest.mark.slow
def test_two_processes_equal_one(tiny, tmp_path, manifest, teacher, features):
    """Every method at once, in one list of terms, each of which has heads, or blocks, of its own.

    Nobody waits for a gradient that never comes, be it for an empty mask or after stop_after.
    """
    arm = "every-method"
    path = tiny(**{
        "training.checkpoints": [4, 30], "training.log_every": 1, "figures.sample_checkpoints": [4],
        "runs": {**TINY["runs"], **EVERY_METHOD},
    })  # fmt: skip
    inputs = {"teacher": teacher, "features": features}
    run(path, arm, tmp_path / "one", manifest, until=30, **inputs)
    options = ("--features", features, "--processes", 2)
    ended = command(path, arm, tmp_path / "two", manifest, 30, teacher, *options)
    assert ended.returncode == 0, ended.stderr
    one, two = (everything(tmp_path / which, 30)[0] for which in ("one", "two"))
    assert_close(one, two)
    pulled = one["history"][:, HISTORY_COLUMNS.index("alignment_gradient")]
    assert (pulled > 0).all()
    heads = {name.split(".")[3] for name in one if name.startswith("model.alignment.terms.")}
    assert heads == {"repa", "self-transcendence", "sra", "vae-alignment"}  # LayerSync has none


@pytest.mark.slow
def test_two_processes_of_plain_sit_equal_one(tiny, tmp_path, manifest):
    """Nothing but denoising, on one process and on two."""
    path = tiny(**{"training.log_every": 1})
    run(path, "sit", tmp_path / "one", manifest, until=8)
    ended = command(path, "sit", tmp_path / "two", manifest, 8, None, "--processes", 2)
    assert ended.returncode == 0, ended.stderr
    assert_close(everything(tmp_path / "one", 8)[0], everything(tmp_path / "two", 8)[0])


@pytest.mark.slow
def test_three_processes_that_resume_equal_three_that_go_on_bit_for_bit(tiny, tmp_path, manifest):
    """A sum of three depends on its order, which data parallelism decides in its first pass."""
    path = tiny(**{"training.batch_size": 6})
    for where, stops in (("whole", [8]), ("resumed", [4, 8])):
        for until in stops:
            ended = command(path, "sit", tmp_path / where, manifest, until, None, "--processes", 3)
            assert ended.returncode == 0, ended.stderr
    assert_equal(*(everything(tmp_path / where, 8) for where in ("whole", "resumed")))


def test_the_masks_of_that_test_are_empty_in_one_process_only(tiny, manifest):
    from selftrans.config import TimeRangeConfig, load_experiment
    from selftrans.data.store import LatentStore
    from selftrans.training.batches import BatchSource

    source = BatchSource(LatentStore(manifest), load_experiment(tiny()).training, 0)
    late = TimeRangeConfig(low=0.8, high=1.0)

    def is_there(step, part):
        return len(source.draw(step, part).time_mask(late, "per-sample").rows) > 0

    there = [[is_there(step, part) for part in (range(4), range(4, 8))] for step in range(14)]
    assert [True, False] in there
    assert [False, True] in there
    assert [False, False] in there


@pytest.mark.slow
def test_two_nodes_equal_one_process(tiny, tmp_path, manifest):
    """Two launchers, as srun starts them, on addresses of this machine that stand for two nodes."""
    path = tiny(**{"training.log_every": 1})
    run(path, "vae-align", tmp_path / "one", manifest, until=8)
    words = words_of(
        path, "vae-align", tmp_path / "two", manifest, 8, None, "--processes", 2, "--nodes", 2
    )
    children = []
    for rank in ("1", "0"):
        slurm = {
            "SLURM_STEP_NUM_NODES": "2",
            "SLURM_STEP_NODELIST": "127.0.0.[1-2]",
            "SLURM_NODEID": rank,
        }
        environment = {
            **os.environ,
            **slurm,
            "SLURM_JOB_ID": str(os.getpid()),
            "OMP_NUM_THREADS": "1",
        }
        children.append(
            subprocess.Popen(
                words, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True
            )
        )
    messages = [child.communicate(timeout=120)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], messages
    assert_close(everything(tmp_path / "one", 8)[0], everything(tmp_path / "two", 8)[0])


def test_nodes_find_each_other_by_the_schedulers_variables():
    slurm = {
        "SLURM_STEP_NUM_NODES": "3", "SLURM_STEP_NODELIST": "gpu[007-008,12]", "SLURM_NODEID": "2",
        "SLURM_JOB_ID": "40123",
    }  # fmt: skip
    assert rendezvous(3, slurm) == [
        "--nnodes=3",
        "--node-rank=2",
        "--master-addr=gpu007",
        "--master-port=10123",
    ]
    by_hand = {"NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "999"}
    assert rendezvous(2, by_hand) == [
        "--nnodes=2",
        "--node-rank=1",
        "--master-addr=10.0.0.1",
        "--master-port=999",
    ]
    with pytest.raises(UserError, match=r"--nodes: 2 requested, srun runs on 3"):
        rendezvous(2, slurm)
    with pytest.raises(UserError, match="MASTER_ADDR is not set"):
        rendezvous(2, {"NODE_RANK": "0"})
    lists = (
        "n1",
        "n[1-2]",
        "n[03,05-9],m1",
        "a1,b[1-2]",
        "rack[2-3]-x",
        "node-1.cluster,node-2.cluster",
    )
    assert [first_host(nodes) for nodes in lists] == [
        "n1",
        "n1",
        "n03",
        "a1",
        "rack2-x",
        "node-1.cluster",
    ]


def long_training(tiny):
    """A training that outlasts its test, unless a test ends it; it saves all the time."""
    steps = {"training.checkpoints": [4, 100_000], "figures.sample_checkpoints": [4]}
    return tiny(**steps, **{"training.save_minutes": 1e-3})


def start(tmp_path, *words):
    child = subprocess.Popen(
        words_of(*words), cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    while not (tmp_path / "run/definition.json").is_file():  # written with the first state
        time.sleep(0.05)
        assert child.poll() is None, child.stderr.read()
    return child


def start_on_two_processes(tiny, tmp_path, manifest):
    """A training that lasts until it is ended."""
    words = (tmp_path / "run", manifest, 100_000, None, "--processes", 2)
    return start(tmp_path, long_training(tiny), "sit", *words)


def descendants(pid):
    """Processes below ``pid``, by their command lines."""
    children = [
        int(word)
        for path in Path(f"/proc/{pid}/task").glob("*/children")
        for word in path.read_text().split()
    ]
    found = {
        child: Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ") for child in children
    }
    for child in children:
        found |= descendants(child)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_failing_process_ends_the_job(tiny, tmp_path, manifest, victim):
    child = start_on_two_processes(tiny, tmp_path, manifest)
    ranks = {
        int(
            dict(
                line.split("=", 1)
                for line in Path(f"/proc/{pid}/environ").read_text().split("\0")
                if "=" in line
            )["RANK"]
        ): pid
        for pid, line in descendants(child.pid).items()
        if "torch.distributed.run" not in line and "selftrans" in line
    }
    assert sorted(ranks) == [0, 1]
    os.kill(ranks[victim], signal.SIGKILL)
    _, messages = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "error: a training process ended with exit code 1; its message is above" in messages
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks.values())
    assert not (
        tmp_path / "run/state/failed-100000.json"
    ).exists()  # a crash may pass: it is tried again


@pytest.mark.slow
@pytest.mark.parametrize("whole_job", [True, False])
def test_several_processes_save_and_stop_when_a_signal_comes(tiny, tmp_path, manifest, whole_job):
    """Whether the scheduler signals the first process only, or every process of the job.

    The latter includes launcher and torchrun.
    """
    child = start_on_two_processes(tiny, tmp_path, manifest)
    for pid in (child.pid, *descendants(child.pid)) if whole_job else (child.pid,):
        os.kill(pid, signal.SIGUSR1 if whole_job else signal.SIGTERM)
    _, messages = child.communicate(timeout=60)
    assert child.returncode == 75, messages
    assert "saved, rerun the same command to resume" in messages
    stopped = int(messages.split(" at step ")[1].split(";")[0])
    assert (tmp_path / f"run/state/step-{stopped:08}.safetensors").is_file()


@pytest.mark.slow
def test_no_process_outlives_a_killed_launcher(tiny, tmp_path, manifest):
    """It held the lease of their cards: whoever takes those next must find them free."""
    child = start_on_two_processes(tiny, tmp_path, manifest)
    below = list(descendants(child.pid))
    assert len(below) >= 3  # torchrun and two ranks
    child.kill()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in below):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    child.communicate(timeout=20)


def test_a_second_signal_does_not_disturb_the_first(tmp_path, monkeypatch):
    """The scheduler's SIGTERM comes while the launcher still records a user's Ctrl-C."""
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    }
    launcher = StopRequest(tell=tmp_path / "stop")
    write = Path.write_text

    def interrupted(self, *given, **options):
        os.kill(os.getpid(), signal.SIGUSR1)
        return write(self, *given, **options)

    monkeypatch.setattr(Path, "write_text", interrupted)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.05)
    launcher.release()
    listener = StopRequest(listen=tmp_path / "stop")
    listener.release()
    assert launcher.reason == listener.reason == "SIGTERM"
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.slow
def test_a_failure_that_no_repetition_mends_stops_the_retries(tiny, tmp_path, manifest):
    diverging = {"training.learning_rate": 1e30}
    for attempt in (1, 2, 3):
        ended = command_here(
            tiny(**diverging), "sit", tmp_path / "run", manifest, 8, None, "--attempt", attempt
        )
        assert ended.returncode == 1
        message = ended.stderr.strip().splitlines()[-1]
        assert message.startswith(f"error: {tmp_path}/run: loss or gradient is not finite at step ")
        assert ("steps/s" in ended.stderr) == (attempt == 1), "a retry trained again"
    marker = tmp_path / "run/state/failed-8.json"
    assert json.loads(marker.read_text())["message"] in message
    ended = command_here(
        tiny(), "sit", tmp_path / "run", manifest, 8, None
    )  # a first attempt: its user mended the cause
    assert ended.returncode == 0, ended.stderr
    assert not marker.exists()


@pytest.mark.slow
def test_what_only_this_machine_lacks_does_not_stop_the_retries(
    tiny, tmp_path, manifest, monkeypatch
):
    """A fallen card, or a disk that is not mounted: the next attempt may run on another node."""
    lacks = {
        "--device: 1 GPUs requested, 0 visible (none)": ("--device", "cuda"),
        f"{tmp_path}/elsewhere/manifest.json: no such file": (
            "--latents",
            tmp_path / "elsewhere/manifest.json",
        ),
    }
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for message, options in lacks.items():
        ended = command_here(tiny(), "sit", tmp_path / "run", manifest, 8, None, *options)
        assert ended.returncode == 1
        assert ended.stderr.strip().splitlines()[-1] == f"error: {message}"
    ended = command_here(tiny(), "sit", tmp_path / "run", manifest, 8, None, "--attempt", 2)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_a_signal_saves_and_stops_and_the_same_command_resumes(tiny, tmp_path, manifest):
    changes = {
        "training.checkpoints": [300],
        "figures.sample_checkpoints": [300],
        "runs": {"sit": {}},
    }
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


def train_as_a_job(words):
    """What the command line does, in a forked process that has its imports already."""
    from selftrans.cli import main

    os.chdir(REPOSITORY)
    torch.set_num_threads(1)
    sys.argv = words
    main()


@pytest.mark.slow
def test_killed_at_thirty_moments_a_training_ends_with_the_same_bits(
    tiny, tmp_path, manifest, teacher
):
    """SIGKILL while states are written all the time, of a run that has all that a state can have.

    Never an unreadable state, and at the end no difference. Half of the kills come at random, half
    as soon as a file is seen in the making.
    """
    arm = "self-transcendence"
    checkpoints = list(range(4, 304, 10))
    path = tiny(
        **{
            "training.checkpoints": checkpoints,
            "figures.sample_checkpoints": [4],
            "training.save_minutes": 1e-6,
        }
    )
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(
        [
            "selftrans.cli.training",
            "selftrans.training.segments",
            "selftrans.training.trainer",
            "tests.support.trainings",
        ]
    )
    directory, rng = tmp_path / "parts", random.Random(0)
    hit = {"state": 0, "checkpoints": 0}
    kills = 0
    for until in checkpoints:
        finished = False
        while not finished:
            words = words_of(path, arm, directory, manifest, until, teacher)[2:]
            job = server.Process(target=train_as_a_job, args=(words,))
            job.start()
            moment = time.monotonic() + rng.uniform(0, 0.4)
            part = ("state", "checkpoints")[kills // 2 % 2]
            while kills < 30 and job.is_alive() and time.monotonic() < moment:
                if kills % 2 and in_the_making(directory / part):
                    break
                moment += 0.0005 * (kills % 2)  # waits for a file
            if kills < 30:
                job.kill()
            job.join()
            finished = job.exitcode == 0
            if not finished:
                assert job.exitcode == -signal.SIGKILL
                kills += 1
                for name in hit:
                    hit[name] += in_the_making(directory / name)
    assert kills == 30
    assert min(hit.values()) >= 3, hit
    run(path, arm, tmp_path / "whole", manifest, until=checkpoints[-1], teacher=teacher)
    assert_equal(
        everything(directory, checkpoints[-1]), everything(tmp_path / "whole", checkpoints[-1])
    )
    for name in ("ema.safetensors", "raw.safetensors", "history.csv"):
        files = [
            which / f"checkpoints/{checkpoints[-1]}" / name
            for which in (directory, tmp_path / "whole")
        ]
        assert files[0].read_bytes() == files[1].read_bytes(), name
    assert not in_the_making(directory)


def in_the_making(directory):
    """Whether a file is being written there, or was when its writer was killed."""
    return any(directory.rglob(".*.tmp.*"))
