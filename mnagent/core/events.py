"""What happened in the outside world: the input of every machine. Past tense, frozen."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv6Address

from mnagent.core.actions import Action
from mnagent.wire.ipv6 import IPv6Packet


@dataclass(frozen=True, slots=True, kw_only=True)
class DatagramReceived:
    """Bytes the engine handed up. The agent decodes them; machines see `PacketReceived`."""

    data: bytes
    """A whole IPv6 packet; ESP already removed where ``protected_by`` is set."""
    interface: int
    """Interface index it came in on."""
    link_layer_source: bytes = b""
    """Sender's link-layer address, six octets, or empty when the link has none."""
    protected_by: int | None = None
    """SPI of the inbound association that authenticated it, or None when it came in the clear."""
    tunnel_source: IPv6Address | None = None
    """Outer source address when it came through a tunnel, else None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketReceived:
    """A packet that decoded well."""

    packet: IPv6Packet
    interface: int
    """Interface index it came in on."""
    link_layer_source: bytes = b""
    protected_by: int | None = None
    """SPI of the inbound association that authenticated it, or None."""
    tunnel_source: IPv6Address | None = None
    data: bytes = b""
    """The packet as received (for ICMPv6 errors that quote it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipReported:
    """This host said on the tunnel device which multicast groups it listens to."""

    packet: IPv6Packet


class LinkKind(enum.Enum):
    """What an interface is, for choosing between several."""

    ETHERNET = "ethernet"
    WIFI = "wi-fi"
    CELLULAR = "cellular"
    OTHER = "other"


class LinkCause(enum.Enum):
    """What made the link be looked at anew."""

    CARRIER = "carrier"
    """It came up, or its carrier went and came."""
    ASSOCIATION = "association"
    """Wi-Fi associated with another access point, or anew, while the carrier stayed."""
    RESUME = "resume"
    """The machine slept: anything may have changed meanwhile."""
    SUSPICION = "suspicion"
    """Nothing came back through the tunnel, and no event told why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DhcpMessageReceived:
    """A datagram for the DHCPv6 client's port, on a link-local address of ours."""

    data: bytes
    """The UDP payload, not decoded."""
    interface: int
    """Interface index it came in on."""
    source: IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkUp:
    """An interface can carry packets now (for Wi-Fi: authorised). Also sent after a roam."""

    interface: int
    name: str
    link_layer_address: bytes
    mtu: int = 1500
    """Octets."""
    kind: LinkKind = LinkKind.OTHER
    cause: LinkCause = LinkCause.CARRIER
    access_point: bytes = b""
    """BSSID, six octets; empty where there is none or it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkDown:
    """An interface lost its link, was set down, or is gone."""

    interface: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressAppeared:
    """An address on an interface is there, or has changed (rtnetlink RTM_NEWADDR)."""

    interface: int
    address: IPv6Address
    prefix_length: int
    tentative: bool = False
    deprecated: bool = False
    duplicate: bool = False
    """The kernel's duplicate address detection failed."""
    valid_lifetime: float | None = None
    """Seconds left, None for ever."""
    preferred_lifetime: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressVanished:
    """An address was removed (RTM_DELADDR)."""

    interface: int
    address: IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultRouterAppeared:
    """The kernel or another daemon has a default route on an interface."""

    interface: int
    router: IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultRouterVanished:
    """That default route is gone."""

    interface: int
    router: IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSeen:
    """The engine carried packets between a local address and a peer since it last said so."""

    local: IPv6Address
    """The mobile node's home address, or the correspondent's address."""
    peer: IPv6Address
    """The other end: a correspondent, or a mobile node's home address."""
    packets_in: int = 0
    packets_out: int = 0
    destination_port: int | None = None
    """Port at the peer of the last packet, None where the protocol has none."""
    protocol: int | None = None
    """Upper-layer protocol of the last packet."""
    direct: bool = False
    """The last packet out, or in where none went out, took the direct path, not the tunnel."""
    direct_in: bool = False
    """The last packet in did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalMeasured:
    """How well an interface hears its access point: a hint for choosing between interfaces."""

    interface: int
    level: float
    """dBm."""
    is_weak: bool = False
    """Another interface, where there is one, should take over before this one's link is lost."""


class Association(enum.Enum):
    """What Wi-Fi told of an interface and an access point."""

    CONNECTED = "connected"
    ROAMED = "roamed"
    """By the adapter's own firmware; a roam that the kernel makes is told as another connect."""
    DISCONNECTED = "disconnected"


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationChanged:
    """An interface joined or left an access point. For the record: `LinkUp` says when it can be
    used."""

    interface: int
    change: Association
    access_point: bytes = b""
    """BSSID, six octets; empty where the driver does not say, and once it was left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelActivity:
    """What a home address's tunnel has carried since the start; counters never go back."""

    home_address: IPv6Address
    packets_out: int
    """Left through the tunnel."""
    packets_in: int
    """Came through the tunnel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionFailed:
    """The outside world could not do what an action asked."""

    action: Action
    errno: int
    """errno(3) value."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutdownRequested:
    """The daemon is to stop: deregister, then leave (RFC 6275 11.7.1)."""


Event = (
    DatagramReceived
    | PacketReceived
    | DhcpMessageReceived
    | MembershipReported
    | LinkUp
    | LinkDown
    | AddressAppeared
    | AddressVanished
    | DefaultRouterAppeared
    | DefaultRouterVanished
    | TrafficSeen
    | SignalMeasured
    | AssociationChanged
    | TunnelActivity
    | ActionFailed
    | ShutdownRequested
)
