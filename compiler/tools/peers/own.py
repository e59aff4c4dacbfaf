"""An engine of the user's: a function that opens a model, and gives a function that answers requests.

PyTorch is compared with in this way: it reads no ONNX, so that its side is the module the model came from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from isthmus.errors import Code
from isthmus.tools.functions import function_of
from isthmus.tools.peers.engine import Array, Request, refuse_fixed, refused

Answer = Callable[[Mapping[str, Array]], Mapping[str, Array]]


class _Engine:
    shapes = "any"

    def __init__(self, name: str, model: Path, answer: Answer) -> None:
        self._name, self._model, self._answer = name, model, answer
        self.precision = str(getattr(answer, "precision", "f32"))
        self.version = str(getattr(answer, "version", "of its own"))

    def request(self, inputs: Mapping[str, Array]) -> Request:
        given = dict(inputs)
        return Request(lambda: self._answered(given), self._read)

    def _answered(self, inputs: Mapping[str, Array]) -> object:
        try:
            return self._answer(inputs)
        except Exception as error:
            raise refused(self._name, self._model, error) from error

    def _read(self, result: object) -> Mapping[str, Array]:
        if not isinstance(result, Mapping):
            text = f"its answer is a {type(result).__name__}, and no dict of arrays by name"
            raise refused(self._name, self._model, TypeError(text))
        return result


def open_own(name: str, model: Path, threads: int, fixed: Mapping[str, Array]) -> _Engine:
    """The engine that `name`, `module:function`, opens: `function(model, threads)` gives a function from
    the inputs to the outputs, arrays by name; it may say its `version` and `precision` as attributes.

    Raises ModelError: bad-option when it cannot be loaded, peer-refuses when it raises.
    """
    opener = function_of(name, Code.BAD_OPTION, f"--against {name}")
    refuse_fixed(name, model, fixed)
    try:
        return _Engine(name, model, opener(model, threads))
    except Exception as error:
        raise refused(name, model, error) from error
