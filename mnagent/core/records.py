"""What an earlier run of the daemon left, as the machines that wrote it get it back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRecord:
    """A value that `mnagent.core.actions.JournalRecord` kept."""

    value: str
    kept_at: float
    """When it was handed over, seconds on the present clock; of an earlier boot, negative or small:
    never later than it really was."""
