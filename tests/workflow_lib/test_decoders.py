"""The autoencoder of a checkpoint among the results."""

import pytest

from selftrans.runtime.errors import UserError
from workflow.lib.decoders import autoencoder_of


def test_the_autoencoder_is_that_of_the_checkpoints_experiment(tmp_path, tiny):
    weights = tmp_path / "results/tiny/runs/sit/seed0/checkpoints/4/ema.safetensors"
    weights.parent.mkdir(parents=True)
    (tmp_path / "results/tiny/experiment.yaml").write_text(tiny().read_text())
    assert autoencoder_of(weights) == (str(tmp_path / "results/data/digits/autoencoder"), None)
    for elsewhere in (tmp_path / "ema.safetensors", "/ema.safetensors"):
        with pytest.raises(UserError, match="--autoencoder: is needed"):
            autoencoder_of(type(tmp_path)(elsewhere))
