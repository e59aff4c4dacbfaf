"""From a model file to a bundle: read `compile_model` first, its verbs are the folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata, resources
from pathlib import Path

import isthmus.targets
from isthmus.bundle import manifest as bundle_manifest
from isthmus.bundle import selftest, writer
from isthmus.bundle.manifest import Chip, DimBounds, Entry, Manifest
from isthmus.codegen import toolchain
from isthmus.codegen.model_c import model_c
from isthmus.codegen.objects import compile_kernels
from isthmus.codegen.weights_file import WeightsLayout, lay_out
from isthmus.errors import Code, Problem, QualityError
from isthmus.frontends import onnx
from isthmus.ir.graph import Program
from isthmus.lowering.lower import lower
from isthmus.lowering.plan import Plan, Port
from isthmus.machine import Machine
from isthmus.passes import pipeline
from isthmus.runtime import load
from isthmus.target import Target, discover, pick
from isthmus.tools.report import report
from isthmus.tools.samples import selftest_cases

IMPORT = "import"
PHASES = (IMPORT, *(phase.name for phase in pipeline.PHASES))

DimSpec = int | tuple[int, int | None]


def _silent(_: str) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Options:
    """Everything besides model and chip that a compile can be told. Only the first three change the bundle.

    `dims` fixes (an int) or bounds (low, high) named dims. `start` is the first phase to run, for a program
    that was dumped. `progress` is told each step as it begins, `watch` sees each pass, `warn` what is odd but
    not wrong; `imported` is told what each node of the model came to. `cache` is the folder of compiled
    kernels. `c_flags` are for tests, such as -DISTHMUS_POISON.
    """

    name: str | None = None
    dims: Mapping[str, DimSpec] = field(default_factory=dict)
    start: str = pipeline.PHASES[0].name
    verify: bool = True
    cache: Path | None = None
    c_flags: tuple[str, ...] = ()
    progress: Callable[[str], None] = _silent
    watch: pipeline.Watcher = lambda _: None
    warn: Callable[[Problem], None] = lambda _: None
    imported: Callable[[onnx.Imported], None] = lambda _: None


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
    return pick(name, discover(isthmus.targets), Machine.here())


def read_model(path: Path, options: Options) -> Program:
    """The model as a program, before any pass."""
    options.progress("import")
    return onnx.read(path, name=options.name, dims=options.dims, warn=options.warn, watch=options.imported)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that is decided before code is generated: the program after all passes, the plan, where each
    weight lies in its file, and the C text of the plan."""

    program: Program
    plan: Plan
    layout: WeightsLayout
    source: str


def prepare(program: Program, target: Target, options: Options) -> Prepared:
    """A program as imported, to what code is generated from. Raises `ModelError`."""
    options.progress("passes")
    fused = pipeline.run(program, target, start=options.start, watch=options.watch)
    options.progress("plan")
    plan = lower(fused, fused.main, target)
    layout = lay_out(plan.weights)
    return Prepared(fused, plan, layout, model_c(program.name, plan, target, layout))


def compile_program(program: Program, target: Target, output: Path, options: Options) -> Bundle:
    """A program as imported, to a bundle."""
    fired: Counter[str] = Counter()

    def watch(step: pipeline.Step) -> None:
        fired.update(event.rule for event in step.events if not event.reason)
        options.watch(step)

    prepared = prepare(program, target, replace(options, watch=watch))
    plan, layout, source = prepared.plan, prepared.layout, prepared.source
    options.progress(f"kernels ({len(plan.kernels())})")
    cache = options.cache
    objects = compile_kernels(plan.kernels(), target, None if cache is None else cache / "kernels")
    options.progress("library")
    library = toolchain.link(source, objects, target.toolchain, cache, options.c_flags)
    options.progress("self-test")
    cases = selftest_cases(program)
    if not cases:
        options.warn(Problem(Code.NO_SELF_TEST, "no sizes found that the model takes", program.name))
    options.progress("bundle")
    draft = _draft(program, plan, target, layout)
    contents: dict[str, writer.Content] = {
        draft.library: library,
        "src/model.c": source.encode(),
        "include/isthmus.h": (resources.files("isthmus.runtime") / "c" / "isthmus.h").read_bytes(),
        "report.json": report(program, plan, objects, fired),
        **selftest.dump(cases),
    }
    if draft.weights is not None:
        contents[draft.weights] = layout.pieces()
    place = output / draft.folder

    def check(folder: Path) -> None:
        if options.verify and not target.missing_on(Machine.here()):
            options.progress("verify")
            check_bundle(folder, cases)

    return Bundle(place, writer.write(place, draft, contents, check))


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


def _draft(program: Program, plan: Plan, target: Target, layout: WeightsLayout) -> Manifest:
    return Manifest(
        name=bundle_manifest.plain_name(program.name),
        model_digest=program.origin or "none",  # a program that came from no file
        chip=Chip(target.name, target.arch, target.os, target.cpu_flags),
        library=f"lib/{target.toolchain.library}",
        weights="weights.bin" if layout.total else None,
        dims=tuple(DimBounds(d.name, d.low, d.high) for d in plan.dims),
        entries=(Entry(plan.name, _ports(plan.inputs), _ports(plan.outputs)),),
        precision="f32",
        pipeline=pipeline.pipeline_text(),
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
