"""TVM, loaded when something of it is first used.

Loading it takes half a second, and only bodies of kernels need it: choosing kernels, planning and whatever
else `isthmus check` does get along without.
"""

from __future__ import annotations

import importlib
from typing import Any


class _Later:
    """The module called `name`, imported when it is first asked for something."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(importlib.import_module(self._name), attribute)
        setattr(self, attribute, found)
        return found


# TVM ships no type information: to mypy everything in it is Any, now as later.
tvm: Any = _Later("tvm")
tirx: Any = _Later("tvm.tirx")
