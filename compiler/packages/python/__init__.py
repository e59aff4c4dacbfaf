"""A Python package: `pip install BUNDLE/python` makes a wheel of the bundle and installs it.

The wheel needs NumPy only: it holds the whole bundle and a copy of the runtime under the package's own name,
so it neither needs nor disturbs an installed isthmus. Nothing is stored twice before the wheel is made.
"""

from __future__ import annotations

import json
import keyword
import re
import sys
from importlib import resources
from importlib.resources.abc import Traversable
from string import Template

from isthmus.bundle.manifest import Manifest, Port
from isthmus.packages.parts import Parts
from isthmus.runtime.library import DTYPES

_FOLDER = "python"
# Of isthmus, what opens and runs a bundle. Their own contract says that they need nothing else.
_MODULES = (
    "errors.py", "machine.py", "bundle/__init__.py", "bundle/digest.py", "bundle/fields.py",
    "bundle/folder.py", "bundle/manifest.py", "bundle/reader.py", "bundle/selftest.py", "runtime/__init__.py",
    "runtime/library.py", "runtime/loader.py",
)  # fmt: skip
_TAKEN = {"numpy", "isthmus", *sys.stdlib_module_names}


def files(parts: Parts) -> dict[str, bytes]:
    """The package's files by path in the bundle."""
    name = package_name(parts.manifest)
    words = {
        "name": name,
        "title": parts.manifest.name,
        "chip": parts.manifest.chip.name,
        "tag": parts.wheel or "any",
        "call": "".join(f"    {_example(port)},\n" for port in parts.manifest.entries[0].inputs),
        "inputs": _list(parts.manifest.entries[0].inputs),
        "outputs": _list(parts.manifest.entries[0].outputs),
    }
    made = {path: _filled(path, words) for path in ("pyproject.toml", "README.md", "backend.py")}
    made |= {f"{name}/{path}": _filled(path, words) for path in ("__init__.py", "__main__.py", "py.typed")}
    made |= {f"{name}/_isthmus/{path}": _renamed(path, name) for path in ("__init__.py", *_MODULES)}
    return {f"{_FOLDER}/{path}": text.encode() for path, text in made.items()}


def package_name(manifest: Manifest) -> str:
    """The bundle's name as something that can be imported."""
    name = re.sub(r"\W+", "_", manifest.name.lower(), flags=re.ASCII).strip("_")
    free = name.isidentifier() and not keyword.iskeyword(name) and name not in _TAKEN
    return name if free else f"model_{name}".rstrip("_")


def _filled(path: str, words: dict[str, str]) -> str:
    return Template(_read(resources.files("isthmus.packages.python") / "files" / f"{path}.in")).substitute(
        words
    )


def _renamed(path: str, name: str) -> str:
    """A module of ours under the name that it has inside the package."""
    if path == "__init__.py":
        return '"""The Isthmus runtime, as it was when this model was compiled."""\n'
    text = _read(resources.files("isthmus") / path)
    return re.sub(r"^(\s*(?:from|import) )isthmus\b", rf"\g<1>{name}._isthmus", text, flags=re.MULTILINE)


def _read(file: Traversable) -> str:
    return file.read_text(encoding="utf-8")


def _example(port: Port) -> str:
    dims = ", ".join(str(dim) if isinstance(dim, int) else "2" for dim in port.dims)
    value = f"np.zeros(({dims}{',' * (len(port.dims) == 1)}), np.{DTYPES[port.dtype][1].name})"
    return f"{port.name}={value}" if port.name.isidentifier() else f"**{{{json.dumps(port.name)}: {value}}}"


def _list(ports: tuple[Port, ...]) -> str:
    return "".join(f"- `{port}`\n" for port in ports)
