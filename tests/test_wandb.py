"""``logger: wandb``: the same scalars in Weights & Biases, and the same training."""

import json
import sys
from types import SimpleNamespace

import pytest

from selftrans.runtime.errors import Interrupted, Unavailable, UserError
from selftrans.training.weights_and_biases import WeightsAndBiases, wandb_id
from tests.support.trainings import StopAt, assert_equal, everything, run

DEFINITION = {"seed": 3, "model": {"depth": 4}}


class StandIn:
    """Records what it is told, as the module ``wandb`` and as its run."""

    def __init__(self, error=None):
        self.error, self.begun, self.logged, self.ended = error, [], [], 0

    @staticmethod
    def Settings(**given):  # noqa: N802
        return SimpleNamespace(**given)

    def init(self, **given):
        if self.error:
            raise self.error
        self.begun.append(given)
        return self

    def log(self, values, step):
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
