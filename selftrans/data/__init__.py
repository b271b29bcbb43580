"""From image files to latents: sources, and the latent store that training reads."""
