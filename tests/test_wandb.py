"""``logger: wandb``: the same scalars in Weights & Biases, and the same training."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from selftrans.runs import RunList, RunRecord
from selftrans.runtime.errors import Interrupted, Unavailable, UserError
from selftrans.runtime.events import picture, scalars, write_event_file
from selftrans.runtime.files import read_fields, write_json
from selftrans.training.weights_and_biases import WeightsAndBiases, wandb_id
from tests.support import REPOSITORY
from tests.support.trainings import StopAt, assert_equal, everything, run
from workflow.lib.commands import upload
from workflow.lib.uploads import job_events

PIXELS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
DEFINITION = {"seed": 3, "model": {"depth": 4}}


class StandIn:
    """Records what it is told, as the module ``wandb`` and as its run."""

    def __init__(self, error=None):
        self.error, self.begun, self.logged, self.ended, self.axes = error, [], [], 0, {}

    @staticmethod
    def Settings(**given):  # noqa: N802
        return SimpleNamespace(**given)

    def init(self, **given):
        if self.error:
            raise self.error
        self.begun.append(given)
        return self

    def Image(self, image):  # noqa: N802
        return np.asarray(image)

    def define_metric(self, name, step_metric=None):
        self.axes[name] = step_metric

    def log(self, values, step=None):
        if self.error:
            raise self.error
        self.logged.append((step, values))

    def finish(self):
        self.ended += 1


@pytest.fixture
def wandb(monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    module = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def begin(directory, definition=DEFINITION, name="sit"):
    return WeightsAndBiases("tiny", name, definition, directory)


def test_every_attempt_continues_the_same_run(wandb, tmp_path):
    for _ in range(2):
        begin(tmp_path).close()
    first, second = wandb.begun
    assert first == second
    assert first["resume"] == "allow"
    assert (first["project"], first["name"], first["group"]) == ("tiny", "sit seed 3", "sit")
    assert first["config"] == DEFINITION
    assert first["dir"] == str(tmp_path)
    assert wandb.ended == 2


def test_the_project_is_that_of_the_environment(wandb, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "diffusion")
    begin(tmp_path)
    assert wandb.begun[0]["project"] == "diffusion"


def test_other_runs_have_other_ids():
    ids = {
        wandb_id(experiment, name, {**DEFINITION, "seed": seed})
        for experiment in ("a", "b") for name in ("sit", "sra") for seed in (0, 1)
    }  # fmt: skip
    assert len(ids) == 8
    assert all(one.isalnum() for one in ids)
    reordered = dict(reversed(DEFINITION.items()))
    assert wandb_id("a", "sit", reordered) == wandb_id("a", "sit", DEFINITION)


def test_what_fails_later_ends_the_logging_alone(wandb, tmp_path, caplog):
    logger = begin(tmp_path)
    logger.write(1, {"train/loss": 1.0})
    wandb.error = ConnectionError("the network\nis gone")
    for step in (2, 3):
        logger.write(step, {"train/loss": 1.0})
    logger.close()
    assert wandb.logged == [(1, {"train/loss": 1.0})]
    assert [record.getMessage() for record in caplog.records] == [
        "wandb: logs no more (the network is gone)"
    ]


def test_what_is_not_installed_or_cannot_begin_is_one_line(wandb, tmp_path, monkeypatch):
    wandb.error = RuntimeError("no key\nis configured")
    with pytest.raises(Unavailable, match=r"^training\.logger: wandb cannot begin \(no key is"):
        begin(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"'wandb' is not installed .*-e '\.\[wandb\]'\)$"):
        begin(tmp_path)


def history(directory):
    """Steps and losses of ``history.csv``."""
    lines = (directory / "checkpoints/8/history.csv").read_text().splitlines()[1:]
    return {int(line.split(",")[0]): float(line.split(",")[1]) for line in lines}


@pytest.fixture
def plain(tiny, tmp_path, manifest):
    run(tiny(), "vae-align", tmp_path / "plain", manifest, until=8)
    return tmp_path / "plain"


def test_the_logger_changes_no_bit_of_a_training(wandb, tiny, tmp_path, manifest, plain):
    path = tiny(**{"training.logger": "wandb"})
    run(path, "vae-align", tmp_path / "run", manifest, until=8)
    assert_equal(everything(tmp_path / "run", 8), everything(plain, 8))
    losses = {step: values["train/loss"] for step, values in wandb.logged}
    assert losses == history(plain)
    run(tiny(), "vae-align", tmp_path / "run", manifest, until=8)  # and is no other definition
    assert list((tmp_path / "run/tensorboard").iterdir())


def records(path):
    """The records of a ``.wandb`` file: blocks of 32 KiB; checksum, length, kind, bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, offset, pending = path.read_bytes(), 7, b""
    while offset < len(content):
        if (left := 2**15 - offset % 2**15) < 7:
            offset += left
            continue
        length, kind = (
            int.from_bytes(content[offset + 4 : offset + 6], "little"),
            content[offset + 6],
        )
        pending += content[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield Record.FromString(pending)
            pending = b""


@pytest.fixture
def made(tmp_path, monkeypatch):
    """The event files of a run's jobs, and of the data set that the experiment links to."""
    monkeypatch.chdir(tmp_path)
    record = RunRecord(
        run="sit", label="SiT", seed=3, folder="results/tiny/runs/sit/seed3", imported=False,
        checkpoints=[4], batch_size=8, teachers=[], metrics={},
    )  # fmt: skip
    runs = RunList(format=1, experiment="tiny", sampler="ode", runs=[record])
    write_json(Path("results/tiny/runs.json"), runs.model_dump(mode="json"))
    write_json(Path(record.folder, "definition.json"), DEFINITION)
    events = Path(record.folder, "tensorboard/evaluation")
    write_event_file(events, "ode-n20-classifier", 8, scalars({"ode/fid": 2.0}))
    write_event_file(events, "ode-n20-classifier", 4, scalars({"ode/fid": 5.0}))
    write_event_file(events, "ode-n20-samples", 4, [picture("ode/samples", PIXELS)])
    shared = Path("results/data/digits/tensorboard")
    write_event_file(shared / "autoencoder", "images", 0, [picture("images/real", PIXELS)])
    Path("results/tiny/tensorboard").symlink_to("../data/digits/tensorboard")
    return events


def send():
    return {one.name: one.send() for one in job_events("tiny")}


def test_what_jobs_made_is_sent_once_each_into_a_run_beside_the_trainings(wandb, made):
    assert send() == {"sit seed 3 evaluation": 3, "data digits": 1}
    evaluation, data = wandb.begun
    assert (evaluation["group"], evaluation["config"]) == ("sit", DEFINITION)
    assert evaluation["id"] != wandb_id("tiny", "sit", DEFINITION)
    assert (data["group"], data["project"]) == ("data", "tiny")
    assert wandb.axes == {"checkpoint": None, "*": "checkpoint"}
    sent = [values for _, values in wandb.logged]
    assert [values["checkpoint"] for values in sent] == [4, 4, 8, 0]
    assert [values["ode/fid"] for values in sent if "ode/fid" in values] == [5.0, 2.0]
    for values, tag in ((sent[1], "ode/samples"), (sent[3], "images/real")):
        np.testing.assert_array_equal(values[tag], PIXELS)
    assert set(send().values()) == {0}
    assert len(wandb.begun) == 2
    write_event_file(made, "ode-n20-classifier", 8, scalars({"ode/fid": 1.5}))
    assert send() == {"sit seed 3 evaluation": 1, "data digits": 0}
    assert wandb.logged[-1] == (None, {"checkpoint": 8, "ode/fid": 1.5})
    assert wandb.begun[-1] == evaluation


def test_a_shared_run_is_sent_to_both_projects_with_what_the_child_adds(wandb, made):
    runs = read_fields(Path("results/tiny/runs.json"))
    write_json(Path("results/child/runs.json"), {**runs, "experiment": "child"})
    added = Path("results/child/runs/sit/seed3/tensorboard/evaluation")
    write_event_file(added, "sde-n20-classifier", 8, scalars({"sde/fid": 1.0}))
    Path("results/child/tensorboard").symlink_to("../data/digits/tensorboard")
    sent = {"sit seed 3 evaluation": 3, "data digits": 1}
    assert {one.name: one.send() for one in job_events("child")} == {
        **sent,
        "sit seed 3 evaluation": 4,
    }
    assert send() == sent
    assert [run["project"] for run in wandb.begun] == ["child", "child", "tiny", "tiny"]
    assert len({run["id"] for run in wandb.begun}) == 4
    assert not any(one.send() for name in ("tiny", "child") for one in job_events(name))


def test_the_command_takes_an_experiment_by_its_path_and_says_what_it_sends(wandb, made, capsys):
    for kind in ("data/digits", "digits"):
        shipped = REPOSITORY / f"experiments/{kind}.yaml"
        copy = Path("experiments", f"{kind}.yaml")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(shipped.read_text())
    Path("mine.yaml").write_text("extends: digits\nname: tiny\n")
    said = []
    for experiment in ("mine.yaml", "tiny"):
        upload.main([experiment], obj=Path(), standalone_mode=False)
        said.append(capsys.readouterr().out.splitlines())
    assert said == [
        ["sit seed 3 evaluation: 3 sent", "data digits: 1 sent"],
        ["nothing that was not sent before"],
    ]


def test_what_could_not_be_sent_is_sent_again(wandb, made, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(wandb, "log", lambda values: 1 / 0)
        with pytest.raises(Unavailable, match=r"seed3: wandb fails \(division by zero\)$"):
            send()
    assert send()["sit seed 3 evaluation"] == 3
    made.joinpath("events.out.tfevents.0000000004.ode-n20-classifier").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"classifier: damaged, holds 0 events \(expected: 2\)$"):
        send()


@pytest.mark.slow
def test_offline_what_jobs_made_lies_in_its_own_files(made, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    evaluation = next(job_events("tiny"))
    assert evaluation.send() == 3
    (file,) = evaluation.folder.glob("wandb/offline-run-*/*.wandb")
    logged = [
        {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
        for items in (one.history.item for one in records(file) if one.HasField("history"))
    ]
    assert [values["checkpoint"] for values in logged] == [4, 4, 8]
    assert [values["ode/fid"] for values in logged if "ode/fid" in values] == [5.0, 2.0]
    (stored,) = file.parent.glob("files/media/images/ode/*.png")
    np.testing.assert_array_equal(np.asarray(Image.open(stored)), PIXELS)


@pytest.mark.slow
def test_offline_the_same_scalars_lie_in_its_own_files(
    tiny, tmp_path, manifest, plain, monkeypatch
):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    path, directory = tiny(**{"training.logger": "wandb"}), tmp_path / "run"
    with pytest.raises(Interrupted):
        run(path, "vae-align", directory, manifest, until=8, stop=StopAt(4))
    run(path, "vae-align", directory, manifest, until=8)
    assert_equal(everything(directory, 8), everything(plain, 8))
    files = sorted(directory.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    found, ids = {}, set()
    for record in (record for file in files for record in records(file)):
        if record.HasField("run"):
            ids.add((record.run.run_id, record.run.project, record.run.display_name))
        if record.HasField("history"):
            values = {
                item.key or ".".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            found[record.history.step.num or values["_step"]] = values["train/loss"]
    (identity,) = ids
    assert identity[1:] == ("tiny", "vae-align seed 0")
    assert found == history(plain)
