"""Everything random in a training step is a function of (seed, step, position) alone.

The number of processes changes nothing.
"""

import numpy as np
import pytest
import torch

from selftrans.config import TrainingConfig
from selftrans.data.store import LatentStore
from selftrans.runtime.random import Stream, generator
from selftrans.runtime.workers import Shard
from selftrans.training.batches import BatchSource, local_batch_slices


def training(**changes):
    return TrainingConfig(checkpoints=(100,), batch_size=16, **changes)


@pytest.fixture
def store(manifest):
    return LatentStore(manifest)


def test_a_share_is_the_same_part_of_the_whole(store):
    source = BatchSource(store, training(), seed=3)
    whole = source.draw(5, range(16))
    for processes, accumulate in ((1, 1), (2, 1), (2, 2), (4, 2)):
        shares = [
            source.draw(5, part)
            for rank in range(processes)
            for part in local_batch_slices(16, processes, accumulate, rank)
        ]
        for name, value in vars(whole).items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(torch.cat([getattr(share, name) for share in shares]), value), (
                    name
                )


def test_steps_and_seeds_differ(store):
    first = BatchSource(store, training(), seed=3).draw(5, range(16))
    for seed, step in ((3, 6), (4, 5)):
        other = BatchSource(store, training(), seed=seed).draw(step, range(16))
        assert not torch.equal(first.t_B, other.t_B)
        assert not torch.allclose(first.velocity_BCHW, other.velocity_BCHW)


def test_an_epoch_visits_every_image_once_and_epochs_differ(store):
    source = BatchSource(store, training(), seed=0)
    visited = np.concatenate(
        [source.indices(step, range(16)) for step in range(25)]
    )  # 400 = 2 epochs of 200
    assert sorted(visited[:200]) == list(range(200))
    assert sorted(visited[200:]) == list(range(200))
    assert not np.array_equal(visited[:200], visited[200:])


def test_labels_are_dropped_at_the_given_rate_and_never_for_the_teacher(store):
    source = BatchSource(store, training(label_dropout=0.1), seed=0)
    batches = [source.draw(step, range(16)) for step in range(400)]
    dropped = torch.cat([batch.dropped_condition_B for batch in batches])
    labels = torch.cat([batch.condition_B for batch in batches])
    rate = (dropped == 10).double().mean().item()
    assert abs(rate - 0.1) < 4 * (0.1 * 0.9 / 6400) ** 0.5
    assert (labels < 10).all()
    assert torch.equal(dropped[dropped < 10], labels[dropped < 10])


@pytest.mark.parametrize(("rate", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_dropout_at_its_ends(store, rate, share):
    batch = BatchSource(store, training(label_dropout=rate), seed=0).draw(0, range(16))
    assert (batch.dropped_condition_B == 10).double().mean().item() == share


def test_latents_are_scaled_posterior_samples(store):
    """Over many visits: mean (mean - shift) scale, standard deviation std scale."""
    noise = np.random.default_rng(0).standard_normal((4000, 4, 8, 8)).astype(np.float32)
    sampled = store.latents(np.full(4000, 7), noise)
    moments = store.moments(np.array([7]))[0]
    np.testing.assert_allclose(sampled.mean(0), (moments[0] - 0.1) * 0.5, atol=0.02)
    np.testing.assert_allclose(sampled.std(0), moments[1] * 0.5, atol=0.01)


def test_time_is_uniform(store):
    source = BatchSource(store, training(), seed=1)
    times = torch.cat([source.draw(step, range(16)).t_B for step in range(200)])
    counts = torch.histc(times, bins=10, min=0, max=1)
    assert ((counts - 320).abs() < 5 * 17).all()


@pytest.mark.parametrize(
    ("batch_size", "processes", "accumulate"), [(8, 1, 1), (8, 2, 2), (24, 3, 4), (256, 8, 2)]
)
def test_shares_cover_the_global_batch_once(batch_size, processes, accumulate):
    shares = [
        local_batch_slices(batch_size, processes, accumulate, rank) for rank in range(processes)
    ]
    assert all(len(share) == accumulate for share in shares)
    assert {len(part) for share in shares for part in share} == {
        batch_size // processes // accumulate
    }
    assert [position for share in shares for part in share for position in part] == list(
        range(batch_size)
    )


@pytest.mark.parametrize("count", [0, 1, 7, 50_000])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_shards_cover_the_work_once_and_evenly(count, world_size):
    spans = [Shard(rank, world_size).span(count) for rank in range(world_size)]
    assert [item for span in spans for item in span] == list(range(count))
    assert max(map(len, spans)) - min(map(len, spans)) <= 1
    assert Shard.parse(f"{world_size - 1}/{world_size}").span(count) == spans[-1]
    assert Shard.all().span(count) == range(count)


@pytest.mark.parametrize("position", [0, 5, 15])
def test_the_parts_of_a_sample_are_independent(store, position):
    """Noise, posterior noise and time of many steps: no two of them are correlated."""
    source = BatchSource(store, training(), seed=2)
    part = range(position, position + 1)
    batches = [source.draw(step, part) for step in range(40)]
    eps = torch.cat([batch.eps_BCHW.flatten() for batch in batches])
    z = torch.cat([batch.z_BCHW.flatten() for batch in batches])
    moments = [store.moments(source.indices(step, part))[0] for step in range(40)]
    mean, std = (np.stack([one[which] for one in moments]).ravel() for which in (0, 1))
    posterior = (z.numpy() / 0.5 + 0.1 - mean) / std
    assert abs(np.corrcoef(eps.numpy(), posterior)[0, 1]) < 5 / np.sqrt(len(eps))
    assert posterior.std() == pytest.approx(1, abs=0.05)
    assert eps.std().item() == pytest.approx(1, abs=0.05)


def test_a_block_of_draws_depends_on_each_of_its_four_numbers():
    """Also where two of them change places, and where one is beyond 32 bits."""
    numbers = [0, 1, 2, 2**32, 2**63]
    blocks = {
        (seed, stream, major, minor): tuple(generator(seed, stream, major, minor).bytes(16))
        for seed in numbers for stream in (Stream.BATCH, Stream.SAMPLE)
        for major in numbers for minor in numbers
    }  # fmt: skip
    assert len(set(blocks.values())) == len(blocks)


def test_random_streams_never_meet():
    draws = {
        (seed, stream, major, minor): generator(seed, stream, major, minor).integers(2**63)
        for seed in (0, 1, 2**40) for stream in Stream for major in (0, 1) for minor in (0, 1)
    }  # fmt: skip
    assert len(set(draws.values())) == len(draws)


def test_normal_numbers_of_neighbouring_positions_are_uncorrelated():
    sampled = np.stack(
        [generator(0, Stream.BATCH, 3, position).standard_normal(4096) for position in range(20)]
    )
    correlations = np.corrcoef(sampled)[~np.eye(20, dtype=bool)]
    assert np.abs(correlations).max() < 5 / np.sqrt(4096)
