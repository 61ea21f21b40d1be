"""What the demo's checks make of captured frames."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

from mnagent.rig.capture import CapturedFrame
from mnagent.rig.checks import Check, LinkSummary, check_captures, outer_packets, summarize
from mnagent.rig.keyfile import Association

HOME_ADDRESS = IPv6Address("2001:db8:1::10")
HOME_AGENT = IPv6Address("2001:db8:1::1")
CARE_OF_ADDRESS = IPv6Address("2001:db8:a::99")
PEER = IPv6Address("2001:db8:c::2")
FOREIGN = {"link-a": IPv6Network("2001:db8:a::/64")}
UPDATE_SPI, ACKNOWLEDGEMENT_SPI, OUT_SPI, IN_SPI = 1001, 1002, 1003, 1004
# A Destination Options header (24 octets) with a Home Address option, before ESP.
HOME_ADDRESS_OPTION = bytes([50, 2, 1, 2, 0, 0, 0xC9, 16]) + HOME_ADDRESS.packed


def frame(
    source: IPv6Address, destination: IPv6Address, protocol: int, payload: bytes
) -> CapturedFrame:
    header = bytes([0x60, 0, 0, 0]) + len(payload).to_bytes(2, "big") + bytes([protocol, 64])
    packet = header + source.packed + destination.packed + payload
    return CapturedFrame(0.0, bytes(12) + b"\x86\xdd" + packet)


def esp(spi: int) -> bytes:
    return spi.to_bytes(4, "big") + bytes(28)


def association(purpose: str, outbound: bool, spi: int) -> Association:
    return Association(purpose, outbound, spi, "aes-cbc-hmac-sha256-128", "00", "11")


ASSOCIATIONS = [
    association("binding", True, UPDATE_SPI),
    association("binding", False, ACKNOWLEDGEMENT_SPI),
    association("payload", True, OUT_SPI),
    association("payload", False, IN_SPI),
]
GOOD_FRAMES = [
    frame(CARE_OF_ADDRESS, HOME_AGENT, 60, HOME_ADDRESS_OPTION + esp(UPDATE_SPI)),
    frame(HOME_AGENT, CARE_OF_ADDRESS, 43, bytes([50, 2, 2, 1]) + bytes(20) + esp(1002)),
    frame(CARE_OF_ADDRESS, HOME_AGENT, 41, bytes(40)),
    frame(HOME_AGENT, CARE_OF_ADDRESS, 41, bytes(40)),
]


def judge(frames: list[CapturedFrame], payload_protection: str = "none") -> list[str]:
    summary = summarize(frames, home_address=HOME_ADDRESS, home_agent=HOME_AGENT)
    checks = check_captures(
        {"link-a": summary},
        foreign=FOREIGN,
        associations=ASSOCIATIONS,
        payload_protection=payload_protection,
    )
    return [check.claim for check in checks if not check.held]


def test_outer_packets_walks_extension_headers_to_esp() -> None:
    packets = list(outer_packets(GOOD_FRAMES[:1]))
    assert [packet.spi for packet in packets] == [UPDATE_SPI]


def test_outer_packets_skips_what_is_not_ipv6() -> None:
    assert not list(outer_packets([CapturedFrame(0.0, bytes(12) + b"\x08\x00" + bytes(40))]))


def test_summary_counts_both_directions_of_the_tunnel() -> None:
    summary = summarize(GOOD_FRAMES, home_address=HOME_ADDRESS, home_agent=HOME_AGENT)
    assert (summary.tunnelled[True], summary.tunnelled[False]) == (1, 1)
    assert summary.protected == {UPDATE_SPI: 1, ACKNOWLEDGEMENT_SPI: 1}


def test_checks_of_a_good_capture_all_hold() -> None:
    assert judge(GOOD_FRAMES) == []


def test_checks_find_a_mobility_message_in_the_clear() -> None:
    clear = frame(CARE_OF_ADDRESS, HOME_AGENT, 135, bytes(12))
    assert judge([*GOOD_FRAMES, clear]) == ["no mobility message outside ESP on any link"]


def test_checks_find_the_home_address_in_the_clear() -> None:
    clear = frame(HOME_ADDRESS, PEER, 58, bytes([128, 0, 0, 0]))
    assert judge([*GOOD_FRAMES, clear]) == [
        "no packet from or to the home address outside the tunnel"
    ]


def test_checks_forgive_neighbour_discovery_from_the_home_address() -> None:
    solicitation = frame(HOME_ADDRESS, PEER, 58, bytes([135, 0, 0, 0]) + bytes(20))
    assert judge([*GOOD_FRAMES, solicitation]) == []


def test_checks_find_a_kernel_that_answered_mobility_with_an_error() -> None:
    problem = frame(HOME_AGENT, CARE_OF_ADDRESS, 58, bytes([4, 1, 0, 0]) + bytes(4))
    assert judge([*GOOD_FRAMES, problem]) == ["no ICMPv6 Parameter Problem on any link"]


def test_checks_miss_what_never_came() -> None:
    assert judge([]) == [
        "Binding Updates and Acknowledgements under ESP on each foreign link",
        "payload through the tunnel, both ways, on each foreign link",
    ]


def test_checks_of_protected_payload_want_esp_and_no_plain_tunnel() -> None:
    protected = [
        *GOOD_FRAMES[:2],
        frame(CARE_OF_ADDRESS, HOME_AGENT, 50, esp(OUT_SPI)),
        frame(HOME_AGENT, CARE_OF_ADDRESS, 50, esp(IN_SPI)),
    ]
    assert judge(protected, "esp") == []
    assert judge(GOOD_FRAMES, "esp") == [
        "no plain tunnel on link-a",
        "payload through the tunnel, both ways, on each foreign link",
    ]


def test_check_of_nothing_found_has_no_detail() -> None:
    checks = check_captures(
        {"link-a": LinkSummary()}, foreign={}, associations=ASSOCIATIONS, payload_protection="none"
    )
    assert checks[0] == Check("no mobility message outside ESP on any link", True)
