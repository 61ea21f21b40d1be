"""asyncio without TLS: the daemon speaks to nobody in it.

asyncio serves where Python was built without ``ssl``. Left out, that saves 1 MB and 5 ms (on
x86-64). Whoever asks for ``ssl`` later gets it.
"""

from __future__ import annotations

import importlib
import sys


def load() -> None:
    """Import asyncio, unless it or ``ssl`` is there already."""
    if "asyncio" in sys.modules or "ssl" in sys.modules:
        return
    sys.modules["ssl"] = None  # type: ignore[assignment]  # how Python says "not to be had"
    try:
        importlib.import_module("asyncio")
    finally:
        del sys.modules["ssl"]
