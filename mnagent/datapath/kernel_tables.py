"""The engine's tables as the in-kernel programs read them: the structures of ``bpf/tables.h``.

Every entry is there, also those that user space serves, marked as such: the programs have to know
that a packet is not the tunnel's but a direct path's, whoever serves that.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address

from mnagent.core.actions import TunnelEnd
from mnagent.datapath.tables import (
    DirectPathEntry,
    NextHop,
    PeerBindingEntry,
    TunnelEntry,
)

MOBILE_END, SERVES_OUTBOUND, SERVES_INBOUND = 1, 2, 4
HAS_SOURCE, HAS_DESTINATION, SERVES_PATH = 1, 2, 4
IS_LOCAL, IS_OWN_HOME = 1, 2
TAKES_MERGED = 1
FLOW_IS_DIRECT, FLOW_IS_OUTBOUND = 1, 2
REPORT_HAS_PORT = 1
IPV6_HEADER = 40
MINIMUM_MTU = 1280
ETHERNET_TYPE = b"\x86\xdd"
_UNSPECIFIED = IPv6Address(0)

VERDICTS = (
    "tunnelled",
    "decapsulated",
    "sent-direct",
    "received-direct",
)
"""In the order of their counters, by their names in user space."""
_WAY = struct.Struct("=IH14sI")
_ENTRY = struct.Struct(f"=16s16s{_WAY.size}sQ")
_CARRIED = struct.Struct("=QQ")
_SETTINGS = struct.Struct("=QII")
_FLOW = struct.Struct("=16s16sQ")
_REPORT = struct.Struct("=16s16sQIHBB")

LinkUse = Callable[[int], bool]
"""Whether super-packets with extension headers may be given to an interface."""


def encode_settings(*, alive_until: int, tunnel_interface: int, takes_merged: bool) -> bytes:
    """``alive_until`` in nanoseconds since boot."""
    return _SETTINGS.pack(alive_until, tunnel_interface, TAKES_MERGED if takes_merged else 0)


def is_usable(next_hop: NextHop | None) -> bool:
    """Whether frames towards a next hop can be made."""
    return next_hop is not None and len(next_hop.destination_mac) == len(next_hop.source_mac) == 6


def _encode_way(next_hop: NextHop | None, mtu: int) -> bytes:
    if next_hop is None or not is_usable(next_hop):
        return _WAY.pack(0, 0, bytes(14), 0)
    link = next_hop.destination_mac + next_hop.source_mac + ETHERNET_TYPE
    return _WAY.pack(next_hop.interface, mtu, link, 0)


def sends_in_kernel(entry: TunnelEntry) -> bool:
    """Plain tunnels whose next hop is known; what is protected, held or fragmented is not."""
    return (
        entry.outbound_spi is None
        and entry.encapsulation_limit is None
        and not entry.hold
        and is_usable(entry.next_hop)
        and (not entry.path_mtu or entry.path_mtu >= MINIMUM_MTU + IPV6_HEADER)
    )


def encode_tunnel(entry: TunnelEntry) -> bytes:
    """A tunnel's value up to what it `carried`; its key is the home address."""
    mtu = max(entry.mtu, MINIMUM_MTU)
    if entry.path_mtu:
        mtu = min(mtu, entry.path_mtu - IPV6_HEADER)
    flags = MOBILE_END if entry.end is TunnelEnd.MOBILE_NODE else 0
    if sends_in_kernel(entry):
        flags |= SERVES_OUTBOUND
    if entry.inbound_spi is None and entry.remote != _UNSPECIFIED:
        flags |= SERVES_INBOUND
    way = _encode_way(entry.next_hop, max(mtu, 0))
    return _ENTRY.pack(entry.local.packed, entry.remote.packed, way, flags)


NOTHING_CARRIED = bytes(_CARRIED.size)


def carried(value: bytes) -> bytes:
    """What a tunnel has carried, the end of its value: it stays when the rest changes."""
    return value[_ENTRY.size : _ENTRY.size + _CARRIED.size]


def decode_carried(value: bytes) -> tuple[int, int]:
    """Packets (out, in) of a tunnel's value."""
    out, into = _CARRIED.unpack_from(value, _ENTRY.size)
    return out, into


def encode_path(
    path: DirectPathEntry | PeerBindingEntry,
    binding: PeerBindingEntry | None,
    *,
    is_safe: LinkUse,
) -> bytes:
    """A direct path's value, or with a `PeerBindingEntry`, which is its own ``binding``, a peer's.

    The keys are the pair of home address and correspondent, and the peer's home address.
    """
    source, destination, flags = _UNSPECIFIED, _UNSPECIFIED, 0
    if isinstance(path, DirectPathEntry):
        source, flags = path.care_of_address, HAS_SOURCE
    if binding is not None:
        destination, flags = binding.care_of_address, flags | HAS_DESTINATION
    if serves_path(path, is_safe=is_safe):
        flags |= SERVES_PATH
    way = _encode_way(path.next_hop, max(path.mtu, MINIMUM_MTU))
    return _ENTRY.pack(source.packed, destination.packed, way, flags)


def serves_path(path: DirectPathEntry | PeerBindingEntry, *, is_safe: LinkUse) -> bool:
    """Whether the kernel sends it."""
    hop = path.next_hop
    return hop is not None and is_usable(hop) and is_safe(hop.interface)


def encode_locals(addresses: Iterable[IPv6Address], own: Iterable[IPv6Address]) -> dict[bytes, int]:
    """Key -> flags. ``own`` are this node's home addresses."""
    flags: dict[bytes, int] = {}
    for kind, members in ((IS_LOCAL, addresses), (IS_OWN_HOME, own)):
        for address in members:
            flags[address.packed] = flags.get(address.packed, 0) | kind
    return flags


def direct_flows(local: IPv6Address, peer: IPv6Address) -> tuple[bytes, bytes]:
    """Keys of what a pair of addresses carries directly, one for each way."""
    into = _FLOW.pack(local.packed, peer.packed, FLOW_IS_DIRECT)
    return into, _FLOW.pack(local.packed, peer.packed, FLOW_IS_DIRECT | FLOW_IS_OUTBOUND)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a pair of addresses carried one way, in the tunnel or directly, since the last one."""

    local: IPv6Address
    peer: IPv6Address
    packets: int
    protocol: int
    """Upper-layer protocol of the last packet."""
    port: int | None
    """Port at the peer of the last packet, None where the protocol has none."""
    direct: bool
    outbound: bool


def decode_report(data: bytes) -> Report:
    """One sample of the ring buffer."""
    local, peer, kind, packets, port, protocol, flags = _REPORT.unpack(data)
    return Report(
        local=IPv6Address(local),
        peer=IPv6Address(peer),
        packets=packets,
        protocol=protocol,
        port=port if flags & REPORT_HAS_PORT else None,
        direct=bool(kind & FLOW_IS_DIRECT),
        outbound=bool(kind & FLOW_IS_OUTBOUND),
    )
