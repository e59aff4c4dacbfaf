"""Expressions of kernels as C11: the TIR that `kernels.builder` makes for one lane.

The C means what LLVM is told elsewhere, and nothing in it is undefined: numbers that come from data wrap
around, by way of unsigned types; a float that fits no integer becomes the least one; comparisons with NaN are
false. What is called here is in `c/kernel.h`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import TypeAlias

import numpy as np

from isthmus.codegen import c_text
from isthmus.codegen.toolchain import KERNEL_HEADER
from isthmus.errors import CompilerBug
from isthmus.kernels.builder import C_TYPES, Expr, dtype_of
from isthmus.kernels.tir import tirx, tvm

# How tightly a piece of C holds together, which tells where it needs parentheses.
ATOM, PRODUCT, SUM, LOOSE = 3, 2, 1, 0
Text: TypeAlias = tuple[str, int]

_SHORT = {"float32": "f32", "float64": "f64"}
_INTEGERS = tuple(f"{kind}{bits}" for kind in "iu" for bits in (8, 16, 32, 64))
_INFIX = {
    "BitwiseAnd": "&", "BitwiseOr": "|", "BitwiseXor": "^", "And": "&&", "Or": "||",
    "EQ": "==", "LT": "<", "LE": "<=", "GT": ">", "GE": ">=",
}  # fmt: skip
_ARITHMETIC = {"Add": "+", "Sub": "-", "Mul": "*", "Div": "/", "Mod": "%"}
_LIBRARY = {
    "llvm.sqrt": "sqrt", "llvm.fabs": "abs", "llvm.floor": "floor", "llvm.ceil": "ceil",
    "llvm.trunc": "trunc", "llvm.rint": "rint",
}  # fmt: skip


@cache
def _taken() -> frozenset[str]:
    """The names that mean something in such a file."""
    header = (resources.files("isthmus.runtime") / "c" / KERNEL_HEADER).read_text(encoding="utf-8")
    made = {f"{name}_{what}" for name in (*_SHORT.values(), *_INTEGERS) for what in ("min", "max")}
    return frozenset({*re.findall(r"[A-Za-z]\w*_\w+", header), *made}) | c_text.KEYWORDS


def _kind(dtype: str) -> str:
    """`int`, `uint`, `float` or `bool`."""
    return dtype.rstrip("0123456789")


def _bits(dtype: str) -> int:
    digits = dtype.lstrip("abcdefghijklmnopqrstuvwxyz")
    return int(digits) if digits.isdigit() else 1


def _short(dtype: str) -> str:
    return _SHORT.get(dtype) or f"{_kind(dtype)[0]}{_bits(dtype)}"


def _wrapping_type(bits: int) -> str:
    """The unsigned type in which numbers of `bits` bits are computed: never one that C widens to int."""
    return "uint64_t" if bits > 32 else "uint32_t"


def inside(text: Text, at_least: int) -> str:
    return text[0] if text[1] >= at_least else f"({text[0]})"


class Values:
    """Prints expressions; knows what the variables and the memory of one kernel are called."""

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self.names = c_text.Names(reserved=_taken())
        self.name_of: dict[Expr, str] = {}
        self.buffers: dict[Expr, tuple[str, bool]] = {}  # name, and whether it is a variable of one element
        self.positions: set[Expr] = set()  # variables that count elements or rows: they do not overflow

    def value(self, value: Expr) -> Text:
        """An expression as C."""
        match type(value).__name__:
            case "Var":
                return self.name_of[value], ATOM
            case "IntImm":
                return self._integer(int(value.value), dtype_of(value))
            case "FloatImm":
                return self._float(float(value.value), dtype_of(value))
            case "TensorLoad":
                return self.element(value.source, value.indices), ATOM
            case "Cast":
                return self._cast(value.value, dtype_of(value))
            case "Call":
                return self._known_call(value)
            case kind:
                return self._operation(kind, value)

    def _operation(self, kind: str, value: Expr) -> Text:
        match kind:
            case "Add" | "Sub" | "Mul" | "Div" | "Mod":
                return self._arithmetic(kind, value)
            case "Min" | "Max":
                return self._call(f"{_short(dtype_of(value))}_{kind.lower()}", value.a, value.b)
            case "LShift" | "RShift":
                return self._shift(kind, value)
            case "BitwiseNot":
                dtype = dtype_of(value)
                return f"({self.ctype(dtype)})~{inside(self.value(value.a), ATOM)}", ATOM
            case "Not":
                return self._not(value.a)
            case "Select":
                parts = [
                    inside(self.value(v), SUM) for v in (value.condition, value.true_value, value.false_value)
                ]
                return f"{parts[0]} ? {parts[1]} : {parts[2]}", LOOSE
            case _ if kind in _INFIX:
                return self._infix(_INFIX[kind], value)
        raise CompilerBug(f"{self.symbol}: no C for the expression {kind}")

    def element(self, buffer: Expr, indices: Sequence[Expr]) -> str:
        name, single = self.buffers[buffer]
        (place,) = indices
        if dtype_of(place) != "int64":
            raise CompilerBug(f"{self.symbol}: no C for an element at {dtype_of(place)}")
        return name if single else f"{name}[{self.value(place)[0]}]"

    def ctype(self, dtype: str) -> str:
        if dtype == "bool":
            return "_Bool"
        if dtype not in C_TYPES:
            raise CompilerBug(f"{self.symbol}: no C type for {dtype}")
        return C_TYPES[dtype]

    def _integer(self, value: int, dtype: str) -> Text:
        if value == -(1 << 63):
            return "INT64_MIN", ATOM
        if value == -(1 << 31) and dtype == "int32":
            return "INT32_MIN", ATOM
        text = str(value)
        if dtype == "uint32":
            text += "u"
        elif dtype == "uint64" or abs(value) >= 1 << 31:
            text = f"{'U' if dtype == 'uint64' else ''}INT64_C({value})"
        return text, SUM if value < 0 else ATOM

    def _float(self, value: float, dtype: str) -> Text:
        """Exact: hexadecimal, or decimal where that is as exact and easier to read."""
        if dtype not in _SHORT:
            raise CompilerBug(f"{self.symbol}: no C type for {dtype}")
        suffix = "f" if dtype == "float32" else ""
        rounded = float(np.float32(value)) if suffix else value
        if not math.isfinite(rounded):
            name = f"{_SHORT[dtype].upper()}_{'NAN' if math.isnan(rounded) else 'INFINITY'}"
            return (f"-{name}", SUM) if rounded < 0 else (name, ATOM)
        plain = abs(rounded) < 1e6 and rounded * 8 == int(rounded * 8)
        digits, power = rounded.hex().split("p")
        text = f"{rounded!r}{suffix}" if plain else f"{digits.rstrip('0')}p{power}{suffix}"
        return text, SUM if text.startswith("-") else ATOM

    def _arithmetic(self, kind: str, value: Expr) -> Text:
        dtype, sign = dtype_of(value), _ARITHMETIC[kind]
        if _bits(dtype) > 64:
            raise CompilerBug(f"{self.symbol}: no C for numbers of {_bits(dtype)} bits")
        if _kind(dtype) == "bool" or (kind == "Mod" and _kind(dtype) == "float"):
            raise CompilerBug(f"{self.symbol}: no C for {kind} of {dtype}")
        plain = _kind(dtype) == "float" or (_kind(dtype) == "uint" and _bits(dtype) >= 32)
        if not plain and not self.is_position(value):
            if kind in ("Add", "Sub", "Mul"):
                return self._wrapped(value, dtype)
            if _bits(dtype) < 32:
                return f"({self.ctype(dtype)})({self._infix(sign, value)[0]})", ATOM
        a, b = self.value(value.a), self.value(value.b)
        own = SUM if kind in ("Add", "Sub") else PRODUCT
        return f"{inside(a, own)} {sign} {inside(b, own + 1)}", own

    def is_position(self, value: Expr) -> bool:
        """Whether an int64 comes from sizes and counters alone, which are too small for it to overflow."""
        match type(value).__name__:
            case "Var":
                return value in self.positions
            case "IntImm":
                return dtype_of(value) == "int64"
            case "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Min" | "Max":
                return self.is_position(value.a) and self.is_position(value.b)
            case "Select":
                return self.is_position(value.true_value) and self.is_position(value.false_value)
        return False

    def _wrapped(self, value: Expr, dtype: str) -> Text:
        """The lowest bits of a sum, difference or product, as many as `dtype` has."""
        return f"({self.ctype(dtype)})({self._low(value, _bits(dtype))[0]})", ATOM

    def _low(self, value: Expr, bits: int) -> Text:
        """`value` modulo 2^`bits` or a multiple of that, as a number of the unsigned type."""
        unsigned = _wrapping_type(bits)
        kind = type(value).__name__
        if kind in ("Add", "Sub", "Mul"):
            own = SUM if kind in ("Add", "Sub") else PRODUCT
            a, b = self._low(value.a, bits), self._low(value.b, bits)
            return f"{inside(a, own)} {_ARITHMETIC[kind]} {inside(b, own + 1)}", own
        if kind == "IntImm":
            number = int(value.value) % (1 << _bits(unsigned.removesuffix("_t")))
            return self._integer(number, unsigned.removesuffix("_t"))
        if kind == "Cast" and _bits(dtype_of(value)) > bits and _is_integer(value.value):
            return self._low(value.value, bits)
        if dtype_of(value) == unsigned.removesuffix("_t"):
            return self.value(value)
        return f"({unsigned}){inside(self.value(value), ATOM)}", ATOM

    def _shift(self, kind: str, value: Expr) -> Text:
        dtype = dtype_of(value)
        by = inside(self.value(value.b), ATOM)
        if kind == "RShift":
            return f"{inside(self.value(value.a), ATOM)} >> {by}", LOOSE
        if dtype in ("uint32", "uint64"):
            return f"{inside(self.value(value.a), ATOM)} << {by}", LOOSE
        return f"({self.ctype(dtype)})({inside(self._low(value.a, _bits(dtype)), ATOM)} << {by})", ATOM

    def _infix(self, sign: str, value: Expr) -> Text:
        return f"{inside(self.value(value.a), SUM)} {sign} {inside(self.value(value.b), SUM)}", LOOSE

    def _not(self, value: Expr) -> Text:
        if isinstance(value, tirx.EQ):
            return self._infix("!=", value)
        if isinstance(value, tirx.Not):
            return self.value(value.a)
        return f"!{inside(self.value(value), ATOM)}", ATOM

    def _cast(self, value: Expr, dtype: str) -> Text:
        source = dtype_of(value)
        if _kind(dtype) == "bool":
            raise CompilerBug(f"{self.symbol}: no C for a cast of {source} to bool")
        target = self.ctype(dtype)
        if _kind(source) == "float" and _is_integer_name(dtype):
            wide = "u64" if dtype == "uint64" else "i64" if dtype in ("int64", "uint32") else "i32"
            text = f"{wide}_from_float({self.value(value)[0]})"
            return (text, ATOM) if _short(dtype) == wide else (f"({target}){text}", ATOM)
        if _bits(source) > 64:
            return f"({target})({self._low(value, _bits(dtype))[0]})", ATOM
        if (
            type(value).__name__ in ("Add", "Sub", "Mul")
            and _is_integer_name(source)
            and _bits(source) > _bits(dtype)
        ):
            return self._wrapped(value, dtype)
        return f"({target}){inside(self.value(value), ATOM)}", ATOM

    def _call(self, function: str, *arguments: Expr) -> Text:
        return f"{function}({', '.join(self.value(a)[0] for a in arguments)})", ATOM

    def _known_call(self, value: Expr) -> Text:
        name = str(value.op.name)
        if name == "tirx.reinterpret":
            return self._reread(value.args[0], dtype_of(value))
        intrinsic = self.intrinsic(value)
        if intrinsic == "llvm.arithmetic.fence":
            return self.value(value.args[1])  # this C is compiled without fusing anything
        if intrinsic in _LIBRARY and dtype_of(value) in _SHORT:
            return self._call(f"{_SHORT[dtype_of(value)]}_{_LIBRARY[intrinsic]}", value.args[1])
        raise CompilerBug(f"{self.symbol}: no C for the call of {intrinsic or name}")

    def intrinsic(self, value: Expr) -> str:
        """The name of the LLVM intrinsic that is called; empty if it is another call."""
        if str(value.op.name) not in ("tirx.call_llvm_pure_intrin", "tirx.call_llvm_intrin"):
            return ""
        return str(tvm.target.codegen.llvm_get_intrinsic_name(int(value.args[0].value)))

    def _reread(self, value: Expr, dtype: str) -> Text:
        """The same bits as another type."""
        source = dtype_of(value)
        if source == dtype:
            return self.value(value)
        if _bits(source) != _bits(dtype) or "bool" in (source, dtype):
            raise CompilerBug(f"{self.symbol}: no C for the bits of {source} as {dtype}")
        if _kind(source) == "float":
            text = f"{_short(source)}_to_bits({self.value(value)[0]})"
            return (text, ATOM) if _kind(dtype) == "uint" else (f"({self.ctype(dtype)}){text}", ATOM)
        if _kind(dtype) == "float":
            number = self.value(value)[0] if _kind(source) == "uint" else self._low(value, _bits(source))[0]
            return f"{_short(dtype)}_from_bits({number})", ATOM
        return f"({self.ctype(dtype)}){inside(self.value(value), ATOM)}", ATOM


def _is_integer_name(dtype: str) -> bool:
    return _kind(dtype) in ("int", "uint")


def _is_integer(value: Expr) -> bool:
    return _is_integer_name(dtype_of(value))
