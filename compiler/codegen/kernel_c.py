"""Kernels as C: the TIR that `kernels.builder` lays down, printed as readable C11 for a chip without vectors.

One lane at a time: what needs vectors (`Ramp`, `Broadcast`, `Shuffle`) is refused. Prefetches are left out:
they are hints, and their addresses may lie outside of any array.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from isthmus.codegen.kernel_c_values import Values
from isthmus.codegen.toolchain import KERNEL_HEADER
from isthmus.errors import CompilerBug
from isthmus.kernels.builder import Expr, dtype_of
from isthmus.kernels.kernel import Kernel
from isthmus.kernels.tir import tirx, tvm

_HINTS = ("llvm.prefetch",)


def kernel_c(kernel: Kernel) -> str:
    """The C file of one kernel, with its prototype as in `Kernel.prototype`."""
    return _Printer(kernel).text()


class _Printer(Values):
    """Prints one function."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel.symbol)
        self.kernel = kernel
        self.used: set[Expr] = set()

    def text(self) -> str:
        func = self.kernel.func
        parameters = []
        for variable, parameter in zip(func.params, self.kernel.parameters, strict=True):
            name = self.name_of[variable] = self.names.take(str(variable.name))
            parameters.append(str(replace(parameter, name=name)))
            if parameter.ctype == "int64_t":
                self.positions.add(variable)
        self._find_used(func.body)
        head = f"void {self.symbol}({', '.join(parameters) or 'void'})"
        unused = [f"  (void){self.name_of[v]};" for v in func.params if v not in self.used]
        lines = [f'#include "{KERNEL_HEADER}"', "", f"{head} {{", *unused]
        return "\n".join([*lines, *self._statement(func.body, "  "), "}"]) + "\n"

    # Which names are used: C compilers warn of those that are not

    def _find_used(self, statement: Expr) -> None:
        """Last statement first, so that a name is met where it is used before where it is made."""
        match type(statement).__name__:
            case "SeqStmt":
                self._find_used_in(list(statement.seq))
            case "Bind":
                if statement.var in self.used:
                    self._use(statement.value)
            case "For" | "IfThenElse" if _does_nothing(statement):
                pass
            case "For":
                self._find_used(statement.body)
                self._use(statement.min)
                self._use(statement.extent)
            case "While":
                self._find_used(statement.body)
                self._use(statement.condition)
            case "IfThenElse":
                self._find_used_in([s for s in (statement.then_case, statement.else_case) if s is not None])
                self._use(statement.condition)
            case "BufferStore":
                self._use(tirx.BufferLoad(statement.buffer, statement.indices))
                self._use(statement.value)
            case "DeclBuffer":
                if statement.buffer in self.used:
                    self.used.add(statement.data)
            case _:
                pass

    def _find_used_in(self, statements: Sequence[Expr]) -> None:
        for statement in reversed(statements):
            self._find_used(statement)

    def _use(self, expression: Expr) -> None:
        if isinstance(expression, tirx.Var):
            self.used.add(expression)
        elif isinstance(expression, tvm.ir.TensorLoad):
            self.used.add(expression.source)
        for part in _parts(expression):
            self._use(part)

    # Statements

    def _statement(self, statement: Expr, margin: str) -> Iterator[str]:
        match type(statement).__name__:
            case "SeqStmt":
                yield from self._sequence(list(statement.seq), margin)
            case "DeclBuffer":
                self.buffers[statement.buffer] = (self.name_of[statement.data], False)
            case "AllocBuffer":
                yield from self._local(statement.buffer, margin)
            case "Bind":
                yield from self._bind(statement, margin)
            case "BufferStore":
                place = self.element(statement.buffer, statement.indices)
                yield f"{margin}{place} = {self.value(statement.value)[0]};"
            case "For" | "IfThenElse" if _does_nothing(statement):
                pass
            case "For":
                yield from self._loop(statement, margin)
            case "While":
                yield f"{margin}while ({self.value(statement.condition)[0]}) {{"
                yield from self._statement(statement.body, margin + "  ")
                yield f"{margin}}}"
            case "IfThenElse":
                yield from self._branch(statement, margin)
            case "Evaluate":
                self._check_hint(statement.value)
            case other:
                raise CompilerBug(f"{self.symbol}: no C for the statement {other}")

    def _sequence(self, statements: Sequence[Expr], margin: str) -> Iterator[str]:
        for place, statement in enumerate(statements):
            following = statements[place + 1] if place + 1 < len(statements) else None
            if self._gives_first_value(following, statement):
                continue
            if place and self._gives_first_value(statement, statements[place - 1]):
                buffer = statement.buffer
                value = self.value(statement.value)[0]
                yield f"{margin}{self.ctype(str(buffer.dtype))} {self._declare(buffer)} = {value};"
            else:
                yield from self._statement(statement, margin)

    def _gives_first_value(self, statement: Expr | None, before: Expr) -> bool:
        """Whether a variable is made by the statement `before` and gets its value by this one."""
        return (
            isinstance(before, tirx.AllocBuffer)
            and isinstance(statement, tirx.BufferStore)
            and statement.buffer.same_as(before.buffer)
            and int(before.buffer.shape[0]) == 1
        )

    def _declare(self, buffer: Expr) -> str:
        name = self.names.take(str(buffer.name))
        self.buffers[buffer] = (name, int(buffer.shape[0]) == 1)
        return name

    def _local(self, buffer: Expr, margin: str) -> Iterator[str]:
        """A variable, or an array; zeroed, since not every compiler sees that it is written first."""
        declared = f"{self.ctype(str(buffer.dtype))} {self._declare(buffer)}"
        count = int(buffer.shape[0])
        if buffer in self.used:
            yield f"{margin}{declared} = 0;" if count == 1 else f"{margin}{declared}[{count}] = {{0}};"

    def _bind(self, statement: Expr, margin: str) -> Iterator[str]:
        variable = statement.var
        if variable not in self.used:
            return
        value = self.value(statement.value)[0]
        dtype = dtype_of(variable)
        if dtype == "int64" and self.is_position(statement.value):
            self.positions.add(variable)
        name = self.name_of[variable] = self.names.take(str(variable.name))
        yield f"{margin}const {self.ctype(dtype)} {name} = {value};"

    def _loop(self, statement: Expr, margin: str) -> Iterator[str]:
        if statement.kind != tirx.ForKind.SERIAL:
            raise CompilerBug(f"{self.symbol}: no C for this kind of loop")
        variable = statement.loop_var
        name = self.name_of[variable] = self.names.take(str(variable.name))
        self.positions.add(variable)
        begin, end = self.value(statement.min)[0], _end(statement)
        limit = self.value(end)[0]
        if not isinstance(end, tirx.IntImm | tirx.Var):
            # Computed once, before the loop: the body may change what it is computed from.
            value, limit = limit, self.names.take(f"{name}_end")
            yield f"{margin}const int64_t {limit} = {value};"
        yield f"{margin}for (int64_t {name} = {begin}; {name} < {limit}; {name}++) {{"
        yield from self._statement(statement.body, margin + "  ")
        yield f"{margin}}}"

    def _branch(self, statement: Expr, margin: str) -> Iterator[str]:
        yield f"{margin}if ({self.value(statement.condition)[0]}) {{"
        yield from self._statement(statement.then_case, margin + "  ")
        if statement.else_case is not None:
            yield f"{margin}}} else {{"
            yield from self._statement(statement.else_case, margin + "  ")
        yield f"{margin}}}"

    def _check_hint(self, value: Expr) -> None:
        if isinstance(value, tirx.IntImm) or self.intrinsic(value) in _HINTS:
            return
        raise CompilerBug(f"{self.symbol}: no C for the call {value}")


def _end(loop: Expr) -> Expr:
    """Where a loop ends: the builder gives the extent as `end - begin`."""
    begin, extent = loop.min, loop.extent
    if isinstance(begin, tirx.IntImm) and int(begin.value) == 0:
        return extent
    if isinstance(extent, tirx.Sub) and extent.b.same_as(begin):
        return extent.a
    return begin + extent


def _parts(expression: Expr) -> Sequence[Expr]:
    """The expressions that another is made of."""
    match type(expression).__name__:
        case "TensorLoad":
            return tuple(expression.indices)
        case "Select":
            return expression.condition, expression.true_value, expression.false_value
        case "Call":
            return tuple(expression.args)
        case "Cast":
            return (expression.value,)
        case "Not" | "BitwiseNot":
            return (expression.a,)
    return (expression.a, expression.b) if hasattr(expression, "b") else ()


def _does_nothing(statement: Expr) -> bool:
    """Whether nothing is left of a statement: a loop over no rest behind vectors of one lane, or of hints."""
    match type(statement).__name__:
        case "For":
            extent = statement.extent
            none = isinstance(extent, tirx.IntImm) and int(extent.value) <= 0
            same = isinstance(extent, tirx.Sub) and bool(extent.a.same_as(extent.b))
            return none or same or _does_nothing(statement.body)
        case "IfThenElse":
            return _does_nothing(statement.then_case) and (
                statement.else_case is None or _does_nothing(statement.else_case)
            )
        case "SeqStmt":
            return all(map(_does_nothing, statement.seq))
        case "Evaluate":
            return True
    return isinstance(statement, tirx.Bind | tirx.AllocBuffer)
