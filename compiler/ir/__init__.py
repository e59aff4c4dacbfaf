"""The intermediate representation: dims, types, weights, values, programs, text, verifier, evaluator, rewriter."""
