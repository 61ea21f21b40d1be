"""The rig's page as a process of its own, and somebody who looks at it."""

from __future__ import annotations

import http.client
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode, urlsplit

Serve = Callable[..., str]


@contextmanager
def served(results: Path, *options: str, complaint: str = "") -> Iterator[str]:
    """Run the command; gives the address of its first page, and looks that it ends in order
    and complains of nothing else."""
    code = "import sys; from mnagent.cli.main import main; sys.exit(main())"
    command = (sys.executable, "-c", code, "rig", "serve", "--results", str(results))
    server = subprocess.Popen(
        (*command, "--port", "0", *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "LG_COORDINATOR"},
    )
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        assert address.startswith("http"), server.stderr.read() if server.stderr else ""
        yield address.removesuffix("/")
        server.send_signal(signal.SIGTERM)
        said, complained = server.communicate(timeout=20)
        assert (said, server.returncode) == ("", 0)
        assert complaint in complained
        assert len(complained.splitlines()) == bool(complaint)
    finally:
        server.kill()
        server.communicate()


class Visitor:
    """Somebody with a connection of their own for each question, and a cookie."""

    def __init__(self, address: str, trust: ssl.SSLContext | None = None) -> None:
        self.host = urlsplit(address).netloc
        self._trust = trust
        self.cookie = ""

    def ask(
        self, path: str, *, method: str = "GET", form: dict[str, str] | None = None, **headers: str
    ) -> tuple[int, dict[str, str], str]:
        """Status, headers with names in lower case, text."""
        connection = (
            http.client.HTTPConnection(self.host, timeout=20)
            if self._trust is None
            else http.client.HTTPSConnection(self.host, timeout=20, context=self._trust)
        )
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookie:
            sent["Cookie"] = self.cookie
        if form is not None:
            method, sent["Content-Type"] = "POST", "application/x-www-form-urlencoded"
        body = None if form is None else urlencode(form)
        try:
            connection.request(method, path, body=body, headers=sent)
            answer = connection.getresponse()
            got = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, got, answer.read().decode(errors="replace")
        finally:
            connection.close()

    def events(self, path: str) -> Iterator[tuple[str, str]]:
        """Server-sent events, as name and data."""
        connection = http.client.HTTPConnection(self.host, timeout=20)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            assert answer.getheader("Content-Type") == "text/event-stream"
            event, data = "", []
            for line in answer:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "event":
                    event = value
                elif name == "data":
                    data.append(value)
                elif not name and event:
                    yield event, "\n".join(data)
                    event, data = "", []
        finally:
            connection.close()
