"""A real model that quantizes as it runs: flan-t5-small in dynamic int8, encoder and decoder.

Where a float lies within one rounding of a half, it becomes another integer, the range of the next tensor
another scale, and all elements after it move a little. onnxruntime differs from itself by as much when
weights of norms change in their last bit (docs/decisions.md). So three things are shown: the pieces between
quantizations compute what they should, integers to the bit; the whole is close to onnxruntime's; so are the
words.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from replay import is_scaled_sum, piecewise, with_places
from tokenizers import Tokenizer

import isthmus
from isthmus.codegen.cache import cache_dir
from isthmus.driver import Options, compile_program, find_target, read_model
from isthmus.ir.evaluate import evaluate
from isthmus.tools.compare import cosine

pytestmark = pytest.mark.slow

OPTIONS = Options(verify=False, cache=cache_dir(os.environ))
END, MOST_TOKENS = 1, 12
Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays], np.ndarray]
TEXTS = (
    "Fix the login page so that it no longer crashes when the password is empty.",
    "Write a Python function which reads a CSV file and prints the sum of each column.",
    "Why is the build so slow?",
    "translate English to German: The house is wonderful.",
    "Add a retry with exponential backoff to the HTTP client, and make the number of attempts configurable.",
    "Please summarize the meeting notes and send them to everyone who could not attend yesterday.",
    "The river rose overnight and by morning the lower fields were under water.",
    "Refactor the parser.",
)


@pytest.fixture(scope="module")
def files(data: Callable[[str], Path]) -> dict[str, Path]:
    return {part: data(f"t5-{part}.onnx") for part in ("encoder", "decoder")}


@pytest.fixture(scope="module")
def requests(data: Callable[[str], Path]) -> list[Arrays]:
    tokenizer = Tokenizer.from_file(str(data("t5-tokenizer.json")))
    ids = [np.array([tokenizer.encode(text).ids]) for text in TEXTS]
    return [{"input_ids": i, "attention_mask": np.ones_like(i)} for i in ids]


def session_of(path: Path, optimized: bool) -> Run:
    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)[0]


@pytest.fixture(scope="module")
def peers(files: dict[str, Path]) -> dict[str, Run]:
    return {part: session_of(path, True) for part, path in files.items()}


@pytest.fixture(scope="module")
def ours(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    def run_of(path: Path) -> Run:
        bundle = isthmus.compile(path, target="host", out=tmp_path_factory.mktemp("dist"))
        session = isthmus.load(bundle.path)
        return lambda inputs: next(iter(session.run(inputs).values()))

    return {part: run_of(path) for part, path in files.items()}


def decoder_inputs(request: Arrays, hidden: np.ndarray, tokens: list[int]) -> Arrays:
    return {
        "input_ids": np.array([tokens]),
        "encoder_hidden_states": hidden,
        "encoder_attention_mask": request["attention_mask"],
    }


def greedy(decoder: Run, request: Arrays, hidden: np.ndarray) -> list[int]:
    tokens = [0]
    while len(tokens) <= MOST_TOKENS and tokens[-1] != END:
        tokens.append(int(decoder(decoder_inputs(request, hidden, tokens))[0, -1].argmax()))
    return tokens


def angle(a: np.ndarray, b: np.ndarray) -> float:
    return cosine(a.ravel().astype(np.float64), b.ravel().astype(np.float64))


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_every_piece_is_right_and_every_integer_exact(
    part: str, files: dict[str, Path], requests: list[Arrays], peers: dict[str, Run], tmp_path: Path
) -> None:
    told, places = with_places(read_model(files[part], OPTIONS))
    bundle = compile_program(told, find_target("host"), tmp_path, OPTIONS)
    with isthmus.load(bundle.path) as session:
        for request in requests[:3]:
            inputs = request
            if part == "decoder":
                hidden = peers["encoder"](request)
                inputs = decoder_inputs(request, hidden, greedy(peers["decoder"], request, hidden))
            got = session.run(inputs)
            pairs = piecewise(told.main, inputs, {v: got[name] for name, v in places.items()})
            assert len(pairs) > 150
            for value, (wanted, found) in pairs.items():
                # A scale is the range over 255, rounded as that says: from equal numbers, equal. So are sums
                # of integers, scaled.
                if wanted.dtype.kind in "iu" or value.op.name == "step" or is_scaled_sum(value):
                    np.testing.assert_array_equal(found, wanted, err_msg=value.loc)
                else:
                    scale = float(np.abs(wanted).max())
                    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * scale, err_msg=value.loc)


def test_the_meaning_is_that_of_onnxruntime(files: dict[str, Path], requests: list[Arrays]) -> None:
    """Without fusions on either side the roundings are the same, so mostly not one integer differs."""
    program = read_model(files["encoder"], OPTIONS)
    peer = session_of(files["encoder"], optimized=False)
    pairs = [(evaluate(program.main, r)["last_hidden_state"], peer(r)) for r in requests[:4]]
    assert sum(np.abs(a - b).max() <= 1e-6 for a, b in pairs) >= 3
    assert min(angle(a, b) for a, b in pairs) >= 0.99


def test_hidden_states(ours: dict[str, Run], peers: dict[str, Run], requests: list[Arrays]) -> None:
    angles = [angle(ours["encoder"](r), peers["encoder"](r)) for r in requests]
    # No integer moved in some, in others a few: 0.993 is the least that was seen.
    assert min(angles) >= 0.985, angles
    assert max(angles) >= 0.999999, angles


def test_words(ours: dict[str, Run], peers: dict[str, Run], requests: list[Arrays]) -> None:
    """From the same hidden states and after the same words, nearly always the same next word."""
    same = total = sentences = 0
    for request in requests:
        hidden = peers["encoder"](request)
        words = greedy(peers["decoder"], request, hidden)
        inputs = decoder_inputs(request, hidden, words)
        wanted, got = peers["decoder"](inputs)[0], ours["decoder"](inputs)[0]
        assert angle(got, wanted) >= 0.999
        same, total = same + int((got.argmax(-1) == wanted.argmax(-1)).sum()), total + len(words)
        sentences += greedy(ours["decoder"], request, hidden) == words
    assert same >= 0.9 * total  # 57 of 61 were seen
    assert sentences >= len(requests) // 2  # 6 of 8
