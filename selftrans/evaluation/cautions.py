"""What makes a number untrustworthy, said beside it: in tables by a mark, in figures by a line."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from math import nan
from typing import Any

from selftrans.config import METRIC_EXTRACTORS, METRIC_SCORERS, Metric

WEAK_ACCURACY = 0.75
"""Of a classifier on held-out images; Inception's on ImageNet is about this (0.78)."""
WEAK_READER = 0.98
"""Of the network that reads drawn scenes, on real ones that it was not shown."""
DISTANCES: tuple[Metric, ...] = ("fid", "sfid", "fd-dinov2")
"""Metrics that compare covariances."""
SEPARATOR = "; "
"""Between the reasons in a cell."""
MARKS = "ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ"


@dataclass(frozen=True, kw_only=True)
class Caution:
    """A reason not to trust some metrics of a set of samples."""

    text: str
    metrics: frozenset[Metric]
    """What it concerns."""


def cautions(row: Mapping[Any, Any]) -> list[Caution]:
    """The reasons not to trust the numbers of a metrics file.

    Args:
        row: of ``metrics.csv``; what it does not say (of an earlier version) is no reason.
    """
    samples, reference, features, accuracy = (
        number_in(row.get(key))
        for key in ("num_samples", "num_reference", "num_features", "extractor_accuracy")
    )
    found = []
    sides = {"samples": samples}
    if row.get("moments") == "images":  # published ones are of more images than are counted
        sides["real images"] = reference
    if samples > sides.get("real images", nan):
        text = f"{samples:,.0f} samples are more than the {reference:,.0f} real images"
        found.append(Caution(text=text, metrics=frozenset(METRIC_EXTRACTORS)))
    if row.get("extractor") == "reader":
        if accuracy < WEAK_READER:
            text = (
                f"the reader is weak: it reads {100 * accuracy:.1f} % of real scenes without a"
                f" mistake (wanted: {100 * WEAK_READER:.0f} %)"
            )
            found.append(Caution(text=text, metrics=frozenset(METRIC_SCORERS)))
    elif accuracy < WEAK_ACCURACY:
        text = (
            f"the classifier is weak: it recognises {100 * accuracy:.0f} % of held-out images"
            f" (wanted: {100 * WEAK_ACCURACY:.0f} %)"
        )
        found.append(Caution(text=text, metrics=frozenset(METRIC_EXTRACTORS)))
    for side, count in sides.items():
        if count < features:
            text = (
                f"{count:,.0f} {side} are fewer than the {features:,.0f} features:"
                " their covariance is singular"
            )
            found.append(Caution(text=text, metrics=frozenset(DISTANCES)))
    return found


def number_in(cell: Any) -> float:
    """A cell's number; nan where there is none."""
    try:
        return float(cell)
    except (ValueError, TypeError, OverflowError):
        return nan


def caution_texts(rows: Iterable[Mapping[Any, Any]], metrics: Iterable[Metric]) -> list[str]:
    """The reasons not to trust these metrics of these rows, each once."""
    wanted = frozenset(metrics)
    return list(
        dict.fromkeys(
            caution.text for row in rows for caution in cautions(row) if caution.metrics & wanted
        )
    )


def caution_cell(texts: Iterable[str]) -> str:
    """Reasons as a cell of a table."""
    return SEPARATOR.join(texts)


def texts_in(*cells: Any) -> list[str]:
    """The reasons in such cells, each once; a cell may be empty, or of an earlier version."""
    found = (cell.split(SEPARATOR) for cell in cells if isinstance(cell, str) and cell)
    return list(dict.fromkeys(chain.from_iterable(found)))


class Footnotes:
    """Marks beside the numbers of a table, and the notes below it that they stand for."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def marks(self, texts: Iterable[str]) -> str:
        """The marks of some notes, with a space before them; nothing without notes."""
        found = [self._texts.setdefault(text, _mark(len(self._texts))) for text in texts]
        return f" {''.join(found)}" if found else ""

    def lines(self) -> list[str]:
        """A line for each note."""
        return [f"{mark} Not to be trusted: {text}." for text, mark in self._texts.items()]

    def __str__(self) -> str:
        """The lines as Markdown; nothing without notes."""
        return "\n" + "  \n".join(self.lines()) + "\n" if self._texts else ""


def _mark(index: int) -> str:
    """A letter, doubled when all are used."""
    return MARKS[index % len(MARKS)] * (index // len(MARKS) + 1)
