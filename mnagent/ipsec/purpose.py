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

    @property
    def mode(self) -> EspMode:
        """Transport for what the two ends say to each other, tunnel for what passes through."""
        if self in (Purpose.BINDING, Purpose.PREFIX_DISCOVERY):
            return EspMode.TRANSPORT
        return EspMode.TUNNEL
