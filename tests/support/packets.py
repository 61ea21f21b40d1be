"""Packets that tests send, in short."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address, IPv6Network

from mnagent.core.events import PacketReceived
from mnagent.wire.checksum import upper_layer_checksum
from mnagent.wire.ipv6 import IPv6Packet, RawPayload, Type2RoutingHeader
from mnagent.wire.mobility import BindingAcknowledgement
from mnagent.wire.mobility_options import MobilityOption
from mnagent.wire.ndisc import (
    NdOption,
    PrefixInformation,
    RouterAdvertisement,
    SourceLinkLayerAddress,
)

ALL_NODES = IPv6Address("ff02::1")
UDP = 17


def router_advertisement(
    router: IPv6Address,
    *prefixes: str,
    destination: IPv6Address = ALL_NODES,
    mac: bytes | None = None,
    lifetime: int = 1800,
    valid: float = 3600,
    preferred: float = 1800,
    addresses: tuple[str, ...] = (),
    managed: bool = False,
    hop_limit: int = 255,
) -> IPv6Packet:
    """A Router Advertisement; ``addresses`` are the router's own, with the R bit.

    ``managed`` leaves addresses to DHCPv6 alone.
    """
    options: list[NdOption] = [] if mac is None else [SourceLinkLayerAddress(mac)]
    for prefix in prefixes:
        network = IPv6Network(prefix)
        own = [a for a in map(IPv6Address, addresses) if a in network]
        options.append(
            PrefixInformation(
                address=own[0] if own else network.network_address,
                prefix_length=network.prefixlen,
                autonomous=not managed,
                router_address=bool(own),
                valid_lifetime=valid,
                preferred_lifetime=preferred,
            )
        )
    message = RouterAdvertisement(managed=managed, router_lifetime=lifetime, options=tuple(options))
    return IPv6Packet(router, destination, message, hop_limit=hop_limit)


def binding_acknowledgement(
    home_agent: IPv6Address,
    home_address: IPv6Address,
    *,
    care_of_address: IPv6Address | None,
    sequence: int,
    status: int = 0,
    lifetime: float = 600,
    options: tuple[MobilityOption, ...] = (),
) -> IPv6Packet:
    """A Binding Acknowledgement, through a type 2 routing header unless at home."""
    message = BindingAcknowledgement(
        status=status, sequence=sequence, lifetime=lifetime, options=options
    )
    if care_of_address is None:
        return IPv6Packet(home_agent, home_address, message)
    return IPv6Packet(
        home_agent, care_of_address, message, extension_headers=(Type2RoutingHeader(home_address),)
    )


def received(
    packet: IPv6Packet,
    *,
    interface: int = 2,
    link_layer_source: bytes = b"\x02\0\0\0\0\x77",
    protected_by: int | None = None,
) -> PacketReceived:
    """The event of a packet that came in."""
    return PacketReceived(
        packet=packet,
        interface=interface,
        link_layer_source=link_layer_source,
        protected_by=protected_by,
    )


def datagram(
    source: IPv6Address,
    destination: IPv6Address,
    data: bytes,
    *,
    ports: tuple[int, int] = (40000, 7),
    hop_limit: int = 64,
) -> IPv6Packet:
    """A UDP datagram; ``ports`` are its source's and its destination's."""
    header = struct.pack("!HHHH", *ports, 8 + len(data), 0)
    checksum = upper_layer_checksum(source, destination, UDP, header + data)
    header = struct.pack("!HHHH", *ports, 8 + len(data), checksum or 0xFFFF)
    return IPv6Packet(source, destination, RawPayload(UDP, header + data), hop_limit=hop_limit)


def datagram_port(packet: IPv6Packet) -> int | None:
    """The port a UDP datagram is for, or None for another packet."""
    payload = packet.payload
    if isinstance(payload, RawPayload) and payload.next_header == UDP:
        return int.from_bytes(payload.data[2:4], "big")
    return None


def datagram_content(packet: IPv6Packet) -> bytes | None:
    """What a UDP datagram carries, or None for another packet."""
    payload = packet.payload
    if isinstance(payload, RawPayload) and payload.next_header == UDP:
        return payload.data[8:]
    return None
