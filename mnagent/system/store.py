"""Small values that outlive a crash (sequence numbers above all)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

KEY_PATTERN = re.compile(r"[A-Za-z0-9.:-]{1,200}")


def check_key(key: str) -> None:
    """Raise ``ValueError`` unless the key is letters, digits, '-', '.', ':' only."""
    if not KEY_PATTERN.fullmatch(key) or key.startswith("."):
        raise ValueError(f"not a record key: {key!r}")


class Store(Protocol):
    """Keeps records; ``put`` returns only when the value is safe."""

    def load(self) -> Mapping[str, str]:
        """Every record."""
        ...

    def put(self, key: str, value: str) -> None:
        """Keep ``value`` under ``key``; OSError when it cannot be made safe."""
        ...


class MemoryStore:
    """A store that lives as long as the test."""

    def __init__(self) -> None:
        self.records: dict[str, str] = {}

    def load(self) -> Mapping[str, str]:
        """Every record."""
        return dict(self.records)

    def put(self, key: str, value: str) -> None:
        """Keep ``value`` under ``key``."""
        check_key(key)
        self.records[key] = value
