"""The same model gives the same bytes, whatever the folder and the hash seed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

COMPILE = """
import sys
import isthmus
print(isthmus.compile(sys.argv[1], target=sys.argv[2], out=sys.argv[3]).path)
"""


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def compile_in(folder: Path, model: Path, target: str, seed: str) -> dict[str, str]:
    folder.mkdir(parents=True)
    copy = folder / model.name
    copy.write_bytes(model.read_bytes())
    # A cache of its own, so that the kernels are really compiled twice.
    environment = {**os.environ, "PYTHONHASHSEED": seed, "ISTHMUS_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, copy.name, target, "out"],
        cwd=folder,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return digests(folder / done.stdout.strip())


def test_two_folders_and_two_hash_seeds_give_the_same_bytes(minilm: Path, tmp_path: Path) -> None:
    first = compile_in(tmp_path / "a", minilm, "host", "1")
    second = compile_in(tmp_path / "b" / "deeper", minilm, "host", "2")
    assert first == second
    assert "weights.bin" in first and "lib/libmodel.so" in first
