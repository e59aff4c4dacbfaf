"""Each command on a real, tiny bundle: what it prints, what it writes, what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from isthmus.cli import app
from isthmus.runtime import load

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def ids(tmp_path: Path) -> Path:
    """An input of 2 x 7."""
    path = tmp_path / "ids.npy"
    np.save(path, np.arange(14).reshape(2, 7))
    return path


def refused(capsys: Capture, arguments: list[str], *texts: str, code: int = 2) -> None:
    """The command line is refused with this exit code, these texts on stderr, and nothing on stdout."""
    capsys.readouterr()
    assert app.run(arguments) == code
    captured = capsys.readouterr()
    assert not captured.out
    for text in texts:
        assert text in captured.err


def as_json(capsys: Capture, arguments: list[str]) -> dict:
    """What a command prints as JSON."""
    capsys.readouterr()
    assert app.run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_compile_prints_the_path(model: Path, tmp_path: Path, capsys: Capture) -> None:
    assert app.run(["compile", str(model), "-o", str(tmp_path), "--name", "small"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.parent == tmp_path
    assert path.name.startswith("small@")
    assert (path / "manifest.json").is_file()


def test_compile_as_json(model: Path, tmp_path: Path, capsys: Capture) -> None:
    found = as_json(capsys, ["compile", str(model), "-o", str(tmp_path), "--dim", "seq=1..64"])
    assert Path(found["bundle"]).is_dir()
    assert found["weight_bytes"] >= 4 * (50 * 24 + 24 * 40 + 40)
    assert 0 < found["code_bytes"] < 1_000_000
    assert found["warnings"] == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--target", "nonsense"], "E1004 unknown-target"),
        (["--dim", "sec=3"], "E1005 unknown-dim"),
        (["--dim", "seq=0"], "E1006 bad-dim"),
        (["--dim", "seq=-4"], "E1006 bad-dim"),
        (["--dim", "seq=9..3"], "E1006 bad-dim"),
        (["--dim", "seq"], "E1006 bad-dim"),
        (["--dim", "seq=3", "--dim", "seq=4"], "E1006 bad-dim"),
    ],
)
def test_compile_refuses_bad_requests(
    arguments: list[str], text: str, model: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder = tmp_path / "dist"
    refused(capsys, ["compile", str(model), "-o", str(folder), *arguments], text)
    assert not folder.exists()


def test_compile_stops_after_a_phase(model: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "dist"
    command = ["compile", str(model), "-o", str(folder), "--stop-after"]
    texts = []
    for phase in ("import", "clean", "fuse", "legalize"):
        assert app.run([*command, phase]) == 0
        texts.append(capsys.readouterr().out)
    assert all(text.startswith("program tiny") for text in texts)
    assert "relu(" in texts[0]
    assert "relu(" not in texts[2], "fused into the matmul"
    assert not folder.exists()
    refused(capsys, [*command, "fsue"], "E1007 unknown-phase", "did you mean 'fuse'?")


def test_compile_dumps_and_resumes(model: Path, bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    dump = tmp_path / "dump"
    assert app.run(["compile", str(model), "--dump", str(dump), "-o", str(tmp_path / "one")]) == 0
    names = sorted(path.name for path in dump.glob("*.txt"))
    assert names == ["0.import.txt", "1.clean.txt", "2.fuse.txt", "4.legalize.txt"]
    resume = ["compile", str(dump / "1.clean.txt"), "--resume-from", "fuse"]
    assert app.run([*resume, "-o", str(tmp_path / "two")]) == 0
    (found,) = (tmp_path / "two").iterdir()
    assert (found / "lib/libmodel.so").read_bytes() == (bundle / "lib/libmodel.so").read_bytes()
    capsys.readouterr()
    assert app.run([*resume, "--stop-after", "fuse"]) == 0
    assert capsys.readouterr().out == (dump / "2.fuse.txt").read_text()
    refused(capsys, ["compile", str(dump / "1.clean.txt"), "--resume-from", "import"], "E1007 unknown-phase")


def test_compile_refuses_what_is_no_model(tmp_path: Path, capsys: Capture) -> None:
    text = tmp_path / "text.onnx"
    text.write_text("This is not a model.")
    folder = tmp_path / "dist"
    refused(capsys, ["compile", str(text), "-o", str(folder)], "E1101 not-onnx", str(text))
    refused(capsys, ["compile", str(tmp_path), "-o", str(folder)], "E1002 not-a-file")
    refused(capsys, ["compile", str(tmp_path / "no.onnx"), "-o", str(folder)], "E1001 no-such-file")
    assert not folder.exists()


def test_run_writes_and_describes_outputs(bundle: Path, ids: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out.npz"
    found = as_json(capsys, ["run", str(bundle), "--input", f"ids={ids}", "-o", str(out)])
    with np.load(out) as arrays:
        y = arrays["y"]
    assert found["y"]["shape"] == list(y.shape) == [2, 7, 40]
    assert found["y"]["max"] == pytest.approx(float(y.max()))
    assert y.min() == 0 < y.mean()


def test_run_takes_an_archive(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    np.savez(tmp_path / "in.npz", ids=np.zeros((1, 3), np.int64))
    assert app.run(["run", str(bundle), "--inputs", str(tmp_path / "in.npz"), "--threads", "1"]) == 0
    assert "float32[1, 3, 40]" in capsys.readouterr().out


def test_run_refuses_bad_inputs(bundle: Path, ids: Path, tmp_path: Path, capsys: Capture) -> None:
    run = ["run", str(bundle)]
    np.savez(tmp_path / "in.npz", ids=np.zeros((1, 3), np.int64))
    np.save(tmp_path / "floats.npy", np.zeros((1, 3), np.float32))
    np.save(tmp_path / "flat.npy", np.zeros(3, np.int64))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "text.npy").write_text("no array")
    refused(capsys, run, "E2101 bad-input: input 'ids' is missing")
    refused(capsys, [*run, "--input", f"idz={ids}"], "did you mean 'ids'")
    refused(capsys, [*run, "--input", f"ids={tmp_path / 'floats.npy'}"], "dtype is float32, expected int64")
    refused(capsys, [*run, "--input", f"ids={tmp_path / 'flat.npy'}"], "E2101 bad-input")
    refused(
        capsys,
        [*run, "--input", f"ids={tmp_path / 'objects.npy'}"],
        "E2101 bad-input: not a file of arrays of numbers",
    )
    refused(capsys, [*run, "--input", f"ids={tmp_path / 'text.npy'}"], "not a file of arrays of numbers\n")
    refused(capsys, [*run, "--input", f"ids={tmp_path / 'none.npy'}"], "E1001 no-such-file")
    refused(capsys, [*run, "--input", str(ids)], "E1003 bad-option", "is not NAME=FILE.npy")
    refused(capsys, [*run, "--input", f"ids={ids}", "--input", f"ids={ids}"], "'ids' is given twice")
    refused(capsys, [*run, "--inputs", str(tmp_path / "in.npz"), "--input", f"ids={ids}"], "'ids' is also in")


def test_run_refuses_a_place_that_is_not_there(
    bundle: Path, ids: Path, tmp_path: Path, capsys: Capture
) -> None:
    run = ["run", str(bundle), "--input", f"ids={ids}", "-o"]
    refused(capsys, [*run, str(tmp_path / "no" / "out.npz")], "E1008 cannot-write", "out.npz")
    refused(capsys, [*run, str(tmp_path)], "E1008 cannot-write")


def test_a_level_that_is_not_there_is_one_problem(bundle: Path, capsys: Capture) -> None:
    with load(bundle) as session:
        here = session.target
    text = f"this model has no code for 'nonsense'; it has it for: {here}"
    refused(capsys, ["verify", str(bundle), "--level", "nonsense"], text)


def test_run_refuses_what_is_no_bundle(tmp_path: Path, capsys: Capture) -> None:
    refused(capsys, ["run", str(tmp_path)], "E2001 not-a-bundle")
    refused(capsys, ["run", str(tmp_path / "none")], "E1001 no-such-file")


def test_verify_replays_what_is_stored(bundle: Path, capsys: Capture) -> None:
    found = as_json(capsys, ["verify", str(bundle)])
    assert found
    assert all(check["passed"] and check["request"].startswith("stored") for check in found)


def test_verify_against_onnxruntime(bundle: Path, model: Path, capsys: Capture) -> None:
    command = ["verify", str(bundle), "--against", "onnxruntime", "--model", str(model), "--samples", "4"]
    found = as_json(capsys, [*command, "--dim", "seq=30..40"])
    assert len(found) == 4
    assert all(30 <= int(check["request"].split("seq=")[1]) <= 40 for check in found)
    assert app.run(command) == 0
    assert "4 of 4 requests" in capsys.readouterr().err


def test_verify_fails_when_the_tolerance_is_impossible(bundle: Path, model: Path, capsys: Capture) -> None:
    command = ["verify", str(bundle), "--against", "onnxruntime", "--model", str(model), "--atol", "-1"]
    assert app.run([*command, "--samples", "2", "--json"]) == 1
    captured = capsys.readouterr()
    assert not any(check["passed"] for check in json.loads(captured.out))
    assert captured.err.startswith("E3001 not-accurate: output 'y'")


def test_verify_refuses_bad_requests(bundle: Path, model: Path, tmp_path: Path, capsys: Capture) -> None:
    command = ["verify", str(bundle), "--against", "onnxruntime"]
    refused(capsys, command, "needs --model")
    refused(capsys, [*command, "--model", str(tmp_path / "none")], "E1001 no-such-file")
    refused(capsys, [*command, "--model", "x", "--dim", "sec=2"], "E1005 unknown-dim", "did you mean 'seq'?")
    refused(capsys, [*command, "--model", "x", "--dim", "seq=0"], "E1003 bad-option")
    other = onnx.load(model)
    other.graph.input[0].name = "other"
    for node in other.graph.node:
        node.input[:] = ["other" if name == "ids" else name for name in node.input]
    onnx.save(other, tmp_path / "other.onnx")
    asked = [*command, "--model", str(tmp_path / "other.onnx")]
    refused(capsys, asked, "E1010 peer-refuses", "give the model that the bundle was compiled from")


def test_a_changed_byte_is_noticed(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    copy = tmp_path / bundle.name
    shutil.copytree(bundle, copy)
    weights = copy / "weights.bin"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    for command in ("verify", "inspect", "bench"):
        refused(capsys, [command, str(copy)], "E2003 damaged-bundle", "weights.bin")


def test_inspect_shows_what_is_there(bundle: Path, capsys: Capture) -> None:
    assert app.run(["inspect", str(bundle)]) == 0
    text = capsys.readouterr().out
    for part in (
        "tiny",
        "batch any, seq any",
        "i64[batch, seq]",
        "f32[batch, seq, 40]",
        "src/model.c",
        "ziglang",
    ):
        assert part in text
    found = as_json(capsys, ["inspect", str(bundle)])
    assert found["missing_here"] == []
    assert found["manifest"]["entries"][0]["outputs"][0]["name"] == "y"
    assert found["report"]["kernels"]
