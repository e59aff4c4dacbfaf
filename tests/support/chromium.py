"""A page in headless Chromium, driven through a pipe by the DevTools protocol; nothing else is needed.

python tests/support/chromium.py dist/report.html docs/report.png    # a picture of a page
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=900,800",
    "--remote-debugging-pipe",
)  # fmt: skip


class Page:
    """One open page."""

    def __init__(self, send: IO[bytes], answers: IO[bytes]) -> None:
        self._send, self._answers = send, answers
        self._count = 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method: str, **params: object) -> dict:
        """One command of the protocol, and its answer."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        self._send.write(json.dumps(message).encode() + b"\0")
        self._send.flush()
        while True:
            answer = json.loads(self._message())
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]

    def _message(self) -> bytes:
        found = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "Chromium has gone"
            found += byte
        return bytes(found)

    def open(self, url: str) -> None:
        """Go to an address."""
        assert not self.call("Page.navigate", url=url).get("errorText")

    def evaluate(self, script: str) -> object:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script: str, seconds: float) -> None:
        """Until the expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(script):
            assert time.monotonic() < end, f"not within {seconds} s: {script}"
            time.sleep(0.1)

    def screenshot(self, path: Path) -> None:
        """What the page looks like, as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def page(chromium: str, folder: Path) -> Iterator[Page]:
    """A page of a Chromium that is started for it, with an empty profile in `folder`."""
    their_in, our_out = os.pipe()
    our_in, their_out = os.pipe()
    # The protocol's pipes are the descriptors 3 and 4, whatever they are here.
    moved = ["bash", "-c", f'exec "$@" 3<&{their_in} 4>&{their_out}', "bash"]
    with (
        subprocess.Popen(
            [*moved, chromium, *FLAGS, f"--user-data-dir={folder}"],
            pass_fds=(their_in, their_out),
            stderr=subprocess.DEVNULL,
        ) as process,
        os.fdopen(our_out, "wb") as send,
        os.fdopen(our_in, "rb") as answers,
    ):
        os.close(their_in)
        os.close(their_out)
        try:
            yield Page(send, answers)
        finally:
            process.kill()


def picture(source: Path, destination: Path, width: int = 1180, height: int = 640) -> None:
    """What a file looks like, as PNG."""
    with tempfile.TemporaryDirectory() as profile, page("chromium", Path(profile)) as browser:
        browser.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        browser.open(source.absolute().as_uri())
        browser.wait('document.readyState === "complete"', 30)
        browser.screenshot(destination)


if __name__ == "__main__":
    picture(Path(sys.argv[1]), Path(sys.argv[2]))
