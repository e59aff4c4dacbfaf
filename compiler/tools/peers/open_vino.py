"""OpenVINO. It would choose bf16 by itself where the processor has it, and is told to compute in f32.

The model is compiled for each size: one for all sizes was measured to be 4 to 9 % slower.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.tools.peers.engine import Array, Request, refuse_fixed, refused

_CONFIG: Mapping[str, object] = {
    "NUM_STREAMS": 1,
    "PERFORMANCE_HINT": "LATENCY",
    # Processors are chosen for all engines alike, by the process.
    "ENABLE_CPU_PINNING": False,
}


class Engine:
    """OpenVINO with one model, told to compute in `precision`."""

    shapes = "each"

    def __init__(self, model: Path, threads: int, precision: str) -> None:
        # Imported when asked for: most installations do not have it.
        import openvino

        self._core = openvino.Core()
        self._model = model
        self._config = {
            **_CONFIG,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": precision,
        }
        self.version = str(openvino.__version__)
        self.precision = precision

    def request(self, inputs: Mapping[str, Array]) -> Request:
        try:
            model = self._core.read_model(self._model)
            # Other inputs than those are the model's own affair.
            known = {name for port in model.inputs for name in port.names}
            model.reshape({name: list(array.shape) for name, array in inputs.items() if name in known})
            compiled = self._core.compile_model(model, "CPU", self._config)
        except Exception as error:
            # It raises RuntimeError, and whatever its bindings raise.
            raise refused("OpenVINO", self._model, error) from error
        self.precision = _short(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())
        request = compiled.create_infer_request()
        given = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        return Request(lambda: request.infer(given, share_inputs=True, share_outputs=True), _arrays)


def _arrays(result: Any) -> Mapping[str, Array]:
    copies = [(port.names, np.array(array)) for port, array in result.items()]
    return {name: array for names, array in copies for name in names}


def _short(precision: str) -> str:
    return {"float32": "f32", "float": "f32", "bfloat16": "bf16", "float16": "f16"}.get(precision, precision)


def open_model(model: Path, threads: int, fixed: Mapping[str, Array]) -> Engine:
    """`model`, which is read again for each size."""
    refuse_fixed("openvino", model, fixed)
    return Engine(model, threads, "f32")
