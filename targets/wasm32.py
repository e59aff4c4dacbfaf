"""WebAssembly with 32-bit addresses, for pages, Node and wasmtime: vectors of 128 bits, plain and relaxed."""

from __future__ import annotations

import sys

from isthmus.systems import WASI
from isthmus.target import ByteProducts, Caches, Runner, Target, VectorUnit, own_jump_tables

# Both scripts run a WASI command in the folder they are started in, with the arguments that follow.
_NODE = """\
import fs from "node:fs";
import v8 from "node:v8";
import { WASI } from "node:wasi";
const args = process.argv.slice(1);
const code = fs.readFileSync(args[0]);
if (!WebAssembly.validate(code)) v8.setFlagsFromString("--experimental-wasm-relaxed-simd");
const wasi = new WASI({ version: "preview1", args, preopens: { ".": "." }, returnOnExit: true });
const module = await WebAssembly.compile(code);
const imports = { wasi_snapshot_preview1: wasi.wasiImport };
process.exitCode = wasi.start(await WebAssembly.instantiate(module, imports));
"""
_WASMTIME = """\
import sys
import wasmtime
engine = wasmtime.Engine()
wasi = wasmtime.WasiConfig()
wasi.argv = sys.argv[1:]
wasi.preopen_dir(".", ".")
wasi.inherit_stderr()
store, linker = wasmtime.Store(engine), wasmtime.Linker(engine)
store.set_wasi(wasi)
linker.define_wasi()
module = wasmtime.Module.from_file(engine, sys.argv[1])
try:
    linker.instantiate(store, module).exports(store)["_start"](store)
except wasmtime.ExitTrap as exit:
    sys.exit(exit.code)
"""


def _chip(name: str, description: str, features: tuple[str, ...], fma: bool) -> Target:
    # Node's WASI calls on V8's fast path collect garbage there, which V8 forbids (nodejs/node#46777): a model
    # that grows its memory crashed once in three runs.
    node = ("node", "--no-turbo-fast-api-calls", "--input-type=module", "--no-warnings", "-e", _NODE)
    return Target(
        name=name,
        description=description,
        arch="wasm32",
        features=features,
        tvm={
            "kind": "llvm",
            **own_jump_tables(2),
            "mtriple": f"wasm32-{WASI.llvm}",
            "mattr": [f"+{feature}" for feature in features],
            "vector-width": 128,
        },
        # An engine keeps as many values as the processor below it has registers: 16 on the commonest.
        vector=VectorUnit(128, 16, fma, relaxed=fma),
        caches=Caches(l1_bytes=32 << 10, l2_bytes=256 << 10),
        byte_products=ByteProducts("llvm.wasm.dot", 2, True),
        # No guard: an engine without the vectors refuses the module.
        toolchain=WASI.toolchain("wasm32", "generic+simd128"),
        runners=(
            Runner("node", node, "Node 20 or later"),
            Runner("wasmtime", (sys.executable, "-c", _WASMTIME), "wasmtime (PyPI)", modules=("wasmtime",)),
        ),
    )


# With relaxed instructions it is the engine's affair whether NaN gets through minima, maxima and conversions:
# what depends on that takes the plain chip, which therefore is the one to prefer.
TARGETS = (
    _chip(
        "wasm32-relaxed-simd", "with relaxed SIMD, which multiplies and adds at once: Chrome 114, Node 22",
        ("simd128", "relaxed-simd"), True,
    ),
    _chip("wasm32-simd128", "WebAssembly with SIMD: every browser since 2023", ("simd128",), False),
)  # fmt: skip
