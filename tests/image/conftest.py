"""Options of the scenarios that boot images; without them they are skipped, and deselected in the
ordinary runs by their marker."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the image is, on which machines to boot it, and where the evidence goes."""
    group = parser.getgroup("image")
    group.addoption("--image", metavar="FILE.img.zst", help="the image to boot")
    group.addoption("--machine", nargs="+", default=["virt"], help="QEMU's machines to boot it on")
    group.addoption("--evidence", default="build/image", help="folder for logs and figures")
