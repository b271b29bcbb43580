"""Whatever lies in a file's place is refused in one line; whatever the disk refuses is said."""

import errno
import json
import os
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from selftrans.config import read_yaml
from selftrans.data.images import ImageArchive
from selftrans.data.manifests import FeatureManifest, Manifest, read_manifest
from selftrans.evaluation.run_features import RunFeatures
from selftrans.evaluation.statistics import ImageStatistics
from selftrans.evaluation.tables import read_metrics, read_result, read_table
from selftrans.models.metadata import WeightsMetadata
from selftrans.runtime.arrays import map_array, read_array, read_arrays
from selftrans.runtime.errors import Unavailable, UserError, run_main
from selftrans.runtime.files import atomic_path, read_fields, sha256_of, write_json
from selftrans.runtime.tensors import read_safetensors, save_tensors
from selftrans.training.definition import DEFINITION_FILE, check_definition


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def bomb(path: Path, declared: int) -> None:
    """A header that asks for far more than there is."""
    with path.open("wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (declared,)}
        np.lib.format.write_array_header_1_0(file, header)


def npz_bomb(path: Path) -> None:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as member,
    ):
        header = {"descr": "|u1", "fortran_order": False, "shape": (2**31,)}
        np.lib.format.write_array_header_1_0(member, header)
        for _ in range(2**7):
            member.write(bytes(2**24))


PLACES = {
    "nothing": lambda path: None,
    "a directory": Path.mkdir,
    "a loop of links": link_to_itself,
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "an empty file": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(np.random.default_rng(0).bytes(3000)),
    "brackets": lambda path: path.write_text("[" * 100_000),
    "an empty list": lambda path: path.write_text("[]"),
    "an empty mapping": lambda path: path.write_text("{}"),
    "a number": lambda path: path.write_text("3"),
    "a word in Latin-1": lambda path: path.write_bytes("\"Größe\"".encode("latin-1")),
    "half a zip": lambda path: path.write_bytes(b"PK\3\4" + bytes(40)),
    "a pickle": lambda path: np.save(path, np.array([{}], object), allow_pickle=True),
    "an array of terabytes": lambda path: bomb(path, 2**40),
}  # fmt: skip
READERS = {
    "fields": lambda path: read_fields(path, step=int),
    "array": read_array,
    "mapped array": map_array,
    "arrays": lambda path: read_arrays(path)["arr_0"],
    "image archive": ImageArchive,
    "latent manifest": lambda path: read_manifest(path, Manifest),
    "feature manifest": lambda path: read_manifest(path, FeatureManifest),
    "statistics": ImageStatistics.load,
    "run features": RunFeatures.load,
    "metrics": read_result,
    "table": lambda path: read_table(path, "step"),
    "table of metrics": lambda path: read_metrics(str(path), ["a"]),
    "weights": WeightsMetadata.load,
    "tensors": read_safetensors,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_such_file_is_refused_in_a_line_that_names_it(tmp_path, place, reader):
    path = tmp_path / "x.npy"
    PLACES[place](path)
    with pytest.raises(UserError) as refused:
        READERS[reader](path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("place", sorted(PLACES.keys() - {"an empty mapping"}))
def test_what_is_no_yaml_is_refused(tmp_path, place):
    path = tmp_path / "x.yaml"
    PLACES[place](path)
    if place == "a pickle":
        (tmp_path / "x.yaml.npy").rename(path)
    with pytest.raises(UserError, match=r"x\.yaml: ") as refused:
        read_yaml(path)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_arrays_that_unpack_to_gigabytes_are_refused_unread(tmp_path):
    npz_bomb(path := tmp_path / "x.npz")
    assert path.stat().st_size < 10e6
    with pytest.raises(UserError, match=r"unpacks to 2,147,483,\d+ bytes, allowed are"):
        read_arrays(path)


@pytest.mark.parametrize("size", [2**16, 2**20])
def test_images_of_gigabytes_are_no_images(tmp_path, size):
    with (
        zipfile.ZipFile(tmp_path / "x.npz", "w") as archive,
        archive.open("arr_0.npy", "w") as file,
    ):
        header = {"descr": "|u1", "fortran_order": False, "shape": (2, size, size, 3)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(UserError, match=r"an image: has [\d,]+ bytes, allowed"):
        ImageArchive(tmp_path / "x.npz")


@pytest.mark.parametrize("content", ["[]", "{}", "null", '{"seed": 0}', '{"teachers": [3]}', ""])
def test_a_damaged_definition_does_not_pass_for_none(tmp_path, content):
    (tmp_path / DEFINITION_FILE).write_text(content)
    with pytest.raises(UserError, match=DEFINITION_FILE):
        check_definition(tmp_path, None, "sit", 0)


def test_a_directory_in_place_of_a_definition_does_not_either(tmp_path):
    (tmp_path / DEFINITION_FILE).mkdir()
    with pytest.raises(UserError, match="is a directory"):
        check_definition(tmp_path, None, "sit", 0)


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_every_file_follows_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        save_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(2)}, "weights", {})
        write_json(tmp_path / "a.json", {})
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {0o666 & ~umask}


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EROFS, "Read-only file system"),
        OSError("4096 requested and 17 written"),
    ],
)
def test_what_a_disk_refuses_is_one_line_and_may_be_tried_again(tmp_path, error):
    refused = pytest.raises(Unavailable, match=r"x\.npy: cannot be written \(")
    with refused, atomic_path(tmp_path / "x.npy"):
        raise error
    assert not list(tmp_path.iterdir())


def test_a_full_device_is_one_line(tmp_path, capsys):
    """Written for real: /dev/full refuses every byte."""

    def main():
        with Path("/dev/full").open("w") as file:
            file.write("x")

    with pytest.raises(SystemExit) as ended:
        run_main(main)
    assert ended.value.code == "error: No space left on device"


def test_an_output_that_is_a_directory_is_refused(tmp_path):
    (tmp_path / "x.json").mkdir()
    with pytest.raises(UserError, match="is a directory, a file is to be written there"):
        write_json(tmp_path / "x.json", {})


def test_an_error_of_the_body_remains_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "x"):
        Path("/nowhere/at/all").read_bytes()


def test_digests_are_of_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="is a pipe or a device"):
        sha256_of(tmp_path / "pipe")


def test_json_of_another_kind_names_the_field(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"after": "no number"}))
    with pytest.raises(UserError, match="damaged, after is 'no number'"):
        read_fields(tmp_path / "x.json", after=int)
