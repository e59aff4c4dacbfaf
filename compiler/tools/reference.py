"""onnxruntime, as a reference for answers and for time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from isthmus.errors import Code, ModelError, Problem

Array = npt.NDArray[np.generic]


class Reference:
    """One onnxruntime session on the CPU: arrays by input name in, arrays by output name out."""

    def __init__(self, model: Path, threads: int) -> None:
        """Load `model`. Raises ModelError when the file is missing or onnxruntime refuses it."""
        # Imported when asked for: it takes longer to load than most of our commands take.
        import onnxruntime

        if not model.is_file():
            raise ModelError(Problem(Code.NO_SUCH_FILE, "no such model file", str(model)))
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
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.version: str = onnxruntime.__version__

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once."""
        return dict(zip(self._outputs, self._session.run(None, dict(inputs)), strict=True))
