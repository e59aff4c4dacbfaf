"""What a benchmark says of the machine."""

from __future__ import annotations

from pathlib import Path

from isthmus.tools.hardware import hardware

CPUINFO = """\
processor\t: 0
cpu family\t: 6
model\t\t: 167
model name\t: Some Processor
flags\t\t: fpu fast wide

processor\t: 1
model name\t: Some Processor
flags\t\t: fpu fast
"""


def test_what_the_system_tells(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    for number, (level, kind, size) in enumerate([("1", "Data", "48K"), ("2", "Unified", "2048K")]):
        folder = tmp_path / "cache" / f"index{number}"
        folder.mkdir(parents=True)
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(f"{text}\n")
    found = hardware(["fast", "wide"], tmp_path / "cpuinfo", tmp_path / "cache")
    assert found.processor == "Some Processor (family 6, model 167)"
    assert found.flags == ("fast",)
    assert found.caches == {"L1d": "48K", "L2": "2048K"}
    assert found.processors >= 1


def test_what_it_does_not_tell(tmp_path: Path) -> None:
    found = hardware(["fast"], tmp_path / "none", tmp_path / "none")
    assert (found.processor, found.flags, found.caches) == ("unknown", (), {})
