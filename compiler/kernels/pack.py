"""Packing at run time: the second factor of a product of two activations."""

from __future__ import annotations

from isthmus.kernels.builder import Builder
from isthmus.kernels.gemm import panel_width
from isthmus.kernels.kernel import Kernel
from isthmus.kernels.panels import copy_panel, gather_panel, transpose_panel
from isthmus.target import Target

SYMBOL = "pack_panels_f32"


def kernel(target: Target) -> Kernel:
    """The panels [panel_begin, panel_end) of b[k, n], as `gemm.pack` makes them, from any strides.

    `void pack_panels_f32(b, panels, k, n, stride_k, stride_n, panel_begin, panel_end)`. Fast where either
    stride is 1 (a matrix as it is, or transposed).
    """
    return Kernel.deferred(target.symbol(SYMBOL), lambda: _kernel(target))


def _kernel(target: Target) -> Kernel:
    k = Builder(SYMBOL, target)
    width = panel_width(target)
    b, panels = k.input("b"), k.output("panels")
    depth, columns = k.size("k"), k.size("n")
    stride_k, stride_n = k.size("stride_k"), k.size("stride_n")
    panel_begin, panel_end = k.size("panel_begin"), k.size("panel_end")
    with k.loop("p", panel_begin, panel_end) as p:
        first = k.let("first", p * width)
        left = k.let("left", columns - first)
        source = b.at(first * stride_n, "source")
        panel = panels.at(first * depth, "panel")
        k.choose(
            [
                (
                    k.equal(stride_n, 1),
                    lambda: copy_panel(k, source, panel, depth, left, stride_k, width),
                ),
                (
                    k.equal(stride_k, 1),
                    lambda: transpose_panel(k, source, panel, depth, left, stride_n, width),
                ),
            ],
            lambda: gather_panel(k, source, panel, depth, left, (stride_k, stride_n), width),
        )
    return k.finish()
