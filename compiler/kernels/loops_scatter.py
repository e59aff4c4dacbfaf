"""The kernels that write elements to places which other elements name, one update after the other.

    void scatter_<dtype>_<index type>_<join>[_rows](const T *updates, const I *indices, T *y,
        int64_t count, int64_t places, int64_t inner,
        int64_t u_outer, int64_t u_axis, int64_t u_inner, int64_t i_outer, int64_t i_axis, int64_t i_inner,
        int64_t y_outer, int64_t y_axis, int64_t y_inner,
        int32_t *fault, int32_t site, int64_t begin, int64_t end)

y holds `places` elements along the axis, which `count` updates are joined to, in their order: where several
name one place and there is no join, the last stays. Strides and units are as in `loops_scan`: a unit is one
line, which no other touches. With `_rows` all indices are the same along `inner`, there is one outer line,
and a call writes whole runs of its units at a time. A negative index counts from the end; one outside
[-places, places) sets `*fault` to `site` and writes nothing.
"""

from __future__ import annotations

from isthmus.ir.types import DType
from isthmus.kernels.builder import Builder, Expr, lanes_of
from isthmus.kernels.kernel import Kernel
from isthmus.kernels.loops_math import hold
from isthmus.kernels.loops_pointwise import combine, decode, encode, memory_type
from isthmus.kernels.loops_scan import lines
from isthmus.kernels.tir import tirx
from isthmus.target import Target

FOLDS = {"add": "sum", "mul": "prod", "max": "max", "min": "min"}


def scatter(dtype: DType, indices: DType, join: str, target: Target, *, rows: bool) -> Kernel:
    """`join` is none, or a name of `FOLDS`."""
    name = f"scatter_{dtype}_{indices}_{join}{'_rows' * rows}"
    return Kernel.deferred(
        target.symbol(name), lambda: _scatter(name, dtype, indices, join, target, rows=rows)
    )


def _scatter(name: str, dtype: DType, indices: DType, join: str, target: Target, *, rows: bool) -> Kernel:
    k = Builder(name, target)
    updates, picks = k.input("updates", memory_type(dtype)), k.input("indices", memory_type(indices))
    y = k.output("y", memory_type(dtype))
    count, places, inner = k.size("count"), k.size("places"), k.size("inner")
    u, p, t = (
        tuple(k.size(f"{name}_{axis}") for axis in ("outer", "axis", "inner")) for name in ("u", "i", "y")
    )
    fault, site = k.output("fault", "int32"), k.scalar("site", "int32")

    def write(target_at: Expr, source_at: Expr, lanes: int) -> None:
        new = k.let("new", updates.load(source_at, lanes))
        if join != "none":
            old = hold(k, "old", decode(k, y.load(target_at, lanes), dtype))
            joined = combine(k, FOLDS[join], dtype, old, hold(k, "decoded", decode(k, new, dtype)))
            new = encode(k, hold(k, "joined", joined), dtype)
        y.store(target_at, new, lanes_of(new))

    def picked(at: Expr) -> tuple[Expr, Expr]:
        """The place that an index names, and whether there is one."""
        chosen = hold(k, "chosen", k.cast(picks.load(at), "int64"))
        place = hold(k, "place", k.select(chosen < 0, chosen + places, chosen))
        return place, hold(k, "valid", tirx.And(place >= 0, place < places))

    if rows:
        begin, end = k.size("begin"), k.size("end")
        with k.loop("i", 0, count) as i:
            place, valid = picked(i * p[1])
            with k.when(valid):
                to = k.let("to", place * t[1] + begin)
                source = k.let("source", i * u[1] + begin)
                k.vectorized("column", end - begin, lambda c, lanes: write(to + c, source + c, lanes))
            with k.otherwise():
                fault.store(0, site)
        return k.finish()
    with lines(k, inner) as (outer, column):
        u_line, p_line, t_line = (
            k.let(f"{name}_line", outer * strides[0] + column * strides[2])
            for name, strides in (("u", u), ("i", p), ("y", t))
        )
        with k.loop("i", 0, count) as i:
            place, valid = picked(p_line + i * p[1])
            with k.when(valid):
                write(t_line + place * t[1], u_line + i * u[1], 1)
            with k.otherwise():
                fault.store(0, site)
    return k.finish()
