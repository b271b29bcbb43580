"""Metric files -> tables: one row for each set of samples, every column of one kind."""

from collections.abc import Collection, Mapping, Sequence
from math import inf, nan
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from selftrans.config import (
    DistanceArithmetic,
    Metric,
    Precision,
    SamplerName,
    Uint8Conversion,
    Weights,
)
from selftrans.evaluation.cautions import caution_cell, caution_texts, number_in
from selftrans.runtime.errors import UserError, shortened
from selftrans.runtime.files import opened, read_fields, sha256_of

METRIC_NAMES: dict[Metric, str] = {
    "fid": "FID",
    "sfid": "sFID",
    "is": "IS",
    "precision": "precision",
    "recall": "recall",
    "kid": "KID",
    "fd-dinov2": "FD-DINOv2",
    "clip-score": "CLIP score",
    "caption-accuracy": "caption accuracy (%)",
    "held-out-accuracy": "held-out captions (%)",
}
SETTINGS = (
    "sampler", "num_steps", "guidance_scale", "guidance_low", "guidance_high", "guidance_channels",
    "internal_guidance", "rtol", "atol", "weights", "classes", "network_precision",
    "decoder_precision", "decoder_digest", "uint8", "num_samples", "sampling_seed", "extractor",
    "extractor_digest", "num_reference", "reference_digest",
)  # fmt: skip
"""Columns in which numbers have to agree, or they do not share a curve."""


def spread_column(metric: Metric) -> str:
    """The column of the spread of a metric's estimates."""
    return f"{metric}_std"


def mean_spread(metric: Metric, rows: pd.DataFrame) -> float:
    """Of a metric's estimates, over rows of ``metrics.csv``; nan where none is known."""
    column = spread_column(metric)
    return float(rows[column].mean()) if column in rows else nan


Whole = Annotated[int, Field(ge=0)]


def metrics_table(
    results: Sequence[tuple[str, dict[str, Any]]], maskings: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """One row for each metrics file, in order.

    Args:
        results: the name of the set of samples in the experiment, and the file's content.
        maskings: the mask of the t range of each run that has one.
    """
    return pd.DataFrame([_row(name, result, maskings or {}) for name, result in results])


def _internal_guidance(internal: Mapping[str, float] | None) -> str:
    """Internal Guidance in words, as the column has it; a set that says nothing has none."""
    if internal is None:
        return "off"
    return f"scale {internal['scale']:g}, t in {internal['low']:g} to {internal['high']:g}"


def _row(name: str, result: dict[str, Any], maskings: Mapping[str, str]) -> dict[str, Any]:
    samples, reference = result["samples"], result.get("reference") or {}
    versions = {**result["versions"], **samples["versions"]}  # those of the samples stand first
    row = {
        "run": samples["checkpoint"]["run"],
        "seed": samples["checkpoint"]["seed"],
        "step": samples["checkpoint"]["step"],
        "samples": name,
        "sampler": samples["sampler"],
        "num_steps": samples["num_steps"],
        "guidance_scale": samples["guidance"]["scale"],
        "guidance_low": samples["guidance"]["low"],
        "guidance_high": samples["guidance"]["high"],
        "guidance_channels": samples["guidance"].get("channels") or "all",
        "internal_guidance": _internal_guidance(samples.get("internal_guidance")),
        "rtol": samples.get("rtol"),
        "atol": samples.get("atol"),
        "weights": samples["weights"],
        "classes": samples["labels"],
        "network_precision": samples["precision"],
        "decoder": samples.get("decoder"),
        "decoder_digest": samples["autoencoder_digest"][:12],
        "decoder_precision": samples["decoder_precision"],
        "uint8": samples.get("uint8", "round"),
        "t_masking": maskings.get(samples["checkpoint"]["run"]),
        "num_samples": result["num_samples"],
        "sampling_seed": samples["seed"],
        "extractor": result["extractor"]["name"],
        "extractor_digest": result["extractor"]["digest"][:12],
        "extractor_accuracy": result["extractor"].get("held_out_accuracy"),
        "num_features": result.get("num_features"),
        "distances": result["distances"],
        "reference": reference.get("name"),
        "reference_digest": reference.get("digest", "")[:12] or None,
        "num_reference": result["num_reference"],
        "moments": reference.get("moments") or None,
        "checkpoint_digest": samples["checkpoint"]["digest"][:12],
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
        **result["metrics"],
        **{spread_column(metric): value for metric, value in result.get("spreads", {}).items()},
    }
    return {**row, "cautions": caution_cell(caution_texts([row], result["metrics"])) or None}


def require_comparable(
    table: pd.DataFrame, axes: Collection[str] = (), settings: Sequence[str] = SETTINGS
) -> None:
    """Refuse numbers that would share a curve and differ in more than their run, step and seed.

    Args:
        table: rows of ``metrics.csv``; what a row does not say (of an earlier version) is no
            difference.
        axes: columns that may differ, since they are the axis.
        settings: columns that may not.

    Raises:
        UserError: in one line, the columns that differ and their values.
    """
    found = {
        column: list(dict.fromkeys(map(str, table[column].dropna())))
        for column in settings
        if column in table and column not in axes
    }
    differing = [
        f"{column} ({', '.join(values)})" for column, values in found.items() if len(values) > 1
    ]
    if differing:
        raise UserError(f"numbers that differ in {'; '.join(differing)} cannot share a curve")


class _Open(BaseModel):
    """Part of a metrics file: these fields of these types, and others."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Network(_Open):
    name: str
    digest: str
    held_out_accuracy: float | None = None


class _Checkpoint(_Open):
    run: str
    seed: Whole
    step: Whole
    digest: str


class _Guidance(_Open):
    scale: float
    low: float
    high: float
    channels: Whole | None = None


class _InternalGuidance(_Open):
    scale: float
    low: float
    high: float


class _Samples(_Open):
    checkpoint: _Checkpoint
    sampler: SamplerName
    num_steps: Whole
    guidance: _Guidance
    internal_guidance: _InternalGuidance | None = None
    weights: Weights
    labels: Literal["balanced", "random", "prompts"]
    precision: Literal[Precision, "tf32"]
    decoder_precision: Precision
    autoencoder_digest: str
    seed: Whole
    rtol: float | None = None
    atol: float | None = None
    decoder: str | None = None
    uint8: Uint8Conversion = "round"
    versions: dict[str, str]


class _Reference(_Open):
    name: str
    digest: str
    moments: Literal["images", "published", ""] = ""


class _Result(_Open):
    metrics: Annotated[dict[Metric, float], Field(min_length=1)]
    spreads: dict[Metric, float] = Field(default_factory=dict)
    samples: _Samples
    extractor: _Network
    num_samples: Whole
    num_reference: Whole
    num_features: Whole | None = None
    distances: DistanceArithmetic
    versions: dict[str, str]
    reference: _Reference | None = None


def read_result(path: Path) -> dict[str, Any]:
    """A metrics file.

    Raises:
        UserError: it is absent, damaged or of another kind.
    """
    result = read_fields(path)
    try:
        _Result.model_validate(result)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"])) or "content"
        raise UserError(f"{path}: not a metrics file ({field}: {problem['msg']})") from None
    return result


def read_history(path: Path | str) -> pd.DataFrame:
    """The logged losses of a checkpoint, whose record beside it has their digest.

    Raises:
        UserError: as ``read_table``, or they are not what was written.
    """
    return _read_recorded(Path(path))


def read_held_out(history: Path | str) -> pd.DataFrame | None:
    """The losses on held-out images beside a history; None where no images are held out.

    Raises:
        UserError: as ``read_history``.
    """
    path = Path(history).with_name("held_out.csv")
    return _read_recorded(path) if path.exists() else None


def _read_recorded(path: Path) -> pd.DataFrame:
    record = path.with_name("checkpoint.json")
    if record.exists():
        expected = read_fields(record, digests=dict)["digests"].get(path.stem)
        if expected is not None and sha256_of(path) != expected:
            raise UserError(f"{path}: damaged, its SHA-256 is not that of {record.name}")
    return read_table(path, "step", "loss")


def read_seconds(path: Path) -> float:
    """Time of a training up to a checkpoint, of the checkpoint's record.

    Raises:
        UserError: the record is absent or damaged.
    """
    seconds = read_fields(path, seconds=(int, float))["seconds"]
    if isinstance(seconds, bool) or not 0 < seconds < inf:
        raise UserError(f"{path}: damaged, seconds is {shortened(repr(seconds))}")
    return float(seconds)


def read_table(path: Path | str, *columns: str, **options: Any) -> pd.DataFrame:
    """A table of ours (CSV) with at least these columns.

    Args:
        path: the file.
        columns: that it must have.
        options: of ``pandas.read_csv``.

    Raises:
        UserError: it is absent, empty, damaged or of another kind.
    """
    with opened(Path(path)) as file:
        try:
            table = pd.read_csv(file, **options)
        except ValueError as error:  # pandas raises several kinds of it
            reason = " ".join(str(error).split())
            raise UserError(f"{path}: not a table, or damaged ({reason})") from None
    if missing := [column for column in columns if column not in table]:
        raise UserError(f"{path}: not the expected table, it has no column {missing[0]!r}")
    if table.empty:
        raise UserError(f"{path}: holds no row")
    for column in columns:
        if table[column].isna().any():
            raise UserError(f"{path}: damaged, a row has no {column}")
    return table


def read_metrics(path: str, samples: Sequence[str]) -> pd.DataFrame:
    """The rows of a ``metrics.csv`` of these sets of samples, whose names may look like numbers.

    Raises:
        UserError: as ``read_table``.
    """
    table = read_table(
        path, "run", "seed", "step", "samples",
        dtype={"run": str, "samples": str}, keep_default_na=False, na_values=[""],
    )  # fmt: skip
    for column in ("seed", "step", *(name for name in METRIC_NAMES if name in table)):
        numbers = np.array([number_in(cell) for cell in table[column]])
        given = table[column].notna().to_numpy()
        whole = column in ("seed", "step")
        sound = np.isfinite(numbers) & ((numbers >= 0) & (numbers % 1 == 0) if whole else True)
        if not sound[given].all():
            wrong = table[column][given & ~sound].iloc[0]
            raise UserError(f"{path}: damaged, {column} is {shortened(repr(wrong))}")
    keys = ["run", "seed", "step", "samples", *(["extractor"] if "extractor" in table else [])]
    if table.duplicated(keys).any():
        raise UserError(f"{path}: damaged, two rows of the same {', '.join(keys)}")
    shown = table[table["samples"].isin(list(samples))]
    if shown.empty:
        raise UserError(f"{path}: holds no row of {', '.join(samples)}")
    return shown
