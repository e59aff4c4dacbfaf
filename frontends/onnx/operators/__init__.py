"""One importer function per ONNX operator, in files by group; every file lists its own in `OPERATORS`.

Keys are operator names, with `domain::` in front outside the standard domain. A new file is found by itself.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from types import ModuleType

from isthmus.errors import CompilerBug
from isthmus.frontends.onnx.node import Importer


def _groups() -> Iterable[ModuleType]:
    """Every file of this folder that lists operators; the others hold what several of them use."""
    modules = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    return [module for module in modules if hasattr(module, "OPERATORS")]


def _merged(groups: Iterable[Mapping[str, Importer]]) -> Mapping[str, Importer]:
    found: dict[str, Importer] = {}
    for group in groups:
        if twice := found.keys() & group.keys():
            raise CompilerBug(f"two importers for {sorted(twice)}")
        found.update(group)
    return found


OPERATORS: Mapping[str, Importer] = _merged(group.OPERATORS for group in _groups())
