"""Published weights of feature networks: file, address, digest."""

import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selftrans.runtime.errors import UserError
from selftrans.runtime.files import atomic_path, sha256_of
from selftrans.runtime.logs import Progress

PIECE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A published file: metrics are comparable only with exactly this one."""

    url: str
    bytes: int
    sha256: str

    @property
    def name(self) -> str:
        """File name."""
        return self.url.rpartition("/")[2]


INCEPTION = PublishedFile(
    url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth",
    bytes=95_628_359,
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)
DINOV2 = PublishedFile(
    url="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
    bytes=1_217_586_395,
    sha256="d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
)
WEIGHT_FILES = {"inception": INCEPTION, "dinov2": DINOV2}


def cache_directory() -> Path:
    """Directory of fetched files: ``SELFTRANS_CACHE``, else ``selftrans`` in the user's cache."""
    if chosen := os.environ.get("SELFTRANS_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "selftrans"


def find_weights(file: PublishedFile, path: Path | None = None) -> Path:
    """The file at ``path``, else in the cache; its digest is checked.

    Raises:
        UserError: it is absent (names file, address, digest and path), or is another file.
    """
    expected = path or cache_directory() / file.name
    if not expected.is_file():
        raise UserError(
            f"{expected}: no such file; needed is {file.name} ({file.bytes:,} bytes,"
            f" SHA-256 {file.sha256}) from {file.url}: put it there, name its path, or have it"
            " fetched (`--fetch`)"
        )
    check_file(expected, file, str(expected))
    return expected


def fetch_weights(file: PublishedFile, directory: Path | None = None) -> Path:
    """Download the file into the cache, unless it exists; only a whole, checked file ever does.

    Raises:
        UserError: it cannot be downloaded, or is another file.
    """
    target = (directory or cache_directory()) / file.name
    if target.is_file():
        return find_weights(file, target)
    with atomic_path(target) as temporary:
        try:
            with (
                urllib.request.urlopen(file.url, timeout=60) as answer,  # noqa: S310 - constants
                temporary.open("wb") as copy,
                Progress(file.bytes, f"fetching {file.name}", "byte") as bar,
            ):
                while piece := answer.read(PIECE):
                    copy.write(piece)
                    bar.update(len(piece))
        except (OSError, urllib.error.URLError) as error:
            raise UserError(f"{file.url}: cannot be fetched ({error})") from None
        check_file(temporary, file, file.url)
    return target


def load_state_dict(path: Path) -> dict[str, Any]:
    """The tensors of a ``.pth`` file, never unpickling anything else.

    Raises:
        UserError: the file is not one.
    """
    import torch

    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises half a dozen kinds
        raise UserError(f"{path}: not a file of weights ({type(error).__name__})") from None


def check_file(path: Path, file: PublishedFile, name: str) -> None:
    """Check that a file is the published one.

    Raises:
        UserError: its size or digest differs.
    """
    if (size := path.stat().st_size) != file.bytes:
        raise UserError(f"{name}: has {size:,} bytes, {file.name} has {file.bytes:,}")
    if (digest := sha256_of(path)) != file.sha256:
        raise UserError(f"{name}: has SHA-256 {digest[:12]}, {file.name} has {file.sha256[:12]}")
