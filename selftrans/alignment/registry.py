"""From a run's settings to its training signals."""

from collections.abc import Mapping, Sequence
from pkgutil import resolve_name

from selftrans.alignment.base import AlignmentInputs, AlignmentLoss, AlignmentLosses
from selftrans.config import AlignmentConfig
from selftrans.data.store import FeatureStore
from selftrans.models.encoder import PatchEncoder
from selftrans.models.sit import SiTShape, SiTTrunk
from selftrans.runtime.errors import UserError


def build_alignment_losses(
    signals: Sequence[AlignmentConfig],
    shape: SiTShape,
    teachers: Sequence[SiTTrunk] = (),
    encoders: Mapping[str, FeatureStore | PatchEncoder] | None = None,
) -> AlignmentLosses:
    """The training signals of a run.

    Args:
        signals: their settings.
        shape: the student's shape.
        teachers: a frozen teacher for each signal that follows one, in order.
        encoders: stored features, or encoders, by name.

    Raises:
        UserError: a signal needs a teacher or an encoder, and none is given.
    """
    waiting, given = list(teachers), encoders or {}
    built = []
    for settings in signals:
        teacher = encoder = None
        if settings.frozen_teacher:
            if not waiting:
                raise UserError(
                    f"guidance.method: {settings.method} needs a frozen teacher, none was given"
                )
            teacher = waiting.pop(0)
        if settings.encoder_use and (encoder := given.get(settings.encoder_use.name)) is None:
            raise UserError(
                f"guidance.encoder: neither features nor weights of {settings.encoder_use.name!r} were given"
            )
        implementation: type[AlignmentLoss] = resolve_name(settings.implementation)
        inputs = AlignmentInputs(shape=shape, teacher=teacher, encoder=encoder)
        built.append(implementation(settings, inputs))  # type: ignore[call-arg]
    return AlignmentLosses(built)
