"""The latent store: whole, resumable, checked."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.data import sparse_store
from selftrans.config import TrainingConfig
from selftrans.data.store import LatentStore
from selftrans.data.writer import StoreWriter
from selftrans.runtime.errors import UserError
from selftrans.training.batches import BatchSource
from tests.support.stores import write_store


def test_rows_come_back_across_shards(tmp_path):
    store = LatentStore(write_store(tmp_path))
    assert len(store.manifest.shards) == 3
    whole = np.concatenate([np.load(tmp_path / shard.file) for shard in store.manifest.shards])
    chosen = np.array([199, 0, 66, 67, 68, 134, 5, 5])
    np.testing.assert_array_equal(store.moments(chosen), whole[chosen].astype(np.float32))


def test_a_finished_shard_is_kept_and_another_origin_is_not(tmp_path):
    write_store(tmp_path)
    same = StoreWriter(tmp_path, {"seed": 0, "count": 200}, 200, shard_size=67)
    assert [same.has(number) for number, _, _ in same.ranges()] == [True] * 3
    other = StoreWriter(tmp_path, {"seed": 1, "count": 200}, 200, shard_size=67)
    assert not any(other.has(number) for number, _, _ in other.ranges())


def test_a_smaller_store_leaves_nothing_of_a_larger_one(tmp_path):
    write_store(tmp_path, count=200)
    write_store(tmp_path, count=30)
    assert len(list(tmp_path.glob("moments-*.npy"))) == 3
    write_store(tmp_path, count=2)
    assert sorted(path.name for path in tmp_path.glob("moments-*")) == [
        "moments-00000.json", "moments-00000.npy", "moments-00001.json", "moments-00001.npy"
    ]  # fmt: skip
    assert len(LatentStore(tmp_path / "manifest.json")) == 2


def test_the_digest_is_of_the_content(tmp_path):
    first = LatentStore(write_store(tmp_path / "a")).manifest.digest
    assert LatentStore(write_store(tmp_path / "b")).manifest.digest == first
    assert LatentStore(write_store(tmp_path / "c", seed=1)).manifest.digest != first


def test_a_truncated_shard_is_named_at_once(tmp_path):
    manifest = write_store(tmp_path)
    shard = tmp_path / "moments-00001.npy"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"moments-00001\.npy: \d+ bytes, the manifest says \d+"):
        LatentStore(manifest)


def test_a_flipped_bit_is_found_on_request(tmp_path):
    manifest = write_store(tmp_path)
    LatentStore(manifest).verify()
    shard = tmp_path / "moments-00002.npy"
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match=r"moments-00002\.npy: damaged"):
        LatentStore(manifest).verify()


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"format": 2}', "not json"])
def test_a_foreign_manifest_is_refused_in_one_line(tmp_path, content):
    manifest = write_store(tmp_path)
    manifest.write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json") as caught:
        LatentStore(manifest)
    assert "\n" not in str(caught.value)


def test_pickles_are_never_loaded(tmp_path):
    manifest = write_store(tmp_path)
    np.save(tmp_path / "labels.npy", np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match=r"labels\.npy: not an array"):
        LatentStore(manifest)


@pytest.mark.parametrize("labels", [np.zeros(3, np.int64), np.zeros(200), None])
def test_labels_that_do_not_fit_are_refused_by_name(tmp_path, labels):
    manifest = write_store(tmp_path)
    (tmp_path / "labels.npy").unlink()
    if labels is not None:
        np.save(tmp_path / "labels.npy", labels)
    with pytest.raises(UserError, match=r"labels\.npy: "):
        LatentStore(manifest)


def test_the_manifest_says_where_it_came_from(tmp_path):
    assert json.loads(write_store(tmp_path).read_text())["origin"] == {"seed": 0, "count": 200}


def bytes_read():
    """What this process has read from files so far, by the kernel's count."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).split()[1])


@pytest.mark.slow
def test_a_store_of_imagenets_size_is_opened_without_being_read(tmp_path):
    """1,281,167 images in sparse files: opening reads labels and manifest, a batch its rows."""
    manifest = sparse_store(tmp_path)
    before = bytes_read()
    store = LatentStore(manifest)
    assert len(store) == 1_281_167
    assert sum(shard.bytes for shard in store.manifest.shards) > 20e9
    assert bytes_read() - before < 30e6
    batch = BatchSource(store, TrainingConfig(checkpoints=(100,)), seed=0).draw(3, range(256))
    assert batch.z_BCHW.shape == (256, 4, 32, 32)
    assert not batch.z_BCHW.any()  # zeros, as holes are
    assert len(set(batch.condition_B.tolist())) > 200
