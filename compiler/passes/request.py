"""What a user asks of a program's outputs before it is compiled: fewer of them, or no padding in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from isthmus.errors import Code, ModelError, Problem, nearest
from isthmus.ir.graph import Graph, Program, Value
from isthmus.ir.types import DType
from isthmus.ops.movement import full, reshape
from isthmus.ops.pointwise import equal, where


def only(program: Program, names: Sequence[str]) -> Program:
    """`program` with the outputs `names` alone, in the order in which it has them.

    Raises ModelError (bad-option) for every name that is none.
    """
    known = [name for name, _ in program.main.outputs]
    problems = [
        Problem(Code.BAD_OPTION, f"the model has no output {name!r}", "--only", nearest(name, known))
        for name in names
        if name not in known
    ]
    if problems:
        raise ModelError(problems)

    def chosen(graph: Graph) -> Graph:
        return replace(graph, outputs=tuple(o for o in graph.outputs if o[0] in names))

    return program if not names else program.map_graphs(chosen)


def drop_padding(program: Program) -> Program:
    """`program` whose outputs of [batch, position, ..] are 0 wherever its mask is: padding is not computed.

    The mask is its one input of [batch, position] with "mask" in its name. Raises ModelError (bad-option)
    when there is none, or several, or no output has a row for each position.
    """
    graph, mask = program.main, padding_mask(program)
    outputs = tuple((name, _dropped(value, mask)) for name, value in graph.outputs)
    if all(new is old for (_, new), (_, old) in zip(outputs, graph.outputs, strict=True)):
        text = f"no output has a row for each position of {mask.attr('name')!r}: nothing shows padding"
        raise ModelError(Problem(Code.BAD_OPTION, text, "--padding drop"))
    return program.with_main(graph.with_outputs(tuple(value for _, value in outputs)))


def padding_mask(program: Program) -> Value:
    """The input that says what padding is. Raises ModelError (bad-option) if it cannot be told."""
    masks = [v for v in program.main.inputs if "mask" in v.attr("name") and v.t.rank == 2]
    if len(masks) != 1:
        found = ", ".join(v.attr("name") for v in masks) or "none"
        text = f"padding is said by the one input of two axes with 'mask' in its name; found: {found}"
        raise ModelError(Problem(Code.BAD_OPTION, text, "--padding drop"))
    return masks[0]


def has_rows(value: Value, mask: Value) -> bool:
    """Whether `value` is computed, as numbers, for each position of `mask`."""
    return not value.is_leaf and value.dtype.is_float and value.t.rank > 2 and value.shape[:2] == mask.shape


def _dropped(value: Value, mask: Value) -> Value:
    if not has_rows(value, mask):
        return value
    wide = reshape(mask, shape=(*mask.shape, *(1 for _ in value.shape[2:])))
    zero = full(shape=(), value=0.0, dtype=value.dtype)
    if mask.dtype is DType.BOOL:
        return where(wide, value, zero, loc=value.loc)
    padding = equal(wide, full(shape=(), value=0.0, dtype=mask.dtype))
    return where(padding, zero, value, loc=value.loc)
