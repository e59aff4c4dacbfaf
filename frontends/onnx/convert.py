"""The driver: a parsed model in, a program out. Read `read` first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import numpy.typing as npt
import onnx

from isthmus.errors import Code, ModelError, Problem
from isthmus.frontends.onnx.bodies import body, has_body
from isthmus.frontends.onnx.builder import Builder, Items, Tensor
from isthmus.frontends.onnx.facts import Facts, Restart
from isthmus.frontends.onnx.fix import fix_inputs
from isthmus.frontends.onnx.limits import Budget, Exhausted
from isthmus.frontends.onnx.load import load
from isthmus.frontends.onnx.node import Importer, Node, Results
from isthmus.frontends.onnx.open_sizes import closed, without_opened
from isthmus.frontends.onnx.operators import OPERATORS
from isthmus.frontends.onnx.order import label, ordered
from isthmus.frontends.onnx.signature import DimOption, Signature, initial_facts, read_signature
from isthmus.frontends.onnx.tensors import has_nan, weight_from
from isthmus.ir.dims import DimTooLarge, Interval, as_multiple
from isthmus.ir.graph import (
    Graph,
    NamedDim,
    Program,
    TypeMismatch,
    Value,
    graph_input,
    weight_of,
    weight_value,
)
from isthmus.ir.types import Array, DType, TensorType
from isthmus.ir.weights import Weight
from isthmus.ops.pointwise import bitcast

OLDEST_OPSET = 7
NEWEST_OPSET = onnx.defs.onnx_opset_version()
MAX_RESTARTS = 200
MAX_NAMES = 5  # nodes named for each unsupported operator
MAIN = "main"  # an ONNX file has one entry point
MAX_PROBLEMS = 100

# What an importer may raise over a model that makes no sense; anything else is our own bug.
NODE_ERRORS = (ValueError, TypeError, IndexError, KeyError, ArithmeticError, MemoryError)


def _travels_as(dtype: DType) -> DType:
    """What inputs and outputs are in a bundle's interface: floats of 8 bits travel as their bits."""
    return DType.U8 if dtype.is_stored else dtype


How: TypeAlias = Literal["unused", "known", "same", "values"]


@dataclass(frozen=True, slots=True)
class Imported:
    """What importing a node came to: nothing needs it; its results are constants; it hands on its inputs; or
    it became values with the location `where`."""

    where: str
    op_type: str
    outputs: tuple[str, ...]
    how: How


def _nobody(_: Imported) -> None:
    return None


def read(
    path: Path,
    *,
    name: str | None = None,
    dims: Mapping[str, DimOption] | None = None,
    fix: Mapping[str, npt.ArrayLike] | None = None,
    warn: Callable[[Problem], None],
    watch: Callable[[Imported], None] = _nobody,
) -> Program:
    """Import the ONNX model at `path`.

    `dims` fixes (`{"seq": 128}`) or bounds (`{"seq": (1, 512)}`) named dims; others are free, or bounded
    by what the model itself allows. Inputs named in `fix` become constants with these contents. `watch` is
    told of every node; of some more than once: the last counts.
    Raises `ModelError` with everything that is in the way.
    """
    model, digest = load(path)
    opsets = opsets_of(model)
    source = _Source(model, path.parent, opsets)
    inputs = [i for i in model.graph.input if i.name not in source.initializers]
    signature = read_signature(inputs)
    facts = initial_facts(signature, dims or {})
    fixed, facts = fix_inputs(signature, facts, fix or {})
    asked = facts
    notes: dict[str, Problem] = {}
    for _ in range(MAX_RESTARTS):
        attempt = _Import(source, facts, watch)
        try:
            graph = attempt.run(signature, fixed, MAIN)
            break
        except Exhausted as error:
            raise error.refusal(str(path)) from None
        except Restart as restart:
            source.budget.restart()
            facts = without_opened(restart.conclusion.facts, attempt.b.opened, restart.where)
            _check_asked(asked, facts, dims or {}, restart)
            if restart.conclusion.text:
                text = f"{restart.conclusion.text} everywhere, because one node needs both"
                notes.setdefault(text, Problem(Code.NARROWED, text, restart.where))
    else:
        raise ModelError(Problem(Code.SHAPE_MISMATCH, "the sizes of inputs depend on each other without end"))
    for problem in (*source.warnings(), *notes.values()):
        warn(problem)
    named = tuple(NamedDim(n, low, high) for n, (low, high) in facts.bounds.items())
    return Program(name or path.stem, (graph,), named, digest)


def opsets_of(model: onnx.ModelProto) -> dict[str, int]:
    """Versions by domain; the standard domain is "". Raises `ModelError` E1106."""
    opsets = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in model.opset_import}
    standard = opsets.get("")
    uses_standard = any(n.domain in ("", "ai.onnx") for n in model.graph.node)
    if standard is None and uses_standard:
        raise ModelError(Problem(Code.UNSUPPORTED_OPSET, "the model does not say which opset it uses"))
    if standard is not None and not OLDEST_OPSET <= standard <= NEWEST_OPSET:
        text = f"opset {standard} is not supported; supported: {OLDEST_OPSET} to {NEWEST_OPSET}"
        hint = "convert the model, for example with onnx.version_converter"
        raise ModelError(Problem(Code.UNSUPPORTED_OPSET, text, "opset_import", hint))
    return opsets


def _check_asked(asked: Facts, facts: Facts, dims: Mapping[str, DimOption], restart: Restart) -> None:
    """What the user asked for must not be narrowed by what the model allows, unless to multiples."""
    for name in dims.keys() & asked.bounds.keys():
        given, now = asked.bounds[name], facts.bounds.get(name)
        if given == now or _holds_multiples(facts, name, given):
            continue
        allowed = (
            str(facts.equal.get(name)) if now is None else f"{now[0]}..{'' if now[1] is None else now[1]}"
        )
        text = f"dim {name!r} is asked to be {given[0]}..{'' if given[1] is None else given[1]}"
        raise ModelError(Problem(Code.BAD_DIM, f"{text}, but the model allows {allowed}", restart.where))


def _holds_multiples(facts: Facts, name: str, given: Interval) -> bool:
    """Whether `name` became a multiple of a new name, which may be all that fits into `given`."""
    found = as_multiple(facts.equal.get(name, 0))
    if found is None or found[0] not in facts.bounds:
        return False
    part, factor = found
    low, high = given
    return factor > 1 and facts.bounds[part] == (-(-low // factor), None if high is None else high // factor)


class _Source:
    """What stays the same when the import starts again: the model's weights and functions."""

    def __init__(self, model: onnx.ModelProto, folder: Path, opsets: Mapping[str, int]) -> None:
        self.graph = model.graph
        self.folder = folder
        self.opsets = opsets
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.functions = {(f.domain, f.name): f for f in model.functions}
        self.budget = Budget()
        self._weights: dict[str, Weight] = {}
        problems = []
        for tensor in model.graph.initializer:
            if tensor.name in self.initializers:
                problems.append(Problem(Code.INVALID_GRAPH, "two initializers have this name", tensor.name))
            self.initializers[tensor.name] = tensor
        if problems:
            raise ModelError(problems)

    def weight(self, name: str) -> Weight:
        """An initializer as a handle, made on first use. Raises `ModelError`."""
        if name not in self._weights:
            self._weights[name] = weight_from(self.initializers[name], self.folder, name)
        return self._weights[name]

    def warnings(self) -> Iterable[Problem]:
        for name, weight in self._weights.items():
            if has_nan(weight):
                yield Problem(Code.NAN_WEIGHTS, "this weight contains NaN", name)


@dataclass(frozen=True, slots=True)
class _Scope:
    """Names of one graph or function body; None is an optional input that was left out."""

    values: dict[str, Tensor | None]
    opsets: Mapping[str, int]
    outer: _Scope | None = None
    prefix: str = ""
    attributes: Mapping[str, onnx.AttributeProto] = field(default_factory=dict)
    sees_weights: bool = True

    def holder(self, name: str) -> _Scope | None:
        """The innermost scope that has `name`."""
        scope: _Scope | None = self
        while scope is not None and name not in scope.values:
            scope = scope.outer
        return scope

    def find(self, name: str) -> Tensor | None:
        holder = self.holder(name)
        if holder is None:
            raise KeyError(name)
        return holder.values[name]


# What a failed node should have made. Nodes that read it are skipped, so that each mistake is told once.
FAILED = Tensor(TensorType(DType.BOOL, ()))


class _Failed(Exception):
    """A graph inside a node could not be imported."""


class _Import:
    """One attempt, under fixed facts."""

    def __init__(self, source: _Source, facts: Facts, watch: Callable[[Imported], None]) -> None:
        self.source = source
        self.facts = facts
        self.watch = watch
        self.b = Builder(facts, source.budget)
        self.problems: list[Problem] = []
        self.missing: dict[str, list[str]] = {}
        self.depth = 0

    def run(self, signature: Signature, fixed: Mapping[str, Array], name: str) -> Graph:
        """`fixed`: the contents of inputs that are none of the graph's."""
        shaped = {
            n: t.with_shape(tuple(map(self.facts.resolve, t.shape)))
            for n, t in signature.inputs.items()
            if n not in fixed
        }
        inputs = {n: graph_input(n, t.with_dtype(_travels_as(t.dtype))) for n, t in shaped.items()}
        values: dict[str, Tensor | None] = {
            n: self._of_bits(Tensor(v.t, None, v), shaped[n].dtype) for n, v in inputs.items()
        }
        values.update((n, self.b.array(array)) for n, array in fixed.items())
        outputs = list(dict.fromkeys(o.name for o in self.source.graph.output))
        scope = _Scope(values, self.source.opsets)
        self.nodes(self.source.graph, outputs, scope)
        results: dict[str, Value] = {}
        for output in outputs:
            tensor = scope.find(output)
            self.b.loc = output
            if isinstance(tensor, Items):
                text = "this output is a sequence, not a tensor"
                self.problems.append(Problem(Code.UNSUPPORTED_DTYPE, text, f"output {output!r}"))
            elif tensor is not None and tensor is not FAILED:
                results[output] = self.b.value(self._of_bits(tensor, _travels_as(tensor.dtype)))
        made, problems = closed(tuple(results.values()), self.b.opened)
        self.problems += problems
        self._raise_problems()
        return Graph(name, tuple(inputs.values()), tuple(zip(results, made, strict=True)))

    def _of_bits(self, tensor: Tensor, dtype: DType) -> Tensor:
        return tensor if tensor.dtype is dtype else self.b.op(bitcast, tensor, dtype=dtype)

    def _raise_problems(self) -> None:
        problems = [_unsupported(operator, nodes) for operator, nodes in sorted(self.missing.items())]
        problems += self.problems
        if len(problems) > MAX_PROBLEMS:
            rest = len(problems) - MAX_PROBLEMS
            problems = [*problems[:MAX_PROBLEMS], Problem(problems[-1].code, f"and {rest} more problems")]
        if problems:
            raise ModelError(problems)

    def nodes(
        self, graph: onnx.GraphProto | onnx.FunctionProto, outputs: Sequence[str], scope: _Scope
    ) -> None:
        """Import what `outputs` need into `scope`."""
        self._own_weights(graph, scope)
        weights = self.source.initializers if scope.sees_weights else {}
        order = ordered(graph.node, outputs, lambda name: name in weights or scope.holder(name) is not None)
        for index in sorted(set(range(len(graph.node))) - set(order)):
            proto = graph.node[index]
            where = scope.prefix + label(proto, index)
            self.watch(Imported(where, proto.op_type, tuple(proto.output), "unused"))
        for index in order:
            self.node(graph.node[index], index, scope)
        for output in outputs:
            self._find_weight(output, scope)

    def _own_weights(self, graph: onnx.GraphProto | onnx.FunctionProto, scope: _Scope) -> None:
        """Weights of graphs inside nodes are made now; those of the model when needed."""
        if graph is self.source.graph or isinstance(graph, onnx.FunctionProto):
            return
        for tensor in graph.initializer:
            weight = weight_from(tensor, self.source.folder, self.b.unique(scope.prefix + tensor.name))
            scope.values[tensor.name] = Tensor(weight.type, None, weight_value(weight, tensor.name))

    def _find_weight(self, name: str, scope: _Scope) -> None:
        """Make sure that a weight of the model has a tensor, if `name` is one."""
        if name in self.source.initializers and scope.sees_weights and scope.holder(name) is None:
            self._load(name, scope)

    def _load(self, name: str, scope: _Scope) -> None:
        """Put a weight of the model into the outermost scope."""
        while scope.outer is not None:
            scope = scope.outer
        try:
            weight = self.source.weight(name)
        except ModelError as error:
            self.problems += error.problems
            scope.values[name] = FAILED
            return
        self.b.unique(name)
        scope.values[name] = Tensor(weight.type, None, weight_value(weight, name))

    def node(self, proto: onnx.NodeProto, index: int, scope: _Scope) -> None:
        """Import one node; what goes wrong is noted, and its outputs become FAILED."""
        self.source.budget.step()
        where = scope.prefix + label(proto, index)
        for output in proto.output:
            scope.values[output] = FAILED
        for name in proto.input:
            self._find_weight(name, scope)
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        opset = scope.opsets.get(domain, 1)
        function = self.source.functions.get((proto.domain, proto.op_type))
        importer = OPERATORS.get(f"{domain}::{proto.op_type}" if domain else proto.op_type)
        is_defined = function is not None or importer is not None or has_body(proto.op_type, domain, opset)
        if not is_defined:
            shown = f"{proto.op_type} (domain {domain or 'ai.onnx'}, opset {opset})"
            self.missing.setdefault(shown, []).append(where)
            return
        inputs = [scope.find(name) if name else None for name in proto.input]
        if any(tensor is FAILED for tensor in inputs):
            return
        self.b.loc = where
        if function is None and importer is None:
            function = body(proto, opset, _attributes(proto, scope), inputs)
        node = Node(
            self.b,
            proto.op_type,
            domain,
            opset,
            where,
            tuple(inputs),
            tuple(proto.input),
            tuple(proto.output),
            _attributes(proto, scope),
            self.source.folder,
            lambda graph, arguments: self.graph(graph, arguments, scope, where),
        )
        # Graphs inside the node do not see its outputs, and may use the same names.
        for output in proto.output:
            scope.values.pop(output, None)
        results = self._call(node, importer, function, scope)
        for output in proto.output:
            scope.values[output] = FAILED
        if results is not None:
            self._store(node, results, scope)

    def _call(
        self, node: Node, importer: Importer | None, function: onnx.FunctionProto | None, scope: _Scope
    ) -> Results | None:
        try:
            if function is not None:
                return self.function(function, node, scope)
            if importer is None:
                raise node.error(Code.UNSUPPORTED_OPERATOR, f"{node.operator} of these inputs has no body")
            results = importer(node)
            node.check_all_read()
            return results
        except DimTooLarge as error:
            self.problems.append(Problem(Code.TOO_LARGE, f"{node.operator}: {error}", node.where))
        except ModelError as error:
            self.problems += error.problems
        except _Failed:
            pass
        except TypeMismatch as error:
            self.problems.append(Problem(Code.SHAPE_MISMATCH, f"{node.operator}: {error}", node.where))
        except NODE_ERRORS as error:
            text = f"{node.operator}: {type(error).__name__}: {error}"
            self.problems.append(Problem(Code.SHAPE_MISMATCH, text, node.where))
        return None

    def _store(self, node: Node, results: Results, scope: _Scope) -> None:
        tensors = [results] if isinstance(results, Tensor) else list(results)
        self.watch(Imported(node.where, node.op_type, node.outputs, _how(node, tensors)))
        for i, name in enumerate(node.outputs):
            if not name:
                continue
            tensor = tensors[i] if i < len(tensors) else None
            if tensor is None:
                text = f"{node.operator}: output {i} ({name!r}) is not supported"
                self.problems.append(Problem(Code.UNSUPPORTED_ATTRIBUTE, text, node.where))
            scope.values[name] = FAILED if tensor is None else tensor

    def graph(
        self, graph: onnx.GraphProto, arguments: Sequence[Tensor], outer: _Scope, where: str
    ) -> list[Tensor]:
        """Import a graph inside a node; it sees the names around it."""
        names = [i.name for i in graph.input]
        if len(names) != len(arguments):
            text = f"its graph takes {len(names)} inputs, not {len(arguments)}"
            raise ModelError(Problem(Code.INVALID_GRAPH, text, where))
        values: dict[str, Tensor | None] = dict(zip(names, arguments, strict=True))
        inner = _Scope(values, outer.opsets, outer, f"{where}/", outer.attributes, outer.sees_weights)
        return self._inner(graph, [o.name for o in graph.output], inner)

    def function(self, function: onnx.FunctionProto, node: Node, outer: _Scope) -> list[Tensor | None]:
        """Import the body of a model-local function in place of the node that calls it."""
        self.depth += 1
        if self.depth > 64:
            raise node.error(Code.INVALID_GRAPH, f"function {function.name!r} calls itself")
        if len(node.inputs) > len(function.input):
            raise node.error(
                Code.INVALID_GRAPH, f"function {function.name!r} takes {len(function.input)} inputs"
            )
        values: dict[str, Tensor | None] = dict.fromkeys(function.input)
        values.update(zip(function.input, node.inputs, strict=False))
        given = {a.name: a for a in function.attribute_proto} | dict(node.attributes)
        opsets = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in function.opset_import}
        scope = _Scope(values, {**outer.opsets, **opsets}, None, f"{node.where}/", given, sees_weights=False)
        used = [output for output, name in zip(function.output, node.outputs, strict=False) if name]
        made = dict(zip(used, self._inner(function, used, scope), strict=True))
        self.depth -= 1
        return [made.get(output) for output in function.output]

    def _inner(
        self, graph: onnx.GraphProto | onnx.FunctionProto, outputs: list[str], scope: _Scope
    ) -> list[Tensor]:
        loc = self.b.loc
        self.nodes(graph, outputs, scope)
        self.b.loc = loc
        found = [scope.find(name) for name in outputs]
        results = [tensor for tensor in found if tensor is not None and tensor is not FAILED]
        if len(results) < len(found):
            raise _Failed
        return results


def _how(node: Node, results: Sequence[Tensor | None]) -> How:
    """What importing `node` came to."""
    made = [tensor for tensor in results if tensor is not None]
    if all(t.known is not None or (t.value is not None and weight_of(t.value)) for t in made):
        return "known"
    return "same" if all(any(t is given for given in node.inputs) for t in made) else "values"


def _attributes(proto: onnx.NodeProto, scope: _Scope) -> dict[str, onnx.AttributeProto]:
    """Attributes by name; inside a function, those that refer to the caller's are replaced."""
    found = {}
    for attribute in proto.attribute:
        if not attribute.ref_attr_name:
            found[attribute.name] = attribute
        elif attribute.ref_attr_name in scope.attributes:
            found[attribute.name] = scope.attributes[attribute.ref_attr_name]
    return found


def _unsupported(operator: str, nodes: Sequence[str]) -> Problem:
    named = ", ".join(nodes[:MAX_NAMES]) + (", ..." if len(nodes) > MAX_NAMES else "")
    text = f"operator {operator} is not supported: {len(nodes)} node{'s' * (len(nodes) > 1)}"
    return Problem(Code.UNSUPPORTED_OPERATOR, text, named)
