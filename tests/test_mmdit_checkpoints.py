"""Files in the format of the authors' text to image: imported, refused, exported.

Where names and contents were read: csslc/Self-Transcendence, models/mmdit_vaeloss.py (stage 1),
models/mmdit_self_trans.py (stage 2), train_t2i_self_trans.py, and
preprocessing/extract_empty_feature.py for the empty caption, which no weight file has.
"""

import argparse

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from selftrans.api import load_backbone, load_exported
from selftrans.config import BackboneConfig, MMDiTConfig
from selftrans.convert import export_checkpoint, import_checkpoint
from selftrans.models.mmdit import MMDiT
from selftrans.models.weights import load_teacher
from selftrans.runtime.errors import UserError
from selftrans.runtime.tensors import load_tensors
from selftrans.training.freeze import freeze_teacher
from tests.support.public_mmdit import PublicMMDiT
from tests.support.public_models import PublicModel, modulation
from tests.support.random_models import randomise

CPU = torch.device("cpu")
LENGTH, SIZE, WIDTH = 5, 12, 64
NUMBERS = {"depth": 2, "hidden_size": WIDTH, "num_heads": 2, "patch_size": 2}
EMPTY = np.random.default_rng(0).standard_normal((LENGTH, SIZE)).astype(np.float32)


def projectors():
    return nn.Sequential(nn.Linear(WIDTH, 24), nn.SiLU(), nn.Linear(24, WIDTH))


HEADS = {
    "stage 1": lambda: {
        "projectors": projectors(),
        "projectors_final": nn.ModuleDict(
            {"linear": nn.Linear(WIDTH, 16), "adaLN_modulation": modulation(WIDTH, 2)}
        ),
    },
    "stage 2": lambda: {"projectors": projectors()},
    "REPA": lambda: {"projectors": nn.ModuleList([projectors()])},
}


def public(seed=0, head="stage 2", **changes):
    sizes = {"hidden_size": WIDTH, "num_heads": 2, "depth": 2, "context_size": SIZE, **changes}
    return randomise(PublicMMDiT(heads_of_training=HEADS[head](), **sizes), seed, std=0.1)


def inputs():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 8, 8, generator=rng)
    return x, torch.tensor([0.1, 0.5, 0.9]), torch.randn(3, LENGTH, SIZE, generator=rng)


def write(tmp_path, content, empty=EMPTY):
    torch.save(content, tmp_path / "a.pt")
    np.save(tmp_path / "empty_context.npy", empty)
    return tmp_path / "a.pt"


def imported(tmp_path, content, empty=EMPTY, **options):
    file = write(tmp_path, content, empty)
    options = {"convention": "noise-at-1", "empty_context": tmp_path / "empty_context.npy",
               **options}  # fmt: skip
    import_checkpoint(file, tmp_path / "a.safetensors", **options)
    return load_backbone(tmp_path / "a.safetensors", CPU)[0]


def assert_near(found, expected):
    assert expected.std() > 0.3
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_a_trainings_file_is_imported_without_its_heads(tmp_path, head, weights):
    models = {"raw": public(1, head), "ema": public(2, head)}
    content = {
        "model": models["raw"].state_dict(),
        "ema": models["ema"].state_dict(),
        "opt": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 2e-4}]},
        "args": argparse.Namespace(exp_name="t2i", learning_rate=2e-4),
        "steps": 150_000,
    }
    assert any(name.startswith("projectors") for name in content["ema"])
    ours = imported(tmp_path, content, weights=weights)
    assert type(ours) is MMDiT
    assert_near(ours(*inputs()), models[weights](*inputs()))
    assert ours.state_dict().keys() == MMDiT(ours.shape).state_dict().keys()
    metadata = load_tensors(tmp_path / "a.safetensors", "weights")[1]
    assert (metadata["step"], metadata["weights"]) == (150_000, weights)


@torch.no_grad()
@pytest.mark.parametrize("axis", [(), (None,)])
@pytest.mark.parametrize("kind", ["<f2", ">f4", "<f8"])
def test_the_null_condition_is_the_empty_caption_of_the_file(tmp_path, axis, kind):
    empty = EMPTY.astype(kind)
    ours = imported(tmp_path, public().state_dict(), empty[axis])
    expected = torch.from_numpy(empty.astype(np.float32))
    assert torch.equal(ours.null_condition(2), expected.expand(2, -1, -1))


@torch.no_grad()
@pytest.mark.parametrize("qk_norm", [False, True])
def test_time_that_runs_the_other_way_is_turned(tmp_path, qk_norm):
    theirs = public(qk_norm=qk_norm)
    ours = imported(tmp_path, theirs.state_dict(), convention="data-at-1")
    x, t, captions = inputs()
    expected = -theirs(x, 1 - t, captions)
    torch.testing.assert_close(ours(x, t, captions), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_an_imported_stage_1_becomes_a_teacher(tmp_path):
    theirs = public(head="stage 1", depth=3, hidden_size=96, num_heads=3)
    imported(tmp_path, {name: tensor for name, tensor in theirs.state_dict().items()
                        if not name.startswith("projectors")})  # fmt: skip
    freeze_teacher(tmp_path / "a.safetensors", 2, tmp_path / "teacher.safetensors")
    teacher = load_teacher(tmp_path / "teacher.safetensors", CPU)[0]
    assert_near(teacher.tokens(*inputs()), theirs.tokens(*inputs(), 2)[0])


@torch.no_grad()
def test_heads_are_as_many_as_blocks_or_named_or_read(tmp_path):
    assert imported(tmp_path, public().state_dict()).shape.num_heads == 2
    deeper = public(depth=3).state_dict()
    with pytest.raises(UserError, match="number of heads of hidden size 64, so --num-heads is nee"):
        imported(tmp_path, deeper)
    assert imported(tmp_path, deeper, num_heads=4).shape.num_heads == 4
    normed = public(depth=3, num_heads=8, qk_norm=True)
    ours = imported(tmp_path, normed.state_dict())
    assert (ours.shape.num_heads, ours.shape.qk_norm) == (8, True)
    assert_near(ours(*inputs()), normed(*inputs()))


@torch.no_grad()
def test_plain_tensors_of_ours_say_their_null_condition(tmp_path):
    """A weight file of ours, or tensors that were exported and moved."""
    ours = imported(tmp_path, public().state_dict())
    export_checkpoint(tmp_path / "a.safetensors", tmp_path / "exported")
    assert torch.equal(load_exported(tmp_path / "exported")[0](*inputs()), ours(*inputs()))
    save_file(ours.state_dict(), tmp_path / "b.safetensors")
    options = {"convention": "noise-at-1"}
    import_checkpoint(tmp_path / "b.safetensors", tmp_path / "c.safetensors", **options)
    again = load_backbone(tmp_path / "c.safetensors", CPU)[0]
    assert all(torch.equal(tensor, ours.state_dict()[name])
               for name, tensor in again.state_dict().items())  # fmt: skip
    options["empty_context"] = tmp_path / "empty_context.npy"
    for name in ("a.safetensors", "b.safetensors"):
        with pytest.raises(UserError, match=r"its own.* --empty-context says"):
            import_checkpoint(tmp_path / name, tmp_path / "d.safetensors", **options)


def without(content, name):
    return {key: tensor for key, tensor in content.items() if key != name}


LAST = "joint_blocks.1.context_block"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {**c, "register": torch.zeros(1)}, "register is not part .*--ignore register"),
        (
            lambda c: {**c, f"{LAST}.attn.proj.bias": torch.zeros(WIDTH)},
            rf"{LAST}\.attn\.proj\.bias is not part of the backbone; .*--ignore {LAST}\.attn",
        ),
        (lambda c: without(c, "context_embedder.bias"), r"lacks context_embedder\.bias"),
        (lambda c: without(c, f"{LAST}.attn.qkv.weight"), rf"lacks {LAST}\.attn\.qkv\.weight"),
        (
            lambda c: without(c, "joint_blocks.0.x_block.mlp.fc1.weight"),
            r"lacks joint_blocks\.0\.x_block\.mlp\.fc1\.weight",
        ),
        (
            lambda c: {**c, f"{LAST}.adaLN_modulation.1.bias": torch.zeros(6 * WIDTH)},
            rf"{LAST}\.adaLN_modulation\.1\.bias is 384, expected 128",
        ),
        (
            lambda c: {**c, **{f"joint_blocks.0.x_block.attn.ln_q.{part}": torch.ones(32)
                               for part in ("weight", "bias")}},
            "is a layer norm .allowed: root mean squares",
        ),
        (
            lambda c: {**c, "context_embedder.bias": torch.zeros(WIDTH, dtype=torch.int32)},
            r"context_embedder\.bias holds torch\.int32, expected floating-point",
        ),
    ],
)  # fmt: skip
def test_other_tensors_than_an_mmdits_are_refused_in_one_line(tmp_path, change, message):
    with pytest.raises(UserError, match=rf"^{tmp_path}/a\.pt: .*{message}.*$"):
        imported(tmp_path, change(public().state_dict()))
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.parametrize(
    ("empty", "message"),
    [
        (EMPTY[:, :7], r"empty_context\.npy: has tokens of 7, .*a\.pt takes those of 12"),
        (EMPTY.astype(int), r"empty_context\.npy: is 5x12 of int64, expected tokens x elements"),
        (EMPTY[None].repeat(2, 0), r"empty_context\.npy: is 2x5x12 of float32, expected"),
        (EMPTY[:0], r"empty_context\.npy: is 0x12 of float32, expected"),
        (np.float32(1), r"empty_context\.npy: is a scalar of float32, expected"),
        (EMPTY * np.inf, r"empty_context\.npy: is not finite"),
        (np.array([{}]), r"empty_context\.npy: not an array, or truncated"),
    ],
)
def test_another_empty_caption_is_refused_in_one_line(tmp_path, empty, message):
    with pytest.raises(UserError, match=rf"^{tmp_path}/{message}.*$"):
        imported(tmp_path, public().state_dict(), empty)
    assert not (tmp_path / "a.safetensors").exists()


def test_an_empty_caption_is_needed_and_only_by_an_mmdit(tmp_path):
    with pytest.raises(UserError, match=r"a\.pt: is an MMDiT, .* --empty-context is needed"):
        imported(tmp_path, public().state_dict(), empty_context=None)
    with pytest.raises(UserError, match=r"a\.pt: has classes, no captions, --empty-context says"):
        imported(tmp_path, PublicModel().state_dict(), num_heads=2)


@pytest.mark.parametrize(
    ("content", "expected", "message"),
    [
        (public, BackboneConfig(**NUMBERS), "is of kind MMDiT, expected SiT"),
        (public, MMDiTConfig(kind="mmdit", **{**NUMBERS, "depth": 3}), "depth is 2, expected 3"),
        (public, MMDiTConfig(kind="mmdit", **NUMBERS, qk_norm=True), "is False, expected True"),
        (public, MMDiTConfig(kind="mmdit", **NUMBERS), None),
        (
            lambda: PublicModel(hidden_size=WIDTH),
            MMDiTConfig(kind="mmdit", **NUMBERS),
            "is of kind SiT, expected MMDiT",
        ),
    ],
)
def test_another_backbone_than_expected_is_named(tmp_path, content, expected, message):
    options = {} if content is public else {"empty_context": None}
    if message is None:
        assert imported(tmp_path, content().state_dict(), expected=expected).shape.depth == 2
        return
    with pytest.raises(UserError, match=rf"a\.pt: .*{message}"):
        imported(tmp_path, content().state_dict(), expected=expected, **options)
