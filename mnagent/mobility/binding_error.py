"""Sending Binding Errors, no faster than ICMPv6 errors (RFC 6275 9.3.3, RFC 4443 2.4 f)."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import Final

from mnagent.core.actions import SendPacket
from mnagent.mobility.addresses import UNSPECIFIED_ADDRESS, is_unicast
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.mobility import BindingError

BINDING_ERROR_RATE: Final = 10.0
"""Binding Errors a second, in the long run."""
BINDING_ERROR_BURST: Final = 10.0
"""Binding Errors at once after a quiet time."""


class TokenBucket:
    """Allows ``rate`` events a second in the long run and ``burst`` at once (RFC 4443 2.4 f)."""

    def __init__(self, *, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._filled_at: float | None = None

    def take(self, now: float) -> bool:
        """True when one more event may happen now."""
        if self._filled_at is not None:
            gained = (now - self._filled_at) * self._rate
            self._tokens = min(self._burst, self._tokens + max(0.0, gained))
        self._filled_at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class BindingErrorSender:
    """Makes Binding Errors and holds their rate down."""

    def __init__(self) -> None:
        self._bucket = TokenBucket(rate=BINDING_ERROR_RATE, burst=BINDING_ERROR_BURST)

    def answer(self, packet: IPv6Packet, *, status: int, now: float) -> list[SendPacket]:
        """Answer an offending packet; nothing when it is itself a Binding Error or the rate is used
        up.

        The answer goes to the Source Address as it is on the wire, and names the home address of
        the Home Address option, or the unspecified address (RFC 6275 9.3.3).
        """
        if isinstance(packet.payload, BindingError):
            return []
        return self.send(
            source=packet.destination,
            destination=packet.source,
            home_address=packet.home_address_option or UNSPECIFIED_ADDRESS,
            status=status,
            now=now,
        )

    def send(
        self,
        *,
        source: IPv6Address,
        destination: IPv6Address,
        home_address: IPv6Address,
        status: int,
        now: float,
    ) -> list[SendPacket]:
        """Send a Binding Error, unless an address is no unicast address or the rate is used up."""
        if not (is_unicast(destination) and is_unicast(source) and self._bucket.take(now)):
            return []
        message = BindingError(status=status, home_address=home_address, options=())
        return [SendPacket(packet=IPv6Packet(source, destination, message))]
