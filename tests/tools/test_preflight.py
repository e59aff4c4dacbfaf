"""What `check` says is what a compile makes of the model."""

from __future__ import annotations

from pathlib import Path

import pytest
from layer_models import INNER, WIDTH, layer_model, save

from isthmus import driver
from isthmus.codegen.session_memory import arena_bytes
from isthmus.driver import Options, Prepared, write_c
from isthmus.errors import Code, ModelError, Problem
from isthmus.frontends.onnx import read
from isthmus.ir.dims import evaluate_dim
from isthmus.ir.graph import Program
from isthmus.ops import text
from isthmus.passes.pipeline import Step
from isthmus.targets import x86_64
from isthmus.tools.contract import Fusion, Miss, fusions, misses
from isthmus.tools.costs import multiply_adds, sizes_for
from isthmus.tools.preflight import examine, failed, with_remedy
from isthmus.tools.sarif import sarif

TARGET = x86_64.TARGETS[-1]


def prepared(program: Program) -> tuple[Prepared, list[Step]]:
    steps: list[Step] = []
    return driver.prepare(program, TARGET, Options(watch=steps.append)), steps


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return read(save(layer_model(), tmp_path_factory.mktemp("model")), warn=lambda _: None)


def test_the_contract_and_the_costs(layer: Program) -> None:
    made, steps = prepared(layer)
    sizes = sizes_for(layer, {"batch": 2, "seq": 10})
    layout = write_c(layer.name, [made]).layout
    plans = examine(made.program, made.plan, layout, steps, sizes, threads=1, target=TARGET)
    assert [str(f) for f in plans.fusions] == [
        "1 layer_norm (0 with residual)",
        "2 linear (1 gelu, 1 with residual)",
    ]
    assert plans.misses == ()
    assert sum(plans.kernels.values()) == len(made.plan.calls())
    assert str(plans.costs.multiply_adds) == f"{2 * WIDTH * INNER}*batch*seq"
    assert plans.costs.multiply_adds_at == 2 * WIDTH * INNER * 20
    assert plans.costs.ports_bytes == 2 * 20 * WIDTH * 4
    assert plans.costs.weights_bytes == layout.total >= 4 * 2 * WIDTH * INNER


def test_working_memory_grows_with_sizes_and_threads(layer: Program) -> None:
    plan = prepared(layer)[0].plan
    (space,) = plan.memory.blocks.values()
    block = next(s.block for s in plan.stages if s in plan.memory.blocks) * space.row_elements * 4
    assert block % 64 == 0
    sizes = {"batch": 2, "seq": 10}
    one, two = (arena_bytes(plan, sizes, threads) for threads in (1, 2))
    assert two - one == block, "each thread has a block of rows"
    sized = [[evaluate_dim(b.size, sizes) * b.dtype.bytes for b in s.buffers] for s in plan.memory.slots]
    assert one == sum((max(each) + 63) // 64 * 64 for each in sized) + block


def test_attention_is_counted() -> None:
    program = text.parse(
        "graph main(%q: f32[b,4,s,8], %k: f32[b,4,s,8], %v: f32[b,4,s,16]) {\n"
        "  %0 = attention(%q, %k, %v) scale=0.25 : f32[b,4,s,16]\n"
        "  return o=%0\n"
        "}\n"
    )
    assert fusions(program.main) == (Fusion("attention", 1, {}),)
    assert evaluate_dim(multiply_adds(program.main), {"b": 2, "s": 10}) == 2 * 4 * 10 * 10 * (8 + 16)


def test_sizes_are_within_bounds(layer: Program) -> None:
    assert sizes_for(layer, {}) == {"batch": 1, "seq": 128}
    assert sizes_for(layer, {"seq": 7}) == {"batch": 1, "seq": 7}
    with pytest.raises(ModelError) as error:
        sizes_for(layer, {"sec": 7, "batch": 0})
    assert [p.code for p in error.value.problems] == [Code.UNKNOWN_DIM, Code.BAD_DIM]


def test_near_misses_have_reason_and_node(tmp_path: Path) -> None:
    model = layer_model()
    # Somebody else reads the error function: it cannot be taken into a GELU alone.
    model.graph.node[-2].input[1] = "erf_sum"
    extra = model.graph.node.add()
    extra.CopyFrom(next(n for n in model.graph.node if n.name == "/four"))
    extra.name, extra.op_type = "/erf_sum", "ReduceMax"
    del extra.input[:], extra.output[:]
    extra.input.append("shifted")
    extra.output.append("erf_sum")
    program = read(save(model, tmp_path), warn=lambda _: None)
    _, steps = prepared(program)
    found = misses(steps)
    reason = "this erf is not multiplied as in x * (1 + erf(x / sqrt 2)) / 2"
    assert Miss("gelu", reason, 1, ("/act/erf",)) in found


def test_every_problem_comes_with_a_remedy() -> None:
    bare = Problem(Code.NOT_ON_TARGET, "no kernel", "/node")
    assert with_remedy(bare).hint
    told = Problem(Code.NOT_ON_TARGET, "no kernel", "/node", "use another chip")
    assert with_remedy(told) is told
    verdict = failed(TARGET, True, [bare, told])
    assert verdict.plans is None
    assert all(p.hint for p in verdict.problems)


def test_sarif_has_a_result_for_each_problem() -> None:
    error = Problem(Code.NOT_ON_TARGET, "no kernel", "/node", "use another chip")
    odd = Problem(Code.NAN_WEIGHTS, "NaN", "w")
    log = sarif(Path("a model.onnx"), "1.0", [(error, ["chip"])], [odd])
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]  # type: ignore[misc]
    first, second = run["results"]  # type: ignore[index, call-overload]
    assert (first["ruleId"], first["level"]) == ("E1401", "error")
    assert first["message"]["text"] == "no kernel (use another chip)"
    assert first["properties"] == {"targets": ["chip"]}
    (place,) = first["locations"]
    assert place["logicalLocations"] == [{"name": "/node", "fullyQualifiedName": "/node"}]
    assert place["physicalLocation"]["artifactLocation"]["uri"] == "a%20model.onnx"
    assert (second["ruleId"], second["level"]) == ("W1001", "warning")
    rules = run["tool"]["driver"]["rules"]  # type: ignore[index, call-overload]
    assert [rules[r["ruleIndex"]]["id"] for r in (first, second)] == ["E1401", "W1001"]


def test_one_architecture_has_one_contract_whatever_wrote_it(zoo: Path) -> None:
    names = ("bert-dynamo-op18", "bert-dynamo-op23", "bert-legacy-op17")
    told = set()
    for name in names:
        program = read(zoo / name / "model.onnx", warn=lambda _: None)
        told.add(", ".join(map(str, fusions(prepared(program)[0].program.main))))
    (contract,) = told
    assert contract.startswith("2 attention (2 with mask), 5 layer_norm (0 with residual), ")
    assert contract.endswith("9 linear (2 gelu, 1 tanh, 4 with residual, 2 wide)")


def test_the_real_model(minilm: Path) -> None:
    program = read(minilm, warn=lambda _: None)
    made, steps = prepared(program)
    assert [str(f) for f in fusions(made.program.main)] == [
        "3 attention (3 with mask)",
        "7 layer_norm (0 with residual)",
        "12 linear (3 gelu, 6 with residual, 3 wide)",
    ]
    assert [m.rule for m in misses(steps)] == ["layer-norm-residual"]
