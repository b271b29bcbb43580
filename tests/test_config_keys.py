"""Every key of an experiment refuses a wrong value, in one line that names the key."""

import pytest

from selftrans.alignment.dispersive import Dispersive
from selftrans.alignment.haste import Haste
from selftrans.alignment.internal_guidance import InternalGuidance
from selftrans.alignment.layersync import LayerSync
from selftrans.alignment.repa import Repa
from selftrans.alignment.self_transcendence import SelfTranscendence
from selftrans.alignment.sra import Sra
from selftrans.alignment.vae_alignment import VaeAlignment
from selftrans.alignment.vae_repa import VaeRepa
from selftrans.config import (
    AnalysisConfig,
    BackboneConfig,
    ConfigError,
    EvaluationConfig,
    FiguresConfig,
    GuidanceConfig,
    InternalGuidanceConfig,
    SamplerConfig,
    TeacherConfig,
    TrainingConfig,
    load_experiment,
    validated,
)
from tests.support.experiments import FURTHER_METHODS, OTHER_METHODS, TINY
from workflow.lib.settings import WorkflowConfig

PARTS = {
    "training": TrainingConfig,
    "model": BackboneConfig,
    "evaluation": EvaluationConfig,
    "evaluation.samplers.ode": SamplerConfig,
    "evaluation.samplers.ode.guidance": GuidanceConfig,
    "evaluation.samplers.ode.internal_guidance": InternalGuidanceConfig,
    "figures": FiguresConfig,
    "analysis": AnalysisConfig,
    "runs.vae-align.alignment": VaeAlignment,
    "runs.self-transcendence.alignment": SelfTranscendence,
    "runs.self-transcendence.alignment.teacher": TeacherConfig,
    "runs.repa.alignment": Repa,
    "runs.sra.alignment": Sra,
    "runs.layersync.alignment": LayerSync,
    "runs.vae-repa.alignment": VaeRepa,
    "runs.dispersive.alignment": Dispersive,
    "runs.internal-guidance.alignment": InternalGuidance,
    "runs.haste.alignment": Haste,
}
# "sweep" is what a sweep writes of itself; a mapping for a preset is in test_config.py.
KEYS = [
    f"{part}.{key}" for part, model in PARTS.items() for key in model.model_fields if key != "sweep"
]
RUNS = {**TINY["runs"], **OTHER_METHODS, **FURTHER_METHODS}
ANY_SIGN = {
    "evaluation.samplers.ode.guidance.scale",
    "evaluation.samplers.ode.internal_guidance.scale",
    "runs.self-transcendence.alignment.guidance_scale",
}
NAMES_A_FILE = {"figures.published"}
TEXTS = {"evaluation.clip"}


def refused(tiny, key, value):
    """The messages, without the file's name."""
    path = tiny(**{"runs": RUNS, key: value})
    with pytest.raises(ConfigError) as caught:
        load_experiment(path)
    lines = str(caught.value).splitlines()
    assert key in NAMES_A_FILE or all(line.startswith(f"{path}: ") for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]


@pytest.mark.parametrize("key", [key for key in KEYS if key not in TEXTS])
def test_a_text_is_no_value(tiny, key):
    (message,) = refused(tiny, key, "nonsense")
    assert message.startswith((f"{key}: ", f"{key}.")) or key in NAMES_A_FILE
    assert "nonsense" in message


@pytest.mark.parametrize("key", [key for key in KEYS if key != "model.preset"])
def test_an_unknown_key_below_is_no_value(tiny, key):
    lines = refused(tiny, key, {"nonsense": 1})
    assert all(line.startswith((f"{key}: ", f"{key}.")) for line in lines)


@pytest.mark.parametrize("key", [key for key in KEYS if key not in ANY_SIGN])
def test_a_negative_number_is_no_value(tiny, key):
    (message,) = refused(tiny, key, -1)
    assert message.startswith((f"{key}: ", f"{key}."))


@pytest.mark.parametrize("part", ["", *PARTS, "runs.sit"])
def test_a_misspelt_key_is_unknown(tiny, part):
    key = f"{part}.nonsense".lstrip(".")
    assert refused(tiny, key, 1) == [f"{key}: unknown key"]


@pytest.mark.parametrize("value", ["nonsense", 3, [1], True])
@pytest.mark.parametrize("part", [part for part in PARTS if not part.endswith("alignment")])
def test_what_is_no_mapping_is_no_part(tiny, part, value):
    (message,) = refused(tiny, part, value)
    assert message.startswith(f"{part}: ")


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"experiments": []}, "experiments"),
        ({"experiments": 3}, "experiments"),
        ({"gpus": 8}, "gpus"),
        ({"retries": -1}, "retries"),
        ({"rates": {"bf16": 0}}, "rates.bf16"),
        ({"rates": {"int8": 3}}, "rates.int8"),
        ({"weights": {"resnet": "x"}}, "weights.resnet"),
        ({"fetch_weights": "maybe"}, "fetch_weights"),
        ({"data": 3}, "data"),
    ],
)
def test_config_yaml_is_checked_alike(values, key):
    with pytest.raises(ConfigError) as caught:
        validated(WorkflowConfig, {"experiments": ["tiny"], **values}, "config.yaml")
    assert str(caught.value).startswith(f"config.yaml: {key}")
    assert "\n" not in str(caught.value)
