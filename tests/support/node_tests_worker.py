"""Compile every n-th of ONNX's node tests: part, parts, a folder for kernels, the file for the results."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from node_tests import cases, compiled

part, parts, kernels, results = sys.argv[1:]
chosen = cases()[int(part) :: int(parts)]
Path(results).write_text(json.dumps(compiled(chosen, Path(kernels))))
