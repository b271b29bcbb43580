"""Non-retryable failures, remembered for retries: a scheduler only knows success and failure."""

from contextlib import suppress
from pathlib import Path

from selftrans.runtime.errors import Unavailable, UserError
from selftrans.runtime.files import read_fields, write_json


class FailureMarker:
    """Within a ``with`` block, writes the message of a ``UserError`` to a file.

    For instance a wrong input, or a loss that is not finite. A signal, a crash or a killed process
    leaves no marker, nor does ``Unavailable``, as a directory in use or a broken node's cards: a
    retry may succeed.

    Args:
        path: the marker.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self, attempt: int) -> None:
        """Stop a later attempt at the same job; a first one starts again, maybe after a fix.

        Raises:
            UserError: with the message of the attempt that failed.
        """
        if attempt > 1 and self.path.is_file():
            message = read_fields(self.path, message=str)["message"]
            raise UserError(message or f"{self.path}: an earlier attempt failed")
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, UserError) and not isinstance(error, Unavailable):
            with suppress(Unavailable):  # a full disk must not hide the message
                write_json(self.path, {"message": str(error)})
