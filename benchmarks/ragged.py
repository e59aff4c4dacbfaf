"""Sentences of different lengths in one batch: ours against engines that compute the padding.

    python benchmarks/ragged.py [--count 32] [--longest 256] [--seconds 25] [--against onnxruntime openvino]
                                [--precision bf16]

Real documents (lee_background of gensim's test data), cut at so many tokens, through paraphrase-MiniLM-L3 to
their embeddings, in f32 on one thread. Every engine gets the same padded arrays and a model with that output
alone, and they take turns. Answers must agree within 1e-4. Beside the batch of documents: batches of whole
rows, where there is nothing to save, against our own bundle made without the pass (`padded`). In another
precision than f32 our own bundle in that (`f32`) is there, too, and answers may differ by what bf16 holds.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from isthmus.driver import Options, compile_program, find_target, read_model
from isthmus.passes.legalize import padding
from isthmus.passes.quantize.bf16 import FLOATS
from isthmus.runtime import load
from isthmus.tools.peers import open_engine

ROOT = Path(__file__).resolve().parent.parent
MODEL, EMBEDDING = "paraphrase-MiniLM-L3-v2.onnx", "461"
CLOSE, CLOSE_NARROW = 1e-4, 0.03
PEERS = {"f32": ("onnxruntime", "openvino"), "bf16": ("openvino-bf16",)}
WHOLE = ((1, 16), (1, 128), (8, 128))
Array = npt.NDArray[np.generic]
Runs = dict[str, Callable[[], Sequence[Array]]]


def fetch(name: str) -> Path:
    """A file that tests/data.lock pins."""
    command = [sys.executable, str(ROOT / "examples" / "fetch_data.py"), name]
    return Path(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())


def documents(count: int, longest: int) -> dict[str, Array]:
    """The first documents as a request, padded to the longest."""
    tokenizer = Tokenizer.from_file(str(fetch("tokenizer.json")))
    tokenizer.enable_truncation(longest)
    tokenizer.enable_padding()
    lines = fetch("lee_background.cor").read_text("latin-1").splitlines()[:count]
    encodings = tokenizer.encode_batch(lines)
    return {
        "input_ids": np.array([encoding.ids for encoding in encodings], np.int64),
        "attention_mask": np.array([encoding.attention_mask for encoding in encodings], np.int64),
    }


def whole(batch: int, length: int) -> dict[str, Array]:
    """A request without padding."""
    ids = np.random.default_rng(0).integers(1000, 30000, (batch, length))
    return {"input_ids": ids, "attention_mask": np.ones((batch, length), np.int64)}


def with_one_output(model: Path, folder: Path) -> Path:
    """The model with the embedding alone: for the other engines."""
    proto = onnx.load(model)
    kept = [output for output in proto.graph.output if output.name == EMBEDDING]
    del proto.graph.output[:]
    proto.graph.output.extend(kept)
    path = folder / "embedding.onnx"
    onnx.save(proto, path)
    return path


def bundles(model: Path, folder: Path, precision: str) -> dict[str, Path]:
    """Ours, in f32 if that is another, and without the pass that leaves padding out."""
    made = {}
    others = ("f32",) if precision != "f32" else ()
    for name in ("isthmus", *others, "padded"):
        kind = "f32" if name == "f32" else precision
        options = Options(name=name, outputs=(EMBEDDING,), precision=kind, quantize=FLOATS.get(kind, ()))
        program, target = read_model(model, options), find_target("host")
        if name == "padded":
            padding.HEAVY = ()  # nothing is worth the move
        made[name] = compile_program(program, target, folder, options).path
    return made


def alternate(runs: Runs, seconds: float) -> dict[str, list[float]]:
    """The seconds that each took, turn by turn."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - started)
    return taken


def measured(
    what: str, request: Mapping[str, Array], runs: Runs, seconds: float, table: Table, close: float
) -> bool:
    """Add a row; whether all answers are close enough."""
    answers = {name: run()[0].astype(np.float64) for name, run in runs.items()}
    apart = max(float(np.abs(answer - answers["isthmus"]).max()) for answer in answers.values())
    taken = alternate(runs, seconds)
    cells = []
    for name, times in taken.items():
        ratio = statistics.median(a / b for a, b in zip(times, taken["isthmus"], strict=True))
        shown = "" if name == "isthmus" else f"  ({ratio:.3f})"
        cells.append(f"{statistics.median(times) * 1e3:.2f}{shown}")
    cells += [""] * (len(table.columns) - 3 - len(cells))
    kept = int(np.count_nonzero(request["attention_mask"]))
    table.add_row(what, f"{kept} of {request['attention_mask'].size}", *cells, f"{apart:.1e}")
    return apart <= close


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=32, help="documents in the batch")
    parser.add_argument("--longest", type=int, default=256, help="tokens of a document, at most")
    parser.add_argument(
        "--seconds", type=float, default=25.0, help="for the documents; a fifth for each other"
    )
    parser.add_argument("--against", nargs="*", help="by default all in the precision")
    parser.add_argument("--precision", choices=("f32", "bf16"), default="f32")
    given = parser.parse_args()
    model = fetch(MODEL)
    ragged = documents(given.count, given.longest)
    shape = " x ".join(map(str, ragged["input_ids"].shape))
    limit = CLOSE if given.precision == "f32" else CLOSE_NARROW
    own = ("isthmus", "padded") if given.precision == "f32" else ("isthmus", "f32", "padded")
    against = PEERS[given.precision] if given.against is None else given.against
    names = ("batch", "tokens", *own, *against, "apart")
    table = Table(*names, title="milliseconds; (time over ours, median of turns)")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sessions = {
            name: stack.enter_context(load(path, threads=1))
            for name, path in bundles(model, folder, given.precision).items()
        }
        cut = with_one_output(model, folder)
        engines = {name: open_engine(name, cut, 1) for name in against}

        def ours(request: Mapping[str, Array]) -> Runs:
            return {
                name: lambda session=session: list(session.run(request).values())  # type: ignore[misc]
                for name, session in sessions.items()
            }

        requests = {name: engine.request(ragged) for name, engine in engines.items()}
        theirs: Runs = {
            name: lambda r=r: [r.read(r.run())[EMBEDDING]]  # type: ignore[misc]
            for name, r in requests.items()
        }
        row = partial(measured, table=table, close=limit)
        close = row(f"documents {shape}", ragged, {**ours(ragged), **theirs}, given.seconds)
        for batch, length in WHOLE:
            request = whole(batch, length)
            close &= row(f"whole {batch} x {length}", request, ours(request), given.seconds / 5)
    Console(width=120).print(table)
    if not close:
        sys.exit(f"answers differ by more than {limit}")


if __name__ == "__main__":
    main()
