"""Loading a bundle and running it from Python."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from isthmus.errors import BundleError, Code, InputError
from isthmus.runtime import load
from isthmus.runtime.library import DTYPES

MakeRequest = Callable[..., dict[str, np.ndarray]]


def codes(error: pytest.ExceptionInfo[InputError] | pytest.ExceptionInfo[BundleError]) -> list[Code]:
    return [problem.code for problem in error.value.problems]


def messages(error: pytest.ExceptionInfo[InputError]) -> list[str]:
    return [problem.message for problem in error.value.problems]


def test_runs_the_example_for_any_size(bundle: Path, make_request: MakeRequest) -> None:
    with load(bundle, threads=2) as session:
        assert session.threads == 2
        for batch, seq in ((1, 1), (3, 5), (8, 700), (2, 2), (1, 100_000)):
            inputs = make_request(batch, seq)
            outputs = session(**inputs)
            y = 2 * inputs["x"] + 1
            np.testing.assert_array_equal(outputs["y"], y)
            np.testing.assert_array_equal(outputs["z"], y.sum(axis=1, dtype=np.float32))


def test_runs_the_entry_that_is_asked_for(bundle: Path) -> None:
    with load(bundle, threads=1) as session:
        x, doubled = np.ones(3, np.float32), np.full(6, 2, np.float32)
        outputs = session.run({"x": x, "doubled": doubled}, entry="check")
        assert outputs["sum"].shape == () and outputs["sum"] == 15
        with pytest.raises(InputError, match="did you mean 'check'") as error:
            session.run({}, entry="chek")
        assert codes(error) == [Code.BAD_INPUT]


def test_outputs_are_aligned_new_arrays(bundle: Path, make_request: MakeRequest) -> None:
    with load(bundle, threads=1) as session:
        first, second = session(**make_request(2, 3)), session(**make_request(2, 3))
        for name in ("y", "z"):
            assert first[name].ctypes.data % 64 == 0
            assert first[name].flags.c_contiguous and first[name].flags.writeable
            assert not np.shares_memory(first[name], second[name])


def test_inputs_are_read_in_place_or_copied_when_strided(bundle: Path, make_request: MakeRequest) -> None:
    with load(bundle, threads=1) as session:
        inputs = make_request(4, 6)
        expected = session(**inputs)["y"]
        wide = np.repeat(inputs["x"], 2, axis=1)
        unaligned = np.frombuffer(b"?" + inputs["x"].tobytes(), np.float32, offset=1).reshape(4, 6)
        for x in (wide[:, ::2], np.asfortranarray(inputs["x"]), unaligned):
            np.testing.assert_array_equal(session(**{**inputs, "x": x})["y"], expected)


def test_names_that_do_not_fit_are_all_reported(bundle: Path, make_request: MakeRequest) -> None:
    inputs: dict[str, object] = dict(make_request(2, 3))
    del inputs["bias"]
    inputs["maks"] = inputs.pop("mask")
    inputs["x"] = [[1.0, 2.0]]
    with load(bundle, threads=1) as session, pytest.raises(InputError) as error:
        session(**inputs)  # type: ignore[arg-type]
    assert messages(error) == [
        "input 'mask' is missing",
        "input 'bias' is missing",
        "input 'x' is a list, expected a NumPy array",
        "there is no input called 'maks'",
    ]
    assert "did you mean 'mask'?" in str(error.value)
    assert "np.asarray(..., dtype=np.float32)" in str(error.value)


def test_dtypes_and_dims_that_do_not_fit_are_all_reported(bundle: Path, make_request: MakeRequest) -> None:
    inputs = make_request(2, 16)
    inputs["mask"] = np.ones((2, 12), np.int32)
    inputs["bias"] = np.ones((1, 3), np.float32)
    with load(bundle, threads=1) as session, pytest.raises(InputError) as error:
        session(**inputs)
    assert messages(error) == [
        "input 'mask': dtype is int32, expected int64",
        "input 'mask': dim 1 (seq) is 12, but 'x' says seq = 16",
        "input 'bias': rank is 2, expected 1: [3]",
    ]
    assert "array.astype(np.int64)" in str(error.value)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("x", np.zeros((0, 4), np.float32), "input 'x': dim 0 (batch) is 0, expected at least 1"),
        ("bias", np.zeros(4, np.float32), "input 'bias': dim 0 is 4, expected 3"),
        ("x", np.zeros(4, np.float32), "input 'x': rank is 1, expected 2: [batch, seq]"),
        ("x", np.zeros((1,) * 20, np.float32), "input 'x': rank is 20, expected 2: [batch, seq]"),
        ("x", np.zeros((1, 4), ">f4"), "input 'x': dtype is >f4, expected float32"),
        ("x", np.zeros((1, 4), object), "input 'x': dtype is object, expected float32"),
    ],
)
def test_what_does_not_fit_is_said(
    bundle: Path, make_request: MakeRequest, name: str, array: np.ndarray, message: str
) -> None:
    inputs = make_request(1, 4)
    inputs[name] = array
    with load(bundle, threads=1) as session:
        with pytest.raises(InputError) as error:
            session(**inputs)
        assert message in messages(error)
        assert codes(error)[0] is Code.BAD_INPUT
        assert session(**make_request(1, 4))["y"].shape == (1, 4)  # and the session goes on


def test_a_derived_dim_must_be_what_the_names_say(bundle: Path) -> None:
    with load(bundle, threads=1) as session, pytest.raises(InputError) as error:
        session.run({"x": np.ones(3, np.float32), "doubled": np.ones(7, np.float32)}, entry="check")
    assert messages(error) == ["input 'doubled': dim 0 (2*seq) is 7, expected 6"]


def test_bounds_are_kept(build_bundle: Callable[..., Path], make_request: MakeRequest) -> None:
    folder = build_bundle(low=0, high=512)
    with load(folder, threads=1) as session:
        with pytest.raises(InputError) as error:
            session(**make_request(9, 513))
        assert messages(error) == [
            "input 'x': dim 0 (batch) is 9, expected 1 to 8",
            "input 'x': dim 1 (seq) is 513, expected 0 to 512",
        ]
        empty = session(**make_request(8, 0))
        assert empty["y"].shape == (8, 0)
        np.testing.assert_array_equal(empty["z"], np.zeros(8, np.float32))
        assert session(**make_request(8, 512))["y"].shape == (8, 512)


def test_a_machine_that_the_code_refuses(build_bundle: Callable[..., Path]) -> None:
    with pytest.raises(BundleError, match="lacks imagination") as error:
        load(build_bundle("-DREFUSE"))
    assert codes(error) == [Code.WRONG_MACHINE]


def test_bounds_beyond_the_memory_are_an_error(build_bundle: Callable[..., Path]) -> None:
    for high in (1 << 44, 1 << 60):
        with pytest.raises(InputError, match="at the upper bounds of its dims") as error:
            load(build_bundle(high=high))
        assert codes(error) == [Code.RUN_FAILED]


def test_two_bundles_in_one_process(build_bundle: Callable[..., Path], make_request: MakeRequest) -> None:
    with (
        load(build_bundle(), threads=2) as two,
        load(build_bundle("-DSCALE=3.0f", first=5.0), threads=2) as three,
    ):
        inputs = make_request(2, 9)
        for _ in range(3):
            np.testing.assert_array_equal(two(**inputs)["y"], 2 * inputs["x"] + 1)
            outputs = three(**inputs)
            np.testing.assert_array_equal(outputs["y"], 3 * inputs["x"] + 1)
            np.testing.assert_array_equal(outputs["z"], 5 + outputs["y"].sum(axis=1))


def test_a_replaced_bundle_is_loaded_anew(
    build_bundle: Callable[..., Path], make_request: MakeRequest
) -> None:
    # The system's loader takes a path it has loaded before for the same library.
    folder, other = build_bundle(), build_bundle("-DSCALE=3.0f")
    inputs = make_request(1, 4)
    with load(folder, threads=1) as old:
        folder.rename(folder.with_name("old"))
        other.rename(folder)
        with load(folder, threads=1) as new:
            np.testing.assert_array_equal(new(**inputs)["y"], 3 * inputs["x"] + 1)
            np.testing.assert_array_equal(old(**inputs)["y"], 2 * inputs["x"] + 1)


def test_sessions_on_several_threads(bundle: Path, make_request: MakeRequest) -> None:
    failures: list[str] = []

    def work(seed: int) -> None:
        with load(bundle, threads=2) as session:
            for i in range(200):
                inputs = make_request(1 + (seed + i) % 4, 1 + (7 * i) % 65, seed)
                if not np.array_equal(session(**inputs)["y"], 2 * inputs["x"] + 1):
                    failures.append(f"{seed}: {i}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not failures and not any(thread.is_alive() for thread in threads)


def test_one_session_runs_one_request_at_a_time(
    build_bundle: Callable[..., Path], make_request: MakeRequest
) -> None:
    with load(build_bundle("-DSTAGES=400"), threads=1) as session:
        inputs = make_request(1, 400_000)
        started = threading.Event()

        def work() -> None:
            started.set()
            session(**inputs)

        thread = threading.Thread(target=work)
        thread.start()
        started.wait()
        busy = 0
        while thread.is_alive():
            try:
                session(**make_request(1, 4))
            except InputError as error:
                assert "already running" in str(error)
                busy += 1
                break
        thread.join()
        assert busy
        assert session(**make_request(1, 4))["y"].shape == (1, 4)


def threads_and_files() -> tuple[int, int]:
    """How many this process has, when that stays so: threads that were joined are in /proc for a moment."""
    seen: list[tuple[int, int]] = []
    for _ in range(500):
        seen.append((len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))))
        if len(seen) >= 5 and len(set(seen[-5:])) == 1:
            break
        time.sleep(0.01)
    return seen[-1]


def test_closing(bundle: Path, make_request: MakeRequest) -> None:
    gc.collect()  # sessions that other tests dropped
    threads, files = threads_and_files()
    session = load(bundle, threads=4)
    assert threads_and_files()[0] == threads + 3
    session.close()
    session.close()
    assert threads_and_files() == (threads, files)
    with pytest.raises(InputError, match="the session is closed"):
        session(**make_request(1, 4))
    load(bundle, threads=4)  # dropped at once
    gc.collect()
    assert threads_and_files() == (threads, files)


def test_closing_waits_for_a_running_request(
    build_bundle: Callable[..., Path], make_request: MakeRequest
) -> None:
    session = load(build_bundle("-DSTAGES=100"), threads=2)
    inputs = make_request(1, 300_000)
    results: list[dict[str, np.ndarray]] = []
    thread = threading.Thread(target=lambda: results.append(session(**inputs)))
    thread.start()
    while not session._lock.locked() and thread.is_alive():
        pass
    session.close()
    thread.join()
    np.testing.assert_array_equal(results[0]["y"], 2 * inputs["x"] + 1)


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_that_make_no_sense(bundle: Path, threads: int) -> None:
    with pytest.raises(InputError, match="expected at least 1"):
        load(bundle, threads=threads)


def test_more_threads_than_any_machine_has(bundle: Path) -> None:
    with pytest.raises(InputError, match="at most 256 threads"):
        load(bundle, threads=257)


def test_as_many_threads_as_cores_by_default(bundle: Path) -> None:
    with load(bundle) as session:
        assert 1 <= session.threads <= min(16, len(os.sched_getaffinity(0)))


def test_dtypes_are_those_of_the_header(root: Path) -> None:
    header = (root / "compiler" / "runtime" / "c" / "isthmus.h").read_text()
    for name, (code, dtype) in DTYPES.items():
        assert f"ISTHMUS_{name.upper()} = {code}" in header
        assert dtype.itemsize * 8 == int("".join(filter(str.isdigit, name)) or 8)
    assert header.count("ISTHMUS_BAD_INPUT = 1,") == 1


def run_python(source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


PRELUDE = """
import sys
import numpy as np
x, mask, bias = np.ones((2, 3), np.float32), np.ones((2, 3), np.int64), np.ones(3, np.float32)
"""


def test_needs_nothing_but_numpy(bundle: Path) -> None:
    done = run_python(
        PRELUDE
        + """
class OnlyNumpy:
    OURS = ("isthmus", "isthmus.runtime", "isthmus.bundle", "isthmus.errors", "isthmus.machine")

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        ours = ".".join(name.split(".")[:2]) in self.OURS
        if ours or top == "numpy" or top in sys.stdlib_module_names:
            return None
        raise ModuleNotFoundError(name)

sys.meta_path.insert(0, OnlyNumpy())
from isthmus.runtime import load
print(load(sys.argv[1], threads=2)(x=x, mask=mask, bias=bias)["y"].sum())
""",
        str(bundle),
    )
    assert (done.stdout, done.stderr) == ("18.0\n", "")


@pytest.mark.parametrize("ending", ["", "sys.exit(3)", "raise SystemExit(3)"])
def test_the_interpreter_exits_cleanly_with_an_open_session(bundle: Path, ending: str) -> None:
    done = run_python(
        PRELUDE
        + f"""
import threading
from isthmus.runtime import load
session = load(sys.argv[1], threads=4)
print(session(x=x, mask=mask, bias=bias)["y"].sum())
def forever():
    while True:
        try:
            session(x=x, mask=mask, bias=bias)
        except Exception:
            return
threading.Thread(target=forever, daemon=True).start()
{ending}
""",
        str(bundle),
    )
    assert (done.stdout, done.stderr, done.returncode) == ("18.0\n", "", 3 if ending else 0)


def test_a_fork_says_so_instead_of_waiting_for_ever(bundle: Path) -> None:
    done = run_python(
        PRELUDE
        + """
import os
from isthmus.runtime import load
session = load(sys.argv[1], threads=4)
child = os.fork()
if child == 0:
    try:
        session(x=x, mask=mask, bias=bias)
    except Exception as error:
        print("before a fork" in str(error), flush=True)
    sys.exit(0)  # runs the finalizers
os.waitpid(child, 0)
print(session(x=x, mask=mask, bias=bias)["y"].sum())
""",
        str(bundle),
    )
    assert (done.stdout, done.stderr) == ("True\n18.0\n", "")
