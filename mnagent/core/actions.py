"""What a machine wants done in the outside world. Imperative, frozen; only these leave the agent.

An action that cannot be done comes back to its machine as `mnagent.core.events.ActionFailed`. Each
pair (set/remove, add/remove) is idempotent: doing it twice is no error.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv6Address

from mnagent.wire.ipv6 import IPv6Packet


@dataclass(frozen=True, slots=True, kw_only=True)
class SendPacket:
    """Send one control packet."""

    packet: IPv6Packet
    interface: int | None = None
    """Interface index to leave by; None lets the routing table decide."""
    link_layer_destination: bytes | None = None
    """Frame it to this address; None resolves the neighbour (multicast maps by RFC 2464)."""
    protect_with: int | None = None
    """SPI of the outbound association that must protect it; not sent where that is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendDhcpMessage:
    """Send a DHCPv6 message from port 546 to all servers and relay agents of a link.

    RFC 8415 7.1 and 7.2: from a link-local address to ff02::1:2, port 547.
    """

    interface: int
    """Interface index to leave by."""
    data: bytes
    """The UDP payload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddAddress:
    """Configure an address, without the kernel's DAD (our machines do their own)."""

    interface: int
    address: IPv6Address
    prefix_length: int
    valid_lifetime: float | None = None
    """Seconds, None for ever."""
    preferred_lifetime: float | None = None
    """Seconds, None for ever; 0 keeps the kernel from choosing it as a source."""
    optimistic: bool = False
    """Its uniqueness is still checked: the kernel must not answer for it, we do (RFC 4429 3.3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveAddress:
    """Take an address we added off an interface."""

    interface: int
    address: IPv6Address
    prefix_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AddDefaultRouter:
    """Route everything that leaves an interface natively through this router (main table)."""

    interface: int
    router: IPv6Address
    lifetime: float
    """Seconds."""
    link_layer_address: bytes = b""
    """From the Source Link-Layer Address option: enters the neighbour cache, or empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveDefaultRouter:
    """Remove that default route."""

    interface: int
    router: IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinGroup:
    """Receive frames for a group (solicited-node groups of addresses we do not configure)."""

    interface: int
    group: IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveGroup:
    """Stop receiving a group."""

    interface: int
    group: IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinAnycast:
    """Take an anycast address: answer Neighbor Solicitations for it, and do not forward its packets
    (RFC 4291 2.6)."""

    interface: int | None
    """Interface index; None where no link has the prefix: the tunnel device."""
    address: IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveAnycast:
    """Give an anycast address up."""

    interface: int | None
    address: IPv6Address


class TunnelEnd(enum.Enum):
    """Which end of the tunnel this node is: decides which inner address is the home address."""

    MOBILE_NODE = "mobile-node"
    HOME_AGENT = "home-agent"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTunnel:
    """Carry the home address's packets between care-of address and home agent.

    RFC 6275 10.4.2 and 11.3.1.
    One tunnel per home address; setting it again moves it at once.
    """

    end: TunnelEnd
    home_address: IPv6Address
    local: IPv6Address
    """Outer source: our care-of address, or the home agent's address."""
    remote: IPv6Address
    """Outer destination, and the only outer source accepted unless ESP protects the payload."""
    interface: int | None = None
    """Interface index to send by (mobile node), None for the routing table's choice."""
    outbound_spi: int | None = None
    """ESP tunnel mode association for payload, None for plain IPv6-in-IPv6."""
    inbound_spi: int | None = None
    """Association that payload must have come by, None for plain."""
    home_test_outbound_spi: int | None = None
    """ESP tunnel mode association for Home Test Init (mobile node) or Home Test (home agent), RFC
    3776 3.2; None for plain."""
    home_test_inbound_spi: int | None = None
    """Association that the other one of the two must have come by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendThroughTunnel:
    """Send a packet through a home address's tunnel, protected as its payload is, whatever its
    addresses are: multicast listener discovery (RFC 6275 10.4.3, 11.3.4)."""

    home_address: IPv6Address
    packet: IPv6Packet


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverPacket:
    """Give the host a packet as if the tunnel device had received it."""

    data: bytes
    """A whole IPv6 packet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardGroups:
    """Home agent: carry these multicast groups' packets through the home address's tunnel
    (RFC 6275 10.4.2), and no others."""

    home_address: IPv6Address
    groups: tuple[IPv6Address, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldTunnel:
    """Queue the home address's packets, bounded, until SetTunnel or RemoveTunnel."""

    home_address: IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveTunnel:
    """Stop carrying and drop, counted, what is queued."""

    home_address: IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class UseHomeLink:
    """Mobile node at home: the home address is on the physical interface (RFC 6275 11.5.5).

    It goes onto ``interface`` without DAD, and its packets leave there, through ``router``.
    """

    home_address: IPv6Address
    prefix_length: int
    interface: int
    router: IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveHomeLink:
    """Mobile node away: the home address is on the tunnel device alone."""

    home_address: IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class SetHomeAddress:
    """A home address that is served with the associations of another one, or that changed.

    Both ends have policies for it from now on (RFC 3776 4.2); on a mobile node it is on the tunnel
    device and its packets are routed like those of the configured one.
    """

    home_address: IPv6Address
    like: IPv6Address
    """The home address whose keys protect it; itself where it has its own."""
    preferred: bool = True
    """False keeps new connections from choosing it as their source (RFC 4862 5.5.4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveHomeAddress:
    """The home address has ended: its policies, and on a mobile node address and routes, go."""

    home_address: IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class InterceptHomeAddress:
    """Home agent: route packets for this home address to the tunnel device (RFC 6275 10.4.2)."""

    home_address: IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class StopIntercepting:
    """Home agent: give the home address back to the home link."""

    home_address: IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPeerBinding:
    """Correspondent: this peer's packets go and come directly (RFC 6275 9.3).

    What is sent to its home address gets a type 2 routing header; what comes with its home address
    in a Home Address option is taken from ``care_of_address`` only. Setting it again moves it at
    once.
    """

    home_address: IPv6Address
    care_of_address: IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovePeerBinding:
    """Correspondent: the peer is reached at its home address again."""

    home_address: IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class SetDirectPath:
    """Mobile node: send to this correspondent directly (RFC 6275 11.3.1).

    What goes from ``home_address`` to ``correspondent`` leaves from the care-of address with a Home
    Address option, not through the tunnel. Setting it again moves it at once.
    """

    home_address: IPv6Address
    correspondent: IPv6Address
    care_of_address: IPv6Address
    interface: int | None = None
    """Interface index to send by, None for the routing table's choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveDirectPath:
    """Mobile node: this correspondent is reached through the tunnel again."""

    home_address: IPv6Address
    correspondent: IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class PersistRecord:
    """Keep a small value across crashes: on disk before any later action is carried out."""

    key: str
    """Letters, digits, '-', '.', ':' only."""
    value: str
    guards_packets: bool = False
    """The packets behind it must not leave unless it was kept: their numbers might be used again
    after a crash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalRecord:
    """Keep a small value that changes often, with the time; None forgets it.

    Written in batches behind the actions it came with: a crash of the daemon loses nothing that
    was done before, a power cut may lose the last seconds. For what must be safe first there is
    `PersistRecord`.
    """

    key: str
    """Letters, digits, '-', '.', ':' only."""
    value: str | None
    """One line of printable ASCII."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportEvent:
    """Tell people and programs: a log line, and an event on the control socket."""

    name: str
    """Lower case with dashes, such as ``binding-accepted``."""
    details: tuple[tuple[str, str], ...] = ()
    """Never holds key material."""
    warning: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """All that ShutdownRequested asked for is done; the daemon may leave."""


Action = (
    SendPacket
    | SendDhcpMessage
    | AddAddress
    | RemoveAddress
    | AddDefaultRouter
    | RemoveDefaultRouter
    | JoinGroup
    | LeaveGroup
    | JoinAnycast
    | LeaveAnycast
    | SetTunnel
    | SendThroughTunnel
    | DeliverPacket
    | ForwardGroups
    | HoldTunnel
    | RemoveTunnel
    | UseHomeLink
    | LeaveHomeLink
    | SetHomeAddress
    | RemoveHomeAddress
    | InterceptHomeAddress
    | StopIntercepting
    | SetPeerBinding
    | RemovePeerBinding
    | SetDirectPath
    | RemoveDirectPath
    | PersistRecord
    | JournalRecord
    | ReportEvent
    | Finish
)
