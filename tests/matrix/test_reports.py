"""The reports of a build: complete, escaped, in the form that others defined, readable by everybody."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest
from chromium import Page, page
from matrix_results import HOSTILE, pair, result
from programs import needed

from isthmus.matrix.diff import diff_cells
from isthmus.matrix.report import last_report, report_json, sarif_of, write_reports
from isthmus.matrix.results import BuildResult

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / "tests" / "support" / "axe"


def placed(folder: Path) -> BuildResult:
    """The made-up build, with its bundles in `folder`."""
    found = result()
    pairs = [replace(p, bundle=None if p.bundle is None else folder / p.bundle.name) for p in found.pairs]
    return replace(found, pairs=tuple(pairs), output=folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Reports of the made-up build, written twice: the second time one library has shrunk."""
    build = placed(tmp_path)
    assert write_reports(build) is None
    smaller = replace(build.pairs[0], code_bytes=100_000, digest="ef" * 32)
    changes = write_reports(replace(build, pairs=(smaller, *build.pairs[1:])))
    assert changes is not None and [change.pair for change in changes] == ["minilm@host"]
    return tmp_path


def test_json_has_everything(folder: Path) -> None:
    report = last_report(folder)
    assert report is not None and report["exit_code"] == 2
    cells = {cell["name"]: cell for cell in report["pairs"]}
    assert len(cells) == 8
    assert [cells[n]["status"] for n in ("minilm@host", "vit@host", "vit@wasm", "odd@arm")] == [
        "pass", "over", "wrong", "failed",
    ]  # fmt: skip
    # Of those that pass: the cheaper one of minilm is an estimate and says so, vit has no price that passes.
    assert report["cheapest"] == {"minilm": "arm"} == dict(result().cheapest)
    assert cells["minilm@arm"]["latency"]["measured"] is False
    assert "roofline" in cells["minilm@arm"]["latency"]["basis"]
    assert cells["odd@host"]["problems"][0]["message"].endswith(HOSTILE)


def test_only_some_pairs_keeps_the_others(folder: Path) -> None:
    build = placed(folder)
    one = replace(build.pairs[2], cost=0.5, verdicts=())
    gone = build.pairs[0].name
    changes = write_reports(
        replace(build, pairs=(one,), models=("vit",), chips=("host",), names=build.names[1:])
    )
    report = last_report(folder)
    assert changes is not None and report is not None
    assert (report["models"], report["chips"]) == (["minilm", "vit", "odd"], ["arm", "host", "wasm"])
    assert {cell["name"] for cell in report["pairs"]} == {p.name for p in build.pairs} - {gone}
    assert report["cheapest"] == {"minilm": "arm", "vit": "host"}
    assert {c.pair: c.kind for c in changes} == {one.name: "changed", gone: "gone"}


def test_markdown(folder: Path) -> None:
    text = (folder / "report.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 8 and len({line.replace("\\|", "").count("|") for line in rows}) == 1
    assert "## Isthmus: 3 of 8 pairs pass" in text
    assert "11 ms (estimate)" in text and "**0.19**" in text
    assert "latency\\_p50 is 12.3 ms, the budget is 5 ms" in text
    assert "code\\_bytes: 145.0 kB → 100.0 kB (-31.0 %)" in text
    assert "<script" not in text


def test_junit(folder: Path) -> None:
    suites = {suite.get("name"): suite for suite in Xml.parse(folder / "junit.xml").getroot()}
    numbers = {n: [s.get(k) for k in ("tests", "failures", "errors")] for n, s in suites.items()}
    assert numbers == {"minilm": ["2", "0", "0"], "vit": ["3", "2", "0"], "odd": ["3", "0", "3"]}
    (failure,) = suites["vit"].findall("testcase[@name='host']/failure")
    assert failure.get("message") == "latency_p50 is 12.3 ms, the budget is 5 ms"
    assert not suites["minilm"].findall("testcase/failure"), "an estimate fails nothing"


def test_sarif(tmp_path: Path) -> None:
    log = json.loads(json.dumps(sarif_of(replace(placed(tmp_path), file=Path("isthmus.toml")))))
    results = log["runs"][0]["results"]
    rules = [rule["id"] for rule in log["runs"][0]["tool"]["driver"]["rules"]]
    assert all(rules[one["ruleIndex"]] == one["ruleId"] for one in results)
    assert sorted({(one["ruleId"], one["level"]) for one in results}) == [
        ("E1203", "error"), ("E3001", "error"), ("E3002", "error"), ("W1501", "warning"),
    ]  # fmt: skip
    budget = next(one for one in results if one["ruleId"] == "E3002")
    place = budget["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": "isthmus.toml"}, "region": {"startLine": 1}}


# The page


class _Links(HTMLParser):
    """Everything that a browser would load, and whether tags close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "action", "srcset")]


def test_the_page_is_one_file_and_nothing_gets_into_it(folder: Path) -> None:
    text = (folder / "report.html").read_text("utf-8")
    found = _Links()
    found.feed(text)
    assert found.loads == ["data:,"] and "@import" not in text and "url(" not in text
    assert found.scripts == 1 and "&lt;script&gt;alert(1)" in text


@pytest.fixture(scope="module")
def axe() -> str:
    """The source of axe-core, as tests/support/axe pins it."""
    place = ROOT / "build" / "axe"
    script = place / "node_modules" / "axe-core" / "axe.min.js"
    if not script.is_file():
        place.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(AXE / name, place)
        command = [needed("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(command, cwd=place, check=True, capture_output=True)
    return script.read_text("utf-8")


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    """A page of Chromium without a network: whatever is not in the file is missing."""
    program = needed("chromium", "chromium-browser", "google-chrome")
    with tempfile.TemporaryDirectory() as profile, page(program, Path(profile)) as opened:
        opened.call("Network.enable")
        opened.call(
            "Network.emulateNetworkConditions",
            offline=True, latency=0, downloadThroughput=0, uploadThroughput=0,
        )  # fmt: skip
        yield opened


def show(browser: Page, path: Path, width: int, dark: bool) -> None:
    """Open a file as a screen of this width, in light or dark, shows it."""
    browser.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.call("Emulation.setEmulatedMedia", features=[scheme])
    browser.open(path.as_uri())
    browser.wait('document.readyState === "complete"', 30)


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_everybody_can_read_it(folder: Path, browser: Page, axe: str, width: int, dark: bool) -> None:
    show(browser, folder / "report.html", width, dark)
    # The page itself never scrolls sideways; tables that are too wide do.
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    browser.call("Runtime.evaluate", expression=axe)
    for opened in (False, True):
        if opened:
            browser.evaluate('document.querySelector("#matrix button").click()')
            assert (
                browser.evaluate('document.querySelector("dialog[open] h2").textContent') == "minilm on host"
            )
        found = json.loads(
            str(browser.evaluate("axe.run().then((r) => JSON.stringify([r.violations, r.passes.length]))"))
        )
        assert found[1] > 10
        assert [(v["id"], [n["html"] for n in v["nodes"]]) for v in found[0]] == []


@pytest.mark.slow
def test_the_page_shows_what_the_report_says(folder: Path, browser: Page) -> None:
    show(browser, folder / "report.html", 1200, False)
    text = str(browser.evaluate('document.querySelector("#matrix").innerText'))
    assert "cheapest" in text and "~11 ms" in text and "6.7 ms" in text and "not built" in text
    browser.evaluate("""document.querySelector('[data-opens="pair-1"]').click()""")
    behind = str(browser.evaluate('document.querySelector("dialog[open]").innerText'))
    for part in (
        "minilm on arm",
        "an estimate: roofline of 64 GFLOP/s",
        "gemm_f32",
        "fuse-gelu",
        "18,874,368",
        "41.2",
        "csr: 2x",
    ):
        assert part in behind
    browser.evaluate('document.querySelector("dialog[open] .close").click()')
    assert browser.evaluate('document.querySelector("dialog[open]")') is None


def test_roundings_are_no_difference() -> None:
    cells = [{"name": "a@b", "status": "pass", "accuracy": 1 - error} for error in (0.0, 1e-12, 1e-3)]
    assert not diff_cells(cells[0], cells[1])
    (field,) = diff_cells(cells[0], cells[2])
    assert (field.name, field.after) == ("accuracy", 0.999)
    (field,) = diff_cells({**cells[0], "accuracy": None}, cells[0])
    assert (field.before, field.after) == (None, 1.0)


def test_a_report_of_another_kind_is_no_report(tmp_path: Path) -> None:
    assert last_report(tmp_path) is None
    for text in ("", "[]", '{"format": 99, "pairs": []}', '{"rewrites": {}}'):
        (tmp_path / "report.json").write_text(text)
        assert last_report(tmp_path) is None


def test_a_fresh_report_has_no_diff(tmp_path: Path) -> None:
    write_reports(placed(tmp_path))
    assert "Since the last build" not in (tmp_path / "report.md").read_text("utf-8")
    write_reports(placed(tmp_path))
    assert "nothing changed" in (tmp_path / "report.md").read_text("utf-8")
    assert report_json(placed(tmp_path))["pairs"][0]["bundle"] == "minilm@host"
    assert pair("a", "b", 0.1).name == "a@b"
