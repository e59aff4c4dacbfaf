"""`isthmus targets`: the list, one chip, the file of a new one, and the kit."""

from __future__ import annotations

import ast
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from runners import KNOWN, MACHINE, runnable

import isthmus.chips
import isthmus.target
from isthmus.chips import impossible
from isthmus.cli import app
from isthmus.target import Target

Capture = pytest.CaptureFixture[str]


def as_json(capsys: Capture, *arguments: str, code: int = 0) -> object:
    capsys.readouterr()
    assert app.run(["targets", *arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_the_list_as_json(capsys: Capture) -> None:
    found = as_json(capsys)
    assert isinstance(found, list)
    assert [one["name"] for one in found] == list(KNOWN)
    for one in found:
        target = KNOWN[one["name"]]
        assert (one["isa"], one["os"], one["features"]) == (target.arch, target.os, list(target.features))
        assert one["runner"] is None or isinstance(one["runner"], str)
        assert (one["runner"] is not None) == runnable(target)
    assert sum(one["host"] for one in found) <= 1


def test_the_list_for_people(capsys: Capture) -> None:
    assert app.run(["targets"]) == 0
    out = capsys.readouterr().out
    for name, target in KNOWN.items():
        (line,) = [line for line in out.splitlines() if line.strip().startswith(f"{name} ")]
        assert target.os in line and target.features[0] in line


def test_names_of_chips_are_not_broken(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert app.run(["targets"]) == 0
    assert set(KNOWN) <= set(capsys.readouterr().out.split())


def test_help_shows_what_the_words_mean(capsys: Capture) -> None:
    assert app.run(["targets", "--help"]) == 0
    assert "--json" in capsys.readouterr().out.partition("Options:")[2]
    for name in ("test", "new"):
        assert app.run(["targets", name, "--help"]) == 0
        assert f"\n    isthmus targets {name} " in capsys.readouterr().out


@pytest.mark.parametrize("name", KNOWN)
def test_one_chip_shows_all_it_declares(name: str, capsys: Capture) -> None:
    target = KNOWN[name]
    assert app.run(["targets", name]) == 0
    out = " ".join(capsys.readouterr().out.split())
    told = (
        target.description, target.arch, target.os, *target.features, *target.cpu_flags,
        str(target.vector.bits), target.toolchain.zig_target, target.toolchain.zig_cpu, target.byte_order,
    )  # fmt: skip
    assert not [text for text in told if text not in out]
    found = as_json(capsys, name)
    assert isinstance(found, dict) and found["cpu_flags"] == list(target.cpu_flags)


@pytest.mark.parametrize("command", [[], ["test"], ["new", "my-chip", "--like"]])
def test_unknown_chips_are_refused(command: list[str], capsys: Capture, tmp_path: Path) -> None:
    name = next(iter(KNOWN))
    tail = ["-o", str(tmp_path)] if "new" in command else []
    assert app.run(["targets", *command, name[:-1], *tail]) == 2
    err = capsys.readouterr().err
    assert "E1004 unknown-target" in err and f"did you mean {name!r}" in err


def test_a_broken_plug_in_is_a_warning(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    point = SimpleNamespace(
        name="x", value="y", dist=SimpleNamespace(name="their-package"), load=lambda: 1 / 0
    )
    monkeypatch.setattr(isthmus.chips, "entry_points", lambda group: [point])
    assert app.run(["targets"]) == 0
    captured = capsys.readouterr()
    assert all(name in captured.out for name in KNOWN)
    assert "E1013 bad-plugin" in captured.err and "their-package" in captured.err
    assert app.run(["targets", "their-chip"]) == 2
    assert "E1013 bad-plugin" in capsys.readouterr().err


def loaded(path: Path) -> Target:
    spec = importlib.util.spec_from_file_location("made", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (target,) = module.TARGETS
    assert isinstance(target, Target)
    return target


@pytest.mark.parametrize("like", KNOWN)
def test_a_new_chip_is_like_another(like: str, tmp_path: Path, capsys: Capture) -> None:
    assert app.run(["targets", "new", "my-chip.2", "--like", like, "-o", str(tmp_path)]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.split()]
    assert [path.name for path in paths] == ["my_chip_2.py", "test_my_chip_2.py"]
    made, model = loaded(paths[0]), KNOWN[like]
    assert made.name == "my-chip.2" and not list(impossible(made))
    names = "arch features vector caches toolchain cpu_flags guard byte_order kernels byte_products"
    for field in names.split():
        assert getattr(made, field) == getattr(model, field), field
    assert dict(made.tvm) == dict(model.tvm)
    assert made.runners == model.runners[:1]
    text = paths[0].read_text("utf-8")
    fields = [node.arg for node in ast.walk(ast.parse(text)) if isinstance(node, ast.keyword)]
    assert {"name", "tvm", "runners", "guard", "routines"} <= set(fields)
    compile(paths[1].read_text("utf-8"), "test", "exec")


def test_a_new_chip_overwrites_nothing(tmp_path: Path, capsys: Capture) -> None:
    command = ["targets", "new", "my-chip", "-o", str(tmp_path)]
    (tmp_path / "test_my_chip.py").write_text("mine")
    assert app.run(command) == 2
    assert "E1008 cannot-write" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["test_my_chip.py"]
    for name, text in ((next(iter(KNOWN)), "is taken"), ("My Chip", "is no name"), ("host", "is no name")):
        assert app.run(["targets", "new", name, "-o", str(tmp_path)]) == 2
        assert text in capsys.readouterr().err


def test_a_new_chip_where_nothing_can_be_written(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    assert app.run(["targets", "new", "my-chip", "-o", str(tmp_path / "file" / "folder")]) == 2
    assert capsys.readouterr().err.startswith("E1008 cannot-write: ")


def test_the_kit_without_a_runner(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("PATH", "")
    target = next(t for t in KNOWN.values() if t.missing_on(MACHINE) and t.runners)
    assert app.run(["targets", "test", target.name]) == 2
    assert "E2005 no-runner" in capsys.readouterr().err
    assert app.run(["targets", "test", "host", "--group", "nonsense"]) == 2
    assert "no group of the kit begins so; it has: pointwise ops" in capsys.readouterr().err


@pytest.mark.slow
def test_the_kit_finds_a_wrong_chip(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """A routine that is off by one: exit status 1, and the table says where."""
    host = isthmus.chips.pick("host", KNOWN, MACHINE)
    source = """
static void off_by_one(const uint8_t *a, const uint8_t *b, int32_t *y, const int64_t *sizes, int64_t begin,
                       int64_t end) {
  const int64_t depth = sizes[2], columns = sizes[5];
  for (int64_t i = begin * columns; i < end * columns; i++) {
    y[i] = 1;
    for (int64_t k = 0; k < depth; k++) y[i] += a[i / columns * depth + k] * b[k * columns + i % columns];
  }
}
"""
    routine = isthmus.target.Routine("integer_matmul", ("u8", "u8"), "i32", "off_by_one", source)
    wrong = SimpleNamespace(TARGETS=(replace(host, name="wrong", routines=(routine,)),))
    point = SimpleNamespace(name="x", value="y", dist=None, load=lambda: wrong)
    monkeypatch.setattr(isthmus.chips, "entry_points", lambda group: [point])
    command = ["targets", "test", "wrong", "--group", "quantized", "--group", "scans"]
    assert app.run(command) == 1
    captured = capsys.readouterr()
    assert "E3001 not-accurate" in captured.err
    assert "FAILED integer_matmul(u8[2,n], u8[n,b])" in captured.out and "elements differ" in captured.out
    assert "scans" in captured.out
