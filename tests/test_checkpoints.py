"""Public checkpoints: imported, they compute what the public models do; exported, what ours do."""

import argparse
import json
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from selftrans.api import load_backbone, load_exported
from selftrans.config import BackboneConfig, SamplerConfig, load_experiment
from selftrans.convert import export_checkpoint, import_checkpoint
from selftrans.data.store import LatentStore
from selftrans.models.conversion import reverse_time
from selftrans.models.metadata import TeacherMetadata
from selftrans.models.public_file import read_checkpoint
from selftrans.models.sit import SiT, sincos_table
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import sha256_of
from selftrans.runtime.tensors import load_tensors
from selftrans.sampling.generate import ImageSampler
from selftrans.sampling.latents import SampleNoise
from selftrans.training.freeze import freeze_teacher
from selftrans.training.input_paths import InputPaths
from selftrans.training.inputs import Inputs
from tests.support.programs import run_command
from tests.support.public_models import PublicModel
from tests.support.random_models import randomise
from tests.support.trainings import run

CPU = torch.device("cpu")


SIT = {"sigma": True}
DIT_NAMED = {"patch": 4, "num_heads": 4}
REPA = {"qk_norm": True, "heads_of_training": True, "depth": 4}


def inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 4, 8, 8, generator=generator, dtype=dtype)
    return x, torch.tensor([0, 0.123, 0.5, 0.9, 1], dtype=dtype), torch.tensor([0, 3, 9, 10, 5])


def trained(seed=0, **kind):
    return randomise(PublicModel(**kind), seed, std=0.15)


def saved(path, content):
    torch.save(content, path)
    return path


def imported(tmp_path, content, convention="noise-at-1", **options):
    """The backbone of a file with this content, imported."""
    file = saved(tmp_path / "public.pt", content)
    import_checkpoint(file, tmp_path / "ours.safetensors", convention=convention, **options)
    return load_backbone(tmp_path / "ours.safetensors", CPU)[0]


def training_file(model, ema, **more):
    """What REPA and the authors write."""
    args = argparse.Namespace(model="SiT-XL/2", learning_rate=1e-4, betas=(0.9, 0.95), resume=None)
    optimizer = torch.optim.AdamW(model.parameters())
    return {
        "model": model.state_dict(),
        "ema": ema.state_dict(),
        "opt": optimizer.state_dict(),
        "args": args,
        **more,
    }


def expected_velocity(model, convention, x, t, labels):
    return -model(x, 1 - t, labels) if convention == "data-at-1" else model(x, t, labels)


@torch.no_grad()
@pytest.mark.parametrize("convention", ["noise-at-1", "data-at-1"])
@pytest.mark.parametrize("kind", [SIT, DIT_NAMED, REPA], ids=["sit", "dit-named", "repa"])
def test_an_imported_model_computes_the_public_models_velocity(tmp_path, kind, convention):
    theirs = trained(**kind)
    ours = imported(tmp_path, theirs.state_dict(), convention, num_heads=theirs.num_heads)
    expected = expected_velocity(theirs, convention, *inputs())
    assert expected.std() > 0.5
    torch.testing.assert_close(ours(*inputs()), expected, rtol=1e-5, atol=1e-5)
    # But for the rounding of turned weights to float32, they are one function.
    exact = expected_velocity(theirs.double(), convention, *inputs(torch.float64))
    tolerance = 1e-12 if convention == "noise-at-1" else 1e-6
    torch.testing.assert_close(
        ours.double()(*inputs(torch.float64)), exact, rtol=tolerance, atol=tolerance
    )


@torch.no_grad()
def test_reversed_time_is_an_identity(shape):
    model, reverse = randomise(SiT(shape).double()), SiT(shape).double()
    reverse.load_state_dict(reverse_time(model.state_dict()))
    x, t, labels = inputs(torch.float64)
    torch.testing.assert_close(
        reverse(x, t, labels), -model(x, 1 - t, labels), rtol=1e-12, atol=1e-12
    )
    for name, tensor in reverse_time(reverse.state_dict()).items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=0, atol=1e-15)


@torch.no_grad()
@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_averaged_or_raw_weights_of_a_training(tmp_path, weights):
    both = {"raw": trained(1, **REPA), "ema": trained(2, **REPA)}
    content = training_file(both["raw"], both["ema"], steps=400_000)
    ours = imported(tmp_path, content, weights=weights, scale=0.5, shift=0.1)
    torch.testing.assert_close(ours(*inputs()), both[weights](*inputs()), rtol=1e-5, atol=1e-5)
    assert ours.shape.qk_norm
    assert ours.shape.num_heads == 2
    metadata = load_tensors(tmp_path / "ours.safetensors", "weights")[1]
    assert (metadata["run"], metadata["seed"], metadata["step"], metadata["weights"]) == (
        "public",
        0,
        400_000,
        weights,
    )
    assert metadata["fingerprint"] == sha256_of(tmp_path / "public.pt")
    assert metadata["latents"] == {
        "digest": None, "scale": 0.5, "shift": 0.1, "autoencoder_digest": None,
    }  # fmt: skip
    assert metadata["imported"] == {"file": "public.pt", "convention": "noise-at-1"}


@pytest.mark.slow
def test_the_four_kinds_of_files_give_the_same_tensors(tmp_path):
    theirs = trained(**REPA)
    options = {"convention": "noise-at-1", "name": "one"}
    digests = set()
    for name in ("a.pt", "b.pth", "c.bin"):
        digests.add(
            import_checkpoint(
                saved(tmp_path / name, theirs.state_dict()),
                tmp_path / "ours.safetensors",
                **options,
            )
        )
    torch.save(theirs.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file(theirs.state_dict(), tmp_path / "d.safetensors")
    for name in ("old.pt", "d.safetensors"):
        digests.add(import_checkpoint(tmp_path / name, tmp_path / "ours.safetensors", **options))
    assert len(digests) == 1


@pytest.mark.slow
def test_parts_that_wrappers_put_into_names_are_none(tmp_path):
    theirs = trained(**REPA).state_dict()
    ours = imported(tmp_path, theirs).state_dict()
    for change in (
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.module.{name}",
        lambda name: name.replace("blocks.1.", "blocks.1._orig_mod."),
    ):
        wrapped = imported(
            tmp_path, {change(name): tensor for name, tensor in theirs.items()}
        ).state_dict()
        assert all(torch.equal(wrapped[name], tensor) for name, tensor in ours.items())
    twice = {**theirs, "module.pos_embed": theirs["pos_embed"]}
    with pytest.raises(UserError, match="several of its tensors have the same name"):
        imported(tmp_path, twice)


class Harmful:
    """Unpickled by a reader that executes what it reads, it makes a directory."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_file_that_wants_to_act_is_refused_and_does_nothing(tmp_path):
    content = {**training_file(trained(), trained()), "args": Harmful(tmp_path / "harm")}
    torch.save(content, tmp_path / "new.pt")
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(content["args"], protocol=2))
    for name in ("new.pt", "old.pt", "plain.pt"):
        with pytest.raises(
            UserError, match=r"wants to use posix\.mkdir, which is refused"
        ) as caught:
            read_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "harm").exists()
    act, arguments = Harmful(tmp_path / "harm").__reduce__()
    act(*arguments)  # what a reader that executes would have done
    assert (tmp_path / "harm").is_dir(), "the test's file does no harm to anyone"


def test_files_that_are_no_checkpoints_are_one_line(tmp_path):
    whole = saved(tmp_path / "whole.pt", trained().state_dict()).read_bytes()
    damaged = "damaged or not a PyTorch file"
    for name, content, message in (
        ("half.pt", whole[: len(whole) // 2], damaged),
        ("empty.pt", b"", damaged),
        ("text.bin", b"version https://git-lfs.github.com/spec/v1", damaged),
        (
            "text.safetensors",
            b"version https://git-lfs.github.com/spec/v1",
            "not a safetensors file",
        ),
        (
            "model.ckpt",
            whole,
            "'.ckpt' is not a kind of checkpoint (allowed: .pt, .pth, .bin, .safetensors)",
        ),
        ("absent.pt", None, "no such file"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as caught:
            read_checkpoint(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    for content in (
        {"state": {"a": torch.zeros(1)}, "epoch": 3},
        {"ema": {"decay": 0.9}},
        [1, 2],
        {},
    ):
        with pytest.raises(
            UserError, match="allowed: a state dict, or a dict with one under 'ema' or 'model'"
        ):
            read_checkpoint(saved(tmp_path / "other.pt", content))


def test_raw_weights_of_a_published_file_are_not_there(tmp_path):
    with pytest.raises(UserError, match=r"public\.pt: has no raw weights \(it has: ema\)"):
        imported(tmp_path, trained(**REPA).state_dict(), weights="raw")


WRONG = {
    "a wrong shape": (
        {"blocks.1.mlp.fc2.bias": torch.zeros(31)},
        "blocks.1.mlp.fc2.bias is 31, expected 32",
    ),
    "a wrong type": (
        {"blocks.1.mlp.fc2.bias": torch.zeros(32, dtype=torch.int8)},
        "blocks.1.mlp.fc2.bias holds torch.int8",
    ),
    "a missing tensor": ({"blocks.1.attn.proj.bias": None}, "lacks blocks.1.attn.proj.bias"),
    "a tensor that tells": ({"x_embedder.proj.weight": None}, "lacks x_embedder.proj.weight"),
    "another kind of embedder": (
        {"x_embedder.proj.weight": torch.zeros(32, 16)},
        "is 32x16, expected 4 dimensions",
    ),
    "a third output": (
        {"final_layer.linear.bias": torch.zeros(48)},
        "final_layer.linear.bias is 48, expected 16",
    ),
    "an unknown head": (
        {"extra.0.weight": torch.zeros(1)},
        "extra.0.weight is not part of the backbone; if it may be left out: --ignore extra.",
    ),
    "an unknown part": (
        {"blocks.1.gate": torch.zeros(1)},
        "blocks.1.gate is not part of the backbone",
    ),
    "a block's qk-norm": (
        {"blocks.0.attn.q_norm.weight": None},
        "blocks.0.attn.q_norm.bias is not part",
    ),
    "another table": (
        {"pos_embed": torch.zeros(1, 15, 32)},
        "pos_embed is 1x15x32, expected 1x9x32",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_does_not_fit_is_named(tmp_path, wrong):
    changes, message = WRONG[wrong]
    changed = {**trained(**REPA).state_dict(), **changes}
    content = {name: tensor for name, tensor in changed.items() if tensor is not None}
    with pytest.raises(UserError) as caught:
        imported(tmp_path, content, num_heads=2)
    assert str(caught.value).startswith(f"{tmp_path / 'public.pt'}: ")
    assert message in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["public.pt"]


def test_unknown_heads_are_left_out_if_requested(tmp_path):
    theirs = trained(**REPA).state_dict()
    more = {
        "extra.0.weight": torch.zeros(1),
        "decoder_mask": torch.zeros(1),
        "ap_head.a": torch.ones(1),
    }
    ours = imported(tmp_path, {**theirs, **more}, ignore=("extra.", "decoder_mask", "blocks."))
    assert len(ours.blocks) == 4, "what the backbone needs is never left out"
    assert not any(
        name.startswith(("extra", "projectors", "ap_head")) for name in ours.state_dict()
    )


@pytest.mark.slow
def test_heads_are_read_or_known_or_requested(tmp_path):
    with pytest.raises(
        UserError, match="tells the number of heads of hidden size 32, so --num-heads is needed"
    ):
        imported(tmp_path, trained().state_dict())
    with pytest.raises(UserError, match="hidden size 32 is not divided by 5 heads"):
        imported(tmp_path, trained().state_dict(), num_heads=5)
    with pytest.raises(UserError, match="heads is 2 by its qk-norm, expected 4"):
        imported(tmp_path, trained(**REPA).state_dict(), num_heads=4)
    assert imported(tmp_path, trained().state_dict(), num_heads=4).shape.num_heads == 4
    assert imported(tmp_path, trained(**REPA).state_dict()).shape.num_heads == 2
    assert (
        imported(
            tmp_path, trained(hidden_size=384, num_heads=6, depth=1).state_dict()
        ).shape.num_heads
        == 6
    )


@torch.no_grad()
def test_without_a_position_table_it_is_the_fixed_one(tmp_path):
    theirs = trained(**REPA)
    theirs.pos_embed.copy_(sincos_table(32, 4)[None])
    content = theirs.state_dict()
    del content["pos_embed"]
    with pytest.raises(UserError, match="lacks pos_embed, so --latent-size is needed"):
        imported(tmp_path, content)
    ours = imported(tmp_path, content, latent_size=8)
    torch.testing.assert_close(ours(*inputs()), theirs(*inputs()), rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="pos_embed is 1x16x32, expected 1x64x32"):
        imported(tmp_path, theirs.state_dict(), latent_size=16)


@pytest.mark.parametrize("hidden", [49, 85, 107])
def test_any_width_of_the_mlp_is_read_off(tmp_path, hidden):
    content = trained(**REPA).state_dict()
    for block in range(4):
        content[f"blocks.{block}.mlp.fc1.weight"] = torch.zeros(hidden, 32)
        content[f"blocks.{block}.mlp.fc1.bias"] = torch.zeros(hidden)
        content[f"blocks.{block}.mlp.fc2.weight"] = torch.zeros(32, hidden)
    assert imported(tmp_path, content).blocks[0].mlp.fc1.out_features == hidden


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 5}, "depth is 4, expected 5"),
        ({"patch_size": 4}, "patch_size is 2, expected 4"),
        ({"qk_norm": False}, "qk_norm is True, expected False"),
        ({"num_heads": 4}, "heads is 2 by its qk-norm, expected 4"),
    ],
)
def test_another_backbone_than_expected_is_named(tmp_path, change, message):
    content = trained(**REPA).state_dict()
    expected = BackboneConfig(depth=4, hidden_size=32, num_heads=2, patch_size=2)
    imported(tmp_path, content, expected=expected)
    with pytest.raises(UserError, match=message):
        imported(tmp_path, content, expected=expected.model_copy(update=change))


@pytest.mark.slow
def test_the_expected_backbone_tells_the_heads(tmp_path):
    content = trained(depth=4).state_dict()
    expected = BackboneConfig(depth=4, hidden_size=32, num_heads=4, patch_size=2, qk_norm=False)
    assert imported(tmp_path, content, expected=expected).shape.num_heads == 4


def checkpoint_command(*options):
    return run_command(*options)


@pytest.mark.slow
def test_an_imported_checkpoint_is_sampled(tmp_path, autoencoder):
    theirs = trained(**SIT)
    file = saved(tmp_path / "SiT.pt", theirs.state_dict())
    ended = checkpoint_command(
        "import", file, "--convention", "data-at-1", "--output", tmp_path / "ours.safetensors",
        "--num-heads", 2, "--step", 7_000_000, "--scale", 0.5, "--name", "published",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    metadata = load_tensors(tmp_path / "ours.safetensors", "weights")[1]
    assert (metadata["run"], metadata["step"], metadata["latents"]["scale"]) == (
        "published",
        7_000_000,
        0.5,
    )
    assert metadata["digest"] in ended.stdout
    options = [
        tmp_path / "ours.safetensors",
        "--autoencoder",
        autoencoder,
        "--classes",
        "3,7",
    ]
    words = ("--steps", 2, "--columns", 2, "--output", tmp_path / "a.png")
    ended = run_command("sample", *options, *words)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "a.png").is_file()


@pytest.mark.slow
@torch.no_grad()
def test_sampling_follows_the_public_model_from_its_noise_to_its_data(tmp_path, autoencoder):
    """Euler steps of public SiT, from t = 0, noise, to t = 1, data."""
    theirs = trained(**SIT).double()
    content = {name: tensor.float() for name, tensor in theirs.state_dict().items()}
    ours = imported(tmp_path, content, "data-at-1", num_heads=2)
    sampler = ImageSampler(tmp_path / "ours.safetensors", autoencoder, CPU)
    decoded = []
    sampler.decode = lambda z, *_: decoded.append(z) or np.zeros(0)
    settings = SamplerConfig(sampler="euler", num_steps=8, num_samples=3, seed=1)
    sampler.images(settings, range(3), np.array([1, 4, 9]))
    x = SampleNoise(1, range(3), ours.shape.latent_shape, CPU)()
    for step in range(8):
        x = (
            x
            + theirs(x, torch.full((3,), step / 8, dtype=torch.float64), torch.tensor([1, 4, 9]))
            / 8
        )
    torch.testing.assert_close(decoded[0], x / 0.18215, rtol=1e-4, atol=1e-4)


def opened_inputs(experiment, store, teacher):
    """Inputs of stage 2, which follows ``teacher``."""
    paths = InputPaths(teachers={"self-transcendence": teacher})
    return Inputs.open(experiment, "self-transcendence", 0, store, paths, CPU)


@pytest.mark.slow
@torch.no_grad()
def test_an_imported_checkpoint_teaches(tmp_path, tiny, manifest):
    theirs = trained(**REPA)
    content = training_file(theirs, theirs, steps=4)
    imported(tmp_path, content, weights="raw", name="vae-align", scale=0.5, shift=0.1)
    teacher = tmp_path / "teacher.safetensors"
    freeze_teacher(tmp_path / "ours.safetensors", 3, teacher)
    assert load_tensors(teacher, "teacher")[1]["source"]["run"] == "vae-align"
    path, store = tiny(), LatentStore(manifest)
    opened = opened_inputs(load_experiment(path), store, teacher)
    expected, _ = theirs.tokens(*inputs(), depth=3)
    torch.testing.assert_close(
        opened.teachers["self-transcendence"].tokens(*inputs()), expected, rtol=1e-5, atol=1e-5
    )
    with torch.enable_grad():
        run(path, "self-transcendence", tmp_path / "run", manifest, until=4, teacher=teacher)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"run": "sit"}, "is a teacher of run sit, the experiment names vae-align"),
        ({"step": 8}, "is a teacher of step 8, the experiment names 4"),
        ({"weights": "ema"}, "is a teacher of weights ema, the experiment names raw"),
        ({"seed": 3}, "is a teacher of seed 3, the experiment names 0"),
    ],
)
def test_a_teacher_of_another_checkpoint_is_refused(tmp_path, tiny, manifest, source, message):
    content = trained(**REPA).state_dict()
    imported(tmp_path, content, weights="ema", name="vae-align", step=4, scale=0.5, shift=0.1)
    freeze_teacher(tmp_path / "ours.safetensors", 3, tmp_path / "frozen.safetensors")
    tensors, metadata = TeacherMetadata.load(tmp_path / "frozen.safetensors")
    store = LatentStore(manifest)
    known = metadata.latents.model_copy(update={"digest": store.manifest.digest})
    changed = metadata.source.model_copy(update={"weights": "raw", **source})
    metadata.model_copy(update={"source": changed, "latents": known}).save(
        tmp_path / "teacher.safetensors", tensors
    )
    with pytest.raises(UserError, match=message):
        opened_inputs(load_experiment(tiny()), store, tmp_path / "teacher.safetensors")


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"scale": 0.4}, {}, "scale is 0.4, .* has 0.5"),
        ({"shift": 0.0}, {}, "shift is 0.0, .* has 0.1"),
        ({}, {"size": 16}, r"latent_shape is \(4, 16, 16\), .* has \(4, 8, 8\)"),
    ],
)
def test_a_teacher_of_other_latents_is_refused(tmp_path, tiny, manifest, options, kind, message):
    imported(
        tmp_path, trained(**REPA, **kind).state_dict(), **{"scale": 0.5, "shift": 0.1, **options}
    )
    freeze_teacher(tmp_path / "ours.safetensors", 3, tmp_path / "teacher.safetensors")
    experiment, store = load_experiment(tiny()), LatentStore(manifest)
    with pytest.raises(UserError, match=message):
        opened_inputs(experiment, store, tmp_path / "teacher.safetensors")


def test_a_teacher_of_other_classes_is_refused(tmp_path, tiny, manifest):
    content = trained(**REPA).state_dict()
    content["y_embedder.embedding_table.weight"] = torch.zeros(12, 32)
    imported(tmp_path, content, scale=0.5, shift=0.1)
    freeze_teacher(tmp_path / "ours.safetensors", 3, tmp_path / "teacher.safetensors")
    experiment, store = load_experiment(tiny()), LatentStore(manifest)
    with pytest.raises(UserError, match=r"condition is 11, .* has 10"):
        opened_inputs(experiment, store, tmp_path / "teacher.safetensors")


def test_exported_weights_come_back_in_one_line(tmp_path):
    ours = imported(tmp_path, trained(**REPA).state_dict())
    ended = checkpoint_command(
        "export", tmp_path / "ours.safetensors", "--output", tmp_path / "out"
    )
    assert ended.returncode == 0, ended.stderr
    model, config = load_exported(tmp_path / "out")
    assert (
        model.state_dict().keys()
        == ours.state_dict().keys()
        == load_file(tmp_path / "out/model.safetensors").keys()
    )
    assert all(
        torch.equal(tensor, ours.state_dict()[name]) for name, tensor in model.state_dict().items()
    )
    assert torch.equal(model(*inputs()), ours(*inputs()))
    assert config.interpolant == "linear"
    assert config.latents.scale == 0.18215
    assert config.imported.file == "public.pt"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_a_damaged_export_is_refused_in_one_line(tmp_path):
    imported(tmp_path, trained(**REPA).state_dict())
    export_checkpoint(tmp_path / "ours.safetensors", tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    (tmp_path / "out/config.json").write_text(json.dumps({**config, "digest": "0" * 64}))
    with pytest.raises(
        UserError, match=r"model\.safetensors: has digest \w{12}, config\.json says 000000000000"
    ):
        load_exported(tmp_path / "out")
    (tmp_path / "out/config.json").write_text('{"model_type": "other"}')
    with pytest.raises(
        UserError, match=r"config\.json: not the metadata of a weights file \(run: Field required\)"
    ):
        load_exported(tmp_path / "out")
    (tmp_path / "out/model.safetensors").unlink()
    (tmp_path / "out/config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"model\.safetensors: no such file"):
        load_exported(tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--scale", "0"), "--scale: '0' is not allowed (allowed: 1e-09 to 1e+09)"),
        (("--shift", "nan"), "--shift: 'nan' is not allowed"),
        (("--ignore", "a", "--ignore", "b"), "absent.pt: no such file"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, options, message):
    words = ("--convention", "data-at-1", "--output", tmp_path / "ours.safetensors")
    ended = run_command("import", tmp_path / "absent.pt", *words, *options)
    assert ended.returncode in (1, 2)
    assert message in ended.stderr
    assert not list(tmp_path.iterdir())


def test_public_weights_that_are_not_finite_are_refused(tmp_path):
    content = trained(**REPA).state_dict()
    content["blocks.0.mlp.fc1.weight"][0, 0] = float("nan")
    with pytest.raises(UserError, match=r"public\.pt: blocks\.0\.mlp\.fc1\.weight is not finite"):
        imported(tmp_path, content)


def test_a_public_files_convention_is_asked_for(tmp_path):
    saved(tmp_path / "public.pt", trained(**REPA).state_dict())
    with pytest.raises(UserError, match="--convention: is needed"):
        import_checkpoint(tmp_path / "public.pt", tmp_path / "ours.safetensors")
