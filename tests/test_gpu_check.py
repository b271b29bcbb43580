"""Every check of ``selftrans check-gpu``, in miniature on the CPU: that it passes, and can fail."""

import json
import math
from dataclasses import replace

import pytest
import torch

from selftrans.config.alignment import METHODS
from selftrans.gpu_check import compilation, evaluation, measures, numerics, resume, stage_2
from selftrans.gpu_check import run as runner
from selftrans.gpu_check.cases import methods, random_batch, training_model
from selftrans.gpu_check.checks import Check, Finding, Group, NotRun, run_group, within
from selftrans.gpu_check.measures import is_out_of_memory, largest_that_fits
from selftrans.gpu_check.report import machine_name, record, write
from selftrans.gpu_check.run import GROUPS
from selftrans.gpu_check.sizes import Sizes, miniature
from selftrans.gpu_check.trainings import Trainings
from selftrans.gpu_check.workbench import Workbench
from selftrans.runtime.errors import UserError
from tests.support.programs import run_command

CPU = torch.device("cpu")
UNAVAILABLE = {"the card of this program": "this program has leased no card"}


@pytest.fixture
def bench(tmp_path):
    return Workbench(device=CPU, sizes=miniature(), directory=tmp_path / "files", processes=2)


def group_of(find, seconds=100.0):
    return Group("group", seconds, "none", lambda _: [Check("one", find)])


def only(outcomes):
    (outcome,) = outcomes
    return outcome


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS, ids=[group.name for group in GROUPS])
def test_every_check_runs_in_miniature(bench, group, monkeypatch, tmp_path):
    monkeypatch.setenv("SELFTRANS_CACHE", str(tmp_path))  # no published weights
    outcomes = list(run_group(group, bench))
    assert len({outcome.name for outcome in outcomes}) == len(outcomes) > 0
    for outcome in outcomes:
        assert outcome.status in ("passed", "measured", "not run"), outcome.line()
        if outcome.status == "not run":
            assert outcome.text == UNAVAILABLE[outcome.name]
        else:
            assert all(math.isfinite(value) for value in outcome.values.values()), outcome.line()
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(
    ("name", "attribute"), [("stage 2", "teacher"), ("SRA", "ema_model"), ("HASTE", "encoder")]
)
def test_what_a_method_follows_lies_on_the_compared_device(bench, monkeypatch, name, attribute):
    """It is no part of the trained module, which alone a module's ``to`` moves."""
    seen = []

    def compute(model, batch, arithmetic):
        (term,) = model.alignment.values()
        followed = getattr(term, attribute)
        network = followed.network if attribute == "encoder" else followed
        seen.append({one.device.type for one in network.parameters()})
        return numerics.Computed(*[torch.zeros(1)] * 5)

    monkeypatch.setattr(numerics, "random_batch", lambda *_, **__: None)
    monkeypatch.setattr(numerics, "compute", compute)
    monkeypatch.setattr(numerics, "relative", lambda *_: 0.0)
    model = bench.sizes.compared["SiT"]
    elsewhere = replace(bench, device=torch.device("meta"))
    numerics.Comparison(elsewhere, model, methods(model.depth, 16)[name]).find("fp32")
    assert seen == [{"cpu"}, {"meta"}]


def test_every_registered_method_is_compared():
    found = [method for method in methods(12, 64).values() if method]
    assert {method.method for method in found} == set(METHODS)
    assert {method.projector for method in found if method.method == "repa"} == {
        "mlp", "convolution"
    }  # fmt: skip


def test_the_budgets_of_one_card_fit_into_twenty_minutes():
    """With half a minute for what each group's last check may take beyond it."""
    groups = [group for group in GROUPS if group.name != "processes"]
    assert sum(group.seconds + 30 for group in groups) <= 20 * 60


# -- that a check fails where something is wrong


def test_another_gradient_fails(bench, monkeypatch):
    """The second of the two computations is of another batch."""
    seeds = iter(range(10))

    def another(*arguments, **options):
        return random_batch(*arguments, **options, seed=next(seeds))

    monkeypatch.setattr(
        numerics, "random_batch", lambda *a, **b: random_batch(*a, **b, seed=next(seeds))
    )
    model = bench.sizes.compared["SiT"]
    comparison = numerics.Comparison(bench, model, methods(4, 16)["stage 2"])
    found = comparison.find("fp32")
    assert found.passed is False
    assert min(found.values.values()) > 1e-3


def test_every_method_is_tried_with_deterministic_kernels_in_fp32(bench, monkeypatch):
    """As trainings take them by default: one that has none raises here and not there."""
    comparison = numerics.Comparison(bench, bench.sizes.compared["SiT"], methods(4, 16)["SRA"])
    seen, compute = [], numerics.compute

    def computed(*words):
        seen.append((words[2], torch.are_deterministic_algorithms_enabled()))
        return compute(*words)

    monkeypatch.setattr(numerics, "compute", computed)
    for arithmetic in ("fp32", "bf16"):
        comparison.find(arithmetic)
    assert seen[1:] == [("fp32", True), ("bf16", False)]  # the first is the CPU's
    assert not torch.are_deterministic_algorithms_enabled()


def test_bf16_is_not_taken_for_fp32(bench):
    model = bench.sizes.compared["SiT"]
    comparison = numerics.Comparison(bench, model, methods(4, 16)["REPA"])
    assert comparison.find("fp32").passed
    errors = comparison.find("bf16").values
    assert errors["velocity"] > 10 * numerics.tolerance("velocity", "fp32")
    assert errors["gradient"] > 10 * numerics.tolerance("gradient", "fp32")


def test_a_disturbed_state_is_not_the_same(bench, monkeypatch):
    trainings = Trainings(bench)
    states = iter([{"a": torch.zeros(3)}, {"a": torch.tensor([0.0, 1e-7, 0.0])}])
    monkeypatch.setattr(trainings, "train", lambda *_: None)
    monkeypatch.setattr(trainings, "interrupted", lambda *_, polls: "SIGTERM at step 3")
    monkeypatch.setattr(trainings, "state", lambda *_: next(states))
    found = resume.find_resumed(trainings, "stage-1")
    assert (found.passed, found.values) == (False, {"differing": 1.0})
    monkeypatch.setattr(trainings, "interrupted", lambda *_, polls: "")
    assert resume.find_resumed(trainings, "stage-1").passed is False


@pytest.mark.slow
def test_a_graph_that_is_compiled_later_fails(bench, monkeypatch):
    """Were the blocks to see the samples in range alone, whose number changes."""
    model = bench.sizes.timed["SiT"]
    resize = compilation.TrainingStep.resize

    def masked(self, size, in_range=None, seed=0):
        resize(self, size if in_range is None else 1 + in_range, in_range or 0, seed)

    monkeypatch.setattr(compilation.TrainingStep, "resize", masked)
    few = replace(bench, sizes=replace(bench.sizes, compile_steps=3))
    found = compilation.find_compiled(few, model)
    assert found.passed is False
    assert found.values["later graphs"] > 0


@pytest.mark.parametrize("name", ["stage 2", "stage 2, released mask"])
def test_another_loss_is_not_the_plain_arithmetics(bench, monkeypatch, name):
    ours = stage_2.our_loss
    monkeypatch.setattr(stage_2, "our_loss", lambda *a: ours(*a) * 1.001)
    model = bench.sizes.timed["SiT"]
    found = stage_2.find_stage_2(bench, model, name, "fp32")
    assert found.passed is False
    assert found.values["difference"] == pytest.approx(1e-3, rel=0.01)


@pytest.mark.slow
def test_features_of_other_pixels_fail(bench, monkeypatch, tmp_path):
    monkeypatch.setenv("SELFTRANS_CACHE", str(tmp_path))
    both = evaluation.Evaluation(bench)
    same = both.features(CPU)
    assert both.find_features().passed
    other = [one.__class__(features=one.features * 1.01, spatial=one.spatial) for one in same]
    for find in (both.find_features, both.find_distance):
        answers = iter([other, same])
        monkeypatch.setattr(both, "features", lambda _, answers=answers: next(answers))
        assert find().passed is False
    with pytest.raises(UserError, match="no such file"):
        evaluation.inception(
            Workbench(
                device=CPU, sizes=bench.sizes, directory=tmp_path, processes=1,
                inception=tmp_path / "none.pth",
            ),
            CPU,
        )  # fmt: skip


def test_a_difference_that_is_not_a_number_is_not_tolerated():
    assert within({"a": math.nan}, {"a": 1.0}).passed is False
    assert within({"a": 1.0}, {"a": 1.0}).passed is True


# -- how checks are run


def test_a_check_that_raises_is_named_and_the_others_are_made(bench):
    def raising():
        raise RuntimeError("out of\nluck")

    group = Group("group", 100, "none", lambda _: [
        Check("first", raising), Check("second", lambda: Finding("fine", {"a": 1.0}, passed=True)),
    ])  # fmt: skip
    first, second = run_group(group, bench)
    assert (first.status, first.text) == ("failed", "RuntimeError: out of luck")
    assert (second.status, second.values) == ("passed", {"a": 1.0})


def test_a_group_that_cannot_be_prepared_fails(bench):
    def unprepared(_):
        raise ImportError("no module")

    outcome = only(run_group(Group("group", 100, "none", unprepared), bench))
    assert (outcome.name, outcome.status) == ("preparation", "failed")


def test_what_cannot_be_made_here_says_why(bench):
    def impossible():
        raise NotRun("one card")

    outcome = only(run_group(group_of(impossible), bench))
    assert outcome.line() == "not run   group: one: one card"


def test_a_device_that_is_lost_ends_a_group_and_not_the_program(bench, monkeypatch):
    def gone(_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Workbench, "wait", gone)
    checks = [Check(name, lambda: Finding("fine", passed=True)) for name in ("first", "second")]
    first, second = run_group(Group("group", 100, "none", lambda _: checks), bench)
    assert (first.status, second.status) == ("passed", "not run")
    assert "lost to this process: CUDA error: an illegal memory access" in second.text


def test_no_later_group_fails_for_a_device_that_was_lost(bench, monkeypatch, tmp_path):
    gone = iter([False, True])

    def wait(_):
        if next(gone, True):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    fine = Check("one", lambda: Finding("fine", passed=True))
    groups = tuple(Group(name, 100, "none", lambda _: [fine]) for name in ("a", "b", "c"))
    monkeypatch.setattr(runner, "GROUPS", groups)
    monkeypatch.setattr(Workbench, "wait", wait)
    outcomes = runner.check_machine(tmp_path / "check.json", device="cpu")
    assert [outcome.status for outcome in outcomes] == ["passed", "not run", "not run"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("any"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("Triton Error [CUDA]: out of memory"), True),
        (RuntimeError("cuBLAS: CUBLAS_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
    ],
)
def test_all_ways_to_say_that_memory_did_not_suffice(error, expected):
    assert is_out_of_memory(error) is expected


def test_after_its_time_a_group_begins_nothing(bench):
    outcome = only(run_group(group_of(lambda: Finding("late"), seconds=-1.0), bench))
    assert (outcome.status, outcome.text) == ("not run", "the -1 s of this group are used up")


@pytest.mark.parametrize("memory", [0, 1, 2, 7, 8, 100, 1000])
def test_the_largest_batch_is_found_to_an_eighth_without_trying_much_larger_ones(memory):
    tried = []

    def fits(size):
        tried.append(size)
        return size <= memory

    found = largest_that_fits(fits, 256)
    assert found <= min(memory, 256)
    assert found >= min(memory, 256) * 7 / 8
    assert max(tried) <= max(2 * memory, 1)
    assert len(tried) <= 16


def test_a_batch_that_memory_does_not_suffice_for_does_not_fit(bench, monkeypatch):
    model = bench.sizes.timed["SiT"]
    call = measures.TrainingStep.__call__

    def limited(self):
        if len(self._batches[0].t_B) > 3:
            raise torch.OutOfMemoryError
        return call(self)

    monkeypatch.setattr(measures.TrainingStep, "__call__", limited)
    found = measures.Measures(bench).find_largest_batch(model).values
    assert found["images"] == 3
    assert found["images per second"] > 0


def test_weights_and_batches_do_not_depend_on_what_was_drawn_before(bench):
    model, sizes = bench.sizes.compared["SiT"], bench.sizes
    for fresh in (False, True):
        first = training_model(model, methods(4, 16)["stage 2"], sizes, CPU, fresh=fresh)
        torch.rand(3)
        second = training_model(model, methods(4, 16)["stage 2"], sizes, CPU, fresh=fresh)
        for name, tensor in first.state_dict().items():
            assert torch.equal(tensor, second.state_dict()[name]), name
    batch = random_batch(sizes, sizes.compared["SiT"], CPU, 10)
    inside = (batch.t_B >= 0.4) & (batch.t_B <= 0.7)
    assert int(inside.sum()) == 3


def test_sizes_on_a_card_are_the_published_ones():
    sizes = Sizes()
    assert [*sizes.compared] == ["SiT-6x768/2", "MMDiT-6x768/2"]
    assert [*sizes.timed] == ["SiT-B/2", "MMDiT-24x768/2", "SiT-XL/2"]
    assert sizes.timed["SiT-XL/2"].depth == 28


# -- what is written


def test_results_of_machines_stand_beside_each_other(bench, tmp_path):
    group = Group("speed", 100, "Nothing is tolerated.", lambda _: [
        Check("training small", lambda: Finding("12 | 3", {"rate bf16": 12.0, "peak GiB": 3.0})),
        Check("training large", lambda: Finding("15", {"rate bf16": 15.0})),
        Check("wrong", lambda: Finding("1e-1 (≤ 1e-3)", {}, passed=False)),
    ])  # fmt: skip
    outcomes = list(run_group(group, bench))
    path = tmp_path / "results/gpu-check.json"
    path.parent.mkdir()
    path.write_text("damaged")
    for name in ("first card", "second card", "first card"):
        write(path, name, record(bench, outcomes, 12.0), [group])
    written = json.loads(path.read_text())
    names = ["first card, in miniature", "second card, in miniature"]
    assert [*written["machines"]] == names
    assert written["machines"][names[0]]["rates"] == {"bf16": 15.0}  # of the larger one
    page = path.with_suffix(".md").read_text()
    assert page.count("## first card") == 1
    assert "- speed: wrong: 1e-1 (≤ 1e-3)" in page
    assert "| training small | measured | 12 \\| 3 |" in page
    assert "0 passed, 1 failed, 2 measured, 0 not run." in page
    assert "In miniature" in page
    assert machine_name(bench)


def test_some_groups_again_leave_the_others_as_they_were_found(bench, tmp_path):
    rate = Check("training", lambda: Finding("12", {"rate bf16": 12.0}))
    groups = [Group("speed", 100, "none", lambda _: [rate])]
    groups += [Group("sums", 100, "none", lambda _: [Check("one", lambda: Finding(text))])]
    path, text = tmp_path / "check.json", "first"
    full = replace(bench, sizes=replace(bench.sizes, miniature=False))
    for chosen in (groups, groups[1:]):
        found = [outcome for group in chosen for outcome in run_group(group, full)]
        write(path, "card", record(full, found, 1.0), groups)
        text = "second"
    machine = json.loads(path.read_text())["machines"]["card"]
    assert [check["text"] for check in machine["checks"]] == ["12", "second"]
    assert machine["rates"] == {"bf16": 12.0}


@pytest.mark.slow
def test_inception_is_rounded_by_tf32_where_that_is_what_is_measured(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("SELFTRANS_CACHE", str(tmp_path))
    both, allowed = evaluation.Evaluation(bench), []
    extractor = both._extractor(CPU)
    first = next(iter(extractor.network.children()))
    first.register_forward_pre_hook(lambda *_: allowed.append(torch.backends.cudnn.allow_tf32))
    monkeypatch.setattr(both, "_extractor", lambda _: extractor)
    both.find_features()
    assert not any(allowed)
    allowed.clear()
    both.find_rounded()
    assert allowed
    assert all(allowed)


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1)])
def test_the_command_prints_a_line_for_each_check_and_its_code_says_whether_one_failed(
    tmp_path, monkeypatch, passed, code
):
    group = Group("group", 100, "none", lambda _: [Check("one", lambda: Finding("is", {}, passed))])
    monkeypatch.setattr(runner, "GROUPS", (group, *GROUPS))
    output = tmp_path / "check.json"
    words = ["check-gpu", "--device", "cpu", "--only", "group", "--output", str(output)]
    ended = run_command(*words)
    assert ended.returncode == code
    status = "passed" if passed else "failed"
    assert ended.stdout.splitlines()[0] == f"{status}    group: one: is"
    assert f"1 checks, {0 if passed else 1} failed" in ended.stdout
    assert ("group: one: is" in ended.stderr) is not passed
    (machine,) = json.loads(output.read_text())["machines"].values()
    assert machine["miniature"]


def test_an_unknown_group_is_named(tmp_path):
    ended = run_command("check-gpu", "--only", "nonsense", "-o", str(tmp_path / "a.json"))
    assert ended.returncode == 1
    assert "--only: 'nonsense' is no group (allowed: numerics, evaluation" in ended.stderr
