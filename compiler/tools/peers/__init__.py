"""Other engines to compare with, by name; a user's own as `module:function`. None is imported unasked."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from isthmus.errors import Code, ModelError, Problem
from isthmus.tools.peers.engine import Array, Engine
from isthmus.tools.peers.own import open_own


@dataclass(frozen=True, slots=True)
class Peer:
    """One engine: the distributions it comes in, the module here whose `open_model` drives it, and the
    modules that this imports when asked to.

    Isthmus and its extra `bench` pin the versions that are compared with.
    """

    packages: tuple[str, ...]
    module: str
    imports: tuple[str, ...]

    def missing(self) -> tuple[str, ...]:
        """Distributions that are not installed."""
        return tuple(name for name in self.packages if not _installed(name))


PEERS: Mapping[str, Peer] = {
    "onnxruntime": Peer(("onnxruntime",), "isthmus.tools.peers.onnx_runtime", ("onnxruntime",)),
    "openvino": Peer(("openvino",), "isthmus.tools.peers.open_vino", ("openvino",)),
    "openvino-bf16": Peer(("openvino",), "isthmus.tools.peers.open_vino_bf16", ("openvino",)),
    "iree": Peer(
        ("iree-base-compiler", "iree-base-runtime"),
        "isthmus.tools.peers.iree",
        ("iree.runtime.version", "onnx"),
    ),
}


def check_installed(names: tuple[str, ...]) -> None:
    """Raise ModelError with every engine in `names` that is unknown or not installed, and how to get it."""
    problems = [problem for name in names if (problem := _problem(name)) is not None]
    if problems:
        raise ModelError(problems)


def _problem(name: str) -> Problem | None:
    if ":" in name:  # loaded when it is opened
        return None
    if name not in PEERS:
        hint = f"{', '.join(PEERS)}, or MODULE:FUNCTION, an engine of your own"
        return Problem(Code.BAD_OPTION, f"no engine called {name!r}", "--against", hint)
    missing = PEERS[name].missing()
    if not missing:
        return None
    text = f"{name} is not installed ({', '.join(missing)})"
    return Problem(Code.MISSING_PACKAGE, text, f"--against {name}", "pip install 'isthmus[bench]'")


def import_engine(name: str) -> None:
    """Import all that `open_engine` would, so that a clock need not count it."""
    check_installed((name,))
    for module in (PEERS[name].module, *PEERS[name].imports):
        importlib.import_module(module)


def open_engine(name: str, model: Path, threads: int, fixed: Mapping[str, Array] | None = None) -> Engine:
    """The engine called `name` with `model`, to compute on `threads` threads, one request at a time; its
    inputs in `fixed` are always the same.

    Raises ModelError when it is not installed, the file is missing, or the engine refuses it.
    """
    check_installed((name,))
    if not model.is_file():
        raise ModelError(Problem(Code.NO_SUCH_FILE, "no such model file", str(model)))
    if ":" in name:
        return open_own(name, model, threads, fixed or {})
    make: Callable[[Path, int, Mapping[str, Array]], Engine] = importlib.import_module(
        PEERS[name].module
    ).open_model
    return make(model, threads, fixed or {})


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
