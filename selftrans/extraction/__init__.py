"""Extraction: images -> latents, images -> an encoder's patch tokens, on any number of processes."""
