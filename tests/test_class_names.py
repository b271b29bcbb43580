"""What classes are called, and that no result depends on it."""

import json

import pytest
import yaml
from PIL import Image

from selftrans.config import load_dataset, load_experiment, run_definition, run_differences
from selftrans.data.class_names import named_classes, parse_classes, readable_names
from selftrans.data.sources import open_source
from selftrans.runtime.errors import UserError
from selftrans.sampling.classes import names_of_classes
from tests.support.experiments import tiny_values
from workflow.lib.datasets import Datasets
from workflow.lib.runs import records
from workflow.lib.study import Study

PETS = ("bird", "cat", "dog")
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture
def named(tmp_path):
    """A data file of the digits with names."""

    def write(class_names, name="digits"):
        file = tmp_path / f"{name}.yaml"
        digits = {"extends": "digits", "name": name, "class_names": class_names}
        file.write_text(yaml.safe_dump(digits))
        return file

    return write


@pytest.fixture
def pets(tmp_path):
    """A data file of a folder with three classes, with names."""
    for label, name in enumerate(PETS):
        (tmp_path / f"images/{name}").mkdir(parents=True)
        Image.new("RGB", (8, 8), (80 * label, 0, 0)).save(tmp_path / f"images/{name}/0.png")

    def write(class_names):
        file = tmp_path / "pets.yaml"
        data = {
            "source": {"kind": "folder", "path": str(tmp_path / "images")}, "image_size": 8,
            "autoencoder": {"kind": "trained", "block_channels": [8, 8]},
            "encoders": {"stand-in": {"kind": "trained"}}, "class_names": class_names,
        }  # fmt: skip
        file.write_text(yaml.safe_dump(data))
        return file

    return write


def test_names_are_a_list_or_lines_of_a_file_beside_the_data_file(named, tmp_path):
    (tmp_path / "words.txt").write_text("\n".join(WORDS) + "\n\n")
    for given in (list(WORDS), "words.txt"):
        assert load_dataset(named(given)).class_names == WORDS
    changes = {"digits": {"class_names": str(tmp_path / "words.txt")}}
    assert load_dataset("digits", changes).class_names == WORDS


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("absent.txt", "absent.txt: no such file"),
        ([1, 2], "class_names.0"),
        (["a\nb"], "class_names.0"),
        (["x" * 101], "class_names.0"),
    ],
)
def test_what_is_no_name_is_one_line(named, given, message):
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(named(given))
    assert "\n" not in str(caught.value).strip().split("\n")[0]


def test_a_name_for_each_class_or_none(pets):
    with pytest.raises(UserError, match="data 'pets': class_names: 2 names for 3 classes"):
        open_source(load_dataset(pets(["a", "b"])))
    for given in (None, ["a", "b", "c"]):
        assert open_source(load_dataset(pets(given))).class_names == PETS


def test_names_are_no_part_of_any_identity(pets, tmp_path):
    """Neither of a run, nor of a store, nor of what any rule of the data set depends on."""
    experiment = tmp_path / "tiny.yaml"
    definitions, digests, rules = [], [], []
    for given in (None, ["Bird", "Cat", "Dog"], ["x", "y", "z"]):
        data = pets(given)
        experiment.write_text(yaml.safe_dump(tiny_values(data=str(data))))
        loaded = load_experiment(experiment)
        definitions.append(json.dumps(run_definition(loaded, "self-transcendence", 0)))
        stored = json.loads(definitions[0])
        assert not list(run_differences(loaded, "self-transcendence", 0, stored))
        digests.append(open_source(loaded.data).digest)
        datasets = Datasets(Study.load({"experiments": [str(experiment)]}))
        images, encoder = {"dataset": "pets"}, {"dataset": "pets", "encoder": "stand-in"}
        parts = ("autoencoder", "latents", "classifier", "reference")
        rules.append(
            [
                [datasets.definition(part)(images) for part in parts],
                datasets.encoder_definition(encoder),
            ]
        )
    assert len({*definitions}) == len({*digests}) == 1
    assert rules[0] == rules[1] == rules[2]


def test_given_names_come_before_the_sources():
    assert named_classes(["cat", "bird"], None) == ("cat", "bird")
    assert named_classes(["n01", "n02"], ["cat", "bird"]) == ("cat", "bird")


def test_imagenets_classes_have_their_names():
    names = readable_names(list(map(str, range(1000))))
    expected = ["tench", "golden retriever", "otter", "toilet tissue"]
    assert [names[label] for label in (0, 207, 360, 999)] == expected
    assert readable_names(["n02099601", "n01440764"]) == ("golden retriever", "tench")
    assert readable_names(["n00000000"]) == ("n00000000",)  # of no known class
    assert readable_names(list("012")) == ("0", "1", "2")


NAMES = ("tench", "crane", "Golden Retriever", "crane", "12 monkeys")


def test_classes_are_chosen_by_number_or_name():
    assert parse_classes("2, tench,golden retriever,0,12 monkeys", NAMES) == [2, 0, 2, 0, 4]
    assert parse_classes("A,a", ("a", "A")) == [1, 0]
    assert parse_classes("1", ("2", "1", "0")) == [1]  # numbers are numbers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crane", r"'crane' is the name of several classes \(allowed: 1, 3\)"),
        ("5", r"'5' is not a class of the model \(allowed: 0 to 4, or a name as tench"),
        ("tensh", "or a name as tench"),
        ("tench,", "'' is not a class"),
        ("²", "'²' is not a class"),
    ],
)
def test_an_unknown_class_is_one_line_with_the_nearest_names(text, message):
    with pytest.raises(
        UserError, match=f"--classes: {message}" if "or" not in message[:3] else message
    ):
        parse_classes(text, NAMES)


def test_results_know_the_names_of_their_classes(tmp_path, named, manifest):
    """The data file's, else those of the latents' source."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_values(data=str(named(list(WORDS))))))
    data = records(Study.load({"experiments": [str(path)]}), "tiny").data
    assert names_of_classes(tmp_path, data) == WORDS
    unnamed = data.model_copy(update={"class_names": []})
    assert names_of_classes(tmp_path, unnamed) == ()
    latents = tmp_path / data.latents
    latents.parent.mkdir(parents=True)
    latents.write_bytes(manifest.read_bytes())
    assert names_of_classes(tmp_path, unnamed) == tuple("0123456789")
