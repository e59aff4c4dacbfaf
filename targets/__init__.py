"""One module per chip family, each with a `TARGETS` tuple; found by folder or by entry point."""
