"""Methods and backbones in a user's file are trained, protected and refused as built-in ones."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from selftrans.api import BatchSource, LatentStore, build_model, load_backbone, load_experiment
from selftrans.config import ConfigError
from selftrans.models.weights import load_teacher
from selftrans.runtime.errors import Interrupted, UserError
from selftrans.sampling.latents import SampleNoise, sample_latents
from selftrans.training.freeze import freeze_teacher
from selftrans.training.progress import HISTORY_COLUMNS
from tests.support import REPOSITORY
from tests.support.documents import example_method
from tests.support.experiments import TINY
from tests.support.random_models import randomise
from tests.support.trainings import StopAt, assert_close, assert_equal, command, everything, run

METHOD = "my_methods.py:MeanTeacher"
LAYERSYNC = {"method": "layersync", "student_depth": 1, "teacher_depth": 3}
BACKBONE = '''
"""A backbone of one's own: SiT with one more factor on the velocity, and a key for its start."""

import torch

from selftrans.config import BackboneConfig
from selftrans.models.shape import SiTShape
from selftrans.models.sit import SiT


class ScaledSiT(SiT):
    def __init__(self, shape, start):
        super().__init__(shape)
        self.scale = torch.nn.Parameter(torch.full((), start))

    def forward(self, x, t, y):
        return self.scale * super().forward(x, t, y)

    def with_features(self, x, t, y, depths):
        velocity, features = super().with_features(x, t, y, depths)
        return self.scale * velocity, features


class Scaled(BackboneConfig):
    start: float = 1.0
    """Where the factor begins."""

    def build(self, latent_shape, num_classes):
        return ScaledSiT(SiTShape.of(self, latent_shape, num_classes), self.start)


class Wrong(BackboneConfig):
    def build(self, latent_shape, num_classes):
        return torch.nn.Linear(1, 1)
'''


@pytest.fixture
def own(tmp_path):
    """Write a user's files, and an experiment with a run that names one of them."""
    (tmp_path / "my_methods.py").write_text(example_method())
    (tmp_path / "my_models.py").write_text(BACKBONE)

    def write(name="mine", **settings):
        path = tmp_path / "mine.yaml"
        runs = {**TINY["runs"], name: settings}
        path.write_text(yaml.safe_dump({**TINY, "name": "mine", "runs": runs}, sort_keys=False))
        return path

    return write


def test_the_example_is_its_formula(own, manifest):
    """The squared distance of the blocks of model and EMA model, in float64."""
    experiment = load_experiment(own(alignment={"method": METHOD, "depth": 2, "weight": 3.0}))
    model = randomise(build_model(experiment, "mine", LatentStore(manifest), 0)).double()
    ema_model = randomise(build_model(experiment, "sit", LatentStore(manifest), 0).backbone, 1)
    model.alignment.set_ema_model(ema_model.double())
    source = BatchSource(LatentStore(manifest), experiment.training, seed=0)
    batch = source.draw(step=0, positions=range(4))
    batch = replace(batch, x_BCHW=batch.x_BCHW.double(), t_B=batch.t_B.double())
    inputs = batch.x_BCHW, batch.t_B, batch.dropped_condition_B
    x, y = (net.features(*inputs, (2,))[2] for net in (model.backbone, ema_model))
    loss, cosines = model.alignment(batch, {2: x})
    torch.testing.assert_close(loss.double(), 3 * (x - y).square().mean(), rtol=1e-5, atol=1e-8)
    assert len(cosines) == 4


@pytest.mark.slow
def test_a_method_in_an_own_file_resumes_to_the_bit(own, tmp_path, manifest):
    path = own(alignment=[{"method": METHOD, "depth": 2}, LAYERSYNC])
    run(path, "mine", tmp_path / "whole", manifest, until=8)
    with pytest.raises(Interrupted):
        run(path, "mine", tmp_path / "cut", manifest, until=8, stop=StopAt(3))
    run(path, "mine", tmp_path / "cut", manifest, until=8)
    assert_equal(everything(tmp_path / "whole", 8), everything(tmp_path / "cut", 8))
    history = everything(tmp_path / "whole", 8)[0]["history"]
    assert history[:, HISTORY_COLUMNS.index("alignment")].any()
    assert (history[:, HISTORY_COLUMNS.index("cosine")] > 0.5).all()  # the EMA model is near


@pytest.mark.slow
def test_two_processes_train_it_as_one_does(own, tmp_path, manifest):
    path = own(alignment={"method": METHOD, "depth": 2})
    run(path, "mine", tmp_path / "one", manifest, until=4)
    ended = command(path, "mine", tmp_path / "two", manifest, 4, None, "--processes", 2)
    assert ended.returncode == 0, ended.stderr
    assert_close(*(everything(tmp_path / name, 4)[0] for name in ("one", "two")))


@pytest.mark.slow
def test_its_source_is_kept_and_protects_the_run(own, tmp_path, manifest):
    path = own(alignment={"method": METHOD, "depth": 2})
    run(path, "mine", tmp_path / "run", manifest, until=4)
    definition = json.loads((tmp_path / "run/definition.json").read_text())
    (term,) = definition["alignment"]
    assert (term["class"], term["depth"]) == ("MeanTeacher", 2)
    assert "method" not in term  # wherever the file lies
    assert (tmp_path / "run/source/my_methods.py").read_text() == example_method()
    program = (
        "import sys\nfrom selftrans.config import load_experiment\n"
        "from selftrans.training.definition import check_definition\nfrom pathlib import Path\n"
        "check_definition(Path(sys.argv[2]), load_experiment(sys.argv[1]), 'mine', 0)\n"
    )

    def checked():
        words = [sys.executable, "-c", program, path, tmp_path / "run"]
        return subprocess.run(list(map(str, words)), cwd=REPOSITORY, capture_output=True, text=True)

    source = tmp_path / "my_methods.py"
    source.write_text(
        "# a comment\n"
        + example_method().replace("    depth: PositiveInt", "    depth:  PositiveInt")
    )
    assert checked().returncode == 0
    source.write_text(example_method().replace("student, target, len", "2 * student, target, len"))
    assert "alignment.0.source (trained: " in checked().stderr


@pytest.mark.parametrize(
    ("alignment", "message"),
    [
        ({"method": METHOD, "depth": 5}, "depth: 5 is beyond the model's 4 blocks"),
        ({"method": METHOD, "dept": 2}, r"dept: unknown key \(nearest: depth\)"),
        ({"method": METHOD, "depth": "two"}, "depth: input should be a valid integer, found 'two'"),
        ({"method": "nowhere.py:X"}, r"method: .*nowhere\.py:X' cannot be loaded \(FileNotFound"),
        ({"method": "my_methods.py:Nothing"}, "method: .* has no attribute 'Nothing'"),
        ({"method": "my_methods.py:PositiveInt"}, "is not a subclass of .*AlignmentMethod"),
        (
            [LAYERSYNC, {"method": METHOD, "depth": 0}],
            r"alignment\.1\.depth: input should be great",
        ),
    ],
)
def test_its_keys_are_checked_like_any_others(own, alignment, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_experiment(own(alignment=alignment))
    assert str(caught.value).splitlines()[0].split(": ")[1].startswith("runs.mine.alignment")


@pytest.mark.slow
def test_an_own_backbone_is_trained_sampled_and_followed(own, tmp_path, manifest):
    model = {"kind": "my_models.py:Scaled", "start": 0.5}
    path = own(model=model)
    run(path, "mine", tmp_path / "run", manifest, until=4)
    weights = tmp_path / "run/checkpoints/4/raw.safetensors"
    backbone, metadata = load_backbone(weights, torch.device("cpu"))
    assert type(backbone).__name__ == "ScaledSiT"
    assert metadata.own_backbone["start"] == 0.5
    assert 0 < abs(backbone.scale.item() - 0.5) < 0.1  # trained from where its key says
    settings = load_experiment(path).evaluation.samplers["ode"]
    labels = torch.zeros(2, dtype=torch.long)
    noise = SampleNoise(0, range(2), (4, 8, 8), torch.device("cpu"))
    assert np.isfinite(
        sample_latents(backbone, settings, labels, noise, torch.tensor([10])).numpy()
    ).all()
    freeze_teacher(weights, 3, tmp_path / "teacher.safetensors")
    teacher, frozen = load_teacher(tmp_path / "teacher.safetensors", torch.device("cpu"))
    assert (frozen.shape.depth, len(teacher.blocks)) == (3, 3)
    x, t, y = torch.randn(2, 4, 8, 8), torch.rand(2), labels
    expected = backbone.features(x, t, y, (3,))[3]
    torch.testing.assert_close(teacher.features(x, t, y, (3,))[3], expected, rtol=0, atol=0)
    definition = json.loads((tmp_path / "run/definition.json").read_text())
    assert definition["model"]["class"] == "Scaled"
    assert definition["model"]["start"] == 0.5
    assert (tmp_path / "run/source/my_models.py").is_file()


def test_a_backbone_that_is_none_is_refused(own, manifest):
    experiment = load_experiment(own(model={"kind": "my_models.py:Wrong"}))
    with pytest.raises(UserError, match=r"model\.kind: .* builds a Linear \(allowed: .*SiT"):
        build_model(experiment, "mine", LatentStore(manifest), 0)
    with pytest.raises(ConfigError, match=r"model\.kind: 'unet' is unknown \(allowed: 'sit', 'mm"):
        load_experiment(own(model={"kind": "unet"}))
