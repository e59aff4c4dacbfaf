"""Bundles for WebAssembly: a module that asks for nothing, and the right answers in every engine at hand."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
import wasmtime
from layer_models import layer_model
from onnx import TensorProto, helper
from programs import needed

import isthmus
import isthmus.targets
from isthmus.bundle import selftest
from isthmus.bundle.reader import open_bundle
from isthmus.chips import discover
from isthmus.cli import app
from isthmus.codegen.cache import cache_dir
from isthmus.driver import Options, compile_model
from isthmus.errors import InputError
from isthmus.tools.emulator import Emulated, emulated

CACHE = cache_dir(os.environ)
CHIPS = {name: target for name, target in discover(isthmus.targets).items() if target.arch == "wasm32"}
ENGINES = [(name, runner.name) for name, target in CHIPS.items() for runner in target.runners]
ZOO = ("bert-legacy-op17", "vit-legacy-op17", "gpt2-dynamo-op18", "t5-encoder-legacy-op17")


def integer_model() -> onnx.ModelProto:
    """q, scale, zero = quantized(x); near = where each row of x is largest; total = table[near] + near."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("ArgMax", ["x"], ["near"], axis=-1, keepdims=0),
        helper.make_node("Mul", ["near", "near"], ["square"]),
        helper.make_node("Add", ["square", "big"], ["total"]),
    ]
    graph = helper.make_graph(
        nodes,
        "integers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 33])],
        [
            helper.make_tensor_value_info("q", TensorProto.UINT8, ["batch", 33]),
            helper.make_tensor_value_info("total", TensorProto.INT64, ["batch"]),
        ],
        [helper.make_tensor("big", TensorProto.INT64, [1], [1 << 40])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def compiled(model: onnx.ModelProto, name: str, chip: str, folder: Path) -> Path:
    onnx.save(model, folder / f"{name}.onnx")
    return compile_model(folder / f"{name}.onnx", chip, folder, Options(cache=CACHE)).path


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The bundle of one small layer, by chip."""
    folder = tmp_path_factory.mktemp("layers")
    return {chip: compiled(layer_model(), "layer", chip, folder) for chip in CHIPS}


@contextmanager
def engine(bundle: Path, chip: str, runner: str) -> Iterator[Emulated]:
    """The bundle, ready to answer in that engine."""
    if runner == "node":
        needed(runner)
    with emulated(open_bundle(bundle), CHIPS[chip], CACHE, None, runner) as found:
        assert found.runner == runner
        yield found


@pytest.mark.parametrize("chip", CHIPS)
def test_the_module_asks_for_nothing(chip: str, layers: dict[str, Path]) -> None:
    module = wasmtime.Module.from_file(wasmtime.Engine(), layers[chip] / "lib" / "model.wasm")
    assert module.imports == []
    names = {export.name for export in module.exports}
    header = (layers[chip] / "include" / "isthmus.h").read_text()
    assert all(name in header for name in names if name.startswith("isthmus_"))
    assert {"memory", "isthmus_run", "aligned_alloc", "free"} <= names


def instructions(bundle: Path, opcode: int) -> int:
    """How often the bytes of a vector instruction occur in the code (opcodes from 0x80 on take two bytes)."""
    code = (bundle / "lib" / "model.wasm").read_bytes()
    return code.count(bytes([0xFD, opcode & 0x7F | 0x80, opcode >> 7]))


def test_a_product_is_fused_where_the_engine_can(layers: dict[str, Path]) -> None:
    relaxed_madd, add = 0x105, 0xE4
    plain, relaxed = layers["wasm32-simd128"], layers["wasm32-relaxed-simd"]
    assert instructions(plain, relaxed_madd) == 0
    assert instructions(relaxed, relaxed_madd) > 100
    assert instructions(relaxed, add) < instructions(plain, add) / 2


@pytest.mark.parametrize(("chip", "runner"), ENGINES)
def test_the_stored_requests(chip: str, runner: str, layers: dict[str, Path]) -> None:
    cases = selftest.load(open_bundle(layers[chip]))
    assert cases
    with engine(layers[chip], chip, runner) as model:
        for case in cases:
            assert not selftest.differences(case, model.run(case.inputs))


@pytest.mark.parametrize(("chip", "runner"), ENGINES)
def test_integers_are_those_of_this_machine(chip: str, runner: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((5, 33)).astype(np.float32)
    native = compiled(integer_model(), "integers", "host", tmp_path)
    with isthmus.load(native) as session:
        wanted = session(x=x)
    with engine(compiled(integer_model(), "integers", chip, tmp_path), chip, runner) as model:
        got = model.run({"x": x})
    assert {name: array.dtype.kind for name, array in wanted.items()} == {"q": "u", "total": "i"}
    for name, array in wanted.items():
        np.testing.assert_array_equal(got[name], array)


@pytest.mark.parametrize("runner", ["node", "wasmtime"])
def test_an_engine_says_what_the_runtime_said(runner: str, layers: dict[str, Path]) -> None:
    chip = "wasm32-simd128"
    with (
        engine(layers[chip], chip, runner) as model,
        pytest.raises(InputError, match="input 'x': dim 2 is 3, expected 16") as caught,
    ):
        model.run({"x": np.zeros((1, 2, 3), np.float32)})
    assert caught.value.problems[0].where == runner


@pytest.mark.slow
@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("name", ZOO)
def test_the_zoo(name: str, chip: str, zoo: Path, tmp_path: Path) -> None:
    source = zoo / name
    tolerance = json.loads((source / "meta.json").read_text("utf-8"))["tolerance"]
    bundle = compile_model(source / "model.onnx", chip, tmp_path, Options(name="m", cache=CACHE)).path
    for runner in CHIPS[chip].runners:
        with engine(bundle, chip, runner.name) as model:
            for number in (0, 1):
                got = model.run(dict(np.load(source / f"inputs_{number}.npz")))
                for output, wanted in np.load(source / f"outputs_{number}.npz").items():
                    assert got[output].shape == wanted.shape
                    np.testing.assert_allclose(got[output], wanted, tolerance["rtol"], tolerance["atol"])


def test_its_runners_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["targets", "wasm32-simd128", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["isa"], found["os"], found["runners"]) == ("wasm32", "wasi", ["node", "wasmtime"])
    assert found["runner"] in found["runners"]


@pytest.mark.parametrize("runner", ["emulator", "wasmtime"])
def test_verify_takes_a_runner(
    runner: str, layers: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["verify", str(layers["wasm32-simd128"]), "--runner", runner]) == 0
    assert "running under " in capfd.readouterr().err
    assert app.run(["verify", str(layers["wasm32-simd128"]), "--runner", "wasmtim"]) != 0
    assert "did you mean 'wasmtime'?" in capfd.readouterr().err
