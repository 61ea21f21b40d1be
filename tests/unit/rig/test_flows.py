"""Which way flows went, told from made-up captures."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from mnagent.rig.capture import CapturedFrame
from mnagent.rig.checks import Check
from mnagent.rig.flows import (
    PING,
    Observation,
    Places,
    Route,
    Stay,
    check_flows,
    check_never,
    check_tests,
    follow,
    observe,
)
from mnagent.rig.keyfile import Association

HOME_ADDRESS = IPv6Address("2001:db8:1::10")
HOME_AGENT = IPv6Address("2001:db8:1::1")
CARE_OF_ADDRESS = IPv6Address("2001:db8:a::99")
PEER = IPv6Address("2001:db8:c::2")
STAY = Stay(link="link-a", prefix=IPv6Network("2001:db8:a::/64"), begin=10.0, end=20.0)
KEY = bytes(range(16))
SPI = 1003
ASSOCIATION = Association(
    "return_routability", True, SPI, "aes-cbc-hmac-sha256-128", KEY.hex(), "11" * 32
)
NONE, IPV6, ROUTING, ESP, ICMPV6, OPTIONS, MOBILITY, TCP = 59, 41, 43, 50, 58, 60, 135, 6


def packet(source: IPv6Address, destination: IPv6Address, protocol: int, payload: bytes) -> bytes:
    header = bytes([0x60, 0, 0, 0]) + len(payload).to_bytes(2, "big") + bytes([protocol, 64])
    return header + source.packed + destination.packed + payload


def frame(octets: bytes, at: float = 0.0) -> CapturedFrame:
    return CapturedFrame(at, bytes(12) + b"\x86\xdd" + octets)


def echo(sequence: int, kind: int = 128) -> bytes:
    return bytes([kind, 0, 0, 0, 0, 1]) + sequence.to_bytes(2, "big")


def option(next_header: int) -> bytes:
    """A Destination Options header with padding and a Home Address option."""
    return bytes([next_header, 2, 1, 2, 0, 0, 0xC9, 16]) + HOME_ADDRESS.packed


def routing(next_header: int) -> bytes:
    return bytes([next_header, 2, 2, 1, 0, 0, 0, 0]) + HOME_ADDRESS.packed


def under_esp(content: bytes) -> bytes:
    padding = -(len(content) + 2) % 16
    plain = content + bytes(range(1, padding + 1)) + bytes([padding, IPV6])
    vector = bytes(16)
    encryptor = Cipher(algorithms.AES(KEY), modes.CBC(vector)).encryptor()
    sealed = encryptor.update(plain) + encryptor.finalize()
    return SPI.to_bytes(4, "big") + bytes(4) + vector + sealed + bytes(16)


PLAIN_OUT = packet(HOME_ADDRESS, PEER, ICMPV6, echo(7))
TUNNELLED_OUT = packet(CARE_OF_ADDRESS, HOME_AGENT, IPV6, PLAIN_OUT)
DIRECT_OUT = packet(CARE_OF_ADDRESS, PEER, OPTIONS, option(ICMPV6) + echo(7))
PLAIN_IN = packet(PEER, HOME_ADDRESS, ICMPV6, echo(7, 129))
DIRECT_IN = packet(PEER, CARE_OF_ADDRESS, ROUTING, routing(ICMPV6) + echo(7, 129))


def one(octets: bytes) -> Observation:
    (found,) = observe([frame(octets)], [ASSOCIATION])
    return found


@pytest.mark.parametrize(
    ("octets", "route"),
    [
        (PLAIN_OUT, Route.PLAIN),
        (TUNNELLED_OUT, Route.TUNNEL),
        (packet(CARE_OF_ADDRESS, HOME_AGENT, ESP, under_esp(PLAIN_OUT)), Route.PROTECTED_TUNNEL),
        (DIRECT_OUT, Route.DIRECT),
    ],
)
def test_observation_of_a_packet_is_the_same_packet_on_any_route(
    octets: bytes, route: Route
) -> None:
    found = one(octets)
    assert (found.what, found.source, found.destination) == (PING, HOME_ADDRESS, PEER)
    assert found.route is route
    assert found.identity == one(PLAIN_OUT).identity


def test_observation_of_a_routing_header_restores_the_destination() -> None:
    found = one(DIRECT_IN)
    assert (found.source, found.destination) == (PEER, HOME_ADDRESS)
    assert found.outer_destination == CARE_OF_ADDRESS
    assert found.identity == one(PLAIN_IN).identity


def test_observation_of_esp_without_its_keys_is_none() -> None:
    sealed = packet(CARE_OF_ADDRESS, HOME_AGENT, ESP, under_esp(PLAIN_OUT))
    assert observe([frame(sealed)], []) == []


def test_observation_of_what_no_flow_carries_is_none() -> None:
    other = packet(HOME_ADDRESS, PEER, TCP, bytes(20))
    solicitation = packet(HOME_ADDRESS, PEER, ICMPV6, bytes([135, 0, 0, 0]))
    assert observe([frame(other), frame(solicitation), frame(packet(PEER, PEER, NONE, b""))]) == []


def out(sequence: int, wrap: str) -> bytes:
    inner = packet(HOME_ADDRESS, PEER, ICMPV6, echo(sequence))
    return {
        "plain": inner,
        "tunnel": packet(CARE_OF_ADDRESS, HOME_AGENT, IPV6, inner),
        "direct": packet(CARE_OF_ADDRESS, PEER, OPTIONS, option(ICMPV6) + echo(sequence)),
    }[wrap]


def back(sequence: int, wrap: str) -> bytes:
    inner = packet(PEER, HOME_ADDRESS, ICMPV6, echo(sequence, 129))
    return {
        "plain": inner,
        "tunnel": packet(HOME_AGENT, CARE_OF_ADDRESS, IPV6, inner),
        "direct": packet(PEER, CARE_OF_ADDRESS, ROUTING, routing(ICMPV6) + echo(sequence, 129)),
    }[wrap]


class Story:
    """Frames at the three places; round trips of 100 ms by the home agent, 40 ms directly."""

    def __init__(self) -> None:
        self.link: list[CapturedFrame] = []
        self.peer: list[CapturedFrame] = []
        self.home: list[CapturedFrame] = []

    def by_home_agent(self, sequence: int, at: float) -> None:
        self.link.append(frame(out(sequence, "tunnel"), at))
        self.home.append(frame(out(sequence, "tunnel"), at + 0.02))
        self.home.append(frame(out(sequence, "plain"), at + 0.04))
        self.peer.append(frame(out(sequence, "plain"), at + 0.05))
        self.peer.append(frame(back(sequence, "plain"), at + 0.05))
        self.home.append(frame(back(sequence, "plain"), at + 0.06))
        self.home.append(frame(back(sequence, "tunnel"), at + 0.08))
        self.link.append(frame(back(sequence, "tunnel"), at + 0.1))

    def directly(self, sequence: int, at: float) -> None:
        self.link.append(frame(out(sequence, "direct"), at))
        self.peer.append(frame(out(sequence, "direct"), at + 0.02))
        self.peer.append(frame(back(sequence, "direct"), at + 0.02))
        self.link.append(frame(back(sequence, "direct"), at + 0.04))

    def places(self) -> Places:
        return Places(
            node=HOME_ADDRESS,
            peer=PEER,
            links={"link-a": observe(sorted(self.link, key=lambda f: f.at))},
            at_peer=observe(sorted(self.peer, key=lambda f: f.at)),
            at_home_agent=observe(sorted(self.home, key=lambda f: f.at)),
        )


def failed(checks: list[Check]) -> list[str]:
    return [check.claim for check in checks if not check.held]


@pytest.fixture
def story() -> Story:
    story = Story()
    story.by_home_agent(1, 10.1)
    story.by_home_agent(2, 10.2)
    story.directly(3, 10.3)
    story.directly(4, 10.4)
    return story


def test_flow_that_leaves_the_tunnel_is_direct_with_both_round_trips(story: Story) -> None:
    (flow,) = follow(story.places(), [STAY], [PING])
    assert flow.as_record() == {
        "flow": "ping",
        "path": "direct",
        "rtt_via_home_agent_ms": 100.0,
        "rtt_direct_ms": 40.0,
        "packets_at_home_agent_after_switch": 0,
        "stays": [
            {
                "link": "link-a",
                "path": "direct",
                "rtt_via_home_agent_ms": 100.0,
                "rtt_direct_ms": 40.0,
                "packets_at_home_agent_after_switch": 0,
                "packets_tunnelled_out": 2,
                "packets_direct_out": 2,
                "packets_direct_in": 2,
            }
        ],
    }
    assert failed(check_flows([flow])) == []


def test_flow_packet_in_the_tunnel_after_the_switch_is_counted_once(story: Story) -> None:
    story.by_home_agent(5, 10.5)
    story.directly(6, 10.6)
    (flow,) = follow(story.places(), [STAY], [PING])
    # Out and back: two packets.
    assert flow.at_home_agent_after_switch == 2
    claim = "no payload packet visited the home agent after the switch"
    assert failed(check_flows([flow])) == [claim]


def test_flow_packet_sent_before_the_switch_and_seen_after_it_is_not_counted(story: Story) -> None:
    story.link.append(frame(out(9, "tunnel"), 10.29))
    story.home.append(frame(out(9, "plain"), 10.33))
    (flow,) = follow(story.places(), [STAY], [PING])
    assert flow.at_home_agent_after_switch == 0


def test_flow_packet_nobody_saw_leave_is_counted_when_it_comes_late(story: Story) -> None:
    story.home.append(frame(out(50, "plain"), 11.0))
    (flow,) = follow(story.places(), [STAY], [PING])
    assert flow.at_home_agent_after_switch == 1


def test_flow_that_stays_in_the_tunnel_goes_by_the_home_agent() -> None:
    story = Story()
    story.by_home_agent(1, 10.1)
    (flow,) = follow(story.places(), [STAY], [PING])
    record = flow.as_record()
    assert record["path"] == "home-agent"
    assert record["rtt_direct_ms"] is None
    assert record["packets_at_home_agent_after_switch"] is None
    assert len(failed(check_flows([flow]))) == 4


def test_never_holds_when_all_visited_the_home_agent() -> None:
    story = Story()
    story.by_home_agent(1, 10.1)
    assert failed(check_never(story.places(), [STAY])) == []


def test_never_finds_direct_packets_and_those_that_missed_the_home_agent(story: Story) -> None:
    story.link.append(frame(packet(CARE_OF_ADDRESS, PEER, MOBILITY, bytes([59, 1, 2, 0])), 10.2))
    assert failed(check_never(story.places(), [STAY])) == [
        "no packet went directly",
        "no test and no Binding Update was sent to the correspondent",
        "every packet between node and correspondent visited the home agent",
    ]


def judge_tests(*octets: bytes, protected: bool) -> list[str]:
    frames = [frame(item, 11.0) for item in octets]
    places = Places(
        node=HOME_ADDRESS,
        peer=PEER,
        links={"link-a": observe(frames, [ASSOCIATION])},
        at_peer=[],
        at_home_agent=[],
    )
    return failed(check_tests(places, [STAY], protected=protected))


def message(kind: int) -> bytes:
    return bytes([NONE, 1, kind, 0]) + bytes(12)


INIT = packet(HOME_ADDRESS, PEER, MOBILITY, message(1))
HOME_TEST = packet(PEER, HOME_ADDRESS, MOBILITY, message(3))
HOME_CLAIM = "Home Tests and their Inits went through {}, and nowhere else"


def test_home_tests_in_the_tunnel_hold() -> None:
    tunnelled = [packet(CARE_OF_ADDRESS, HOME_AGENT, IPV6, item) for item in (INIT, HOME_TEST)]
    sealed = [
        packet(CARE_OF_ADDRESS, HOME_AGENT, ESP, under_esp(item)) for item in (INIT, HOME_TEST)
    ]
    assert judge_tests(*tunnelled, protected=False) == []
    assert judge_tests(*sealed, protected=True) == []
    assert judge_tests(*tunnelled, protected=True) == [
        HOME_CLAIM.format("the tunnel under ESP"),
    ]


def test_home_tests_outside_the_tunnel_or_never_sent_are_found() -> None:
    assert judge_tests(INIT, HOME_TEST, protected=False) == [HOME_CLAIM.format("the tunnel")]
    assert judge_tests(protected=False) == [HOME_CLAIM.format("the tunnel")]


def test_care_of_test_with_a_home_address_option_is_found() -> None:
    wrong = packet(CARE_OF_ADDRESS, PEER, OPTIONS, option(MOBILITY) + message(2))
    assert judge_tests(wrong, protected=False)[-1].startswith("Care-of Tests")
