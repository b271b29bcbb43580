"""What several test modules share. No test module imports another one, or the conftest."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
