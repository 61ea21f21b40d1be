"""Places of a real labgrid coordinator, as the page shows them."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.page import Serve, Visitor
from tests.support.results import add_run

TIMEOUT = 30.0
"""Seconds."""


def program(name: str) -> str:
    return str(Path(sys.executable).with_name(f"labgrid-{name}"))


@contextlib.contextmanager
def coordinator(folder: Path) -> Iterator[str]:
    """Its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = (program("coordinator"), "-l", address)
    with (folder / "coordinator.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + TIMEOUT
        while subprocess.run(
            (program("client"), "-x", address, "places"), capture_output=True
        ).returncode:
            assert time.monotonic() < deadline, (folder / "coordinator.log").read_text()
        yield address
    finally:
        process.terminate()
        process.wait()


def client(address: str, place: str, *command: str) -> None:
    """Do something to a place."""
    subprocess.run(
        (program("client"), "-x", address, "-p", place, *command),
        check=True,
        capture_output=True,
        env={**os.environ, "LG_USERNAME": "ada", "LG_HOSTNAME": "desk"},
    )


def rows(page: str) -> list[str]:
    """The words of each line of the table of places."""
    body = page.split("<tbody>")[1].split("</tbody>")[0]
    return [re.sub(r"(<[^>]*>)+", "|", row).strip("|") for row in body.split("</tr>") if row]


def test_places_of_a_coordinator_are_shown_as_they_are(serve: Serve, tmp_path: Path) -> None:
    pytest.importorskip("labgrid")
    with coordinator(tmp_path) as address:
        visitor = Visitor(serve("--coordinator", address))
        assert "The coordinator knows none." in visitor.ask("/places")[2]
        client(address, "pi-3", "create")
        client(address, "pi-3", "set-comment", "behind the <door>")
        client(address, "pi-3", "set-tags", "board=pi3")
        client(address, "pi-3", "add-match", "bench/pi-3/NetworkSerialPort")
        client(address, "pi-4", "create")
        client(address, "pi-4", "acquire", "--allow-unmatched")
        deadline = time.monotonic() + TIMEOUT
        while "pi-4" not in (page := visitor.ask("/places")[2]):  # an answer is used for a while
            assert time.monotonic() < deadline
        while "taken" not in (page := visitor.ask("/places")[2]):
            assert time.monotonic() < deadline
    assert rows(page) == [
        "pi-3|free|NetworkSerialPort|behind the &lt;door&gt;; board=pi3",
        "pi-4|taken by desk/ada|no resources",
    ]
    while "does not answer: unavailable" not in (page := visitor.ask("/places")[2]):
        assert time.monotonic() < deadline, page
    assert "pi-3" not in page


def test_first_page_lives_without_the_coordinator(serve: Serve, results: Path) -> None:
    pytest.importorskip("labgrid")
    add_run(results)
    page = Visitor(serve("--coordinator", "127.0.0.1:1")).ask("/")[2]
    assert "does not answer" in page
    assert "passed" in page


def test_targets_of_this_machine_are_shown_without_a_coordinator(serve: Serve) -> None:
    page = Visitor(serve()).ask("/places")[2]
    assert [row.split("|")[0] for row in rows(page)][:2] == ["namespaces", "wifi-machine"]
