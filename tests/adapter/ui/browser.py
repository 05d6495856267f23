"""A real Chromium without a window, driven over its DevTools protocol.

https://chromedevtools.github.io/devtools-protocol/. Tests that need it skip where it is not installed.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

needed = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

HANG_SECONDS = 300.0
"""After which a wait counts as endless: it decides nothing else, and is less than pytest's own limit."""

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions",
    "--disable-sync", "--disable-default-apps", "--mute-audio", "--hide-scrollbars",
    "--remote-debugging-port=0", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)  # fmt: skip
"""No sandbox, since tests run as root in containers; no names but loopback, since pages need no network."""


class Browser:
    """A running Chromium: sends commands, and hands events to the tabs."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._tabs: dict[str, Tab] = {}

    async def read(self) -> None:
        """Hand out what comes, until the connection ends."""
        async for message in self._socket:
            document = message.json()
            waiting = self._replies.pop(document.get("id", 0), None)
            if waiting is not None and not waiting.done():
                waiting.set_result(document)
            tab = self._tabs.get(document.get("sessionId", ""))
            if tab is not None and "method" in document:
                tab.happened(document["method"], document["params"])

    async def command(self, method: str, *, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its result."""
        number = next(self._numbers)
        reply: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._replies[number] = reply
        document: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session:
            document["sessionId"] = session
        await self._socket.send_json(document)
        response = await asyncio.wait_for(reply, HANG_SECONDS)
        if "error" in response:
            raise AssertionError(f"{method}: {response['error']}")
        result: dict[str, Any] = response["result"]
        return result

    async def tab(self) -> Tab:
        """Open a tab that notes errors and requests."""
        target = await self.command("Target.createTarget", url="about:blank")
        attached = await self.command(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        tab = Tab(self, attached["sessionId"])
        self._tabs[attached["sessionId"]] = tab
        for domain in ("Page", "Runtime", "Log", "Network"):
            await tab.command(f"{domain}.enable")
        return tab


class Tab:
    """One tab.

    Attributes:
        problems: Errors and warnings of scripts, policies and requests.
        requested: URLs of all requests.

    """

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self._loaded = asyncio.Event()
        self.problems: list[str] = []
        self.requested: list[str] = []

    def happened(self, method: str, parameters: dict[str, Any]) -> None:
        """Note an event."""
        if method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Network.requestWillBeSent":
            self.requested.append(parameters["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.problems.append(
                str(details.get("exception", {}).get("description") or details["text"])
            )
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in {"error", "warning"}:
            entry = parameters["entry"]
            self.problems.append(f"{entry['text']} {entry.get('url', '')}")
        elif method == "Page.javascriptDialogOpening":
            self.problems.append(f"dialog: {parameters['message']}")

    async def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command to this tab."""
        return await self._browser.command(method, session=self._session, **parameters)

    async def open(self, url: str) -> None:
        """Load a page, until its load event."""
        self._loaded.clear()
        await self.command("Page.navigate", url=url)
        await asyncio.wait_for(self._loaded.wait(), HANG_SECONDS)

    async def click(self, selector: str) -> None:
        """Click on a link, and wait for the page that it leads to."""
        self._loaded.clear()
        await self.value(f"document.querySelector({selector!r}).click()")
        await asyncio.wait_for(self._loaded.wait(), HANG_SECONDS)

    async def value(self, expression: str) -> Any:
        """Evaluate an expression, promises included."""
        response = await self.command(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in response:
            raise AssertionError(response["exceptionDetails"])
        return response["result"].get("value")

    async def until(self, expression: str) -> Any:
        """Wait until an expression is true."""
        async with asyncio.timeout(HANG_SECONDS):
            while not (value := await self.value(expression)):  # noqa: ASYNC110 - the page tells no more
                await asyncio.sleep(0.02)
        return value

    async def size(self, width: int, height: int = 900) -> None:
        """Set the size of the window in pixels."""
        await self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    async def colours(self, scheme: str) -> None:
        """Prefer `dark` or `light`."""
        await self.command(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    async def memory_after(self, updates: int) -> dict[str, float]:
        """Nodes, bytes of the heap and listeners after so many updates of a page, garbage collected."""
        await self.command("Performance.enable")
        taken = "Number(document.documentElement.dataset.updates || 0)"
        last = updates + await self.value(taken)
        while await self.value(taken) < last:
            # A command each: on a busy machine many take longer than a wait that counts as endless.
            await self.value("refresh()")
        least: dict[str, float] = {}
        for _ in range(5):
            # The document of the last update goes with the next collection.
            await self.value("new Promise((resolve) => setTimeout(resolve, 50))")
            await self.command("HeapProfiler.collectGarbage")
            metrics = (await self.command("Performance.getMetrics"))["metrics"]
            present = {item["name"]: item["value"] for item in metrics}
            least = {name: min(value, least.get(name, value)) for name, value in present.items()}
        return least

    async def screenshot(self, path: Path) -> None:
        """Write a picture of the whole page."""
        response = await self.command("Page.captureScreenshot", captureBeyondViewport=True)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(response["data"]))


@contextlib.asynccontextmanager
async def running(folder: Path, more: Sequence[str] = ()) -> AsyncIterator[Browser]:
    """Start a Chromium whose profile is in the folder."""
    assert CHROMIUM is not None
    profile = folder / "chromium"
    process = await asyncio.create_subprocess_exec(
        CHROMIUM,
        *FLAGS,
        *more,
        f"--user-data-dir={profile}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        port, path = await _address(profile / "DevToolsActivePort")
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"ws://127.0.0.1:{port}{path}", max_msg_size=0) as socket,
        ):
            browser = Browser(socket)
            reading = asyncio.create_task(browser.read())
            try:
                yield browser
                with contextlib.suppress(ConnectionError):
                    await browser.command("Browser.close")
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
    finally:
        if process.returncode is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 10.0)
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _address(written: Path) -> tuple[str, str]:
    """Port and path of the DevTools, once the browser has written both to a file of its profile."""
    async with asyncio.timeout(HANG_SECONDS):
        while True:
            words = await asyncio.to_thread(_words, written)
            if len(words) == 2:
                return words[0], words[1]
            await asyncio.sleep(0.02)


def _words(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []
