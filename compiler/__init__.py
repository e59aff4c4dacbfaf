"""Isthmus: an ahead-of-time Transformer compiler."""
