"""What of a folder or zip is an image, for every reader alike; and what is never opened."""

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from selftrans.config import DatasetConfig, validated
from selftrans.data import image_paths
from selftrans.data.sources import open_source
from selftrans.data.sources.base import CorruptImage
from selftrans.evaluation.images import ImageFolder, open_images
from selftrans.runtime.errors import UserError

LEFT_BEHIND = [
    ".ipynb_checkpoints/a-checkpoint.png",
    "__MACOSX/cat/._a.png",
    "@eaDir/cat/a.png",
    "cat/.thumbnails/a.png",
    "cat/@eaDir/a.png/SYNOPHOTO_THUMB_S.jpg",
    "cat/._a.png",
    ".Trashes/dog/a.png",
]


def save(path, size=(8, 8), value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path, format="PNG")


def source_of(kind, path, **source):
    values = {
        "name": "mini", "source": {"kind": kind, "path": str(path), **source}, "image_size": 8,
        "autoencoder": {"kind": "pretrained", "path": "x"},
    }  # fmt: skip
    return open_source(validated(DatasetConfig, values, "data"))


@pytest.fixture
def folder(tmp_path):
    """Two classes of two images."""
    for number, name in enumerate(("cat/a.png", "cat/b.png", "dog/a.png", "dog/b.png")):
        save(tmp_path / "train" / name, value=10 * number)
    return tmp_path / "train"


def zipped(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())
    return path


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_what_systems_leave_is_no_class_and_no_image(folder, tmp_path, name):
    """Every reader: a folder, a zip of it, and samples to evaluate."""
    clean = source_of("folder", folder)
    save(folder / name)
    for kind, path in (("folder", folder), ("zip", zipped(folder, tmp_path / "train.zip"))):
        source = source_of(kind, path)
        assert source.class_names == ("cat", "dog")
        assert source.names == clean.names
        np.testing.assert_array_equal(source.labels, clean.labels)
        assert source.digest == clean.digest
    assert len(ImageFolder(folder)) == 4


def test_a_source_may_lie_in_a_hidden_folder(folder, tmp_path):
    hidden = folder.rename(tmp_path / ".data")
    assert source_of("folder", hidden).class_names == ("cat", "dog")
    assert len(open_images(hidden)) == 4


def test_a_file_beside_the_class_folders_is_said(folder, caplog):
    (folder / "README.md").write_text("classes of animals")
    assert source_of("folder", folder).class_names == ("cat", "dog")
    assert "README.md lies beside the class folders" in caplog.text


@pytest.mark.parametrize(
    ("name", "message"),
    [("loose.png", "loose.png lies in no class folder"), ("bird", "a class folder without an im")],
)
def test_a_loose_image_and_an_empty_class_are_refused(folder, name, message):
    save(folder / name) if name.endswith("png") else (folder / name).mkdir()
    with pytest.raises(UserError, match=message):
        source_of("folder", folder)


@pytest.mark.parametrize("content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", b"\0"])
def test_only_listed_formats_are_opened(folder, monkeypatch, content):
    """An EPS that is called a PNG would start Ghostscript."""
    (folder / "cat/a.png").write_bytes(content)
    opened = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: opened.append(self.format))
    with pytest.raises(CorruptImage, match=r"cat/a\.png is not an image, or damaged"):
        source_of("folder", folder).read(range(1))
    with pytest.raises(UserError, match=r"cat/a\.png: not an image, or damaged"):
        list(ImageFolder(folder).batches(range(4), 4))
    assert not opened


@pytest.mark.parametrize("size", [(1, 65_500), (65_500, 1), (101, 1)])
def test_an_image_of_one_line_is_not_enlarged(folder, size):
    save(folder / "cat/a.png", size)
    with pytest.raises(CorruptImage, match=rf"{size[0]}x{size[1]}: longer than 100 times"):
        source_of("folder", folder).read(range(1))


def test_a_pipe_is_no_image(folder):
    (folder / "cat/a.png").unlink()
    os.mkfifo(folder / "cat/a.png")
    with pytest.raises(UserError, match=r"cat/a\.png: is not a file"):
        source_of("folder", folder).read(range(1))
    with pytest.raises(UserError, match=r"cat/a\.png: is not a file"):
        list(ImageFolder(folder).batches(range(4), 4))


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_file_of_gigabytes_is_no_image(folder, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(image_paths, "MAX_BYTES", 1000)
    with (folder / "cat/a.png").open("r+b") as file:
        file.truncate(2000)
    path = folder if kind == "folder" else zipped(folder, tmp_path / "train.zip")
    with pytest.raises(UserError, match=r"cat/a\.png: has 2,000 bytes, allowed .* are 1,000"):
        source_of(kind, path).read(range(1))


@pytest.mark.parametrize(("field", "value"), [(6, 1), (8, 9)], ids=["encrypted", "deflate64"])
def test_a_member_that_cannot_be_unpacked_is_a_corrupt_image(folder, tmp_path, field, value):
    """In the local header and, two bytes further, in the central directory."""
    path = zipped(folder, tmp_path / "train.zip")
    content = bytearray(path.read_bytes())
    for signature, at in ((b"PK\x03\x04", field), (b"PK\x01\x02", field + 2)):
        content[content.index(signature) + at] = value
    path.write_bytes(content)
    with pytest.raises(CorruptImage, match=r"cat/a\.png is not an image, or damaged"):
        source_of("zip", path).read(range(1))


@pytest.mark.parametrize("label", [10**8, 10**6, -1, 1.5, "3", None, True])
def test_class_numbers_are_small_whole_numbers(folder, label):
    shown = "True" if label is True else "null" if label is None else repr(label).replace("'", '"')
    shown = "true" if label is True else shown
    (folder / "dataset.json").write_text(f'{{"labels": [["cat/a.png", {shown}]]}}')
    with pytest.raises(UserError, match=r"cat/a\.png has label .*allowed is a class number below"):
        source_of("folder", folder)


@pytest.mark.parametrize(
    "name", [b"cat/\xff.png", b"cat/a\nb.png", b"c\xe4t/a.png", b"cat\t/a.png"]
)
def test_a_name_that_no_list_can_hold_is_refused(folder, name):
    path = folder / os.fsdecode(name)
    path.parent.mkdir(exist_ok=True)
    shutil.copy(folder / "cat/a.png", path)
    with pytest.raises(UserError, match="is a name that is not UTF-8, or of several lines"):
        source_of("folder", folder)


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to(path)])
def test_what_is_no_file_is_no_zip(tmp_path, make):
    make(tmp_path / "train.zip")
    with pytest.raises(UserError, match=r"train\.zip: "):
        source_of("zip", tmp_path / "train.zip")


def test_samples_that_unpack_to_gigabytes_are_refused(tmp_path):
    Image.new("1", (9_000, 9_000)).save(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < 50_000
    for name in ("b.png", "c.png"):
        (tmp_path / name).write_bytes((tmp_path / "a.png").read_bytes())
    images = open_images(tmp_path)
    with pytest.raises(UserError, match=r"a\.png: is 9000x9000, allowed for samples are 16,777,"):
        next(images.batches(range(3), 2))


def test_a_corrupt_image_that_the_digest_reads_is_left_out(folder, tmp_path):
    """`on_error: skip` leaves it out; the digest, which reads the first images, goes on."""
    path = zipped(folder, tmp_path / "train.zip")
    content = bytearray(path.read_bytes())
    content[60] ^= 255  # within the first member's data: its checksum is wrong
    path.write_bytes(content)
    source = source_of("zip", path)
    assert len(source.digest) == 64
    with pytest.raises(CorruptImage):
        source.read(range(1))
