"""What every engine we compare with can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from isthmus.errors import Code, ModelError, Problem

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Request:
    """One request, ready to be timed: `run` answers it, and `read` gives what `run` returned as arrays by
    name; an output that the engine knows by several names is there under each."""

    run: Callable[[], object]
    read: Callable[[object], Mapping[str, Array]]


class Engine(Protocol):
    """A model in some engine. `precision` is what it computes in, as the engine itself says where it can;
    `shapes` says whether one compiled model serves `any` size or is made for `each`."""

    version: str
    precision: str
    shapes: str

    def request(self, inputs: Mapping[str, Array]) -> Request:
        """These inputs as a request. An engine that compiles for each size does so now."""
        ...


def refuse_fixed(engine: str, model: Path, fixed: Mapping[str, Array]) -> None:
    """Raise ModelError if inputs of the model are constants of the bundle, which `engine` cannot be told."""
    if fixed:
        text = f"{engine} is not told of inputs that are constants of the bundle: {', '.join(fixed)}"
        raise ModelError(Problem(Code.PEER_REFUSES, text, str(model)))


def refused(engine: str, model: Path, error: Exception) -> ModelError:
    """The engine's own words about a model it does not take."""
    return ModelError(Problem(Code.PEER_REFUSES, f"{engine} refuses the model: {error}", str(model)))
