"""The text form of programs. Stable and exact: `parse(show(p))` is `p` again, and prints the same.

    program minilm origin=sha256:2c26... {
      dim seq = 1..512
      weight @scale : f32[] = 0.125
      weight @word : f32[30522,384] sha256:9f86...
      graph main(%ids: i64[1,seq]) {
        %0 = gather(@word, %ids) axis=0 : f32[1,seq,384] at /embeddings/Gather
        return hidden=%0
      }
    }

Values are numbered in the order in which `Graph.nodes` visits them. Attributes that have their default are
left out. Constants of up to 16 elements are written out; others are named by the SHA-256 of their contents.
Weights that differ and share a name get a number. docs/ir-text.md has the grammar.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from isthmus.ir.dims import Expr
from isthmus.ir.graph import INPUT, WEIGHT, Attr, Graph, Kind, Marker, NamedDim, Program, Value
from isthmus.ir.types import Array, DType, TensorType
from isthmus.ir.weights import InFile, InMemory, Weight

INLINE_ELEMENTS = 16
LINE_LENGTH = 110

PLAIN_NAME = re.compile(r"[A-Za-z_/](?:[\w./\-]|::)*", re.ASCII)
# Locations and digests: what ONNX node names are usually made of.
PLAIN_WORD = re.compile(r"[\w./:+\-]+", re.ASCII)


def show(item: Program | Graph) -> str:
    """The text of a program; of a graph, the same without the dims and the enclosing braces."""
    if isinstance(item, Program):
        return "\n".join(Printed(item).lines) + "\n"
    printed = Printed(Program("", (item,), ()))
    return "\n".join(line.removeprefix("  ") for line in printed.lines[1:-1]) + "\n"


class Printed:
    """The lines of a program, and on which line each part of it stands."""

    def __init__(self, program: Program) -> None:
        self.lines: list[str] = []
        self.line_of: dict[Value | Graph | NamedDim | Program, int] = {}
        self._names: dict[Value, str] = {}
        self._program(program)

    def _add(self, depth: int, text: str, *parts: Value | Graph | NamedDim | Program) -> None:
        for part in parts:
            self.line_of.setdefault(part, len(self.lines))
        self.lines.append("  " * depth + text)

    def _program(self, program: Program) -> None:
        origin = f" origin={_plain(program.origin, PLAIN_WORD)}" if program.origin else ""
        self._add(0, f"program {_plain(program.name)}{origin} {{", program)
        for dim in program.dims:
            self._add(1, f"dim {dim}", dim)
        self._weights(program)
        for graph in program.graphs:
            self._graph(graph)
        self._add(0, "}")

    def _weights(self, program: Program) -> None:
        values = [v for graph in program.graphs for v in graph.nodes()]
        declared: dict[tuple[str, str], list[Value]] = {}
        bodies: dict[Weight, str] = {}
        for value, weight in ((v, _weight(v)) for v in values):
            if weight is None:
                continue
            if weight not in bodies:
                bodies[weight] = f"{weight.type} {contents_text(weight)}"
            declared.setdefault((weight.name, bodies[weight]), []).append(value)
        names = unique_names(name for name, _ in declared)
        for ((given, body), users), name in zip(declared.items(), names, strict=True):
            sigil = f"@{_plain(name)}"
            loc = next((v.loc for v in users if v.loc not in ("", given)), "")
            self._add(1, f"weight {sigil} : {body}{_loc_text(loc)}", *users)
            self._names.update(dict.fromkeys(users, sigil))

    def _graph(self, graph: Graph) -> None:
        inputs = []
        for value in graph.inputs:
            name = _input_name(value)
            self._names[value] = f"%{_plain(name)}"
            loc = _loc_text(value.loc) if value.loc != name else ""
            inputs.append(f"{self._names[value]}: {_type_text(value.type)}{loc}")
        head = f"graph {_plain(graph.name)}({', '.join(inputs)}) {{"
        if len(head) <= LINE_LENGTH:
            self._add(1, head, graph, *graph.inputs)
        else:
            self._add(1, f"graph {_plain(graph.name)}(", graph)
            for i, (value, text) in enumerate(zip(graph.inputs, inputs, strict=True)):
                self._add(3, text if i + 1 == len(inputs) else f"{text},", value)
            self._add(1, ") {")
        number = 0
        for value in graph.nodes():
            if _weight(value) is None:
                self._names[value] = f"%{number}"
                number += 1
                self._add(2, self._value(value), value)
        outputs = [f"{_plain(name)}={self._names.get(v, '%?')}" for name, v in graph.outputs]
        self._add(2, f"return {', '.join(outputs)}".rstrip())
        self._add(1, "}")

    def _value(self, value: Value) -> str:
        args = ", ".join(self._names.get(a, "%?") for a in value.args)
        # In the order of the declaration: starts, sizes, steps.
        order = list(value.op.attrs)
        given = sorted(value.attrs, key=lambda each: order.index(each[0]) if each[0] in order else len(order))
        attrs = "".join(
            f" {name}={attr_text(attr, value.op.attrs.get(name))}"
            for name, attr in given
            if not _is_default(attr, value.op.defaults.get(name))
        )
        call = f"{self._names[value]} = {value.op.name}({args}){attrs}"
        return f"{call} : {_type_text(value.type)}{_loc_text(value.loc)}"


def unique_names(given: Iterable[str]) -> Iterator[str]:
    """The names in order; one that was there before gets the first number that makes it new."""
    names = list(given)
    taken = set(names)
    seen: set[str] = set()
    for name in names:
        unique = name
        number = 0
        while unique in (seen if number == 0 else taken):
            number += 1
            unique = f"{name}.{number}"
        seen.add(unique)
        taken.add(unique)
        yield unique


def _plain(name: str, pattern: re.Pattern[str] = PLAIN_NAME) -> str:
    """`name`, as a JSON string unless it is plain."""
    return name if pattern.fullmatch(name) else json.dumps(name)


def _loc_text(loc: str) -> str:
    return f" at {_plain(loc, PLAIN_WORD)}" if loc else ""


def _type_text(type_: TensorType | None) -> str:
    return "?" if type_ is None else str(type_)


def _weight(value: Value) -> Weight | None:
    """The weight of a constant, even if the value is broken."""
    weight = dict(value.attrs).get("weight")
    return weight if value.op is WEIGHT and isinstance(weight, Weight) else None


def _input_name(value: Value) -> str:
    name = dict(value.attrs).get("name")
    return name if value.op is INPUT and isinstance(name, str) else "?"


def _is_default(attr: Attr, default: Attr | None) -> bool:
    return default is not None and type(attr) is type(default) and attr == default


# --- attributes and constants --------------------------------------------------------------------


def attr_text(attr: Attr, kind: Kind | None) -> str:
    """An attribute as its kind prints; whatever does not fit its kind still prints, for error reports."""
    if isinstance(attr, Marker):
        return f"?{attr.name}"
    if kind is Kind.FLOAT and isinstance(attr, int | float):
        return float_text(float(attr))
    if kind is Kind.TEXT and isinstance(attr, str):
        return json.dumps(attr)
    if isinstance(attr, bool):
        return str(attr).lower()
    if isinstance(attr, tuple):
        return f"[{','.join(map(str, attr))}]"
    if isinstance(attr, int | Expr | DType):
        return str(attr)
    return json.dumps(str(attr))


def float_text(number: float) -> str:
    """The shortest text that reads back as the same f64; one NaN is as good as another."""
    return "nan" if math.isnan(number) else repr(number)


def contents_text(weight: Weight) -> str:
    """What follows the type of a weight: its elements if they are few, else the digest of its contents."""
    size = weight.type.size
    try:
        if isinstance(size, int) and size <= INLINE_ELEMENTS:
            array = weight.read()
            elements = [element_text(x, weight.type.dtype) for x in array.reshape(-1)]
            return f"= {elements[0]}" if weight.type.rank == 0 else f"= [{', '.join(elements)}]"
        return f"sha256:{contents_digest(weight)}"
    except (ValueError, OSError):
        # The verifier says what is wrong with it.
        return "unreadable"


def contents_digest(weight: Weight) -> str:
    """The SHA-256 of the plain contents in row order."""
    if isinstance(weight.source, InMemory | InFile):
        return weight.digest
    return hashlib.sha256(np.ascontiguousarray(weight.read()).reshape(-1).view(np.uint8).data).hexdigest()


def element_text(element: Any, dtype: DType) -> str:
    """One element of a constant, exactly: `nan:0x7fc00001` spells a NaN by its bits."""
    if dtype is DType.BOOL:
        return "true" if element else "false"
    if not dtype.is_float:
        return str(int(element))
    number = float(element)
    if math.isnan(number):
        bits = int.from_bytes(element.tobytes(), "little")
        return "nan" if bits == nan_bits(dtype) else f"nan:0x{bits:x}"
    short = str(element)
    exact = _from_text(short, dtype)
    return short if exact == element else repr(number)


def _from_text(text: str, dtype: DType) -> object:
    try:
        with np.errstate(all="ignore"):
            value: object = np.float64(text).astype(dtype.numpy)
            return value
    except ValueError:
        return None


def nan_bits(dtype: DType) -> int:
    """The NaN that `nan` stands for: quiet, no payload, and positive where NaN has a sign."""
    found = elements_array([math.nan], dtype)
    bits = int.from_bytes(found.tobytes(), "little")
    positive = bits & ~(1 << (dtype.bits - 1))
    same = np.frombuffer(positive.to_bytes(dtype.bytes, "little"), dtype.numpy)
    return positive if bool(np.isnan(same).all()) else bits


def elements_array(elements: Iterable[float], dtype: DType) -> Array:
    """Numbers as a vector of `dtype`."""
    with np.errstate(all="ignore"):
        return np.asarray(list(elements), np.float64).astype(dtype.numpy)
