"""Route optimization over memory ports, against a slow reference made of `mnagent.wire` values."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv6Address

import pytest

from mnagent.core.security import Direction, EspMode
from mnagent.datapath import (
    DirectPathEntry,
    NextHop,
    PeerBindingEntry,
    Pipeline,
    Tables,
    Traffic,
)
from mnagent.datapath._ports import make_filter
from mnagent.wire.ipv6 import (
    DestinationOptions,
    FragmentHeader,
    HomeAddressOption,
    HopByHopOptions,
    RouterAlert,
    RoutingHeader,
    Type2RoutingHeader,
    UnknownOption,
)
from mnagent.wire.packet import decode_packet, encode_packet
from tests.ext import packets
from tests.ext.packets import (
    ACK,
    CWR,
    FIN,
    GSO_ECN,
    GSO_TCPV6,
    PSH,
    Offload,
    home_address_option,
    ipv6,
    segments,
    super_packet,
    tcp,
    type2_routing_header,
    udp,
    written_packets,
)
from tests.ext.scenario import (
    AGENT,
    CARE_OF,
    CORRESPONDENT,
    HOME,
    OTHER_CARE_OF,
    OTHER_HOME,
    STRANGER,
    agent_tunnel,
    association,
    mobile_tunnel,
    slow_esp,
    verdicts,
)
from tests.support.requirement import requirement

Header = HopByHopOptions | DestinationOptions | Type2RoutingHeader | RoutingHeader | FragmentHeader

MTU = 1476
MESSAGE = bytes([59, 1, 5, 0]) + bytes(12)
BINDING = PeerBindingEntry(home_address=HOME, care_of_address=CARE_OF, mtu=MTU)
OTHER_BINDING = PeerBindingEntry(home_address=OTHER_HOME, care_of_address=OTHER_CARE_OF, mtu=MTU)
PATH = DirectPathEntry(
    home_address=HOME, correspondent=CORRESPONDENT, care_of_address=CARE_OF, mtu=MTU
)
PATH_TO_MOBILE = replace(PATH, correspondent=OTHER_HOME, mtu=MTU - 24)


def pipeline_of(tables: Tables, *, whole: bool = False) -> Pipeline:
    pipeline = Pipeline(passes_super_packets=whole)
    pipeline.publish(tables)
    return pipeline


MOBILE = Tables(tunnels=(mobile_tunnel(),), local_addresses=(CARE_OF, HOME), direct_paths=(PATH,))
CORRESPONDENT_NODE = Tables(local_addresses=(CORRESPONDENT,), peer_bindings=(BINDING,))
BOTH_MOBILE = Tables(
    tunnels=(mobile_tunnel(),),
    local_addresses=(CARE_OF, HOME),
    direct_paths=(PATH_TO_MOBILE,),
    peer_bindings=(OTHER_BINDING,),
)
OTHER_SIDE = Tables(
    tunnels=(replace(mobile_tunnel(), home_address=OTHER_HOME, local=OTHER_CARE_OF),),
    local_addresses=(OTHER_CARE_OF, OTHER_HOME),
    direct_paths=(
        DirectPathEntry(
            home_address=OTHER_HOME,
            correspondent=HOME,
            care_of_address=OTHER_CARE_OF,
            mtu=MTU - 24,
        ),
    ),
    peer_bindings=(BINDING,),
)

WAYS = {
    # Sender, receiver, source, destination as the hosts know them.
    "home-address-option": (MOBILE, CORRESPONDENT_NODE, HOME, CORRESPONDENT),
    "type-2-routing-header": (CORRESPONDENT_NODE, MOBILE, CORRESPONDENT, HOME),
    "both": (BOTH_MOBILE, OTHER_SIDE, HOME, OTHER_HOME),
}
ways = pytest.mark.parametrize("way", sorted(WAYS))


def optimized(packet: bytes, way: str) -> bytes:
    """What RFC 6275 9.3.2 and 11.3.1 make of a packet of the host, slowly."""
    inner = decode_packet(packet)
    source, destination = inner.source, inner.destination
    inserted: list[Header] = []
    if way != "home-address-option":
        inserted.append(Type2RoutingHeader(destination))
        destination = CARE_OF if destination == HOME else OTHER_CARE_OF
    if way != "type-2-routing-header":
        inserted.append(DestinationOptions((HomeAddressOption(source),)))
        source = CARE_OF
    headers = list(inner.extension_headers)
    at = max(
        (
            place + 1
            for place, header in enumerate(headers)
            if isinstance(header, HopByHopOptions | RoutingHeader)
        ),
        default=0,
    )
    return encode_packet(
        replace(
            inner,
            source=source,
            destination=destination,
            extension_headers=(*headers[:at], *inserted, *headers[at:]),
        )
    )


def with_headers(packet: bytes, *headers: Header) -> bytes:
    """Extension headers between the IPv6 header and what it carries."""
    return encode_packet(replace(decode_packet(packet), extension_headers=headers))


def host_packets(source: IPv6Address, destination: IPv6Address) -> dict[str, bytes]:
    """Everything a host hands over, from its home address or to one."""
    echo = packets.with_checksum(
        ipv6(source, destination, packets.ICMPV6, bytes([128, 0, 0, 0, 0, 7, 0, 1]) + b"ping"), 42
    )
    datagram = udp(source, destination, b"data", traffic_class=0xB9)
    alert = HopByHopOptions((RouterAlert(0),))
    other = DestinationOptions((UnknownOption(0x1E, b"1234"),))
    segment_routing = RoutingHeader(253, 0, bytes(4) + STRANGER.packed)
    return {
        "tcp": tcp(source, destination, b"segment" * 20, options=bytes(12)),
        "udp": datagram,
        "icmp": echo,
        "empty": ipv6(source, destination, 59, b""),
        "sctp": ipv6(source, destination, 132, bytes(40)),
        "esp": ipv6(source, destination, 50, bytes([0, 0, 1, 0]) + bytes(56)),
        "hop-by-hop": with_headers(datagram, alert),
        "hop-by-hop-tcp": with_headers(tcp(source, destination, b"x" * 99), alert),
        "destination-options": with_headers(datagram, other),
        "routing": with_headers(datagram, segment_routing),
        "hop-by-hop-options-routing": with_headers(datagram, alert, other, segment_routing),
        "hop-by-hop-options": with_headers(datagram, alert, other),
    }


def fragments_of(packet: bytes, size: int) -> list[bytes]:
    body, made = packet[40:], []
    for at in range(0, len(body), size):
        more = int(at + size < len(body))
        header = bytes([packet[6], 0]) + (at | more).to_bytes(2, "big") + b"\0\0\2\1"
        piece = header + body[at : at + size]
        made.append(packet[:4] + len(piece).to_bytes(2, "big") + b"\x2c" + packet[7:40] + piece)
    return made


# Out and in again.


@requirement("RFC6275-11.3.1", "MN-31", "CN-02", "CN-10", "CN-60", "FMT-19", "FMT-22")
@ways
@pytest.mark.parametrize("kind", sorted(host_packets(HOME, CORRESPONDENT)))
def test_packet_takes_the_direct_path_and_arrives_unchanged(kind: str, way: str) -> None:
    sender, receiver, source, destination = WAYS[way]
    packet = host_packets(source, destination)[kind]
    outbound, inbound = pipeline_of(sender), pipeline_of(receiver)
    frames, to_tunnel, _ = outbound.process_outbound([packet])
    assert frames == [optimized(packet, way)]
    assert to_tunnel == []
    assert verdicts(outbound) == {"sent-direct": 1}
    result = inbound.process_inbound(frames)
    if kind == "esp":
        # ESP behind the headers is the engine's own to open; here there is no association.
        assert verdicts(inbound) == {"drop-unknown-spi": 1}
    else:
        assert result.to_tunnel == [bytes(10) + packet]
        assert verdicts(inbound) == {"received-direct": 1}
    assert (result.frames, result.handed_up) == ([], [])


@requirement("RFC6275-6.3", "FMT-19", "FMT-22")
def test_inserted_headers_are_laid_out_as_the_rfc_draws_them() -> None:
    (frame,) = pipeline_of(BOTH_MOBILE).process_outbound([udp(HOME, OTHER_HOME, b"x")]).frames
    assert frame[6] == 43
    assert frame[8:40] == CARE_OF.packed + OTHER_CARE_OF.packed
    assert frame[40:64] == bytes([60, 2, 2, 1, 0, 0, 0, 0]) + OTHER_HOME.packed
    assert frame[64:88] == bytes([17, 2, 1, 2, 0, 0, 0xC9, 16]) + HOME.packed


@ways
def test_next_hop_puts_an_ethernet_header_first_on_the_direct_path(way: str) -> None:
    sender, _, source, destination = WAYS[way]
    hop = NextHop(interface=2, source_mac=b"\2sourc", destination_mac=b"\2desti")
    changed = replace(
        sender,
        direct_paths=tuple(replace(entry, next_hop=hop) for entry in sender.direct_paths),
        peer_bindings=tuple(replace(entry, next_hop=hop) for entry in sender.peer_bindings),
    )
    packet = udp(source, destination, b"hello")
    (frame,) = pipeline_of(changed).process_outbound([packet]).frames
    assert frame == b"\2desti\2sourc\x86\xdd" + optimized(packet, way)


@ways
@pytest.mark.parametrize("flags", [ACK, ACK | FIN | PSH, ACK | CWR])
@pytest.mark.parametrize("kind", [GSO_TCPV6, GSO_TCPV6 | GSO_ECN])
@pytest.mark.parametrize("length", [1, 1000, 1001, 3456, 65000])
def test_super_packet_is_cut_with_checksums_over_the_home_addresses(
    way: str, length: int, kind: int, flags: int
) -> None:
    sender, receiver, source, destination = WAYS[way]
    data = random.Random(length).randbytes(length)
    whole = tcp(source, destination, data, flags=flags, options=bytes(12), sequence=2**32 - 1500)
    packet, header = super_packet(whole, 1000, kind=kind)
    frames = pipeline_of(sender).process_outbound([packet], [header]).frames
    expected = segments(packet, Offload.decode(header))
    assert frames == [optimized(segment, way) for segment in expected]
    written = pipeline_of(receiver).process_inbound(frames).to_tunnel
    assert written_packets(written) == expected
    if not flags & (FIN | CWR):
        assert len(written) == 1


@ways
@pytest.mark.parametrize("length", [1, 1000, 3456, 60000])
def test_super_packet_that_the_port_takes_leaves_whole(way: str, length: int) -> None:
    sender, receiver, source, destination = WAYS[way]
    whole = tcp(source, destination, random.Random(1).randbytes(length), options=bytes(12))
    packet, header = super_packet(whole, 1000)
    pipeline = pipeline_of(sender, whole=True)
    (frame,) = pipeline.process_outbound([packet], [header]).frames
    inserted = 48 if way == "both" else 24
    assert Offload.decode(frame) == Offload(1, GSO_TCPV6, 72 + inserted, 1000, 40 + inserted, 16)
    assert frame[10:] == optimized(packet, way)
    assert verdicts(pipeline) == {"sent-direct": 1}
    offload = Offload.decode(frame)
    on_link = replace(offload, start=offload.start + 14, header_length=offload.header_length + 14)
    written = (
        pipeline_of(receiver)
        .process_inbound([bytes(14) + frame[10:]], link_length=14, offloads=[on_link.encode()])
        .to_tunnel
    )
    assert [record[10:] for record in written] == [packet]
    assert written_packets(written) == segments(packet, Offload.decode(header))


def test_merged_segments_with_the_care_of_address_in_their_sum_are_put_right() -> None:
    packet, header = super_packet(tcp(CORRESPONDENT, HOME, bytes(5000)), 1000)
    frame = bytearray(optimized(packet, "type-2-routing-header"))
    merged = packets.checksum(
        packets.pseudo_header(CORRESPONDENT.packed, CARE_OF.packed, 5020, packets.TCP)
    )
    frame[80:82] = merged.to_bytes(2, "big")
    offload = replace(Offload.decode(header), start=64, header_length=84)
    written = pipeline_of(MOBILE).process_inbound([bytes(frame)], offloads=[offload.encode()])
    assert written_packets(written.to_tunnel) == segments(packet, Offload.decode(header))


def test_super_packet_that_a_forwarder_would_misjudge_is_cut() -> None:
    far = IPv6Address("2001:db8:f000::10")
    tables = replace(
        MOBILE,
        tunnels=(replace(mobile_tunnel(), home_address=far),),
        direct_paths=(replace(PATH, home_address=far),),
    )
    packet, header = super_packet(tcp(far, CORRESPONDENT, bytes(3000)), 1000)
    frames = pipeline_of(tables, whole=True).process_outbound([packet], [header]).frames
    assert [frame[:10] for frame in frames] == [bytes(10)] * 3
    assert [frame[10:] for frame in frames] == [
        optimized(segment, "home-address-option")
        for segment in segments(packet, Offload.decode(header))
    ]


def test_super_packet_that_grows_beyond_a_packet_is_cut() -> None:
    packet, header = super_packet(tcp(HOME, CORRESPONDENT, bytes(65460)), 1400)
    frames = pipeline_of(MOBILE, whole=True).process_outbound([packet], [header]).frames
    assert len(frames) == 47


def test_tcp_alone_leaves_by_the_port_that_takes_super_packets() -> None:
    pipeline = pipeline_of(MOBILE, whole=True)
    segment, datagram = tcp(HOME, CORRESPONDENT, b"a"), udp(HOME, CORRESPONDENT, b"b")
    frames = pipeline.process_outbound([segment, datagram]).frames
    assert frames == [
        bytes(10) + optimized(segment, "home-address-option"),
        optimized(datagram, "home-address-option"),
    ]


@ways
def test_datagrams_of_a_super_packet_are_cut(way: str) -> None:
    sender, receiver, source, destination = WAYS[way]
    whole = udp(source, destination, random.Random(3).randbytes(2500))
    header = Offload(1, 5, 48, 1000, 40, 6).encode()
    frames = pipeline_of(sender).process_outbound([whole], [header]).frames
    expected = segments(whole, Offload.decode(header))
    assert len(expected) == 3
    assert frames == [optimized(datagram, way) for datagram in expected]
    arrived = pipeline_of(receiver).process_inbound(frames).to_tunnel
    assert written_packets(arrived) == expected


@ways
def test_fragments_of_the_host_pass_each_with_its_headers(way: str) -> None:
    sender, receiver, source, destination = WAYS[way]
    pieces = fragments_of(udp(source, destination, bytes(3000)), 1000)
    frames = pipeline_of(sender).process_outbound(pieces).frames
    assert frames == [optimized(piece, way) for piece in pieces]
    assert all(
        isinstance(decode_packet(frame).extension_headers[-1], FragmentHeader) for frame in frames
    )
    written = pipeline_of(receiver).process_inbound(frames).to_tunnel
    assert [record[10:] for record in written] == pieces


# Not everything takes it.


@requirement("RFC6275-6.1", "FMT-29", "RR-12", "CN-20")
@pytest.mark.parametrize("fragmented", [False, True])
def test_mobility_message_never_takes_the_direct_path(fragmented: bool) -> None:
    for tables in (MOBILE, BOTH_MOBILE):
        peer = CORRESPONDENT if tables is MOBILE else OTHER_HOME
        message = ipv6(HOME, peer, packets.MOBILITY, MESSAGE)
        if fragmented:
            (message,) = fragments_of(message, 1000)
        pipeline = pipeline_of(tables)
        (frame,) = pipeline.process_outbound([message]).frames
        assert frame[40:] == message
        assert frame[24:40] == AGENT.packed
        assert verdicts(pipeline) == {"tunnelled": 1}
    pipeline = pipeline_of(CORRESPONDENT_NODE)
    message = ipv6(CORRESPONDENT, HOME, packets.MOBILITY, MESSAGE)
    assert pipeline.process_outbound([message]).frames == []
    assert verdicts(pipeline) == {"drop-no-tunnel": 1}


def test_packet_that_has_such_headers_already_gets_no_more() -> None:
    for header in (DestinationOptions((HomeAddressOption(HOME),)), Type2RoutingHeader(HOME)):
        packet = with_headers(udp(HOME, CORRESPONDENT, b""), header)
        (frame,) = pipeline_of(MOBILE).process_outbound([packet]).frames
        assert frame[40:] == packet


def test_other_pairs_keep_to_the_tunnel() -> None:
    packet = udp(HOME, STRANGER, b"x")
    (frame,) = pipeline_of(MOBILE).process_outbound([packet]).frames
    assert (frame[24:40], frame[40:]) == (AGENT.packed, packet)


def test_direct_path_does_not_wait_for_a_held_tunnel() -> None:
    tables = replace(MOBILE, tunnels=(mobile_tunnel(hold=True),))
    pipeline = pipeline_of(tables)
    direct, held = udp(HOME, CORRESPONDENT, b""), udp(HOME, STRANGER, b"")
    assert pipeline.process_outbound([held, direct]).frames == [
        optimized(direct, "home-address-option")
    ]
    assert verdicts(pipeline) == {"held": 1, "sent-direct": 1}


def test_held_packet_takes_the_direct_path_once_there_is_one() -> None:
    pipeline = pipeline_of(Tables(tunnels=(mobile_tunnel(hold=True),)))
    packet = udp(HOME, CORRESPONDENT, b"early")
    assert pipeline.process_outbound([packet]).frames == []
    pipeline.publish(MOBILE)
    assert pipeline.process_outbound([]).frames == [optimized(packet, "home-address-option")]


def test_peer_binding_without_a_direct_path_goes_through_the_tunnel_of_a_mobile_node() -> None:
    pipeline = pipeline_of(replace(BOTH_MOBILE, direct_paths=()))
    packet = udp(HOME, OTHER_HOME, b"to a mobile peer")
    (frame,) = pipeline.process_outbound([packet]).frames
    assert (frame[8:24], frame[24:40]) == (CARE_OF.packed, AGENT.packed)
    expected = encode_packet(
        replace(
            decode_packet(packet),
            destination=OTHER_CARE_OF,
            extension_headers=(Type2RoutingHeader(OTHER_HOME),),
        )
    )
    assert frame[40:] == expected
    assert int.from_bytes(frame[4:6], "big") == len(expected)
    arrived = pipeline_of(OTHER_SIDE).process_inbound([expected]).to_tunnel
    assert arrived == [bytes(10) + packet]


def test_super_packet_through_the_tunnel_has_the_routing_header_in_every_segment() -> None:
    pipeline = pipeline_of(replace(BOTH_MOBILE, direct_paths=()))
    packet, header = super_packet(tcp(HOME, OTHER_HOME, bytes(3000)), 1300)
    frames = pipeline.process_outbound([packet], [header]).frames
    arrived = pipeline_of(OTHER_SIDE).process_inbound([frame[40:] for frame in frames])
    assert written_packets(arrived.to_tunnel) == segments(packet, Offload.decode(header))


@requirement("RFC6275-10.4.2", "HA-36", "HA-40")
def test_home_agent_optimizes_its_own_packets_but_not_those_it_forwards() -> None:
    pipeline = pipeline_of(
        Tables(tunnels=(agent_tunnel(),), local_addresses=(AGENT,), peer_bindings=(BINDING,))
    )
    own, forwarded = udp(AGENT, HOME, b"own"), udp(CORRESPONDENT, HOME, b"forwarded")
    first, second = pipeline.process_outbound([own, forwarded]).frames
    assert first == optimized(own, "type-2-routing-header")
    assert second[40:] == forwarded


# Sizes.


@requirement("RFC6275-9.3.2", "CN-13")
@ways
def test_packet_that_does_not_fit_with_its_headers_is_answered_too_big(way: str) -> None:
    sender, _, source, destination = WAYS[way]
    inserted = 48 if way == "both" else 24
    room = 1500 - inserted
    fits, over = (udp(source, destination, bytes(room - 48 + more)) for more in (0, 1))
    pipeline = pipeline_of(sender)
    frames, (record,), _ = pipeline.process_outbound([fits, over])
    assert [len(frame) for frame in frames] == [1500]
    error = record[10:]
    assert (error[24:40], error[40:42]) == (source.packed, b"\2\0")
    assert int.from_bytes(error[44:48], "big") == room
    assert error[48:] == over[: 1280 - 48]
    assert packets.upper_layer(error) == 0xFFFF
    assert verdicts(pipeline) == {"sent-direct": 1, "packet-too-big": 1}


@ways
@pytest.mark.parametrize("whole", [False, True])
def test_super_packet_whose_segments_do_not_fit_is_answered_too_big(way: str, whole: bool) -> None:
    sender, _, source, destination = WAYS[way]
    packet, header = super_packet(tcp(source, destination, bytes(9000)), 1417)
    result = pipeline_of(sender, whole=whole).process_outbound([packet], [header])
    assert (result.frames, len(result.to_tunnel)) == ([], 1)


def test_mtu_of_a_direct_path_never_goes_below_1280() -> None:
    tables = replace(MOBILE, direct_paths=(replace(PATH, mtu=1000),))
    packet = udp(HOME, CORRESPONDENT, bytes(1232))
    assert len(pipeline_of(tables).process_outbound([packet]).frames) == 1


# In: what must not pass.


def optioned(
    source: IPv6Address = CARE_OF, home: IPv6Address = HOME, to: IPv6Address = CORRESPONDENT
) -> bytes:
    inner = udp(home, to, b"data")
    return ipv6(source, to, 60, home_address_option(home, packets.UDP) + inner[40:])


@requirement("RFC6275-9.3.1", "CN-03", "CN-04", "CN-08")
@pytest.mark.parametrize(
    "frame",
    [optioned(STRANGER), optioned(CARE_OF, OTHER_HOME), optioned(HOME), optioned(OTHER_CARE_OF)],
)
def test_home_address_option_without_its_binding_is_dropped_and_shown(frame: bytes) -> None:
    pipeline = pipeline_of(CORRESPONDENT_NODE)
    frames, to_tunnel, (shown,) = pipeline.process_inbound([frame, CORRESPONDENT.packed])
    if frame != optioned(HOME):
        assert shown.data == frame
        assert shown.tunnel_source is None
    assert (frames, to_tunnel) == ([], [])
    counts = verdicts(pipeline)
    counts.pop("drop-truncated")
    assert counts == {"drop-no-peer-binding": 1}


def test_packets_without_a_binding_are_shown_at_a_limited_rate() -> None:
    pipeline = pipeline_of(CORRESPONDENT_NODE)
    shown = len(pipeline.process_inbound([optioned(STRANGER)] * 400).handed_up)
    assert 100 <= shown <= 200
    assert verdicts(pipeline) == {"drop-no-peer-binding": 400}


@requirement("RFC6275-9.3.1", "CN-05", "CN-06")
@pytest.mark.parametrize("home", ["ff02::1", "ff0e::1", "fe80::1", "::1", "::", str(CORRESPONDENT)])
def test_home_address_that_is_no_routable_unicast_is_dropped(home: str) -> None:
    address = IPv6Address(home)
    tables = replace(
        CORRESPONDENT_NODE,
        peer_bindings=(PeerBindingEntry(home_address=address, care_of_address=CARE_OF),),
    )
    pipeline = pipeline_of(tables)
    assert list(pipeline.process_inbound([optioned(CARE_OF, address)])) == [[], [], []]
    assert verdicts(pipeline) == {"drop-home-address": 1}


@requirement("RFC6275-9.3.1", "CN-07")
@pytest.mark.parametrize("protocol", [packets.MOBILITY, 51])
def test_no_binding_is_asked_for_before_mobility_and_authentication(protocol: int) -> None:
    frame = ipv6(STRANGER, CORRESPONDENT, 60, home_address_option(HOME, protocol) + MESSAGE)
    pipeline = pipeline_of(CORRESPONDENT_NODE)
    assert [item.data for item in pipeline.process_inbound([frame]).handed_up] == [frame]
    assert verdicts(pipeline) == {"handed-up": 1}


@requirement("RFC6275-9.3.1", "CN-07")
def test_no_binding_is_asked_for_before_esp() -> None:
    oracle = slow_esp(("aes-cbc-hmac-sha256-128", 16))
    tables = replace(
        CORRESPONDENT_NODE,
        peer_bindings=(),
        associations=(association(oracle, Direction.INBOUND, mode=EspMode.TRANSPORT),),
    )
    sealed = home_address_option(HOME, packets.ESP) + oracle.seal(MESSAGE, packets.MOBILITY, 1)
    pipeline = pipeline_of(tables)
    (shown,) = pipeline.process_inbound([ipv6(STRANGER, CORRESPONDENT, 60, sealed)]).handed_up
    assert shown.protected_by == oracle.spi


@requirement("RFC6275-6.3", "FMT-20")
def test_two_home_address_options_are_dropped() -> None:
    one = home_address_option(HOME, 60)
    frame = ipv6(CARE_OF, CORRESPONDENT, 60, one + home_address_option(HOME, 17) + bytes(8))
    double = bytes([17, 4, 1, 2, 0, 0]) + 2 * (b"\xc9\x10" + HOME.packed) + bytes([0, 0])
    double = double.replace(b"\x11\x04", b"\x11\x05", 1) + bytes(4)
    for bad in (frame, ipv6(CARE_OF, CORRESPONDENT, 60, double[:48] + bytes(16))):
        pipeline = pipeline_of(CORRESPONDENT_NODE)
        assert list(pipeline.process_inbound([bad])) == [[], [], []]
        assert verdicts(pipeline) == {"drop-bad-extension-header": 1}


def test_other_options_beside_the_home_address_stay() -> None:
    packet = udp(HOME, CORRESPONDENT, b"x")
    options = DestinationOptions((UnknownOption(0x1E, b"12"), HomeAddressOption(HOME)))
    frame = encode_packet(
        replace(decode_packet(packet), source=CARE_OF, extension_headers=(options,))
    )
    (record,) = pipeline_of(CORRESPONDENT_NODE).process_inbound([frame]).to_tunnel
    arrived = decode_packet(record[10:])
    assert arrived == replace(
        decode_packet(packet),
        extension_headers=(DestinationOptions((UnknownOption(0x1E, b"12"),)),),
    )


def routed(
    home: IPv6Address = HOME, *, left: int = 1, units: int = 2, source: IPv6Address = CORRESPONDENT
) -> bytes:
    header = bytearray(type2_routing_header(home, packets.UDP))
    header[1], header[3] = units, left
    header += bytes(8 * (units - 2))
    return ipv6(source, CARE_OF, 43, bytes(header) + udp(CORRESPONDENT, HOME, b"x")[40:])


@requirement("RFC6275-11.3.3", "MN-36")
@pytest.mark.parametrize(
    "frame",
    [
        routed(OTHER_HOME),
        routed(CARE_OF),
        routed(left=0),
        routed(left=2),
        routed(left=255),
        routed(units=4),
        routed(IPv6Address("ff02::1")),
    ],
)
def test_bad_type_2_routing_header_is_dropped_silently(frame: bytes) -> None:
    pipeline = pipeline_of(MOBILE)
    assert list(pipeline.process_inbound([frame])) == [[], [], []]
    assert verdicts(pipeline) == {"drop-bad-routing-header": 1}


@requirement("RFC6275-8.2", "CN-14")
def test_node_without_a_home_address_drops_a_type_2_routing_header_silently() -> None:
    pipeline = pipeline_of(CORRESPONDENT_NODE)
    packet = udp(STRANGER, HOME, b"")
    frame = ipv6(STRANGER, CORRESPONDENT, 43, type2_routing_header(CORRESPONDENT, 17) + packet[40:])
    assert list(pipeline.process_inbound([frame])) == [[], [], []]
    assert verdicts(pipeline) == {"drop-bad-routing-header": 1}


@pytest.mark.parametrize("source", ["fe80::1", "ff02::1", "::", str(HOME)])
def test_routed_packet_from_no_routable_source_is_dropped(source: str) -> None:
    pipeline = pipeline_of(MOBILE)
    assert pipeline.process_inbound([routed(source=IPv6Address(source))]).to_tunnel == []
    assert verdicts(pipeline) == {"drop-outer-source": 1}


@pytest.mark.parametrize("carried", [packets.MOBILITY, packets.ESP, packets.IPV6, 51])
def test_fragments_of_what_the_engine_looks_into_are_dropped(carried: int) -> None:
    piece = bytes([carried, 0, 0, 1, 0, 0, 0, 1]) + bytes(16)
    frame = ipv6(CARE_OF, CORRESPONDENT, 60, home_address_option(HOME, 44) + piece)
    pipeline = pipeline_of(CORRESPONDENT_NODE)
    assert list(pipeline.process_inbound([frame])) == [[], [], []]
    assert verdicts(pipeline) == {"drop-fragment": 1}


@requirement("RFC6275-10.4.5")
def test_home_agent_takes_the_option_of_its_own_mobile_node() -> None:
    packet = udp(HOME, AGENT, b"to the agent itself")
    frame = ipv6(CARE_OF, AGENT, 60, home_address_option(HOME, 17) + packet[40:])
    for tunnel, expected in (
        (agent_tunnel(), "received-direct"),
        (agent_tunnel(inbound_spi=7), "drop-not-protected"),
        (agent_tunnel(remote=OTHER_CARE_OF), "drop-no-peer-binding"),
    ):
        pipeline = pipeline_of(Tables(tunnels=(tunnel,), local_addresses=(AGENT,)))
        pipeline.process_inbound([frame])
        assert verdicts(pipeline) == {expected: 1}


# Out of the tunnel.


def tunnelled(inner: bytes) -> bytes:
    return ipv6(AGENT, CARE_OF, packets.IPV6, inner)


def test_mobile_peers_option_in_the_tunnel_is_taken_off() -> None:
    """The peer knows no care-of address of ours, but we have a binding of it."""
    packet = udp(OTHER_HOME, HOME, b"x")
    inner = ipv6(OTHER_CARE_OF, HOME, 60, home_address_option(OTHER_HOME, 17) + packet[40:])
    pipeline = pipeline_of(BOTH_MOBILE)
    assert pipeline.process_inbound([tunnelled(inner)]).to_tunnel == [bytes(10) + packet]
    assert verdicts(pipeline) == {"decapsulated": 1}
    pipeline = pipeline_of(MOBILE)
    (shown,) = pipeline.process_inbound([tunnelled(inner)]).handed_up
    assert (shown.data, shown.tunnel_source) == (inner, AGENT)
    assert verdicts(pipeline) == {"drop-no-peer-binding": 1}


@requirement("RFC6275-11.6.2", "RR-04")
@pytest.mark.parametrize("optioned_message", [False, True])
def test_mobility_message_in_the_tunnel_is_handed_up(optioned_message: bool) -> None:
    inner = ipv6(CORRESPONDENT, HOME, packets.MOBILITY, MESSAGE)
    if optioned_message:
        option = home_address_option(OTHER_HOME, packets.MOBILITY)
        inner = ipv6(OTHER_CARE_OF, HOME, 60, option + MESSAGE)
    # The home address need not be among the local ones.
    pipeline = pipeline_of(replace(MOBILE, local_addresses=(CARE_OF,)))
    _, to_tunnel, (shown,) = pipeline.process_inbound([tunnelled(inner)])
    assert to_tunnel == []
    assert (shown.data, shown.tunnel_source) == (inner, AGENT)


def test_home_agent_forwards_such_headers_as_they_are() -> None:
    inner = ipv6(HOME, CARE_OF, 43, type2_routing_header(OTHER_HOME, 17) + bytes(8))
    pipeline = pipeline_of(Tables(tunnels=(agent_tunnel(),), local_addresses=(AGENT,)))
    frame = ipv6(CARE_OF, AGENT, packets.IPV6, inner)
    assert pipeline.process_inbound([frame]).to_tunnel == [bytes(10) + inner]


# Errors about the direct path.


def error_about(frame: bytes, kind: int, value: int = 0) -> bytes:
    body = bytes([kind, 0, 0, 0]) + value.to_bytes(4, "big") + frame[: 1280 - 48]
    return packets.with_checksum(ipv6(STRANGER, IPv6Address(frame[8:24]), packets.ICMPV6, body), 42)


@requirement("RFC6275-9.3.2", "CN-13")
@ways
def test_packet_too_big_reaches_the_host_about_the_packet_it_knows(way: str) -> None:
    sender, _, source, destination = WAYS[way]
    inserted = 48 if way == "both" else 24
    packet = udp(source, destination, bytes(1400))
    pipeline = pipeline_of(sender)
    (frame,) = pipeline.process_outbound([packet]).frames
    error = error_about(frame, 2, 1400)
    _, (record,), (shown,) = pipeline.process_inbound([error])
    assert (shown.data, shown.tunnel_source) == (error, None)
    told = record[10:]
    assert (told[8:24], told[24:40]) == (frame[8:24], source.packed)
    assert int.from_bytes(told[44:48], "big") == 1400 - inserted
    assert told[48:] == packet[: 1280 - 48 - inserted]
    assert packets.upper_layer(told) == 0xFFFF


@ways
def test_error_about_a_path_that_is_not_ours_is_only_handed_up(way: str) -> None:
    sender, _, source, destination = WAYS[way]
    (frame,) = pipeline_of(sender).process_outbound([udp(source, destination, bytes(1400))]).frames
    pipeline = pipeline_of(replace(sender, direct_paths=(), peer_bindings=()))
    _, to_tunnel, handed_up = pipeline.process_inbound([error_about(frame, 2, 1400)])
    assert (to_tunnel, len(handed_up)) == ([], 1)


@requirement("RFC6275-11.3.5", "MN-44", "CN-15")
@ways
@pytest.mark.parametrize("kind", [1, 3, 4])
def test_other_errors_are_handed_up(way: str, kind: int) -> None:
    sender, _, source, destination = WAYS[way]
    pipeline = pipeline_of(sender)
    (frame,) = pipeline.process_outbound([udp(source, destination, b"x")]).frames
    _, to_tunnel, handed_up = pipeline.process_inbound([error_about(frame, kind)])
    assert (to_tunnel, len(handed_up)) == ([], 1)


# Traffic.


def test_traffic_of_the_tunnel_and_of_the_direct_path_is_told() -> None:
    pipeline = pipeline_of(MOBILE)
    out = [tcp(HOME, STRANGER, b"x"), udp(HOME, STRANGER, b"x"), udp(HOME, CORRESPONDENT, b"y")]
    pipeline.process_outbound(out)
    pipeline.process_inbound([tunnelled(udp(OTHER_HOME, HOME, b"x")), routed(), routed()])
    told = {entry.peer: entry for entry in pipeline.take_traffic()}
    assert told == {
        STRANGER: Traffic(
            local=HOME, peer=STRANGER, packets_out=2, protocol=17, destination_port=6000
        ),
        CORRESPONDENT: Traffic(
            local=HOME,
            peer=CORRESPONDENT,
            packets_out=1,
            packets_in=2,
            protocol=17,
            destination_port=6000,
            direct=True,
            direct_in=True,
        ),
        OTHER_HOME: Traffic(
            local=HOME, peer=OTHER_HOME, packets_in=1, protocol=17, destination_port=5000
        ),
    }
    assert pipeline.take_traffic() == []
    pipeline.process_outbound([ipv6(HOME, STRANGER, 132, b"")])
    (entry,) = pipeline.take_traffic()
    assert (entry.packets_out, entry.protocol, entry.destination_port) == (1, 132, None)


def test_traffic_of_a_correspondent_names_the_peers_home_address() -> None:
    pipeline = pipeline_of(CORRESPONDENT_NODE)
    pipeline.process_inbound([optioned()])
    (entry,) = pipeline.take_traffic()
    assert (entry.local, entry.peer, entry.packets_in) == (CORRESPONDENT, HOME, 1)
    assert (entry.direct, entry.destination_port) == (True, 5000)


def test_signalling_errors_and_forwarded_packets_are_no_traffic() -> None:
    mobile, agent = pipeline_of(MOBILE), pipeline_of(Tables(tunnels=(agent_tunnel(),)))
    mobile.process_outbound(
        [
            ipv6(HOME, STRANGER, packets.MOBILITY, MESSAGE),
            ipv6(HOME, STRANGER, packets.ICMPV6, bytes([3, 0]) + bytes(50)),
            ipv6(HOME, STRANGER, packets.ICMPV6, bytes([135, 0]) + bytes(22)),
            ipv6(HOME, STRANGER, 59, b""),
            udp(STRANGER, HOME, b"dropped"),
        ]
    )
    agent.process_outbound([udp(CORRESPONDENT, HOME, b"")])
    assert mobile.take_traffic() == agent.take_traffic() == []


def test_traffic_is_signalled_at_once_for_what_is_new_else_once_a_second() -> None:
    pipeline = pipeline_of(MOBILE)

    def asks(at: int, peer: IPv6Address = STRANGER) -> bool:
        pipeline.set_time(at)
        pipeline.process_outbound([udp(HOME, peer, b"")])
        return pipeline.wants_attention()

    assert asks(10_000)
    assert not asks(10_100)
    assert asks(10_200, CORRESPONDENT)
    assert not any(asks(at, peer) for at in (10_900, 11_100) for peer in (STRANGER, CORRESPONDENT))
    assert asks(11_200)
    assert not asks(11_300, CORRESPONDENT)
    assert asks(12_350, CORRESPONDENT)


def test_table_of_traffic_is_bounded_and_old_pairs_give_way() -> None:
    pipeline = pipeline_of(MOBILE)
    pipeline.set_time(1000)
    first = int(IPv6Address("2001:db8:aaaa::"))
    peers = [IPv6Address(first + at) for at in range(6000)]
    pipeline.process_outbound([udp(HOME, peer, b"") for peer in peers])
    told = {entry.peer for entry in pipeline.take_traffic()}
    assert 3500 <= len(told) <= 4096
    assert pipeline.counters()["traffic-ignored"] == 6000 - len(told)
    pipeline.process_outbound([udp(HOME, peer, b"") for peer in told])
    assert {entry.peer for entry in pipeline.take_traffic()} == told
    pipeline.set_time(62_000)
    late = [IPv6Address(first + 10**6 + at) for at in range(500)]
    pipeline.process_outbound([udp(HOME, peer, b"") for peer in late])
    assert len(pipeline.take_traffic()) > 450


def test_a_second_entry_for_a_pair_changes_nothing() -> None:
    tables = replace(
        MOBILE, direct_paths=(PATH, replace(PATH, care_of_address=STRANGER)), peer_bindings=()
    )
    packet = udp(HOME, CORRESPONDENT, b"")
    assert pipeline_of(tables).process_outbound([packet]).frames == [
        optimized(packet, "home-address-option")
    ]


def test_many_paths_are_all_found() -> None:
    first = int(IPv6Address("2001:db8:aaaa::"))
    peers = [IPv6Address(first + at * 2**64) for at in range(3000)]
    paths = tuple(replace(PATH, correspondent=peer) for peer in peers)
    pipeline = pipeline_of(replace(MOBILE, direct_paths=paths))
    pipeline.process_outbound([udp(HOME, peer, b"") for peer in peers])
    assert verdicts(pipeline) == {"sent-direct": 3000}


# Truncation and noise.


@ways
@pytest.mark.parametrize("kind", ["tcp", "udp", "hop-by-hop", "destination-options"])
def test_truncated_packet_is_accounted_for_and_never_delivered(kind: str, way: str) -> None:
    sender, receiver, source, destination = WAYS[way]
    packet = host_packets(source, destination)[kind]
    (frame,) = pipeline_of(sender).process_outbound([packet]).frames
    pipeline = pipeline_of(receiver)
    headers = len(frame) - len(packet) + 40
    for length in range(len(frame)):
        assert pipeline.process_inbound([frame[:length]]).to_tunnel == []
    for length in range(40, headers):
        shorter = frame[:4] + (length - 40).to_bytes(2, "big") + frame[6:length]
        pipeline.process_inbound([shorter])
    assert verdicts(pipeline)["drop-truncated"] == len(frame)


@ways
def test_random_packets_come_out_as_they_went_in(way: str) -> None:
    sender, receiver, source, destination = WAYS[way]
    generator = random.Random(6275)
    outbound, inbound = pipeline_of(sender), pipeline_of(receiver)
    alert = HopByHopOptions((RouterAlert(0),))
    for _ in range(100):
        made = []
        for _ in range(generator.randrange(1, 40)):
            length = generator.choice([0, 1, 7, 100, 1300, generator.randrange(1300)])
            make = generator.choice([udp, tcp])
            packet = make(
                source,
                destination,
                generator.randbytes(length),
                traffic_class=generator.randrange(256),
            )
            if generator.random() < 0.2:
                packet = with_headers(packet, alert)
            made.append(packet)
        frames = outbound.process_outbound(made).frames
        assert frames == [optimized(packet, way) for packet in made]
        arrived = written_packets(inbound.process_inbound(frames).to_tunnel)
        assert sorted(arrived) == sorted(made)


def test_removed_direct_path_leaves_the_tunnel() -> None:
    pipeline = pipeline_of(MOBILE)
    pipeline.publish(replace(MOBILE, direct_paths=()))
    packet = udp(HOME, CORRESPONDENT, b"back in the tunnel")
    (frame,) = pipeline.process_outbound([packet]).frames
    assert frame[40:] == packet


# Before the engine: the filter of its sockets.


def accepts(packet: bytes) -> bool:
    """Run the filter as the kernel does, for a packet to us."""
    program, at, word = make_filter(), 0, 0
    ancillary = {0xFFFFF000: 0x86DD, 0xFFFFF000 + 48: 0, 0xFFFFF000 + 4: 0}
    while True:
        code, when_true, when_false, constant = program[at]
        at += 1
        if code == 0x06:
            return constant != 0
        if code in (0x20, 0x28, 0x30):
            word = ancillary[constant] if constant in ancillary else packet[constant - 0xFFF00000]
        else:
            met = word == constant if code == 0x15 else word >= constant
            at += when_true if met else when_false


@pytest.mark.parametrize(
    ("protocol", "accepted"),
    [
        *((protocol, True) for protocol in (0, 41, 43, 44, 50, 60, 135)),
        *((protocol, False) for protocol in (6, 17, 59, 132)),
    ],
)
def test_filter_lets_the_headers_of_the_direct_path_through(protocol: int, accepted: bool) -> None:
    assert accepts(ipv6(STRANGER, CARE_OF, protocol, bytes(20))) is accepted
