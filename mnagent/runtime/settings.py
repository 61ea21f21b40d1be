"""Kernel settings (/proc/sys) that we change, with what they were, so that a stop puts them back.

What they were is journalled before the change: after kill -9 the next start still knows. A journal
of an earlier boot is worth nothing and is thrown away.
"""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path

from mnagent.runtime.store import write_atomically
from mnagent.system.kernel import Kernel

logger = logging.getLogger(__name__)


class SavedSettings:
    """Sets /proc/sys values and restores them."""

    def __init__(self, kernel: Kernel, journal: Path, *, boot_identifier: str) -> None:
        self._kernel = kernel
        self._journal = journal
        self._boot_identifier = boot_identifier
        self._originals: dict[str, str] = self._read()

    def _read(self) -> dict[str, str]:
        try:
            content = json.loads(self._journal.read_text())
            if content["boot"] != self._boot_identifier:
                return {}
            return {str(name): str(value) for name, value in content["settings"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def _write(self) -> None:
        content = {"boot": self._boot_identifier, "settings": self._originals}
        write_atomically(self._journal, json.dumps(content), synced=False)

    @property
    def originals(self) -> dict[str, str]:
        """What each changed setting was."""
        return dict(self._originals)

    def remember(self, name: str) -> None:
        """Note the present value, to be restored."""
        if name not in self._originals:
            self._originals[name] = self._kernel.read_setting(name)
            self._write()

    def set(self, name: str, value: str) -> None:
        """Change a setting; OSError when the kernel refuses."""
        if self._kernel.read_setting(name) == value:
            return
        self.remember(name)
        self._kernel.write_setting(name, value)

    def restore(self) -> None:
        """Put back everything, in the order it was changed; interfaces may have gone meanwhile."""
        for name, value in self._originals.items():
            try:
                if self._kernel.read_setting(name) != value:
                    self._kernel.write_setting(name, value)
            except FileNotFoundError:
                continue
            except OSError as error:
                logger.warning("failed to restore %s to %s: %s", name, value, error)
        self._originals = {}
        with contextlib.suppress(FileNotFoundError):
            self._journal.unlink()
