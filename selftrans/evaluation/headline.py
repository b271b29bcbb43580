"""The headline table: every run's last checkpoint, beside what others published."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from selftrans.evaluation.cautions import Footnotes
from selftrans.evaluation.markdown import markdown_table, metric_cell
from selftrans.evaluation.tables import METRIC_NAMES

MARK = "†"
CAPTION = f"""{MARK} published by others, not run here; of 50,000 samples against ImageNet's
training set, where its setting does not say otherwise. A number is comparable with another only
where sampler, guidance, classes, pixels, number of samples and reference are the same: see
`docs/fidelity.md`, and `metrics.csv` for all that a number of ours depends on."""


def headline_markdown(
    table: pd.DataFrame, labels: Mapping[str, str], published: Sequence[Mapping[str, Any]]
) -> str:
    """Every run at its last checkpoint under every sampler, then the published rows.

    Args:
        table: all rows of ``metrics.csv``.
        labels: the runs, in order, with their names.
        published: rows as ``experiments/published/`` has them.
    """
    notes = Footnotes()
    rows = [*_own_rows(table, labels, notes), *map(_published_row, published)]
    if not rows:
        return ""
    lines = markdown_table(pd.DataFrame(rows).fillna(""), index=False, disable_numparse=True)
    return f"{lines}\n" + (f"\n{CAPTION}\n" if published else "") + str(notes)


def _own_rows(
    table: pd.DataFrame, labels: Mapping[str, str], notes: Footnotes
) -> Iterator[dict[str, str]]:
    for run in [run for run in labels if run in set(table["run"])]:
        rows = table[table["run"] == run]
        for _, sets in rows.groupby(["samples", "sampler"], sort=False):
            last = sets[sets["step"] == sets["step"].max()]
            yield {
                "system": labels[run],
                "training": f"{last['step'].iloc[0]:,} steps",
                "setting": setting_of(last.iloc[0]),
                **{
                    shown: metric_cell(metric, last, notes)
                    for metric, shown in METRIC_NAMES.items()
                    if metric in last and last[metric].notna().any()
                },
                "source": _seeds(last["seed"].nunique()),
            }


def setting_of(row: "pd.Series[Any]") -> str:
    """All that the number of a row of ``metrics.csv`` is compared by, in words."""
    sampler = row["sampler"]
    guided = "no guidance"
    if row["guidance_scale"] != 1:
        interval = f"t in {row['guidance_low']:g} to {row['guidance_high']:g}"
        guided = f"scale {row['guidance_scale']:g}, {interval}"
        if row["guidance_channels"] != "all":
            guided += f", {row['guidance_channels']} channels"
    if (internal := row.get("internal_guidance", "off")) != "off":
        guided += f", internal guidance {internal}"
    if isinstance(row.get("network_precision"), str) and row["network_precision"] != "fp32":
        guided += f", in {row['network_precision']}"
    steps = f"{row['num_steps']} steps"
    if sampler == "dopri5":
        steps = f"rtol {row['rtol']:g}, atol {row['atol']:g}"
    shown = "captions" if row["classes"] == "prompts" else f"{row['classes']} classes"
    pixels = {"round": "rounded", "truncate": "cut off"}[row["uint8"]]
    return (
        f"{sampler}, {steps}, {guided}, {shown}, pixels {pixels},"
        f" N = {row['num_samples']:,}, {row['extractor']}"
    )


def _seeds(count: int) -> str:
    return "this experiment" if count == 1 else f"this experiment, mean of {count} seeds"


def _published_row(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "system": f"{row['system']} {MARK}",
        "training": row["training"],
        "setting": row["setting"],
        METRIC_NAMES["fid"]: f"{row['fid']:.2f}",
        "source": row["source"] + (" (second-hand)" if row["second_hand"] else ""),
    }
