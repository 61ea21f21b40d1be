"""Which packets take the tunnel: rules and routes of the mobile node and of the home agent.

Mobile node. One rule sends what comes *from the home address* to a table of our own; that table's
default route leads to the tunnel device when away and to the home router when at home. With
``new_connections = "home-address"`` the rule also has the kernel's FIB_RULE_FIND_SADDR flag: a
packet that has no source address yet is tried against it, and takes it when source address
selection on the tunnel device gives the home address. So a new connection gets the home address, a
socket bound to any other address of this host is left alone, and no rule is needed for care-of
addresses.

Home agent. A host route per intercepted home address leads to the tunnel device.

Correspondent, in every role. A host route per mobile peer leads to the tunnel device, where the
engine inserts what the direct path needs. These routes are in a table of their own that only this
host's own packets are looked up in: what is merely forwarded gets no routing header (RFC 8200 4),
and our own mobility messages go as if there were no binding (RFC 6275 9.3.2).
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

from mnagent.core.actions import UseHomeLink
from mnagent.runtime.host import HostState, OwnAddress
from mnagent.runtime.sockets import SOCKET_MARK
from mnagent.system.kernel import MAIN_TABLE, Route, Rule

_HOME_DEFAULT = "home-default"
_HOME_PREFIX = "home-prefix"
_HOME_MAIN = "home-main-default"
_HOME_MAIN_PREFIX = "home-main-prefix"
_HOME_LINK_METRIC = 62
"""Better than what router advertisements make (1024) and than our care-of routes."""


class MobileNodeRouting:
    """The mobile node's rule, table, and home address."""

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

    def start(self) -> None:
        """Put the home address on the tunnel device and lead its packets there."""
        own = OwnAddress(
            interface=self._tunnel_interface, address=self._home_address, prefix_length=128
        )
        self._host.set_address(own, pinned=True)
        self._lead_to_tunnel()
        rule = Rule(
            priority=self._priority,
            table=self._table,
            source=self._home_address,
            chooses_source=self._new_connections,
        )
        self._host.set_rule("home-address", rule)

    def _lead_to_tunnel(self) -> None:
        route = Route(
            table=self._table,
            interface=self._tunnel_interface,
            source=self._home_address,
            mtu=self._mtu,
            locks_mtu=False,
        )
        self._host.set_route(_HOME_DEFAULT, route)

    def tunnel_mtu_changed(self, mtu: int) -> None:
        """Let the kernel size its segments, and refuse what is too big, by the tunnel's MTU
        (octets)."""
        self._mtu = mtu
        if self._home_link is None:
            self._lead_to_tunnel()

    def direct_path_mtu_changed(self, correspondent: IPv6Address, mtu: int | None) -> None:
        """Size packets to a correspondent by its direct path's MTU (octets); None: by the
        tunnel's."""
        purpose = f"direct-{correspondent}"
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
        self._host.set_route(_HOME_PREFIX, prefix)
        self._host.set_route(
            _HOME_MAIN_PREFIX, replace(prefix, table=MAIN_TABLE, metric=_HOME_LINK_METRIC)
        )
        default = Route(
            table=self._table,
            interface=action.interface,
            gateway=action.router,
            source=action.home_address,
            mtu=mtu,
            locks_mtu=False,
        )
        self._host.set_route(_HOME_DEFAULT, default)
        if self._new_connections:
            # Source address selection may favour another address of the home prefix on this
            # interface.
            self._host.set_route(
                _HOME_MAIN,
                replace(default, table=MAIN_TABLE, metric=_HOME_LINK_METRIC),
            )

    def leave_home_link(self) -> None:
        """See `LeaveHomeLink`."""
        own, self._home_link = self._home_link, None
        self._lead_to_tunnel()
        self._host.remove_route(_HOME_PREFIX)
        self._host.remove_route(_HOME_MAIN)
        self._host.remove_route(_HOME_MAIN_PREFIX)
        if own is not None:
            self._host.remove_address(own)
            # What left for the home link just before waits for a router that is out of reach.
            self._host.forget_unresolved(own.interface)


class HomeAgentRouting:
    """The home agent's host routes."""

    def __init__(self, host: HostState, *, tunnel_interface: int) -> None:
        self._host = host
        self._tunnel_interface = tunnel_interface
        self._intercepted: dict[IPv6Address, int | None] = {}

    def _purpose(self, home_address: IPv6Address) -> str:
        return f"intercept-{home_address}"

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
            destination=IPv6Network((home_address, 128)),
            interface=self._tunnel_interface,
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
        """``home_address`` is a mobile node's own: its bindings count for packets from there."""
        self._host = host
        self._tunnel_interface = tunnel_interface
        self._table = table
        self._home_address = home_address
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
            self._host.set_rule("peers", self._rule)
            self._has_rule = True
        route = Route(
            destination=IPv6Network((peer, 128)),
            table=self._table,
            interface=self._tunnel_interface,
            source=self._home_address,
            mtu=mtu,
            locks_mtu=False,
        )
        self._host.set_route(purpose, route)
