"""Lay the package out as links under build/types/isthmus, for tools that read folders.

Setuptools installs this project editable through an import hook, which mypy and import-linter do
not follow. Quick and idempotent: it only adds missing links and drops stale ones.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def wanted() -> dict[str, Path]:
    """Name inside the package -> the file or folder it stands for."""
    entries = {
        path.name: path
        for path in sorted((ROOT / "compiler").iterdir())
        if not path.name.startswith((".", "__pycache__"))
    }
    for extra in ("frontends", "targets"):
        if extra in entries:
            raise SystemExit(f"compiler/{extra} would hide the top-level folder {extra}/")
        entries[extra] = ROOT / extra
    return entries


def link(into: Path) -> None:
    """Make `into` hold exactly the links of `wanted`."""
    into.mkdir(parents=True, exist_ok=True)
    entries = wanted()
    for path in into.iterdir():
        if path.is_symlink() and path.readlink() != entries.get(path.name):
            path.unlink()
    for name, source in entries.items():
        if not (into / name).is_symlink():
            (into / name).symlink_to(source)


if __name__ == "__main__":
    link(ROOT / "build" / "types" / "isthmus")
