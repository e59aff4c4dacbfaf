"""The state of one lowering: where values lie, and the calls so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from isthmus.errors import Code, CompilerBug, ModelError, Problem
from isthmus.ir.dims import Dim, Shape, product, substitute
from isthmus.ir.graph import Graph, Value, use_counts, weight_of
from isthmus.ir.rewrite import splat
from isthmus.ir.types import DType
from isthmus.ir.weights import Weight
from isthmus.kernels import loops
from isthmus.kernels.attention_bytes import multiplies_bytes
from isthmus.kernels.attention_shape import Rounds
from isthmus.kernels.byte_rows import MIDDLE
from isthmus.kernels.kernel import Kernel, Parameter
from isthmus.lowering.expressions import GENERATORS, VIEWS, NestBuilder, is_expression
from isthmus.lowering.plan import Arg, Call, Counted, Fault, Number, Pitch, Pointer, Sizes
from isthmus.lowering.steps import Stepped, stepped_values
from isthmus.lowering.views import Buffer, View, whole
from isthmus.ops.integer import quantize_rows
from isthmus.ops.pointwise import cast
from isthmus.ops.quantize import row_scale
from isthmus.target import Routine, Target

# An expression longer than this is cut and its parts stored: a kernel must stay small and quick to compile.
LONGEST_EXPRESSION = 40


class Lowering:
    """Visits the values of a graph in order and adds kernel calls.

    `handlers` lower the ops that have kernels of their own; everything else becomes expressions of the
    loops family, fused as far as memory and length allow.
    """

    def __init__(self, graph: Graph, target: Target, handlers: Mapping[str, Handler]) -> None:
        self.graph = graph
        self.target = target
        self.handlers = handlers
        self.views: dict[Value, View] = {}
        self.calls: list[Call] = []
        self.weights: dict[Buffer, Weight] = {}
        self.sites: list[str] = []
        self.most: dict[str, Dim] = {}  # how large a dim that is counted can be
        self._uses = use_counts(graph)
        self._lengths: dict[Value, int] = {}
        self._weight_buffers: dict[tuple[str, str], Buffer] = {}
        self._names: dict[str, int] = {}
        self._outputs = self._output_buffers()
        self._copies = {
            v.args[0]: v
            for v in graph.nodes()
            if v.op is cast and v.dtype is DType.BF16 and v.args[0].dtype is DType.F32
        }
        self._bytes = {
            v.args[0]: (v.args[1], v) for v in graph.nodes() if v.op is quantize_rows and _at_own_scales(v)
        }
        self._steps = {found.value: found for found in stepped_values(graph)}
        self._stepped: dict[Value, Stepped] = {}
        for found in self._steps.values():
            if found.value not in self._outputs:
                self._stepped.setdefault(found.rows, found)

    def run(self) -> None:
        for i, value in enumerate(self.graph.inputs):
            buffer = Buffer(value.attr("name"), value.dtype, value.t.size, "input", i)
            self.views[value] = whole(buffer, value.shape)
        problems: list[Problem] = []
        for value in self.graph.nodes():
            try:
                self.visit(value)
            except ModelError as error:
                problems.extend(error.problems)
        if problems:
            raise ModelError(problems)
        self._copy_outputs()

    def rounded_copy(self, value: Value) -> Value | None:
        """The value that is `value` rounded to bf16, for kernels that can write it besides."""
        copy = self._copies.get(value)
        return None if copy in self._outputs else copy

    def scaled_bytes(self, value: Value) -> tuple[Value, Value] | None:
        """The scales of the rows of `value`, and the bytes that these become at them, for kernels that can
        write both besides."""
        found = self._bytes.get(value)
        return None if found is None or any(each in self._outputs for each in found) else found

    def stepped(self, value: Value, *, alone: bool = False) -> Stepped | None:
        """The bytes at constant steps that `value` becomes, for kernels that can write them besides; `alone`:
        instead, if nothing else reads it."""
        found = self._stepped.get(value)
        return None if alone and (self._uses[value] > 1 or value in self._outputs) else found

    def steps_of(self, value: Value) -> Stepped | None:
        """What makes `value`, if that are bytes at constant steps."""
        return self._steps.get(value)

    def becomes_bytes(self, value: Value) -> bool:
        """Whether nothing reads `value` but what makes bytes of its rows, at their own scales."""
        return value in self._bytes and self._uses[value] == 2 and value not in self._outputs

    def visit(self, value: Value) -> None:
        """Add the calls for `value`, or leave it to be part of an expression."""
        if value in self.views:
            return  # written besides another
        if (weight := weight_of(value)) is not None:
            self.views[value] = self._weight_view(weight)
            return
        if (routine := self._routine(value)) is not None:
            self._call_routine(routine, value)
            return
        if value.op.name in self.handlers:
            self.handlers[value.op.name](self, value)
            return
        if not is_expression(value):
            raise not_on_target(value, self.target)
        if value.op.name in VIEWS:
            if value.args[0] in self.views:
                self.views[value] = self._moved(value, self.views[value.args[0]])
            else:
                self._lengths[value] = self._lengths.get(value.args[0], 1)
                if self._uses.get(value, 1) > 1 and _behind_views(value).op.name not in GENERATORS:
                    self.view(value)  # what several read through a view is shared all the same
            return
        length = 1 + sum(self._lengths.get(a, 1) for a in value.args if a not in self.views)
        self._lengths[value] = length
        shared = self._uses.get(value, 1) > 1 and value.op.name not in GENERATORS
        if shared or length > LONGEST_EXPRESSION or value in self._outputs:
            self.view(value)

    def _routine(self, value: Value) -> Routine | None:
        """What the target brings for `value`. Weights in a layout of our kernels are not for it."""
        if any(arg.t.encoding is not None for arg in value.args):
            return None
        return self.target.routine(value.op.name, [str(a.dtype) for a in value.args], str(value.dtype))

    def _call_routine(self, routine: Routine, value: Value) -> None:
        views = [self.contiguous(arg) for arg in value.args]
        place = self.allocate(value)
        sizes = tuple(size for arg in value.args for size in (arg.t.rank, *arg.shape))
        parameters = (
            *(Parameter(f"a{i}", f"const {arg.dtype.c} *") for i, arg in enumerate(value.args)),
            Parameter("result", f"{value.dtype.c} *"),
            Parameter("sizes", "const int64_t *"),
            Parameter("begin", "int64_t"),
            Parameter("end", "int64_t"),
        )
        args: list[Arg] = [
            *(Pointer(v.buffer, v.offset) for v in views),
            Pointer(place.buffer, place.offset),
            Sizes(sizes),
        ]
        kernel = Kernel.of_chip(routine.symbol, parameters)
        self.call(kernel, args, place.buffer, value, product(value.shape[:-1]))
        self.views[value] = place

    # Memory

    def view(self, value: Value) -> View:
        """Where `value` lies; computed and stored now if it does not lie anywhere yet."""
        if value in self.views:
            return self.views[value]
        if value.op.name in VIEWS:
            self.views[value] = self._moved(value, self.view(value.args[0]))
            return self.views[value]
        if not is_expression(value):
            raise CompilerBug(f"{value.op.name} ({value.loc}) is used before it is lowered")
        result = self.allocate(value)
        self.views[value] = self.store(value, result)
        return result

    def weight(self, value: Value) -> View:
        """Where a constant lies, before its turn too."""
        self.visit(value)
        return self.views[value]

    def store(self, value: Value, place: View) -> View:
        """Add the call that computes the expression `value` into `place`."""
        nest = NestBuilder(value.shape, self.view, self.views.__contains__)
        self.add_nest(nest, nest.node(value, nest.identity()), place, value)
        return place

    def copy(self, value: Value, view: View, place: View) -> View:
        """Add the call that copies `view` to `place`."""
        nest = NestBuilder(view.shape, self.view, self.views.__contains__)
        self.add_nest(nest, nest.load(view), place, value)
        return place

    def add_nest(
        self,
        nest: NestBuilder,
        body: loops.Node,
        place: View,
        value: Value,
        reduced: frozenset[int] = frozenset(),
        fold: loops.Fold | None = None,
        last: loops.Node | None = None,
    ) -> None:
        """Add the call of the nest that computes `body` into `place`."""
        built = nest.finish(body, place, reduced, fold, last)
        site = self.site(value) if built.gathers else 0
        args: tuple[Arg, ...] = (
            *built.operands,
            built.output,
            Sizes(built.extents),
            Sizes(built.strides),
            Fault(site),
            Number(site),
        )
        self.call(loops.kernel(built.nest, self.target), args, built.output.buffer, value, built.units)

    def site(self, value: Value) -> int:
        """A number for where an index of `value` may be out of range."""
        self.sites.append(value.loc or value.op.name)
        return len(self.sites)

    def allocate(self, value: Value, shape: Shape | None = None, width: int | None = None) -> View:
        """Memory for `value`, in row order: the caller's if it is an output, else the arena's."""
        if value in self._outputs and shape is None:
            return whole(self._outputs[value], value.shape)
        return whole(self.temporary(value, value.t.size, width), shape or value.shape)

    def temporary(self, value: Value, size: Dim, width: int | None = None) -> Buffer:
        name = value.op.name
        self._names[name] = self._names.get(name, 0) + 1
        room = substitute(size, self.most)
        return Buffer(f"{name}_{self._names[name]}", value.dtype, room, "arena", width=width)

    def contiguous(self, value: Value) -> View:
        """`value` in row order without gaps, copied if need be."""
        view = self.view(value)
        if view.is_contiguous:
            return view
        return self.copy(value, view, whole(self.temporary(value, value.t.size), value.shape))

    def rows(self, value: Value) -> tuple[View, Dim, Dim | Pitch]:
        """`value` as (view, number of rows, distance between rows), copied if its rows do not lie evenly."""
        view = self.view(value)
        found = view.rows()
        if found is None:
            view = self.copy(value, view, whole(self.temporary(value, value.t.size), value.shape))
            found = view.rows()
            assert found is not None
        count, distance = found
        return view, count, Pitch(view.buffer) if distance == view.buffer.width else distance

    def call(
        self,
        kernel: Kernel,
        args: Sequence[Arg],
        writes: Buffer,
        value: Value,
        units: Dim,
        *,
        panels: Dim | None = None,
        row_local: bool = False,
        batch: Shape = (),
        counts: Counted | None = None,
        copies: tuple[Buffer, ...] = (),
    ) -> None:
        """Add a kernel call; what it reads is what its pointers name besides what it writes."""
        named = dict.fromkeys(a.buffer for a in args if isinstance(a, Pointer))
        reads = tuple(buffer for buffer in named if buffer is not writes and buffer not in copies)
        self.calls.append(
            Call(kernel, tuple(args), reads, writes, value, units, panels, row_local, batch, counts, copies)
        )

    def _weight_view(self, weight: Weight) -> View:
        key = (weight.digest, str(weight.type))
        if key not in self._weight_buffers:
            size = weight.type.nbytes
            assert isinstance(size, int)
            elements = size // weight.type.dtype.bytes
            buffer = Buffer(weight.name, weight.type.dtype, elements, "weight", len(self.weights))
            self._weight_buffers[key] = buffer
            self.weights[buffer] = weight
        return whole(self._weight_buffers[key], weight.type.shape)

    def _moved(self, value: Value, view: View) -> View:
        """The view a movement op makes of its argument's; a reshape that needs a copy gets one."""
        match value.op.name:
            case "transpose":
                return view.transposed(value.attr("perm"))
            case "broadcast":
                return view.broadcast(value.shape)
            case "slice":
                return view.sliced(value.attr("starts"), value.attr("sizes"), value.attr("steps"))
            case "windows":
                axes, strides, dilations = (value.attr(a) for a in ("axes", "strides", "dilations"))
                return view.windowed(value.shape, axes, strides, dilations)
        reshaped = view.reshaped(value.shape)
        if reshaped is not None:
            return reshaped
        (source,) = value.args
        copied = self.copy(value, view, whole(self.temporary(value, value.t.size), source.shape))
        reshaped = copied.reshaped(value.shape)
        return reshaped if reshaped is not None else whole(copied.buffer, value.shape)

    # Outputs

    def _output_buffers(self) -> dict[Value, Buffer]:
        """The values that are computed straight into the caller's memory. Through a reshape that is the
        argument, since the elements lie in the same order."""
        found: dict[Value, Buffer] = {}
        for i, (name, value) in enumerate(self.graph.outputs):
            source = value
            while source.op.name == "reshape":
                source = source.args[0]
            if source.is_leaf or source in found or source.op.name in VIEWS:
                continue
            found[source] = Buffer(name, value.dtype, value.t.size, "output", i)
        return found

    def _copy_outputs(self) -> None:
        for i, (name, value) in enumerate(self.graph.outputs):
            view = self.view(value)
            if view.buffer.place == "output" and view.buffer.index == i and view.is_contiguous:
                continue
            output = Buffer(name, value.dtype, value.t.size, "output", i)
            self.copy(value, view, whole(output, value.shape))


def _at_own_scales(value: Value) -> bool:
    """Whether a `quantize_rows` is of rows at the scales that `row_scale` finds for them, which then fit."""
    x, scale, zero = value.args
    return scale.op is row_scale and scale.args[0] is x and splat(zero) == MIDDLE[zero.dtype.numpy.name]


def _behind_views(value: Value) -> Value:
    """The value whose elements `value` only shows in another order or shape."""
    while value.op.name in VIEWS:
        value = value.args[0]
    return value


def not_on_target(value: Value, target: Target, why: str = "") -> ModelError:
    """No kernel for this op."""
    types = ", ".join(str(a.t) for a in value.args)
    reason = f"; {why}" if why else ""
    text = f"no kernel for {value.op.name}({types}){reason}"
    return ModelError(Problem(Code.NOT_ON_TARGET, text, value.loc))


def require_f32(
    value: Value, target: Target, args: Sequence[Value] | None = None, *, result: bool = True
) -> None:
    """The kernels of heavy ops compute in f32; so have to be `args`, or all arguments; `result`: and that."""
    if any(v.dtype is not DType.F32 for v in (*((value,) if result else ()), *(args or value.args))):
        raise not_on_target(value, target, "it takes f32 today")


def static_size(value: Value, state: Lowering, dim: Dim) -> int:
    """`dim`, which a kernel has to know. Raises `ModelError` (not-on-target)."""
    if not isinstance(dim, int):
        raise not_on_target(value, state.target, f"the width {dim} is not known")
    return dim


def round_up(dim: Dim, multiple: int) -> Dim:
    """The next multiple."""
    return (dim + multiple - 1) // multiple * multiple


def inner_unit(state: Lowering, value: Value) -> View:
    """`value` with the elements of its last axis one after the other, copied if need be."""
    view = state.view(value)
    return view if view.strides[-1] == 1 or view.shape[-1] == 1 else state.contiguous(value)


# Adds the calls for one value and records where it lies.
Handler: TypeAlias = Callable[[Lowering, Value], None]


def rounds_attention(value: Value, target: Target) -> Rounds:
    """What attention on f32 that may round does round to: what an instruction multiplies."""
    allowed = value.attr("rounds") if value.dtype is DType.F32 else ""
    if allowed == "i8" and multiplies_bytes(target):
        return "i8"
    return "bf16" if allowed and target.instruction("dot_bf16") is not None else ""
