"""From the kernel's octets to the values the daemon works with."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest

from mnagent.core.events import LinkKind
from mnagent.link.messages import (
    AddressMessage,
    LinkMessage,
    NeighbourMessage,
    RouteMessage,
    RuleMessage,
)
from mnagent.runtime import netlink
from mnagent.runtime.netlink import decode_notification, link_layer_bytes, new_message
from mnagent.system.kernel import Route

ADDRESS = IPv6Address("2001:db8:a::5")
INET6 = 10


def octets(message_type: int, attributes: list[tuple[str, Any]], **fields: Any) -> bytes:
    message = new_message(message_type, 0, **fields)
    message["attrs"] = attributes
    message.encode()
    return bytes(message.data)


def link(flags: int = 0x10043, **attributes: Any) -> Any:
    named = {"IFLA_IFNAME": "wlan0", "IFLA_OPERSTATE": "UP", **attributes}
    data = octets(netlink.RTM_NEWLINK, list(named.items()), index=3, flags=flags)
    return decode_notification(netlink.RTM_NEWLINK, data)


def test_link_that_is_up_is_usable() -> None:
    assert link(IFLA_ADDRESS="02:00:00:00:00:01", IFLA_MTU=1400) == LinkMessage(
        interface=3,
        name="wlan0",
        usable=True,
        link_layer_address=bytes.fromhex("020000000001"),
        mtu=1400,
        kind=LinkKind.WIFI,
    )


def test_link_whose_driver_reports_no_state_is_usable() -> None:
    assert link(IFLA_OPERSTATE="UNKNOWN").usable


@pytest.mark.parametrize("state", ["DORMANT", "DOWN", "LOWERLAYERDOWN", "NOTPRESENT"])
def test_link_in_another_state_is_not_usable(state: str) -> None:
    assert not link(IFLA_OPERSTATE=state).usable


@pytest.mark.parametrize("flags", [0x10042, 0x43])
def test_link_that_is_down_or_has_no_carrier_is_not_usable(flags: int) -> None:
    assert not link(flags).usable


def test_link_that_is_removed_is_not_usable() -> None:
    data = octets(
        netlink.RTM_DELLINK,
        [("IFLA_IFNAME", "wlan0"), ("IFLA_OPERSTATE", "UP")],
        index=3,
        flags=0x10043,
    )
    message = decode_notification(netlink.RTM_DELLINK, data)
    assert isinstance(message, LinkMessage)
    assert message.removed
    assert not message.usable


def test_address_has_flags_and_lifetimes() -> None:
    cache = {"ifa_preferred": 50, "ifa_valid": 0xFFFFFFFF, "cstamp": 0, "tstamp": 0}
    attributes = [
        ("IFA_ADDRESS", str(ADDRESS)),
        ("IFA_CACHEINFO", cache),
        ("IFA_FLAGS", 0x40),
        ("IFA_PROTO", 2),
    ]
    data = octets(netlink.RTM_NEWADDR, attributes, family=INET6, prefixlen=64, index=3, flags=0x40)
    assert decode_notification(netlink.RTM_NEWADDR, data) == AddressMessage(
        interface=3,
        address=ADDRESS,
        prefix_length=64,
        tentative=True,
        protocol=2,
        valid_lifetime=None,
        preferred_lifetime=50.0,
    )


@pytest.mark.parametrize(
    ("flags", "name"), [(0x44, "optimistic"), (0x20, "deprecated"), (0x48, "duplicate")]
)
def test_address_flag_is_told(flags: int, name: str) -> None:
    attributes = [("IFA_ADDRESS", str(ADDRESS)), ("IFA_FLAGS", flags)]
    data = octets(netlink.RTM_DELADDR, attributes, family=INET6, prefixlen=64, index=3)
    message = decode_notification(netlink.RTM_DELADDR, data)
    assert isinstance(message, AddressMessage)
    assert message.removed
    assert getattr(message, name)
    assert not (name == "optimistic" and message.tentative)


def test_address_of_another_family_is_ignored() -> None:
    data = octets(netlink.RTM_NEWADDR, [("IFA_ADDRESS", "192.0.2.1")], family=2, index=3)
    assert decode_notification(netlink.RTM_NEWADDR, data) is None


def test_default_route_has_its_router_and_protocol() -> None:
    attributes = [
        ("RTA_OIF", 3),
        ("RTA_GATEWAY", "fe80::1"),
        ("RTA_TABLE", 6275),
        ("RTA_PRIORITY", 1024),
    ]
    data = octets(netlink.RTM_NEWROUTE, attributes, family=INET6, type=1, proto=9)
    assert decode_notification(netlink.RTM_NEWROUTE, data) == RouteMessage(
        destination=IPv6Network("::/0"),
        table=6275,
        interface=3,
        gateway=IPv6Address("fe80::1"),
        protocol=9,
        metric=1024,
    )


def test_route_to_nowhere_is_told_as_the_kernel_files_it() -> None:
    attributes = [("RTA_DST", "2001:db8:1::"), ("RTA_OIF", 1), ("RTA_PRIORITY", 7)]
    fields = {"type": 7, "dst_len": 64, "table": 254, "proto": 9}
    data = octets(netlink.RTM_NEWROUTE, attributes, family=INET6, **fields)
    route = Route(
        destination=IPv6Network("2001:db8:1::/64"), interface=1, metric=7, unreachable=True
    )
    message = decode_notification(netlink.RTM_NEWROUTE, data)
    assert isinstance(message, RouteMessage)
    assert message.identity == route.identity
    # Behind the netlink header; the kernel wants to be told what kind of route it is.
    assert netlink.route_body(route, protocol=9)[:12] == data[16:28]


@pytest.mark.parametrize("fields", [{"type": 2}, {"type": 1, "flags": 0x200}])
def test_route_that_is_local_or_cached_is_ignored(fields: dict[str, int]) -> None:
    data = octets(netlink.RTM_NEWROUTE, [("RTA_OIF", 3)], family=INET6, **fields)
    assert decode_notification(netlink.RTM_NEWROUTE, data) is None


def test_rule_has_its_source_and_table() -> None:
    attributes = [
        ("FRA_PRIORITY", 6275),
        ("FRA_TABLE", 6275),
        ("FRA_SRC", str(ADDRESS)),
        ("FRA_PROTOCOL", 62),
    ]
    data = octets(netlink.RTM_DELRULE, attributes, family=INET6, src_len=128, flags=0x10000)
    assert decode_notification(netlink.RTM_DELRULE, data) == RuleMessage(
        priority=6275,
        table=6275,
        protocol=62,
        source=ADDRESS,
        chooses_source=True,
        removed=True,
    )


@pytest.mark.parametrize(
    ("state", "usable", "failed"), [(2, True, False), (4, True, False), (32, False, True)]
)
def test_neighbour_is_usable_in_some_states(state: int, usable: bool, failed: bool) -> None:
    attributes = [("NDA_DST", "fe80::1"), ("NDA_LLADDR", "02:00:00:00:00:01")]
    data = octets(netlink.RTM_NEWNEIGH, attributes, family=INET6, ifindex=3, state=state)
    message = decode_notification(netlink.RTM_NEWNEIGH, data)
    assert isinstance(message, NeighbourMessage)
    assert (message.usable, message.failed) == (usable, failed)


def test_message_of_an_unknown_type_is_ignored() -> None:
    assert decode_notification(99, bytes(32)) is None


@pytest.mark.parametrize(
    ("text", "expected"), [(None, b""), ("", b""), ("zz:00", b""), ("02:0a", b"\x02\x0a")]
)
def test_link_layer_address_text_becomes_octets(text: str | None, expected: bytes) -> None:
    assert link_layer_bytes(text) == expected


def test_message_classes_do_not_load_all_of_pyroute2() -> None:
    """And the whole package can still be had afterwards."""
    program = """
import sys
import mnagent.runtime.netlink
assert "pyroute2" not in sys.modules, "the stand-in stayed"
assert "pyroute2.ndb" not in sys.modules
from pyroute2 import IPRoute
"""
    subprocess.run([sys.executable, "-c", program], check=True)
