"""Tables of a page: cells in words, numbers with the digits that they deserve."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import pandas as pd

from selftrans.config import Metric
from selftrans.evaluation.comparison import Curves, curves_of, mean_and_std
from selftrans.evaluation.markdown import SMALL
from selftrans.evaluation.tables import METRIC_NAMES

_NUMBER = re.compile(r"[-+−]?[\d,.]+( ± [\d,.]+| [kMGTPE]|×| h| min| s)?|")


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text; the first column names the row."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    code: Sequence[str] = ()
    """Columns of digests and paths."""
    note: str = ""
    """How to read it."""

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
        values = {
            metric: curves(rows, str(sampler), metric)
            for name, metric in measured(rows)
            if name == sampler
        }
        steps = sorted(
            {step for curve in values.values() for run in curve.values() for step in run}
        )
        if len(steps) == 1:
            columns = {METRIC_NAMES[metric]: (metric, steps[0]) for metric in values}
            tables[str(sampler)] = [
                _metric_table(f"After {steps[0]:,} steps", columns, values, labels)
            ]
            continue
        tables[str(sampler)] = [
            _metric_table(
                f"{METRIC_NAMES[metric]} by optimizer steps",
                {short_steps(step): (metric, step) for step in steps},
                values,
                labels,
            )
            for metric in values
        ]
    return tables


def _metric_table(
    caption: str,
    columns: Mapping[str, tuple[Metric, int]],
    values: Mapping[Metric, Curves],
    labels: Mapping[str, str],
) -> Table:
    """Runs in rows; each column is a metric at a step."""
    rows = [
        [
            labels[run],
            *(
                _mean(values[metric].get(run, {}).get(step, {}), digits_of(metric))
                for metric, step in columns.values()
            ),
        ]
        for run in labels
    ]
    return Table(
        caption=caption, head=["Run", *columns], rows=[row for row in rows if any(row[1:])]
    )


def _mean(values: Mapping[int, float], digits: int) -> str:
    if not values:
        return ""
    mean, deviation = mean_and_std(values.values())
    spread = number(deviation, digits)
    return number(mean, digits) + (f" ± {spread}" if spread else "")
