"""Every engine we compare with: found by name, asked in the same way, and answering the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import models
import numpy as np
import onnx
import pytest

from isthmus.errors import Code, ModelError
from isthmus.tools.peers import PEERS, check_installed, open_engine
from isthmus.tools.reference import Reference


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "bert.onnx"
    small = models.bert(layers=1, hidden=32, heads=2, inner=64, vocabulary=20, positions=16)
    onnx.save(small, path)
    return path


def test_none_is_imported_unasked() -> None:
    engines = ("onnxruntime", "openvino", "iree")
    code = f"import sys, isthmus.tools.peers; print([m for m in {engines} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(PEERS))
def test_nothing_is_left_to_import_once_a_clock_runs(name: str, model: Path) -> None:
    if PEERS[name].missing():
        pytest.skip(f"{name} comes with the extra `bench`")
    code = """if True:
        import pathlib, sys
        from isthmus.tools.peers import import_engine, open_engine
        name, model, *tops = sys.argv[1:]
        import_engine(name)
        before = set(sys.modules)
        open_engine(name, pathlib.Path(model), 1)
        print([m for m in sys.modules if m not in before and m.split(".")[0] in ("isthmus", *tops)])
        """
    tops = [module.split(".")[0] for module in PEERS[name].imports]
    command = [sys.executable, "-c", code, name, str(model), *tops]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", pytest.param("iree", marks=pytest.mark.slow)])
def test_each_answers_as_onnxruntime(name: str, model: Path) -> None:
    if PEERS[name].missing():
        pytest.skip(f"{name} comes with the extra `bench`")
    engine = open_engine(name, model, 1)
    reference = Reference(model, 1)
    assert engine.version
    assert engine.shapes in ("any", "each")
    for batch, length in ((1, 3), (2, 7)):
        ids = np.arange(batch * length).reshape(batch, length)
        inputs = {"input_ids": ids, "attention_mask": (ids % length < length - 1).astype(np.int64)}
        request = engine.request(inputs)
        request.run()
        answer = request.read(request.run())["last_hidden_state"]
        np.testing.assert_allclose(answer, reference(inputs)["last_hidden_state"], atol=1e-4)
    assert engine.precision == "f32"


@pytest.mark.parametrize("name", sorted(PEERS))
def test_a_missing_file(name: str, tmp_path: Path) -> None:
    if PEERS[name].missing():
        pytest.skip(f"{name} comes with the extra `bench`")
    with pytest.raises(ModelError) as caught:
        open_engine(name, tmp_path / "no.onnx", 1)
    assert caught.value.problems[0].code is Code.NO_SUCH_FILE


@pytest.mark.parametrize("name", ["openvino", "iree"])
def test_a_model_it_does_not_take(name: str, tmp_path: Path) -> None:
    if PEERS[name].missing():
        pytest.skip(f"{name} comes with the extra `bench`")
    node = onnx.helper.make_node("Strange", ["x"], ["y"], domain="nowhere")
    ports = [[onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2])] for n in ("x", "y")]
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("nowhere", 1)]
    made = onnx.helper.make_model(onnx.helper.make_graph([node], "strange", *ports), opset_imports=opsets)
    onnx.save(made, tmp_path / "strange.onnx")
    with pytest.raises(ModelError) as caught:
        open_engine(name, tmp_path / "strange.onnx", 1).request({"x": np.zeros(2, np.float32)})
    assert caught.value.problems[0].code is Code.PEER_REFUSES


def test_all_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isthmus.tools.peers._installed", lambda _: False)
    with pytest.raises(ModelError) as caught:
        check_installed(tuple(PEERS))
    assert len(caught.value.problems) == len(PEERS)
    assert all(p.code is Code.MISSING_PACKAGE and "isthmus[bench]" in p.hint for p in caught.value.problems)
