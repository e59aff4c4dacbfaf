"""The bundle: what compiling produces and what the runtime loads. docs/bundle-format.md describes it."""
