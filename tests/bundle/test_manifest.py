"""The manifest: canonical text, and nothing believed when reading one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from types import MappingProxyType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isthmus.bundle.manifest import NAME, File, Manifest, parse, plain_name
from isthmus.errors import BundleError, Code

Raw = dict[str, object]


@pytest.fixture
def manifest(draft: Manifest) -> Manifest:
    files = {"lib/libmodel.so": File(3, "cd" * 32), "weights.bin": File(5 << 20, "ef" * 32, "01" * 32)}
    return replace(draft, files=MappingProxyType(files))


def sign(raw: Raw) -> str:
    """The text of a manifest with this content, with the digest that it should have."""
    raw = {k: v for k, v in raw.items() if k != "digest"}

    def canonical(it: Raw) -> str:
        return json.dumps(it, sort_keys=True, indent=2) + "\n"

    return canonical({**raw, "digest": hashlib.sha256(canonical(raw).encode()).hexdigest()})


def problems_of(text: str) -> list[str]:
    with pytest.raises(BundleError) as error:
        parse(text)
    return [f"{problem.code.slug}: {problem.message}" for problem in error.value.problems]


def test_round_trip(manifest: Manifest) -> None:
    text = manifest.dumps()
    assert parse(text) == manifest
    assert parse(text).dumps() == text
    assert text.isascii() and text.endswith("}\n")
    assert sign(json.loads(text)) == text


def test_flags_are_a_set(manifest: Manifest) -> None:
    turned = replace(manifest, chip=replace(manifest.chip, cpu_flags=manifest.chip.cpu_flags[::-1]))
    assert turned.dumps() == manifest.dumps()


def test_folder_name(manifest: Manifest) -> None:
    assert manifest.folder == "model@big"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("model", "model"),
        ("my model (1)", "my-model-1"),
        ("../../etc/passwd", "etc-passwd"),
        ("größe", "gr-e"),
        ("...", "model"),
        ("", "model"),
        ("v1.5+cpu_x", "v1.5+cpu_x"),
        ("a" * 500, "a" * 100),
    ],
)
def test_plain_names(given: str, expected: str) -> None:
    assert plain_name(given) == expected


def test_every_changed_byte_is_noticed(manifest: Manifest) -> None:
    text = manifest.dumps()
    for position in range(0, len(text), 3):
        for other in ("x" if text[position] != "x" else "y", ""):
            with pytest.raises(BundleError):
                parse(text[:position] + other + text[position + 1 :])
    with pytest.raises(BundleError, match="its digest does not match") as error:
        parse(text.replace("fuse{width=4}", "fuse{width=5}"))
    assert error.value.problems[0].code is Code.DAMAGED_BUNDLE
    for same_json in (text + " ", text.replace("\n", "\r\n"), text.replace("  ", " ")):
        with pytest.raises(BundleError, match="its digest does not match"):
            parse(same_json)


def test_a_newer_format_is_said_to_be_one(manifest: Manifest) -> None:
    raw = json.loads(manifest.dumps())
    for text in (
        sign({**raw, "format": 2}),
        '{"format": 2}',
        '{"format": 99, "files": 3, "whatever": {"is": ["in", "it"]}}',
    ):
        with pytest.raises(BundleError, match="newer than this runtime, which reads up to 1") as error:
            parse(text)
        assert [problem.code for problem in error.value.problems] == [Code.NEWER_FORMAT]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '"x"', '{"a": NaN}', "[" * 100_000, "\0", '{"format":1,"format":1}']
)
def test_what_is_no_manifest(text: str) -> None:
    assert all(problem.startswith("not-a-bundle") for problem in problems_of(text))


def edit(raw: object, path: list[str], value: object) -> None:
    for name in path[:-1]:
        raw = raw[int(name)] if isinstance(raw, list) else raw[name]  # type: ignore[index]
    if isinstance(raw, list):
        raw[int(path[-1])] = value
    elif isinstance(raw, dict):
        raw[path[-1]] = value


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("format", 0, "format: 0 is out of range"),
        ("format", "1", "format: expected an integer, got '1'"),
        ("format", True, "format: expected an integer, got True"),
        ("name", "", "name: expected a text, got ''"),
        ("name", "../x", "name: '../x' cannot be part of a folder's name"),
        ("name", "a\ud800", "name: expected a text, got 'a\\ud800'"),
        ("target/name", "a/b", "target.name: 'a/b' cannot be part of a folder's name"),
        ("target/cpu_flags", "avx2", "target.cpu_flags: expected a list of texts, got 'avx2'"),
        ("target", None, "target: expected an object, got nothing"),
        ("library", "lib/other.so", "library: 'lib/other.so' is not among the files"),
        ("weights", 7, "weights: expected a text, got 7"),
        ("entries", [], "entries: there must be at least one"),
        ("entries/0/inputs/0/dtype", "complex", "entries[0].inputs[0].dtype: 'complex' is not one of f32"),
        ("entries/0/inputs/0/dims", [-1], "entries[0].inputs[0].dims: -1 is not a dim"),
        ("entries/0/inputs/0/dims", [1.5], "entries[0].inputs[0].dims: 1.5 is not a dim"),
        ("entries/0/inputs/0/dims", [1] * 9, "expected a list of at most 8 dims, got a list of 9"),
        ("dims/0/low", -1, "dims[0].low: -1 is out of range"),
        ("dims/1/high", 0, "dims[1].high: 0 is out of range"),
        ("dims/0/name", "seq", "dims: 'seq' is there 2 times"),
        ("tools", {"zig": 3}, "tools.zig: expected a text, got 3"),
        ("files/weights.bin/bytes", -1, "files.weights.bin.bytes: -1 is out of range"),
        ("files/weights.bin/bytes", 1 << 70, f"files.weights.bin.bytes: {1 << 70} is out of range"),
        ("files/weights.bin/sha256", "AB" * 32, "files.weights.bin.sha256: expected 64 hexadecimal digits"),
        ("files/weights.bin/sums", "0", "files.weights.bin.sums: expected 64 hexadecimal digits"),
        ("files/lib", {"bytes": 0, "sha256": "ab" * 32}, "files: 'lib' is a file and a folder"),
        (f"files/{NAME}", {"bytes": 0, "sha256": "ab" * 32}, "cannot hold its own digest"),
    ],
)
def test_wrong_fields(manifest: Manifest, path: str, value: object, said: str) -> None:
    raw = json.loads(manifest.dumps())
    edit(raw, path.split("/"), value)
    problems = problems_of(sign(raw))
    assert any(said in problem for problem in problems), problems


@pytest.mark.parametrize(
    "path",
    [
        "../x", "/etc/passwd", "a/../../x", "a//b", "./a", "a/", "", "a\\b", "C:x", "a\0b", ".hidden", "a/.b",
        "a.", "a b", "a\nb", "~root/x", "x" * 300, "ä", "-rf",
    ],
)  # fmt: skip
def test_paths_that_could_leave_the_bundle(manifest: Manifest, path: str) -> None:
    raw = json.loads(manifest.dumps())
    raw["files"][path] = {"bytes": 0, "sha256": "ab" * 32}
    assert any("is not a plain relative path" in problem for problem in problems_of(sign(raw)))


def test_all_problems_are_reported_at_once(manifest: Manifest) -> None:
    raw = json.loads(manifest.dumps())
    del raw["name"], raw["pipeline"], raw["target"]["os"]
    raw["precision"] = 3
    assert len(problems_of(sign(raw))) == 4


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def places(raw: object, path: list[str]) -> list[list[str]]:
    """The way to every place in a JSON value."""
    pairs = raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ()
    return [path] * bool(path) + [way for name, value in pairs for way in places(value, [*path, str(name)])]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_in_any_place_is_read_or_refused_in_words(data: st.DataObject, manifest: Manifest) -> None:
    raw = json.loads(manifest.dumps())
    edit(raw, data.draw(st.sampled_from(places(raw, []))), data.draw(json_values))
    try:
        parse(sign(raw))
    except BundleError as error:
        assert error.problems


def test_a_deep_nest_is_refused(manifest: Manifest) -> None:
    nest: list[object] = []
    for _ in range(200):
        nest = [nest]
    raw = json.loads(manifest.dumps())
    raw["entries"] = nest
    assert problems_of(sign(raw))
