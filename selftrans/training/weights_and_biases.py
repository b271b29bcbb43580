"""The scalars of a training in Weights & Biases (``logger: wandb``)."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selftrans.runtime.errors import Unavailable, UserError, shortened
from selftrans.runtime.logs import LOG
from selftrans.runtime.seal import seal_of

ID_LENGTH = 16


def wandb_id(experiment: str, run: str, definition: Mapping[str, Any]) -> str:
    """The id of a run there: the same at every attempt and in every segment of a training."""
    identity = {"experiment": experiment, "run": run, "definition": definition}
    return seal_of(identity)[:ID_LENGTH]


def begin_run(key: str, directory: Path, *, project: str, **options: Any) -> Any:
    """A run there: begun, or continued where one of its id exists.

    Args:
        key: that asks for it, for messages.
        directory: where files of ``wandb`` lie.
        project: its project, unless ``WANDB_PROJECT`` names one.
        options: of ``wandb.init``.

    Raises:
        UserError: ``wandb`` is not installed.
        Unavailable: it cannot begin, for instance without a network or a key.
    """
    try:
        import wandb
    except ImportError:
        raise UserError(
            f"{key}: 'wandb' is not installed (allowed: tensorboard, or first:"
            " pip install -c pins.txt -e '.[wandb]')"
        ) from None
    directory.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(console="off", save_code=False, disable_git=True, silent=True)
    try:
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", project),
            dir=str(directory),
            resume="allow",
            settings=settings,
            **options,
        )
    except Exception as error:  # it raises many kinds
        raise Unavailable(
            f"{key}: wandb cannot begin ({shortened(str(error))}) (offline: WANDB_MODE=offline)"
        ) from None


class WeightsAndBiases:
    """A logger into one run of Weights & Biases, which is continued where it exists.

    Project, entity, mode and key are those of its environment variables (``WANDB_PROJECT``,
    ``WANDB_MODE=offline``, ...); the project is the experiment's name, if it is not set. A resumed
    training repeats steps that it logged before: they are the same numbers, and dropped there.

    Args:
        experiment: name of the experiment.
        run: name of the run, whose name there has the seed as well.
        definition: of the run; shown there as its configuration.
        directory: of the run, where files of ``wandb`` lie.

    Raises:
        UserError: ``wandb`` is not installed.
        Unavailable: it cannot begin, for instance without a network or a key.
    """

    def __init__(
        self, experiment: str, run: str, definition: Mapping[str, Any], directory: Path
    ) -> None:
        self._run = begin_run(
            "training.logger",
            directory,
            project=experiment,
            id=wandb_id(experiment, run, definition),
            name=f"{run} seed {definition['seed']}",
            group=run,
            config=dict(definition),
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log the scalars of a step."""
        self._attempt("log", dict(values), step=step)

    def close(self) -> None:
        """Send what is left, and end."""
        self._attempt("finish")

    def _attempt(self, name: str, *arguments: Any, **options: Any) -> None:
        """Call a method of the run; one that fails ends the logging, never the training."""
        if self._run is None:
            return
        try:
            getattr(self._run, name)(*arguments, **options)
        except Exception as error:
            self._run = None
            LOG.warning("wandb: logs no more (%s)", shortened(str(error)))
