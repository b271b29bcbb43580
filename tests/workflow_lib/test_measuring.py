"""What this machine reaches, and what trainings take by that."""

import pytest

from selftrans.flops import backbone_flop
from selftrans.runtime.errors import UserError
from tests.support.studies import IMPORTED
from workflow.lib import measuring
from workflow.lib.measuring import Rate, longest_chain, measure, measured_report, training_minutes

STUDENT = ("vae-align", "self-transcendence")
"""A teacher of half of its own steps, and who waits for it."""


def rate(**changes):
    given = {"run": "sit", "device": "the CPU", "images": 8, "cards": 1, "seconds": 0.25}
    return Rate(**{**given, "tflops": 1.0, **changes})


@pytest.mark.slow
@pytest.mark.parametrize(("cards", "images"), [(0, 4), (2, 2)])
def test_the_largest_backbone_is_measured_on_a_cards_share_of_its_micro_batch(
    make_study, monkeypatch, cards, images
):
    monkeypatch.setattr(measuring, "SECONDS", 0.0)
    changes = {"runs.large": {"model": {"depth": 6}}, "training.accumulate": 2}
    study = make_study(changes, resources={"train": {"gpu": cards}})
    experiment = study.experiments["tiny"]
    found = measure(study, experiment, "cpu")
    assert (found.run, found.device) == ("large", "the CPU")
    assert (found.images, found.cards) == (images, max(cards, 1))
    step = 3 * images * backbone_flop(experiment.runs["large"].model, experiment.data)
    assert found.tflops * 1e12 * found.seconds == pytest.approx(step)


def test_an_experiment_that_trains_nothing_is_not_measured(make_study):
    imported = {"runs": {"public": {"imported": IMPORTED}}, "figures.sample_checkpoints": [5]}
    study = make_study(imported)
    with pytest.raises(UserError, match="--measure: experiment 'tiny' trains nothing"):
        measure(study, study.experiments["tiny"], "cpu")


def test_a_training_takes_three_passes_for_each_image_of_every_step(make_study):
    experiment = (study := make_study()).experiments["tiny"]
    minutes = training_minutes(study, 1e-3)
    flop = 8 * 8 * 3 * backbone_flop(experiment.runs["sit"].model, experiment.data)
    assert minutes["tiny", "sit"] == pytest.approx(flop / 1e9 / 60)
    assert all(minutes["tiny", run] > minutes["tiny", "sit"] for run in STUDENT)


@pytest.mark.parametrize(
    ("sit", "chain"), [(11.0, ([*STUDENT], 6.0 / 2 + 9.0)), (13.0, (["sit"], 13.0))]
)
def test_the_longest_chain_counts_a_teacher_up_to_the_step_that_is_frozen(make_study, sit, chain):
    minutes = {"sit": sit, "vae-align": 6.0, "self-transcendence": 9.0}
    owned = {("tiny", run): taken for run, taken in minutes.items()}
    assert longest_chain(make_study(), owned) == chain


def test_the_report_says_what_all_seeds_take_on_all_cards(make_study):
    study = make_study({"seeds": [0, 1, 2]})
    minutes = training_minutes(study, 2.0)
    hourly = 2.0 * sum(minutes.values()) / 60  # TFLOP/s at which the runs of a seed take an hour
    first, total, chain = measured_report(study, rate(cards=4, tflops=hourly / 4)).splitlines()
    assert first.startswith("Measured on the CPU: 250 ms for 8 images of sit, ")
    assert first.endswith(" TFLOP/s. The experiment trains on 4 such cards.")
    assert total == "Trainings one after another: 3.0 hours."
    waited = minutes["tiny", "vae-align"] / 2 + minutes["tiny", "self-transcendence"]
    share = waited / sum(minutes.values())
    assert chain == (
        f"Longest chain: vae-align, then self-transcendence: {60 * share:,.1f} minutes."
    )
