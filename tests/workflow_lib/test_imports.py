"""What the library imports: a dry run must not wait for torch, and its tests need no Snakemake."""

import subprocess
import sys

import pytest

from tests.support import HEAVY, REPOSITORY
from tests.support.programs import imported_by
from workflow.lib.runs import write_records
from workflow.lib.study import Study

PROGRAMS = {"prefetch"}  # which no rule imports


@pytest.mark.slow
def test_the_library_imports_nothing_heavy():
    modules = {path.stem for path in (REPOSITORY / "workflow/lib").glob("[!_]*.py")} - PROGRAMS
    assert {"study", "training", "resources", "plan"} <= modules
    imports = ", ".join(f"workflow.lib.{module}" for module in sorted(modules))
    code = f"import sys, {imports}; print(*{{name.split('.')[0] for name in sys.modules}})"
    words = [sys.executable, "-c", code]
    ended = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert HEAVY.isdisjoint(ended.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (("plan",), "train_segment"),
        (("status",), "self-transcendence"),
        (("clean", "--yes"), "MB deleted"),
    ],
)
def test_a_command_that_needs_no_tensors_imports_nothing_heavy(project, words, printed):
    write_records(Study.load({"experiments": ("tiny",)}))
    (project / "results/tiny/runs/gone/seed0").mkdir(parents=True)
    packages, said = imported_by("--project", project, *words)
    assert printed in said
    assert "rich" in packages
    assert HEAVY.isdisjoint(packages)
