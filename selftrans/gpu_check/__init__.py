"""What must hold on a GPU, and what it reaches: ``selftrans check-gpu``."""
