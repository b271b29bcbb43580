"""Files that are whole or absent, tensors equal to those written, progress, GPU leases."""

import json
import logging
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from contextlib import suppress
from itertools import pairwise, product

import pytest
import torch
from filelock import FileLock
from safetensors.torch import save_file

from selftrans.runtime import devices
from selftrans.runtime.devices import allow_tf32, require_gpu, tf32_allowed, visible_gpus
from selftrans.runtime.errors import Unavailable, UserError
from selftrans.runtime.files import atomic_path, read_json, write_json
from selftrans.runtime.headers import read_metadata
from selftrans.runtime.logs import Progress, duration
from selftrans.runtime.machine import granted_threads
from selftrans.runtime.tensors import digest_of, load_tensors, save_tensors


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})

    def failing():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", ["", "{", "\udcff"])
def test_what_is_no_json_is_named(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"a\.json: not a JSON file"):
        read_json(path)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "a.safetensors"
    save_tensors(
        path,
        {"x": torch.arange(100.0), "y": torch.ones(3, dtype=torch.int64)},
        "weights",
        {"step": 3},
    )
    return path


def test_tensors_come_back(saved):
    tensors, metadata = load_tensors(saved, "weights")
    assert torch.equal(tensors["x"], torch.arange(100.0))
    assert metadata["step"] == 3
    assert metadata["digest"] == digest_of(tensors)
    assert read_metadata(saved, "weights") == metadata


def test_the_digest_is_of_names_types_shapes_and_bytes():
    x = torch.arange(6.0)
    different = [
        {"x": x},
        {"y": x},
        {"x": x.double()},
        {"x": x.reshape(2, 3)},
        {"x": x + 1},
        {"x": x, "y": x},
    ]
    assert len({digest_of(tensors) for tensors in different}) == len(different)
    assert digest_of({"a": x, "b": x + 1}) == digest_of({"b": x + 1, "a": x})


def test_truncated_flipped_foreign_and_misplaced_files_are_refused_by_name(saved, tmp_path):
    content = saved.read_bytes()
    flipped = bytearray(content)
    flipped[-9] ^= 4
    cases = {
        "truncated": (content[:-8], "truncated or not a safetensors file"),
        "empty": (b"", "truncated or not a safetensors file"),
        "flipped": (bytes(flipped), "damaged"),
        "pickle": (b"\x80\x04N.", "truncated or not a safetensors file"),
    }
    for name, (wrong, message) in cases.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(wrong)
        with pytest.raises(UserError, match=rf"{name}\.safetensors: {message}") as caught:
            load_tensors(path, "weights")
        assert "\n" not in str(caught.value)
    save_file({"x": torch.ones(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match=r"foreign\.safetensors: was not written by selftrans"):
        load_tensors(tmp_path / "foreign.safetensors", "weights")
    with pytest.raises(UserError, match=r"a\.safetensors: holds weights, expected was state"):
        load_tensors(saved, "state")
    with pytest.raises(UserError, match=r"none\.safetensors: no such file"):
        load_tensors(tmp_path / "none.safetensors", "weights")


def test_a_changed_description_is_refused(saved, tmp_path):
    """One flipped bit in what a file says about itself: a step, a digest, the format."""
    content = saved.read_bytes()
    for number, (old, new) in enumerate((
        (b'\\"step\\": 3', b'\\"step\\": 7'),
        (b'\\"kind\\": \\"weights', b'\\"kind\\": \\"wdights'),
        (b'\\"seal\\"', b'\\"sdal\\"'),
    )):  # fmt: skip
        assert content.count(old) == 1
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(content.replace(old, new))
        for read in (read_metadata, load_tensors):
            with pytest.raises(
                UserError,
                match=rf"{number}\.safetensors: damaged, its description is not what was written",
            ):
                read(path, "weights")
    path = tmp_path / "newer.safetensors"
    path.write_bytes(content.replace(b'\\"format\\": 1', b'\\"format\\": 2'))
    with pytest.raises(UserError, match=r"newer\.safetensors: format 2, allowed is 1"):
        read_metadata(path, "weights")


def test_progress_in_a_file_is_plain_lines_with_rate_and_remaining_time(caplog):
    caplog.set_level(logging.INFO)
    with Progress(10, "training", "step", initial=4, interval=0.0) as bar:
        for _ in range(6):
            time.sleep(0.01)
            bar.update(note="loss 0.5")
    assert len(caplog.messages) == 7
    assert re.fullmatch(
        r"training: 5/10 steps, \S+ steps/s, 0:0\d left, loss 0\.5", caplog.messages[0]
    )
    rate = float(re.search(r"([\d.e+]+) steps/s", caplog.messages[-1])[1])
    assert rate < 101  # six steps of at least 0.01 s: those done before do not count


@pytest.mark.slow
def test_progress_on_a_terminal_is_a_bar():
    code = (
        "import time\nfrom selftrans.runtime.logs import Progress\n"
        "with Progress(20, 'sampling', 'image') as bar:\n"
        "    for _ in range(20):\n        time.sleep(0.02)\n        bar.update()"
    )
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 100))
    child = subprocess.Popen([sys.executable, "-c", code], stderr=follower, stdout=follower)
    os.close(follower)
    shown = b""
    while True:
        try:
            piece = os.read(leader, 4096)
        except OSError:  # the terminal ends with the child
            break
        shown += piece
        if not piece:
            break
    assert child.wait() == 0
    text = shown.decode()
    assert "\rsampling: 100%" in text
    assert re.search(r"20/20 \[.*image/s\]", text)


def test_durations():
    assert [duration(s) for s in (0, 61, 3661, float("inf"))] == ["0:00", "1:01", "1:01:01", "?"]


HOLD = """
import os, sys, time
from selftrans.runtime.devices import lease_gpus
lease_gpus(int(sys.argv[1]))
print(os.environ["CUDA_VISIBLE_DEVICES"], time.monotonic(), flush=True)
time.sleep(float(sys.argv[2]))
print(time.monotonic(), flush=True)
"""


def holder(tmp_path, count, seconds, **environment):
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "0,1,2,7",
        "TMPDIR": str(tmp_path),
        **environment,
    }
    command = [sys.executable, "-c", HOLD, str(count), str(seconds)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_tf32_is_afterwards_as_it_was():
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [one.allow_tf32 for one in flags]
    try:
        for outer, inner in product((True, False), repeat=2):
            allow_tf32(outer)
            with suppress(KeyError), tf32_allowed(inner):
                assert [one.allow_tf32 for one in flags] == [inner, inner]
                raise KeyError
            assert [one.allow_tf32 for one in flags] == [outer, outer]
    finally:
        for one, value in zip(flags, before, strict=True):
            one.allow_tf32 = value


def test_threads_are_what_was_granted_else_the_cores(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert granted_threads() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert granted_threads() == len(os.sched_getaffinity(0))


def test_waiting_for_cards_is_said_once(tmp_path, monkeypatch, caplog):
    with FileLock(tmp_path / "0.lock"):
        waits = iter([None, None])

        def sleep(_):
            if next(waits, "over") == "over":
                raise TimeoutError

        monkeypatch.setattr(devices.time, "sleep", sleep)
        with caplog.at_level("INFO"), pytest.raises(TimeoutError):
            devices._acquire(["0", "1"], 2, tmp_path)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["waiting for 2 of 2 GPUs: others have leased the rest"]


@pytest.mark.slow
def test_no_card_is_ever_leased_twice(tmp_path):
    children = [holder(tmp_path, count, 0.3) for count in (1, 2, 1, 4, 1, 2, 3, 1)]
    held = []
    for child in children:
        first, last = child.communicate(timeout=120)[0].splitlines()
        devices, start = first.split()
        held += [(device, float(start), float(last)) for device in devices.split(",")]
    assert len(held) == 15
    assert {device for device, _, _ in held} == {"0", "1", "2", "7"}
    for device in ("0", "1", "2", "7"):
        spans = sorted((start, end) for name, start, end in held if name == device)
        assert all(before[1] <= after[0] for before, after in pairwise(spans))


PACKED = """
rule all:
    input: expand("cards/{number}-{gpus}", zip, number=range(7), gpus=[1, 2, 8, 1, 2, 1, 1])
rule card:
    output: "cards/{number}-{gpus}"
    resources: gpu=lambda wildcards: int(wildcards.gpus)
    shell: "{PYTHON} {HOLD} {wildcards.gpus} 1.5 > {output}"
"""


@pytest.mark.workflow
def test_snakemake_packs_jobs_of_one_two_and_eight_cards_on_eight_pretended_ones(tmp_path):
    """Real concurrent jobs: no card twice at a time, never more than eight in use.

    Small jobs do run side by side.
    """
    (tmp_path / "hold.py").write_text(HOLD)
    text = PACKED.replace("{PYTHON}", sys.executable).replace("{HOLD}", str(tmp_path / "hold.py"))
    (tmp_path / "Snakefile").write_text(text)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7", "TMPDIR": str(tmp_path)}
    command = ["snakemake", "--cores", "8", "--resources", "gpu=8", "--directory", str(tmp_path)]
    command += ["--snakefile", str(tmp_path / "Snakefile")]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    held = []
    for path in sorted((tmp_path / "cards").iterdir()):
        first, last = path.read_text().splitlines()
        devices, start = first.split()
        assert len(devices.split(",")) == int(path.name.split("-")[1])
        held += [(device, float(start), float(last)) for device in devices.split(",")]
    for device in map(str, range(8)):
        spans = sorted((start, end) for name, start, end in held if name == device)
        assert all(before[1] <= after[0] for before, after in pairwise(spans))
    at_once = [sum(start <= begun < end for _, start, end in held) for _, begun, _ in held]
    assert max(at_once) == 8
    small = [
        (start, end) for path in (tmp_path / "cards").glob("*-[12]") for start, end in [_span(path)]
    ]
    assert any(one[0] < other[0] < one[1] for one in small for other in small)


def _span(path):
    first, last = path.read_text().splitlines()
    return float(first.split()[1]), float(last)


@pytest.mark.slow
def test_a_killed_holder_keeps_no_card(tmp_path):
    first = holder(tmp_path, 4, 600)
    first.stdout.readline()
    second = holder(tmp_path, 4, 0)
    time.sleep(0.5)
    assert second.poll() is None
    first.send_signal(signal.SIGKILL)
    assert second.communicate(timeout=60)[0].startswith("0,1,2,7 ")


@pytest.mark.slow
def test_more_cards_than_there_are_is_one_line(tmp_path):
    child = holder(tmp_path, 5, 0)
    assert "--device: 5 GPUs requested, 4 visible (0, 1, 2, 7)" in child.communicate(timeout=60)[1]


@pytest.mark.slow
def test_a_schedulers_cards_are_taken_as_they_are(tmp_path):
    """A job uses the cards that the scheduler gave it.

    Jobs of one Snakemake within a larger allocation lease from it.
    """
    mine = holder(tmp_path, 1, 0.5, CUDA_VISIBLE_DEVICES="5", SLURM_JOB_ID="77")
    other = holder(tmp_path, 1, 0.5, CUDA_VISIBLE_DEVICES="5", SLURM_JOB_ID="78")
    spans = [
        [float(line.split()[-1]) for line in child.communicate(timeout=60)[0].splitlines()]
        for child in (mine, other)
    ]
    assert spans[0][0] < spans[1][1]
    assert spans[1][0] < spans[0][1]  # at once: each has its own card 5, says the scheduler
    within = [
        holder(tmp_path, 1, 0.5, CUDA_VISIBLE_DEVICES="5,6", SLURM_JOB_ID="77") for _ in range(2)
    ]
    assert {child.communicate(timeout=60)[0].split()[0] for child in within} == {"5", "6"}


@pytest.mark.slow
def test_a_machine_without_a_driver_has_no_gpus(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    assert visible_gpus() == []


def test_written_json_is_json(tmp_path):
    write_json(tmp_path / "deep/er/a.json", {"ü": [1, None]})
    assert json.loads((tmp_path / "deep/er/a.json").read_text()) == {"ü": [1, None]}


def test_a_driver_that_is_too_old_is_said_in_one_line(monkeypatch):
    def init():
        raise RuntimeError("The NVIDIA driver on your system is too old\n(found version 12000).")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "init", init)
    with pytest.raises(Unavailable, match=r"^--device: torch cannot use the GPU: .*12000\)\. \(a"):
        require_gpu()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Unavailable, match="torch sees no GPU on this machine"):
        require_gpu()


def test_cards_are_seen_without_the_drivers_program(monkeypatch, tmp_path):
    """Some containers have none."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices.shutil, "which", lambda _: None)
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    monkeypatch.setattr(devices, "Path", lambda _: tmp_path)
    assert visible_gpus() == ["0", "1"]
    assert devices.gpu_names() == []
