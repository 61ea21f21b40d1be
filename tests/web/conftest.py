"""The page as a process of its own, with a library that tests fill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

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


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """An empty library."""
    return tmp_path / "results"


@pytest.fixture
def serve(results: Path) -> Iterator[Serve]:
    """Starts the page with options of its command."""
    with ExitStack() as stack:
        yield lambda *options: stack.enter_context(served(results, *options))
