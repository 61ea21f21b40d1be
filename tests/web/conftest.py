"""The page, with a library that tests fill."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.page import Serve, served


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """An empty library."""
    return tmp_path / "results"


@pytest.fixture
def serve(results: Path) -> Iterator[Serve]:
    """Starts the page with options of its command."""
    with ExitStack() as stack:
        yield lambda *options: stack.enter_context(served(results, *options))
