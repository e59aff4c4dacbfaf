"""One declaration per op, and the numerics they share.

Numerics, written down once:
- Sums and means of f32 are accumulated in at least f32, in any order; the evaluator uses f64.
- Softmax and normalisation subtract the maximum or the mean first; two passes, never E[x^2] - E[x]^2.
- Rounding is to nearest even. NaN and infinities propagate as in NumPy; min and max return NaN if
  either is.
- Integer arithmetic wraps; integer division truncates towards zero; casting a float out of range is
  undefined.
- f16 and bf16 arithmetic is done in f32 and rounded once per op.
- A kernel is right when it agrees with `Op.reference` within `Op.tolerance`, relative to the largest
  magnitude.
"""

from __future__ import annotations

from collections.abc import Mapping

from isthmus.ir.graph import Op
from isthmus.ops import integer, lines, movement, nn, pointwise, quantize, ragged, reduce

_GROUPS = (pointwise, movement, reduce, lines, nn, ragged, quantize, integer)

OPS: Mapping[str, Op] = {op.name: op for group in _GROUPS for op in group.ALL}
