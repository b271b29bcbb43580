"""Public checkpoints in, ours out."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from selftrans import __version__
from selftrans.config import (
    BackboneConfig,
    Convention,
    InterpolantName,
    MMDiTConfig,
    Weights,
)
from selftrans.models.conversion import read_shape, takes_captions, to_ours
from selftrans.models.metadata import ImportedFrom, LatentScaling, WeightsMetadata
from selftrans.models.public_file import read_checkpoint
from selftrans.models.shape import BackboneShape, MMDiTShape, SiTShape
from selftrans.models.weights import CPU, load_backbone, load_exported
from selftrans.runtime.arrays import read_array
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import read_fields, sha256_of, write_json
from selftrans.runtime.headers import is_own_file
from selftrans.runtime.logs import LOG
from selftrans.runtime.tensors import write_safetensors

SD_SCALE = 0.18215  # of Stable Diffusion's autoencoder, which the public models were trained on
OUR_CONVENTION: Convention = "noise-at-1"
SIT_GUIDED_CHANNELS = 3  # SiT's forward_with_cfg, and LayerSync's, take the others from v_c


def import_checkpoint(
    file: Path,
    output: Path,
    *,
    convention: Convention | None = None,
    weights: Weights | None = None,
    num_heads: int | None = None,
    latent_size: int | None = None,
    empty_context: Path | None = None,
    ignore: Collection[str] = (),
    step: int | None = None,
    scale: float | None = None,
    shift: float | None = None,
    interpolant: InterpolantName | None = None,
    name: str | None = None,
    expected: BackboneConfig | None = None,
) -> str:
    """Write a public checkpoint as a weight file of ours and return the digest of its tensors.

    A file that this package wrote, as a checkpoint or exported, says all of it itself.

    Args:
        file: the public file.
        output: our weight file.
        convention: the model's direction of time.
        weights: averaged (if it is not given) or raw, where the file has both.
        num_heads: attention heads, where nothing in the file tells them.
        latent_size: height of the latents, where nothing in the file tells it.
        empty_context: features of the empty caption, (L, K) or (1, L, K) as ``.npy``, which is what
            an MMDiT's null condition is.
        ignore: prefixes of tensors that are no part of the backbone.
        step: the training's step (if it is not given: what the file says, else 0).
        scale: a latent that the model sees is (latent - shift) * scale (if it is not given: that of
            Stable Diffusion's autoencoder).
        shift: see ``scale`` (if it is not given: 0).
        interpolant: the one that the model was trained on (if it is not given: linear).
        name: the run's name (if it is not given: the file's).
        expected: the backbone that it must be; tells the heads, too.

    Raises:
        UserError: the file cannot be used, its model has another shape, or it says otherwise.
    """
    if (own := _read_own(file)) is not None:
        options = {
            "convention": convention, "weights": weights, "step": step, "scale": scale,
            "shift": shift, "interpolant": interpolant, "num-heads": num_heads,
            "latent-size": latent_size, "ignore": tuple(ignore) or None,
            "empty-context": empty_context,
        }  # fmt: skip
        return _take_over(file, *own, output, options, name, expected)
    if convention is None:
        raise UserError(
            f"--convention: is needed, {file} does not say it"
            f" (allowed: {', '.join(get_args(Convention))})"
        )
    public = read_checkpoint(file)
    weights = weights or "ema"
    tensors = _with_null_context(public.tensors(weights), file, empty_context)
    if expected is not None:
        num_heads = num_heads or expected.num_heads
    shape = read_shape(tensors, file, num_heads=num_heads, latent_size=latent_size)
    _check_shape(file, shape, expected)
    of_sit = isinstance(shape, SiTShape) and shape.latent_shape[0] > SIT_GUIDED_CHANNELS
    if convention == "data-at-1" and of_sit:
        LOG.info(
            "%s: SiT's published guided numbers guided %d of the %d channels (its"
            " forward_with_cfg); a sampler's `guidance: {channels: %d}` reproduces that",
            file,
            SIT_GUIDED_CHANNELS,
            shape.latent_shape[0],
            SIT_GUIDED_CHANNELS,
        )
    metadata = WeightsMetadata(
        run=name or file.stem,
        seed=0,
        step=step if step is not None else public.step or 0,
        fingerprint=sha256_of(file),
        shape=shape,
        interpolant=interpolant or "linear",
        latents=LatentScaling(
            digest=None, scale=SD_SCALE if scale is None else scale, shift=shift or 0.0
        ),
        version=__version__,
        weights=weights,
        imported=ImportedFrom(file=file.name, convention=convention),
    )
    converted = to_ours(tensors, shape, convention, file, ignore)
    for key, tensor in converted.items():
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{file}: {key} is not finite")
    return metadata.save(output, converted)


def _with_null_context(
    tensors: dict[str, Tensor], file: Path, empty_context: Path | None
) -> dict[str, Tensor]:
    """A public backbone's tensors, for an MMDiT with its null condition, which such files lack.

    Raises:
        UserError: it is not given, not needed, or does not fit.
    """
    if not takes_captions(tensors) or "null_context" in tensors:
        if empty_context is not None:
            has = "its own null_context" if "null_context" in tensors else "classes, no captions"
            raise UserError(f"{file}: has {has}, --empty-context says {empty_context}")
        return tensors
    if empty_context is None:
        raise UserError(
            f"{file}: is an MMDiT, whose null condition is the empty caption: --empty-context is"
            " needed (allowed: an .npy with the features of its tokens)"
        )
    array = read_array(empty_context)
    found = "x".join(map(str, array.shape)) or "a scalar"
    array = array[0] if array.ndim == 3 and len(array) == 1 else array
    if array.ndim != 2 or not len(array) or array.dtype.kind != "f":
        raise UserError(
            f"{empty_context}: is {found} of {array.dtype}, expected tokens x elements of floating"
            " point"
        )
    null = torch.from_numpy(array.astype(np.float32))
    if not bool(torch.isfinite(null).all()):
        raise UserError(f"{empty_context}: is not finite")
    embedder = tensors.get("context_embedder.weight")
    if embedder is not None and embedder.shape[1:] != null.shape[1:]:
        raise UserError(
            f"{empty_context}: has tokens of {null.shape[1]}, {file} takes those of"
            f" {embedder.shape[-1]}"
        )
    return {**tensors, "null_context": null}


def _read_own(file: Path) -> tuple[dict[str, Tensor], WeightsMetadata] | None:
    """Tensors and metadata of a file that this package wrote; None of any other."""
    if file.suffix != ".safetensors" or not file.is_file():
        return None
    if is_own_file(file):
        return WeightsMetadata.load(file)
    config = file.with_name("config.json")
    if file.name != "model.safetensors" or not config.is_file():
        return None
    if not {"fingerprint", "interpolant", "latents"} <= read_fields(config).keys():
        return None
    model, metadata = load_exported(file.parent)
    return model.state_dict(), metadata


def _take_over(
    file: Path,
    tensors: dict[str, Tensor],
    metadata: WeightsMetadata,
    output: Path,
    options: Mapping[str, Any],
    name: str | None,
    expected: BackboneConfig | None,
) -> str:
    """Write a file of ours under the name of an imported run.

    Raises:
        UserError: an option says otherwise than the file.
    """
    says = {
        "convention": OUR_CONVENTION, "weights": metadata.weights, "step": metadata.step,
        "scale": metadata.latents.scale, "shift": metadata.latents.shift,
        "interpolant": metadata.interpolant, "num-heads": metadata.shape.num_heads,
        "latent-size": metadata.shape.latent_shape[1], "ignore": (), "empty-context": "its own",
    }  # fmt: skip
    for option, value in options.items():
        if value is not None and value != says[option]:
            raise UserError(
                f"{file}: was written by selftrans, its {option} is {says[option]},"
                f" --{option} says {value}"
            )
    _check_shape(file, metadata.shape, expected)
    imported = ImportedFrom(file=file.name, convention=OUR_CONVENTION)
    changes = {"run": name or metadata.run, "seed": 0, "imported": imported}
    return metadata.model_copy(update=changes).save(output, tensors)


def _check_shape(file: Path, shape: BackboneShape, expected: BackboneConfig | None) -> None:
    """Raise unless a file's backbone is the one that it must be."""
    if expected is None:
        return
    if isinstance(shape, MMDiTShape) != isinstance(expected, MMDiTConfig):
        found, wanted = ("MMDiT", "SiT") if isinstance(shape, MMDiTShape) else ("SiT", "MMDiT")
        raise UserError(f"{file}: is of kind {found}, expected {wanted}")
    plain = replace(shape, intermediate_depth=None)
    sizes = plain.sized(expected).to_json()
    for key, value in plain.to_json().items():
        if value != sizes[key]:
            raise UserError(f"{file}: {key} is {value}, expected {sizes[key]}")


def export_checkpoint(weights: Path, output: Path) -> None:
    """Write a weight file for others into a directory: plain tensors, and a ``config.json``.

    ``load_exported`` reads it.

    Raises:
        UserError: the file is not a weight file.
    """
    model, metadata = load_backbone(weights, CPU)
    write_safetensors(output / "model.safetensors", model.state_dict(), {"format": "pt"})
    write_json(output / "config.json", metadata.model_dump(mode="json"))
