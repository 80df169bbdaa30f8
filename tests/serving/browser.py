"""A headless Chromium, spoken to over its DevTools protocol."""

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

PROGRAM = shutil.which("chromium") or shutil.which("google-chrome")
_WAIT_S = 60.0


class Tab:
    """A page of the browser, without scripts of its own; what it complains about is kept."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._asked = 0
        self._events: list[dict[str, Any]] = []
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")

    def without_scripts(self) -> None:
        self._ask("Emulation.setScriptExecutionDisabled", value=True)

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height}
        self._ask("Emulation.setDeviceMetricsOverride", **size, deviceScaleFactor=1, mobile=False)

    def open(self, url: str) -> None:
        self._ask("Page.navigate", url=url)
        self._loaded()

    def click(self, selector: str) -> None:
        """Click the first such element the way a mouse does, and wait for the page that follows."""
        place = self.value(
            f"(() => {{ const it = document.querySelector({json.dumps(selector)});"
            " it.scrollIntoView({block: 'center'}); const box = it.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2] })()"
        )
        at = {"x": place[0], "y": place[1], "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self._ask("Input.dispatchMouseEvent", type=kind, **at)
        self._loaded()

    def value(self, expression: str) -> Any:
        """What a script of ours says; the page's own may be switched off."""
        found = self._ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Of the whole page."""
        found = self._ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._asked += 1
        self._socket.send(json.dumps({"id": self._asked, "method": method, "params": params}))
        while True:
            message = self._next()
            if message.get("id") == self._asked:
                assert "error" not in message, message
                return dict(message["result"])

    def _loaded(self) -> None:
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._next()
        self._events.clear()

    def _next(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._socket.recv(_WAIT_S))
        method = message.get("method")
        if method is not None:
            self._events.append(message)
        if method in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            self.complaints.append(json.dumps(message["params"]))
        if method == "Page.javascriptDialogOpening":
            self.complaints.append("a dialog opened")
        return message


@contextmanager
def tab(profile: Path) -> Iterator[Tab]:
    """A fresh browser's one tab."""
    assert PROGRAM is not None
    quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
    command = [PROGRAM, *quiet, "--remote-debugging-port=0", f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        [*command, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with connect(_address(profile, process), max_size=None, proxy=None) as socket:
            yield Tab(socket)
    finally:
        process.terminate()
        process.wait(_WAIT_S)


def _address(profile: Path, process: "subprocess.Popen[bytes]") -> str:
    """Of the tab's socket, once the browser has said where it listens."""
    import httpx  # noqa: PLC0415

    port, end = profile / "DevToolsActivePort", time.monotonic() + _WAIT_S
    while not port.exists() or not port.read_text().strip():
        assert process.poll() is None, "the browser did not start"
        assert time.monotonic() < end, "the browser did not start"
        time.sleep(0.05)
    url = f"http://127.0.0.1:{port.read_text().splitlines()[0]}/json"
    with httpx.Client(trust_env=False) as client:
        pages = [page for page in client.get(url).json() if page["type"] == "page"]
    return str(pages[0]["webSocketDebuggerUrl"])
