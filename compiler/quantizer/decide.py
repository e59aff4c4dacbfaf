"""Dense or sparse, by a short measurement: all products of a model at once, in its own company.

The model is compiled with every matrix dense, and with each in the forms that declared costs put first, and
a clock around every kernel call; runs take turns. Who compiles with the record gets the same bundle.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.bundle.manifest import NAME as MANIFEST
from isthmus.driver import Options, Shared, compile_shared, prepare_shared, share, shared_for
from isthmus.errors import Code, ModelError, Problem
from isthmus.ir.graph import Program
from isthmus.machine import Machine
from isthmus.passes.quantize.layers import products
from isthmus.passes.sparsify.choose import matrix_of
from isthmus.passes.sparsify.costs import EVEN, Form, candidates, step_of
from isthmus.passes.sparsify.decisions import Decision, Record, Sizes, mark
from isthmus.passes.sparsify.patterns import pattern_of
from isthmus.runtime import load
from isthmus.target import Target
from isthmus.tools.bench import alternate, pinned
from isthmus.tools.costs import sizes_for
from isthmus.tools.inputs import random_inputs
from isthmus.tools.profile import Clock
from isthmus.tools.samples import selftest_cases
from isthmus.tools.sparsity import decision_of
from isthmus.tools.verify import merge_examples

REPORT = "report.json"
FORMS = 2  # of a matrix that are measured, those first that declared costs put first
GAIN = 1.05  # a measured gain below it may be no gain
PRODUCTS = ("linear", "integer_linear")
SECONDS = 4.0  # that are measured for each level of a target


@dataclass(frozen=True, slots=True)
class Deciding:
    """What decides about matrices with zeros: `record`, a bundle or the report.json of one; or a measurement
    (`measure`); or else declared costs. `at` are sizes of dims for the latter two."""

    measure: bool = False
    at: Mapping[str, int] = field(default_factory=dict)
    record: Path | None = None

    def __post_init__(self) -> None:
        others = [("--measure", self.measure), ("--at", bool(self.at))]
        problems = [
            Problem(Code.BAD_OPTION, "--decisions leaves nothing to decide", option)
            for option, given in others
            if given and self.record is not None
        ]
        if problems:
            raise ModelError(problems)


def with_decisions(program: Program, target: Target, options: Options, wanted: Deciding) -> Options:
    """`options` with what is decided about the matrices of `program`, which was imported just now.

    Raises ModelError for sizes of no dim, or out of bounds, and as `measured` and `read_decisions` do.
    """
    if wanted.record is not None:
        return replace(options, decisions=read_decisions(wanted.record, target))
    sizes = sizes_for(program, wanted.at)
    if not wanted.measure:
        return replace(options, sizes=Sizes({name: sizes[name] for name in wanted.at}))
    options = replace(options, sizes=Sizes(sizes))
    return replace(options, decisions=measured(program, target, options, options.sizes))


def _silent(_: object) -> None:
    return None


@dataclass(frozen=True, slots=True)
class _Layer:
    """A product whose matrix has zeros: its name, place in the model, and forms, the most promising first."""

    name: str
    place: str
    matrix: str
    rows: int
    forms: tuple[Form, ...]

    def stored(self, form: Form | None, gain: float | None) -> Decision:
        return Decision(self.matrix, form, self.rows, gain)


def measured(program: Program, target: Target, options: Options, sizes: Sizes) -> dict[str, Record]:
    """Decisions for `target`, or each of its levels, by measuring here, on one thread, with dims of these
    sizes.

    `program` is as imported. A level that cannot run here is left to declared costs, and its layers say so.
    Raises ModelError (bad-option) where nothing of the target can run here.
    """
    levels = target.levels or (target,)
    able = [level for level in levels if not level.missing_on(Machine.here())]
    if not able:
        text = f"{target.name} cannot run on this machine, so nothing can be measured"
        hint = "without --measure declared costs decide; or measure on such a machine, and give --decisions"
        raise ModelError(Problem(Code.BAD_OPTION, text, "--measure", hint))
    quiet = replace(options, watch=_silent, planned=_silent, warn=_silent, sizes=sizes, decisions={})
    shared = share(program, target, quiet)
    return {level.name: _of_level(shared_for(level, shared, quiet), level, quiet) for level in able}


def _of_level(shared: Shared, level: Target, options: Options) -> Record:
    layers = _layers(prepare_shared(shared, level, options).program, level, options.sizes)
    if not layers:
        return Record()
    ways: list[dict[str, Form | None]] = [{layer.name: None for layer in layers}]
    ways += [
        {layer.name: layer.forms[min(n, len(layer.forms) - 1)] for layer in layers} for n in range(FORMS)
    ]
    options.progress(f"measuring {len(layers)} matrices with zeros")
    dense, *others = _times(shared, level, options, layers, ways)
    made = {}
    for layer in layers:
        gains = [(dense[layer.place] / times[layer.place], n) for n, times in enumerate(others)]
        worth = [(gain, n) for gain, n in gains if gain >= _least(ways[1 + n][layer.name])]
        gain, best = max(worth or gains, key=lambda pair: pair[0])
        made[layer.name] = layer.stored(ways[1 + best][layer.name] if worth else None, round(gain, 2))
    return Record(made)


def _least(form: Form | None) -> float:
    """Times the speed of dense that are worth it."""
    return EVEN if isinstance(form, str) else GAIN


def _layers(program: Program, target: Target, sizes: Sizes) -> list[_Layer]:
    """Those about which there is something to decide. Of a matrix that is all zero there is not."""
    found = []
    for name, node in products(program.main).items():
        weight = matrix_of(node)
        if weight is None or pattern_of(weight).numbers == 0:
            continue
        step = step_of(weight.type.dtype, target)
        if step is None:
            continue
        rows = sizes.rows(node.shape[:-1], program)
        ways = candidates(pattern_of(weight), rows, target.vector, step)[:FORMS]
        if ways:
            forms = tuple(way.form for way in ways)
            found.append(_Layer(name, node.loc, mark(weight), rows, forms))
    return found


def _times(
    shared: Shared,
    level: Target,
    options: Options,
    layers: Sequence[_Layer],
    ways: Sequence[Mapping[str, Form | None]],
) -> list[dict[str, float]]:
    """For each way to store the matrices: seconds of the products, by their place in the model."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="isthmus-measure-")))
        bundles = []
        for number, way in enumerate(ways):
            record = Record({layer.name: layer.stored(way[layer.name], None) for layer in layers})
            timed = replace(options, timed=True, self_test=False, verify=False, progress=_silent)
            again = replace(timed, decisions={level.name: record})
            bundles.append(compile_shared(shared, level, folder / str(number), again).path)
        examples = merge_examples(shared.cases or selftest_cases(shared.program))
        stack.enter_context(pinned(1))
        clocks, nodes = [], []
        for bundle in bundles:
            calls = json.loads((bundle / REPORT).read_bytes())["calls"]
            session = stack.enter_context(load(bundle, threads=1, verify=False))
            inputs = random_inputs(session.inputs, options.sizes.of, examples, np.random.default_rng(0))
            clocks.append(Clock(session, len(calls), inputs))
            nodes.append([str(call["node"]) if call["op"] in PRODUCTS else "" for call in calls])
        alternate(clocks, SECONDS)
        return [_by_place(clock, names) for clock, names in zip(clocks, nodes, strict=True)]


def _by_place(clock: Clock, names: Sequence[str]) -> dict[str, float]:
    _, spent, _ = clock.read()
    found: dict[str, float] = defaultdict(float)
    for name, seconds in zip(names, spent, strict=True):
        found[name] += float(seconds)
    return found


def read_decisions(path: Path, target: Target) -> dict[str, Record]:
    """The decisions of a bundle (its folder), or of a report.json, for `target`.

    Raises ModelError: no-such-file; bad-sparsity where it is not a record, or one for another target.
    """
    place = path / REPORT if path.is_dir() else path
    try:
        report = json.loads(place.read_bytes())
    except FileNotFoundError:
        raise ModelError(Problem(Code.NO_SUCH_FILE, "there is no such file", str(place))) from None
    except (OSError, ValueError) as error:
        raise _bad(f"this cannot be read: {error}", place) from None
    names = [level.name for level in target.levels or (target,)]
    if path.is_dir() and (path / MANIFEST).is_file():
        _require_target(path, target)
    try:
        tables = report["levels"] if "levels" in report else {names[0]: report}
        if set(tables) != set(names):
            raise _bad(f"this is for {', '.join(tables)}, and wanted are {', '.join(names)}", place)
        return {name: _record(tables[name]) for name in names}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _bad("this is no report of a bundle with decisions in it", place) from None


def _require_target(folder: Path, target: Target) -> None:
    try:
        name = json.loads((folder / MANIFEST).read_bytes())["target"]["name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise _bad("the manifest of this bundle cannot be read", folder) from None
    if name != target.name:
        raise _bad(f"these decisions are for {name}, not for {target.name}", folder)


def _record(report: Mapping[str, Any]) -> Record:
    return Record({str(layer["node"]): decision_of(layer) for layer in report["sparsity"]})


def _bad(text: str, place: Path) -> ModelError:
    hint = "a bundle, or the report.json of one, compiled for the same target"
    return ModelError(Problem(Code.BAD_SPARSITY, text, str(place), hint))
