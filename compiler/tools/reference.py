"""onnxruntime, as a reference for answers and for time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from isthmus.errors import Code, ModelError, Problem

Array = npt.NDArray[np.generic]


class Reference:
    """One onnxruntime session on the CPU: arrays by input name in, arrays by output name out."""

    def __init__(self, model: Path, threads: int, fixed: Mapping[str, Array] | None = None) -> None:
        """Load `model`, whose inputs in `fixed` are always the same.

        Raises ModelError when the file is missing or onnxruntime refuses it."""
        # Imported when asked for: it takes longer to load than most of our commands take.
        import onnxruntime

        if not model.is_file():
            raise ModelError(Problem(Code.NO_SUCH_FILE, "no such model file", str(model)))
        self._path = str(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(model), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            # Its exceptions have no common base but RuntimeError and Exception.
            raise ModelError(
                Problem(Code.NOT_ONNX, f"onnxruntime refuses the model: {error}", str(model))
            ) from error
        declared = {port.name: (port.type, port.shape) for port in self._session.get_inputs()}
        self._fixed = {n: _as_declared(a, *declared[n]) for n, a in (fixed or {}).items() if n in declared}
        self.outputs = tuple(output.name for output in self._session.get_outputs())
        self.version: str = onnxruntime.__version__

    def run(self, inputs: dict[str, Array]) -> list[Array]:
        """Run once; the outputs in the model's order. Raises ModelError for inputs it does not take."""
        try:
            return list(self._session.run(None, {**inputs, **self._fixed}))
        except Exception as error:
            # Of many kinds, as above: names, types and shapes that are those of another model.
            text = f"onnxruntime cannot answer the bundle's requests with this model: {error}"
            hint = "give the model that the bundle was compiled from"
            raise ModelError(Problem(Code.PEER_REFUSES, text, self._path, hint)) from error

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once."""
        return dict(zip(self.outputs, self.run(dict(inputs)), strict=True))


def _as_declared(array: Array, kind: str, shape: Sequence[object]) -> Array:
    """`array` in the type `tensor(...)`; one number fills whatever shape the model wants."""
    dtype = {"tensor(float)": "f4", "tensor(double)": "f8", "tensor(float16)": "f2"}.get(kind)
    converted = array.astype(dtype or kind.removeprefix("tensor(").removesuffix(")"))
    return np.full([int(str(d)) for d in shape], converted) if not array.ndim else converted
