"""Where results lie: every path of the workflow, as a template of its wildcards.

The same templates serve the rules, as patterns, and the library, which fills them in.
"""

from collections.abc import Iterable
from typing import Any, Protocol

from selftrans.runs import RUNS_FILE


class Wildcards(Protocol):
    """The wildcards of a job: Snakemake's object, or a dictionary."""

    def keys(self) -> Iterable[str]:
        """Names of the wildcards."""

    def __getitem__(self, name: str, /) -> Any:
        """Value of a wildcard."""


Job = dict[str, Any]
"""The wildcards of a job that is requested."""

DATASET = "results/data/{dataset}"
DATA_FILE = f"{DATASET}/data.yaml"
AUTOENCODER = f"{DATASET}/autoencoder"
AUTOENCODER_FILES = ("config.json", "diffusion_pytorch_model.safetensors")
LATENTS = f"{DATASET}/latents/manifest.json"
CAPTIONS = f"{DATASET}/captions/manifest.json"
DATASET_EVENTS = f"{DATASET}/tensorboard"
ENCODER = f"{DATASET}/encoders/{{encoder}}.safetensors"
ENCODER_BENCHMARK = f"{DATASET}/benchmarks/encoder-{{encoder}}.tsv"
ENCODER_FEATURES = f"{DATASET}/features/{{encoder}}/manifest.json"
FEATURES_BENCHMARK = f"{DATASET}/benchmarks/features-{{encoder}}.tsv"
CLASSIFIER = f"{DATASET}/extractors/classifier.safetensors"
READER = f"{DATASET}/reader.safetensors"
REFERENCE = f"{DATASET}/reference/{{extractor}}.npz"
REFERENCE_FEATURES = f"{DATASET}/reference/{{extractor}}-features.npy"
TUNED = "experiments/tuned/{experiment}.yaml"
SUBMITTED = "results/submitted"
GPU_CHECK = "results/gpu-check.json"
EXTRACTOR_WEIGHTS = "results/extractors/{extractor}.json"

EXPERIMENT = "results/{experiment}"
EXPERIMENT_FILE = f"{EXPERIMENT}/experiment.yaml"
RUNS = f"{EXPERIMENT}/{RUNS_FILE}"
EVENTS_OF_DATASET = f"{EXPERIMENT}/tensorboard"
REPORT = f"{EXPERIMENT}/report.html"
PAGE = f"{EXPERIMENT}/index.html"
METRICS_TABLE = f"{EXPERIMENT}/metrics.csv"
CAPTION_ACCURACY = f"{EXPERIMENT}/caption-accuracy.csv"
COMPARISON = f"{EXPERIMENT}/comparison.csv"
SIGNIFICANCE = f"{EXPERIMENT}/significance.csv"
DISCRIMINABILITY = f"{EXPERIMENT}/discriminability.csv"
EXAMPLES = f"{EXPERIMENT}/examples.npz"
FIGURES = f"{EXPERIMENT}/figures"
ENCODER_PROBES = f"{EXPERIMENT}/encoders/{{encoder}}/probes.csv"

RUN = f"{EXPERIMENT}/runs/{{run}}/seed{{seed}}"
EVENTS = f"{RUN}/tensorboard/evaluation"
CHECKPOINT = f"{RUN}/checkpoints/{{step}}"
WEIGHTS = f"{CHECKPOINT}/{{weights}}.safetensors"
HISTORY = f"{CHECKPOINT}/history.csv"
CHECKPOINT_RECORD = f"{CHECKPOINT}/checkpoint.json"
TEACHER = f"{RUN}/teachers/{{step}}-{{weights}}-depth{{depth}}.safetensors"
FEATURES = f"{RUN}/features/features.npz"
PROBES = f"{RUN}/features/probes.csv"

SAMPLES = f"{RUN}/samples/{{step}}/{{sampler}}-n{{number}}"
SAMPLE_IMAGES = f"{SAMPLES}/samples.npz"
FIRST_SAMPLES = f"{SAMPLES}/first.npz"
SAMPLES_DESCRIPTION = f"{SAMPLES}/samples.json"
STATISTICS = f"{SAMPLES}/{{extractor}}.npz"
SAMPLE_FEATURES = f"{SAMPLES}/{{extractor}}-features.npy"
FID_RESAMPLES = f"{SAMPLES}/{{extractor}}-{{resamples}}-resamples.json"
METRICS = f"{SAMPLES}/{{extractor}}.json"


def fill(template: str, wildcards: Wildcards, **others: Any) -> str:
    """A path: ``template`` with the wildcards of a job, and others over them."""
    return template.format(**{**wildcards, **others})


def unique(jobs: Iterable[Job]) -> list[Job]:
    """The jobs without repeats: what several experiments share is made once."""
    return list({tuple(job.items()): job for job in jobs}.values())
