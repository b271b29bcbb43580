"""Figures in the style of a paper: legible at column width, the same colours for the same run everywhere."""
