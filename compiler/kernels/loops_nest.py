"""What a loop nest computes, as data: expressions over strided operands, and the loops around them.

A nest is text as much as it is a tree: `listing` puts it in steps that each name earlier ones, a step
that occurs twice is there once, and the text of that list determines the symbol of the kernel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias, get_args

from isthmus.errors import CompilerBug
from isthmus.ir.graph import Trait
from isthmus.ir.types import DType
from isthmus.ops import OPS

Inner: TypeAlias = Literal["unit", "zero", "any"]
Loop: TypeAlias = Literal["kept", "reduced"]
Fold: TypeAlias = Literal["sum", "max", "min", "prod"]


@dataclass(frozen=True, slots=True)
class Load:
    """The element of `operand` at the loop variables: base + sum(variable * stride)."""

    operand: int


@dataclass(frozen=True, slots=True)
class Gather:
    """Like `Load`, plus the gather stride times each index. Negative indices count from the end.

    An index outside [-extent, extent) is a fault, and 0 is read instead.
    """

    operand: int
    indices: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Index:
    """The variable of a loop as a number."""

    loop: int
    dtype: DType


@dataclass(frozen=True, slots=True)
class Scalar:
    """A constant."""

    value: float | int | bool
    dtype: DType


@dataclass(frozen=True, slots=True)
class Parameter:
    """A number given at run time: `extents[number of loops + slot]`."""

    slot: int
    dtype: DType


@dataclass(frozen=True, slots=True)
class Reduced:
    """The result of the reduction, in `finish`; of the element type of the body."""


@dataclass(frozen=True, slots=True)
class Apply:
    """A pointwise op of `isthmus.ops.OPS`; `dtype` is that of the result."""

    op: str
    args: tuple[Node, ...]
    dtype: DType


Node: TypeAlias = Load | Gather | Index | Scalar | Parameter | Reduced | Apply


@dataclass(frozen=True, slots=True)
class Operand:
    """A strided array. `inner` is its stride along the innermost loop: 1, 0, or known at run time only."""

    dtype: DType
    inner: Inner


@dataclass(frozen=True)
class Nest:
    """output[kept loops] = finish(fold over the reduced loops of body).

    Loops go from the outermost inwards: kept ones, then reduced ones, then at most one more kept one.
    `fold` is None exactly when no loop is reduced; `finish` may then not be given. A fold of nothing is
    0, 1, or the least or greatest number. Loads in `finish` are at the kept loops' variables.
    Sums and products of bool are `or` and `and`.
    """

    operands: tuple[Operand, ...]
    output: Operand
    loops: tuple[Loop, ...]
    body: Node
    fold: Fold | None = None
    finish: Node | None = None

    @cached_property
    def steps(self) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
        """The steps of the body and of `finish` (none when there is no `finish`)."""
        body = listing(self, self.body)
        finish = () if self.finish is None else listing(self, self.finish, body[-1].dtype)
        return body, finish

    @property
    def innermost_kept(self) -> bool:
        return bool(self.loops) and self.loops[-1] == "kept"

    @property
    def unit_loops(self) -> tuple[int, ...]:
        """The loops whose iterations are units of work: all kept ones but an innermost."""
        last = len(self.loops) - 1 if self.innermost_kept else len(self.loops)
        return tuple(i for i in range(last) if self.loops[i] == "kept")

    @property
    def reduced_loops(self) -> tuple[int, ...]:
        return tuple(i for i, kind in enumerate(self.loops) if kind == "reduced")


@dataclass(frozen=True, slots=True)
class Step:
    """One node of an expression, its arguments given as positions of earlier steps."""

    node: Node
    args: tuple[int, ...]
    dtype: DType

    def __str__(self) -> str:
        args = " ".join(f"%{a}" for a in self.args)
        match self.node:
            case Load(operand=operand):
                return f"{self.dtype} load a{operand}"
            case Gather(operand=operand):
                return f"{self.dtype} gather a{operand} {args}"
            case Index(loop=loop):
                return f"{self.dtype} index {loop}"
            case Scalar(value=value):
                return f"{self.dtype} {value!r}"
            case Parameter(slot=slot):
                return f"{self.dtype} parameter {slot}"
            case Reduced():
                return f"{self.dtype} reduced"
            case Apply(op=op):
                return f"{self.dtype} {op} {args}"


def listing(nest: Nest, root: Node, reduced: DType | None = None) -> tuple[Step, ...]:
    """The steps that compute `root`, arguments before their users, each distinct step once, `root` last.

    `reduced` is the element type of `Reduced()`. Takes time linear in the number of node objects.
    """
    steps: list[Step] = []
    place: dict[tuple[object, ...], int] = {}
    done: dict[int, int] = {}  # by object identity: hashing a node would walk all below it

    def visit(node: Node) -> int:
        if id(node) in done:
            return done[id(node)]
        args = tuple(map(visit, arguments(node)))
        step = Step(node, args, _dtype(nest, node, reduced))
        # Text, because 1 == 1.0 == True and 0.0 == -0.0.
        key = (str(step),)
        if key not in place:
            place[key] = len(steps)
            steps.append(step)
        done[id(node)] = place[key]
        return done[id(node)]

    visit(root)
    return tuple(steps)


def arguments(node: Node) -> tuple[Node, ...]:
    """The nodes that `node` is computed from."""
    match node:
        case Apply(args=args):
            return args
        case Gather(indices=indices):
            return indices
        case _:
            return ()


def _dtype(nest: Nest, node: Node, reduced: DType | None) -> DType:
    match node:
        case Load(operand=operand) | Gather(operand=operand):
            return nest.operands[operand].dtype
        case Reduced():
            if reduced is None:
                raise CompilerBug("Reduced() outside of finish")
            return reduced
        case _:
            return node.dtype


def listings(nest: Nest) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """The steps of the body and of `finish` (none when there is no `finish`)."""
    return nest.steps


def gather_counts(nest: Nest) -> tuple[int, ...]:
    """For each operand, the number of indices of its gathers: so many (extent, stride) pairs it has."""
    counts = [0] * len(nest.operands)
    for step in _all_steps(nest):
        if isinstance(step.node, Gather):
            counts[step.node.operand] = len(step.args)
    return tuple(counts)


def _all_steps(nest: Nest) -> Iterator[Step]:
    for steps in listings(nest):
        yield from steps


def check(nest: Nest) -> None:
    """Raises CompilerBug when the nest breaks a rule of `Nest`."""
    kinds = " ".join(nest.loops)
    reduced = nest.reduced_loops
    last = len(nest.loops) - 1 if nest.innermost_kept else len(nest.loops)
    if reduced and reduced != tuple(range(len(nest.unit_loops), last)):
        raise CompilerBug(f"loops must be kept, reduced, then at most one kept: {kinds}")
    if (nest.fold is None) != (not reduced) or (nest.fold is not None and nest.fold not in get_args(Fold)):
        raise CompilerBug(f"fold {nest.fold} over loops {kinds}")
    if nest.finish is not None and not reduced:
        raise CompilerBug("finish without a reduction")
    body, finish = listings(nest)
    if (finish or body)[-1].dtype is not nest.output.dtype:
        raise CompilerBug(f"the output is {nest.output.dtype}, the expression {(finish or body)[-1].dtype}")
    arity: dict[int, int] = {}
    for step in (*body, *finish):
        _check_step(nest, step, arity)


def _check_step(nest: Nest, step: Step, arity: dict[int, int]) -> None:
    match step.node:
        case Index(loop=loop) if not 0 <= loop < len(nest.loops):
            raise CompilerBug(f"no loop {loop}")
        case Apply(op=op, args=args):
            known = OPS.get(op)
            if known is None or Trait.POINTWISE not in known.traits or len(args) != known.arity[0]:
                raise CompilerBug(f"{op} of {len(args)} arguments is not a pointwise op")
        case Gather(operand=operand):
            if arity.setdefault(operand, len(step.args)) != len(step.args):
                raise CompilerBug(f"operand {operand} is gathered by different numbers of indices")
        case _:
            pass


def text(nest: Nest) -> str:
    """The nest in words; two nests of one text are the same."""
    lines = [f"loops {' '.join(nest.loops)}"]
    lines += [f"a{i}: {a.dtype} {a.inner}" for i, a in enumerate(nest.operands)]
    body, finish = listings(nest)
    lines += [f"%{i} = {step}" for i, step in enumerate(body)]
    if nest.fold:
        lines.append(f"fold {nest.fold}")
    lines += [f"%{i} = {step}" for i, step in enumerate(finish)]
    lines.append(f"y: {nest.output.dtype} {nest.output.inner}")
    return "\n".join(lines) + "\n"


NAMED_OPS = 4
DIGITS = 16  # of a digest: objects are kept under their symbols


def symbol(nest: Nest) -> str:
    """A C name: what the nest does, as far as a few words tell, and a digest of its text."""
    words: list[str] = []
    for step in _all_steps(nest):
        word = (
            step.node.op
            if isinstance(step.node, Apply)
            else "gather"
            if isinstance(step.node, Gather)
            else ""
        )
        if word and word not in words:
            words.append(word)
    if nest.fold:
        words.append(f"reduce_{nest.fold}")
    digest = hashlib.sha256(text(nest).encode()).hexdigest()[:DIGITS]
    return "_".join(("loops", *(words[:NAMED_OPS] or ["copy"]), digest))
