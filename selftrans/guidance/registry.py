"""From a run's settings to its training signal."""

from selftrans.config import Guidance as GuidanceSettings
from selftrans.config import NoGuidance, SelfTranscendence, VaeAlignment
from selftrans.guidance.base import Guidance, Unguided
from selftrans.guidance.self_transcendence import SelfTranscendenceGuidance
from selftrans.guidance.vae_alignment import VaeAlignmentGuidance
from selftrans.models.sit import SiTShape, SiTTrunk
from selftrans.runtime.errors import UserError


def build_guidance(settings: GuidanceSettings, shape: SiTShape, teacher: SiTTrunk | None = None) -> Guidance:
    """The training signal of a run.

    Args:
        settings: the run's ``guidance``.
        shape: the student's shape.
        teacher: the frozen teacher, for the signals that follow one.

    Raises:
        UserError: the signal needs a teacher and none is given.
    """
    match settings:
        case NoGuidance():
            return Unguided()
        case VaeAlignment():
            return VaeAlignmentGuidance(settings, shape)
        case SelfTranscendence():
            if teacher is None:
                raise UserError("guidance.method: self-transcendence needs a frozen teacher, none was given")
            return SelfTranscendenceGuidance(settings, shape, teacher)
