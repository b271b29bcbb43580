"""Self-Transcendence: diffusion transformers that teach themselves, without external features.

Importing this package imports nothing heavy. ``selftrans.config`` needs only pydantic; torch
arrives with the first module that computes.
"""

__version__ = "0.1.0"
