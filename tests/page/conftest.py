"""One page for all tests here."""

import contextlib
from pathlib import Path

import pytest

from tests.page.experiment import CHANGES, finish
from workflow.lib.page.render import render_page


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Where an experiment has finished, with its page."""
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="session")
def finished(place):
    """The experiment; its paths are below ``place``."""
    with contextlib.chdir(place):
        return finish(place, **CHANGES)


@pytest.fixture(scope="session")
def html(place, finished):
    """Its page, which is written where the workflow writes it."""
    with contextlib.chdir(place):
        text = render_page(finished.inputs(), finished.settings())
        Path("results/tiny/index.html").write_text(text, encoding="utf-8")
    return text
