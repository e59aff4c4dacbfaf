"""The matrix on a Dask cluster: separate processes, the same bundles, and one of them killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from matrix_project import TOML, Project

from isthmus.matrix.cache import Where
from isthmus.matrix.results import BuildResult

pytestmark = pytest.mark.slow
WORKERS = 3
MORE = "[chips.x86-64-v3]\n[chips.x86-64-v2]\n"


def started(arguments: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """A process of the cluster, with folders of its own; what it says is in the file `said`."""
    folder.mkdir()
    environment = {**os.environ, "DASK_TEMPORARY_DIRECTORY": str(folder)}
    command = [sys.executable, "-m", f"distributed.cli.{arguments[0]}", *arguments[1:]]
    with (folder / "said").open("wb") as said:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said)


def wait_for(pattern: str, folder: Path) -> str:
    """The first thing a process says that looks like this."""
    end = time.monotonic() + 60
    while (found := re.search(pattern, (folder / "said").read_text())) is None:
        assert time.monotonic() < end, (folder / "said").read_text()
        time.sleep(0.05)
    return found[0]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """The address of a scheduler, and its three workers, one thread each."""
    local = ["--host", "127.0.0.1", "--no-dashboard"]
    processes = [started(["dask_scheduler", "--port", "0", *local], tmp_path / "scheduler")]
    try:
        address = wait_for(r"tcp://[\d.:]+", tmp_path / "scheduler")
        for number in range(WORKERS):
            one = ["dask_worker", address, "--nthreads", "1", "--no-nanny", *local]
            processes.append(started(one, tmp_path / f"worker{number}"))
        for number in range(WORKERS):
            wait_for("Registered to", tmp_path / f"worker{number}")
        yield address, processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def digests(result: BuildResult) -> dict[str, str | None]:
    return {pair.name: pair.digest for pair in result.pairs}


def test_three_workers_make_the_same_bundles(
    project: Project, cluster: tuple[str, list[subprocess.Popen[bytes]]]
) -> None:
    project.write(TOML + MORE)
    address, _ = cluster
    far = project.build(scheduler=address, places=Where(project.folder / "cache"))
    assert far.exit_code == 0 and far.work.pairs == 8
    near = project.build(places=Where(project.folder / "other"), output=project.folder / "near")
    assert digests(near) == digests(far)


def test_a_killed_workers_pairs_are_made_by_the_others(
    project: Project, cluster: tuple[str, list[subprocess.Popen[bytes]]]
) -> None:
    project.write(TOML + MORE)
    address, workers = cluster
    killed = threading.Event()
    stored: set[Path] = set()

    def kill() -> None:
        entries = project.folder / "cache" / "entries"
        end = time.monotonic() + 60
        while len(list(entries.glob("*/*"))) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        workers[0].send_signal(signal.SIGKILL)
        workers[0].wait()
        stored.update(entries.glob("*/*"))
        killed.set()

    threading.Thread(target=kill).start()
    result = project.build(scheduler=address)
    assert killed.is_set() and workers[0].wait() == -signal.SIGKILL
    assert [pair.status for pair in result.pairs] == ["pass"] * 8
    # What the killed worker stored and could not report any more is taken from the cache, not made again.
    taken = [pair for pair in result.pairs if pair.state == "cached"]
    assert all(pair.state in ("built", "cached") for pair in result.pairs)
    assert len(taken) <= len(stored) and len(taken) < len(result.pairs)
