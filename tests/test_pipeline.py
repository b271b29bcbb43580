"""The pipeline of diffusers: it samples what ours does, and is loaded without running code."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from selftrans.config import GuidanceConfig, InternalGuidanceConfig, SamplerConfig
from selftrans.models.metadata import ImportedFrom, LatentScaling, WeightsMetadata
from selftrans.models.shape import SiTShape
from selftrans.models.sit import SiT
from selftrans.pipeline import SiTPipeline, SiTTransformer
from selftrans.pipeline.export import export_pipeline
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import read_json, write_json
from selftrans.sampling.classes import class_numbers
from selftrans.sampling.generate import ImageSampler
from tests.support.hub import local_hub
from tests.support.programs import last_line, run_command
from tests.support.random_models import randomise
from tests.support.results import result
from tests.support.stores import SCALE, SHIFT

NAMES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "crane")
SHAPE = {"latent_shape": (4, 8, 8), "num_classes": 10, "depth": 3, "hidden_size": 32,
         "num_heads": 2, "patch_size": 2}  # fmt: skip


def write_weights(path, std=0.3, qk_norm=True, **changes):
    model = randomise(SiT(SiTShape(**SHAPE, qk_norm=qk_norm)), std=std)
    fields = {
        "run": "stage-2", "seed": 0, "step": 3000, "fingerprint": "f" * 64, "shape": model.shape,
        "interpolant": "linear", "version": "0.1.0", "weights": "ema",
        "latents": LatentScaling(digest="d" * 64, scale=SCALE, shift=SHIFT), **changes,
    }  # fmt: skip
    WeightsMetadata(**fields).save(path, model.state_dict())
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "ema.safetensors")


@pytest.fixture(scope="module")
def metrics(tmp_path_factory, weights):
    _, metadata = WeightsMetadata.load(weights)
    content = result(run="stage-2", step=3000, fid=9.25)
    content["samples"]["checkpoint"]["digest"] = metadata.digest
    content["extractor"]["name"] = "classifier"
    path = tmp_path_factory.mktemp("metrics") / "classifier.json"
    write_json(path, content)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory, weights, autoencoder, metrics):
    output = tmp_path_factory.mktemp("pipeline") / "exported"
    settings = {"sampler": "euler", "num_steps": 4, "guidance": {"scale": 2.5, "high": 0.75}}
    export_pipeline(
        weights, output, autoencoder=autoencoder, settings=SamplerConfig(**settings),
        dataset="animals", class_names=NAMES, metrics=[metrics],
    )  # fmt: skip
    return output


def loaded(folder, **options):
    pipeline = SiTPipeline.from_pretrained(folder, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def pipeline(folder):
    return loaded(folder)


@pytest.fixture(scope="module")
def sampler(weights, autoencoder):
    return ImageSampler(weights, autoencoder)


def pixels(images):
    return np.stack([np.asarray(image) for image in images]).astype(int)


@pytest.mark.parametrize(
    ("steps", "guidance"),
    [
        (2, {}),
        (30, {}),
        (20, {"scale": 3.0, "low": 0.3, "high": 0.65}),  # both are points of the grid
        (25, {"scale": 1.9, "high": 0.65, "channels": 3}),
        (7, {"scale": 0.5}),
    ],
)
def test_pixels_are_those_of_our_sampler(pipeline, sampler, steps, guidance):
    settings = SamplerConfig(sampler="euler", num_steps=steps, seed=7, guidance=guidance)
    indices, labels = range(5, 9), np.array([1, 4, 9, 4])
    ours = sampler.images(settings, indices, labels).astype(int)
    channels = {**pipeline.config.sampling, "guidance_channels": guidance.get("channels")}
    pipeline.register_to_config(sampling=channels)
    theirs = pipeline(
        labels, num_inference_steps=steps, guidance_scale=guidance.get("scale", 1),
        guidance_interval=(guidance.get("low", 0), guidance.get("high", 1)),
        latents=pipeline.initial_latents(7, indices),
    )  # fmt: skip
    difference = np.abs(pixels(theirs.images) - ours)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01
    assert ours.std() > 20
    changes = [{"scale": 1.0}] if guidance else []
    if "low" in guidance:  # the steps at both ends of the interval count
        changes += [{"low": guidance["low"] + 0.01}, {"high": guidance["high"] - 0.01}]
    for change in changes:
        other = settings.model_copy(update={"guidance": GuidanceConfig(**{**guidance, **change})})
        assert np.abs(sampler.images(other, indices, labels) - ours).max() > 1


def test_latents_are_ours_to_float32(pipeline, sampler):
    settings = SamplerConfig(sampler="euler", num_steps=10, seed=3)
    decoded = []
    sampler_decode, sampler.decode = sampler.decode, lambda z, *_: decoded.append(z)
    try:
        sampler.images(settings, range(3), np.array([0, 1, 2]))
    finally:
        sampler.decode = sampler_decode
    latents = pipeline(
        [0, 1, 2], num_inference_steps=10, guidance_scale=1, output_type="latent",
        latents=pipeline.initial_latents(3, range(3)),
    ).images  # fmt: skip
    torch.testing.assert_close(latents, decoded[0], rtol=1e-5, atol=1e-5)


def test_without_settings_a_call_does_what_was_exported(folder, sampler):
    pipeline = loaded(folder)
    settings = SamplerConfig(
        sampler="euler", num_steps=4, guidance={"scale": 2.5, "high": 0.75}, seed=1
    )
    ours = sampler.images(settings, range(2), np.array([2, 3])).astype(int)
    latents = pipeline.initial_latents(1, range(2))
    theirs = pipeline(["cat", "dog"], latents=latents, output_type="np", return_dict=False)[0]
    assert np.abs(np.rint(theirs * 255) - ours).max() <= 1
    drawn = [pipeline("cat", generator=torch.Generator().manual_seed(s)).images for s in (0, 0, 1)]
    assert np.array_equal(pixels(drawn[0]), pixels(drawn[1]))
    assert not np.array_equal(pixels(drawn[0]), pixels(drawn[2]))


@pytest.mark.parametrize("qk_norm", [True, False])
def test_the_network_is_saved_and_loaded_by_diffusers(tmp_path, qk_norm):
    backbone = randomise(SiT(SiTShape(**SHAPE, qk_norm=qk_norm)))
    SiTTransformer.of(backbone).save_pretrained(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    stored = load_file(file)
    assert stored.keys() == backbone.state_dict().keys()
    assert ("blocks.0.attn.q_norm.weight" in stored) is qk_norm
    again = SiTTransformer.from_pretrained(tmp_path)
    assert again.shape == backbone.shape
    x, t, labels = torch.randn(2, 4, 8, 8), torch.tensor([0.2, 0.9]), torch.tensor([1, 10])
    with torch.no_grad():
        assert torch.equal(again(x, t, labels), backbone(x, t, labels))


def test_it_computes_in_bfloat16(folder):
    pipeline = loaded(folder, dtype=torch.bfloat16)
    assert pipeline.transformer.dtype == pipeline.vae.dtype == torch.bfloat16
    assert pixels(pipeline([1, 2], num_inference_steps=3).images).std() > 10


# -- classes


def test_classes_are_numbers_names_lists_arrays_and_tensors(pipeline):
    assert pipeline.class_names == NAMES
    for classes in ([2, 3], ["cat", "dog"], ("cat", 3), np.array([2, 3]), torch.tensor([2, 3])):
        assert class_numbers(classes, 10, NAMES).tolist() == [2, 3]
    for one in (2, "cat", np.int64(2), torch.tensor(2)):
        assert class_numbers(one, 10, NAMES).tolist() == [2]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("cta", r"'cta' is not a class of the model \(allowed: 0 to 9, or a name as cat\)"),
        ([10], r"class 10 is not one of the model \(allowed: 0 to 9\)"),
        ([-1], "class -1 is not one of the model"),
        ([0.5], r"class 0\.5 is neither a number nor a name"),
        ([True], "class True is neither a number nor a name"),
        (torch.tensor([1.0]), r"class 1\.0 is neither"),
    ],
)
def test_unknown_classes_are_refused_with_the_known(pipeline, classes, message):
    with pytest.raises(UserError, match=message):
        pipeline(classes)


def test_a_name_of_several_classes_is_refused_with_their_numbers():
    with pytest.raises(
        UserError, match=r"'crane' is the name of several classes \(allowed: 1, 2\)"
    ):
        class_numbers("crane", 3, ("ox", "crane", "crane"))


# -- what cannot be exported, or sampled


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("euler-maruyama", "sampler: 'euler-maruyama' is an SDE, .* (allowed: euler)"),
        ("heun", "sampler: 'heun' is another method"),
        ("dopri5", "sampler: 'dopri5' is another method"),
    ],
)
def test_other_samplers_are_refused_by_name(tmp_path, weights, autoencoder, method, message):
    settings = SamplerConfig(sampler=method, num_steps=4)
    with pytest.raises(UserError, match=message.replace("(", r"\(").replace(")", r"\)")):
        export_pipeline(weights, tmp_path / "out", autoencoder=autoencoder, settings=settings)
    assert not list(tmp_path.iterdir())


def test_what_is_no_linear_sit_is_refused_by_name(tmp_path, autoencoder):
    cosine = write_weights(tmp_path / "cosine.safetensors", interpolant="cosine")
    with pytest.raises(UserError, match=r"'cosine' interpolant, .* the linear one"):
        export_pipeline(cosine, tmp_path / "out", autoencoder=autoencoder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cosine.safetensors"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": ("cat", "dog")}, "class names: 2 are given, .* has 10 classes"),
        ({"autoencoder": None}, r"--autoencoder: is needed, .*ema\.safetensors is not part of any"),
    ],
)
def test_what_does_not_fit_the_weights_is_refused(tmp_path, weights, autoencoder, options, message):
    with pytest.raises(UserError, match=message):
        export_pipeline(weights, tmp_path / "out", **{"autoencoder": autoencoder, **options})
    assert not list(tmp_path.iterdir())


def test_metrics_of_other_weights_and_full_folders_are_refused(tmp_path, weights, autoencoder):
    write_json(tmp_path / "other.json", result())
    with pytest.raises(UserError, match=r"other\.json: is about other weights, of digest cccccc"):
        export_pipeline(
            weights, tmp_path / "out", autoencoder=autoencoder, metrics=[tmp_path / "other.json"]
        )
    with pytest.raises(UserError, match=r"--output: .* exists"):
        export_pipeline(weights, tmp_path, autoencoder=autoencoder)
    assert [path.name for path in tmp_path.iterdir()] == ["other.json"]


def test_another_scheduler_is_refused_by_name(folder):
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

    pipeline = loaded(folder)
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    with pytest.raises(UserError, match=r"scheduler: stochastic_sampling is an SDE"):
        pipeline([1])
    pipeline.scheduler = DDIMScheduler()
    with pytest.raises(UserError, match=r"DDIMScheduler is not of this flow"):
        pipeline([1])
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)  # honoured: it is a choice
    latents = pipeline.initial_latents(0, range(1))
    shifted, plain = (p([1], latents=latents).images for p in (pipeline, loaded(folder)))
    assert not np.array_equal(pixels(shifted), pixels(plain))


def test_wrong_latents_and_outputs_are_refused(pipeline):
    with pytest.raises(UserError, match="latents: are 2x4x8x8, expected 1x4x8x8"):
        pipeline([1], latents=torch.zeros(2, 4, 8, 8))
    with pytest.raises(UserError, match="output_type: 'jpeg' is unknown"):
        pipeline([1], output_type="jpeg")


# -- nothing of a folder is executed


MODULE = SiTTransformer.__module__


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("_class_name", ["evil", "SiTPipeline"], r"holds a \['evil', 'SiTPipeline'\]"),
        ("_class_name", "DiTPipeline", "holds a 'DiTPipeline', expected is 'SiTPipeline'"),
        ("transformer", ["evil", "SiTTransformer"], r"transformer is \['evil'"),
        ("transformer", None, "transformer is None"),
        ("scheduler", ["diffusers", "DDIMScheduler"], "scheduler is"),
        ("vae", ["evil", "AutoencoderKL"], r"vae is \['evil'"),
        ("vae", ["diffusers", "UNet2DModel"], "allowed: an autoencoder of diffusers"),
        ("latent_scaling", {"scale": "x"}, r"damaged, latent_scaling\.scale\.\S+ is 'x' "),
        ("latent_scaling", [1], r"damaged, latent_scaling is \[1\] "),
        ("provenance", {"run": "sit"}, r"damaged, provenance\.seed is "),
        ("sampling", {"steps": 5}, r"damaged, sampling\.steps is 5 \(Extra"),
        ("sampling", {"num_inference_steps": 0}, r"damaged, sampling\.num_inference_steps is 0 "),
        ("sampling", {"guidance_interval": [0, 2]}, r"sampling\.guidance_interval\.1 is 2 "),
        ("sampling", {"guidance_scale": float("nan")}, r"sampling\.guidance_scale is nan "),
        ("sampling", {"uint8": "floor"}, r"damaged, sampling\.uint8 is 'floor' "),
        ("id2label", {"cat": "cat"}, r"damaged, id2label\.cat\.\[key\] is 'cat' "),
        ("id2label", {"0": 5}, r"damaged, id2label\.0 is 5 "),
    ],
)
def test_a_folder_of_other_classes_is_refused(folder, tmp_path, monkeypatch, key, value, message):
    """Even where the module that it names could be imported."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'harm')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    shutil.copytree(folder, tmp_path / "copy")
    index = tmp_path / "copy/model_index.json"
    index.write_text(json.dumps({**read_json(index), key: value}))
    with pytest.raises(UserError, match=message):
        SiTPipeline.from_pretrained(tmp_path / "copy")
    assert not (tmp_path / "harm").exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize(
    "name", [f"transformer/{MODULE}.py", "vae/diffusers.py", "SiTPipeline.py", "pipeline.py"]
)
def test_code_in_a_folder_is_not_executed(folder, tmp_path, name):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / name).write_text(f"open({str(tmp_path / 'harm')!r}, 'w')\n")
    with pytest.raises(UserError, match=r"holds code \(.*\.py\), which is never executed"):
        SiTPipeline.from_pretrained(tmp_path / "copy")
    for option in ("trust_remote_code", "custom_pipeline"):
        with pytest.raises(UserError, match=f"{option}: no code of a folder is executed"):
            SiTPipeline.from_pretrained(tmp_path / "copy", **{option: "pipeline"})
    assert not (tmp_path / "harm").exists()


def test_pickled_weights_are_not_read(folder, tmp_path, pipeline):
    shutil.copytree(folder, tmp_path / "copy")
    (file,) = (tmp_path / "copy/transformer").glob("*.safetensors")
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    with pytest.raises(OSError, match="safetensors"):
        SiTPipeline.from_pretrained(tmp_path / "copy")
    with pytest.raises(UserError, match="use_safetensors: weights are never unpickled"):
        SiTPipeline.from_pretrained(tmp_path / "copy", use_safetensors=False)
    with pytest.raises(UserError, match="safe_serialization: weights are never pickled"):
        pipeline.save_pretrained(tmp_path / "pickled", safe_serialization=False)


# -- the card and the hub


def test_the_card_says_what_the_weights_are(folder):
    card = ModelCard.load(folder / "README.md")
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "diffusers")
    (fid,) = [one for one in card.data.eval_results if one.metric_type == "fid"]
    assert (fid.metric_value, fid.dataset_name) == (9.25, "animals")
    assert "classifier" in fid.metric_name
    for words in (
        "# stage-2", "| data | animals |", "2: cat", "| steps | 3,000 |", "with normalised queries",
        "| FID | 9.25 | VIRTUAL_imagenet256_labeled.npz (50,000 images) | euler, 50 steps",
        "N = 50,000, classifier", "its FID is not an Inception FID", "SiTPipeline.from_pretrained",
    ):  # fmt: skip
        assert words in card.text, words


def test_the_card_of_imported_weights_claims_no_licence(tmp_path, autoencoder):
    imported = ImportedFrom(file="SiT-XL-2.pt", convention="data-at-1")
    weights = write_weights(tmp_path / "ema.safetensors", imported=imported)
    export_pipeline(weights, tmp_path / "out", autoencoder=autoencoder)
    card = ModelCard.load(tmp_path / "out/README.md")
    assert card.data.license == "other"
    assert card.data.eval_results is None
    for words in ("`SiT-XL-2.pt`", "Nothing was measured.", "That of whoever published"):
        assert words in card.text, words


def test_a_saved_pipeline_is_what_was_loaded(folder, tmp_path):
    pipeline = loaded(folder)
    pipeline.save_pretrained(tmp_path / "again")
    first, again = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (folder, tmp_path / "again")
    )
    assert first.keys() == again.keys()
    weights = [name for name in first if name.suffix == ".safetensors"]
    for name in ("README.md", *weights):
        assert first[type(weights[0])(name)] == again[type(weights[0])(name)], name


def test_the_hub_gets_the_folder_with_our_card(folder, tmp_path):
    pipeline = loaded(folder)
    with local_hub() as hub:
        pipeline.push_to_hub("me/animals", token="hf_x", commit_message="First")
        files = hub.repositories["me/animals"]
        ours = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert files.keys() == ours
        assert files["README.md"] == (folder / "README.md").read_bytes()
        assert hub.messages == ["First"]
        pipeline.save_pretrained(
            str(tmp_path / "saved"), push_to_hub=True, repo_id="me/saved", token="hf_x"
        )
        assert hub.repositories["me/saved"].keys() == ours
        assert hub.repositories["me/saved"]["README.md"] == files["README.md"]
        downloaded = loaded("me/animals", cache_dir=tmp_path / "cache", token="hf_x")
        latents = pipeline.initial_latents(0, range(2))
        for one in (downloaded, pipeline):
            assert one.class_names == NAMES
        first, second = (one([1, 2], latents=latents).images for one in (downloaded, pipeline))
        assert np.array_equal(pixels(first), pixels(second))
        files["pipeline.py"] = b"raise SystemExit"  # is not even fetched
        assert loaded("me/animals", cache_dir=tmp_path / "new", token="hf_x").class_names == NAMES
        assert not list((tmp_path / "new").rglob("*.py"))


# -- the command line


def test_the_command_line_exports(tmp_path, weights, autoencoder, metrics):
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n")
    words = ("export", weights, "--to", "diffusers", "--output", tmp_path / "out")
    more = ("--class-names", tmp_path / "names.txt", "--metrics", metrics, "--license", "mit")
    settings = json.dumps({"sampler": "euler", "num_steps": 6})
    ended = run_command(
        *words, "--autoencoder", autoencoder, *more, "--data", "animals",
        "--settings", settings,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    pipeline = loaded(tmp_path / "out")
    assert pipeline.class_names == NAMES
    assert pipeline.config.sampling["num_inference_steps"] == 6
    assert ModelCard.load(tmp_path / "out/README.md").data.license == "mit"


def test_the_command_line_refuses_in_one_line(tmp_path, weights, autoencoder):
    words = ("export", weights, "--output", tmp_path / "out")
    line = last_line(run_command(*words, "--license", "mit"))
    assert line == "error: --license: is of an export for diffusers (allowed: --to diffusers)"
    more = ("--to", "diffusers", "--autoencoder", autoencoder)
    settings = '{"sampler": "euler-maruyama"}'
    line = last_line(run_command(*words, *more, "--settings", settings))
    assert line.startswith("error: sampler: 'euler-maruyama' is an SDE")
    assert not list(tmp_path.iterdir())


def test_a_second_output_layer_stays_behind(tmp_path):
    """A pipeline has the model's velocity; Internal Guidance is refused before anything is read."""
    backbone = randomise(SiT(SiTShape(**SHAPE, intermediate_depth=2))).eval()
    transformer = SiTTransformer.of(backbone)
    given = torch.randn(2, 4, 8, 8), torch.tensor([0.2, 0.8]), torch.tensor([1, 10])
    with torch.no_grad():
        torch.testing.assert_close(transformer(*given), backbone(*given), rtol=0, atol=0)
    assert transformer.shape.intermediate_depth is None
    guided = SamplerConfig(sampler="euler", internal_guidance=InternalGuidanceConfig(scale=1.4))
    with pytest.raises(UserError, match=r"internal_guidance: scale: 1.4, a pipeline"):
        export_pipeline(
            tmp_path / "none.safetensors", tmp_path / "out", autoencoder="none", settings=guided
        )
