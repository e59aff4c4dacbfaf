"""What results depend on, as keys of the cache: model, options, chip, tools, our own code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path

import isthmus
import isthmus.frontends
import isthmus.targets
from isthmus.codegen.cache import digest_of
from isthmus.driver import tool_versions
from isthmus.ir.types import Array
from isthmus.matrix.cache import file_digest, key_of
from isthmus.matrix.pairs import Pair
from isthmus.target import Target

# Raise it when the entries of the cache change.
FORMAT = 1
# They change nothing that is made, but for two, which make and check it; compiled Python is not what was
# written.
_NOT_SOURCE, _BUT = {"__pycache__", "cli", "matrix"}, {"matrix/stages.py", "matrix/checks.py"}


@cache
def source_digest() -> str:
    """The digest of the compiler itself: every file of the package but commands and reports."""
    return digest_of(_sources())


def _sources() -> Iterator[tuple[str, Path]]:
    for package in (isthmus, isthmus.frontends, isthmus.targets):
        inner = ("frontends", "targets") if package is isthmus else ()
        for root in map(Path, package.__path__):
            for path in root.rglob("*"):
                parts = path.relative_to(root).parts
                name = "/".join(parts)
                used = not {*parts} & _NOT_SOURCE or name in _BUT
                if used and parts[0] not in inner and path.is_file():
                    yield f"{package.__name__}/{name}", path


def tools() -> dict[str, str]:
    """Versions of what makes bundles, and the digest of our own code."""
    return {**dict(tool_versions()), "source": source_digest()}


def target_digest(target: Target) -> str:
    """The digest of all that a chip declares."""
    return key_of(asdict(target))


def model_key(pair: Pair, files: Mapping[str, str]) -> str:
    """Of what every chip gets: the imported program, its passes, its self-test."""
    return key_of("model", FORMAT, tools(), pair.model, files, pair.dims, _contents(pair.fix), _how(pair))


def made_of(pair: Pair) -> str:
    """The digest of what a bundle depends on besides model and tools: what the chip declares, the options."""
    parts = [target_digest(pair.target), pair.model, pair.dims, _contents(pair.fix), _how(pair)]
    if pair.decisions:
        parts.append({level: asdict(record) for level, record in pair.decisions.items()})
    return key_of(*parts)


def _how(pair: Pair) -> list[object]:
    """What was asked of outputs and precision, with the contents of the data for it; and of what `auto` is to
    choose by."""
    settings, budget = pair.settings, pair.asked.budget
    return [
        pair.outputs,
        pair.drop_padding,
        pair.precision,
        _data(pair.calibration),
        _data(pair.tokenizer),
        [pair.sparsity, settings.sparsity_method],
        None if budget is None else [budget.max_drop, metric_digest(pair)],
        pair.judged,
    ]


def metric_digest(pair: Pair) -> list[str]:
    """A metric by its name, and the contents of its module where that lies beside the configuration."""
    place = pair.folder.joinpath(*pair.metric.partition(":")[0].split("."))
    files = [place.with_suffix(".py"), place / "__init__.py"]
    return [pair.metric, *(file_digest(file) for file in files if pair.judged and file.is_file())]


def _data(path: Path | None) -> object:
    if path is None or path.is_file():
        return None if path is None else file_digest(path)
    return {file.name: file_digest(file) for file in sorted(path.glob("*.npz"))}


def pair_key(pair: Pair, model: str) -> str:
    """Of a bundle. Sizes and threads are in it because what memory a run takes is kept beside it."""
    return key_of("pair", FORMAT, model, made_of(pair), pair.at, pair.threads)


def check_key(pair: Pair, bundle: str, runner: str) -> str:
    """Of how the bundle of a pair answered under a runner, as its metric has it."""
    return key_of("check", FORMAT, bundle, runner, metric_digest(pair))


def measure_key(pair: str, machine: object) -> str:
    """Of what was measured of a bundle on a machine."""
    return key_of("measure", FORMAT, pair, machine)


def _contents(arrays: Mapping[str, Array]) -> dict[str, list[object]]:
    return {
        name: [str(a.dtype), list(a.shape), hashlib.sha256(a.tobytes()).hexdigest()]
        for name, a in arrays.items()
    }
