"""How a command ends."""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAILED = 1
"""What was asked for could not be had, or a check found an error."""
EXIT_BAD_INPUT = 2
"""The command line, a configuration or a key file is wrong."""
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


class CommandError(Exception):
    """Ends a command with one line on standard error."""

    def __init__(self, message: str, status: int = EXIT_BAD_INPUT) -> None:
        super().__init__(message)
        self.status = status
