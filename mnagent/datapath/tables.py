"""What the engine is told: the whole desired state, published at once.

`TableBuilder` turns the actions of the machines into `Tables`; publishing the same tables again
changes
nothing, so an executor may always publish all it knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address

from mnagent.core.actions import TunnelEnd
from mnagent.core.security import SecurityAssociation


class SequenceExhausted(Exception):
    """An outbound association may use no further sequence number until it is given more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextHop:
    """How frames towards a tunnel's far end leave: interface index and Ethernet addresses."""

    interface: int
    source_mac: bytes
    destination_mac: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelEntry:
    """The tunnel of one home address (RFC 6275 10.4.2, 11.3.1)."""

    end: TunnelEnd
    home_address: IPv6Address
    local: IPv6Address
    """Outer source."""
    remote: IPv6Address
    """Outer destination, and the only outer source accepted unless ESP protects the payload."""
    next_hop: NextHop | None = None
    """None lets the kernel resolve it: slower, and right as soon as a route exists."""
    mtu: int = 1460
    """Largest inner packet, octets; at least 1280 is always carried."""
    outbound_spi: int | None = None
    """Tunnel mode association for payload; packets are dropped while it is not installed."""
    inbound_spi: int | None = None
    """Association that payload must have come by."""
    hold: bool = False
    """Queue, bounded, instead of sending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """All the engine knows."""

    tunnels: tuple[TunnelEntry, ...] = ()
    """At most one per home address; of two the first counts."""
    associations: tuple[SecurityAssociation, ...] = ()
    local_addresses: tuple[IPv6Address, ...] = ()
    """Outer destinations that are this node's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedUp:
    """A packet for the control plane."""

    data: bytes
    """A whole IPv6 packet, ESP removed."""
    interface: int
    link_layer_source: bytes = b""
    """Six octets, or empty when the link has none."""
    protected_by: int | None = None
    """SPI of the inbound association that authenticated it."""
    tunnel_source: IPv6Address | None = None
    """Outer source when it came through a tunnel."""
