"""Mobility messages and options: the values, their limits and their words."""

from __future__ import annotations

import pytest

from mnagent.wire.buffer import DecodeError
from mnagent.wire.mobility import (
    BindingAcknowledgement,
    BindingError,
    BindingErrorStatus,
    BindingRefreshRequest,
    BindingStatus,
    BindingUpdate,
    CareOfTest,
    CareOfTestInit,
    HomeAgentSwitch,
    HomeTest,
    HomeTestInit,
    MobilityMessage,
    UnknownMobilityMessage,
    decode_mobility_message,
    encode_mobility_message,
    status_sentence,
)
from mnagent.wire.mobility_options import (
    AlternateCareOfAddress,
    BindingAuthorizationData,
    BindingRefreshAdvice,
    MobileNodeIdentifier,
    MobilityOption,
    NonceIndices,
    UnknownMobilityOption,
    decode_mobility_options,
    encode_mobility_options,
)
from tests.support.octets import HOME_ADDRESS


@pytest.mark.parametrize("status", BindingStatus)
def test_binding_status_has_one_sentence(status: BindingStatus) -> None:
    assert status.sentence.endswith(".")
    assert status_sentence(int(status)) == status.sentence


@pytest.mark.parametrize(("status", "verb"), [(5, "accepted"), (200, "refused")])
def test_status_sentence_of_an_unknown_status_says_which_side_it_is_on(
    status: int, verb: str
) -> None:
    assert status_sentence(status) == (
        f"The binding was {verb} with status {status}, which has no known meaning."
    )


def test_binding_error_status_has_one_sentence_each() -> None:
    sentences = {status.sentence for status in BindingErrorStatus}
    assert len(sentences) == len(BindingErrorStatus)


def test_status_decoded_is_named_where_it_has_a_name() -> None:
    def status_of(message: MobilityMessage) -> int:
        decoded = decode_mobility_message(encode_mobility_message(message), 40)
        assert isinstance(decoded, BindingAcknowledgement | BindingError)
        return decoded.status

    refused = BindingAcknowledgement(status=134, sequence=0, lifetime=0)
    odd = BindingAcknowledgement(status=250, sequence=0, lifetime=0)
    assert status_of(refused) is BindingStatus.DUPLICATE_ADDRESS_DETECTION_FAILED
    assert (status_of(odd), type(status_of(odd))) == (250, int)
    known = BindingErrorStatus.UNRECOGNIZED_MOBILITY_HEADER_TYPE
    assert status_of(BindingError(2, HOME_ADDRESS)) is known
    assert type(status_of(BindingError(3, HOME_ADDRESS))) is int


@pytest.mark.parametrize(
    "message",
    [
        BindingRefreshRequest(),
        HomeTestInit(b"homehome"),
        CareOfTestInit(b"care-of!"),
        HomeTest(1, b"homehome", b"tokentok"),
        CareOfTest(1, b"care-of!", b"tokentok"),
        UnknownMobilityMessage(200, b"ab"),
        BindingUpdate(
            sequence=1,
            lifetime=4,
            options=(
                AlternateCareOfAddress(HOME_ADDRESS),
                NonceIndices(1, 2),
                BindingAuthorizationData(bytes(12)),
            ),
        ),
    ],
)
def test_message_survives_a_round_trip(message: MobilityMessage) -> None:
    assert decode_mobility_message(encode_mobility_message(message), 40) == message


@pytest.mark.parametrize(
    "message",
    [
        HomeTestInit(bytes(7)),
        HomeTest(0, bytes(9), bytes(8)),
        HomeTest(0, bytes(8), bytes(4)),
        CareOfTest(65536, bytes(8), bytes(8)),
        BindingUpdate(sequence=65536, lifetime=0),
        BindingUpdate(sequence=0, lifetime=262144),
        BindingUpdate(sequence=0, lifetime=-1),
        BindingUpdate(sequence=0, lifetime=0, other_flags=0x1000),
        BindingAcknowledgement(status=256, sequence=0, lifetime=0),
        BindingAcknowledgement(status=0, sequence=-1, lifetime=0),
        BindingAcknowledgement(status=0, sequence=0, lifetime=0, other_flags=0x80),
        BindingError(-1, HOME_ADDRESS),
        UnknownMobilityMessage(5, bytes(2)),
        UnknownMobilityMessage(256, bytes(2)),
        UnknownMobilityMessage(200, bytes(2048)),
        BindingRefreshRequest((UnknownMobilityOption(99, bytes(255)),) * 9),
    ],
)
def test_message_with_an_impossible_field_is_refused(message: MobilityMessage) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        encode_mobility_message(message)


def test_unknown_message_is_filled_up_with_zeros() -> None:
    data = encode_mobility_message(UnknownMobilityMessage(200, b"abc"))
    assert data.hex() == "3b01c80000006162630000000000" + "0000"


@pytest.mark.parametrize(
    "option",
    [
        BindingRefreshAdvice(262144),
        NonceIndices(65536, 0),
        NonceIndices(0, -1),
        BindingAuthorizationData(bytes(13)),
        BindingAuthorizationData(bytes(260)),
        MobileNodeIdentifier(bytes(255)),
        MobileNodeIdentifier(b"", 256),
        UnknownMobilityOption(1, b""),
        UnknownMobilityOption(3, bytes(16)),
        UnknownMobilityOption(256, b""),
        UnknownMobilityOption(99, bytes(256)),
    ],
)
def test_option_with_an_impossible_field_is_refused(option: MobilityOption) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        encode_mobility_options((option,), 8)


@pytest.mark.parametrize(
    "octets", ["0201ff", "030401020304", "0402ffff", "0800", "0404ffff"], ids=str
)
def test_known_option_of_a_wrong_length_raises_decode_error(octets: str) -> None:
    with pytest.raises(DecodeError) as raised:
        decode_mobility_options(bytes.fromhex("00" + octets), 8, 48)
    assert raised.value.offset == 50


def test_mobile_node_identifier_has_its_fields_in_place() -> None:
    option = MobileNodeIdentifier(b"me@home")
    data = encode_mobility_options((option,), 8)
    assert data.hex() == "0808016d6540686f6d65" + "010400000000"
    assert decode_mobility_options(data, 8, 48) == (option,)


def test_home_agent_switch_with_more_addresses_than_octets_is_malformed() -> None:
    message = bytes.fromhex("3b000c0000000100")
    with pytest.raises(DecodeError, match="more home agents"):
        decode_mobility_message(message, 40)


def test_home_agent_switch_without_addresses_has_no_padding() -> None:
    assert encode_mobility_message(HomeAgentSwitch()) == bytes.fromhex("3b000c0000000000")


@pytest.mark.parametrize("kind", [0, 3, 255])
def test_binding_revocation_of_an_unassigned_type_is_malformed(kind: int) -> None:
    message = bytes((0x3B, 1, 16, 0, 0, 0, kind, 0)) + bytes(8)
    with pytest.raises(DecodeError, match="binding revocation type"):
        decode_mobility_message(message, 40)


def test_message_authentication_without_a_whole_spi_is_malformed() -> None:
    with pytest.raises(DecodeError, match="mobility SPI"):
        decode_mobility_options(bytes((9, 4, 1, 0, 0, 0)), 12, 52)
