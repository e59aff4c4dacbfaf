"""Weights are handles, and dumps of programs share their contents."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from isthmus.errors import Code, ModelError
from isthmus.ir.encodings import Panels
from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Graph, Program, Value, graph_input, weight_value
from isthmus.ir.printer import show
from isthmus.ir.store import Stored, dump
from isthmus.ir.types import Array, DType, TensorType
from isthmus.ir.weights import InFile, InMemory, Unpacked, Weight
from isthmus.ops.pointwise import add, neg
from isthmus.ops.text import load

ARRAY = np.arange(60, dtype=np.float32).reshape(5, 12)
TYPE = TensorType(DType.F32, (5, 12))


def file_of(folder: Path, data: bytes, name: str = "model.bin") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_memory() -> None:
    weight = Weight.of("w", ARRAY)
    assert weight.type == TYPE
    np.testing.assert_array_equal(weight.read(), ARRAY)
    assert weight.digest == hashlib.sha256(ARRAY.tobytes()).hexdigest()
    assert Weight.of("w", ARRAY[:, ::2].T).read().tolist() == ARRAY[:, ::2].T.tolist()
    assert Weight.of("s", np.asarray(ml_dtypes.bfloat16(2.5))).read() == 2.5
    assert Weight.of("e", np.zeros((0, 3), np.int8)).read().shape == (0, 3)


def test_a_weight_is_a_copy() -> None:
    array = ARRAY.copy()
    weight = Weight.of("w", array)
    array[0, 0] = 99
    assert weight.read()[0, 0] == 0


def test_files_are_read_at_any_offset_and_not_before(tmp_path: Path) -> None:
    source = InFile(tmp_path / "later.bin", 7, ARRAY.nbytes)
    weight = Weight("w", TYPE, source)
    file_of(tmp_path, b"1234567" + ARRAY.tobytes() + b"more", "later.bin")
    np.testing.assert_array_equal(weight.read(), ARRAY)
    assert weight.digest == hashlib.sha256(ARRAY.tobytes()).hexdigest()
    assert weight.digest == Weight.of("other", ARRAY).digest
    assert not weight.read().flags.writeable


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 30])
def test_narrow_numbers_are_read_as_bytes(bits: int, signed: bool, count: int) -> None:
    low = -(1 << bits - 1) if signed else 0
    numbers = np.random.default_rng(bits).integers(low, low + (1 << bits), count)
    packed = bytearray(-(-count * bits // 8))
    for i, number in enumerate(numbers):
        packed[i * bits // 8] |= (int(number) & (1 << bits) - 1) << i * bits % 8
    weight = Weight(
        "w",
        TensorType(DType.I8 if signed else DType.U8, (count, 1)),
        Unpacked(InMemory(bytes(packed)), bits, signed, count),
    )
    np.testing.assert_array_equal(weight.read(), numbers.reshape(count, 1))
    assert weight.digest != Weight("w", weight.type, InMemory(bytes(packed))).digest


def test_scalars_and_nothing_in_files(tmp_path: Path) -> None:
    path = file_of(tmp_path, b"abcd" + np.float32(1.5).tobytes())
    assert Weight("s", TensorType(DType.F32, ()), InFile(path, 4, 4)).read() == 1.5
    empty = Weight("e", TensorType(DType.F32, (0, 2)), InFile(path, 8, 0))
    assert empty.read().shape == (0, 2)
    assert empty.digest == hashlib.sha256(b"").hexdigest()


def test_encodings_are_computed_when_asked_for() -> None:
    plain = Weight.of("w", ARRAY)
    packed = plain.encoded(Panels(8))
    assert packed.source is plain.source
    assert packed.type == replace(TYPE, encoding=Panels(8))
    np.testing.assert_array_equal(packed.read(), ARRAY)
    np.testing.assert_array_equal(packed.stored(), Panels(8).encode(ARRAY))
    np.testing.assert_array_equal(plain.stored(), ARRAY)
    assert packed.digest == plain.digest
    assert packed.renamed("v").name == "v"


# --- dumps ---------------------------------------------------------------------------------------


def program_of(*weights: Weight) -> Program:
    x = graph_input("x", TYPE)
    value: Value = x
    for weight in weights:
        value = add(value, weight_value(weight))
    return Program("m", (Graph("main", (x,), (("y", value),)),), ())


def changed(program: Program) -> Program:
    return program.map_graphs(lambda g: g.with_outputs(tuple(neg(v) for _, v in g.outputs)))


def test_a_dump_reads_back(tmp_path: Path) -> None:
    source = InFile(file_of(tmp_path, bytes(4) + ARRAY.tobytes()), 4, ARRAY.nbytes)
    program = program_of(Weight("w", TYPE, source), Weight.of("v", -2 * ARRAY), Weight.of("w", ARRAY + 1))
    path = dump(program, tmp_path / "dumps", "1-clean")
    assert path == tmp_path / "dumps" / "1-clean.txt"
    back = load(path)
    assert show(back) == show(program) == path.read_text("utf-8")
    arrays: dict[str, Array] = {"x": ARRAY}
    np.testing.assert_array_equal(evaluate(back.main, arrays)["y"], evaluate(program.main, arrays)["y"])
    assert all(isinstance(w.source, Stored) for w in back.main.weights())
    # Dumping what was read, elsewhere, writes the same files.
    other = dump(back, tmp_path / "again", "1-clean")
    assert other.read_bytes() == path.read_bytes()
    assert names(tmp_path / "again") == names(tmp_path / "dumps")


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def test_dumps_share_contents(tmp_path: Path) -> None:
    program = program_of(Weight.of("w", ARRAY))
    dump(program, tmp_path, "1-clean")
    (kept,) = (tmp_path / "weights").iterdir()
    before = kept.stat()
    dump(changed(program), tmp_path, "2-fuse")
    (kept,) = (tmp_path / "weights").iterdir()
    assert kept.name == hashlib.sha256(ARRAY.tobytes()).hexdigest()
    assert (kept.stat().st_ino, kept.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert names(tmp_path) == ["1-clean.txt", "2-fuse.txt", "weights", f"weights/{kept.name}"]


def test_loading_reads_no_weights(tmp_path: Path) -> None:
    path = dump(program_of(Weight.of("w", ARRAY)), tmp_path, "p")
    (kept,) = (tmp_path / "weights").iterdir()
    atime = 1_000_000_000
    os.utime(kept, (atime, atime))
    before = kept.read_bytes()
    kept.write_bytes(bytes(len(before)))
    program = load(path)  # right length, wrong contents: found out when they are read
    (weight,) = program.main.weights()
    assert weight.digest == kept.name
    with pytest.raises(ModelError, match="not what their name says") as caught:
        weight.read()
    assert caught.value.problems[0].where == str(kept)
    kept.write_bytes(before)
    (weight,) = load(path).main.weights()
    np.testing.assert_array_equal(weight.read(), ARRAY)


def test_missing_and_short_contents_are_all_listed(tmp_path: Path) -> None:
    path = dump(program_of(Weight.of("w", ARRAY), Weight.of("v", ARRAY + 1)), tmp_path, "p")
    first, second = sorted((tmp_path / "weights").iterdir())
    first.unlink()
    second.write_bytes(b"short")
    with pytest.raises(ModelError) as caught:
        load(path)
    assert [p.where for p in caught.value.problems] == [f"{path}:2:25", f"{path}:3:25"]
    assert {p.code for p in caught.value.problems} == {Code.BAD_TEXT}


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda p: None, Code.NO_SUCH_FILE),
        (lambda p: p.mkdir(), Code.NOT_A_FILE),
        (lambda p: p.write_bytes(b"\xff\xfe\x00"), Code.BAD_TEXT),
        (lambda p: p.write_bytes(b""), Code.BAD_TEXT),
        (lambda p: p.write_bytes(b"program \x00"), Code.BAD_TEXT),
    ],
    ids=["missing", "folder", "binary", "empty", "zero byte"],
)
def test_files_that_are_no_dumps(tmp_path: Path, make: object, code: Code) -> None:
    path = tmp_path / "p.txt"
    make(path)  # type: ignore[operator]
    with pytest.raises(ModelError) as caught:
        load(path)
    assert caught.value.problems[0].code is code


def test_a_device_is_not_read_to_its_end() -> None:
    with pytest.raises(ModelError, match="E1002"):
        load(Path("/dev/zero"))


def test_a_dump_that_cannot_be_written(tmp_path: Path) -> None:
    file_of(tmp_path, b"", "occupied")
    with pytest.raises(ModelError, match="E1008"):
        dump(program_of(Weight.of("w", ARRAY)), tmp_path / "occupied", "p")


def test_contents_computed_on_demand_are_filed_by_what_they_are(tmp_path: Path) -> None:
    class Doubled:
        def read(self, type_: TensorType) -> Array:
            return 2 * ARRAY

        def digest(self, type_: TensorType) -> str:
            return "twice-array"

    path = dump(program_of(Weight("w", TYPE, Doubled())), tmp_path, "p")
    (weight,) = load(path).main.weights()
    np.testing.assert_array_equal(weight.read(), 2 * ARRAY)
    assert weight.digest == hashlib.sha256((2 * ARRAY).tobytes()).hexdigest()


SCRIPT = """
import numpy as np
from isthmus.ir.graph import Graph, Program, constant, graph_input
from isthmus.ir.printer import show
from random_graphs import random_program
for seed in range(8):
    print(show(random_program(seed, 12)))
"""


def test_text_does_not_depend_on_the_hash_seed(root: Path) -> None:
    texts = set()
    for seed in ("0", "1"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root / "tests" / "support")}
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=True
        )
        texts.add(run.stdout)
    assert len(texts) == 1 and "graph main" in texts.pop()


def test_sources_with_equal_contents_are_equal() -> None:
    assert InMemory(b"ab") == InMemory(b"ab")
    assert InFile(Path("a"), 0, 4) == InFile(Path("a"), 0, 4)
