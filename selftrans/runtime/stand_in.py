"""What stands for a program on a PATH; run as a file, it imports nothing of the package.

It asks a fork server for a process that does what the program does, passes signals on to it, and
ends as it ends. Where nothing is forked, it becomes the program itself.
"""

import contextlib
import json
import os
import signal
import socket
import sys
from types import FrameType
from typing import Any

LENGTH = 8
"""Bytes of a number on the socket."""
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


class StandIn:
    """One call of the program.

    Args:
        program: as ``fork_server.Program`` has it.
        address: of the server.
        replaced: the program's own file.
        words: all that it was called with.
    """

    def __init__(
        self, program: dict[str, Any], address: str, replaced: str, words: list[str]
    ) -> None:
        self.program, self.address, self.replaced, self.words = program, address, replaced, words
        self.front = len(program["front"])
        self.child = 0

    def takes(self) -> bool:
        """Whether such a call is forked: the server's libraries have one thread."""
        further = self.program["further"]
        own = self.words[self.front :]
        starts = range(len(own) - len(further) + 1)
        return (
            self.words[: self.front] == self.program["front"]
            and any(own[start : start + len(further)] == further for start in starts)
            and os.environ.get("OMP_NUM_THREADS") == "1"
        )

    def run(self) -> None:
        """Ends this process."""
        server = self._server() if self.takes() else None
        if server is None:
            os.execv(self.replaced, [self.replaced, *self.words])  # noqa: S606
        for number in PASSED_ON:
            signal.signal(number, self._pass_on)
        server.sendall(b"+")  # the program may begin
        said = server.recv(LENGTH)
        if not said:
            sys.exit("error: the server of forked jobs is gone")
        code = int.from_bytes(said, "big", signed=True)
        if code < 0:
            if -code in PASSED_ON:
                signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        sys.exit(code)

    def _server(self) -> socket.socket | None:
        """The connection to a server that has made the process; None, if there is none."""
        request = {
            "module": self.program["module"],
            "words": self.words[self.front :],
            "folder": os.getcwd(),  # noqa: PTH109 (its import would take longer than the rest)
            "environment": dict(os.environ),
            "asked_by": [os.getpid(), os.getppid()],
            "ignored": [n for n in PASSED_ON if signal.getsignal(n) == signal.SIG_IGN],
        }
        content = json.dumps(request).encode()
        try:
            server = socket.socket(socket.AF_UNIX)
            server.connect(self.address)
            socket.send_fds(server, [len(content).to_bytes(LENGTH, "big")], [0, 1, 2])
            server.sendall(content)
            self.child = int.from_bytes(server.recv(LENGTH), "big")
        except OSError:
            return None
        return server if self.child else None

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has just ended, and says so
            os.kill(self.child, number)


if __name__ == "__main__":
    program, address, replaced = json.loads(sys.argv[1])
    StandIn(program, address, replaced, sys.argv[2:]).run()
