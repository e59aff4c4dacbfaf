"""What int8 and int4 cost in agreement with people: ours, onnxruntime's and NNCF's, on one model and data.

    python benchmarks/quantization.py MODEL.onnx OUTPUT isthmus
    python benchmarks/quantization.py MODEL.onnx OUTPUT onnxruntime nncf      # where those are installed

OUTPUT is the name of the sentence vector. All calibrate on the same forty news texts, which are not those of
the measurement. Each engine's rows are against its own f32.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import int8_peers
import similarity
from fetch_data import fetch

Requests = Sequence[int8_peers.Request]
Runs = Iterator[tuple[str, similarity.Embed]]


def isthmus_runs(model: Path, output: str, requests: Requests) -> Runs:
    """f32, then every precision, with and without data."""
    import isthmus

    asked = [
        ("f32", False),
        ("int8", False),
        ("int8", True),
        ("int8-static", True),
        ("int4", False),
        ("int4", True),
        ("fp8-e4m3", False),
        ("fp8-e4m3", True),
        ("fp8-e5m2", False),
        ("mxfp8", False),
        ("mxfp8", True),
        ("mxfp4", False),
        ("mxfp4", True),
        ("nvfp4", False),
        ("nvfp4", True),
    ]
    for precision, calibrated in asked:
        with tempfile.TemporaryDirectory() as folder:
            options: dict[str, Any] = {"calibration": requests} if calibrated else {}
            bundle = isthmus.compile(model, out=folder, precision=precision, **options)
            with isthmus.load(bundle.path) as session:
                yield f"{precision}{', calibrated' if calibrated else ''}", lambda x: session.run(x)[output]


def onnxruntime_runs(model: Path, output: str, requests: Requests) -> Runs:
    """f32; its dynamic int8; its static int8 as QDQ, calibrated by min-max."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.requests = iter(requests)

        def get_next(self) -> dict[str, similarity.Array] | None:
            return next(self.requests, None)

    def session(path: Path) -> similarity.Embed:
        started = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda x: started.run([output], x)[0]

    yield "f32", session(model)
    with tempfile.TemporaryDirectory() as folder:
        ready, made = Path(folder) / "ready.onnx", Path(folder) / "made.onnx"
        int8_peers.prepare(model, ready)
        int8_peers.dynamic(ready, made)
        yield "int8 dynamic", session(made)
        kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static(
            str(ready), str(made), Reader(), per_channel=True, op_types_to_quantize=["MatMul"], **kinds
        )
        yield "int8 static", session(made)


def nncf_runs(model: Path, output: str, requests: Requests) -> Runs:
    """f32 in OpenVINO; NNCF's int8, as it is and as for Transformers; its int4 and int8 weights."""
    import nncf
    import openvino

    core = openvino.Core()
    exact = core.read_model(model)
    data = nncf.Dataset(requests)

    def embed(made: Any) -> similarity.Embed:
        compiled = core.compile_model(made, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        place = compiled.output(output)
        return lambda x: compiled(x)[place]

    yield "f32", embed(exact)
    yield "int8 (NNCF)", embed(nncf.quantize(exact, data, subset_size=len(requests)))
    yield "int8 for Transformers (NNCF)", embed(int8_peers.transformer(exact, requests))
    again = core.read_model(model)
    mode = nncf.CompressWeightsMode.INT4_SYM
    yield "int4 g32 weights (NNCF)", embed(nncf.compress_weights(again, mode=mode, group_size=32, ratio=1.0))


ENGINES = {"isthmus": isthmus_runs, "onnxruntime": onnxruntime_runs, "nncf": nncf_runs}


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("output")
    parser.add_argument("engine", nargs="+", choices=tuple(ENGINES))
    given = parser.parse_args(arguments)
    judged = similarity.read(fetch)
    encode = similarity.encoder(fetch("tokenizer.json"), int8_peers.INPUTS)
    requests = int8_peers.calibration(fetch)
    for engine in given.engine:
        exact: similarity.Agreement | None = None
        for name, embed in ENGINES[engine](given.model, given.output, requests):
            found = similarity.agreement(embed, encode, judged)
            exact = exact or found
            pearson, spearman = found.pearson - exact.pearson, found.spearman - exact.spearman
            sys.stdout.write(f"| {engine} | {name} | {pearson:+.4f} | {spearman:+.4f} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
