"""Which numbers of a matrix go, and what the others become to make up for it.

Magnitude; Wanda (M. Sun et al., arXiv 2306.11695): a number counts by the length of what it is multiplied
with, among those of its output; SparseGPT (E. Frantar and D. Alistarh, arXiv 2301.00774): numbers still to
come make up for those that went, by the inverse of the inputs' second moments.
"""

from __future__ import annotations

import numpy as np

from isthmus.ir.types import Array
from isthmus.passes.sparsify.options import Sparsity

DAMPING = 0.01  # of the mean of the diagonal, as the paper has it
BLOCK = 128  # inputs whose numbers are chosen at once, as the paper has it


def pruned(w: Array, asked: Sparsity, gram: Array | None = None) -> Array:
    """`w` [K, N] with the numbers that `asked` lets go as zeros; `gram` [K, K] is the sum of x^T x."""
    if asked.method == "magnitude":
        return np.where(kept(np.abs(w), asked), w, np.zeros_like(w))
    assert gram is not None, "a method that needs data got none"
    if asked.method == "wanda":
        lengths = np.sqrt(np.diag(gram))[:, None]
        each = asked.form == "unstructured"
        return np.where(kept(np.abs(w) * lengths, asked, each_output=each), w, np.zeros_like(w))
    return _sparsegpt(w, asked, gram)


def kept(score: Array, asked: Sparsity, *, each_output: bool = False) -> Array:
    """Which numbers of a matrix [K, N] stay, the highest scores first; of equal ones the later stay.

    Groups and blocks that do not divide the matrix are taken as if it went on with zeros.
    """
    depth, columns = score.shape
    if asked.form == "groups":
        whole = np.pad(score, ((0, -depth % asked.group), (0, 0)), constant_values=-1.0)
        parts = whole.reshape(-1, asked.group, columns)
        order = np.argsort(parts, axis=1, kind="stable")
        stays = np.zeros(parts.shape, np.bool_)
        np.put_along_axis(stays, order[:, asked.group - asked.kept :], True, axis=1)
        return np.asarray(stays.reshape(-1, columns)[:depth])
    if asked.form == "blocks":
        outputs, inputs = asked.outputs, asked.inputs
        whole = np.pad(np.square(score, dtype=np.float64), ((0, -depth % inputs), (0, -columns % outputs)))
        tiles = whole.reshape(whole.shape[0] // inputs, inputs, whole.shape[1] // outputs, outputs)
        which = _highest(tiles.sum(axis=(1, 3)).reshape(1, -1), asked.ratio).reshape(tiles.shape[0], -1)
        return np.asarray(np.repeat(np.repeat(which, inputs, 0), outputs, 1)[:depth, :columns])
    if each_output:
        return np.asarray(_highest(np.ascontiguousarray(score.T), asked.ratio).T)
    return _highest(score.reshape(1, -1), asked.ratio).reshape(score.shape)


def _highest(score: Array, ratio: float) -> Array:
    """In each row all but the share `ratio` of the lowest."""
    order = np.argsort(score, axis=1, kind="stable")
    stays = np.ones(score.shape, np.bool_)
    np.put_along_axis(stays, order[:, : round(ratio * score.shape[1])], False, axis=1)
    return stays


def _sparsegpt(w: Array, asked: Sparsity, gram: Array) -> Array:
    depth = len(w)
    hessian = gram.astype(np.float64)
    dead = np.diag(hessian) == 0
    hessian[dead, dead] = 1
    hessian = hessian + np.eye(depth) * (DAMPING * np.mean(np.diag(hessian)))
    # Upper: row i says how the later rows make up for what went from row i.
    factor = np.linalg.cholesky(np.linalg.inv(hessian)).T
    left = w.astype(np.float64)
    left[dead] = 0
    step = BLOCK // asked.group * asked.group if asked.group else BLOCK // asked.inputs * asked.inputs
    for start in range(0, depth, step):
        stop = min(start + step, depth)
        if asked.form != "groups":
            stays = kept(_loss(left, factor, start, stop), asked)
        errors = np.zeros((stop - start, w.shape[1]))
        for row in range(start, stop):
            if asked.form == "groups" and (row - start) % asked.group == 0:
                # Each group is chosen when its turn comes: what went before has changed it.
                end = min(row + asked.group, stop)
                stays = np.concatenate(
                    [np.ones((row - start, w.shape[1]), np.bool_), kept(_loss(left, factor, row, end), asked)]
                )
            gone = ~stays[row - start]
            errors[row - start] = np.where(gone, left[row], 0) / factor[row, row]
            left[row] = np.where(gone, 0, left[row])
            left[row + 1 : stop] -= factor[row, row + 1 : stop, None] * errors[row - start]
        left[stop:] -= factor[start:stop, stop:].T @ errors
    return left.astype(w.dtype)


def _loss(left: Array, factor: Array, start: int, stop: int) -> Array:
    """What letting go of each number of these rows costs; the square root of it, which orders them alike."""
    return np.asarray(np.abs(left[start:stop]) / np.diag(factor)[start:stop, None])
