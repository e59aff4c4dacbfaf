"""Functions of the user's, named `module:function`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isthmus.errors import Code, ModelError, Problem


def function_of(name: str, code: Code, where: str, folder: Path | None = None) -> Callable[..., Any]:
    """What `name`, `module:function`, is.

    The module is looked for in `folder`, by default the working folder, and then as any other. Raises
    ModelError (`code`, at `where`) when it cannot be loaded.
    """
    module, _, attribute = name.partition(":")
    here = str((folder or Path.cwd()).absolute())
    if here not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        text = f"{name} cannot be loaded: {type(error).__name__}: {error}"
        raise ModelError(Problem(code, text, where)) from error
    return found
