"""The autoencoder between uint8 images and latents: one of diffusers' classes."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selftrans.config import DECODED_ELEMENTS, Precision, Uint8Conversion
from selftrans.runtime.devices import tf32_allowed
from selftrans.runtime.errors import UserError, shortened
from selftrans.runtime.files import atomic_path, read_fields, sha256_of, write_json, writing
from selftrans.runtime.tensors import DTYPES, PerChannel, digest_of

DIGEST_FILE = "digest.json"
"""Beside an autoencoder that was trained here: diffusers' files carry no digest."""

AUTOENCODERS = ("Autoencoder", "VQModel")
"""How the names of diffusers' autoencoders begin."""

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    Autoencoder: TypeAlias = AutoencoderKL


def load_autoencoder(path: str, device: torch.device) -> Autoencoder:
    """Load a directory of ``save_pretrained`` or a name on the Hugging Face hub.

    Its configuration names one of diffusers' classes. Only files that are not in the cache are
    requested from the hub, and none where ``HF_HUB_OFFLINE`` is set.

    Raises:
        UserError: there is no autoencoder under that name, with how to fetch one from the hub; its
            files are damaged or incomplete, or a weight is not finite.
    """
    import diffusers  # seconds that a training does not spend

    try:
        name = diffusers.AutoencoderKL.load_config(path).get("_class_name", "")
        kind = getattr(diffusers, name, None) if name.startswith(AUTOENCODERS) else None
        if kind is None:
            raise ValueError(f"its class is {name!r}, which is not an autoencoder of diffusers")
        autoencoder, loaded = kind.from_pretrained(
            path, use_safetensors=True, output_loading_info=True
        )
        for problem in ("missing_keys", "mismatched_keys"):
            if names := sorted(map(str, loaded.get(problem, ()))):
                raise ValueError(f"{problem.replace('_', ' ')}: {', '.join(names[:3])}")
    except Exception as error:  # diffusers, safetensors and json raise a dozen kinds
        reason = shortened(str(error), 200) or type(error).__name__
        if Path(path).is_dir():
            raise UserError(
                f"autoencoder {path!r}: cannot be loaded from this directory ({reason})"
            ) from None
        raise UserError(
            f"autoencoder {path!r}: no such directory, and not available from the Hugging Face hub"
            f" ({reason}); where there is a network, fetch it once: hf download {path}"
        ) from None
    if not all(bool(torch.isfinite(tensor).all()) for tensor in autoencoder.state_dict().values()):
        raise UserError(f"autoencoder {path!r}: a weight is not finite")
    if (record := Path(path) / DIGEST_FILE).exists():
        written = read_fields(record, digest=str)
        if digest_of(autoencoder.state_dict()) != written["digest"]:
            raise UserError(f"autoencoder {path!r}: damaged, its weights are not what was written")
        if written.get("config") != sha256_of(Path(path) / "config.json"):
            raise UserError(f"autoencoder {path!r}: damaged, its config is not what was written")
    autoencoder.requires_grad_(False)
    return autoencoder.eval().to(device)


def in_precision(autoencoder: Autoencoder, precision: Precision) -> Autoencoder:
    """A copy of an autoencoder that computes in a precision."""
    # Not by diffusers' own `to`, which warns of modules that stay in fp32 where there are none.
    copied = copy.deepcopy(autoencoder)
    torch.nn.Module.to(copied, DTYPES[precision])
    return copied


def save_autoencoder(autoencoder: Autoencoder, directory: Path) -> None:
    """Write an autoencoder that was trained here, for ``load_autoencoder``, with its digest."""
    record = directory / DIGEST_FILE
    record.unlink(missing_ok=True)
    with (
        writing(directory),
        TemporaryDirectory(prefix=".autoencoder-", dir=directory.parent) as temporary,
    ):
        autoencoder.save_pretrained(temporary)
        for file in sorted(Path(temporary).iterdir()):
            with atomic_path(directory / file.name) as target:
                shutil.copyfile(file, target)
    digest, config = digest_of(autoencoder.state_dict()), sha256_of(directory / "config.json")
    write_json(record, {"digest": digest, "config": config})


def check_latents(
    autoencoder: Autoencoder,
    path: str,
    channels: int,
    scale: PerChannel | None,
    shift: PerChannel,
    owner: str,
) -> None:
    """Refuse an autoencoder of other latents than somebody's.

    Args:
        autoencoder: that is to decode.
        path: of it, for messages.
        channels, scale, shift: of the latents; no scale is not compared.
        owner: of the latents, for messages.

    Raises:
        UserError: in one line, what differs.
    """
    found = autoencoder.config.get("latent_channels", channels)
    if found != channels:
        raise UserError(
            f"autoencoder {path!r}: has {found} latent channels, {owner} have {channels}"
        )
    its_scale, its_shift = latent_scaling(autoencoder, path, channels)
    if scale is None or its_scale is None:
        return
    for name, its, theirs in (("scale", its_scale, scale), ("shift", its_shift, shift)):
        if its != theirs:
            raise UserError(
                f"autoencoder {path!r}: its latents' {name} is {its}, that of {owner} is {theirs}"
            )


def latent_scaling(
    autoencoder: Autoencoder, path: str, channels: int
) -> tuple[PerChannel | None, PerChannel]:
    """Scale and shift that an autoencoder names for (latent - shift) * scale; no scale is None.

    ``latents_mean`` and ``latents_std``, one number for each channel, are keys of its configuration
    or, of LTX, buffers. With them, a latent is (latent - mean) * ``scaling_factor`` / std, as in
    diffusers' pipelines; without them, (latent - ``shift_factor``) * ``scaling_factor``.

    Raises:
        UserError: one of the two is missing or has another shape, or a deviation is not positive.
    """
    named = {**autoencoder.config, **dict(autoencoder.named_buffers(recurse=False))}
    factor = named.get("scaling_factor")
    kinds = {"latents_mean": "finite", "latents_std": "positive"}
    if all(named.get(key) is None for key in kinds):
        scale = None if factor is None else _number(path, "scaling_factor", factor, least=1e-6)
        shift = named.get("shift_factor")
        return scale, 0.0 if shift is None else _number(path, "shift_factor", shift, least=-1e6)
    try:
        mean, std = (
            torch.as_tensor(() if named.get(key) is None else named[key], dtype=torch.float64).cpu()
            for key in kinds
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"autoencoder {path!r}: latents_mean or latents_std: {error}") from None
    for (key, kind), numbers in zip(kinds.items(), (mean, std), strict=True):
        sound = numbers.isfinite() if key == "latents_mean" else (numbers > 0) & numbers.isfinite()
        if numbers.shape != (channels,) or not sound.all():
            count = "x".join(map(str, numbers.shape))
            raise UserError(
                f"autoencoder {path!r}: {key}: {count} numbers, allowed are {channels} {kind} ones"
            )
    scale_C = (1.0 if factor is None else _number(path, "scaling_factor", factor, 1e-6)) / std
    return tuple(scale_C.tolist()), tuple(mean.tolist())


def _number(path: str, key: str, value: Any, least: float) -> float:
    """A number of an autoencoder's configuration.

    Raises:
        UserError: it is another thing, or out of bounds.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= 1e6:
        raise UserError(
            f"autoencoder {path!r}: {key} is {shortened(repr(value))}"
            f" (allowed: a number from {least:g} to 1e6)"
        )
    return float(value)


def to_signed(images_BHWC: Tensor) -> Tensor:
    """uint8 images (B, H, W, 3) as floats in [-1, 1], (B, 3, H, W)."""
    return images_BHWC.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(images_BCHW: Tensor, conversion: Uint8Conversion = "round") -> Tensor:
    """Floats in [-1, 1], (B, 3, H, W), as uint8 images (B, H, W, 3).

    ``truncate`` is what the generation scripts of REPA and its successors do: 255 times a number
    in [0, 1], cut off.
    """
    images = images_BCHW.float()
    if conversion == "truncate":
        levels = 255 * ((images + 1) / 2)
    else:
        levels = (images * 127.5 + 127.5).round()
    return levels.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


@tf32_allowed(False)
@torch.inference_mode()
def encode_moments(
    autoencoder: Autoencoder, images_BHWC: Tensor, precision: Precision = "fp32"
) -> Tensor:
    """Posterior of uint8 images (B, H, W, 3): mean and deviation, (B, 2, C, h, w), in float32.

    Autoencoders without a posterior have one latent for an image: its deviation is zero.
    """
    images_BCHW = to_signed(images_BHWC)
    with torch.autocast(images_BHWC.device.type, DTYPES[precision], enabled=precision != "fp32"):
        encoded: Any = autoencoder.encode(
            images_BCHW[:, :, None] if _has_frames(autoencoder) else images_BCHW
        )
    if "latent_dist" in encoded:
        mean, std = encoded.latent_dist.mean, encoded.latent_dist.std
    else:
        mean = encoded[0]
        std = torch.zeros_like(mean)
    moments = torch.stack([mean, std], dim=1).float()
    return moments[:, :, :, 0] if _has_frames(autoencoder) else moments


@tf32_allowed(False)
@torch.inference_mode()
def decode(
    autoencoder: Autoencoder, latents_BCHW: Tensor, conversion: Uint8Conversion = "round"
) -> Tensor:
    """Images (B, H, W, 3) in uint8 of unscaled latents (B, C, h, w).

    Raises:
        UserError: latents or pixels are not finite: as uint8 they would be ordinary images.
    """
    dtype = next(autoencoder.parameters()).dtype
    if not bool(torch.isfinite(latents_BCHW).all()):
        raise UserError("latents to decode are not finite: the sampler or its weights diverged")
    latents = latents_BCHW.to(dtype)
    decoded: Any = autoencoder.decode(latents[:, :, None] if _has_frames(autoencoder) else latents)
    pixels = decoded.sample[:, :, 0] if _has_frames(autoencoder) else decoded.sample
    if not bool(torch.isfinite(pixels).all()):
        name = str(dtype).rpartition(".")[2]
        raise UserError(f"the decoder's pixels are not finite in {name} (allowed: a wider type)")
    return to_uint8(pixels, conversion)


def decode_in_parts(
    autoencoder: Autoencoder, latents_BCHW: Tensor, conversion: Uint8Conversion = "round"
) -> NDArray[np.uint8]:
    """``decode`` on the host, a few at a time: a decoder needs far more memory than a backbone."""
    size = max(1, DECODED_ELEMENTS // latents_BCHW[0].numel())
    parts = [decode(autoencoder, part, conversion) for part in latents_BCHW.split(size)]
    return np.concatenate([part.cpu().numpy() for part in parts])


def _has_frames(autoencoder: Autoencoder) -> bool:
    """Whether it is one of videos (Wan, Qwen-Image, LTX): an image is a video of one frame."""
    return any(isinstance(module, torch.nn.Conv3d) for module in autoencoder.encoder.modules())
