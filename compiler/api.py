"""The Python API: `isthmus.compile` and `isthmus.build`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt

from isthmus.codegen.cache import cache_dir
from isthmus.driver import Bundle, DimSpec, Options
from isthmus.errors import Problem
from isthmus.machine import processors
from isthmus.matrix.build import Event, Request, build_matrix
from isthmus.matrix.cache import usual_folder, where
from isthmus.matrix.config import Config, config_of, load_config
from isthmus.matrix.lock import FILE as LOCK
from isthmus.matrix.lock import held_to, keep
from isthmus.matrix.memory import memory_here
from isthmus.matrix.plans import plan_matrix
from isthmus.matrix.report import write_reports
from isthmus.matrix.results import BuildResult
from isthmus.passes.quantize.options import Quantization
from isthmus.quantizer.decide import Deciding
from isthmus.quantizer.plan import asked, compile_as
from isthmus.quantizer.search import Budget
from isthmus.tools.data import Source


def compile(
    model: str | os.PathLike[str],
    *,
    target: str = "host",
    out: str | os.PathLike[str] = "dist",
    name: str | None = None,
    dims: Mapping[str, DimSpec] | None = None,
    fix: Mapping[str, npt.ArrayLike] | None = None,
    precision: str | Quantization = "f32",
    calibration: Source | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    outputs: Sequence[str] = (),
    padding: Literal["keep", "drop"] = "keep",
    budget: Budget | None = None,
    sparsity: str | None = None,
    sparsity_method: str | None = None,
    measure: bool = False,
    at: Mapping[str, int] | None = None,
    decisions: str | os.PathLike[str] | None = None,
    verify: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Bundle:
    """Compile the ONNX file `model` for `target` and write `out/<name>@<target>`.

    `fix` makes constants of inputs, {"use_cache_branch": True}: the bundle does not take them any more.
    `dims` fixes named dims, {"seq": 128}, or bounds them, {"seq": (1, 512)}; others stay free. `outputs` are
    the only ones compiled, if any is named; `padding="drop"` makes those with a row for each position 0 where
    the mask is, and is what lets a batch cost the sum of its lengths with such outputs, too. `verify`
    runs the bundle's self-test when this machine can. Odd things (a weight with NaN) become warnings.

    `precision` is a name ("int8", "int4+bf16", ..) or an `isthmus.Quantization`. `calibration` is a `.npz`, a
    folder of them, a text file with a request a line (then `tokenizer` is a tokenizer.json), or anything that
    yields requests, arrays by input name. With a `budget` layers that would cost more stay in f32; "auto" has
    one, and chooses among several schemes for each layer. It is for `sparsity`, if there is any: such layers
    stay dense.

    `sparsity` prunes matrices ("2:4", "unstructured@0.9", "block:1x4@0.8", "heads@0.25"), by "magnitude",
    "wanda" or "sparsegpt"; the latter two need `calibration`. `measure` decides by measuring here which
    matrices with zeros are faster without them, with dims of the sizes `at`; `decisions` is a bundle, or the
    report.json of one, that says so already. Else declared costs decide.

    Raises `ModelError`, `BundleError` or `QualityError`; each carries all problems found.
    """

    def warn(problem: Problem) -> None:
        warnings.warn(str(problem), stacklevel=3)

    options = Options(
        name=name,
        dims=dims or {},
        fix=fix or {},
        outputs=tuple(outputs),
        drop_padding=padding == "drop",
        verify=verify,
        cache=cache_dir(os.environ),
        progress=progress or (lambda _: None),
        warn=warn,
    )
    texts = None if tokenizer is None else Path(tokenizer)
    wanted = asked(precision, calibration, texts, budget, sparsity, sparsity_method)
    deciding = Deciding(measure, at or {}, None if decisions is None else Path(decisions))
    return compile_as(Path(model), target, Path(out), options, wanted, deciding)


def build(
    config: str | os.PathLike[str] | Mapping[str, Any] | Config = "isthmus.toml",
    *,
    folder: str | os.PathLike[str] = ".",
    only: Iterable[str] = (),
    out: str | os.PathLike[str] | None = None,
    jobs: int | None = None,
    memory: int | None = None,
    cache: str | None = None,
    scheduler: str | None = None,
    frozen: bool = False,
    measure: bool = True,
    reports: bool = True,
    progress: Callable[[Event], None] | None = None,
) -> BuildResult:
    """Build every model of `config` for every chip: what changed, the rest is taken from the cache.

    `config` is the path of an isthmus.toml, or what it says as a dictionary with paths relative to `folder`.
    `only` names pairs, "model@chip" with `*` for any. Bundles and `reports` go into `out`, by default the
    configuration's. `cache` is a folder or URL, `memory` what workers may take together in bytes, `scheduler`
    the address of a Dask cluster; without `measure` nothing is timed. `progress` hears what begins and ends.
    What came out is written to isthmus.lock beside the configuration; `frozen` holds the build to it instead.

    A pair that fails stops no other: see `status` and `problems` of each. Raises `ModelError` for what is
    wrong with the configuration or not as it is locked, `BundleError` when reports or lock cannot be written.
    """
    if isinstance(config, Config):
        found = config
    elif isinstance(config, Mapping):
        found = config_of(config, Path(folder))
    else:
        found = load_config(Path(config))
    matrix = plan_matrix(found, only)
    locked = found.folder / LOCK
    lock = held_to(locked, matrix) if frozen else None
    request = Request(
        places=where(cache or found.cache_place, usual_folder(cache_dir(os.environ))),
        output=Path(out) if out is not None else found.folder / found.output,
        jobs=jobs or processors(),
        memory=memory or memory_here(),
        scheduler=scheduler,
        measure=measure,
        tell=progress or (lambda _: None),
    )
    result = build_matrix(found, matrix, request)
    if reports:
        write_reports(result)
    keep(locked, lock, matrix, result)
    return result
