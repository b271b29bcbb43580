"""Kinds of backbone: their settings, what identifies them, and their shapes in JSON."""

from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from selftrans.config import Backbone, BackboneConfig, MMDiTConfig, identity
from selftrans.config.expand import merged
from selftrans.config.identity import differences
from selftrans.config.model import expand_preset
from selftrans.models.shape import MMDiTShape, SiTShape, StoredShape
from selftrans.runtime.errors import UserError
from selftrans.runtime.metadata import FileMetadata

NUMBERS = {"depth": 3, "hidden_size": 32, "num_heads": 2, "patch_size": 2}
VALIDATED = TypeAdapter(Backbone)


class Stored(FileMetadata):
    """Of a file that holds nothing but a shape."""

    kind = "stored"
    shape: StoredShape


def stored(values):
    return Stored.parse({"shape": {"latent_shape": [4, 8, 8], **NUMBERS, **values}}, Path("a"))


def test_its_kind_identifies_a_run():
    """Else a SiT of the same numbers would be it."""
    ours = VALIDATED.validate_python({"kind": "mmdit", **NUMBERS})
    sit = VALIDATED.validate_python({**NUMBERS, "qk_norm": False})
    assert (type(ours), type(sit)) == (MMDiTConfig, BackboneConfig)
    assert identity(ours, 1) == {"kind": "mmdit", **NUMBERS}
    assert list(differences(ours, identity(ours, 1), 1, "model")) == []
    for one, other in ((ours, sit), (sit, ours)):
        found = list(differences(one, identity(other, 1), 1, "model"))
        assert any(line.startswith("model.kind (trained: ") for line in found)


def test_a_preset_says_its_kind():
    model = VALIDATED.validate_python(expand_preset({"preset": "MMDiT-24x768/2", "depth": 6}))
    assert type(model) is MMDiTConfig
    assert (model.depth, model.hidden_size) == (6, 768)
    smaller = expand_preset(merged(model.model_dump(), {"hidden_size": 96, "num_heads": 3}))
    assert VALIDATED.validate_python(smaller).num_heads == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "mmdit", "preset": "SiT-B/2"}, "Input should be 'MMDiT-24x768/2'"),
        ({"kind": "sit", "preset": "MMDiT-24x768/2"}, "Input should be 'SiT-S/2'"),
        ({"kind": "dit"}, r"kind: 'dit' is unknown \(allowed: 'sit', 'mmdit', or FILE"),
        ({"kind": ["mmdit"]}, r"kind: \['mmdit'\] is unknown"),
        ({"kind": "mmdit", "context_length": 77}, "Extra inputs are not permitted"),
        ({"kind": "mmdit", "num_heads": 5}, "num_heads: 5 does not divide hidden_size 32"),
    ],
)
def test_what_is_no_such_backbone_is_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        VALIDATED.validate_python({**NUMBERS, **values})


def test_a_shape_in_json_says_whose_it_is():
    """As SiT's did before there were others."""
    sit = {"num_classes": 10, "mlp_ratio": 4.0, "qk_norm": True}
    mmdit = {"kind": "mmdit", "context_length": 5, "context_size": 12}
    files = [stored(sit), stored(mmdit)]
    assert [type(file.shape) for file in files] == [SiTShape, MMDiTShape]
    assert [file.shape.condition_size for file in files] == [10, (5, 12)]
    assert files[0].model_dump(mode="json")["shape"] == {
        "latent_shape": [4, 8, 8], **NUMBERS, **sit,
    }  # fmt: skip
    for file in files:
        assert stored(file.model_dump(mode="json")["shape"]) == file
        assert type(file.shape)(**file.shape.to_json()) == file.shape


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "vit"}, r"shape: kind is unknown \(allowed: 'mmdit', or none for a SiT\)"),
        ({"kind": None}, "shape: kind is unknown"),
        ({"kind": "mmdit", "num_classes": 10}, r"shape\.mmdit\.num_classes: "),
        ({"num_classes": 10, "context_size": 12}, r"shape\.sit\.context_size: "),
        ({"context_size": 12}, r"shape\.sit\.num_classes: "),
    ],
)
def test_a_shape_of_neither_is_refused_in_one_line(values, message):
    with pytest.raises(UserError, match=rf"^a: not the metadata of a stored file \({message}.*$"):
        stored(values)
