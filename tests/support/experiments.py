"""The content of a tiny experiment file, and of runs by every other method."""

import copy
from typing import Any

TINY: dict[str, Any] = {
    "name": "tiny",
    "data": "digits",
    "model": {"depth": 4, "hidden_size": 32, "num_heads": 2, "patch_size": 2},
    "training": {
        "checkpoints": [4, 8],
        "batch_size": 8,
        "learning_rate": 1e-3,
        "log_every": 3,
        "ema_decay": 0.9,
    },
    "runs": {
        "sit": {},
        "vae-align": {"alignment": {"method": "vae-alignment", "depth": 1, "projector_width": 16}},
        "self-transcendence": {
            "alignment": {
                "method": "self-transcendence",
                "teacher": {"run": "vae-align", "step": 4},
                "student_depth": 2,
                "teacher_depth": 3,
                "guidance_scale": 2,
                "projector_width": 16,
            }
        },
    },
    "evaluation": {"samplers": {"ode": {"sampler": "euler", "num_steps": 2, "num_samples": 20}}},
    "figures": {"sampler": "ode", "sample_checkpoints": [4, 8], "sample_columns": 5},
}


OTHER_METHODS: dict[str, Any] = {
    "repa": {
        "alignment": {"method": "repa", "encoder": "stand-in", "depth": 2, "projector_width": 16}
    },
    "repa-on-images": {
        "alignment": {
            "method": "repa",
            "encoder": "stand-in",
            "depth": 2,
            "projector_width": 16,
            "features": "images",
        }
    },
    "sra": {"alignment": {"method": "sra", "student_depth": 2, "teacher_depth": 3}},
    "layersync": {"alignment": {"method": "layersync", "student_depth": 1, "teacher_depth": 3}},
    "both": {
        "alignment": [
            {"method": "layersync", "student_depth": 1, "teacher_depth": 3, "stop_after": 5},
            {"method": "vae-alignment", "depth": 1, "projector_width": 16},
        ]
    },
}

EVERY_METHOD: dict[str, Any] = {
    "every-method": {
        "alignment": [
            {**TINY["runs"]["vae-align"]["alignment"], "t_masking": "released"},
            {
                **TINY["runs"]["self-transcendence"]["alignment"],
                "t_range": {"low": 0.8, "high": 1.0},
                "stop_after": 14,
            },
            OTHER_METHODS["repa"]["alignment"],
            OTHER_METHODS["sra"]["alignment"],
            OTHER_METHODS["layersync"]["alignment"],
        ]
    }
}
"""All terms at once; that of stage 2 has few samples in its range, and stops; that of stage 1 has
the mask that the whole global batch is needed for."""


FURTHER_METHODS: dict[str, Any] = {
    "vae-repa": {"alignment": {"method": "vae-repa", "depth": 1, "projector_width": 16}},
    "irepa": {
        "alignment": {
            **OTHER_METHODS["repa-on-images"]["alignment"],
            "projector": "convolution",
            "target_normalization": "over-tokens",
        }
    },
    "dispersive": {"alignment": {"method": "dispersive", "depth": 1, "group_size": 4}},
    "internal-guidance": {"alignment": {"method": "internal-guidance", "depth": 2}},
    "haste": {
        "alignment": {
            "method": "haste",
            "encoder": "stand-in",
            "depth": 3,
            "projector_width": 16,
            "attention_depths": [1, 3],
            "stop_after": 5,
        }
    },
}
FURTHER_METHODS["further"] = {
    "alignment": [dict(run["alignment"]) for run in FURTHER_METHODS.values()],
}
"""Methods of later papers, and all of them at once."""


def tiny_values(**changes: Any) -> dict[str, Any]:
    """The content of a tiny experiment file, with changes by key (``training.batch_size``)."""
    values = copy.deepcopy(TINY)
    for key, value in changes.items():
        *parents, last = key.split(".")
        part = values
        for parent in parents:
            part = part.setdefault(parent, {})
        part[last] = copy.deepcopy(value)
    return values
