"""Results drawn as PNG. Nothing is computed here, and matplotlib is imported nowhere else."""
