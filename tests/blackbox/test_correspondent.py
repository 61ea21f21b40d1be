"""The correspondent node, as mobile nodes and attackers see it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import IPv6Address

import pytest

from tests.blackbox import octets as o
from tests.blackbox.bench import Bench, Cable
from tests.blackbox.correspondent import NODE, Correspondent, MobileNode
from tests.support.requirement import requirement


@pytest.fixture(scope="module")
def correspondent() -> Iterator[Correspondent]:
    bench = Bench.build(Cable("eth0", (f"{NODE}/64",), "2001:db8:c::1"))
    try:
        bench.start_daemon({"role": "correspondent", "correspondent": {"interfaces": ["eth0"]}})
        yield Correspondent(bench)
    finally:
        bench.close()


@pytest.fixture
def mobile(correspondent: Correspondent) -> MobileNode:
    """A mobile node that nobody has met."""
    return correspondent.mobile_node()


# Return routability (RFC 6275 5.2, 9.4)


@requirement("RFC6275-9.4.1", "CN-16", "FMT-05", "FMT-07")
def test_home_test_init_is_answered_at_the_home_address(mobile: MobileNode) -> None:
    cookie = os.urandom(8)
    mobile.send(o.home_test_init(cookie), mobile.home_address)
    answer = mobile.tester.expect(lambda seen: seen.message.kind == o.HOME_TEST)
    assert (answer.source, answer.destination) == (NODE, mobile.home_address)
    assert answer.header_numbers == (o.MOBILITY,)
    assert answer.checksum_is_good
    message = answer.message
    assert (message.header_length, message.payload_protocol, message.reserved) == (2, 59, 0)
    assert message.cookie == cookie
