"""Programs of a workflow's tests without the seconds that their imports take.

A lifecycle starts a hundred processes, each of which imports torch for three seconds to work for
one. Here a server imports the libraries once. What stands for ``selftrans`` and ``snakemake`` on a
workplace's PATH asks it for a process of its own, forked, which does what the command does: with
the same words, folder, environment, files and exit code; signals are passed on. The tests of
faults, orphans and clusters start real processes.
"""

import atexit
import contextlib
import functools
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
import threading
import traceback
from pathlib import Path

from selftrans.runtime import workers
from selftrans.runtime.signals import die_with_parent

LIBRARIES = (
    "accelerate", "diffusers.models.autoencoders", "PIL.Image", "safetensors.torch", "scipy.linalg",
    "selftrans.evaluation.evaluate", "selftrans.sampling.generate", "selftrans.training.freeze",
    "selftrans.training.trainer", "snakemake.cli", "torch._dynamo", "yaml",
)  # fmt: skip
PROGRAMS = {"selftrans": "selftrans.cli", "snakemake": "snakemake.cli"}
SHIMS = {"python": 2, "snakemake": 0}
"""Names on the PATH, and words in front of a program's own: ``python -m selftrans``."""
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
LENGTH = 8
"""Bytes of a number on the socket."""
SHIM = """#!{python} -ISs
import json, os, signal, socket, sys
if {skipped} and sys.argv[1:{skipped} + 1] != ["-m", "selftrans"]:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
request = {{"program": {program!r}, "words": sys.argv[{skipped} + 1 :], "folder": os.getcwd(),
           "environment": dict(os.environ)}}
content = json.dumps(request).encode()
socket.send_fds(server, [len(content).to_bytes({length}, "big")], [0, 1, 2])
server.sendall(content)
child = int.from_bytes(server.recv({length}), "big")
for number in {signals!r}:
    signal.signal(number, lambda number, _: os.kill(child, number))
code = server.recv({length})
sys.exit(int.from_bytes(code, "big") if code else "the server of the tests is gone")
"""


@functools.cache
def warm_path() -> str:
    """A PATH on which these programs come first; starts the server."""
    folder = Path(tempfile.mkdtemp(prefix="selftrans-warm-"))
    address = folder / "socket"
    for name, skipped in SHIMS.items():
        shim = folder / "bin" / name
        shim.parent.mkdir(exist_ok=True)
        shim.write_text(
            SHIM.format(
                python=sys.executable,
                address=str(address),
                program="selftrans" if skipped else name,
                skipped=skipped,
                length=LENGTH,
                signals=[int(number) for number in PASSED_ON],
            )
        )
        shim.chmod(0o755)
    words = [sys.executable, "-m", "tests.support.warm", str(address)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    repository = Path(__file__).parents[2]
    server = subprocess.Popen(words, cwd=repository, env=environment, stdout=subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"

    def stop() -> None:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)

    atexit.register(stop)
    return f"{folder / 'bin'}:{os.environ['PATH']}"


def serve(address: str) -> None:
    """Answer until the end of the tests; a process for each request."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    die_with_parent()
    for name in LIBRARIES:
        importlib.import_module(name)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen(64)
        print("ready", flush=True)
        while True:
            # Whoever has ended is waited for, so that its CPU time counts as the tests'.
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if not select.select([server], [], [], 1)[0]:
                continue
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                _guard(connection)
            connection.close()


def _guard(connection: socket.socket) -> None:
    """Start what is asked for, say its exit code, and kill it if whoever asked is gone."""
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
        connection.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        _run(**json.loads(content))
    for file in files:
        os.close(file)
    connection.sendall(child.to_bytes(LENGTH, "big"))
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if select.select([connection], [], [], 0.02)[0]:  # nothing is said but the end
            os.kill(child, signal.SIGKILL)
            os._exit(1)
    code = os.waitstatus_to_exitcode(status)
    connection.sendall((code if code >= 0 else 128 - code).to_bytes(LENGTH, "big"))
    os._exit(0)


def _run(program: str, words: list[str], folder: str, environment: dict[str, str]) -> None:
    """What the program's process does; ends this one."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [program, *words]
    sys.path[0] = folder
    workers._PARENT = os.getppid()
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    code = 0
    try:
        importlib.import_module(PROGRAMS[program]).main()
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        code = 1 if isinstance(ended.code, str) else ended.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
