"""The command ``selftrans``; a command imports what it needs when it is called."""

from selftrans.cli.table import main

__all__ = ["main"]
