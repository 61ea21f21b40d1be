"""The Linux kernel behind `mnagent.system.kernel.Kernel`: rtnetlink, /proc/sys, multicast
membership."""

from __future__ import annotations

import contextlib
import errno
import math
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path as FilePath
from typing import Any

from mnagent.link.messages import AddressMessage, LinkMessage, Message, RouteMessage, RuleMessage
from mnagent.runtime import netlink
from mnagent.runtime.netlink import RequestSocket, new_message
from mnagent.system.kernel import LinkInformation, Path, Route, Rule

ROUTE_PROTOCOL = 62
"""rtm_protocol, FRA_PROTOCOL and IFA_PROTO of everything we make, so that leftovers are known."""

IFA_F_NODAD = 0x02
IFA_F_NOPREFIXROUTE = 0x200
NTF_USE = 0x01
FR_ACT_TO_TBL = 1
IFF_NOARP = 0x80
IPV6_JOIN_ANYCAST, IPV6_LEAVE_ANYCAST = 27, 28
ARPHRD_ETHER = 1
MAX_MTU = 65535
_UNSPECIFIED = IPv6Address(0)
SETTINGS_ROOT = FilePath("/proc/sys")


def _seconds(lifetime: float | None) -> int:
    if lifetime is None or math.isinf(lifetime):
        return netlink.INFINITE
    return max(0, min(int(lifetime), netlink.INFINITE - 1))


@contextlib.contextmanager
def _accepting(*codes: int) -> Iterator[None]:
    """Swallow these errno values: the state asked for is there already."""
    try:
        yield
    except OSError as error:
        if error.errno not in codes:
            raise


def _datagram_socket() -> socket.socket:
    return socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)


class _Memberships:
    """Groups that are joined. A socket has room for some hundreds of them (net.core.optmem_max), a
    home agent may need thousands: one for each mobile node that is away."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._with_room: list[socket.socket] = []
        self._places: dict[tuple[int, IPv6Address], socket.socket] = {}

    def close(self) -> None:
        for each in self._sockets:
            each.close()

    def join(self, interface: int, group: IPv6Address) -> None:
        request = group.packed + struct.pack("@I", interface)
        known = self._places.get((interface, group))
        if known is None:
            self._places[interface, group] = self._join_somewhere(request)
        else:
            with _accepting(errno.EADDRINUSE):
                known.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)

    def _join_somewhere(self, request: bytes) -> socket.socket:
        while self._with_room:
            try:
                self._with_room[-1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
            except OSError as error:
                if error.errno not in (errno.ENOMEM, errno.ENOBUFS):
                    raise
                self._with_room.pop()
            else:
                return self._with_room[-1]
        opened = _datagram_socket()
        try:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
        except OSError:
            opened.close()
            raise
        self._sockets.append(opened)
        self._with_room.append(opened)
        return opened

    def leave(self, interface: int, group: IPv6Address) -> None:
        place = self._places.pop((interface, group), None)
        if place is None:
            return
        if place not in self._with_room:
            self._with_room.append(place)
        request = group.packed + struct.pack("@I", interface)
        with _accepting(errno.EADDRNOTAVAIL, errno.ENODEV):
            place.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_LEAVE_GROUP, request)


class LinuxKernel:
    """Talks to the network namespace the process is in."""

    def __init__(self) -> None:
        self._requests = RequestSocket()
        self._groups = _Memberships()
        self._anycast_socket = _datagram_socket()
        self._anycast: set[tuple[int, IPv6Address]] = set()

    @property
    def port(self) -> int:
        """The netlink port that changes are made by."""
        return self._requests.port

    def close(self) -> None:
        """Give the descriptors back; leaves all groups."""
        self._requests.close()
        self._groups.close()
        self._anycast_socket.close()

    # addresses

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
        """See `Kernel.set_address`."""
        flags = IFA_F_NODAD | (0 if prefix_route else IFA_F_NOPREFIXROUTE)
        valid = _seconds(valid_lifetime)
        message = new_message(
            netlink.RTM_NEWADDR,
            netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE,
            family=socket.AF_INET6,
            prefixlen=prefix_length,
            flags=flags & 0xFF,
            index=interface,
        )
        cache = {
            "ifa_preferred": min(_seconds(preferred_lifetime), valid),
            "ifa_valid": valid,
            "cstamp": 0,
            "tstamp": 0,
        }
        message["attrs"] = [
            ("IFA_LOCAL", str(address)),
            ("IFA_ADDRESS", str(address)),
            ("IFA_CACHEINFO", cache),
            ("IFA_FLAGS", flags),
            ("IFA_PROTO", ROUTE_PROTOCOL),
        ]
        self._requests.change(message)

    def remove_address(self, interface: int, address: IPv6Address, *, prefix_length: int) -> None:
        """See `Kernel.remove_address`."""
        message = new_message(
            netlink.RTM_DELADDR,
            0,
            family=socket.AF_INET6,
            prefixlen=prefix_length,
            index=interface,
        )
        message["attrs"] = [("IFA_LOCAL", str(address)), ("IFA_ADDRESS", str(address))]
        with _accepting(errno.EADDRNOTAVAIL, errno.ENODEV):
            self._requests.change(message)

    # routes and rules

    def set_route(self, route: Route) -> None:
        """See `Kernel.set_route`. A gateway is taken to be on the link, whatever the prefixes
        say."""
        body = netlink.route_body(route, protocol=ROUTE_PROTOCOL)
        flags = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE
        self._requests.change_route(netlink.RTM_NEWROUTE, flags, body)

    def remove_route(self, route: Route) -> None:
        """See `Kernel.remove_route`."""
        self.remove_foreign_route(route, protocol=ROUTE_PROTOCOL)

    def remove_foreign_route(self, route: Route, *, protocol: int) -> None:
        """Remove a route that somebody else made; ``protocol`` is its rtm_protocol."""
        named = Route(
            destination=route.destination,
            table=route.table,
            interface=route.interface,
            gateway=route.gateway,
            metric=route.metric,
        )
        body = netlink.route_body(named, protocol=protocol)
        with _accepting(errno.ESRCH, errno.ENODEV, errno.ENOENT):
            self._requests.change_route(netlink.RTM_DELROUTE, 0, body)

    def _rule_message(self, message_type: int, flags: int, *, rule: Rule) -> Any:
        message = new_message(
            message_type,
            flags,
            family=socket.AF_INET6,
            src_len=128 if rule.source is not None else 0,
            table=rule.table if rule.table < 256 else 0,
            action=FR_ACT_TO_TBL,
            flags=netlink.FIB_RULE_FIND_SADDR if rule.chooses_source else 0,
        )
        attributes: list[tuple[str, Any]] = [
            ("FRA_TABLE", rule.table),
            ("FRA_PRIORITY", rule.priority),
            ("FRA_PROTOCOL", ROUTE_PROTOCOL),
        ]
        if rule.source is not None:
            attributes.append(("FRA_SRC", str(rule.source)))
        if rule.mark is not None:
            attributes.append(("FRA_FWMARK", rule.mark))
        if rule.unless_mark is not None:
            attributes += [("FRA_FWMARK", 0), ("FRA_FWMASK", rule.unless_mark)]
        if rule.local_only:
            attributes.append(("FRA_IIFNAME", "lo"))
        message["attrs"] = attributes
        return message

    def set_rule(self, rule: Rule) -> None:
        """See `Kernel.set_rule`."""
        with _accepting(errno.EEXIST):
            self._requests.change(
                self._rule_message(
                    netlink.RTM_NEWRULE, netlink.NLM_F_CREATE | netlink.NLM_F_EXCL, rule=rule
                )
            )

    def remove_rule(self, rule: Rule) -> None:
        """See `Kernel.remove_rule`."""
        with _accepting(errno.ENOENT):
            self._requests.change(self._rule_message(netlink.RTM_DELRULE, 0, rule=rule))

    # paths and neighbours

    def path(self, destination: IPv6Address, *, source: IPv6Address, interface: int | None) -> Path:
        """See `Kernel.path`."""
        answer = self._requests.ask_for_route(destination, source=source, interface=interface)
        if interface not in (None, answer.interface):
            # Asked with a source, the kernel takes the interface for a wish, and another one's
            # route with a lower metric comes first. Asked without, it obeys.
            answer = self._requests.ask_for_route(
                destination, source=_UNSPECIFIED, interface=interface
            )
        if answer.interface is None or answer.route_type not in (netlink.RTN_UNICAST, 2):
            raise OSError(errno.ENETUNREACH, "no unicast route")
        return Path(
            interface=answer.interface,
            neighbour=answer.gateway or destination,
            mtu=answer.mtu or MAX_MTU,
        )

    def link_layer_address(self, interface: int, neighbour: IPv6Address) -> bytes | None:
        """See `Kernel.link_layer_address`."""
        message = new_message(netlink.RTM_GETNEIGH, 0, family=socket.AF_INET6, ifindex=interface)
        message["attrs"] = [("NDA_DST", str(neighbour))]
        try:
            answer = self._requests.ask(message)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV):
                return None
            raise
        if not answer["state"] & netlink.NUD_USABLE:
            return None
        return netlink.link_layer_bytes(answer.get_attr("NDA_LLADDR")) or None

    def solicit(self, interface: int, neighbour: IPv6Address) -> None:
        """See `Kernel.solicit`: NTF_USE does what sending a packet to it would do."""
        message = new_message(
            netlink.RTM_NEWNEIGH,
            netlink.NLM_F_CREATE,
            family=socket.AF_INET6,
            ifindex=interface,
            flags=NTF_USE,
        )
        message["attrs"] = [("NDA_DST", str(neighbour))]
        with _accepting(errno.ENODEV, errno.ENETDOWN):
            self._requests.change(message)

    def set_neighbour(
        self, interface: int, neighbour: IPv6Address, *, link_layer_address: bytes
    ) -> None:
        """See `Kernel.set_neighbour`."""
        message = new_message(
            netlink.RTM_NEWNEIGH,
            netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE,
            family=socket.AF_INET6,
            ifindex=interface,
            state=netlink.NUD_STALE,
        )
        message["attrs"] = [
            ("NDA_DST", str(neighbour)),
            ("NDA_LLADDR", link_layer_address.hex(":")),
        ]
        self._requests.change(message)

    def forget_unresolved(self, interface: int) -> None:
        """See `Kernel.forget_unresolved`."""
        table = self._requests.dump(new_message(netlink.RTM_GETNEIGH, 0, family=socket.AF_INET6))
        for entry in table:
            if entry["ifindex"] != interface or entry["state"] != netlink.NUD_INCOMPLETE:
                continue
            message = new_message(
                netlink.RTM_DELNEIGH, 0, family=socket.AF_INET6, ifindex=interface
            )
            message["attrs"] = [("NDA_DST", entry.get_attr("NDA_DST"))]
            with _accepting(errno.ENOENT, errno.ENODEV):
                self._requests.change(message)

    # links

    def link(self, interface: int) -> LinkInformation:
        """See `Kernel.link`."""
        answer = self._requests.ask(new_message(netlink.RTM_GETLINK, 0, index=interface))
        hardware_address = netlink.link_layer_bytes(answer.get_attr("IFLA_ADDRESS"))
        return LinkInformation(
            interface=interface,
            name=answer.get_attr("IFLA_IFNAME"),
            link_layer_address=hardware_address,
            mtu=answer.get_attr("IFLA_MTU") or 1500,
            needs_resolution=answer["ifi_type"] == ARPHRD_ETHER and not answer["flags"] & IFF_NOARP,
        )

    def set_link(self, interface: int, *, up: bool | None = None, mtu: int | None = None) -> None:
        """Bring a link up or down, or change its MTU (octets)."""
        message = new_message(netlink.RTM_NEWLINK, 0, index=interface)
        if up is not None:
            message["flags"] = netlink.IFF_UP if up else 0
            message["change"] = netlink.IFF_UP
        if mtu is not None:
            message["attrs"] = [("IFLA_MTU", mtu)]
        self._requests.change(message)

    # whole tables

    def _dump(self, message_type: int, answer_type: int, **fields: Any) -> list[Message]:
        answers = self._requests.dump(new_message(message_type, 0, **fields))
        values = (netlink.convert(answer_type, answer) for answer in answers)
        return [value for value in values if value is not None]

    def links(self) -> list[LinkMessage]:
        """Every interface."""
        values = self._dump(netlink.RTM_GETLINK, netlink.RTM_NEWLINK)
        return [value for value in values if isinstance(value, LinkMessage)]

    def addresses(self) -> list[AddressMessage]:
        """Every IPv6 address."""
        values = self._dump(netlink.RTM_GETADDR, netlink.RTM_NEWADDR, family=socket.AF_INET6)
        return [value for value in values if isinstance(value, AddressMessage)]

    def routes(self) -> list[RouteMessage]:
        """Every IPv6 route of every table, to neighbours or to nowhere."""
        values = self._dump(netlink.RTM_GETROUTE, netlink.RTM_NEWROUTE, family=socket.AF_INET6)
        return [value for value in values if isinstance(value, RouteMessage)]

    def rules(self) -> list[RuleMessage]:
        """Every IPv6 policy rule."""
        values = self._dump(netlink.RTM_GETRULE, netlink.RTM_NEWRULE, family=socket.AF_INET6)
        return [value for value in values if isinstance(value, RuleMessage)]

    # settings

    def read_setting(self, name: str) -> str:
        """See `Kernel.read_setting`."""
        return (SETTINGS_ROOT / name).read_text().strip()

    def write_setting(self, name: str, value: str) -> None:
        """See `Kernel.write_setting`."""
        (SETTINGS_ROOT / name).write_text(value + "\n")

    # groups

    def join_group(self, interface: int, group: IPv6Address) -> None:
        """See `Kernel.join_group`; the kernel reports it by MLD, so that switches let it pass."""
        self._groups.join(interface, group)

    def join_anycast(self, interface: int, address: IPv6Address) -> None:
        """See `Kernel.join_anycast`. The kernel counts, so it is told once."""
        if (interface, address) in self._anycast:
            return
        request = address.packed + struct.pack("@I", interface)
        self._anycast_socket.setsockopt(socket.IPPROTO_IPV6, IPV6_JOIN_ANYCAST, request)
        self._anycast.add((interface, address))

    def leave_anycast(self, interface: int, address: IPv6Address) -> None:
        """See `Kernel.leave_anycast`."""
        if (interface, address) not in self._anycast:
            return
        self._anycast.discard((interface, address))
        request = address.packed + struct.pack("@I", interface)
        with _accepting(errno.ENOENT, errno.ENODEV):
            self._anycast_socket.setsockopt(socket.IPPROTO_IPV6, IPV6_LEAVE_ANYCAST, request)

    def leave_group(self, interface: int, group: IPv6Address) -> None:
        """See `Kernel.leave_group`."""
        self._groups.leave(interface, group)
