"""The content of a page: the results of an experiment, in tables, curves and sentences."""

from collections.abc import Mapping
from math import isfinite
from statistics import fmean
from typing import Any

import pandas as pd

from selftrans.config import Metric
from selftrans.evaluation.cautions import Footnotes, texts_in
from selftrans.evaluation.comparison import Curves, mean_and_std, total_seconds
from selftrans.evaluation.tables import METRIC_NAMES
from selftrans.plotting.axes import caution_notes
from workflow.lib.page.records import ShownRun, gpu_seconds
from workflow.lib.page.tables import (
    Table,
    curves,
    digits_of,
    duration,
    number,
    quantity,
    signed,
    with_spread,
)

Settings = Mapping[str, Any]
Json = dict[str, Any]

NETWORKS = {
    "classifier": "a small classifier trained on the same data",
    "inception": "Inception",
    "dinov2": "DINOv2 ViT-L/14",
    "clip": "CLIP, of pictures and their captions",
    "reader": "a small network that reads drawn scenes",
}
COST_NOTE = (
    "Means over seeds. Time is that of the trainings: the processor's on one thread of a CPU, else"
    " the wall's, with any jobs beside them. The teachers are those trained here. Operations (FLOP)"
    " are counted from the settings, a multiplication and an addition as two; a forward pass is of"
    " one sample."
)
HIGHER = (
    "is", "precision", "recall", "clip-score", "caption-accuracy", "held-out-accuracy",
)  # fmt: skip
"""Metrics that are better when higher."""


def labels_of(settings: Settings) -> dict[str, str]:
    """The runs' names in words, main runs first."""
    return {run["name"]: run["label"] for run in settings["runs"]}


def main_runs(settings: Settings) -> list[str]:
    """The runs that no grid made."""
    return [run["name"] for run in settings["runs"] if not run["grid"]]


def metrics_in_words(settings: Settings) -> str:
    """What is measured, against what."""
    parts = [
        f"{', '.join(METRIC_NAMES[metric] for metric in metrics)}"
        f" on the features of {NETWORKS[extractor]}"
        for extractor, metrics in settings["extractors"].items()
    ]
    return f"{'; '.join(parts)}; against {settings['reference'] or 'all images of the data set'}"


# -- what came out


def first_metric(settings: Settings) -> Metric:
    """The metric that stands first, in large."""
    return next(iter(settings["extractors"].values()))[0]


def cards(table: pd.DataFrame, settings: Settings) -> list[Json]:
    """The first metric of every main run at its last checkpoint, and how it compares."""
    metric = first_metric(settings)
    baseline, labels, digits = settings["baseline"], labels_of(settings), digits_of(metric)
    values = curves(table, settings["sampler"], metric)
    last = {
        run: (max(values[run]), mean_and_std(values[run][max(values[run])].values()))
        for run in main_runs(settings)
        if run in values
    }
    best = (max if metric in HIGHER else min)(last, key=lambda run: last[run][1][0], default=None)
    found = []
    for run, (step, (mean, deviation)) in last.items():
        compared = ""
        if run == baseline:
            compared = "baseline"
        elif baseline in last and last[baseline][0] == step:
            change = signed(mean - last[baseline][1][0], digits)
            compared = f"{change} from {labels[baseline]}"
        found.append({
            "run": run, "label": labels[run], "metric": METRIC_NAMES[metric],
            "value": number(mean, digits), "spread": number(deviation, digits),
            "details": list(filter(None, (f"{step:,} steps", compared))), "best": run == best,
        })  # fmt: skip
    return found


def findings(rows: pd.DataFrame | None, settings: Settings) -> list[str]:
    """What came out, in sentences.

    Args:
        rows: of ``comparison.csv``; None where nothing is trained.
        settings: of the page.
    """
    if rows is None or "fid_mean" not in rows:
        return []
    labels, baseline, main = labels_of(settings), settings["baseline"], main_runs(settings)
    by_run = {row["run"]: row for row in rows.to_dict("records") if row["run"] in main}
    if not by_run:
        return []
    best = min(by_run.values(), key=lambda row: row["fid_mean"])
    won = f"{labels[best['run']]} ends with the lowest FID, {best['fid_mean']:.2f}"
    sentences = [f"{won} after {best['step']:,} steps."]
    if baseline not in by_run:
        return sentences
    level = by_run[baseline]
    if best["run"] != baseline:
        sentences.append(
            f"{labels[baseline]} ends at {level['fid_mean']:.2f} after {level['step']:,} steps."
        )
    for run, row in by_run.items():
        if run == baseline:
            continue
        if not isfinite(row["steps_to_baseline"]):
            sentences.append(f"{labels[run]} does not reach the last FID of {labels[baseline]}.")
        elif row["speed_up"] > 1:
            sentences.append(
                f"{labels[run]} reaches the last FID of {labels[baseline]} after"
                f" {row['steps_to_baseline']:,.0f} steps: a speed-up of {row['speed_up']:.2f}."
            )
    return sentences


def cautions(table: pd.DataFrame, settings: Settings) -> list[str]:
    """How far the numbers of the cards carry, in sentences."""
    count = len(settings["seeds"])
    sentences = [
        "Every run was trained once: nothing is known of the spread between seeds."
        if count == 1
        else f"Numbers are means over {count} seeds; ± is their standard deviation."
    ]
    if "classifier" in settings["extractors"]:
        sentences.append(
            "The metrics rest on a small classifier of this data: they compare the runs of this"
            " page, and never with an Inception FID."
        )
    shown = table[table["samples"] == settings["sampler"]]
    notes = caution_notes(shown, [first_metric(settings)])
    return [*sentences, *settings["stand_ins"], *notes]


def comparison_rows(rows: pd.DataFrame, settings: Settings) -> Table:
    """The table of ``comparison.csv``: last checkpoint, difference, speed-up."""
    labels, baseline = labels_of(settings), settings["baseline"]
    records, notes = [], Footnotes()
    for row in rows.to_dict("records"):
        run = str(row["run"])
        record = {"Run": labels[run], "Steps": f"{row['step']:,}", "Seeds": str(row["seeds"])}
        for metric, name in (("fid", "FID"), ("is", "IS")):
            if f"{metric}_mean" in row:
                marks = notes.marks(texts_in(row.get(f"{metric}_cautions")))
                record[name] = with_spread(row[f"{metric}_mean"], row[f"{metric}_std"], 2) + marks
                record[f"Δ{name}"] = (
                    "" if run == baseline else signed(row[f"{metric}_difference"], 2)
                )
                low, high = (signed(row[f"{metric}_{end}"], 2) for end in ("low", "high"))
                if low and run != baseline:
                    record[f"Δ{name}, 95 % interval"] = f"{low} to {high}"
        if "speed_up" in row:
            record["Steps to baseline's FID"] = number(row["steps_to_baseline"], 0)
            record["Speed-up"] = f"{row['speed_up']:.2f}×" if isfinite(row["speed_up"]) else ""
        records.append(record)
    reading = (
        f"Δ: mean difference from {labels[baseline]} over pairs of the same seed."
        " The steps to the baseline's last FID are interpolated between checkpoints."
    )
    return Table.of_records(
        f"Last checkpoints, sampled with {settings['sampler']}",
        records,
        notes=[reading, *settings["stand_ins"], *notes.lines()],
    )


# -- cost


def training_hours(seconds: Curves, settings: Settings) -> Curves:
    """Hours up to each checkpoint with those of its teachers."""
    teachers = {run: list(map(tuple, given)) for run, given in settings["teachers"].items()}
    return {
        run: {
            step: {seed: value / 3600 for seed, value in seeds.items()}
            for step, seeds in steps.items()
        }
        for run, steps in total_seconds(seconds, teachers).items()
    }


def cost_table(
    records: list[ShownRun], seconds: Curves, parameters: Mapping[str, int], settings: Settings
) -> Table:
    """What every run took: size, operations, time."""
    hours = training_hours(seconds, settings)
    rows = []
    for run in settings["runs"]:
        name, row = run["name"], {"Run": run["label"]}
        row["Parameters"] = quantity(parameters[name]).strip()
        row["Forward pass, FLOP"] = quantity(run["forward_flop"]).strip()
        if name in seconds:
            last = max(seconds[name])
            spent = fmean(seconds[name][last].values())
            gpus = [gpu_seconds(one) for one in records if one.run == name]
            row |= {
                "Training, FLOP": quantity(run["training_flop"]).strip(),
                "Steps": f"{last:,}",
                "Time": duration(spent),
                "With teachers": duration(3600 * fmean(hours[name][last].values())),
                "Per step": duration(spent / last),
                "Images/s": f"{last * run['batch_size'] / spent:,.0f}",
            }
            known = [gpu for gpu in gpus if gpu is not None]
            if len(known) == len(gpus) and any(known):
                row["GPU-hours"] = number(fmean(known) / 3600, 1)
        rows.append(row)
    return Table.of_records("What every run took", rows, notes=[COST_NOTE])


# -- provenance


def checkpoint_table(records: list[ShownRun], settings: Settings) -> Table:
    """Digests of the last checkpoint of every run and seed."""
    labels, rows = labels_of(settings), []
    for one in records:
        row = {"Run": labels[one.run], "Seed": str(one.seed), "Steps": f"{one.steps[-1]:,}"}
        if not one.imported:
            record = one.record(one.steps[-1])
            row["Definition"] = str(record["fingerprint"])[:12]
            for weights, name in (("ema", "EMA weights"), ("raw", "Raw weights")):
                row[name] = str(record["digests"].get(weights, ""))[:12]
        rows.append(row | {"Folder": str(one.folder)})
    return Table.of_records(
        "Last checkpoints: beginnings of SHA-256 digests",
        rows,
        code=("Definition", "EMA weights", "Raw weights", "Folder"),
    )


def inputs_table(table: pd.DataFrame, headers: list[Json]) -> Table:
    """Digests of what trainings and metrics read."""
    latents = [header["latents"] for header in headers]
    columns = [
        ("Latents", [str(one.get("digest") or "")[:12] for one in latents]),
        ("Autoencoder", [str(one.get("autoencoder_digest") or "")[:12] for one in latents]),
        ("Decoder", list(map(str, table["decoder_digest"]))),
    ]
    rows = [[name, ", ".join(_unique(values))] for name, values in columns]
    for kind in ("extractor", "reference"):
        pairs = table[[kind, f"{kind}_digest"]].dropna().drop_duplicates()
        rows += [
            [f"{kind.capitalize()} {name}", str(digest)]
            for name, digest in pairs.itertuples(index=False)
        ]
    return Table(
        caption="What trainings and metrics read",
        head=["Input", "SHA-256"],
        rows=[row for row in rows if row[1]],
        code=("SHA-256",),
    )


def versions(table: pd.DataFrame, headers: list[Json]) -> list[str]:
    """Versions of the software that made samples and metrics, and weights."""
    trained = [f"selftrans {header['version']}" for header in headers if "version" in header]
    packages = [part for value in table["versions"].dropna() for part in str(value).split(", ")]
    return _unique([*trained, *packages])


def machines(records: list[ShownRun]) -> list[str]:
    """The machines that trained, in words."""
    found = []
    for one in records:
        for step in () if one.imported else one.steps:
            machine = one.record(step).get("machine")
            if isinstance(machine, Mapping):
                found.append(_machine(machine))
    return _unique(found)


def _machine(machine: Mapping[str, Any]) -> str:
    gpus = machine.get("gpus")
    device = f"{gpus} × {machine.get('gpu')}" if gpus else f"{machine.get('processor')}, no GPU"
    processes = machine.get("processes")
    shared = f", {processes} processes" if isinstance(processes, int) and processes > 1 else ""
    return f"{machine.get('host')}: {device}{shared}; {machine.get('system')}"


def commands(records: list[ShownRun]) -> list[str]:
    """The commands of the last segments, where they were recorded."""
    last = [one.record(one.steps[-1]) for one in records if not one.imported]
    return [str(record["command"]) for record in last if "command" in record]


def _unique(values: list[str]) -> list[str]:
    return [value for value in dict.fromkeys(values) if value]
