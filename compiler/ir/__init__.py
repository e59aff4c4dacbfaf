"""The intermediate representation: dims, types, values, programs, text, verifier, evaluator, rewriter."""
