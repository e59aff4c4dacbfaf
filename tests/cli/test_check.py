"""`check` and `explain`: what they print, what they write, what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from layer_models import broken_model, layer_model, save

from isthmus.cli import app

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
    assert "no: 2 problems" in captured.out
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
