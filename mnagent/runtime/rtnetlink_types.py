"""pyroute2's rtnetlink message classes, without the rest of pyroute2.

``import pyroute2`` loads some 220 modules (13 MB and 90 ms on x86-64); the message classes need 27
of them (2 MB, 8 ms). The package object is replaced while they load, then the real one may be
imported by whoever wants it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

_MODULES = ("ifinfmsg", "ifaddrmsg", "rtmsg", "fibmsg", "ndmsg")


def _load() -> dict[str, Any]:
    stand_in: ModuleType | None = None
    if "pyroute2" not in sys.modules:
        specification = importlib.util.find_spec("pyroute2")
        if specification is None or specification.submodule_search_locations is None:
            raise ImportError("pyroute2 is not installed")
        stand_in = ModuleType("pyroute2")
        stand_in.__path__ = list(specification.submodule_search_locations)
        stand_in.__spec__ = specification
        sys.modules["pyroute2"] = stand_in
    try:
        return {
            name: getattr(importlib.import_module(f"pyroute2.netlink.rtnl.{name}"), name)
            for name in _MODULES
        }
    finally:
        if stand_in is not None:
            del sys.modules["pyroute2"]


_classes = _load()
ifinfmsg = _classes["ifinfmsg"]
ifaddrmsg = _classes["ifaddrmsg"]
rtmsg = _classes["rtmsg"]
fibmsg = _classes["fibmsg"]
ndmsg = _classes["ndmsg"]
