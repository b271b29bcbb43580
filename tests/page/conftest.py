"""One page for all tests here."""

import contextlib
from pathlib import Path

import pytest

from tests.page.experiment import CHANGES, finish
from workflow.lib.page.render import render_page


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Where an experiment has finished, with its page."""
    directory = tmp_path_factory.mktemp("page")
    with contextlib.chdir(directory):
        finished = finish(directory, **CHANGES)
        html = render_page(finished.inputs(), finished.settings())
        Path("results/tiny/index.html").write_text(html, encoding="utf-8")
    return directory


@pytest.fixture(scope="session")
def html(place):
    return (place / "results/tiny/index.html").read_text(encoding="utf-8")
