"""report.html: one file that needs nothing else. The grid, what is behind each cell, what changed, bars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from isthmus.matrix import words
from isthmus.matrix.diff import Change

STATUS = {"pass": "✓ pass", "over": "! over budget", "wrong": "✗ wrong answers", "failed": "✗ failed"}
Cell = Mapping[str, Any]

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Isthmus: {title}</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="quiet">{about}</p>
</header>
<main>
{body}
</main>
{dialogs}
<script>
{script}</script>
</body>
</html>
"""


def html(report: Mapping[str, Any], changes: Sequence[Change] | None) -> str:
    """The page. Everything that came from outside is escaped."""
    cells = {cell["name"]: cell for cell in report["pairs"]}
    numbers = {name: f"pair-{number}" for number, name in enumerate(cells)}
    good = sum(cell["status"] == "pass" for cell in cells.values())
    body = [_grid(report, cells, numbers), _wrong(cells.values()), _changes(changes), _plots(report, cells)]
    page = resources.files("isthmus.matrix") / "page"
    return _PAGE.format(
        title=f"{good} of {len(cells)} pairs pass",
        about=escape(_about(report)),
        body="\n".join(part for part in body if part),
        dialogs="\n".join(_dialog(report, cell, numbers[name], changes) for name, cell in cells.items()),
        style=(page / "style.css").read_text("utf-8"),
        script=(page / "script.js").read_text("utf-8"),
    )


def _about(report: Mapping[str, Any]) -> str:
    work, machine = report["work"], report["machine"]
    return (
        f"{len(report['models'])} models on {len(report['chips'])} chips by Isthmus {report['isthmus']}. "
        f"{work['pairs']} bundles were made, the others were made before. "
        f"Measured on {machine['processor']}, {machine['processors']} processors."
    )


# The grid


def _grid(report: Mapping[str, Any], cells: Mapping[str, Cell], numbers: Mapping[str, str]) -> str:
    head = "".join(f'<th scope="col">{escape(chip)}</th>' for chip in report["chips"])
    rows = "\n".join(_row(report, model, cells, numbers) for model in report["models"])
    return f"""<section aria-labelledby="grid-title">
<h2 id="grid-title">Models and chips</h2>
<div class="scroll" role="region" aria-label="Grid" tabindex="0">
<table id="matrix">
<thead><tr><th scope="col">model</th>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
</div>
<p class="quiet">Latency is the median of one request; ~ marks an estimate from a roofline, for chips that
this machine does not run itself. Cost is in {escape(report["currency"])} per million requests, one after the
other. Press a cell for what is behind it.</p>
</section>"""


def _row(report: Mapping[str, Any], model: str, cells: Mapping[str, Cell], numbers: Mapping[str, str]) -> str:
    columns = []
    for chip in report["chips"]:
        cell = cells.get(f"{model}@{chip}")
        if cell is None:
            columns.append('<td class="quiet">not built</td>')
            continue
        cheapest = report["cheapest"].get(model) == chip
        columns.append(f'<td class="{cell["status"]}">{_button(cell, numbers[cell["name"]], cheapest)}</td>')
    return f'<tr><th scope="row">{escape(model)}</th>{"".join(columns)}</tr>'


def _button(cell: Cell, number: str, cheapest: bool) -> str:
    badge = '<span class="badge">cheapest</span>' if cheapest else ""
    lines = "".join(f"<span>{name}</span><span>{escape(text)}</span>" for name, text in _amounts(cell))
    shown = f'<span class="cell">{lines}</span>' if cell["status"] != "failed" else ""
    label = f'<span class="status">{STATUS[cell["status"]]}{badge}</span>'
    return f'<button type="button" data-opens="{number}" aria-haspopup="dialog">{label}{shown}</button>'


def _amounts(cell: Cell) -> list[tuple[str, str]]:
    about = "~" if cell["latency"] is not None and not cell["latency"]["measured"] else ""
    latency = words.NONE if cell["latency"] is None else about + words.duration(cell["latency"]["p50"])
    return [
        ("accuracy", words.accuracy(cell["accuracy"])),
        ("latency", latency),
        ("size", words.size(cell["size"])),
        ("start", words.duration(cell["start"])),
        ("cost", words.NONE if cell["cost"] is None else about + words.cost(cell)),
    ]


# What is wrong, what changed


def _wrong(cells: Iterable[Cell]) -> str:
    found = [(cell["name"], text) for cell in cells for text in _texts(cell)]
    return _list("wrong", "What is wrong", found)


def _texts(cell: Cell) -> list[str]:
    told = [
        f"{p['code']} {p['message']}" + (f" ({p['hint']})" if p["hint"] else "") for p in cell["problems"]
    ]
    return [*told, *cell["wrong"], *words.over(cell)]


def _changes(changes: Sequence[Change] | None) -> str:
    if changes is None:
        return ""
    if not changes:
        return '<section><h2 id="changes">Since the last build</h2><p>Nothing changed.</p></section>'
    found = [
        (change.pair, "; ".join(words.change(field) for field in change.fields[:6]) or change.kind)
        for change in changes
    ]
    return _list("changes", "Since the last build", found)


def _list(name: str, title: str, found: Sequence[tuple[str, str]]) -> str:
    if not found:
        return ""
    items = "\n".join(f"<li><strong>{escape(pair)}</strong>: {escape(text)}</li>" for pair, text in found)
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{title}</h2>\n<ul>\n{items}\n</ul></section>'


# Bars


def _plots(report: Mapping[str, Any], cells: Mapping[str, Cell]) -> str:
    kinds = [("latency", "latency"), ("size", "size"), ("cost", f"cost, {report['currency']} per million")]
    made = [cell for cell in cells.values() if cell["status"] != "failed"]
    kinds = [kind for kind in kinds if any(_amount(cell, kind[0]) is not None for cell in made)]
    parts = []
    for model in report["models"]:
        mine = [cell for cell in made if cell["model"] == model]
        if mine:
            parts.append(_bars(model, mine, kinds))
    if not parts:
        return ""
    text = "Each column has a scale of its own for each model; a hatched bar is an estimate."
    hint = f'<p class="quiet">{text}</p>'
    title = '<h2 id="plots">Side by side</h2>'
    return f'<section aria-labelledby="plots">{title}\n{hint}\n{"".join(parts)}</section>'


def _bars(model: str, cells: Sequence[Cell], kinds: Sequence[tuple[str, str]]) -> str:
    most = {name: max((_amount(cell, name) or 0.0) for cell in cells) or 1.0 for name, _ in kinds}
    head = "".join(f'<th scope="col">{escape(title)}</th>' for _, title in kinds)
    rows = "\n".join(
        f'<tr><th scope="row">{escape(cell["chip"])}</th>'
        + "".join(f"<td>{_bar(cell, name, most[name])}</td>" for name, _ in kinds)
        + "</tr>"
        for cell in cells
    )
    return f"""<h3>{escape(model)}</h3>
<div class="scroll" role="region" aria-label="{escape(model)}: bars" tabindex="0">
<table class="plots"><thead><tr><th scope="col">chip</th>{head}</tr></thead><tbody>
{rows}
</tbody></table></div>
"""


def _bar(cell: Cell, name: str, most: float) -> str:
    amount = _amount(cell, name)
    if amount is None:
        return f'<span class="quiet">{words.NONE}</span>'
    guess = " guess" if name != "size" and not cell["latency"]["measured"] else ""
    text = dict(_amounts(cell))[name]
    return f'{escape(text)}<span class="bar{guess}" style="width:{amount / most * 100:.1f}%"></span>'


def _amount(cell: Cell, name: str) -> float | None:
    found = cell["latency"]["p50"] if name == "latency" and cell["latency"] is not None else cell[name]
    return found if isinstance(found, int | float) else None


# What is behind a cell


def _dialog(report: Mapping[str, Any], cell: Cell, number: str, changes: Sequence[Change] | None) -> str:
    details = cell["details"]
    parts = [_facts(report, cell), _budgets(cell), _told(_texts(cell))]
    parts += [_told([words.change(f) for c in changes or () if c.pair == cell["name"] for f in c.fields])]
    if details:
        parts += [_ladder(details["quantization"].get("layers", [])), _zeros(details["sparsity"])]
        parts += [_heaviest(details), _kernels(details), _rewrites(details)]
    return f"""<dialog id="{number}" aria-labelledby="{number}-title">
<form method="dialog"><button class="close">Close</button></form>
<h2 id="{number}-title">{escape(cell["model"])} on {escape(cell["chip"])}</h2>
{"".join(parts)}</dialog>"""


def _facts(report: Mapping[str, Any], cell: Cell) -> str:
    sizes = ", ".join(f"{name} = {size}" for name, size in cell["sizes"].items()) or "as in the model"
    latency, unknown = cell["latency"], words.NONE
    rows = [
        ("status", STATUS[cell["status"]]),
        ("target", cell["target"]),
        ("bundle", cell["bundle"] or unknown),
        ("digest", cell["digest"] or unknown),
        ("precision", cell["precision"] or unknown),
        ("ran by", cell["runner"] or "nothing here executes this chip's code"),
        (f"accuracy ({cell['metric']})", words.accuracy(cell["accuracy"])),
        ("of the model as it came", words.accuracy(cell["exact"])),
        ("accuracy drop", unknown if cell["accuracy_drop"] is None else words.share(cell["accuracy_drop"])),
        ("largest difference", unknown if cell["max_abs"] is None else f"{cell['max_abs']:.3g}"),
        ("at sizes", f"{sizes}; {cell['threads']} thread{'s' if cell['threads'] > 1 else ''}"),
        ("latency", unknown if latency is None else _latency(latency)),
        ("start", words.duration(cell["start"])),
        ("code", words.size(cell["code_bytes"])),
        ("weights", words.size(cell["weights_bytes"])),
        ("peak memory", words.size(cell["peak_memory"])),
        (f"cost, {report['currency']} per million", words.cost(cell)),
    ]
    return _table("", [], rows)


def _latency(latency: Mapping[str, Any]) -> str:
    if not latency["measured"]:
        return f"{words.duration(latency['p50'])}, an estimate: {latency['basis']}"
    low, high = words.duration(latency["low"]), words.duration(latency["high"])
    return f"{words.duration(latency['p50'])}, {latency['basis']}; quartiles {low} and {high}"


def _budgets(cell: Cell) -> str:
    rows = [
        (
            one["budget"],
            words.limit(one["budget"], one["limit"]),
            words.limit(one["budget"], one["value"]) + (" (estimate)" if one["estimated"] else ""),
            "no" if one["over"] else "not known" if one["value"] is None else "yes",
        )
        for one in cell["budgets"]
    ]
    return _table("Budgets", ["budget", "at most", "is", "kept"], rows)


def _told(texts: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f"<ul>{items}</ul>\n" if items else ""


def _ladder(layers: Sequence[Mapping[str, Any]]) -> str:
    """What quantizing did to each layer; signal over noise where there was data to measure it on."""
    rows = [
        (
            layer["name"],
            layer.get("scheme") or f"as it was: {layer['kept']}",
            *(_digits(layer.get(name)) for name in ("matrix_sqnr", "alone_sqnr", "sqnr", "cosine")),
        )
        for layer in layers
    ]
    heads = ["layer", "in", "matrix dB", "alone dB", "so far dB", "cosine"]
    return _table("Ladder: signal over noise of each layer against f32", heads, rows)


def _digits(value: float | None) -> str:
    return words.NONE if value is None else f"{value:g}"


def _zeros(layers: Sequence[Mapping[str, Any]]) -> str:
    """Matrices with zeros, and what became of them."""
    rows = [
        (
            layer["node"] or "",
            f"{1 - layer['density']:.0%}",
            layer["pattern"],
            layer["stored"],
            layer["decision"],
        )
        for layer in layers
    ]
    return _table("Zeros", ["layer", "zeros", "pattern", "stored", "decision"], rows)


def _heaviest(details: Mapping[str, Any]) -> str:
    rows = [
        (
            call["op"],
            call["node"] or "",
            call["kernel"],
            call["type"],
            f"{call['multiply_adds']:,}",
            words.size(call["bytes"]),
        )
        for call in details["heaviest"]
    ]
    heads = ["op", "node", "kernel", "type", "multiply-adds", "bytes"]
    return _table(f"Layers: the heaviest of {details['calls']} kernel calls", heads, rows)


def _kernels(details: Mapping[str, Any]) -> str:
    rows = [(k["symbol"], str(k["uses"]), words.size(k["object_bytes"])) for k in details["kernels"]]
    return _table("Kernels", ["kernel", "calls", "code"], rows)


def _rewrites(details: Mapping[str, Any]) -> str:
    rows = [(rule, str(times)) for rule, times in details["rewrites"].items()]
    passes = f"<p><code>{escape(details['passes'])}</code></p>\n"
    return _table("Passes: what was rewritten", ["rule", "times"], rows) + passes


_NUMBERS = {
    "multiply-adds", "bytes", "calls", "code", "times", "at most", "is", "zeros",
    "matrix dB", "alone dB", "so far dB", "cosine",
}  # fmt: skip


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    kinds = [' class="number"' if head in _NUMBERS else "" for head in heads] or [""] * len(rows[0])
    columns = "".join(f'<th scope="col"{k}>{escape(h)}</th>' for h, k in zip(heads, kinds, strict=False))
    head = f"<thead><tr>{columns}</tr></thead>" if heads else ""
    body = "\n".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td{kind}>{escape(text)}</td>" for text, kind in zip(row[1:], kinds[1:], strict=True))
        + "</tr>"
        for row in rows
    )
    above = f"<h3>{escape(title)}</h3>\n" if title else ""
    label = escape(title or "facts")
    return (
        f'{above}<div class="scroll" role="region" aria-label="{label}" tabindex="0">'
        f"<table>{head}<tbody>\n{body}\n</tbody></table></div>\n"
    )
