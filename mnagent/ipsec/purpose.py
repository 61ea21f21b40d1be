"""What associations are for (RFC 3776 section 5.2)."""

from __future__ import annotations

import enum

from mnagent.core.security import EspMode


class Purpose(enum.Enum):
    """What a pair of associations protects; the value names its table in a key file."""

    BINDING = "binding"
    """Binding Updates and Acknowledgements."""
    PREFIX_DISCOVERY = "prefix_discovery"
    """Mobile Prefix Solicitations and Advertisements."""
    RETURN_ROUTABILITY = "return_routability"
    """Home Test Init and Home Test between the mobile node and its home agent."""
    PAYLOAD = "payload"
    """Everything in the tunnel."""

    mode: EspMode
    """Transport for what the two ends say to each other, tunnel for what passes through."""

    def __init__(self, table: str) -> None:
        # Made once: it is asked for of every policy that a packet may be under.
        is_between_ends = table in ("binding", "prefix_discovery")
        self.mode = EspMode.TRANSPORT if is_between_ends else EspMode.TUNNEL
