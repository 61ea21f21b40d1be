"""Multicast through tunnels (RFC 6275 10.4.2, 11.3.4): what the machines decide about groups is
carried out here, packet by packet.

On the home agent packet sockets on the home link and on the tunnel device show what is sent to
groups that somebody away listens to; a filter in the kernel keeps everything else from us. What a
mobile node sends to a group goes out on the home link, and from there, or at once where the home
link is virtual, to the members. The kernel fragments what is too long for a tunnel.

On the mobile node the kernel says on the tunnel device which groups its programs listen to; here it
is heard.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address

from mnagent.core.actions import DeliverPacket, ForwardGroups, SendThroughTunnel, SetTunnel
from mnagent.core.events import MembershipReported
from mnagent.datapath.tables import SequenceExhausted
from mnagent.mobility.group_membership import is_forwarded
from mnagent.runtime.sockets import (
    ETH_P_IPV6,
    IPV6_FREEBIND,
    SO_ATTACH_FILTER,
    SO_MARK,
    SOCKET_MARK,
    LinkNotReady,
    multicast_link_layer_address,
)
from mnagent.system.datapath import Datapath
from mnagent.wire.buffer import DecodeError
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.packet import decode_packet, encode_packet

IPV6_HEADER = 40
PROTOCOL_IPV6 = 41
PROTOCOL_ESP = 50
VIRTIO_HEADER = bytes(10)
IPV6_DSTOPTS = 59
MAX_PACKET = 65536
MAX_AT_ONCE = 64
MAX_FILTERED_GROUPS = 200
"""With more the kernel shows us every group's packets: jumps in a filter are short."""
PACKET_OUTGOING = 4
ETH_P_ALL = 3

_LOAD_OCTET = 0x30
_LOAD_WORD = 0x20
_LOAD_HALF = 0x28
_PACKET_PROTOCOL = 0xFFFFF000
_AND = 0x54
_JUMP_EQUAL = 0x15
_JUMP_GREATER = 0x25
_RETURN = 0x06
_HOP_LIMIT_AT = 7
_SOURCE_AT = 8
_DESTINATION_AT = 24
_GROUP_AT = 36
_LINK_SCOPE = 2

Instruction = tuple[int, int, int, int]
"""Operation, jumps when true and when false, operand."""

_IPV6_ONLY: tuple[Instruction, ...] = (
    (_LOAD_HALF, 0, 0, _PACKET_PROTOCOL),
    (_JUMP_EQUAL, 1, 0, ETH_P_IPV6),
    (_RETURN, 0, 0, 0),
)
LISTENER_REPORTS: tuple[Instruction, ...] = (
    (_LOAD_OCTET, 0, 0, 6),
    (_JUMP_EQUAL, 0, 8, 0),  # hop-by-hop options
    (_LOAD_OCTET, 0, 0, IPV6_HEADER),
    (_JUMP_EQUAL, 0, 6, 58),  # ICMPv6
    (_LOAD_OCTET, 0, 0, IPV6_HEADER + 8),
    (_JUMP_EQUAL, 3, 0, 131),
    (_JUMP_EQUAL, 2, 0, 132),
    (_JUMP_EQUAL, 1, 0, 143),
    (_RETURN, 0, 0, 0),
    (_RETURN, 0, 0, MAX_PACKET),
    (_RETURN, 0, 0, 0),
)
"""Of version 1 and 2, and leaving."""


def group_filter(groups: Iterable[IPv6Address] | None) -> tuple[Instruction, ...]:
    """Pass packets to these groups and few others, by the last word of the address; None passes
    those to any group that is forwarded."""
    head: list[Instruction] = [(_LOAD_OCTET, 0, 0, _DESTINATION_AT)]
    words = None
    if groups is not None:
        words = sorted({int.from_bytes(group.packed[-4:], "big") for group in groups})
        if len(words) > MAX_FILTERED_GROUPS:
            words = None
    if words is None:
        return (
            *head,
            (_JUMP_EQUAL, 0, 3, 0xFF),
            (_LOAD_OCTET, 0, 0, _DESTINATION_AT + 1),
            (_AND, 0, 0, 0x0F),
            (_JUMP_GREATER, 1, 0, _LINK_SCOPE),
            (_RETURN, 0, 0, 0),
            (_RETURN, 0, 0, MAX_PACKET),
        )
    compared: list[Instruction] = [
        (_JUMP_EQUAL, len(words) - at, 0, word) for at, word in enumerate(words)
    ]
    return (
        *head,
        (_JUMP_EQUAL, 0, len(words) + 1, 0xFF),
        (_LOAD_WORD, 0, 0, _GROUP_AT),
        *compared,
        (_RETURN, 0, 0, 0),
        (_RETURN, 0, 0, MAX_PACKET),
    )


def attach_filter(listener: socket.socket, instructions: tuple[Instruction, ...]) -> None:
    """Have the kernel show ``listener`` only what passes."""
    program = b"".join(struct.pack("HBBI", *each) for each in instructions)
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HL", len(instructions), ctypes.addressof(buffer))
    listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, header)


def listen(interface: int, instructions: tuple[Instruction, ...]) -> socket.socket:
    """A packet socket on one interface, filtered from its first packet on."""
    listener = socket.socket(
        socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0
    )
    attach_filter(listener, (*_IPV6_ONLY, *instructions))
    # Only sockets for all protocols are shown what the host sends.
    listener.bind((socket.if_indextoname(interface), ETH_P_ALL))
    return listener


class ThroughTunnel:
    """Sends single packets through tunnels, as the engine would, fragmented by the kernel."""

    def __init__(
        self,
        datapath: Datapath,
        *,
        tunnel_of: Callable[[IPv6Address], SetTunnel | None],
        device: int,
        encapsulation_limit: int | None = None,
    ) -> None:
        """``device`` is the tunnel device's descriptor."""
        self._datapath = datapath
        self._tunnel_of = tunnel_of
        self._device = device
        self._plain = _raw_socket(PROTOCOL_IPV6)
        self._sealed = _raw_socket(PROTOCOL_ESP)
        if encapsulation_limit is not None:
            options = bytes([0, 0, 4, 1, encapsulation_limit, 1, 1, 0])
            for each in (self._plain, self._sealed):
                each.setsockopt(socket.IPPROTO_IPV6, IPV6_DSTOPTS, options)

    def close(self) -> None:
        """Give the descriptors back."""
        self._plain.close()
        self._sealed.close()

    def send(self, action: SendThroughTunnel) -> None:
        """OSError says why not, KeyError that its association is missing, SequenceExhausted that it
        may not seal any more."""
        self.carry(action.home_address, encode_packet(action.packet))

    def deliver(self, action: DeliverPacket) -> None:
        """See `DeliverPacket`."""
        os.write(self._device, VIRTIO_HEADER + action.data)

    def carry(self, home_address: IPv6Address, inner: bytes) -> None:
        """One whole packet, as it is; errors as `send`."""
        tunnel = self._tunnel_of(home_address)
        if tunnel is None:
            raise LinkNotReady(errno.ENETUNREACH, f"{home_address} has no tunnel")
        information = tunnel.local.packed + struct.pack("@I", tunnel.interface or 0)
        sender, data = self._plain, inner
        if tunnel.outbound_spi is not None:
            sender, data = self._sealed, self._seal(tunnel, inner)
        try:
            sender.sendmsg(
                [data],
                [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, information)],
                0,
                (str(tunnel.remote), 0, 0, 0),
            )
        except BlockingIOError as error:
            raise LinkNotReady(errno.EAGAIN, "transmit queue is full") from error

    def _seal(self, tunnel: SetTunnel, inner: bytes) -> bytes:
        """Tunnel mode around a packet is transport mode around what carries it."""
        assert tunnel.outbound_spi is not None
        head = struct.pack("!IHBB", 6 << 28, len(inner), PROTOCOL_IPV6, 64)
        outer = head + tunnel.local.packed + tunnel.remote.packed + inner
        return self._datapath.protect(tunnel.outbound_spi, outer)[IPV6_HEADER:]


def _raw_socket(protocol: int) -> socket.socket:
    """Sends, and receives nothing."""
    sender = socket.socket(
        socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol
    )
    attach_filter(sender, ((_RETURN, 0, 0, 0),))
    sender.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
    sender.setsockopt(socket.SOL_SOCKET, SO_MARK, SOCKET_MARK)
    return sender


class GroupForwarder:
    """Home agent: groups' packets to the mobile nodes that listen, and theirs to the home link."""

    def __init__(
        self,
        *,
        tunnel_interface: int,
        home_link: str | None,
        carry: Callable[[IPv6Address, bytes], None],
    ) -> None:
        """``home_link`` is an interface's name, None where the home link is virtual."""
        self._carry = carry
        self._members: dict[IPv6Address, set[IPv6Address]] = {}
        self._from_tunnels = listen(tunnel_interface, group_filter(None))
        self._home_link = home_link
        self._interface: int | None = None
        self._on_home_link: socket.socket | None = None
        self.opened: Callable[[int], None] = lambda descriptor: None
        """Told when `receive_from_home_link` is to be called for another descriptor."""
        self.closing: Callable[[int], None] = lambda descriptor: None
        self.counters = {"multicast-forwarded": 0, "multicast-failed": 0}

    def close(self) -> None:
        """Give the descriptors back."""
        self._from_tunnels.close()
        self._leave_home_link()

    @property
    def tunnels(self) -> int:
        """Descriptor that shows what mobile nodes send."""
        return self._from_tunnels.fileno()

    def set_groups(self, action: ForwardGroups) -> None:
        """See `ForwardGroups`."""
        for group in tuple(self._members):
            self._members[group].discard(action.home_address)
            if not self._members[group] and group not in action.groups:
                del self._members[group]
        for group in action.groups:
            self._members.setdefault(group, set()).add(action.home_address)
        self._follow_home_link()
        if self._on_home_link is not None:
            attach_filter(self._on_home_link, (*_IPV6_ONLY, *group_filter(self._members)))

    def _follow_home_link(self) -> None:
        """Listen there while somebody is interested; an interface may come late, or come again."""
        interface = None
        if self._home_link is not None and self._members:
            with contextlib.suppress(OSError):
                interface = socket.if_nametoindex(self._home_link)
        if interface == self._interface:
            return
        self._leave_home_link()
        if interface is not None:
            self._on_home_link = listen(interface, group_filter(self._members))
            self._interface = interface
            self.opened(self._on_home_link.fileno())

    def _leave_home_link(self) -> None:
        if self._on_home_link is not None:
            self.closing(self._on_home_link.fileno())
            self._on_home_link.close()
        self._on_home_link = self._interface = None

    def receive_from_home_link(self) -> None:
        """Forward what has come there, or was sent from here."""
        if self._on_home_link is not None:
            for packet, _ in _packets(self._on_home_link):
                self._to_members(packet)

    def receive_from_tunnels(self) -> None:
        """Forward what mobile nodes sent; what we send there ourselves is none of it."""
        for packet, kind in _packets(self._from_tunnels):
            if kind == PACKET_OUTGOING:
                continue
            if self._home_link is None:
                self._to_members(packet)
            else:
                self._to_home_link(packet)

    def _to_home_link(self, packet: bytes) -> None:
        """Our other socket sees it leave, and the members get it then."""
        forwarded = _one_hop_less(packet)
        if forwarded is None or self._home_link is None:
            return
        link_layer = multicast_link_layer_address(IPv6Address(packet[_DESTINATION_AT:IPV6_HEADER]))
        try:
            # By the socket that does not watch the home link, or the other would not see this.
            self._from_tunnels.sendto(forwarded, (self._home_link, ETH_P_IPV6, 0, 0, link_layer))
        except OSError:
            self.counters["multicast-failed"] += 1

    def _to_members(self, packet: bytes) -> None:
        group = IPv6Address(packet[_DESTINATION_AT:IPV6_HEADER])
        source = IPv6Address(packet[_SOURCE_AT:_DESTINATION_AT])
        members = self._members.get(group)
        if not members or not is_forwarded(group) or not _is_wide(source):
            return
        forwarded = _one_hop_less(packet)
        if forwarded is None:
            return
        for home_address in members - {source}:
            try:
                self._carry(home_address, forwarded)
            except (OSError, KeyError, SequenceExhausted):
                self.counters["multicast-failed"] += 1
            else:
                self.counters["multicast-forwarded"] += 1


def _is_wide(source: IPv6Address) -> bool:
    """A source that means the same on other links."""
    return not (source.is_link_local or source.is_unspecified or source.is_multicast)


def _packets(listener: socket.socket) -> Iterable[tuple[bytes, int]]:
    """What is there, up to a limit, with the kind of each."""
    for _ in range(MAX_AT_ONCE):
        try:
            data, (_, _, kind, _, _) = listener.recvfrom(MAX_PACKET)
        except OSError:
            return
        if len(data) >= IPV6_HEADER:
            yield data, kind


def _one_hop_less(packet: bytes) -> bytes | None:
    """None for one that has no hop left; what the link padded is cut off."""
    length = IPV6_HEADER + int.from_bytes(packet[4:6], "big")
    limit = packet[_HOP_LIMIT_AT]
    if limit <= 1 or len(packet) < length:
        return None
    return packet[:_HOP_LIMIT_AT] + bytes([limit - 1]) + packet[_HOP_LIMIT_AT + 1 : length]


class MembershipListener:
    """Mobile node: hears on the tunnel device which groups the host listens to."""

    def __init__(self, tunnel_interface: int) -> None:
        self._socket = listen(tunnel_interface, LISTENER_REPORTS)

    def fileno(self) -> int:
        """For the event loop."""
        return self._socket.fileno()

    def close(self) -> None:
        """Give the descriptor back."""
        self._socket.close()

    def receive(self) -> list[MembershipReported]:
        """What the host has said since."""
        return [
            MembershipReported(packet=packet)
            for data, kind in _packets(self._socket)
            if kind == PACKET_OUTGOING and (packet := _decoded(data)) is not None
        ]


def _decoded(data: bytes) -> IPv6Packet | None:
    try:
        return decode_packet(data)
    except DecodeError:
        return None
