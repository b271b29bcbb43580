"""Debian's Chromium, driven by Playwright."""

import os
import shutil

PROGRAM = shutil.which("chromium")


def why_not() -> str | None:
    """Why no browser can be started here; None if it can."""
    return None if PROGRAM else "chromium is not there (apt-get install chromium)"


def launch_options() -> dict[str, object]:
    """Of Playwright's ``launch``: root has no sandbox."""
    return {
        "executable_path": PROGRAM,
        "args": ["--no-sandbox"] if os.geteuid() == 0 else [],
    }
