"""Programs without the seconds that their imports take.

A job on a laptop imports torch and diffusers for up to ten seconds to work for a few. A fork server
imports them once. What stands for a program on a PATH asks it for a process of its own, forked,
which does what the program does: with the same words, folder, environment, files and exit code;
signals are passed on, and it is killed if what stands for it is. Neither a GPU nor the threads of
numerical libraries survive a fork: the server uses none, and what asks for a GPU or for several
threads is started as ever. So is everything where the server fails.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from selftrans.runtime import stand_in
from selftrans.runtime.signals import die_with_parent
from selftrans.runtime.stand_in import LENGTH, PASSED_ON
from selftrans.runtime.starter import PRESENT, Starter, set_starter

LIBRARIES = (
    "accelerate", "diffusers.models.autoencoders", "PIL.Image", "safetensors.torch", "scipy.linalg",
    "selftrans.cli.evaluation", "selftrans.cli.extraction", "selftrans.cli.sampling",
    "selftrans.cli.table", "selftrans.cli.training", "selftrans.evaluation.evaluate",
    "selftrans.sampling.generate", "selftrans.training.freeze", "selftrans.training.trainer",
    "tabulate", "tensorboard.compat.proto.summary_pb2",
    "tensorboard.summary.writer.event_file_writer", "torch._dynamo", "yaml",
)  # fmt: skip
"""What the commands of this package import."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class Program:
    """What is forked in place of a program."""

    module: str
    """Its ``main`` is called."""
    name: str
    """On the PATH."""
    front: tuple[str, ...] = ()
    """Words in front of its own."""
    further: tuple[str, ...] = ()
    """Words that stand somewhere behind them, in this order and side by side."""


SELFTRANS = Program("selftrans.cli", "python", ("-m", "selftrans"), ("--device", "cpu"))


class ForkServer:
    """Ends with the process that started it, after the last program that it forked.

    Args:
        programs: that are forked.
        modules: imported once, in the background; a program that is asked for before waits.

    Attributes:
        environment: what has to be set for the programs to be found.

    Raises:
        OSError: this system does not let it work.
    """

    def __init__(
        self, programs: Iterable[Program] = (SELFTRANS,), modules: Iterable[str] = LIBRARIES
    ) -> None:
        os.close(os.pidfd_open(os.getpid()))
        self._folder = folder = Path(tempfile.mkdtemp(prefix="selftrans-fork-"))
        stands_in = folder / "bin/python"
        self.environment = {
            PRESENT: str(stands_in),
            "PATH": f"{stands_in.parent}:{os.environ['PATH']}",
        }
        try:
            for program in programs:
                _write_stand_in(stands_in.with_name(program.name), program, folder / "socket")
            if subprocess.run([stands_in, "-c", ""], check=False).returncode:
                raise OSError(f"{stands_in} does not run")
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(str(folder / "socket"))
                listening.listen(256)
                self._serve(folder, listening, modules)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _serve(self, folder: Path, listening: socket.socket, modules: Iterable[str]) -> None:
        alive, self._ours = os.pipe()  # nothing is written: it closes when this process ends
        inherited = (listening.fileno(), alive)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(folder), *map(str, inherited), *modules],
            env={**os.environ, **dict.fromkeys(THREADS, "1")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=inherited,
            start_new_session=True,  # Ctrl-C reaches a program once, by what stands for it
        )
        os.close(alive)

    def stop(self) -> None:
        """Wait for the last program, and end."""
        os.close(self._ours)
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)  # of a server that was killed


def _write_stand_in(path: Path, program: Program, address: Path) -> None:
    """A script of the shell: any path of Python fits into its second line."""
    beside = Path(sys.executable).with_name(program.name)
    of_program = json.dumps([asdict(program), str(address), str(beside)])
    words = shlex.join([sys.executable, "-ISs", stand_in.__file__, of_program])
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
    path.chmod(0o755)


def serve(folder: Path, listening: int, alive: int, modules: Iterable[str]) -> Callable[[], object]:
    """Answer until the process that started this one has ended; a process for each request.

    Returns:
        What is left to do: in a process of its own the program, in the server nothing.
    """
    for number in PASSED_ON:  # sent to all processes, they are meant for the programs
        signal.signal(number, signal.SIG_IGN)
    try:
        for name in modules:
            if not _is_readable(alive):
                importlib.import_module(name)
    except Exception:
        traceback.print_exc()
        os.close(listening)  # what stands for a program becomes it
        select.select([alive], [], [])
    else:
        gc.freeze()  # a collection in a program would copy every page that is shared
        with socket.socket(fileno=listening) as server:
            if (asked := _next_request(server, alive)) is not None:
                return _guarded(asked)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    shutil.rmtree(folder)
    return lambda: None


def _is_readable(*files: int, seconds: float = 0) -> bool:
    return bool(select.select(files, [], [], seconds)[0])


def _next_request(server: socket.socket, alive: int) -> socket.socket | None:
    """In a process of its own who asks; in the server None, at its end."""
    while True:
        # Whoever has ended is waited for, so that its CPU time counts as this process's.
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        _is_readable(server.fileno(), alive, seconds=1)
        if _is_readable(server.fileno()):
            asked, _ = server.accept()
            try:
                is_guard = os.fork() == 0
            except OSError:  # no memory: what stands for the program becomes it
                is_guard = False
            if is_guard:
                server.close()
                os.close(alive)
                return asked
            asked.close()
        elif _is_readable(alive):
            return None


def _guarded(connection: socket.socket) -> Callable[[], object]:
    """In a process of its own, what is asked for; here its exit code is said.

    It is killed if whoever asked is gone, and does not begin before signals are passed on to it.
    """
    die_with_parent()
    try:
        request, files = _received(connection)
    except OSError:
        os._exit(1)
    begun, begins = os.pipe()
    child = os.fork()
    if child == 0:
        die_with_parent()
        os.close(begun)
        _restore_signals(request.pop("ignored"))
        if not _is_awaited(connection):
            os._exit(1)
        connection.close()
        os.close(begins)
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        return _prepared(**request)
    for file in (begins, *files):
        os.close(file)
    os.read(begun, 1)  # it ends when the program has begun
    asking = connection.fileno()
    select.select([asking, os.pidfd_open(child)], [], [])
    if _is_readable(asking):
        os.kill(child, signal.SIGKILL)  # nothing more is ever said here: whoever asked is gone
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):
        connection.sendall(code.to_bytes(LENGTH, "big", signed=True))
    os._exit(0)


def _received(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A request and its files; ends this process if whoever asks is gone."""
    head, files, _, _ = socket.recv_fds(connection, LENGTH, 3)
    content, length = b"", int.from_bytes(head, "big")
    while len(content) < length:
        received = connection.recv(length - len(content))
        if not received:
            break
        content += received
    if not content or len(content) < length or _is_readable(connection.fileno()):
        os._exit(1)
    return json.loads(content), files


def _restore_signals(ignored: Iterable[int]) -> None:
    """Have a program answer signals as Python does, but for what it was started to ignore."""
    for number in PASSED_ON:
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in ignored else usual)


def _is_awaited(connection: socket.socket) -> bool:
    """Say this process's number; whether it is heard, and signals are passed on from here on."""
    try:
        connection.sendall(os.getpid().to_bytes(LENGTH, "big"))
        return bool(connection.recv(1))
    except OSError:
        return False


def _prepared(
    module: str,
    words: list[str],
    folder: str,
    environment: dict[str, str],
    asked_by: tuple[int, int],
) -> Callable[[], object]:
    """The program, in a process that is as it would be had it been started by itself."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    sys.argv = [module.partition(".")[0], *words]
    sys.path[0] = folder
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    set_starter(Starter(*asked_by))
    return importlib.import_module(module).main


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])()
