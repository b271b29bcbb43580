"""JSON schemas by which editors check experiment files: ``python -m selftrans.config.schema``.

What a file may leave out depends on what it extends, so the schemas require nothing: what is
missing is reported when a file is read.
"""

from pathlib import Path
from typing import Annotated, Any, Union

from pydantic import ConfigDict, Field
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from selftrans.config.alignment import METHODS, AlignmentConfig, NoAlignment, method_class
from selftrans.config.base import ConfigModel, Name
from selftrans.config.data import DatasetConfig
from selftrans.config.docstrings import key_docstrings
from selftrans.config.experiment import ExperimentConfig, RunConfig
from selftrans.config.loading import DATA_FILES, EXPERIMENTS
from selftrans.config.model import BackboneConfig, MMDiTConfig
from selftrans.runtime.files import write_json


class OwnMethod(AlignmentConfig):
    """A method of one's own, with further keys."""

    model_config = ConfigDict(extra="allow")
    method: Annotated[str, Field(pattern=":")]
    """`FILE.py:CLASS`, or `MODULE:CLASS`."""


class OwnBackbone(BackboneConfig):
    """A backbone of one's own, with further keys."""

    model_config = ConfigDict(extra="allow")
    kind: Annotated[str, Field(pattern=":")]
    """`FILE.py:CLASS`, or `MODULE:CLASS`."""


class _FileSchema(GenerateJsonSchema):
    """No key is required, so a part may fit several members of a union.

    Docstrings describe keys.
    """

    def model_schema(self, schema: Any) -> JsonSchemaValue:
        found = super().model_schema(schema)
        for name, text in key_docstrings(schema["cls"]).items():
            found["properties"][name].setdefault("description", text)
        return found

    def field_is_required(self, field: Any, total: bool) -> bool:
        return False

    def tagged_union_schema(self, schema: Any) -> JsonSchemaValue:
        union = super().tagged_union_schema(schema)
        return {"anyOf": union["oneOf"]}


def experiment_file() -> type[ExperimentConfig]:
    """What an experiment file may say: with ``extends``, and a data file by its name."""
    methods = tuple(method_class(name) for name in METHODS)
    term = Union[(*methods, OwnMethod)]  # type: ignore[valid-type]
    backbone = BackboneConfig | MMDiTConfig | OwnBackbone

    class Run(RunConfig):
        """One arm of the comparison; what is not given here is the experiment's."""

        alignment: NoAlignment | term | tuple[term, ...] = NoAlignment()
        """What trains beside denoising: one method, or a list whose weighted losses are added."""
        model: backbone
        """Backbone; what is not given here is the experiment's."""

    class Experiment(ExperimentConfig):
        """One comparison: runs that differ in what they say, and in nothing else."""

        extends: str | None = None
        """Experiment whose content this one changes: a name in `experiments/`, or a path. Runs that
        are not changed are those of that experiment."""
        data: str  # type: ignore[assignment]
        """Name of a data file in `experiments/data/`, or the path of one."""
        prompts: str | None = None  # type: ignore[assignment]
        """Name or path of a data file whose captions samples are made of; those of `data`, if it is
        not given."""
        model: backbone
        """Backbone of every run."""
        runs: dict[Name, Run | None]  # type: ignore[assignment]
        """The arms, by name; null leaves out a run of the experiment that is extended."""

    return Experiment


def dataset_file() -> type[DatasetConfig]:
    """What a data file may say: with ``extends``."""

    class Dataset(DatasetConfig):
        """A data set as it is learnt from. Experiments that name it share its latents."""

        extends: str | None = None
        """Data file whose content this one changes: a name in `experiments/data/`, or a path."""

    return Dataset


def experiment_schema() -> dict[str, Any]:
    """JSON schema of an experiment file."""
    return _schema(experiment_file())


def dataset_schema() -> dict[str, Any]:
    """JSON schema of a data file."""
    return _schema(dataset_file())


def _schema(model: type[ConfigModel]) -> dict[str, Any]:
    return model.model_json_schema(schema_generator=_FileSchema)


if __name__ == "__main__":
    write_json(EXPERIMENTS / "schema.json", experiment_schema())
    write_json(Path(DATA_FILES / "schema.json"), dataset_schema())
