"""Captions of images: MS-COCO's JSON, text files beside images, columns of a Hugging Face data set.

All of them are cleaned alike, follow their images, and are part of no digest of images.
"""

import json
import zipfile

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from selftrans.config import DatasetConfig, dataset_identity, validated
from selftrans.data.captions import captions_digest, cleaned
from selftrans.data.sources import open_source, read_all
from selftrans.data.sources.base import CorruptImage, lanczos_crop
from selftrans.extraction.captions import CaptionExtraction
from selftrans.runtime.errors import ConfigError, UserError

SIZE = 16
TEXTS = {
    "b.png": ["A  cat\ton a mat. ", "a cat"],
    "a.png": ["Zwei Hunde, 二匹の犬"],
    "c.png": ["x" * 10_000, "a boat", "a red boat"],
}
CLEANED = [
    ("A cat on a mat.", "a cat"),
    ("Zwei Hunde, 二匹の犬",),
    ("x" * 10_000, "a boat", "a red boat"),
]
IDS = {"b.png": 3, "a.png": 20, "c.png": 100}


def data_of(kind, path, **source):
    values = {
        "name": "mini",
        "source": {"kind": kind, "path": str(path), **source},
        "image_size": SIZE,
        "autoencoder": {"kind": "pretrained", "path": "x"},
    }
    return validated(DatasetConfig, values, "data")


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number, name in enumerate(TEXTS):
        pixels = np.random.default_rng(number).integers(0, 256, (30 + number, 41, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture
def coco(images, tmp_path):
    """Write an annotation file with changes, and return its data set."""

    def write(change=lambda content: None, **source):
        content = {
            "info": {},
            "images": [{"id": IDS[name], "file_name": name, "license": 1} for name in sorted(IDS)],
            "annotations": [
                {"image_id": IDS[name], "id": number, "caption": texts[number]}
                for number in range(3)
                for name, texts in TEXTS.items()
                if number < len(texts)
            ],
        }
        change(content)
        path = tmp_path / "captions.json"
        path.write_text(json.dumps(content))
        return data_of("coco", images, annotations=str(path), **source)

    return write


def test_coco_is_in_the_order_of_ids_and_of_captions_in_the_file(coco, images):
    source = open_source(coco())
    assert source.names == ["b.png", "a.png", "c.png"]
    assert source.captions == CLEANED
    assert (source.class_names, source.labels.tolist()) == (("all",), [0, 0, 0])
    with Image.open(images / "a.png") as image:  # U-ViT's: array slices, then Lanczos
        array = np.array(image)
        side = min(array.shape[:2])
        top, left = ((extent - side) // 2 for extent in array.shape[:2])
        square = Image.fromarray(array[top : top + side, left : left + side])
        expected = np.array(square.resize((SIZE, SIZE), Image.Resampling.LANCZOS))
        np.testing.assert_array_equal(lanczos_crop(image, SIZE), expected)
    np.testing.assert_array_equal(source.read(np.array([1]))[0], expected)
    other = open_source(coco(crop="adm")).read(np.array([1]))[0]
    assert (other != expected).any()


def test_images_that_are_not_listed_are_passed_over(coco, caplog):
    def drop(content):
        content["images"] = [entry for entry in content["images"] if entry["id"] != 20]
        content["annotations"] = [e for e in content["annotations"] if e["image_id"] != 20]

    assert open_source(coco(drop)).names == ["b.png", "c.png"]
    assert "captions.json does not list, passed over: 1" in caplog.text


def changed(key, index, **fields):
    return lambda content: content[key][index].update(fields)


BAD = {
    "unknown image": (changed("annotations", 0, image_id=4), "a caption of image 4, which it does"),
    "no image id": (lambda c: c["annotations"][1].pop("image_id"), "annotation with image_id: {"),
    "no mapping": (lambda c: c["annotations"].append(7), "an annotation with image_id: 7 (allowed"),
    "id as text": (changed("images", 0, id="20"), "an image with id: '20' (allowed: a whole numb"),
    "same id": (changed("images", 0, id=3), "two images have the id 3"),
    "climbs": (changed("images", 0, file_name="../a.png"), "file_name: '../a.png' (allowed: a"),
    "no name": (changed("images", 0, file_name=None), "image 20: file_name: None"),
    "absent": (changed("images", 0, file_name="d.png"), "d.png: no such image, which"),
    "same name": (changed("images", 0, file_name="b.png"), "'b.png' is the name of two images"),
    "no images": (lambda c: c.update(images=[], annotations=[]), "images: lists none"),
    "no list": (lambda c: c.update(annotations={}), "damaged, annotations is {}"),
    "no caption": (lambda c: c["annotations"].pop(1), "a.png has no caption; `source"),
    "empty": (changed("annotations", 1, caption=" \n\t"), "a.png: a caption is empty"),
    "number": (changed("annotations", 1, caption=5), "a.png: a caption is 5 (allowed: text"),
    "long": (changed("annotations", 1, caption="y" * 10_001), "a caption has 10,001 characters"),
    "half a letter": (changed("annotations", 1, caption="\ud800"), "a caption is not UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_captions_are_one_line(coco, name):
    change, message = BAD[name]
    with pytest.raises(UserError) as caught:
        open_source(coco(change))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_damaged_or_absent_file_of_captions_is_one_line(coco, tmp_path):
    data = coco()
    (tmp_path / "captions.json").write_text('{"images": [')
    with pytest.raises(UserError, match=r"captions\.json: not a JSON file"):
        open_source(data)
    (tmp_path / "captions.json").unlink()
    with pytest.raises(UserError, match=r"captions\.json: no such file"):
        open_source(data)


def test_an_image_without_a_caption_is_skipped_as_a_damaged_one(coco, caplog):
    def spoil(content):
        content["annotations"][1]["caption"] = ""  # the only one of a.png
        content["annotations"][0]["caption"] = 7  # one of two of b.png

    data = coco(spoil, on_error="skip")
    source = open_source(data)
    assert source.captions == [("a cat",), (), CLEANED[2]]
    assert "captions that were left out: 2, the first: " in caplog.text
    assert "b.png: a caption is 7" in caplog.text
    with pytest.raises(CorruptImage, match=r"a\.png has no caption"):
        source.read(range(1, 2))
    assert len(read_all(data)[0]) == 2
    without = open_source(data, ["a.png"])
    assert (without.names, without.captions) == (["b.png", "c.png"], [("a cat",), CLEANED[2]])


def test_captions_have_a_digest_of_their_own(coco, images):
    first = open_source(coco())
    second = open_source(coco(changed("annotations", 1, caption="another")))
    assert first.digest == second.digest
    assert captions_digest(first.captions) != captions_digest(second.captions)
    assert captions_digest([("a", "b"), ("c",)]) != captions_digest([("a",), ("b", "c")])
    assert captions_digest(list(first.captions)) == captions_digest(first.captions)
    moved = data_of("coco", images, annotations="elsewhere.json")
    assert dataset_identity(moved, "source") == dataset_identity(coco(), "source")


@pytest.fixture
def beside(images):
    (images / "deep").mkdir()
    for name, texts in TEXTS.items():
        (images / name).rename(images / "deep" / name)
        lines = "\r\n\n".join(texts)
        (images / "deep" / name).with_suffix(".txt").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    return images


def test_text_files_beside_images_in_a_folder_or_a_zip(beside, tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for file in sorted(beside.rglob("*.*")):
            archive.write(file, file.relative_to(tmp_path))
    folder = open_source(data_of("folder", beside, captions="txt"))
    zipped = open_source(data_of("zip", tmp_path / "all.zip", captions="txt"))
    expected = [CLEANED[1], CLEANED[0], CLEANED[2]]  # in the order of names
    for source in (folder, zipped):
        assert source.captions == expected
        assert (source.class_names, source.labels.tolist()) == (("all",), [0, 0, 0])
    np.testing.assert_array_equal(folder.read(range(3)), zipped.read(range(3)))
    assert open_source(data_of("folder", beside)).captions is None
    assert open_source(data_of("folder", beside)).class_names == ("deep",)
    labels = {"labels": [[f"deep/{name}", number] for number, name in enumerate(sorted(TEXTS))]}
    (beside / "dataset.json").write_text(json.dumps(labels))
    labelled = open_source(data_of("folder", beside, captions="txt"))
    assert (labelled.labels.tolist(), labelled.captions) == ([0, 1, 2], expected)


def test_text_files_that_are_absent_or_no_text(beside, tmp_path):
    (beside / "deep/a.txt").unlink()
    with pytest.raises(UserError, match=r"deep/a\.png has no caption; `source\.on_error"):
        open_source(data_of("folder", beside, captions="txt"))
    (beside / "deep/a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"deep/a\.txt: not text in UTF-8"):
        open_source(data_of("folder", beside, captions="txt"))
    skipping = open_source(data_of("folder", beside, captions="txt", on_error="skip"))
    assert skipping.captions == [(), CLEANED[0], CLEANED[2]]
    with pytest.raises(ConfigError, match=r"source\.captions"):
        data_of("folder", beside, captions="json")


def test_text_files_that_do_not_match_the_images(beside, tmp_path, caplog):
    (beside / "notes.txt").write_text("what I did")
    (beside / ".hidden.txt").write_text("nobody's")
    archive = tmp_path / "all.zip"
    for kind, where in (("folder", beside), ("zip", archive)):
        with zipfile.ZipFile(archive, "w") as zipped:
            for file in sorted(beside.rglob("*.*")):
                zipped.write(file, file.relative_to(tmp_path))
        caplog.clear()
        open_source(data_of(kind, where, captions="txt"))
        assert "text files that belong to no image, passed over: 1" in caplog.text
    Image.new("RGB", (20, 20)).save(beside / "deep/a.jpg")
    with pytest.raises(UserError, match=r"deep/a\.jpg and deep/a\.png share deep/a\.txt"):
        open_source(data_of("folder", beside, captions="txt"))


def test_what_cannot_be_seen_is_no_caption():
    assert cleaned("a\x00cat\x1b \u200d", "x") == "a cat \u200d"
    for text in ("\u200b", "\x00\x01", " \u2060\n"):
        with pytest.raises(UserError, match="x: a caption is empty"):
            cleaned(text, "x")


def test_captions_that_are_left_out_are_counted(coco, tmp_path):
    encoder = {"kind": "words", "length": 8, "size": 4}

    def data(spoil, captions):
        made = coco(spoil, on_error="skip").model_dump(exclude_unset=True)
        values = {**made, "captions": captions, "text_encoder": encoder}
        return validated(DatasetConfig, values, "data")

    def spoil(content):
        content["annotations"][0]["caption"] = ""

    stated = sum(map(len, TEXTS.values()))
    extraction = CaptionExtraction(data(spoil, stated), tmp_path / "a", torch.device("cpu"))
    assert sum(map(len, extraction.rows.texts)) == stated - 1
    with pytest.raises(UserError, match=f"captions: the source has {stated}, .* says 2"):
        CaptionExtraction(data(lambda _: None, 2), tmp_path / "b", torch.device("cpu"))

    def all_of(content):
        for entry in content["annotations"]:
            entry["caption"] = ""

    with pytest.raises(UserError, match="text_encoder: no image has a caption"):
        CaptionExtraction(data(all_of, None), tmp_path / "c", torch.device("cpu"))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table")
    image = Image.new("RGB", (20, 20), "red")
    columns = {
        "image": [image] * 3,
        "text": [texts[0] for texts in TEXTS.values()],
        "more": [texts[1:] for texts in TEXTS.values()],
        "none": ["a", None, "c"],
        "numbers": [1, 2, 3],
    }
    datasets.Dataset.from_dict(columns).save_to_disk(path)
    return path


def test_columns_of_captions(table):
    def of(**source):
        return open_source(data_of("huggingface", table, label_column=None, **source))

    assert of(caption_column=["text", "more"]).captions == CLEANED
    source = of(caption_column="text")
    assert source.captions == [texts[:1] for texts in CLEANED]
    assert (source.class_names, source.labels.tolist()) == (("all",), [0, 0, 0])
    with pytest.raises(UserError, match="row 1: a caption is None"):
        of(caption_column="none")
    assert of(caption_column="none", on_error="skip").captions == [("a",), (), ("c",)]
    with pytest.raises(UserError, match="row 0: a caption is 1"):
        of(caption_column="numbers")
    with pytest.raises(UserError, match="caption_column: 'words' is not a column"):
        of(caption_column=["text", "words"])
    with pytest.raises(ConfigError, match="label_column: null, which only a source with"):
        of()
