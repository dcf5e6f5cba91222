"""A headless Chromium, driven by the part of the WebDriver protocol that the tests of the report need."""

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
DIRECT = build_opener(ProxyHandler({}))
FOCUSED = (
    "return new Promise(done => {"
    "const look = () => document.hasFocus() ? done() : requestAnimationFrame(look); requestAnimationFrame(look) })"
)
"""Ends when the page has drawn a frame and has the focus: on a busy machine both may come after it has loaded."""
KEYS = {"Tab": "\ue004", "Enter": "\ue007", "Space": " ", "ArrowRight": "\ue014", "Escape": "\ue00c"}


class Browser:
    """One session of the browser; `session` is the address of its commands."""

    def __init__(self, session: str) -> None:
        self.session = session

    def command(self, method: str, path: str, content: dict[str, Any] | None = None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        request = Request(f"{self.session}{path}", data, {"Content-Type": "application/json"}, method=method)
        with DIRECT.open(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def devtools(self, method: str, **params: Any) -> Any:
        return self.command("POST", "/goog/cdp/execute", {"cmd": method, "params": params})

    def open(self, page: Path, width: int = 1280, height: int = 900, dark: bool = False, script: bool = True) -> None:
        """Open a page in a window of this size, with a light or dark system theme; with scripts it then takes keys."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.devtools("Emulation.setEmulatedMedia", features=features)
        self.devtools("Emulation.setScriptExecutionDisabled", value=not script)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.devtools("Emulation.setDeviceMetricsOverride", **size)
        self.command("POST", "/url", {"url": page.as_uri()})
        self.devtools("Page.bringToFront")
        if script:
            self.run(FOCUSED)

    def run(self, script: str) -> Any:
        """The return value of a script. The driver runs it, so the page's policy does not apply."""
        return self.command("POST", "/execute/sync", {"script": script, "args": []})

    def press(self, *keys: str) -> None:
        actions = [{"type": kind, "value": KEYS[key]} for key in keys for kind in ("keyDown", "keyUp")]
        self.command("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def log(self, kind: str) -> list[dict[str, Any]]:
        """The log since the last call: of the console ("browser") or of the network ("performance")."""
        return self.command("POST", "/se/log", {"type": kind})

    def requested(self) -> list[str]:
        """The addresses that were requested since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]

    def picture(self, path: Path) -> None:
        """Save the whole page as PNG."""
        shot = self.devtools("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def pdf(self, path: Path) -> None:
        """Save the page as it is printed."""
        printed = self.devtools("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
        path.write_bytes(base64.b64decode(printed["data"]))


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser that is closed at the end of the block."""
    assert CHROMIUM
    assert DRIVER
    driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        assert driver.stdout
        port = next(found[1] for line in driver.stdout if (found := re.search(r"successfully on port (\d+)", line)))
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options = {
            "goog:chromeOptions": {"binary": CHROMIUM, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        address = f"http://127.0.0.1:{port}/session"
        made = Browser(address).command("POST", "", {"capabilities": {"alwaysMatch": options}})
        browser = Browser(f"{address}/{made['sessionId']}")
        try:
            yield browser
        finally:
            browser.command("DELETE", "")
    finally:
        driver.terminate()
        driver.wait(20)
        if driver.stdout:
            driver.stdout.close()
