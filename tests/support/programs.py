"""Command lines for tests: in this process, or as a process whose memory is measured."""

import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch

from selftrans.cli import main
from selftrans.runtime.logs import LOG
from selftrans.runtime.signals import STOP_SIGNALS
from tests.support import REPOSITORY

PEAK = """
with open("/proc/self/status") as status:
    print("PEAK", *(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM")))
"""
"""Prints the peak memory of a program. ``ru_maxrss`` would count that of the process before."""


def run_command(*words: object) -> Any:
    """What ``selftrans words`` does, within this process: exit code, stdout and stderr."""
    return run_program(main, "selftrans", *words)


def run_program(program: Callable[[], None], module: str, *words: object) -> Any:
    """What ``python -m module words`` does, within this process: exit code, stdout and stderr.

    An unexpected exception is raised, where the process would print a traceback.
    ``test_command_lines`` shows that a real process ends alike.
    """
    argv = [module, *map(str, words)]
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    stdout, stderr, code, threads = io.StringIO(), io.StringIO(), None, torch.get_num_threads()
    logged, level = logging.StreamHandler(stderr), LOG.level
    LOG.addHandler(logged)
    LOG.setLevel(logging.INFO)
    try:
        with (
            mock.patch.object(sys, "argv", argv),
            contextlib.chdir("."),
            mock.patch.dict(os.environ),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            program()
    except SystemExit as ended:
        code = ended.code
    finally:
        LOG.removeHandler(logged)
        LOG.setLevel(level)
        torch.set_num_threads(threads)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if isinstance(code, str):  # as the interpreter does at its end
        stderr.write(f"{code}\n")
    returncode = 1 if isinstance(code, str) else int(code or 0)
    return subprocess.CompletedProcess(argv, returncode, stdout.getvalue(), stderr.getvalue())


def peak_of(program: str, *words: object) -> tuple[int, str]:
    """The peak memory of a program in bytes, and what it printed."""
    command = [sys.executable, "-c", program + PEAK, *map(str, words)]
    said = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    rest, _, peak = said.rpartition("PEAK ")
    return int(peak), rest


def imported_by(*words: object) -> tuple[set[str], str]:
    """The packages that ``selftrans words`` imports in a process of its own, and what it prints."""
    code = (
        "import sys\nfrom selftrans.cli import main\nmain(sys.argv[1:])\n"
        "print('LOADED', *{name.split('.')[0] for name in sys.modules})"
    )
    command = [sys.executable, "-c", code, *map(str, words)]
    said = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    rest, _, loaded = said.rpartition("LOADED ")
    return set(loaded.split()), rest


def last_line(ended: Any) -> str:
    """The last line of a failed command's stderr; the command must have failed with exit code 1."""
    if ended.returncode != 1:
        pytest.fail(f"exit code {ended.returncode}, expected 1: {ended.stderr}")
    return ended.stderr.strip().splitlines()[-1]
