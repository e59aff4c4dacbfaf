"""Hidden channels and heads taken out whole: matrices, and the graph around them, become smaller."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from isthmus.ir.graph import Graph, Program, Value, constant, use_counts, weight_of
from isthmus.ir.rewrite import Event, Rule, Watch
from isthmus.ir.types import Array
from isthmus.ops.movement import reshape, slice_, transpose
from isthmus.ops.nn import attention, linear
from isthmus.passes.constants import array_of, is_constant, name_of
from isthmus.passes.quantize.layers import products
from isthmus.target import Target

# How a value is made anew: from the new forms of the values before it.
Make = Callable[[Mapping[Value, Value]], Value]
SPLIT = (0, 2, 1, 3)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Of the inputs of each layer, by its name: the root of the sum of squares over real requests."""

    of: Mapping[str, Array] = field(repr=False)

    def __str__(self) -> str:
        return "data"


@dataclass(frozen=True, slots=True)
class Shrink:
    """Take the share `ratio` of hidden channels (`channels`) or of heads out of the layers that allow it.

    What goes is what counts least: the length of what makes it times that of what uses it; with `lengths`,
    what real requests put there times the latter.
    """

    what: str
    ratio: float
    lengths: Lengths | None = None

    @property
    def name(self) -> str:
        return f"shrink-{self.what}"

    @property
    def rules(self) -> Sequence[Rule]:
        return ()

    def __call__(self, program: Program, target: Target, watch: Watch) -> Program:
        return program.with_main(self._graph(program.main, watch))

    def _graph(self, graph: Graph, watch: Watch) -> Graph:
        uses = use_counts(graph)
        names = {value: name for name, value in products(graph).items()}
        makes: dict[Value, Make] = {}
        for node in graph.nodes():
            if node.op is not linear or weight_of(node.args[1]) is None:
                continue
            lengths = None if self.lengths is None else self.lengths.of.get(names[node])
            find = self._channels if self.what == "channels" else self._heads
            found = find(graph, node, uses, lengths)
            if isinstance(found, str):
                if found:
                    watch(Event(self.name, node, found))
                continue
            if makes.keys() & found.keys():
                watch(Event(self.name, node, "what is before it shrinks already"))
                continue
            makes.update(found)
            watch(Event(self.name, node))
        if not makes:
            return graph
        done: dict[Value, Value] = {}
        for node in graph.nodes():
            args = tuple(done.get(a, a) for a in node.args)
            if node in makes:
                done[node] = makes[node](done)
            elif any(a is not b for a, b in zip(args, node.args, strict=True)):
                done[node] = replace(node, args=args)
        return graph.with_outputs(tuple(done.get(v, v) for _, v in graph.outputs))

    def _channels(
        self, graph: Graph, node: Value, uses: Mapping[Value, int], lengths: Array | None
    ) -> dict[Value, Make] | str:
        """The product before `node`, and `node`, with fewer channels between them; or why not."""
        before = node.args[0]
        if before.op is not linear:
            return ""
        if len(before.args) != 3 or uses[before] != 1 or weight_of(before.args[1]) is None:
            return "what is between the two products is used elsewhere"
        if not is_constant(before.args[2]):
            return "its bias is not a constant"
        first, bias, second = (array_of(v) for v in (before.args[1], before.args[2], node.args[1]))
        made = np.linalg.norm(first, axis=0) if lengths is None else lengths
        stays = _highest(made * np.linalg.norm(second, axis=1), self.ratio)
        return {
            before: lambda done: linear(
                done.get(before.args[0], before.args[0]),
                _smaller(before.args[1], first[:, stays]),
                _smaller(before.args[2], bias[stays]),
                activation=before.attr("activation"),
                loc=before.loc,
            ),
            node: lambda done: _product(node, done[before], second[stays], done),
        }

    def _heads(
        self, graph: Graph, node: Value, uses: Mapping[Value, int], lengths: Array | None
    ) -> dict[Value, Make] | str:
        """The heads before `node`, which joins them, and what splits them; or why not."""
        joined = node.args[0]
        back = joined.args[0] if joined.op is reshape else None
        if back is None or back.op is not transpose or back.args[0].op is not attention:
            return ""
        core = back.args[0]
        heads, width = core.shape[1], core.shape[3]
        chain = (joined, back, core)
        if back.attr("perm") != SPLIT or not isinstance(heads, int) or not isinstance(width, int):
            return "its heads are arranged otherwise"
        if any(uses[v] != 1 for v in chain) or joined.shape[-1] != heads * width:
            return "its heads are used elsewhere"
        if any(mask.shape[-3:-2] not in ((), (1,)) for mask in core.args[3:]):
            return "its mask is not the same for all heads"
        splits = [_split(v, heads, uses) for v in core.args[:3]]
        sources = {parts[0].args[0] for parts in splits if parts is not None}
        if None in splits or len(sources) != 1:
            return "its queries, keys and values do not come from one product"
        (wide,) = sources
        if wide.op is not linear or len(wide.args) != 3 or weight_of(wide.args[1]) is None or uses[wide] != 3:
            return "its queries, keys and values do not come from one product"
        if not is_constant(wide.args[2]) or wide.attr("activation") != "none":
            return "its queries, keys and values do not come from one product"
        whole, bias, out = (array_of(v) for v in (wide.args[1], wide.args[2], node.args[1]))
        begins = [parts[0].attr("starts")[-1] for parts in splits if parts is not None]
        values = whole[:, begins[2] : begins[2] + heads * width]
        made = np.linalg.norm(values, axis=0) if lengths is None else lengths
        each = (made * np.linalg.norm(out, axis=1)).reshape(heads, width)
        stays = np.flatnonzero(_highest(np.linalg.norm(each, axis=1), self.ratio))
        inner = (stays[:, None] * width + np.arange(width)).reshape(-1)
        columns = np.concatenate([begin + inner for begin in begins])
        makes: dict[Value, Make] = {
            wide: lambda done: linear(
                done.get(wide.args[0], wide.args[0]),
                _smaller(wide.args[1], whole[:, columns]),
                _smaller(wide.args[2], bias[columns]),
                loc=wide.loc,
            ),
            core: lambda done: replace(
                core,
                args=tuple(done.get(a, a) for a in core.args),
                type=core.t.with_shape((core.shape[0], len(stays), *core.shape[2:])),
            ),
            back: lambda done: transpose(done[core], perm=SPLIT, loc=back.loc),
            joined: lambda done: reshape(
                done[back], shape=(*joined.shape[:-1], len(stays) * width), loc=joined.loc
            ),
            node: lambda done: _product(node, done[joined], out[inner], done),
        }
        for number, parts in enumerate(splits):
            assert parts is not None
            makes.update(_split_again(parts, number * len(inner), len(stays), width))
        return makes


def _split(value: Value, heads: int, uses: Mapping[Value, int]) -> tuple[Value, Value, Value] | None:
    """The slice, reshape and transpose that make [b, heads, s, width] of one product's rows."""
    if value.op is not transpose or value.attr("perm") != SPLIT or value.args[0].op is not reshape:
        return None
    middle = value.args[0]
    part = middle.args[0]
    fits = part.op is slice_ and part.t.rank == 3 and middle.t.rank == 4 and middle.shape[2] == heads
    if not fits or any(uses[v] != 1 for v in (value, middle, part)):
        return None
    whole = (0,) * (part.t.rank - 1)
    if part.attr("starts")[:-1] != whole or part.shape[:-1] != part.args[0].shape[:-1]:
        return None
    return part, middle, value


def _split_again(parts: tuple[Value, Value, Value], begin: int, heads: int, width: int) -> dict[Value, Make]:
    part, middle, last = parts
    return {
        part: lambda done: slice_(
            done[part.args[0]],
            starts=(*part.attr("starts")[:-1], begin),
            sizes=(*part.shape[:-1], heads * width),
            steps=part.attr("steps"),
            loc=part.loc,
        ),
        middle: lambda done: reshape(done[part], shape=(*middle.shape[:2], heads, width), loc=middle.loc),
        last: lambda done: transpose(done[middle], perm=SPLIT, loc=last.loc),
    }


def _product(node: Value, x: Value, matrix: Array, done: Mapping[Value, Value]) -> Value:
    """`node` of other rows and the rows of its matrix that they meet."""
    rest = (done.get(a, a) for a in node.args[2:])
    return linear(x, _smaller(node.args[1], matrix), *rest, activation=node.attr("activation"), loc=node.loc)


def _smaller(old: Value, array: Array) -> Value:
    return constant(f"{name_of(old)}.shrunk", np.ascontiguousarray(array), old.loc)


def _highest(score: Array, ratio: float) -> Array:
    """All but the share `ratio` of the lowest, and one at least."""
    order = np.argsort(score, kind="stable")
    stays = np.ones(len(score), np.bool_)
    stays[order[: min(round(ratio * len(score)), len(score) - 1)]] = False
    return stays
