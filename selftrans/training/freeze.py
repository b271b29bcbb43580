"""Freezing the teacher: embedders and blocks 1 to d of a checkpoint."""

import re
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from selftrans.models.metadata import TeacherMetadata, TeacherSource, load_checkpoint
from selftrans.models.shape import MMDiTShape
from selftrans.runtime.errors import UserError

_PARTS = re.compile(
    r"([xt]_embedder|y_embedder|context_embedder|pos_embed|null_context"
    r"|(joint_)?blocks\.(?P<block>\d+))(\.|$)"
)


def freeze_teacher(weights: Path, depth: int, output: Path) -> str:
    """Cut the trunk up to block ``depth`` out of a weight file; returns the teacher's digest.

    Raises:
        UserError: the file is not a weight file, or has fewer blocks.
    """
    tensors, metadata = load_checkpoint(weights)
    blocks = metadata.shape.depth
    if depth > blocks:
        raise UserError(
            f"{weights}: teacher depth {depth} is beyond its {blocks} blocks"
            f" (allowed: 1 to {blocks})"
        )
    shape = replace(metadata.shape, depth=depth, intermediate_depth=None)
    settings = metadata.own_backbone
    if isinstance(shape, MMDiTShape):
        tensors = _without_text_output(tensors, shape)
    if settings is None:
        kept = {
            name: tensor
            for name, tensor in tensors.items()
            if (part := _PARTS.match(name)) and int(part["block"] or 0) < depth
        }
    else:  # only its class knows its parts: all that a network of this depth has
        from selftrans.models.build import (  # seconds that others do not take
            build_backbone,
            own_backbone,
        )

        settings = {**settings, "depth": depth}
        model = own_backbone(settings)
        cut = build_backbone(model, shape.latent_shape, shape.condition_size)
        kept = {name: tensors[name] for name in cut.state_dict()}
    source = metadata.model_dump(include=set(TeacherSource.model_fields))
    teacher = TeacherMetadata(
        shape=shape,
        own_backbone=settings,
        source=TeacherSource(**source),
        latents=metadata.latents,
    )
    return teacher.save(output, kept)


def _without_text_output(tensors: dict[str, Tensor], shape: MMDiTShape) -> dict[str, Tensor]:
    """Tensors of an MMDiT that ends with block ``shape.depth``.

    Of that block's text only keys and values are needed, which two vectors modulate.
    """
    text, vectors = f"joint_blocks.{shape.depth - 1}.context_block.", 2 * shape.hidden_size
    return {
        name: tensor[:vectors] if name.startswith(f"{text}adaLN_modulation.") else tensor
        for name, tensor in tensors.items()
        if not name.startswith((f"{text}attn.proj.", f"{text}mlp."))
    }
