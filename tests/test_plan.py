"""The plan: counted operations against torch's counter, jobs against Snakemake's own."""

import os
import re
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from selftrans.config import (
    BackboneConfig,
    MMDiTConfig,
    PretrainedEncoderConfig,
    SamplerConfig,
    TimeRangeConfig,
    TrainedAutoencoderConfig,
    TrainingConfig,
    load_dataset,
    load_experiment,
)
from selftrans.data.writer import StoreWriter
from selftrans.evaluation.inception import inception_network
from selftrans.flops import (
    DECODER_FLOP,
    DINOV2,
    ENCODER_FLOP,
    EXTRACTOR_FLOP,
    _timm_encoder,
    encoder_output,
    forward_flop,
    parameters,
    share_in_range,
)
from selftrans.flow.interpolant import INTERPOLANTS, sample_time
from selftrans.flow.times import velocity_passes
from selftrans.models.mmdit import MMDiTTrunk
from selftrans.models.shape import SiTShape
from selftrans.models.sit import SiT
from selftrans.runtime.errors import UserError
from selftrans.runtime.random import Stream, generator
from selftrans.sampling.latents import SampleNoise, sample_latents
from tests.support import REPOSITORY
from tests.support.programs import peak_of, run_command
from tests.support.warm import warm_environment
from workflow.lib.memory import sampling_memory, training_memory
from workflow.lib.plan import Plan, parse_rates, report
from workflow.lib.settings import RatesConfig
from workflow.lib.study import Study
from workflow.lib.work import captions_bytes

EXPERIMENTS = sorted(path.stem for path in (REPOSITORY / "experiments").glob("*.yaml"))
MANY_SEEDS = {"scenes-methods", "scenes-methods-more"}


def plan_of(*references, rates=None, **settings):
    return Plan(Study.load({"experiments": tuple(map(str, references)), **settings}), rates)


def counted(function, *arguments):
    with FlopCounterMode(display=False) as counter:
        function(*arguments)
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("preset", "qk_norm"),
    [
        ("SiT-S/2", True),
        *(
            pytest.param(preset, qk_norm, marks=pytest.mark.slow)
            for preset in ("SiT-B/4", "SiT-B/2", "SiT-XL/2")
            for qk_norm in (True, False)
        ),
    ],
)
def test_operations_and_parameters_are_those_of_the_network(preset, qk_norm):
    model, latent_shape = BackboneConfig.from_preset(preset, qk_norm=qk_norm), (4, 32, 32)
    with torch.device("meta"):
        backbone = SiT(SiTShape.of(model, latent_shape, 1000))
        inputs = torch.zeros(1, *latent_shape), torch.zeros(1), torch.zeros(1, dtype=torch.long)
    assert parameters(model, latent_shape, 1000) == sum(
        parameter.numel() for parameter in backbone.parameters()
    )
    assert forward_flop(model, latent_shape) == pytest.approx(counted(backbone, *inputs), rel=1e-3)
    of_half = counted(lambda *given: backbone.features(*given, [model.depth // 2]), *inputs)
    assert forward_flop(model, latent_shape, model.depth // 2) == pytest.approx(of_half, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "latent_shape", "context_shape"),
    [
        pytest.param({}, (4, 32, 32), (77, 768), marks=pytest.mark.slow),
        ({"depth": 4, "qk_norm": True}, (4, 32, 32), (77, 768)),
        (
            {"depth": 3, "hidden_size": 96, "num_heads": 3, "mlp_ratio": 2.5, "patch_size": 1},
            (4, 8, 8),
            (24, 32),
        ),
    ],
)
def test_operations_and_parameters_of_a_backbone_for_captions(changes, latent_shape, context_shape):
    """Also of its teacher, which is cut."""
    model = MMDiTConfig.from_preset("MMDiT-24x768/2", **changes)
    half = max(2, model.depth // 2)
    with torch.device("meta"):
        backbone = model.build(latent_shape, context_shape)
        teacher = MMDiTTrunk(replace(backbone.shape, depth=half))
        inputs = torch.zeros(1, *latent_shape), torch.zeros(1), torch.zeros(1, *context_shape)
    assert parameters(model, latent_shape, context_shape) == sum(
        parameter.numel() for parameter in backbone.parameters()
    )
    for blocks, network in ((None, backbone), (half, teacher.tokens)):
        planned = forward_flop(model, latent_shape, blocks, context_shape)
        assert planned == pytest.approx(counted(network, *inputs), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("size", [256, 512])
def test_operations_of_the_published_autoencoder(size):
    from diffusers import AutoencoderKL

    levels = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    with torch.device("meta"):
        autoencoder = AutoencoderKL(
            **levels, block_out_channels=(128, 256, 512, 512), layers_per_block=2
        )
        image, latent = torch.zeros(1, 3, size, size), torch.zeros(1, 4, size // 8, size // 8)
    assert counted(autoencoder.encode, image) == pytest.approx(ENCODER_FLOP * size**2, rel=0.03)
    assert counted(autoencoder.decode, latent) == pytest.approx(DECODER_FLOP * size**2, rel=0.03)


@pytest.mark.slow
def test_published_encoders_are_those_of_timm():
    """What is known of DINOv2 without timm."""
    data = load_dataset("imagenet256")
    for name in DINOV2:
        encoder = PretrainedEncoderConfig(kind="pretrained", model=f"{name}.lvd142m")
        known = data.model_copy(update={"encoders": {"known": encoder}})
        assert encoder_output(known, "known") == _timm_encoder(encoder.model, 224)


@pytest.mark.slow
def test_operations_of_the_extractors():
    import timm

    with torch.device("meta"):
        inception = inception_network().eval()
        dinov2 = timm.create_model("vit_large_patch14_dinov2", img_size=224, num_classes=0)
        found = (
            counted(inception, torch.zeros(1, 3, 299, 299)),
            counted(dinov2, torch.zeros(1, 3, 224, 224)),
        )
    assert found == (
        pytest.approx(EXTRACTOR_FLOP["inception"], rel=0.05),
        pytest.approx(EXTRACTOR_FLOP["dinov2"], rel=0.05),
    )


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        ({"sampler": "euler", "num_steps": 50}, 50),
        ({"sampler": "heun", "num_steps": 50}, 99),
        ({"sampler": "euler-maruyama", "num_steps": 250}, 250),
        ({"sampler": "euler", "num_steps": 50, "guidance": {"scale": 2.0}}, 100),
        # t = 1, 0.98, ... 0.02: half of them are not above 0.5, and 0.5 is one of these.
        ({"sampler": "euler", "num_steps": 50, "guidance": {"scale": 2.0, "high": 0.5}}, 75),
        # Steps from 0.5 on are guided in both evaluations, the last one has one.
        (
            {"sampler": "heun", "num_steps": 4, "guidance": {"scale": 2.0, "high": 0.5}},
            2 + 2 + 4 + 2,
        ),
    ],
)
def test_passes_of_a_sampler(settings, passes):
    """By hand, by the formula, and by letting it run."""
    sampler, run = SamplerConfig.model_validate(settings), []

    def velocity(x_BCHW, t_B, condition_B):
        run.extend(condition_B)
        return torch.zeros_like(x_BCHW)

    noise = SampleNoise(0, range(1), (1, 1, 1), torch.device("cpu"))
    sample_latents(velocity, sampler, torch.zeros(1, dtype=torch.long), noise, torch.ones(1))
    guidance = sampler.guidance
    planned = velocity_passes(
        sampler.sampler, sampler.num_steps, guidance.scale, guidance.low, guidance.high
    )
    assert len(run) == planned == passes


@pytest.mark.workflow
def test_jobs_are_those_that_snakemake_would_run(tmp_path):
    """All shipped experiments together, none of whose data but the digits' are there.

    Two seeds stand for ten, which would be 4,000 further jobs.
    """
    few = tmp_path / "few.yaml"
    few.write_text("{extends: scenes-methods-more, seeds: [0, 1]}")
    chosen = [name for name in EXPERIMENTS if name not in MANY_SEEDS] + [str(few)]
    words = [
        "snakemake",
        "-n",
        "--cores",
        "8",
        "--directory",
        str(tmp_path),
        "--snakefile",
        str(REPOSITORY / "Snakefile"),
    ]
    for name in ("experiments", "config.yaml"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    words += ["--config", f"experiments=[{','.join(chosen)}]"]
    environment = {**os.environ, **warm_environment()}
    result = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    jobs = dict(
        re.findall(
            r"^([a-z_]+) +(\d+)$",
            result.stdout.split("Job stats:")[1].split("\n\n")[0],
            re.MULTILINE,
        )
    )
    found = {rule: int(count) for rule, count in jobs.items() if rule not in ("all", "total")}
    found["train_segment"] += found.pop("train_segment_on_nodes", 0)
    found["generate_samples"] += found.pop("generate_temporary_samples")
    light = ("table", "caption_accuracy", "experiment_page")
    plotted = [rule for rule in found if rule.startswith("plot_") or rule in light]
    found["tables, figures, pages"] = sum(found.pop(rule) for rule in plotted)
    planned = plan_of(*chosen).costs
    assert {rule: cost.jobs for rule, cost in planned.items() if cost.jobs} == found


def test_the_table_says_what_a_known_experiment_takes():
    """By hand: five runs of B/2, 400,000 steps of 256 samples, forward and backward.

    The teachers, of two thirds of the depth, see every sample with and without label, and three in
    ten, for 100,000 steps, in TF32.
    """
    found = plan_of("imagenet256-b2")
    forward = forward_flop(BackboneConfig.from_preset("SiT-B/2"), (4, 32, 32))
    assert forward / 2 == pytest.approx(23.0e9, rel=0.02)  # multiply-adds, DiT's paper (table 4)
    training = found.costs["train_segment"]
    taught = (1 + 0.3) * 2 * (2 / 3) * forward * 256 * 100_000
    backbones = 5 * 3 * forward * 256 * 400_000
    assert 1 < (training.flop - taught) / backbones < 1.1  # and the heads
    slower = taught / 50e12 - taught / 100e12
    assert training.gpu_hours * 3600 == pytest.approx(training.flop / 100e12 + slower, rel=1e-3)
    assert found.costs["extract_latents"].bytes == pytest.approx(1281167 * 2 * 4 * 32 * 32 * 2)
    twice = plan_of("imagenet256-b2", rates=parse_rates("bf16=200,tf32=100", RatesConfig()))
    assert twice.costs["train_segment"].gpu_hours == pytest.approx(training.gpu_hours / 2)
    assert "train_segment              25" in report(found)


def test_the_command_line_reads_the_configuration(tmp_path):
    config = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    config |= {"experiments": ["imagenet256-b2"], "data": {"imagenet256": {"images": 1000}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    result = run_command("plan", "--config", tmp_path / "config.yaml")
    latents = next(
        line for line in result.stdout.splitlines() if line.startswith("extract_latents")
    )
    assert latents.split()[-1] == "0.016"  # 1,000 of 16 KiB each
    assert result.stdout.splitlines()[0].split() == ["rule", "jobs", "PFLOP", "GPU", "hours", "GB"]


def test_what_cannot_be_planned_is_said(tiny):
    with pytest.raises(UserError, match="--rates: 'int8=3' is not a rate"):
        parse_rates("int8=3", RatesConfig())
    with pytest.raises(UserError, match="data 'imagenet256': images: is needed to plan"):
        plan_of("imagenet256-b2", data={"imagenet256": {"images": None}})


@pytest.mark.slow
def test_an_encoder_on_images_costs_its_passes(tiny):
    """DINOv2 ViT-B/14 at 224: 86 million weights in its blocks, 256 tokens."""
    runs = {
        f"repa-{how}": {
            "alignment": {"method": "repa", "encoder": "dinov2-b", "depth": 4, "features": how}
        }
        for how in ("store", "images")
    }
    costs = [
        plan_of(tiny(data="imagenet256", runs={name: run})).costs["train_segment"].flop
        for name, run in runs.items()
    ]
    assert costs[1] - costs[0] == pytest.approx(8 * 8 * 2 * 256 * 85e6, rel=0.02)


@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_the_share_of_samples_in_range_is_that_of_the_drawn_times(path):
    training = TrainingConfig(checkpoints=(100,), interpolant=path, time_sampling="log-normal")
    times = [
        sample_time(generator(0, Stream.BATCH, 0, k), INTERPOLANTS[path], "log-normal")
        for k in range(4000)
    ]
    sampled = np.mean([(t >= 0.4) & (t <= 0.7) for t in times])
    assert share_in_range(TimeRangeConfig(), training) == pytest.approx(sampled, abs=0.03)
    assert share_in_range(TimeRangeConfig(), TrainingConfig(checkpoints=(100,))) == pytest.approx(
        0.3
    )


TRAINING = """
from selftrans.cli import main
main()
"""
SAMPLING = """
import torch
from selftrans.config import BackboneConfig, SamplerConfig
from selftrans.sampling.latents import SampleNoise, sample_latents
from selftrans.models.shape import SiTShape
from selftrans.models.sit import SiT

network = SiT(SiTShape.of(BackboneConfig.from_preset("SiT-S/2"), (4, 32, 32), 1000)).eval()
noise = SampleNoise(0, range(24), (4, 32, 32), torch.device("cpu"))
sampler = SamplerConfig(sampler="euler", num_steps=2, guidance={"scale": 2.0})
sample_latents(network, sampler, torch.zeros(24, dtype=torch.long), noise, torch.full((1,), 1000))
"""


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 6])
def test_memory_requested_for_a_training_is_what_it_takes(tmp_path, tiny, batch_size):
    """Megabytes of SiT-S/2 at ImageNet's size on a CPU: never more than requested, and most of it.

    The optimizer's moments come into being after the first step's gradient. From the second step
    on, all is held at once.
    """
    writer = StoreWriter(tmp_path / "store", {}, 16, shard_size=16)
    writer.write(0, np.random.default_rng(0).uniform(0.1, 1, (16, 2, 4, 32, 32)).astype(np.float16))
    writer.finish(
        np.arange(16), class_names=tuple(map(str, range(1000))), latent_shape=(4, 32, 32),
        image_size=256, dtype="float16", scale=0.18215, shift=0.0, scale_origin="autoencoder",
    )  # fmt: skip
    training = {"checkpoints": [2], "batch_size": batch_size, "log_every": 1}
    path = tiny(
        data="imagenet256", model={"preset": "SiT-S/2"}, training=training, runs={"sit": {}},
        **{"figures.sample_checkpoints": [2]},
    )  # fmt: skip
    words = [
        path,
        "--run",
        "sit",
        "--seed",
        0,
        "--until",
        2,
        "--latents",
        tmp_path / "store/manifest.json",
    ]
    peak, _ = peak_of(TRAINING, "train", *words, "--directory", tmp_path / "run")
    experiment = load_experiment(path)
    requested = training_memory(experiment, experiment.runs["sit"], workers=1, nodes=1, gpu=False)
    assert 0.6 * requested < peak / 1e6 < requested


@pytest.mark.slow
def test_memory_requested_for_sampling_is_what_it_takes(tiny):
    """Without its decoder, which would need most."""
    found = load_experiment(tiny(data="imagenet256", model={"preset": "SiT-S/2"}, runs={"sit": {}}))
    small = TrainedAutoencoderConfig(kind="trained", block_channels=(32, 32, 32, 32))
    experiment = found.model_copy(
        update={"data": found.data.model_copy(update={"autoencoder": small})}
    )
    assert experiment.data.latent_shape == (4, 32, 32)
    requested = sampling_memory(experiment, experiment.runs["sit"], 1, False, 24)
    peak, _ = peak_of(SAMPLING)
    assert 0.35 * requested < peak / 1e6 < requested  # a CPU runs large batches in parts
    assert requested - sampling_memory(experiment, experiment.runs["sit"], 1, False, 8) >= 200


def test_the_captions_of_coco_take_49_gigabytes():
    """Of 77 tokens of 768 in half precision, with those of the empty caption."""
    found = captions_bytes(load_dataset("coco256"))
    assert found == (414_113 + 1) * 77 * 768 * 2
    assert round(found / 1e9) == 49
