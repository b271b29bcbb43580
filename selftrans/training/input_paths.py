"""Where the inputs of a run's loss lie, as a command line says it. Needs no torch."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class InputPaths:
    """Where the inputs of a run's loss lie."""

    teachers: Mapping[str, Path] = field(default_factory=dict)
    """Frozen teachers, by the name of the term that follows them."""
    features: tuple[Path, ...] = ()
    """Manifests of feature stores; a store knows its encoder's name."""
    encoders: tuple[Path, ...] = ()
    """Encoders' files, of those that run on the images; a file knows its encoder's name."""

    @classmethod
    def of(cls, arguments: Namespace) -> InputPaths:
        """What a command line says, with the options of ``add_input_arguments``."""
        return cls(
            teachers=dict(arguments.teacher),
            features=tuple(arguments.features),
            encoders=tuple(arguments.encoder),
        )


def add_input_arguments(parser: ArgumentParser) -> None:
    """Give a command line the options that name what a run's loss follows."""
    options: dict[str, Any] = {"action": "append", "default": []}
    parser.add_argument(
        "--teacher", type=_named_path, metavar="TERM=FILE", **options,
        help="frozen teacher of a term of the loss, by the term's name (may be repeated)",
    )  # fmt: skip
    parser.add_argument(
        "--features", type=Path, **options,
        help="manifest of a feature store that a term reads (may be repeated)",
    )  # fmt: skip
    parser.add_argument(
        "--encoder", type=Path, **options,
        help="file of an encoder that a term runs (may be repeated)",
    )  # fmt: skip


def _named_path(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise ArgumentTypeError(f"{text!r} is not TERM=FILE")
    return name, Path(path)
