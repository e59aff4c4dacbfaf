"""What a run costs: memory and multiply-adds, before there is any code."""

from __future__ import annotations

from collections.abc import Mapping

from isthmus.errors import Code, ModelError, Problem, nearest
from isthmus.ir.dims import Dim, evaluate_dim, names, product, substitute, sum_of
from isthmus.ir.graph import Graph, Program, counted_by
from isthmus.lowering.costs import multiply_adds_of
from isthmus.lowering.plan import Port

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


def multiply_adds(graph: Graph) -> Dim:
    """Multiply-adds of all products of matrices in `graph`, which is nearly all the arithmetic there is."""
    nodes = list(graph.nodes())
    # A dim that is counted is at most as large as what it is counted in.
    most = {name: product(v.args[0].shape) for v in nodes if (name := counted_by(v)) is not None}
    return sum_of(substitute(multiply_adds_of(node), most) for node in nodes)
