"""Methods of later papers: their losses against slow transcriptions, and their trainings.

The models of the formulas have random weights in float64.
"""

import math

import pytest
import torch
from torch.nn import functional

from selftrans.alignment.dispersive import Dispersive
from selftrans.alignment.method import Costs
from selftrans.alignment.repa import Repa
from selftrans.alignment.sra import Sra
from selftrans.alignment.vae_repa import VaeRepa
from selftrans.config import (
    BackboneConfig,
    ConfigError,
    TrainingConfig,
    load_experiment,
    run_definition,
)
from selftrans.evaluation.significance import least_p
from selftrans.flops import forward_flop
from selftrans.models.sit import SiT, patchify
from selftrans.runtime.errors import Interrupted
from tests.support.experiments import FURTHER_METHODS, TINY
from tests.support.random_models import randomise
from tests.support.terms import (
    TIMES,
    build,
    make_batch,
    mean_cosine,
    only_term,
    silu_mlp,
    tokens_of,
)
from tests.support.trainings import (
    StopAt,
    assert_close,
    assert_equal,
    command,
    everything,
    run,
)

# -- trainings by all of them at once


@pytest.mark.slow
def test_stopped_at_every_step_equals_undisturbed_bit_for_bit(tiny, tmp_path, manifest, encoder):
    path = tiny(runs={**TINY["runs"], **FURTHER_METHODS})
    run(path, "further", tmp_path / "whole", manifest, until=8, encoder=encoder)
    for _ in range(7):
        with pytest.raises(Interrupted):
            run(
                path, "further", tmp_path / "parts", manifest,
                until=8, encoder=encoder, stop=StopAt(0),
            )  # fmt: skip
    run(path, "further", tmp_path / "parts", manifest, until=8, encoder=encoder)
    assert_equal(everything(tmp_path / "parts", 8), everything(tmp_path / "whole", 8))


@pytest.mark.slow
def test_two_processes_equal_one(tiny, tmp_path, manifest, encoder):
    """The groups of the dispersive loss, too: the history of the loss is the same."""
    path = tiny(**{"runs": {**TINY["runs"], **FURTHER_METHODS}, "training.log_every": 1})
    run(path, "further", tmp_path / "one", manifest, until=8, encoder=encoder)
    options = ("--encoder", encoder, "--processes", 2)
    ended = command(path, "further", tmp_path / "two", manifest, 8, None, *options)
    assert ended.returncode == 0, ended.stderr
    assert_close(everything(tmp_path / "one", 8)[0], everything(tmp_path / "two", 8)[0])


# -- VAE-REPA


@pytest.mark.parametrize("normalization", ["none", "per-sample"])
def test_vae_repa_is_its_formula(shape, normalization):
    settings = VaeRepa(
        method="vae-repa", depth=2, projector_width=16, target_normalization=normalization
    )
    model, batch = build(shape, settings), make_batch()
    _, term, cosines = model(batch)
    head = only_term(model).heads["projector"]
    assert sum(isinstance(layer, torch.nn.Linear) for layer in head) == 5
    expected, similar = 0.0, []
    for i in range(len(TIMES)):
        prediction = silu_mlp(head, tokens_of(model.backbone, batch, i, 2))
        z = batch.z_BCHW[i]
        if normalization == "per-sample":
            deviation = ((z - z.sum() / 256).square().sum() / 255).sqrt()
            z = (z - z.sum() / 256) / (deviation + 1e-6)
        target = torch.empty(16, 16, dtype=torch.float64)
        for token in range(16):
            row, column = divmod(token, 4)
            square = z[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            target[token] = square.permute(1, 2, 0).reshape(16)
        away = (prediction - target).abs()
        huber = torch.where(away < 0.05, away.square() / (2 * 0.05), away - 0.05 / 2)
        expected += huber.mean()
        similar.append(mean_cosine(prediction, target))
    torch.testing.assert_close(term.double(), expected / len(TIMES), rtol=1e-6, atol=0)
    torch.testing.assert_close(cosines.double(), torch.stack(similar), rtol=1e-5, atol=1e-7)


def test_vae_repas_target_of_each_sample_has_mean_zero_and_spread_one(shape):
    """However the latents are scaled and shifted."""
    settings = VaeRepa(method="vae-repa", depth=2, target_normalization="per-sample")
    term, batch = only_term(build(shape, settings)), make_batch()
    target = term.guiding_features(batch, {})
    batch.z_BCHW.mul_(100).add_(7)
    torch.testing.assert_close(term.guiding_features(batch, {}), target, rtol=1e-5, atol=1e-5)
    spreads = target.std(dim=(1, 2))
    torch.testing.assert_close(spreads, torch.ones_like(spreads), rtol=1e-5, atol=0)
    plain = only_term(build(shape, VaeRepa(method="vae-repa", depth=2)))
    assert torch.equal(plain.guiding_features(batch, {}), patchify(batch.z_BCHW, shape))


def test_vae_repas_head_has_the_papers_size():
    """18 million parameters, and 4 % of the operations of SiT-XL/2 (its table 5, second-hand)."""
    xl2 = BackboneConfig.from_preset("SiT-XL/2")
    method = VaeRepa(method="vae-repa", depth=8)
    training = TrainingConfig(checkpoints=(100,))
    costs = Costs(xl2.hidden_size, 256, training, lambda _: 0.0, lambda _: 0.0)
    whole = 3 * forward_flop(xl2, (4, 32, 32))
    assert method.flop(costs) / whole == pytest.approx(0.04, abs=0.002)
    weights = method.flop(costs) / (3 * 2 * 256)
    assert weights == pytest.approx(18.5e6, rel=0.02)


# -- iREPA


class Stored:
    """A stand-in for the feature store by which the heads are built."""

    grid_size, hidden_size, name, stand_in = 4, 24, "encoder", False


IREPA = Repa(
    method="repa", encoder="encoder", depth=2, weight=1.0, projector="convolution",
    target_normalization="over-tokens",
)  # fmt: skip


def test_irepa_is_its_formula(shape):
    """The convolution summed over nine neighbours by hand, the statistics feature by feature."""
    model = build(shape, IREPA, encoders={"encoder": Stored()})
    tokens = 5 + 3 * torch.randn(len(TIMES), 16, 24, dtype=torch.float64)
    batch = make_batch(encoder_features={"encoder": tokens})
    _, term, cosines = model(batch)
    convolution = only_term(model).heads["projector"].convolution
    similar = []
    for i in range(len(TIMES)):
        student = tokens_of(model.backbone, batch, i, 2)
        prediction = convolution.bias.repeat(16, 1)
        for token in range(16):
            for row in range(3):
                for column in range(3):
                    there = (token // 4 + row - 1, token % 4 + column - 1)
                    if min(there) >= 0 and max(there) <= 3:
                        weight = convolution.weight[:, :, row, column]
                        prediction[token] = (
                            prediction[token] + weight @ student[4 * there[0] + there[1]]
                        )
        target = torch.empty(16, 24, dtype=torch.float64)
        for feature in range(24):
            values = tokens[i, :, feature]
            mean = values.sum() / 16
            deviation = ((values - mean).square().sum() / 15).sqrt()
            target[:, feature] = (values - 0.6 * mean) / (deviation + 1e-6)
        similar.append(mean_cosine(prediction, target))
    torch.testing.assert_close(cosines.double(), torch.stack(similar), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(term.double(), -sum(similar) / len(TIMES), rtol=1e-5, atol=1e-6)


def test_irepas_target_forgets_the_scale_of_each_feature(shape):
    """And with the whole mean subtracted its offset, too; in half precision as it is stored."""
    settings = IREPA.model_copy(update={"subtracted_mean": 1.0})
    term = only_term(build(shape, settings, encoders={"encoder": Stored()}))
    tokens, scale = torch.randn(6, 16, 24), torch.rand(24) + 1
    changed = scale * tokens + torch.randn(6, 1, 24)
    plain, other = (
        term.guiding_features(make_batch(encoder_features={"encoder": one}), {})
        for one in (tokens, changed)
    )
    torch.testing.assert_close(other, plain, rtol=1e-4, atol=1e-4)
    half = make_batch(encoder_features={"encoder": tokens.half()})
    torch.testing.assert_close(term.guiding_features(half, {}), plain, rtol=1e-2, atol=1e-2)


# -- Dispersive loss


DISPERSIVE = Dispersive(method="dispersive", depth=2, group_size=3, temperature=0.7)


def test_dispersive_is_its_formula(shape):
    """Two groups of three samples; nothing is followed, so no cosine is logged."""
    model, batch = build(shape, DISPERSIVE), make_batch()
    _, term, cosines = model(batch)
    assert not len(cosines)
    z = [tokens_of(model.backbone, batch, i, 2).flatten() for i in range(len(TIMES))]
    groups = []
    for group in ((0, 1, 2), (3, 4, 5)):
        total = 0.0
        for i in group:
            for j in group:
                distance = (z[i] - z[j]).square().sum() / (16 * 32)
                total += torch.exp(-distance / 0.7) / 9
        groups.append(torch.log(total))
    torch.testing.assert_close(term.double(), 0.5 * sum(groups) / 2, rtol=1e-5, atol=1e-7)
    assert 0 > term.item() > -0.5 * math.log(3)  # between all in one place and all far apart


def test_dispersive_is_what_the_published_lines_compute(shape):
    """DispLoss, README, on a batch that is one group; with its gradient."""
    torch.manual_seed(0)
    ours = torch.randn(5, 16, 32, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    settings = DISPERSIVE.model_copy(update={"group_size": 5, "temperature": 1.0})
    term = only_term(build(shape, settings).float())
    loss = settings.compute_loss(term, make_batch(), {2: ours}).loss
    flat = theirs.reshape(5, -1)
    pairs = functional.pdist(flat).pow(2) / flat.shape[1]
    expected = torch.log(torch.exp(-torch.cat([pairs, pairs, torch.zeros(5)])).mean())
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_gradient_of_dispersive_is_exact_for_as_many_elements_as_b2_has(shape):
    """On a CPU, the terms of a distance of 196,608 elements, one by one, lose four digits."""
    settings = DISPERSIVE.model_copy(update={"group_size": 4, "temperature": 0.5})
    term = only_term(build(shape, settings).float())
    tokens = torch.randn(4, 256, 768, requires_grad=True)
    (found,) = torch.autograd.grad(
        settings.compute_loss(term, make_batch(), {2: tokens}).loss, tokens
    )
    exact = tokens.detach().double().requires_grad_()
    distances = (exact[:, None] - exact[None]).square().mean((2, 3)) / 0.5
    (expected,) = torch.autograd.grad(torch.exp(-distances).mean().log(), exact)
    assert (found - expected).norm() < 2e-6 * expected.norm()


def test_dispersive_of_a_batch_is_the_mean_of_its_parts(shape):
    """Parts of whole groups, as processes and accumulation make them."""
    term = only_term(build(shape, DISPERSIVE))
    batch, tokens = make_batch(), torch.randn(12, 16, 32)
    whole = term(batch, {2: tokens}).loss
    parts = [term(batch, {2: part}).loss for part in tokens.split((3, 9))]
    torch.testing.assert_close(whole, (parts[0] + 3 * parts[1]) / 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"runs.dispersive.alignment.group_size": 5},
            "5 does not divide the 8 samples",
        ),
        ({"training.accumulate": 4}, "4 does not divide the 2 samples"),
    ],
)
def test_groups_that_no_micro_batch_holds_are_one_line(tiny, changes, message):
    runs = {"sit": {}, "dispersive": FURTHER_METHODS["dispersive"]}
    with pytest.raises(ConfigError, match=f"alignment.group_size: {message}") as refused:
        load_experiment(tiny(runs=runs, **changes))
    assert "\n" not in str(refused.value)


def test_groups_that_no_process_holds_are_one_line(tiny):
    runs = {**TINY["runs"], "dispersive": FURTHER_METHODS["dispersive"]}
    dispersive = load_experiment(tiny(runs=runs)).runs["dispersive"]
    dispersive.check_processes(2, "here")
    message = "here: alignment 'dispersive': group_size: 4 does not divide the 2 samples"
    with pytest.raises(ConfigError, match=message):
        dispersive.check_processes(4, "here")


# -- SRA, where features grow


class Magnified(torch.nn.Module):
    """Features times a factor: a model's, or those that a head is given."""

    def __init__(self, factor, model=None):
        super().__init__()
        self.factor, self.model = factor, model

    def features(self, *given):
        return {depth: self.factor * x for depth, x in self.model.features(*given).items()}

    def forward(self, x):
        return self.factor * x


@pytest.mark.parametrize("loss", ["smooth-l1", "cosine", "cosine-over-tokens"])
def test_sras_smooth_l1_grows_with_the_features_and_its_cosine_does_not(shape, loss):
    """Ten times the features of both networks: the distance is ten times as large, without bound.

    The cosine, which the authors advise since smooth L1 was seen to diverge (their issue 7), stays,
    and does not pull at how large the student's features are.
    """
    settings = Sra(method="sra", student_depth=2, teacher_depth=3, loss=loss)
    model, batch = build(shape, settings), make_batch()
    average = randomise(SiT(shape).double(), seed=7).requires_grad_(False).eval()
    features = model.backbone.features(batch.x_BCHW, batch.t_B, batch.condition_B, (2,))
    tokens = {2: features[2].detach()}
    term, values, pulls = only_term(model), [], []
    for factor in (1.0, 10.0):
        scale = torch.tensor(factor, dtype=torch.float64, requires_grad=True)
        term.heads["projector"] = Magnified(scale)
        term.set_ema_model(Magnified(factor, average))
        value = term(batch, tokens).loss
        (pull,) = torch.autograd.grad(value, scale)
        values.append(value.item())
        pulls.append(abs(pull.item()))
    if loss == "smooth-l1":
        assert 9.9 < values[1] / values[0] < 11
        assert min(pulls) > 1e-2
    else:
        assert values[1] == pytest.approx(values[0], rel=1e-5)
        assert max(pulls) < 1e-6


# -- the arms


@pytest.mark.parametrize("name", ["digits-methods", "scenes-methods"])
def test_the_further_arms_leave_those_of_the_comparison_as_they_are(name):
    """So their runs are not trained again."""
    before, more = load_experiment(name), load_experiment(f"{name}-more")
    assert set(more.seeds) <= set(before.seeds)
    for run_name in before.runs:
        for seed in more.seeds:
            known = run_definition(before, run_name, seed)
            assert run_definition(more, run_name, seed) == known
    added = [run for name, run in more.runs.items() if name not in before.runs]
    assert len(added) == 6
    tuned = {} if more.tuned is None else {"learning_rate": 0.0}
    recipes = {(run.model, run.training.model_copy(update=tuned)) for run in more.runs.values()}
    assert len(recipes) == 1


def test_the_arms_on_scenes_are_those_on_digits():
    """With the same blocks, in shorter trainings of smaller networks."""
    scaled = {"projector_width", "stop_after", "teacher"}
    digits, scenes = (load_experiment(f"{name}-methods-more").runs for name in ("digits", "scenes"))
    for name, arm in digits.items():
        alignment = arm.alignment.model_dump(exclude=scaled)
        assert scenes[name].alignment.model_dump(exclude=scaled) == alignment
    assert {name.removesuffix("-released") for name in scenes} == digits.keys()
    samplers = [
        load_experiment(f"{name}-methods-more").evaluation.samplers["ode-internal"]
        for name in ("digits", "scenes")
    ]
    kept = {"num_steps", "num_samples"}
    assert samplers[0].model_dump(exclude=kept) == samplers[1].model_dump(exclude=kept)


def test_the_family_on_scenes_can_pass_its_correction():
    experiment = load_experiment("scenes-methods")
    family = experiment.planned_comparisons
    assert len(family) * least_p(len(experiment.seeds)) < 0.05 < len(family) * least_p(8)
    assert not load_experiment("scenes-methods-more").planned_comparisons
    assert len(experiment.runs["sit"].training.checkpoints) == 10
