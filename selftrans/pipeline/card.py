"""The model card of an exported pipeline: ``README.md`` with the hub's metadata."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from pydantic import BaseModel, ConfigDict

from selftrans.config import Metric
from selftrans.models.metadata import WeightsMetadata

PACKAGE_LICENSE = "apache-2.0"
CLASSES_SHOWN = 20


class Result(BaseModel):
    """A measured number and what it depends on."""

    model_config = ConfigDict(frozen=True)
    metric: Metric
    name: str
    """Of the metric, in tables."""
    value: float
    extractor: str
    setting: str
    """Sampler, guidance, classes, number of samples."""
    reference: str
    """What the samples were compared with."""


class Provenance(BaseModel):
    """Where the weights of a pipeline come from, and what was measured of them."""

    model_config = ConfigDict(frozen=True)
    run: str
    seed: int
    step: int
    weights: str
    digest: str
    fingerprint: str
    imported_from: str | None
    version: str
    """Of selftrans."""
    dataset: str | None
    license: str
    results: tuple[Result, ...]

    @classmethod
    def of(
        cls,
        metadata: WeightsMetadata,
        dataset: str | None,
        license_name: str | None,
        results: Sequence[Result],
    ) -> Provenance:
        """That of a weight file.

        Weights that were trained here have the licence of this package, if none is named; those
        that were imported have their authors'.
        """
        imported = metadata.imported
        return cls(
            **metadata.model_dump(include=set(cls.model_fields)),
            imported_from=None if imported is None else imported.file,
            dataset=dataset,
            license=license_name or (PACKAGE_LICENSE if imported is None else "other"),
            results=tuple(results),
        )


def model_card(provenance: Provenance, shape: Mapping[str, Any], names: Mapping[int, str]) -> str:
    """The card's text.

    Args:
        provenance: of the weights.
        shape: the network's configuration.
        names: of the classes, by number.
    """
    data = ModelCardData(
        license=provenance.license,
        library_name="diffusers",
        pipeline_tag="unconditional-image-generation",
        tags=["diffusers", "selftrans", "sit", "class-conditional", "image-generation"],
        model_name=provenance.run,
        eval_results=[
            EvalResult(
                task_type="unconditional-image-generation",
                dataset_type=provenance.dataset or "unknown",
                dataset_name=provenance.dataset or "unknown",
                metric_type=result.metric,
                metric_name=f"{result.name} ({result.extractor} features)",
                metric_value=result.value,
            )
            for result in provenance.results
        ]
        or None,
    )
    parts = [f"---\n{data.to_yaml()}\n---", f"# {provenance.run}", _summary(provenance, shape)]
    parts += ["## Use", _usage(), "## Data and training", _training(provenance, names)]
    parts += ["## Results", _results(provenance), "## Licence", _licence(provenance)]
    return "\n\n".join(parts) + "\n"


def _summary(provenance: Provenance, shape: Mapping[str, Any]) -> str:
    qk_norm = "with" if shape["qk_norm"] else "without"
    return (
        "A class-conditional SiT that predicts the velocity of autoencoder latents:"
        f"\n{shape['depth']} blocks of width {shape['hidden_size']}, {shape['num_heads']} heads,"
        f" patch {shape['patch_size']}, {qk_norm} normalised queries and keys.\n"
        f"The weights were written by selftrans {provenance.version}."
    )


def _usage() -> str:
    return """```python
from selftrans.pipeline import SiTPipeline

pipeline = SiTPipeline.from_pretrained("FOLDER")
latents = pipeline.initial_latents(seed=0, indices=range(4))
images = pipeline([0, 1, 2, 3], latents=latents).images
```

It samples by Euler's method on the ODE. Initial latents of (seed, i) give sample i of selftrans
with that seed. Classes are numbers or names."""


def _training(provenance: Provenance, names: Mapping[int, str]) -> str:
    named = {number: name for number, name in names.items() if name != str(number)}
    shown = [f"{number}: {name}" for number, name in sorted(named.items())[:CLASSES_SHOWN]]
    if (more := len(named) - len(shown)) > 0:
        shown.append(f"and {more} more")
    listed = f" ({', '.join(shown)})" if shown else ""
    rows = {
        "data": provenance.dataset or "unknown",
        "classes": f"{len(names)}{listed}",
        "steps": f"{provenance.step:,}",
        "weights": "moving average" if provenance.weights == "ema" else "raw",
        "seed": str(provenance.seed),
        "digest of the weights": f"`{provenance.digest}`",
        "fingerprint of the run": f"`{provenance.fingerprint}`",
    }
    if provenance.imported_from is not None:
        rows["imported from"] = f"`{provenance.imported_from}`"
        del rows["seed"]
    return _table(("", ""), rows.items())


def _results(provenance: Provenance) -> str:
    if not provenance.results:
        return "Nothing was measured."
    lines = _table(
        ("metric", "value", "reference", "setting"),
        [(one.name, f"{one.value:.4g}", one.reference, one.setting) for one in provenance.results],
    )
    note = "Numbers of other features, samples or samplers do not compare with these."
    if any(one.extractor == "classifier" for one in provenance.results):
        note += "\nThe classifier was trained on the data itself: its FID is not an Inception FID."
    return f"{lines}\n\n{note}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _licence(provenance: Provenance) -> str:
    if provenance.license == "other":
        return "That of whoever published the weights."
    return f"{provenance.license}, for the weights. The data have a licence of their own."
