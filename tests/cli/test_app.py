"""Every outcome of a command line has its exit code, and stdout holds results only."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click import Command, Group

from isthmus.cli import app, targets
from isthmus.errors import CompilerBug, QualityError


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make `isthmus targets` raise."""

    def install(error: BaseException) -> None:
        def discover(*_: object) -> None:
            raise error

        for name in ("discover", "find"):
            monkeypatch.setattr(targets, name, discover)

    return install


def test_commands_are_the_modules() -> None:
    folder = Path(app.__file__).parent
    others = {"__init__", "app", "arguments", "crash", "output", "sparsity", "steps"}
    found = {path.stem for path in folder.glob("*.py")} - others
    # What stands behind a command's name is a command within it.
    assert set(app.COMMANDS) == {name for name in found if name.split("_")[0] not in found - {name}}


@pytest.mark.parametrize("name", app.COMMANDS)
def test_help_has_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Examples:\n    isthmus {name}" in text


@pytest.mark.parametrize("name", app.COMMANDS)
def test_every_result_comes_as_json(name: str) -> None:
    command = app.commands.get_command(None, name)  # type: ignore[arg-type]
    if isinstance(command, Group):
        command = command.commands["show"]
    assert isinstance(command, Command)
    assert "--json" in [option for parameter in command.params for option in parameter.opts]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("isthmus 0.")


def test_nothing_asked_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run([]) == 2
    captured = capsys.readouterr()
    assert "compile" in captured.err
    assert not captured.out


@pytest.mark.parametrize(
    "arguments", [["--nonsense"], ["targets", "--nonsense"], ["run"], ["targets", "a", "b"]]
)
def test_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("E1003 bad-option: ")
    assert "hint: see isthmus" in captured.err
    assert not captured.out


def test_a_misspelt_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["chek", "model.onnx"]) == 2
    expected = "E1003 bad-option: there is no command 'chek'\n    hint: did you mean 'check'?\n"
    assert capsys.readouterr().err == expected


def test_unknown_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["targets", "nonsense"]) == 2
    assert capsys.readouterr().err.startswith("E1004 unknown-target: no target called 'nonsense'\n")


@pytest.mark.parametrize(
    "error", [RuntimeError("oops"), CompilerBug("oops"), FileNotFoundError(2, "oops", "x")]
)
def test_bugs_say_what_to_send(
    error: Exception,
    fails: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fails(error)
    assert app.run(["targets", "host"]) == 70
    (file,) = tmp_path.iterdir()
    text = file.read_text("utf-8")
    assert text.startswith("isthmus targets host\n")
    assert "Traceback" in text
    assert "onnxruntime " in text
    message = capsys.readouterr().err
    assert "oops" in message
    assert str(file) in message
    assert "Traceback" not in message


def test_debug_prints_the_traceback(
    fails: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    fails(RuntimeError("oops"))
    for arguments in (["--debug", "targets"], ["targets", "--debug"]):
        assert app.run(arguments) == 70
        assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (PermissionError(13, "Permission denied", "/there"), 2, "E1008 cannot-write: Permission denied"),
        (OSError(28, "No space left on device", "/there"), 2, "at: /there"),
        (MemoryError(), 2, "E2102 run-failed: out of memory"),
        (QualityError([]), 1, ""),
    ],
)
def test_other_outcomes(
    error: BaseException,
    code: int,
    text: str,
    fails: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    fails(error)
    assert app.run(["targets"]) == code
    assert text in capsys.readouterr().err


def test_a_closed_pipe_is_no_crash() -> None:
    command = [sys.executable, "-c", "from isthmus.cli import main; main()", "targets", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 141
    assert errors == b""


def test_targets(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["targets", "--json"]) == 0
    every = json.loads(capsys.readouterr().out)
    assert app.run(["targets"]) == 0
    table = capsys.readouterr().out
    assert len(every) >= 3
    assert sum(one["host"] for one in every) <= 1
    words = set(table.split())
    assert all(words >= {one["name"], *one["description"].split(), *one["features"]} for one in every)


def test_help_loads_no_compiler() -> None:
    code = (
        "import sys\nfrom isthmus.cli import app\n"
        "assert app.run(['--help']) == 0\n"
        "print(sorted({'tvm', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("redirection", "code", "told"), [("> /dev/full", 2, "E1008 cannot-write: "), (">&-", 0, "")]
)
def test_nowhere_to_write_to(redirection: str, code: int, told: str) -> None:
    command = f'"{sys.executable}" -c "from isthmus.cli import main; main()" targets {redirection}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr[: len(told)]) == (code, told)
