"""Typed metadata of tensor files: what is written is read, and anything else is refused."""

import pytest
import torch

from selftrans.models.metadata import LatentScaling, TeacherMetadata, WeightsMetadata
from selftrans.models.shape import SiTShape
from selftrans.runtime.errors import UserError
from selftrans.runtime.tensors import digest_of, load_tensors, save_tensors

TENSORS = {"a": torch.arange(3.0)}


@pytest.fixture
def metadata(shape):
    return WeightsMetadata(
        run="sit",
        seed=2**62,
        step=4,
        fingerprint="f",
        shape=shape,
        interpolant="cosine",
        latents=LatentScaling(digest="d", scale=0.1 + 0.2, shift=-1e-300),
        version="0",
        weights="ema",
    )


def test_a_file_gives_back_its_metadata_and_the_digest_of_its_tensors(tmp_path, metadata):
    path = tmp_path / "ema.safetensors"
    digest = metadata.save(path, TENSORS)
    tensors, loaded = WeightsMetadata.load(path)
    assert torch.equal(tensors["a"], TENSORS["a"])
    assert loaded == metadata.model_copy(update={"digest": digest_of(TENSORS)})
    assert loaded.digest == digest
    assert isinstance(loaded.shape, SiTShape)
    assert loaded.shape.latent_shape == (4, 8, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interpolant": "quadratic"}, r"interpolant: .*'linear' or 'cosine'"),
        ({"step": "many"}, "step: .*integer"),
        ({"latents": {"digest": None, "scale": 1.0}}, "latents.shift: Field required"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"weights": "average"}, "weights: .*'ema' or 'raw'"),
    ],
)
def test_damaged_metadata_is_refused_in_one_line_naming_the_field(
    tmp_path, metadata, change, message
):
    path = tmp_path / "ema.safetensors"
    fields = metadata.model_dump(mode="json", exclude={"digest"}) | change
    save_tensors(path, TENSORS, "weights", fields)
    with pytest.raises(
        UserError, match=rf"ema\.safetensors: not the metadata of a weights file \({message}"
    ) as caught:
        WeightsMetadata.load(path)
    assert "\n" not in str(caught.value)


def test_a_missing_field_and_another_kind_are_refused(tmp_path, metadata):
    path = tmp_path / "ema.safetensors"
    metadata.save(path, TENSORS)
    with pytest.raises(UserError, match="holds weights, expected was teacher"):
        TeacherMetadata.load(path)
    fields = load_tensors(path, "weights")[1]
    del fields["run"]
    with pytest.raises(UserError, match="run: Field required"):
        WeightsMetadata.parse(fields, path)
    with pytest.raises(UserError, match="not the metadata of a weights file"):
        WeightsMetadata.parse([1, 2], path)
