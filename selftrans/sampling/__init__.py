"""Sampling: sets of images and pictures from a checkpoint."""
