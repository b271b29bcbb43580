"""Figures in the style of a paper: legible at column width, a run has one colour everywhere."""
