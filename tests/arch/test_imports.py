"""Who may import what, where import-linter does not look: inside functions, and outside our package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path for folder in ("compiler", "frontends", "targets") for path in (ROOT / folder).rglob("*.py")
)

# Heavy packages -> the folders (or files) that may import them.
ROOMS = {
    "tvm": ("compiler/kernels", "compiler/codegen"),
    # IREE is given a model with its sizes written into it.
    "onnx": ("frontends/onnx", "compiler/onnx_backend.py", "compiler/tools/peers/iree.py"),
    "onnxruntime": ("compiler/tools",),
    "openvino": ("compiler/tools/peers",),
    "iree": ("compiler/tools/peers",),
    "matplotlib": ("compiler/tools/plot.py",),
    "click": ("compiler/cli",),
    "rich": ("compiler/cli",),
    "fsspec": ("compiler/matrix/cache.py",),
    "distributed": ("compiler/matrix/pool.py",),
}


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, module) of every import under `tree`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or ""


def local_imports(tree: ast.Module) -> list[int]:
    """Lines where a function imports our own package: each such import hides a cycle."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return sorted(
        {
            line
            for function in functions
            for line, module in imported(function)
            if module.split(".")[0] == "isthmus"
        }
    )


def strangers(path: str, tree: ast.Module) -> list[str]:
    """Imports of a heavy package outside its room."""
    return [
        f"{path}:{line} imports {module}"
        for line, module in imported(tree)
        if (rooms := ROOMS.get(module.split(".")[0])) and not any(path.startswith(room) for room in rooms)
    ]


def test_the_rules_can_fail() -> None:
    assert local_imports(ast.parse("def f():\n    from isthmus.ir import types\n")) == [2]
    assert strangers("compiler/ir/x.py", ast.parse("import tvm.tir")) == [
        "compiler/ir/x.py:1 imports tvm.tir"
    ]
    assert not strangers("compiler/kernels/x.py", ast.parse("import tvm.tir"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    where = path.relative_to(ROOT).as_posix()
    # The public names are looked up lazily, so that loading a bundle loads no compiler.
    if where != "compiler/__init__.py":
        assert not local_imports(tree), f"{where} imports isthmus inside a function"
    assert not strangers(where, tree)
