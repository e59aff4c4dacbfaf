"""`isthmus targets`: the chips, what each can do, and how a new one is added."""

from __future__ import annotations

import importlib

import click

import isthmus.targets
from isthmus.chips import best_for, discover, find
from isthmus.cli.output import Json, console, facts, json_option, show_json, show_problems, table
from isthmus.errors import Problem
from isthmus.machine import Machine
from isthmus.target import NATIVE, Runner, Target

# Imported when they are used: testing needs the compiler, listing does not.
_INNER = {"test": "Run the conformance kit on a chip.", "new": "Write the file of a new chip."}


class _Targets(click.Group):
    """A group whose first word may also be the name of a chip."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = args[:1]
        if not words or (words[0] not in _INNER and words[0] not in ctx.help_option_names):
            args = ["show", *args]
        return super().parse_args(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _INNER:
            return super().get_command(ctx, cmd_name)
        command: click.Command = importlib.import_module(f"isthmus.cli.targets_{cmd_name}").command
        return command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # Without a command the options are those of `show`, which is not to be seen.
        options = [
            param.get_help_record(ctx)
            for param in (*show.params, *self.get_params(ctx))
            if isinstance(param, click.Option)
        ]
        with formatter.section("Options"):
            formatter.write_dl([option for option in options if option is not None])
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_INNER.items()))


@click.command("targets", cls=_Targets, subcommand_metavar="[NAME | COMMAND ...]")
def command() -> None:
    """List the chips that bundles can be made for, show one of them, test one, or begin a new one.

    \b
    Examples:
      isthmus targets                        # all
      isthmus targets host                   # one, with everything it declares
      isthmus targets --json
      isthmus targets test host              # the conformance kit, on the chip's runner
      isthmus targets new my-chip --like host
    """


@command.command("show", hidden=True)
@click.argument("name", required=False)
@json_option
def show(name: str | None, as_json: bool) -> None:
    """List the chips that bundles can be made for, or show one of them."""
    machine = Machine.here()
    if name is not None:
        _show_one(find(name, isthmus.targets, machine, "NAME"), machine, as_json)
        return
    problems: list[Problem] = []
    known = discover(isthmus.targets, problems.append)
    _show_all(list(known.values()), best_for(machine, known), machine, as_json)
    show_problems(problems)


def _show_all(targets: list[Target], host: Target | None, machine: Machine, as_json: bool) -> None:
    if as_json:
        show_json([{**_as_json(target, machine), "host": target is host} for target in targets])
        return
    grid = table("target", "system", "runs here", "features", "what it is", whole=("target",))
    for target in targets:
        runs = _runs_here(target, machine) + (" (host)" if target is host else "")
        grid.add_row(target.name, target.os, runs, " ".join(target.features), target.description)
    console().print(grid)


def _show_one(target: Target, machine: Machine, as_json: bool) -> None:
    if as_json:
        show_json(_as_json(target, machine))
        return
    vector, caches, toolchain = target.vector, target.caches, target.toolchain
    fused = "fused multiply-add" if vector.fma else "no fused multiply-add"
    needs = f"{target.arch}, {target.os}, {target.byte_order}-endian"
    rows = [
        ("name", target.name),
        ("what it is", target.description),
        ("runs here", _runs_here(target, machine)),
        ("vectors", f"{vector.registers} registers of {vector.bits} bits, {fused}"),
        ("caches", f"L1 {caches.l1_bytes // 1024} KiB, L2 {caches.l2_bytes // 1024} KiB"),
        ("features", ", ".join(target.features)),
        ("needs", "; ".join(filter(None, (needs, ", ".join(target.cpu_flags))))),
        ("kernels", "objects from LLVM" if target.kernels == "llvm" else "C source, in the bundle"),
        ("runners", ", ".join(map(_runner_text, target.runners)) or "none"),
        ("library", f"{toolchain.library} for {toolchain.zig_target}, at least {toolchain.zig_cpu}"),
        ("code", ", ".join(f"{key} {_words(value)}" for key, value in target.tvm.items())),
        ("its own", ", ".join(str(routine) for routine in target.routines) or "no routines"),
    ]
    console().print(facts(rows))


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _runner_text(runner: Runner) -> str:
    # A command may hold a whole script.
    command = " ".join(word for word in runner.command if "\n" not in word)
    return f"{runner.name}: {command} (from {runner.package})"


def _runs_here(target: Target, machine: Machine) -> str:
    found = target.executor(machine)
    if found is not None:
        return "yes" if found == NATIVE else found
    return f"no: install {target.runners[0].package}" if target.runners else "no: built, not run"


def _as_json(target: Target, machine: Machine) -> dict[str, Json]:
    return {
        "name": target.name,
        "description": target.description,
        "isa": target.arch,
        "os": target.os,
        "features": list(target.features),
        "runner": target.executor(machine),
        "emulator": list(target.runners[0].command) if target.runners else None,
        "runners": [runner.name for runner in target.runners],
        "byte_order": target.byte_order,
        "kernels": target.kernels,
        "missing_here": list(target.missing_on(machine)),
        "vector_bits": target.vector.bits,
        "vector_registers": target.vector.registers,
        "fused_multiply_add": target.vector.fma,
        "l1_bytes": target.caches.l1_bytes,
        "l2_bytes": target.caches.l2_bytes,
        "cpu_flags": list(target.cpu_flags),
        "library": target.toolchain.library,
        "links_against": target.toolchain.zig_target,
        "tvm": {key: _words(value) for key, value in target.tvm.items()},
        "routines": [str(routine) for routine in target.routines],
    }
