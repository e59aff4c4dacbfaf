"""The wheel: made without a network, installed beside NumPy alone, it answers as the bundle does."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

from isthmus.bundle.manifest import plain_name
from isthmus.packages.python import package_name
from isthmus.runtime import load
from isthmus.systems import LINUX, MACOS, MUSL, WINDOWS

USE = """
import sys
import numpy as np
import a_layer
assert not any(name.split(".")[0] in ("isthmus", "tvm", "onnx") for name in sys.modules)
x = np.load(sys.argv[1])
with a_layer.load(threads=1) as session:
    np.save(sys.argv[2], session(x=x)["y"])
"""


@pytest.fixture(scope="module")
def wheel(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "-w", str(folder)]
    subprocess.run([*command, str(bundle / "python")], check=True, capture_output=True, text=True)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and NumPy only."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False, symlinks=True)
    interpreter = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    # NumPy as it is installed here: nothing is downloaded.
    numpy = Path(np.__file__).parent
    for part in (numpy, numpy.with_name("numpy.libs")):
        if part.exists():
            (site / part.name).symlink_to(part)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return interpreter


def test_the_wheel_says_where_it_runs(wheel: Path) -> None:
    assert wheel.name.startswith("a_layer-0.0.0-py3-none-manylinux_2_17_")


def test_the_same_wheel_twice(bundle: Path, wheel: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-index",
        "-w",
        str(tmp_path),
    ]
    subprocess.run([*command, str(bundle / "python")], check=True, capture_output=True, text=True)
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


def test_every_file_is_recorded(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (record,) = [name for name in archive.namelist() if name.endswith(".dist-info/RECORD")]
        listed = [line.split(",")[0] for line in archive.read(record).decode().splitlines()]
        assert sorted(listed) == sorted(archive.namelist())


def test_it_answers_as_the_bundle_does(bundle: Path, python: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((2, 5, 16)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    environment = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    command = [python, "-c", USE, tmp_path / "x.npy", tmp_path / "y.npy"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with load(bundle, threads=1) as session:
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), session(x=x)["y"])


def test_the_example_replays_the_self_test(python: Path, tmp_path: Path) -> None:
    # Twice, and compiled modules may be kept: they do not count as damage.
    for _ in range(2):
        command = [python, "-m", "a_layer"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "0 outputs too far off" in done.stdout


def test_making_it_leaves_the_bundle_whole(bundle: Path, wheel: Path) -> None:
    assert wheel.exists()
    with load(bundle) as session:
        assert session.manifest.name == plain_name("a layer")


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("MiniLM-L6 v2", "minilm_l6_v2"),
        ("7b", "model_7b"),
        ("numpy", "model_numpy"),
        ("class", "model_class"),
    ],
)
def test_names_that_can_be_imported(bundle: Path, name: str, package: str) -> None:
    with load(bundle) as session:
        manifest = session.manifest
    object.__setattr__(manifest, "name", name)
    assert package_name(manifest) == package


def test_platform_tags() -> None:
    assert LINUX.toolchain("x86_64", "x86_64").wheel("x86_64") == "manylinux_2_17_x86_64"
    assert LINUX.toolchain("riscv64", "x", "linux-gnu.2.27").wheel("riscv64") == "manylinux_2_27_riscv64"
    assert LINUX.toolchain("arm", "x", "linux-gnueabihf.2.17").wheel("armv7l") == "manylinux_2_17_armv7l"
    assert MUSL.toolchain("aarch64", "x").wheel("aarch64") == "musllinux_1_2_aarch64"
    assert MACOS.toolchain("aarch64", "x").wheel("aarch64") == "macosx_13_0_arm64"
    assert WINDOWS.toolchain("x86_64", "x").wheel("x86_64") is None
