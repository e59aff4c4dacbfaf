"""From kernels and a plan to object files, C and a library."""
