"""Whether this processor has instructions for AES, which those of a Raspberry Pi 3 or 4 lack."""

from __future__ import annotations

import re
from pathlib import Path

CHEAPEST = "aes-cbc-128"
"""Of the ciphers that key files may name, on every processor."""
ADVICE = (
    "`mnagent bench crypto` measures what each cipher costs; of those for key files, "
    f"`mnagent keygen --encryption {CHEAPEST}` costs least"
)


def description() -> str:
    """The kernel's words on this machine's processor, empty when it has none."""
    try:
        return Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return ""


def has_aes(processor: str) -> bool:
    """Whether the text of /proc/cpuinfo names them."""
    return re.search(r"^(flags|Features)\s*:.*\baes\b", processor, re.MULTILINE) is not None
