"""Finding chips: what `targets/` and plug-ins declare, by name or for a machine. None is named here."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

from isthmus.errors import Code, CompilerBug, ModelError, Problem, nearest
from isthmus.machine import Machine
from isthmus.target import Target

_NAME = re.compile(r"[a-z0-9][a-z0-9._+-]*")
_RESERVED = ("host", "new", "show", "test")


def impossible_name(name: str) -> Iterator[str]:
    """Why no chip can be called `name`; nothing when one can."""
    if not _NAME.fullmatch(name) or name in _RESERVED:
        words = ", ".join(_RESERVED)
        yield f"{name!r} is no name: small letters, digits and . _ + - only, and not {words}"


def impossible(target: object) -> Iterator[str]:
    """Why `target` cannot be a chip; nothing when it can."""
    if not isinstance(target, Target):
        yield f"{target!r} is not an isthmus.target.Target"
        return
    yield from impossible_name(target.name)
    if not target.arch:
        yield "arch is empty: what `uname -m` says on such a machine"
    if target.vector.lanes(32) < 1 or target.vector.bits % 32:
        yield f"vectors of {target.vector.bits} bits: 32 for none, else a multiple of 32"
    if target.vector.registers < 8:
        yield f"{target.vector.registers} vector registers: kernels keep at least 8 values in them"
    if min(target.caches.l1_bytes, target.caches.l2_bytes, target.caches.line_bytes) < 1:
        yield f"{target.caches}: every size is at least 1"
    if target.byte_order not in ("little", "big"):
        yield f"byte order {target.byte_order!r}: little or big"
    if "kind" not in target.tvm:
        yield "tvm has no 'kind'"
    if "isthmus_machine_check" not in target.guard:
        yield "guard does not define isthmus_machine_check"
    if not all(runner.command for runner in target.runners):
        yield "a runner has no command"


def _ignore(_: Problem) -> None:
    return None


def discover(package: ModuleType, warn: Callable[[Problem], None] = _ignore) -> dict[str, Target]:
    """Targets of every public module of `package` and of installed plug-ins, by name, least capable first.

    A module (or an entry point of the group `isthmus.targets`) declares `TARGETS`, a tuple of `Target`
    ordered from least to most capable. A plug-in that cannot be used is left out, and `warn` told why.
    """
    found: dict[str, Target] = {}
    for info in pkgutil.iter_modules(package.__path__):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for target in module.TARGETS:
            if target.name in found or any(impossible(target)):
                raise CompilerBug(f"{module.__name__} declares {target.name!r} again, or what cannot be")
            found[target.name] = target
    for point in sorted(entry_points(group="isthmus.targets"), key=lambda p: p.name):
        targets, reasons = _declared(point, found)
        found.update((target.name, target) for target in targets)
        for reason in reasons:
            warn(Problem(Code.BAD_PLUGIN, reason, _maker(point), "fix the plug-in, or uninstall it"))
    return found


def _maker(point: EntryPoint) -> str:
    package = f"package {point.dist.name}, " if point.dist is not None else ""
    return f"{package}entry point {point.name} = {point.value}"


def _declared(point: EntryPoint, known: Mapping[str, Target]) -> tuple[list[Target], list[str]]:
    """The targets of a plug-in that can be used, and why others cannot."""
    good: dict[str, Target] = {}
    reasons: list[str] = []
    try:
        targets = tuple(point.load().TARGETS)
    except Exception as error:  # noqa: BLE001 - it is somebody else's code, and may raise anything
        return [], [f"a plug-in does not load: {type(error).__name__}: {error}"]
    for target in targets:
        wrong = list(impossible(target))
        if not wrong and (target.name in known or target.name in good):
            wrong = ["another chip has this name"]
        if wrong:
            name = getattr(target, "name", "?")
            reasons.append(f"a plug-in declares a chip {name!r} that cannot be: {'; '.join(wrong)}")
        else:
            good[target.name] = target
    return list(good.values()), reasons


def find(name: str, package: ModuleType, machine: Machine, where: str = "--target") -> Target:
    """`pick` among all that `discover` finds; what is wrong with plug-ins is told when there is none."""
    problems: list[Problem] = []
    known = discover(package, problems.append)
    try:
        return pick(name, known, machine, where)
    except ModelError as error:
        raise ModelError((*error.problems, *problems)) from None


def pick(name: str, known: Mapping[str, Target], machine: Machine, where: str = "--target") -> Target:
    """The target called `name`; `host` is the most capable known target that `machine` can run.

    Raises `ModelError` (unknown-target), at the option or argument `where`, for a name nobody declares, or
    when no target fits the machine.
    """
    if name in known:
        return known[name]
    if name != "host":
        raise ModelError(
            Problem(Code.UNKNOWN_TARGET, f"no target called {name!r}", where, nearest(name, [*known, "host"]))
        )
    best = best_for(machine, known)
    if best is None:
        raise ModelError(
            Problem(
                Code.UNKNOWN_TARGET,
                f"no known target runs on this machine ({machine.arch}, {machine.os})",
                "--target host",
                f"name the chip to compile for: {', '.join(known)}",
            )
        )
    return best


def best_for(machine: Machine, known: Mapping[str, Target]) -> Target | None:
    """The most capable known target that `machine` can run; C where nothing better is known."""
    fitting = [target for target in known.values() if not target.missing_on(machine)]
    return max(fitting, key=lambda t: (t.kernels == "llvm", fitting.index(t)), default=None)
