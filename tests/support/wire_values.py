"""Hypothesis strategies for every value of `mnagent.wire` that survives a round trip unchanged."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Any

from hypothesis import strategies as st

from mnagent.wire import icmp6, ipv6, mobility, ndisc
from mnagent.wire import mobility_options as options
from mnagent.wire.esp import EspPacket
from mnagent.wire.ipv6 import IPv6Packet, RawPayload
from mnagent.wire.packet import Payload

Strategy = st.SearchStrategy[Any]


def unsigned(bits: int) -> st.SearchStrategy[int]:
    """A field of so many bits."""
    return st.integers(0, (1 << bits) - 1)


def octets(size: int) -> st.SearchStrategy[bytes]:
    """Exactly so many octets."""
    return st.binary(min_size=size, max_size=size)


def padded(remainder: int, most: int = 40) -> st.SearchStrategy[bytes]:
    """Octets whose number is ``remainder`` modulo 8."""
    return st.integers(0, most // 8).flatmap(lambda units: octets(units * 8 + remainder))


def tuples_of(values: Strategy, most: int = 4) -> st.SearchStrategy[tuple[Any, ...]]:
    """A short tuple."""
    return st.lists(values, max_size=most).map(tuple)


def other_than(*known: int) -> st.SearchStrategy[int]:
    """An octet that is not one of ``known``."""
    return st.sampled_from([number for number in range(256) if number not in known])


addresses = st.integers(0, (1 << 128) - 1).map(IPv6Address)
unicast_addresses = addresses.filter(lambda address: not address.is_multicast)
lifetimes = unsigned(16).map(lambda units: units * 4)
flags = st.booleans()

# Extension headers.

ipv6_options = st.one_of(
    st.builds(ipv6.HomeAddressOption, addresses),
    st.builds(ipv6.TunnelEncapsulationLimit, unsigned(8)),
    st.builds(ipv6.RouterAlert, unsigned(16)),
    st.builds(ipv6.UnknownOption, other_than(0, 1, 4, 5, 0xC9), st.binary(max_size=30)),
)
destination_options = st.builds(ipv6.DestinationOptions, tuples_of(ipv6_options))
type2_routing_headers = st.builds(ipv6.Type2RoutingHeader, addresses, unsigned(8))
finished_routing_headers = st.builds(ipv6.RoutingHeader, other_than(2), st.just(0), padded(4))
atomic_fragments = st.builds(ipv6.FragmentHeader, st.just(0), st.just(False), unsigned(32))
fragments = st.builds(
    ipv6.FragmentHeader, unsigned(13).map(lambda units: units * 8), flags, unsigned(32)
).filter(lambda header: not header.is_whole)
hop_by_hop_options = st.builds(ipv6.HopByHopOptions, tuples_of(ipv6_options))


@st.composite
def extension_headers(draw: Callable[[Strategy], Any]) -> tuple[ipv6.ExtensionHeader, ...]:
    """Headers that leave the payload readable."""
    first = draw(st.lists(hop_by_hop_options, max_size=1))
    rest = draw(
        st.lists(
            st.one_of(
                destination_options,
                type2_routing_headers,
                finished_routing_headers,
                atomic_fragments,
            ),
            max_size=3,
        )
    )
    return (*first, *rest)


# Mobility.

_plain_mobility_options = st.one_of(
    st.builds(options.BindingRefreshAdvice, lifetimes),
    st.builds(options.AlternateCareOfAddress, addresses),
    st.builds(options.NonceIndices, unsigned(16), unsigned(16)),
    st.builds(options.MobileNodeIdentifier, st.binary(max_size=60), unsigned(8)),
    st.builds(options.MessageAuthentication, unsigned(32), st.binary(max_size=30), unsigned(8)),
    st.builds(options.ReplayProtection, unsigned(64)),
    st.builds(
        options.UnknownMobilityOption,
        other_than(0, 1, 2, 3, 4, 5, 8, 9, 10),
        st.binary(max_size=30),
    ),
)
_authorization = st.builds(options.BindingAuthorizationData, padded(4, 32))


@st.composite
def mobility_options(draw: Callable[[Strategy], Any]) -> tuple[options.MobilityOption, ...]:
    """Options with Binding Authorization Data, if any, at the end."""
    return (
        *draw(st.lists(_plain_mobility_options, max_size=4)),
        *draw(st.lists(_authorization, max_size=1)),
    )


mobility_messages = st.one_of(
    st.builds(mobility.BindingRefreshRequest, mobility_options()),
    st.builds(mobility.HomeTestInit, octets(8), mobility_options()),
    st.builds(mobility.CareOfTestInit, octets(8), mobility_options()),
    st.builds(mobility.HomeTest, unsigned(16), octets(8), octets(8), mobility_options()),
    st.builds(mobility.CareOfTest, unsigned(16), octets(8), octets(8), mobility_options()),
    st.builds(
        mobility.BindingUpdate,
        sequence=unsigned(16),
        lifetime=lifetimes,
        acknowledge=flags,
        home_registration=flags,
        link_local_compatibility=flags,
        key_management_mobility=flags,
        other_flags=unsigned(12),
        options=mobility_options(),
    ),
    st.builds(
        mobility.BindingAcknowledgement,
        status=unsigned(8),
        sequence=unsigned(16),
        lifetime=lifetimes,
        key_management_mobility=flags,
        other_flags=unsigned(7),
        options=mobility_options(),
    ),
    st.builds(mobility.BindingError, unsigned(8), addresses, mobility_options()),
    st.builds(mobility.HomeAgentSwitch, tuples_of(addresses), mobility_options()),
    st.builds(
        mobility.BindingRevocationIndication,
        trigger=unsigned(8),
        sequence=unsigned(16),
        proxy_binding=flags,
        ipv4_only=flags,
        is_global=flags,
        options=mobility_options(),
    ),
    st.builds(
        mobility.BindingRevocationAcknowledgement,
        status=unsigned(8),
        sequence=unsigned(16),
        proxy_binding=flags,
        ipv4_only=flags,
        is_global=flags,
        options=mobility_options(),
    ),
    st.builds(mobility.UnknownMobilityMessage, other_than(*range(8), 12, 16), padded(2)),
)

# Neighbour discovery and ICMPv6.

_milliseconds = unsigned(32).map(lambda number: number / 1000)
_nd_lifetimes = st.one_of(st.just(ndisc.INFINITE_LIFETIME), st.integers(0, 0xFFFFFFFE))
nd_options = st.one_of(
    st.builds(ndisc.SourceLinkLayerAddress, padded(6, 16)),
    st.builds(ndisc.TargetLinkLayerAddress, padded(6, 16)),
    st.builds(
        ndisc.PrefixInformation,
        address=addresses,
        prefix_length=st.integers(0, 128),
        on_link=flags,
        autonomous=flags,
        router_address=flags,
        valid_lifetime=_nd_lifetimes,
        preferred_lifetime=_nd_lifetimes,
    ),
    st.builds(ndisc.RedirectedHeader, padded(0)),
    st.builds(ndisc.Mtu, unsigned(32)),
    st.builds(ndisc.AdvertisementInterval, _milliseconds),
    st.builds(ndisc.HomeAgentInformation, unsigned(16), st.integers(1, 0xFFFF)),
    st.builds(ndisc.Nonce, padded(6, 16)),
    st.builds(ndisc.UnknownNdOption, other_than(1, 2, 3, 4, 5, 7, 8, 14), padded(6)),
)
_some_nd_options = tuples_of(nd_options)
nd_messages = st.one_of(
    st.builds(ndisc.RouterSolicitation, _some_nd_options),
    st.builds(
        ndisc.RouterAdvertisement,
        current_hop_limit=unsigned(8),
        managed=flags,
        other=flags,
        home_agent=flags,
        router_lifetime=unsigned(16),
        reachable_time=_milliseconds,
        retransmission_timer=_milliseconds,
        options=_some_nd_options,
    ),
    st.builds(ndisc.NeighborSolicitation, unicast_addresses, _some_nd_options),
    st.builds(
        ndisc.NeighborAdvertisement,
        unicast_addresses,
        router=flags,
        solicited=flags,
        override=flags,
        options=_some_nd_options,
    ),
    st.builds(ndisc.Redirect, unicast_addresses, addresses, _some_nd_options),
)
_quoted = st.binary(max_size=80)
icmp6_messages = st.one_of(
    st.builds(icmp6.DestinationUnreachable, unsigned(8), _quoted),
    st.builds(icmp6.PacketTooBig, unsigned(32), _quoted),
    st.builds(icmp6.TimeExceeded, unsigned(8), _quoted),
    st.builds(icmp6.ParameterProblem, unsigned(8), unsigned(32), _quoted),
    st.builds(icmp6.EchoRequest, unsigned(16), unsigned(16), _quoted),
    st.builds(icmp6.EchoReply, unsigned(16), unsigned(16), _quoted),
    st.builds(icmp6.HomeAgentAddressDiscoveryRequest, unsigned(16)),
    st.builds(icmp6.HomeAgentAddressDiscoveryReply, unsigned(16), tuples_of(addresses)),
    st.builds(icmp6.MobilePrefixSolicitation, unsigned(16), _some_nd_options),
    st.builds(
        icmp6.MobilePrefixAdvertisement,
        unsigned(16),
        managed=flags,
        other=flags,
        options=_some_nd_options,
    ),
    st.builds(
        icmp6.UnknownIcmp6,
        other_than(1, 2, 3, 4, 128, 129, *range(133, 138), *range(144, 148)),
        unsigned(8),
        _quoted,
    ),
    st.builds(icmp6.UnknownIcmp6, st.just(133), st.integers(1, 255), _quoted),
    nd_messages,
)

# Packets.

esp_packets = st.builds(EspPacket, st.integers(1, 0xFFFFFFFF), unsigned(32), st.binary(max_size=80))
raw_payloads = st.builds(
    RawPayload, other_than(0, 41, 43, 44, 50, 58, 60, 135), st.binary(max_size=80)
)


def packets_of(
    payloads: st.SearchStrategy[Payload], headers: Strategy | None = None
) -> st.SearchStrategy[IPv6Packet]:
    """Packets with these payloads."""
    return st.builds(
        IPv6Packet,
        addresses,
        addresses,
        payloads,
        extension_headers=extension_headers() if headers is None else headers,
        hop_limit=unsigned(8),
        traffic_class=unsigned(8),
        flow_label=unsigned(20),
    )


flat_packets = packets_of(st.one_of(mobility_messages, icmp6_messages, esp_packets, raw_payloads))
fragment_packets = packets_of(raw_payloads, st.tuples(destination_options, fragments))
packets = st.one_of(
    flat_packets,
    fragment_packets,
    packets_of(flat_packets),
    packets_of(packets_of(packets_of(flat_packets, st.just(())), st.just(()))),
)
"""Packets that decode to what was encoded."""
