"""Numbers of RFC 4861 section 10, RFC 4862 section 5.1, RFC 6059, RFC 7217, RFC 7527, RFC 7559 and
RFC 8981, in seconds."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import Final

from mnagent.core.prefix_lifetime import TWO_HOURS

UNSPECIFIED_ADDRESS: Final = IPv6Address("::")
ALL_NODES: Final = IPv6Address("ff02::1")
ALL_ROUTERS: Final = IPv6Address("ff02::2")
NEIGHBOR_DISCOVERY_HOP_LIMIT: Final = 255
"""What proves that a message was not forwarded (RFC 4861 6.1)."""

QUICK_SOLICITATION_INTERVALS: Final = (0.02, 0.02, 0.04, 0.42, 1.0, 2.5)
"""Between the first solicitations after a link event: at 20, 40 and 80 ms, at 0.5, 1.5 and 4 s.

RFC 4861 6.3.7 waits 4 s each time. The first frames after a Wi-Fi roam are often lost, and each
second lost here is a second without a network."""
RTR_SOLICITATION_INTERVAL: Final = 4.0
PERSISTENT_SOLICITATION_TIME: Final = 60.0
"""How long after a link event the interval stays at RTR_SOLICITATION_INTERVAL: multicast may be
lost for half a minute after a roam."""
MAX_RTR_SOLICITATION_INTERVAL: Final = 64.0
"""Where the doubling of RFC 7559 ends; its 3600 s are for nodes that stay where they are."""
RETRANS_TIMER: Final = 1.0
DUP_ADDR_DETECT_TRANSMITS: Final = 1
MAX_MULTICAST_SOLICIT: Final = 3
"""Further probes of an address when one came back to us (RFC 7527 4.1)."""
MAX_DUPLICATES: Final = 3
"""IDGEN_RETRIES of RFC 7217: identifiers tried in one prefix before giving up there."""
INTERFACE_IDENTIFIER_BITS: Final = 64
MAX_ROUTERS: Final = 16
"""Routers remembered on one interface; a further one is ignored until one leaves."""
MAX_PREFIXES: Final = 16
"""Prefixes on one interface; a further one is ignored until one ends."""
MAX_ADDRESSES: Final = 2 * MAX_PREFIXES
"""Addresses on one interface: a temporary one and its successor in each prefix."""
MAX_KNOWN_DUPLICATES: Final = 16
"""Addresses remembered to be in use by others; a further one takes the place of the oldest."""

MAX_PROBED_ROUTERS: Final = 6
"""Routers asked on a link event (RFC 6059 5.5.3)."""
PROBE_INTERVALS: Final = (0.005, 0.035)
"""Between these probes: they go again twice at most (RFC 6059 5.11).

The first is lost where an access point has not yet taken the last message of the key exchange: it
is behind the station by the time of one frame. A question by unicast costs next to nothing."""
PROBE_LIFETIME: Final = 3.0
"""After a link event, how long answers to its probes count: the host may check its link-local
address for two seconds before we may ask from it."""
MAX_KNOWN_ROUTERS: Final = 32
"""Routers of earlier links remembered for one interface; a further one takes the place of the one
not seen for longest."""
MAX_KNOWN_ACCESS_POINTS: Final = 8
"""Remembered of one router; a further one takes the place of the one not heard for longest."""
MAX_KNOWN_INTERFACES: Final = 16
"""Interfaces whose routers are remembered across restarts."""
RESTORED_LIFETIME: Final = TWO_HOURS
"""How long what an earlier run remembered is believed: how much time passed is not known."""
PERSIST_DELAY: Final = 10.0
"""Between a change of what is remembered and its record: the disk is not for handovers."""

REACHABLE_TIME: Final = 30.0
MIN_RANDOM_FACTOR: Final = 0.5
MAX_RANDOM_FACTOR: Final = 1.5
MIN_REACHABLE_TIME: Final = 5.0
MAX_REACHABLE_TIME: Final = 3600.0
"""Limits to what a router may ask for (RFC 4861 6.3.2 says one hour)."""
MAX_UNREACHABILITY_PROBES: Final = 5
UNREACHABILITY_PROBE_INTERVAL: Final = 0.2
"""RFC 4861 asks three times, a second apart; here a lost router means a lost link, and the answer
takes milliseconds."""
MAX_MISSED_ADVERTISEMENTS: Final = 3
"""Advertisement intervals without an advertisement that make us ask (RFC 6275 11.5.1)."""
MIN_MISSED_DELAY: Final = 0.1

TEMPORARY_VALID_LIFETIME: Final = 2 * 86400.0
TEMPORARY_PREFERRED_LIFETIME: Final = 86400.0
MAX_DESYNC_FACTOR: Final = 0.4
"""Of the preferred lifetime, taken off at random (RFC 8981 3.8)."""
REGENERATION_ADVANCE: Final = 5.0
"""How long before a temporary address is deprecated its successor is made."""
SUSPECT_DELAY: Final = 3.0
"""After a link event, how long addresses configured by others stay in doubt without news."""


def solicited_node_group(address: IPv6Address) -> IPv6Address:
    """The multicast group in which neighbours are asked about ``address`` (RFC 4291 2.7.1)."""
    return IPv6Address(int(IPv6Address("ff02::1:ff00:0")) | (int(address) & 0xFFFFFF))
