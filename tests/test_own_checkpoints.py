"""Our own weight files know what they are: their place, and all that an import needs."""

import pytest
import torch

from selftrans.api import load_backbone
from selftrans.config.identity import fingerprint
from selftrans.convert import export_checkpoint, import_checkpoint
from selftrans.models.metadata import LatentScaling, WeightsMetadata
from selftrans.models.shape import SiTShape
from selftrans.models.sit import SiT
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import write_json
from selftrans.training.freeze import freeze_teacher

CPU = torch.device("cpu")


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of a training, by its metadata; returns its file."""

    def write(run="sit", step=4, seed=0, weights="ema", value=0):
        torch.manual_seed(value)
        shape = SiTShape(latent_shape=(4, 8, 8), num_classes=10, depth=2, hidden_size=32,
                         num_heads=2, patch_size=2)  # fmt: skip
        metadata = WeightsMetadata(
            run=run, seed=seed, step=step, fingerprint=fingerprint({"run": run}), shape=shape,
            interpolant="cosine", version="0", weights=weights,
            latents=LatentScaling(digest="d", scale=0.5, shift=0.1, autoencoder_digest="a"),
        )  # fmt: skip
        directory = tmp_path / run
        folder = directory / "checkpoints" / str(step)
        digest = metadata.save(folder / f"{weights}.safetensors", SiT(shape).state_dict())
        write_json(directory / "definition.json", {"run": run})
        record = {"fingerprint": metadata.fingerprint, "step": step, "digests": {weights: digest}}
        write_json(folder / "checkpoint.json", record)
        return folder / f"{weights}.safetensors"

    return write


def test_a_checkpoint_knows_its_place(checkpoint):
    assert load_backbone(checkpoint(), CPU)[1].run == "sit"


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"run": "sra"}, "its fingerprint is"),
        ({"step": 8}, "its step is 8, expected 4"),
        ({"weights": "raw"}, "its weights is raw, expected ema"),
        ({"value": 1}, "its digest is"),
    ],
)
def test_a_checkpoint_in_anothers_place_is_refused(checkpoint, tmp_path, other, message, alone):
    """Swapped alone, or with the record beside it."""
    taken = checkpoint(**other)
    content, record = taken.read_bytes(), taken.with_name("checkpoint.json").read_bytes()
    place = checkpoint()
    place.write_bytes(content)
    if not alone and ({"run", "step"} & other.keys()):
        place.with_name("checkpoint.json").write_bytes(record)
    with pytest.raises(UserError, match=rf"belongs to another checkpoint, {message}"):
        load_backbone(place, CPU)
    with pytest.raises(UserError, match="belongs to another checkpoint"):
        freeze_teacher(place, 1, tmp_path / "teacher.safetensors")


def moved(file, tmp_path):
    """Somebody else's copy."""
    copy = tmp_path / "elsewhere" / "model-of-a-friend.safetensors"
    copy.parent.mkdir()
    copy.write_bytes(file.read_bytes())
    return copy


@pytest.mark.parametrize("exported", [False, True])
def test_a_file_of_ours_is_imported_with_all_that_it_says(checkpoint, tmp_path, exported):
    file = moved(checkpoint(), tmp_path)
    before, model = load_backbone(file, CPU)[1], load_backbone(file, CPU)[0]
    if exported:
        export_checkpoint(file, tmp_path / "export")
        file = tmp_path / "export/model.safetensors"
    import_checkpoint(file, tmp_path / "ours.safetensors", name="friend")
    ours, after = load_backbone(tmp_path / "ours.safetensors", CPU)
    assert (after.run, after.step, after.weights, after.interpolant) == (
        "friend",
        4,
        "ema",
        "cosine",
    )
    assert after.latents == before.latents
    assert after.imported is not None
    for mine, theirs in zip(ours.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("convention", "data-at-1", "noise-at-1"), ("scale", 0.18215, 0.5), ("shift", 0.0, 0.1),
        ("interpolant", "linear", "cosine"), ("step", 400_000, 4), ("weights", "raw", "ema"),
    ],
)  # fmt: skip
def test_what_contradicts_a_file_of_ours_is_refused(checkpoint, tmp_path, option, value, says):
    file = moved(checkpoint(), tmp_path)
    with pytest.raises(UserError, match=rf"its {option} is {says}, --{option} says {value}"):
        import_checkpoint(file, tmp_path / "ours.safetensors", **{option: value})
    assert not (tmp_path / "ours.safetensors").exists()
