"""Which packets take the tunnel: rules and routes of the mobile node and of the home agent.

Mobile node. One rule sends what comes *from the home address* to a table of our own; that table's
default route leads to the tunnel device when away and to the home router when at home. With
``new_connections = "home-address"`` the rule also has the kernel's FIB_RULE_FIND_SADDR flag: a
packet that has no source address yet is tried against it, and takes it when source address
selection on the tunnel device gives the home address. So a new connection gets the home address, a
socket bound to any other address of this host is left alone, and no rule is needed for care-of
addresses.

Home agent. A host route per intercepted home address leads to the tunnel device. Without a home
link all other addresses of a home prefix are nowhere, and a route says so: by the default route
their packets would go back to where they came from, round and round.

Correspondent, in every role. A host route per mobile peer leads to the tunnel device, where the
engine inserts what the direct path needs. These routes are in a table of their own that only this
host's own packets are looked up in: what is merely forwarded gets no routing header (RFC 8200 4),
and our own mobility messages go as if there were no binding (RFC 6275 9.3.2).
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

from mnagent.core.actions import SetHomeAddress, UseHomeLink
from mnagent.runtime.host import HostState, OwnAddress
from mnagent.runtime.sockets import SOCKET_MARK
from mnagent.system.kernel import LOOPBACK_INTERFACE, MAIN_TABLE, Route, Rule

_HOME_DEFAULT = "home-default"
_HOME_PREFIX = "home-prefix"
_HOME_MAIN = "home-main-default"
_HOME_MAIN_PREFIX = "home-main-prefix"
_HOME_LINK_METRIC = 62
"""Better than what router advertisements make (1024) and than our care-of routes."""


class _HomeAddressRouting:
    """The rule, the table and the routes of one home address."""

    def __init__(
        self,
        host: HostState,
        *,
        home_address: IPv6Address,
        tunnel_interface: int,
        table: int,
        priority: int,
        new_connections: bool,
    ) -> None:
        self._host = host
        self._home_address = home_address
        self._tunnel_interface = tunnel_interface
        self._table = table
        self._priority = priority
        self._new_connections = new_connections
        self._mtu: int | None = None
        self._direct: set[IPv6Address] = set()
        self._home_link: OwnAddress | None = None
        self._main_routes: tuple[Route, ...] = ()
        self._leads = False
        self._is_preferred = True

    def start(self) -> None:
        """Put the home address on the tunnel device and lead its packets there."""
        self._host.set_address(self._own, pinned=True)
        self._lead_to_tunnel()
        rule = Rule(
            priority=self._priority,
            table=self._table,
            source=self._home_address,
            chooses_source=self._new_connections,
        )
        self._host.set_rule(self._purpose("home-address"), rule)

    def stop(self) -> None:
        """The home address has ended: what led its packets goes."""
        if self._home_link is not None:
            self.leave_home_link()
        self._host.remove_rule(self._purpose("home-address"))
        for correspondent in tuple(self._direct):
            self.direct_path_mtu_changed(correspondent, None)
        self._host.remove_route(self._purpose(_HOME_DEFAULT))
        self._host.remove_address(self._own)

    @property
    def is_preferred(self) -> bool:
        """Whether new connections may take it."""
        return self._is_preferred

    def prefer(self, *, is_preferred: bool) -> None:
        """Have the kernel choose it as a source, or not any more (RFC 6724 rule 3)."""
        if is_preferred == self._is_preferred:
            return
        self._is_preferred = is_preferred
        self._host.set_address(self._own, pinned=True)
        if self._home_link is not None:
            self._home_link = replace(self._home_link, deprecated=not is_preferred)
            self._host.set_address(self._home_link, prefix_route=False)

    def lead(self, *, leads: bool) -> None:
        """At home, whether what has no source address yet takes this one."""
        self._leads = leads
        purposes = (self._purpose(_HOME_MAIN_PREFIX), self._purpose(_HOME_MAIN))
        if not leads:
            for purpose in purposes:
                self._host.remove_route(purpose)
            return
        for purpose, route in zip(purposes, self._main_routes, strict=False):
            self._host.set_route(purpose, route)

    @property
    def _own(self) -> OwnAddress:
        return OwnAddress(
            interface=self._tunnel_interface,
            address=self._home_address,
            prefix_length=128,
            deprecated=not self._is_preferred,
        )

    def _purpose(self, what: str) -> str:
        return f"{what}-{self._home_address}"

    def _lead_to_tunnel(self) -> None:
        route = Route(
            table=self._table,
            interface=self._tunnel_interface,
            source=self._home_address,
            mtu=self._mtu,
            locks_mtu=False,
        )
        self._host.set_route(self._purpose(_HOME_DEFAULT), route)

    def tunnel_mtu_changed(self, mtu: int) -> None:
        """Let the kernel size its segments, and refuse what is too big, by the tunnel's MTU
        (octets)."""
        self._mtu = mtu
        if self._home_link is None:
            self._lead_to_tunnel()

    def direct_path_mtu_changed(self, correspondent: IPv6Address, mtu: int | None) -> None:
        """Size packets to a correspondent by its direct path's MTU (octets); None: by the
        tunnel's."""
        purpose = self._purpose(f"direct-{correspondent}")
        if mtu is None or self._home_link is not None:
            self._direct.discard(correspondent)
            self._host.remove_route(purpose)
            return
        route = Route(
            destination=IPv6Network((correspondent, 128)),
            table=self._table,
            interface=self._tunnel_interface,
            source=self._home_address,
            mtu=mtu,
            locks_mtu=False,
        )
        self._host.set_route(purpose, route)
        self._direct.add(correspondent)

    def use_home_link(self, action: UseHomeLink) -> None:
        """See `UseHomeLink`."""
        own = OwnAddress(
            interface=action.interface,
            address=action.home_address,
            prefix_length=action.prefix_length,
            deprecated=not self._is_preferred,
        )
        if self._home_link not in (None, own):
            self.leave_home_link()
        # The kernel shares its prefix route with other addresses of the prefix and may keep it.
        self._host.set_address(own, prefix_route=False)
        self._home_link = own
        for correspondent in tuple(self._direct):
            self.direct_path_mtu_changed(correspondent, None)
        # With an MTU of their own: when a route goes, the kernel moves sockets that still hold it
        # to a device of 68 octets, and TCP would cut everything it has into segments that small.
        mtu = self._host.link_mtu(action.interface)
        prefix = Route(
            destination=own.prefix,
            table=self._table,
            interface=action.interface,
            source=action.home_address,
            mtu=mtu,
            locks_mtu=False,
        )
        self._host.set_route(self._purpose(_HOME_PREFIX), prefix)
        default = Route(
            table=self._table,
            interface=action.interface,
            gateway=action.router,
            source=action.home_address,
            mtu=mtu,
            locks_mtu=False,
        )
        self._host.set_route(self._purpose(_HOME_DEFAULT), default)
        # Source address selection may favour another address of the home prefix on this interface.
        routes = (prefix, default) if self._new_connections else (prefix,)
        self._main_routes = tuple(
            replace(route, table=MAIN_TABLE, metric=_HOME_LINK_METRIC) for route in routes
        )
        if self._leads:
            self.lead(leads=True)

    def leave_home_link(self) -> None:
        """See `LeaveHomeLink`."""
        own, self._home_link = self._home_link, None
        self._main_routes = ()
        self._lead_to_tunnel()
        self._host.remove_route(self._purpose(_HOME_PREFIX))
        self._host.remove_route(self._purpose(_HOME_MAIN))
        self._host.remove_route(self._purpose(_HOME_MAIN_PREFIX))
        if own is not None:
            self._host.remove_address(own)
            # What left for the home link just before waits for a router that is out of reach.
            self._host.forget_unresolved(own.interface)


_LAST_METRIC = 0x7FFFFFFF
_BEHIND_THE_TUNNEL = IPv6Address("fe80::1")
"""A neighbour by name only: the tunnel device asks nobody. Without it the kernel keeps a neighbour
for each home address, of which it bears a thousand (net.ipv6.neigh.default.gc_thresh3)."""


class MobileNodeRouting:
    """All home addresses of a mobile node, each with a table and a rule of its own.

    The rules have one priority. Where they choose the source of a new connection, each tries what
    source address selection on the tunnel device gives, so that a preferred home address comes
    before a deprecated one.
    """

    def __init__(
        self,
        host: HostState,
        *,
        home_address: IPv6Address,
        tunnel_interface: int,
        table: int,
        priority: int,
        new_connections: bool,
        more_home_addresses: Iterable[IPv6Address] = (),
        more_tables: Iterable[int] = (),
        peers: PeerRouting | None = None,
    ) -> None:
        """``more_tables`` are for the home addresses beyond the first, those that are formed while
        we run as well. ``peers`` is told of them."""
        self._peers = peers
        self._host = host
        self._tunnel_interface = tunnel_interface
        self._priority = priority
        self._new_connections = new_connections
        self._free_tables = deque((table, *more_tables))
        self._tables: dict[IPv6Address, int] = {}
        self._homes: dict[IPv6Address, _HomeAddressRouting] = {}
        for address in (home_address, *more_home_addresses):
            self._add(address)

    def start(self) -> None:
        """Put the home addresses on the tunnel device and lead their packets there."""
        for home in self._homes.values():
            home.start()
        if self._peers is not None:
            for home_address in self._homes:
                self._peers.set_home_address(home_address)
        self._choose_leader()

    def set_home_address(self, action: SetHomeAddress) -> None:
        """See `SetHomeAddress`. OSError when there are no tables left."""
        home = self._homes.get(action.home_address)
        if home is None:
            home = self._add(action.home_address)
            home.start()
        if self._peers is not None:
            self._peers.set_home_address(action.home_address)
        home.prefer(is_preferred=action.preferred)
        self._choose_leader()

    def remove_home_address(self, home_address: IPv6Address) -> None:
        """See `RemoveHomeAddress`."""
        home = self._homes.pop(home_address, None)
        if home is not None:
            self._free_tables.append(self._tables.pop(home_address))
            home.stop()
            if self._peers is not None:
                self._peers.remove_home_address(home_address)
            self._choose_leader()

    def tunnel_mtu_changed(self, home_address: IPv6Address, mtu: int) -> None:
        """Let the kernel size its segments, and refuse what is too big, by the tunnel's MTU
        (octets)."""
        if home_address in self._homes:
            self._homes[home_address].tunnel_mtu_changed(mtu)

    def direct_path_mtu_changed(
        self, home_address: IPv6Address, correspondent: IPv6Address, mtu: int | None
    ) -> None:
        """Size packets to a correspondent by its direct path's MTU (octets); None: by the
        tunnel's."""
        if home_address in self._homes:
            self._homes[home_address].direct_path_mtu_changed(correspondent, mtu)

    def use_home_link(self, action: UseHomeLink) -> None:
        """See `UseHomeLink`."""
        self._homes[action.home_address].use_home_link(action)

    def leave_home_link(self, home_address: IPv6Address) -> None:
        """See `LeaveHomeLink`."""
        if home_address in self._homes:
            self._homes[home_address].leave_home_link()

    def _choose_leader(self) -> None:
        """The first preferred one; routes of the main table can have one preferred source."""
        homes = tuple(self._homes.values())
        leader = next((home for home in homes if home.is_preferred), homes[0] if homes else None)
        for home in homes:
            if home is not leader:
                home.lead(leads=False)
        if leader is not None:
            leader.lead(leads=True)

    def _add(self, home_address: IPv6Address) -> _HomeAddressRouting:
        if not self._free_tables:
            raise OSError(errno.ENOSPC, "there is no route table for another home address")
        self._tables[home_address] = table = self._free_tables.popleft()
        home = self._homes[home_address] = _HomeAddressRouting(
            self._host,
            home_address=home_address,
            tunnel_interface=self._tunnel_interface,
            table=table,
            priority=self._priority,
            new_connections=self._new_connections,
        )
        return home


class HomeAgentRouting:
    """The home agent's host routes, and the one for the rest of a virtual home prefix."""

    def __init__(self, host: HostState, *, tunnel_interface: int) -> None:
        self._host = host
        self._tunnel_interface = tunnel_interface
        self._intercepted: dict[IPv6Address, int | None] = {}
        self._virtual: frozenset[IPv6Network] = frozenset()

    def set_virtual_prefixes(self, prefixes: Iterable[IPv6Network]) -> None:
        """Answer for the addresses in these prefixes, and in no others, that no mobile node has
        registered. Any other route for them comes first."""
        virtual = frozenset(prefixes)
        for prefix in self._virtual - virtual:
            self._host.remove_route(f"virtual-{prefix}")
        for prefix in virtual - self._virtual:
            route = Route(
                destination=prefix,
                interface=LOOPBACK_INTERFACE,
                metric=_LAST_METRIC,
                unreachable=True,
            )
            self._host.set_route(f"virtual-{prefix}", route)
        self._virtual = virtual

    def _purpose(self, home_address: IPv6Address) -> str:
        return f"intercept-{int(home_address):x}"

    def intercept(self, home_address: IPv6Address, *, mtu: int | None = None) -> None:
        """See `InterceptHomeAddress`. ``mtu`` is the tunnel's (octets), None where it has none."""
        self._set(home_address, mtu or self._intercepted.get(home_address))

    def stop_intercepting(self, home_address: IPv6Address) -> None:
        """See `StopIntercepting`."""
        self._intercepted.pop(home_address, None)
        self._host.remove_route(self._purpose(home_address))

    def tunnel_mtu_changed(self, home_address: IPv6Address, mtu: int) -> None:
        """Let the kernel answer too big packets by the tunnel's MTU (octets)."""
        if home_address in self._intercepted:
            self._set(home_address, mtu)

    def _set(self, home_address: IPv6Address, mtu: int | None) -> None:
        route = Route(
            destination=IPv6Network((int(home_address), 128)),  # from an address it is slow
            interface=self._tunnel_interface,
            gateway=_BEHIND_THE_TUNNEL,
            mtu=mtu,
        )
        self._host.set_route(self._purpose(home_address), route)
        self._intercepted[home_address] = mtu


class PeerRouting:
    """The routes to mobile peers that have a binding with us."""

    def __init__(
        self,
        host: HostState,
        *,
        tunnel_interface: int,
        table: int,
        priority: int,
        home_address: IPv6Address | None = None,
        new_connections: bool = False,
    ) -> None:
        """``home_address`` is a mobile node's own: its bindings count for packets from there, and
        from those it is told of later."""
        self._host = host
        self._tunnel_interface = tunnel_interface
        self._table = table
        self._home_address = home_address
        self._more: set[IPv6Address] = set()
        self._rule = Rule(
            priority=priority,
            table=table,
            source=home_address,
            chooses_source=home_address is not None and new_connections,
            unless_mark=SOCKET_MARK,
            local_only=True,
        )
        self._has_rule = False

    def mtu_changed(self, peer: IPv6Address, mtu: int | None) -> None:
        """Lead packets for a peer to the tunnel device, sized for that MTU (octets); None leaves
        them to the other routes."""
        purpose = f"peer-{peer}"
        if mtu is None:
            self._host.remove_route(purpose)
            return
        if not self._has_rule:
            self._has_rule = True
            self._host.set_rule("peers", self._rule)
            for home_address in self._more:
                self._set_rule(home_address)
        route = Route(
            destination=IPv6Network((peer, 128)),
            table=self._table,
            interface=self._tunnel_interface,
            source=self._home_address,
            mtu=mtu,
            locks_mtu=False,
        )
        self._host.set_route(purpose, route)

    def set_home_address(self, home_address: IPv6Address) -> None:
        """Have the bindings count for packets from this home address of ours too."""
        if home_address != self._home_address:
            self._more.add(home_address)
            if self._has_rule:
                self._set_rule(home_address)

    def remove_home_address(self, home_address: IPv6Address) -> None:
        """It has ended."""
        self._more.discard(home_address)
        self._host.remove_rule(f"peers-{home_address}")

    def _set_rule(self, home_address: IPv6Address) -> None:
        self._host.set_rule(f"peers-{home_address}", replace(self._rule, source=home_address))
