"""The sentences of `examples/demo.py`, compared in a page: the model runs in the browser.

    python examples/browser/serve.py

Compiles the model for WebAssembly, and serves the page on this machine until it is interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import isthmus

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from demo import EMBEDDING, MODEL, QUESTION, SENTENCES  # noqa: E402
from fetch_data import FetchError, fetch  # noqa: E402

TARGET = "wasm32-simd128"
DEMO = json.dumps({"question": QUESTION, "sentences": SENTENCES, "output": EMBEDDING}).encode()


def server(bundle: Path, port: int = 0) -> ThreadingHTTPServer:
    """Offers this folder, the bundle under `bundle/`, `tokenizer.json`, `demo.json`. Port 0: any free."""
    tokenizer = fetch("tokenizer.json")

    class Handler(SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            plain = path.split("?")[0]
            if plain == "/tokenizer.json":
                return str(tokenizer)
            inside = plain.startswith("/bundle/")
            self.directory = str(bundle if inside else HERE)
            return super().translate_path(plain.removeprefix("/bundle") if inside else plain)

        def do_GET(self) -> None:
            if self.path != "/demo.json":
                super().do_GET()
                return
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(DEMO)))
            self.end_headers()
            self.wfile.write(DEMO)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def main() -> None:
    """Compile, then serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.parse_args()
    bundle = isthmus.compile(fetch(MODEL), target=TARGET, out=Path("dist")).path
    with server(bundle, port=8000) as serving:
        print(f"http://127.0.0.1:{serving.server_port}/  (Ctrl-C ends)")
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    try:
        main()
    except FetchError as error:
        sys.exit(f"error: {error}")
