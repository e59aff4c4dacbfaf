"""Zeros in MiniLM-L3: whole-model latency by density, against our own dense f32, onnxruntime and OpenVINO.

    python benchmarks/sparse.py [--step models|latency|sizes|peers] [--seconds 40] [--plot docs/sparsity.svg]

The weights of the real model are pruned by magnitude and written as a plain ONNX file: all engines read the
same zeros, and nobody is told. Our integers are those of `--precision int8`, over our dense integers. One
thread, 8 x 128, or (`sizes`) one text of few tokens. Engines take turns in one process. OpenVINO is also
asked to decompress sparse weights (CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE), as it can for matrices above that
rate.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from rich.console import Console
from rich.table import Table

from isthmus.codegen.cache import cache_dir
from isthmus.driver import Options
from isthmus.passes.sparsify.options import parse_sparsity
from isthmus.passes.sparsify.prune import pruned
from isthmus.quantizer.decide import Deciding
from isthmus.quantizer.plan import asked, compile_as
from isthmus.runtime import load
from isthmus.tools.bench import alternate, pinned, ratio

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "bench" / "sparse"
BATCH, LENGTH = 8, 128
FORMS = (
    *(f"unstructured@{share}" for share in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)),
    *(f"block:4x1@{share}" for share in (0.5, 0.7, 0.8, 0.9)),
    *(f"block:4x4@{share}" for share in (0.5, 0.7, 0.8, 0.9)),
    "2:4",
)
# The same as integers, each beside the dense model in integers.
INT8 = "int8 "
INT8_FORMS = ("block:1x4@0.5", "block:1x4@0.8", "block:1x4@0.9", "block:4x4@0.8")
PEERS = ("unstructured@0.8", "unstructured@0.9")
LENGTHS = (1, 2, 4, 16, 128)
# Smaller matrices, as of one number for each token, are nobody's concern.
SMALLEST = 64

Run = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--step", choices=("models", "latency", "sizes", "peers"), default="latency")
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--only", action="append", help="a form, such as 'dense' or 'int8 block:1x4@0.8'")
    given = parser.parse_args()
    command = [sys.executable, str(ROOT / "examples" / "fetch_data.py"), "paraphrase-MiniLM-L3-v2.onnx"]
    dense = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    models = {"dense": dense, **{form: _model(dense, form) for form in (*FORMS, *INT8_FORMS)}}
    chosen = ["dense", *FORMS, *(INT8 + form for form in ("dense", *INT8_FORMS))]
    bundles = {form: _bundle(models[form.removeprefix(INT8)], form) for form in given.only or chosen}
    if given.step == "latency":
        _latency(bundles, given.seconds, given.plot)
    if given.step == "sizes":
        _sizes(bundles, given.seconds)
    if given.step == "peers":
        _peers(models, bundles, given.seconds)


def _model(dense: Path, form: str) -> Path:
    """The real model with matrices pruned by magnitude, as a plain ONNX file."""
    path = FOLDER / "models" / f"{_file(form)}.onnx"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    model = onnx.load(dense)
    used = {name for node in model.graph.node if node.op_type in ("MatMul", "Gemm") for name in node.input}
    for tensor in model.graph.initializer:
        if tensor.name in used and len(tensor.dims) == 2 and min(tensor.dims) >= SMALLEST:
            zeros = pruned(numpy_helper.to_array(tensor), parse_sparsity(form))
            tensor.CopyFrom(numpy_helper.from_array(zeros, tensor.name))
    onnx.save(model, path)
    return path


def _bundle(model: Path, form: str) -> Path:
    options = Options(name=f"minilm-{_file(form)}", cache=cache_dir(os.environ))
    folder = FOLDER / "bundles"
    found = list(folder.glob(f"{options.name}@*"))
    wanted = asked("int8" if form.startswith(INT8) else "f32")
    return found[0] if found else compile_as(model, "host", folder, options, wanted, Deciding()).path


def _file(form: str) -> str:
    return form.replace(":", "-").replace("@", "-").replace(" ", "-")


def _inputs(batch: int = BATCH, length: int = LENGTH) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(1000, 30000, (batch, length))
    return {"input_ids": ids, "attention_mask": np.ones((batch, length), np.int64)}


def _latency(bundles: dict[str, Path], seconds: float, plot: Path | None) -> None:
    """Ours alone, all forms in turns."""
    inputs = _inputs()
    with pinned(1):
        runs = [_ours(path, inputs) for path in bundles.values()]
        times = alternate(runs, seconds)
    grid = Table("weights", "ms", "over dense", "weights.bin")
    gains: dict[str, float] = {}
    timed = dict(zip(bundles, times, strict=True))
    for form, timing in timed.items():
        dense = INT8 + "dense" if form.startswith(INT8) else "dense"
        gains[form] = 1 / ratio(timing, timed[dense]).median
        size, whole = ((bundles[f] / "weights.bin").stat().st_size for f in (form, dense))
        grid.add_row(form, f"{1e3 * timing.best:.1f}", f"{gains[form]:.2f}x", f"{size / whole:.2f}")
    Console().print(grid)
    if plot is not None:
        _draw(gains, plot)


def _sizes(bundles: dict[str, Path], seconds: float) -> None:
    """Ours alone, all forms in turns, of one text after the other of few tokens and more."""
    grid = Table("weights", *(f"1 x {length}, ms" for length in LENGTHS))
    rows: dict[str, list[str]] = {form: [] for form in bundles}
    with pinned(1):
        sessions = [load(path, threads=1) for path in bundles.values()]
        for length in LENGTHS:
            inputs = _inputs(1, length)
            runs = [partial(session.run, inputs) for session in sessions]
            timed = dict(zip(bundles, alternate(runs, seconds / len(LENGTHS)), strict=True))
            for form, timing in timed.items():
                dense = timed[INT8 + "dense" if form.startswith(INT8) else "dense"]
                gain = 1 / ratio(timing, dense).median
                rows[form].append(f"{1e3 * timing.best:.3f} ({gain:.2f}x)")
    for form, cells in rows.items():
        grid.add_row(form, *cells)
    Console().print(grid)


def _ours(bundle: Path, inputs: dict[str, np.ndarray]) -> Run:
    session = load(bundle, threads=1)
    return lambda: session.run(inputs)


def _peers(models: dict[str, Path], bundles: dict[str, Path], seconds: float) -> None:
    """Ours, onnxruntime and OpenVINO on the same files."""
    inputs = _inputs()
    grid = Table(
        "weights", "ours ms", "onnxruntime ms", "OpenVINO ms", "OpenVINO sparse ms", "ours over the best"
    )
    with pinned(1):
        for form in PEERS:
            runs = [
                _ours(bundles[form], inputs),
                _onnxruntime(models[form], inputs),
                _openvino(models[form], inputs, {}),
                _openvino(models[form], inputs, {"CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": "0.7"}),
            ]
            times = alternate(runs, seconds / len(PEERS))
            best = 1 / max(ratio(times[0], other).median for other in times[1:])
            grid.add_row(form, *(f"{1e3 * t.best:.1f}" for t in times), f"{best:.2f}x")
    Console().print(grid)


def _onnxruntime(model: Path, inputs: dict[str, np.ndarray]) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, inputs)


def _openvino(model: Path, inputs: dict[str, np.ndarray], more: dict[str, Any]) -> Run:
    import openvino

    core = openvino.Core()
    network = core.read_model(model)
    network.reshape({name: list(array.shape) for name, array in inputs.items()})
    config = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32", **more}
    request = core.compile_model(
        network, "CPU", {**config, "PERFORMANCE_HINT": "LATENCY"}
    ).create_infer_request()
    return lambda: request.infer(inputs, share_inputs=True, share_outputs=True)


def _draw(gains: dict[str, float], path: Path) -> None:
    """Speed over dense by the share of zeros, one line for each form, and where dense takes over."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "isthmus"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for name in ("unstructured", "block:4x1", "block:4x4"):
        points = sorted((float(f.partition("@")[2]), gain) for f, gain in gains.items() if f.startswith(name))
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.axhline(1, color="#333333", linewidth=0.8, label="dense, which is taken below")
    axes.set_xlabel("zeros in the matrices")
    axes.set_ylabel("MiniLM-L3 8 x 128, times as fast as dense")
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
