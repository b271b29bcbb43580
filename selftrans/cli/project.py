"""The project: the folder of the workflow, whose commands are not part of the package."""

import importlib
import sys
from pathlib import Path
from typing import Any

from selftrans.runtime.errors import UserError

MARK = "workflow/lib/commands.py"
"""What tells our Snakefile's folder from another one's."""


def find_project(start: Path) -> Path | None:
    """The nearest folder, ``start`` or one above it, that is a project."""
    folder = start.absolute()
    return next((path for path in (folder, *folder.parents) if _is_project(path)), None)


def _is_project(folder: Path) -> bool:
    return (folder / "Snakefile").is_file() and (folder / MARK).is_file()


def project_folder(project: Path | None) -> Path:
    """The folder of the project that a command works on.

    Args:
        project: what the user named; the nearest one from here upwards, if it is None.

    Raises:
        UserError: there is none.
    """
    folder = find_project(Path()) if project is None else project.absolute()
    if folder is None:
        raise UserError(
            f"{Path().absolute()}: is in no project (allowed: a folder with our Snakefile, or one"
            " below it; or name it: selftrans --project FOLDER ...)"
        )
    if not _is_project(folder):
        raise UserError(f"--project: {folder} has no Snakefile of ours")
    return folder


def workflow_commands(folder: Path) -> Any:
    """The module of a project's commands."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return importlib.import_module("workflow.lib.commands")
