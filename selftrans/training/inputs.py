"""What a training reads beside latents: captions, and what the terms of its loss follow.

These are frozen teachers, encoders' stored features, encoders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from selftrans.config import ExperimentConfig
from selftrans.config.alignment import TeacherConfig
from selftrans.data.caption_store import CaptionStore
from selftrans.data.conditions import CaptionConditions, Conditions, same_null
from selftrans.data.sources import ImageSource, open_source
from selftrans.data.store import FeatureStore, LatentStore
from selftrans.models.backbone import Trunk
from selftrans.models.encoder import PatchEncoder, load_encoder
from selftrans.models.metadata import LatentScaling, TeacherMetadata, TextEncoderRecord
from selftrans.models.shape import BackboneShape
from selftrans.models.weights import load_teacher
from selftrans.runtime.errors import UserError
from selftrans.training.input_paths import InputPaths


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a training reads beside its latents, opened and checked."""

    text_encoder: TextEncoderRecord | None = None
    """What encoded the captions."""
    captions: CaptionStore | None = None
    """The features of the images' captions, for a backbone that is conditioned on them."""
    teachers: Mapping[str, Trunk] = field(default_factory=dict)
    """By the name of the term that follows them."""
    teacher_digests: tuple[str, ...] = ()
    """In the order of the terms."""
    features: Mapping[str, FeatureStore] = field(default_factory=dict)
    """Stored features, by the encoder's name."""
    encoders: Mapping[str, PatchEncoder] = field(default_factory=dict)
    """Encoders that run on the images of every batch, by name."""
    images: ImageSource | None = None
    """Where those images come from."""

    @classmethod
    def open(
        cls,
        experiment: ExperimentConfig,
        run: str,
        seed: int,
        store: LatentStore,
        paths: InputPaths,
        device: torch.device,
    ) -> Inputs:
        """Read what a run is conditioned on and what the terms of its loss follow.

        Raises:
            UserError: captions or a teacher is missing or is not wanted; a file is damaged, of
                other latents or images, of another checkpoint, or cut at another depth.
        """
        captions = _captions(experiment, run, store, paths.captions)
        wanted = experiment.runs[run].teachers
        if paths.teachers.keys() != wanted.keys():
            given, needed = (", ".join(names) or "none" for names in (paths.teachers, wanted))
            raise UserError(f"--teacher: given for {given}, run {run!r} needs one for {needed}")
        conditions = _conditions(captions, store)
        teachers, digests = {}, []
        for name, teacher in wanted.items():
            path = paths.teachers[name]
            teachers[name], metadata = load_teacher(path, device)
            _check_latents(path, metadata.shape, metadata.latents, store, conditions)
            if not same_null(teachers[name].null_condition(1).cpu().numpy(), conditions.null):
                raise UserError(
                    f"{path}: was trained on captions of another text encoder than"
                    f" {paths.captions}: its null condition is another one"
                )
            if (depth := metadata.shape.depth) != teacher.depth:
                raise UserError(
                    f"{path}: was cut at block {depth}, teacher_depth says {teacher.depth}"
                )
            _check_source(path, metadata, teacher.choice, seed)
            digests.append(metadata.digest)
        stores = [FeatureStore(path) for path in paths.features]
        for stored in stores:
            stored.check_fits(store)
        encoders = [load_encoder(path, device) for path in paths.encoders]
        images = open_source(experiment.data, store.manifest.skipped) if encoders else None
        return cls(
            text_encoder=_text_encoder(experiment, captions),
            captions=captions,
            teachers=teachers,
            teacher_digests=tuple(digests),
            features={stored.name: stored for stored in stores},
            encoders={encoder.name: encoder for encoder in encoders},
            images=images,
        )

    @property
    def digests(self) -> dict[str, Any]:
        """What the inputs are, for a run's definition."""
        stored = {name: features.manifest.digest for name, features in self.features.items()}
        computed = {name: encoder.digest for name, encoder in self.encoders.items()}
        captions = {"captions": self.captions.manifest.digest} if self.captions else {}
        return {
            "teachers": list(self.teacher_digests),
            "encoders": stored | computed,
            **captions,
        }

    def conditions(self, store: LatentStore) -> Conditions:
        """What the images of a store are conditioned on."""
        return _conditions(self.captions, store)


def _conditions(captions: CaptionStore | None, store: LatentStore) -> Conditions:
    """Captions where a run is conditioned on them, else the classes of the latents."""
    return store.classes if captions is None else CaptionConditions(captions)


def _captions(
    experiment: ExperimentConfig, run: str, store: LatentStore, path: Path | None
) -> CaptionStore | None:
    """The captions of a run that is conditioned on them.

    Raises:
        UserError: they are missing, of other images, or not wanted.
    """
    wanted = experiment.runs[run].model.condition == "caption"
    if wanted != (path is not None):
        needs = "needs some" if wanted else "is conditioned on classes"
        raise UserError(f"--captions: {path or 'none are given'}, run {run!r} {needs}")
    if path is None:
        return None
    captions = CaptionStore(path)
    captions.check_fits(store)
    return captions


def _text_encoder(
    experiment: ExperimentConfig, captions: CaptionStore | None
) -> TextEncoderRecord | None:
    """What encoded captions, to be kept with the weights that are trained on them."""
    settings = experiment.data.text_encoder
    if captions is None or settings is None:
        return None
    return TextEncoderRecord(digest=captions.manifest.encoder_digest, settings=settings)


def _check_source(path: Path, metadata: TeacherMetadata, choice: TeacherConfig, seed: int) -> None:
    """Raise unless a teacher is of the checkpoint that the experiment names.

    An imported checkpoint is of no seed.
    """
    wanted = {"run": choice.run, "step": choice.step, "weights": choice.weights}
    if metadata.latents.digest is not None:
        wanted["seed"] = seed
    for key, expected in wanted.items():
        if (found := getattr(metadata.source, key)) != expected:
            raise UserError(
                f"{path}: is a teacher of {key} {found}, the experiment names {expected}"
            )


def _check_latents(
    path: Path,
    shape: BackboneShape,
    latents: LatentScaling,
    store: LatentStore,
    conditions: Conditions,
) -> None:
    """Raise unless a teacher fits a store's latents.

    Of an imported one nobody knows which latents it was trained on.
    """
    manifest = store.manifest
    if latents.digest is None:
        for key, value, expected in (
            ("scale", latents.scale, manifest.scale),
            ("shift", latents.shift, manifest.shift),
            ("latent_shape", shape.latent_shape, manifest.latent_shape),
            ("condition", shape.condition_size, conditions.size),
        ):
            if value != expected:
                raise UserError(f"{path}: {key} is {value}, {store.directory} has {expected}")
    elif latents.digest != manifest.digest:
        raise UserError(f"{path}: was trained on other latents than {store.directory}")
