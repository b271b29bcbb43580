"""Files of ours with other contents: read as they were written, or refused in one line."""

import json
import shutil

import numpy as np
import pytest
import torch

from selftrans.config import load_experiment, run_definition
from selftrans.data.images import ImageArchive, read_image_archive, write_image_archive
from selftrans.data.store import LatentStore
from selftrans.data.writer import StoreWriter
from selftrans.evaluation.activations import Activations
from selftrans.evaluation.comparison import curves_of
from selftrans.evaluation.headline import headline_markdown
from selftrans.evaluation.markdown import metrics_markdown
from selftrans.evaluation.statistics import ImageStatistics, Statistics
from selftrans.evaluation.tables import (
    metrics_table,
    read_history,
    read_metrics,
    read_result,
    read_seconds,
)
from selftrans.models.autoencoder import latent_scaling, load_autoencoder, save_autoencoder
from selftrans.plotting.convergence import convergence
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import read_json, sha256_of, write_json
from selftrans.sampling.partial_images import PartialImages
from selftrans.training.definition import DEFINITION_FILE, check_definition
from tests.support.hostile import VALUES, changed, flipped, leaves, refused_or
from tests.support.results import result
from tests.support.stores import write_store

LABELS = {"sit": "SiT"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("latents"), count=30)


@pytest.fixture
def copied(store, tmp_path):
    return shutil.copytree(store.parent, tmp_path / "latents") / "manifest.json"


@pytest.mark.parametrize("value", VALUES)
def test_a_manifest_with_another_value(copied, value):
    """Without its seal, as files of earlier versions; with it, every change is refused."""
    content = read_json(copied)
    seal = content.pop("seal")
    rows = np.arange(30)
    expected = LatentStore(copied).moments(rows)
    for keys in leaves(content):
        damaged = changed(content, keys, VALUES[value])
        copied.write_text(json.dumps({**damaged, "seal": seal}))
        if damaged != content:
            with pytest.raises(UserError, match="damaged, its description"):
                LatentStore(copied)
        copied.write_text(json.dumps(damaged))
        opened = refused_or(lambda: LatentStore(copied), copied)
        if opened is not None:
            np.testing.assert_array_equal(opened.moments(rows), expected)
            assert np.isfinite(opened.latents(rows, np.zeros((30, 4, 8, 8), np.float32))).all()


@pytest.mark.slow
@pytest.mark.parametrize("file", ["moments-00001.npy", "labels.npy"])
def test_every_bit_of_a_header(copied, file):
    path = copied.with_name(file)
    content, rows = path.read_bytes(), np.arange(30)
    expected = LatentStore(copied).moments(rows)
    for damaged in flipped(content, range(128 * 8)):
        path.write_bytes(damaged)
        if (opened := refused_or(lambda: LatentStore(copied), path)) is not None:
            np.testing.assert_array_equal(opened.moments(rows), expected)


def test_a_record_that_says_otherwise_counts_as_none(copied):
    record = copied.with_name("moments-00001.json")
    content, origin = read_json(record), read_json(copied)["origin"]
    for keys in leaves(content):
        for value in VALUES.values():
            writer = StoreWriter(copied.parent, origin, 30, 11)
            assert writer.is_sound(0)
            damaged = changed(content, keys, value)
            record.write_text(json.dumps(damaged))
            assert writer.is_sound(1) == (damaged == content)
    record.write_text(json.dumps(content))
    assert writer.is_sound(1)


@pytest.mark.parametrize("value", VALUES)
def test_metrics_with_another_value(tmp_path, value):
    content, path = result(), tmp_path / "metrics.json"
    for keys in leaves(content):
        path.write_text(json.dumps(changed(content, keys, VALUES[value])))
        if (read := refused_or(lambda: read_result(path), path)) is not None:
            table = metrics_table([("ode", read)])
            headline_markdown(table, LABELS, [])
            metrics_markdown(table, LABELS)


@pytest.mark.parametrize("column", ["run", "seed", "step", "samples", "fid", "num_steps"])
@pytest.mark.parametrize("value", ["x", "", "inf", "-inf", "nan", "1.5", "-1", "9" * 400])
def test_a_table_with_another_cell(tmp_path, column, value):
    path = tmp_path / "metrics.csv"
    rows = [result(step=step, seed=seed) for step in (10, 20) for seed in (0, 1)]
    table = metrics_table([("ode", row) for row in rows]).astype(object)
    table.loc[0, column] = value
    path.write_text(table.to_csv(index=False))
    if (read := refused_or(lambda: read_metrics(str(path), ["ode"]), path)) is not None:
        try:
            curves_of(read, "fid")
            convergence(read, {run: run for run in set(read["run"])}, 5.5)
        except UserError:
            assert column == "num_steps"  # a setting that differs: no common curve


def test_two_rows_of_one_number_are_refused(tmp_path):
    table = metrics_table([("ode", result()), ("ode", result(fid=3.0))])
    (tmp_path / "metrics.csv").write_text(table.to_csv(index=False))
    with pytest.raises(UserError, match="two rows of the same run, seed, step, samples"):
        read_metrics(str(tmp_path / "metrics.csv"), ["ode"])


def test_a_history_is_the_one_that_its_checkpoint_wrote(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("step,loss\n10,0.5\n20,0.25\n")
    write_json(tmp_path / "checkpoint.json", {"digests": {"history": sha256_of(path)}})
    assert len(read_history(path)) == 2
    path.write_text("step,loss\n10,0.5\n20,0.15\n")
    with pytest.raises(UserError, match=r"history\.csv: damaged, its SHA-256 is not"):
        read_history(path)


@pytest.mark.parametrize("value", [*VALUES.values(), -1.0])
def test_seconds_are_a_positive_number(tmp_path, value):
    path = tmp_path / "checkpoint.json"
    path.write_text(json.dumps({"seconds": value}))
    read = refused_or(lambda: read_seconds(path), path)
    assert read is None or (read > 0 and read in (1e30, 1e-320))


@pytest.mark.parametrize("value", VALUES)
def test_a_definition_with_another_value(tiny, tmp_path, value):
    experiment = load_experiment(tiny())
    content = run_definition(experiment, "self-transcendence", 0)
    content |= {"inputs": {"latents": "d", "teachers": ["e"], "encoders": {}}, "precision": "fp32"}
    path = tmp_path / DEFINITION_FILE
    for keys in leaves(content):
        path.write_text(json.dumps(changed(content, keys, VALUES[value])))
        refused_or(
            lambda: check_definition(tmp_path, experiment, "self-transcendence", 0), tmp_path / "x"
        )


def archive_of(path, count=30):
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)
    write_image_archive(path, [images], np.arange(count))
    return images


@pytest.mark.slow
def test_every_bit_of_an_archives_header(tmp_path):
    path = tmp_path / "samples.npz"
    images = archive_of(path)
    content = path.read_bytes()
    start = content.index(b"\x93NUMPY")
    for damaged in flipped(content, range(8 * start, 8 * (start + 128))):
        path.write_bytes(damaged)

        def read():
            archive = ImageArchive(path)
            return np.concatenate(list(archive.batches(range(len(archive)), 7)))

        if (found := refused_or(read, path)) is not None:
            np.testing.assert_array_equal(found, images)


@pytest.mark.slow
def test_every_bit_of_a_batchs_header(tmp_path):
    partial = PartialImages(tmp_path / "p", {})
    partial.add(range(4), np.full((4, 2, 2, 3), 9, np.uint8))
    (path,) = (tmp_path / "p").iterdir()
    content = path.read_bytes()
    for damaged in flipped(content, range(128 * 8)):
        path.write_bytes(damaged)
        if partial.missing(range(4), 4) == []:
            np.testing.assert_array_equal(next(partial.batches(4)), 9)


@pytest.mark.parametrize(
    "arrays",
    [
        {}, {"arr_0": np.zeros(3)}, {"arr_0": np.zeros((3, 4, 4, 3), np.float32)},
        {"arr_0": np.zeros((3, 4, 4, 3), np.uint8)},
        {"arr_0": np.zeros((3, 4, 4, 3), np.uint8), "arr_1": np.zeros(2, np.int64)},
        {"arr_0": np.zeros((3, 4, 4, 3), np.uint8), "arr_1": np.array(["a", "b", "c"])},
    ],
)  # fmt: skip
def test_archives_of_other_arrays(tmp_path, arrays):
    np.savez(tmp_path / "first.npz", **arrays)
    with pytest.raises(UserError, match=r"first\.npz: holds no "):
        read_image_archive(tmp_path / "first.npz")


def statistics(tmp_path):
    rng = np.random.default_rng(0)
    whole = Statistics("classifier", "d")
    features, logits = rng.standard_normal((50, 4)), rng.standard_normal((50, 3))
    whole.add(0, Activations(features=torch.from_numpy(features), logits=torch.from_numpy(logits)))
    path = tmp_path / "s.npz"
    whole.finished().save(path)
    with np.load(path) as archive:
        return path, {name: archive[name] for name in archive.files}


@pytest.mark.parametrize(
    "changes",
    [
        {"features_covariance": -np.eye(4)}, {"features_covariance": np.eye(3)},
        {"features_covariance": np.zeros(4)}, {"features_covariance": np.triu(np.ones((4, 4)))},
        {"features_mean": np.full(4, np.nan)}, {"features_mean": np.array(["a", "b", "c", "d"])},
        {"features_count": -1}, {"count": -3}, {"count": "many"}, {"image_size": [1]},
        {"score_probabilities": np.zeros((1, 3))}, {"score_counts": [0]},
        {"score_counts": [1, 2]}, {"score_entropies": [np.inf]},
    ],
)  # fmt: skip
def test_statistics_of_no_images(tmp_path, changes):
    path, arrays = statistics(tmp_path)
    assert ImageStatistics.load(path).count == 50
    np.savez(path, **{**arrays, **changes})
    with pytest.raises(UserError, match=r"s\.npz: "):
        ImageStatistics.load(path)


@pytest.mark.slow
@pytest.mark.parametrize("value", VALUES)
def test_an_autoencoders_configuration_with_another_value(autoencoder, tmp_path, value):
    """Of one that others wrote, whose configuration nothing seals."""
    copy = shutil.copytree(autoencoder, tmp_path / "autoencoder")
    content = read_json(copy / "config.json")
    for key in ("scaling_factor", "shift_factor", "latents_mean", "latents_std", "_class_name"):
        (copy / "config.json").write_text(json.dumps({**content, key: VALUES[value]}))

        def read():
            loaded = load_autoencoder(str(copy), torch.device("cpu"))
            scale, shift = latent_scaling(loaded, str(copy), 4)
            return np.asarray([1.0 if scale is None else scale, shift])

        if (found := refused_or(read, copy / "x")) is not None:
            assert np.isfinite(found).all()


@pytest.mark.slow
def test_an_autoencoder_of_ours_is_sealed(autoencoder, tmp_path):
    cpu = torch.device("cpu")
    path = tmp_path / "autoencoder"
    save_autoencoder(load_autoencoder(autoencoder, cpu), path)
    load_autoencoder(str(path), cpu)
    config = read_json(path / "config.json")
    write_json(path / "config.json", {**config, "norm_num_groups": 1})
    with pytest.raises(UserError, match="damaged, its config is not what was written"):
        load_autoencoder(str(path), cpu)
