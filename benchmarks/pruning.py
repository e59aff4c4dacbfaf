"""What pruning costs in agreement with people: each method, with as many zeros, on one model and data.

    python examples/fetch_data.py all-MiniLM-L6-v2.safetensors        # prints where it lies
    PYTHONPATH=benchmarks:examples python tests/support/minilm_l6.py WEIGHTS.safetensors l6.onnx
    PYTHONPATH=examples python benchmarks/pruning.py l6.onnx sentence_embedding [FORM ..] [--methods NAME ..]

OUTPUT is the name of the sentence vector. Methods that need data calibrate on forty news texts, which are
not those of the measurement. Beside agreement with people stands the mean cosine of the vectors of the fifty
texts with those of the model as it was: pruning may move the former up, the latter only down. Each line goes
to benchmarks/results/pruning.json as soon as it is known; processors differ by the order of sums only.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import similarity
from fetch_data import fetch
from places import RESULTS
from sparse_results import merge, read

import isthmus
from isthmus.passes.sparsify.options import METHODS

CALIBRATION = 40
FORMS = ("unstructured@0.5", "2:4")
SAVED = RESULTS / "pruning.json"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("output")
    parser.add_argument("forms", nargs="*", default=FORMS, metavar="FORM")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--texts", type=int, default=CALIBRATION, help="to calibrate with")
    given = parser.parse_args(arguments)
    judged = similarity.read(fetch)
    encode = similarity.encoder(fetch("tokenizer.json"), ("input_ids", "attention_mask"))
    requests = [encode(text) for text in similarity.lines(fetch("lee_background.cor"))[: given.texts]]
    ways: list[dict[str, Any]] = [{}]
    ways += [
        {"sparsity": form, "sparsity_method": method, "calibration": requests}
        for form in given.forms
        for method in given.methods
    ]
    exact: similarity.Floats | None = None
    for way in ways:
        with tempfile.TemporaryDirectory() as folder:
            bundle = isthmus.compile(given.model, out=folder, **way)
            with isthmus.load(bundle.path) as session:
                found = similarity.agreement(lambda x: session.run(x)[given.output], encode, judged)
                vectors = np.concatenate([session.run(encode(text))[given.output] for text in judged.texts])
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        unit = vectors / lengths
        exact = unit if exact is None else exact
        cosine = float(np.mean(np.sum(unit * exact, axis=1)))
        form, method = way.get("sparsity", "none"), way.get("sparsity_method", "")
        numbers = {"pearson": found.pearson, "spearman": found.spearman, "cosine": cosine}
        _save({given.model.stem: {form: {method: {k: round(v, 4) for k, v in numbers.items()}}}})
        cells = " | ".join(f"{number:.4f}" for number in numbers.values())
        sys.stdout.write(f"| {form} | {method} | {cells} |\n")
        sys.stdout.flush()


def _save(found: dict[str, Any]) -> None:
    both = merge(read(SAVED), found)
    SAVED.write_text(f"{json.dumps(both, indent=1, sort_keys=True)}\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
