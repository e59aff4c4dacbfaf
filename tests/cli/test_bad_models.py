"""Models that cannot be compiled: a code, a place, exit status 2, and no files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from isthmus.cli import app

Capture = pytest.CaptureFixture[str]
Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, capsys: Capture) -> Refused:
    """Compile a model, see it refused, see that nothing was written; the text on stderr."""

    def compile_(model: Path | onnx.ModelProto) -> str:
        path = model if isinstance(model, Path) else save(model, tmp_path / "model.onnx")
        folder = tmp_path / "dist"
        assert app.run(["compile", str(path), "-o", str(folder)]) == 2
        assert not folder.exists()
        captured = capsys.readouterr()
        assert not captured.out
        return captured.err

    return compile_


def save(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def model_of(
    nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray] | None = None, output: str = "y"
) -> onnx.ModelProto:
    """A model with x: f32[batch, 4] going in."""
    graph = helper.make_graph(
        nodes,
        "bad",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


GOOD = [helper.make_node("Add", ["x", "w"], ["y"], name="/add")]
WEIGHT = np.arange(4, dtype=np.float32)


def external(folder: Path, location: str, length: int = 16) -> Path:
    """A model whose weight is 16 bytes in the file `location`."""
    model = model_of(GOOD)
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    model.graph.initializer.append(tensor)
    path = folder / "external.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_missing_file(refused: Refused, tmp_path: Path) -> None:
    assert refused(tmp_path / "none.onnx").startswith("E1001 no-such-file")


def test_folder(refused: Refused, tmp_path: Path) -> None:
    assert refused(tmp_path).startswith("E1002 not-a-file")


@pytest.mark.parametrize("content", [b"This is text.\n", b"\x80\x04\x95pickle", b"PK\x03\x04", bytes(64)])
def test_other_formats(content: bytes, refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(content)
    assert refused(path).startswith("E1101 not-onnx")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.99])
def test_truncated(keep: float, refused: Refused, tmp_path: Path) -> None:
    data = model_of(GOOD, {"w": np.arange(4000, dtype=np.float32)}).SerializeToString()
    path = tmp_path / "truncated.onnx"
    path.write_bytes(data[: int(keep * len(data))])
    assert refused(path).startswith("E11")


@pytest.mark.parametrize("model", [onnx.ModelProto(ir_version=9), helper.make_model(onnx.GraphProto())])
def test_no_graph(model: onnx.ModelProto, refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "empty.onnx"
    path.write_bytes(model.SerializeToString())
    assert refused(path).startswith("E1102 empty-model")


def test_unknown_operators_are_all_listed(refused: Refused) -> None:
    nodes = [
        helper.make_node("Frobnicate", ["x"], ["a"], name="/first"),
        helper.make_node("Frobnicate", ["a"], ["b"], name="/second"),
        helper.make_node("Defenestrate", ["b"], ["y"], name="/third", domain="org.example"),
    ]
    text = refused(model_of(nodes))
    assert "E1203 unsupported-operator" in text
    for part in ("Frobnicate", "Defenestrate", "/first", "/second", "/third", "2"):
        assert part in text


def test_cycle(refused: Refused) -> None:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="/one"),
        helper.make_node("Relu", ["a"], ["b"], name="/two"),
        helper.make_node("Relu", ["a"], ["y"], name="/three"),
    ]
    text = refused(model_of(nodes))
    assert text.startswith("E1103 cyclic-graph")
    assert "/one" in text
    assert "/two" in text


def test_undefined_value(refused: Refused) -> None:
    assert "'nowhere'" in refused(model_of([helper.make_node("Add", ["x", "nowhere"], ["y"], name="/add")]))


def test_unsorted_graph_is_sorted(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["a"], ["y"], name="/last"),
        helper.make_node("Add", ["x", "w"], ["a"], name="/first"),
    ]
    path = save(model_of(nodes, {"w": WEIGHT}), tmp_path / "unsorted.onnx")
    assert app.run(["compile", str(path), "-o", str(tmp_path / "dist")]) == 0


def test_external_data_is_read(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    path = external(tmp_path, "w.bin")
    assert app.run(["compile", str(path), "-o", str(tmp_path / "dist")]) == 0


@pytest.mark.parametrize(
    "location", ["missing.bin", "../outside.bin", "sub/../../outside.bin", "link.bin", "."]
)
def test_external_data_that_is_not_there_or_not_ours(location: str, refused: Refused, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "outside.bin").write_bytes(WEIGHT.tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
    text = refused(external(folder, location))
    assert text.startswith("E1105 external-data")
    assert location in text


def test_external_data_by_absolute_path(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    assert refused(external(tmp_path, str(tmp_path / "w.bin"))).startswith("E1105 external-data")


def test_external_data_through_a_linked_folder(refused: Refused, tmp_path: Path) -> None:
    folder, outside = tmp_path / "model", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "w.bin").write_bytes(WEIGHT.tobytes())
    (folder / "sub").symlink_to(outside)
    assert refused(external(folder, "sub/w.bin")).startswith("E1105 external-data")


@pytest.mark.parametrize(("stored", "claimed"), [(8, 16), (16, 8), (16, 1 << 40)])
def test_external_data_of_another_size(stored: int, claimed: int, refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes()[:stored])
    assert refused(external(tmp_path, "w.bin", claimed)).startswith("E1105 external-data")


def test_nan_weights_are_a_warning(tmp_path: Path, capsys: Capture) -> None:
    weight = WEIGHT.copy()
    weight[2] = np.nan
    path = save(model_of(GOOD, {"w": weight}), tmp_path / "nan.onnx")
    assert app.run(["compile", str(path), "-o", str(tmp_path / "dist")]) == 0
    text = capsys.readouterr().err
    assert text.startswith("W1001 nan-weights")
    assert "at: w" in text


def test_old_opset(refused: Refused) -> None:
    model = model_of(GOOD, {"w": WEIGHT})
    model.opset_import[0].version = 6
    assert refused(model).startswith("E1106 unsupported-opset")
    model.opset_import[0].version = 999
    assert refused(model).startswith("E1106 unsupported-opset")


@pytest.mark.slow
def test_killed_compiles_leave_no_half_bundle(model: Path, bundle: Path, tmp_path: Path) -> None:
    """Killed at ten moments, a compile leaves the old bundle, a whole new one, or none."""
    folder = tmp_path / "dist"
    command = [sys.executable, "-c", "from isthmus.cli import main; main()"]
    command += ["compile", str(model), "-o", str(folder), "--no-verify"]
    for delay in np.linspace(0.2, 3.0, 6):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=float(delay))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        place = folder / bundle.name
        if place.exists():
            assert app.run(["verify", str(place)]) == 0
    assert app.run(["compile", str(model), "-o", str(folder)]) == 0
    assert [path.name for path in folder.iterdir()] == [bundle.name], "leftovers of the killed ones"


@pytest.mark.slow
def test_two_compiles_to_one_place(model: Path, bundle: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from isthmus.cli import main; main()",
        "compile",
        str(model),
        "-o",
        str(tmp_path),
    ]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == [bundle.name]
    assert app.run(["verify", str(tmp_path / bundle.name)]) == 0
