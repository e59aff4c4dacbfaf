"""The table of matrices with zeros, as `check` and `inspect` print it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from isthmus.cli.output import Json, bytes_text, console, table

MOST_LAYERS = 24  # shown; --json has all


def show_sparsity(layers: Iterable[Mapping[str, Json]]) -> None:
    """Print what `tools.sparsity.as_json` says of each; nothing where there are none."""
    found = list(layers)
    if not found:
        return
    numbers = ("density", "stored", "of dense")
    grid = table("matrix with zeros", "shape", "pattern", *numbers, "decision", right=numbers)
    for layer in found[:MOST_LAYERS]:
        shape, size, dense = layer["shape"], int(str(layer["bytes"])), int(str(layer["dense_bytes"]))
        grid.add_row(
            str(layer["node"]),
            "x".join(map(str, shape)) if isinstance(shape, list) else str(shape),
            str(layer["pattern"]),
            f"{float(str(layer['density'])):.3f}",
            bytes_text(size),
            f"{size / dense:.2f}" if dense else "",
            str(layer["decision"]),
        )
    console().print(grid)
    if (rest := len(found) - MOST_LAYERS) > 0:
        console().print(f"and {rest} more matrices; --json has all of them")
