"""The page of examples/browser: its tokenizer, and what it shows in Chromium."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from chromium import Page, page
from programs import needed
from tokenizers import Tokenizer

import isthmus

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "browser"
ODD = (
    "",
    "  Füße, naïve CAFÉ -- déjà-vu!  ",
    "İstanbul ΣΊΣΥΦΟΣ straße",
    "price: $3.50 + 2^10 = <tag> ~ `code` |x|",
    "日本語 mixed 文字 and 한국어 words",
    "tabs\tand\nlines\r\nand\u00a0spaces\u200b\u0000\ufffd",
    "x" * 101 + " " + "y" * 100,
    "emoji 🙂 zwj 👩‍💻 unaffordability antidisestablishmentarianism",
    "“quotes” … – — ‘it’s’ §5 ©2024 №7",
)


def test_the_page_tokenizes_as_the_model_was_trained(data: Callable[[str], Path]) -> None:
    documents = data("lee.cor").read_text("latin-1").splitlines()
    texts = [*ODD, *documents]
    tokenizer = Tokenizer.from_file(str(data("tokenizer.json")))
    tokenizer.no_padding()
    tokenizer.enable_truncation(512)
    wanted = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    script = f"""
        import fs from "node:fs";
        import {{ Tokenizer }} from {json.dumps(str(FOLDER / "wordpiece.js"))};
        const {{ file, texts }} = JSON.parse(fs.readFileSync(0, "utf8"));
        const tokenizer = new Tokenizer(JSON.parse(fs.readFileSync(file, "utf8")));
        console.log(JSON.stringify(texts.map((text) => tokenizer.encode(text))));
    """
    done = subprocess.run(
        [needed("node"), "--no-warnings", "--input-type=module", "-e", script],
        input=json.dumps({"file": str(data("tokenizer.json")), "texts": texts}),
        capture_output=True,
        text=True,
        check=True,
    )
    for text, ids, expected in zip(texts, json.loads(done.stdout), wanted, strict=True):
        assert ids == expected, text


@pytest.mark.slow
def test_the_page_shows_what_the_demo_shows(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chromium = needed("chromium", "chromium-browser", "google-chrome")
    monkeypatch.syspath_prepend(str(FOLDER))
    import demo
    import serve

    with isthmus.load(isthmus.compile(minilm, target="host", out=tmp_path).path) as session:
        vectors = session(**demo.tokenize([demo.QUESTION, *demo.SENTENCES]))[demo.EMBEDDING]
        other = session(**demo.tokenize([demo.SENTENCES[6], *demo.SENTENCES]))[demo.EMBEDDING]
    bundle = isthmus.compile(minilm, target=serve.TARGET, out=tmp_path).path
    with serve.server(bundle) as serving, page(chromium, tmp_path / "profile") as browser:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        browser.open(f"http://127.0.0.1:{serving.server_port}/")
        browser.wait('document.querySelector("#status")?.dataset.state !== undefined', 60)
        browser.wait('document.querySelector("#status").dataset.state !== "loading"', 120)
        said = str(browser.evaluate('document.querySelector("#status").textContent'))
        assert f"for {serve.TARGET}: {len(vectors)} texts in" in said
        shown = rows(browser)
        screenshot = ROOT / "build" / "browser.png"
        screenshot.parent.mkdir(exist_ok=True)
        browser.screenshot(screenshot)
        # Another question, typed by a person.
        browser.evaluate(
            f"""{{
              const asked = document.querySelector("#question");
              asked.value = {json.dumps(demo.SENTENCES[6])};
              asked.dispatchEvent(new Event("input"));
            }}"""
        )
        typed = rows(browser)
        serving.shutdown()
    assert screenshot.read_bytes().startswith(b"\x89PNG")
    wanted = dict(zip(demo.SENTENCES, map(float, demo.similarities(vectors)), strict=True))
    assert dict(shown) == pytest.approx(wanted, abs=1e-4)
    assert [name for name, _ in shown] == sorted(wanted, key=lambda name: -wanted[name])
    assert dict(typed) == pytest.approx(
        dict(zip(demo.SENTENCES, map(float, demo.similarities(other)), strict=True)), abs=1e-4
    )


def rows(browser: Page) -> list[tuple[str, float]]:
    """What the table shows: sentences, and how similar they are."""
    script = (
        '[...document.querySelectorAll("#answers tr")].map((row) => [...row.cells].map((c) => c.textContent))'
    )
    return [(sentence, float(number)) for sentence, number in browser.evaluate(script)]
