"""Isthmus: an ahead-of-time Transformer compiler.

    bundle = isthmus.compile("model.onnx", target="host", out="dist")
    session = isthmus.load(bundle.path)
    outputs = session(input_ids=ids, attention_mask=mask)

Names are loaded when they are first used, so that a machine that only runs bundles needs no compiler.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isthmus.api import compile  # noqa: A004 - the verb the user wants
    from isthmus.driver import Bundle
    from isthmus.errors import BundleError, CompilerBug, InputError, IsthmusError, ModelError, QualityError
    from isthmus.runtime import Session, load

__all__ = [
    "Bundle",
    "BundleError",
    "CompilerBug",
    "InputError",
    "IsthmusError",
    "ModelError",
    "QualityError",
    "Session",
    "compile",
    "load",
]

_HOMES = {
    "Bundle": "isthmus.driver",
    "Session": "isthmus.runtime",
    "compile": "isthmus.api",
    "load": "isthmus.runtime",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'isthmus' has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "isthmus.errors")), name)
