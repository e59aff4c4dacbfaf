"""From what was asked to the passes of the phase `quantize`, and what they cost in accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from isthmus.driver import Bundle, Options, compile_program, find_target, read_model
from isthmus.errors import Code, ModelError, Problem, nearest
from isthmus.ir.graph import Program
from isthmus.passes import pipeline
from isthmus.passes.quantize.bf16 import FLOATS
from isthmus.passes.quantize.equalize import Equalize
from isthmus.passes.quantize.options import SCHEMES, WITH_FLOATS, Quantization, quantization_of
from isthmus.passes.quantize.phase import Quantize
from isthmus.passes.quantize.recipe import Recipe, choose, make_recipe, no_data
from isthmus.passes.sparsify.options import Sparsity, parse_sparsity
from isthmus.passes.steps import Pass
from isthmus.quantizer.calibrate import observe
from isthmus.quantizer.decide import Deciding, with_decisions
from isthmus.quantizer.ladder import climb
from isthmus.quantizer.menu import menu_of, one_way
from isthmus.quantizer.prune import prune_pass
from isthmus.quantizer.report import about
from isthmus.quantizer.search import Budget, search
from isthmus.quantizer.spread import spread_pass
from isthmus.quantizer.thin import thin_pass
from isthmus.target import Target
from isthmus.tools.data import Request, Source, read_requests

# Every fourth request is held out: what is measured was not calibrated on.
HELD_OUT = 4


@dataclass(frozen=True, slots=True)
class Asked:
    """How to quantize, and the data for it: a path or an iterable of requests; `tokenizer` is for texts.
    `budget` is that of a precision for each layer, `thinning` that of pruning; without one it spares none."""

    quantization: Quantization | None
    precision: str = "f32"
    data: Source | None = None
    tokenizer: Path | None = None
    budget: Budget | None = None
    sparsity: Sparsity | None = None
    thinning: Budget | None = None


AUTO = "auto"


def precisions() -> tuple[str, ...]:
    """Every name that `asked` takes as a precision."""
    return tuple(dict.fromkeys((*SCHEMES, *FLOATS, AUTO, *WITH_FLOATS)))


def asked(
    precision: str | Quantization,
    data: Source | None = None,
    tokenizer: Path | None = None,
    budget: Budget | None = None,
    sparsity: str | None = None,
    sparsity_method: str | None = None,
) -> Asked:
    """What `precision`, a name or everything in detail, and `sparsity` stand for.

    `budget` is for pruning where there is any, and else for the precision: layers that it does not allow stay
    in float. Pruning is by magnitude without data, and else by what does best with it. Raises ModelError for
    an unknown name, and a budget that nothing would spend.
    """
    if isinstance(precision, str) and "+" in precision and precision.partition("+")[0] in SCHEMES:
        precision = quantization_of(precision)
    if isinstance(precision, str) and precision not in precisions():
        text, hint = f"no precision called {precision!r}", nearest(precision, precisions())
        raise ModelError(Problem(Code.BAD_OPTION, text, "--precision", hint))
    thin = None
    if sparsity is None and sparsity_method is not None:
        text = f"nothing is pruned, by {sparsity_method} or otherwise"
        raise ModelError(Problem(Code.BAD_SPARSITY, text, "--sparsity-method", "say what goes: --sparsity"))
    if sparsity is not None:
        thin = parse_sparsity(sparsity, sparsity_method or ("magnitude" if data is None else "data"))
    thinning = None
    if thin is not None and thin.auto:
        thinning = budget or Budget()
    elif thin is not None and precision != AUTO:
        thinning = budget
    _require_one_budget(precision, thin, thinning)
    if precision == AUTO:
        return Asked(Quantization(), AUTO, data, tokenizer, budget or Budget(), thin)
    spent = budget if thin is None else None
    if isinstance(precision, Quantization):
        if precision.floats != "f32":
            _require_no_budget(str(precision), spent)
        return Asked(precision, str(precision), data, tokenizer, spent, thin, thinning)
    if precision in FLOATS or (precision in SCHEMES and SCHEMES[precision] is None):
        _require_no_budget(precision, spent)
        return Asked(None, precision, data, tokenizer, None, thin, thinning)
    return Asked(quantization_of(precision), precision, data, tokenizer, spent, thin, thinning)


def _require_no_budget(precision: str, budget: Budget | None) -> None:
    """Raise ModelError (bad-option) for a budget of floats."""
    if budget is not None:
        text = f"{precision} is the precision of all layers: no budget chooses among them"
        hint = "give --precision auto, or one of integers, or --sparsity"
        raise ModelError(Problem(Code.BAD_OPTION, text, "--max-drop", hint))


def _require_one_budget(precision: object, thin: Sparsity | None, thinning: Budget | None) -> None:
    """Raise ModelError (bad-option) where it is not clear what a budget is for."""
    if thinning is None or thin is None:
        return
    if precision == AUTO:
        text = "there is one budget, and both precision and sparsity would spend it"
        raise ModelError(Problem(Code.BAD_OPTION, text, "--sparsity auto", "give one of them outright"))
    if thin.spread:
        text = "a budget says itself what each layer loses"
        raise ModelError(Problem(Code.BAD_OPTION, text, "--max-drop", "leave it out, or :spread"))
    if thin.structured:
        text = f"{thin.form} go everywhere at once, within no budget"
        raise ModelError(Problem(Code.BAD_OPTION, text, "--max-drop", "leave it out"))


def compile_as(
    path: Path, target_name: str, output: Path, options: Options, wanted: Asked, deciding: Deciding
) -> Bundle:
    """`driver.compile_model`, with products in the precision that was asked for. Raises as that does."""
    target = find_target(target_name)
    program = read_model(path, options)
    options = with_precision(program, target, options, wanted)
    return compile_program(program, target, output, with_decisions(program, target, options, deciding))


def with_precision(
    program: Program, target: Target, options: Options, wanted: Asked, measured: bool = True
) -> Options:
    """`options` with the passes that `wanted` comes to for `program`, which was imported just now.

    Where there is data, what is held out of it is `measured`: in integers against what was pruned.
    """
    quantization, sparsity = wanted.quantization, wanted.sparsity
    floats = FLOATS.get(wanted.precision, ())
    if quantization is None and sparsity is None:
        return replace(options, precision=wanted.precision, quantize=floats)
    needs_data = sparsity is not None and (sparsity.needs_data or wanted.thinning is not None)
    if needs_data and wanted.data is None:
        raise no_data(f"what {sparsity} prunes")
    needing = None if quantization is None else quantization.needs_data
    needing = "a precision for each layer" if wanted.budget else needing
    if needing is not None and wanted.data is None:
        raise no_data(needing)
    fused = pipeline.run(program, target, start=options.start, stop_after=pipeline.FUSE.name)
    if quantization is not None:
        choose(fused, quantization)  # what cannot be is said before data is read
    requests = () if wanted.data is None else read_requests(wanted.data, program, wanted.tokenizer)
    used, held = split(requests)
    passes: tuple[Pass, ...] = ()
    if sparsity is not None and wanted.thinning is not None:
        passes = (thin_pass(fused, sparsity, used, held, target, options, wanted.thinning),)
    elif sparsity is not None and sparsity.spread:
        passes = (spread_pass(fused, sparsity, used, options),)
    elif sparsity is not None:
        passes = (prune_pass(fused, sparsity, used, target, options),)
    if quantization is None:
        return replace(options, precision=wanted.precision, quantize=(*passes, *floats))
    if quantization.equalize:
        passes = (*passes, Equalize())
    fused = _after(passes, fused, target)
    recipe = _recipe(fused, quantization, wanted, (used, held), target, options)
    placed: tuple[Pass, ...] = (Quantize(recipe), *FLOATS.get(quantization.floats, ()))
    ladder = None
    if held and measured:
        options.progress(f"accuracy ({len(held)} requests)")
        ladder = climb(fused, _after(placed, fused, target), held, options)
    kept_bytes = 4 if quantization.floats == "f32" else 2
    found = about(fused, recipe, len(used) if quantization.takes_data else 0, ladder, kept_bytes)
    return replace(options, precision=wanted.precision, quantize=(*passes, *placed), quantization=found)


def _after(passes: Sequence[Pass], program: Program, target: Target) -> Program:
    """What `program` is after these."""
    for step in passes:
        program = step(program, target, lambda _: None)
    return program


def _recipe(
    fused: Program,
    quantization: Quantization,
    wanted: Asked,
    requests: tuple[Sequence[Request], Sequence[Request]],
    target: Target,
    options: Options,
) -> Recipe:
    """What becomes of each layer of `fused`: as asked, or as the budget allows on held out requests."""
    used, held = requests
    if wanted.precision == AUTO:
        menu = menu_of(fused, used, target, options)
    else:
        menu = one_way(recipe_for(fused, quantization, used, options))
    if wanted.budget is None:
        return next(iter(menu.ways.values()))
    return search(fused, menu, target, held, wanted.budget, options)


def split(requests: Sequence[Request]) -> tuple[tuple[Request, ...], tuple[Request, ...]]:
    """Requests to calibrate with, and those held out; the same, where there are too few to hold any out."""
    if len(requests) < HELD_OUT:
        return tuple(requests), tuple(requests)
    held = tuple(requests[HELD_OUT - 1 :: HELD_OUT])
    return tuple(r for number, r in enumerate(requests) if number % HELD_OUT != HELD_OUT - 1), held


def recipe_for(
    fused: Program, quantization: Quantization, requests: Sequence[Request], options: Options
) -> Recipe:
    """What becomes of each layer of `fused`, a program after the phase `fuse`."""
    if not requests or not quantization.takes_data:
        return make_recipe(fused, quantization)
    options.progress(f"calibration ({len(requests)} requests)")
    return make_recipe(fused, quantization, observe(fused, quantization, requests, options))
