"""The inputs of a model: their types, and names for every dimension that may vary."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import onnx

from isthmus.errors import Code, ModelError, Problem, nearest
from isthmus.frontends.onnx.facts import Facts
from isthmus.frontends.onnx.limits import check_type
from isthmus.frontends.onnx.tensors import dtype_of
from isthmus.ir.dims import Dim, Expr, Interval, names, symbol
from isthmus.ir.read import parse_dim
from isthmus.ir.types import MAX_RANK, TensorType

DimOption: TypeAlias = int | tuple[int, int | None]  # a size, or bounds; None: no upper bound

LARGEST_DIM = 2**40
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED = {"min", "max", *keyword.kwlist}  # they mean something where dims are written


@dataclass(frozen=True, slots=True)
class Signature:
    """Input types by name, in order, and the names of dims with the spelling they had in the model."""

    inputs: Mapping[str, TensorType]
    spelling: Mapping[str, str]


def parse_dims(texts: Iterable[str]) -> dict[str, DimOption]:
    """Read `seq=128`, `seq=1..512`, `seq=1..`. Raises `ModelError` E1006 listing every mistake."""
    options: dict[str, DimOption] = {}
    problems = []
    for text in texts:
        name, _, value = text.partition("=")
        found = re.fullmatch(r"\s*(-?\d+)\s*(\.\.\s*(-?\d+)?)?\s*", value, re.ASCII)
        if not name.strip() or found is None or len(value) > 60:
            hint = "write NAME=128, NAME=1..512 or NAME=1.."
            problems.append(Problem(Code.BAD_DIM, f"{text[:80]!r} is not a dim", "--dim", hint))
            continue
        low, dots, high = found.groups()
        if name.strip() in options:
            problems.append(Problem(Code.BAD_DIM, f"dim {name.strip()!r} is given twice", "--dim"))
        options[name.strip()] = (int(low), None if high is None else int(high)) if dots else int(low)
    problems += [p for name, option in options.items() if (p := dim_problem(name, option))]
    if problems:
        raise ModelError(problems)
    return options


def dim_problem(name: str, option: DimOption) -> Problem | None:
    """What is wrong with a size or with bounds, if anything; from Python it may be any object."""
    if not _is_option(option):
        hint = "a size, 128, or bounds, (1, 512) or (1, None)"
        return Problem(Code.BAD_DIM, f"dim {name!r} cannot be {str(option)[:80]!r}", "dims", hint)
    low, high = (option, option) if isinstance(option, int) else option
    if low < 1 or (high is not None and high < 1):
        text = f"dim {name!r} must be at least 1, got {min(low, low if high is None else high)}"
        return Problem(Code.BAD_DIM, text, "--dim")
    if high is not None and high < low:
        return Problem(Code.BAD_DIM, f"dim {name!r} has bounds {low}..{high} in the wrong order", "--dim")
    if max(low, high or 0) > LARGEST_DIM:
        return Problem(Code.BAD_DIM, f"dim {name!r} is larger than {LARGEST_DIM}", "--dim")
    return None


def _is_option(option: object) -> bool:
    sizes = option if isinstance(option, tuple) and len(option) == 2 else (option, None)
    whole = [isinstance(size, int) and not isinstance(size, bool) for size in sizes]
    return whole[0] and (whole[1] or sizes[1] is None)


class _Namer:
    """Gives every spelling one identifier, and different spellings different ones."""

    def __init__(self, by_spelling: Mapping[str, str] | None = None) -> None:
        self.by_spelling = dict(by_spelling or {})
        self.taken = set(self.by_spelling.values())

    def name(self, spelling: str) -> str:
        if spelling in self.by_spelling:
            return self.by_spelling[spelling]
        plain = re.sub(r"\W+", "_", spelling, flags=re.ASCII).strip("_") or "dim"
        plain = spelling if _IDENTIFIER.fullmatch(spelling) else plain
        plain = f"d{plain}" if plain[0].isdigit() else plain
        plain = f"{plain}_" if plain in _RESERVED else plain
        chosen, count = plain, 2
        while chosen in self.taken:
            chosen, count = f"{plain}_{count}", count + 1
        self.taken.add(chosen)
        self.by_spelling[spelling] = chosen
        return chosen


def read_signature(inputs: Sequence[onnx.ValueInfoProto]) -> Signature:
    """Types of the graph inputs. Raises `ModelError` listing every input that cannot be taken."""
    namer = _Namer()
    types: dict[str, TensorType] = {}
    problems: list[Problem] = []
    for info in inputs:
        try:
            types[info.name] = _type_of(info, namer)
        except ModelError as error:
            problems += error.problems
    if problems:
        raise ModelError(problems)
    spelling = {name: text for text, name in namer.by_spelling.items()}
    return _bindable(Signature(types, spelling))


def _type_of(info: onnx.ValueInfoProto, namer: _Namer) -> TensorType:
    where = f"input {info.name!r}"
    if not info.name:
        raise ModelError(Problem(Code.INVALID_GRAPH, "an input has no name", where))
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        text = f"this input is a {(kind or 'value without a type').removesuffix('_type')}, not a tensor"
        raise ModelError(Problem(Code.UNSUPPORTED_DTYPE, text, where))
    tensor = info.type.tensor_type
    dtype = dtype_of(tensor.elem_type, where)
    if not tensor.HasField("shape"):
        hint = "export the model with a shape for each input; its dims may be symbolic"
        raise ModelError(Problem(Code.INVALID_GRAPH, "this input has no shape", where, hint))
    if len(tensor.shape.dim) > MAX_RANK:
        text = f"a tensor of {len(tensor.shape.dim)} dims; at most {MAX_RANK} are taken"
        raise ModelError(Problem(Code.TOO_LARGE, text, where))
    type_ = TensorType(dtype, tuple(_dim_of(d, info.name, i, namer) for i, d in enumerate(tensor.shape.dim)))
    check_type(type_, where)
    return type_


def _dim_of(dim: onnx.TensorShapeProto.Dimension, owner: str, axis: int, namer: _Namer) -> Dim:
    if dim.WhichOneof("value") == "dim_value":
        if 0 <= dim.dim_value <= LARGEST_DIM:
            return dim.dim_value
        text = f"dim {axis} is {dim.dim_value}"
        hint = "a dim of any size is written as a name (dim_param)"
        raise ModelError(Problem(Code.INVALID_GRAPH, text, f"input {owner!r}", hint))
    spelling = dim.dim_param.strip()
    if not spelling:
        return symbol(namer.name(f"{owner}_dim{axis}"))
    expression = _expression(spelling)
    if expression is None:
        return symbol(namer.name(spelling))
    # Names inside an expression are spellings as well.
    for name in sorted(names(expression)):
        namer.name(name)
    return expression


def _expression(spelling: str) -> Dim | None:
    """`past + seq` as an expression; None when the text is a name like any other."""
    if _IDENTIFIER.fullmatch(spelling) or len(spelling) > 200:
        return None
    try:
        parsed = parse_dim(spelling)
    except ValueError:
        return None
    if isinstance(parsed, int) or any(not _IDENTIFIER.fullmatch(n) or n in _RESERVED for n in names(parsed)):
        return None
    return parsed


def _bindable(signature: Signature) -> Signature:
    """Every name must be read off some input's shape; expressions over other names become names."""
    plain = {str(d) for t in signature.inputs.values() for d in t.shape if isinstance(d, Expr)}
    plain = {n for n in plain if _IDENTIFIER.fullmatch(n)}
    namer = _Namer({text: name for name, text in signature.spelling.items() if name in plain})

    def fix(dim: Dim) -> Dim:
        return dim if names(dim) <= plain else symbol(namer.name(str(dim)))

    inputs = {n: t.with_shape(tuple(map(fix, t.shape))) for n, t in signature.inputs.items()}
    return Signature(inputs, {name: text for text, name in namer.by_spelling.items()})


def _least(spelling: str) -> int:
    """The least size of a dim of that name: a cache is empty at first, anything else is not."""
    return 0 if "past" in spelling.lower() else 1


def initial_facts(signature: Signature, dims: Mapping[str, DimOption]) -> Facts:
    """Free dims, fixed or bounded as asked for. Raises `ModelError` E1005 and E1006."""
    spelling = {text: name for name, text in signature.spelling.items()}
    problems: list[Problem] = []
    bounds: dict[str, Interval] = {name: (_least(text), None) for name, text in signature.spelling.items()}
    equal: dict[str, Dim] = {}
    for given, option in dims.items():
        name = given if given in bounds or given in equal else spelling.get(given)
        if name is None:
            text = f"the model has no dim {given!r}"
            listed = ", ".join(signature.spelling) or "none: every size is fixed"
            hint = f"{nearest(given, signature.spelling)} (all: {listed})"
            problems.append(Problem(Code.UNKNOWN_DIM, text, "--dim", hint))
        elif (problem := dim_problem(given, option)) is not None:
            problems.append(problem)
        elif isinstance(option, int):
            bounds.pop(name, None)
            equal[name] = option
        elif option[0] == option[1]:
            bounds.pop(name, None)
            equal[name] = option[0]
        else:
            bounds[name] = option
    if problems:
        raise ModelError(problems)
    return Facts(bounds, equal)
