"""The last check: everything left has a kernel, or all that has none is named at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from isthmus.errors import Code, ModelError, Problem
from isthmus.ir.encodings import Interleaved, Panels
from isthmus.ir.graph import Graph, Program, Value
from isthmus.ir.rewrite import Rule, Watch
from isthmus.ir.sparse import Blocks, GroupPanels, MaskedPanels
from isthmus.ir.types import DType
from isthmus.ops.integer import integer_linear
from isthmus.ops.nn import attention, layer_norm, linear, rms_norm
from isthmus.ops.ragged import ragged_attention
from isthmus.passes.legalize.widen import HEAVY, computes_wide
from isthmus.target import Target


@dataclass(frozen=True, slots=True)
class CheckKernels:
    """Refuse what the target has no kernel for: heavy ops not in f32, sizes that have to be known."""

    @property
    def name(self) -> str:
        return "check-kernels"

    @property
    def rules(self) -> Sequence[Rule]:
        return ()

    def __call__(self, program: Program, target: Target, watch: Watch) -> Program:
        problems = [p for graph in program.graphs for node in graph.nodes() for p in _problems(node, target)]
        problems += [p for graph in program.graphs for p in _ports(graph)]
        if problems:
            raise ModelError(problems)
        return program


def _ports(graph: Graph) -> Iterator[Problem]:
    ports = [(f"input {v.attr('name')!r}", v) for v in graph.inputs]
    for name, value in (*ports, *((f"output {name!r}", v) for name, v in graph.outputs)):
        if value.dtype.is_stored:
            text = f"{value.dtype} has no type in the interface of bundles"
            yield Problem(Code.UNSUPPORTED_DTYPE, text, name, "let its bits travel: bitcast it from or to u8")


def _problems(node: Value, target: Target) -> Iterator[Problem]:
    if node.op is integer_linear and (reason := _shape_reason(node)) is not None:
        yield Problem(Code.NOT_ON_TARGET, f"no kernel: {reason}", node.loc)
    if node.op not in (*HEAVY, ragged_attention):
        return
    mixed = computes_wide(node) or (node.op is linear and node.args[2].dtype is DType.F32)
    floats = [] if mixed else [a for a in (*node.args, node) if node.op in HEAVY or a.dtype.is_float]
    types = list(dict.fromkeys(str(a.dtype) for a in floats if a.dtype is not DType.F32))
    if types:
        text = f"{node.op.name} of {', '.join(types)} has no kernel; it computes in f32"
        yield Problem(Code.UNSUPPORTED_DTYPE, text, node.loc, "export the model in f32")
    elif (reason := _shape_reason(node)) is not None:
        yield Problem(Code.NOT_ON_TARGET, f"no kernel: {reason}", node.loc)


def _shape_reason(node: Value) -> str | None:
    known = Interleaved | Blocks | GroupPanels
    if node.op is integer_linear and not isinstance(node.args[1].t.encoding, known | MaskedPanels):
        return "the matrix of an integer_linear is not a constant"
    if node.op is linear and not isinstance(node.args[1].t.encoding, known | Panels):
        return "the matrix of a linear is not a constant"
    if node.op in (layer_norm, rms_norm) and not isinstance(node.shape[-1], int):
        return f"{node.op.name} over {node.shape[-1]} elements: the number has to be known"
    if node.op is attention:
        q, k, v = (a.shape for a in node.args[:3])
        unknown = [str(d) for d in (q[3], v[3], q[1], k[1]) if not isinstance(d, int)]
        if unknown:
            return f"attention whose heads or their width ({', '.join(unknown)}) are not known"
    if node.op is ragged_attention:
        q, k, v = (a.shape for a in node.args[:3])
        unknown = [str(d) for d in (q[2], v[2], q[0], k[0]) if not isinstance(d, int)]
        if unknown:
            return f"attention whose heads or their width ({', '.join(unknown)}) are not known"
    return None
