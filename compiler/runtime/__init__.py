"""Run a bundle. Needs NumPy and nothing of the compiler."""
