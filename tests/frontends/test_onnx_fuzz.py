"""Damaged models: whatever is in the file, reading and planning it ends in a program or in coded problems.

Each batch runs in a child process with a limit on its memory, so that neither a crash nor a model that asks
for everything can hide.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from layer_models import layer_model

CHILD = """
import random, resource, sys, warnings
from pathlib import Path

import onnx

import isthmus.driver as driver
from isthmus.errors import IsthmusError

folder, seed = Path(sys.argv[1]), int(sys.argv[2])
limit = 6 << 30  # of addresses, which the libraries themselves use plenty of
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
good = (folder / "model.onnx").read_bytes()
rng = random.Random(seed)
target = driver.find_target("host")
NUMBERS = (0, -1, 1, 2**31, 2**62, -(2**63))


def bytes_changed():
    data = bytearray(good)
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data[: rng.randint(1, len(data))] if rng.random() < 0.2 else data)


def fields_changed():
    model = onnx.load_from_string(good)
    node = rng.choice(model.graph.node)
    match rng.randrange(6):
        case 0:
            del node.input[rng.randrange(len(node.input)) :]
        case 1:
            node.input[rng.randrange(len(node.input))] = rng.choice(model.graph.node).output[0]
        case 2:
            node.op_type = rng.choice(("Reshape", "Gather", "Softmax", "Concat", "Nothing", "Attention"))
        case 3:
            dims = rng.choice(model.graph.initializer).dims
            if dims:
                dims[0] = rng.choice(NUMBERS)
        case 4:
            for attribute in node.attribute:
                attribute.i = rng.choice(NUMBERS)
        case 5:
            port = rng.choice(model.graph.input).type.tensor_type
            port.shape.dim[0].dim_value = rng.choice(NUMBERS)
    return model.SerializeToString()


for number in range(int(sys.argv[3])):
    path = folder / f"{number}.onnx"
    path.write_bytes(rng.choice((bytes_changed, fields_changed))())
    try:
        options = driver.Options(warn=lambda problem: None)
        driver.prepare(driver.read_model(path, options), target, options)
    except IsthmusError as error:
        assert error.problems and all(p.code and p.message for p in error.problems)
    path.unlink()
print("done")
"""


@pytest.mark.parametrize("seed", range(4))
def test_damaged_models_end_in_problems(seed: int, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(layer_model().SerializeToString())
    command = [sys.executable, "-c", CHILD, str(tmp_path), str(seed), "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.strip() == "done", done.stderr[-3000:]
