"""The machine a benchmark ran on, as far as speed depends on it. Nothing here tells whose machine it is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from isthmus.machine import Machine, processors

_CPUINFO = Path("/proc/cpuinfo")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True, slots=True)
class Hardware:
    """`caches` are sizes by level and kind ("L2": "1024K") as the first core sees them."""

    processor: str
    arch: str
    processors: int
    caches: dict[str, str]
    flags: tuple[str, ...]


def hardware(flags: Collection[str], cpuinfo: Path = _CPUINFO, caches: Path = _CACHES) -> Hardware:
    """This machine; of its flags those in `flags`, sorted. What the system does not tell is left out."""
    machine = Machine.here(cpuinfo)
    return Hardware(
        _model_name(cpuinfo),
        machine.arch,
        processors(),
        _caches(caches),
        tuple(sorted(machine.cpu_flags & set(flags))),
    )


def _model_name(cpuinfo: Path) -> str:
    """The processor by its name and numbers: virtual machines often tell only the maker's."""
    facts: dict[str, str] = {}
    for line in _read(cpuinfo).splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    name = facts.get("model name", "unknown")
    family, model = facts.get("cpu family"), facts.get("model")
    return f"{name} (family {family}, model {model})" if family and model else name


def _caches(folder: Path) -> dict[str, str]:
    found = {}
    for index in sorted(folder.glob("index*")):
        level, kind, size = (_read(index / name).strip() for name in ("level", "type", "size"))
        if level and size:
            found[f"L{level}{'' if kind == 'Unified' else kind[:1].lower()}"] = size
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
