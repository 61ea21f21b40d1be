"""The formats of RFC 6275 sections 6 and 7 and the checks of section 9.2, octet by octet."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

import pytest

from mnagent.wire.buffer import DecodeError
from mnagent.wire.checksum import upper_layer_checksum
from mnagent.wire.esp import EspPacket
from mnagent.wire.icmp6 import (
    HomeAgentAddressDiscoveryReply,
    HomeAgentAddressDiscoveryRequest,
    MobilePrefixAdvertisement,
    MobilePrefixSolicitation,
)
from mnagent.wire.ipv6 import (
    DestinationOptions,
    FragmentHeader,
    HomeAddressOption,
    IPv6Packet,
    OptionAction,
    RawPayload,
    RoutingHeader,
    Type2RoutingHeader,
    UnknownOption,
)
from mnagent.wire.mobility import (
    BindingAcknowledgement,
    BindingError,
    BindingErrorStatus,
    BindingRefreshRequest,
    BindingStatus,
    BindingUpdate,
    CareOfTest,
    CareOfTestInit,
    HomeTest,
    HomeTestInit,
    MobilityMessage,
    UnknownMobilityMessage,
    encode_mobility_message,
)
from mnagent.wire.mobility_options import (
    AlternateCareOfAddress,
    BindingAuthorizationData,
    BindingRefreshAdvice,
    MobilityOption,
    NonceIndices,
    UnknownMobilityOption,
)
from mnagent.wire.ndisc import (
    INFINITE_LIFETIME,
    AdvertisementInterval,
    HomeAgentInformation,
    PrefixInformation,
    RouterAdvertisement,
    UnknownNdOption,
)
from mnagent.wire.packet import (
    MobilityHeaderError,
    MobilityHeaderProblem,
    Payload,
    decode_packet,
    encode_packet,
)
from tests.support.octets import (
    DESTINATION,
    HOME_ADDRESS,
    SOURCE,
    icmp6_packet,
    mobility_packet,
    packet_of,
    with_checksum,
)
from tests.support.requirement import requirement

COOKIE = bytes.fromhex("0123456789abcdef")
TOKEN = bytes.fromhex("fedcba9876543210")
HOME_HEX = HOME_ADDRESS.packed.hex()
UPDATE = BindingUpdate(sequence=1, lifetime=600, acknowledge=True, home_registration=True)

MESSAGES: tuple[MobilityMessage, ...] = (
    BindingRefreshRequest(),
    HomeTestInit(COOKIE),
    CareOfTestInit(COOKIE),
    HomeTest(7, COOKIE, TOKEN),
    CareOfTest(7, COOKIE, TOKEN),
    UPDATE,
    BindingAcknowledgement(status=0, sequence=1, lifetime=600),
    BindingError(1, HOME_ADDRESS),
    UnknownMobilityMessage(200, bytes(10)),
)


def packet(payload: Payload, *headers: object) -> IPv6Packet:
    return IPv6Packet(SOURCE, DESTINATION, payload, extension_headers=headers)  # type: ignore[arg-type]


def header_of(message: MobilityMessage) -> str:
    """The Mobility Header in hexadecimal, its checksum taken out."""
    data = encode_mobility_message(message)
    assert data[4:6] == bytes(2)
    return data.hex()


def error_of(data: bytes) -> MobilityHeaderError:
    with pytest.raises(MobilityHeaderError) as raised:
        decode_packet(data)
    return raised.value


def options_of(data: bytes) -> tuple[MobilityOption, ...]:
    payload = decode_packet(data).payload
    assert isinstance(payload, BindingRefreshRequest)
    return payload.options


@requirement("RFC6275-6.1.1", "FMT-01")
@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_mobility_header_encoded_has_the_common_fields(message: MobilityMessage) -> None:
    octets = encode_packet(packet(message))
    header = octets[40:]
    assert octets[6] == 135
    assert header[0] == 59
    assert len(header) == (header[1] + 1) * 8
    assert header[2] == message.message_type
    assert header[3] == 0


@requirement("RFC6275-6.1.1", "FMT-02")
def test_checksum_with_home_address_option_covers_the_home_address() -> None:
    octets = encode_packet(packet(UPDATE, DestinationOptions((HomeAddressOption(HOME_ADDRESS),))))
    header = octets[64:]
    assert octets[8:24] == SOURCE.packed
    assert upper_layer_checksum(HOME_ADDRESS, DESTINATION, 135, header) == 0
    assert upper_layer_checksum(SOURCE, DESTINATION, 135, header) != 0


@requirement("RFC6275-6.1.1", "FMT-02")
def test_checksum_with_type2_routing_header_covers_the_final_destination() -> None:
    acknowledgement = BindingAcknowledgement(status=0, sequence=1, lifetime=600)
    octets = encode_packet(packet(acknowledgement, Type2RoutingHeader(HOME_ADDRESS)))
    assert octets[24:40] == DESTINATION.packed
    assert upper_layer_checksum(SOURCE, HOME_ADDRESS, 135, octets[64:]) == 0


@requirement("RFC6275-6.1.1", "FMT-02")
def test_checksum_with_segments_left_zero_covers_the_header_destination() -> None:
    processed = packet(UPDATE, Type2RoutingHeader(HOME_ADDRESS, segments_left=0))
    assert upper_layer_checksum(SOURCE, DESTINATION, 135, encode_packet(processed)[64:]) == 0
    assert processed.logical_destination == DESTINATION


@requirement("RFC6275-6.1.1", "FMT-03")
def test_reserved_octet_set_on_input_is_ignored() -> None:
    octets = mobility_packet("3b0105ff 0000 0001 c000 0096 0102 0000")
    assert decode_packet(octets).payload == UPDATE
    assert encode_packet(decode_packet(octets))[43] == 0


@requirement("RFC6275-6.1.2", "FMT-04")
def test_binding_refresh_request_is_eight_octets() -> None:
    assert header_of(BindingRefreshRequest()) == "3b00000000000000"


@requirement("RFC6275-6.1.2", "FMT-04")
def test_binding_refresh_request_with_unknown_option_keeps_it() -> None:
    octets = mobility_packet("3b010000 0000 0000 f0 03 010203 01 01 00")
    assert options_of(octets) == (UnknownMobilityOption(0xF0, b"\1\2\3"),)


@requirement("RFC6275-6.1.3", "FMT-05")
def test_home_test_init_is_sixteen_octets_with_its_cookie() -> None:
    assert header_of(HomeTestInit(COOKIE)) == "3b01010000000000" + COOKIE.hex()


@requirement("RFC6275-6.1.4", "FMT-06")
def test_care_of_test_init_is_sixteen_octets_with_its_cookie() -> None:
    assert header_of(CareOfTestInit(COOKIE)) == "3b01020000000000" + COOKIE.hex()


@requirement("RFC6275-6.1.5", "FMT-07")
def test_home_test_keeps_index_and_all_64_bits() -> None:
    message = HomeTest(0xABCD, COOKIE, TOKEN)
    assert header_of(message) == "3b0203000000abcd" + COOKIE.hex() + TOKEN.hex()
    assert decode_packet(encode_packet(packet(message))).payload == message


@requirement("RFC6275-6.1.6", "FMT-08")
def test_care_of_test_keeps_index_and_all_64_bits() -> None:
    message = CareOfTest(0xABCD, COOKIE, TOKEN)
    assert header_of(message) == "3b0204000000abcd" + COOKIE.hex() + TOKEN.hex()
    assert decode_packet(encode_packet(packet(message))).payload == message


@requirement("RFC6275-6.1.7", "FMT-09")
@pytest.mark.parametrize(
    ("field", "bits"),
    [
        ("acknowledge", 0x8000),
        ("home_registration", 0x4000),
        ("link_local_compatibility", 0x2000),
        ("key_management_mobility", 0x1000),
    ],
)
def test_binding_update_flag_sits_in_its_bit(field: str, bits: int) -> None:
    message = BindingUpdate(sequence=0, lifetime=0, **{field: True})  # type: ignore[arg-type]
    assert header_of(message) == f"3b010500000000 00{bits:04x}000001020000".replace(" ", "")
    assert decode_packet(encode_packet(packet(message))).payload == message


@requirement("RFC6275-6.1.7", "FMT-09")
def test_binding_update_keeps_the_flags_of_extensions() -> None:
    message = BindingUpdate(sequence=0xFFFF, lifetime=4, other_flags=0x0400 | 0x0100 | 0x0040)
    assert header_of(message) == "3b0105000000ffff0540000101020000"
    assert decode_packet(encode_packet(packet(message))).payload == message


@requirement("RFC6275-6.1.7", "FMT-09")
@pytest.mark.parametrize(
    ("seconds", "units"), [(0, 0), (3.99, 0), (4, 1), (7, 1), (600, 150), (262140, 0xFFFF)]
)
def test_binding_update_lifetime_counts_units_of_four_seconds(seconds: float, units: int) -> None:
    octets = encode_mobility_message(BindingUpdate(sequence=0, lifetime=seconds))
    assert int.from_bytes(octets[10:12], "big") == units
    assert len(octets) == 16


@requirement("RFC6275-6.1.8", "FMT-10")
def test_binding_acknowledgement_has_its_fields_in_place() -> None:
    message = BindingAcknowledgement(
        status=BindingStatus.SEQUENCE_NUMBER_OUT_OF_WINDOW,
        sequence=0x1234,
        lifetime=420,
        key_management_mobility=True,
        other_flags=0x40,
    )
    assert header_of(message) == "3b010600000087c01234006901020000"
    assert decode_packet(encode_packet(packet(message))).payload == message


@requirement("RFC6275-6.1.8", "FMT-10")
@pytest.mark.parametrize(("status", "accepted"), [(0, True), (1, True), (127, True), (128, False)])
def test_binding_acknowledgement_below_128_is_accepted(status: int, accepted: bool) -> None:
    message = BindingAcknowledgement(status=status, sequence=0, lifetime=0)
    assert message.is_accepted is accepted


@requirement("RFC6275-6.1.9", "FMT-11")
@pytest.mark.parametrize("status", [*BindingErrorStatus, 77])
def test_binding_error_carries_status_and_home_address(status: int) -> None:
    message = BindingError(status, HOME_ADDRESS)
    assert header_of(message) == f"3b0207000000{status:02x}00" + HOME_HEX
    assert decode_packet(encode_packet(packet(message))).payload == message


@requirement("RFC6275-6.2.1", "FMT-12")
def test_unknown_option_between_known_ones_does_not_hide_them() -> None:
    octets = mobility_packet("3b020000 0000 0000 0202 0005 f101ff 01 00 0404 0001 0002 00")
    assert options_of(octets) == (
        BindingRefreshAdvice(20),
        UnknownMobilityOption(0xF1, b"\xff"),
        NonceIndices(1, 2),
    )


@requirement("RFC6275-6.2.2", "FMT-13")
def test_padding_of_any_size_and_content_is_skipped() -> None:
    octets = mobility_packet("3b020000 0000 0000 00 00 0100 0103 ffeedd 00 0202 0001 0100")
    assert options_of(octets) == (BindingRefreshAdvice(4),)


@requirement("RFC6275-6.2.1", "FMT-14")
@pytest.mark.parametrize(
    "tail",
    ["0202", "f007 00000000 0000", "f0ff 000000000000", "0000000000000003"],
    ids=["short", "one-too-long", "far-too-long", "no-length"],
)
def test_option_past_the_end_discards_the_message(tail: str) -> None:
    data = bytes.fromhex("3b01000000000000" + tail.replace(" ", "").rjust(16, "0"))
    error = error_of(mobility_packet(data))
    assert error.problem is MobilityHeaderProblem.OPTION
    assert not error.wants_parameter_problem


@requirement("RFC6275-6.2.4", "FMT-15")
def test_binding_refresh_advice_counts_units_and_is_aligned() -> None:
    message = BindingAcknowledgement(
        status=0, sequence=0, lifetime=0, options=(BindingRefreshAdvice(1200),)
    )
    assert header_of(message).endswith("0202012c")
    odd = BindingRefreshRequest((UnknownMobilityOption(99, b"\1"), BindingRefreshAdvice(4)))
    assert header_of(odd) == "3b01000000000000" + "630101" + "00" + "02020001"


@requirement("RFC6275-6.2.5", "FMT-16")
def test_alternate_care_of_address_makes_the_update_32_octets() -> None:
    message = BindingUpdate(sequence=0, lifetime=0, options=(AlternateCareOfAddress(SOURCE),))
    octets = encode_mobility_message(message)
    assert len(octets) == 32
    assert octets[12:].hex() == "0100" + "0310" + SOURCE.packed.hex()


@requirement("RFC6275-6.2.6", "FMT-17")
def test_nonce_indices_have_their_fields_in_place() -> None:
    assert header_of(BindingRefreshRequest((NonceIndices(0x0102, 0xA0B0),))) == (
        "3b01000000000000" + "04040102a0b0" + "0100"
    )


@requirement("RFC6275-6.2.7", "FMT-18")
def test_binding_authorization_data_is_aligned_and_ends_the_message() -> None:
    authorization = BindingAuthorizationData(bytes(range(12)))
    message = BindingUpdate(sequence=0, lifetime=0, options=(NonceIndices(1, 2), authorization))
    octets = encode_mobility_message(message)
    assert len(octets) == 32
    assert octets[12:18] == bytes.fromhex("040400010002")
    assert octets[18:] == bytes((5, 12, *range(12)))
    assert (18 - 2) % 8 == 0


@requirement("RFC6275-6.2.7", "FMT-18")
@pytest.mark.parametrize(
    "tail",
    ["0100 050c 000102030405060708090a0b 0000000000000000", "050e 000102030405060708090a0b0c0d"],
    ids=["trailing-padding", "not-aligned"],
)
def test_binding_authorization_data_out_of_place_is_discarded(tail: str) -> None:
    data = bytes.fromhex("3b000000 0000 0000".replace(" ", "") + tail.replace(" ", ""))
    data = data[:1] + bytes((len(data) // 8 - 1,)) + data[2:]
    assert error_of(mobility_packet(data)).problem is MobilityHeaderProblem.OPTION


@requirement("RFC6275-6.2.7", "FMT-18")
def test_binding_authorization_data_not_last_is_refused_by_the_encoder() -> None:
    options = (BindingAuthorizationData(bytes(12)), NonceIndices(1, 2))
    with pytest.raises(ValueError, match="last"):
        encode_mobility_message(BindingRefreshRequest(options))


@requirement("RFC6275-6.3", "FMT-19")
def test_home_address_option_makes_a_header_of_24_octets() -> None:
    octets = encode_packet(packet(UPDATE, DestinationOptions((HomeAddressOption(HOME_ADDRESS),))))
    assert octets[6] == 60
    assert octets[40:64].hex() == "8702" + "01020000" + "c910" + HOME_HEX


@requirement("RFC6275-6.3", "FMT-19")
def test_home_address_option_sits_between_routing_header_and_esp() -> None:
    sent = packet(
        EspPacket(0x1000, 1, bytes(32)),
        Type2RoutingHeader(HOME_ADDRESS),
        DestinationOptions((HomeAddressOption(HOME_ADDRESS),)),
        FragmentHeader(0, False, 1),
    )
    octets = encode_packet(sent)
    assert (octets[6], octets[40], octets[64], octets[88]) == (43, 60, 44, 50)
    assert decode_packet(octets) == sent


@requirement("RFC6275-6.3", "FMT-20")
@pytest.mark.parametrize("headers", [1, 2])
def test_two_home_address_options_are_both_visible(headers: int) -> None:
    other = IPv6Address("2001:db8:1::11")
    first, second = HomeAddressOption(HOME_ADDRESS), HomeAddressOption(other)
    twice = (
        (DestinationOptions((first, second)),)
        if headers == 1
        else (DestinationOptions((first,)), DestinationOptions((second,)))
    )
    received = decode_packet(encode_packet(packet(UPDATE, *twice)))
    assert received.home_address_options == (HOME_ADDRESS, other)


@requirement("RFC6275-6.3", "FMT-21")
def test_home_address_option_type_asks_strangers_to_report_it() -> None:
    action = UnknownOption(0xC9, b"").action
    assert action is OptionAction.DISCARD_AND_REPORT_UNLESS_MULTICAST


@requirement("RFC6275-6.4.1", "FMT-22")
def test_type2_routing_header_has_its_fields_in_place() -> None:
    octets = encode_packet(packet(UPDATE, Type2RoutingHeader(HOME_ADDRESS)))
    assert octets[6] == 43
    assert octets[40:64].hex() == "87020201" + "00000000" + HOME_HEX


@requirement("RFC6275-6.4.1", "FMT-22")
def test_type2_routing_header_after_another_one_decodes() -> None:
    sent = packet(UPDATE, RoutingHeader(253, 0, bytes(4)), Type2RoutingHeader(HOME_ADDRESS))
    assert decode_packet(encode_packet(sent)) == sent


@requirement("RFC6275-6.5", "FMT-24")
def test_home_agent_discovery_messages_have_their_fields_in_place() -> None:
    request = encode_packet(packet(HomeAgentAddressDiscoveryRequest(0xBEEF)))[40:]
    assert request[:2] + request[4:] == bytes.fromhex("9000beef0000")
    reply = HomeAgentAddressDiscoveryReply(0xBEEF, (DESTINATION, SOURCE))
    octets = encode_packet(packet(reply))
    assert octets[40:42] + octets[44:48] == bytes.fromhex("9100beef0000")
    assert octets[48:] == DESTINATION.packed + SOURCE.packed
    assert decode_packet(octets).payload == reply


@requirement("RFC6275-6.7", "FMT-25")
def test_mobile_prefix_solicitation_has_its_fields_in_place() -> None:
    octets = encode_packet(packet(MobilePrefixSolicitation(0xBEEF)))[40:]
    assert octets[:2] + octets[4:] == bytes.fromhex("9200beef0000")


@requirement("RFC6275-6.8", "FMT-25")
def test_mobile_prefix_advertisement_carries_flags_and_keeps_unknown_options() -> None:
    message = MobilePrefixAdvertisement(
        0xBEEF, managed=True, other=True, options=(UnknownNdOption(200, bytes(6)),)
    )
    octets = encode_packet(packet(message))
    assert octets[40:42] + octets[44:48] == bytes.fromhex("9300beefc000")
    assert decode_packet(octets).payload == message


@requirement("RFC6275-6.8", "FMT-25")
def test_mobile_prefix_advertisement_reserved_bits_are_ignored() -> None:
    received = decode_packet(icmp6_packet("9300 0000 0001 bfff"))
    assert received.payload == MobilePrefixAdvertisement(1, managed=True)


@requirement("RFC6275-7.2", "FMT-26")
def test_router_advertisement_carries_home_agent_flag_and_router_address() -> None:
    prefix = PrefixInformation(
        address=DESTINATION,
        router_address=True,
        valid_lifetime=INFINITE_LIFETIME,
        preferred_lifetime=604800,
    )
    message = RouterAdvertisement(home_agent=True, router_lifetime=1800, options=(prefix,))
    octets = encode_packet(packet(message))
    assert octets[45] == 0x20
    assert octets[56:60].hex() == "030440e0"
    assert octets[60:68].hex() == "ffffffff00093a80"
    assert octets[72:88] == DESTINATION.packed
    assert decode_packet(octets).payload == message
    assert prefix.prefix == IPv6Network("2001:db8:1::/64")


@requirement("RFC6275-7.3", "FMT-27")
@pytest.mark.parametrize(
    ("maximum", "field"), [(0.05, 70), (0.199, 219), (0.2, 200), (1.5, 1500), (600, 600000)]
)
def test_advertisement_interval_is_in_milliseconds(maximum: float, field: int) -> None:
    option = AdvertisementInterval.of_router(maximum)
    octets = encode_packet(packet(RouterAdvertisement(options=(option,))))
    assert octets[56:].hex() == f"07010000{field:08x}"


@requirement("RFC6275-7.4", "FMT-28")
def test_home_agent_information_has_its_fields_in_place() -> None:
    option = HomeAgentInformation(9, 1800)
    octets = encode_packet(packet(RouterAdvertisement(home_agent=True, options=(option,))))
    assert octets[56:].hex() == "0801000000090708"


@requirement("RFC6275-7.4", "FMT-28")
def test_home_agent_information_with_lifetime_zero_is_never_sent() -> None:
    message = RouterAdvertisement(home_agent=True, options=(HomeAgentInformation(0, 0),))
    with pytest.raises(ValueError, match="lifetime"):
        encode_packet(packet(message))


@requirement("RFC6275-9.2", "MHP-01")
def test_wrong_checksum_is_told_apart_and_unanswered() -> None:
    octets = bytearray(encode_packet(packet(UPDATE)))
    octets[44] ^= 1
    error = error_of(bytes(octets))
    assert error.problem is MobilityHeaderProblem.CHECKSUM
    assert not error.wants_parameter_problem


@requirement("RFC6275-9.2", "MHP-02", "MHP-03")
def test_unknown_type_is_a_value_with_the_home_address_in_reach() -> None:
    sent = packet(
        UnknownMobilityMessage(200, bytes(2)),
        DestinationOptions((HomeAddressOption(HOME_ADDRESS),)),
    )
    received = decode_packet(encode_packet(sent))
    assert received.payload == UnknownMobilityMessage(200, bytes(2))
    assert received.home_address_option == HOME_ADDRESS


@requirement("RFC6275-9.2", "MHP-02")
def test_unknown_type_comes_before_the_payload_protocol() -> None:
    received = decode_packet(mobility_packet("0600c800 0000 0000"))
    assert received.payload == UnknownMobilityMessage(200, bytes(2))


@requirement("RFC6275-9.2", "MHP-04")
def test_payload_protocol_points_at_its_octet() -> None:
    header = with_checksum(
        bytes.fromhex("06010500000000 01c00000960102 0000".replace(" ", "")),
        135,
        source=HOME_ADDRESS,
        covered=16,
    )
    option = DestinationOptions((HomeAddressOption(HOME_ADDRESS),))
    octets = packet_of(135, header + b"TCP", extension_headers=(option,))
    error = error_of(octets)
    assert error.problem is MobilityHeaderProblem.PAYLOAD_PROTOCOL
    assert error.wants_parameter_problem
    assert error.offset == 64
    assert (error.source, error.destination) == (SOURCE, DESTINATION)
    assert error.home_address == HOME_ADDRESS
    assert error.message_type == 5
    assert error.invoking == octets


@requirement("RFC6275-9.2", "MHP-05")
@pytest.mark.parametrize(
    ("message_type", "length"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 0), (6, 0), (7, 1)]
)
def test_header_too_short_for_its_type_points_at_its_length(message_type: int, length: int) -> None:
    header = bytes((59, length, message_type)) + bytes(length * 8 + 5)
    error = error_of(mobility_packet(header))
    assert error.problem is MobilityHeaderProblem.HEADER_LENGTH
    assert error.wants_parameter_problem
    assert error.offset == 41
    assert error.home_address is None


@requirement("RFC6275-9.2", "MHP-06")
@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 8, 15])
def test_header_longer_than_the_packet_is_discarded(size: int) -> None:
    whole = encode_packet(packet(UPDATE))[40:]
    error = error_of(packet_of(135, whole[:size]))
    assert error.problem is MobilityHeaderProblem.TRUNCATED
    assert error.message_type == (5 if size > 2 else None)
    assert not error.wants_parameter_problem


@requirement("RFC6275-9.2", "MHP-07")
def test_header_with_extra_padding_is_accepted() -> None:
    octets = mobility_packet("3b020500 0000 0001 c000 0096 010a 00000000000000000000")
    assert decode_packet(octets).payload == UPDATE


def test_type2_routing_header_of_another_length_is_malformed() -> None:
    routing = "3b04 0201 00000000" + HOME_HEX * 2
    with pytest.raises(DecodeError) as raised:
        decode_packet(packet_of(43, bytes.fromhex(routing.replace(" ", ""))))
    assert raised.value.offset == 41


def test_raw_payload_is_what_remains_of_a_fragment() -> None:
    header = FragmentHeader(0, True, 7)
    sent = packet(RawPayload(135, bytes(8)), header)
    assert decode_packet(encode_packet(sent)) == sent
