"""Which neighbour carries a tunnel's outer packets, and its link-layer address, kept fresh.

The engine writes whole frames, so the kernel does not notice that a neighbour is in use: we tell it
(`Kernel.solicit`) when resolution is wanted and every `VERIFY_INTERVAL`, and its neighbour
unreachability detection does the rest.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from itertools import islice

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
    _hash: int = field(init=False, repr=False, compare=False)
    """Each movement looks a path up a dozen times."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.local, self.remote, self.interface)))

    def __hash__(self) -> int:
        return self._hash


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
        self._next_hops: dict[tuple[int, bytes, bytes], NextHop] = {}

    def link(self, interface: int) -> LinkInformation:
        link = self._links.get(interface)
        if link is None:
            link = self._links[interface] = self._kernel.link(interface)
        return link

    def link_layer_address(self, interface: int, neighbour: IPv6Address) -> bytes | None:
        key = (interface, neighbour)
        known = self._addresses.get(key)
        if known is None and key not in self._addresses:
            known = self._addresses[key] = self._kernel.link_layer_address(*key)
        return known

    def forget(self, interface: int, neighbour: IPv6Address) -> None:
        self._addresses.pop((interface, neighbour), None)

    def knows(self, interface: int, neighbour: IPv6Address) -> bool:
        return self._addresses.get((interface, neighbour)) is not None

    def next_hop(self, link: LinkInformation, address: bytes) -> NextHop:
        """One and the same for all that go that way."""
        key = (link.interface, link.link_layer_address, address)
        known = self._next_hops.get(key)
        if known is None:
            known = self._next_hops[key] = NextHop(
                interface=link.interface,
                source_mac=link.link_layer_address,
                destination_mac=address,
            )
        return known


class NextHopResolver:
    """Follows the paths of all tunnels."""

    def __init__(
        self,
        kernel: Kernel,
        *,
        tunnel_interface: int | None = None,
        remembers: bool = False,
    ) -> None:
        """Routes to ``tunnel_interface`` are our own, and lead no outer packet anywhere.

        With ``remembers`` links and neighbours that are known are asked for again only once a
        notification says so. That is for a host that stays where it is and has many tunnels; one
        that moves must not take the former link's router for the new one's.
        """
        self._kernel = kernel
        self._tunnel_interface = tunnel_interface
        self._remembered = _Lookups(kernel) if remembers else None
        self._resolutions: dict[TunnelPath, Resolution] = {}
        self._by_remote: dict[IPv6Address, set[TunnelPath]] = {}
        self._neighbours: Counter[tuple[int, IPv6Address]] = Counter()
        """How many paths lead through each."""
        self._known: dict[tuple[int, IPv6Address], bytes | None] = {}
        """Their link-layer addresses as last asked for."""
        self._due: dict[TunnelPath, None] = {}
        self._is_behind = False

    @property
    def is_behind(self) -> bool:
        """True while there are answers from before the latest `invalidate`: refresh again soon."""
        return self._is_behind

    def follow(self, paths: Iterable[TunnelPath]) -> None:
        """Follow these paths too; new ones are resolved at once."""
        lookups = self._lookups()
        for path in paths:
            if path not in self._resolutions:
                self._by_remote.setdefault(path.remote, set()).add(path)
                self._note(path, self._resolve(path, lookups, solicit=True))

    def unfollow(self, path: TunnelPath) -> None:
        """Follow this path no more."""
        self._note(path, None)
        self._due.pop(path, None)
        to_same = self._by_remote.get(path.remote, set())
        to_same.discard(path)
        if not to_same:
            self._by_remote.pop(path.remote, None)

    def follow_too(self, path: TunnelPath) -> Resolution:
        """Follow one more path; what is known of it."""
        self.follow((path,))
        return self._resolutions[path]

    def _note(self, path: TunnelPath, resolution: Resolution | None) -> None:
        before = self._resolutions.pop(path, None)
        if before is not None and before.path is not None:
            neighbour = (before.path.interface, before.path.neighbour)
            left = self._neighbours[neighbour] - 1
            if left:
                self._neighbours[neighbour] = left
            else:
                del self._neighbours[neighbour]
                self._known.pop(neighbour, None)
        if resolution is not None:
            self._resolutions[path] = resolution
            if resolution.path is not None:
                self._neighbours[resolution.path.interface, resolution.path.neighbour] += 1

    def _lookups(self) -> _Lookups:
        return self._remembered or _Lookups(self._kernel)

    def resolution(self, path: TunnelPath) -> Resolution:
        """What is known of a followed path."""
        return self._resolutions.get(path, Resolution())

    def concerns(self, message: Message) -> bool:
        """True when the notification may change an answer."""
        if not self._resolutions:
            self._forget()
            return False
        if isinstance(message, NeighbourMessage):
            return self._is_news(message)
        if isinstance(message, RouteMessage):
            return message.interface != self._tunnel_interface
        return isinstance(message, (LinkMessage, RuleMessage, Overrun))

    def _is_news(self, message: NeighbourMessage) -> bool:
        """The kernel tells of every step of its unreachability detection; the address counts."""
        neighbour = (message.interface, message.address)
        if neighbour not in self._neighbours:
            return False
        return not message.usable or self._known.get(neighbour) != message.link_layer_address

    def _forget(self) -> None:
        if self._remembered is not None:
            self._remembered = _Lookups(self._kernel)

    def invalidate(self) -> None:
        """Routes or neighbours changed: every answer is to be asked for again."""
        self._forget()
        self._due = dict.fromkeys(self._resolutions)
        self._is_behind = bool(self._due)

    def suspect(self, remotes: Iterable[IPv6Address]) -> bool:
        """The ways to these ends may be others now: the next `refresh` begins with them. False
        where none is followed."""
        paths = [path for each in remotes for path in self._by_remote.get(each, ())]
        if paths:
            self._due = dict.fromkeys((*paths, *self._due))
        return bool(paths)

    def refresh(self) -> list[TunnelPath]:
        """Ask again for the paths whose turn it is, `MAX_AT_ONCE` at most; those whose answer
        changed."""
        if not self._due:
            self._due = dict.fromkeys(self._resolutions)
        changed = []
        lookups = self._lookups()
        for path in list(islice(self._due, MAX_AT_ONCE)):
            del self._due[path]
            before = self._resolutions[path]
            after = self._resolve(path, lookups, solicit=before.path is None)
            if after != before:
                changed.append(path)
                self._note(path, after)
        self._is_behind = self._is_behind and bool(self._due)
        return changed

    def verify(self) -> None:
        """Tell the kernel that the neighbours are in use, and retry those that failed."""
        for interface, neighbour in tuple(self._neighbours):
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
            was_known = lookups is self._remembered and lookups.knows(
                path.interface, path.neighbour
            )
            address = None
            if link.needs_resolution:
                address = lookups.link_layer_address(path.interface, path.neighbour)
        except OSError as error:
            logger.debug("no path to %s: %s", tunnel.remote, error)
            return Resolution()
        mtu = min(path.mtu, link.mtu)
        if not link.needs_resolution:
            return Resolution(path=path, ready=True, mtu=mtu)
        self._known[path.interface, path.neighbour] = address
        if address is None and lookups is self._remembered:
            lookups.forget(path.interface, path.neighbour)
        if (solicit and not was_known) or address is None:
            self._solicit(path.interface, path.neighbour)
        if address is None:
            return Resolution(path=path, mtu=mtu)
        next_hop = lookups.next_hop(link, address)
        return Resolution(path=path, next_hop=next_hop, ready=True, mtu=mtu)
