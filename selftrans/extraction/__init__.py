"""Extraction: images -> latents, images -> patch tokens, on any number of processes."""
