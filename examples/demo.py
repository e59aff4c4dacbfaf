"""Compile a real sentence encoder for this processor, and search a handful of sentences with it.

    make demo

The same sentences go through onnxruntime, so that both answers stand next to each other.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
from fetch_data import FetchError, fetch
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

import isthmus

MODEL = "paraphrase-MiniLM-L3-v2.onnx"
EMBEDDING = "461"  # the exporter's name of the output that holds one vector per sentence

QUESTION = "How do I return a purchase?"
SENTENCES = (
    "A man is playing the guitar on the street.",
    "How can I send an order back?",
    "My parcel has not arrived yet.",
    "Refunds are paid within ten days.",
    "The museum is closed on Mondays.",
    "What do I do if I want to return something I bought?",
    "Will it rain tomorrow?",
    "You may return any item within thirty days.",
)

Array = npt.NDArray[np.generic]
Vectors = npt.NDArray[np.float32]


def tokenize(texts: list[str]) -> dict[str, Array]:
    """`input_ids` and `attention_mask`, int64[texts, longest], padded with zeros."""
    tokenizer = Tokenizer.from_file(str(fetch("tokenizer.json")))
    tokenizer.enable_padding()
    encodings = tokenizer.encode_batch(texts)
    return {
        "input_ids": np.array([encoding.ids for encoding in encodings], np.int64),
        "attention_mask": np.array([encoding.attention_mask for encoding in encodings], np.int64),
    }


def similarities(vectors: Array) -> Vectors:
    """Cosine of the first vector with each of the others."""
    wide = np.asarray(vectors, np.float32)
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(unit[1:] @ unit[0])


def main() -> None:
    """Fetch, compile, run, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.parse_args()
    out = Console(highlight=False)
    model = fetch(MODEL)
    inputs = tokenize([QUESTION, *SENTENCES])

    with out.status("compiling; the first time also builds the kernels ..."):
        started = time.perf_counter()
        bundle = isthmus.compile(model, target="host", out=Path("dist"))
        seconds = time.perf_counter() - started
    out.print(f"compiled {model.name} in {seconds:.1f} s")

    ours = isthmus.load(bundle.path)(**inputs)[EMBEDDING]
    peer = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (theirs,) = peer.run([EMBEDDING], inputs)

    table = Table(title=f"\n{QUESTION}", title_justify="left", title_style="bold")
    table.add_column("most similar first")
    table.add_column("isthmus", justify="right")
    table.add_column("onnxruntime", justify="right")
    rows = zip(SENTENCES, similarities(ours), similarities(theirs), strict=True)
    for sentence, mine, other in sorted(rows, key=lambda row: -row[1]):
        table.add_row(sentence, f"{mine:.4f}", f"{other:.4f}")
    out.print(table)

    worst = float(np.abs(ours - theirs).max())
    out.print(f"largest difference between the vectors: {worst:.1e}\n")
    command = os.path.relpath(Path(sys.executable).with_name("isthmus"))
    out.print(f"the bundle: {bundle.path}", soft_wrap=True)
    out.print(f"next:       {command} inspect {bundle.path}", soft_wrap=True)
    if worst > 1e-4:
        sys.exit("error: the two disagree")


if __name__ == "__main__":
    try:
        main()
    except FetchError as error:
        sys.exit(f"error: {error}")
