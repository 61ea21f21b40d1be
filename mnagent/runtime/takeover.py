"""What the kernel learns from router advertisements, on interfaces that move between links.

With ``autoconfiguration = "agent"`` the kernel ignores advertisements while the agent runs. On stop
it gets its job back, and a router solicitation helps it to what it has missed. With ``"kernel"`` it
goes on by itself.

What it configured stays as long as the link does: nothing that worked is cut off. Once the link
changes that is of another link, and the kernel, which knows only of a carrier that went and came,
would keep it: the former on-link prefix makes the home agent a neighbour that never answers. So it
is removed then. The agent solicits a router on each new link, whose answer tells the kernel what is
true there. Addresses and routes that another daemon manages (``accept_ra`` is off then) are left to
that daemon.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
from ipaddress import IPv6Network

from mnagent.runtime.kernel import LinuxKernel
from mnagent.runtime.settings import SavedSettings
from mnagent.system.kernel import MAIN_TABLE, Route

logger = logging.getLogger(__name__)

RTPROT_KERNEL = 2
RTPROT_RA = 9
IFAPROT_KERNEL_RA = 2
_SETTINGS = ("accept_ra", "autoconf")
_ROUTER_SOLICITATION = struct.pack("!BBHI", 133, 0, 0, 0)
_ALL_ROUTERS = "ff02::2"
_ND_HOP_LIMIT = 255


class Takeover:
    """Takes autoconfiguration over, interface by interface, and gives it back."""

    def __init__(
        self, kernel: LinuxKernel, settings: SavedSettings, *, by_agent: bool = True
    ) -> None:
        """``by_agent`` is False where the kernel goes on autoconfiguring."""
        self._kernel = kernel
        self._settings = settings
        self._by_agent = by_agent
        self._names: dict[int, str] = {}
        self._looked_at: set[int] = set()

    def take(self, interface: int, name: str) -> None:
        """From now on this interface is looked after; OSError when the kernel refuses."""
        if self._by_agent:
            for setting in _SETTINGS:
                self._settings.set(f"net/ipv6/conf/{name}/{setting}", "0")
        self._names[interface] = name

    def forget(self, interface: int) -> None:
        """The interface is gone."""
        self._names.pop(interface, None)
        self._looked_at.discard(interface)

    def link_changed(self, interface: int) -> None:
        """Remove what the kernel had configured from the former link's router advertisements."""
        name = self._names.get(interface)
        if name is None or interface in self._looked_at:
            return
        if (
            not self._by_agent
            and self._kernel.read_setting(f"net/ipv6/conf/{name}/accept_ra") == "0"
        ):
            return
        self._remove_addresses(interface)
        self._remove_routes(interface)
        if self._by_agent:
            # The kernel learns nothing more: there will be nothing to remove, and every handover
            # would wait for the look.
            self._looked_at.add(interface)

    @property
    def _address_protocols(self) -> tuple[int, ...]:
        # Before Linux 5.18 all addresses have protocol 0; some of them may be another daemon's.
        return (0, IFAPROT_KERNEL_RA) if self._by_agent else (IFAPROT_KERNEL_RA,)

    def _remove_addresses(self, interface: int) -> None:
        for address in self._kernel.addresses():
            if (
                address.interface == interface
                and address.valid_lifetime is not None
                and address.protocol in self._address_protocols
                and not address.address.is_link_local
            ):
                with contextlib.suppress(OSError):
                    self._kernel.remove_address(
                        interface, address.address, prefix_length=address.prefix_length
                    )

    def _remove_routes(self, interface: int) -> None:
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

    def solicit(self) -> None:
        """After the settings are back: ask for router advertisements. What the kernel had learned
        was removed, or ran out meanwhile."""
        for interface in self._names if self._by_agent else ():
            try:
                _send_solicitation(interface)
            except OSError as error:
                logger.debug("failed to solicit routers: %s", error)


def _send_solicitation(interface: int) -> None:
    raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    with raw:
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _ND_HOP_LIMIT)
        raw.sendto(_ROUTER_SOLICITATION, (_ALL_ROUTERS, 0, 0, interface))
