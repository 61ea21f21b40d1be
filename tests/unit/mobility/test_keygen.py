"""Tokens, keys and authenticators, against values computed elsewhere."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from ipaddress import IPv6Address

import pytest

from mnagent.mobility.keygen import (
    authenticator,
    authorization_of,
    authorized,
    binding_management_key,
    care_of_keygen_token,
    home_keygen_token,
    is_authorized,
    mobility_header_octets,
)
from mnagent.wire.ipv6 import (
    DestinationOptions,
    FragmentHeader,
    HomeAddressOption,
    IPv6Packet,
    RawPayload,
    Type2RoutingHeader,
)
from mnagent.wire.mobility import (
    BindingAcknowledgement,
    BindingUpdate,
    HomeTestInit,
    UnknownMobilityMessage,
)
from mnagent.wire.mobility_options import BindingAuthorizationData, NonceIndices
from mnagent.wire.packet import decode_packet, encode_packet
from tests.support.requirement import requirement

# Computed with the openssl command line tool from the formulas of RFC 6275 5.2.5 and 6.2.7.
NODE_KEY = bytes(range(20))
NONCE = bytes.fromhex("a0a1a2a3a4a5a6a7")
HOME_ADDRESS = IPv6Address("2001:db8:1::10")
CARE_OF_ADDRESS = IPv6Address("2001:db8:a::10")
CORRESPONDENT = IPv6Address("2001:db8:c::1")
HOME_TOKEN = bytes.fromhex("98a67513cec18470")
CARE_OF_TOKEN = bytes.fromhex("e18b8e31bfc88c6b")
KEY = bytes.fromhex("293ac6ecbc8d0304f8ab510691f0c06d40613cd0")
DEREGISTRATION_KEY = bytes.fromhex("9a7cb7bc9e373680cec8fbf9b12dfe1b29cacbb4")
UPDATE = BindingUpdate(
    sequence=7, lifetime=420, acknowledge=True, options=(NonceIndices(home=5, care_of=6),)
)
UPDATE_OCTETS = bytes.fromhex("3b0305000000000780000069040400050006050c")
UPDATE_AUTHENTICATOR = bytes.fromhex("0849ce5979244b02063501f4")
ACKNOWLEDGEMENT = BindingAcknowledgement(status=0, sequence=7, lifetime=420)
ACKNOWLEDGEMENT_OCTETS = bytes.fromhex("3b0306000000000000070069010400000000050c")
ACKNOWLEDGEMENT_AUTHENTICATOR = bytes.fromhex("d1650314fe2166d18109a50e")
ADDRESSES = {"care_of_address": CARE_OF_ADDRESS, "correspondent": CORRESPONDENT}

SIGNED = authorized(UPDATE, KEY, **ADDRESSES)


def packet(message: object = SIGNED, **fields: object) -> IPv6Packet:
    return IPv6Packet(CARE_OF_ADDRESS, CORRESPONDENT, message, **fields)  # type: ignore[arg-type]


@requirement("RFC6275-5.2.5", "CN-16", "CN-17")
def test_keygen_tokens_are_those_of_the_formula() -> None:
    assert home_keygen_token(NODE_KEY, HOME_ADDRESS, NONCE) == HOME_TOKEN
    assert care_of_keygen_token(NODE_KEY, CARE_OF_ADDRESS, NONCE) == CARE_OF_TOKEN


def test_keygen_tokens_of_one_address_differ_by_purpose() -> None:
    tokens = {
        make(NODE_KEY, HOME_ADDRESS, NONCE) for make in (home_keygen_token, care_of_keygen_token)
    }
    assert len(tokens) == 2


@requirement("RFC6275-5.2.5", "CN-33")
def test_binding_management_key_is_the_hash_of_both_tokens_or_of_the_home_token() -> None:
    assert binding_management_key(HOME_TOKEN, CARE_OF_TOKEN) == KEY
    assert binding_management_key(HOME_TOKEN) == DEREGISTRATION_KEY
    assert hashlib.sha1(HOME_TOKEN).digest() == DEREGISTRATION_KEY


@requirement("RFC6275-6.2.7", "CN-33")
def test_authenticator_of_an_update_is_that_of_the_formula() -> None:
    assert mobility_header_octets(packet()) == UPDATE_OCTETS
    value = authenticator(KEY, CARE_OF_ADDRESS, CORRESPONDENT, UPDATE_OCTETS)
    assert value == UPDATE_AUTHENTICATOR
    assert SIGNED.options[-1] == BindingAuthorizationData(UPDATE_AUTHENTICATOR)


@requirement("RFC6275-6.2.7", "CN-33")
def test_authenticator_of_an_acknowledgement_is_that_of_the_formula() -> None:
    message = authorized(ACKNOWLEDGEMENT, KEY, **ADDRESSES)
    assert mobility_header_octets(packet(message)) == ACKNOWLEDGEMENT_OCTETS
    assert message.options == (BindingAuthorizationData(ACKNOWLEDGEMENT_AUTHENTICATOR),)


def wrapped(depth: int) -> bytes:
    """The packet in so many tunnels, with octets after its end."""
    inner = packet()
    for _ in range(depth):
        inner = IPv6Packet(CARE_OF_ADDRESS, CORRESPONDENT, inner)
    return encode_packet(inner) + bytes(3)


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (DestinationOptions((HomeAddressOption(HOME_ADDRESS),)),),
        (Type2RoutingHeader(HOME_ADDRESS),),
        (Type2RoutingHeader(HOME_ADDRESS), DestinationOptions((HomeAddressOption(HOME_ADDRESS),))),
        (FragmentHeader(0, False, 1),),
    ],
    ids=["bare", "home-address", "routing", "both", "atomic-fragment"],
)
def test_mobility_header_octets_as_received_leave_out_all_other_headers(
    headers: tuple[object, ...],
) -> None:
    data = encode_packet(packet(extension_headers=headers))
    decoded = decode_packet(data)
    assert mobility_header_octets(decoded, data) == UPDATE_OCTETS
    assert is_authorized(decoded, KEY, **ADDRESSES, data=data)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_mobility_header_octets_of_a_packet_in_tunnels_are_the_innermost(depth: int) -> None:
    assert mobility_header_octets(packet(), wrapped(depth)) == UPDATE_OCTETS


def test_mobility_header_octets_are_those_received_whatever_their_decoded_form() -> None:
    # A reserved bit and a non-zero reserved octet, which a decoder ignores, are authorized too.
    data = bytearray(encode_packet(packet()))
    data[43] = 0x77
    assert mobility_header_octets(packet(), bytes(data))[3] == 0x77
    assert not is_authorized(packet(), KEY, **ADDRESSES, data=bytes(data))


def test_mobility_header_octets_of_something_else_raise() -> None:
    with pytest.raises(ValueError, match="no mobility message"):
        mobility_header_octets(packet(RawPayload(17, bytes(8))))
    with pytest.raises(ValueError, match="Authorization"):
        mobility_header_octets(packet(HomeTestInit(bytes(8))))
    with pytest.raises(ValueError, match="no Mobility Header"):
        mobility_header_octets(packet(), encode_packet(packet(RawPayload(17, bytes(8)))))
    with pytest.raises(ValueError, match="no Mobility Header"):
        mobility_header_octets(packet(), encode_packet(packet(RawPayload(135, b""))))


def test_mobility_header_octets_in_too_many_tunnels_raise() -> None:
    data = encode_packet(packet())
    for _ in range(5):
        data = encode_packet(packet(RawPayload(41, data)))
    with pytest.raises(ValueError, match="no Mobility Header"):
        mobility_header_octets(packet(), data)


@pytest.mark.parametrize(
    "changed",
    [
        replace(SIGNED, sequence=8),
        replace(SIGNED, lifetime=416),
        replace(SIGNED, acknowledge=False),
        replace(SIGNED, options=(NonceIndices(5, 7), SIGNED.options[-1])),
        replace(SIGNED, options=(SIGNED.options[0], BindingAuthorizationData(bytes(12)))),
        replace(SIGNED, options=(SIGNED.options[0], BindingAuthorizationData(bytes(4)))),
        replace(SIGNED, options=(SIGNED.options[0], BindingAuthorizationData(bytes(20)))),
        UPDATE,
        UnknownMobilityMessage(99),
        RawPayload(17, bytes(8)),
    ],
)
def test_authorization_of_anything_changed_is_refused(changed: object) -> None:
    assert is_authorized(packet(), KEY, **ADDRESSES)
    assert not is_authorized(packet(changed), KEY, **ADDRESSES)


@pytest.mark.parametrize("name", ADDRESSES)
def test_authorization_for_another_address_is_refused(name: str) -> None:
    assert not is_authorized(packet(), KEY, **(ADDRESSES | {name: HOME_ADDRESS}))


def test_authorization_with_another_key_is_refused() -> None:
    assert not is_authorized(packet(), DEREGISTRATION_KEY, **ADDRESSES)


def test_authorization_of_a_message_that_has_it_already_raises() -> None:
    with pytest.raises(ValueError, match="last"):
        authorized(SIGNED, KEY, **ADDRESSES)


def test_authorization_option_that_is_not_last_does_not_count() -> None:
    misplaced = replace(SIGNED, options=tuple(reversed(SIGNED.options)))
    assert authorization_of(misplaced) is None
    assert authorization_of(SIGNED) == BindingAuthorizationData(UPDATE_AUTHENTICATOR)
