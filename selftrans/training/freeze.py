"""Freezing the teacher: embedders and blocks 1 to d of a checkpoint."""

import re
from dataclasses import replace
from pathlib import Path

from selftrans.models.metadata import TeacherMetadata, TeacherSource, load_checkpoint
from selftrans.runtime.errors import UserError

_PARTS = re.compile(r"(x_embedder|t_embedder|y_embedder|pos_embed|blocks\.(?P<block>\d+))(\.|$)")


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
    shape, settings = (
        replace(metadata.shape, depth=depth, intermediate_depth=None),
        metadata.own_backbone,
    )
    if settings is None:
        kept = {
            name: tensor
            for name, tensor in tensors.items()
            if (part := _PARTS.match(name)) and int(part["block"] or 0) < depth
        }
    else:  # only its class knows its parts: all that a network of this depth has
        from selftrans.models.sit import build_backbone  # seconds that a SiT does not take
        from selftrans.models.weights import own_backbone

        settings = {**settings, "depth": depth}
        model = own_backbone(settings)
        cut = build_backbone(model, shape.latent_shape, shape.num_classes)
        kept = {name: tensors[name] for name in cut.state_dict()}
    source = metadata.model_dump(include=set(TeacherSource.model_fields))
    teacher = TeacherMetadata(
        shape=shape,
        own_backbone=settings,
        source=TeacherSource(**source),
        latents=metadata.latents,
    )
    return teacher.save(output, kept)
