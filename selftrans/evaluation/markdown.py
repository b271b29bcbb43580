"""Tables in Markdown: of metrics, and of anything."""

import re
from collections.abc import Mapping
from math import isnan
from typing import Any

import pandas as pd

from selftrans.config import Metric
from selftrans.evaluation.cautions import Footnotes, caution_texts
from selftrans.evaluation.tables import METRIC_NAMES, mean_spread

SMALL = ("precision", "recall", "kid")  # metrics that need more digits
KID_NOTE = "KID ± its standard deviation over random subsets of the images."


def markdown_table(table: pd.DataFrame, **options: Any) -> str:
    """A table in Markdown, in which a cell's own bars and brackets mean nothing.

    Args:
        table: the cells.
        options: of ``pandas.DataFrame.to_markdown``.
    """
    escaped = table.map(_escaped).rename(index=_escaped, columns=_escaped)
    return str(escaped.to_markdown(**options))


def metric_cell(metric: Metric, rows: pd.DataFrame, notes: Footnotes) -> str:
    """A metric's mean over some rows with its spread and marks; empty where it was not measured."""
    measured = rows[rows[metric].notna()] if metric in rows else rows[:0]
    if measured.empty:
        return ""
    digits = 4 if metric in SMALL else 2
    cell = f"{measured[metric].mean():.{digits}f}"
    if not isnan(spread := mean_spread(metric, measured)):
        cell += f" ± {spread:.{digits}f}"
    return cell + notes.marks(caution_texts(measured.to_dict("records"), [metric]))


def _escaped(value: Any) -> Any:
    if isinstance(value, float) and isnan(value):
        return ""
    return re.sub(r"([|<])", r"\\\1", value) if isinstance(value, str) else value


def metrics_markdown(table: pd.DataFrame, labels: Mapping[str, str]) -> str:
    """A table for each metric and sampler: runs in rows, steps in columns, means over seeds."""
    parts, notes = [], Footnotes()
    settings = ["samples", "sampler", "num_steps", "guidance_scale", "num_samples", "extractor"]
    for values, rows in table.groupby(settings, sort=False):
        name, sampler, num_steps, scale, count, extractor = values
        setting = f"{sampler}, {num_steps} steps, scale {scale:g}, N = {count}, {extractor}"
        for metric in [name for name in METRIC_NAMES if name in rows and rows[name].notna().any()]:
            measured = rows[rows[metric].notna()]
            steps = sorted(measured["step"].unique())
            lines = []
            for run in [run for run in labels if run in set(measured["run"])]:
                of_run = measured[measured["run"] == run]
                at = {step: of_run[of_run["step"] == step] for step in steps}
                cells = {f"{step}": metric_cell(metric, at[step], notes) for step in steps}
                lines.append({"run \\ steps": labels[run], **cells})
            title = f"{METRIC_NAMES[metric]} of `{name}` ({setting})"
            options = {"index": False, "disable_numparse": True, "stralign": "right"}
            text = markdown_table(pd.DataFrame(lines), colalign=("left",), **options)
            parts.append(f"**{title}**\n\n{text}\n")
    kid = "kid" in table and table["kid"].notna().any()
    parts += [f"{KID_NOTE}\n"] if kid else []
    return "\n".join(parts) + str(notes)
