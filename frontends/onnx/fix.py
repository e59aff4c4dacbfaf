"""Inputs whose contents are given when the model is compiled: they become constants of the bundle."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from isthmus.errors import Code, ModelError, Problem, nearest
from isthmus.frontends.onnx.facts import Facts
from isthmus.frontends.onnx.signature import Signature
from isthmus.ir.types import Array, DType, TensorType

OPTION = "--fix"
# What decides how a model works is small; large tensors belong into the model.
MOST_ELEMENTS = 4096
HINT = "write NAME=true, NAME=3, NAME=[0.5,1] or NAME=@file.npy"


def parse_fixes(texts: Iterable[str]) -> dict[str, Array]:
    """Read `NAME=VALUE`. Raises `ModelError` E1012 listing every mistake."""
    fixes: dict[str, Array] = {}
    problems = []
    for text in texts:
        name, _, value = text.partition("=")
        try:
            array = _read(value)
        except (OSError, ValueError, TypeError) as error:
            reason = getattr(error, "strerror", None) or error
            problems.append(Problem(Code.BAD_FIX, f"{text[:80]!r}: {reason}", OPTION, HINT))
            continue
        if not name or name in fixes:
            what = f"{name!r} is given twice" if name else f"{text[:80]!r} names no input"
            problems.append(Problem(Code.BAD_FIX, what, OPTION, HINT))
        fixes[name] = array
    if problems:
        raise ModelError(problems)
    return fixes


def _read(value: str) -> Array:
    file = value.startswith("@")
    try:
        array = np.load(value[1:], allow_pickle=False) if file else np.asarray(json.loads(value))
    except (EOFError, ValueError):
        array = None  # their words are about JSON and pickles
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        what = "a file of one array" if file else "a number, true, false or a list of them"
        raise ValueError(f"this is not {what}")
    return array


def fix_inputs(
    signature: Signature, facts: Facts, fixes: Mapping[str, npt.ArrayLike]
) -> tuple[dict[str, Array], Facts]:
    """The contents of fixed inputs in the type the model declares, and what they say about named dims.

    One number fills an input whose sizes are all known. Raises `ModelError` E1011 and E1012 with every
    mistake.
    """
    fixed: dict[str, Array] = {}
    problems: list[Problem] = []
    for name, given in fixes.items():
        if name not in signature.inputs:
            hint = nearest(name, signature.inputs)
            problems.append(Problem(Code.UNKNOWN_INPUT, f"the model has no input {name!r}", OPTION, hint))
            continue
        declared = signature.inputs[name]
        try:
            array = _converted(np.asarray(given), declared.dtype)
            fixed[name], facts = _shaped(array, declared, facts)
        except ValueError as error:
            problems.append(Problem(Code.BAD_FIX, f"input {name!r} is {declared}: {error}", OPTION))
    if problems:
        raise ModelError(problems)
    return fixed, facts


def _converted(array: Array, dtype: DType) -> Array:
    """`array` as `dtype`; floats may be rounded, anything else has to stay what it is."""
    if array.dtype.kind not in "biuf" and DType.BF16.numpy != array.dtype:
        raise ValueError(f"{array.dtype} is no type of numbers")
    if array.size > MOST_ELEMENTS:
        raise ValueError(f"{array.size} elements; at most {MOST_ELEMENTS} can be fixed")
    with np.errstate(all="ignore"):
        converted = array.astype(dtype.numpy)
        back = converted.astype(np.float64)
    wide = array.astype(np.float64)
    if dtype.is_float:
        if (np.isfinite(wide) != np.isfinite(back)).any():
            raise ValueError("a number is too large for the type")
    elif not np.array_equal(wide, back):
        raise ValueError("a number is not of the type")
    return converted


def _shaped(array: Array, declared: TensorType, facts: Facts) -> tuple[Array, Facts]:
    """`array` in the declared shape, and facts with the sizes that it gives to named dims."""
    shape = tuple(map(facts.resolve, declared.shape))
    known = tuple(d for d in shape if isinstance(d, int))
    if not array.ndim and len(known) == len(shape):
        if math.prod(known) > MOST_ELEMENTS:
            raise ValueError(f"at most {MOST_ELEMENTS} elements can be fixed")
        return np.full(known, array), facts
    if array.ndim != len(shape):
        raise ValueError(f"{array.ndim} axes are given, {len(shape)} are needed")
    for axis, size in enumerate(array.shape):
        dim = facts.resolve(declared.shape[axis])
        if dim == size:
            continue
        low, high = facts.bounds.get(str(dim), (1, 0))
        if size < low or (high is not None and size > high):
            raise ValueError(f"axis {axis} has {size} elements, not {dim}")
        bounds = {n: b for n, b in facts.bounds.items() if n != str(dim)}
        facts = replace(facts, bounds=bounds, equal={**facts.equal, str(dim): size})
    return array, facts
