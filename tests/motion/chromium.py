"""Headless Chromium through a pair of pipes: one page at a time, its console, its requests, keys and pictures.

The protocol is that of the browser's developer tools, JSON messages that end with a zero byte on descriptors 3 and 4.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip


def find_chromium() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A browser with one tab; leave it with `with`."""

    def __init__(self, binary: str, profile: Path, size: tuple[int, int], patience: float = 60.0) -> None:
        self.patience = patience
        self.console: list[str] = []
        self.requests: list[str] = []
        self.count = 0
        self.pending = b""
        theirs_in, self.ours_out = os.pipe()
        self.ours_in, theirs_out = os.pipe()

        # Descriptors 3 and 4 may be either of ours already, so both move out of the way first.
        command = f'exec 13<&{theirs_in} 14>&{theirs_out}; exec 3<&13 4>&14 13<&- 14>&-; exec "$@"'
        self.process = subprocess.Popen(
            ["bash", "-c", command, "chromium", binary, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        os.set_blocking(self.ours_in, False)
        self.session = None
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(entry["targetId"] for entry in targets if entry["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.resize(*size)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(20)
        os.close(self.ours_in)
        os.close(self.ours_out)

    def call(self, method: str, **parameters):
        """Return a command's result; events that come meanwhile are kept."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.ours_out, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + self.patience
        while time.monotonic() < until:
            for answer in self._messages():
                if answer.get("id") == self.count:
                    assert "error" not in answer, (method, answer)
                    return answer["result"]
                self._note(answer)
        raise TimeoutError(f"{method}: no answer from the browser in {self.patience:g} s")

    def evaluate(self, expression: str):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        until = time.monotonic() + self.patience
        while not self.evaluate(expression):
            assert time.monotonic() < until, (expression, self.console)
            time.sleep(0.02)

    def resize(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key)

    def picture(self) -> np.ndarray:
        """Return the page's pixels, (H, W, 3) uint8, once what it has drawn is on its screen."""
        self.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
        png = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        return np.array(Image.open(io.BytesIO(png)).convert("RGB"))

    def _messages(self) -> list[dict]:
        try:
            chunk = os.read(self.ours_in, 1 << 20)
        except BlockingIOError:
            time.sleep(0.002)
            return []
        assert chunk, "the browser has ended"
        *whole, self.pending = (self.pending + chunk).split(b"\0")
        return [json.loads(text) for text in whole]

    def _note(self, event: dict) -> None:
        details = event.get("params", {})
        match event.get("method"):
            case "Runtime.consoleAPICalled":
                self.console.append(f"{details['type']}: {[part.get('value') for part in details['args']]}")
            case "Runtime.exceptionThrown":
                self.console.append(f"exception: {details['exceptionDetails']}")
            case "Log.entryAdded":
                self.console.append(f"{details['entry']['level']}: {details['entry']['text']}")
            case "Network.requestWillBeSent":
                self.requests.append(details["request"]["url"])
