"""Captions encoded once: the stand-in for a text encoder, their store, what a batch draws of it."""

import shutil

import numpy as np
import pytest
import torch

from selftrans.config import (
    TrainingConfig,
    WordsEncoderConfig,
)
from selftrans.data.caption_store import CaptionStore
from selftrans.data.conditions import CaptionConditions, ClassConditions
from selftrans.data.sources import open_source
from selftrans.data.store import LatentStore
from selftrans.extraction.captions import CaptionExtraction
from selftrans.models.text_encoder import load_text_encoder, word_vector, words_of
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import read_json, sha256_of, write_json
from selftrans.runtime.seal import sealed, unsealed
from selftrans.runtime.workers import Shard
from selftrans.training.batches import BatchSource
from tests.support.captions import COUNT, CPU, LENGTH

# -- the stand-in for a text encoder


def test_a_word_is_a_vector_and_its_place():
    encode = load_text_encoder(WordsEncoderConfig(kind="words", length=6, size=32))
    one, other = encode(["a red ring", "ring red a"]).double()
    ring, a = word_vector("ring", 32), word_vector("a", 32)
    torch.testing.assert_close(one[3] - other[1], other[3] - one[1], atol=1e-6, rtol=0)
    torch.testing.assert_close((one[3] - other[3]) * 2**0.5, ring - a, atol=1e-5, rtol=0)
    assert abs(float(word_vector("green", 4096).std()) - 1) < 0.05


def test_captions_are_cut_off_and_counted():
    encode = load_text_encoder(WordsEncoderConfig(kind="words", length=5, size=8))
    assert words_of("A red, round Ring!") == ["a", "red", ",", "round", "ring", "!"]
    assert encode.count_truncated(["one two three", "one two three four"]) == 1
    long, short = encode(["one two three four five", "one two three"])
    torch.testing.assert_close(long[:4], short[:4])


# -- the store


def test_the_store_holds_every_caption_and_the_empty_one(captions, data):
    store, source = CaptionStore(captions), open_source(data)
    encode = load_text_encoder(data.text_encoder)
    assert [tuple(texts) for texts in store.texts] == list(source.captions)
    np.testing.assert_array_equal(store.null, encode([""]).half().numpy())
    start, stop = store.span(7)
    expected = encode(list(source.captions[7])).half().numpy()
    np.testing.assert_array_equal(store.rows[np.arange(start, stop)], expected)
    np.testing.assert_array_equal(store.first_of(np.array([7])), expected[:1])
    assert store.manifest.truncated > 0
    store.verify()


def test_the_bytes_do_not_depend_on_the_number_of_processes(place, data, captions):
    again = CaptionExtraction(data, place / "again", CPU)
    for rank in (1, 0):
        again.run(Shard(rank, 2))
    assert again.finish().digest == CaptionStore(captions).manifest.digest


def test_shards_that_are_there_are_kept(tmp_path, data, captions):
    CaptionExtraction(data, tmp_path, CPU).run(Shard(0, 2))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("captions-*.npy")}
    again = CaptionExtraction(data, tmp_path, CPU)
    again.run(Shard.all())
    assert before
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert again.finish().digest == CaptionStore(captions).manifest.digest


def test_what_is_cut_off_is_said(tmp_path, data, caplog):
    extraction = CaptionExtraction(data, tmp_path, CPU)
    extraction.run(Shard.all())
    cut = extraction.finish().truncated
    assert f"{cut} of {3 * COUNT} captions have more than {LENGTH} tokens" in caplog.text


def test_a_damaged_store_is_refused(tmp_path, captions):
    for name in ("manifest.json", "offsets.npy", "captions.json"):
        (tmp_path / name).write_bytes(captions.with_name(name).read_bytes())
    for shard in captions.parent.glob("*-*.npy"):
        (tmp_path / shard.name).write_bytes(shard.read_bytes())
    store = CaptionStore(tmp_path / "manifest.json")
    (tmp_path / "captions.json").write_text("[]")
    with pytest.raises(UserError, match=r"captions\.json: damaged"):
        _ = store.texts
    np.save(tmp_path / "offsets.npy", np.arange(COUNT + 1))
    with pytest.raises(UserError, match=r"offsets\.npy: damaged"):
        CaptionStore(tmp_path / "manifest.json")


@pytest.mark.parametrize(
    "change",
    [lambda texts: {"0": texts}, lambda texts: texts[:-1], lambda texts: ["text", *texts[1:]],
     lambda texts: [texts[0][:2], *texts[1:]], lambda texts: [[1, 2, 3], *texts[1:]]],
)  # fmt: skip
def test_texts_that_fit_no_images_are_refused(tmp_path, captions, change):
    """Though they are what the manifest says."""
    folder = shutil.copytree(captions.parent, tmp_path / "store")
    write_json(folder / "captions.json", change(read_json(folder / "captions.json")))
    content = unsealed(read_json(captions), captions)
    content["texts_sha256"] = sha256_of(folder / "captions.json")
    write_json(folder / "manifest.json", sealed(content))
    with pytest.raises(UserError, match=f"captions.json: not the captions of {COUNT} images"):
        _ = CaptionStore(folder / "manifest.json").texts


def test_captions_of_other_images_are_refused(captions, manifest):
    with pytest.raises(UserError, match="captions of other images than"):
        CaptionStore(captions).check_fits(LatentStore(manifest))


def test_another_number_of_captions_than_the_data_file_says_is_refused(tmp_path, data):
    with pytest.raises(UserError, match=f"captions: the source has {3 * COUNT}, .* says 7"):
        CaptionExtraction(data.model_copy(update={"captions": 7}), tmp_path, CPU)


# -- batches


def test_one_of_an_images_captions_is_drawn_at_every_visit(latents, captions):
    store, texts = LatentStore(latents), CaptionStore(captions)
    training = TrainingConfig(checkpoints=(100,), batch_size=60, label_dropout=0.25)
    source = BatchSource(store, training, 3, conditions=CaptionConditions(texts))
    counts, dropped = np.zeros(3), 0
    for step in range(20):
        batch = source.draw(step, range(60))
        whole = torch.cat(
            [source.draw(step, part).condition_B for part in (range(9), range(9, 60))]
        )
        assert torch.equal(whole, batch.condition_B)
        for row, image in enumerate(source.indices(step, range(60)).tolist()):
            start, stop = texts.span(image)
            same = (texts.rows[np.arange(start, stop)] == batch.condition_B[row].numpy()).all(
                (1, 2)
            )
            assert same.sum() >= 1
            counts[int(np.argmax(same))] += 1
            is_null = torch.equal(batch.dropped_condition_B[row], torch.from_numpy(texts.null[0]))
            assert is_null or torch.equal(batch.dropped_condition_B[row], batch.condition_B[row])
            dropped += is_null
    assert (np.abs(counts / 1200 - 1 / 3) < 0.06).all()
    assert abs(dropped / 1200 - 0.25) < 0.05


def test_the_caption_is_a_function_of_seed_step_and_position(latents, captions):
    store, training = LatentStore(latents), TrainingConfig(checkpoints=(100,), batch_size=60)
    texts = CaptionStore(captions)

    def chosen(source, step):
        """Which of its captions each image has, by image."""
        shown = source.draw(step, range(60)).condition_B.numpy()
        rows = [texts.rows[np.arange(*texts.span(image))] for image in range(60)]
        images = source.indices(step, range(60)).tolist()
        return {
            image: int((rows[image] == one).all((1, 2)).argmax())
            for image, one in zip(images, shown, strict=True)
        }

    def source(seed):
        return BatchSource(store, training, seed, conditions=CaptionConditions(texts))

    first = source(3)
    drawn = [chosen(first, step) for step in (7, 8)]
    assert chosen(source(3), 8) == drawn[1]  # whatever was drawn before
    for other in (drawn[0], chosen(source(4), 8)):  # each step is an epoch: all images
        different = sum(other[image] != drawn[1][image] for image in range(60))
        assert different == pytest.approx(40, abs=15)


def test_what_captions_draw_changes_nothing_else(latents, captions):
    store, training = LatentStore(latents), TrainingConfig(checkpoints=(100,), batch_size=16)
    first = BatchSource(store, training, 3).draw(2, range(16))
    second = BatchSource(
        store, training, 3, conditions=CaptionConditions(CaptionStore(captions))
    ).draw(2, range(16))
    for name in ("x_BCHW", "t_B", "velocity_BCHW", "uniform_B"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    null = first.dropped_condition_B != first.condition_B
    moved = (second.dropped_condition_B != second.condition_B).flatten(1).any(1)
    assert torch.equal(null, moved)


def test_classes_draw_nothing():
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    assert ClassConditions(np.arange(4), 4).choose(2, rng) == 2
    assert rng.bit_generator.state == before
