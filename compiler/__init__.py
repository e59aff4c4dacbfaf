"""Isthmus: an ahead-of-time Transformer compiler.

    bundle = isthmus.compile("model.onnx", target="host", out="dist")
    session = isthmus.load(bundle.path)
    outputs = session(input_ids=ids, attention_mask=mask)
    result = isthmus.build("isthmus.toml")

Names are loaded when they are first used, so that a machine that only runs bundles needs no compiler.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isthmus.api import build, compile  # noqa: A004 - the verb the user wants
    from isthmus.driver import Bundle
    from isthmus.errors import BundleError, CompilerBug, InputError, IsthmusError, ModelError, QualityError
    from isthmus.passes.quantize.options import Quantization, Scheme
    from isthmus.quantizer.search import Budget
    from isthmus.runtime import Session, load

__all__ = [
    "Budget",
    "Bundle",
    "BundleError",
    "CompilerBug",
    "InputError",
    "IsthmusError",
    "ModelError",
    "QualityError",
    "Quantization",
    "Scheme",
    "Session",
    "build",
    "compile",
    "load",
]

_HOMES = {
    "Budget": "isthmus.quantizer.search",
    "Bundle": "isthmus.driver",
    "Quantization": "isthmus.passes.quantize.options",
    "Scheme": "isthmus.passes.quantize.options",
    "Session": "isthmus.runtime",
    "build": "isthmus.api",
    "compile": "isthmus.api",
    "load": "isthmus.runtime",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'isthmus' has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "isthmus.errors")), name)
