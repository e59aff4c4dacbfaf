"""What can go wrong, with a stable code for each kind and the exit status it leads to.

Two families: `IsthmusError` is about the request, the model or the machine, and its text says what to
change. `CompilerBug` is about us, and its text says what to send.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum


class Code(Enum):
    """Stable error codes. The number never changes its meaning; the slug may be searched for."""

    # E10xx: the request
    NO_SUCH_FILE = "E1001 no-such-file"
    NOT_A_FILE = "E1002 not-a-file"
    BAD_OPTION = "E1003 bad-option"
    UNKNOWN_TARGET = "E1004 unknown-target"
    UNKNOWN_DIM = "E1005 unknown-dim"
    BAD_DIM = "E1006 bad-dim"
    UNKNOWN_PHASE = "E1007 unknown-phase"
    CANNOT_WRITE = "E1008 cannot-write"
    MISSING_PACKAGE = "E1009 missing-package"
    PEER_REFUSES = "E1010 peer-refuses"
    UNKNOWN_INPUT = "E1011 unknown-input"
    BAD_FIX = "E1012 bad-fix"
    BAD_PLUGIN = "E1013 bad-plugin"
    BAD_GROUP = "E1014 bad-group"
    NO_CALIBRATION = "E1015 no-calibration"
    BAD_CALIBRATION = "E1016 bad-calibration"
    BAD_METRIC = "E1017 bad-metric"
    BAD_SPARSITY = "E1018 bad-sparsity"
    # E11xx: the model file
    NOT_ONNX = "E1101 not-onnx"
    EMPTY_MODEL = "E1102 empty-model"
    CYCLIC_GRAPH = "E1103 cyclic-graph"
    INVALID_GRAPH = "E1104 invalid-graph"
    EXTERNAL_DATA = "E1105 external-data"
    UNSUPPORTED_OPSET = "E1106 unsupported-opset"
    TOO_LARGE = "E1107 too-large"
    # E12xx: what the model asks for
    UNSUPPORTED_OPERATOR = "E1203 unsupported-operator"
    UNSUPPORTED_ATTRIBUTE = "E1204 unsupported-attribute"
    UNSUPPORTED_DTYPE = "E1205 unsupported-dtype"
    DATA_DEPENDENT_SHAPE = "E1206 data-dependent-shape"
    SHAPE_MISMATCH = "E1207 shape-mismatch"
    # E13xx: our text form
    BAD_TEXT = "E1301 bad-text"
    # E14xx: the chip
    NOT_ON_TARGET = "E1401 not-on-target"
    # E15xx: the matrix
    BAD_CONFIG = "E1501 bad-config"
    DRIFTED = "E1502 drifted"
    WORKER_DIED = "E1503 worker-died"
    NO_REPORT = "E1504 no-report"
    OVER_MEMORY = "E1505 over-memory"
    # E20xx: bundles
    NOT_A_BUNDLE = "E2001 not-a-bundle"
    NEWER_FORMAT = "E2002 newer-format"
    DAMAGED_BUNDLE = "E2003 damaged-bundle"
    WRONG_MACHINE = "E2004 wrong-machine"
    NO_RUNNER = "E2005 no-runner"
    # E21xx: running
    BAD_INPUT = "E2101 bad-input"
    RUN_FAILED = "E2102 run-failed"
    # E30xx: the result is not good enough
    NOT_ACCURATE = "E3001 not-accurate"
    OVER_BUDGET = "E3002 over-budget"
    NOT_REPRODUCED = "E3003 not-reproduced"
    # W: warnings
    NAN_WEIGHTS = "W1001 nan-weights"
    NARROWED = "W1002 narrowed"
    NO_SELF_TEST = "W1003 no-self-test"
    DAMAGED_CACHE = "W1501 damaged-cache"
    CACHE_NOT_WRITTEN = "W1502 cache-not-written"

    @property
    def number(self) -> str:
        return self.value.split()[0]

    @property
    def slug(self) -> str:
        return self.value.split()[1]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: what, where (an ONNX node, a file, an option) and what to do about it."""

    code: Code
    message: str
    where: str = ""
    hint: str = ""

    def __str__(self) -> str:
        lines = [f"{self.code.value}: {self.message}"]
        if self.where:
            lines.append(f"    at: {self.where}")
        if self.hint:
            lines.append(f"    hint: {self.hint}")
        return "\n".join(lines)


class IsthmusError(Exception):
    """Something the user can change. Carries every problem found, not only the first."""

    exit_code = 2

    def __init__(self, problems: Problem | Sequence[Problem]) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class ModelError(IsthmusError):
    """The model or the request cannot be compiled; the message says what to change."""


class BundleError(IsthmusError):
    """A bundle cannot be opened on this machine; the message says why."""


class RunnerError(IsthmusError):
    """Nothing on this machine executes the bundle's code; the message says what to install."""


class InputError(IsthmusError):
    """The inputs of a run do not fit the model's signature."""


class QualityError(IsthmusError):
    """The result was produced and is not good enough."""

    exit_code = 1


class CompilerBug(Exception):
    """We broke our own rules; the message says what to send us."""

    exit_code = 70


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: the closest known one, or the list of all."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(names)}" if names else "there are none"
