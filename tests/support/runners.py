"""Runners in tests: without one a test is not run and says what to install; CI makes that a failure."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from dataclasses import replace

import pytest
from programs import not_run

import isthmus.targets
from isthmus.chips import discover
from isthmus.codegen.cache import cache_dir
from isthmus.machine import Machine
from isthmus.target import Target
from isthmus.targets import x86_64

MACHINE = Machine.here()
KNOWN = discover(isthmus.targets)
CACHE = cache_dir(os.environ)


def has_runner(target: Target) -> bool:
    """Whether anything that can be installed executes its code here."""
    return not target.missing_on(MACHINE) or bool(target.runners)


def runnable(target: Target) -> bool:
    """Whether something executes its code here now."""
    return target.executor(MACHINE) is not None


def native(target: Target) -> Target:
    """`target`, or the end of the test where this machine cannot run its code itself."""
    missing = target.missing_on(MACHINE)
    if missing:
        pytest.skip(f"this machine lacks {', '.join(missing)}")
    return target


def most_capable(key: Callable[[Target], Hashable]) -> tuple[Target, ...]:
    """Of the levels of x86-64 with the same `key`, and so the same kernels, the most capable that runs here,
    or the most capable of all."""
    levels = sorted(x86_64.TARGETS, key=lambda target: not target.missing_on(MACHINE))
    return tuple({key(target): target for target in levels if target.os == MACHINE.os}.values())


(_BEST,) = most_capable(lambda target: None)


def quick(target: Target) -> Target:
    """`native`, and not optimized by LLVM unless it is the most capable: that takes a third of the time.

    Templates are the same for all levels, and optimized for that one. What the optimizer makes of them for
    the others is run as it is shipped: by the conformance kit, and one model by `e2e/test_levels`.
    """
    native(target)
    if target == _BEST or target.kernels == "c":
        return target
    return replace(target, tvm={**target.tvm, "opt-level": 0})


def need_runner(target: Target) -> None:
    """End the test as `not_run` when nothing that executes the target's code is installed."""
    if runnable(target):
        return
    if not target.runners:
        pytest.skip(f"not run: nothing here executes code for {target.name}")
    first = target.runners[0]
    lacking = ", ".join(first.missing())
    not_run(f"{lacking} not found; install {first.package} (scripts/install_emulators.sh)")
