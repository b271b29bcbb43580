"""The drawn world: captions say what is drawn, and a scene is a function of (seed, index) alone."""

import hashlib
import itertools
from collections import Counter

import numpy as np
import pytest

from selftrans.config import DatasetConfig, load_dataset, validated
from selftrans.data.scenes.captions import MOST_WORDS, VOCABULARY, captions_of, parse
from selftrans.data.scenes.picture import paint
from selftrans.data.scenes.world import (
    ALL_PAIRS,
    BACKGROUNDS,
    CLASS_NAMES,
    COLOURS,
    FRONT,
    HELD_OUT_PAIRS,
    LAYOUTS,
    SHAPES,
    TRAINING_PAIRS,
    Drawing,
    Painted,
    Scene,
    Thing,
    chance,
    draw,
)
from selftrans.data.sources import open_source
from selftrans.runtime.errors import ConfigError, UserError
from tests.support.scenes import of

KINDS = ("training", "held_out", "all")
GOLDEN = "15713044389d06cd2a8f30d0cf2e10db1680a529455b4d1439ae41431403d4d9"
"""SHA-256 of twelve scenes of each kind at 32 and at 64 pixels."""


@pytest.fixture(scope="module")
def worlds():
    """2,000 scenes of each kind."""
    return {kind: [draw(3, index, kind).scene for index in range(2000)] for kind in KINDS}


def test_a_caption_is_parsed_to_its_scene(worlds):
    words = set()
    for scene in itertools.chain(*worlds.values()):
        captions = captions_of(scene)
        assert len(set(captions)) == 3
        assert [parse(caption) for caption in captions] == [scene] * 3
        assert all(len(caption.split()) <= MOST_WORDS for caption in captions)
        words.update(*(caption.split() for caption in captions))
    assert words == set(VOCABULARY)


def test_every_layout_and_pair_of_attributes_is_parsed():
    for places in itertools.chain(*LAYOUTS):
        for shape, colour in ALL_PAIRS:
            things = tuple(
                Thing(place, shape, colour, "small" if place == FRONT else "large", texture)
                for place, texture in zip(places, ("plain", "striped", "plain"), strict=False)
            )
            scene = Scene("grey", things)
            assert {parse(caption) for caption in captions_of(scene)} == {scene}


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "a red circle at top left on a grey background",
        "a small red circle on a grey background",
        "a small red circle at top left",
        "a small pink circle at top left on a grey background",
        "a small red circle at top left and a large blue ring at top left on a grey background",
        "a small red circle in the middle and a large blue ring at top left on a grey background",
        "a small red circle left of a large blue ring at the left on a grey background",
        "a small red circle above a large blue ring on a grey background",
        "a small red circle in front of a large blue ring at the top on a grey background",
        "A small red circle at top left on a grey background",
        "a small red circle at top left on a grey background. " * 10_000,
    ],
)
def test_what_is_no_caption_of_a_scene_is_one_line(caption):
    with pytest.raises(UserError, match="is not the caption of a drawn scene") as caught:
        parse(caption)
    assert len(str(caught.value)) < 400


def test_a_scene_depends_on_seed_and_index_alone():
    source = of(40)
    whole = source.read(range(40))
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_array_equal(source.read(order), whole[order])
    for index in (0, 17):
        np.testing.assert_array_equal(source.read(range(index, index + 1))[0], whole[index])
    later = of(25, first=15)
    np.testing.assert_array_equal(later.read(range(25)), whole[15:])
    assert later.captions == source.captions[15:]
    assert later.names == source.names[15:]
    assert (of(40, seed=1).read(range(40)) != whole).any(axis=(1, 2, 3)).all()


def test_pictures_are_the_same_bytes_everywhere():
    digest = hashlib.sha256()
    for size, kind in itertools.product((32, 64), KINDS):
        digest.update(of(12, size, combinations=kind).read(range(12)).tobytes())
    assert digest.hexdigest() == GOLDEN


def test_training_has_no_held_out_combination_and_the_others_do(worlds):
    pairs = {
        kind: {(thing.shape, thing.colour) for scene in scenes for thing in scene.things}
        for kind, scenes in worlds.items()
    }
    assert pairs["training"] == set(TRAINING_PAIRS) == set(ALL_PAIRS) - set(HELD_OUT_PAIRS)
    assert pairs["held_out"] == pairs["all"] == set(ALL_PAIRS)
    held_out = {kind: np.mean([s.held_out for s in scenes]) for kind, scenes in worlds.items()}
    assert (held_out["training"], held_out["held_out"]) == (0, 1)
    # alone 1/6; two apart, or one in front, 1 - (5/6)^2; three 1 - (5/6)^3; all equally frequent
    expected = (1 / 6 + 2 * (1 - (5 / 6) ** 2) + 1 - (5 / 6) ** 3) / 4
    assert abs(held_out["all"] - expected) < 4 * (expected * (1 - expected) / 2000) ** 0.5
    shapes, colours = zip(*HELD_OUT_PAIRS, strict=True)
    assert (sorted(shapes), sorted(colours)) == (sorted(SHAPES), sorted(COLOURS))


def test_training_and_validation_files_have_no_scene_in_common():
    training, validation = load_dataset("scenes"), load_dataset("scenes-validation")
    ranges = [
        range(one.source.first, one.source.first + one.source.count)
        for one in (training, validation)
    ]
    assert ranges[0].stop <= ranges[1].start or ranges[1].stop <= ranges[0].start
    assert training.source.seed == validation.source.seed
    assert training.source.combinations == "training"
    assert validation.autoencoder == training.autoencoder


@pytest.mark.parametrize("kind", KINDS)
def test_chance_is_how_often_two_scenes_say_the_same(worlds, kind):
    counts = Counter(worlds[kind])
    pairs = len(worlds[kind]) * (len(worlds[kind]) - 1) / 2
    same = sum(count * (count - 1) // 2 for count in counts.values())
    expected = pairs * chance(kind)
    assert abs(same - expected) < 5 * (3 * expected) ** 0.5  # scenes that occur often are clustered


def test_classes_are_named_after_the_main_object():
    source = of(300)
    assert source.class_names == CLASS_NAMES
    assert len(CLASS_NAMES) == 24
    for scene, label, (first, *_) in zip(
        source.scenes, source.labels, source.captions, strict=True
    ):
        main = scene.things[-1] if scene.things[-1].place == FRONT else scene.things[0]
        texture = "striped " if main.texture == "striped" else ""
        assert first.startswith(f"a {main.size} {texture}{main.colour} {main.shape} ")
        assert CLASS_NAMES[label] == f"{main.size} {main.texture} {main.shape}"
    assert len(set(of(2000).labels.tolist())) == 24


AREAS = {  # of a half extent of 1
    "circle": np.pi, "ring": np.pi * 3 / 4, "square": (7 / 4) ** 2, "diamond": 2 * (9 / 8) ** 2,
    "cross": 2 * 2 * 5 / 8 - (5 / 8) ** 2, "triangle": (7 / 4) ** 2 * 5 / 8,
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [32, 128])
def test_a_shape_covers_its_area_and_no_more(shape, size):
    radius, scene = 300, Scene("black", ())
    drawing = Drawing(scene, 0, (Painted(shape, False, (255, 255, 255), 520, 507, radius),))
    picture = paint(drawing, size)
    share = picture.astype(float).mean() / 255
    assert abs(share * 1024**2 / radius**2 - AREAS[shape]) < 0.05
    assert picture.max() == 255
    assert not picture[:2].any()
    assert not picture[:, -2:].any()


def test_stripes_are_darker_and_what_is_in_front_covers():
    scene = Scene("white", ())
    back = Painted("square", True, (200, 100, 0), 512, 512, 320)
    front = Painted("circle", False, (0, 0, 255), 640, 640, 150)
    picture = paint(Drawing(scene, 236, (back, front)), 64)
    np.testing.assert_array_equal(picture[40, 40], (0, 0, 255))
    np.testing.assert_array_equal(picture[0, 0], (236, 236, 236))
    column = {tuple(pixel) for pixel in picture[16:48, 20].tolist()}
    assert column == {(200, 100, 0), (75, 37, 0)}


def test_keys_of_scenes_are_checked():
    def refused(message, **changes):
        values = {
            "name": "mini",
            "source": {"kind": "scenes", "count": 4},
            "image_size": 32,
            "autoencoder": {"kind": "trained"},
            **changes,
        }
        with pytest.raises(ConfigError, match=message) as caught:
            validated(DatasetConfig, values, "data")
        assert len(str(caught.value).splitlines()) == 1

    refused("image_size: 48, but source.kind 'scenes' is drawn at 32, 64, 128", image_size=48)
    refused("combinations", source={"kind": "scenes", "count": 4, "combinations": "some"})
    refused("count", source={"kind": "scenes", "count": 0})
    refused(
        r"reader: is given, but source\.kind is 'digits' \(allowed: 'scenes'\)",
        source={"kind": "digits"},
        reader={},
    )


def test_a_source_of_scenes_is_as_its_data_file_says():
    source = open_source(load_dataset("scenes-tiny"))
    assert (len(source.names), len(source.labels), len(source.captions)) == (400, 400, 400)
    assert source.read(range(2)).shape == (2, 32, 32, 3)
    assert source.digest != of(400, seed=1).digest
    assert set(BACKGROUNDS) == {scene.background for scene in source.scenes}
