"""How the sums of a tile of a matrix product begin, and what becomes of them: bias, residual, activation, and
the form in which the result is stored.

Whole panels go straight from registers to the result where little is left to do. All else goes through the
stage: panels that reach beyond the last column, and activations, whose code is there once for all heights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from isthmus.kernels.arithmetic import Arithmetic, round_bf16
from isthmus.kernels.builder import Builder, Expr, Memory, Register, lanes_of
from isthmus.kernels.byte_steps import ByteSteps, Steps
from isthmus.kernels.halved import Halved
from isthmus.kernels.math import Function
from isthmus.kernels.tir import tirx
from isthmus.target import Target, panel_width


@dataclass(frozen=True, slots=True)
class Tile:
    """A register tile: `rows` x `vectors` accumulators, beside one row of weights and one broadcast; a vector
    has so many `lanes`."""

    rows: int
    vectors: int
    lanes: int


class Parameters:
    """The parameters of a product's kernel, in the order in which all such kernels have them."""

    def __init__(
        self,
        symbol: str,
        target: Target,
        activation: Function | None,
        residual: bool,
        arithmetic: type[Arithmetic],
        rounded: bool,
        steps: Steps | None,
        halved: int = 0,
    ) -> None:
        k = self.k = Builder(symbol, target)
        self.activation = activation
        self.x = k.input("x", arithmetic.x)
        self.w = k.input("w", arithmetic.w)
        self.arithmetic = arithmetic(k)
        self.arithmetic.declare()
        self.bias = k.input("bias")
        self.residual = k.input("residual") if residual else None
        self.rounded = rounded
        self.y = k.output("y", "uint16" if rounded else steps.dtype if steps is not None else "float32")
        self.parts = Halved(k, arithmetic, panel_width(target.vector), halved) if halved else None
        self.copy = k.output("copy", arithmetic.w) if arithmetic.widened or halved else None
        self.bytes = ByteSteps(k, steps) if steps is not None else None
        self.depth = k.size("k")
        self.columns = k.size("n")
        self.ldx = k.size("ldx")
        self.ldr = k.size("ldr") if residual else None
        self.ldy = k.size("ldy")
        self.row_begin, self.row_end = k.size("row_begin"), k.size("row_end")
        self.panel_begin, self.panel_end = k.size("panel_begin"), k.size("panel_end")

    def _as_stored(self, value: Expr, column: Expr) -> Expr:
        """A finished value of `column`, as y has it; where ends come late."""
        return value if self.bytes is None else self.bytes.bytes(value, column, lanes_of(value))


class Ends(Parameters):
    """The ends of the tiles of a product.

    While a tile is written, `first` is its first row and `column` that of its panel; `whole` says whether all
    columns of the panel are there, `starts` and `ends` whether this is the first, and the last, chunk of K.
    """

    # Whether whole panels without an activation go straight from registers to y.
    straight: ClassVar[bool] = True
    stage: Memory
    first: Expr
    column: Expr
    whole: Expr
    starts: Expr
    ends: Expr

    def __init__(
        self,
        symbol: str,
        target: Target,
        shape: Tile,
        activation: Function | None,
        residual: bool,
        arithmetic: type[Arithmetic],
        rounded: bool,
        steps: Steps | None,
        halved: int = 0,
    ) -> None:
        super().__init__(symbol, target, activation, residual, arithmetic, rounded, steps, halved)
        self.shape = shape
        self.lanes = shape.lanes
        self.width = panel_width(target.vector)
        # Sums cannot wait in y between two chunks where that is narrow.
        self.narrow = rounded or steps is not None

    def _fill_stage(self, height: Expr, left: Expr) -> None:
        """What the sums of a partial panel start with, besides the bias."""
        k = self.k
        if self.residual is not None and not self.arithmetic.late:
            with k.when(self.starts):
                self._copy(self.residual, self.ldr, height, left, to_stage=True)
        if self.narrow:
            return
        with k.when(tirx.Not(self.starts)):
            self._copy(self.y, self.ldy, height, left, to_stage=True)

    def _copy(self, matrix: Memory, pitch: Expr, rows: Expr, columns: Expr, *, to_stage: bool) -> None:
        """The valid columns of a partial tile, between a matrix and the stage."""
        k = self.k
        with k.loop("i", 0, rows) as i:
            line = matrix.at((self.first + i) * pitch + self.column, "line")
            with k.loop("j", 0, columns) as j:
                if to_stage:
                    self.stage.store(i * self.width + j, line.load(j))
                else:
                    line.store(j, self._result(self.stage.load(i * self.width + j)))

    def _start(self, accumulators: list[list[Register]]) -> None:
        """Bias, and the residual if there is one; after the first chunk, the sums so far."""
        k = self.k
        if self.narrow:
            self._begin(accumulators)
            return
        with k.when(self.starts):
            self._begin(accumulators)
        with k.otherwise():
            self._load(accumulators, self.y, self.ldy, add=False)

    def _begin(self, accumulators: list[list[Register]]) -> None:
        k, late = self.k, self.arithmetic.late
        places = [self.column + j * self.lanes for j in range(self.shape.vectors)]
        initial = self.arithmetic.initial if late else self.bias.load
        values = [k.let(f"initial{j}", initial(place, self.lanes)) for j, place in enumerate(places)]
        for row in accumulators:
            for register, value in zip(row, values, strict=True):
                register.set(value)
        if self.residual is not None and not late:
            self._load(accumulators, self.residual, self.ldr, add=True)

    def _load(self, accumulators: list[list[Register]], matrix: Memory, pitch: Expr, *, add: bool) -> None:
        """The tile's part of a matrix into the accumulators; from the stage where the panel is partial."""
        k = self.k
        with k.when(self.whole):
            for i, row in enumerate(accumulators):
                line = matrix.at((self.first + i) * pitch + self.column, f"r{i}")
                for j, register in enumerate(row):
                    value = self._sum(line.load(j * self.lanes, self.lanes))
                    register.set(register.value + value if add else value)
        with k.otherwise():
            for i, row in enumerate(accumulators):
                for j, register in enumerate(row):
                    value = self._sum(self.stage.load(i * self.width + j * self.lanes, self.lanes))
                    register.set(register.value + value if add else value)

    def _sum(self, stored: Expr) -> Expr:
        """A sum that was put aside among floats: integers lie there with their own bits."""
        return self.k.bits(stored, self.arithmetic.sums) if self.arithmetic.late else stored

    def _value(self, register: Register, i: int, j: int) -> Expr:
        if self.arithmetic.late:
            return self.k.bits(register.value, "float32")
        return self.arithmetic.value(register.value, self.first + i, self.column + j * self.lanes)

    def _result(self, value: Expr) -> Expr:
        """A finished value as y has it."""
        return round_bf16(self.k, value) if self.rounded else value

    def _finish(self, accumulators: list[list[Register]], y_rows: list[Memory]) -> None:
        """Out: straight to y, or to the stage where there is more to do."""
        k = self.k
        if self.arithmetic.late:
            self._finish_late(accumulators, y_rows)
            return
        through = self.whole if self.activation is None else tirx.And(self.whole, tirx.Not(self.ends))
        with k.when(through):
            for i, (row, line) in enumerate(zip(accumulators, y_rows, strict=True)):
                for j, register in enumerate(row):
                    line.store(j * self.lanes, self._result(self._value(register, i, j)))
        with k.otherwise():
            self._stage(accumulators)

    def _finish_late(self, accumulators: list[list[Register]], y_rows: list[Memory]) -> None:
        """Whole panels straight from the registers, where what comes late is little code."""
        k = self.k
        if self.activation is not None:
            self._stage(accumulators)
            return
        with k.when(tirx.And(self.whole, self.ends)):
            for i, (row, line) in enumerate(zip(accumulators, y_rows, strict=True)):
                extra = self._residual_line(i, "added") if self.residual is not None else None
                for j, register in enumerate(row):
                    place = j * self.lanes
                    added = extra.load(place, self.lanes) if extra is not None else None
                    value = self._concluded(register.value, i, place, added)
                    line.store(place, self._as_stored(value, self.column + place))
        with k.otherwise():
            self._stage(accumulators)

    def _residual_line(self, i: Expr, name: str) -> Memory:
        """Row i of the tile in the residual, from its column on."""
        assert self.residual is not None
        return self.residual.at((self.first + i) * self.ldr + self.column, name)

    def _concluded(self, total: Expr, i: Expr, place: int, added: Expr | None) -> Expr:
        """A finished sum in row i, `place` columns into the panel, with all that comes late."""
        k, column = self.k, self.column + place
        value = self.arithmetic.value(total, self.first + i, column)
        value = k.let("value", value + self.bias.load(column, self.lanes))
        value = value if added is None else k.let("value", value + added)
        return value if self.activation is None else self.activation(k, value)

    def _stage(self, accumulators: list[list[Register]]) -> None:
        for i, row in enumerate(accumulators):
            for j, register in enumerate(row):
                self.stage.store(i * self.width + j * self.lanes, self._value(register, i, j))

    def _conclude(self, height: Expr, left: Expr) -> None:
        """What of a tile with all that comes late was staged: one copy of this code for all heights."""
        k = self.k
        edge = k.stack("edge", self.width)
        straight = self.activation is None and self.straight
        done = tirx.And(self.whole, self.ends) if straight else tirx.const(False, "bool")
        with k.when(tirx.And(self.ends, tirx.Not(done))), k.loop("i", 0, height) as i:
            staged = self.stage.at(i * self.width, "staged")
            added = self._late_residual(i, left, edge)
            values = []
            for j, place in enumerate(range(0, self.width, self.lanes)):
                total = self._sum(staged.load(place, self.lanes))
                values.append(self._concluded(total, i, place, added[j].value if added else None))
            line = self.y.at((self.first + i) * self.ldy + self.column, "line")
            with k.when(self.whole):
                for j, value in enumerate(values):
                    line.store(j * self.lanes, self._as_stored(value, self.column + j * self.lanes))
            with k.otherwise():
                for j, value in enumerate(values):
                    edge.store(j * self.lanes, value)
                with k.loop("j", 0, left) as j:
                    line.store(j, self._as_stored(edge.load(j), self.column + j))
        if self.narrow:
            return
        with k.when(tirx.Not(self.ends)):
            self._copy(self.y, self.ldy, height, k.smaller(left, self.width), to_stage=False)

    def _late_residual(self, i: Expr, left: Expr, edge: Memory) -> list[Register]:
        """Row i of the residual of this panel; through `edge` where the panel is partial."""
        k = self.k
        if self.residual is None:
            return []
        added = [k.register(f"added{j}", self.lanes, 0.0) for j in range(self.shape.vectors)]
        line = self._residual_line(i, "residual_line")
        with k.when(self.whole):
            for j, register in enumerate(added):
                register.set(line.load(j * self.lanes, self.lanes))
        with k.otherwise():
            with k.loop("j", 0, left) as j:
                edge.store(j, line.load(j))
            for j, register in enumerate(added):
                register.set(edge.load(j * self.lanes, self.lanes))
        return added

    def _activate(self, height: Expr, activation: Function) -> None:
        """The activation of a staged tile: one copy of its code for all heights, and little is lost by it."""
        k = self.k
        with k.loop("i", 0, height) as i:
            line = self.y.at((self.first + i) * self.ldy + self.column, "line")
            staged = self.stage.at(i * self.width, "staged")
            places = range(0, self.width, self.lanes)
            values = [activation(k, k.let("sum", staged.load(j, self.lanes))) for j in places]
            with k.when(self.whole):
                for j, value in enumerate(values):
                    line.store(j * self.lanes, self._result(value))
            with k.otherwise():
                for j, value in enumerate(values):
                    staged.store(j * self.lanes, value)
