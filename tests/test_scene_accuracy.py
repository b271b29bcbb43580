"""The reader of drawn scenes, and the accuracy of captions that is measured by it."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from selftrans.config import ReaderConfig, load_dataset
from selftrans.data.scenes.world import HELD_OUT_PAIRS, PLACES, chance
from selftrans.data.sources import open_source
from selftrans.evaluation.scene_accuracy import (
    ASPECTS,
    WHOLE,
    compare,
    meets,
    proportion,
    scene_accuracy,
)
from selftrans.models.reader import (
    NUMBERS,
    ReaderMetadata,
    ReaderNetwork,
    by_place,
    encode,
    load_reader,
    read,
)
from selftrans.runtime.errors import UserError
from selftrans.training.auxiliary import reader as training
from tests.support.random_models import randomise
from tests.support.scenes import of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A reader of random weights."""
    path = tmp_path_factory.mktemp("reader") / "reader.safetensors"
    settings = ReaderConfig(width=16)
    metadata = ReaderMetadata(
        settings=settings, image_size=32, fresh_scenes=9, accuracy=0.9, held_out_accuracy=0.8
    )
    metadata.save(path, randomise(ReaderNetwork(settings), std=0.3).state_dict())
    return load_reader(path, CPU)


@pytest.fixture(scope="module")
def world():
    return of(400, combinations="all")


def test_a_scene_and_its_numbers_are_the_same(world):
    numbers = encode(world.scenes)
    assert numbers.shape == (400, NUMBERS)
    places = by_place(numbers)
    for scene, row in zip(world.scenes, places, strict=True):
        assert {PLACES[index] for index in np.flatnonzero(row[:, 0])} == {
            thing.place for thing in scene.things
        }
    assert len(np.unique(numbers, axis=0)) == len(set(world.scenes))


def test_what_is_read_does_not_depend_on_the_batch(reader, world):
    images = world.read(range(300))  # more than a batch
    whole = reader.read(images)
    assert whole.shape == (300, NUMBERS)
    np.testing.assert_array_equal(whole[200:], reader.read(images[200:]))
    absent = by_place(whole)[..., 0] == 0
    assert absent.any()
    assert not by_place(whole)[absent].any()


def test_larger_pictures_are_averaged(world):
    network = randomise(ReaderNetwork(ReaderConfig(width=16)), std=0.3).eval()
    small = world.read(range(20))
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(read(network, small, CPU), read(network, large, CPU))


def test_scenes_read_as_they_are_meet_their_captions(reader, world):
    found = compare(encode(world.scenes), world.scenes, reader, "all")
    held_out = sum(scene.held_out for scene in world.scenes)
    for column, total in (
        (found.all, 400),
        (found.held_out, held_out),
        (found.seen, 400 - held_out),
    ):
        assert tuple(column) == ASPECTS
        assert {(one.correct, one.total, one.share) for one in column.values()} == {
            (total, total, 1.0)
        }
        assert all(one.low < 1 for one in column.values())
    assert found.all[WHOLE].chance == chance("all")
    assert found.held_out[WHOLE].chance == chance("held_out")
    assert (found.reader_accuracy, found.reader_held_out_accuracy) == (0.9, 0.8)
    assert found.as_json()["all"]["number"]["total"] == 400


@pytest.mark.parametrize(
    ("column", "aspect"), [(1, "shape"), (2, "colour"), (3, "size"), (4, "texture")]
)
def test_one_wrong_attribute_is_counted_once(world, column, aspect):
    scenes = [scene for scene in world.scenes if scene.things[0].place == PLACES[0]]
    expected = encode(scenes)
    found = expected.copy()
    found[0, column] = 1 + found[0, column] % 2 if aspect == "shape" else 1 - found[0, column] % 2
    wrong = {name for name, met in meets(found, expected).items() if not met.all()}
    assert wrong == {WHOLE, aspect}
    assert all(met[1:].all() for met in meets(found, expected).values())


def test_an_object_elsewhere_too_many_or_too_few(world):
    alone = [scene for scene in world.scenes if [t.place for t in scene.things] == ["middle"]]
    expected = encode(alone)[:1]
    places = by_place(expected)

    def wrong(changed):
        found = np.concatenate([expected[:, :1], changed.reshape(1, -1)], axis=1)
        return {name for name, met in meets(found, expected).items() if not met.all()}

    attributes = {"shape", "colour", "size", "texture"}
    assert wrong(np.roll(places, 1, axis=1)) == {WHOLE, "place", *attributes}
    more = places.copy()
    more[0, 0] = places[0, 4]
    assert wrong(more) == {WHOLE, "number", "place"}
    assert wrong(np.zeros_like(places)) == {WHOLE, "number", "place", *attributes}
    background = expected.copy()
    background[0, 0] = (background[0, 0] + 1) % 3
    met = meets(background, expected)
    assert {name for name in met if not met[name].all()} == {WHOLE, "background"}


def test_the_chance_of_an_attribute_is_that_of_other_pictures(reader):
    scenes = of(1500, combinations="all").scenes
    found = compare(encode(scenes), scenes, reader, "all").all
    assert abs(found["background"].chance - 1 / 3) < 0.02
    assert abs(found["number"].chance - (2 / 16 + 2 / 16 + 2 / 16)) < 0.02  # 1, 2, 2 or 3 objects
    # the same places: alone 1/5, apart 1/6, in front 1, three 1/4, each of them in 1/16 of pairs
    assert abs(found["place"].chance - (1 / 5 + 1 / 6 + 1 + 1 / 4) / 16) < 0.02
    shuffled = encode([scenes[(index + 7) % 1500] for index in range(1500)])
    by_chance = compare(shuffled, scenes, reader, "all").all
    for aspect in ASPECTS[1:]:
        one = by_chance[aspect]
        assert abs(one.share - one.chance) < 5 * (one.chance / 1500) ** 0.5, aspect


@pytest.mark.parametrize(("correct", "total"), [(0, 30), (1, 7), (250, 500), (30, 30)])
def test_intervals_are_wilsons(correct, total):
    found = proportion(correct, total, 0.0)
    expected = binomtest(correct, total).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose((found.low, found.high), expected, atol=1e-6)


def test_what_does_not_fit_is_one_line(reader, world):
    captions = [one[0] for one in world.captions[:4]]
    images = world.read(range(4))
    assert scene_accuracy(images, captions, reader).all[WHOLE].total == 4
    for arguments, message in (
        ((images, captions[:3], reader), "3 captions of 4 pictures"),
        ((images[:0], [], reader), "0 captions of 0 pictures"),
        ((images, [*captions[:3], "a cat"], reader), "'a cat' is not the caption of a drawn"),
        (
            (of(4, 64).read(range(4)), captions, reader),
            "images of 64x64 pixels, the reader reads 32",
        ),
    ):
        with pytest.raises(UserError, match=message) as caught:
            scene_accuracy(*arguments)
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(UserError, match=r"source\.kind is 'digits', a reader is trained on"):
        training.make_reader(load_dataset("digits"), None, CPU)
    unread = load_dataset("scenes-tiny").model_copy(update={"reader": None})
    with pytest.raises(UserError, match="reader: is not given"):
        training.make_reader(unread, None, CPU)


@pytest.mark.slow
def test_a_few_steps_of_training_read_more_than_chance(monkeypatch, tmp_path):
    monkeypatch.setattr(training, "FRESH_SCENES", 300)
    data = load_dataset("scenes-tiny")
    training.make_reader(data, tmp_path / "reader.safetensors", CPU)
    trained = load_reader(tmp_path / "reader.safetensors", CPU)
    assert (trained.metadata.fresh_scenes, trained.metadata.settings) == (300, data.reader)
    fresh = of(300, first=10**6, combinations="all")
    captions = [one[index % 3] for index, one in enumerate(fresh.captions)]
    found = scene_accuracy(fresh.read(range(300)), captions, trained).all
    for aspect in ("place", "number", "background", "size"):
        assert found[aspect].low > found[aspect].chance, aspect


def test_the_readers_scenes_are_those_of_no_data_file():
    for name in ("scenes", "scenes-validation", "scenes-tiny"):
        source = load_dataset(name).source
        assert source.first + source.count <= 10**12 + 10**12 < training.FIRST_SHOWN
    largest = training.FIRST_SHOWN + 10**12
    assert largest < training.FIRST_FRESH
    held_out = training._scenes(source, 32, training.FIRST_FRESH, 50, "held_out")
    pairs = [{(t.shape, t.colour) for t in scene.things} for scene in held_out.scenes]
    assert all(one & set(HELD_OUT_PAIRS) for one in pairs)
    assert open_source(load_dataset("scenes-tiny")).names[0] == "scene 0"
