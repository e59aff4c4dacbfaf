"""`isthmus.build` in somebody's Python."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from matrix_project import Project

import isthmus
from isthmus.matrix.config import load_config

RAW = {"models": {"first": {"path": "first.onnx"}}, "chips": {"c": {}}}


def test_a_dictionary_will_do(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    result = isthmus.build(
        RAW,
        folder=project.folder,
        cache=str(project.folder / "cache"),
        measure=False,
        progress=lambda event: events.append(event.what),
    )
    assert result["first@c"].status == "pass" and "first@c" in events
    assert (project.folder / "dist" / "first@c" / "manifest.json").is_file()
    assert (project.folder / "dist" / "report.html").is_file()
    with pytest.raises(KeyError):
        result["second@c"]
    # A file, or what was read of it, is the same.
    monkeypatch.chdir(project.folder)
    out = project.folder / "other"
    for config in ("isthmus.toml", load_config(Path("isthmus.toml"))):
        again = isthmus.build(config, only=["first@c"], out=out, cache="cache", measure=False, reports=False)
        assert again["first@c"].digest == result["first@c"].digest and again.work.pairs == 0
    assert [path.name for path in out.iterdir()] == ["first@c"]


def test_frozen_it_is_held_to_the_lock(project: Project) -> None:
    build = partial(isthmus.build, folder=project.folder, cache=str(project.folder / "cache"), measure=False)
    with pytest.raises(isthmus.ModelError, match="there is no lock"):
        build(RAW, frozen=True)
    assert not (project.folder / "dist").exists()
    first = build(RAW)
    lock = project.folder / "isthmus.lock"
    before = lock.read_bytes()
    assert build(RAW, frozen=True)["first@c"].digest == first["first@c"].digest
    with pytest.raises(isthmus.ModelError, match="second@c"):
        build({**RAW, "models": {**RAW["models"], "second": {"path": "second.onnx"}}}, frozen=True)
    assert lock.read_bytes() == before


def test_a_dictionary_with_mistakes() -> None:
    with pytest.raises(isthmus.ModelError, match="no such key"):
        isthmus.build({**RAW, "modles": {}})
    with pytest.raises(isthmus.ModelError, match="E1001"):
        isthmus.build(RAW, folder="/nowhere")
