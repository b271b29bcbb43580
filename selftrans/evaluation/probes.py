"""Probes: how much of an image's class a linear map or neighbours read off features; and CKA."""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from selftrans.evaluation.markdown import markdown_table
from selftrans.evaluation.run_features import RunFeatures

Features = NDArray[np.floating[Any]]
Kind = Literal["block", "guiding", "encoder"]
COLUMNS = ("kind", "name", "block", "t", "label_given", "linear", "knn", "test_images")


class ProbeCase(NamedTuple):
    """Features that are probed, and where they come from."""

    kind: Kind
    name: str
    """Of a guiding feature or an encoder."""
    block: int
    """Counted from 1; 0 for features that are not of a block."""
    t: float
    label_given: bool
    """Whether the network that computed them was given the label."""
    features: Features
    """(N, D)."""


def linear_probe(
    features_ND: Features, labels_N: NDArray[np.int64], test_N: NDArray[np.bool_]
) -> float:
    """Accuracy on ``test_N`` of a logistic regression on standardised features of the others."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = np.asarray(features_ND, np.float64)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(x[~test_N], labels_N[~test_N])
    return float(probe.score(x[test_N], labels_N[test_N]))


def knn_probe(
    features_ND: Features,
    labels_N: NDArray[np.int64],
    test_N: NDArray[np.bool_],
    neighbours: int = 20,
) -> float:
    """Accuracy on ``test_N`` of the majority of the nearest others, by cosine after centring."""
    from sklearn.neighbors import KNeighborsClassifier

    x = np.asarray(features_ND, np.float64)
    x = x - x[~test_N].mean(axis=0)  # the common part does not depend on the class
    probe = KNeighborsClassifier(min(neighbours, int((~test_N).sum())), metric="cosine")
    probe.fit(x[~test_N], labels_N[~test_N])
    return float(probe.score(x[test_N], labels_N[test_N]))


def cka_matrix(sets: Sequence[Features]) -> NDArray[np.float64]:
    """Linear centred kernel alignment between all sets of features of N samples, (sets, sets).

    Kornblith et al. 2019, equation 3: |Y'X|^2 / (|X'X| |Y'Y|) of centred features. It is biased
    upwards where N is not well above their length D: for independent normal features it is about
    1 / (1 + N/D).
    """
    centred = [np.asarray(x, np.float64) - np.mean(x, axis=0, dtype=np.float64) for x in sets]
    norms = [np.linalg.norm(x.T @ x) for x in centred]
    matrix = np.eye(len(sets))
    for i, j in zip(*np.triu_indices(len(sets), 1), strict=True):
        matrix[i, j] = matrix[j, i] = np.square(centred[j].T @ centred[i]).sum() / (
            norms[i] * norms[j]
        )
    return matrix


def probe_cases(run: RunFeatures) -> list[ProbeCase]:
    """All probed features of a run: of blocks, then guiding ones with and without label."""
    times = run.times.tolist()
    cases = [
        ProbeCase("block", "", block, t, False, features)
        for t, blocks in zip(times, run.pooled, strict=True)
        for block, features in enumerate(blocks, start=1)
    ]
    for label_given, named in ((True, run.guiding), (False, run.unconditional)):
        cases += [
            ProbeCase("guiding", name, 0, t, label_given, features)
            for name, by_time in named.items()
            for t, features in zip(times, by_time, strict=True)
        ]
    return cases


def probe_rows(
    cases: Iterable[ProbeCase],
    labels_N: NDArray[np.int64],
    test_N: NDArray[np.bool_],
    neighbours: int,
) -> pd.DataFrame:
    """Accuracies of both probes, a row for each case."""
    tests = int(test_N.sum())
    rows = []
    for case in cases:
        accuracies = (
            linear_probe(case.features, labels_N, test_N),
            knn_probe(case.features, labels_N, test_N, neighbours),
        )
        rows.append((*case[:-1], *accuracies, tests))
    return pd.DataFrame(rows, columns=list(COLUMNS))


SHOWN: dict[Kind, str] = {
    "block": "the block that does best here (which one), computed without the label",
    "guiding": "what the alignment losses follow",
    "encoder": "the encoder, on clean images",
}


def discriminability_markdown(table: pd.DataFrame) -> str:
    """Accuracies in percent, means over seeds.

    Of every run's best block, of what its alignment losses follow, and of the encoder.

    Args:
        table: ``probe_rows`` of every run and seed, with columns ``run`` (its name in figures) and
            ``seed``.
    """
    tests = int(table["test_images"].iloc[0])
    largest = 100 * (0.25 / tests) ** 0.5
    note = (
        f"On {tests:,} test images. The diffusion models were trained on them as on all others,"
        f" with their classes. An accuracy p has a standard error of sqrt(p (1 - p) / {tests}),"
        f" {largest:.1f} points at most.\n"
    )
    parts = [note]
    for title, rows in probe_tables(table).items():
        text = markdown_table(pd.DataFrame(rows), index=False, disable_numparse=True)
        parts.append(f"**{title}**\n\n{text}\n")
    return "\n".join(parts)


def probe_tables(table: pd.DataFrame) -> dict[str, list[dict[str, str]]]:
    """Rows of text for each probe and kind of features, by title; ``table`` as above."""
    tables = {}
    for probe, name in (("linear", "Linear probe"), ("knn", "k-NN")):
        for kind, what in SHOWN.items():
            if means := _means(table[table["kind"] == kind], probe):
                tables[f"{name}: accuracy in % of {what}"] = [
                    {"": row} | {f"t = {t:g}": _best(at) for t, at in times.items()}
                    for row, times in means.items()
                ]
    return tables


def _means(table: pd.DataFrame, probe: str) -> dict[str, dict[float, dict[str, float]]]:
    """Means over seeds by row of the table, t, and block."""
    seeds: dict[str, dict[float, dict[str, list[float]]]] = {}
    for kind, run, name, block, t, label_given, value in table[
        ["kind", "run", "name", "block", "t", "label_given", probe]
    ].itertuples(index=False):
        label = "label given" if label_given else "no label"
        row = f"{run}: {name}, {label}" if kind == "guiding" else str(run)
        column = f" ({block})" if kind == "block" else ""
        seeds.setdefault(row, {}).setdefault(float(t), {}).setdefault(column, []).append(
            float(value)
        )
    return {
        row: {
            t: {column: fmean(values) for column, values in at.items()} for t, at in times.items()
        }
        for row, times in seeds.items()
    }


def _best(values: dict[str, float]) -> str:
    name = max(values, key=values.__getitem__)
    return f"{100 * values[name]:.1f}{name}"
