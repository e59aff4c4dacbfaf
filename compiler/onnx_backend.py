"""ONNX's backend interface (`onnx.backend.base`), so that others can run us in their harness.

A model is compiled on its first run. Inputs that only say how (a new shape, axes, how many to take) are
compiled in, as an exporter would have written them; other contents of such an input compile it again.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.base import Backend, BackendRep

from isthmus.codegen.cache import cache_dir
from isthmus.driver import Options, compile_model
from isthmus.errors import Code, ModelError, Problem
from isthmus.ir.types import Array, DType
from isthmus.runtime import Session, load

_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")

# The inputs of operators that say how to compute rather than on what.
SETTINGS: Mapping[str, tuple[int, ...]] = {
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "Compress": (1,),
    "ConstantOfShape": (0,),
    "CumProd": (1,),
    "CumSum": (1,),
    "DFT": (1, 2),
    "Dropout": (1, 2),
    "Expand": (1,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "If": (0,),
    "Loop": (0, 1),
    "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1, 2, 3, 4),
    "OneHot": (1,),
    "Pad": (1, 2, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "STFT": (1, 3),
    "SequenceAt": (1,),
    "SequenceErase": (1,),
    "SequenceInsert": (2,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "SplitToSequence": (1,),
    "Squeeze": (1,),
    "Tile": (1, 2),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
    "AffineGrid": (1,),
    "Col2Im": (1, 2),
    **{f"Reduce{name}": (1,) for name in _REDUCTIONS},
}
SIZES_ONLY = ("Shape", "Size")  # what they read is known without contents


def settings(model: onnx.ModelProto) -> frozenset[str]:
    """The names of graph inputs, vectors at most, that only reach settings of operators."""
    vectors = {i.name for i in model.graph.input if len(i.type.tensor_type.shape.dim) <= 1}
    makers = {name: node for node in _all_nodes(model.graph.node) for name in node.output if name}
    pending = [n for node in _all_nodes(model.graph.node) for n in _setting_names(node)]
    reached: set[str] = set()
    while pending:
        name = pending.pop()
        if name in reached:
            continue
        reached.add(name)
        if (maker := makers.get(name)) is not None and maker.op_type not in SIZES_ONLY:
            # What a graph inside a node reads counts as read by the node.
            pending.extend(n for inner in _all_nodes([maker]) for n in inner.input)
    return frozenset(reached & vectors)


def _all_nodes(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _all_nodes(attribute.g.node)


def _setting_names(node: onnx.NodeProto) -> list[str]:
    places = SETTINGS.get(node.op_type, ())
    return [name for i, name in enumerate(node.input) if i in places and name]


def settle(model: onnx.ModelProto, contents: Mapping[str, Array]) -> onnx.ModelProto:
    """`model` with the inputs named in `contents` as weights."""
    settled = onnx.ModelProto()
    settled.CopyFrom(model)
    del settled.graph.input[:]
    settled.graph.input.extend(i for i in model.graph.input if i.name not in contents)
    settled.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), n) for n, a in contents.items())
    return settled


def as_bits(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """`arrays` with floats of 8 bits and 4 as bytes, which is what imported models take and give for them."""
    return {n: a.view(np.uint8) if DType.of(a.dtype).is_stored else a for n, a in arrays.items()}


def run_session(session: Session, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Run with bf16 as onnx has it; the runtime, which has only NumPy, calls its bits uint16."""
    half = DType.BF16.numpy
    plain = {n: a.view(np.uint16) if a.dtype == half else a for n, a in arrays.items()}
    results = session.run(plain)
    halves = {p.name for p in session.outputs if p.dtype == str(DType.BF16)}
    return {n: a.view(half) if n in halves else a for n, a in results.items()}


class Compiled(BackendRep):
    """A model, ready to run. `run` takes the inputs in order and returns the outputs in order."""

    def __init__(self, model: onnx.ModelProto, cache: Path | None = None) -> None:
        weights = {w.name for w in model.graph.initializer}
        self.model = model
        self.cache = cache_dir(os.environ) if cache is None else cache
        self.inputs = [i.name for i in model.graph.input if i.name not in weights]
        self.settings = settings(model) & set(self.inputs)

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Raises `ModelError` for what we do not implement, `InputError` for inputs that do not fit."""
        given = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
        if len(given) != len(self.inputs):
            text = f"the model has {len(self.inputs)} inputs, got {len(given)}"
            raise ModelError(Problem(Code.BAD_INPUT, text))
        arrays = dict(zip(self.inputs, given, strict=True))
        for name, value in arrays.items():
            if not isinstance(value, np.ndarray | np.generic):
                text = f"a {type(value).__name__} is not a tensor"
                raise ModelError(Problem(Code.UNSUPPORTED_DTYPE, text, f"input {name!r}"))
        known = {n: np.asarray(a) for n, a in arrays.items() if n in self.settings}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(settle(self.model, known).SerializeToString())
            bundle = compile_model(path, "host", Path(folder), Options(verify=False, cache=self.cache))
            with load(bundle.path) as session:
                results = run_session(
                    session, as_bits({n: np.asarray(a) for n, a in arrays.items() if n not in known})
                )
        return tuple(self._result(o, results[o.name]) for o in self.model.graph.output)

    def _result(self, output: onnx.ValueInfoProto, array: Array) -> Array:
        wanted = onnx.helper.tensor_dtype_to_np_dtype(output.type.tensor_type.elem_type or 1)
        return array.view(wanted) if array.dtype == np.uint8 and DType.of(wanted).is_stored else array


class IsthmusBackend(Backend):
    """Compiles for this machine."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> Compiled:
        """Check the model's form; it is compiled on its first run. Raises `ModelError`."""
        if not cls.supports_device(device):
            raise ModelError(Problem(Code.UNKNOWN_TARGET, f"no device {device!r}; known: CPU"))
        return Compiled(model, **kwargs)

    @classmethod
    def run_model(
        cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any
    ) -> tuple[Any, ...]:
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any
    ) -> tuple[Any, ...]:
        """One node on its own. `outputs_info` is not needed: types are inferred."""
        arrays = [np.asarray(a) for a in (inputs if isinstance(inputs, list | tuple) else [inputs])]
        opset = int(kwargs.pop("opset_version", onnx.defs.onnx_opset_version()))
        names = [n for n in node.input if n]
        graph = onnx.helper.make_graph(
            [node],
            "node",
            [
                onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
                for n, a in zip(names, arrays, strict=True)
            ],
            [onnx.ValueInfoProto(name=n) for n in node.output if n],
        )
        opsets = [onnx.helper.make_opsetid(node.domain, opset if not node.domain else 1)]
        if node.domain:
            opsets.append(onnx.helper.make_opsetid("", opset))
        return cls.run_model(onnx.helper.make_model(graph, opset_imports=opsets), arrays, device, **kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device.split(":")[0] == "CPU"


prepare = IsthmusBackend.prepare
run_model = IsthmusBackend.run_model
run_node = IsthmusBackend.run_node
supports_device = IsthmusBackend.supports_device
is_compatible = IsthmusBackend.is_compatible
