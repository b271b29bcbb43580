"""Experiments of a project, from any folder."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from selftrans.config import EXPERIMENTS, CocoSource, ExperimentConfig, FileSource
from selftrans.config import load_experiment as read_experiment
from selftrans.runtime.errors import ConfigError, shortened
from selftrans.runtime.files import write_text


def load_experiment(reference: str | Path, project: str | Path | None = None) -> ExperimentConfig:
    """Read an experiment: a file, or a name in a project's ``experiments/``.

    Args:
        reference: name or path.
        project: the project's folder; the nearest one that has ``experiments/``, at the file or
            else at the working directory, if it is not given.

    Raises:
        ConfigError: it is unknown, with the names that there are; or a line for each mistake in it.
    """
    folder = _project_of(str(reference)) if project is None else Path(project)
    return at_project(read_experiment(reference, project=folder), folder)


def define_experiment(
    settings: Mapping[str, Any], project: str | Path | None = None
) -> ExperimentConfig:
    """An experiment without a file: the content of one, which may extend a project's.

    Args:
        settings: as in a file; without a ``name`` it is ``mine``.
        project: as in ``load_experiment``, from the working directory.

    Raises:
        ConfigError: a line for each mistake in it.
    """
    try:
        content = yaml.safe_dump(dict(settings))
    except yaml.YAMLError as error:
        raise ConfigError(f"settings: hold what no file can ({shortened(str(error))})") from None
    with TemporaryDirectory() as directory:
        file = Path(directory, "mine.yaml")
        write_text(file, content)
        try:
            return load_experiment(file, project=_project_of("") if project is None else project)
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(file), "settings")) from None


def _project_of(reference: str) -> Path:
    is_file = reference.endswith((".yaml", ".yml"))
    start = Path(reference).absolute().parent if is_file else Path.cwd()
    for folder in (start, *start.parents):
        if (folder / EXPERIMENTS).is_dir():
            return folder
    return Path()


def at_project(experiment: ExperimentConfig, project: Path) -> ExperimentConfig:
    """The experiment with the paths of its images as they are found from any folder."""
    source = experiment.data.source
    if not isinstance(source, FileSource) or not (project / source.path).exists():
        return experiment
    paths = {"path": source.path}
    if isinstance(source, CocoSource):
        paths["annotations"] = source.annotations
    absolute = {key: str((project / path).absolute()) for key, path in paths.items()}
    found = source.model_copy(update=absolute)
    data = experiment.data.model_copy(update={"source": found})
    return experiment.model_copy(update={"data": data})
