"""What an engine is told: the whole desired state (`Tables`), or what becomes different
(`Changes`).

Publishing the same tables again, or setting an entry as it is, changes nothing; so whoever keeps
the desired state may always say all it knows. While there are many entries it says what changed: a
change costs what it touches, not what there is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import TypeVar

from mnagent.core.actions import TunnelEnd
from mnagent.core.security import Direction, SecurityAssociation

Key = TypeVar("Key")
Entry = TypeVar("Entry")


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
    path_mtu: int = 0
    """Largest outer packet, octets; a larger one leaves in fragments. 0: what the link carries."""
    outbound_spi: int | None = None
    """Tunnel mode association for payload; packets are dropped while it is not installed."""
    inbound_spi: int | None = None
    """Association that payload must have come by."""
    home_test_outbound_spi: int | None = None
    """Tunnel mode association for Home Test Init (mobile end) or Home Test (home agent end) instead
    of ``outbound_spi`` (RFC 3776 3.2); None treats them as payload."""
    home_test_inbound_spi: int | None = None
    """Association that the other one of the two must have come by."""
    hold: bool = False
    """Queue, bounded, instead of sending."""
    encapsulation_limit: int | None = None
    """How many further tunnels may be put around what this one carries, 0 to 255; None says nothing
    about it (RFC 2473 4.1.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerBindingEntry:
    """A mobile node that is reached at its care-of address (RFC 6275 9.3).

    Outbound: what is for ``home_address`` goes to ``care_of_address`` with a type 2 routing header.
    Inbound: a Home Address option naming ``home_address`` counts from ``care_of_address`` only.
    """

    home_address: IPv6Address
    care_of_address: IPv6Address
    next_hop: NextHop | None = None
    """Towards the care-of address; None lets the kernel resolve it."""
    mtu: int = 1476
    """Largest packet as the host hands it over, octets: the routing header is not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectPathEntry:
    """A correspondent that a home address of ours sends to directly (RFC 6275 11.3.1).

    Outbound: what goes from ``home_address`` to ``correspondent`` leaves from ``care_of_address``
    with a Home Address option; it bypasses the tunnel, be that on hold or not.
    """

    home_address: IPv6Address
    correspondent: IPv6Address
    care_of_address: IPv6Address
    next_hop: NextHop | None = None
    """Towards where the packets really go: the correspondent, or its care-of address where there is
    a `PeerBindingEntry` for it."""
    mtu: int = 1476
    """Largest packet as the host hands it over, octets: inserted headers are not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """All the engine knows."""

    tunnels: tuple[TunnelEntry, ...] = ()
    """At most one per home address; of two the first counts."""
    associations: tuple[SecurityAssociation, ...] = ()
    local_addresses: tuple[IPv6Address, ...] = ()
    """Outer destinations that are this node's own."""
    peer_bindings: tuple[PeerBindingEntry, ...] = ()
    """At most one per home address."""
    direct_paths: tuple[DirectPathEntry, ...] = ()
    """At most one per pair of home address and correspondent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What becomes different; everything else stays as it is.

    An entry replaces the one of the same key, if any; removing what is not there is no error. What
    is removed goes first. Packets meet each entry either as it was or as it is, never in between;
    that two entries change is not one step.
    """

    tunnels: tuple[TunnelEntry, ...] = ()
    removed_tunnels: tuple[IPv6Address, ...] = ()
    """By home address."""
    associations: tuple[SecurityAssociation, ...] = ()
    """One that is there already keeps its numbers and window; another one of that SPI and direction
    begins anew."""
    removed_associations: tuple[tuple[int, Direction], ...] = ()
    local_addresses: tuple[IPv6Address, ...] | None = None
    """All of them; None leaves them."""
    peer_bindings: tuple[PeerBindingEntry, ...] = ()
    removed_peer_bindings: tuple[IPv6Address, ...] = ()
    """By home address."""
    direct_paths: tuple[DirectPathEntry, ...] = ()
    removed_direct_paths: tuple[tuple[IPv6Address, IPv6Address], ...] = ()
    """By home address and correspondent."""

    def applied_to(self, tables: Tables) -> Tables:
        """The desired state after them: what a whole `publish` would say."""
        return Tables(
            tunnels=_merged(
                {entry.home_address: entry for entry in reversed(tables.tunnels)},
                self.removed_tunnels,
                {entry.home_address: entry for entry in self.tunnels},
            ),
            associations=_merged(
                {(entry.spi, entry.direction): entry for entry in tables.associations},
                self.removed_associations,
                {(entry.spi, entry.direction): entry for entry in self.associations},
            ),
            local_addresses=(
                tables.local_addresses if self.local_addresses is None else self.local_addresses
            ),
            peer_bindings=_merged(
                {entry.home_address: entry for entry in reversed(tables.peer_bindings)},
                self.removed_peer_bindings,
                {entry.home_address: entry for entry in self.peer_bindings},
            ),
            direct_paths=_merged(
                {
                    (entry.home_address, entry.correspondent): entry
                    for entry in reversed(tables.direct_paths)
                },
                self.removed_direct_paths,
                {(entry.home_address, entry.correspondent): entry for entry in self.direct_paths},
            ),
        )


def _merged(
    entries: dict[Key, Entry], removed: Iterable[Key], added: dict[Key, Entry]
) -> tuple[Entry, ...]:
    for key in removed:
        entries.pop(key, None)
    return tuple((entries | added).values())


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
    arrived_at: int = 0
    """When the kernel took it from the link, nanoseconds of CLOCK_REALTIME; 0 is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What a pair of addresses carried since the last look."""

    local: IPv6Address
    """The home address, or the correspondent's own address."""
    peer: IPv6Address
    """The correspondent, or a mobile node's home address."""
    packets_in: int = 0
    packets_out: int = 0
    protocol: int = 0
    """Upper-layer protocol of the last packet."""
    destination_port: int | None = None
    """Port at the peer of the last packet, None where the protocol has none."""
    direct: bool = False
    """The last packet out, or in where none went out, did not take the tunnel."""
    direct_in: bool = False
    """The last packet in did not take the tunnel."""
