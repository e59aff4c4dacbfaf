"""The Python API: `isthmus.compile`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from isthmus.codegen.cache import cache_dir
from isthmus.driver import Bundle, DimSpec, Options, compile_model
from isthmus.errors import Problem


def compile(
    model: str | os.PathLike[str],
    *,
    target: str = "host",
    out: str | os.PathLike[str] = "dist",
    name: str | None = None,
    dims: Mapping[str, DimSpec] | None = None,
    verify: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Bundle:
    """Compile the ONNX file `model` for `target` and write `out/<name>@<target>`.

    `dims` fixes named dims, {"seq": 128}, or bounds them, {"seq": (1, 512)}; others stay free. `verify`
    runs the bundle's self-test when this machine can. Odd things (a weight with NaN) become warnings.

    Raises `ModelError`, `BundleError` or `QualityError`; each carries all problems found.
    """

    def warn(problem: Problem) -> None:
        warnings.warn(str(problem), stacklevel=3)

    options = Options(
        name=name,
        dims=dims or {},
        verify=verify,
        cache=cache_dir(os.environ),
        progress=progress or (lambda _: None),
        warn=warn,
    )
    return compile_model(Path(model), target, Path(out), options)
