"""One call of an attention kernel: operands, memory with a guard behind it, and what is meant."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np

from isthmus.codegen.native import Call
from isthmus.kernels.attention_shape import Mask, Scratch
from isthmus.ops.nn import attention

BF16 = np.dtype(ml_dtypes.bfloat16)
GUARD = 777
# Batch, heads, heads that share one of k and v, queries, keys.
SIZES = (
    (1, 2, 1, 1, 1),
    (2, 2, 2, 7, 7),
    (1, 2, 1, 16, 16),
    (1, 4, 2, 17, 33),
    (2, 1, 1, 33, 65),
    (1, 1, 1, 20, 1100),
    (1, 1, 1, 40, 12),
    # A few queries: keys and values are read as they lie.
    (2, 4, 2, 1, 35),
    (1, 2, 1, 2, 1100),
    (1, 4, 4, 3, 64),
    (1, 1, 1, 3, 2),
)


class AttentionRequest:
    """One request: strided q, k and v, scratch with a guard behind it, and the meaning."""

    def __init__(
        self,
        widths: tuple[int, int],
        kind: Mask,
        sizes: tuple[int, int, int, int, int],
        safe: bool,
        causal: bool,
        dtype: np.dtype = BF16,
    ) -> None:
        (width, value_width), (batch, heads, group, queries, keys) = widths, sizes
        random = np.random.default_rng(queries)
        shared = heads // group
        self.q = random.standard_normal((batch, queries, heads, width)).astype(dtype)
        self.k = random.standard_normal((batch, keys, shared, width)).astype(dtype)
        self.v = random.standard_normal((batch, keys, shared, value_width)).astype(dtype)
        self.widths, self.kind, self.sizes, self.safe, self.causal = widths, kind, sizes, safe, causal
        self.mask: np.ndarray | None = None
        if kind == "row":
            self.mask = np.where(random.random((batch, 1, 1, keys)) < 0.3, -3.4e38, 0).astype(np.float32)
        if kind == "full":
            self.mask = random.standard_normal((batch, heads, queries, keys)).astype(np.float32)
        self.scale = 1 / math.sqrt(width)

    def run(
        self, call: Call, scratch: Scratch, stored: type[np.generic] = np.uint16, cut: int = 0
    ) -> np.ndarray:
        """The result, in two calls where it is to be `cut`; q, k and v are `stored` so."""
        (_, value_width), (batch, heads, group, queries, keys) = self.widths, self.sizes
        out = np.full((batch, queries, heads, value_width), GUARD, stored)
        floats = -(-keys // scratch.block) * scratch.block * scratch.per_key + scratch.constant
        memory = np.full(floats + 64, np.nan, np.float32)
        memory[floats:] = GUARD
        strides = [s // a.itemsize for a in (self.q, self.k, self.v) for s in np.array(a.strides)[[0, 2, 1]]]
        masks = [] if self.mask is None else [self.mask]
        if self.mask is not None:
            strides += [s // 4 for s in self.mask.strides[: 3 if self.kind == "full" else 2]]
            if self.kind == "row":
                strides[-1] = 0
        strides += [queries * heads * value_width, value_width, heads * value_width]
        inputs = [
            a.view(stored) if stored is np.uint16 else a.astype(stored, copy=False)
            for a in (self.q, self.k, self.v)
        ]
        sizes = (heads, group, queries, keys)
        for begin, end in ((0, cut), (cut, batch * heads)):
            call(*inputs, *masks, out, memory, self.scale, *sizes, *map(int, strides), begin, end)
        assert (memory[floats:] == GUARD).all(), "wrote beyond the scratch memory"
        return out.view(BF16).astype(np.float32) if stored is np.uint16 else out

    def expected(self) -> np.ndarray:
        """What the op means, [batch, queries, heads, width]; of bf16 rounded to it."""
        mixed = self.q.dtype == BF16
        args = [a.transpose(0, 2, 1, 3) for a in (self.q, self.k, self.v)]
        with np.errstate(all="ignore"):
            found = attention.reference(
                *args,
                *([] if self.mask is None else [self.mask]),
                scale=self.scale,
                safe=self.safe,
                causal=self.causal,
                mixed=mixed,
            )
        rounded: np.ndarray = found.astype(BF16) if mixed else found
        return rounded.astype(np.float32).transpose(0, 2, 1, 3)
