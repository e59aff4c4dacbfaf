"""A model in other engines' int8: onnxruntime's dynamic, and NNCF's for OpenVINO."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import similarity

Array = npt.NDArray[np.generic]
Request = dict[str, Array]

CALIBRATION = 40
INPUTS = ("input_ids", "attention_mask")


def calibration(fetch: Callable[[str], Path]) -> list[Request]:
    """The first forty news texts of Lee's background corpus, as requests: all engines calibrate on these.

    `fetch` finds files by the names they have in tests/data.lock.
    """
    encode = similarity.encoder(fetch("tokenizer.json"), INPUTS)
    return [encode(text) for text in similarity.lines(fetch("lee_background.cor"))[:CALIBRATION]]


def prepare(model: Path, made: Path) -> None:
    """`model` as onnxruntime wants it before it quantizes."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(str(model), str(made), skip_symbolic_shape=True)


def dynamic(prepared: Path, made: Path) -> None:
    """onnxruntime's int8 with rows quantized at run time, a scale for each column of a matrix."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(str(prepared), str(made), per_channel=True, weight_type=QuantType.QInt8)


def transformer(exact: Any, requests: Sequence[Request]) -> Any:
    """NNCF's int8 of an OpenVINO model: its preset for Transformers, which includes SmoothQuant."""
    import nncf

    kind = nncf.ModelType.TRANSFORMER
    return nncf.quantize(exact, nncf.Dataset(requests), model_type=kind, subset_size=len(requests))


def peer_models(model: Path, name: str, folder: Path, fetch: Callable[[str], Path]) -> Mapping[str, Path]:
    """`model` in int8 by engine: files in `folder`, made unless they are there, calibrated as above.

    OpenVINO has one twice: what stays in float may compute in f32, or in bf16.
    """
    folder.mkdir(parents=True, exist_ok=True)
    narrow = folder / f"{name}.dynamic.onnx"
    if not narrow.is_file():
        prepared = folder / f"{name}.prepared.onnx"
        prepare(model, prepared)
        dynamic(prepared, narrow)
        prepared.unlink()
    nncf_made = folder / f"{name}.nncf.xml"
    if not nncf_made.is_file():
        import openvino

        exact = openvino.Core().read_model(model)
        openvino.save_model(transformer(exact, calibration(fetch)), nncf_made, False)
    return {"onnxruntime": narrow, "openvino": nncf_made, "openvino-bf16": nncf_made}
