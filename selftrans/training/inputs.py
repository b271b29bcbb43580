"""What training signals follow: frozen teachers, encoders' stored features, encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from selftrans.config import ExperimentConfig
from selftrans.data.sources import ImageSource, open_source
from selftrans.data.store import FeatureStore, LatentStore
from selftrans.models.encoder import PatchEncoder, load_encoder
from selftrans.models.metadata import LatentScaling
from selftrans.models.sit import SiTShape, SiTTrunk
from selftrans.models.weights import load_teacher
from selftrans.runtime.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the signals of a run follow, opened and checked."""

    teachers: tuple[SiTTrunk, ...] = ()
    """One for each signal that follows one, in order."""
    teacher_digests: tuple[str, ...] = ()
    features: tuple[FeatureStore, ...] = ()
    """Of the encoders whose features are stored."""
    encoders: tuple[PatchEncoder, ...] = ()
    """Those that run on the images of every batch."""
    images: ImageSource | None = None
    """Where those images come from."""

    @classmethod
    def open(
        cls,
        experiment: ExperimentConfig,
        run: str,
        store: LatentStore,
        teachers: Sequence[Path],
        features: Sequence[Path],
        encoders: Sequence[Path],
        device: torch.device,
    ) -> Inputs:
        """Read what a run's signals follow.

        Raises:
            UserError: a file is damaged, of other latents or images, or cut at another depth; a teacher lacks.
        """
        wanted = experiment.runs[run].teachers
        if len(teachers) != len(wanted):
            raise UserError(f"--teacher: {len(teachers)} given, run {run!r} follows {len(wanted)}")
        loaded = [load_teacher(path, device) for path in teachers]
        for path, (trunk, metadata), teacher in zip(teachers, loaded, wanted, strict=True):
            _check_latents(path, trunk.shape, metadata.latents, store)
            if teacher.depth != trunk.shape.depth:
                raise UserError(
                    f"{path}: was cut at block {trunk.shape.depth}, teacher_depth says {teacher.depth}"
                )
        stores = tuple(map(FeatureStore, features))
        for stored in stores:
            stored.check_fits(store)
        return cls(
            teachers=tuple(trunk for trunk, _ in loaded),
            teacher_digests=tuple(metadata.digest for _, metadata in loaded),
            features=stores,
            encoders=tuple(load_encoder(path, device) for path in encoders),
            images=open_source(experiment.data, store.manifest.skipped) if encoders else None,
        )

    @property
    def by_name(self) -> dict[str, FeatureStore | PatchEncoder]:
        """Stored features and encoders by the encoder's name."""
        stored: dict[str, FeatureStore | PatchEncoder] = {
            source.name: source for source in self.features
        }
        return stored | {encoder.name: encoder for encoder in self.encoders}

    @property
    def digests(self) -> dict[str, Any]:
        """What the inputs are, for a run's definition."""
        stored = {source.name: source.manifest.digest for source in self.features}
        return {
            "teachers": list(self.teacher_digests),
            "encoders": stored | {encoder.name: encoder.digest for encoder in self.encoders},
        }


def _check_latents(path: Path, shape: SiTShape, latents: LatentScaling, store: LatentStore) -> None:
    """Raise unless a teacher fits a store's latents; of an imported one nobody knows which it was trained on."""
    manifest = store.manifest
    if latents.digest is None:
        for key, found, expected in (
            ("scale", latents.scale, manifest.scale),
            ("shift", latents.shift, manifest.shift),
            ("latent_shape", shape.latent_shape, manifest.latent_shape),
            ("num_classes", shape.num_classes, manifest.num_classes),
        ):
            if found != expected:
                raise UserError(f"{path}: {key} is {found}, {store.directory} has {expected}")
    elif latents.digest != manifest.digest:
        raise UserError(f"{path}: was trained on other latents than {store.directory}")
