"""How much memory this machine has for a build, and how much processes hold: what Linux tells of both."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

# The limits that containers have, of cgroups in version 2 and 1; "max" or a huge number: none.
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_PROC = Path("/proc")


def memory_here(limits: Iterable[Path] = _LIMITS) -> int:
    """Four fifths of the memory of this machine, or of the container it is, in bytes."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in limits:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        found += [int(text)] if text.isdigit() else []
    return min(found) * 4 // 5


def held_by(roots: Iterable[int], proc: Path = _PROC) -> dict[int, int]:
    """Bytes that each of the processes `roots` holds, with all that it started: anonymous pages.

    Pages of files are left out: the system takes them back when it needs them. Where there is no /proc,
    nothing is known, and nobody holds anything. Source: proc(5), the files stat and status."""
    wanted = tuple(roots)
    children = _children(proc) if wanted else {}
    return {root: sum(_anonymous(proc / str(pid)) for pid in _family(root, children)) for root in wanted}


def _children(proc: Path) -> dict[int, list[int]]:
    """Every process by the one that started it."""
    found: dict[int, list[int]] = {}
    for place in proc.glob("[0-9]*"):
        try:
            # After the name, which is in brackets and may hold anything: the state, then the parent.
            parent = int((place / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue  # ended meanwhile
        found.setdefault(parent, []).append(int(place.name))
    return found


def _family(root: int, children: dict[int, list[int]]) -> list[int]:
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _anonymous(place: Path) -> int:
    try:
        lines = (place / "status").read_text(errors="replace").splitlines()
    except OSError:
        return 0
    return sum(
        int(line.split()[1]) << 10 for line in lines if line.startswith(("RssAnon:", "RssShmem:", "VmSwap:"))
    )


def end(root: int, proc: Path = _PROC) -> None:
    """Kill a process of ours, and all that it started."""
    for pid in _family(root, _children(proc)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
