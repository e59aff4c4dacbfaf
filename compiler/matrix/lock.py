"""isthmus.lock: what a build was made of and what came out, so that the next one can be held to it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from isthmus.errors import BundleError, Code, ModelError, Problem
from isthmus.matrix import keys
from isthmus.matrix.cache import FolderStore
from isthmus.matrix.plans import Matrix, Plan
from isthmus.matrix.results import BuildResult, PairResult

FILE = "isthmus.lock"
FORMAT = 1
_HINT = "build without --frozen to accept it, and keep the new isthmus.lock"


@dataclass(frozen=True, slots=True)
class Lock:
    """`tools`: versions, and the digest of the compiler's own code. `models`: the digests of each model's
    files. `pairs`: of each pair what it is made of (`made_of`: the chip's declaration, the options), the
    digest of the bundle, and how matrices with zeros are `stored`, by layer."""

    tools: Mapping[str, str]
    models: Mapping[str, Mapping[str, str]]
    pairs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def dumps(self) -> str:
        """Text that version control can show differences of."""
        raw = {"format": FORMAT, "tools": self.tools, "models": self.models, "pairs": self.pairs}
        return json.dumps(raw, indent=2, sort_keys=True) + "\n"


def path_of(config: Path) -> Path:
    """Where the lock of a configuration lies."""
    return config.parent / FILE


def read_lock(path: Path) -> Lock:
    """The lock at `path`. Raises `ModelError`: no-such-file, bad-config."""
    try:
        raw = json.loads(path.read_bytes())
    except FileNotFoundError:
        hint = "build once without --frozen, and keep the file that it writes"
        raise ModelError(Problem(Code.NO_SUCH_FILE, "there is no lock", str(path), hint)) from None
    except (OSError, ValueError) as error:
        raise ModelError(Problem(Code.BAD_CONFIG, f"this is no lock: {error}", str(path))) from None
    if not _is_lock(raw):
        text = f"this is no lock of format {FORMAT}"
        raise ModelError(Problem(Code.BAD_CONFIG, text, str(path), "build once without --frozen"))
    return Lock(raw["tools"], raw["models"], raw["pairs"])


def _is_lock(raw: Any) -> bool:
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        return False
    tables = [raw.get(name) for name in ("tools", "models", "pairs")]
    inner = [value for table in tables[1:] if isinstance(table, dict) for value in table.values()]
    return all(isinstance(table, dict) for table in (*tables, *inner))


def held_to(path: Path, matrix: Matrix) -> Lock:
    """The lock at `path`, which `matrix` keeps to. Raises `ModelError`: no-such-file, bad-config, drifted."""
    lock = read_lock(path)
    if problems := drift(lock, matrix):
        raise ModelError(problems)
    return lock


def keep(path: Path, lock: Lock | None, matrix: Matrix, result: BuildResult) -> None:
    """Write what was built; with a `lock` check that it came out as it is locked.

    Raises `ModelError`: drifted, `BundleError` when it cannot be written."""
    if lock is None:
        update_lock(path, matrix, result)
    elif problems := check_result(lock, result):
        raise ModelError(problems)


def drift(lock: Lock, matrix: Matrix) -> list[Problem]:
    """Everything that is not as it is locked: tools, models, what pairs are made of."""
    found = [_drifted(name, lock.tools.get(name), version) for name, version in keys.tools().items()]
    models = {plan.pair.model: plan for plan in matrix.plans}
    for name, plan in models.items():
        known = lock.models.get(name, {})
        for file in sorted({*known, *plan.files}):
            what = f"model {name}" if file == "." else f"model {name}, {file}"
            found.append(_drifted(what, known.get(file), plan.files.get(file)))
    for plan in matrix.plans:
        known = lock.pairs.get(plan.pair.name, {})
        found.append(_drifted(f"pair {plan.pair.name}", known.get("made_of"), _made_of(plan)))
    return [problem for problem in found if problem is not None]


def check_result(lock: Lock, result: BuildResult) -> list[Problem]:
    """Bundles that did not come out as they are locked."""
    found = [
        _drifted(f"bundle {pair.name}", lock.pairs.get(pair.name, {}).get("bundle"), pair.digest)
        for pair in result.pairs
        if pair.digest is not None
    ]
    return [problem for problem in found if problem is not None]


def _drifted(what: str, locked: str | None, now: str | None) -> Problem | None:
    if locked == now:
        return None
    text = f"{what} is {_short(now)}, locked is {_short(locked)}"
    return Problem(Code.DRIFTED, text, FILE, _HINT)


def _short(value: str | None) -> str:
    if value is None:
        return "not there"
    return value[:16] if len(value) == 64 else value


def _made_of(plan: Plan) -> str:
    """The digest of the chip's declaration and the options. Model and tools are locked by themselves."""
    return keys.made_of(plan.pair)


def update_lock(path: Path, matrix: Matrix, result: BuildResult) -> None:
    """Write what was built. What was not asked for, or failed, stays as it was; what is gone goes.

    Raises `BundleError` when it cannot be written."""
    try:
        before = read_lock(path)
    except ModelError:
        before = Lock({}, {})
    made = {pair.name: pair for pair in result.pairs if pair.digest is not None}
    pairs = {name: entry for name, entry in before.pairs.items() if name in matrix.others}
    models = {name: files for name, files in before.models.items() if name in _models(matrix.others)}
    for plan in matrix.plans:
        name = plan.pair.name
        if name in made:
            pairs[name] = {
                "made_of": _made_of(plan),
                "bundle": made[name].digest,
                "stored": _stored(made[name]),
            }
            models[plan.pair.model] = plan.files
        elif name in before.pairs:
            pairs[name] = before.pairs[name]
            models.setdefault(plan.pair.model, before.models.get(plan.pair.model, {}))
    try:
        FolderStore(path.parent).write(path.name, Lock(keys.tools(), models, pairs).dumps().encode())
    except OSError as error:
        text = f"cannot write the lock: {error.strerror}"
        raise BundleError(Problem(Code.CANNOT_WRITE, text, str(path))) from error


def _stored(pair: PairResult) -> dict[str, str]:
    layers = cast("list[dict[str, Any]]", pair.details["sparsity"])
    return {str(layer["node"]): str(layer["stored"]) for layer in layers}


def _models(pairs: Iterable[str]) -> set[str]:
    return {name.partition("@")[0] for name in pairs}
