"""The `isthmus` command: finds the subcommand, and turns every outcome into an exit code.

0 done; 1 the result is not good enough; 2 the request or the model has to change; 70 a bug of ours;
130 interrupted; 141 nobody reads our output any more.
"""

from __future__ import annotations

import errno
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

import click

from isthmus.cli.crash import report_crash
from isthmus.cli.output import show_problems
from isthmus.errors import Code, IsthmusError, ModelError, Problem, nearest

EXIT_INTERRUPTED = 128 + 2
EXIT_BROKEN_PIPE = 128 + 13

# Name of the module under isthmus.cli -> its line in `isthmus --help`. Kept here so that asking for help
# does not load a compiler.
COMMANDS = {
    "check": "Say in seconds whether a model can be compiled, into what, and what is in the way.",
    "compile": "Compile a model for a chip: ONNX in, bundle out.",
    "run": "Run a bundle on inputs from files.",
    "verify": "Check a bundle's answers against stored ones, or against onnxruntime.",
    "inspect": "Show what is in a bundle and how it was made.",
    "explain": "Say what became of a node of a model.",
    "accuracy": "Measure what few bits cost, layer by layer, and find what breaks a result.",
    "bench": "Time a bundle, alone or in turns with other engines; say where its time goes.",
    "build": "Build a matrix of models and chips: what changed, with reports, for CI.",
    "rebuild": "Build the matrix once more from nothing, and compare every byte.",
    "diff": "Show what differs between two builds, or two bundles.",
    "targets": "List the chips that bundles can be made for.",
}


class Commands(click.Group):
    """A group whose subcommands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"isthmus.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS:
            hint = nearest(args[0], COMMANDS)
            raise ModelError(Problem(Code.BAD_OPTION, f"there is no command {args[0]!r}", hint=hint))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands, in the order you will want them"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Errors have codes, explained in docs/errors.md. Exit status: 0 done, 1 not good enough, "
    "2 change the request or the model, 70 a bug in Isthmus.",
)
@click.version_option(version("isthmus"), prog_name="isthmus", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Print a traceback when something goes wrong.")
def commands(debug: bool) -> None:
    """Compile Transformer models ahead of time into self-contained native bundles.

    \b
      isthmus check model.onnx            # can it be compiled, and into what?
      isthmus compile model.onnx          # for this machine, into dist/
      isthmus verify dist/model@...       # does it answer as it should?
      isthmus inspect dist/model@...      # what is in it?
    """


def main() -> None:
    """Run the command line and leave the process with its exit code."""
    # What a compiler makes stays until it is done; looking for garbage among it takes a tenth of the time.
    gc.set_threshold(100_000, 50, 100)
    if sys.stdout is None:  # the shell's >&-
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the process ends
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    # Welcome anywhere: it is added to a command line that failed.
    debug = "--debug" in arguments
    try:
        with commands.make_context("isthmus", [a for a in arguments if a != "--debug"]) as context:
            commands.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        show_problems([_usage_problem(error)], debug)
        return 2
    except IsthmusError as error:
        show_problems(error.problems, debug)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return EXIT_BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - the last resort
        if (problem := _environment_problem(error)) is not None:
            show_problems([problem], debug)
            _drop_output()
            return 2
        return report_crash(error, arguments, debug)
    return 0


def _drop_output() -> None:
    """Python would complain once more when it flushes at exit, if nothing can be written."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage_problem(error: click.ClickException) -> Problem:
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f"{context.command_path} --help" if context is not None else "isthmus --help"
    return Problem(Code.BAD_OPTION, error.format_message(), hint=f"see {hint}")


def _environment_problem(error: Exception) -> Problem | None:
    """What to say of an error that is the machine's doing, not ours."""
    if isinstance(error, MemoryError):
        return Problem(Code.RUN_FAILED, f"out of memory: {error}" if str(error) else "out of memory")
    refused = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError) and error.errno in refused:
        return Problem(Code.CANNOT_WRITE, str(error.strerror), str(error.filename or "standard output"))
    return None
