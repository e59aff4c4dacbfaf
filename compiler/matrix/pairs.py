"""From what isthmus.toml says to the pairs that are to be built, with everything known about each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

from isthmus.chips import pick
from isthmus.errors import Code, ModelError, Problem, nearest
from isthmus.frontends.onnx import DimOption, parse_fixes
from isthmus.ir.types import Array
from isthmus.machine import Machine
from isthmus.matrix.config import Budgets, Chip, Config, Settings
from isthmus.matrix.schema import Place
from isthmus.passes.quantize.recipe import no_data
from isthmus.passes.sparsify.decisions import Record
from isthmus.quantizer.decide import read_decisions
from isthmus.quantizer.metric import NAMES, metric_of
from isthmus.quantizer.plan import AUTO, Asked, asked
from isthmus.quantizer.search import Budget
from isthmus.target import Target

Layer = TypeVar("Layer", Budgets, Settings)

PRECISION = "f32"
DROP = "drop"
DENSE = "none"  # of an override, to leave a model as it is
THREADS = 1
MOST_DROP = 0.999  # that `auto` may be asked for: all of it is no budget


@dataclass(frozen=True, slots=True)
class Pair:
    """A model on a chip: a cell of the matrix. `price` is that of an hour, None where it is not known."""

    model: str
    chip: str
    path: Path
    target: Target
    settings: Settings
    folder: Path
    fix: Mapping[str, Array] = field(compare=False)
    price: float | None
    speed: Chip
    decisions: Mapping[str, Record] = field(default_factory=dict, compare=False)

    @property
    def name(self) -> str:
        """`minilm@armv8-neon`."""
        return f"{self.model}@{self.chip}"

    @property
    def calibration(self) -> Path | None:
        return self._beside(self.settings.calibration)

    @property
    def tokenizer(self) -> Path | None:
        return self._beside(self.settings.tokenizer)

    def _beside(self, name: str | None) -> Path | None:
        return None if name is None else self.folder / name

    @property
    def precision(self) -> str:
        return self.settings.precision or PRECISION

    @property
    def sparsity(self) -> str | None:
        return None if self.settings.sparsity == DENSE else self.settings.sparsity

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.settings.outputs or ()

    @property
    def drop_padding(self) -> bool:
        return self.settings.padding == DROP

    @property
    def metric(self) -> str:
        return self.settings.metric or NAMES[0]

    @property
    def judged(self) -> bool:
        """Whether the metric is a function of the user's own."""
        return self.metric not in NAMES

    @property
    def asked(self) -> Asked:
        """How it is quantized and pruned. What `auto` may lose is the budget of accuracy, if there is one."""
        settings, budget = self.settings, None
        if self.precision == AUTO:
            most = settings.budgets.accuracy_drop
            by = self.metric
            budget = Budget(metric=by) if most is None else Budget(min(most, MOST_DROP), by)
        return asked(
            self.precision,
            self.calibration,
            self.tokenizer,
            budget,
            self.sparsity,
            settings.sparsity_method if self.sparsity else None,
        )

    @property
    def threads(self) -> int:
        return self.settings.threads or THREADS

    @property
    def dims(self) -> Mapping[str, DimOption]:
        return self.settings.dims or {}

    @property
    def at(self) -> Mapping[str, int]:
        """Sizes that were asked for, by name of the dim."""
        return self.settings.at or {}


def resolve(config: Config, known: Mapping[str, Target], machine: Machine) -> tuple[Pair, ...]:
    """Every pair of `config`, models first. Raises `ModelError` with everything that is wrong."""
    problems: list[Problem] = []
    targets = _targets(config, known, machine, problems)
    _check_names(config, problems)
    found: list[Pair] = []
    for model, declared in config.models.items():
        path = config.folder / declared.path
        if not path.is_file():
            text = f"there is no file {str(path)!r}"
            config.place(problems, "models", model, "path").wrong(text, code=Code.NO_SUCH_FILE)
        _check_settings(declared, config.folder, config.place(problems, "models", model))
        for chip, target in targets.items():
            pair = _pair(config, model, chip, target, problems)
            if pair is not None:
                _check_pair(pair, config.place(problems, "models", model))
                found.append(pair)
    for number, override in enumerate(config.overrides):
        _check_settings(override, config.folder, config.place(problems, "overrides", number))
    if problems:
        raise ModelError(tuple(dict.fromkeys(problems)))
    return tuple(found)


def select(pairs: Sequence[Pair], only: Iterable[str]) -> tuple[Pair, ...]:
    """The pairs that one of `only` names: model@chip, where * stands for any; all without any.

    Raises `ModelError` for one that names none."""
    patterns = list(only)
    problems = [
        Problem(
            Code.BAD_OPTION, f"no pair is called {text!r}", "--only", nearest(text, [p.name for p in pairs])
        )
        for text in patterns
        if not any(fnmatchcase(pair.name, text) for pair in pairs)
    ]
    if problems:
        raise ModelError(problems)
    return tuple(
        pair for pair in pairs if not patterns or any(fnmatchcase(pair.name, text) for text in patterns)
    )


def _targets(
    config: Config, known: Mapping[str, Target], machine: Machine, problems: list[Problem]
) -> dict[str, Target]:
    found = {}
    for name, chip in config.chips.items():
        place = config.place(problems, "chips", name)
        try:
            found[name] = pick(chip.target or name, known, machine)
        except ModelError as error:
            for problem in error.problems:
                place.wrong(problem.message, problem.hint, problem.code)
    return found


def _check_names(config: Config, problems: list[Problem]) -> None:
    for chip in config.prices:
        if chip not in config.chips:
            config.place(problems, "prices", chip).wrong("no such chip", nearest(chip, config.chips))
    for number, override in enumerate(config.overrides):
        for key, pattern, names in (
            ("model", override.model, config.models),
            ("chip", override.chip, config.chips),
        ):
            if not any(fnmatchcase(name, pattern) for name in names):
                place = config.place(problems, "overrides", number, key)
                place.wrong(f"no {key} is called {pattern!r}", nearest(pattern, names))


def _check_settings(settings: Settings, folder: Path, at: Place) -> None:
    """What the compiler does not take, in the words it has for it; files that are not there."""
    for name in ("calibration", "tokenizer"):
        path = getattr(settings, name)
        if path is not None and not (folder / path).exists():
            text = f"there is no file {str(folder / path)!r}"
            at.inner(name).wrong(text, code=Code.NO_SUCH_FILE)
    try:
        asked(settings.precision or PRECISION)
    except ModelError as error:
        for problem in error.problems:
            at.inner("precision").wrong(problem.message, problem.hint, problem.code)
    try:
        if settings.sparsity not in (None, DENSE):
            asked(PRECISION, sparsity=settings.sparsity, sparsity_method=settings.sparsity_method)
    except ModelError as error:
        for problem in error.problems:
            key = problem.where.strip("-").replace("-", "_")  # of the option: --sparsity-method
            at.inner(key).wrong(problem.message, problem.hint, problem.code)
    try:
        metric_of(settings.metric or NAMES[0], folder)
    except ModelError as error:
        for problem in error.problems:
            at.inner("metric").wrong(problem.message, problem.hint, problem.code)


def _check_pair(pair: Pair, at: Place) -> None:
    """What only shows with all overrides together: what needs data, and has none."""
    if pair.calibration is not None:
        return
    try:
        wanted = pair.asked
    except ModelError:
        return  # told where it stands
    quantization, sparsity = wanted.quantization, wanted.sparsity
    of_scheme = None if quantization is None else quantization.needs_data
    needs = {
        "precision": "a precision for each layer" if wanted.budget else of_scheme,
        "sparsity_method": f"what {sparsity} prunes" if sparsity and sparsity.needs_data else None,
        "metric": "a metric of one's own" if ":" in pair.metric else None,
    }
    for key, what in needs.items():
        if what is not None:
            problem = no_data(what).problems[0]
            at.inner(key).wrong(problem.message, _DATA_HINT, problem.code)


_DATA_HINT = 'say calibration = "requests/": a .npz, a folder of them, or a text file with a tokenizer'


def _pair(config: Config, model: str, chip: str, target: Target, problems: list[Problem]) -> Pair | None:
    """The pair with the overrides that are for it; None where one skips it."""
    declared = config.models[model]
    settings: Settings = replace(declared, budgets=_over(config.budgets, declared.budgets))
    fix_place = config.place(problems, "models", model, "fix")
    record_place = config.place(problems, "models", model, "decisions")
    for number, override in enumerate(config.overrides):
        if not fnmatchcase(model, override.model) or not fnmatchcase(chip, override.chip):
            continue
        if override.skip:
            return None
        if override.decisions is not None:
            record_place = config.place(problems, "overrides", number, "decisions")
        if override.fix is not None:
            fix_place = config.place(problems, "overrides", number, "fix")
        budgets = _over(settings.budgets, override.budgets)
        settings = replace(_over(settings, override), budgets=budgets)
    fix = _arrays(settings.fix or {}, config.folder, fix_place)
    path = config.folder / declared.path
    price = config.prices.get(chip)
    decisions = _decisions(settings, config.folder, target, record_place)
    speed = config.chips[chip]
    return Pair(model, chip, path, target, settings, config.folder, fix, price, speed, decisions)


def _over(below: Layer, above: object) -> Layer:
    """`below` with what `above` says of its fields."""
    said = {f.name: getattr(above, f.name, None) for f in fields(below)}
    return replace(below, **{name: value for name, value in said.items() if value is not None})


def _decisions(settings: Settings, folder: Path, target: Target, at: Place) -> Mapping[str, Record]:
    """How matrices with zeros are stored, where a record says so."""
    if settings.decisions is None:
        return {}
    try:
        return read_decisions(folder / settings.decisions, target)
    except ModelError as error:
        for problem in error.problems:
            at.wrong(problem.message, problem.hint, problem.code)
    return {}


def _arrays(fix: Mapping[str, object], folder: Path, at: Place) -> dict[str, Array]:
    """The contents of inputs that become constants."""
    found: dict[str, Array] = {}
    for name, value in fix.items():
        text = f"@{folder / value[1:]}" if isinstance(value, str) else json.dumps(value)
        try:
            found[name] = parse_fixes([f"x={text}"])["x"]
        except ModelError as error:
            for problem in error.problems:
                at.inner(name).wrong(problem.message.removeprefix("'x="), problem.hint, problem.code)
    return found
