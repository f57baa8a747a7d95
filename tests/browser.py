"""A headless Chromium, driven over a pipe by its own protocol, for tests that must see a real page."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-extensions", "--no-first-run",
    "--hide-scrollbars", "--disable-dev-shm-usage", "--remote-debugging-pipe",
)  # fmt: skip


def find() -> str | None:
    """Where a browser is: DPTRAIN_CHROMIUM, or the first of the usual names on the PATH; None without one."""
    named = os.environ.get("DPTRAIN_CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


needs_browser = pytest.mark.skipif(find() is None, reason="no Chromium here; DPTRAIN_CHROMIUM may name one")


# Every text whose contrast with what lies behind it is below 4.5, or 3 if large (WCAG 2.2, 1.4.3).
FAINT = """(() => {
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const parse = text => [...numbers(text), 1].slice(0, 4);
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3]));
  const light = rgb => {
    const linear = c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = rgb.map(c => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element, point) => {
    let colour = [255, 255, 255];
    const up = [];
    for (let e = element; e; e = e.parentElement) up.unshift(e);
    for (const e of up) colour = over(parse(getComputedStyle(e).backgroundColor), colour);
    if (!element.closest('svg')) return colour;
    for (const e of document.elementsFromPoint(...point).reverse()) {
      if (!['path', 'rect'].includes(e.tagName) || getComputedStyle(e).fill === 'none') continue;
      const fill = parse(getComputedStyle(e).fill);
      colour = over([...fill.slice(0, 3), fill[3] * getComputedStyle(e).fillOpacity], colour);
    }
    return colour;
  };
  const faint = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, words = walker.currentNode.textContent.trim();
    if (!words || ['title', 'desc', 'STYLE'].includes(element.tagName)) continue;
    element.scrollIntoView({block: 'center', behavior: 'instant'});
    const box = element.getBoundingClientRect(), style = getComputedStyle(element);
    if (!box.width || !box.height) continue;
    const back = behind(element, [box.left + box.width / 2, box.top + box.height / 2]);
    const ink = parse(element.closest('svg') ? style.fill : style.color);
    const front = over([...ink.slice(0, 3), ink[3] * style.opacity], back);
    const [low, high] = [light(front), light(back)].sort((a, b) => a - b);
    const size = parseFloat(style.fontSize), contrast = (high + 0.05) / (low + 0.05);
    const large = size >= 24 || (size >= 18.7 && style.fontWeight >= 700);
    if (contrast < (large ? 3 : 4.5)) faint.push(`${words}: ${contrast.toFixed(2)}`);
  }
  scrollTo(0, 0);
  return faint;
})()"""


class Page:
    """A page in a browser of its own; remembers what was asked of the network and said on the console."""

    def __init__(self, binary: str, profile: Path) -> None:
        read_end, commands = os.pipe()
        replies, write_end = os.pipe()

        def wire() -> None:  # the browser reads from descriptor 3 and writes to 4
            spare = os.dup(write_end)
            os.dup2(read_end, 3)
            os.dup2(spare, 4)

        self._process = subprocess.Popen(
            [binary, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(3, 4, read_end, write_end),
            preexec_fn=wire,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_end)
        os.close(write_end)
        self._out, self._in = os.fdopen(commands, "wb"), os.fdopen(replies, "rb")
        self._session: str | None = None
        self._pending = b""
        self._sent = 0
        self.events: list[dict[str, Any]] = []
        (page, *_) = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        attached = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Page:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(20)
        self._out.close()
        self._in.close()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask for something, and wait for the answer."""
        self._sent += 1
        message: dict[str, Any] = {"id": self._sent, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        self._out.flush()
        while True:
            answer = self._next()
            if answer.get("id") == self._sent:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def open(
        self, url: str, *, width: int = 1280, height: int = 900, scheme: str = "light", media: str = ""
    ) -> None:
        """Show a page at this size and colour scheme, on the screen or as on paper; waits for it to load."""
        self.events.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)
        self.call("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["exception"].get("description"))
        return found["result"].get("value")

    def faint_text(self) -> list[str]:
        """Texts that stand out too little from what lies behind them, each with its contrast."""
        found: list[str] = self.run(FAINT)
        return found

    def press(self, key: str) -> None:
        """Press and release a key, such as Tab."""
        code, text = {"Tab": (9, {}), "Enter": (13, {"text": "\r"})}[key]
        for kind, more in (("keyDown", text), ("keyUp", {})):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more
            )

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """A PNG of the page, all of it or what fits the window."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"clip": {**size, "x": 0, "y": 0, "scale": 1}} if whole else {}
        made = self.call("Page.captureScreenshot", captureBeyondViewport=whole, **clip)
        path.write_bytes(base64.b64decode(made["data"]))

    def pdf(self, path: Path) -> None:
        """The page as it is printed."""
        path.write_bytes(base64.b64decode(self.call("Page.printToPDF", preferCSSPageSize=True)["data"]))

    def requests(self) -> list[str]:
        """Addresses asked for since `open`."""
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def complaints(self) -> list[str]:
        """What was said on the console, logged or thrown since `open`."""
        said = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(event["params"]) for event in self.events if event.get("method") in said]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._pending:
            part = os.read(self._in.fileno(), 1 << 16)
            if not part:
                raise RuntimeError(f"the browser ended with {self._process.wait(20)}")
            self._pending += part
        message, self._pending = self._pending.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(message)
        return answer


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A page in a fresh browser; there must be one (see `find`)."""
    binary = find()
    assert binary is not None
    with Page(binary, profile) as page:
        yield page
