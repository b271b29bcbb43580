"""What several test modules share. No test module imports another one, or the conftest."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "diffusers",
    "accelerate",
    "matplotlib",
    "pandas",
    "scipy",
    "sklearn",
    "snakemake",
    "transformers",
}
"""Packages that take long to import."""
