"""Tables of a page: cells in words, numbers with the digits that they deserve."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import pandas as pd

from selftrans.config import Metric
from selftrans.evaluation.cautions import MARKS, Footnotes, caution_texts
from selftrans.evaluation.comparison import Curves, curves_of, mean_and_std, rows_with
from selftrans.evaluation.markdown import KID_NOTE, SMALL
from selftrans.evaluation.tables import METRIC_NAMES, mean_spread, spread_column

_NUMBER = re.compile(rf"([-+−]?[\d,.]+( ± [\d,.]+| [kMGTPE]|×| h| min| s)?( [{MARKS}]+)?)?")


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text; the first column names the row."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    code: Sequence[str] = ()
    """Columns of digests and paths."""
    notes: Sequence[str] = ()
    """How to read it, and what in it is not to be trusted."""

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers alone."""
        columns = zip(*self.rows, strict=True) if self.rows else ()
        return [all(map(_NUMBER.fullmatch, column)) for column in columns]

    @classmethod
    def of_records(
        cls, caption: str, records: Sequence[Mapping[str, str]], **options: Any
    ) -> "Table":
        """A table of rows that need not have the same columns."""
        longest = max(records, key=len, default={})
        head = list(dict.fromkeys(key for record in (longest, *records) for key in record))
        rows = [[record.get(key, "") for key in head] for record in records]
        return cls(caption=caption, head=head, rows=rows, **options)


def number(value: float, digits: int) -> str:
    """A number with some digits behind the point; empty where there is none."""
    return f"{value:,.{digits}f}" if isfinite(value) else ""


def with_spread(value: float, spread: float, digits: int) -> str:
    """A number and its spread, where that is known."""
    shown = number(spread, digits)
    return number(value, digits) + (f" ± {shown}" if shown else "")


def signed(value: float, digits: int) -> str:
    """A difference with its sign; empty where there is none."""
    return f"{value:+,.{digits}f}".replace("-", "−") if isfinite(value) else ""


def digits_of(metric: str) -> int:
    """Digits behind the point that a metric is shown with."""
    return 4 if metric in SMALL else 2


def short_steps(step: int) -> str:
    """A number of steps as in a column's head."""
    if step >= 10_000 and step % 1000 == 0:
        return f"{step // 1000:,}k"
    return f"{step:,}"


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:,.1f} h"


def quantity(value: float | None) -> str:
    """A large number with its prefix: 1.03 M."""
    if value is None:
        return ""
    for limit, prefix in (
        (1e18, "E"),
        (1e15, "P"),
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e3, "k"),
    ):
        if value >= limit:
            return f"{value / limit:.3g} {prefix}"
    return f"{value:.3g} "


def measured(table: pd.DataFrame) -> list[tuple[str, Metric]]:
    """Every sampler and metric that a table of metrics has numbers of."""
    return [
        (str(sampler), metric)
        for sampler in dict.fromkeys(table["samples"])
        for metric in METRIC_NAMES
        if metric in table and table[metric][table["samples"] == sampler].notna().any()
    ]


def curves(table: pd.DataFrame, sampler: str, metric: Metric) -> Curves:
    """A metric of a sampler by run, step and seed."""
    return curves_of(table[table["samples"] == sampler], metric)


def metric_tables(table: pd.DataFrame, labels: Mapping[str, str]) -> dict[str, list[Table]]:
    """Tables of each sampler: means over seeds, runs in rows.

    A table for each metric with steps in columns; a single one for all metrics where a sampler was
    applied to one checkpoint alone.
    """
    tables: dict[str, list[Table]] = {}
    for sampler, rows in table.groupby("samples", sort=False):
        found = {metric: rows_with(rows, metric) for _, metric in measured(rows)}
        steps = sorted({int(step) for of_metric in found.values() for step in of_metric["step"]})
        if len(steps) == 1:
            columns = {METRIC_NAMES[metric]: (metric, steps[0]) for metric in found}
            tables[str(sampler)] = [
                _metric_table(f"After {steps[0]:,} steps", columns, found, labels)
            ]
            continue
        tables[str(sampler)] = [
            _metric_table(
                f"{METRIC_NAMES[metric]} by optimizer steps",
                {short_steps(step): (metric, step) for step in steps},
                found,
                labels,
            )
            for metric in found
        ]
    return tables


def _metric_table(
    caption: str,
    columns: Mapping[str, tuple[Metric, int]],
    found: Mapping[Metric, pd.DataFrame],
    labels: Mapping[str, str],
) -> Table:
    """Runs in rows; each column is a metric at a step, ``found`` the rows that have a metric."""
    notes, lines = Footnotes(), []
    for run, label in labels.items():
        cells = []
        for metric, step in columns.values():
            rows = found[metric]
            at = rows[(rows["run"] == run) & (rows["step"] == step)]
            cells.append(_mean(metric, at, notes))
        if any(cells):
            lines.append([label, *cells])
    spread = any(spread_column(metric) in found[metric] for metric, _ in columns.values())
    return Table(
        caption=caption,
        head=["Run", *columns],
        rows=lines,
        notes=[*([KID_NOTE] if spread else []), *notes.lines()],
    )


def _mean(metric: Metric, rows: pd.DataFrame, notes: Footnotes) -> str:
    """A metric's mean over seeds with its marks; empty where it was not measured.

    The spread is that of its estimates, as in ``metrics.md``; without one, that over the seeds.
    """
    if rows.empty:
        return ""
    mean, spread = mean_and_std(rows[metric])
    if spread_column(metric) in rows:
        spread = mean_spread(metric, rows)
    marks = notes.marks(caution_texts(rows.to_dict("records"), [metric]))
    return with_spread(mean, spread, digits_of(metric)) + marks
