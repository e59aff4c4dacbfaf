"""One importer function per ONNX operator, in files by group; every file lists its own in `OPERATORS`.

Keys are operator names, with `domain::` in front outside the standard domain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from isthmus.errors import CompilerBug
from isthmus.frontends.onnx.node import Importer
from isthmus.frontends.onnx.operators import (
    activation,
    attention,
    bits,
    choose,
    col2im,
    control,
    conv,
    einsum,
    grid_sample,
    index,
    microsoft_activation,
    microsoft_attention,
    microsoft_group_query,
    microsoft_matmul,
    microsoft_moe,
    microsoft_norm,
    microsoft_position,
    microsoft_quantized,
    movement,
    ngrams,
    nn,
    pointwise,
    pool,
    quantize,
    quantized_products,
    recurrent,
    reduce,
    resize,
    scatter,
    sequences,
    shape,
    spatial_norm,
    spectral,
    training,
    trigonometry,
)


def _merged(groups: Iterable[Mapping[str, Importer]]) -> Mapping[str, Importer]:
    found: dict[str, Importer] = {}
    for group in groups:
        if twice := found.keys() & group.keys():
            raise CompilerBug(f"two importers for {sorted(twice)}")
        found.update(group)
    return found


_GROUPS = (
    activation,
    attention,
    bits,
    choose,
    col2im,
    control,
    conv,
    einsum,
    grid_sample,
    index,
    microsoft_activation,
    microsoft_attention,
    microsoft_group_query,
    microsoft_matmul,
    microsoft_moe,
    microsoft_norm,
    microsoft_position,
    microsoft_quantized,
    movement,
    ngrams,
    nn,
    pointwise,
    pool,
    quantize,
    quantized_products,
    recurrent,
    reduce,
    resize,
    scatter,
    sequences,
    shape,
    spatial_norm,
    spectral,
    training,
    trigonometry,
)

OPERATORS: Mapping[str, Importer] = _merged(group.OPERATORS for group in _GROUPS)
