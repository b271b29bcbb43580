"""Sources of image files: the ADM crop, unusual images, class order.

A folder, a zip and a Hugging Face data set give the same images.
"""

import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from selftrans.config import DatasetConfig, validated
from selftrans.data.sources import open_source, read_all
from selftrans.data.sources.base import CorruptImage, adm_crop
from selftrans.runtime.errors import ConfigError, UserError
from tests.support.miniature import NASTY, make_imagenet

SIZE = 32


def data_of(kind, path, **changes):
    source = {"kind": kind, "path": str(path), **changes.pop("source", {})}
    values = {
        "name": "mini",
        "source": source,
        "image_size": SIZE,
        "autoencoder": {"kind": "pretrained", "path": "x"},
    }
    return validated(DatasetConfig, {**values, **changes}, "data")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_imagenet(tmp_path_factory.mktemp("imagenet"), per_class=6, classes=5)


@pytest.fixture(scope="module")
def images(folder):
    source = open_source(data_of("folder", folder))
    return source, source.read(range(len(source.labels)))


def published_crop(image, size):
    """The "ADM crop": the operations of guided-diffusion's image_datasets.py, on arrays."""
    while min(*image.size) >= 2 * size:
        image = image.resize(tuple(side // 2 for side in image.size), resample=Image.BOX)
    factor = size / min(*image.size)
    array = np.array(
        image.resize(tuple(round(side * factor) for side in image.size), resample=Image.BICUBIC)
    )
    rows, columns = (array.shape[0] - size) // 2, (array.shape[1] - size) // 2
    return array[rows : rows + size, columns : columns + size]


@pytest.mark.parametrize(
    "shape",
    [(500, 375), (333, 512), (64, 64), (63, 200), (20, 31), (129, 257), (1024, 700), (256, 64)],
)
@pytest.mark.parametrize("size", [32, 64])
def test_the_crop_is_adms_to_the_bit(shape, size):
    image = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (*shape[::-1], 3), dtype=np.uint8)
    )
    cropped = adm_crop(image, size)
    assert cropped.shape == (size, size, 3)
    np.testing.assert_array_equal(cropped, published_crop(image, size))


def test_a_multiple_of_the_size_is_averaged_and_not_resampled():
    pixels = np.random.default_rng(0).integers(0, 256, (4 * SIZE, 4 * SIZE, 3), dtype=np.uint8)
    means = pixels.reshape(SIZE, 4, SIZE, 4, 3).mean(axis=(1, 3))
    assert np.abs(adm_crop(Image.fromarray(pixels), SIZE) - means).max() <= 2  # four roundings


def test_classes_are_the_sorted_folders(images, folder):
    source, _ = images
    assert source.class_names == tuple(f"n{label:08}" for label in range(5))
    assert [source.class_names[label] for label in source.labels] == [
        Path(name).parts[0] for name in source.names
    ]
    assert source.names == sorted(source.names)


def test_every_nasty_kind_becomes_rgb(images, folder):
    source, pixels = images
    for number, kind in enumerate(NASTY):
        name = f"n00000003/n00000003_{number}.JPEG"
        with Image.open(folder / name) as image:
            assert {"cmyk": "CMYK", "grey": "L", "rgba": "RGBA", "rotated": "RGB"}[
                kind
            ] == image.mode
            expected = published_crop(image.convert("RGB"), SIZE)
        np.testing.assert_array_equal(pixels[source.names.index(name)], expected)


def test_exif_is_followed_only_where_it_is_requested(images, folder):
    source, pixels = images
    index = source.names.index("n00000003/n00000003_3.JPEG")
    turned = open_source(data_of("folder", folder, source={"exif_rotation": True})).read(
        range(index, index + 1)
    )[0]
    lying = pixels[index].astype(int)
    # Orientation 6 says: turn by a quarter, clockwise.
    assert np.abs(np.rot90(lying, -1) - turned).mean() < 4 < np.abs(lying - turned).mean()


def write_zip(folder, path, prefix, compression):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(folder.rglob("*.JPEG"), reverse=True):
            archive.write(file, f"{prefix}{file.relative_to(folder).as_posix()}")
        archive.writestr(f"{prefix}LICENSE.txt", "not an image")
    return path


@pytest.mark.parametrize("prefix", ["", "ILSVRC/Data/train/"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_is_its_folder(images, folder, tmp_path, prefix, compression):
    source, pixels = images
    zipped = open_source(
        data_of("zip", write_zip(folder, tmp_path / "train.zip", prefix, compression))
    )
    assert (zipped.class_names, zipped.names, zipped.digest) == (
        source.class_names,
        source.names,
        source.digest,
    )
    with ThreadPoolExecutor(8) as pool:  # one archive, many threads
        found = list(
            pool.map(lambda index: zipped.read(range(index, index + 1))[0], range(len(pixels)))
        )
    np.testing.assert_array_equal(found, pixels)


def test_a_hugging_face_data_set_is_its_folder(images, folder, tmp_path):
    source, pixels = images
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(source.class_names))}
    )
    columns = {
        "image": [{"bytes": (folder / name).read_bytes(), "path": None} for name in source.names],
        "label": source.labels.tolist(),
    }
    made = datasets.Dataset.from_dict(columns, features=features)
    shuffled = made.select(range(len(made) - 1, -1, -1))  # an order that lies beside the data
    shuffled.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": made}).save_to_disk(tmp_path / "several")
    one = open_source(data_of("huggingface", tmp_path / "one"))
    assert one.class_names == source.class_names
    np.testing.assert_array_equal(one.labels, source.labels[::-1])
    np.testing.assert_array_equal(one.read(range(len(pixels))), pixels[::-1])
    several = open_source(data_of("huggingface", tmp_path / "several", source={"split": "train"}))
    np.testing.assert_array_equal(several.read(np.array([3, 1])), pixels[[3, 1]])
    for wrong, message in (
        ({"split": "test"}, "'test'.*allowed: train"),
        ({"split": "train", "image_column": "img"}, "image_column: 'img'"),
    ):
        with pytest.raises(UserError, match=message):
            open_source(data_of("huggingface", tmp_path / "several", source=wrong))


def test_a_corrupt_image_is_named_or_left_out(tmp_path):
    folder = make_imagenet(tmp_path, per_class=3, classes=3, corrupt=2)
    corrupt = ["n00000000/n00000000_0.JPEG", "n00000001/n00000001_1.JPEG"]
    data = data_of("folder", folder)
    with pytest.raises(CorruptImage, match=corrupt[0]) as raised:
        read_all(data)
    assert "\n" not in str(raised.value)
    images, labels = read_all(data_of("folder", folder, source={"on_error": "skip"}))
    assert len(images) == 7
    assert labels.tolist() == [0, 0, 1, 1, 2, 2, 2]
    without = open_source(data, corrupt)
    np.testing.assert_array_equal(without.read(range(7)), images)
    assert without.labels.tolist() == labels.tolist()


def test_a_disk_that_fails_is_no_corrupt_image(tmp_path):
    folder = make_imagenet(tmp_path, per_class=2, classes=2)
    source = open_source(data_of("folder", folder, source={"on_error": "skip"}))
    (folder / source.names[1]).unlink()
    with pytest.raises(UserError, match="cannot be read") as raised:
        source.read(range(2))
    assert not isinstance(raised.value, CorruptImage)


def test_what_is_not_there_is_said(tmp_path, folder):
    (tmp_path / "no.zip").write_bytes(b"no zip")
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat/a.png").write_bytes(b"")
    for kind, path, message in (
        ("folder", tmp_path / "none", "no such folder"),
        ("folder", tmp_path / "flat", "a.png lies in no class folder"),
        ("zip", tmp_path / "no.zip", "not a zip"),
        ("huggingface", folder, "not a directory of `datasets`"),
        ("repa", tmp_path / "none", "no such folder"),
        ("repa", folder, "holds no prepared data"),
    ):
        with pytest.raises(UserError, match=message):
            open_source(data_of(kind, path))
    with pytest.raises(UserError, match="the source has 30, the data file says 31"):
        open_source(data_of("folder", folder, images=31))
    with pytest.raises(ConfigError, match=r"source\.kind: 'tar' is unknown"):
        data_of("tar", folder)
    with pytest.raises(
        ConfigError, match=r"image_size: 36 is not a multiple of the autoencoder's 8"
    ):
        data_of("folder", folder, image_size=36)


def test_sixteen_bits_of_grey_are_scaled_and_not_cut_off(tmp_path):
    ramp = np.linspace(0, 65535, SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint16)
    (tmp_path / "n0").mkdir()
    Image.fromarray(ramp).save(tmp_path / "n0/ramp.png")
    read = open_source(data_of("folder", tmp_path)).read(range(1))[0]
    np.testing.assert_array_equal(read[..., 0], ramp >> 8)


def test_class_folders_may_be_links_but_not_empty(tmp_path):
    made = make_imagenet(tmp_path / "all", per_class=2, classes=4)
    few = tmp_path / "few"
    few.mkdir()
    for label in (1, 3):
        (few / f"n{label:08}").symlink_to(made / f"n{label:08}")
    (few / "n00000001.JPEG").mkdir()  # a folder that is called like an image is a class folder
    with pytest.raises(UserError, match=r"n00000001\.JPEG: a class folder without an image"):
        open_source(data_of("folder", few))
    (few / "n00000001.JPEG").rmdir()
    source = open_source(data_of("folder", few))
    assert source.class_names == ("n00000001", "n00000003")
    assert source.labels.tolist() == [0, 0, 1, 1]


def test_other_images_of_the_same_names_have_another_digest(tmp_path):
    first = make_imagenet(tmp_path / "a", per_class=3, classes=2)
    second = make_imagenet(tmp_path / "b", per_class=3, classes=2)
    assert (
        open_source(data_of("folder", first)).digest
        == open_source(data_of("folder", second)).digest
    )
    image = second / "n00000001/n00000001_2.JPEG"
    Image.new("RGB", (50, 60)).save(image)
    assert (
        open_source(data_of("folder", first)).digest
        != open_source(data_of("folder", second)).digest
    )


@pytest.mark.parametrize(
    "labels",
    [
        [-1, 0], [0.5, 1.5], ["a", "b"], [[0], [1]], [None, 1], [[0], [1, 2]],
    ],
)  # fmt: skip
def test_labels_of_a_hugging_face_data_set_are_class_numbers(tmp_path, folder, labels):
    content = (folder / "n00000000/n00000000_0.JPEG").read_bytes()
    columns = {"image": [{"bytes": content, "path": None}] * 2, "label": labels}
    made = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    made.save_to_disk(tmp_path / "made")
    with pytest.raises(UserError, match=r"source\.label_column: 'label' holds no class numbers"):
        open_source(data_of("huggingface", tmp_path / "made"))
    with pytest.raises(UserError, match=r"source\.image_column: 'label' holds no images"):
        open_source(data_of("huggingface", tmp_path / "made", source={"image_column": "label"}))


@pytest.mark.parametrize(
    ("labels", "message"),
    [([10**8, 0], "class 100000000, allowed is a number below"), ([], "holds no image")],
)
def test_a_hugging_face_data_set_has_rows_and_no_huge_class(tmp_path, folder, labels, message):
    files = sorted(str(path) for path in folder.rglob("*.JPEG"))[: len(labels)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    columns = {"image": files, "label": labels}
    made = datasets.Dataset.from_dict(columns, features=features)
    made.save_to_disk(tmp_path / "made", num_shards=1)
    with pytest.raises(UserError, match=message):
        open_source(data_of("huggingface", tmp_path / "made"))


def test_prepared_moments_have_no_mirrored_views_and_leave_nothing_out(tmp_path):
    for changes in ({"latents": {"flip": True}}, {"source": {"on_error": "skip"}}):
        with pytest.raises(ConfigError, match=r"source\.kind 'repa'"):
            data_of("repa", tmp_path, **changes)


def test_a_data_set_of_damaged_images_alone_is_said(tmp_path):
    folder = make_imagenet(tmp_path, per_class=1, classes=2)
    for path in folder.rglob("*.JPEG"):
        path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="none of the 2 images can be decoded"):
        read_all(data_of("folder", folder, source={"on_error": "skip"}))


def test_a_hugging_face_data_set_needs_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    expected = r"^source\.kind: 'huggingface' needs datasets, .*-e '\.\[hub\]'\)$"
    with pytest.raises(UserError, match=expected):
        open_source(data_of("huggingface", tmp_path))
