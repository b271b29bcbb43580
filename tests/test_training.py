"""The trainer: exact resume, segments, protection of what was trained, several processes."""

import json
import shutil
import socket

import pytest
import torch

from selftrans.config import load_experiment
from selftrans.runtime.errors import Interrupted, UserError
from selftrans.runtime.files import sha256_of
from selftrans.runtime.headers import read_metadata
from selftrans.runtime.tensors import load_tensors, save_tensors
from selftrans.training import precision
from selftrans.training.freeze import freeze_teacher
from selftrans.training.precision import MixedPrecision, resolve_precision
from selftrans.training.progress import HISTORY_COLUMNS
from selftrans.training.state import StateDirectory
from tests.support.experiments import EVERY_METHOD, OTHER_METHODS, TINY
from tests.support.stores import write_store
from tests.support.trainings import ARMS, StopAt, assert_equal, command_here, everything, run


@pytest.mark.slow
@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize(
    "changes", [{}, {"training.accumulate": 2}, {"training.precision": "bf16"}]
)
def test_stopped_at_every_step_equals_undisturbed_bit_for_bit(
    tiny, tmp_path, manifest, teacher, arm, changes
):
    path = tiny(**changes)
    run(path, arm, tmp_path / "whole", manifest, until=8, teacher=teacher)
    for _ in range(
        7
    ):  # each attempt goes one step further: within a logging interval, at its end, at a checkpoint
        with pytest.raises(Interrupted, match="rerun the same command to resume"):
            run(path, arm, tmp_path / "parts", manifest, until=8, teacher=teacher, stop=StopAt(0))
    run(path, arm, tmp_path / "parts", manifest, until=8, teacher=teacher)
    assert_equal(everything(tmp_path / "parts", 8), everything(tmp_path / "whole", 8))
    for name in ("ema.safetensors", "raw.safetensors", "history.csv"):
        files = [tmp_path / which / "checkpoints/8" / name for which in ("parts", "whole")]
        assert files[0].read_bytes() == files[1].read_bytes(), name


@pytest.mark.slow
def test_fp16_leaves_out_steps_whose_scaled_gradient_overflows_and_resumes_with_its_scale(
    tiny, tmp_path, manifest
):
    """A heavy term makes the scaled gradients overflow at first.

    No NaN is reported, and the scale falls until they no longer overflow.
    """
    guidance = {"method": "vae-alignment", "depth": 1, "projector_width": 16, "weight": 1e2}
    path = tiny(
        **{
            "training.precision": "fp16",
            "runs": {"heavy": {"alignment": guidance}},
            "training.log_every": 1,
        }
    )
    run(path, "heavy", tmp_path / "whole", manifest, until=8)
    tensors, metadata = load_tensors(tmp_path / "whole/state/step-00000008.safetensors", "state")
    assert 1 <= metadata["scaler"]["scale"] < 65536
    norms = tensors["history"][:, HISTORY_COLUMNS.index("gradient_norm")]
    left_out = norms == 0
    assert left_out[0]
    assert not left_out[-1]
    moved = [tensors["optimizer.backbone.blocks.0.mlp.fc1.weight.step"].item()]
    assert moved == [int((~left_out).sum())]  # Adam counts the steps that were taken
    for _ in range(7):
        with pytest.raises(Interrupted):
            run(path, "heavy", tmp_path / "parts", manifest, until=8, stop=StopAt(0))
    run(path, "heavy", tmp_path / "parts", manifest, until=8)
    assert_equal(everything(tmp_path / "parts", 8), everything(tmp_path / "whole", 8))
    resumed = load_tensors(tmp_path / "parts/state/step-00000008.safetensors", "state")[1]
    assert resumed["scaler"] == metadata["scaler"]


@pytest.mark.slow
def test_a_gradient_that_overflows_at_every_scale_is_reported(tiny, tmp_path, manifest):
    guidance = {"method": "vae-alignment", "depth": 1, "projector_width": 16, "weight": 1e15}
    path = tiny(
        **{
            "training.precision": "fp16",
            "training.checkpoints": [8, 40],
            "figures.sample_checkpoints": [8],
            "runs": {"hopeless": {"alignment": guidance}},
        }
    )
    with pytest.raises(
        UserError, match=r"not finite at step 1[78];"
    ):  # 65536 halved to below 1, one batch without a term
        run(path, "hopeless", tmp_path / "run", manifest, until=40)


@pytest.mark.slow
@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize(("name", "tolerance"), [("bf16", 2e-2), ("fp16", 3e-3)])
def test_low_precision_trains_like_fp32(tiny, tmp_path, manifest, teacher, arm, name, tolerance):
    run(tiny(), arm, tmp_path / "fp32", manifest, until=8, teacher=teacher)
    run(
        tiny(**{"training.precision": name}),
        arm,
        tmp_path / name,
        manifest,
        until=8,
        teacher=teacher,
    )
    expected, found = everything(tmp_path / "fp32", 8)[0], everything(tmp_path / name, 8)[0]
    assert found["model.backbone.blocks.0.mlp.fc1.weight"].dtype == torch.float32
    assert not torch.equal(found["history"], expected["history"])
    torch.testing.assert_close(
        found["history"], expected["history"], rtol=tolerance, atol=1e-3, equal_nan=True
    )


@pytest.mark.slow
def test_the_precision_that_auto_comes_to_is_part_of_the_definition(tiny, tmp_path, manifest):
    run(tiny(), "sit", tmp_path / "run", manifest, until=4)
    run(
        tiny(**{"training.precision": "fp32"}), "sit", tmp_path / "run", manifest, until=8
    )  # what auto was
    with pytest.raises(UserError, match=r"precision \(trained: fp32, now: bf16\)"):
        run(tiny(**{"training.precision": "bf16"}), "sit", tmp_path / "run", manifest, until=8)


@pytest.mark.parametrize(
    ("chosen", "width", "instructions", "expected"),
    [
        ("auto", 96, True, "fp32"),
        ("auto", 384, True, "bf16"),
        ("auto", 384, False, "fp32"),
        ("bf16", 96, False, "bf16"),
        ("fp16", 768, True, "fp16"),
    ],
)
def test_auto_is_bf16_where_it_pays(tiny, monkeypatch, chosen, width, instructions, expected):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: instructions)
    training = load_experiment(tiny(**{"training.precision": chosen})).training
    assert resolve_precision(training, width, torch.device("cpu")) == expected


def test_left_out_steps_move_nothing():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    arithmetic = MixedPrecision("fp16", torch.device("cpu"))
    for gradient, left_out in ((float("inf"), True), (float("nan"), True), (1.0, False)):
        arithmetic.scaler.scale(torch.ones(()))  # the scaler wants to have scaled a loss
        weight.grad = torch.full((3,), gradient)
        arithmetic.scaler.unscale_(optimizer)
        before = weight.detach().clone()
        assert arithmetic.step(optimizer) is left_out
        assert torch.equal(weight, before) is left_out
    assert arithmetic.scaler.get_scale() == 65536 / 4


@pytest.mark.parametrize(
    "arm", ["sit", *(pytest.param(arm, marks=pytest.mark.slow) for arm in ARMS[1:])]
)
def test_segments_equal_one_piece_also_when_one_is_inserted_later(
    tiny, tmp_path, manifest, teacher, arm
):
    path = tiny()
    run(path, arm, tmp_path / "whole", manifest, until=8, teacher=teacher)
    for until in (4, 8, 6):
        run(path, arm, tmp_path / "parts", manifest, until=until, teacher=teacher)
    assert_equal(everything(tmp_path / "parts", 8), everything(tmp_path / "whole", 8))
    run(path, arm, tmp_path / "to six", manifest, until=6, teacher=teacher)
    assert_equal(everything(tmp_path / "parts", 6), everything(tmp_path / "to six", 6))


@pytest.mark.slow
def test_a_finished_segment_is_exported_again_without_training(tiny, tmp_path, manifest):
    run(tiny(), "sit", tmp_path / "run", manifest, until=4)
    weights = tmp_path / "run/checkpoints/4/ema.safetensors"
    before = weights.read_bytes()
    weights.unlink()
    run(
        tiny(), "sit", tmp_path / "run", manifest, until=4, stop=StopAt(0)
    )  # would leave at its first step
    assert weights.read_bytes() == before


@pytest.mark.slow
def test_a_damaged_state_is_passed_over_for_the_one_before(tiny, tmp_path, manifest):
    run(tiny(), "sit", tmp_path / "whole", manifest, until=8)
    run(tiny(), "sit", tmp_path / "run", manifest, until=4)
    newer = tmp_path / "run/state/step-00000006.safetensors"
    whole = (tmp_path / "run/state/step-00000004.safetensors").read_bytes()
    for content in (whole[:-100], whole[:-100] + bytes(100), b"", b"{}"):
        newer.write_bytes(content)
        run(tiny(), "sit", tmp_path / "run", manifest, until=8)
        assert_equal(everything(tmp_path / "run", 8), everything(tmp_path / "whole", 8))
        (tmp_path / "run/state/step-00000008.safetensors").unlink()


def test_a_state_of_another_definition_is_refused(tmp_path):
    StateDirectory(tmp_path, "a").save(3, {"x": torch.ones(2)}, {"seconds": 1.0, "scaler": {}})
    with pytest.raises(
        UserError, match=r"step-00000003\.safetensors: belongs to a run of another definition"
    ):
        StateDirectory(tmp_path, "b").load_newest(5)


def test_a_state_of_the_former_layout_is_passed_over(tmp_path):
    states = StateDirectory(tmp_path, "a")
    tensors = {"x": torch.ones(2)}
    states.save(3, tensors, {"seconds": 1.0, "scaler": {}})
    former = {"step": 5, "fingerprint": "a", "seconds": 1.0, "scaler": {}}
    save_tensors(tmp_path / "step-00000005.safetensors", tensors, "state", former)
    assert states.load_newest(9)[0] == 3


def test_states_are_pruned_to_the_newest_two_and_the_milestones(tmp_path):
    states = StateDirectory(tmp_path, "a")
    for step in (10, 20, 30, 40, 50, 90):
        states.save(step, {"x": torch.ones(2)}, {"seconds": 1.0, "scaler": {}})
    states.prune(50, {20})
    assert states.steps() == [20, 40, 50, 90]  # what lies beyond belongs to a later segment
    assert states.load_newest(45)[0] == 40


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"training.learning_rate": 2e-3}, ["training.learning_rate (trained: 0.001, now: 0.002)"]),
        ({"model.depth": 5, "training.batch_size": 4}, ["model.depth", "training.batch_size"]),
        (
            {"runs.sit": {"alignment": {"method": "vae-alignment", "depth": 1}}},
            ["alignment (trained: [], now: [{"],
        ),
    ],
)
def test_another_definition_is_refused_with_its_keys(tiny, tmp_path, manifest, changes, keys):
    run(tiny(), "sit", tmp_path / "run", manifest, until=4)
    with pytest.raises(UserError, match="another definition") as caught:
        run(tiny(**changes), "sit", tmp_path / "run", manifest, until=8)
    assert all(key in str(caught.value) for key in keys)
    assert "rm -r" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_what_changes_no_number_is_no_other_definition(tiny, tmp_path, manifest):
    run(tiny(), "sit", tmp_path / "run", manifest, until=4)
    changes = {
        "training.checkpoints": [4, 6, 8],
        "training.log_every": 3,
        "training.save_minutes": 1.0,
    }
    run(tiny(**changes), "sit", tmp_path / "run", manifest, until=6)


@pytest.mark.slow
def test_other_latents_are_another_definition(tiny, tmp_path, manifest):
    from tests.support.stores import write_store

    run(tiny(), "sit", tmp_path / "run", manifest, until=4)
    with pytest.raises(UserError, match=r"inputs\.latents"):
        run(tiny(), "sit", tmp_path / "run", write_store(tmp_path / "other", seed=5), until=8)


def test_all_arms_start_from_the_same_backbone(tiny, manifest, teacher):
    from selftrans.data.store import LatentStore
    from selftrans.models.weights import load_teacher
    from selftrans.training.inputs import Inputs
    from selftrans.training.model import build_model

    experiment, store = load_experiment(tiny()), LatentStore(manifest)
    trunk, _ = load_teacher(teacher, torch.device("cpu"))
    inputs = Inputs(teachers={"self-transcendence": trunk})
    fresh = [build_model(experiment, arm, store, 0, inputs).backbone for arm in ARMS]
    for name, tensor in fresh[0].state_dict().items():
        assert all(torch.equal(tensor, other.state_dict()[name]) for other in fresh[1:]), name
    other_seed = build_model(experiment, "sit", store, 1).backbone
    assert not torch.equal(other_seed.blocks[0].mlp.fc1.weight, fresh[0].blocks[0].mlp.fc1.weight)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fp32", "fp16"])
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_good_state(
    tiny, tmp_path, manifest, monkeypatch, name
):
    path = tiny(**{"training.precision": name})
    run(path, "sit", tmp_path / "run", manifest, until=4)
    from selftrans.data.store import LatentStore

    draw = LatentStore.latents
    monkeypatch.setattr(
        LatentStore, "latents", lambda self, *given: draw(self, *given) * float("inf")
    )
    with pytest.raises(UserError, match="not finite at step 5; the last good state is kept"):
        run(path, "sit", tmp_path / "run", manifest, until=8)
    assert StateDirectory(tmp_path / "run/state", "").steps() == [4]
    assert not (tmp_path / "run/checkpoints/8").exists()


def test_a_head_without_a_term_does_not_move(tiny, tmp_path, manifest, teacher):
    """After stop_after neither a gradient nor Adam's momentum moves the projector."""
    path = tiny(**{"runs.self-transcendence.alignment.stop_after": 4})
    run(path, "self-transcendence", tmp_path / "run", manifest, until=4, teacher=teacher)
    run(path, "self-transcendence", tmp_path / "run", manifest, until=8, teacher=teacher)
    before, after = everything(tmp_path / "run", 4)[0], everything(tmp_path / "run", 8)[0]
    for name in before:
        if name.startswith("model.alignment."):
            assert torch.equal(before[name], after[name]), name
    assert not torch.equal(
        before["model.backbone.blocks.0.mlp.fc1.weight"],
        after["model.backbone.blocks.0.mlp.fc1.weight"],
    )


def test_ema_is_its_recursion(tiny, tmp_path, manifest):
    path = tiny(**{"training.checkpoints": [1, 2, 3, 4, 8], "training.log_every": 1})
    name = "blocks.0.mlp.fc1.weight"
    expected = None
    from selftrans.data.store import LatentStore
    from selftrans.training.model import build_model

    fresh = build_model(load_experiment(path), "sit", LatentStore(manifest), 0)
    expected = fresh.backbone.state_dict()[name].double()
    for step in (1, 2, 3, 4):
        run(path, "sit", tmp_path / "run", manifest, until=step)
        raw, _ = load_tensors(tmp_path / f"run/checkpoints/{step}/raw.safetensors", "weights")
        expected = 0.9 * expected + 0.1 * raw[name].double()
    ema, _ = load_tensors(tmp_path / "run/checkpoints/4/ema.safetensors", "weights")
    torch.testing.assert_close(ema[name].double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_a_data_set_of_one_class_trains_and_its_guidance_is_doubted(tiny, tmp_path, caplog):
    path, store = tiny(), write_store(tmp_path / "latents", classes=1)
    run(path, "vae-align", tmp_path / "stage 1", store, until=4)
    assert not caplog.records
    teacher = tmp_path / "teacher.safetensors"
    freeze_teacher(tmp_path / "stage 1/checkpoints/4/raw.safetensors", 3, teacher)
    run(path, "self-transcendence", tmp_path / "stage 2", store, until=4, teacher=teacher)
    assert "with one class f_c - f_u carries nothing" in caplog.text
    weights, _ = load_tensors(tmp_path / "stage 2/checkpoints/4/raw.safetensors", "weights")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    assert len(weights["y_embedder.embedding_table.weight"]) == 2


@pytest.mark.slow
def test_checkpoints_say_what_they_are(tiny, tmp_path, manifest):
    run(tiny(), "sit", tmp_path / "run", manifest, until=4)
    metadata = read_metadata(tmp_path / "run/checkpoints/4/ema.safetensors", "weights")
    assert (metadata["run"], metadata["seed"], metadata["step"], metadata["weights"]) == (
        "sit",
        0,
        4,
        "ema",
    )
    assert metadata["shape"]["latent_shape"] == [4, 8, 8]
    described = json.loads((tmp_path / "run/checkpoints/4/checkpoint.json").read_text())
    assert described["digests"]["ema"] == metadata["digest"]
    assert described["digests"]["history"] == sha256_of(tmp_path / "run/checkpoints/4/history.csv")
    machine = described["machine"]
    assert machine["host"] == socket.gethostname()
    assert machine["processor"]
    assert (machine["processes"], machine["gpus"], machine["gpu"]) == (1, 0, None)
    assert described["command"] == ""  # started by no command line
    state = read_metadata(tmp_path / "run/state/step-00000004.safetensors", "state")
    assert metadata["fingerprint"] == described["fingerprint"] == state["fingerprint"]


def test_command_line_errors_are_one_line(tiny, tmp_path, manifest):
    ended = command_here(tiny(), "nobody", tmp_path / "run", manifest, 4, None)
    assert ended.returncode == 1
    assert ended.stderr.strip() == (
        "error: --run: 'nobody' is not a run of the experiment "
        "(allowed: sit, vae-align, self-transcendence)"
    )
    ended = command_here(tiny(), "sit", tmp_path / "run", tmp_path / "none.json", 4, None)
    assert ended.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "none.json: no such file" in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["self-transcendence", "sra"])
def test_checkpointed_activations_are_the_same_training(tiny, tmp_path, manifest, teacher, arm):
    runs = {**TINY["runs"], **OTHER_METHODS}
    for name, changes in (
        ("plain", {}),
        ("recomputed", {"training.activation_checkpointing": True}),
    ):
        run(tiny(runs=runs, **changes), arm, tmp_path / name, manifest, until=4, teacher=teacher)
    assert_equal(everything(tmp_path / "plain", 4), everything(tmp_path / "recomputed", 4))


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU"
)
def test_compiled_training_is_the_same_training(tiny, tmp_path, manifest, teacher, features):
    """Every method at once: teachers, the moving average and all blocks that terms read."""
    runs = {**TINY["runs"], **EVERY_METHOD}
    inputs = {"teacher": teacher, "features": features}
    for name in ("plain", "compiled"):
        path = tiny(**{"training.compile": name == "compiled", "runs": runs})
        run(path, "every-method", tmp_path / name, manifest, until=4, **inputs)
    plain, compiled = (everything(tmp_path / name, 4)[0] for name in ("plain", "compiled"))
    assert plain.keys() == compiled.keys()
    torch.testing.assert_close(
        compiled["history"], plain["history"], rtol=1e-4, atol=1e-6, equal_nan=True
    )
