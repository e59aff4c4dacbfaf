"""IREE on the processor (`llvm-cpu`, data tiling), compiled for each size: seconds each.

Its importer and compiler are programs; weights stay in a file of parameters beside the compiled code.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from isthmus.errors import Code, ModelError, Problem
from isthmus.tools.peers.engine import Array, Request, refuse_fixed, refused

# -O3 refuses attention over 128 tokens: "exceeded stack allocation limit" (3.13).
_COMPILER = ("--iree-llvmcpu-target-cpu=host", "--iree-opt-data-tiling")
_SCOPE = "model"
_threads_of_process: list[int] = []


class _Engine:
    precision = "f32"
    shapes = "each"

    def __init__(self, model: Path, threads: int) -> None:
        # Imported when asked for: most installations do not have it.
        import iree.runtime
        import iree.runtime.version

        self._runtime: Any = iree.runtime
        self._model = model
        self.version = str(iree.runtime.version.VERSION)
        self._config = iree.runtime.Config(_driver(self._runtime, threads))

    def request(self, inputs: Mapping[str, Array]) -> Request:
        with tempfile.TemporaryDirectory(prefix="isthmus-iree-") as name:
            folder = Path(name)
            order, outputs = _fix_shapes(self._model, inputs, folder / "fixed.onnx")
            try:
                code = _compile(folder)
                function = self._load(code, folder / "weights.irpa")
            except subprocess.CalledProcessError as error:
                raise refused("IREE", self._model, RuntimeError(_first_error(error.stderr))) from error
        device = self._config.device
        given = [self._runtime.asdevicearray(device, np.ascontiguousarray(inputs[name])) for name in order]
        return Request(
            lambda: _to_host(function(*given)),
            lambda result: dict(zip(outputs, cast("Sequence[Array]", result), strict=True)),
        )

    def _load(self, code: Path, weights: Path) -> Callable[..., object]:
        runtime, instance = self._runtime, self._config.vm_instance
        index = runtime.ParameterIndex()
        index.load(str(weights))
        parameters = runtime.create_io_parameters_module(instance, index.create_provider(scope=_SCOPE))
        module = runtime.VmModule.copy_buffer(instance, code.read_bytes())
        names = [n for n in module.function_names if not n.startswith("__") and not n.endswith("$async")]
        loaded = runtime.load_vm_modules(parameters, module, config=self._config)[-1]
        function: Callable[..., object] = getattr(loaded, names[0])
        return function


def _driver(runtime: Any, threads: int) -> str:
    """On one thread its simplest driver; its pool of threads has one size for the life of a process."""
    if threads == 1:
        return "local-sync"
    if not _threads_of_process:
        runtime.flags.parse_flags(f"--task_topology_group_count={threads}")
        _threads_of_process.append(threads)
    if _threads_of_process != [threads]:
        text = f"IREE has {_threads_of_process[0]} threads in this process, and cannot have {threads}"
        raise ModelError(
            Problem(Code.BAD_OPTION, text, "--threads", "one run for each number of threads above 1")
        )
    return "local-task"


def _fix_shapes(model: Path, inputs: Mapping[str, Array], output: Path) -> tuple[list[str], list[str]]:
    """Write the model for the sizes of `inputs`; the names of its inputs and outputs in order."""
    import onnx

    made = onnx.load(model)
    weights = {weight.name for weight in made.graph.initializer}
    ports = [port for port in made.graph.input if port.name not in weights]
    for port in ports:
        for dim, size in zip(port.type.tensor_type.shape.dim, inputs[port.name].shape, strict=True):
            dim.dim_value = size
    for port in (*made.graph.output, *made.graph.value_info):
        for dim in port.type.tensor_type.shape.dim:
            dim.Clear()  # inferred again from the inputs
    onnx.save(made, output)
    return [port.name for port in ports], [port.name for port in made.graph.output]


def _compile(folder: Path) -> Path:
    text, weights, code = (folder / name for name in ("model.mlir", "weights.irpa", "model.vmfb"))
    kept = ["--externalize-params", "--params-scope", _SCOPE, "--save-params-to", str(weights)]
    opset = ["--opset-version", "17"]  # the oldest its importer takes whole
    _call("iree.compiler.tools.import_onnx", str(folder / "fixed.onnx"), "-o", str(text), *kept, *opset)
    target = ["--iree-input-type=onnx", "--iree-hal-target-backends=llvm-cpu", *_COMPILER]
    _call("iree.compiler.tools.scripts.iree_compile", str(text), "-o", str(code), *target)
    return code


def _call(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], check=True, capture_output=True, text=True)


def _first_error(text: str) -> str:
    lines = [line for line in text.splitlines() if "error" in line.lower()]
    return (lines or text.splitlines() or ["it says nothing"])[0][:300]


def _to_host(result: object) -> Sequence[Array]:
    arrays = result if isinstance(result, tuple | list) else (result,)
    return [array.to_host() for array in arrays]


def open_model(model: Path, threads: int, fixed: Mapping[str, Array]) -> _Engine:
    """`model`, which is compiled for each size."""
    refuse_fixed("iree", model, fixed)
    return _Engine(model, threads)
