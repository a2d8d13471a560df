"""A real headless Chromium for tests of pages, driven over its DevTools protocol."""

import asyncio
import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
KEYS: dict[str, dict[str, Any]] = {
    "Tab": {"windowsVirtualKeyCode": 9},
    "Enter": {"windowsVirtualKeyCode": 13, "text": "\r"},
    "Escape": {"windowsVirtualKeyCode": 27},
    " ": {"windowsVirtualKeyCode": 32, "text": " "},
}
PHONE = {"width": 375, "height": 812, "deviceScaleFactor": 1, "mobile": True}  # for Emulation.setDeviceMetricsOverride
FAINT_TEXTS = Path(__file__).with_name("faint_texts.js")


class Browser:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._calls = socket, 0
        self.errors: list[str] = []  # from the page's console and its content security policy

    async def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._calls += 1
        await self._socket.send_json({"id": self._calls, "method": method, "params": arguments})
        while True:
            message = json.loads((await self._socket.receive(timeout=20)).data)
            if message.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown", "Page.javascriptDialogOpening"):
                self.errors.append(json.dumps(message["params"]))
            if message.get("id") == self._calls:
                assert "error" not in message, message
                return dict(message["result"])

    async def open(self, url: str) -> None:
        """Open a page and wait until it has loaded."""
        await self.call("Page.navigate", url=url)
        await self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        return (await self.call("Runtime.evaluate", expression=expression, returnByValue=True))["result"].get("value")

    async def wait_for(self, expression: str, within_s: float = 15) -> None:
        """Poll until an expression is true."""
        deadline = time.monotonic() + within_s
        while not await self.evaluate(expression):
            assert time.monotonic() < deadline, f"{expression} did not become true"
            await asyncio.sleep(0.05)

    async def prefer(self, scheme: str) -> None:
        """Prefer the `light` or `dark` colour scheme, as a person's system does."""
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def faint_texts(self) -> dict[str, str]:
        """Return the texts with too little contrast, by element."""
        return dict(json.loads(await self.evaluate(FAINT_TEXTS.read_text(encoding="utf-8"))))

    async def press(self, key: str) -> None:
        """Press and release a key."""
        code = KEYS.get(key, {"text": key})
        await self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **code)
        await self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    async def screenshot(self, path: Path, *, width: int, height: int, scheme: str) -> None:
        """Save a PNG of the page in the `light` or `dark` colour scheme."""
        await self.prefer(scheme)
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        data = (await self.call("Page.captureScreenshot", format="png"))["data"]
        path.write_bytes(base64.b64decode(data))


@asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    """Run a browser for the block; skips the test when none is installed."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory(prefix="evergreen-browser-", ignore_cleanup_errors=True) as folder:
        options = ["--headless=new", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0", f"--user-data-dir={folder}"]
        options += ["--no-sandbox"] if os.geteuid() == 0 else []
        environment = {**os.environ, "HOME": folder}
        process = subprocess.Popen(
            [program, *options, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
        )
        try:
            async with aiohttp.ClientSession() as session:
                url = await _page(session, Path(folder) / "DevToolsActivePort", process)
                async with session.ws_connect(url, max_msg_size=0) as socket:
                    browser = Browser(socket)
                    for domain in ("Page", "Runtime", "Log"):
                        await browser.call(f"{domain}.enable")
                    yield browser
        finally:
            process.terminate()
            process.wait(timeout=20)


async def _page(session: aiohttp.ClientSession, port: Path, process: subprocess.Popen[bytes]) -> str:
    """Return the first tab's socket once the browser has written its port."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        if port.is_file() and port.read_text().strip():
            async with session.get(f"http://127.0.0.1:{port.read_text().split()[0]}/json/list") as response:
                pages = [target for target in await response.json() if target["type"] == "page"]
            if pages:
                return str(pages[0]["webSocketDebuggerUrl"])
        await asyncio.sleep(0.05)
    raise AssertionError("the browser did not start")
