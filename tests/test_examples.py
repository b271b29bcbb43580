"""Real images and reconstructions above the samples of a figure."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch

from selftrans.config import SamplerConfig
from selftrans.data.examples import Examples
from selftrans.data.sources.repa import PreparedMoments
from selftrans.data.store import LatentStore
from selftrans.models.autoencoder import decode, load_autoencoder
from selftrans.plotting.grid import ImageGrid
from selftrans.plotting.names import fitted_names, shortened_to, width_of
from selftrans.plotting.samples import NOT_AT_HAND, sample_grid
from selftrans.runtime.errors import UserError
from selftrans.sampling.conditions import sample_labels
from selftrans.sampling.examples import (
    examples_needed,
    first_of_classes,
    make_caption_examples,
    make_examples,
)

RNG = np.random.default_rng(0)
CPU = torch.device("cpu")
LABELS = {"sit": "SiT", "ours": "Ours"}


def examples_of(classes, names=tuple("0123456789"), real=True):
    images = RNG.integers(0, 256, (2, len(classes), 8, 8, 3), dtype=np.uint8)
    return Examples(
        classes=np.array(classes), reconstructed=images[0], real=images[1] if real else None,
        class_names=names,
    )  # fmt: skip


def test_there_are_as_many_images_of_a_class_as_any_set_shows():
    random = SamplerConfig(sampler="euler", labels="random", seed=3)
    balanced = SamplerConfig(sampler="heun", seed=5)
    assert examples_needed([balanced], 7, 3) == {0: 3, 1: 2, 2: 2}
    drawn = Counter(sample_labels(random, range(7), 3).tolist())
    both = examples_needed([balanced, random], 7, 3)
    assert both == {label: max(drawn[label], n) for label, n in {0: 3, 1: 2, 2: 2}.items()}


def test_the_first_images_of_a_class_are_taken():
    labels = np.array([2, 0, 2, 1, 0, 2])
    assert first_of_classes(labels, Counter({2: 2, 0: 1})).tolist() == [1, 0, 2]
    assert first_of_classes(labels, Counter({1: 5, 7: 1})).tolist() == [3]


@dataclass
class Captions:
    """Of a store, the texts."""

    texts: list[list[str]]

    def __len__(self):
        return len(self.texts)


class Source:
    """Images whose pixels are their index."""

    def read(self, indices):
        return np.stack([np.full((32, 32, 3), index, np.uint8) for index in indices])


def test_what_is_shown_is_the_decoded_mean_of_the_latents(manifest, autoencoder):
    store, network = LatentStore(manifest), load_autoencoder(autoencoder, CPU)
    needed = Counter({0: 2, 3: 1})
    made = make_examples(store, Source, network, needed, CPU)
    assert made.classes.tolist() == [0, 0, 3]
    indices = [*np.flatnonzero(store.labels == 0)[:2], *np.flatnonzero(store.labels == 3)[:1]]
    assert made.real[:, 0, 0, 0].tolist() == indices
    mean = torch.from_numpy(store.moments(np.array(indices[2:]))[:, 0].astype(np.float32))
    alone = decode(network, mean)[0].numpy().astype(int)
    assert np.abs(alone - made.reconstructed[2]).max() <= 1  # products round by the batch
    assert made.class_names == store.manifest.class_names


def test_images_that_are_not_at_hand_are_left_out_with_a_word(manifest, autoencoder, caplog):
    def absent():
        raise UserError("/data/images: no such folder")

    network = load_autoencoder(autoencoder, CPU)
    made = make_examples(LatentStore(manifest), absent, network, Counter({1: 1}), CPU)
    assert made.real is None
    assert len(made.reconstructed) == 1
    assert "no real images beside the samples: /data/images" in caplog.text


@pytest.mark.parametrize("has_images", [True, False])
def test_prepared_images_of_captions_may_be_moments_alone(autoencoder, has_images):
    """Samples of U-ViT's preparation are drawn, though it keeps no pictures."""
    network = load_autoencoder(autoencoder, CPU)
    moments = RNG.standard_normal((9, 2, 4, 8, 8)).astype(np.float32)
    images = object.__new__(PreparedMoments)
    images.has_images, images.read = has_images, Source().read
    images.moments = lambda indices: moments[list(indices)]
    captions = Captions(texts=[[f"caption {index}"] for index in range(9)])
    made = make_caption_examples(captions, images, network, network, 4, CPU)
    assert (made.real is None) != has_images
    expected = decode(network, torch.from_numpy(moments[:4, 0])).numpy()
    np.testing.assert_array_equal(made.reconstructed, expected)
    assert made.classes.tolist() == [0, 1, 2, 3]
    assert made.class_names[:2] == ("caption 0", "caption 1")


@pytest.mark.parametrize("real", [True, False])
def test_examples_come_back_from_disk_and_are_equal_files(tmp_path, real):
    made = examples_of([0, 0, 3], real=real)
    for name in "ab":
        made.save(tmp_path / f"{name}.npz")
    read = Examples.load(tmp_path / "a.npz")
    for field in ("classes", "reconstructed", "real", "class_names"):
        np.testing.assert_array_equal(getattr(read, field), getattr(made, field))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("changed", ["classes", "reconstructed", "class_names", "real"])
def test_what_are_no_examples_is_refused(tmp_path, changed):
    made = vars(examples_of([0, 3]))
    arrays = {**made, "class_names": np.array(made["class_names"])}
    np.savez(tmp_path / "e.npz", **{**arrays, changed: np.zeros((3, 2), np.float32)})
    with pytest.raises(UserError, match="holds no examples"):
        Examples.load(tmp_path / "e.npz")


def test_the_n_th_column_of_a_class_has_its_n_th_image():
    made = examples_of([0, 0, 3])
    assert made.in_columns([3, 0, 3, 0, 0, 1]) == [2, 0, None, 1, None, None]
    assert made.names(None) == tuple("0123456789")
    with pytest.raises(UserError, match="class_names: 2 names for 10 classes"):
        made.names(["a", "b"])


def drawn(examples, columns, names):
    images = RNG.integers(0, 256, (4, columns, 8, 8, 3), dtype=np.uint8)
    rows = [(step, run) for step in (10, 20) for run in LABELS]
    classes = np.arange(columns) % len(names)
    return sample_grid(list(images), classes, rows, LABELS, examples, names, "ode", 5.5)


def test_real_and_reconstructed_images_stand_above_the_samples():
    made = examples_of(range(2))
    figure = drawn(made, 2, made.class_names)
    pictures = [axis.get_images()[0].get_array() for axis in figure.axes]
    assert len(pictures) == (2 + 4) * 2
    np.testing.assert_array_equal(np.stack(pictures[:2]), made.real)
    np.testing.assert_array_equal(np.stack(pictures[2:4]), made.reconstructed)
    tops = [axis.get_position().y1 for axis in figure.axes]
    assert tops == sorted(tops, reverse=True)
    without = drawn(examples_of(range(2), real=False), 2, made.class_names)
    assert len(without.axes) == (1 + 4) * 2
    assert NOT_AT_HAND in [text.get_text() for text in without.texts]


NAMES = ("otter", "golden retriever", "Staffordshire bullterrier", "a$b", "x" * 100)


@pytest.mark.parametrize("columns", [5, 10, 30, 100])
@pytest.mark.parametrize("names", [NAMES[:1], NAMES[:2], NAMES])
def test_names_neither_overlap_nor_leave_the_figure(columns, names):
    fitted = fitted_names([names[column % len(names)] for column in range(columns)], 4.1 / columns)
    grid = ImageGrid(5.5, 1.4, fitted, 1, gap=0.0)
    boxes = [text.get_window_extent() for text in grid.figure.texts]
    assert len(boxes) == columns
    assert all(left.x1 <= right.x0 + 1 for left, right in pairwise(boxes))
    assert max(box.y1 for box in boxes) <= grid.figure.bbox.y1
    assert max(box.x1 for box in boxes) <= grid.figure.bbox.x1 + 1


def test_a_name_is_cut_only_where_it_must_be():
    assert shortened_to("otter", 1, 6.5) == "otter"
    short = shortened_to("Staffordshire bullterrier", 1, 6.5)
    assert short.startswith("Staffordshire")
    assert short.endswith("…")
    assert width_of(short, 6.5) <= 1
    assert fitted_names(["golden retriever"], 0.5).texts == ["golden\nretriever"]
