"""Notebooks, stored with their outputs from ``digits``; see ``notebooks.execute``."""
