"""An npm package: the bundle's folder itself, with its code in `js/`. Nothing is stored twice.

`npm install BUNDLE` and `npm install BUNDLE/js` use the bundle in place; `npm pack BUNDLE` makes one file.
"""

from __future__ import annotations

import json
import re
from importlib import resources
from string import Template

from isthmus.bundle.manifest import Entry, Manifest, Port
from isthmus.packages.parts import Parts

_FOLDER = "js"
_VERSION = "0.0.0"  # whoever publishes a model versions it
# A package's name may not be one of these.
_RESERVED = ("node_modules", "favicon.ico")

# Name for people, and the typed array that holds elements. There is none for 16-bit floats everywhere yet:
# their bits travel as integers.
_ARRAYS = {
    "f32": ("float32", "Float32Array"),
    "f64": ("float64", "Float64Array"),
    "f16": ("float16", "Uint16Array"),
    "bf16": ("bfloat16", "Uint16Array"),
    "i8": ("int8", "Int8Array"),
    "i16": ("int16", "Int16Array"),
    "i32": ("int32", "Int32Array"),
    "i64": ("int64", "BigInt64Array"),
    "u8": ("uint8", "Uint8Array"),
    "u16": ("uint16", "Uint16Array"),
    "u32": ("uint32", "Uint32Array"),
    "u64": ("uint64", "BigUint64Array"),
    "bool": ("bool", "Uint8Array"),
}


def files(parts: Parts) -> dict[str, bytes]:
    """The package's files by path in the bundle."""
    manifest = parts.manifest
    made = {
        "files.js": _places(parts),
        "index.js": _file("index.js"),
        "index.d.ts": Template(_file("index.d.ts")).substitute(
            inputs=_types(manifest.entries[0].inputs), outputs=_types(manifest.entries[0].outputs)
        ),
        "example.mjs": _file("example.mjs"),
        "README.md": _readme(manifest),
        "package.json": _package(manifest, "."),
    }
    texts = {"package.json": _package(manifest, f"./{_FOLDER}", _published(parts))}
    texts |= {f"{_FOLDER}/{name}": text for name, text in made.items()}
    return {path: text.encode() for path, text in texts.items()}


def package_name(manifest: Manifest) -> str:
    """The bundle's name in the letters that npm allows."""
    name = re.sub(r"[^a-z0-9._-]+", "-", manifest.name.lower()).strip("-._")
    return name if name and name not in _RESERVED else "model"


def _file(name: str) -> str:
    return (resources.files("isthmus.packages.npm") / "files" / name).read_text(encoding="utf-8")


def _published(parts: Parts) -> list[str]:
    weights = [] if parts.manifest.weights is None else [parts.manifest.weights]
    return [_FOLDER, parts.manifest.library, *weights]


def _package(manifest: Manifest, code: str, published: list[str] | None = None) -> str:
    raw: dict[str, object] = {
        "name": package_name(manifest),
        "version": _VERSION,
        "description": f"{manifest.name}, compiled for {manifest.chip.name} by Isthmus",
        "type": "module",
        "main": f"{code}/index.js",
        "types": f"{code}/index.d.ts",
        "exports": {".": {"types": f"{code}/index.d.ts", "default": f"{code}/index.js"}},
        "engines": {"node": ">=18"},
    }
    return json.dumps(raw if published is None else {**raw, "files": published}, indent=2) + "\n"


def _places(parts: Parts) -> str:
    """Where the code and the weights are. Written out in full, so that bundlers see which files are meant."""
    manifest = parts.manifest
    weights = "null" if manifest.weights is None else _url(manifest.weights)
    return (
        f"export const code = {_url(manifest.library)};\n"
        f"export const weights = {weights};\n"
        f"export const weightsBytes = {parts.weights_bytes};\n"
    )


def _url(path: str) -> str:
    return f"new URL({json.dumps(f'../{path}')}, import.meta.url)"


def _signature(port: Port) -> str:
    return f"{_ARRAYS[port.dtype][0]}[{', '.join(map(str, port.dims))}]"


def _types(ports: tuple[Port, ...]) -> str:
    """Properties of an interface, one for each port."""
    lines = []
    for port in ports:
        note = _signature(port).replace("*/", "* /")
        lines.append(f"  /** {note} */\n  {json.dumps(port.name)}: Tensor<{_ARRAYS[port.dtype][1]}>;\n")
    return "".join(lines)


def _readme(manifest: Manifest) -> str:
    entry = manifest.entries[0]
    return Template(_file("README.md")).substitute(
        title=manifest.name,
        name=package_name(manifest),
        chip=manifest.chip.name,
        inputs=_list(entry.inputs),
        outputs=_list(entry.outputs),
        call=_call(entry),
        output=json.dumps(entry.outputs[0].name if entry.outputs else ""),
    )


def _list(ports: tuple[Port, ...]) -> str:
    return "".join(
        f"- `{' '.join(port.name.split())}`: `{_signature(port)}`, a `{_ARRAYS[port.dtype][1]}`\n"
        for port in ports
    )


def _call(entry: Entry) -> str:
    """Arguments of a run in which every dim without a size is 1."""
    lines = []
    for port in entry.inputs:
        dims = [dim if isinstance(dim, int) else 1 for dim in port.dims]
        count = "*".join(map(str, dims)) or "1"
        array = f"new {_ARRAYS[port.dtype][1]}({count})"
        lines.append(f"  {json.dumps(port.name)}: {{ data: {array}, dims: {json.dumps(dims)} }},\n")
    return "".join(lines)
