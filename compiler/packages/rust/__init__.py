"""A Rust crate without dependencies: `model = { path = "BUNDLE/rust" }` links the static library."""

from __future__ import annotations

import re
from importlib import resources
from string import Template

from isthmus.bundle.manifest import DimBounds, Port
from isthmus.packages.parts import Parts

_FOLDER = "rust"
_TEMPLATES = {
    "Cargo.toml": "Cargo.toml.in",
    "Cargo.lock": "Cargo.lock.in",  # or Cargo would write one into the bundle
    "build.rs": "build.rs",
    "lib.rs": "lib.rs.in",
    "example.rs": "example.rs.in",
}
_VARIANTS = {"f16": "F16", "bf16": "Bf16", "bool": "Bool"}
_KEYWORDS = {"self", "super", "crate", "std", "core", "alloc", "test", "model"}


def files(parts: Parts) -> dict[str, bytes]:
    """The package's files by path in the bundle."""
    manifest = parts.manifest
    name = crate_name(manifest.name)
    weights = manifest.weights or ""
    words = {
        "name": name,
        "title": manifest.name,
        "chip": manifest.chip.name,
        "weights": weights,
        "run": _run(name, manifest.entries[0].inputs, manifest.dims),
        "open": f"{name}::WEIGHTS" if weights else '""',
    }
    folder = resources.files("isthmus.packages.rust") / "files"
    made = {}
    for path, template in _TEMPLATES.items():
        text = (folder / template).read_text(encoding="utf-8")
        filled = Template(text).substitute(words) if template.endswith(".in") else text
        made[f"{_FOLDER}/{path}"] = filled.encode()
    return made


def crate_name(name: str) -> str:
    """The bundle's name in letters that Rust takes for a crate's."""
    word = re.sub(r"\W+", "_", name.lower(), flags=re.ASCII).strip("_")
    return word if word and not word[0].isdigit() and word not in _KEYWORDS else f"model_{word}".rstrip("_")


def _run(name: str, inputs: tuple[Port, ...], bounds: tuple[DimBounds, ...]) -> str:
    """Lines of the example that run the model on zeros; none where a dim is an expression of others."""
    smallest = {bound.name: max(bound.low, 1) for bound in bounds}
    lines = []
    for port in inputs:
        dims = [dim if isinstance(dim, int) else smallest.get(dim) for dim in port.dims]
        if None in dims:
            return ""
        sizes = ", ".join(map(str, dims))
        variant = _VARIANTS.get(port.dtype, port.dtype.upper())
        zero = "false" if port.dtype == "bool" else "0.0" if port.dtype in ("f32", "f64") else "0"
        count = " * ".join(map(str, dims)) or "1"
        lines.append(f"        {name}::Input::{variant}(&[{zero}; {count}], &[{sizes}]),\n")
    return (
        f"    let outputs = session.run(&[\n{''.join(lines)}    ])?;\n"
        "    for output in &outputs {\n"
        '        println!("{:?} {:?}", output.dims, output.f32().and_then(|data| data.first()));\n'
        "    }\n"
    )
