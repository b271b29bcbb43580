"""Results and settings -> the page, as HTML that holds everything it shows."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from selftrans import __version__
from selftrans.data.examples import Examples
from selftrans.evaluation.probes import probe_tables
from selftrans.evaluation.tables import read_metrics, read_table
from selftrans.plotting.axes import caution_notes
from selftrans.plotting.style import COLOURS, MARKERS
from workflow.lib.figures import KINDS
from workflow.lib.page import content
from workflow.lib.page.curves import convergence_chart, dynamics_chart
from workflow.lib.page.pictures import caption, figure_uri, read_samples, sample_sheet
from workflow.lib.page.records import run_records, wall_time, weights_header
from workflow.lib.page.tables import Table, measured, metric_tables, short_steps

WORKFLOW = Path(__file__).parents[2]
GROUPS = {
    "Results": ("convergence", "significance", "comparison", "grid", "sweep", "samples"),
    "Training": ("losses", "dynamics"),
    "Features": ("discriminability", "feature-maps", "similarity", "guiding-features"),
}
"""Figures of a page, by the heading under which they stand."""


@dataclass(frozen=True, kw_only=True)
class PageInputs:
    """Files that a page reads."""

    runs: Path
    metrics: Path
    comparison: Sequence[Path]
    probes: Sequence[Path]
    figures: Sequence[Path]
    weights: Sequence[Path]
    """Of every run of the settings, in the order of the experiment."""
    samples: Sequence[Path]
    sample_keys: Sequence[tuple[str, int, str]]
    """Run, step and sampler of these."""
    examples: Path
    """The real images beside samples, with the names of classes, or with captions."""


def render_page(inputs: PageInputs, settings: Mapping[str, Any]) -> str:
    """The page of an experiment.

    Raises:
        UserError: a file is absent, damaged or of another kind.
    """
    labels = content.labels_of(settings)
    records = run_records(inputs.runs)
    seconds = wall_time(records)
    table = read_metrics(str(inputs.metrics), list(settings["samplers"]))
    names = Examples.load(inputs.examples).names(settings["class_names"] or None)
    rows = read_table(inputs.comparison[0], "run", "step") if inputs.comparison else None
    sizes = dict(zip(settings["weights"], map(weights_header, inputs.weights), strict=True))
    headers = [metadata for _, metadata in sizes.values()]
    histories = {
        run: [one.history() for one in records if one.run == run]
        for run in content.main_runs(settings)
        if run in seconds
    }
    imported = [run["name"] for run in settings["runs"] if run["imported"]]
    hours = content.training_hours(seconds, settings)
    charts = {
        "convergence": convergence_chart(
            table, hours, settings["sampler"], imported, settings["published"]
        )
    }
    if histories:
        charts["dynamics"] = dynamics_chart(histories)
    parameters = {run: count for run, (count, _) in sizes.items()}
    steps = [step for _, step, _ in inputs.sample_keys]
    return _environment().get_template("page.html").render(
        settings=settings,
        labels=labels,
        styles={run: _style(index) for index, run in enumerate(labels)},
        version=__version__,
        css=_asset("page.css"),
        script=_script(),
        script_hash=_digest(_script()),
        data={"runs": _runs(settings), "charts": charts},
        charts=charts,
        metrics_in_words=content.metrics_in_words(settings),
        chart_cautions=caution_notes(table, [metric for _, metric in measured(table)]),
        cards=content.cards(table, settings),
        findings=content.findings(rows, settings),
        cautions=content.cautions(table, settings),
        comparison=None if rows is None else content.comparison_rows(rows, settings),
        metric_tables=metric_tables(table, labels),
        probes=[one for path in inputs.probes for one in _probe_tables(path, labels)],
        sheets=_sheets(inputs, labels, names),
        steps=sorted(set(steps)),
        short_steps=short_steps,
        figures=_figures(inputs.figures, settings, labels),
        cost=content.cost_table(records, seconds, parameters, settings),
        checkpoints=content.checkpoint_table(records, settings),
        inputs=content.inputs_table(table, headers),
        versions=content.versions(table, headers),
        machines=content.machines(records),
        commands=content.commands(records),
    )  # fmt: skip


def _environment() -> Environment:
    loader = FileSystemLoader(WORKFLOW / "page")
    return Environment(
        loader=loader,
        autoescape=True,  # names and labels are a user's text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _asset(name: str) -> Markup:
    return Markup((WORKFLOW / "page" / name).read_text(encoding="utf-8"))  # noqa: S704 - ours


def _script() -> Markup:
    return _asset("chart.js") + _asset("page.js")


def _digest(text: str) -> str:
    """By which the page's own policy knows its script: no other one runs."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _style(index: int) -> dict[str, int]:
    """Colour and marker of a run, as figures choose them."""
    return {"colour": index % len(COLOURS), "marker": index % len(MARKERS)}


def _runs(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The runs as charts know them; those of grids are hidden at first."""
    return [
        {
            "id": run["name"],
            "label": run["label"],
            "hidden": run["grid"] is not None,
            **_style(index),
        }
        for index, run in enumerate(settings["runs"])
    ]


def _sheets(
    inputs: PageInputs, labels: Mapping[str, str], names: Sequence[str]
) -> list[dict[str, Any]]:
    """The sheets of samples, for each sampler: those of its runs at each step.

    Args:
        inputs: of the page.
        labels: of the runs.
        names: of the classes, or captions.
    """
    sheets: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for path, (run, step, sampler) in zip(inputs.samples, inputs.sample_keys, strict=True):
        images, classes = read_samples(path)
        uri, (width, height) = sample_sheet(images)
        sheet = {
            "run": run, "step": step, "uri": uri, "width": width, "height": height,
            "count": len(images),
            "classes": [names[label] for label in classes],
        }  # fmt: skip
        sheets.setdefault(sampler, {}).setdefault(run, []).append(sheet)
    return [
        {
            "sampler": sampler,
            "runs": [
                {"run": run, "label": labels[run], "sheets": runs[run]}
                for run in labels
                if run in runs
            ],
        }
        for sampler, runs in sheets.items()
    ]


def _figures(
    files: Sequence[Path], settings: Mapping[str, Any], labels: Mapping[str, str]
) -> dict[str, list[dict[str, Any]]]:
    """The figures with title and caption, by heading."""
    shown: dict[str, list[dict[str, Any]]] = {}
    params = {key: settings[key] for key in ("sampler", "published", "baseline", "columns", "t")}
    for path, (name, kind, of) in zip(files, settings["figures"], strict=True):
        wildcards = {"experiment": settings["name"], "run": of, "grid": of, "sweep": of}
        uri, (width, height) = figure_uri(path)
        title = KINDS[kind].title + (f": {labels.get(of, of)}" if of else "")
        figure = {
            "name": name, "title": title, "uri": uri, "width": width, "height": height,
            "caption": caption(
                WORKFLOW / f"report/{KINDS[kind].caption}.rst", wildcards, params
            ),
        }  # fmt: skip
        heading = next(group for group, kinds in GROUPS.items() if kind in kinds)
        shown.setdefault(heading, []).append(figure)
    return {heading: shown[heading] for heading in GROUPS if heading in shown}


def _probe_tables(path: Path, labels: Mapping[str, str]) -> list[Table]:
    """What probes read off the features, as the table of the workflow has it."""
    rows = read_table(path, "kind", "run", "linear", "knn", keep_default_na=False)
    named = rows.assign(run=rows["run"].replace(dict(labels)))
    return [
        Table.of_records(title, [{"Features": record.pop(""), **record} for record in records])
        for title, records in probe_tables(named).items()
    ]
