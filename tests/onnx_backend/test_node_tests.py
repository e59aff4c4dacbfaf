"""ONNX's node tests, all of them: every test passes or stands in skips.toml with a reason, and those that
stand there do fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import node_tests
import pytest

HERE = Path(__file__).resolve().parent
SUPPORT = HERE.parent / "support"
# Passed by onnxruntime 1.31.1 in the same harness.
ONNXRUNTIME = 1225
PROCESSES = 2
SECONDS = 600


def skipped(*sections: str) -> dict[str, str]:
    """The reason by test, of those that need not pass."""
    table = tomllib.loads((HERE / "skips.toml").read_text())
    found: dict[str, str] = {}
    for section in sections:
        for reason, names in table[section].items():
            assert not found.keys() & set(names), f"skipped twice: {found.keys() & set(names)}"
            found.update(dict.fromkeys(names, reason))
    return found


def check(results: dict[str, node_tests.Outcome], skips: dict[str, str]) -> None:
    """Raises AssertionError naming every test that is not as expected."""
    problems = [f"{name}: {text}" for name, text in results.items() if text and name not in skips]
    problems += [f"{name} passes; take it off skips.toml" for name in skips if results.get(name) == ""]
    problems += [f"{name} is in skips.toml, but there is no such test" for name in skips.keys() - results]
    assert not problems, "\n".join(problems)


def test_imported_and_evaluated() -> None:
    results = {case.name: node_tests.evaluated(case) for case in node_tests.cases()}
    check(results, skipped("both", "evaluated"))
    assert sum(not text for text in results.values()) > ONNXRUNTIME


@pytest.mark.slow
def test_compiled_for_this_machine(tmp_path: Path) -> None:
    """Two processes share a folder of kernels; together they have ten minutes."""
    parts = [tmp_path / f"{i}.json" for i in range(PROCESSES)]
    workers = [
        subprocess.Popen(
            [sys.executable, SUPPORT / "node_tests_worker.py", str(i), str(PROCESSES), tmp_path, part],
            env={**os.environ, "PYTHONPATH": str(SUPPORT), "OMP_NUM_THREADS": "1"},
        )
        for i, part in enumerate(parts)
    ]
    try:
        for worker in workers:
            assert worker.wait(SECONDS) == 0
    finally:
        for worker in workers:
            worker.kill()
    results: dict[str, node_tests.Outcome] = {}
    for part in parts:
        results.update(json.loads(part.read_text()))
    check(results, skipped("both", "compiled"))
    assert sum(not text for text in results.values()) > ONNXRUNTIME
