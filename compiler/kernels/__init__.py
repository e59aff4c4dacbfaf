"""Kernels: plain C functions written as TIR with `builder.Builder`, one file per family."""
