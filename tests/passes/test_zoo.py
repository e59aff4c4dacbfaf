"""The same architecture reaches the same fusion counts whatever wrote it, and computes the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from isthmus.errors import Problem
from isthmus.frontends.onnx import read
from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Program, Value
from isthmus.ir.types import DType
from isthmus.passes.pipeline import Step, run
from isthmus.target import Target
from isthmus.tools.samples import TOLERANCES, tolerance_of

# Two layers each: what is fused into what, by exporter.
LAYERS = {
    "attention": 2,
    "layer_norm": 5,
    "rms_norm": 0,
    "reduce_mean": 0,
    "linear with residual": 4,  # after attention, after the second half of the feed-forward
    "matmul": 0,
    "softmax": 0,
    "erf": 0,
    "wide linear": 2,  # Q, K and V of each layer are one product
}
BERT = {**LAYERS, "linear gelu": 2}
ALBERT = {**LAYERS, "linear gelu_tanh": 2}
GPT2 = {**LAYERS, "linear gelu_tanh": 2}
LLAMA = {**LAYERS, "layer_norm": 0, "rms_norm": 5, "linear silu": 2}
T5_ENCODER = {**LAYERS, "layer_norm": 0, "rms_norm": 5, "linear relu": 2}
# Heads and other ends of a model come on top of its layers.
BERT_MLM = {**BERT, "layer_norm": 6, "linear gelu": 3}
VIT = BERT
# Two layers of encoder, and two of decoder with two attentions each, over the encoder's result.
T5_WITH_PAST = {**T5_ENCODER, "attention": 4, "rms_norm": 7, "linear with residual": 6}
T5_DECODER = {**T5_WITH_PAST, "wide linear": 3}  # K and V of the encoder's result, for both layers at once
T5 = {
    **T5_DECODER,
    "attention": 6,
    "rms_norm": 12,
    "linear with residual": 10,
    "linear relu": 4,
    "wide linear": 5,
}
# Every float or weight-only quantized export of five families and of their nearest relatives.
FAMILIES = {
    "bert-cls-dynamo-op23": BERT,
    "bert-cls-legacy-op17": BERT,
    "bert-cls-optimum-cls": BERT,
    "bert-cls-ortopt-opt-cls": BERT,
    "bert-dynamo-op18": BERT,
    "bert-dynamo-op18-bf16": BERT,
    "bert-dynamo-op18-extdata": BERT,
    "bert-dynamo-op20": BERT,
    "bert-dynamo-op23": BERT,
    "bert-fp16-ort-op17": BERT,
    "bert-legacy-op17": BERT,
    "bert-legacy-tf436-op11": BERT,
    "bert-ner-optimum-ner": BERT,
    "bert-optimum-fe": BERT,
    "bert-ortnbits-int4-gather-dynamo-op18": BERT,
    "bert-ortnbits-int4-qdq-op17": BERT,
    "bert-ortopt-mha-op14e": BERT,
    "bert-ortopt-op17": BERT,
    "bert-ortsaved-dynamo-op18": BERT,
    "distilbert-dynamo-op18": BERT,
    "distilbert-legacy-op17": BERT,
    "distilbert-legacy-tf436-op12": BERT,
    "distilbert-optimum-fe": BERT,
    "distilbert-ortopt-dynamo-op18": BERT,
    "distilbert-ortsaved-opt-fe": BERT,
    "roberta-dynamo-op18": BERT,
    "roberta-legacy-op17": BERT,
    "roberta-legacy-tf436-op14": BERT,
    "roberta-optimum-fe": BERT,
    "roberta-ortopt-opt-fe": BERT,
    "bert-mlm-dynamo-op23": BERT_MLM,
    "bert-mlm-optimum-mlm": BERT_MLM,
    "bert-mlm-ortopt-tf436-op14": BERT_MLM,
    "albert-dynamo-op18": ALBERT,
    "albert-legacy-op17": ALBERT,
    "albert-legacy-tf436-op14": ALBERT,
    "albert-optimum-fe": ALBERT,
    "albert-ortopt-tf436-op14": ALBERT,
    "vit-dynamo-op18": VIT,
    "vit-fp16-occ-op17": VIT,
    "vit-legacy-op17": VIT,
    "vit-legacy-tf436-op9": VIT,
    "vit-ortnbits-int4-b16-op17": VIT,
    "vit-ortopt-tf436-op14": VIT,
    "vit-ortsaved-op17": VIT,
    "gpt2-dynamo-op18": GPT2,
    "gpt2-dynamo-op23": GPT2,
    "gpt2-fp16-ort-fused-op17": GPT2,
    "gpt2-legacy-op17-extdata": GPT2,
    "gpt2-legacy-tf436-op12": GPT2,
    "gpt2-optimum-tgpast": GPT2,
    "gpt2-ortnbits-int8-b32-opt-tgpast": GPT2,
    "gpt2-ortsaved-dynamo-op18": GPT2,
    "llama-cache-dynamo-op18": LLAMA,
    "llama-dynamo-op18": LLAMA,
    "llama-dynamo-op18-bf16": LLAMA,
    "llama-dynamo-op18-noopt": LLAMA,
    "llama-dynamo-op21": LLAMA,
    "llama-dynamo-op23": LLAMA,
    "llama-dynamo-op24": LLAMA,
    "llama-fp16-ort-keepio-dynamo-op18": LLAMA,
    "llama-genai-fp16-cuda": LLAMA,
    "llama-genai-fp32": LLAMA,
    "llama-genai-int4": LLAMA,
    "llama-handwritten-dynamo-op23": LLAMA,
    "llama-handwritten-legacy-op14-eager": LLAMA,
    "llama-handwritten-ortopt-mha-op14e": LLAMA,
    "llama-legacy-op17-static": LLAMA,
    "llama-optimum-tgpast": LLAMA,
    "llama-ortnbits-int4-b16-opt-tgpast": LLAMA,
    "llama-ortsaved-op17": LLAMA,
    "llama31-ropescaled-dynamo-op23": LLAMA,
    "t5-encoder-dynamo-op23": T5_ENCODER,
    "t5-encoder-legacy-op17": T5_ENCODER,
    "t5-encoder-legacy-tf436-op11": T5_ENCODER,
    "t5-encoder-legacy-tf436-op12": T5_ENCODER,
    "t5-encoder-ortopt-op14e": T5_ENCODER,
    "t5-fp16-ort-opt-s2spast-encoder": T5_ENCODER,
    "t5-optimum-s2spast-encoder": T5_ENCODER,
    "t5-ortopt-opt-s2spast-encoder": T5_ENCODER,
    "t5-optimum-s2spast-decoder": T5_DECODER,
    "t5-optimum-s2spast-decoderwithpast": T5_WITH_PAST,
    "t5-dynamo-op18": T5,
    "t5-dynamo-op18-fp16": T5,
    "t5-dynamo-op23": T5,
    "t5-ortsaved-op17": T5,
}


def silent(_: Problem) -> None:
    """Warnings about the model are not what is tested here."""


def counts(program: Program) -> Counter[str]:
    """How many of each op, and of linears with each thing fused into them; attention is, too, where it is
    free of padding."""
    found: Counter[str] = Counter()
    for value in program.main.nodes():
        found[value.op.name.removeprefix("ragged_")] += 1
        if value.op.name == "linear":
            found[f"linear {value.attr('activation')}"] += 1
            found["linear with residual"] += len(value.args) == 4
            found["wide linear"] += value.loc in _sliced(program)
    return found


def _sliced(program: Program) -> set[str]:
    sources = (_uncast(v.args[0]) for v in program.main.nodes() if v.op.name == "slice")
    return {source.loc for source in sources if source.op.name == "linear"}


def _uncast(value: Value) -> Value:
    """Halves: every result is rounded to them."""
    return _uncast(value.args[0]) if value.op.name == "cast" else value


@pytest.mark.parametrize("name", FAMILIES)
def test_fusions_and_numbers(name: str, zoo: Path, target: Target) -> None:
    folder = zoo / name
    imported = read(folder / "model.onnx", warn=silent)
    fused = run(imported, target, verify="each")
    # Weights in blocks have kernels of their own, with less in them.
    blocks = any(v.op.name == "block_linear" for v in fused.main.nodes())
    found = counts(run(imported, target, stop_after="fuse") if blocks else fused)
    assert {key: found[key] for key in FAMILIES[name]} == FAMILIES[name]
    absolute = tolerance_of(imported.main).absolute
    close = 1e-5 if absolute == TOLERANCES[DType.F32] else absolute  # fewer roundings of halves are others
    for which in (0, 1):
        with np.load(folder / f"inputs_{which}.npz") as file:
            arrays = dict(file)
        before, after = evaluate(imported.main, arrays), evaluate(fused.main, arrays)
        for output, wanted in before.items():
            scale = float(np.max(np.abs(wanted), initial=0))
            np.testing.assert_allclose(after[output], wanted, rtol=close, atol=close * scale)


def test_the_real_model(minilm: Path, target: Target) -> None:
    """Three layers: Q/K/V, attention, product + residual, norm, product + GELU, product + residual, norm."""
    fused = run(read(minilm, warn=silent), target)
    found = counts(fused)
    assert found["attention"] == 3
    assert found["layer_norm"] == 7
    assert (found["linear"], found["wide linear"]) == (12, 3)
    assert (found["linear gelu"], found["linear with residual"]) == (3, 6)
    assert found["gather"] == 1, "token types are one row, positions a slice"
    heavy = {"matmul", "softmax", "erf", "reduce_mean", "tanh", "pow", "exp"}
    assert not heavy & found.keys()


def test_nothing_was_refused_that_matters(minilm: Path, target: Target) -> None:
    refused: list[str] = []

    def watch(step: Step) -> None:
        if step.phase == "fuse":
            refused.extend(f"{e.rule}: {e.reason}" for e in step.events if e.reason)

    run(read(minilm, warn=silent), target, watch=watch)
    # The embedding sum is one loop, together with the broadcast of the positions.
    assert refused == [r for r in refused if r.startswith("layer-norm-residual: the sum broadcasts")]
