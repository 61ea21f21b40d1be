"""Numbers of RFC 4861 section 10, RFC 4862 section 5.1, RFC 7559 and RFC 7217, in seconds."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import Final

UNSPECIFIED_ADDRESS: Final = IPv6Address("::")
ALL_NODES: Final = IPv6Address("ff02::1")
ALL_ROUTERS: Final = IPv6Address("ff02::2")
NEIGHBOR_DISCOVERY_HOP_LIMIT: Final = 255
"""What proves that a message was not forwarded (RFC 4861 6.1)."""

RTR_SOLICITATION_INTERVAL: Final = 4.0
MAX_RTR_SOLICITATION_INTERVAL: Final = 64.0
"""Where the doubling of RFC 7559 ends; its 3600 s are for nodes that stay where they are."""
RETRANS_TIMER: Final = 1.0
DUP_ADDR_DETECT_TRANSMITS: Final = 1
MAX_DUPLICATES: Final = 3
"""IDGEN_RETRIES of RFC 7217: identifiers tried in one prefix before giving up there."""
TWO_HOURS: Final = 7200.0
"""What a valid lifetime is not shortened below by an unauthenticated advertisement."""
INTERFACE_IDENTIFIER_BITS: Final = 64
MAX_ROUTERS: Final = 16
"""Routers remembered on one interface; a further one is ignored until one leaves."""
MAX_PREFIXES: Final = 16
"""Prefixes, and so addresses, on one interface; a further one is ignored until one ends."""
SUSPECT_DELAY: Final = 3.0
"""After a link event, how long addresses configured by others stay in doubt without news."""


def solicited_node_group(address: IPv6Address) -> IPv6Address:
    """The multicast group in which neighbours are asked about ``address`` (RFC 4291 2.7.1)."""
    return IPv6Address(int(IPv6Address("ff02::1:ff00:0")) | (int(address) & 0xFFFFFF))
