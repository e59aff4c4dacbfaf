"""The ONNX frontend: the only place that knows ONNX."""

from isthmus.frontends.onnx.convert import Imported, read
from isthmus.frontends.onnx.files import file_digests
from isthmus.frontends.onnx.fix import parse_fixes
from isthmus.frontends.onnx.signature import DimOption, parse_dims

__all__ = ["DimOption", "Imported", "file_digests", "parse_dims", "parse_fixes", "read"]
