"""Operators of the standard domain that no bundle can hold, each with the reason and what to do instead."""

from __future__ import annotations

from collections.abc import Mapping

from isthmus.errors import Code
from isthmus.frontends.onnx.node import Importer, Node, Results

RANDOM = "random numbers differ from run to run, and answers of a bundle do not"
TEXT = "text is not a tensor of numbers"
_FOR_TRAINING = "export the model for inference, or give the numbers as an input"
_OUTSIDE = "do this before the model is called, and give it the result"
_BOXES = "leave this part out of the model and choose among its boxes and scores afterwards"
_SIZE = "how many elements come out depends on data"

_REASONS: Mapping[str, tuple[Code, str, str]] = {
    **dict.fromkeys(
        ("Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
        (Code.UNSUPPORTED_OPERATOR, RANDOM, _FOR_TRAINING),
    ),
    **dict.fromkeys(
        ("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit"),
        (Code.UNSUPPORTED_OPERATOR, TEXT, _OUTSIDE),
    ),
    "ImageDecoder": (Code.UNSUPPORTED_OPERATOR, "decoding files is not arithmetic on tensors", _OUTSIDE),
    "NonMaxSuppression": (Code.DATA_DEPENDENT_SHAPE, _SIZE, _BOXES),
}


def _refuse(node: Node) -> Results:
    code, reason, hint = _REASONS[node.op_type]
    raise node.error(code, f"{node.operator}: {reason}", hint)


OPERATORS: Mapping[str, Importer] = dict.fromkeys(_REASONS, _refuse)
