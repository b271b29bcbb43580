"""Several processes against one, signals to their launcher, leases of cards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache, partial

from torch import Tensor

from selftrans.gpu_check.checks import Check, Finding, NotRun, within
from selftrans.gpu_check.numerics import relative
from selftrans.gpu_check.trainings import LONG, STAGE_1, Trainings, differing_tensors
from selftrans.gpu_check.workbench import Workbench
from selftrans.runtime.devices import SCHEDULERS, visible_gpus
from selftrans.runtime.errors import EXIT_INTERRUPTED
from selftrans.training.state import StateDirectory

START_SECONDS = 120
STOP_SECONDS = 120
CLOSE: Mapping[str, float] = {"weights": 1e-3, "losses": 1e-4}
"""Tolerated relative errors."""
TOLERANCE = (
    "Processes draw the same batches to the bit, and add up their gradients in another order than"
    " one of them: a rounding of fp32 that AdamW's first steps enlarge where a gradient is nearly"
    f" zero. After some steps losses may differ by {CLOSE['losses']:.0e}, weights by"
    f" {CLOSE['weights']:.0e} of their norm."
)


def words_of(trainings: Trainings, name: str, until: int) -> list[str]:
    """The command line of a training of several processes, in a folder of that name."""
    bench, directory = trainings.bench, trainings.directory / name
    device = "cuda" if bench.on_gpu else "cpu"
    words = [sys.executable, "-m", "selftrans", "train", str(trainings.experiment)]
    words += ["--run", STAGE_1, "--seed", "0", "--until", str(until)]
    words += ["--latents", str(trainings.latents), "--directory", str(directory)]
    if trainings.captions:
        words += ["--captions", str(trainings.captions)]
    return [*words, "--device", device, "--processes", str(bench.processes)]


class Launch:
    """A training of several processes that SIGTERM stopped soon after its first save."""

    def __init__(self, trainings: Trainings) -> None:
        name = f"{trainings.bench.processes}-processes"
        states = StateDirectory(trainings.directory / name / "state", "")
        with (trainings.directory / "launch.log").open("w+b") as log:
            launcher = subprocess.Popen(words_of(trainings, name, LONG), stdout=log, stderr=log)
            try:
                wait_until(lambda: states.steps() or launcher.poll() is not None, START_SECONDS)
                launcher.send_signal(signal.SIGTERM)
                launcher.wait(STOP_SECONDS)
            finally:
                launcher.kill()
                launcher.wait()
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
        self.code, self.said = launcher.returncode, lines[-1] if lines else ""
        self.steps, self.name = states.steps(), name


def wait_until(reached: Callable[[], object], seconds: float) -> None:
    """Look ten times a second.

    Raises:
        TimeoutError: it is not reached in time.
    """
    until = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > until:
            raise TimeoutError(f"not within {seconds:g} s")
        time.sleep(0.1)


def find_stopped(launch: Callable[[], Launch]) -> Finding:
    """Whether the launcher stopped on its signal with the state saved."""
    done = launch()
    text = f"exit code {done.code}, saved at step {done.steps[-1] if done.steps else 0}"
    passed = done.code == EXIT_INTERRUPTED and bool(done.steps)
    return Finding(text if passed else f"{text}; {done.said}", passed=passed)


def find_shared(launch: Callable[[], Launch], trainings: Callable[[], Trainings]) -> Finding:
    """Errors of what several processes trained, against one process here."""
    done, runs = launch(), trainings()
    if not done.steps:
        return Finding(f"no state was saved; {done.said}", passed=False)
    last = done.steps[-1]
    runs.train(STAGE_1, "1-process", last)
    shared, alone = (runs.state(name, last) for name in (done.name, "1-process"))
    errors = {
        "weights": max(
            relative(shared[name], tensor)
            for name, tensor in alone.items()
            if name.startswith("model.") and tensor.ndim > 1
        ),
        "losses": relative(_losses(shared), _losses(alone)),
    }
    found = within(errors, CLOSE)
    text = f"{runs.bench.processes} processes, {last} steps: {found.text}"
    return Finding(text, {**found.values, "steps": float(last)}, found.passed)


def find_resumed(trainings: Callable[[], Trainings]) -> Finding:
    """Whether several processes that end in between and resume do as several that go on."""
    runs, half = trainings(), trainings().bench.sizes.trained_steps
    for name, until in (("whole", 2 * half), ("resumed", half), ("resumed", 2 * half)):
        words = words_of(runs, name, until)
        ended = subprocess.run(
            words, capture_output=True, text=True, timeout=START_SECONDS, check=False
        )
        if ended.returncode:
            said = ended.stderr.strip().rpartition("\n")[2]
            return Finding(f"exit code {ended.returncode}; {said}", passed=False)
    whole, resumed = (runs.state(name, 2 * half) for name in ("whole", "resumed"))
    differing = differing_tensors(whole, resumed)
    text = f"resumed at step {half} of {2 * half}, {len(differing)} of {len(whole)} tensors differ"
    return Finding(text, {"differing": float(len(differing))}, not differing)


def _losses(state: Mapping[str, Tensor]) -> Tensor:
    """L at every logged step."""
    return state["history"][:, 1]


LEASE = """
import sys, time
from selftrans.runtime.devices import lease_gpus
lease_gpus(1)
import os
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
time.sleep(600)
"""


class Leasing:
    """A process that leases one of some cards, and holds it."""

    def __init__(self, cards: str) -> None:
        ours = {"SELFTRANS_LEASED", *SCHEDULERS}  # by which a lease is not taken
        kept = {key: value for key, value in os.environ.items() if key not in ours}
        environment = {**kept, "CUDA_VISIBLE_DEVICES": cards}
        self.process = subprocess.Popen(
            [sys.executable, "-c", LEASE], env=environment, stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self._said = b""

    def leased(self) -> str:
        """The card, once it has one."""
        assert self.process.stdout is not None
        self._said += self.process.stdout.read() or b""
        return self._said.decode().strip()

    def end(self) -> None:
        """Kill it, as the kernel would."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def find_lease() -> Finding:
    """Whether a card that a process holds is refused to another one until that process ends.

    The card has a name of its own, so that no other program can wait for it.
    """
    card = f"check-{os.getpid()}"
    first = Leasing(card)
    second = None
    try:
        wait_until(first.leased, START_SECONDS)
        second = Leasing(card)
        time.sleep(2.5)  # longer than a program waits between two looks
        early = second.leased()
        first.end()
        started = time.monotonic()
        wait_until(second.leased, START_SECONDS)
        seconds = time.monotonic() - started
    finally:
        for one in (first, second):
            if one is not None:
                one.end()
    text = f"given to both at once: {early}" if early else f"free {seconds:.1f} s after its holder"
    return Finding(text, {"seconds": seconds}, not early)


def find_own_lease() -> Finding:
    """Whether the card that this very program computes on is refused to others."""
    if "SELFTRANS_LEASED" not in os.environ:
        raise NotRun("this program has leased no card")
    cards = ",".join(visible_gpus())
    other = Leasing(cards)
    try:
        time.sleep(4)
        taken = other.leased()
    finally:
        other.end()
    return Finding(f"{cards}: given to another process: {taken or 'no'}", passed=not taken)


def processes(bench: Workbench) -> Iterator[Check]:
    """All of them."""

    @cache
    def launch(backbone: str) -> Launch:
        return Launch(several(backbone))

    @cache
    def several(backbone: str) -> Trainings:
        if bench.processes < 2:
            raise NotRun("one card")
        folder = replace(bench, directory=bench.directory / "processes" / backbone)
        size = bench.processes * max(1, bench.sizes.trained_batch // bench.processes)
        recipe = {"precision": "fp32", "batch_size": size, "save_minutes": 0.01, "log_every": 2}
        return Trainings(folder, recipe, bench.sizes.stopped[backbone])

    yield Check("a leased card is free when its process is killed", find_lease)
    yield Check("the card of this program", find_own_lease)
    kind = "NCCL" if bench.on_gpu else "gloo"
    for backbone in bench.sizes.stopped:
        launched, trainings = partial(launch, backbone), partial(several, backbone)
        yield Check(f"{backbone}, SIGTERM to several processes", partial(find_stopped, launched))
        yield Check(
            f"{backbone}, several processes under {kind}, against one",
            partial(find_shared, launched, trainings),
        )
        yield Check(
            f"{backbone}, several processes that resume, bit for bit",
            partial(find_resumed, trainings),
        )
