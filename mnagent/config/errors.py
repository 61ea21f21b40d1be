"""The one error of everything that is configured."""

from __future__ import annotations

from pathlib import Path


class ConfigurationError(ValueError):
    """Something configured cannot be used. Names the file, the key, what was expected, the
    remedy."""

    def __init__(self, path: Path, key_path: str, expected: str, remedy: str) -> None:
        where = f"{path}: {key_path}" if key_path else f"{path}"
        super().__init__(f"{where}: {expected}; {remedy}")
        self.path = path
        self.key_path = key_path
        """Such as ``mobile_node.lifetime``; empty for the file as a whole."""
        self.expected = expected
        self.remedy = remedy
