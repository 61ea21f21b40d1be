"""Interfaces whose autoconfiguration the agent does instead of the kernel.

While the agent runs, the kernel ignores router advertisements on them. What it configured before
stays as long as the link does: nothing that worked is cut off. Once the link changes, that is of
another link: its on-link prefix would make the home agent a neighbour that never answers. On stop
the kernel gets its job back; where its addresses were removed it is helped to new ones by a router
solicitation.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
from ipaddress import IPv6Network

from mnagent.runtime.kernel import ROUTE_PROTOCOL, LinuxKernel
from mnagent.runtime.settings import SavedSettings
from mnagent.system.kernel import MAIN_TABLE, Route

logger = logging.getLogger(__name__)

RTPROT_KERNEL = 2
RTPROT_RA = 9
_SETTINGS = ("accept_ra", "autoconf")
_ROUTER_SOLICITATION = struct.pack("!BBHI", 133, 0, 0, 0)
_ALL_ROUTERS = "ff02::2"
_ND_HOP_LIMIT = 255


class Takeover:
    """Takes autoconfiguration over, interface by interface, and gives it back."""

    def __init__(self, kernel: LinuxKernel, settings: SavedSettings) -> None:
        self._kernel = kernel
        self._settings = settings
        self._links: dict[int, bool] = {}

    def take(self, interface: int, name: str) -> None:
        """From now on the kernel ignores router advertisements here; OSError when it refuses."""
        for setting in _SETTINGS:
            self._settings.set(f"net/ipv6/conf/{name}/{setting}", "0")
        self._links[interface] = False

    def forget(self, interface: int) -> None:
        """The interface is gone."""
        self._links.pop(interface, None)

    def link_changed(self, interface: int) -> None:
        """Remove what the kernel had configured from the former link's router advertisements."""
        if self._links.get(interface) is not False:
            return
        removed = self._remove_addresses(interface) + self._remove_routes(interface)
        self._links[interface] = removed > 0

    def _remove_addresses(self, interface: int) -> int:
        count = 0
        for address in self._kernel.addresses():
            if (
                address.interface == interface
                and address.valid_lifetime is not None
                and address.protocol != ROUTE_PROTOCOL
                and not address.address.is_link_local
            ):
                with contextlib.suppress(OSError):
                    self._kernel.remove_address(
                        interface, address.address, prefix_length=address.prefix_length
                    )
                    count += 1
        return count

    def _remove_routes(self, interface: int) -> int:
        count = 0
        for route in self._kernel.routes():
            learned = route.protocol == RTPROT_RA or (
                route.protocol == RTPROT_KERNEL and route.expires
            )
            if route.interface == interface and route.table == MAIN_TABLE and learned:
                with contextlib.suppress(OSError):
                    self._kernel.remove_foreign_route(
                        Route(
                            destination=IPv6Network(route.destination),
                            interface=interface,
                            gateway=route.gateway,
                            metric=route.metric,
                        ),
                        protocol=route.protocol,
                    )
                    count += 1
        return count

    def solicit(self) -> None:
        """After the settings are back: ask for router advertisements where the kernel has
        nothing."""
        for interface, emptied in self._links.items():
            if emptied:
                try:
                    _send_solicitation(interface)
                except OSError as error:
                    logger.debug("failed to solicit routers: %s", error)


def _send_solicitation(interface: int) -> None:
    raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    with raw:
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _ND_HOP_LIMIT)
        raw.sendto(_ROUTER_SOLICITATION, (_ALL_ROUTERS, 0, 0, interface))
