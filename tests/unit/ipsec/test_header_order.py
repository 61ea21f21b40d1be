"""Encoded packets, protected as the policies say: the header orders of RFC 3776 section 3."""

from __future__ import annotations

import random
from ipaddress import IPv6Address

import pytest

from mnagent.ipsec.association import SecurityAssociationDatabase
from mnagent.ipsec.esp_reference import ReferenceEsp
from mnagent.ipsec.keys import KeySet, generate_pair, load_key_file
from mnagent.ipsec.mobility_policy import home_agent_database, mobile_node_database
from mnagent.wire.icmp6 import MobilePrefixAdvertisement, MobilePrefixSolicitation
from mnagent.wire.ipv6 import (
    DestinationOptions,
    HomeAddressOption,
    IPv6Packet,
    Type2RoutingHeader,
)
from mnagent.wire.mobility import (
    BindingAcknowledgement,
    BindingUpdate,
    HomeTest,
    HomeTestInit,
)
from mnagent.wire.mobility_options import AlternateCareOfAddress
from mnagent.wire.packet import decode_packet, encode_packet
from tests.support.requirement import requirement

HOME_AGENT = IPv6Address("2001:db8:1::1")
HOME_ADDRESS = IPv6Address("2001:db8:1::10")
CARE_OF_ADDRESS = IPv6Address("2001:db8:a::10")
CORRESPONDENT = IPv6Address("2001:db8:c::5")

DESTINATION_OPTIONS, ROUTING, ESP = 60, 43, 50

OPTION = (DestinationOptions((HomeAddressOption(HOME_ADDRESS),)),)
HEADER = (Type2RoutingHeader(HOME_ADDRESS),)
UPDATE = BindingUpdate(
    sequence=1,
    lifetime=60,
    acknowledge=True,
    home_registration=True,
    options=(AlternateCareOfAddress(CARE_OF_ADDRESS),),
)
ACKNOWLEDGEMENT = BindingAcknowledgement(status=0, sequence=1, lifetime=60)
HOME_TEST_INIT = HomeTestInit(cookie=bytes(8), options=())
HOME_TEST = HomeTest(nonce_index=1, cookie=bytes(8), keygen_token=bytes(8), options=())
ADVERTISEMENT = MobilePrefixAdvertisement(identifier=1, options=())

TO_HOME_AGENT = {
    "update-away": (
        IPv6Packet(CARE_OF_ADDRESS, HOME_AGENT, UPDATE, extension_headers=OPTION),
        [DESTINATION_OPTIONS, ESP],
    ),
    "update-at-home": (IPv6Packet(HOME_ADDRESS, HOME_AGENT, UPDATE), [ESP]),
    "solicitation": (
        IPv6Packet(
            CARE_OF_ADDRESS,
            HOME_AGENT,
            MobilePrefixSolicitation(identifier=1),
            extension_headers=OPTION,
        ),
        [DESTINATION_OPTIONS, ESP],
    ),
    "home-test-init": (
        IPv6Packet(
            CARE_OF_ADDRESS, HOME_AGENT, IPv6Packet(HOME_ADDRESS, CORRESPONDENT, HOME_TEST_INIT)
        ),
        [ESP],
    ),
}
TO_MOBILE_NODE = {
    "acknowledgement-away": (
        IPv6Packet(HOME_AGENT, CARE_OF_ADDRESS, ACKNOWLEDGEMENT, extension_headers=HEADER),
        [ROUTING, ESP],
    ),
    "acknowledgement-at-home": (IPv6Packet(HOME_AGENT, HOME_ADDRESS, ACKNOWLEDGEMENT), [ESP]),
    "advertisement": (
        IPv6Packet(HOME_AGENT, CARE_OF_ADDRESS, ADVERTISEMENT, extension_headers=HEADER),
        [ROUTING, ESP],
    ),
    "home-test": (
        IPv6Packet(HOME_AGENT, CARE_OF_ADDRESS, IPv6Packet(CORRESPONDENT, HOME_ADDRESS, HOME_TEST)),
        [ESP],
    ),
}


def headers(data: bytes) -> list[int]:
    """Header numbers from the fixed header up to ESP."""
    found, offset = [data[6]], 40
    while found[-1] != ESP:
        found.append(data[offset])
        offset += 8 * (data[offset + 1] + 1)
    return found


def ends() -> tuple[KeySet, KeySet]:
    texts = generate_pair(HOME_ADDRESS, HOME_AGENT, random_bytes=random.Random(5).randbytes)
    return load_key_file(texts[0]), load_key_file(texts[1])


@requirement("RFC3776-3", "SEC-01", "SEC-02", "SEC-03", "SEC-04")
@pytest.mark.parametrize("name", [*TO_HOME_AGENT, *TO_MOBILE_NODE])
def test_message_between_the_ends_has_the_headers_of_the_rfc_and_arrives(name: str) -> None:
    node, agent = ends()
    databases = [mobile_node_database(node), home_agent_database(HOME_AGENT, [agent])]
    engines = [
        ReferenceEsp(SecurityAssociationDatabase(keys.associations)) for keys in (node, agent)
    ]
    for database in databases:
        database.activate_tunnel(HOME_ADDRESS)
    packet, order = {**TO_HOME_AGENT, **TO_MOBILE_NODE}[name]
    sender, receiver = (0, 1) if name in TO_HOME_AGENT else (1, 0)

    policy = databases[sender].outbound(packet)
    assert policy is not None
    assert policy.associations is not None
    sealed = engines[sender].protect(policy.associations.outbound.spi, encode_packet(packet))
    assert headers(sealed) == order

    plain, spi = engines[receiver].unprotect(sealed)
    assert decode_packet(plain) == packet
    assert databases[receiver].inbound(packet, spi) is None
