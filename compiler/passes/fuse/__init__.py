"""Fusions: what models write out becomes the op it is."""
