"""What is to be built: the chosen pairs, and the keys of everything that is made for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import isthmus.targets
from isthmus.chips import discover
from isthmus.errors import ModelError
from isthmus.frontends.onnx import file_digests
from isthmus.machine import Machine
from isthmus.matrix import keys
from isthmus.matrix.cache import file_digest
from isthmus.matrix.config import Config
from isthmus.matrix.pairs import Pair, resolve, select
from isthmus.target import NATIVE


@dataclass(frozen=True, slots=True)
class Plan:
    """A pair, and the keys of all that is made for it; `runner` is what executes its code here."""

    pair: Pair
    model: str
    bundle: str
    runner: str | None
    check: str | None
    files: Mapping[str, str]

    @property
    def native(self) -> bool:
        return self.runner == NATIVE


@dataclass(frozen=True, slots=True)
class Matrix:
    """The pairs to build, and the names of all that are declared, in that order."""

    plans: tuple[Plan, ...]
    names: tuple[str, ...]

    @property
    def others(self) -> set[str]:
        """Names of the pairs that were not asked for."""
        return set(self.names) - {plan.pair.name for plan in self.plans}


def plan_matrix(config: Config, only: Iterable[str] = ()) -> Matrix:
    """The chosen pairs with their keys. Raises `ModelError` for what is wrong with the configuration.

    A file that is no model is found out when it is imported, and fails its row only."""
    machine = Machine.here()
    declared = resolve(config, discover(isthmus.targets), machine)
    pairs = select(declared, only)
    names = tuple(pair.name for pair in declared)
    digests: dict[Path, Mapping[str, str]] = {}
    for pair in pairs:
        if pair.path not in digests:
            digests[pair.path] = _digests(pair.path)
    return Matrix(tuple(_plan(pair, digests[pair.path], machine) for pair in pairs), names)


def _digests(path: Path) -> Mapping[str, str]:
    try:
        return file_digests(path)
    except ModelError:
        return {".": file_digest(path)}


def _plan(pair: Pair, files: Mapping[str, str], machine: Machine) -> Plan:
    model = keys.model_key(pair, files)
    bundle = keys.pair_key(pair, model)
    runner = pair.target.executor(machine)
    check = None if runner is None else keys.check_key(pair, bundle, runner)
    return Plan(pair, model, bundle, runner, check, files)
