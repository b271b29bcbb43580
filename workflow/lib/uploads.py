"""``selftrans upload``: what jobs made of an experiment's runs, in Weights & Biases.

A training is one run there, which its trainer writes. Jobs run beside it and beside each other, and
two processes cannot write one run. So their event files are sent afterwards, by one process, into a
run of their own for each run and seed, in the same group.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from selftrans.runs import read_runs, runs_file
from selftrans.runtime.errors import Unavailable, shortened
from selftrans.runtime.events import read_event_file
from selftrans.runtime.files import read_fields, sha256_of, write_json
from selftrans.training.weights_and_biases import begin_run, wandb_id
from workflow.lib import paths

STEP = "checkpoint"
"""The axis there: results come in any order, and wandb's own step only grows."""
SENT = "wandb-sent.json"
"""In an experiment's folder: digests of the event files that were sent to its project, by path."""


@dataclass(frozen=True, kw_only=True)
class JobEvents:
    """The event files of a run and seed, or of the data set that all runs share."""

    experiment: str
    group: str
    name: str
    folder: Path
    """Where files of ``wandb`` lie."""
    events: tuple[Path, ...]
    """Folders of event files: those of a shared run, and those that the experiment adds to it."""
    definition: Mapping[str, Any]

    def unsent(self) -> dict[str, str]:
        """The files that were not sent as they are, with their digests."""
        found = {
            path.as_posix(): sha256_of(path)
            for folder in self.events
            for path in sorted(folder.rglob("events.out.tfevents.*"))
        }
        sent = self._sent()
        return {name: digest for name, digest in found.items() if sent.get(name) != digest}

    def send(self) -> int:
        """Send the files that were not; returns how many.

        Raises:
            UserError: ``wandb`` is not installed, or a file is damaged.
            Unavailable: it cannot begin, or fails; what was sent is sent again next time.
        """
        unsent = self.unsent()
        if not unsent:
            return 0
        read = [read_event_file(Path(name)) for name in unsent]
        run = begin_run(
            "selftrans upload",
            self.folder,
            project=self.experiment,
            id=wandb_id(self.experiment, self.name, self.definition),
            name=self.name,
            group=self.group,
            job_type="evaluation",
            config=dict(self.definition),
        )
        try:
            run.define_metric(STEP)
            run.define_metric("*", step_metric=STEP)
            for step, numbers, pictures in read:
                images = {tag: _picture(content) for tag, content in pictures.items()}
                run.log({STEP: step, **numbers, **images})
            run.finish()
        except Exception as error:  # it raises many kinds
            raise Unavailable(f"{self.folder}: wandb fails ({shortened(str(error))})") from None
        write_json(self._record, {**self._sent(), **unsent})
        return len(unsent)

    def _sent(self) -> Mapping[str, Any]:
        return read_fields(self._record) if self._record.is_file() else {}

    @property
    def _record(self) -> Path:
        return Path(paths.EXPERIMENT.format(experiment=self.experiment)) / SENT


def job_events(experiment: str) -> Iterator[JobEvents]:
    """Those of an experiment's runs, and of its data set, as far as there are any.

    Raises:
        UserError: the experiment has no results, or its list of runs is damaged.
    """
    inside = Path(paths.EVENTS).relative_to(paths.RUN)
    for record in read_runs(runs_file(Path(), experiment)).runs:
        folder = Path(record.folder)
        wildcards = {"experiment": experiment, "run": record.run, "seed": record.seed}
        own = Path(paths.fill(paths.RUN, wildcards))
        definition = folder / "definition.json"
        yield JobEvents(
            experiment=experiment,
            group=record.run,
            name=f"{record.run} seed {record.seed} evaluation",
            folder=folder,
            events=tuple(each / inside for each in dict.fromkeys((folder, own))),
            definition=read_fields(definition) if definition.is_file() else {"seed": record.seed},
        )
    of_data = Path(paths.fill(paths.EVENTS_OF_DATASET, {"experiment": experiment}))
    yield JobEvents(
        experiment=experiment,
        group="data",
        name=f"data {of_data.resolve().parent.name}",
        folder=of_data.parent,
        events=(of_data,),
        definition={},
    )


def _picture(content: bytes) -> Any:
    import wandb

    return wandb.Image(Image.open(BytesIO(content)))
