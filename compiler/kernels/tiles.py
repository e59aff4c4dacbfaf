"""Matrix tiles: what a target's tile registers do, said once for all kernels that use them.

A tile has up to 16 rows of 64 bytes. A product takes tiles a (rows x 16 words of K) and b (16 words of K x 16
columns) and adds to 16 columns of sums. A word holds two bf16.
"""

from __future__ import annotations

from isthmus.errors import CompilerBug
from isthmus.kernels.builder import Builder, Expr, Memory, Value
from isthmus.kernels.tir import tirx
from isthmus.target import Tiles

ROWS = 16
LINE = 64  # bytes of a row
WORDS = 16  # in a row, and columns of sums
_CONFIGURATION = 64  # bytes: palette 1, then bytes of a row from 16 on, then rows from 48 on, of each tile
_TILES = 8


class TileUnit:
    """The tile registers of the target, for one kernel. Distances between rows are in bytes."""

    def __init__(self, k: Builder, element: str) -> None:
        if k.target.tiles is None:
            raise CompilerBug(f"{k.target.name} has no tiles")
        self.k = k
        self.unit: Tiles = k.target.tiles
        self.product = dict(self.unit.products)[element]

    def configure(self, heights: dict[int, Value]) -> None:
        """Set the rows of tiles; those not named have all 16."""
        k = self.k
        settings = k.stack("tile_settings", _CONFIGURATION, "uint8")
        settings.store(0, 0, _CONFIGURATION)
        settings.store(0, 1)
        for tile in range(_TILES):
            settings.store(16 + 2 * tile, LINE)
            settings.store(48 + tile, k.cast(heights[tile], "uint8") if tile in heights else ROWS)
        k.intrinsic_statement(self.unit.configure, settings.address(0))

    def release(self) -> None:
        self.k.intrinsic_statement(self.unit.release)

    def zero(self, tile: int) -> None:
        self.k.intrinsic_statement(self.unit.zero, _number(tile))

    def load(self, tile: int, memory: Memory, place: Value, pitch: Value) -> None:
        self.k.intrinsic_statement(self.unit.load, _number(tile), memory.address(place), _distance(pitch))

    def store(self, tile: int, memory: Memory, place: Value, pitch: Value) -> None:
        self.k.intrinsic_statement(self.unit.store, _number(tile), memory.address(place), _distance(pitch))

    def multiply(self, sums: int, a: int, b: int) -> None:
        """sums += a b."""
        self.k.intrinsic_statement(self.product, *map(_number, (sums, a, b)))


def _number(tile: int) -> Expr:
    return tirx.const(tile, "int8")


def _distance(pitch: Value) -> Expr:
    return tirx.const(pitch, "int64") if isinstance(pitch, int) else pitch
