"""Training: one loop for every signal, exact resume, checkpoints."""
