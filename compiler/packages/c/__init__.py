"""For C and C++: the bundle is a prefix to install from, with a CMake config, a pkg-config file and examples.

Headers lie in `include/`, libraries in `lib/`; nothing is stored twice.
"""

from __future__ import annotations

import re
from importlib import resources
from string import Template

from isthmus.packages.parts import Parts

# Path in the bundle -> template; {name} is the package's.
_FILES = {
    "include/isthmus.hpp": "isthmus.hpp",
    "lib/cmake/{name}/{name}-config.cmake": "config.cmake.in",
    "lib/pkgconfig/{name}.pc": "package.pc.in",
    "c/CMakeLists.txt": "CMakeLists.txt.in",
    "c/example.c": "example.c",
    "c/example.cpp": "example.cpp",
}


def files(parts: Parts) -> dict[str, bytes]:
    """The package's files by path in the bundle."""
    manifest = parts.manifest
    name = package_name(manifest.name)
    words = {
        "name": name,
        "name_upper": name.upper(),
        "title": manifest.name,
        "chip": manifest.chip.name,
        "library": manifest.library.removeprefix("lib/"),
        "weights": manifest.weights or "",
    }
    folder = resources.files("isthmus.packages.c") / "files"
    made = {}
    for path, template in _FILES.items():
        text = (folder / template).read_text(encoding="utf-8")
        filled = Template(text).substitute(words) if template.endswith(".in") else text
        made[path.format(name=name)] = filled.encode()
    return made


def package_name(name: str) -> str:
    """The bundle's name in letters that CMake and C take for a word."""
    word = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
    return word if word and not word[0].isdigit() else f"model_{word}".rstrip("_")
