"""`isthmus accuracy`, and what `isthmus compile --precision` says of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from layer_models import WIDTH, layer_model, save

from isthmus.cli import app
from isthmus.ir.graph import Program, Value, weight_of, weight_value
from isthmus.ir.store import dump
from isthmus.ir.weights import Weight
from isthmus.ops.text import load
from isthmus.passes.clean.share import Share
from isthmus.passes.steps import mapped

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(layer_model(), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for number in range(8):
        np.savez(folder / f"{number}.npz", x=rng.standard_normal((2, 5, WIDTH)).astype(np.float32))
    return folder


def as_json(capsys: Capture, arguments: list[str]) -> dict[str, object]:
    assert app.run([*arguments, "--json"]) == 0, capsys.readouterr().err
    result: dict[str, object] = json.loads(capsys.readouterr().out)
    return result


def measure(capsys: Capture, *arguments: object) -> dict[str, object]:
    return as_json(capsys, ["accuracy", *map(str, arguments)])


def test_a_model_in_int8(model: Path, data: Path, capsys: Capture) -> None:
    found = measure(capsys, model, "--precision", "int8", "--data", data, "--bisect")
    (layer,) = found["layers"]  # type: ignore[misc]
    assert layer["name"] == "/down" and 30 < layer["alone_sqnr"] < 60
    assert found["requests"] == 8 and list(found["restored"]) == ["/down"]  # type: ignore[call-overload]
    assert found["restored"]["/down"]["y"]["sqnr"] is None  # type: ignore[index]
    assert found["broken_pass"] is None


def doubled(program: Program) -> Program:
    """The scales of quantized matrices twice as large."""

    def change(_: Value, node: Value) -> Value | None:
        weight = weight_of(node)
        if weight is None or not weight.name.endswith(".scale"):
            return None
        return weight_value(Weight.of(weight.name, weight.read() * 2))

    return program.map_graphs(lambda graph: mapped(graph, change, lambda _: None, "double"))


def test_a_damaged_dump_is_named(model: Path, data: Path, tmp_path: Path, capsys: Capture) -> None:
    command = ["compile", str(model), "--precision", "int8", "--dump", str(tmp_path / "dump")]
    assert app.run([*command, "-o", str(tmp_path)]) == 0
    capsys.readouterr()
    bad = dump(doubled(load(tmp_path / "dump" / "3.quantize.txt")), tmp_path / "bad", "3.quantize")
    found = measure(capsys, bad, "--against", model, "--data", data, "--bisect")
    assert found["broken_layer"] == "/down"
    assert app.run(["accuracy", str(bad), "--against", str(model), "--data", str(data), "--bisect"]) == 0
    assert "the layer /down breaks the result" in capsys.readouterr().out


def test_a_damaged_pass_is_named(
    model: Path, data: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(self: Share, program: Program, target: object, watch: object) -> Program:
        def change(_: Value, node: Value) -> Value | None:
            weight = weight_of(node)
            return (
                None
                if weight is None or weight.name != "down"
                else weight_value(Weight.of("down", weight.read() / 2))
            )

        return program.map_graphs(lambda graph: mapped(graph, change, lambda _: None, "half"))

    monkeypatch.setattr(Share, "__call__", half)
    found = measure(capsys, model, "--precision", "int8", "--data", data, "--bisect")
    assert found["broken_pass"] in ("clean/tidy", "fuse/tidy")


def test_a_bundle_says_what_was_measured(model: Path, data: Path, tmp_path: Path, capsys: Capture) -> None:
    command = ["compile", str(model), "--precision", "int8-static", "--calibration", str(data)]
    made = as_json(capsys, [*command, "-o", str(tmp_path)])
    bundle = Path(str(made["bundle"]))
    told = json.loads((bundle / "report.json").read_text())["quantization"]
    assert (told["calibrated_on"], told["measured_on"], told["asked"]) == (6, 2, "int8-static")
    up, down = told["layers"]
    assert up == {"name": "/up", "kept": "it takes the model's inputs as they are"}
    assert down["sqnr"] > 20 and down["matrix_sqnr"] > 30 and down["cosine"] > 0.999
    assert told["matrix_bytes"]["stored"] < told["matrix_bytes"]["f32"]
    found = measure(capsys, bundle, "--against", model, "--data", data)
    assert [layer["name"] for layer in found["layers"]] == ["/down"]  # type: ignore[attr-defined]
    assert min(found["outputs"]["y"]["sqnr"], told["outputs"]["y"]["sqnr"]) > 25  # type: ignore[index]


def test_a_plot(model: Path, data: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "ladder.svg"
    measure(capsys, model, "--precision", "int8", "--data", data, "--plot", out)
    assert "/down" in out.read_text()


def refused(capsys: Capture, arguments: list[object], *parts: str) -> None:
    assert app.run(list(map(str, arguments))) == 2
    told = capsys.readouterr().err
    assert all(part in told for part in parts), told


def test_what_cannot_be_measured(model: Path, data: Path, tmp_path: Path, capsys: Capture) -> None:
    refused(capsys, ["accuracy", model, "--data", data], "E1003", "a model in f32 is exact")
    refused(capsys, ["accuracy", tmp_path / "a.txt", "--data", data], "E1003", "--against")
    refused(capsys, ["accuracy", model, "--precision", "int9", "--data", data], "no precision called 'int9'")
    refused(
        capsys,
        ["accuracy", model, "--precision", "int8", "--data", tmp_path],
        "E1016",
        "there are no requests",
    )
    refused(
        capsys,
        ["compile", model, "--precision", "int8-static", "-o", tmp_path / "dist"],
        "E1015",
        "--calibration",
    )
    assert not (tmp_path / "dist").exists()
