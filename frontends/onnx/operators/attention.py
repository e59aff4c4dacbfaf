"""."""

from isthmus.frontends.onnx.node import Importer

OPERATORS: dict[str, Importer] = {}
