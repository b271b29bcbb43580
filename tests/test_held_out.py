"""Images that are held out of a training: which ones, and the loss on them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from selftrans.config import HELD_OUT_BINS, ConfigError, TrainingConfig, load_experiment
from selftrans.data.conditions import ClassConditions
from selftrans.data.store import LatentStore
from selftrans.models.weights import load_backbone
from selftrans.runtime.errors import Interrupted, UserError
from selftrans.training.batches import BatchSource
from selftrans.training.held_out import CHUNK, HELD_OUT_COLUMNS, HeldOutLoss
from selftrans.training.precision import MixedPrecision, make_accelerator
from selftrans.training.split import held_out_indices
from tests.support.events import values
from tests.support.trainings import StopAt, assert_equal, everything, run

CPU = torch.device("cpu")
BINS = HELD_OUT_COLUMNS[2:]


def recipe(**changes):
    return TrainingConfig(checkpoints=(8,), log_every=1, batch_size=8, held_out_every=2, **changes)


# -- the split


@pytest.mark.parametrize("count", [10, 37, 100])
def test_every_class_gives_its_share_also_where_classes_are_uneven(count):
    labels = np.repeat(np.arange(6), [1, 5, 30, 64, 400, 500])
    labels = np.random.default_rng(0).permutation(labels)
    chosen = held_out_indices(labels, count)
    assert len(set(chosen.tolist())) == count
    share = count * np.bincount(labels) / len(labels)
    assert (np.abs(np.bincount(labels[chosen], minlength=6) - share) < 1).all()


def test_which_images_of_a_class_is_random():
    chosen = held_out_indices(np.zeros(10_000, np.int64), 1000)
    gaps = np.diff(chosen)
    assert gaps.mean() == pytest.approx(10, abs=0.5)
    assert gaps.std() == pytest.approx(9.5, abs=1.5)  # of a random tenth; 0 of every tenth one


def test_an_epoch_visits_all_other_images_once(manifest):
    store = LatentStore(manifest)
    held_out = held_out_indices(store.labels, 40)
    for seed in (0, 1):  # the split is the same for every seed
        source = BatchSource(store, recipe(held_out=40), seed)
        epochs = [
            np.concatenate([source.indices(step, range(8)) for step in range(first, first + 20)])
            for first in (0, 20)
        ]
        for visited in epochs:
            assert sorted([*visited, *held_out]) == list(range(200))
        assert not np.array_equal(*epochs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training.held_out": 9}, "held_out: 9 is less than one for each bin of t"),
        (
            {"training.held_out": 20, "training.held_out_every": 9},
            "held_out_every: 9 is beyond the last checkpoint, 8",
        ),
        ({"training.held_out": -1}, "held_out"),
    ],
)
def test_a_split_without_an_evaluation_is_refused(tiny, changes, message):
    with pytest.raises(ConfigError, match=message):
        load_experiment(tiny(**{"training.held_out_every": 2, **changes}))


def test_fewer_images_than_a_batch_are_refused(manifest, tiny, tmp_path):
    store = LatentStore(manifest)
    assert len(BatchSource(store, recipe(held_out=192), 0).trained) == 8
    for count, left in ((193, 7), (200, 0), (500, 0)):
        with pytest.raises(UserError, match=f"{count} of 200 images leave {left}, fewer than a ba"):
            BatchSource(store, recipe(held_out=count), 0)
    path = tiny(**{"training.held_out": 193, "training.held_out_every": 2})
    with pytest.raises(UserError, match=r"training\.held_out: 193 of 200 images"):
        run(path, "sit", tmp_path / "run", manifest, until=4)
    assert not (tmp_path / "run").exists()


def test_where_the_number_of_images_is_known_it_is_refused_before_anything_runs(tiny):
    data = {"extends": "digits", "images": 1797}
    changes = {"training.held_out": 1790, "training.held_out_every": 2}
    path = tiny(**changes)
    (path.parent / "counted.yaml").write_text(str(data))
    path = tiny(**changes, data="counted.yaml")
    message = r"training\.held_out: 1790 of 1797 images leave 7, fewer than a batch of 8"
    with pytest.raises(ConfigError, match=message) as caught:
        load_experiment(path)
    assert len(str(caught.value).splitlines()) == 1  # once, not once for each run


# -- the loss


class Images:
    """A store whose latents are zero: x_t = t eps, and the velocity is eps = x_t / t."""

    def __init__(self, count):
        self.labels = np.arange(count) % 3
        self.classes = ClassConditions(self.labels, 3)
        self.manifest = SimpleNamespace(latent_shape=(2, 4, 4))

    def latents(self, indices, noise):
        self.posterior_noise = noise
        return np.zeros((len(indices), 2, 4, 4), np.float32)


class Backbone(nn.Module):
    """The true velocity, and an error of 2 in one bin of t."""

    def __init__(self, wrong_bin=None):
        super().__init__()
        self.wrong_bin, self.times, self.labels = wrong_bin, [], []

    def forward(self, x, t, labels):
        assert not torch.is_grad_enabled()
        self.times += t.tolist()
        self.labels += labels.tolist()
        wrong = (t * HELD_OUT_BINS).floor() == self.wrong_bin if self.wrong_bin is not None else 0
        return x / t[:, None, None, None] + 2.0 * torch.as_tensor(wrong).reshape(-1, 1, 1, 1)


def evaluated(count, backbone, rank=0, world_size=1):
    """The row of one process, and its own losses."""
    own = []
    accelerator = SimpleNamespace(
        device=CPU, process_index=rank, num_processes=world_size,
        reduce=lambda losses, how: own.append((losses, how)) or losses,
    )  # fmt: skip
    arithmetic = MixedPrecision("fp32", CPU)
    loss = HeldOutLoss(Images(count), recipe(held_out=count), arithmetic, accelerator)
    return loss.row(4, backbone), own[0]


@pytest.mark.parametrize("wrong_bin", [0, 3, 9])
def test_an_error_in_one_bin_is_seen_in_that_bin_and_in_the_mean(wrong_bin):
    row, _ = evaluated(1000, Backbone(wrong_bin))
    assert row["step"] == 4
    losses = np.array([row[name] for name in BINS])
    expected = np.where(np.arange(HELD_OUT_BINS) == wrong_bin, 4.0, 0.0)
    np.testing.assert_allclose(losses, expected, atol=1e-5)
    assert row["loss"] == pytest.approx(0.4, abs=1e-5)


def test_times_share_the_interval_evenly_in_random_order_and_labels_are_the_true_ones():
    backbone = Backbone()
    evaluated(300, backbone)
    assert [int(300 * t) for t in sorted(backbone.times)] == list(range(300))
    assert abs(np.corrcoef(backbone.times, range(300))[0, 1]) < 0.2
    assert backbone.labels == [number % 3 for number in range(300)]


def test_noise_and_times_are_the_same_at_every_evaluation():
    first, second = Backbone(), Backbone()
    for backbone in (first, second):
        evaluated(50, backbone)
    assert first.times == second.times
    assert len(set(first.times)) == 50


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_processes_share_the_images_and_add_up_to_the_same_losses(world_size):
    count, backbone = 3 * CHUNK + 5, nn.Module()
    weight = torch.linspace(0.3, 0.9, 32).reshape(1, 2, 4, 4)
    backbone.forward = lambda x, t, labels: x * weight
    _, (whole, how) = evaluated(count, backbone)
    shares = [evaluated(count, backbone, rank, world_size)[1][0] for rank in range(world_size)]
    assert how == "sum"
    assert torch.equal(sum(shares), whole)
    assert (torch.stack(shares).count_nonzero(dim=0) == 1).all()


# -- in a training


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, manifest):
    """A run whose images are held out and hardly ever looked at."""
    from tests.support.experiments import tiny_values

    directory = tmp_path_factory.mktemp("held-out")
    path = directory / "tiny.yaml"
    path.write_text(str(tiny_values(**{"training.held_out": 20, "training.held_out_every": 8})))
    run(path, "vae-align", directory / "run", manifest, until=8)
    return directory / "run"


def looking(tiny, **changes):
    return tiny(**{"training.held_out": 20, "training.held_out_every": 2, **changes})


def table(directory, step=8):
    lines = (directory / f"checkpoints/{step}/held_out.csv").read_text().splitlines()
    assert lines[0] == ",".join(HELD_OUT_COLUMNS)
    return [[float(value) for value in line.split(",")] for line in lines[1:]]


def without_table(directory):
    tensors = everything(directory, 8)[0]
    del tensors["held_out"]
    return tensors, None


def test_looking_changes_no_bit_of_a_training(tiny, tmp_path, manifest, undisturbed):
    run(looking(tiny), "vae-align", tmp_path / "run", manifest, until=8)
    assert_equal(without_table(tmp_path / "run"), without_table(undisturbed))
    for name in ("ema.safetensors", "raw.safetensors", "history.csv"):
        files = [one / "checkpoints/8" / name for one in (tmp_path / "run", undisturbed)]
        assert files[0].read_bytes() == files[1].read_bytes(), name
    assert [row[0] for row in table(tmp_path / "run")] == [2, 4, 6, 8]
    assert table(tmp_path / "run")[-1:] == table(undisturbed)


def test_tensorboard_shows_the_table_bin_by_bin(tiny, tmp_path, manifest):
    run(looking(tiny), "sit", tmp_path / "run", manifest, until=8)
    rows = table(tmp_path / "run")
    assert len(rows) == 4
    for column, name in enumerate(HELD_OUT_COLUMNS[1:], start=1):
        shown = values(tmp_path / "run/tensorboard", f"held_out/{name}")
        assert shown == pytest.approx({row[0]: row[column] for row in rows}), name


def test_the_loss_is_that_of_the_averaged_weights(manifest, undisturbed):
    backbone, _ = load_backbone(undisturbed / "checkpoints/8/ema.safetensors", CPU)
    arithmetic, accelerator = MixedPrecision("fp32", CPU), make_accelerator(on_gpu=False)
    loss = HeldOutLoss(LatentStore(manifest), recipe(held_out=20), arithmetic, accelerator)
    assert [*loss.row(8, backbone).values()] == table(undisturbed)[-1]


def test_a_stopped_training_resumes_with_its_table(tiny, tmp_path, manifest, undisturbed):
    path = looking(tiny)
    for _ in range(7):
        with pytest.raises(Interrupted):
            run(path, "vae-align", tmp_path / "run", manifest, until=8, stop=StopAt(0))
    run(path, "vae-align", tmp_path / "run", manifest, until=8)
    assert [row[0] for row in table(tmp_path / "run")] == [2, 4, 6, 8]
    assert table(tmp_path / "run")[-1:] == table(undisturbed)
    run(path, "vae-align", tmp_path / "run", manifest, until=4)  # a segment that is inserted later
    assert table(tmp_path / "run", 4) == table(tmp_path / "run")[:2]


def test_a_split_is_part_of_the_definition_and_how_often_is_not(tiny, manifest, undisturbed):
    run(looking(tiny), "vae-align", undisturbed, manifest, until=8)
    with pytest.raises(UserError, match=r"training\.held_out \(trained: 20, now: 21\)"):
        run(looking(tiny, **{"training.held_out": 21}), "vae-align", undisturbed, manifest, until=8)
