"""A headless Chromium, driven through its debugging protocol."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
KEYS = {"Backspace": 8, "Enter": 13, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39,
        "ArrowDown": 40}  # fmt: skip


class NavigatedError(Exception):
    """The page went elsewhere while something was asked of it."""


class Page:
    """One tab; each has cookies and storage of its own, unless it is `beside` another."""

    def __init__(
        self, browser: Browser, url: str, *, width: int, height: int, beside: Page | None = None
    ) -> None:
        self.browser, self.socket, self.number = browser, browser.socket, 0
        self.session = ""
        self.context: str = (
            beside.context
            if beside
            else self.call("Target.createBrowserContext")["browserContextId"]
        )
        target = self.call("Target.createTarget", url="about:blank", browserContextId=self.context)
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.size(width, height)
        # Tabs in the background take keys, too.
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        self.call("Page.navigate", url=url)
        self.wait("location.href !== 'about:blank' && document.readyState === 'complete'")

    def call(self, method: str, **parameters: Any) -> Any:
        self.number += 1
        request = {"id": self.number, "method": method, "params": parameters}
        session = {"sessionId": self.session} if self.session else {}
        self.socket.send(json.dumps(request | session))
        while True:
            message = json.loads(self.socket.recv(timeout=60))
            if message.get("id") == self.number and message.get("sessionId", "") == self.session:
                if "navigated" in message.get("error", {}).get("message", ""):
                    raise NavigatedError
                assert "error" not in message, message
                return message["result"]
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.browser.errors.append(json.dumps(message["params"]))

    def evaluate(self, code: str) -> Any:
        reply = self.call("Runtime.evaluate", expression=code, returnByValue=True)
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    def wait(self, code: str, *, seconds: float = 30) -> Any:
        """What the expression is as soon as it is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with suppress(NavigatedError):
                if found := self.evaluate(f"(v => v instanceof Node || v)({code})"):
                    return found
            time.sleep(0.03)
        raise AssertionError(f"never true: {code}\n{self.evaluate('document.body.innerText')}")

    def ready(self, done: int) -> None:
        """Waits until this many are answered and the page takes an answer."""
        counted = f"document.querySelector('#count b')?.textContent === '{done}'"
        self.wait(f"{counted} && !document.body.classList.contains('busy')")

    def click(self, selector: str, *, times: int = 1) -> None:
        """A real click in the middle of an element; `times` as fast as a double click."""
        middle = (
            f"(() => {{ const e = document.querySelector({selector!r}); if (!e) return null; "
            "const b = e.getBoundingClientRect(); "
            "return b.width ? [b.x + b.width / 2, b.y + b.height / 2] : null; })()"
        )
        box, before = self.wait(middle), None
        while box != before:  # until the page around it is laid out
            time.sleep(0.05)
            box, before = self.wait(middle), box
        for count in range(1, times + 1):
            for kind in ("mousePressed", "mouseReleased"):
                self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left",
                          clickCount=count)  # fmt: skip

    def press(self, key: str, *, repeat: bool = False) -> None:
        code = KEYS.get(key, ord(key[0]))
        text = "\r" if key == "Enter" else key if len(key) == 1 else ""
        down: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": code, "text": text}
        self.call("Input.dispatchKeyEvent", type="keyDown", autoRepeat=repeat, **down)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def write(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def size(self, width: int, height: int, *, phone: bool = False) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=2 if phone else 1, mobile=phone)  # fmt: skip
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)

    def dark(self, value: bool) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if value else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path) -> None:
        shot = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(shot))


class Browser:
    """Opens tabs, which take turns on one connection; `errors` are the complaints of all."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.errors: list[str] = []

    def open(
        self, url: str, *, width: int = 1280, height: int = 800, beside: Page | None = None
    ) -> Page:
        return Page(self, url, width=width, height=height, beside=beside)


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Chromium with an empty profile in `folder` while the block runs."""
    command = [
        str(CHROMIUM),
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--remote-debugging-port=0",
        f"--user-data-dir={folder}",
        "about:blank",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            with connect(_address(folder), max_size=2**27) as socket:
                yield Browser(socket)
        finally:
            process.terminate()


def _address(folder: Path) -> str:
    for _ in range(600):
        try:
            port, path = (folder / "DevToolsActivePort").read_text().split()
            return f"ws://127.0.0.1:{port}{path}"
        except (OSError, ValueError):
            time.sleep(0.1)
    raise AssertionError("Chromium did not start.")
