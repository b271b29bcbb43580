"""Metric files -> tables: one row for each set of samples, every column of one kind."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from selftrans.config import Metric

METRIC_NAMES: dict[Metric, str] = {
    "fid": "FID",
    "sfid": "sFID",
    "is": "IS",
    "precision": "precision",
    "recall": "recall",
    "kid": "KID",
    "fd-dinov2": "FD-DINOv2",
}
SMALL = ("precision", "recall", "kid")  # metrics that need more digits


def metrics_table(results: Sequence[tuple[str, dict[str, Any]]]) -> pd.DataFrame:
    """One row for each metrics file, in order.

    Args:
        results: the name of the set of samples in the experiment, and the file's content.
    """
    return pd.DataFrame([_row(name, result) for name, result in results])


def _row(name: str, result: dict[str, Any]) -> dict[str, Any]:
    samples = result["samples"]
    return {
        "run": samples["checkpoint"]["run"],
        "seed": samples["checkpoint"]["seed"],
        "step": samples["checkpoint"]["step"],
        "samples": name,
        "sampler": samples["sampler"],
        "num_steps": samples["num_steps"],
        "guidance_scale": samples["guidance"]["scale"],
        "guidance_low": samples["guidance"]["low"],
        "guidance_high": samples["guidance"]["high"],
        "weights": samples["weights"],
        "num_samples": result["num_samples"],
        "sampling_seed": samples["seed"],
        "extractor": result["extractor"]["name"],
        "extractor_digest": result["extractor"]["digest"][:12],
        "checkpoint_digest": samples["checkpoint"]["digest"][:12],
        **result["metrics"],
    }


def read_metrics(path: str, samples: Sequence[str]) -> pd.DataFrame:
    """The rows of a ``metrics.csv`` of these sets of samples, whose names may look like numbers."""
    table = pd.read_csv(
        path, dtype={"run": str, "samples": str}, keep_default_na=False, na_values=[""]
    )
    return table[table["samples"].isin(list(samples))]


def metrics_markdown(table: pd.DataFrame, labels: Mapping[str, str]) -> str:
    """A table for each metric and sampler: runs in rows, steps in columns, means over seeds."""
    parts = []
    settings = ["samples", "sampler", "num_steps", "guidance_scale", "num_samples", "extractor"]
    for values, rows in table.groupby(settings, sort=False):
        name, sampler, num_steps, scale, count, extractor = values
        for metric in [name for name in METRIC_NAMES if name in rows and rows[name].notna().any()]:
            means = rows.pivot_table(index="run", columns="step", values=metric, aggfunc="mean")
            means = means.reindex([run for run in labels if run in means.index]).rename(
                index=dict(labels)
            )
            means.index.name = "run \\ steps"
            setting = f"{sampler}, {num_steps} steps, scale {scale:g}, N = {count}, {extractor}"
            title = f"{METRIC_NAMES[metric]} of `{name}` ({setting})"
            digits = ".4f" if metric in SMALL else ".2f"
            parts.append(f"**{title}**\n\n{means.to_markdown(floatfmt=digits)}\n")
    return "\n".join(parts)
