"""From a model file to a bundle: read `compile_model` first, its verbs are the folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata, resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

import isthmus.targets
from isthmus import packages
from isthmus.bundle import manifest as bundle_manifest
from isthmus.bundle import selftest, writer
from isthmus.bundle.manifest import Chip, DimBounds, Entry, Fixed, Manifest
from isthmus.chips import find
from isthmus.codegen import toolchain
from isthmus.codegen.model_c import program_c, programs_c
from isthmus.codegen.objects import compile_kernels
from isthmus.codegen.sources import source_files
from isthmus.codegen.weights_file import WeightsLayout, lay_out
from isthmus.errors import Code, ModelError, Problem, QualityError
from isthmus.frontends import onnx
from isthmus.ir.graph import Program
from isthmus.lowering.lower import lower
from isthmus.lowering.plan import Plan, Port
from isthmus.machine import Machine
from isthmus.passes import pipeline, request
from isthmus.passes.legalize.phase import NARROWING
from isthmus.passes.sparsify.choose import ChooseSparse
from isthmus.passes.sparsify.costs import EVEN
from isthmus.passes.sparsify.decisions import Record, Sizes
from isthmus.passes.steps import Pass
from isthmus.runtime import load
from isthmus.target import Routine, Target
from isthmus.tools.report import report, report_json
from isthmus.tools.samples import selftest_cases

IMPORT = "import"
PHASES = (IMPORT, *(phase.name for phase in pipeline.PHASES))

NARROWED_TEXT = "matrix products, softmax, attention and norms of f64 compute in f32; outputs stay f64"

DimSpec = int | tuple[int, int | None]


def _silent(_: str) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Options:
    """Everything besides model and chip that a compile can be told.

    `dims` fixes (an int) or bounds (low, high) named dims; `fix` holds the contents of inputs that become
    constants. `outputs` are the only ones wanted, if any is named; `drop_padding` makes those with a row for
    each position 0 where the mask is. `start` is the first phase to run, for a program that was dumped.
    `quantize` are the passes of that phase, `precision` is what they are called, and `quantization` is what
    report.json says of them. `sizes` are those of open dims that products with zeros are decided for;
    `decisions`, by the name of the target or level, is what is decided about them already. `even` is the
    share of dense's speed from which on half of a matrix is stored as such. `c_flags` are for
    tests, such as -DISTHMUS_POISON. `timed` is for `isthmus bench --profile`: a clock around every kernel
    call, in a bundle that nobody ships, as is one without `self_test`.

    The others leave the bundle as it is: `cache` is the folder of compiled kernels; `progress` is told each
    step as it begins, `watch` sees each pass, `planned` each level's plan, `warn` what is odd but not wrong,
    and `imported` is told what each node of the model came to.
    """

    name: str | None = None
    dims: Mapping[str, DimSpec] = field(default_factory=dict)
    fix: Mapping[str, npt.ArrayLike] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    drop_padding: bool = False
    start: str = pipeline.PHASES[0].name
    precision: str = "f32"
    quantize: tuple[Pass, ...] = ()
    quantization: Mapping[str, object] = field(default_factory=dict)
    sizes: Sizes = field(default_factory=Sizes)
    decisions: Mapping[str, Record] = field(default_factory=dict)
    even: float = EVEN
    verify: bool = True
    self_test: bool = True
    cache: Path | None = None
    c_flags: tuple[str, ...] = ()
    timed: bool = False
    progress: Callable[[str], None] = _silent
    watch: pipeline.Watcher = lambda _: None
    warn: Callable[[Problem], None] = lambda _: None
    imported: Callable[[onnx.Imported], None] = lambda _: None
    planned: Callable[[Plan], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Bundle:
    """A finished bundle: where it is, and what its manifest says."""

    path: Path
    manifest: Manifest


def compile_model(path: Path, target_name: str, output: Path, options: Options) -> Bundle:
    """ONNX file in, bundle out, as `output/<name>@<target>`.

    Raises `ModelError` when model or request cannot be compiled, `BundleError` when the result cannot be
    written, `QualityError` when it does not answer as the model's meaning says; then nothing changed.
    """
    target = find_target(target_name)
    program = read_model(path, options)
    return compile_program(program, target, output, options)


def find_target(name: str) -> Target:
    """The target called `name`, or the best one for this machine if that is `host`."""
    return find(name, isthmus.targets, Machine.here())


def read_model(path: Path, options: Options) -> Program:
    """What is wanted of the model as a program, before any pass."""
    options.progress("import")
    program = onnx.read(
        path,
        name=options.name,
        dims=options.dims,
        fix=options.fix,
        warn=options.warn,
        watch=options.imported,
    )
    program = request.only(program, options.outputs)
    return request.drop_padding(program) if options.drop_padding else program


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that is decided before code is generated: the program after all passes, and its plan."""

    target: Target
    program: Program
    plan: Plan


def narrowed(steps: Iterable[pipeline.Step]) -> bool:
    """Whether one of `steps` made f32 of f64."""
    return any(step.name == NARROWING and step.before is not step.after for step in steps)


def narrowed_warning(name: str) -> Problem:
    """What is said then of the program called `name`."""
    return Problem(Code.NARROWED, NARROWED_TEXT, name)


@dataclass(frozen=True, slots=True)
class Shared:
    """What a model is for all chips that bring the same `routines`.

    `program` is what bundles compute: as imported, or in integers, if that was asked for; `before` says how
    often each rule fired up to there, `start` is the first phase that it still needs. `passed` is what it is
    after the passes that ask nothing else of a chip, `fired` all that led there. `precision`, `pipeline` and
    `quantization` are for the record. `cases` is the self-test, if that is known already.
    """

    program: Program
    passed: Program
    before: Mapping[str, int]
    fired: Mapping[str, int]
    start: str
    precision: str
    pipeline: str
    quantization: Mapping[str, object]
    routines: tuple[Routine, ...] = ()
    cases: tuple[selftest.Case, ...] | None = None


def share(program: Program, target: Target, options: Options) -> Shared:
    """A program as imported, through the passes that ask a chip for its routines. Raises `ModelError`."""
    before: Counter[str] = Counter()

    def watch(step: pipeline.Step) -> None:
        if narrowed((step,)):
            options.warn(narrowed_warning(program.name))
        options.watch(step)

    start, meant = options.start, program
    if options.quantize:
        # What the bundle is to compute is the program in integers: its answers are those of the self-test.
        meant = quantized(program, target, replace(options, watch=_counting(before, watch)))
        start = pipeline.LEGALIZE.name
    options.progress("passes")
    fired = Counter(before)
    return Shared(
        meant,
        pipeline.run_shared(meant, target, _counting(fired, watch), start),
        before,
        fired,
        start,
        options.precision,
        pipeline.pipeline_text(pipeline.phases(options.quantize)),
        options.quantization,
        target.routines,
    )


def shared_for(target: Target, shared: Shared, options: Options) -> Shared:
    """`shared`, for a chip that may bring other routines than it was made for. Raises `ModelError`."""
    if target.routines == shared.routines:
        return shared
    again = share(shared.program, target, replace(options, start=shared.start, quantize=()))
    return replace(shared, passed=again.passed, fired=Counter(shared.before) + Counter(again.fired))


def prepare(program: Program, target: Target, options: Options) -> Prepared:
    """A program as imported, to what code is generated from. Raises `ModelError`."""
    return prepare_shared(share(program, target, options), target, options)


def prepare_shared(shared: Shared, target: Target, options: Options) -> Prepared:
    """What is left to do for one chip before code is generated. Raises `ModelError`."""
    legal = pipeline.run_rest(shared.passed, target, options.watch, choosing(target, options))
    options.progress("plan")
    plan = lower(legal, legal.main, target)
    require_bounds(plan, target)
    return Prepared(target, legal, plan)


def choosing(target: Target, options: Options) -> ChooseSparse:
    """What decides about matrices with zeros."""
    record = options.decisions.get(target.name)
    return ChooseSparse(even=options.even, sizes=options.sizes, record=record)


def quantized(program: Program, target: Target, options: Options) -> Program:
    """A program as imported, after the phase `quantize`: the same for every target."""
    options.progress("quantize")
    last = pipeline.QUANTIZE.name
    return pipeline.run(
        program, target, start=options.start, stop_after=last, watch=options.watch, quantize=options.quantize
    )


@dataclass(frozen=True, slots=True)
class Written:
    """Where each weight lies in the one file of weights, and the C text of the plans by file name."""

    layout: WeightsLayout
    sources: Mapping[str, str]


def write_c(name: str, levels: Sequence[Prepared], timed: bool = False) -> Written:
    """The plans of one model for the levels of one chip, best first, as C over one file of weights.

    `timed`: with a clock around every kernel call."""
    layout = lay_out((w for made in levels for w in made.plan.weights), levels[0].target.byte_order)
    texts = {made.target.suffix: program_c(name, made.plan, made.target, layout, timed) for made in levels}
    return Written(layout, programs_c(texts))


def require_bounds(plan: Plan, target: Target) -> None:
    """Raises `ModelError` (bad-dim) for each dim without an upper bound, where `target` has no system:
    memory is set aside in advance."""
    problems = [
        Problem(
            Code.BAD_DIM,
            f"{dim.name!r} has no upper bound, and {target.name} has no heap to allocate from",
            f"--target {target.name}",
            f"say how large it gets: --dim {dim.name}={dim.low}..HIGH, or fix it: --dim {dim.name}=SIZE",
        )
        for dim in plan.dims
        if target.toolchain.system.freestanding and dim.high is None
    ]
    if problems:
        raise ModelError(problems)


def compile_program(program: Program, target: Target, output: Path, options: Options) -> Bundle:
    """A program as imported, to a bundle."""
    return compile_shared(share(program, target, options), target, output, options)


def compile_shared(shared: Shared, target: Target, output: Path, options: Options) -> Bundle:
    """What chips have in common, to the bundle of one of them."""
    program = shared.program
    made, reports = [], {}
    objects: dict[str, bytes] = {}
    for level in target.levels or (target,):
        common = shared_for(level, shared, options)
        fired = Counter(common.fired)
        made.append(prepare_shared(common, level, replace(options, watch=_counting(fired, options.watch))))
        plan = made[-1].plan
        options.planned(plan)
        options.progress(f"kernels ({len(plan.kernels())})")
        compiled = compile_kernels(plan.kernels(), level, options.cache and options.cache / "kernels")
        reports[level.name] = report(
            program, made[-1].program, plan, level, compiled, fired, choosing(level, options)
        )
        objects |= compiled
    written = write_c(program.name, made, options.timed)
    options.progress("library")
    libraries = toolchain.link(written.sources, objects, target.toolchain, options.cache, options.c_flags)
    options.progress("self-test")
    cases = shared.cases
    if cases is None:
        cases = selftest_cases(program) if options.self_test else ()
    if options.self_test and not cases:
        options.warn(Problem(Code.NO_SELF_TEST, "no sizes found that the model takes", program.name))
    options.progress("bundle")
    draft = _draft(shared, made[0].plan, target, written.layout, options)
    contents: dict[str, writer.Content] = {
        **{f"lib/{name}": content for name, content in libraries.items()},
        **_sources(written.sources, made[0].plan, target),
        "include/isthmus.h": (resources.files("isthmus.runtime") / "c" / "isthmus.h").read_bytes(),
        "report.json": report_json(reports, shared.quantization),
        **packages.files(target.toolchain.system, _parts(draft, libraries, written, target)),
        **selftest.dump(cases),
    }
    if draft.weights is not None:
        contents[draft.weights] = written.layout.pieces()
    place = output / draft.folder

    def check(folder: Path) -> None:
        if options.verify and not target.missing_on(Machine.here()):
            options.progress("verify")
            check_bundle(folder, cases)

    return Bundle(place, writer.write(place, draft, contents, check))


def _parts(
    draft: Manifest, libraries: Mapping[str, bytes], written: Written, target: Target
) -> packages.Parts:
    return packages.Parts(draft, libraries, written.layout.total, target.toolchain.wheel(target.arch))


def _counting(fired: Counter[str], watch: pipeline.Watcher) -> pipeline.Watcher:
    """`watch`, and how often each rule fired."""

    def both(step: pipeline.Step) -> None:
        fired.update(event.rule for event in step.events if not event.reason)
        watch(step)

    return both


def _sources(texts: Mapping[str, str], plan: Plan, target: Target) -> dict[str, writer.Content]:
    """The folder `src`: the plan, and where the kernels are C as well, everything that is to be compiled."""
    if target.kernels == "c":
        texts = source_files(texts["model.c"], plan.kernels(), target.toolchain.system)
    return {f"src/{name}": text.encode() for name, text in texts.items()}


def check_bundle(folder: Path, cases: Sequence[selftest.Case]) -> None:
    """Run the self-test of the bundle in `folder`. Raises `QualityError` with everything that differs."""
    with load(folder) as session:
        problems = [
            Problem(Code.NOT_ACCURATE, text, hint="please send the model to the project")
            for case in cases
            for text in selftest.differences(case, session.run(case.inputs))
        ]
    if problems:
        raise QualityError(problems)


def _draft(shared: Shared, plan: Plan, target: Target, layout: WeightsLayout, options: Options) -> Manifest:
    program = shared.program
    return Manifest(
        name=bundle_manifest.plain_name(program.name),
        model_digest=program.origin or "none",  # a program that came from no file
        chip=Chip(target.name, target.arch, target.os, target.byte_order, target.cpu_flags),
        library=f"lib/{target.toolchain.library}",
        weights="weights.bin" if layout.total else None,
        dims=tuple(DimBounds(d.name, d.low, d.high) for d in plan.dims),
        fixed=tuple(Fixed.of(name, np.asarray(options.fix[name])) for name in sorted(options.fix)),
        padding=request.padding_mask(program).attr("name") if options.drop_padding else None,
        entries=(Entry(plan.name, _ports(plan.inputs), _ports(plan.outputs)),),
        precision=shared.precision,
        pipeline=shared.pipeline,
        tools=tool_versions(),
    )


def _ports(ports: tuple[Port, ...]) -> tuple[bundle_manifest.Port, ...]:
    return tuple(
        bundle_manifest.Port(
            p.name, str(p.value.dtype), tuple(d if isinstance(d, int) else str(d) for d in p.value.shape)
        )
        for p in ports
    )


def tool_versions() -> tuple[tuple[str, str], ...]:
    """What made the bundle: each of these can change its bytes."""
    packages = ("isthmus", "apache-tvm", "numpy", "onnx", "ziglang")
    return tuple((name, metadata.version(name)) for name in packages)
