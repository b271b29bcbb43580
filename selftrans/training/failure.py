"""A failure that no repetition mends, remembered for the retries of a scheduler that only knows success and failure."""

from pathlib import Path

from selftrans.runtime.errors import Unavailable, UserError
from selftrans.runtime.files import read_json, write_json


class FailureMarker:
    """Within a ``with`` block, the message of a ``UserError`` is written down: a wrong input, a loss that is not finite.

    A signal, a crash, a killed process leave none; nor does what is only unavailable, as a directory in use or the cards and
    the disks of a node that is broken: those pass.

    Args:
        path: the marker.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self, attempt: int) -> None:
        """Stop a later attempt at the same job; a first one begins anew, since its user may have mended the cause.

        Raises:
            UserError: with the message of the attempt that failed.
        """
        if attempt > 1 and self.path.is_file():
            raise UserError(read_json(self.path)["message"])
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, UserError) and not isinstance(error, Unavailable):
            write_json(self.path, {"message": str(error)})
