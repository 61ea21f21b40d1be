"""ESP: layout on the wire, every transform both ways, and every way to be refused."""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass

import pytest

from mnagent.core.security import Direction, EspMode, EspTransform, SecurityAssociation
from mnagent.ipsec.association import SecurityAssociationDatabase, SequenceExhausted
from mnagent.ipsec.esp_reference import (
    EspError,
    EspFailure,
    ReferenceEsp,
    protect,
    protect_tunnel,
    unprotect,
)
from tests.support.requirement import requirement
from tests.unit.ipsec.esp_packets import (
    CARE_OF_ADDRESS,
    HOME_AGENT,
    association,
    destination_options,
    ipv6,
    routing_header,
)

MOBILITY_HEADER = 135
MESSAGE = bytes(range(24))
PLAIN = ipv6(60, destination_options(MOBILITY_HEADER) + MESSAGE)


def refused(packet: bytes, *associations: SecurityAssociation) -> EspFailure:
    with pytest.raises(EspError) as caught:
        unprotect(associations or (association(Direction.INBOUND),), packet)
    return caught.value.failure


def resized(packet: bytes) -> bytes:
    """The packet with the payload length that its octets have."""
    return packet[:4] + (len(packet) - 40).to_bytes(2, "big") + packet[6:]


@pytest.mark.parametrize("transform", EspTransform)
@pytest.mark.parametrize("length", [0, 1, 2, 13, 14, 15, 16, 24, 1400])
def test_esp_round_trip_any_transform_and_length_gives_the_packet_back(
    transform: EspTransform, length: int
) -> None:
    packet = ipv6(MOBILITY_HEADER, bytes(i & 0xFF for i in range(length)))
    sealed = protect(association(transform=transform), 7, packet)
    inbound = association(Direction.INBOUND, transform=transform)
    assert unprotect([inbound], sealed) == (packet, 0x1234ABCD, 7)


@requirement("RFC3776-3.1", "SEC-01")
def test_esp_protect_binding_update_away_stands_after_home_address_option() -> None:
    sealed = protect(association(), 1, PLAIN)
    assert sealed[6] == 60
    assert sealed[40] == 50  # the Destination Options header names ESP
    assert sealed[41:64] == PLAIN[41:64]  # and is otherwise unchanged, the option in the clear
    assert struct.unpack_from("!II", sealed, 64) == (0x1234ABCD, 1)
    assert int.from_bytes(sealed[4:6], "big") == len(sealed) - 40
    assert MESSAGE not in sealed


@requirement("RFC3776-3.1", "SEC-01")
def test_esp_protect_acknowledgement_away_stands_after_routing_header() -> None:
    packet = ipv6(43, routing_header(MOBILITY_HEADER) + MESSAGE)
    sealed = protect(association(), 1, packet)
    assert (sealed[6], sealed[40]) == (43, 50)
    assert unprotect([association(Direction.INBOUND)], sealed)[0] == packet


@requirement("RFC3776-3.1", "SEC-02")
def test_esp_protect_at_home_stands_right_after_ipv6_header() -> None:
    sealed = protect(association(), 1, ipv6(MOBILITY_HEADER, MESSAGE))
    assert sealed[6] == 50
    assert struct.unpack_from("!I", sealed, 40) == (0x1234ABCD,)


def test_esp_cbc_layout_and_check_value_are_those_of_the_rfc() -> None:
    vector = bytes(range(16))
    outbound = association()
    sealed = protect(outbound, 5, ipv6(MOBILITY_HEADER, MESSAGE), initialization_vector=vector)
    body = sealed[40:]
    assert body[8:24] == vector
    assert len(body) == 8 + 16 + 32 + 16  # 24 octets, 6 of padding, 2 of trailer
    digest = hmac.new(outbound.integrity_key, body[:-16], hashlib.sha256).digest()
    assert body[-16:] == digest[:16]


def test_esp_null_shows_padding_one_two_three_and_next_header() -> None:
    outbound = association(transform=EspTransform.NULL_HMAC_SHA256_128)
    body = protect(outbound, 5, ipv6(MOBILITY_HEADER, b"abc"))[40:]
    assert body[8:-16] == b"abc" + bytes((1, 2, 3, 3, MOBILITY_HEADER))


@dataclass(frozen=True, kw_only=True)
class KnownAnswer:
    """An ESP packet somebody else made; texts are hexadecimal."""

    transform: EspTransform
    key: str
    spi: int
    sequence: int
    vector: str
    next_header: int
    payload: str
    sealed: str


GCM_SAMPLE = KnownAnswer(  # draft-mcgrew-gcm-test-01, the second sample
    transform=EspTransform.AES_GCM_16,
    key="feffe9928665731c6d6a8f9467308308cafebabe",
    spi=0xA5F8,
    sequence=10,
    vector="facedbaddecaf888",
    next_header=1,
    payload="4500003e698f000080114dccc0a80102c0a801010a980035002a2343b2d0010000010000000000000373"
    "69700963796265726369747902646b0000010001",
    sealed="deb22cd9b07c72c16e3a65beeb8df304a5a5897d33ae530f1ba76d5d114d2a5c3de81827c10e9a4f51330d0"
    "eec416642cfbb85a5b47e48a4ec3b9ba95d918bd183b70d3aa8bc6ee4c309e9d85a41ad4a",
)
CHACHA_SAMPLE = KnownAnswer(  # RFC 7634 appendix A
    transform=EspTransform.CHACHA20_POLY1305,
    key="808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9fa0a1a2a3",
    spi=0x01020304,
    sequence=5,
    vector="1011121314151617",
    next_header=4,
    payload="45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec100007362708090a0b0c0d0e"
    "0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637",
    sealed="24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c614ee8099d52844eb61aa95"
    "dfab4c02f72aa71e7c4c4f64c9befe2facc638e8f3cbec163fac469b502773f6fb94e664da9165b82829f641e0"
    "76aaa8266b7fb0f7b11b369907e1ad43",
)


@pytest.mark.parametrize("sample", [GCM_SAMPLE, CHACHA_SAMPLE], ids=lambda s: s.transform.value)
def test_esp_published_sample_comes_out_octet_by_octet(sample: KnownAnswer) -> None:
    key = bytes.fromhex(sample.key)
    outbound, inbound = (
        association(direction, transform=sample.transform, spi=sample.spi, encryption_key=key)
        for direction in (Direction.OUTBOUND, Direction.INBOUND)
    )
    packet = ipv6(sample.next_header, bytes.fromhex(sample.payload))
    vector = bytes.fromhex(sample.vector)
    made = protect(outbound, sample.sequence, packet, initialization_vector=vector)
    header = struct.pack("!II", sample.spi, sample.sequence)
    assert made[40:] == header + vector + bytes.fromhex(sample.sealed)
    assert unprotect([inbound], made)[0] == packet


def test_esp_default_vector_differs_with_each_sequence_number() -> None:
    for transform in (EspTransform.AES_CBC_HMAC_SHA256_128, EspTransform.AES_GCM_16):
        first, second = (
            protect(association(transform=transform), sequence, PLAIN)[72:] for sequence in (1, 2)
        )
        assert first != second


@pytest.mark.parametrize("transform", EspTransform)
def test_esp_unprotect_any_flipped_bit_is_refused(transform: EspTransform) -> None:
    sealed = protect(association(transform=transform), 7, ipv6(MOBILITY_HEADER, MESSAGE))
    inbound = association(Direction.INBOUND, transform=transform)
    for position in range(44, len(sealed)):
        forged = bytearray(sealed)
        forged[position] ^= 1
        assert refused(bytes(forged), inbound) is EspFailure.AUTHENTICATION


@pytest.mark.parametrize("transform", EspTransform)
def test_esp_unprotect_every_truncation_is_refused(transform: EspTransform) -> None:
    sealed = protect(association(transform=transform), 7, PLAIN)
    inbound = association(Direction.INBOUND, transform=transform)
    for length in range(len(sealed)):
        refused(sealed[:length], inbound)
        if length >= 40:
            refused(resized(sealed[:length]), inbound)


@requirement("RFC6275-4.2", "SEC-17")
def test_esp_unprotect_from_another_care_of_address_finds_association_by_spi() -> None:
    moved = bytearray(protect(association(), 7, PLAIN))
    moved[23] ^= 0xFF
    assert unprotect([association(Direction.INBOUND)], bytes(moved))[1] == 0x1234ABCD


def test_esp_unprotect_unknown_spi_is_refused() -> None:
    other = association(Direction.INBOUND, spi=0x999)
    assert refused(protect(association(), 7, PLAIN), other) is EspFailure.UNKNOWN_SPI


def test_esp_unprotect_outbound_association_is_not_used() -> None:
    assert refused(protect(association(), 7, PLAIN), association()) is EspFailure.UNKNOWN_SPI


def test_esp_unprotect_plain_packet_is_refused() -> None:
    assert refused(PLAIN) is EspFailure.NOT_ESP


def test_esp_unprotect_fragment_is_refused() -> None:
    assert refused(ipv6(44, bytes(8) + MESSAGE)) is EspFailure.FRAGMENT


def test_esp_unprotect_dummy_packet_is_refused_with_its_own_reason() -> None:
    sealed = protect(association(), 7, ipv6(59, b""))
    assert refused(sealed) is EspFailure.DUMMY


def test_esp_unprotect_wrong_padding_is_refused() -> None:
    outbound = association(transform=EspTransform.NULL_HMAC_SHA256_128)
    body = struct.pack("!II", outbound.spi, 1) + b"abc\x01\x02\x04\x03\x87"
    digest = hmac.new(outbound.integrity_key, body, hashlib.sha256).digest()[:16]
    inbound = association(Direction.INBOUND, transform=EspTransform.NULL_HMAC_SHA256_128)
    assert refused(ipv6(50, body + digest), inbound) is EspFailure.PADDING


def test_esp_unprotect_authentic_part_of_a_block_is_refused() -> None:
    outbound = association()
    body = struct.pack("!II", outbound.spi, 1) + bytes(16) + bytes(20)
    digest = hmac.new(outbound.integrity_key, body, hashlib.sha256).digest()[:16]
    assert refused(ipv6(50, body + digest)) is EspFailure.TRUNCATED


@requirement("RFC3776-3.2", "SEC-03")
def test_esp_tunnel_carries_whole_packet_and_copies_traffic_class() -> None:
    inner = ipv6(MOBILITY_HEADER, MESSAGE, traffic_class=0xBB)
    outbound = association(mode=EspMode.TUNNEL)
    sealed = protect_tunnel(outbound, 3, inner, source=CARE_OF_ADDRESS, destination=HOME_AGENT)
    assert sealed[6] == 50
    assert (int.from_bytes(sealed[:2], "big") >> 4) & 0xFF == 0xBB
    inbound = association(Direction.INBOUND, mode=EspMode.TUNNEL)
    plain = unprotect([inbound], sealed)[0]
    assert plain[6] == 41
    assert plain[40:] == inner


def test_esp_tunnel_association_refuses_what_is_not_ipv6() -> None:
    with pytest.raises(ValueError, match="IPv6 in IPv6"):
        protect(association(mode=EspMode.TUNNEL), 1, PLAIN)
    inbound = association(Direction.INBOUND, mode=EspMode.TUNNEL)
    assert refused(protect(association(), 1, PLAIN), inbound) is EspFailure.WRONG_MODE


@pytest.mark.parametrize("sequence", [0, -1, 2**32])
def test_esp_protect_impossible_sequence_number_raises(sequence: int) -> None:
    with pytest.raises(ValueError, match="sequence number"):
        protect(association(), sequence, PLAIN)


def test_esp_protect_inbound_association_raises() -> None:
    with pytest.raises(ValueError, match="outbound association"):
        protect(association(Direction.INBOUND), 1, PLAIN)


def test_esp_protect_too_long_packet_raises() -> None:
    with pytest.raises(ValueError, match="longer than IPv6"):
        protect(association(), 1, ipv6(17, bytes(0xFFF0)))
    with pytest.raises(ValueError, match="longer than IPv6"):
        protect_tunnel(
            association(mode=EspMode.TUNNEL),
            1,
            bytes(0x10000),
            source=CARE_OF_ADDRESS,
            destination=HOME_AGENT,
        )


def both_ends() -> tuple[ReferenceEsp, ReferenceEsp]:
    sender = ReferenceEsp(SecurityAssociationDatabase([association()]))
    receiver = ReferenceEsp(SecurityAssociationDatabase([association(Direction.INBOUND)]))
    return sender, receiver


@requirement("RFC4303-3.4.3", "SEC-18")
def test_esp_receiver_replayed_packet_is_refused() -> None:
    sender, receiver = both_ends()
    sealed = sender.protect(0x1234ABCD, PLAIN)
    assert receiver.unprotect(sealed) == (PLAIN, 0x1234ABCD)
    with pytest.raises(EspError) as caught:
        receiver.unprotect(sealed)
    assert caught.value.failure is EspFailure.REPLAYED


@requirement("RFC4303-3.4.3", "SEC-18")
def test_esp_receiver_forged_packet_does_not_move_the_window() -> None:
    sender, receiver = both_ends()
    forged = bytearray(protect(association(), 2**31, PLAIN))
    forged[-1] ^= 1
    with pytest.raises(EspError):
        receiver.unprotect(bytes(forged))
    assert receiver.database.window(0x1234ABCD).highest == 0
    assert receiver.unprotect(sender.protect(0x1234ABCD, PLAIN))[0] == PLAIN


def test_esp_receiver_unknown_spi_is_refused() -> None:
    sender, _ = both_ends()
    receiver = ReferenceEsp(SecurityAssociationDatabase())
    with pytest.raises(EspError) as caught:
        receiver.unprotect(sender.protect(0x1234ABCD, PLAIN))
    assert caught.value.failure is EspFailure.UNKNOWN_SPI


def test_esp_sender_used_up_block_raises() -> None:
    sender, _ = both_ends()
    sender.database.counter(0x1234ABCD).limit = 2
    sender.protect(0x1234ABCD, PLAIN)
    with pytest.raises(SequenceExhausted):
        sender.protect(0x1234ABCD, PLAIN)
    with pytest.raises(KeyError):
        sender.protect(0x999, PLAIN)
