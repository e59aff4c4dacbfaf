"""The npm package of a bundle: installed in place, packed, typed, and refusing what does not fit."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from layer_models import layer_model
from onnx import TensorProto, helper
from programs import needed

import isthmus
from isthmus.bundle.manifest import Chip, DimBounds, Entry, Manifest, Port
from isthmus.codegen.cache import cache_dir
from isthmus.driver import Options, compile_model
from isthmus.packages import Parts, files, npm
from isthmus.systems import LINUX, WASI

CACHE = cache_dir(os.environ)
TARGET = "wasm32-simd128"
TYPESCRIPT = "typescript@5.9.3"
# A script that prints what loading the bundle in the current folder ends in.
COMPLAINT = """
    import { load } from "./js/index.js";
    await load().catch((error) => console.log(error.status, error.message));
"""
ODD = Entry(
    "main",
    (Port('a "b"\n`c`', "bf16", ("batch", "2*seq + 1", 3)), Port("flag", "bool", ())),
    (Port("__proto__", "u64", ("batch",)),),
)


def manifest(name: str = "odd", weights: str | None = None) -> Manifest:
    chip = Chip("some-chip", "some", "some")
    dims = (DimBounds("batch"), DimBounds("seq"))
    return Manifest(name, "none", chip, "lib/model.wasm", weights, dims, (ODD,), "f32", "", ())


def without_weights() -> onnx.ModelProto:
    """Every kind of array that JavaScript has, out as it came in."""
    kinds = {"f": "FLOAT", "d": "DOUBLE", "l": "INT64", "i": "INT32", "b": "INT8", "u": "UINT8", "t": "BOOL"}
    types = {name: getattr(TensorProto, kind) for name, kind in kinds.items()}
    nodes = [helper.make_node("Transpose", [name], [f"{name}2"], perm=[1, 0]) for name in types]
    ins = [helper.make_tensor_value_info(name, kind, ["n", 2]) for name, kind in types.items()]
    outs = [helper.make_tensor_value_info(f"{name}2", kind, [2, "n"]) for name, kind in types.items()]
    graph = helper.make_graph(nodes, "arrays", ins, outs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def compiled(model: onnx.ModelProto, name: str, target: str, folder: Path) -> Path:
    onnx.save(model, folder / f"{name}.onnx")
    return compile_model(folder / f"{name}.onnx", target, folder, Options(cache=CACHE)).path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle called Layer."""
    return compiled(layer_model(), "Layer", TARGET, tmp_path_factory.mktemp("dist"))


@pytest.fixture
def project(bundle: Path, tmp_path: Path) -> Path:
    """A project that has installed the package from the bundle, without a network."""
    (tmp_path / "package.json").write_text('{"type": "module", "private": true}')
    run(tmp_path, needed("npm"), "install", "--offline", "--no-audit", "--no-fund", str(bundle / "js"))
    return tmp_path


def run(folder: Path, *command: str, status: int = 0) -> str:
    """What a program prints, with the exit status it must have."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def node(folder: Path, script: str, status: int = 0) -> str:
    return run(folder, needed("node"), "--input-type=module", "-e", script, status=status)


def refusal(folder: Path, inputs: str) -> str:
    """The text of the ModelError that a run with these inputs ends in."""
    return node(
        folder,
        f"""
        import {{ load, ModelError }} from "layer";
        const model = await load();
        try {{ model.run({inputs}); }}
        catch (error) {{
          if (!(error instanceof ModelError)) throw error;
          console.log(error.status, error.message);
        }}
        """,
    )


def test_which_systems_have_it() -> None:
    assert set(files(WASI, Parts(manifest(), {}, 0))) == {
        "package.json", "js/package.json", "js/index.js", "js/index.d.ts", "js/files.js", "js/README.md",
        "js/example.mjs",
    }  # fmt: skip
    assert not [path for path in files(LINUX, Parts(manifest(), {}, 0)) if path.startswith("js/")]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("Layer", "layer"), ("a+b-1.0", "a-b-1.0"), ("_Odd.", "odd"), ("node_modules", "model"), ("+", "model")],
)
def test_names_npm_takes(name: str, wanted: str) -> None:
    assert npm.package_name(manifest(name)) == wanted


def test_odd_names_stay_text() -> None:
    made = {path: text.decode() for path, text in npm.files(Parts(manifest(), {}, 0)).items()}
    types, readme = made["js/index.d.ts"], made["js/README.md"]
    assert '"a \\"b\\"\\n`c`": Tensor<Uint16Array>;' in types
    assert "/** bfloat16[batch, 2*seq + 1, 3] */" in types
    assert '"__proto__": Tensor<BigUint64Array>;' in types
    assert "new Uint16Array(1*1*3), dims: [1, 1, 3]" in readme
    assert "new Uint8Array(1), dims: []" in readme
    assert "export const weights = null;" in made["js/files.js"]


def test_weights_are_where_the_bundle_has_them() -> None:
    made = npm.files(Parts(manifest(weights="weights.bin"), {}, 12))
    assert b'new URL("../weights.bin", import.meta.url)' in made["js/files.js"]
    assert b"weightsBytes = 12;" in made["js/files.js"]
    assert json.loads(made["package.json"])["files"] == ["js", "lib/model.wasm", "weights.bin"]


def test_the_example_replays_the_bundle(bundle: Path, tmp_path: Path) -> None:
    said = run(tmp_path, needed("node"), str(bundle / "js" / "example.mjs"))
    assert re.fullmatch(rf"Layer on {TARGET}: (\d+) of \1 requests answered as stored\n", said)


def test_the_example_notices_wrong_answers(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    weights = bytearray((copy / "weights.bin").read_bytes())
    weights[2] ^= 0x40
    (copy / "weights.bin").write_bytes(weights)
    said = run(tmp_path, needed("node"), str(copy / "js" / "example.mjs"), status=1)
    assert re.match(rf"Layer on {TARGET}: 0 of ", said)


def test_cut_weights_are_refused(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    weights = (copy / "weights.bin").read_bytes()
    for content in (weights[:-1], weights + b"x"):
        (copy / "weights.bin").write_bytes(content)
        assert node(copy, COMPLAINT) == "2 the weights have another size than the model's\n"


def test_code_and_weights_may_come_from_elsewhere(bundle: Path, project: Path, tmp_path: Path) -> None:
    for name in ("lib/model.wasm", "weights.bin"):
        shutil.copy(bundle / name, tmp_path)
    script = """
        import fs from "node:fs";
        import { pathToFileURL } from "node:url";
        import { load } from "layer";
        const code = fs.readFileSync("model.wasm"), weights = fs.readFileSync("weights.bin");
        const url = (name) => pathToFileURL(name);
        const copy = weights.buffer.slice(weights.byteOffset, weights.byteOffset + weights.length);
        const x = { data: new Float32Array(16).fill(0.5), dims: [1, 1, 16] };
        const wanted = String((await load()).run({ x }).y.data);
        for (const sources of [{ code, weights }, { weights: copy }, { code: url("model.wasm") },
                               { weights: String(url("weights.bin")) }])
          console.log(wanted === String((await load(sources)).run({ x }).y.data));
    """
    assert node(project, script) == "true\n" * 4


def test_installed_in_place_it_does_what_its_readme_says(project: Path, bundle: Path) -> None:
    assert (project / "node_modules" / "layer").is_symlink(), "nothing is stored twice"
    (script,) = re.findall(r"```js\n(.*?)```", (bundle / "js" / "README.md").read_text("utf-8"), re.S)
    assert re.match(r"\[ 1, 1, 16 \] Float32Array\(16\) \[", node(project, script))


def test_packed_it_runs_elsewhere(bundle: Path, project: Path, tmp_path: Path) -> None:
    npm_program = needed("npm")
    (packed,) = json.loads(run(tmp_path, npm_program, "pack", "--json", str(bundle)))
    assert {file["path"] for file in packed["files"]} == {
        "package.json", "js/package.json", "js/index.js", "js/index.d.ts", "js/files.js", "js/README.md",
        "js/example.mjs", "lib/model.wasm", "weights.bin",
    }  # fmt: skip
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "package.json").write_text('{"type": "module"}')
    run(elsewhere, npm_program, "install", "--offline", "--no-audit", "--no-fund", f"../{packed['filename']}")
    assert not (elsewhere / "node_modules" / "layer").is_symlink()
    script = 'import { load } from "layer"; const m = await load(); console.log(m.name, m.target, m.dims);'
    said = node(elsewhere, script)
    assert said.startswith(f"Layer {TARGET} [")
    assert "{ name: 'batch', low: 1, high: null }" in said


@pytest.mark.parametrize(
    ("inputs", "texts"),
    [
        ("{}", ["1 input 'x' is missing"]),
        ("{ y: 1 }", ["there is no input 'y'; there are: x", "input 'x' is missing"]),
        ("{ x: { data: [1], dims: [1] } }", ["input 'x': data is no Float32Array (float32)"]),
        ("{ x: { data: new Float32Array(16), dims: [1, -1, 16] } }", ["dims is no array of sizes"]),
        (
            "{ x: { data: new Float32Array(16), dims: [1, 2, 16] } }",
            ["16 elements do not fill dims [1, 2, 16]"],
        ),
        ("{ x: { data: new Float32Array(1), dims: Array(9).fill(1) } }", ["more than 8 dims"]),
        ("{ x: { data: new Float32Array(6), dims: [2, 3] } }", ["rank is 2, expected 3: [batch, seq, 16]"]),
        ("{ x: { data: new Float32Array(3), dims: [1, 1, 3] } }", ["dim 2 is 3, expected 16"]),
    ],
)
def test_what_does_not_fit_is_thrown(inputs: str, texts: list[str], project: Path) -> None:
    said = refusal(project, inputs)
    assert said.startswith("1 ")
    for text in texts:
        assert text in said


def test_a_refused_run_leaves_the_model_as_it_was(project: Path) -> None:
    script = """
        import { load } from "layer";
        const model = await load();
        const x = { data: Float32Array.from({ length: 32 }, (_, i) => Math.sin(i)), dims: [2, 1, 16] };
        const first = model.run({ x }).y.data;
        for (let i = 0; i < 2000; i++) try { model.run({ x: { data: x.data, dims: [1, 4, 8] } }); } catch {}
        for (const seq of [1, 2000, 3])
          model.run({ x: { data: new Float32Array(seq * 16), dims: [1, seq, 16] } });
        console.log(model.run({ x }).y.data.every((value, i) => value === first[i]), first.length);
    """
    assert node(project, script) == "true 32\n"


def test_every_kind_of_array(tmp_path: Path) -> None:
    model = without_weights()
    folder = compiled(model, "arrays", TARGET, tmp_path)
    arrays = {
        "f": np.array([[1.5, -0.0], [np.inf, 2]], np.float32),
        "d": np.array([[0.1, 1e300], [-3, 4]]),
        "l": np.array([[-1, 1 << 62], [3, 4]]),
        "i": np.array([[-7, 1 << 30], [3, 4]], np.int32),
        "b": np.array([[-128, 127], [3, 4]], np.int8),
        "u": np.array([[0, 255], [3, 4]], np.uint8),
        "t": np.array([[0, 1], [1, 0]], np.bool_),
    }
    for name, array in arrays.items():
        (tmp_path / name).write_bytes(array.tobytes())
    script = """
        import fs from "node:fs";
        const folder = process.cwd();
        const kinds = { f: Float32Array, d: Float64Array, l: BigInt64Array, i: Int32Array, b: Int8Array,
          u: Uint8Array, t: Uint8Array };
        const { load } = await import(`${folder}/arrays@CHIP/js/index.js`);
        const inputs = Object.entries(kinds).map(([name, Kind]) => {
          const { buffer, byteOffset, length } = fs.readFileSync(name);
          return [name, { data: new Kind(buffer.slice(byteOffset, byteOffset + length)), dims: [2, 2] }];
        });
        for (const [name, { data, dims }] of Object.entries((await load()).run(Object.fromEntries(inputs)))) {
          fs.writeFileSync(name, new Uint8Array(data.buffer));
          console.log(name, data.constructor.name, dims.join());
        }
    """.replace("CHIP", TARGET)
    assert folder.name == f"arrays@{TARGET}"
    assert not (folder / "weights.bin").exists()
    said = node(tmp_path, script)
    assert "l2 BigInt64Array 2,2" in said
    for name, array in arrays.items():
        assert (tmp_path / f"{name}2").read_bytes() == array.T.tobytes(), name


def test_an_engine_that_cannot_says_so(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    code = copy / "lib" / "model.wasm"
    code.write_bytes(code.read_bytes()[:-1])
    assert node(copy, COMPLAINT).startswith("3 this engine does not take the code: ")


@pytest.mark.slow  # fetches the compiler of TypeScript
def test_types_are_those_of_the_model(project: Path) -> None:
    run(project, needed("npm"), "install", "--no-audit", "--no-fund", TYPESCRIPT)
    options = ["--noEmit", "--strict", "--target", "es2022", "--module", "nodenext"]
    head = 'import { load } from "layer";\nconst model = await load();\n'
    good = (
        "const y: Float32Array = model.run({ x: { data: new Float32Array(16), dims: [1, 1, 16] } }).y.data;"
    )
    (project / "good.ts").write_text(f"{head}{good}\nconsole.log(y);\n")
    run(project, "node_modules/.bin/tsc", *options, "good.ts")
    bad = {
        "model.run({});": "Property '\"x\"' is missing|Property 'x' is missing",
        "model.run({ x: { data: new Int32Array(16), dims: [16] } });": "not assignable to type 'Float32Array",
        'model.run({ x: { data: new Float32Array(16), dims: ["1"] } });': "not assignable to type 'number'",
        "model.run({ x: { data: new Float32Array(16), dims: [16] } }).z;": "Property 'z' does not exist",
    }
    for line, text in bad.items():
        (project / "bad.ts").write_text(head + line)
        assert re.search(text, run(project, "node_modules/.bin/tsc", *options, "bad.ts", status=2)), line


def test_the_same_bytes_twice(bundle: Path, tmp_path: Path) -> None:
    again = compiled(layer_model(), "Layer", TARGET, tmp_path)
    assert (again / "manifest.json").read_bytes() == (bundle / "manifest.json").read_bytes()


def test_the_runtime_of_python_refuses_it(bundle: Path) -> None:
    with pytest.raises(isthmus.BundleError, match="not wasm32"):
        isthmus.load(bundle)
