"""From a weight file to a folder of diffusers."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from diffusers import FlowMatchEulerDiscreteScheduler

from selftrans.config import SamplerConfig
from selftrans.evaluation.headline import setting_of
from selftrans.evaluation.tables import METRIC_NAMES, metrics_table, read_result
from selftrans.models.metadata import WeightsMetadata
from selftrans.models.sit import SiT
from selftrans.pipeline.card import Provenance, Result
from selftrans.pipeline.index import CallSettings
from selftrans.pipeline.sit_pipeline import SiTPipeline
from selftrans.pipeline.transformer import SiTTransformer
from selftrans.runs import find_run, located
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import writing
from selftrans.sampling.classes import names_of_classes
from selftrans.sampling.generate import ImageSampler


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the results around a weight file say that the file does not."""

    autoencoder: str | None = None
    other_decoder: bool = False
    dataset: str | None = None
    class_names: tuple[str, ...] = ()
    metrics: tuple[Path, ...] = ()

    @classmethod
    def of(cls, weights: Path) -> Surroundings:
        """Those of a weight file; nothing, if it is not part of any results."""
        if (found := find_run(weights)) is None or (data := found.runs.data) is None:
            return cls()
        metrics = found.record.metrics.get(weights.absolute().parent.name)
        file = None if metrics is None else found.project / metrics
        is_measured = file is not None and file.is_file() and weights.stem == "ema"
        return cls(
            autoencoder=located(found.project, data.autoencoder),
            other_decoder=data.other_decoder,
            dataset=data.name,
            class_names=names_of_classes(found.project, data),
            metrics=(file,) if file is not None and is_measured else (),
        )


def export_pipeline(
    weights: Path,
    output: Path,
    *,
    autoencoder: str | None = None,
    other_decoder: bool = False,
    settings: SamplerConfig | None = None,
    dataset: str | None = None,
    class_names: Sequence[str] | None = None,
    metrics: Iterable[Path] | None = None,
    license_name: str | None = None,
) -> None:
    """Write a weight file as a folder that ``SiTPipeline.from_pretrained`` loads.

    What is not given is what the results say that the weight file is part of.

    Args:
        weights: weight file of a checkpoint.
        output: the folder; it must be new, or empty.
        autoencoder: directory or hub name of what decodes the latents.
        other_decoder: whether another autoencoder made them.
        settings: steps and guidance of a call that does not say otherwise.
        dataset: name of the data, for the model card.
        class_names: names of the classes, in their order.
        metrics: metrics files about these weights, for the model card.
        license_name: of the weights, as the hub spells it.

    Raises:
        UserError: the weights cannot be sampled by diffusers' flow matching, an input does not fit,
            or the folder is not empty.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output: {output} exists (allowed: a new or an empty folder)")
    around = Surroundings.of(weights)
    if autoencoder is None:
        autoencoder, other_decoder = around.autoencoder, around.other_decoder
    if autoencoder is None:
        raise UserError(f"--autoencoder: is needed, {weights} is not part of any results")
    sampling = _sampling(settings)
    sampler = ImageSampler(weights, autoencoder, other_decoder=other_decoder)
    metadata, backbone = sampler.metadata, sampler.model
    if not isinstance(backbone, SiT):
        raise UserError(
            f"{weights}: a {type(backbone).__name__} is conditioned on captions"
            " (allowed: a SiT, which is conditioned on classes)"
        )
    _check_weights(weights, metadata)
    names = tuple(around.class_names if class_names is None else class_names)
    if names and len(names) != (count := backbone.shape.num_classes):
        raise UserError(f"class names: {len(names)} are given, {weights} has {count} classes")
    files = around.metrics if metrics is None else metrics
    results = [result for file in files for result in read_results(file, metadata)]
    provenance = Provenance.of(metadata, dataset or around.dataset, license_name, results)
    pipeline = SiTPipeline(
        transformer=SiTTransformer.of(backbone),
        vae=sampler.autoencoder,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        id2label={str(number): name for number, name in enumerate(names)} or None,
        latent_scaling=metadata.latents.model_dump(mode="json", include={"scale", "shift"}),
        sampling=sampling,
        provenance=provenance.model_dump(mode="json"),
    )
    _write(pipeline, output)


def read_results(path: Path, metadata: WeightsMetadata) -> list[Result]:
    """The numbers of a metrics file.

    Raises:
        UserError: it is damaged, or about other weights.
    """
    content = read_result(path)
    digest = content["samples"]["checkpoint"]["digest"]
    if digest != metadata.digest:
        raise UserError(
            f"{path}: is about other weights, of digest {digest[:12]}, exported are those of"
            f" {metadata.digest[:12]}"
        )
    row = metrics_table([("", content)]).iloc[0]
    reference = f"{row['reference'] or 'unknown'} ({row['num_reference']:,} images)"
    return [
        Result(
            metric=metric,
            name=METRIC_NAMES[metric],
            value=value,
            extractor=row["extractor"],
            setting=setting_of(row),
            reference=reference,
        )
        for metric, value in content["metrics"].items()
    ]


def _sampling(settings: SamplerConfig | None) -> dict[str, object]:
    """A sampler's settings as those of a call.

    Raises:
        UserError: it is another one than Euler's on the ODE.
    """
    if settings is None:
        return CallSettings().model_dump(mode="json")
    if settings.sampler != "euler":
        kind = "an SDE" if settings.sampler == "euler-maruyama" else "another method"
        raise UserError(
            f"sampler: {settings.sampler!r} is {kind}, diffusers' flow-matching scheduler has"
            " Euler's method on the ODE (allowed: euler)"
        )
    if settings.internal_guidance.scale != 1:
        raise UserError(
            f"internal_guidance: scale: {settings.internal_guidance.scale:g}, a pipeline of"
            " diffusers has no second output layer (allowed: 1)"
        )
    guidance = settings.guidance
    chosen = CallSettings(
        num_inference_steps=settings.num_steps,
        guidance_scale=guidance.scale,
        guidance_interval=(guidance.low, guidance.high),
        guidance_channels=guidance.channels,
        uint8=settings.uint8,
    )
    return chosen.model_dump(mode="json")


def _check_weights(weights: Path, metadata: WeightsMetadata) -> None:
    if metadata.interpolant != "linear":
        raise UserError(
            f"{weights}: was trained on the {metadata.interpolant!r} interpolant, diffusers' flow"
            " matching is the linear one (allowed: linear)"
        )
    if metadata.own_backbone is not None:
        kind = metadata.own_backbone.get("kind")
        raise UserError(f"{weights}: is a backbone of its own, {kind!r} (allowed: sit)")


def _write(pipeline: SiTPipeline, output: Path) -> None:
    """Write the folder as a whole, with the modes of the user's umask."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with (
        writing(output),
        TemporaryDirectory(prefix=".pipeline-", dir=output.parent) as temporary,
    ):
        saved, whole = Path(temporary) / "saved", Path(temporary) / "whole"
        pipeline.save_pretrained(saved)
        shutil.copytree(saved, whole, copy_function=shutil.copyfile)
        if output.exists():
            output.rmdir()
        whole.rename(output)
