"""A correspondent node, and a mobile node that knows the cryptography from the RFC's text alone."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address
from random import Random
from typing import Any

from mnagent.core.actions import Action
from mnagent.core.events import PacketReceived
from mnagent.mobility.correspondent_node import CorrespondentNode, CorrespondentNodeSettings
from mnagent.wire.ipv6 import DestinationOptions, HomeAddressOption, IPv6Packet
from mnagent.wire.mobility import (
    BindingAcknowledgement,
    BindingUpdate,
    CareOfTest,
    CareOfTestInit,
    HomeTest,
    HomeTestInit,
)
from mnagent.wire.mobility_options import (
    AlternateCareOfAddress,
    BindingAuthorizationData,
    MobilityOption,
    NonceIndices,
)
from mnagent.wire.packet import decode_packet, encode_packet
from tests.support.matching import sent

CORRESPONDENT = IPv6Address("2001:db8:c::1")
OTHER_CORRESPONDENT = IPv6Address("2001:db8:c::2")
HOME_ADDRESS = IPv6Address("2001:db8:1::10")
OTHER_HOME_ADDRESS = IPv6Address("2001:db8:1::20")
CARE_OF_ADDRESS = IPv6Address("2001:db8:a::10")
OTHER_CARE_OF_ADDRESS = IPv6Address("2001:db8:b::10")
INTERFACE = 2

SETTINGS = CorrespondentNodeSettings(addresses=frozenset((CORRESPONDENT, OTHER_CORRESPONDENT)))


def make_correspondent(**changes: Any) -> CorrespondentNode:
    """A correspondent node with the settings above, some of them changed."""
    return CorrespondentNode(replace(SETTINGS, **changes), random=Random(1))


def arrived(packet: IPv6Packet, **fields: Any) -> PacketReceived:
    """A packet as it comes off the wire, octets included."""
    data = encode_packet(packet)
    return PacketReceived(packet=decode_packet(data), interface=INTERFACE, data=data, **fields)


def home_address_option(home_address: IPv6Address) -> DestinationOptions:
    """The header that carries a Home Address option."""
    return DestinationOptions((HomeAddressOption(home_address),))


def reference_key(home_token: bytes, care_of_token: bytes = b"") -> bytes:
    """Kbm as RFC 6275 5.2.5 has it."""
    return hashlib.sha1(home_token + care_of_token).digest()


def reference_authenticator(
    key: bytes, care_of_address: IPv6Address, correspondent: IPv6Address, header: bytes
) -> bytes:
    """The authenticator of a Mobility Header that ends in 12 octets to be filled in (6.2.7)."""
    covered = header[:4] + bytes(2) + header[6:-12]
    data = care_of_address.packed + correspondent.packed + covered
    return hmac.new(key, data, hashlib.sha1).digest()[:12]


def signed(packet: IPv6Packet, key: bytes, care_of_address: IPv6Address) -> IPv6Packet:
    """A Binding Update with its authenticator."""
    message = packet.payload
    assert isinstance(message, BindingUpdate)
    empty = replace(message, options=(*message.options, BindingAuthorizationData(bytes(12))))
    octets = encode_packet(replace(packet, payload=empty))
    header = octets[-(len(octets) - 40) :]
    for _ in packet.extension_headers:
        header = header[(header[1] + 1) * 8 :]
    correspondent = packet.logical_destination
    value = reference_authenticator(key, care_of_address, correspondent, header)
    options = (*message.options, BindingAuthorizationData(value))
    return replace(packet, payload=replace(message, options=options))


@dataclass
class Peer:
    """A mobile node that has run the return routability procedure with `run_tests`."""

    home_address: IPv6Address = HOME_ADDRESS
    care_of_address: IPv6Address = CARE_OF_ADDRESS
    correspondent: IPv6Address = CORRESPONDENT
    home_token: bytes = field(default=b"", repr=False)
    home_index: int = 0
    care_of_token: bytes = field(default=b"", repr=False)
    care_of_index: int = 0

    def ask_for_home_token(self, node: CorrespondentNode, now: float = 0.0) -> HomeTest:
        """Ask for the home keygen token and keep it."""
        _, test = only_sent(node.handle(self.home_test_init(), now), HomeTest)
        assert isinstance(test, HomeTest)
        self.home_token, self.home_index = test.keygen_token, test.nonce_index
        return test

    def ask_for_care_of_token(
        self, node: CorrespondentNode, now: float = 0.0, *, address: IPv6Address | None = None
    ) -> CareOfTest:
        """Ask for the care-of keygen token and keep it."""
        _, test = only_sent(node.handle(self.care_of_test_init(address), now), CareOfTest)
        assert isinstance(test, CareOfTest)
        self.care_of_token, self.care_of_index = test.keygen_token, test.nonce_index
        return test

    def run_tests(self, node: CorrespondentNode, now: float = 0.0) -> Peer:
        """The return routability procedure."""
        self.ask_for_home_token(node, now)
        self.ask_for_care_of_token(node, now)
        return self

    def home_test_init(self, cookie: bytes = b"homecook") -> PacketReceived:
        """HoTI as the correspondent sees it."""
        return arrived(IPv6Packet(self.home_address, self.correspondent, HomeTestInit(cookie)))

    def care_of_test_init(
        self, address: IPv6Address | None = None, cookie: bytes = b"carecook"
    ) -> PacketReceived:
        """CoTI as the correspondent sees it."""
        source = address or self.care_of_address
        return arrived(IPv6Packet(source, self.correspondent, CareOfTestInit(cookie)))

    @property
    def registration_key(self) -> bytes:
        """Kbm."""
        return reference_key(self.home_token, self.care_of_token)

    @property
    def deregistration_key(self) -> bytes:
        """Kbm without the care-of token."""
        return reference_key(self.home_token)

    def update(
        self,
        sequence: int = 1,
        lifetime: float = 420,
        *,
        acknowledge: bool = True,
        home_registration: bool = False,
        source: IPv6Address | None = None,
        alternate: IPv6Address | None = None,
        indices: tuple[int, int] | None = None,
        home_address_option_present: bool = True,
        key: bytes | None = None,
        covered_address: IPv6Address | None = None,
        options: tuple[MobilityOption, ...] = (),
    ) -> PacketReceived:
        """An authorized Binding Update; ``covered_address`` and ``key`` as the RFC says unless
        given."""
        source = source or self.care_of_address
        is_deregistration = lifetime < 4 or self.home_address in (alternate or source,)
        if alternate is not None:
            options = (AlternateCareOfAddress(alternate), *options)
        numbers = (self.home_index, self.care_of_index) if indices is None else indices
        message = BindingUpdate(
            sequence=sequence,
            lifetime=lifetime,
            acknowledge=acknowledge,
            home_registration=home_registration,
            options=(*options, NonceIndices(*numbers)),
        )
        has_option = home_address_option_present and source != self.home_address
        headers = (home_address_option(self.home_address),) if has_option else ()
        packet = IPv6Packet(source, self.correspondent, message, extension_headers=headers)
        if key is None:
            key = self.deregistration_key if is_deregistration else self.registration_key
        if covered_address is None:
            covered_address = self.home_address if is_deregistration else alternate or source
        return arrived(signed(packet, key, covered_address))

    def deregistration(self, sequence: int = 2, **changes: Any) -> PacketReceived:
        """A Binding Update from home that deletes the binding."""
        changes.setdefault("source", self.home_address)
        return self.update(sequence, 0, **changes)

    def is_authentic(
        self, packet: IPv6Packet, *, key: bytes | None = None, address: IPv6Address | None = None
    ) -> bool:
        """Whether a Binding Acknowledgement's authenticator is right."""
        message = packet.payload
        assert isinstance(message, BindingAcknowledgement)
        if not message.options or not isinstance(message.options[-1], BindingAuthorizationData):
            return False
        bare = encode_packet(replace(packet, extension_headers=(), destination=self.home_address))
        expected = reference_authenticator(
            key or self.registration_key,
            address or self.care_of_address,
            self.correspondent,
            bare[40:],
        )
        return expected == message.options[-1].authenticator


def only_sent(actions: list[Action], kind: type[Any]) -> tuple[IPv6Packet, Any]:
    """The one packet sent with such a payload, and the payload."""
    ((action, payload),) = sent(actions, kind)
    return action.packet, payload


def only_acknowledgement(actions: list[Action]) -> BindingAcknowledgement:
    """The one Binding Acknowledgement sent."""
    _, message = only_sent(actions, BindingAcknowledgement)
    assert isinstance(message, BindingAcknowledgement)
    return message


def bound(
    node: CorrespondentNode, *, peer: Peer | None = None, sequence: int = 1, now: float = 0.0
) -> Peer:
    """A mobile node whose binding the correspondent has accepted."""
    peer = (peer or Peer()).run_tests(node, now)
    answer = only_acknowledgement(node.handle(peer.update(sequence), now))
    assert answer.is_accepted
    return peer
