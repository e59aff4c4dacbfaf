"""`isthmus targets`: the chips, and what each can do."""

from __future__ import annotations

import click

import isthmus.targets
from isthmus.cli.output import Json, console, facts, json_option, show_json, table
from isthmus.machine import Machine
from isthmus.target import Target, discover, pick


@click.command("targets")
@click.argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List the chips that bundles can be made for, or show one of them.

    \b
    Examples:
      isthmus targets
      isthmus targets host
      isthmus targets --json
    """
    known = discover(isthmus.targets)
    machine = Machine.here()
    if name is None:
        # Without one that fits there is no host, and nothing to mark.
        fits = any(not target.missing_on(machine) for target in known.values())
        host = pick("host", known, machine) if fits else None
        _show_all(list(known.values()), host, machine, as_json)
    else:
        _show_one(pick(name, known, machine), machine, as_json)


def _show_all(targets: list[Target], host: Target | None, machine: Machine, as_json: bool) -> None:
    if as_json:
        show_json([{**_as_json(target, machine), "host": target is host} for target in targets])
        return
    grid = table("target", "runs here", "what it is")
    for target in targets:
        mark = " (host)" if target is host else ""
        grid.add_row(target.name, _runs_here(target, machine) + mark, target.description)
    console().print(grid)


def _show_one(target: Target, machine: Machine, as_json: bool) -> None:
    if as_json:
        show_json(_as_json(target, machine))
        return
    vector, caches, toolchain = target.vector, target.caches, target.toolchain
    fused = "fused multiply-add" if vector.fma else "no fused multiply-add"
    rows = [
        ("name", target.name),
        ("what it is", target.description),
        ("runs here", _runs_here(target, machine)),
        ("vectors", f"{vector.registers} registers of {vector.bits} bits, {fused}"),
        ("caches", f"L1 {caches.l1_bytes // 1024} KiB, L2 {caches.l2_bytes // 1024} KiB"),
        ("needs", f"{target.arch}, {target.os}; {', '.join(target.cpu_flags)}"),
        ("library", f"{toolchain.library} for {toolchain.zig_target}"),
    ]
    console().print(facts(rows))


def _runs_here(target: Target, machine: Machine) -> str:
    missing = target.missing_on(machine)
    return f"no, lacks {', '.join(missing)}" if missing else "yes"


def _as_json(target: Target, machine: Machine) -> dict[str, Json]:
    return {
        "name": target.name,
        "description": target.description,
        "missing_here": list(target.missing_on(machine)),
        "arch": target.arch,
        "os": target.os,
        "vector_bits": target.vector.bits,
        "vector_registers": target.vector.registers,
        "fused_multiply_add": target.vector.fma,
        "l1_bytes": target.caches.l1_bytes,
        "l2_bytes": target.caches.l2_bytes,
        "cpu_flags": list(target.cpu_flags),
        "library": target.toolchain.library,
        "links_against": target.toolchain.zig_target,
        "tvm": {key: str(value) for key, value in target.tvm.items()},
    }
