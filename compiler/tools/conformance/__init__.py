"""The conformance kit: what a chip has to compute right, and how right it does."""
