"""`isthmus bench` on a tiny bundle: the JSON, the profile, the picture, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import models
import onnx
import pytest

from isthmus.cli import app
from isthmus.tools.peers import PEERS, Peer

Capture = pytest.CaptureFixture[str]


def as_json(capsys: Capture, arguments: list[str]) -> dict:
    """What a command prints as JSON."""
    capsys.readouterr()
    assert app.run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: Capture, arguments: list[str], *texts: str) -> None:
    """The command line is refused with these texts on stderr."""
    capsys.readouterr()
    assert app.run(["bench", *arguments]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    for text in texts:
        assert text in captured.err


@pytest.fixture
def quick(bundle: Path) -> list[str]:
    """A benchmark that takes half a second for each point."""
    return ["bench", str(bundle), "--seconds", "0.01", "--dim", "seq=4"]


def test_every_point_is_timed(quick: list[str], capsys: Capture) -> None:
    found = as_json(capsys, [*quick, "--dim", "batch=1,2", "--threads", "1,2"])
    assert [(p["threads"], p["sizes"]) for p in found["points"]] == [
        (threads, {"batch": batch, "seq": 4}) for threads in (1, 2) for batch in (1, 2)
    ]
    for point in found["points"]:
        ours = point["isthmus"]
        low, high = ours["quartiles_ms"]
        assert 0 < ours["best_ms"] <= low <= ours["median_ms"] <= high
        assert ours["turns"] >= 5
        assert not point["peers"]
        assert "limit" not in point


def test_json_tells_machine_and_engines(quick: list[str], model: Path, capsys: Capture) -> None:
    against = ["--against", "onnxruntime", "--model", str(model), "--limit", "--no-pin"]
    found = as_json(capsys, [*quick, *against])
    assert found["machine"]["processors"] >= 1
    assert found["machine"]["processor"]
    assert found["engines"]["isthmus"]["precision"] == "f32"
    assert found["engines"]["onnxruntime"]["version"]
    assert found["settings"] == {"seconds": 0.01, "pinned": False}
    (point,) = found["points"]
    peer = point["peers"]["onnxruntime"]
    assert peer["ratio"]["median"] > 0
    assert peer["ratio"]["quartiles"][0] <= peer["ratio"]["median"] <= peer["ratio"]["quartiles"][1]
    assert peer["max_abs_difference"] < 1e-4
    assert point["limit"]["gflops"] > 1
    assert 0 < point["limit"]["share"]["median"] < 1


def test_nothing_tells_whose_machine_it_is(quick: list[str], bundle: Path, capsys: Capture) -> None:
    text = json.dumps(as_json(capsys, quick))
    assert str(bundle.parent) not in text
    assert "/" not in re.sub(r"\(R\)|@", "", json.dumps(json.loads(text)["settings"]))


def test_the_table_names_all_columns(quick: list[str], model: Path, capsys: Capture) -> None:
    assert app.run([*quick, "--against", "onnxruntime", "--model", str(model), "--limit"]) == 0
    captured = capsys.readouterr()
    for text in ("best ms", "median ms", "quartiles", "onnxruntime median ms", "of the limit"):
        assert text in captured.out
    assert "below 1 we are faster" in captured.err


def test_outputs_that_only_one_side_has_are_not_compared(
    model: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Of a model that computes one thing more than the bundle, the other outputs are compared."""
    wider = onnx.load(model)
    (first,) = wider.graph.output
    wider.graph.node.add(op_type="Neg", input=[first.name], output=["minus"])
    wider.graph.output.add().CopyFrom(first)
    wider.graph.output[1].name = "minus"
    onnx.save(wider, tmp_path / "wider.onnx")
    assert app.run(["compile", str(tmp_path / "wider.onnx"), "--only", "minus", "-o", str(tmp_path)]) == 0
    (bundle,) = tmp_path.glob("wider@*")
    command = ["bench", str(bundle), "--seconds", "0.01", "--dim", "seq=4", "--dim", "batch=2"]
    command += ["--against", "onnxruntime", "--model", str(tmp_path / "wider.onnx")]
    (point,) = as_json(capsys, command)["points"]
    peer = point["peers"]["onnxruntime"]
    assert peer["max_abs_difference"] < 1e-4
    assert peer["outputs_not_compared"] == [first.name]
    assert app.run(command) == 0
    captured = capsys.readouterr()
    assert f"not compared: {first.name}" in captured.err
    assert "answers differently" not in captured.err


def test_profile_accounts_for_the_run(quick: list[str], model: Path, capsys: Capture) -> None:
    (found,) = as_json(capsys, [*quick, "--dim", "batch=64", "--profile", "--model", str(model)])
    nodes = {call["node"] for call in found["calls"]}
    assert "/dense" in nodes
    (product,) = (call for call in found["calls"] if call["op"] in ("linear", "matmul"))
    assert product["gflop"] == pytest.approx(2 * 64 * 4 * 24 * 40 / 1e9)
    assert product["gbyte"] >= 4 * (24 * 40 + 64 * 4 * 40) / 1e9
    assert all(call["ms"] > 0 and call["uses"] >= 1 for call in found["calls"])
    assert found["run_ms"] > sum(call["ms"] for call in found["calls"]) * 0.5
    assert found["limit"]["gflops"] > 1
    assert found["limit"]["gbytes"] > 0.1


def test_profile_as_tables(quick: list[str], model: Path, capsys: Capture) -> None:
    assert app.run([*quick, "--threads", "1,2", "--profile", "--model", str(model)]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("outside kernels") == 2
    assert "/dense" in captured.out
    assert "compiled now" in captured.err
    assert "other calls" not in captured.err


def test_profile_is_of_the_bundles_precision(tmp_path: Path, capsys: Capture) -> None:
    model = tmp_path / "bert.onnx"
    onnx.save(models.bert(layers=2, hidden=32, heads=2, inner=64, vocabulary=50, positions=8), model)
    options = ["--target", "host", "-o", str(tmp_path), "--precision", "int8", "--no-verify"]
    assert app.run(["compile", str(model), *options]) == 0
    (bundle,) = tmp_path.glob("bert@*")
    assert app.run(["bench", str(bundle), "--seconds", "0.01", "--profile", "--model", str(model)]) == 0
    captured = capsys.readouterr()
    assert "gemm_i8" in captured.out
    assert "other calls" not in captured.err


def test_plot_writes_a_picture(quick: list[str], model: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "speed.svg"
    command = [*quick, "--dim", "batch=1,2", "--against", "onnxruntime", "--model", str(model)]
    assert app.run([*command, "--plot", str(out)]) == 0
    text = out.read_text("utf-8")
    assert text.startswith("<?xml")
    assert "isthmus" in text
    assert "onnxruntime" in text
    assert len(text) < 200_000


def test_bad_requests(bundle: Path, model: Path, tmp_path: Path, capsys: Capture) -> None:
    name = str(bundle)
    refused(capsys, [name, "--threads", "0"], "E1003 bad-option")
    refused(capsys, [name, "--threads", "many"], "E1003 bad-option")
    refused(capsys, [name, "--dim", "sec=2"], "E1005 unknown-dim")
    refused(capsys, [name, "--seconds", "-1"], "E1003 bad-option")
    refused(capsys, [name, "--plot", str(tmp_path / "no" / "x.svg")], "E1008 cannot-write")
    refused(capsys, [name, "--plot", str(tmp_path)], "E1008 cannot-write")
    refused(capsys, [name, "--against", "onnxruntime"], "--against onnxruntime needs --model")
    refused(capsys, [name, "--against", "nobody"], "E1003 bad-option")
    refused(capsys, [name, "--profile"], "--profile needs --model")
    refused(capsys, [name, "--profile", "--plot", str(tmp_path / "x.svg")], "E1003 bad-option", "alone")
    refused(capsys, [name, "--against", "onnxruntime", "--model", str(tmp_path / "no")], "E1001 no-such-file")
    other = onnx.load(model)
    other.graph.initializer[0].raw_data = bytes(len(other.graph.initializer[0].raw_data))
    onnx.save(other, tmp_path / "other.onnx")
    wrong = [name, "--profile", "--model", str(tmp_path / "other.onnx")]
    refused(capsys, wrong, "E1003 bad-option", "made from another model")


OWN = """
def plain(model, threads):
    from isthmus.tools.reference import Reference
    reference = Reference(model, threads)
    def answer(inputs):
        return dict(reference(inputs))
    answer.version = "1.2"
    return answer

def half(model, threads):
    answer = plain(model, threads)
    return lambda inputs: {name: array / 2 for name, array in answer(inputs).items()}

def closed(model, threads):
    raise ValueError("closed today")

def silent(model, threads):
    return lambda inputs: None

def broken(model, threads):
    return lambda inputs: inputs["nothing"]
"""


def test_an_engine_of_ones_own(
    quick: list[str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    (tmp_path / "engines_of_a_test.py").write_text(OWN, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    command = [*quick, "--model", str(model), "--against"]
    name = "engines_of_a_test:plain"
    found = as_json(capsys, [*command, name])
    peer = found["points"][0]["peers"][name]
    assert peer["max_abs_difference"] < 1e-4
    assert peer["ratio"]["median"] > 0
    assert found["engines"][name]["version"] == "1.2"
    assert app.run([*command, "engines_of_a_test:half"]) == 0
    assert "engines_of_a_test:half answers differently" in capsys.readouterr().err
    for function, code, text in (
        ("closed", "E1010 peer-refuses", "closed today"),
        ("silent", "E1010 peer-refuses", "NoneType"),
        ("broken", "E1010 peer-refuses", "nothing"),
        ("nobody", "E1003 bad-option", "cannot be loaded"),
    ):
        refused(capsys, [*command[1:], f"engines_of_a_test:{function}"], code, text)


def test_missing_packages(
    bundle: Path, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    monkeypatch.setitem(PEERS, "iree", Peer(("no-such-package",), "isthmus.tools.peers.iree", ()))  # type: ignore[misc]
    command = [str(bundle), "--against", "iree", "--model", str(model)]
    refused(capsys, command, "E1009 missing-package", "isthmus[bench]", "no-such-package")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "matplotlib" else found(name, *rest)
    )
    refused(capsys, [str(bundle), "--plot", str(tmp_path / "x.svg")], "E1009 missing-package", "matplotlib")
    assert not (tmp_path / "x.svg").exists()
