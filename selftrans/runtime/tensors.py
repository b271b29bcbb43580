"""Named tensors on disk: safetensors with format version, content digest and JSON metadata."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from selftrans.runtime.errors import Unavailable, UserError
from selftrans.runtime.files import atomic_path
from selftrans.runtime.headers import FORMAT, KEY, opened_tensors, read_metadata
from selftrans.runtime.seal import seal_of

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Arithmetic by the names that experiment files use."""
PerChannel: TypeAlias = float | tuple[float, ...]
"""A number for all channels, or one for each."""


def over_channels(value: PerChannel, device: torch.device | None = None) -> float | Tensor:
    """A number, or float64 numbers (C, 1, 1), to compute with arrays of (..., C, H, W)."""
    if isinstance(value, float):
        return value
    return torch.tensor(value, dtype=torch.float64, device=device)[:, None, None]


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of ``tensors``, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], kind: str, metadata: Mapping[str, Any]
) -> str:
    """Write ``tensors`` atomically and return their digest.

    Args:
        path: the file.
        tensors: what to write, from any device.
        kind: of the file, for instance ``weights`` or ``state``; ``load_tensors`` checks it.
        metadata: any JSON.
    """
    on_host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    digest = digest_of(on_host)
    header = {"format": FORMAT, "kind": kind, "digest": digest, **metadata}
    sealed = {KEY: json.dumps({**header, "seal": seal_of(header)})}
    write_safetensors(path, on_host, sealed)
    return digest


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors on the CPU as any safetensors file, atomically.

    Raises:
        Unavailable: the disk refuses.
    """
    with atomic_path(path) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata=dict(metadata))
        except SafetensorError as error:  # its own words for what the disk refuses
            raise Unavailable(f"{path}: cannot be written ({error})") from None


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of any safetensors file, on the CPU.

    Raises:
        UserError: the file is absent or damaged.
    """
    with opened_tensors(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping


def load_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors (on the CPU) and the metadata of a file of ours, and check its digest.

    Raises:
        UserError: as ``read_metadata``, or the content is not what was written.
    """
    metadata = read_metadata(path, kind)
    tensors = read_safetensors(path)
    if (digest := digest_of(tensors)) != metadata["digest"]:
        raise UserError(
            f"{path}: damaged, its content has digest {digest[:12]},"
            f" written was {metadata['digest'][:12]}"
        )
    return tensors, metadata
