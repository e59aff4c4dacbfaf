"""Each kind of fate, on a model that has one node for each."""

from __future__ import annotations

from pathlib import Path

import pytest
from layer_models import layer_model, save

from isthmus import driver
from isthmus.driver import Options
from isthmus.errors import ModelError
from isthmus.frontends.onnx import Imported
from isthmus.passes.pipeline import Step
from isthmus.targets import x86_64
from isthmus.tools.explain import Fate, explain, find, numbers

TARGET = x86_64.TARGETS[-1]


def explained(path: Path) -> tuple[Fate, ...]:
    nodes: list[Imported] = []
    steps: list[Step] = []
    options = Options(watch=steps.append, imported=nodes.append)
    program = driver.read_model(path, options)
    made = driver.prepare(program, TARGET, options)
    return explain(nodes, program, steps, made.program, made.plan)


@pytest.fixture(scope="module")
def fates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Fate, ...]:
    return explained(save(layer_model(), tmp_path_factory.mktemp("model")))


def test_every_node_has_a_fate(fates: tuple[Fate, ...]) -> None:
    assert sorted(f.node for f in fates) == sorted(n.name for n in layer_model().graph.node)
    assert all(f.text for f in fates)
    assert sum(numbers(fates).values()) == len(fates)


@pytest.mark.parametrize(
    ("node", "kind", "text"),
    [
        ("/identity", "same", "hands on its input"),
        ("/up", "computed", "computed as linear (/up)"),
        ("/up/bias", "fused", "fused into linear (/up), by linear-bias"),
        ("/act/erf", "fused", "fused into linear (/up), by gelu, linear-gelu"),
        ("/act/half", "fused", "fused into linear (/up), by "),
        ("/residual", "fused", "fused into linear (/down), by linear-residual"),
        ("/norm", "fused", "fused into layer_norm (/times), by "),
        ("/times", "computed", "computed as layer_norm (/times)"),
        ("/four", "known", "evaluated at import"),
        ("/unused", "unused", "unused: no output needs it"),
    ],
)
def test_fates(node: str, kind: str, text: str, fates: tuple[Fate, ...]) -> None:
    fate = find(fates, node)
    assert (fate.kind, fate.text[: len(text)]) == (kind, text)


def test_places_name_kernel_stage_and_layout(fates: tuple[Fate, ...]) -> None:
    (place,) = find(fates, "/up").places
    assert (place.kernel, place.stage_kind) == ("gemm_f32_gelu", "rows")
    assert place.layout.startswith("block of its rows, ")
    assert find(fates, "/act/erf").places == (place,), "the same call does both"
    (last,) = find(fates, "/times").places
    assert last.layout == "output y"


def test_a_value_stands_for_its_node(fates: tuple[Fate, ...]) -> None:
    assert find(fates, "gelu").node == "/act/half"


def test_what_is_not_there_has_a_nearest_name(fates: tuple[Fate, ...]) -> None:
    with pytest.raises(ModelError, match=r"E1003 bad-option(.|\n)*did you mean '/act/erf'\?"):
        find(fates, "/act/erff")
    with pytest.raises(ModelError, match="without NODE all of them are listed"):
        find(fates, "entirely different")


def test_a_refusal_is_told_at_every_node_it_concerns(minilm: Path) -> None:
    fates = explained(minilm)
    (refused,) = {r for f in fates for r in f.refused if r.rule == "layer-norm-residual"}
    assert refused.reason.startswith("the sum broadcasts")
    concerned = [f.node.rsplit("/", 2)[-2:] for f in fates if refused in f.refused]
    assert ["LayerNorm", "LayerNormalization"] in concerned
    assert ["embeddings", "Add_1"] in concerned, "the sum is what the rule would have taken in"


def test_counts_of_fates_in_a_real_model(minilm: Path) -> None:
    fates = explained(minilm)
    softmaxes = [f for f in fates if f.operator == "Softmax"]
    assert [f.kind for f in softmaxes] == ["fused"] * 3
    assert {f.places[0].op for f in softmaxes} == {"attention"}
    products = [f for f in fates if f.operator == "MatMul"]
    heads = [f for f in products if f.places[0].op == "attention"]
    assert len(heads) == 6, "q k^T and the product with v, in each of three layers"
    assert all(f.places[0].op == "linear" for f in products if f not in heads)


def test_no_node_is_without_fate_in_the_zoo(zoo: Path) -> None:
    for name in ("gpt2-optimum-tgpast", "bert-ortopt-op17", "t5-encoder-dynamo-op23"):
        fates = explained(zoo / name / "model.onnx")
        lost = [f.node for f in fates if f.kind == "not needed"]
        assert len(lost) <= len(fates) // 20, lost
