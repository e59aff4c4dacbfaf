"""An ONNX node as importers see it: inputs, typed attributes, and ways to refuse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx

from isthmus.errors import Code, ModelError, Problem
from isthmus.frontends.onnx.builder import Builder, Items, Tensor
from isthmus.frontends.onnx.tensors import dtype_of, weight_from
from isthmus.ir.dims import Dim, Expr
from isthmus.ir.types import Array, DType
from isthmus.ir.weights import Weight

Results: TypeAlias = "Tensor | Sequence[Tensor | None]"
Importer: TypeAlias = "Callable[[Node], Results]"

_KINDS = onnx.AttributeProto.AttributeType


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One node with its inputs imported. Reading an attribute marks it as understood."""

    b: Builder
    op_type: str
    domain: str
    opset: int
    where: str
    inputs: tuple[Tensor | None, ...]
    input_names: tuple[str, ...]
    outputs: tuple[str, ...]  # empty where nobody uses the output
    attributes: dict[str, onnx.AttributeProto]
    folder: Path
    subgraph: Callable[[onnx.GraphProto, Sequence[Tensor]], list[Tensor]]
    read: set[str] = field(default_factory=set)

    @property
    def operator(self) -> str:
        """The operator with its domain and version, for messages."""
        return f"{self.domain + '::' if self.domain else ''}{self.op_type} (opset {self.opset})"

    # --- inputs ---

    def __getitem__(self, index: int) -> Tensor:
        """An input that must be there."""
        tensor = self.get(index)
        if tensor is None:
            raise self.error(Code.INVALID_GRAPH, f"{self.operator} needs input {index}, which is missing")
        return tensor

    def get(self, index: int) -> Tensor | None:
        """An input that may be left out."""
        tensor = self.value(index)
        if isinstance(tensor, Items):
            raise self.error(Code.UNSUPPORTED_DTYPE, f"{self.operator}: input {index} is a sequence")
        return tensor

    def value(self, index: int) -> Tensor | None:
        """An input, sequence or tensor, that may be left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def items(self, index: int) -> tuple[Tensor, ...]:
        """What a sequence holds."""
        found = self.value(index)
        if not isinstance(found, Items):
            raise self.error(Code.INVALID_GRAPH, f"{self.operator}: input {index} should be a sequence")
        return found.items

    def every(self) -> list[Tensor]:
        """Every input; none may be left out."""
        return [self[i] for i in range(len(self.inputs))]

    def contents(self, index: int, what: str) -> Array:
        """The contents of an input that decides about shapes; elements are numbers or dims."""
        known = self.b.known(self[index])
        if known is None:
            raise self.data_dependent(index, what)
        return known

    def data_dependent(self, index: int, what: str) -> ModelError:
        value = self[index].value
        source = f", which {value.loc or value.op.name} computes" if value is not None else ""
        text = f"{self.operator}: {what} depends on data ({self.input_names[index]!r}{source})"
        hint = "export the model with fixed sizes here, or leave this part out of the model"
        return self.error(Code.DATA_DEPENDENT_SHAPE, text, hint)

    def dims(self, index: int, what: str) -> tuple[Dim, ...]:
        """The contents of an integer vector (or scalar) as dims."""
        flat = self.contents(index, what).reshape(-1)
        return tuple(d if isinstance(d, Expr) else int(d) for d in flat)

    def ints(self, index: int, what: str) -> tuple[int, ...]:
        """The contents of an integer vector (or scalar), which may not depend on the size of an input."""
        dims = self.dims(index, what)
        if any(isinstance(d, Expr) for d in dims):
            shown = ",".join(map(str, dims))
            text = f"{self.operator}: {what} is [{shown}], which depends on the size of an input"
            raise self.error(Code.DATA_DEPENDENT_SHAPE, text, "fix the dim with --dim NAME=SIZE")
        return tuple(d for d in dims if isinstance(d, int))

    def one_number(self, index: int, what: str) -> float:
        """The contents of an input with one number."""
        flat = self.contents(index, what).reshape(-1)
        if len(flat) != 1 or isinstance(flat[0], Expr):
            raise self.error(Code.INVALID_GRAPH, f"{self.operator}: {what} is not one number")
        return float(flat[0])

    # --- attributes ---

    def has(self, name: str) -> bool:
        return name in self.attributes

    def ignore(self, *names: str) -> None:
        """These attributes do not change the result here."""
        self.read.update(names)

    def _attribute(self, name: str, kind: int) -> onnx.AttributeProto | None:
        self.read.add(name)
        found = self.attributes.get(name)
        if found is not None and found.type != kind:
            wanted, got = _KINDS.Name(kind), _KINDS.Name(found.type)
            text = f"{self.operator}: attribute {name!r} should be {wanted}, is {got}"
            raise self.error(Code.INVALID_GRAPH, text)
        return found

    def integer(self, name: str, default: int) -> int:
        found = self._attribute(name, _KINDS.INT)
        return default if found is None else found.i

    def number(self, name: str, default: float) -> float:
        found = self._attribute(name, _KINDS.FLOAT)
        return default if found is None else found.f

    def text(self, name: str, default: str) -> str:
        found = self._attribute(name, _KINDS.STRING)
        return default if found is None else found.s.decode("utf-8", "replace")

    def integers(self, name: str) -> tuple[int, ...] | None:
        found = self._attribute(name, _KINDS.INTS)
        return None if found is None else tuple(found.ints)

    def numbers(self, name: str) -> tuple[float, ...] | None:
        found = self._attribute(name, _KINDS.FLOATS)
        return None if found is None else tuple(found.floats)

    def tensor(self, name: str) -> Weight | None:
        """A tensor attribute; its name is the node's."""
        found = self._attribute(name, _KINDS.TENSOR)
        return None if found is None else weight_from(found.t, self.folder, self.where)

    def graph(self, name: str) -> onnx.GraphProto:
        """A graph attribute that must be there."""
        found = self._attribute(name, _KINDS.GRAPH)
        if found is None:
            raise self.error(Code.INVALID_GRAPH, f"{self.operator} needs the graph {name!r}")
        return found.g

    def dtype(self, name: str, default: DType) -> DType:
        """An element type, given by ONNX's number."""
        code = self.integer(name, 0)
        return dtype_of(code, self.where) if code else default

    def axis(self, name: str, default: int, rank: int) -> int:
        """An axis attribute, counted from the front."""
        return self.normal(self.integer(name, default), rank)

    def normal(self, axis: int, rank: int) -> int:
        """`axis` counted from the front."""
        if not -rank <= axis < max(rank, 1):
            raise self.error(Code.SHAPE_MISMATCH, f"{self.operator}: axis {axis} of a tensor of rank {rank}")
        return axis + rank if axis < 0 else axis

    def axes(self, axes: Sequence[int], rank: int) -> tuple[int, ...]:
        """Distinct axes counted from the front, sorted."""
        normal = sorted(self.normal(a, rank) for a in axes)
        if len(set(normal)) != len(normal):
            raise self.error(Code.INVALID_GRAPH, f"{self.operator}: axes {list(axes)} name one axis twice")
        return tuple(normal)

    # --- refusals ---

    def error(self, code: Code, text: str, hint: str = "") -> ModelError:
        return ModelError(Problem(code, text, self.where, hint))

    def unsupported(self, text: str, hint: str = "") -> ModelError:
        """A setting of the operator that is not supported."""
        return self.error(Code.UNSUPPORTED_ATTRIBUTE, f"{self.operator}: {text}", hint)

    def check_all_read(self) -> None:
        """An attribute that nobody looked at may change the result. Raises `ModelError` E1204."""
        ignored = sorted(self.attributes.keys() - self.read)
        if ignored:
            raise self.unsupported(f"attribute{'s' * (len(ignored) > 1)} {', '.join(ignored)} not supported")

    # --- results ---

    def uses(self, index: int) -> bool:
        """Whether output `index` is there and somebody uses it."""
        return index < len(self.outputs) and bool(self.outputs[index])

    def like(self, value: float, other: Tensor | DType) -> Tensor:
        """A scalar of the element type of `other`."""
        return self.b.number(value, other if isinstance(other, DType) else other.dtype)

    def known_scalar(self, tensor: Tensor) -> float | None:
        """The number that a one-element tensor is, if known."""
        known = self.b.known(tensor)
        if known is None or known.size != 1 or known.dtype == object:
            return None
        return float(np.asarray(known).reshape(-1)[0])
