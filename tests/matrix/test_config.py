"""isthmus.toml: what it says, what is wrong with it and on which line, and its JSON Schema."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest

from isthmus.errors import Code, ModelError
from isthmus.matrix.config import Config, json_schema, load_config, parse_config, schema_text
from isthmus.matrix.lines import key_lines

ROOT = Path(__file__).resolve().parents[2]
GOOD = """\
currency = "EUR"
cache = "s3://bucket/cache"

[models.minilm]
path = "models/minilm.onnx"
dims = { batch = 1, seq = "1..512", rest = "1.." }
fix = { use_cache = true, ids = [1, 2], more = "@more.npy" }
at = { seq = 128 }
precision = "f32"

[models.minilm.budgets]
latency_p50 = "20 ms"
size = "80 MB"
accuracy_drop = "0.5 %"
peak_memory = "1 GiB"
start = "50 ms"

[chips.host]
[chips.arm]
target = "armv8-neon"
gflops = 16

[prices]
host = 0.1

[[overrides]]
chip = "a*"
threads = 2
[[overrides]]
model = "minilm"
skip = true
[overrides.budgets]
accuracy_drop = 0.01
"""
BAD = """\
[models.a]
path = "a.onnx"
dims = { seq = "x", batch = 0 }
budgts = {}
[models."b c"]
[chips.host]
gflops = -1
[budgets]
size = "3 parsec"
accuracy_drop = 2
[[overrides]]
chip = "x"
[[overrides]]
skip = 1
"""


def parse(text: str) -> Config:
    return parse_config(text, Path("isthmus.toml"))


def problems(text: str) -> dict[str, str]:
    """What is wrong, by place and name of the key."""
    with pytest.raises(ModelError) as caught:
        parse(text)
    assert {problem.code for problem in caught.value.problems} == {Code.BAD_CONFIG}
    return {f"{p.where} {p.message.split(': ')[0]}": str(p) for p in caught.value.problems}


def test_everything_is_read() -> None:
    config = parse(GOOD)
    model = config.models["minilm"]
    assert model.dims == {"batch": 1, "seq": (1, 512), "rest": (1, None)}
    assert model.fix == {"use_cache": True, "ids": [1, 2], "more": "@more.npy"}
    assert (model.budgets.latency_p50, model.budgets.size) == (0.02, 80e6)
    assert (model.budgets.accuracy_drop, model.budgets.peak_memory) == (0.005, 2**30)
    assert config.chips["arm"].target == "armv8-neon" and config.chips["arm"].gflops == 16
    assert config.prices == {"host": 0.1} and config.currency == "EUR"
    assert [o.chip for o in config.overrides] == ["a*", "*"]
    assert config.overrides[1].skip and config.overrides[1].budgets.accuracy_drop == 0.01


def test_everything_that_is_wrong_is_told_at_once_with_its_line() -> None:
    found = problems(BAD)
    assert set(found) == {
        "isthmus.toml:3 models.a.dims.seq",
        "isthmus.toml:3 models.a.dims.batch",
        "isthmus.toml:4 models.a.budgts",
        "isthmus.toml:5 models.b c",
        "isthmus.toml:7 chips.host.gflops",
        "isthmus.toml:9 budgets.size",
        "isthmus.toml:10 budgets.accuracy_drop",
        "isthmus.toml:14 overrides[1].skip",
    }
    assert "did you mean 'budgets'?" in found["isthmus.toml:4 models.a.budgts"]


@pytest.mark.parametrize(
    ("text", "line"),
    [("a = [\n", 2), ("[models.a]\npath = 'x'\npath = 'y'\n", 3), ("x\n", 1), ("[models\n", 1)],
)
def test_what_is_no_toml_has_a_line(text: str, line: int) -> None:
    assert [name.split()[0] for name in problems(text)] == [f"isthmus.toml:{line}"]


@pytest.mark.parametrize("text", ["", "[models]\n[chips]\n", "models = 3\nchips = []\n"])
def test_models_and_chips_are_needed(text: str) -> None:
    assert len(problems(text)) >= 1


def test_files_that_are_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="E1001"):
        load_config(tmp_path / "isthmus.toml")
    with pytest.raises(ModelError, match="E1002"):
        load_config(tmp_path)
    (tmp_path / "isthmus.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match="E1501"):
        load_config(tmp_path / "isthmus.toml")


def test_lines_of_keys() -> None:
    text = '# one\na = [\n 1,\n]\nb = """\n[c]\n"""\n[x]\ny.z = {k = 1}\n[[l]]\n[[l]]\n[l.m]\nn = 1\n'
    assert key_lines(text) == {
        (): 1,
        ("a",): 2,
        ("a", 0): 2,
        ("b",): 5,
        ("x",): 8,
        ("x", "y"): 9,
        ("x", "y", "z"): 9,
        ("x", "y", "z", "k"): 9,
        ("l",): 10,
        ("l", 0): 10,
        ("l", 1): 11,
        ("l", 1, "m"): 12,
        ("l", 1, "m", "n"): 13,
    }


def test_windows_line_ends_count_once() -> None:
    assert parse(GOOD.replace("\n", "\r\n")).models == parse(GOOD).models
    assert set(problems(BAD.replace("\n", "\r\n"))) == set(problems(BAD))


# The JSON Schema


def test_the_published_schema_is_that_of_the_code() -> None:
    assert (ROOT / "docs" / "isthmus.schema.json").read_text("utf-8") == schema_text()
    assert json.loads(schema_text()) == json_schema()


def test_the_schema_says_what_the_reader_says() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert not list(validator.iter_errors(tomllib.loads(GOOD)))
    wrong = {tuple(error.absolute_path) for error in validator.iter_errors(tomllib.loads(BAD))}
    assert {
        ("models", "a", "dims", "seq"),
        ("models", "a", "dims", "batch"),
        ("models", "a"),
        ("models", "b c"),
        ("chips", "host", "gflops"),
        ("budgets", "size"),
        ("budgets", "accuracy_drop"),
        ("overrides", 1, "skip"),
    } <= wrong
