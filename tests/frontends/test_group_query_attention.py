"""GroupQueryAttention against onnxruntime: caches that grow and that slide, prompts and steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from isthmus.errors import Code
from isthmus.ir.evaluate import evaluate

HEADS, KV_HEADS, WIDTH = 4, 2, 16
LONGEST = 32


@dataclass(frozen=True)
class Step:
    """`lengths`: tokens of each batch entry so far, the new ones included; `cache`: rows, None for none."""

    lengths: tuple[int, ...]
    new: int
    cache: int | None = 0
    packed: bool = False
    positions: tuple[int, ...] | None = None
    bias: bool = False
    sink: bool = False
    rotary: int = 1
    attrs: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        flags = [n for n in ("packed", "positions", "bias", "sink") if getattr(self, n)]
        shown = [f"{k}={v}" for k, v in self.attrs]
        return f"{self.lengths}+{self.new}/{self.cache}-{'-'.join([*flags, *shown])}"


def with_attrs(step: Step, **attrs: float) -> Step:
    return replace(step, attrs=(*step.attrs, *attrs.items()))


PROMPT, TOKEN, CHUNK = Step((5, 5), 5), Step((7,), 1, 6), Step((7,), 3, 4)
SHORT = Step((5, 3), 5)
STEPS = [
    *(PROMPT, TOKEN, CHUNK, SHORT),
    replace(PROMPT, cache=None),
    replace(PROMPT, rotary=0),
    replace(PROMPT, packed=True),
    replace(CHUNK, packed=True),
    Step((7, 7), 1, 6),
    Step((7, 4), 1, 6),
    # a cache with room for more
    Step((7,), 1, 12),
    Step((7, 5), 1, 12),
    Step((5, 5), 5, 12),
    *(with_attrs(s, rotary_interleaved=1) for s in (PROMPT, TOKEN)),
    *(with_attrs(s, local_window_size=w) for s in (PROMPT, TOKEN, SHORT) for w in (1, 3)),
    *(with_attrs(s, softcap=2.0) for s in (PROMPT, TOKEN, SHORT)),
    *(with_attrs(s, scale=0.5) for s in (PROMPT, TOKEN)),
    *(with_attrs(s, smooth_softmax=1) for s in (PROMPT, TOKEN)),
    *(replace(s, sink=True) for s in (PROMPT, TOKEN, SHORT)),
    *(replace(s, bias=True) for s in (PROMPT, TOKEN)),
    with_attrs(replace(TOKEN, bias=True), softcap=2.0),
    # of a prompt only the first position counts
    replace(PROMPT, positions=(3, 1, 2, 3, 4)),
    replace(TOKEN, positions=(9,)),
    replace(CHUNK, positions=(9, 2, 5)),
    # a sliding cache, full after the step
    *(
        with_attrs(s, local_window_size=4, sliding_window_cache=1)
        for s in (
            *(Step((6, 6), 6, 4), Step((4, 4), 4, 4), Step((4,), 1, 4), Step((10,), 1, 4)),
            *(Step((12, 6), 1, 4), Step((12,), 3, 6), Step((12,), 9, 4)),
        )
    ),
    with_attrs(replace(Step((10,), 1, 4), sink=True), local_window_size=4, sliding_window_cache=1),
]


def model_of(step: Step, tools: Any) -> tuple[Any, dict[str, str]]:
    kinds = {"total": "i64[b,t]", "lengths": "i32[b]"}
    names = ["q", "k", "v", "old_k", "old_v", "lengths", "total_length", "cos", "sin"]
    if step.packed:
        kinds["q"] = f"f32[b,s,{(HEADS + 2 * KV_HEADS) * WIDTH}]"
    else:
        kinds |= {"q": f"f32[b,s,{HEADS * WIDTH}]"} | dict.fromkeys("kv", f"f32[b,s,{KV_HEADS * WIDTH}]")
    if step.cache is not None:
        kinds |= dict.fromkeys(("old_k", "old_v"), f"f32[b,{KV_HEADS},past,{WIDTH}]")
    if step.positions:
        kinds["positions"] = "i64[b,s]"
    if step.bias:
        kinds["bias"] = f"f32[1,{HEADS},s,t]"
    rng = np.random.default_rng(2)
    tables = {n: rng.standard_normal((LONGEST, WIDTH // 2)).astype(np.float32) for n in ("cos", "sin")}
    constants = tables if step.rotary else {}
    if step.sink:
        constants["sink"] = rng.standard_normal(HEADS).astype(np.float32)
    given = {*kinds, *constants, "total_length"}
    inputs = [n if n in given else "" for n in (*names, "positions", "bias", "sink")]
    attrs = {"num_heads": HEADS, "kv_num_heads": KV_HEADS, "do_rotary": step.rotary, **dict(step.attrs)}
    nodes = [
        helper.make_node("Shape", ["total"], ["size"], start=1),
        helper.make_node("Cast", ["size"], ["total_length"], to=6),
        helper.make_node(
            "GroupQueryAttention",
            inputs,
            ["y", "new_k", "new_v"],
            name="node",
            domain="com.microsoft",
            **attrs,
        ),
    ]
    return tools.make_model(nodes, kinds, ["y", "new_k", "new_v"], constants), kinds


def arrays_of(step: Step, kinds: dict[str, str], tools: Any) -> dict[str, Any]:
    sizes = {"b": len(step.lengths), "s": step.new, "t": max(step.lengths), "past": step.cache or 0}
    rng = np.random.default_rng(3)
    arrays = {name: tools.input_array(kind, sizes, rng) for name, kind in kinds.items()}
    arrays["lengths"] = np.array(step.lengths, np.int32) - 1
    if step.positions:
        arrays["positions"] = np.tile(np.array(step.positions, np.int64), (len(step.lengths), 1))
    return arrays


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_step(step: Step, tmp_path: Path, tools: Any) -> None:
    model, kinds = model_of(step, tools)
    program = tools.import_model(model, tmp_path, warn=lambda problem: None)
    arrays = arrays_of(step, kinds, tools)
    tools.assert_agree(evaluate(program.main, arrays), tools.run_onnxruntime(model, arrays))


def test_rows_behind_a_sliding_cache_are_empty(tmp_path: Path, tools: Any) -> None:
    """What onnxruntime leaves there is not specified; ours are zeros, and the rows before them agree."""
    step = with_attrs(Step((12, 5), 1, 6), local_window_size=3, sliding_window_cache=1)
    model, kinds = model_of(step, tools)
    arrays = arrays_of(step, kinds, tools)
    got = evaluate(tools.import_model(model, tmp_path).main, arrays)
    wanted = tools.run_onnxruntime(model, arrays)
    tools.assert_agree({"y": got["y"]}, {"y": wanted["y"]})
    # 12 tokens in 6 rows of which 4 go at once: 12 - 4 * ceil(6 / 4); 5 tokens fit.
    for entry, held in ((0, 4), (1, 5)):
        for name in ("new_k", "new_v"):
            rows = {"rows": got[name][entry, :, :held]}
            tools.assert_agree(rows, {"rows": wanted[name][entry, :, :held]})
            assert not got[name][entry, :, held:].any()


@pytest.mark.parametrize(
    ("attrs", "text"),
    [
        ({"k_quant_type": "PER_TENSOR"}, "k_quant_type"),
        ({"causal": 0}, "causal=0"),
        ({"qk_output": 1}, "qk_output=1"),
        ({"sliding_window_cache": 1}, "local_window_size"),
    ],
    ids=str,
)
def test_refused(attrs: dict[str, Any], text: str, tmp_path: Path, tools: Any) -> None:
    model, _ = model_of(replace(PROMPT, attrs=tuple(attrs.items())), tools)
    (problem,) = tools.refused(model, tmp_path)
    assert problem.code is Code.UNSUPPORTED_ATTRIBUTE
    assert text in problem.message
