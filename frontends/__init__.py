"""One folder per input format; each turns a file into a `Program`."""
