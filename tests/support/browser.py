"""A headless Chromium, driven by the DevTools protocol over a pair of pipes: no port is opened, and
no driver program or library has to fit its version."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT = 30.0
"""Seconds for whatever is waited for; machines are shared."""


def find_browser() -> str | None:
    """The program, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


LAUNCH = """
import fcntl, os, sys
# Out of the way first: one of them may be 3 or 4 already.
ends = [fcntl.fcntl(int(each), fcntl.F_DUPFD, 10) for each in sys.argv[1:3]]
for number, end in zip((3, 4), ends):
    os.dup2(end, number)
os.execvp(sys.argv[3], sys.argv[3:])
"""
"""The browser reads from descriptor 3 and writes to 4."""


class BrowserError(Exception):
    """It did not do what was asked."""


class Browser:
    """One page. A context: the program ends with it, and so does its profile."""

    def __init__(self, program: str) -> None:
        self._profile = tempfile.TemporaryDirectory(prefix="mnagent-browser-")
        to_read, self._input = os.pipe()
        self._output, to_write = os.pipe()
        self._process = subprocess.Popen(
            (sys.executable, "-c", LAUNCH, str(to_read), str(to_write), program, *self._flags()),
            pass_fds=(to_read, to_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_read)
        os.close(to_write)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        """What the page told of itself, oldest first."""

    def _flags(self) -> list[str]:
        flags = [
            "--headless=new",
            "--remote-debugging-pipe",
            f"--user-data-dir={self._profile.name}",
            "--no-first-run",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ]
        # Its sandbox refuses to run as root, and what it shows here is our own.
        return [*flags, "--no-sandbox"] if os.geteuid() == 0 else flags

    def __enter__(self) -> Self:
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the program and whatever it started."""
        os.close(self._input)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._output)
        self._profile.cleanup()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its answer. Raises BrowserError."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._input, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + TIMEOUT
        while True:
            answer = self._read(deadline)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _read(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._output], [], [], deadline - time.monotonic())
            data = os.read(self._output, 1 << 16) if ready else b""
            if not data:
                raise BrowserError("the browser says nothing more")
            self._buffer += data
        text, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(text)
        return message

    def open(self, address: str) -> None:
        """Go to a page and wait until it is there."""
        seen = len(self.events)
        result = self.call("Page.navigate", url=address)
        if "errorText" in result:
            raise BrowserError(result["errorText"])
        self.until(lambda: self._loaded(seen))

    def _loaded(self, since: int) -> bool:
        self.evaluate("0")  # whatever has come is read on the way
        return any(event["method"] == "Page.loadEventFired" for event in self.events[since:])

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page. Raises BrowserError when it throws."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise BrowserError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def until(self, found: Callable[[], bool]) -> None:
        """Wait until something is true. Raises BrowserError."""
        deadline = time.monotonic() + TIMEOUT
        while not found():
            if time.monotonic() > deadline:
                raise BrowserError("what was waited for never came")
            time.sleep(0.05)

    def shows(self, text: str) -> None:
        """Wait until the page shows a text. Raises BrowserError."""
        self.until(lambda: text in self.text())

    def text(self) -> str:
        """What can be read on the page."""
        return str(self.evaluate("document.body ? document.body.innerText : ''"))

    def press(self, key: str) -> None:
        """Press and release a key: ``Tab`` or ``Enter``."""
        code = {"Tab": 9, "Enter": 13}[key]
        text = {"Enter": "\r"}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                text=text,
                windowsVirtualKeyCode=code,
            )

    def resize(self, width: int, height: int) -> None:
        """Be a screen of so many pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def prefer(self, scheme: str) -> None:
        """``light`` or ``dark``."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def allow_scripts(self, allowed: bool) -> None:
        """Of the pages opened from now on."""
        self.call("Emulation.setScriptExecutionDisabled", value=not allowed)

    def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def complaints(self) -> list[str]:
        """Errors and refusals the browser has told of: scripts, policies, what was not loaded."""
        said = []
        for event in self.events:
            parameters = event.get("params", {})
            if event["method"] == "Log.entryAdded":
                entry = parameters["entry"]
                if entry["level"] in ("error", "warning"):
                    said.append(f"{entry['text']} {entry.get('url', '')}")
            elif event["method"] == "Runtime.exceptionThrown":
                said.append(str(parameters["exceptionDetails"]))
        return said

    def asked_for(self) -> list[str]:
        """Every address it has asked for."""
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
        ]
