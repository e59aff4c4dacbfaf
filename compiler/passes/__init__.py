"""Program to program: clean, fuse, legalize."""
