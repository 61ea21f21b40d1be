"""Netlink notifications as frozen values: only what the daemon looks at, no library's types."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network

from mnagent.core.events import LinkKind


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkMessage:
    """RTM_NEWLINK or RTM_DELLINK."""

    interface: int
    name: str
    usable: bool = False
    """Administratively up, with carrier, and operational state UP (or unknown, which drivers
    without one report): for Wi-Fi this means authorised."""
    carrier_changes: int = 0
    """The kernel's counter: tells of a flap whose notifications were merged."""
    link_layer_address: bytes = b""
    mtu: int = 1500
    master: int = 0
    """Interface index of the bridge or bond it belongs to, 0 when none."""
    removed: bool = False
    kind: LinkKind = LinkKind.OTHER


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressMessage:
    """RTM_NEWADDR or RTM_DELADDR of an IPv6 address."""

    interface: int
    address: IPv6Address
    prefix_length: int
    tentative: bool = False
    optimistic: bool = False
    deprecated: bool = False
    duplicate: bool = False
    temporary: bool = False
    protocol: int = 0
    """Who made it (IFA_PROTO, Linux 5.18)."""
    valid_lifetime: float | None = None
    preferred_lifetime: float | None = None
    removed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteMessage:
    """RTM_NEWROUTE or RTM_DELROUTE of an IPv6 route."""

    destination: IPv6Network
    table: int
    interface: int
    gateway: IPv6Address | None = None
    protocol: int = 0
    """Who made it (rtm_protocol)."""
    metric: int = 0
    expires: bool = False
    """It has a lifetime."""
    removed: bool = False

    @property
    def identity(self) -> tuple[IPv6Network, int, int, IPv6Address | None, int]:
        """What distinguishes it from other routes in the kernel."""
        return (self.destination, self.table, self.interface, self.gateway, self.metric)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleMessage:
    """RTM_NEWRULE or RTM_DELRULE."""

    priority: int
    table: int
    protocol: int = 0
    source: IPv6Address | None = None
    mark: int | None = None
    chooses_source: bool = False
    removed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourMessage:
    """RTM_NEWNEIGH or RTM_DELNEIGH."""

    interface: int
    address: IPv6Address
    link_layer_address: bytes = b""
    usable: bool = False
    """The kernel would send to that link-layer address now."""
    failed: bool = False
    stale: bool = False
    removed: bool = False


@dataclass(frozen=True, slots=True)
class Overrun:
    """The socket lost notifications: everything must be read again."""


Message = LinkMessage | AddressMessage | RouteMessage | RuleMessage | NeighbourMessage | Overrun
