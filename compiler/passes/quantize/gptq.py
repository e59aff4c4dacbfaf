"""GPTQ: rows of the matrix are rounded one by one, and those still to come make up for the error.

E. Frantar et al., "GPTQ" (arXiv 2210.17323), algorithm 1: the Cholesky factor of the inverse Hessian says
how; its order is by diagonal ("act-order" in the authors' code) where there are no groups.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from isthmus.ir.types import Array
from isthmus.passes.quantize.integers import Grid, Integers, arranged, fit
from isthmus.passes.quantize.options import Scheme

DAMPING = 0.01  # of the mean of the diagonal, as the paper has it
BLOCK = 32  # rows between two updates of all the others: what fits a cache


def round_by_gptq(w: Array, scheme: Scheme, gram: Array) -> Integers:
    """`w` f32 [K, N] as integers whose product with rows x is closest; `gram` [K, K] is the sum of x^T x.

    What is zero stays zero: products leave it out. It is an error like others of what came to it meanwhile
    (E. Frantar and D. Alistarh, "SparseGPT", arXiv 2301.00774, section 3.5).
    """
    depth = len(w)
    hessian = gram.astype(np.float64)
    dead = np.diag(hessian) == 0
    hessian[dead, dead] = 1
    hessian = hessian + np.eye(depth) * (DAMPING * np.mean(np.diag(hessian)))
    # Groups are of neighbours; a whole column has no order of its own.
    order = np.arange(depth) if scheme.group else np.argsort(-np.diag(hessian), kind="stable")
    inverse = np.linalg.inv(hessian[np.ix_(order, order)])
    # Upper: row i says how the later rows make up for an error in row i.
    factor = np.linalg.cholesky(inverse).T
    left = w[order].astype(np.float64)
    present = left != 0
    grid = fit(w, scheme, np.diag(gram))
    q = np.zeros(w.shape, grid.dtype.numpy)
    for start in range(0, depth, BLOCK):
        stop = min(start + BLOCK, depth)
        errors = np.zeros((stop - start, w.shape[1]))
        for row in range(start, stop):
            one = _row_grid(grid, scheme, int(order[row]))
            q[row] = one.integers(np.where(present[row], left[row], 0).astype(np.float32))
            error = (left[row] - one.numbers(q[row])) / factor[row, row]
            left[row + 1 : stop] -= factor[row, row + 1 : stop, None] * error
            errors[row - start] = error
        left[stop:] -= factor[start:stop, stop:].T @ errors
    back = np.empty_like(q)
    back[order] = q
    return Integers(arranged(back, scheme), grid)


def _row_grid(grid: Grid, scheme: Scheme, row: int) -> Grid:
    """The grid of one row of the matrix: scales [N]."""
    if not scheme.group:
        return grid
    part = grid.part(row // scheme.group)
    return replace(part, scale=part.scale[0], zero=None if part.zero is None else part.zero[0])
