"""The ONNX frontend: the only place that knows ONNX."""

from isthmus.frontends.onnx.convert import Imported, read
from isthmus.frontends.onnx.signature import DimOption, parse_dims

__all__ = ["DimOption", "Imported", "parse_dims", "read"]
