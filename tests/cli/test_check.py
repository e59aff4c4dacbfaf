"""`check` and `explain`: what they print, what they write, what they refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from layer_models import broken_model, layer_model, save, sparse_model

import isthmus.targets
from isthmus.chips import discover
from isthmus.cli import app
from isthmus.cli.check import _check
from isthmus.codegen.session_memory import arena_bytes
from isthmus.driver import Options, prepare, read_model, write_c
from isthmus.target import Caches
from isthmus.tools.costs import sizes_for

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(layer_model(), tmp_path_factory.mktemp("layer"))


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(broken_model(), tmp_path_factory.mktemp("broken"))


def test_check_tells_people(layer: Path, capsys: Capture) -> None:
    assert app.run(["check", str(layer), "--at", "batch=2", "--at", "seq=10"]) == 0
    captured = capsys.readouterr()
    for part in (
        "batch = 1.., seq = 1..",
        "f32[batch,seq,16]",
        "compiles",
        "(host)",
        "1 layer_norm (0 with residual), 2 linear (1 gelu, 1 with residual)",
        "1536*batch*seq",
        "30,720 multiply-adds",
    ):
        assert part in captured.out
    assert not captured.err


def test_check_tells_programs(layer: Path, capsys: Capture) -> None:
    assert app.run(["check", str(layer), "--target", "host", "--dim", "batch=3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["compiles"] is True
    assert found["dims"] == [{"name": "seq", "low": 1, "high": None}]
    (target,) = found["targets"]
    assert target["host"] is True
    assert target["sizes"] == {"seq": 128}
    assert target["kernels"]["gemm_f32_gelu"] == 1
    assert target["multiply_adds"] == "4608*seq"
    assert target["weights_bytes"] > 0 < target["working_bytes"]


def test_zeros_are_told(tmp_path: Path, capsys: Capture) -> None:
    """Of a plain file with zeros in it, without any flag."""
    path = save(sparse_model(), tmp_path)
    assert app.run(["check", str(path), "--target", "host"]) == 0
    shown = capsys.readouterr().out
    assert all(part in shown for part in ("matrix with zeros", "/product", "96x640", "unstructured", "csr:"))
    assert app.run(["check", str(path), "--target", "host", "--json"]) == 0
    (target,) = json.loads(capsys.readouterr().out)["targets"]
    (layer,) = target["sparsity"]
    assert layer["stored"].startswith("csr(") and layer["bytes"] < 0.15 * layer["dense_bytes"]
    assert layer["decided_by"] == "declared cost" and layer["predicted_gain"] > 2


def test_check_of_chips_that_need_bounds(layer: Path, capsys: Capture) -> None:
    """Left out by default where a dim has none, told of when asked for, in where all have one."""
    boards = {t.name for t in discover(isthmus.targets).values() if t.toolchain.system.freestanding}
    bounds = ["--dim", "batch=1..4", "--dim", "seq=1..8"]

    def listed(status: int, *arguments: str) -> set[str]:
        assert app.run(["check", str(layer), "--json", *arguments]) == status
        return {target["target"] for target in json.loads(capsys.readouterr().out)["targets"]}

    assert boards and not listed(0) & boards
    assert listed(0, *bounds) >= boards
    one = min(boards)
    assert listed(2, "--target", one) == {one}


def test_check_says_everything_that_is_in_the_way(broken: Path, tmp_path: Path, capsys: Capture) -> None:
    log = tmp_path / "problems.sarif"
    assert app.run(["check", str(broken), "--sarif", str(log), "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found["compiles"] is False
    assert len(found["targets"]) >= 3
    for target in found["targets"]:
        assert [p["code"] for p in target["problems"]] == ["E1203", "E1206"]
        assert all(p["remedy"] for p in target["problems"])
        assert target["problems"][0]["where"] == "/strange, /stranger"
    results = json.loads(log.read_text())["runs"][0]["results"]
    assert [r["ruleId"] for r in results] == ["E1203", "E1206"], "once, whatever the number of targets"
    assert len(results[0]["properties"]["targets"]) == len(found["targets"])
    assert app.run(["check", str(broken)]) == 2
    captured = capsys.readouterr()
    assert captured.out.count("no: 2 problems") == 1 and f"all {len(found['targets'])}" in captured.out
    assert captured.err.count("E1203 unsupported-operator") == 1
    assert "hint:" in captured.err


def test_check_writes_an_empty_log_when_nothing_is_wrong(layer: Path, tmp_path: Path) -> None:
    log = tmp_path / "problems.sarif"
    assert app.run(["check", str(layer), "--target", "host", "--sarif", str(log)]) == 0
    assert json.loads(log.read_text())["runs"][0]["results"] == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--target", "nonsense"], "E1004 unknown-target"),
        (["--dim", "sec=3"], "E1005 unknown-dim"),
        (["--at", "sec=3"], "E1005 unknown-dim"),
        (["--at", "seq=many"], "E1003 bad-option"),
        (["--at", "seq=0"], "E1006 bad-dim"),
    ],
)
def test_check_refuses_bad_requests(arguments: list[str], text: str, layer: Path, capsys: Capture) -> None:
    assert app.run(["check", str(layer), *arguments]) == 2
    assert text in capsys.readouterr().err


def test_check_of_a_real_model(minilm: Path, capsys: Capture) -> None:
    assert app.run(["check", str(minilm)]) == 0
    assert "attention" in capsys.readouterr().out


def test_check_refuses_files_that_are_not_there(layer: Path, tmp_path: Path, capsys: Capture) -> None:
    assert app.run(["check", str(tmp_path / "none.onnx")]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert "E1001 no-such-file" in captured.err
    assert app.run(["check", str(layer), "--target", "host", "--sarif", str(tmp_path / "no" / "log")]) == 2
    assert "E1008 cannot-write" in capsys.readouterr().err


def test_explain_lists_every_node(layer: Path, capsys: Capture) -> None:
    assert app.run(["explain", str(layer)]) == 0
    text = capsys.readouterr().out
    for node in layer_model().graph.node:
        assert node.name in text
    assert "gemm_f32_gelu" in text
    assert app.run(["explain", str(layer), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(layer_model().graph.node)


def test_explain_tells_one_node(layer: Path, capsys: Capture) -> None:
    assert app.run(["explain", str(layer), "/act/erf"]) == 0
    text = capsys.readouterr().out
    for part in ("Erf", "fused into linear (/up)", "by linear-gelu", "gemm_f32_gelu in stage"):
        assert part in text
    assert app.run(["explain", str(layer), "gelu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["node"] == "/act/half"


def test_explain_refuses_what_is_not_there(layer: Path, broken: Path, capsys: Capture) -> None:
    assert app.run(["explain", str(layer), "/act/erff"]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert "E1003 bad-option" in captured.err
    assert "did you mean '/act/erf'?" in captured.err
    assert app.run(["explain", str(broken)]) == 2
    assert "E1203 unsupported-operator" in capsys.readouterr().err


def test_check_needs_no_tvm(layer: Path) -> None:
    """Loading it takes longer than everything that `check` does with most models."""
    code = """
import sys
from isthmus.cli import app
assert app.run(sys.argv[1:]) == 0
assert "tvm" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, "check", str(layer)], check=True, stdout=subprocess.DEVNULL)


def test_chips_that_run_the_same_kernels_share_what_check_makes(layer: Path) -> None:
    """What `check` says of a chip is what a compile for it alone makes, whichever chip came before it."""
    known = discover(isthmus.targets)
    small = [replace(t, name=f"small-{t.name}", caches=Caches(16 << 10, 64 << 10)) for t in known.values()]
    # Without an upper bound for every dim there is no memory to set aside.
    targets = [t for t in (*known.values(), *small) if not t.toolchain.system.freestanding]
    program = read_model(layer, Options())
    verdicts = _check(program, targets, None, sizes_for(program, {}), lambda _: None, lambda _: None)
    for target, verdict in zip(targets, verdicts, strict=True):
        made = prepare(program, target, Options())
        assert verdict.plans is not None
        assert verdict.target == target.name
        assert verdict.plans.kernels == Counter(call.kernel.symbol for call in made.plan.calls())
        assert verdict.plans.stages == len(made.plan.stages)
        costs = verdict.plans.costs
        assert costs.weights_bytes == write_c(program.name, [made]).layout.total
        assert costs.arena_bytes == arena_bytes(made.plan, costs.sizes, costs.threads)
