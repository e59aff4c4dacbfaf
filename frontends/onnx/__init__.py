"""The ONNX frontend: the only place that knows ONNX."""

from isthmus.frontends.onnx.convert import read
from isthmus.frontends.onnx.signature import DimOption, parse_dims

__all__ = ["DimOption", "parse_dims", "read"]
