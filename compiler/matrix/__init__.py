"""The matrix: M models on N chips as one build. Read `build.py` first."""
