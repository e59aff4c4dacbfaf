"""Latency over size as a picture: one line for each engine, one panel for each of the other sizes."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isthmus.errors import Code, ModelError, Problem

# Ours first; the next ones are told apart in grey, and by people who see few colours (Okabe and Ito, 2008).
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_INK, _GRID = "#333333", "#E4E4E4"
_PANEL = (4.0, 3.6)  # inches
# More sizes than this are a line without dots.
MOST_DOTS = 40


@dataclass(frozen=True, slots=True)
class Line:
    """An engine in one panel: sizes, and milliseconds as lower quartile, median, upper quartile."""

    name: str
    x: tuple[int, ...]
    y: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    lines: tuple[Line, ...]


def check_matplotlib(option: str = "--plot") -> None:
    """Raise ModelError where there is nothing to draw with."""
    if importlib.util.find_spec("matplotlib") is None:
        hint = "pip install 'isthmus[bench]'"
        raise ModelError(Problem(Code.MISSING_PACKAGE, "matplotlib is not installed", option, hint))


def write_svg(
    path: Path,
    title: str,
    x_label: str,
    panels: Sequence[Panel],
    y_label: str = "milliseconds, median and quartiles",
) -> None:
    """Draw `panels` side by side on one scale. Raises ModelError without matplotlib, OSError for the file."""
    check_matplotlib()
    # Imported when asked for: it takes a second, and most installations do not have it.
    import matplotlib
    from matplotlib.figure import Figure

    settings = {"svg.fonttype": "none", "svg.hashsalt": "isthmus", "font.size": 10, "text.color": _INK}
    with matplotlib.rc_context(settings):
        width, height = _PANEL
        figure = Figure(figsize=(width * len(panels) + 1.1, height), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for place, panel in zip(axes, panels, strict=True):
            _draw(place, panel, x_label)
        axes[0].set_ylabel(y_label)
        _names(axes[-1], panels[-1].lines)
        figure.suptitle(title, fontsize=12, color=_INK, x=0.01, ha="left")
        # No date: the same figures are the same picture.
        figure.savefig(path, format="svg", metadata={"Date": None})


def _draw(place: Any, panel: Panel, x_label: str) -> None:
    place.set_xscale("log", base=2)
    place.set_yscale("log")
    for number, line in reversed(list(enumerate(panel.lines))):
        colour = _COLOURS[number % len(_COLOURS)]
        low, middle, high = (list(values) for values in zip(*line.y, strict=True))
        place.fill_between(line.x, low, high, color=colour, alpha=0.15, linewidth=0)
        width = 2.0 if number == 0 else 1.3
        dots = 3.5 if len(line.x) <= MOST_DOTS else 0
        place.plot(line.x, middle, color=colour, linewidth=width, marker="o", markersize=dots)
    ticks = sorted({x for line in panel.lines for x in line.x})
    shown = ticks if len(ticks) <= 8 else [tick for tick in ticks if tick & (tick - 1) == 0]
    place.set_xticks(shown, [str(tick) for tick in shown])
    place.minorticks_off()
    place.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    place.set_xlabel(x_label)
    place.set_title(panel.title, fontsize=10, loc="left", color=_INK)
    place.grid(True, color=_GRID, linewidth=0.8)
    place.set_axisbelow(True)
    for side in ("top", "right"):
        place.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        place.spines[side].set_color("#999999")
    place.tick_params(colors=_INK, length=3)


def _names(place: Any, lines: Sequence[Line]) -> None:
    """Each line's name at its right end, moved apart where the ends are close."""
    low, high = place.get_ylim()
    ends = sorted((line.y[-1][1], number) for number, line in enumerate(lines))
    step = (high / low) ** 0.065
    heights: list[float] = []
    for end, _ in ends:
        heights.append(end if not heights else max(end, heights[-1] * step))
    # As far below the ends as above them.
    shift = math.prod(end / y for (end, _), y in zip(ends, heights, strict=True)) ** (1 / len(ends))
    for (_, number), y in zip(ends, heights, strict=True):
        line = lines[number]
        colour = _COLOURS[number % len(_COLOURS)]
        weight = "bold" if number == 0 else "normal"
        place.annotate(
            line.name,
            (line.x[-1], y * shift),
            xytext=(8, 0),
            textcoords="offset points",
            color=colour,
            weight=weight,
            va="center",
            annotation_clip=False,
        )


def write_ladder(path: Path, title: str, rows: Sequence[tuple[str, float | None, float | None]]) -> None:
    """Draw layers from top to bottom, with signal over noise in dB: alone, and together with those before.

    Raises as `write_svg` does; a layer without noise has no dot.
    """
    check_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    settings = {"svg.fonttype": "none", "svg.hashsalt": "isthmus", "font.size": 9, "text.color": _INK}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(9.0, 1.4 + 0.24 * len(rows)), layout="constrained")
        place = figure.subplots()
        columns = (("alone", [row[1] for row in rows]), ("together", [row[2] for row in rows]))
        for (name, values), colour in zip(columns, (_COLOURS[1], _COLOURS[0]), strict=True):
            dots = [(x, y) for y, x in enumerate(values) if x is not None]
            place.plot(
                [x for x, _ in dots], [y for _, y in dots], "o-", color=colour, label=name, linewidth=1
            )
        place.set_yticks(range(len(rows)), [row[0] for row in rows])
        place.invert_yaxis()
        place.set_xlabel("signal over noise, dB")
        place.grid(True, color=_GRID, linewidth=0.8)
        place.set_axisbelow(True)
        for side in ("top", "right"):
            place.spines[side].set_visible(False)
        place.legend(frameon=False, loc="best")
        figure.suptitle(title, fontsize=11, color=_INK, x=0.01, ha="left")
        figure.savefig(path, format="svg", metadata={"Date": None})
