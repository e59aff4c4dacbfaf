"""One real model, one bundle, every size: the same answers as onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from runners import native

import isthmus
from isthmus.errors import InputError
from isthmus.machine import Machine
from isthmus.targets import x86_64

pytestmark = pytest.mark.slow

Arrays = dict[str, np.ndarray]
# One for each way of multiplying bf16, and of widening f16.
HALF_CHIPS = tuple(
    {(t.instructions, t.tiles): t for t in x86_64.TARGETS if t.os == Machine.here().os}.values()
)
MAX_ABS, MIN_COSINE = 1e-4, 0.99999
EMBEDDING = "461"


def agree(ours: Arrays, theirs: Arrays) -> None:
    assert list(ours) == list(theirs) and len(theirs) == 4
    for name, wanted in theirs.items():
        got = ours[name]
        assert got.dtype == wanted.dtype and got.shape == wanted.shape
        if wanted.dtype.kind != "f":
            assert np.array_equal(got, wanted), name
            continue
        assert np.abs(got - wanted).max(initial=0.0) <= MAX_ABS, name
        a, b = got.ravel().astype(np.float64), wanted.ravel().astype(np.float64)
        assert a @ b / np.sqrt((a @ a) * (b @ b)) >= MIN_COSINE, name


def random_inputs(seed: int) -> Arrays:
    """Batch 1 to 8, length 1 to 512, each row padded at its own length; both extremes are among the seeds."""
    rng = np.random.default_rng(seed)
    batch = 1 + seed % 8
    length = (1, 512)[seed] if seed < 2 else int(rng.integers(1, 513))
    valid = rng.integers(1, length + 1, (batch, 1))
    return {
        "input_ids": rng.integers(0, 30522, (batch, length)),
        "attention_mask": (np.arange(length) < valid).astype(np.int64),
    }


@pytest.mark.parametrize("threads", [1, 2])
def test_random_inputs(bundle: Path, peer: Callable[[Arrays], Arrays], threads: int) -> None:
    with isthmus.load(bundle, threads=threads) as session:
        for seed in range(20):
            inputs = random_inputs(seed)
            agree(session.run(inputs), peer(inputs))


def test_real_inputs(bundle, peer, tokenize, documents) -> None:
    with isthmus.load(bundle) as session:
        for i in range(20):
            inputs = tokenize(documents[i : i + 1 + i % 8])
            agree(session.run(inputs), peer(inputs))


def test_a_row_that_is_padding_only(bundle, peer) -> None:
    inputs = random_inputs(5)
    inputs["attention_mask"][0] = 0
    with isthmus.load(bundle) as session:
        agree(session.run(inputs), peer(inputs))


def test_the_number_of_threads_changes_no_bit(bundle) -> None:
    inputs = random_inputs(7)
    answers = []
    for threads in (1, 2, 3, 5):
        with isthmus.load(bundle, threads=threads) as session:
            answers.append(session.run(inputs))
    for answer in answers[1:]:
        assert all(np.array_equal(answer[name], answers[0][name]) for name in answer)


def agreement_with_people(run, tokenize, documents, data) -> float:
    """Pearson correlation with people's judgements on 1,225 pairs of texts."""
    human = np.loadtxt(data("similarities0-1.txt"))
    upper = np.triu_indices(50, 1)
    vectors = np.concatenate([run(tokenize([text]))[EMBEDDING] for text in documents])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return float(np.corrcoef((unit @ unit.T)[upper], human[upper])[0, 1])


def test_similarity_judgements(bundle, peer, tokenize, documents, data) -> None:
    with isthmus.load(bundle) as session:
        correlations = [agreement_with_people(f, tokenize, documents, data) for f in (session.run, peer)]
    assert round(correlations[0], 3) == round(correlations[1], 3) == 0.638


@pytest.mark.parametrize("precision", ["bf16", "f16"])
@pytest.mark.parametrize("target", HALF_CHIPS)
def test_halves_judge_alike(target, precision, minilm, bundle, tokenize, documents, data, tmp_path) -> None:
    """Within 0.002 of f32; the same bits on any number of threads."""
    native(target)
    halved = isthmus.compile(minilm, target=target.name, out=tmp_path, precision=precision)
    assert halved.manifest.precision == precision
    with isthmus.load(bundle) as wide, isthmus.load(halved.path, threads=1) as narrow:
        found = [agreement_with_people(s.run, tokenize, documents, data) for s in (wide, narrow)]
        assert abs(found[0] - found[1]) <= 0.002
        for inputs in (random_inputs(7), tokenize(documents[:3])):
            one = narrow.run(inputs)
            for threads in (2, 3):
                with isthmus.load(halved.path, threads=threads) as session:
                    several = session.run(inputs)
                assert all(np.array_equal(several[name], one[name]) for name in one)


def test_a_length_beyond_the_position_table_is_refused(bundle) -> None:
    inputs = {"input_ids": np.ones((1, 513), np.int64), "attention_mask": np.ones((1, 513), np.int64)}
    with isthmus.load(bundle) as session, pytest.raises(InputError, match="513, expected 1 to 512"):
        session.run(inputs)


def test_an_id_beyond_the_vocabulary_is_refused(bundle) -> None:
    inputs = {"input_ids": np.full((1, 4), 30522), "attention_mask": np.ones((1, 4), np.int64)}
    with isthmus.load(bundle) as session, pytest.raises(InputError, match="index is out of range"):
        session.run(inputs)
