"""Experiment files: errors are one line that names the key, and the schema agrees."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from selftrans import config
from selftrans.alignment.sra import DecayConfig, Sra
from selftrans.config import ConfigError, load_dataset, load_experiment
from selftrans.config.schema import dataset_schema, experiment_schema
from selftrans.runtime.errors import UserError
from tests.support import REPOSITORY
from tests.support.experiments import OTHER_METHODS, TINY, tiny_values

MISTAKES = {
    "unknown key": ({"modle": 1}, "modle: unknown key"),
    "unknown key below": ({"training.batchsize": 1}, "training.batchsize: unknown key"),
    "wrong type": ({"model.depth": "six"}, "model.depth: .*found 'six'"),
    "text for a number": ({"model.depth": "6"}, "model.depth: .*found '6'"),
    "truth for a number": ({"model.depth": True}, "model.depth: .*found True"),
    "depth beyond the model": (
        {"runs.vae-align.alignment.depth": 9},
        r"runs\.vae-align\.alignment\.depth: 9 is beyond the model's 4 blocks \(allowed: 1 to 4\)",
    ),
    "student depth": (
        {"runs.self-transcendence.alignment.student_depth": 5},
        r"alignment\.student_depth: 5 is beyond",
    ),
    "teacher depth": (
        {"runs.self-transcendence.alignment.teacher_depth": 5},
        r"alignment\.teacher_depth: 5 is beyond",
    ),
    "depth zero": (
        {"runs.vae-align.alignment.depth": 0},
        r"runs\.vae-align\.alignment\.depth: .*greater than 0, found 0",
    ),
    "no checkpoint": (
        {"runs.self-transcendence.alignment.teacher.step": 5},
        (
            r"runs\.self-transcendence\.alignment\.teacher\.step: "
            r"5 is not a checkpoint of 'vae-align' \(allowed: 4, 8\)"
        ),
    ),
    "no such teacher": (
        {"runs.self-transcendence.alignment.teacher.run": "x"},
        (
            r"alignment\.teacher\.run: 'x' is not a run "
            r"\(allowed: sit, vae-align, self-transcendence\)"
        ),
    ),
    "own teacher": (
        {"runs.self-transcendence.alignment.teacher.run": "self-transcendence"},
        "is a circle",
    ),
    "unknown method": (
        {"runs.sit": {"alignment": {"method": "magic"}}},
        (
            r"runs\.sit\.alignment\.method: 'magic' is unknown "
            r"\(allowed: 'vae-alignment', .*, or FILE\.py:CLASS\)$"
        ),
    ),
    "method missing": (
        {"runs.sit": {"alignment": {"depth": 1}}},
        r"runs\.sit\.alignment\.method: is missing",
    ),
    "key of another method": (
        {"runs.vae-align.alignment.teacher_depth": 2},
        r"runs\.vae-align\.alignment\.teacher_depth: unknown key",
    ),
    "preset": (
        {"model": {"preset": "SiT-Q/2"}},
        r"model\.preset: input should be 'SiT-S/2', .* found 'SiT-Q/2'",
    ),
    "heads": ({"model.num_heads": 3}, r"model\.num_heads: 3 does not divide hidden_size 32"),
    "falling checkpoints": (
        {"training.checkpoints": [8, 4]},
        r"training\.checkpoints: \[8, 4\] must ascend",
    ),
    "time range": (
        {"runs.vae-align.alignment.t_range": {"low": 0.9, "high": 0.1}},
        r"runs\.vae-align\.alignment\.t_range\.low: 0\.9 is above high 0\.1",
    ),
    "sampler": (
        {"evaluation.samplers.ode.sampler": "rk45"},
        r"evaluation\.samplers\.ode\.sampler: .*found 'rk45'",
    ),
    "sampled step": (
        {"evaluation.samplers.ode.checkpoints": [5]},
        (
            r"evaluation\.samplers\.ode\.checkpoints: "
            r"5 is not a checkpoint of any run \(allowed: 4, 8\)"
        ),
    ),
    "figure's sampler": (
        {"figures.sampler": "sde"},
        r"figures\.sampler: 'sde' is not a sampler \(allowed: ode\)",
    ),
    "figure's step": (
        {"figures.sample_checkpoints": [5]},
        r"figures\.sample_checkpoints: 5 is not sampled by 'ode'",
    ),
    "figure's columns": (
        {"figures.sample_columns": 21},
        r"figures\.sample_columns: 21 is beyond the 20 samples",
    ),
    "name with a slash": ({"runs": {"a/b": {}}}, r"runs\.a/b"),
    "no such data": (
        {"data": "digitz"},
        "'digitz' is neither a .yaml file nor a name in experiments/data/",
    ),
    "teacher's patches": (
        {"runs.self-transcendence.model": {"patch_size": 4}},
        r"alignment\.teacher\.run: 'vae-align' has model\.patch_size 2, its student has 4",
    ),
    "teacher's path": (
        {"runs.self-transcendence.training": {"interpolant": "cosine"}},
        (
            r"alignment\.teacher\.run: "
            r"'vae-align' has training\.interpolant linear, its student has cosine"
        ),
    ),
    "patches that do not tile": (
        {"model.patch_size": 3},
        r"model\.patch_size: 3 does not divide the 8x8 latents",
    ),
    "micro-batches": (
        {"training.accumulate": 3},
        r"training\.accumulate: 3 does not divide batch_size 8",
    ),
    "rare logs": (
        {"training.log_every": 5},
        r"training\.log_every: 5 is beyond the first checkpoint, 4",
    ),
    "run of nothing": (
        {"runs.sit": None},
        r"runs\.sit: null leaves out a run of the experiment that is extended",
    ),
    "word for a list": (
        {"evaluation.samplers.ode.checkpoints": "first"},
        r"evaluation\.samplers\.ode\.checkpoints: input should be 'all' or 'last', found 'first'",
    ),
    "reserved name": ({"name": "data"}, r"name: 'data' is where other things lie"),
    "seeds": ({"seeds": [1, 1]}, r"seeds: \[1, 1\] has duplicates"),
    "REPA's encoder": (
        {"runs.sit": {"alignment": {"method": "repa", "encoder": "dino", "depth": 1}}},
        (
            r"runs\.sit\.alignment\.encoder: "
            r"'dino' is not an encoder of data 'digits' \(allowed: stand-in\)"
        ),
    ),
    "REPA's depth": (
        {"runs.sit": {"alignment": {"method": "repa", "encoder": "stand-in", "depth": 5}}},
        r"runs\.sit\.alignment\.depth: 5 is beyond the model's 4 blocks",
    ),
    "SRA's teacher": (
        {"runs.sit": {"alignment": {"method": "sra", "student_depth": 1, "teacher_depth": 5}}},
        r"runs\.sit\.alignment\.teacher_depth: 5 is beyond the model's 4 blocks",
    ),
    "SRA's loss": (
        {
            "runs.sit": {
                "alignment": {"method": "sra", "student_depth": 1, "teacher_depth": 2, "loss": "l2"}
            }
        },
        (
            r"runs\.sit\.alignment\.loss: input should be 'smooth-l1', 'cosine' or "
            r"'cosine-over-tokens', found 'l2'"
        ),
    ),
    "LayerSync upside down": (
        {
            "runs.sit": {
                "alignment": {"method": "layersync", "student_depth": 3, "teacher_depth": 3}
            }
        },
        r"runs\.sit\.alignment\.teacher_depth: 3 is not deeper than student_depth 3",
    ),
    "unknown method in a list": (
        {"runs.sit": {"alignment": [{"method": "vae-alignment", "depth": 1}, {"method": "magic"}]}},
        r"runs\.sit\.alignment\.1\.method: 'magic' is unknown",
    ),
    "nothing among several": (
        {"runs.sit": {"alignment": [{"method": "none"}]}},
        r"runs\.sit\.alignment\.0\.method: 'none' is unknown \(allowed: 'vae-alignment'",
    ),
    "key in a list": (
        {"runs.sit": {"alignment": [{"method": "vae-alignment", "depth": 1, "lambda": 1}]}},
        r"runs\.sit\.alignment\.0\.lambda: unknown key",
    ),
    "depth in a list": (
        {"runs.sit": {"alignment": [{"method": "vae-alignment", "depth": 9}]}},
        r"runs\.sit\.alignment\.0\.depth: 9 is beyond the model's 4 blocks",
    ),
    "empty list": ({"runs.sit": {"alignment": []}}, r"runs\.sit\.alignment: .*at least 1 item"),
    "analysis' encoder": (
        {"analysis": {"encoder": "dino"}},
        r"analysis\.encoder: 'dino' is not an encoder of data 'digits' \(allowed: stand-in\)",
    ),
    "analysis' time": (
        {"analysis": {"shown_time": 0.45}},
        r"analysis\.shown_time: 0\.45 is not one of `times`",
    ),
    "analysis' block": (
        {"analysis": {"shown_blocks": [5]}},
        r"analysis\.shown_blocks: 5 is beyond the model's 4 blocks",
    ),
    "equal names": (
        {"runs.sit": {"label": "vae-align"}},
        r"runs\.vae-align\.label: 'vae-align' is the name of run 'sit', too",
    ),
    "stored and not": (
        {
            "runs.sit": {
                "alignment": [
                    {"method": "repa", "encoder": "stand-in", "depth": depth, "features": features}
                    for depth, features in ((1, "store"), (2, "images"))
                ]
            }
        },
        r"runs\.sit\.alignment: features of 'stand-in' are 'store' and 'images' at once",
    ),
    "baseline that is not sampled": (
        {
            "runs.sit": {"training": {"checkpoints": [4]}},
            "evaluation.samplers.ode.checkpoints": [8],
            "figures.sample_checkpoints": [8],
        },
        r"figures\.sampler: 'ode' samples no checkpoint of the baseline 'sit'",
    ),
    "baseline": (
        {"figures.baseline": "x"},
        r"figures\.baseline: 'x' is not a run \(allowed: sit, vae-align, ",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_file_and_key(tiny, mistake):
    changes, message = MISTAKES[mistake]
    path = tiny(**changes)
    with pytest.raises(ConfigError, match=message) as caught:
        load_experiment(path)
    first, *others = str(caught.value).splitlines()
    assert re.search(message, first)
    assert len(others) <= 1  # a sampler without a checkpoint leaves the figure without samples
    if "data" not in changes:
        assert first.startswith(f"{path}: ")


def test_every_problem_is_listed_with_its_key_and_the_nearest_known_one(tiny):
    path = tiny(**{
        "modle": 1, "training.batchsize": 1, "runs.sit": {"alignmnt": {}}, "seeds": [0, 0],
        "runs.vae-align.alignment.taget": "latent", "evaluation.samplers.ode.x": 1,
    })  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        load_experiment(path)
    assert sorted(line.removeprefix(f"{path}: ") for line in str(caught.value).splitlines()) == [
        "evaluation.samplers.ode.x: unknown key",
        "modle: unknown key (nearest: model)",
        "runs.sit.alignmnt: unknown key (nearest: alignment)",
        "runs.vae-align.alignment.taget: unknown key (nearest: target)",
        "training.batchsize: unknown key (nearest: batch_size)",
    ]


def test_problems_between_parts_are_all_listed(tiny):
    path = tiny(**{"seeds": [0, 0], "runs.vae-align.alignment.depth": 9, "figures.baseline": "x",
                   "runs.self-transcendence.alignment.teacher.step": 5})  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        load_experiment(path)
    keys = [
        line.removeprefix(f"{path}: ").split(": ")[0] for line in str(caught.value).splitlines()
    ]
    assert keys == [
        "seeds", "runs.vae-align.alignment.depth",
        "runs.self-transcendence.alignment.teacher.step", "figures.baseline",
    ]  # fmt: skip


# A run, a grid or a curve may have the name of what pydantic calls a member of a union.
NAMES = ["strong", "sra", "repa", "trained", "digits", "none", "tuple"]


@pytest.mark.parametrize("name", NAMES)
def test_a_location_keeps_the_names_that_users_chose(tiny, tmp_path, name):
    def problem(**changes):
        with pytest.raises(ConfigError) as caught:
            load_experiment(tiny(**changes))
        return str(caught.value).removeprefix(f"{tmp_path / 'tiny.yaml'}: ")

    run = {f"runs.{name}": {"modle": 1}}
    assert problem(**run) == f"runs.{name}.modle: unknown key (nearest: model)"
    grid = {f"grids.{name}": {"run": "sit", "vary": {"label": ["a"]}, "labl": "x"}}
    assert problem(**grid) == f"grids.{name}.labl: unknown key (nearest: label)"
    (tmp_path / "paper.yaml").write_text(
        f"source: a\nmetric: fid\ncurves: {{{name}: [[4, x]], sit: [[1, 2]]}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_experiment(tiny(**{"figures.published": "paper.yaml"}))
    expected = f"curves.{name}.0.1: input should be a valid number, found 'x'"
    assert str(caught.value) == f"{tmp_path / 'paper.yaml'}: {expected}"


def test_a_problem_is_located_in_the_file_that_has_it(tiny, tmp_path):
    tiny(**{"training.batchsize": 1})
    child = tmp_path / "child.yaml"
    child.write_text(
        "extends: tiny.yaml\ntraining: {learning_rat: 1}\nruns: {more: {model: {dept: 3}}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_experiment(child)
    assert str(caught.value).splitlines() == [
        f"{tmp_path / 'tiny.yaml'}: training.batchsize: unknown key (nearest: batch_size)",
        f"{child}: training.learning_rat: unknown key (nearest: learning_rate)",
        f"{child}: runs.more.model.dept: unknown key (nearest: depth)",
    ]


def test_another_kind_replaces_and_the_same_kind_merges(tiny, tmp_path):
    tiny()
    child = tmp_path / "child.yaml"
    layersync = "{method: layersync, student_depth: 1, teacher_depth: 2}"
    child.write_text(
        f"extends: tiny.yaml\nruns:\n  vae-align: {{alignment: {{target: latent}}}}\n"
        f"  self-transcendence: {{alignment: {layersync}}}\n  sit: {{alignment: [{layersync}]}}\n"
    )
    runs = load_experiment(child).runs
    assert (runs["vae-align"].alignment.depth, runs["vae-align"].alignment.target) == (1, "latent")
    assert runs["self-transcendence"].alignment.method == "layersync"
    assert [term.method for term in runs["sit"].alignments.values()] == ["layersync"]


def test_another_autoencoder_replaces_and_the_same_one_merges(tmp_path):
    for name, autoencoder in (
        ("fewer", "{kind: trained, steps: 5}"),
        ("other", "{kind: pretrained, path: x, downsampling: 4}"),
    ):  # fmt: skip
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"extends: digits\nautoencoder: {autoencoder}\n")
    fewer, other = (load_dataset(tmp_path / f"{name}.yaml") for name in ("fewer", "other"))
    assert (fewer.autoencoder.steps, fewer.autoencoder.batch_size) == (5, 32)
    assert other.autoencoder.model_dump() == {
        "kind": "pretrained", "path": "x", "decoder": None, "latent_channels": 4, "downsampling": 4,
    }  # fmt: skip


def test_another_autoencoder_decodes_by_itself_if_it_does_not_say_otherwise(tmp_path):
    for name, autoencoder in (("own", "{path: x}"), ("both", "{path: x, decoder: y}")):
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"extends: imagenet256\nautoencoder: {autoencoder}\n")
    decoders = [
        load_dataset(tmp_path / f"{name}.yaml").autoencoder.decoder for name in ("own", "both")
    ]
    assert decoders == [None, "y"]
    assert load_dataset("imagenet512").autoencoder.decoder == "stabilityai/sd-vae-ft-ema"


def test_null_leaves_out_a_run_that_is_inherited(tiny, tmp_path):
    tiny()
    child = tmp_path / "child.yaml"
    child.write_text("extends: tiny.yaml\nruns: {sit: null, more: {}}\n")
    assert list(load_experiment(child).runs) == ["vae-align", "self-transcendence", "more"]
    child.write_text("extends: tiny.yaml\nruns: {vae-align: null}\n")
    with pytest.raises(ConfigError, match=r"teacher\.run: 'vae-align' is not a run"):
        load_experiment(child)
    child.write_text("extends: tiny.yaml\nruns: {nobody: null}\n")
    with pytest.raises(ConfigError, match=r"child\.yaml: runs\.nobody: null leaves out a run"):
        load_experiment(child)


def test_a_circle_of_two_teachers_is_named(tiny):
    changes = {"method": "self-transcendence", "student_depth": 1, "teacher_depth": 2}
    teacher = {"run": "self-transcendence", "step": 4}
    path = tiny(**{"runs.vae-align.alignment": {**changes, "teacher": teacher}})
    with pytest.raises(
        ConfigError, match=r"vae-align -> self-transcendence -> vae-align is a circle"
    ):
        load_experiment(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not YAML"),
        ("a: " + "[" * 100_000 + "]" * 100_000, "more than 100 levels"),
        ("- 1", "holds a list"),
        ("seeds: [0]\nseeds: [1]", "duplicate key 'seeds'"),
        ("extends: tiny.yaml", "is circular"),
    ],
)
def test_files_that_are_no_experiments(tmp_path, text, message):
    path = tmp_path / "tiny.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_experiment(path)
    assert "\n" not in str(caught.value)


def test_an_absent_file_is_named():
    with pytest.raises(UserError, match=r"nowhere\.yaml: no such file"):
        load_experiment("nowhere.yaml")


def test_a_run_inherits_and_overrides(tiny):
    path = tiny(
        **{
            "runs.sit": {
                "model": {"depth": 6},
                "training": {"learning_rate": 2e-3, "clip_norm": None},
            }
        }
    )
    experiment = load_experiment(path)
    assert (experiment.runs["sit"].model.depth, experiment.runs["sit"].model.hidden_size) == (6, 32)
    assert experiment.runs["sit"].training.learning_rate == 2e-3
    assert experiment.runs["sit"].training.clip_norm is None
    assert experiment.runs["sit"].training.batch_size == 8
    assert experiment.runs["vae-align"].model.depth == 4


def test_an_experiment_extends_another(tiny, tmp_path):
    tiny()
    (tmp_path / "more.yaml").write_text(
        "extends: tiny.yaml\ntraining: {checkpoints: [4, 6, 8]}\nruns: {extra: {}}\n"
    )
    base, more = load_experiment(tmp_path / "tiny.yaml"), load_experiment(tmp_path / "more.yaml")
    assert list(more.runs) == [*base.runs, "extra"]
    assert more.runs["sit"].training.checkpoints == (4, 6, 8)
    assert more.model == base.model
    assert (base.name, more.name) == ("tiny", "more")  # results of two experiments never mix


def test_a_preset_replaces_inherited_numbers(tiny, tmp_path):
    tiny(**{"runs.small": {"model": {"preset": "SiT-S/2", "patch_size": 4}}})
    small = load_experiment(tmp_path / "tiny.yaml").runs["small"].model
    assert (small.depth, small.hidden_size, small.num_heads, small.patch_size) == (12, 384, 6, 4)


def test_exponents_are_numbers(tmp_path):
    (tmp_path / "n.yaml").write_text("a: 1e-4\nb: 2E3\nc: 1.5e-3\nd: e4\n")
    assert config.read_yaml(tmp_path / "n.yaml") == {"a": 1e-4, "b": 2e3, "c": 1.5e-3, "d": "e4"}


def test_presets_fill_the_model(tiny):
    values = {"preset": "SiT-XL/2", "depth": 20}
    model = load_experiment(tiny(model=values, runs={"sit": {}})).model
    assert (model.depth, model.hidden_size, model.num_heads, model.patch_size) == (20, 1152, 16, 2)


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "experiments").glob("*.yaml")), ids=lambda path: path.stem
)
def test_shipped_experiments_are_valid(path):
    assert load_experiment(path).name == path.stem


@pytest.mark.slow
def test_shipped_experiments_are_read_without_torch():
    program = """
import sys
from pathlib import Path

sys.modules["torch"] = sys.modules["numpy"] = None  # importing them raises ImportError
from selftrans.config import load_experiment

for path in sorted(Path("experiments").glob("*.yaml")):
    print(load_experiment(path).name)
"""
    command = [sys.executable, "-c", program]
    read = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    names = sorted(path.stem for path in (REPOSITORY / "experiments").glob("*.yaml"))
    assert sorted(read.stdout.split()) == names, read.stderr


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "experiments/data").glob("*.yaml")), ids=lambda path: path.stem
)
def test_shipped_data_files_are_valid(path):
    assert load_dataset(path).name == path.stem


@pytest.mark.parametrize(
    ("file", "schema"),
    [
        ("experiments/schema.json", experiment_schema),
        ("experiments/data/schema.json", dataset_schema),
    ],
)
def test_schemas_are_those_of_the_models(file, schema):
    assert json.loads(Path(file).read_text()) == schema(), "run `make schema`"


def test_a_resolved_experiment_reads_back_as_itself(tiny):
    """The file beside the results is the experiment with every default filled in."""
    experiment = load_experiment(tiny())
    values = yaml.safe_load(yaml.safe_dump(experiment.model_dump(mode="json")))
    assert config.validated(config.ExperimentConfig, values, "resolved") == experiment


def test_every_key_of_the_schema_has_a_description():
    schema = experiment_schema()
    for name, part in {**schema["$defs"], "Experiment": schema}.items():
        for key, entry in part["properties"].items():
            assert entry.get("description") or "const" in entry, f"{name}.{key}"


def test_tiny_values_do_not_leak():
    tiny_values(**{"model.depth": 9})
    assert tiny_values()["model"]["depth"] == 4


@pytest.mark.parametrize(
    ("samplers", "message"),
    [
        (
            {"cfg": {"sampler": "euler", "guidance": {"scale": []}}},
            "samplers.cfg.guidance.scale: [] is not a list of numbers",
        ),
        (
            {"cfg": {"sampler": "euler", "guidance": {"scale": [1.5, "a"]}}},
            "is not a list of numbers",
        ),
        ({"cfg": {"sampler": "euler", "guidance": {"scale": [1.5, 1.5]}}}, "has duplicates"),
        (
            {
                "cfg-scale1.5": {"sampler": "heun"},
                "cfg": {"sampler": "euler", "guidance": {"scale": [1.0, 1.5]}},
            },
            "makes a sampler 'cfg-scale1.5', which exists already",
        ),
    ],
)
def test_a_sweep_that_is_none_is_one_line(tiny, samplers, message):
    ode = {"sampler": "euler", "num_steps": 2, "num_samples": 20}
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_experiment(tiny(**{"evaluation.samplers": {"ode": ode, **samplers}}))
    assert "\n" not in str(caught.value)


def test_a_sweep_is_a_set_for_each_scale_and_comes_back_from_its_resolved_file(tiny):
    ode = {"sampler": "euler", "num_steps": 2, "num_samples": 20}
    cfg = {**ode, "guidance": {"scale": [1, 1.5], "high": 0.65}}
    experiment = load_experiment(tiny(**{"evaluation.samplers": {"ode": ode, "cfg": cfg}}))
    assert list(experiment.evaluation.samplers) == ["ode", "cfg-scale1", "cfg-scale1.5"]
    assert experiment.evaluation.sweeps == {"cfg": ("cfg-scale1", "cfg-scale1.5")}
    assert experiment.evaluation.samplers["cfg-scale1.5"].guidance.high == 0.65
    values = yaml.safe_load(yaml.safe_dump(experiment.model_dump(mode="json")))
    assert config.validated(config.ExperimentConfig, values, "resolved") == experiment


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"evaluation.metrics": ["fid", "sfid"]},
            "metrics: 'sfid' needs extractor inception, found 'classifier'",
        ),
        ({"evaluation.metrics": ["kid"]}, "the convergence figure needs fid or is among them"),
        ({"evaluation.metrics": ["nonsense"]}, "evaluation.metrics"),
    ],
)
def test_metrics_that_cannot_be_computed_are_one_line(tiny, changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_experiment(tiny(**changes))


def test_a_list_of_terms_comes_back_from_its_resolved_file(tiny):
    experiment = load_experiment(tiny(runs={**TINY["runs"], **OTHER_METHODS}))
    values = yaml.safe_load(yaml.safe_dump(experiment.model_dump(mode="json")))
    assert config.validated(config.ExperimentConfig, values, "resolved") == experiment
    assert [term.method for term in experiment.runs["both"].alignments.values()] == [
        "layersync",
        "vae-alignment",
    ]
    assert experiment.runs["sit"].alignments == {}
    assert experiment.runs["repa-on-images"].encoders == (config.EncoderUse("stand-in", "images"),)


def test_sras_weight_and_decay_follow_its_loss():
    distance, cosine, own = (
        Sra.model_validate({"method": "sra", "student_depth": 1, "teacher_depth": 2, **changes})
        for changes in ({}, {"loss": "cosine"}, {"weight": 0.3, "decay": {"after": 10, "steps": 5}})
    )
    assert (distance.weight, distance.decay) == (
        2.0,
        DecayConfig(after=750_000, steps=5_000_000),
    )
    assert (cosine.weight, cosine.decay) == (0.5, None)
    assert (own.weight, own.decay) == (0.3, DecayConfig(after=10, steps=5))


def test_two_terms_of_one_method_have_names_and_teachers_of_their_own(tiny):
    teach = {"method": "self-transcendence", "student_depth": 1, "teacher_depth": 2}
    terms = [{**teach, "teacher": {"run": run, "step": 4}} for run in ("vae-align", "sit")]
    experiment = load_experiment(tiny(**{"runs.two": {"alignment": terms}}))
    assert [teacher.choice.run for teacher in experiment.runs["two"].teachers.values()] == [
        "vae-align",
        "sit",
    ]


def test_the_arms_of_the_comparison_differ_in_one_object():
    runs = load_experiment("digits-methods").runs
    methods = {term.method for run in runs.values() for term in run.alignments.values()}
    assert methods == {"vae-alignment", "self-transcendence", "repa", "sra", "layersync"}
    assert len(runs) == 6
    assert (
        len({run.model for run in runs.values()})
        == len({run.training for run in runs.values()})
        == 1
    )


@pytest.fixture(scope="module")
def editor():
    """The schema that editors use; it has no defaults that depend on other keys."""
    schema = experiment_schema()
    checker = jsonschema.validators.validator_for(schema)
    checker.check_schema(schema)
    return checker(schema)


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "experiments").glob("*.yaml")), ids=lambda path: path.stem
)
def test_editors_find_nothing_wrong_with_shipped_experiments(editor, path):
    editor.validate(config.read_yaml(path))


def test_editors_find_an_unknown_method(editor):
    with pytest.raises(jsonschema.ValidationError):
        editor.validate({"runs": {"sit": {"alignment": {"method": "magic"}}}, "extends": "x"})


GRID = {
    "run": "self-transcendence",
    "vary": {"alignment.guidance_scale": [1, 2, 5], "training.learning_rate": [1e-3, 2e-3]},
}


def test_a_grid_is_a_run_for_each_combination_and_comes_back_from_its_resolved_file(tiny):
    experiment = load_experiment(tiny(grids={"w": {**GRID, "label": "w = {0}, {1:g}"}}))
    names = experiment.grids["w"].runs
    assert names == (
        "w-1-0.001",
        "w-1-0.002",
        "self-transcendence",
        "w-2-0.002",
        "w-5-0.001",
        "w-5-0.002",
    )
    assert len(experiment.runs) == 3 + 5
    base = experiment.runs["self-transcendence"]
    varied = experiment.runs["w-5-0.002"]
    assert (varied.label, varied.grid) == ("w = 5, 0.002", "w")
    assert (varied.alignment.guidance_scale, varied.training.learning_rate) == (5, 2e-3)
    assert varied.alignment.model_copy(update={"guidance_scale": 2}) == base.alignment
    assert varied.training.model_copy(update={"learning_rate": 1e-3}) == base.training
    assert list(experiment.main_runs) == ["sit", "vae-align", "self-transcendence"]
    values = yaml.safe_load(yaml.safe_dump(experiment.model_dump(mode="json")))
    assert config.validated(config.ExperimentConfig, values, "resolved") == experiment


def test_a_grid_may_vary_what_another_one_made(tiny):
    """Stage 2 behind a teacher that a stage-1 grid makes; values that are mappings, and null."""
    grids = {
        "target": {"run": "vae-align", "vary": {"alignment.target": ["velocity", "latent"]}},
        "teacher": {
            "run": "self-transcendence",
            "vary": {"alignment.teacher.run": ["vae-align", "target-latent"]},
        },
        "t": {
            "run": "vae-align",
            "vary": {"alignment.t_range": [{"low": 0.0, "high": 1.0}, {"low": 0.4, "high": 0.7}]},
        },
        "stop": {"run": "vae-align", "vary": {"alignment.stop_after": [4, None]}},
    }
    experiment = load_experiment(tiny(grids=grids))
    assert experiment.runs["teacher-target-latent"].alignment.teacher.run == "target-latent"
    assert experiment.grids["t"].runs == (
        "t-0.0-to-1.0",
        "vae-align",
    )  # the base leaves it to its default
    assert experiment.grids["stop"].runs == ("stop-4", "vae-align")
    assert experiment.runs["stop-4"].label == "stop = 4"


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (
            {**GRID, "run": "x"},
            r"grids\.w\.run: 'x' is not a run \(allowed: sit, vae-align, self-transcendence\)",
        ),
        ({**GRID, "vary": {"alignment.w": [1, 2]}}, r"grids\.w\.vary\.alignment\.w: unknown key"),
        (
            {**GRID, "vary": {"alignment.guidance_scale": 5}},
            r"grids\.w\.vary\.alignment\.guidance_scale: 5 is not a list",
        ),
        ({**GRID, "label": "{7}"}, r"grids\.w\.label: '\{7\}' does not fit its values"),
        (
            {**GRID, "vary": {"alignment.method.x": [5]}},
            r"grids\.w\.vary\.alignment\.method\.x: 'x' is not a key of what the run",
        ),
        ({"run": "sit"}, r"grids\.w\.vary: is missing"),
    ],
)
def test_a_grid_that_is_none_is_one_line(tiny, grid, message):
    with pytest.raises(ConfigError, match=message) as raised:
        load_experiment(tiny(grids={"w": grid}))
    assert "\n" not in str(raised.value)


def test_signs_make_other_runs_and_repeats_are_refused(tiny):
    grid = {"run": "self-transcendence", "vary": {"alignment.guidance_scale": [-1, 1, 2]}}
    assert load_experiment(tiny(grids={"w": grid})).grids["w"].runs == (
        "w--1",
        "w-1",
        "self-transcendence",
    )
    with pytest.raises(ConfigError, match=r"grids\.w: makes a run 'w-5', which exists already"):
        load_experiment(tiny(grids={"w": {**grid, "vary": {"alignment.guidance_scale": [5, 5]}}}))


def test_a_grid_reaches_into_a_list_of_terms(tiny):
    runs = {**TINY["runs"], "both": OTHER_METHODS["both"]}
    grid = {"run": "both", "vary": {"alignment.1.weight": [0.5, 2.0]}}
    experiment = load_experiment(tiny(runs=runs, grids={"weight": grid}))
    assert experiment.grids["weight"].runs == ("both", "weight-2.0")  # 0.5 is the default
    assert [term.weight for term in experiment.runs["weight-2.0"].alignments.values()] == [
        0.2,
        2.0,
    ]


def test_a_grid_never_replaces_a_run(tiny):
    grids = {"w": {"run": "sit", "vary": {"training.learning_rate": [0.5]}}}
    with pytest.raises(ConfigError, match=r"grids\.w: makes a run 'w-0\.5', which exists already"):
        load_experiment(tiny(grids=grids, runs={**TINY["runs"], "w-0.5": {}}))


def test_published_curves_are_of_runs(tiny, tmp_path):
    (tmp_path / "paper.yaml").write_text(
        "source: a paper\nmetric: fid\ncurves: {sit: [[4, 9.5], [8, 7]]}\n"
    )
    experiment = load_experiment(tiny(**{"figures.published": "paper.yaml"}))
    published = experiment.figures.published
    assert published.curves == {"sit": ((4, 9.5), (8, 7.0))}
    values = yaml.safe_load(yaml.safe_dump(experiment.model_dump(mode="json")))
    assert config.validated(config.ExperimentConfig, values, "resolved") == experiment
    (tmp_path / "paper.yaml").write_text(
        "source: a paper\nmetric: fid\ncurves: {dit: [[4, 9.5]]}\n"
    )
    with pytest.raises(ConfigError, match=r"figures\.published\.curves: 'dit' is not a run"):
        load_experiment(tiny(**{"figures.published": "paper.yaml"}))


def test_an_imported_run_has_the_one_checkpoint_that_it_is(tiny):
    imported = {"file": "SiT-XL-2-256.pt", "convention": "data-at-1", "step": 7_000_000}
    experiment = load_experiment(tiny(**{"runs.public": {"imported": imported}}))
    run = experiment.runs["public"]
    assert run.training.checkpoints == (7_000_000,)
    assert experiment.evaluated_steps("public", "ode") == (7_000_000,)
    chosen = load_experiment(
        tiny(
            **{
                "runs.public": {"imported": imported},
                "evaluation.samplers.ode.checkpoints": [8],
                "figures.sample_checkpoints": [8],
            }
        )
    )
    assert chosen.evaluated_steps("public", "ode") == (
        7_000_000,
    )  # its own number of images, for any number of the others
    assert experiment.trained_runs == ("sit", "vae-align", "self-transcendence")
    values = yaml.safe_load(yaml.safe_dump(experiment.model_dump(mode="json")))
    assert config.validated(config.ExperimentConfig, values, "resolved") == experiment
    for changes, message in (
        (
            {
                "runs.public": {
                    "imported": imported,
                    "alignment": {"method": "vae-alignment", "depth": 1},
                }
            },
            "is not trained",
        ),
        (
            {"runs.public": {"imported": {**imported, "convention": "dit"}}},
            r"imported\.convention: ",
        ),
        ({"runs.public": {"imported": imported, "training": 3}}, r"runs\.public\.training: "),
        (
            {"runs.public": {"imported": {**imported, "empty_context": "empty.npy"}}},
            r"runs\.public\.imported\.empty_context: 'sit' takes classes, no captions",
        ),
        (
            {"runs.public": {"imported": imported}, "figures.baseline": "public"},
            "'public' was not trained here",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            load_experiment(tiny(**changes))


def test_data_files_extend_and_are_changed(tmp_path):
    assert load_dataset("imagenet512").source == load_dataset("imagenet256").source
    changes = {"imagenet256": {"source": {"kind": "zip", "path": "/data/train.zip"}}}
    assert load_experiment("imagenet256-b2", changes).data.source.path == "/data/train.zip"
    assert (
        load_experiment("imagenet512-xl2", changes).data.source.path == "/data/train.zip"
    )  # it extends imagenet256
    with pytest.raises(ConfigError, match=r"^data: imagenet256: source\.color: unknown key"):
        load_dataset("imagenet256", {"imagenet256": {"source": {"color": 1}}})


PRESETS = [
    path.stem
    for path in sorted((REPOSITORY / "experiments").glob("*.yaml"))
    if path.stem.startswith(("imagenet", "ablations"))
]


TAG = r"\[(code|paper|port|ours|SiT|REPA|SRA|VAE-REPA|iREPA|DispLoss|IG|HASTE|ADM)\]"


@pytest.mark.parametrize("name", ["coco256-mmdit", "scenes-text", "scenes-tiny"])
def test_terms_of_text_to_image_count_at_every_t(name):
    """As in the authors' code, of both stages."""
    runs = load_experiment(name).runs
    for run in ("vae-align", "self-transcendence"):
        t_range = runs[run].alignment.t_range
        assert (t_range.low, t_range.high) == (0, 1)


@pytest.mark.parametrize(
    "name", [*PRESETS, "cifar10", "data/imagenet100", "data/imagenet256", "data/imagenet512"]
)
def test_every_value_of_a_preset_says_where_it_comes_from(name):
    """But names, labels and descriptions: in its line, or in the comment above it."""
    free = re.compile(r"^\s*(name|label|description|extends|run):|^\s*[a-z-]+: null\s*$")
    above = ""
    for line in (REPOSITORY / f"experiments/{name}.yaml").read_text().splitlines():
        content, _, comment = line.partition("#")
        if content.strip():
            has_value = re.search(r":\s*\S", content) or content.lstrip().startswith("- ")
            if has_value and not free.match(content):
                assert re.search(TAG, comment or above), line
        above = "" if content.strip() else comment


ALONE = {"ablations-b2", "imagenet100-b2"}
"""Presets without a published number beside theirs."""


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in ALONE])
def test_presets_beside_published_numbers_make_the_published_choices(name):
    """METHOD.md, section 12: classes, decoder, conversion, teacher, distances, and the mask."""
    experiment = load_experiment(name)
    assert experiment.evaluation.distances == "adm"
    assert experiment.data.autoencoder.decoder == "stabilityai/sd-vae-ft-ema"
    for sampler in experiment.evaluation.samplers.values():
        assert (sampler.labels, sampler.uint8) == ("random", "truncate")
    main = {run: experiment.runs[run] for run in ("vae-align", "self-transcendence")}
    for run in main.values():
        assert run.alignment.t_masking == "released"
        assert run.training.tf32
    stage_2, depth = main["self-transcendence"].alignment, main["vae-align"].model.depth
    assert stage_2.teacher.precision == "fp32"
    assert (stage_2.student_depth, stage_2.teacher_depth) == (depth // 2, 2 * depth // 3)
    assert main["vae-align"].alignment.depth == 2
    assert stage_2.stop_after == (100_000 if "b2" in name else 50_000)
    if name.endswith("grids"):
        per_sample = experiment.runs["t-masking-per-sample"].alignment
        assert per_sample.t_masking == "per-sample"
        teacher = experiment.runs[per_sample.teacher.run].alignment
        assert (teacher.method, teacher.t_masking) == ("vae-alignment", "per-sample")
    assert experiment.analysis.shown_blocks == ((4, 8) if "b2" in name else (8, 16))


def test_the_preset_of_a_tenth_has_the_arms_of_the_whole():
    """But for steps, a tenth of them."""
    tenth, whole = load_experiment("imagenet100-b2"), load_experiment("imagenet256-b2-methods")
    assert tenth.runs.keys() == whole.runs.keys()
    for name, run in whole.runs.items():
        kept = {"stop_after", "teacher"}
        pairs = [experiment.runs[name].alignment for experiment in (tenth, whole)]
        assert pairs[0].model_dump(exclude=kept) == pairs[1].model_dump(exclude=kept)
        stops = [getattr(alignment, "stop_after", None) for alignment in pairs]
        assert stops[1] == (stops[0] and 10 * stops[0])
        for few, many in zip(
            tenth.runs[name].teachers.values(), run.teachers.values(), strict=True
        ):
            assert 10 * few.choice.step == many.choice.step
        assert 10 * tenth.runs[name].training.checkpoints[-1] == run.training.checkpoints[-1]


def test_the_preset_of_b2_is_the_methods():
    """METHOD.md, sections 3 to 8, once more."""
    experiment = load_experiment("imagenet256-b2")
    training = experiment.training
    assert training.checkpoints == (50_000, 100_000, 200_000, 300_000, 400_000)
    assert (
        training.batch_size,
        training.learning_rate,
        training.ema_decay,
        training.clip_norm,
    ) == (
        256,
        1e-4,
        0.9999,
        1.0,
    )
    assert (experiment.model.depth, experiment.model.hidden_size, experiment.model.qk_norm) == (
        12,
        768,
        True,
    )
    stage_1, stage_2 = (
        experiment.runs["vae-align"].alignment,
        experiment.runs["self-transcendence"].alignment,
    )
    assert (stage_1.depth, stage_1.weight, stage_1.target) == (2, 0.5, "velocity")
    assert (
        stage_2.student_depth,
        stage_2.teacher_depth,
        stage_2.guidance_scale,
        stage_2.weight,
    ) == (6, 8, 30, 0.5)
    assert stage_1.t_range == stage_2.t_range == config.TimeRangeConfig(low=0.4, high=0.7)
    assert stage_1.t_masking == stage_2.t_masking == "released"
    assert stage_2.teacher.model_dump() == {
        "run": "vae-align", "step": 200_000, "weights": "raw", "precision": "fp32",
    }  # fmt: skip
    for stage in ("vae-align", "self-transcendence"):
        terms = [experiment.runs[run].alignment for run in (stage, f"{stage}-per-sample")]
        released, of_the_text = (term.model_dump(exclude={"teacher"}) for term in terms)
        assert of_the_text == {**released, "t_masking": "per-sample"}
    assert experiment.runs["self-transcendence-per-sample"].alignment.teacher.run == (
        "vae-align-per-sample"
    )
    sampler = experiment.evaluation.samplers["sde"]
    assert (sampler.sampler, sampler.num_steps, sampler.num_samples) == (
        "euler-maruyama",
        250,
        10_000,
    )
    headline = load_experiment("imagenet256-xl2").evaluation.samplers["sde-cfg"]
    assert (headline.guidance.scale, headline.guidance.high, headline.num_samples) == (
        1.9,
        0.65,
        50_000,
    )
