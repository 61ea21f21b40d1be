"""Each rule of the watch: what breaks it, and what looks like it but does not."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Address

import pytest

from mnagent.rig.soak import watch
from mnagent.rig.soak.attacks import home_address_option, ipv6, mobility, type_2_routing
from mnagent.rig.soak.watch import MARKER, Judge, Orders

HOME_ADDRESS = IPv6Address("2001:db8:1::10")
HOME_AGENT = IPv6Address("2001:db8:1::1")
CARE_OF = IPv6Address("2001:db8:a::99")
PEER = IPv6Address("2001:db8:c::2")
VICTIM = IPv6Address("2001:db8:b::dead")
MOBILE, AGENT, CORRESPONDENT, ROUTER = (f"02:00:00:00:00:0{n}" for n in range(1, 5))
PAYLOAD_SPI, BINDING_SPI = 2001, 1001
UDP, ESP, TUNNEL, ICMP, MOBILITY, ROUTING, OPTIONS = 17, 50, 41, 58, 135, 43, 60
UPDATE, ACKNOWLEDGEMENT, HOME_TEST_INIT, HOME_TEST, ERROR = 5, 6, 1, 3, 7


def orders(*, protects_payload: bool = False) -> Orders:
    return Orders(
        home_address=str(HOME_ADDRESS),
        home_agent=str(HOME_AGENT),
        home_prefix="2001:db8:1::/64",
        victim=str(VICTIM),
        foreign={"link-a": "2001:db8:a::/64"},
        mobile_node=(MOBILE,),
        agents=(AGENT,),
        correspondent=(CORRESPONDENT,),
        payload_spis=(PAYLOAD_SPI,),
        is_payload_protected=protects_payload,
        are_tests_protected=True,
    )


def frame(sender: str, packet: bytes) -> bytes:
    return bytes(6) + bytes.fromhex(sender.replace(":", "")) + b"\x86\xdd" + packet


def broken(
    *sent: tuple[str, bytes], link: str = "link-a", protects_payload: bool = False
) -> list[str]:
    """The rules broken, by all frames one after another."""
    judge = Judge(orders(protects_payload=protects_payload))
    found: Iterable[watch.Violation] = (
        violation
        for sender, packet in sent
        for violation in judge.judge(link, frame(sender, packet), 0.0)
    )
    return [violation.rule for violation in found]


def message(source: IPv6Address, destination: IPv6Address, kind: int) -> bytes:
    return ipv6(source, destination, MOBILITY, mobility(source, destination, kind, bytes(10)))


def tunnelled(inner: bytes, source: IPv6Address = CARE_OF) -> bytes:
    return ipv6(source, HOME_AGENT, TUNNEL, inner)


VISIT = (MOBILE, ipv6(CARE_OF, PEER, UDP, bytes(8)))
"""The mobile node uses its care-of address: it may be sent to from now on."""
ESP_PACKET = BINDING_SPI.to_bytes(4, "big") + bytes(40)


def test_home_address_as_source_on_a_foreign_link_is_a_violation() -> None:
    packet = ipv6(HOME_ADDRESS, PEER, UDP, bytes(8))
    assert broken((MOBILE, packet)) == [watch.HOME_SOURCE]
    assert broken((MOBILE, packet), link="home") == []


def test_home_address_in_option_or_tunnel_or_sent_by_others_is_none() -> None:
    packet = ipv6(HOME_ADDRESS, PEER, UDP, bytes(8))
    option = home_address_option(HOME_ADDRESS, UDP) + bytes(8)
    assert broken((MOBILE, ipv6(CARE_OF, PEER, OPTIONS, option))) == []
    assert broken((MOBILE, tunnelled(packet))) == []
    assert broken((ROUTER, packet)) == []


def test_neighbour_discovery_from_the_home_address_is_counted_apart() -> None:
    judge = Judge(orders())
    packet = ipv6(HOME_ADDRESS, PEER, ICMP, bytes([135, 0, 0, 0]) + bytes(20))
    assert list(judge.judge("link-a", frame(MOBILE, packet), 0.0)) == []
    assert judge.neighbour_discovery == 1


@pytest.mark.parametrize("kind", [UPDATE, HOME_TEST_INIT])
def test_mobility_message_to_the_home_agent_in_the_clear_is_a_violation(kind: int) -> None:
    assert broken((MOBILE, message(CARE_OF, HOME_AGENT, kind))) == [watch.MOBILITY_CLEAR]
    assert broken((MOBILE, message(CARE_OF, PEER, kind))) == []


def test_acknowledgement_of_the_home_agent_in_the_clear_is_a_violation() -> None:
    answer = (AGENT, message(HOME_AGENT, CARE_OF, ACKNOWLEDGEMENT))
    assert broken(VISIT, answer) == [watch.MOBILITY_CLEAR]


@pytest.mark.parametrize("kind", [HOME_TEST, ERROR, ACKNOWLEDGEMENT])
def test_home_agent_answering_a_stranger_is_none(kind: int) -> None:
    assert broken((AGENT, message(HOME_AGENT, PEER, kind))) == []


def test_forged_message_that_the_home_agent_passes_on_is_none() -> None:
    forged = message(HOME_AGENT, HOME_ADDRESS, ACKNOWLEDGEMENT)
    passed_on = forged[:7] + b"\x3e" + forged[8:]
    assert broken((AGENT, passed_on), link="home") == []
    assert broken((AGENT, forged), link="home") == [watch.MOBILITY_CLEAR]


def test_mobility_message_under_esp_is_none() -> None:
    option = home_address_option(HOME_ADDRESS, ESP) + ESP_PACKET
    assert broken((MOBILE, ipv6(CARE_OF, HOME_AGENT, OPTIONS, option))) == []


@pytest.mark.parametrize("kind", [146, 147])
def test_prefix_discovery_in_the_clear_is_a_violation(kind: int) -> None:
    packet = ipv6(CARE_OF, HOME_AGENT, ICMP, bytes([kind]) + bytes(20))
    assert broken((MOBILE, packet)) == [watch.DISCOVERY_CLEAR]


def test_home_test_in_the_plain_tunnel_is_a_violation() -> None:
    packet = tunnelled(message(HOME_ADDRESS, PEER, HOME_TEST_INIT))
    assert broken((MOBILE, packet)) == [watch.TESTS_CLEAR]


def test_plain_tunnel_is_a_violation_where_payload_is_protected() -> None:
    packet = tunnelled(ipv6(HOME_ADDRESS, PEER, UDP, bytes(8)))
    assert broken((MOBILE, packet), protects_payload=True) == [watch.PAYLOAD_CLEAR]
    assert broken((MOBILE, packet)) == []


def test_anything_sent_to_the_victim_is_a_violation() -> None:
    packet = ipv6(PEER, VICTIM, UDP, bytes(8))
    assert broken((CORRESPONDENT, packet)) == [watch.REFLECTED]
    assert broken((ROUTER, packet)) == []


def test_attackers_payload_is_a_violation_unless_quoted_in_an_error() -> None:
    echo = ipv6(PEER, HOME_ADDRESS, ICMP, bytes([129, 0, 0, 0]) + MARKER)
    error = ipv6(PEER, CARE_OF, ICMP, bytes([1, 0, 0, 0]) + MARKER)
    assert broken((CORRESPONDENT, echo)) == [watch.EMERGED]
    assert broken((CORRESPONDENT, error)) == []


@pytest.mark.parametrize(
    ("sender", "packet"),
    [
        (AGENT, ipv6(HOME_AGENT, CARE_OF, TUNNEL, ipv6(PEER, HOME_ADDRESS, UDP, bytes(8)))),
        (AGENT, ipv6(HOME_AGENT, CARE_OF, ESP, PAYLOAD_SPI.to_bytes(4, "big") + bytes(40))),
        (
            CORRESPONDENT,
            ipv6(PEER, CARE_OF, ROUTING, type_2_routing(HOME_ADDRESS, UDP) + bytes(8)),
        ),
    ],
    ids=["tunnel", "protected tunnel", "direct"],
)
def test_packets_for_the_node_go_only_where_it_has_been(sender: str, packet: bytes) -> None:
    assert broken((sender, packet)) == [watch.MISDIRECTED]
    assert broken(VISIT, (sender, packet)) == []


def test_answer_to_a_forged_update_goes_where_that_came_from() -> None:
    answer = mobility(PEER, HOME_ADDRESS, ACKNOWLEDGEMENT, bytes(6))
    routed = type_2_routing(HOME_ADDRESS, MOBILITY) + answer
    assert broken((CORRESPONDENT, ipv6(PEER, CARE_OF, ROUTING, routed))) == []


def test_frame_that_is_cut_or_no_ipv6_is_passed_over() -> None:
    assert broken((MOBILE, ipv6(CARE_OF, PEER, OPTIONS, b""))) == []
    short_option = bytes([UDP, 0, 0xC9, 3]) + bytes(4)
    assert broken((MOBILE, ipv6(CARE_OF, PEER, OPTIONS, short_option))) == []
    judge = Judge(orders())
    arp = bytes(6) + bytes.fromhex(MOBILE.replace(":", "")) + b"\x08\x06" + bytes(28)
    assert list(judge.judge("link-a", arp, 0.0)) == []
