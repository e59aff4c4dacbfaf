"""Zeros in MiniLM-L3: latency by share of zeros and format over our own dense, and beside other engines.

    python benchmarks/sparse.py --step bundles                    # what is measured, compiled; no clock
    python benchmarks/sparse.py --step latency --formats "f32 csr" --shares 0.8 0.9 --seconds 30
    python benchmarks/sparse.py --step peers --seconds 40
    python benchmarks/sparse.py --step sizes --formats "f32 csr" "int8 1x4" --shares 0.8
    python benchmarks/sparse.py --step plot                       # docs/sparsity.svg, and the tables

The weights of the real model are pruned by magnitude and written as a plain ONNX file: all engines read the
same zeros, and nobody is told. Each format is timed as such, also where the decision keeps matrices dense,
and beside our dense in the same precision. One thread, 8 x 128, or (`sizes`) one text of few tokens. Engines
take turns in one process. Results go to sparse.json in the folder of this machine's processor,
benchmarks/results/<processor>, as soon as they are known; what is measured again replaces what was there.
OpenVINO is also asked to decompress sparse weights (CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE), as it can for
matrices above that rate. `--target` names the level of the processor that is compiled for, which is part of
the result: where bf16 or bytes are multiplied in tiles, products without are timed at the level below.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from encoders import fetched
from onnx import numpy_helper
from places import ROOT, WORK, results_folder
from rich.console import Console
from rich.table import Table
from sparse_results import FORMATS, Format, Result, draw, merge, read, tables

from isthmus.codegen.cache import cache_dir
from isthmus.driver import Options
from isthmus.passes.sparsify.options import parse_sparsity
from isthmus.passes.sparsify.prune import pruned
from isthmus.quantizer.decide import Deciding
from isthmus.quantizer.plan import asked, compile_as
from isthmus.runtime import load
from isthmus.tools.bench import Timing, alternate, pinned, ratio
from isthmus.tools.hardware import hardware

MODEL = "paraphrase-MiniLM-L3-v2.onnx"
FOLDER = WORK / "sparse"
BATCH, LENGTH = 8, 128
SHARES = (0.2, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
LENGTHS = (1, 2, 4, 16, 128)
# Smaller matrices, as of one number for each token, are nobody's concern.
SMALLEST = 64
PEER_FORMAT, PEER_SHARES = "f32 csr", (0.8, 0.9)
PLOT = ROOT / "docs" / "sparsity.svg"

Run = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    steps = ("bundles", "latency", "sizes", "peers", "plot")
    parser.add_argument("--step", choices=steps, default="latency")
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS))
    parser.add_argument("--shares", nargs="+", type=float, default=SHARES, help="of zeros")
    parser.add_argument("--seconds", type=float, default=30.0, help="for each format")
    parser.add_argument("--target", default="host")
    given = parser.parse_args()
    decided, forced = partial(_decided, given.target), partial(_forced, given.target)
    if given.step == "plot":
        _plot()
    elif given.step == "peers":
        _peers(given.seconds, decided)
    else:
        for name in given.formats:
            shares = FORMATS[name].shares or given.shares
            bundles = {share: forced(FORMATS[name], share) for share in shares}
            dense = decided(FORMATS[name], 0.0)
            if given.step == "latency":
                kept = {share: decided(FORMATS[name], share) for share in shares}
                _save({"latency": {name: dict(_latency(dense, bundles, kept, given.seconds))}})
            if given.step == "sizes":
                _sizes(name, dense, bundles, given.seconds)


def _save(found: Result) -> None:
    folder = results_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "sparse.json"
    about = {"model": MODEL, "sizes": f"{BATCH}x{LENGTH}", "machine": hardware(()).processor}
    both = merge(read(path), {**about, **found})
    path.write_text(f"{json.dumps(both, indent=1, sort_keys=True)}\n", "utf-8")


def _model(form: Format, share: float) -> Path:
    """The real model with matrices pruned by magnitude, as a plain ONNX file; as it is without any share."""
    dense = fetched(MODEL)
    if not share:
        return dense
    sparsity = form.sparsity(share)
    path = FOLDER / "models" / f"{_file(sparsity)}.onnx"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    model = onnx.load(dense)
    used = {name for node in model.graph.node if node.op_type in ("MatMul", "Gemm") for name in node.input}
    for tensor in model.graph.initializer:
        if tensor.name in used and len(tensor.dims) == 2 and min(tensor.dims) >= SMALLEST:
            zeros = pruned(numpy_helper.to_array(tensor), parse_sparsity(sparsity))
            tensor.CopyFrom(numpy_helper.from_array(zeros, tensor.name))
    onnx.save(model, path)
    return path


def _decided(target: str, form: Format, share: float) -> Path:
    """The bundle as declared costs decide."""
    return _bundle(target, form, share, "decided", Deciding())


def _forced(target: str, form: Format, share: float) -> Path:
    """The bundle with every matrix in this format, whatever declared costs say."""
    decided = _decided(target, form, share)
    report = json.loads((decided / "report.json").read_bytes())
    if all(form.holds(layer["stored"]) for layer in report["sparsity"]):
        return decided
    for layer in report["sparsity"]:
        layer["stored"] = form.stored
    record = FOLDER / "records" / f"{_file(form.name)}-{share}-{target}.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(report), "utf-8")
    return _bundle(target, form, share, "forced", Deciding(record=record))


def _bundle(target: str, form: Format, share: float, how: str, deciding: Deciding) -> Path:
    name = f"{_file(form.name)}-{share}-{how}" if share else f"{form.precision}-dense"
    folder = FOLDER / "bundles" / target
    found = list(folder.glob(f"{name}@*"))
    if found:
        return found[0]
    options = Options(name=name, cache=cache_dir(os.environ))
    model = _model(form, share)
    return compile_as(model, target, folder, options, asked(form.precision), deciding).path


def _file(text: str) -> str:
    return text.replace(":", "-").replace("@", "-").replace(" ", "-")


def _inputs(batch: int = BATCH, length: int = LENGTH) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(1000, 30000, (batch, length))
    return {"input_ids": ids, "attention_mask": np.ones((batch, length), np.int64)}


def _latency(
    dense: Path, bundles: Mapping[float, Path], decided: Mapping[float, Path], seconds: float
) -> Iterator[tuple[str, Result]]:
    """Ours alone, one format at all shares in turns with dense; and what was `decided` at each."""
    inputs = _inputs()
    with pinned(1):
        whole, *times = alternate([_ours(path, inputs) for path in (dense, *bundles.values())], seconds)
    for (share, path), timing in zip(bundles.items(), times, strict=True):
        kept = json.loads((decided[share] / "report.json").read_bytes())["sparsity"]
        stored = json.loads((path / "report.json").read_bytes())["sparsity"]
        yield (
            f"{share:g}",
            {
                "ms": _ms(timing),
                "dense_ms": _ms(whole),
                "gain": _gain(timing, whole),
                "bytes": round(sum(s["bytes"] for s in stored) / sum(s["dense_bytes"] for s in stored), 3),
                "decided": sum(layer["stored"] != "dense" for layer in kept),  # so, or even better
                "matrices": len(kept),
                "target": path.name.partition("@")[2],
            },
        )


def _ms(timing: Timing) -> float:
    return round(1e3 * timing.best, 3)


def _gain(timing: Timing, other: Timing) -> list[float]:
    """Quartiles over turns of how many times as fast as the other."""
    found = ratio(timing, other)
    return [round(1 / part, 3) for part in (found.high, found.median, found.low)]


def _sizes(name: str, dense: Path, bundles: Mapping[float, Path], seconds: float) -> None:
    """Ours alone, all shares in turns, of one text after the other of few tokens and more."""
    grid = Table(name, *(f"1 x {length}, ms" for length in LENGTHS))
    rows: dict[str, list[str]] = {"dense": [], **{f"{share:g}": [] for share in bundles}}
    with pinned(1):
        sessions = [load(path, threads=1) for path in (dense, *bundles.values())]
        for length in LENGTHS:
            inputs = _inputs(1, length)
            times = alternate([partial(session.run, inputs) for session in sessions], seconds / len(LENGTHS))
            for row, timing in zip(rows, times, strict=True):
                gain = 1 / ratio(timing, times[0]).median
                rows[row].append(f"{1e3 * timing.best:.3f} ({gain:.2f}x)")
    for row, cells in rows.items():
        grid.add_row(row, *cells)
    Console().print(grid)


def _ours(bundle: Path, inputs: dict[str, np.ndarray]) -> Run:
    session = load(bundle, threads=1)
    return lambda: session.run(inputs)


def _peers(seconds: float, decided: Callable[[Format, float], Path]) -> None:
    """Ours, onnxruntime and OpenVINO on the same files."""
    inputs, form = _inputs(), FORMATS[PEER_FORMAT]
    more = {"CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": "0.7"}
    for share in PEER_SHARES:
        model, bundle = _model(form, share), decided(form, share)
        with pinned(1):
            runs = {
                "isthmus": _ours(bundle, inputs),
                "onnxruntime": _onnxruntime(model, inputs),
                "OpenVINO": _openvino(model, inputs, {}),
                "OpenVINO, sparse weights decompressed": _openvino(model, inputs, more),
            }
            ours, *others = alternate(list(runs.values()), seconds / len(PEER_SHARES))
        found: Result = {"isthmus": {"ms": _ms(ours)}}
        for name, timing in zip(list(runs)[1:], others, strict=True):
            found[name] = {"ms": _ms(timing), "gain": _gain(ours, timing)}
        _save({"peers": {f"{share:g}": found}})


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


def _plot() -> None:
    found = read(results_folder() / "sparse.json")
    draw(found, PLOT)
    sys.stdout.write(tables(found))


if __name__ == "__main__":
    main()
