"""Training: one loop for every alignment loss, exact resume, checkpoints."""
