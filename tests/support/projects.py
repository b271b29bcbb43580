"""A project with the results of a tiny experiment, as the workflow would leave them."""

import os
import shutil
from pathlib import Path

import yaml

from selftrans.training.freeze import freeze_teacher
from tests.support import REPOSITORY
from tests.support.experiments import EVERY_METHOD, OTHER_METHODS, tiny_values
from tests.support.trainings import run
from workflow.lib.runs import write_records
from workflow.lib.study import Study

TAUGHT = "every-method"
"""The run of every method but the encoder that runs on images, which `repa` is for."""


def make_project(
    directory: Path, manifest: Path, autoencoder: str, encoder: Path, features: Path
) -> Path:
    """Train stage 1, freeze it, train SiT and a run of every method, to 4 steps each; no other.

    Latents, autoencoder and encoder are those given; returns the project's folder.
    """
    here = Path.cwd()
    shutil.copytree(REPOSITORY / "experiments/data", directory / "experiments/data")
    runs = {**tiny_values()["runs"], **EVERY_METHOD, "repa": OTHER_METHODS["repa-on-images"]}
    file = directory / "experiments/tiny.yaml"
    file.write_text(yaml.safe_dump(tiny_values(runs=runs), sort_keys=False))
    data = directory / "results/data/digits"
    for source, target in (
        (manifest.parent, "latents"),
        (Path(autoencoder), "autoencoder"),
        (features.parent, "features/stand-in"),
    ):
        shutil.copytree(source, data / target)
    (data / "encoders").mkdir()
    shutil.copy(encoder, data / "encoders/stand-in.safetensors")
    os.chdir(directory)
    try:
        study = Study.load({"experiments": ("tiny",)})
        study.write_resolved()
        write_records(study)
        results = Path("results/tiny/runs")
        inputs = {"features": features, "encoder": encoder}
        run(file, "vae-align", results / "vae-align/seed0", manifest, until=4)
        teacher = results / "vae-align/seed0/teachers/4-raw-depth3.safetensors"
        weights = results / "vae-align/seed0/checkpoints/4/raw.safetensors"
        freeze_teacher(weights, 3, teacher)
        for name in ("sit", TAUGHT):
            folder = results / name / "seed0"
            run(file, name, folder, manifest, until=4, teacher=teacher, **inputs)
    finally:
        os.chdir(here)
    return directory
