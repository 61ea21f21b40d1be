"""Which neighbour carries a tunnel's outer packets, and its link-layer address, kept fresh.

The engine writes whole frames, so the kernel does not notice that a neighbour is in use: we tell it
(`Kernel.solicit`) when resolution is wanted and every `VERIFY_INTERVAL`, and its neighbour
unreachability detection does the rest.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from ipaddress import IPv6Address

from mnagent.datapath import NextHop
from mnagent.link.messages import (
    LinkMessage,
    Message,
    NeighbourMessage,
    Overrun,
    RouteMessage,
    RuleMessage,
)
from mnagent.system.kernel import Kernel, LinkInformation, Path

logger = logging.getLogger(__name__)

VERIFY_INTERVAL = 3.0
"""Seconds between two hints to the kernel that a neighbour is in use."""
MAX_AT_ONCE = 64
"""Paths asked for again at once: each takes some 0.4 ms, in which the event loop waits."""
MINIMUM_MTU = 1280
"""RFC 8200 5."""


@dataclass(frozen=True, slots=True)
class TunnelPath:
    """The ends of a tunnel and the interface it must leave by, if it must."""

    local: IPv6Address
    remote: IPv6Address
    interface: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """What is known of the way to a tunnel's other end."""

    path: Path | None = None
    """None: there is no route."""
    next_hop: NextHop | None = None
    """None with ``ready``: the link needs no link-layer address, the kernel sends."""
    ready: bool = False
    """Packets can be sent now."""
    mtu: int = MINIMUM_MTU
    """Octets of an outer packet."""


class _Lookups:
    """Links and neighbours asked for once: many tunnels share a few."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._links: dict[int, LinkInformation] = {}
        self._addresses: dict[tuple[int, IPv6Address], bytes | None] = {}

    def link(self, interface: int) -> LinkInformation:
        if interface not in self._links:
            self._links[interface] = self._kernel.link(interface)
        return self._links[interface]

    def link_layer_address(self, path: Path) -> bytes | None:
        key = (path.interface, path.neighbour)
        if key not in self._addresses:
            self._addresses[key] = self._kernel.link_layer_address(*key)
        return self._addresses[key]


class NextHopResolver:
    """Follows the paths of all tunnels."""

    def __init__(self, kernel: Kernel, *, tunnel_interface: int | None = None) -> None:
        """Routes to ``tunnel_interface`` are our own, and lead no outer packet anywhere."""
        self._kernel = kernel
        self._tunnel_interface = tunnel_interface
        self._resolutions: dict[TunnelPath, Resolution] = {}
        self._due: dict[TunnelPath, None] = {}
        self._is_behind = False

    @property
    def is_behind(self) -> bool:
        """True while there are answers from before the latest `invalidate`: refresh again soon."""
        return self._is_behind

    def follow(self, paths: set[TunnelPath]) -> None:
        """Follow exactly these paths from now on; new ones are resolved at once."""
        for path in self._resolutions.keys() - paths:
            del self._resolutions[path]
            self._due.pop(path, None)
        lookups = _Lookups(self._kernel)
        for path in paths - self._resolutions.keys():
            self._resolutions[path] = self._resolve(path, lookups, solicit=True)

    def follow_too(self, path: TunnelPath) -> Resolution:
        """Follow one more path; what is known of it."""
        if path not in self._resolutions:
            self._resolutions[path] = self._resolve(path, _Lookups(self._kernel), solicit=True)
        return self._resolutions[path]

    def resolution(self, path: TunnelPath) -> Resolution:
        """What is known of a followed path."""
        return self._resolutions.get(path, Resolution())

    def concerns(self, message: Message) -> bool:
        """True when the notification may change an answer."""
        if not self._resolutions:
            return False
        if isinstance(message, NeighbourMessage):
            return any(
                resolution.path is not None
                and resolution.path.neighbour == message.address
                and resolution.path.interface == message.interface
                for resolution in self._resolutions.values()
            )
        if isinstance(message, RouteMessage):
            return message.interface != self._tunnel_interface
        return isinstance(message, (LinkMessage, RuleMessage, Overrun))

    def invalidate(self) -> None:
        """Routes or neighbours changed: every answer is to be asked for again."""
        self._due = dict.fromkeys(self._resolutions)
        self._is_behind = bool(self._due)

    def refresh(self) -> bool:
        """Ask again for the paths whose turn it is, `MAX_AT_ONCE` at most; True when an answer
        changed."""
        if not self._due:
            self._due = dict.fromkeys(self._resolutions)
        changed = False
        lookups = _Lookups(self._kernel)
        for path in list(self._due)[:MAX_AT_ONCE]:
            del self._due[path]
            before = self._resolutions[path]
            after = self._resolve(path, lookups, solicit=before.path is None)
            changed = changed or after != before
            self._resolutions[path] = after
        self._is_behind = self._is_behind and bool(self._due)
        return changed

    def verify(self) -> None:
        """Tell the kernel that the neighbours are in use, and retry those that failed."""
        neighbours = {
            (resolution.path.interface, resolution.path.neighbour)
            for resolution in self._resolutions.values()
            if resolution.path is not None
        }
        for interface, neighbour in neighbours:
            self._solicit(interface, neighbour)

    def _solicit(self, interface: int, neighbour: IPv6Address) -> None:
        try:
            self._kernel.solicit(interface, neighbour)
        except OSError as error:
            logger.debug("failed to solicit %s: %s", neighbour, error)

    def _resolve(self, tunnel: TunnelPath, lookups: _Lookups, *, solicit: bool) -> Resolution:
        try:
            path = self._kernel.path(tunnel.remote, source=tunnel.local, interface=tunnel.interface)
            link = lookups.link(path.interface)
            address = lookups.link_layer_address(path) if link.needs_resolution else None
        except OSError as error:
            logger.debug("no path to %s: %s", tunnel.remote, error)
            return Resolution()
        mtu = min(path.mtu, link.mtu)
        if not link.needs_resolution:
            return Resolution(path=path, ready=True, mtu=mtu)
        if solicit or address is None:
            self._solicit(path.interface, path.neighbour)
        if address is None:
            return Resolution(path=path, mtu=mtu)
        next_hop = NextHop(
            interface=path.interface,
            source_mac=link.link_layer_address,
            destination_mac=address,
        )
        return Resolution(path=path, next_hop=next_hop, ready=True, mtu=mtu)
