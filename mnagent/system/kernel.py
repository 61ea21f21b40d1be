"""What the daemon asks of the kernel: addresses, routes, rules, neighbours, sysctls.

Every set/remove pair is idempotent: setting what is there or removing what is not is no error.
Other failures raise OSError with the kernel's errno.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Protocol

MAIN_TABLE = 254
LOOPBACK_INTERFACE = 1
"""Its index in every network namespace."""
DEFAULT_DESTINATION = IPv6Network("::/0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A route of ours. Two routes are the same one when `identity` is equal."""

    destination: IPv6Network = DEFAULT_DESTINATION
    table: int = MAIN_TABLE
    interface: int
    """Interface index."""
    gateway: IPv6Address | None = None
    source: IPv6Address | None = None
    """Preferred source address."""
    metric: int = 256
    mtu: int | None = None
    """Octets."""
    locks_mtu: bool = True
    """Whether ``mtu`` also binds packets that are only forwarded. A Packet Too Big then no longer
    lowers it, so that routes for what this host itself sends must not lock."""
    lifetime: int | None = None
    """Seconds, None for ever."""
    unreachable: bool = False
    """Packets are answered with an ICMPv6 Destination Unreachable. The kernel files such a route
    under the loopback interface."""

    @property
    def identity(self) -> tuple[IPv6Network, int, int, IPv6Address | None, int]:
        """What distinguishes it from other routes in the kernel."""
        return (self.destination, self.table, self.interface, self.gateway, self.metric)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A policy rule of ours."""

    priority: int
    table: int
    source: IPv6Address | None = None
    """Applies to packets from this address; None applies to all."""
    mark: int | None = None
    """Applies to packets of sockets with this SO_MARK."""
    unless_mark: int | None = None
    """Does not apply to packets whose SO_MARK has a bit of this one."""
    local_only: bool = False
    """Applies to what this host itself sends, not to what it forwards."""
    chooses_source: bool = False
    """Also applies to packets that have no source address yet, when the table's route would give
    them ``source`` (the kernel's FIB_RULE_FIND_SADDR): new connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """Where the kernel would send a packet."""

    interface: int
    neighbour: IPv6Address
    """The gateway, or the destination itself when it is on the link."""
    mtu: int
    """Octets a packet may have beyond the first link, as far as the kernel knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkInformation:
    """An interface as it is now."""

    interface: int
    name: str
    link_layer_address: bytes
    mtu: int
    needs_resolution: bool
    """False on links without neighbour resolution (point to point, tunnel)."""


class Kernel(Protocol):
    """The host's network configuration."""

    def set_address(
        self,
        interface: int,
        address: IPv6Address,
        *,
        prefix_length: int,
        valid_lifetime: float | None = None,
        preferred_lifetime: float | None = None,
        prefix_route: bool = True,
    ) -> None:
        """Put an address on an interface without duplicate address detection, or renew its
        lifetimes."""
        ...

    def remove_address(self, interface: int, address: IPv6Address, *, prefix_length: int) -> None:
        """Take an address off an interface."""
        ...

    def set_route(self, route: Route) -> None:
        """Have this route, in place of another one with its identity."""
        ...

    def remove_route(self, route: Route) -> None:
        """Have no route with its identity."""
        ...

    def set_rule(self, rule: Rule) -> None:
        """Have this rule."""
        ...

    def remove_rule(self, rule: Rule) -> None:
        """Not have this rule."""
        ...

    def path(self, destination: IPv6Address, *, source: IPv6Address, interface: int | None) -> Path:
        """Where a packet would go, by that interface if one is given; OSError (ENETUNREACH, ...)
        when nowhere."""
        ...

    def link_layer_address(self, interface: int, neighbour: IPv6Address) -> bytes | None:
        """The neighbour's address when the kernel holds a usable one, else None."""
        ...

    def solicit(self, interface: int, neighbour: IPv6Address) -> None:
        """Make the kernel resolve, or verify, a neighbour; returns at once."""
        ...

    def set_neighbour(
        self, interface: int, neighbour: IPv6Address, *, link_layer_address: bytes
    ) -> None:
        """Enter what an option told us, to be verified on use (STALE)."""
        ...

    def forget_unresolved(self, interface: int) -> None:
        """Give up the neighbours of an interface that have not answered yet, and drop the packets
        that wait for them."""
        ...

    def link(self, interface: int) -> LinkInformation:
        """OSError (ENODEV) when there is none."""
        ...

    def read_setting(self, name: str) -> str:
        """A value under /proc/sys, such as ``net/ipv6/conf/all/forwarding``."""
        ...

    def write_setting(self, name: str, value: str) -> None:
        """Set a value under /proc/sys."""
        ...

    def join_group(self, interface: int, group: IPv6Address) -> None:
        """Receive a multicast group's frames, and report it by MLD."""
        ...

    def leave_group(self, interface: int, group: IPv6Address) -> None:
        """No longer receive a group."""
        ...

    def join_anycast(self, interface: int, address: IPv6Address) -> None:
        """Take an anycast address, on its link and from elsewhere; again is no error."""
        ...

    def leave_anycast(self, interface: int, address: IPv6Address) -> None:
        """Give an anycast address up."""
        ...


class FakeKernel:
    """A kernel of dictionaries; a test reads and changes its tables directly."""

    def __init__(self) -> None:
        self.addresses: dict[tuple[int, IPv6Address], int] = {}
        self.deprecated: set[tuple[int, IPv6Address]] = set()
        self.routes: dict[tuple[object, ...], Route] = {}
        self.rules: set[Rule] = set()
        self.paths: dict[IPv6Address, Path] = {}
        self.neighbours: dict[tuple[int, IPv6Address], bytes] = {}
        self.solicited: list[tuple[int, IPv6Address]] = []
        self.given_up: list[int] = []
        self.links: dict[int, LinkInformation] = {}
        self.settings: dict[str, str] = {}
        self.groups: set[tuple[int, IPv6Address]] = set()
        self.anycast: set[tuple[int, IPv6Address]] = set()
        self.failure: int | None = None
        """errno that every change raises, or None."""

    def _change(self) -> None:
        if self.failure is not None:
            raise OSError(self.failure, "injected")

    def set_address(
        self,
        interface: int,
        address: IPv6Address,
        *,
        prefix_length: int,
        valid_lifetime: float | None = None,
        preferred_lifetime: float | None = None,
        prefix_route: bool = True,
    ) -> None:
        self._change()
        self.addresses[interface, address] = prefix_length
        self.deprecated.discard((interface, address))
        if preferred_lifetime == 0:
            self.deprecated.add((interface, address))

    def remove_address(self, interface: int, address: IPv6Address, *, prefix_length: int) -> None:
        self._change()
        self.addresses.pop((interface, address), None)

    def set_route(self, route: Route) -> None:
        self._change()
        self.routes[route.identity] = route

    def remove_route(self, route: Route) -> None:
        self._change()
        self.routes.pop(route.identity, None)

    def set_rule(self, rule: Rule) -> None:
        self._change()
        self.rules.add(rule)

    def remove_rule(self, rule: Rule) -> None:
        self._change()
        self.rules.discard(rule)

    def path(self, destination: IPv6Address, *, source: IPv6Address, interface: int | None) -> Path:
        if destination not in self.paths:
            raise OSError(101, "network is unreachable")
        return self.paths[destination]

    def link_layer_address(self, interface: int, neighbour: IPv6Address) -> bytes | None:
        return self.neighbours.get((interface, neighbour))

    def solicit(self, interface: int, neighbour: IPv6Address) -> None:
        self.solicited.append((interface, neighbour))

    def set_neighbour(
        self, interface: int, neighbour: IPv6Address, *, link_layer_address: bytes
    ) -> None:
        self._change()
        self.neighbours[interface, neighbour] = link_layer_address

    def forget_unresolved(self, interface: int) -> None:
        self._change()
        self.given_up.append(interface)

    def link(self, interface: int) -> LinkInformation:
        if interface not in self.links:
            raise OSError(19, "no such device")
        return self.links[interface]

    def read_setting(self, name: str) -> str:
        return self.settings.get(name, "0")

    def write_setting(self, name: str, value: str) -> None:
        self._change()
        self.settings[name] = value

    def join_group(self, interface: int, group: IPv6Address) -> None:
        self._change()
        self.groups.add((interface, group))

    def leave_group(self, interface: int, group: IPv6Address) -> None:
        self._change()
        self.groups.discard((interface, group))

    def join_anycast(self, interface: int, address: IPv6Address) -> None:
        self._change()
        self.anycast.add((interface, address))

    def leave_anycast(self, interface: int, address: IPv6Address) -> None:
        self._change()
        self.anycast.discard((interface, address))
