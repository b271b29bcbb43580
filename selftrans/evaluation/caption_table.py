"""What samples show of their captions, attribute by attribute: one row for each set of samples."""

from collections.abc import Mapping, Sequence
from math import nan
from typing import Any

import pandas as pd

from selftrans.evaluation.cautions import Footnotes, texts_in
from selftrans.evaluation.tables import metrics_table
from selftrans.runtime.errors import UserError

WHOLE = "whole caption"
GROUPS = {
    "all": "all captions",
    "seen": "captions without a held-out combination",
    "held_out": "captions with a held-out combination",
}
READERS = {"all": "reader_accuracy", "held_out": "reader_held_out_accuracy"}
"""Where the reader's own accuracy on real scenes of a group stands."""


def caption_table(results: Sequence[tuple[str, dict[str, Any]]]) -> pd.DataFrame:
    """Accuracies in per cent, with Wilson's interval of 95 %, and what there is by chance.

    Args:
        results: the name of the set of samples in the experiment, and the metrics file's content.

    Raises:
        UserError: a file holds no accuracies.
    """
    return pd.DataFrame([row for name, result in results for row in _rows(name, result)])


def _rows(name: str, result: dict[str, Any]) -> list[dict[str, Any]]:
    if not isinstance(accuracy := result.get("accuracy"), Mapping):
        raise UserError(f"metrics of {name}: hold no accuracies of captions")
    checkpoint = result["samples"]["checkpoint"]
    cautions = metrics_table([(name, result)])["cautions"].iloc[0]
    where = {key: checkpoint[key] for key in ("run", "seed", "step")} | {"samples": name}
    return [
        where
        | {
            "captions": group,
            "aspect": aspect,
            **{key: 100 * found[key] for key in ("share", "low", "high", "chance")},
            "total": found["total"],
            "reader": 100 * accuracy[READERS[group]] if group in READERS else nan,
            "cautions": cautions,
        }
        for group in GROUPS
        for aspect, found in accuracy[group].items()
    ]


def caption_markdown(table: pd.DataFrame, labels: Mapping[str, str]) -> str:
    """The last checkpoint of every run, means over seeds, to read.

    Args:
        table: of ``caption_table``.
        labels: the runs, in order, with their names.
    """
    parts, notes = ["# What samples show of their captions", ""], Footnotes()
    for (samples, group), rows in table.groupby(["samples", "captions"], sort=False):
        aspects = list(dict.fromkeys(rows["aspect"]))
        title = f"`{samples}`: {GROUPS[str(group)]}, in per cent"
        lines = [f"| | steps | {' | '.join(aspects)} |", "|---" * (len(aspects) + 2) + "|"]
        for run in [run for run in labels if run in set(rows["run"])]:
            of_run = rows[rows["run"] == run]
            step = of_run["step"].max()
            last = of_run[of_run["step"] == step]
            means = last.groupby("aspect")["share"].mean()
            marks = notes.marks(texts_in(*last["cautions"]))
            cells = " | ".join(f"{means[aspect]:.1f}{marks}" for aspect in aspects)
            lines.append(f"| {labels[run]} | {step:,} | {cells} |")
        chance = rows.groupby("aspect")["chance"].mean()
        cells = " | ".join(f"{chance[aspect]:.3g}" for aspect in aspects)
        lines.append(f"| by chance | | {cells} |")
        if group in READERS:
            reader = rows[rows["aspect"] == WHOLE]["reader"].mean()
            cells = " |" * (len(aspects) - 1)
            lines.append(f"| real scenes, read by the same network | | {reader:.1f} |{cells}")
        count = int(rows["total"].iloc[0])
        parts += [f"## {title}", "", *lines, "", f"Of {count:,} captions for each set.", ""]
    return "\n".join(parts) + str(notes)
