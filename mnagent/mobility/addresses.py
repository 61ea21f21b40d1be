"""Special addresses, and addresses made from others (RFC 4291, RFC 6275 10.3.1)."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network
from typing import Final

UNSPECIFIED_ADDRESS: Final = IPv6Address("::")
ALL_NODES: Final = IPv6Address("ff02::1")
NEIGHBOR_DISCOVERY_HOP_LIMIT: Final = 255
"""What proves that a neighbour discovery message was not forwarded (RFC 4861 7.1)."""

_SOLICITED_NODE_PREFIX: Final = int(IPv6Address("ff02::1:ff00:0"))
_LINK_LOCAL_PREFIX: Final = int(IPv6Address("fe80::"))
_INTERFACE_IDENTIFIER_BITS: Final = 64
_UNIVERSAL_BIT: Final = 1 << 57
_ANYCAST_IDENTIFIER_MASK: Final = 0x7F
_HOME_AGENTS_ANYCAST_IDENTIFIER: Final = 0x7E

_LOOPBACK: Final = 1
_MULTICAST: Final = 0xFF  # of 8 bits
_LINK_LOCAL: Final = 0xFE80 >> 6  # of 10 bits
_IPV4_MAPPED: Final = 0xFFFF  # of 96 bits


TEXTS_KEPT: Final = 64
_ZERO_RUNS: Final = tuple(":" + "0:" * length for length in range(8, 1, -1))


@lru_cache(maxsize=TEXTS_KEPT)
def text_of(address: IPv6Address) -> str:
    """The same as ``str`` (RFC 5952) in a quarter of the time, and made once of an address that is
    written several times for one packet."""
    value = int(address)
    if value >> 32 == _IPV4_MAPPED or address.scope_id is not None:
        return str(address)
    text = f":{value.to_bytes(16, 'big').hex(':', 2)}:"
    # Up to three leading zeros of each group; its last digit stays.
    text = text.replace(":0", ":").replace(":0", ":").replace(":0", ":")
    if _ZERO_RUNS[-1] in text:
        longest = next(run for run in _ZERO_RUNS if run in text)
        before, _, after = text.partition(longest)
        return f"{before[1:]}::{after[:-1]}"
    return text[1:-1]


def is_unicast(address: IPv6Address) -> bool:
    """True for an address that can be one node's: neither multicast nor unspecified."""
    value = int(address)
    return value != 0 and value >> 120 != _MULTICAST


def is_routable_unicast(address: IPv6Address) -> bool:
    """True for a "unicast routable address" (RFC 6275 3.1): unicast, and of more than link
    scope."""
    # By hand: it is asked several times of each packet.
    value = int(address)
    return (
        value > _LOOPBACK
        and value >> 120 != _MULTICAST
        and value >> 118 != _LINK_LOCAL
        and value >> 32 != _IPV4_MAPPED
    )


def solicited_node_group(address: IPv6Address) -> IPv6Address:
    """The multicast group in which neighbours are asked about ``address`` (RFC 4291 2.7.1)."""
    return IPv6Address(_SOLICITED_NODE_PREFIX | (int(address) & 0xFFFFFF))


def derived_link_local(home_address: IPv6Address) -> IPv6Address:
    """The link-local address with the home address's interface identifier (RFC 6275
    10.3.1, L bit)."""
    return IPv6Address(_LINK_LOCAL_PREFIX | (int(home_address) & (2**64 - 1)))


def home_agents_anycast(prefix: IPv6Network) -> IPv6Address:
    """The Mobile IPv6 Home-Agents anycast address of a subnet (RFC 2526 2 and 3)."""
    host_bits = 128 - prefix.prefixlen
    identifier = (1 << host_bits) - 1
    if host_bits == _INTERFACE_IDENTIFIER_BITS:
        # These prefixes have EUI-64 identifiers: the universal/local bit says local.
        identifier &= ~_UNIVERSAL_BIT
    reserved = identifier & ~_ANYCAST_IDENTIFIER_MASK | _HOME_AGENTS_ANYCAST_IDENTIFIER
    return IPv6Address(int(prefix.network_address) | reserved & ((1 << host_bits) - 1))
