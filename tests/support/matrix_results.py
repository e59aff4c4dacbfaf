"""A made-up build: every status, with and without measurements, and names that want escaping."""

from __future__ import annotations

from pathlib import Path

from isthmus.errors import Code, Problem
from isthmus.matrix.results import BuildResult, Latency, PairResult, Verdict, Work

HOSTILE = '</td><script>alert(1)</script> & "quotes" `|*\x00\ud800'

DETAILS = {
    "passes": "clean[fold] > fuse[linear]",
    "tools": {"isthmus": "1", "numpy": "2"},
    "rewrites": {"fuse-gelu": 6, "attention": 3},
    "kernels": [
        {"symbol": "gemm_f32", "uses": 12, "object_bytes": 4096},
        {"symbol": "softmax", "uses": 3, "object_bytes": 999},
    ],
    "calls": 15,
    "sparsity": [
        {
            "node": "/layer.0/up",
            "density": 0.1,
            "pattern": "unstructured",
            "stored": "csr",
            "decision": "csr: 2x",
        }
    ],
    "quantization": {
        "layers": [
            {
                "name": "/layer.0/q",
                "scheme": "w8-adynamic",
                "matrix_sqnr": 41.2,
                "sqnr": 33.0,
                "cosine": 0.99,
            },
            {"name": "/head", "kept": "it is the model's output"},
        ]
    },
    "heaviest": [
        {
            "op": "linear",
            "kernel": "gemm_f32",
            "type": "f32[1, 128, 384]",
            "node": "/layer.0/<MatMul>",
            "multiply_adds": 18874368,
            "bytes": 786432,
        }
    ],
}


def pair(
    model: str, chip: str, speed: float, *, measured: bool = True, cost: float | None = 1.0, **more: object
) -> PairResult:
    """One cell that passes, unless `more` says otherwise."""
    basis = "measured here" if measured else "roofline of 64 GFLOP/s a core (assumed: 2 GHz x 16 lanes x 2)"
    known: dict[str, object] = {
        "target": chip,
        "state": "built",
        "bundle": Path("dist") / f"{model}@{chip}",
        "digest": "ab" * 32,
        "precision": "f32",
        "runner": "native" if measured else "qemu-aarch64",
        "accuracy": 0.9999987,
        "max_abs": 2e-6,
        "sizes": {"batch": 1, "seq": 128},
        "latency": Latency(speed, measured, basis, speed * 0.9, speed * 1.2)
        if measured
        else Latency(speed, False, basis),
        "start": 0.012 if measured else None,
        "code_bytes": 145_000,
        "weights_bytes": 69_000_000,
        "peak_memory": 75_000_000,
        "cost": cost,
        "details": DETAILS,
        "path": Path("models") / f"{model}.onnx",
        "seconds": 1.5,
    }
    return PairResult(model, chip, **{**known, **more})  # type: ignore[arg-type]


def result() -> BuildResult:
    """Three models on three chips, one pair left out."""
    late = Verdict("latency_p50", 0.005, 0.0123)
    guess = Verdict("latency_p50", 0.005, 0.02, estimated=True)
    kept = Verdict("size", 80e6, 69_145_000)
    nothing = {"bundle": None, "digest": None, "runner": None, "accuracy": None, "max_abs": None, "sizes": {}}
    nothing |= {
        "latency": None,
        "start": None,
        "code_bytes": None,
        "weights_bytes": None,
        "peak_memory": None,
    }
    problem = Problem(Code.UNSUPPORTED_OPERATOR, f"2 nodes use 'Strange' {HOSTILE}", "/a/b", "leave it out")
    pairs = (
        pair("minilm", "host", 0.0067, cost=0.31, verdicts=(kept,)),
        pair("minilm", "arm", 0.011, measured=False, cost=0.19, verdicts=(guess, kept)),
        pair("vit", "host", 0.0123, cost=0.6, verdicts=(late, kept)),
        pair("vit", "arm", 0.02, measured=False, cost=None),
        pair("vit", "wasm", 0.05, measured=False, wrong=("output 'y': 3 of 40 elements are too far off",)),
        pair("odd", "host", 0.0, cost=None, state="failed", problems=(problem,), details={}, **nothing),
        pair("odd", "arm", 0.0, cost=None, state="failed", problems=(problem,), details={}, **nothing),
        pair("odd", "wasm", 0.0, cost=None, state="failed", problems=(problem,), details={}, **nothing),
    )
    return BuildResult(
        pairs=pairs,
        names=tuple(one.name for one in pairs),
        models=("minilm", "vit", "odd"),
        chips=("host", "arm", "wasm"),
        output=Path("dist"),
        file=Path("isthmus.toml"),
        currency="EUR",
        machine={"processor": "A processor", "processors": 2},
        tools={"isthmus": "1", "source": "cd" * 32},
        work=Work(3, 8, 6, 2),
        seconds=61.5,
        warnings=(Problem(Code.DAMAGED_CACHE, "blobs/ab is not what was stored", "cache"),),
    )
