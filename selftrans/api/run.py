"""A checkpoint of a run with all that belongs to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selftrans.api.measures import image_statistics, metrics
from selftrans.config import (
    ExperimentConfig,
    ExtractorName,
    Metric,
    SamplerConfig,
    Weights,
    merged,
    validated,
)
from selftrans.data.caption_store import CaptionStore
from selftrans.data.store import LatentStore
from selftrans.evaluation.extractors import Extractor, load_extractor
from selftrans.evaluation.features import NoisedImages
from selftrans.evaluation.statistics import ImageStatistics
from selftrans.models.backbone import Backbone
from selftrans.models.metadata import WeightsMetadata
from selftrans.models.weights import load_backbone
from selftrans.runs import DataRecord, RunRecord, located
from selftrans.runtime.devices import allow_tf32
from selftrans.runtime.errors import UserError
from selftrans.sampling.classes import Classes, class_numbers, names_of_classes
from selftrans.sampling.conditions import encoded_prompts
from selftrans.sampling.generate import ImageSampler
from selftrans.training.input_paths import InputPaths
from selftrans.training.inputs import Inputs
from selftrans.training.steps import TrainingSteps
from selftrans.training.trainer import Segment


def training_of(
    project: Path,
    experiment: ExperimentConfig,
    record: RunRecord,
    data: DataRecord,
    step: int,
    device: torch.device,
) -> TrainingSteps:
    """A run's training after a step that has a saved state, or fresh for step 0.

    Raises:
        UserError: the run is imported, an input is missing, or there is no saved state of the step.
    """
    if record.imported:
        raise UserError(f"run {record.run!r}: is imported, nothing is known of its training")
    segment = Segment(
        experiment=experiment,
        run=record.run,
        seed=record.seed,
        until=step,
        latents=project / data.latents,
        inputs=InputPaths(
            captions=project / record.captions if record.captions else None,
            teachers={teacher.term: project / teacher.file for teacher in record.teachers},
            features=tuple(project / path for path in record.features),
            encoders=tuple(project / path for path in record.encoders),
        ),
        directory=project / record.folder,
    )
    return TrainingSteps(segment, device)


class TrainedRun:
    """A checkpoint with its experiment, data and autoencoder; see ``load_run``.

    Attributes:
        experiment: all settings, defaults filled in.
        name, seed, step, weights: which checkpoint it is.
        path: its weight file.
        device: where everything is computed.
        class_names: names of the classes, in their order.
    """

    def __init__(
        self,
        project: Path,
        experiment: ExperimentConfig,
        record: RunRecord,
        data: DataRecord,
        step: int,
        weights: Weights,
        device: torch.device,
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.project, self.experiment, self.device = project, experiment, device
        self.name, self.seed, self.step, self.weights = record.run, record.seed, step, weights
        self._record, self._data = record, data
        self.path = record.weights(project, step, weights)
        allow_tf32(False)
        self._backbone = load_backbone(self.path, device)
        self.class_names = self._names(class_names)

    def _names(self, given: Sequence[str] | None) -> tuple[str, ...]:
        if not isinstance(size := self.model.shape.condition_size, int):
            return ()
        names = given or names_of_classes(self.project, self._data)
        if names and len(names) != size:
            raise UserError(f"class_names: {len(names)} names are given for {size} classes")
        return tuple(names) or tuple(map(str, range(size)))

    def __repr__(self) -> str:
        return (
            f"TrainedRun({self.experiment.name!r}, {self.name!r}, step={self.step},"
            f" seed={self.seed}, weights={self.weights!r}, device={str(self.device)!r})"
        )

    # -- what it is made of

    @property
    def model(self) -> Backbone:
        """The backbone, in eval mode without gradient."""
        return self._backbone[0]

    @property
    def metadata(self) -> WeightsMetadata:
        """What the weight file says about itself."""
        return self._backbone[1]

    @property
    def num_classes(self) -> int:
        """K; the null class is K.

        Raises:
            UserError: the model is conditioned on captions.
        """
        if not isinstance(size := self.model.shape.condition_size, int):
            raise UserError(f"run {self.name!r}: is conditioned on captions, and has no classes")
        return size

    @cached_property
    def store(self) -> LatentStore:
        """The latents that it was trained on."""
        return LatentStore(self.project / self._data.latents)

    @cached_property
    def image_sampler(self) -> ImageSampler:
        """The checkpoint with the autoencoder that decodes its latents."""
        return ImageSampler(
            self.path,
            located(self.project, self._data.autoencoder),
            self.device,
            other_decoder=self._data.other_decoder,
            prompts=self.project / self._record.prompts if self._record.prompts else None,
            backbone=self._backbone,
        )

    @property
    def autoencoder(self) -> Any:
        """The autoencoder, of diffusers."""
        return self.image_sampler.autoencoder

    # -- samples

    def settings(self, sampler: str | None = None, **changes: Any) -> SamplerConfig:
        """A sampler of the experiment (that of its figures, if none is named), with changes.

        Raises:
            UserError: there is no such sampler, with those that there are, or a change is wrong.
        """
        samplers, name = (
            self.experiment.evaluation.samplers,
            sampler or self.experiment.figures.sampler,
        )
        if name not in samplers:
            raise UserError(f"sampler {name!r} is unknown (known: {', '.join(samplers)})")
        values: Mapping[str, Any] = merged(samplers[name].model_dump(), changes)
        return validated(SamplerConfig, values, f"sampler {name!r}", self.experiment.defaults)

    def sample(
        self,
        classes: Classes | None = None,
        *,
        prompts: str | Sequence[str] | None = None,
        text_encoder: str | None = None,
        count: int | None = None,
        first: int = 0,
        sampler: str | None = None,
        batch_size: int = 64,
        **changes: Any,
    ) -> NDArray[np.uint8]:
        """Images (B, H, W, 3): sample i is a function of (seed, i), its condition and the settings.

        Args:
            classes: by number or name, one, a list, an array or a tensor; those that the sampler
                gives its samples, if they are not given.
            prompts: captions in place of classes, one or several.
            text_encoder: where the prompts' lies, if not where the training found it.
            count: how many, without conditions or with one for all.
            first: index of the first sample.
            sampler: one of the experiment's; that of its figures, if it is not given.
            batch_size: images at a time, which changes no image but for rounding.
            changes: of the sampler's settings: ``seed=1``, ``num_steps=20``,
                ``guidance={"scale": 2}``.

        Raises:
            UserError: a class or a setting is unknown, or it is not known how many are wanted.
        """
        settings = self.settings(sampler, **changes)
        conditions = self._conditions(classes, prompts, text_encoder)
        if conditions is not None:
            if count is not None and len(conditions) == 1:
                conditions = conditions.repeat(count, axis=0)
            if count not in (None, len(conditions)):
                raise UserError(f"count: {count}, but {len(conditions)} conditions are given")
            count = len(conditions)
        if count is None or count < 1:
            raise UserError(
                f"count: {count} images (allowed: classes or prompts, or a count of 1 or more)"
            )
        parts = [
            self.image_sampler.images(
                settings,
                range(first + start, first + min(start + batch_size, count)),
                None if conditions is None else conditions[start : start + batch_size],
            )
            for start in range(0, count, batch_size)
        ]
        return np.concatenate(parts)

    def _conditions(
        self,
        classes: Classes | None,
        prompts: str | Sequence[str] | None,
        text_encoder: str | None,
    ) -> NDArray[Any] | None:
        """Classes or captions as the backbone takes them."""
        if classes is not None and prompts is not None:
            raise UserError("classes and prompts: both are given (allowed: one of the two)")
        if prompts is not None:
            texts = [prompts] if isinstance(prompts, str) else prompts
            return encoded_prompts(self.metadata, texts, text_encoder)
        if classes is None:
            return None
        return class_numbers(classes, self.num_classes, self.class_names)

    def decode(self, latents: Tensor) -> NDArray[np.uint8]:
        """Images (B, H, W, 3) of latents (B, C, H, W) as the backbone sees them, scaled."""
        unscaled = self.metadata.latents.unscaled(latents.to(self.device))
        return self.image_sampler.decode(unscaled)

    # -- features

    @torch.inference_mode()
    def features(
        self,
        block: int,
        t: float,
        images: int | Iterable[int] = 16,
        *,
        with_condition: bool = True,
        pool: bool = False,
    ) -> Tensor:
        """Tokens (B, T, D) after a block, of real images noised to time t.

        The noise is a function of the image, the same for every run.

        Args:
            block: counted from 1.
            t: 0 is data, 1 is noise.
            images: indices in the data set, or how many of the first.
            with_condition: whether the network is given the class or the first caption.
            pool: whether to return means over tokens, (B, D).

        Raises:
            UserError: there is no such block, time or image.
        """
        depth = self.model.shape.depth
        if block not in range(1, depth + 1):
            raise UserError(f"block {block} is unknown (known: 1 to {depth})")
        if not 0 <= t <= 1:
            raise UserError(f"t: {t} is no time (allowed: 0 to 1)")
        chosen = range(images) if isinstance(images, int) else images
        indices = np.array(list(chosen), dtype=np.int64)
        if wrong := [i for i in indices.tolist() if not 0 <= i < len(self.store)]:
            raise UserError(f"image {wrong[0]} is unknown (known: 0 to {len(self.store) - 1})")
        captions = self._record.captions
        inputs = Inputs(captions=CaptionStore(self.project / captions) if captions else None)
        noised = NoisedImages(self.store, inputs, self.metadata.interpolant, self.device)
        batch = noised.batch(indices, t)
        if not with_condition:
            batch = batch.unconditional(self.model)
        features = self.model.features(batch.x_BCHW, batch.t_B, batch.condition_B, (block,), pool)
        return features[block]

    # -- training

    def training(self, step: int | None = None) -> TrainingSteps:
        """The run's training, ready for its next step: ``run.training().step()``.

        It has all that the run's loss follows: teachers, encoders, stored features. Nothing is
        written.

        Args:
            step: that it begins after: one with a saved state, or 0 for a fresh model; that of this
                checkpoint, if it is not given.

        Raises:
            UserError: an input is missing, or there is no saved state of that step.
        """
        return training_of(
            self.project,
            self.experiment,
            self._record,
            self._data,
            self.step if step is None else step,
            self.device,
        )

    # -- measures

    def extractor(self, name: ExtractorName | None = None) -> Extractor:
        """The experiment's feature network, or another one whose weights are in the cache."""
        chosen = name or self.experiment.evaluation.extractor
        weights = self.project / self._data.classifier if chosen == "classifier" else None
        return load_extractor(chosen, weights, self.device)

    def reference(self, extractor: ExtractorName | None = None) -> ImageStatistics:
        """Statistics of what the experiment's samples are measured against.

        Raises:
            UserError: there are none by that network, with the networks that there are.
        """
        chosen, references = (
            extractor or self.experiment.evaluation.extractor,
            self._data.references,
        )
        if chosen not in references:
            raise UserError(f"extractor {chosen!r}: no reference (known: {', '.join(references)})")
        return ImageStatistics.load(self.project / references[chosen])

    def metrics(self, images: Any, names: str | Sequence[str] | None = None) -> dict[Metric, float]:
        """Metrics of images (N, H, W, 3) by the experiment's network, against its reference.

        Args:
            images: array or tensor in uint8.
            names: of metrics; those of the experiment, if they are not given.

        Raises:
            UserError: a name is unknown, or the images do not allow it.
        """
        evaluation = self.experiment.evaluation
        wanted = names or evaluation.metrics_of(evaluation.extractor)
        samples = image_statistics(images, self.extractor())
        return metrics(wanted, samples, self.reference(), evaluation.distances)

    # -- for others

    def export_pipeline(
        self, output: str | Path, sampler: str | None = None, **options: Any
    ) -> None:
        """Write a folder that diffusers loads; see ``selftrans.pipeline.export.export_pipeline``.

        Args:
            output: a new or empty folder.
            sampler: one of the experiment's, whose steps and guidance become the default.
            options: of ``export_pipeline``.
        """
        from selftrans.pipeline.export import export_pipeline

        if sampler is not None:
            options["settings"] = self.settings(sampler)
        export_pipeline(self.path, Path(output), **{"class_names": self.class_names, **options})
