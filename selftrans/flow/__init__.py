"""The flow between data and noise: interpolants and samplers."""
