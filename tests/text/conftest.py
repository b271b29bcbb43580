"""Few scenes with captions: their data file, and stores of what a training reads."""

from pathlib import Path

import pytest

from selftrans.config import load_dataset
from tests.support.captions import (
    few_scenes,
    random_features,
    random_latents,
    stored_captions,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="module")
def data_file(place) -> Path:
    return few_scenes(place)


@pytest.fixture(scope="module")
def data(data_file):
    return load_dataset(str(data_file))


@pytest.fixture(scope="module")
def captions(place, data) -> Path:
    return stored_captions(place, data)


@pytest.fixture(scope="module")
def latents(place, data) -> Path:
    return random_latents(place, data)


@pytest.fixture(scope="module")
def tokens(place, data) -> Path:
    return random_features(place, data)
