"""From a run's settings to the terms of its loss."""

from collections.abc import Mapping

from selftrans.alignment.base import AlignmentInputs, AlignmentLoss, AlignmentLosses
from selftrans.alignment.method import AlignmentMethod
from selftrans.config import AlignmentConfig
from selftrans.data.store import FeatureStore
from selftrans.models.backbone import Trunk
from selftrans.models.encoder import PatchEncoder
from selftrans.models.shape import BackboneShape
from selftrans.runtime.errors import UserError


def build_alignment_losses(
    alignments: Mapping[str, AlignmentConfig],
    shape: BackboneShape,
    teachers: Mapping[str, Trunk] | None = None,
    encoders: Mapping[str, FeatureStore | PatchEncoder] | None = None,
) -> AlignmentLosses:
    """The terms of a run's loss beside denoising.

    Args:
        alignments: their settings, by the term's name.
        shape: the student's shape.
        teachers: frozen teachers, by the name of the term that follows them.
        encoders: stored features, or encoders, by the encoder's name.

    Raises:
        UserError: a term needs a teacher or an encoder, and none is given.
    """
    terms: dict[str, AlignmentLoss] = {}
    for name, method in alignments.items():
        assert isinstance(method, AlignmentMethod)
        teacher = encoder = None
        if method.frozen_teacher and (teacher := (teachers or {}).get(name)) is None:
            raise UserError(f"alignment {name!r}: needs a frozen teacher, none was given")
        if method.encoder_use:
            used = method.encoder_use.name
            if (encoder := (encoders or {}).get(used)) is None:
                raise UserError(
                    f"alignment {name!r}: neither features nor weights of {used!r} were given"
                )
        inputs = AlignmentInputs(shape=shape, teacher=teacher, encoder=encoder)
        terms[name] = AlignmentLoss(method, inputs)
    return AlignmentLosses(terms)
