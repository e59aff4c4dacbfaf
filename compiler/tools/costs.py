"""What a run costs: memory and multiply-adds, before there is any code."""

from __future__ import annotations

from collections.abc import Mapping

from isthmus.codegen.weights_file import ALIGNMENT
from isthmus.errors import Code, ModelError, Problem, nearest
from isthmus.ir.dims import Dim, evaluate_dim, names, product
from isthmus.ir.graph import Graph, Program, Value
from isthmus.lowering.plan import Plan, Port, RowStage

# The size of a dim that nobody gave one, where its bounds allow it: a sentence, a patch grid, a past.
ORDINARY = 128


def sizes_for(program: Program, given: Mapping[str, int]) -> dict[str, int]:
    """A size for each named dim: as given, else 1 for what only comes first (a batch), else 128; in bounds.

    Raises `ModelError` for a name that is no dim, and for a size out of its bounds.
    """
    problems = []
    known = {dim.name: dim for dim in program.dims}
    for name, size in given.items():
        if name not in known:
            text = f"the model has no open dim {name!r}"
            problems.append(Problem(Code.UNKNOWN_DIM, text, "--at", nearest(name, known)))
            continue
        dim = known[name]
        if size < dim.low or (dim.high is not None and size > dim.high):
            bounds = f"{dim.low}..{'' if dim.high is None else dim.high}"
            problems.append(Problem(Code.BAD_DIM, f"dim {name!r} is {bounds}, not {size}", "--at"))
    if problems:
        raise ModelError(problems)
    inner = {n for value in program.main.inputs for dim in value.shape[1:] for n in names(dim)}
    sizes = {}
    for dim in program.dims:
        size = given.get(dim.name, ORDINARY if dim.name in inner else 1)
        sizes[dim.name] = max(dim.low, size if dim.high is None else min(size, dim.high))
    return sizes


def port_bytes(ports: tuple[Port, ...], sizes: Mapping[str, int]) -> int:
    """Bytes of these inputs or outputs."""
    return sum(evaluate_dim(p.value.t.size, sizes) * p.value.dtype.bytes for p in ports)


def arena_bytes(plan: Plan, sizes: Mapping[str, int], threads: int) -> int:
    """Bytes of working memory of a session, as the generated `arrange` lays them out."""
    total = 0
    for slot in plan.memory.slots:
        total += _rounded(max(evaluate_dim(b.size, sizes) * b.dtype.bytes for b in slot.buffers))
    blocks = plan.memory.blocks
    rows = [4 * s.block * blocks[s].row_elements for s in plan.stages if isinstance(s, RowStage)]
    parts = [part for call in plan.calls() for part in call.scratch]
    scratch = [4 * evaluate_dim(part.offset + part.floats, sizes) for part in parts]
    return total + threads * (_rounded(max(rows, default=0)) + _rounded(max(scratch, default=0)))


def _rounded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def multiply_adds(graph: Graph) -> Dim:
    """Multiply-adds of all products of matrices in `graph`, which is nearly all the arithmetic there is."""
    total: Dim = 0
    for value in graph.nodes():
        total = total + _multiply_adds(value)
    return total


def _multiply_adds(value: Value) -> Dim:
    if value.op.name in ("linear", "matmul"):
        return product(value.shape) * value.args[0].shape[-1]
    if value.op.name == "attention":
        q, k, v = value.args[:3]
        return product(q.shape[:3]) * k.shape[2] * (q.shape[3] + v.shape[3])
    return 0
