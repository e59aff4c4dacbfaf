"""Run a bundle. Needs NumPy and nothing of the compiler.

session = isthmus.runtime.load("dist/model@x86-64-v4")
outputs = session(input_ids=ids, attention_mask=mask)
"""

from isthmus.runtime.loader import Session, load

__all__ = ["Session", "load"]
