"""Internal Guidance: its loss and its samples by their formulas, and the layer in files."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from selftrans.alignment.internal_guidance import InternalGuidance
from selftrans.config import (
    ConfigError,
    GuidanceConfig,
    InternalGuidanceConfig,
    SamplerConfig,
    identity,
    load_experiment,
)
from selftrans.convert import export_checkpoint
from selftrans.evaluation.headline import setting_of
from selftrans.evaluation.tables import metrics_table, require_comparable
from selftrans.flow import sampler as samplers
from selftrans.models.sit import SiT, unpatchify
from selftrans.models.weights import load_backbone, load_exported, load_teacher
from selftrans.runtime.errors import UserError
from selftrans.runtime.headers import read_metadata
from selftrans.sampling.generate import describe
from selftrans.sampling.latents import sample_latents
from selftrans.training.freeze import freeze_teacher
from tests.support.experiments import FURTHER_METHODS
from tests.support.random_models import randomise
from tests.support.results import result
from tests.support.terms import TIMES, build, cosine, make_batch, tokens_of
from tests.support.trainings import run

CPU = torch.device("cpu")


INTERNAL = InternalGuidance(method="internal-guidance", depth=2)


def second_velocity(backbone, tokens, t, label):
    """What the second output layer makes of tokens (T, D), written out."""
    layer = backbone.intermediate_layer
    condition = backbone.embedding(t[None], label[None])[0]
    modulation = layer.adaLN_modulation[1]
    shift, scale = functional.linear(
        condition * torch.sigmoid(condition), modulation.weight, modulation.bias
    ).chunk(2)
    normal = (tokens - tokens.mean(1, keepdim=True)) / (
        tokens.var(1, unbiased=False, keepdim=True) + 1e-6
    ).sqrt()
    patches = functional.linear(
        normal * (1 + scale) + shift, layer.linear.weight, layer.linear.bias
    )
    return unpatchify(patches[None], backbone.shape)[0]


def test_internal_guidance_is_its_formula(shape):
    model, batch = build(shape, INTERNAL), make_batch()
    assert not list(model.alignment.parameters())
    denoising, term, cosines = model(batch)
    expected, similar = 0.0, []
    for i in range(len(TIMES)):
        tokens = tokens_of(model.backbone, batch, i, 2)
        condition = batch.dropped_condition_B[i]
        velocity = second_velocity(model.backbone, tokens, batch.t_B[i], condition)
        expected += (velocity - batch.velocity_BCHW[i]).square().mean()
        similar.append(cosine(velocity, batch.velocity_BCHW[i]))
    torch.testing.assert_close(term.double(), 0.5 * expected / len(TIMES), rtol=1e-6, atol=0)
    torch.testing.assert_close(cosines.double(), torch.stack(similar), rtol=1e-5, atol=1e-7)
    plain = model.backbone(batch.x_BCHW, batch.t_B, batch.dropped_condition_B)
    error = (plain.float() - batch.velocity_BCHW).square().mean()
    torch.testing.assert_close(denoising, error, rtol=1e-6, atol=0)


def test_the_second_output_layer_changes_no_other_weight(shape):
    """It begins at zero, and the backbone stays a function of the seed."""
    backbones = []
    for depth in (None, 2):
        torch.manual_seed(3)
        backbones.append(SiT(replace(shape, intermediate_depth=depth)))
    plain, second = (backbone.state_dict() for backbone in backbones)
    for name, tensor in plain.items():
        assert torch.equal(tensor, second.pop(name)), name
    assert {name.split(".")[0] for name in second} == {"intermediate_layer"}
    assert not any(tensor.any() for tensor in second.values())


@pytest.fixture
def guided(shape):
    """A model with a second output layer, random, in float64."""
    return randomise(SiT(replace(shape, intermediate_depth=2)).double(), seed=5).eval()


class Draws:
    """Noise that is what it is given."""

    def __init__(self, seed=0):
        self.rng = torch.Generator().manual_seed(seed)

    def __call__(self):
        return torch.randn(3, 4, 8, 8, generator=self.rng, dtype=torch.float64)


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_internal_guidance_samples_by_its_formula(guided, scale):
    """Euler's steps written out: both velocities are guided before CFG, each in its interval."""
    settings = SamplerConfig(
        sampler="euler", num_steps=5, guidance=GuidanceConfig(scale=scale, high=0.65),
        internal_guidance=InternalGuidanceConfig(scale=1.4, low=0.4, high=0.8),
    )  # fmt: skip
    labels = torch.tensor([1, 2, 3])
    found = sample_latents(Doubled(guided), settings, labels, Draws(), torch.tensor([10]))
    x = Draws()()
    with torch.no_grad():
        for step in range(5):
            t = 1 - step / 5
            times = torch.full((3,), np.float32(t).item(), dtype=torch.float64)

            def velocity(y, x=x, t=t, times=times):
                final = guided(x.float().double(), times, y)
                tokens = guided.features(x.float().double(), times, y, (2,))[2]
                parts = zip(tokens, times, y, strict=True)
                middle = torch.stack([second_velocity(guided, *part) for part in parts])
                return middle + 1.4 * (final - middle) if 0.4 - 1e-9 <= t <= 0.8 else final

            v = velocity(labels)
            if t <= 0.65 and scale != 1:
                v_u = velocity(torch.full((3,), 10))
                v = v_u + scale * (v - v_u)
            x = x - v / 5
    torch.testing.assert_close(found, x, rtol=1e-6, atol=1e-6)


class Doubled(SiT):
    """A backbone in float64 that a sampler's float32 state may come to."""

    def __init__(self, backbone):
        torch.nn.Module.__init__(self)
        self.__dict__.update(backbone.__dict__)

    def with_features(self, x, t, labels, depths):
        return super().with_features(x.double(), t.double(), labels, depths)


@pytest.mark.parametrize("sampler", ["heun", "euler-maruyama", "dopri5"])
def test_scale_1_of_internal_guidance_is_none(guided, sampler):
    """And another one is not; with every sampler, for each sample by its own time."""
    labels, found = torch.tensor([1, 2, 3]), []
    for scale in (None, 1.0, 1.4):
        settings = SamplerConfig(sampler=sampler, num_steps=400 if sampler == "dopri5" else 4)
        if scale is not None:
            internal = InternalGuidanceConfig(scale=scale, high=0.5)
            settings = settings.model_copy(update={"internal_guidance": internal})
        found.append(sample_latents(guided.float(), settings, labels, Draws(), torch.tensor([10])))
    assert torch.equal(found[0], found[1])
    assert (found[2] - found[0]).abs().max() > 1e-3


def test_internal_guidance_acts_on_each_sample_by_its_own_time(guided):
    """Of the batch of an adaptive sampler, whose samples are at times of their own."""
    internal = samplers.InternalGuidance(model=guided, scale=1.4, low=0.2, high=0.6)
    times = torch.tensor([0.1, 0.2, 0.6, 0.7], dtype=torch.float64)
    acts = internal.acts(times, 4, times.device)
    assert acts.tolist() == [False, True, True, False]
    assert internal.acts(0.3, 2, times.device).tolist() == [True, True]
    x, labels = torch.randn(4, 4, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    with torch.no_grad():
        final, middle = guided.both_velocities(x, times, labels)
        found = internal(x, times, labels, acts)
    expected = torch.stack([final[0], *(middle + 1.4 * (final - middle))[1:3], final[3]])
    torch.testing.assert_close(found, expected)


def test_a_model_without_the_layer_is_refused_in_one_line(shape):
    settings = SamplerConfig(sampler="euler", internal_guidance=InternalGuidanceConfig(scale=1.4))
    message = r"^internal_guidance: scale: 1.4, but the model has no second output layer \(allowed"
    with pytest.raises(UserError, match=message):
        sample_latents(SiT(shape), settings, torch.tensor([1]), Draws(), torch.tensor([10]))


def test_a_set_of_samples_that_is_not_guided_is_described_as_before():
    """So nobody's samples are drawn again."""
    plain = SamplerConfig(sampler="euler")
    internal = plain.model_copy(update={"internal_guidance": InternalGuidanceConfig(scale=1.4)})
    assert "internal_guidance" not in identity(plain, 1)
    assert "internal_guidance" in identity(internal, 1)
    checkpoint = SimpleNamespace(run="sit", seed=0, step=4, digest="0")
    source = SimpleNamespace(
        metadata=checkpoint, decoder_name="a", decoder_digest="1",
        conditions=SimpleNamespace(description={}),
    )  # fmt: skip
    assert "internal_guidance" not in describe(plain, source)
    assert describe(internal, source)["internal_guidance"]["scale"] == 1.4


def test_numbers_of_guided_samples_share_no_curve_with_others():
    """The table has a column, and the words of a setting say it; older sets say nothing: off."""
    guided = result()
    guided["samples"]["internal_guidance"] = {"scale": 1.4, "low": 0.0, "high": 0.7}
    table = metrics_table([("ode", result()), ("internal", guided)])
    assert list(table["internal_guidance"]) == ["off", "scale 1.4, t in 0 to 0.7"]
    with pytest.raises(UserError, match="internal_guidance"):
        require_comparable(table)
    words = [setting_of(row) for _, row in table.iterrows()]
    assert "internal" not in words[0]
    assert ", internal guidance scale 1.4, t in 0 to 0.7," in words[1]


def test_numbers_in_another_arithmetic_say_so():
    coarse = result()
    coarse["samples"]["precision"] = "bf16"
    table = metrics_table([("ode", result()), ("coarse", coarse)])
    words = [setting_of(row) for _, row in table.iterrows()]
    assert "fp32" not in words[0]
    assert ", in bf16," in words[1]


def with_internal_sampler(**changes):
    runs = {"sit": {}, "internal-guidance": FURTHER_METHODS["internal-guidance"]}
    guided = {"sampler": "euler", "num_steps": 2, "num_samples": 20}
    guided["internal_guidance"] = {"scale": 1.4}
    return {"runs": runs, "evaluation.samplers.internal": guided, **changes}


def test_its_sampler_is_for_runs_that_have_the_layer(tiny):
    experiment = load_experiment(tiny(**with_internal_sampler()))
    assert experiment.evaluated_steps("sit", "internal") == ()
    assert experiment.evaluated_steps("internal-guidance", "internal") == (4, 8)
    assert experiment.evaluated_steps("internal-guidance", "ode") == (4, 8)


TERM = FURTHER_METHODS["internal-guidance"]["alignment"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"runs": {"sit": {}}},
            r"evaluation\.samplers\.internal\.internal_guidance\.scale: no run trains a second",
        ),
        (
            {"runs.internal-guidance.alignment.stop_after": 4},
            r"runs\.internal-guidance\.alignment\.stop_after: 4 would leave the output layer",
        ),
        (
            {"runs.internal-guidance.alignment": [TERM, {**TERM, "depth": 3}]},
            r"runs\.internal-guidance\.alignment: two terms train a second output layer",
        ),
        (
            {"evaluation.samplers.internal.internal_guidance": {"scale": 2, "low": 1, "high": 0.5}},
            r"internal\.internal_guidance\.low: 1\.0 is above high 0\.5",
        ),
        (
            {"figures.sampler": "internal"},
            r"figures\.sampler: 'internal' samples no checkpoint of the baseline 'sit'",
        ),
    ],
)
def test_internal_guidance_that_cannot_be_is_one_line(tiny, changes, message):
    with pytest.raises(ConfigError, match=message) as refused:
        load_experiment(tiny(**with_internal_sampler(**changes)))
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_the_layer_is_averaged_and_exported_with_the_model(tiny, tmp_path, manifest):
    """With it in the file, samples are guided. A teacher that is cut from it has none."""
    runs = {"sit": {}, "internal-guidance": FURTHER_METHODS["internal-guidance"]}
    run(tiny(runs=runs), "internal-guidance", tmp_path / "run", manifest, until=4)
    files = {name: tmp_path / f"run/checkpoints/4/{name}.safetensors" for name in ("ema", "raw")}
    ema, raw = (load_backbone(file, CPU)[0] for file in files.values())
    assert ema.shape.intermediate_depth == raw.shape.intermediate_depth == 2
    averaged, trained = ema.intermediate_layer.linear.weight, raw.intermediate_layer.linear.weight
    assert 0 < averaged.norm() < trained.norm()  # zero at first, so the average lags behind
    settings = SamplerConfig(
        sampler="euler", num_steps=2, internal_guidance=InternalGuidanceConfig(scale=1.4)
    )
    assert (
        sample_latents(ema, settings, torch.tensor([1, 2, 3]), Draws(), torch.tensor([10]))
        .isfinite()
        .all()
    )
    freeze_teacher(files["raw"], 3, tmp_path / "teacher.safetensors")
    trunk, metadata = load_teacher(tmp_path / "teacher.safetensors", CPU)
    assert metadata.shape.intermediate_depth is None
    assert not [name for name in trunk.state_dict() if "intermediate" in name]
    export_checkpoint(files["ema"], tmp_path / "exported")
    again, _ = load_exported(tmp_path / "exported")
    assert torch.equal(again.intermediate_layer.linear.weight, averaged)
    run(tiny(), "sit", tmp_path / "sit", manifest, until=4)
    plain = read_metadata(tmp_path / "sit/checkpoints/4/ema.safetensors", "weights")
    assert "intermediate_depth" not in plain["shape"]
