"""Quantizing a model with data at hand: calibration, what accuracy it costs, and a search within a budget."""
