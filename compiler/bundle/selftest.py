"""The question and the answer that a bundle carries: inputs, expected outputs, and how close they must be."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from isthmus.bundle.fields import Reader
from isthmus.bundle.reader import Bundle
from isthmus.errors import BundleError, Code, Problem

FOLDER = "selftest"
INDEX = f"{FOLDER}/selftest.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip file can hold

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """|got - expected| <= absolute + relative * |expected|, element by element; NaN equals NaN.

    Where `norm` is given, also for the length of the whole: |got - expected|_2 <= norm * |expected|_2.
    """

    absolute: float
    relative: float = 0.0
    norm: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One request of the entry point `entry` and what it must give."""

    entry: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    tolerance: Tolerance


def dump(cases: Sequence[Case]) -> dict[str, bytes]:
    """The files of the self-test by path in the bundle; the same cases give the same bytes."""
    files: dict[str, bytes] = {}
    index = []
    for number, case in enumerate(cases):
        inputs, outputs = f"{FOLDER}/{number:03}.inputs.npz", f"{FOLDER}/{number:03}.outputs.npz"
        files[inputs] = pack(case.inputs)
        files[outputs] = pack(case.outputs)
        index.append(
            {
                "entry": case.entry,
                "inputs": inputs,
                "outputs": outputs,
                "absolute": case.tolerance.absolute,
                "relative": case.tolerance.relative,
                **({} if case.tolerance.norm is None else {"norm": case.tolerance.norm}),
            }
        )
    text = json.dumps({"cases": index}, sort_keys=True, indent=2) + "\n"
    return {INDEX: text.encode(), **files}


def load(bundle: Bundle) -> tuple[Case, ...]:
    """The cases of a bundle (none if it has no self-test). Raises `BundleError` if they make no sense."""
    if INDEX not in bundle.manifest.files:
        return ()
    return read({path: bundle.file(path) for path in bundle.manifest.files})


def read(files: Mapping[str, Path]) -> tuple[Case, ...]:
    """The cases that `dump` made these files of. Raises `BundleError` if they make no sense."""
    path = files[INDEX]
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(
            Problem(Code.NOT_A_BUNDLE, f"the self-test cannot be read: {error}", str(path))
        ) from None
    reader = Reader(raw, str(path))
    plans = [
        (
            item.text("entry"),
            item.choice("inputs", tuple(files)),
            item.choice("outputs", tuple(files)),
            Tolerance(item.number("absolute"), item.number("relative"), item.optional_number("norm")),
        )
        for item in reader.children("cases")
    ]
    reader.finish()
    return tuple(
        Case(entry, unpack(files[inputs]), unpack(files[outputs]), tolerance)
        for entry, inputs, outputs, tolerance in plans
    )


def pack(arrays: Mapping[str, Array]) -> bytes:
    """An .npz file in memory, names in order, without a clock and without compression."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            member = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            member.create_system = 3  # the same on every system
            with archive.open(member, "w") as file:
                np.lib.format.write_array(file, np.ascontiguousarray(arrays[name]), allow_pickle=False)
    return out.getvalue()


def unpack(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file, by name. Pickled objects in it are an error, never executed."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BundleError(Problem(Code.NOT_A_BUNDLE, f"cannot read the arrays: {error}", str(path))) from None


def differences(case: Case, outputs: Mapping[str, Array]) -> list[str]:
    """In words, where `outputs` are not what the case expects; empty if they are."""
    found = [f"output {name!r} is missing" for name in case.outputs if name not in outputs]
    for name, expected in case.outputs.items():
        if name in outputs:
            found += _difference(name, expected, outputs[name], case.tolerance)
    return found


def bf16_to_f32(bits: Array) -> Array:
    """The numbers that bfloat16 values stand for; NumPy knows the type only as uint16."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _difference(name: str, expected: Array, got: Array, tolerance: Tolerance) -> list[str]:
    if expected.dtype == np.float32 and got.dtype == np.uint16:
        got = bf16_to_f32(got)  # expected outputs of that type are stored as f32
    if expected.shape != got.shape or expected.dtype != got.dtype:
        is_this, not_that = (f"{array.dtype}{list(array.shape)}" for array in (got, expected))
        return [f"output {name!r} is {is_this}, expected {not_that}"]
    if expected.dtype.kind != "f":
        wrong = int(np.count_nonzero(expected != got))
        return [f"output {name!r}: {wrong} of {expected.size} elements differ"] if wrong else []
    with np.errstate(invalid="ignore"):  # inf - inf, and some chips' NaN when it is widened
        want, have = expected.astype(np.float64), got.astype(np.float64)
        distance = np.where((want == have) | (np.isnan(want) & np.isnan(have)), 0.0, np.abs(want - have))
        close = distance <= tolerance.absolute + tolerance.relative * np.abs(want)
        # Where an infinity is expected, the tolerance would be infinite too and allow anything.
        good = (distance == 0) | (np.isfinite(want) & close)
    if good.all():
        return _too_far(name, want, distance, tolerance.norm)
    worst = np.unravel_index(
        int(np.argmax(np.where(good, -1.0, np.nan_to_num(distance, nan=np.inf)))), want.shape
    )
    place = ", ".join(map(str, worst))
    count = int(np.count_nonzero(~good))
    worst_pair = f"{have[worst]:.9g}, expected {want[worst]:.9g}"
    return [
        f"output {name!r}: {count} of {want.size} elements are too far off; worst at [{place}]: {worst_pair}"
    ]


def _too_far(name: str, want: Array, distance: Array, norm: float | None) -> list[str]:
    """Whether the whole is too far off, though no element is."""
    length = float(np.linalg.norm(want[np.isfinite(want)]))
    far = float(np.linalg.norm(distance))
    if norm is None or far <= norm * length:
        return []
    return [
        f"output {name!r}: off by {far / length if length else np.inf:.3g} of its length, allowed {norm:.3g}"
    ]
