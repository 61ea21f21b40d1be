"""A labgrid coordinator and an exporter on this machine, with one place."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PLACE = "paper"
EXPORTER = "bench"
TIMEOUT = 30.0
"""Seconds."""


@contextlib.contextmanager
def farm(folder: Path, resources: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Export resources as one place and hold it; yields the variables by which it is found."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    variables = {"LG_COORDINATOR": address, "LG_PLACE": PLACE, "LG_ENV": ""}
    (folder / "exporter.yaml").write_text(json.dumps({PLACE: resources}))  # JSON is YAML.
    with contextlib.ExitStack() as ending:
        ending.enter_context(_running(folder, "coordinator", "-l", address))
        _until(lambda: _answers(address), "the coordinator does not answer")
        exporter = ("-c", address, "-n", EXPORTER, "exporter.yaml")
        ending.enter_context(_running(folder, "exporter", *exporter))
        wanted = {f"{EXPORTER}/{PLACE}/{name}" for name in resources}
        _until(
            lambda: wanted <= {line.split(" ")[0] for line in _client(variables, "resources")},
            "the exporter tells of no resources",
        )
        _client(variables, "-p", PLACE, "create")
        _client(variables, "-p", PLACE, "add-match", f"{EXPORTER}/{PLACE}/*")
        _client(variables, "-p", PLACE, "acquire")
        ending.callback(_client, variables, "-p", PLACE, "release")
        yield variables


@contextlib.contextmanager
def _running(folder: Path, name: str, *arguments: str) -> Iterator[None]:
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen([_program(name), *arguments], cwd=folder, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def _client(variables: Mapping[str, str], *arguments: str) -> list[str]:
    done = subprocess.run(
        [_program("client"), *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def _program(name: str) -> str:
    return str(Path(sys.executable).with_name(f"labgrid-{name}"))


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
        return True
    return False


def _until(condition: Any, complaint: str) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.1)
