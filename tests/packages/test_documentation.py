"""What docs/javascript.md shows works as shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from programs import needed

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "javascript.md"


@pytest.mark.slow
def test_commands_and_code(minilm: Path, tmp_path: Path) -> None:
    needed("npm")
    text = DOCUMENT.read_text("utf-8")
    (commands,) = re.findall(r"^```console\n(.*?)^```$", text, re.M | re.S)
    (code,) = re.findall(r"^```js\n(.*?)^```$", text, re.M | re.S)
    (tmp_path / "model.onnx").symlink_to(minilm)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "code.js").write_text(code)
    lines = [line.removeprefix("$ ") for line in commands.splitlines()]
    lines += ["node code.js", *re.findall(r"^`(node .*?)`", text, re.M)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", "\n".join(["set -euo pipefail", *lines])],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "npm_config_offline": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "461 [ 1, 384 ] Float32Array" in done.stdout
    assert "minilm on wasm32-simd128: 2 of 2 requests answered as stored" in done.stdout
