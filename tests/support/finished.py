"""The results of an experiment that was never run, for what only reads results."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from safetensors.numpy import save_file

from selftrans.data.examples import Examples
from selftrans.data.images import write_image_archive
from selftrans.evaluation.comparison import comparison_table
from selftrans.evaluation.tables import metrics_table, read_metrics
from selftrans.runtime.files import sha256_of, write_json, write_text
from selftrans.runtime.headers import FORMAT, KEY
from selftrans.runtime.seal import seal_of
from tests.support.results import result
from workflow.lib import paths
from workflow.lib.evaluation import Evaluation
from workflow.lib.figures import Figures
from workflow.lib.page.curves import HISTORY_NAMES
from workflow.lib.page.render import PageInputs
from workflow.lib.pages import Pages
from workflow.lib.runs import write_records
from workflow.lib.study import Study
from workflow.lib.training import Training

HIDDEN = {"alignment", "cosine", "alignment_gradient"}
"""Columns that a run without alignment has no values of."""


def fid(run: int, seed: int, step: int) -> float:
    """A falling curve for each run and seed."""
    return 120 / (1 + run) / (1 + step) ** 0.4 + 0.3 * seed


def seconds(run: int, step: int) -> float:
    """Time of a training up to a step."""
    return 0.5 * (1 + run) * step


class FinishedExperiment:
    """An experiment's results below the working directory, and its page's inputs.

    Args:
        study: with one experiment.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        (self.experiment,) = study.experiments.values()
        training, self.evaluation = Training(study, str), Evaluation(study)
        figures = Figures(study, training, self.evaluation)
        self.pages = Pages(study, figures, self.evaluation)
        self.wildcards = {"experiment": self.experiment.name}
        self.order = list(self.experiment.runs)
        write_records(study)
        segments = training.segments(self.experiment.name)
        for segment in segments:
            self._checkpoint(**segment)
        for path in map(Path, self.pages.weights(self.wildcards)):
            self._weights(path)
        for path in map(Path, self.pages.samples(self.wildcards)):
            self._samples(path)
        self._examples(Path(figures.examples(self.wildcards)))
        for index, path in enumerate(map(Path, self.pages.pictures(self.wildcards))):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (300, 150), (40 + 12 * index, 90, 160)).save(path)
        self._tables(segments, figures)

    def settings(self) -> dict[str, Any]:
        """What the page is told, as Snakemake hands it on."""
        return self.pages.settings(self.wildcards)

    def inputs(self) -> PageInputs:
        """The files of the page."""
        of, wildcards = self.pages, self.wildcards

        def files(listed: list[str]) -> list[Path]:
            return list(map(Path, listed))

        return PageInputs(
            runs=Path(paths.fill(paths.RUNS, wildcards)),
            metrics=Path(paths.fill(paths.METRICS_TABLE, wildcards)),
            comparison=files(of.comparison(wildcards)),
            probes=files(of.probes(wildcards)),
            figures=files(of.pictures(wildcards)),
            weights=files(of.weights(wildcards)),
            samples=files(of.samples(wildcards)),
            sample_keys=of.sample_keys(wildcards),
            examples=Path(of.figures.examples(wildcards)),
        )

    def _checkpoint(self, experiment: str, run: str, seed: int, step: int) -> None:
        job = {"experiment": experiment, "run": run, "seed": seed, "step": step}
        aligned, index = bool(self.experiment.runs[run].alignments), self.order.index(run)
        steps = range(2, step + 1, 2)
        values = {
            column: [
                0.0 if column == "alignment" and not aligned
                else math.nan if column in HIDDEN and not aligned
                else 1.2 / (1 + at) ** 0.2 + 0.1 * index + 0.02 * seed
                for at in steps
            ]
            for column in HISTORY_NAMES
        }  # fmt: skip
        history = Path(paths.fill(paths.HISTORY, job))
        write_text(history, pd.DataFrame({"step": steps, **values}).to_csv(index=False))
        record = {
            "fingerprint": "d" * 64, "step": step, "after": 0, "seconds": seconds(index, step),
            "digests": {"ema": "e" * 64, "raw": "f" * 64, "history": sha256_of(history)},
            "machine": {
                "host": "node1", "system": "Linux", "processor": "a processor", "gpus": 4,
                "gpu": "NVIDIA A100", "processes": 4,
            },
            "command": f"selftrans train --run {run} --seed {seed} --until {step}",
        }  # fmt: skip
        write_json(Path(paths.fill(paths.CHECKPOINT_RECORD, job)), record)

    def _weights(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        latents = {"digest": "1" * 64, "scale": 1.0, "shift": 0.0, "autoencoder_digest": "2" * 64}
        header = {"format": FORMAT, "kind": "weights", "version": "1.2.3", "latents": latents}
        sealed = {KEY: json.dumps({**header, "seal": seal_of(header)})}
        save_file({"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float32)}, path, sealed)

    def _samples(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(int(path.parts[-3]))
        images = random.integers(0, 256, (30, 32, 32, 3), np.uint8)
        write_image_archive(path, [images], np.arange(30) % 10)

    def _examples(self, path: Path) -> None:
        images = np.zeros((10, 8, 8, 3), np.uint8)
        names = tuple(map(str, range(10)))
        Examples(classes=np.arange(10), reconstructed=images, real=images, class_names=names).save(
            path
        )

    def _tables(self, segments: list[dict[str, Any]], figures: Figures) -> None:
        samplers = self.experiment.evaluation.samplers
        results = []
        for job in self.evaluation.sample_sets(self.experiment.name):
            sampler = samplers[job["sampler"]]
            index = self.order.index(job["run"])
            value = fid(index, job["seed"], job["step"]) / sampler.guidance.scale
            one = result(job["run"], job["step"], job["seed"], value, sampler=sampler.sampler)
            one["metrics"] = {"fid": value, "is": 100 / value}
            results.append((job["sampler"], one))
        name = self.wildcards
        table_file = Path(paths.fill(paths.METRICS_TABLE, name))
        write_text(table_file, metrics_table(results).to_csv(index=False))
        shown = read_metrics(str(table_file), [self.experiment.figures.sampler])
        spent: dict[str, dict[int, dict[int, float]]] = {}
        for one in segments:
            of_step = spent.setdefault(one["run"], {}).setdefault(one["step"], {})
            of_step[one["seed"]] = seconds(self.order.index(one["run"]), one["step"])
        for path in self.pages.comparison(name):
            trained = shown[shown["run"].isin(list(spent))]
            teachers = figures.teachers_of_runs(name)
            rows = comparison_table(trained, spent, teachers, self.experiment.baseline)
            write_text(Path(path), rows.to_csv(index=False))
        for path in self.pages.probes(name):
            rows = [
                {"kind": "block", "name": "", "block": block, "t": t, "label_given": False,
                 "linear": 0.5 + 0.1 * block, "knn": 0.4, "test_images": 179, "run": run,
                 "seed": seed}
                for run in self.experiment.main_runs
                for seed in self.experiment.seeds
                for block in (1, 2)
                for t in (0.1, 0.5)
            ]  # fmt: skip
            write_text(Path(path), pd.DataFrame(rows).to_csv(index=False))
