"""Where the inputs of a training lie, beside its latents. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class InputPaths:
    """Where the inputs of a training lie, beside its latents."""

    captions: Path | None = None
    """Manifest of the features of the images' captions, for a run that is conditioned on them."""
    teachers: Mapping[str, Path] = field(default_factory=dict)
    """Frozen teachers, by the name of the term that follows them."""
    features: tuple[Path, ...] = ()
    """Manifests of feature stores; a store knows its encoder's name."""
    encoders: tuple[Path, ...] = ()
    """Encoders' files, of those that run on the images; a file knows its encoder's name."""
