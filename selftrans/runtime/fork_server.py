"""Programs without the seconds that their imports take.

A job on a laptop imports torch and diffusers for up to ten seconds to work for a few. A fork server
imports them once. What stands for the programs on a PATH asks it for a process of its own, forked,
which does what the program does: with the same words, folder, environment, files, threads and exit
code; signals are passed on, and it ends when whoever stands for it ends. Neither torch's threads
nor a GPU survive a fork: the server uses none, and a program for a GPU is started as ever.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from selftrans.runtime.machine import granted_threads
from selftrans.runtime.signals import die_with_parent

LIBRARIES = (
    "accelerate", "diffusers.models.autoencoders", "PIL.Image", "safetensors.torch", "scipy.linalg",
    "selftrans.evaluation.evaluate", "selftrans.sampling.generate", "selftrans.training.freeze",
    "selftrans.training.trainer", "tabulate", "tensorboard.compat.proto.summary_pb2",
    "tensorboard.summary.writer.event_file_writer", "torch._dynamo", "yaml",
)  # fmt: skip
"""What the commands of this package import."""
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
LENGTH = 8
"""Bytes of a number on the socket."""
PRESENT = "SELFTRANS_FORK_SERVER"
"""Where programs are forked, what stands for Python; see ``python``."""


@dataclass(frozen=True)
class Program:
    """What is forked in place of a program."""

    module: str
    """Its ``main`` is called."""
    name: str
    """On the PATH."""
    front: tuple[str, ...] = ()
    """Words in front of its own; with others, the program of this name is started as ever."""


SELFTRANS = Program("selftrans.cli", "python", ("-m", "selftrans"))
SHIM = """#!{python} -ISs
import json, os, signal, socket, sys
front = {front!r}
words = sys.argv[len(front) + 1 :]
device = words[words.index("--device") + 1] if "--device" in words else "cpu"
if sys.argv[1 : len(front) + 1] != front or device != "cpu":
    os.execv({replaced!r}, [{replaced!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
request = {{"module": {module!r}, "words": words, "folder": os.getcwd(),
           "environment": dict(os.environ)}}
content = json.dumps(request).encode()
socket.send_fds(server, [len(content).to_bytes({length}, "big")], [0, 1, 2])
server.sendall(content)
if child := int.from_bytes(server.recv({length}), "big"):
    for number in {signals!r}:
        signal.signal(number, lambda number, _: os.kill(child, number))
code = server.recv({length})
sys.exit(int.from_bytes(code, "big") if code else "error: the server of forked jobs is gone")
"""


class ForkServer:
    """Ends with the process that started it, after the last program that it forked.

    Args:
        programs: that are forked.
        modules: imported once, in the background; a program that is asked for before waits.

    Attributes:
        environment: what has to be set for the programs to be found.
    """

    def __init__(
        self, programs: Iterable[Program] = (SELFTRANS,), modules: Iterable[str] = LIBRARIES
    ) -> None:
        folder = Path(tempfile.mkdtemp(prefix="selftrans-fork-"))
        address = folder / "socket"
        for program in programs:
            _write_shim(folder / "bin" / program.name, program, address)
        self.environment = {
            PRESENT: str(folder / "bin/python"),
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        }
        alive, self._ours = os.pipe()  # nothing is written: it closes when this process ends
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(address))
            listening.listen(256)
            inherited = (listening.fileno(), alive)
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(folder), *map(str, inherited), *modules],
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
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


def python() -> str:
    """What starts another process of a program: this Python, or what stands for it."""
    return os.environ.get(PRESENT, sys.executable)


def _write_shim(path: Path, program: Program, address: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        SHIM.format(
            python=sys.executable,
            front=list(program.front),
            replaced=shutil.which(program.name),
            address=str(address),
            module=program.module,
            length=LENGTH,
            signals=[int(number) for number in PASSED_ON],
        ),
        encoding="utf-8",
    )
    path.chmod(0o755)


def serve(folder: Path, listening: int, alive: int, modules: Iterable[str]) -> Callable[[], object]:
    """Answer until the process that started this one has ended; a process for each request.

    Returns:
        What is left to do: in a process of its own the program, in the server nothing.
    """
    for name in modules:
        importlib.import_module(name)
    gc.freeze()  # a collection in a program would copy every page that is shared with this process
    with socket.socket(fileno=listening) as server:
        while True:
            # Whoever has ended is waited for, so that its CPU time counts as this process's.
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            ready, _, _ = select.select([listening, alive], [], [], 1)
            if listening in ready:
                connection, _ = server.accept()
                with connection:
                    if os.fork() == 0:
                        server.close()
                        os.close(alive)
                        return _guarded(connection)
            elif alive in ready:
                break
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    shutil.rmtree(folder)
    return lambda: None


def _guarded(connection: socket.socket) -> Callable[[], object]:
    """In a process of its own, what is asked for; here its exit code is said.

    It is killed if whoever asked is gone.
    """
    die_with_parent()
    head, files, _, _ = socket.recv_fds(connection, LENGTH, 3)
    content, length = b"", int.from_bytes(head, "big")
    while len(content) < length:
        received = connection.recv(length - len(content))
        if not received:
            os._exit(1)
        content += received
    child = os.fork()
    if child == 0:
        die_with_parent()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        return _prepared(**json.loads(content))
    for file in files:
        os.close(file)
    connection.sendall(child.to_bytes(LENGTH, "big"))
    asking = connection.fileno()
    if asking in select.select([asking, os.pidfd_open(child)], [], [])[0]:
        os.kill(child, signal.SIGKILL)  # nothing is ever said here: whoever asked is gone
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        connection.sendall((code if code >= 0 else 128 - code).to_bytes(LENGTH, "big"))
    os._exit(0)


def _prepared(
    module: str, words: list[str], folder: str, environment: dict[str, str]
) -> Callable[[], object]:
    """The program, in a process that is as it would be had it been started by itself."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module.partition(".")[0], *words]
    sys.path[0] = folder
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(granted_threads())
    return importlib.import_module(module).main


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])()
