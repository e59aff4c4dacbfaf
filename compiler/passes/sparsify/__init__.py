"""Matrices with zeros: found, made, and used where that is faster."""
