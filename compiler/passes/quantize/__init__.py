"""Products with weights, and maybe activations, of few bits."""
