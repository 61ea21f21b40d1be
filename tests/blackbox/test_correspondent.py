"""The correspondent node, as mobile nodes and attackers see it."""

from __future__ import annotations

import itertools
import os
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv6Address

import pytest

from tests.blackbox import octets as o
from tests.blackbox.bench import Bench, Cable
from tests.blackbox.correspondent import (
    NODE,
    STRANGER,
    Correspondent,
    MobileNode,
    is_echo_reply,
    is_icmp_error,
)
from tests.blackbox.tester import TESTER_MAC
from tests.support.requirement import requirement

MAX_RR_BINDING_LIFETIME = 420
SEQUENCE_PAIRS_NEWER = [(15, 16), (15, 32782), (32783, 32784), (32783, 14)]
"""The last number and the 32768 before it are old (section 9.5.1: after 15, 32783 is old)."""
SEQUENCE_PAIRS_OLD = [
    (15, 15),
    (15, 14),
    (15, 32783),
    (32783, 32783),
    (32783, 32782),
    (32783, 15),
]


@pytest.fixture(scope="module")
def correspondent() -> Iterator[Correspondent]:
    """One daemon for all tests of this module."""
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


@requirement("RFC6275-9.4.1", "CN-16", "FMT-01", "FMT-05", "FMT-07")
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


@requirement("RFC6275-9.4.2", "CN-17", "FMT-01", "FMT-06", "FMT-08")
def test_care_of_test_init_is_answered_at_the_care_of_address(mobile: MobileNode) -> None:
    cookie = os.urandom(8)
    mobile.send(o.care_of_test_init(cookie), mobile.care_of_address)
    answer = mobile.tester.expect(lambda seen: seen.message.kind == o.CARE_OF_TEST)
    assert (answer.source, answer.destination) == (NODE, mobile.care_of_address)
    assert answer.checksum_is_good
    assert (answer.message.header_length, answer.message.payload_protocol) == (2, 59)
    assert answer.message.cookie == cookie


@requirement("RFC6275-5.2.2", "CN-16", "CN-17")
def test_tokens_of_home_and_care_of_test_for_one_address_differ(mobile: MobileNode) -> None:
    home, care_of = mobile.home_test(), mobile.care_of_test(mobile.home_address)
    assert home.nonce_index == care_of.nonce_index
    assert home.token != care_of.token
    assert mobile.home_test().token == home.token


@requirement("RFC6275-9.4.1", "CN-18", "CN-19")
@pytest.mark.parametrize("init", [o.home_test_init, o.care_of_test_init])
def test_test_init_with_home_address_option_is_ignored(mobile: MobileNode, init) -> None:
    mobile.send(init(bytes(8)), mobile.care_of_address, mobile.home_address_option)
    mobile.is_silent()


@requirement("RFC6275-9.4.1", "CN-20", "FMT-29", "RR-12")
def test_home_test_with_a_binding_goes_to_the_home_address_plainly(mobile: MobileNode) -> None:
    mobile.bind()
    mobile.send(o.home_test_init(bytes(8)), mobile.home_address)
    answer = mobile.tester.expect(lambda seen: seen.message.kind == o.HOME_TEST)
    assert answer.destination == mobile.home_address
    assert answer.header_numbers == (o.MOBILITY,)


@requirement("RFC6275-6.1.1", "FMT-03")
def test_reserved_field_is_ignored(mobile: MobileNode) -> None:
    message = o.mobility(o.CARE_OF_TEST_INIT, bytes(10), reserved=0xFF)
    mobile.send(message, mobile.care_of_address)
    mobile.tester.expect(lambda seen: seen.message.kind == o.CARE_OF_TEST)


@requirement("RFC6275-6.2.2", "FMT-13", "MHP-07")
@pytest.mark.parametrize(
    "extra",
    [bytes(8), b"\1\6" + b"\xff" * 6, b"\1\0\0\1\3" + b"\xff" * 3, b"\1\x0e" + b"\xaa" * 14],
    ids=["Pad1", "PadN", "mixed", "long"],
)
def test_padding_of_any_kind_and_content_is_skipped(mobile: MobileNode, extra: bytes) -> None:
    mobile.send(o.mobility(o.CARE_OF_TEST_INIT, bytes(10) + extra), mobile.care_of_address)
    mobile.tester.expect(lambda seen: seen.message.kind == o.CARE_OF_TEST)


# Mobility Headers that are wrong (RFC 6275 9.2, 9.3.3)


@requirement("RFC6275-9.2", "MHP-01", "FMT-02")
@pytest.mark.parametrize("kind", [o.HOME_TEST_INIT, o.BINDING_UPDATE, o.UNKNOWN_MESSAGE])
def test_wrong_checksum_is_discarded_silently(mobile: MobileNode, kind: int) -> None:
    mobile.send(o.mobility(kind, bytes(10)), mobile.care_of_address, good_checksum=False)
    mobile.is_silent()


@requirement("RFC6275-9.2", "MHP-02", "FMT-11", "EXT-15")
@pytest.mark.parametrize("kind", [8, 9, 10, 14, 15, o.UNKNOWN_MESSAGE])
def test_unknown_message_is_answered_with_binding_error(mobile: MobileNode, kind: int) -> None:
    mobile.send(o.mobility(kind, bytes(10)), mobile.care_of_address)
    answer = mobile.tester.expect(mobile.is_error)
    assert answer.destination == mobile.care_of_address
    assert answer.header_numbers == (o.MOBILITY,)
    assert answer.checksum_is_good
    message = answer.message
    assert (message.status, message.home_address) == (2, o.UNSPECIFIED)
    assert (message.header_length, message.payload_protocol) == (2, 59)


@requirement("RFC6275-9.3.3", "MHP-03", "FMT-02")
def test_unknown_message_with_home_address_is_answered_at_the_source(mobile: MobileNode) -> None:
    message = o.mobility(o.UNKNOWN_MESSAGE, bytes(10))
    mobile.send(message, mobile.care_of_address, mobile.home_address_option)
    answer = mobile.tester.expect(mobile.is_error)
    assert answer.destination == mobile.care_of_address
    assert (answer.message.status, answer.message.home_address) == (2, mobile.home_address)


@requirement("RFC6275-9.2", "MHP-04", "MHP-05")
@pytest.mark.parametrize(
    ("message", "pointer"),
    [
        (o.mobility(o.HOME_TEST_INIT, bytes(10), payload_protocol=58) + bytes(8), 0),
        (o.mobility(o.HOME_TEST_INIT, bytes(2)), 1),
        (o.mobility(o.BINDING_UPDATE, bytes(2)), 1),
    ],
    ids=["piggybacked", "short-home-test-init", "short-binding-update"],
)
@pytest.mark.parametrize("has_option", [False, True])
def test_malformed_message_gets_parameter_problem_at_the_source(
    mobile: MobileNode, message: bytes, pointer: int, has_option: bool
) -> None:
    headers = (mobile.home_address_option,) if has_option else ()
    mobile.send(message, mobile.care_of_address, *headers)
    answer = mobile.tester.expect(is_icmp_error)
    assert answer.destination == mobile.care_of_address
    assert answer.header_numbers == (o.ICMP,)
    assert answer.payload[:2] == bytes([o.PARAMETER_PROBLEM, 0])
    mobility_header_at = 64 if has_option else 40
    assert struct.unpack_from("!I", answer.payload, 4)[0] == mobility_header_at + pointer


@requirement("RFC6275-9.2", "MHP-06", "FMT-14")
@pytest.mark.parametrize("length", [3, 31, 255])
def test_message_longer_than_what_arrived_changes_nothing(mobile: MobileNode, length: int) -> None:
    message = o.mobility(o.HOME_TEST_INIT, bytes(10), header_length=length)
    mobile.send(message, mobile.home_address)
    mobile.refuses(lambda seen: seen.message.kind == o.HOME_TEST)


@requirement("RFC6275-6.2.1", "FMT-14", "OPS-06")
@pytest.mark.parametrize("option", [b"\3\xff", b"\4\7\0\0", b"\x63\x20abcd"])
def test_option_beyond_the_end_is_discarded(mobile: MobileNode, option: bytes) -> None:
    body = struct.pack("!HHH", 1, o.ACKNOWLEDGE, 100)
    mobile.send_update(o.mobility(o.BINDING_UPDATE, body + option))
    mobile.refuses(mobile.is_acknowledgement)
    assert not mobile.is_bound()


@requirement("RFC6275-9.3.3", "MHP-08", "CN-54")
@pytest.mark.parametrize("source", ["::", "ff02::1", "ff0e::1"])
def test_no_error_goes_to_a_source_that_is_no_unicast_address(
    mobile: MobileNode, source: str
) -> None:
    mobile.send(o.mobility(o.UNKNOWN_MESSAGE, bytes(10)), IPv6Address(source))
    mobile.refuses(lambda seen: mobile.is_error(seen) or seen.destination.is_multicast)


@requirement("RFC6275-9.3.3", "MHP-09")
def test_flood_of_unknown_messages_is_answered_at_a_limited_rate(mobile: MobileNode) -> None:
    message = o.packet(mobile.care_of_address, NODE, o.mobility(o.UNKNOWN_MESSAGE, bytes(10)))
    began = time.monotonic()
    mobile.tester.send(*[message] * 1000)
    mobile.barrier()
    took = time.monotonic() - began
    assert 1 <= len(mobile.tester.came(mobile.is_error)) <= 10 + 10 * (took + 1)


@requirement("RFC6275-9.3.3", "MHP-10")
@pytest.mark.parametrize("status", [1, 2, 77])
def test_binding_error_is_never_answered(mobile: MobileNode, status: int) -> None:
    mobile.send(o.binding_error(status, mobile.home_address), mobile.care_of_address)
    mobile.is_silent()


# Packets with the Home Address option (RFC 6275 6.3, 9.3.1)


@requirement("RFC6275-9.3.1", "CN-02", "CN-10", "FMT-19", "FMT-22")
def test_packets_of_a_binding_carry_the_home_address_both_ways(mobile: MobileNode) -> None:
    mobile.bind()
    mobile.echo(mobile.home_address_option, source=mobile.care_of_address)
    reply = mobile.tester.expect(is_echo_reply)
    assert (reply.source, reply.destination) == (NODE, mobile.care_of_address)
    assert reply.routed_to == mobile.home_address
    assert reply.header_numbers == (o.ROUTING, o.ICMP)
    assert reply.headers[0][1][1:8] == bytes([2, 2, 1, 0, 0, 0, 0])
    assert reply.checksum_is_good


@requirement("RFC6275-9.3.1", "CN-03")
def test_home_address_without_a_binding_is_answered_with_binding_error(mobile: MobileNode) -> None:
    mobile.echo(mobile.home_address_option, source=mobile.care_of_address)
    answer = mobile.tester.expect(mobile.is_error)
    assert answer.destination == mobile.care_of_address
    assert answer.header_numbers == (o.MOBILITY,)
    assert (answer.message.status, answer.message.home_address) == (1, mobile.home_address)
    mobile.refuses(is_echo_reply)


@requirement("RFC6275-9.3.1", "CN-04")
def test_home_address_from_another_care_of_address_is_answered_with_binding_error(
    mobile: MobileNode,
) -> None:
    mobile.bind()
    mobile.echo(mobile.home_address_option, source=mobile.other_care_of_address)
    answer = mobile.tester.expect(mobile.is_error)
    assert answer.destination == mobile.other_care_of_address
    assert (answer.message.status, answer.message.home_address) == (1, mobile.home_address)
    mobile.refuses(is_echo_reply)


@requirement("RFC6275-9.3.1", "CN-05", "CN-06")
@pytest.mark.parametrize("address", ["ff0e::1", "ff02::1", "::1", "fe80::1", "::"])
def test_home_address_that_is_not_routable_is_dropped(mobile: MobileNode, address: str) -> None:
    mobile.echo(o.home_address_option(IPv6Address(address)), source=mobile.care_of_address)
    mobile.refuses(lambda seen: is_echo_reply(seen) or mobile.is_error(seen))


@requirement("RFC6275-6.3", "FMT-20")
def test_two_home_address_options_are_dropped(mobile: MobileNode) -> None:
    mobile.bind()
    option = mobile.home_address_option
    mobile.echo(option, option, source=mobile.care_of_address)
    mobile.refuses(is_echo_reply)


@requirement("RFC6275-9.3.1", "CN-07")
@pytest.mark.parametrize("protocol", [o.ESP, 51])
def test_home_address_before_ipsec_is_no_error_of_binding(
    mobile: MobileNode, protocol: int
) -> None:
    sealed = struct.pack("!II", 0x77777, 1) + bytes(40)
    option = mobile.home_address_option
    mobile.tester.send(o.packet(mobile.care_of_address, NODE, sealed, option, protocol=protocol))
    mobile.refuses(mobile.is_error)


@requirement("RFC6275-9.3.1", "CN-09")
@pytest.mark.parametrize("is_bound", [False, True])
def test_authentication_header_with_home_address_option_is_never_taken_unverified(
    mobile: MobileNode, is_bound: bool
) -> None:
    if is_bound:
        mobile.bind()
    request = o.packet(mobile.home_address, NODE, o.echo_request(1), protocol=o.ICMP)[40:]
    # 96 bits of integrity check value, which nobody here can verify (RFC 4302 section 2).
    header = struct.pack("!BBHII", o.ICMP, 4, 0, 0x77777, 1) + bytes(12)
    option = mobile.home_address_option
    mobile.tester.send(
        o.packet(mobile.care_of_address, NODE, header + request, option, protocol=51)
    )
    mobile.is_silent()


@requirement("RFC6275-6.3", "CN-08")
def test_home_address_options_alone_change_no_route(mobile: MobileNode) -> None:
    for _ in range(3):
        mobile.echo(mobile.home_address_option, source=mobile.care_of_address)
        mobile.barrier()
    assert not mobile.is_bound()


@requirement("RFC6275-9.3.2", "CN-10", "CN-08")
def test_reply_to_the_tunnelled_home_address_takes_the_direct_path(mobile: MobileNode) -> None:
    mobile.bind()
    mobile.becomes_bound()


@requirement("RFC6275-9.3.2", "CN-11")
def test_neighbor_discovery_with_a_bound_neighbour_has_no_routing_header(
    correspondent: Correspondent, mobile: MobileNode
) -> None:
    mobile.home_address = IPv6Address("2001:db8:c::77")
    mobile.tester.plays[mobile.home_address] = TESTER_MAC
    mobile.bind()
    mobile.becomes_bound()
    mobile.tester.send(
        o.packet(
            mobile.home_address,
            NODE,
            o.neighbor_solicitation(NODE, TESTER_MAC),
            protocol=o.ICMP,
            hop_limit=255,
        )
    )
    answer = mobile.tester.expect(lambda seen: seen.icmp_type == o.NEIGHBOR_ADVERTISEMENT)
    assert answer.destination == mobile.home_address
    assert answer.header_numbers == (o.ICMP,)


@requirement("RFC6275-9.3.2", "CN-13")
def test_large_packets_leave_room_for_the_routing_header(mobile: MobileNode) -> None:
    mobile.bind()
    mobile.echo(source=mobile.home_address, size=1500 - 48)
    parts: list[o.Packet] = []
    while sum(len(part.payload) - 8 for part in parts) < 1500 - 40:
        parts.append(
            mobile.tester.expect(
                lambda seen: seen.routed_to == mobile.home_address, skip=len(parts)
            )
        )
    assert len(parts) == 2
    assert all(part.header_numbers == (o.ROUTING, o.FRAGMENT) for part in parts)
    assert all(part.destination == mobile.care_of_address for part in parts)
    assert max(len(part.octets) for part in parts) <= 1500


@requirement("RFC6275-8.2", "CN-14")
def test_type_2_routing_header_is_discarded_by_a_correspondent(mobile: MobileNode) -> None:
    mobile.bind()
    for address in (mobile.home_address, NODE, STRANGER):
        mobile.echo(o.routing_header(address), source=mobile.care_of_address)
        mobile.is_silent()


@requirement("RFC6275-9.3.4", "CN-15")
def test_persistent_unreachability_ends_the_binding(mobile: MobileNode) -> None:
    mobile.bind()
    mobile.echo(source=mobile.home_address)
    quoted = mobile.tester.expect(is_echo_reply).octets
    message = o.error(o.UNREACHABLE, 3, 0, quoted)
    complaint = o.packet(STRANGER, NODE, message, protocol=o.ICMP)
    deadline = time.monotonic() + 10
    while mobile.is_bound():
        assert time.monotonic() < deadline
        mobile.tester.send(complaint)
        mobile.barrier()


# Binding Updates (RFC 6275 9.5.1)


@requirement("RFC6275-9.5.1", "CN-24", "CN-33", "CN-57", "CN-41", "FMT-10", "FMT-18", "FMT-22")
def test_first_registration_is_acknowledged_and_authorized(mobile: MobileNode) -> None:
    tokens = mobile.tokens()
    mobile.sequence = 40000
    mobile.send_update(mobile.update(tokens))
    answer = mobile.acknowledgement()
    assert answer.destination == mobile.care_of_address
    assert answer.header_numbers == (o.ROUTING, o.MOBILITY)
    assert answer.checksum_is_good
    message = answer.message
    assert (message.status, message.sequence, message.flags, message.reserved) == (0, 40001, 0, 0)
    assert message.payload_protocol == 59
    assert message.offsets[5] % 8 == 2
    assert message.offsets[5] + 14 == len(message.octets)
    good = o.authenticator(tokens.key, mobile.care_of_address, NODE, message.octets)
    assert message.options[5] == good


@requirement("RFC6275-9.5.4", "CN-25")
def test_registration_without_acknowledge_is_not_acknowledged(mobile: MobileNode) -> None:
    mobile.bind(flags=0)
    mobile.refuses(mobile.is_acknowledgement)
    mobile.becomes_bound()


@requirement("RFC6275-9.5.1", "CN-26", "HA-05")
def test_home_registration_is_refused_with_status_131(mobile: MobileNode) -> None:
    message = o.binding_update(7, lifetime=60, flags=o.ACKNOWLEDGE | o.HOME)
    mobile.send_update(message)
    answer = mobile.acknowledgement()
    assert (answer.message.status, answer.message.sequence) == (131, 7)
    assert not mobile.is_bound()


@requirement("RFC6275-9.5.1", "CN-27")
def test_home_registration_with_nonce_indices_is_ignored(mobile: MobileNode) -> None:
    message = mobile.update(mobile.tokens(), flags=o.ACKNOWLEDGE | o.HOME)
    mobile.send_update(message)
    mobile.is_silent()


@requirement("RFC6275-9.5.1", "CN-28")
def test_home_registration_of_a_bound_home_address_is_refused_with_status_139(
    mobile: MobileNode,
) -> None:
    mobile.bind()
    mobile.send_update(o.binding_update(1001, lifetime=60, flags=o.ACKNOWLEDGE | o.HOME))
    assert mobile.acknowledgement().message.status == 139
    assert mobile.is_bound()


@requirement("RFC6275-9.5.1", "CN-29", "CN-53", "FMT-17")
@pytest.mark.parametrize("lifetime", [60, 0])
def test_update_without_nonce_indices_is_ignored(mobile: MobileNode, lifetime: int) -> None:
    tokens = mobile.bind()
    message = o.binding_update(1002, o.AUTHORIZATION, lifetime=lifetime)
    key = tokens.key if lifetime else tokens.deregistration_key
    mobile.send_update(o.authorize(key, mobile.care_of_address, NODE, message))
    mobile.is_silent()
    assert mobile.is_bound()


@requirement("RFC6275-9.5.1", "CN-30", "CN-53")
def test_update_without_authorization_is_ignored(mobile: MobileNode) -> None:
    tokens = mobile.tokens()
    indices = o.nonce_indices(tokens.home_index, tokens.care_of_index)
    mobile.send_update(o.binding_update(1, indices, lifetime=60))
    mobile.is_silent()
    assert not mobile.is_bound()


@requirement("RFC6275-9.5.1", "CN-31", "CN-33", "CN-53")
@pytest.mark.parametrize("spoiled", ["authenticator", "key", "lifetime"])
def test_update_with_wrong_authenticator_is_ignored(mobile: MobileNode, spoiled: str) -> None:
    tokens = mobile.tokens()
    message = mobile.update(tokens, key=bytes(20) if spoiled == "key" else None)
    if spoiled == "authenticator":
        message = message[:-1] + bytes([message[-1] ^ 1])
    elif spoiled == "lifetime":
        message = message[:10] + b"\0\1" + message[12:]
    mobile.send_update(message)
    mobile.is_silent()
    assert not mobile.is_bound()


@requirement("RFC6275-9.5.1", "CN-32", "FMT-18")
def test_authorization_that_is_not_last_is_ignored(mobile: MobileNode) -> None:
    tokens = mobile.tokens()
    indices = o.nonce_indices(tokens.home_index, tokens.care_of_index)
    for last in (o.Option(0x63, bytes(6)), o.Option(1, bytes(6))):
        message = o.binding_update(1, indices, o.AUTHORIZATION, last, lifetime=60)
        end = 12 + 6 + 14
        assert message[end - 14 : end - 12] == b"\5\x0c"
        key, care_of = tokens.key, mobile.care_of_address
        # Over all but the authenticator, wherever it stands.
        covered = message[: end - 12] + message[end:] + bytes(12)
        value = o.authenticator(key, care_of, NODE, covered)
        mobile.send_update(message[: end - 12] + value + message[end:])
        mobile.is_silent()
    assert not mobile.is_bound()


@requirement("RFC6275-9.5.1", "CN-34", "CN-35", "CN-36", "CN-56")
@pytest.mark.parametrize(
    ("home", "care_of", "status"), [(True, False, 136), (False, True, 137), (True, True, 138)]
)
@pytest.mark.parametrize("flags", [o.ACKNOWLEDGE, 0])
def test_unknown_nonce_indices_are_told(
    mobile: MobileNode, home: bool, care_of: bool, status: int, flags: int
) -> None:
    tokens = mobile.tokens()
    indices = (
        tokens.home_index ^ (0x8000 if home else 0),
        tokens.care_of_index ^ (0x8000 if care_of else 0),
    )
    mobile.send_update(mobile.update(tokens, indices=indices, flags=flags))
    message = mobile.acknowledgement().message
    assert message.status == status
    assert 5 not in message.options
    assert not mobile.is_bound()


@requirement("RFC6275-9.5.1", "CN-37")
def test_deregistration_with_unknown_home_nonce_is_refused(mobile: MobileNode) -> None:
    tokens = mobile.bind()
    indices = (tokens.home_index ^ 0x8000, 0)
    mobile.send_update(mobile.update(tokens, lifetime=0, indices=indices))
    assert mobile.acknowledgement().message.status == 136
    assert mobile.is_bound()


@requirement("RFC6275-9.5.1", "CN-38", "CN-49")
def test_deregistration_does_not_look_at_the_care_of_nonce(mobile: MobileNode) -> None:
    tokens = mobile.bind()
    indices = (tokens.home_index, tokens.care_of_index ^ 0x8000)
    message = mobile.update(
        tokens, lifetime=0, indices=indices, care_of_address=mobile.home_address
    )
    mobile.send_update(message)
    answer = mobile.acknowledgement().message
    assert (answer.status, answer.lifetime) == (0, 0)
    mobile.becomes_unbound()


@requirement("RFC6275-9.5.1", "CN-39", "CN-41")
@pytest.mark.parametrize(("first", "second"), SEQUENCE_PAIRS_NEWER)
def test_newer_sequence_number_is_accepted(mobile: MobileNode, first: int, second: int) -> None:
    tokens = mobile.tokens()
    for sequence in (first, second):
        mobile.send_update(mobile.update(tokens, sequence=sequence))
        answer = mobile.acknowledgement().message
        assert (answer.status, answer.sequence) == (0, sequence)


@requirement("RFC6275-9.5.1", "CN-40", "CN-56")
@pytest.mark.parametrize(("first", "second"), SEQUENCE_PAIRS_OLD)
@pytest.mark.parametrize("flags", [o.ACKNOWLEDGE, 0])
def test_old_sequence_number_is_refused_with_the_last_one(
    mobile: MobileNode, first: int, second: int, flags: int
) -> None:
    tokens = mobile.tokens()
    mobile.send_update(mobile.update(tokens, sequence=first))
    mobile.acknowledgement()
    mobile.send_update(mobile.update(tokens, sequence=second, flags=flags))
    answer = mobile.acknowledgement().message
    assert (answer.status, answer.sequence) == (135, first)
    good = o.authenticator(tokens.key, mobile.care_of_address, NODE, answer.octets)
    assert answer.options[5] == good
    assert mobile.is_bound()


@requirement("RFC6275-9.5.1", "CN-42", "FMT-16")
def test_alternate_care_of_address_is_bound(mobile: MobileNode) -> None:
    other = mobile.other_care_of_address
    tokens = mobile.tokens(other)
    option = o.alternate_care_of_address(other)
    mobile.send_update(mobile.update(tokens, option, care_of_address=other))
    answer = mobile.acknowledgement()
    assert answer.message.status == 0
    assert answer.destination == mobile.care_of_address
    mobile.becomes_bound(other)


@requirement("RFC6275-6.1.7", "CN-43")
@pytest.mark.parametrize("address", ["ff0e::1", "fe80::1", "::", "::1"])
def test_care_of_address_that_is_not_routable_is_ignored(mobile: MobileNode, address: str) -> None:
    option = o.alternate_care_of_address(IPv6Address(address))
    message = mobile.update(mobile.tokens(), option, care_of_address=IPv6Address(address))
    mobile.send_update(message)
    mobile.is_silent()
    assert not mobile.is_bound()


@requirement("RFC6275-6.2.1", "FMT-12")
def test_unknown_option_between_known_ones_is_skipped(mobile: MobileNode) -> None:
    other = mobile.other_care_of_address
    tokens = mobile.tokens(other)
    options = (o.Option(0x63, b"\4\4\0\0\0"), o.alternate_care_of_address(other))
    mobile.send_update(mobile.update(tokens, *options, care_of_address=other))
    assert mobile.acknowledgement().message.status == 0
    mobile.becomes_bound(other)


@requirement("RFC6275-9.5.2", "CN-44", "FMT-09")
@pytest.mark.parametrize("asked", [0xFFFF * 4, 424, 420, 100])
def test_granted_lifetime_is_no_longer_than_asked_or_allowed(
    mobile: MobileNode, asked: int
) -> None:
    mobile.send_update(mobile.update(mobile.tokens(), lifetime=asked))
    granted = mobile.acknowledgement().message.lifetime
    assert granted == min(asked, MAX_RR_BINDING_LIFETIME)


@requirement("RFC6275-9.5.2", "CN-45", "CN-59")
def test_binding_ends_with_its_lifetime(mobile: MobileNode) -> None:
    mobile.bind(lifetime=4)
    began = time.monotonic()
    while mobile.is_bound():
        assert time.monotonic() < began + 10
    assert time.monotonic() > began + 3
    question = o.packet(
        mobile.care_of_address,
        NODE,
        o.echo_request(1),
        mobile.home_address_option,
        protocol=o.ICMP,
    )
    assert mobile.tester.insist(question, mobile.is_error).message.status == 1


@requirement("RFC6275-9.5.5", "CN-58", "FMT-04", "FMT-29")
def test_binding_in_use_is_asked_to_be_refreshed_before_its_end(mobile: MobileNode) -> None:
    mobile.bind(lifetime=8)
    request = o.packet(mobile.home_address, NODE, o.echo_request(1), protocol=o.ICMP)
    mobile.tester.listen()
    found = mobile.tester.insist(
        request, lambda seen: seen.message.kind == o.REFRESH_REQUEST, within=8
    )
    assert found.destination == mobile.home_address
    assert found.header_numbers == (o.MOBILITY,)
    assert found.checksum_is_good
    assert found.message.octets[:4] == bytes([59, 0, 0, 0])
    assert len(found.message.octets) == 8


@requirement("RFC6275-9.5.2", "CN-46", "CN-59", "CN-56")
@pytest.mark.parametrize("flags", [o.ACKNOWLEDGE, 0])
def test_full_cache_refuses_new_bindings_and_keeps_those_it_has(flags: int) -> None:
    bench = Bench.build(Cable("eth0", (f"{NODE}/64",), "2001:db8:c::1"))
    try:
        bench.start_daemon({"role": "correspondent", "correspondent": {"max_bindings": 2}})
        correspondent = Correspondent(bench)
        held = [correspondent.mobile_node() for _ in range(2)]
        for each in held:
            each.bind()
        late = correspondent.mobile_node()
        late.send_update(late.update(late.tokens(), flags=flags))
        assert late.acknowledgement().message.status == 130
        assert all(each.is_bound() for each in held)
        assert not late.is_bound()
    finally:
        bench.close()


@requirement("RFC6275-9.5.2", "CN-47")
def test_update_from_a_new_care_of_address_moves_the_traffic(mobile: MobileNode) -> None:
    mobile.bind()
    other = mobile.other_care_of_address
    tokens = mobile.tokens(other)
    mobile.send_update(mobile.update(tokens, care_of_address=other), other)
    assert mobile.acknowledgement().destination == other
    mobile.becomes_bound(other)


@requirement("RFC6275-9.5.2", "CN-48", "CN-31")
def test_update_from_a_new_care_of_address_with_old_tokens_is_ignored(mobile: MobileNode) -> None:
    tokens = mobile.bind()
    other = mobile.other_care_of_address
    mobile.send_update(mobile.update(tokens, care_of_address=other), other)
    mobile.is_silent()
    assert mobile.is_bound()


@requirement("RFC6275-9.5.3", "CN-49", "CN-33")
def test_deregistration_deletes_the_binding(mobile: MobileNode) -> None:
    tokens = mobile.bind()
    message = mobile.update(tokens, lifetime=0, care_of_address=mobile.home_address)
    mobile.send_update(message)
    answer = mobile.acknowledgement()
    assert answer.destination == mobile.care_of_address
    assert (answer.message.status, answer.message.lifetime) == (0, 0)
    mobile.becomes_unbound()


@requirement("RFC6275-9.5.3", "CN-50")
@pytest.mark.parametrize("lifetime", [60, 0])
def test_care_of_address_that_is_the_home_address_deregisters(
    mobile: MobileNode, lifetime: int
) -> None:
    tokens = mobile.bind()
    option = o.alternate_care_of_address(mobile.home_address)
    message = mobile.update(
        tokens,
        option,
        lifetime=lifetime,
        care_of_address=mobile.home_address,
        key=tokens.deregistration_key,
    )
    mobile.send_update(message)
    answer = mobile.acknowledgement().message
    assert (answer.status, answer.lifetime) == (0, 0)
    mobile.becomes_unbound()


@requirement("RFC6275-9.5.4", "CN-55", "CN-49")
def test_deregistration_from_the_home_address_is_acknowledged_without_routing_header(
    mobile: MobileNode,
) -> None:
    tokens = mobile.bind()
    message = mobile.update(tokens, lifetime=0, care_of_address=mobile.home_address)
    mobile.send(message, mobile.home_address)
    answer = mobile.acknowledgement()
    assert answer.destination == mobile.home_address
    assert answer.header_numbers == (o.MOBILITY,)
    assert answer.message.status == 0
    mobile.becomes_unbound()


@requirement("RFC6275-9.5.3", "CN-51")
def test_deregistration_without_return_routability_is_ignored(mobile: MobileNode) -> None:
    mobile.bind()
    mobile.send(o.binding_update(1002, lifetime=0), mobile.home_address, mobile.home_address_option)
    mobile.is_silent()
    assert mobile.is_bound()


@requirement("RFC6275-9.5.3", "CN-52")
def test_update_replayed_after_deregistration_is_not_accepted(mobile: MobileNode) -> None:
    tokens = mobile.tokens()
    recorded = mobile.update(tokens)
    mobile.send_update(recorded)
    mobile.acknowledgement()
    mobile.send_update(mobile.update(tokens, lifetime=0, care_of_address=mobile.home_address))
    mobile.acknowledgement()
    mobile.send_update(recorded)
    mobile.refuses(lambda seen: mobile.is_acknowledgement(seen) and seen.message.status == 0)
    mobile.becomes_unbound()


@requirement("RFC6275-5.2.5", "CN-23")
def test_tests_leave_no_state_behind(correspondent: Correspondent, mobile: MobileNode) -> None:
    mobile.barrier()
    process = correspondent.bench.status()["process"]
    before = resident(process)
    numbers = itertools.count(1)
    for _ in range(10):
        batch = [
            o.packet(mobile.home_address + next(numbers), NODE, o.home_test_init(bytes(8)))
            for _ in range(500)
        ]
        mobile.tester.send(*batch)
        mobile.barrier()
    assert resident(process) < before + (1 << 20)


def resident(process: int) -> int:
    """Octets of memory a process has."""
    with open(f"/proc/{process}/statm") as file:
        return int(file.read().split()[1]) * 4096
