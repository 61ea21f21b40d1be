"""Answers of a correspondent to one mobile node's machines, made from the RFC's text alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv6Address
from random import Random
from typing import Any

from mnagent.core.events import PacketReceived, TrafficSeen
from mnagent.core.indications import Output
from mnagent.mobility.correspondent_registration import (
    CorrespondentRegistration,
    CorrespondentRegistrationSettings,
)
from mnagent.mobility.home_registration import CareOf
from mnagent.mobility.sequence import SharedSequence
from mnagent.wire.ipv6 import IPv6Packet, Type2RoutingHeader
from mnagent.wire.mobility import (
    BindingAcknowledgement,
    BindingError,
    BindingRefreshRequest,
    BindingUpdate,
    CareOfTest,
    CareOfTestInit,
    HomeTest,
    HomeTestInit,
    MobilityMessage,
    encode_mobility_message,
)
from mnagent.wire.mobility_options import BindingAuthorizationData, MobilityOption
from tests.support.correspondent import reference_authenticator, reference_key
from tests.support.driver import CARE_OF_A, HOME_ADDRESS, HOME_AGENT, INTERFACE, Driver
from tests.support.matching import sent

CORRESPONDENT = IPv6Address("2001:db8:c::99")
HOME_TOKEN = b"homeTOKN"
CARE_OF_TOKEN = b"careTOKN"
HOME_INDEX, CARE_OF_INDEX = 5, 7


def care_of(address: IPv6Address = CARE_OF_A, *, valid_until: float = math.inf) -> CareOf:
    """A care-of address on the tests' interface."""
    return CareOf(address=address, interface=INTERFACE, valid_until=valid_until)


def arrives(
    message: MobilityMessage,
    *,
    source: IPv6Address = CORRESPONDENT,
    destination: IPv6Address = HOME_ADDRESS,
    tunnel_source: IPv6Address | None = None,
    through_type2: IPv6Address | None = None,
) -> PacketReceived:
    """A mobility message that came in."""
    headers = () if through_type2 is None else (Type2RoutingHeader(through_type2),)
    packet = IPv6Packet(source, destination, message, extension_headers=headers)
    return PacketReceived(packet=packet, interface=INTERFACE, tunnel_source=tunnel_source)


def home_test(cookie: bytes, **fields: Any) -> PacketReceived:
    """A Home Test through the tunnel."""
    values: dict[str, Any] = {"tunnel_source": HOME_AGENT, **fields}
    token = values.pop("token", HOME_TOKEN)
    index = values.pop("index", HOME_INDEX)
    return arrives(HomeTest(index, cookie, token), **values)


def care_of_test(
    cookie: bytes, destination: IPv6Address = CARE_OF_A, **fields: Any
) -> PacketReceived:
    """A Care-of Test, directly."""
    token = fields.pop("token", CARE_OF_TOKEN)
    return arrives(CareOfTest(CARE_OF_INDEX, cookie, token), destination=destination, **fields)


def cookie_of(outputs: Sequence[object], kind: type[HomeTestInit | CareOfTestInit]) -> bytes:
    """The cookie of the newest Init of that kind among the outputs."""
    return sent(outputs, kind)[-1][1].cookie


def acknowledgement_of(
    action_packet: IPv6Packet,
    *,
    status: int = 0,
    lifetime: float | None = None,
    sequence: int | None = None,
    key: bytes | None = None,
    is_signed: bool = True,
    destination: IPv6Address | None = None,
    options: tuple[MobilityOption, ...] = (),
) -> PacketReceived:
    """The correspondent's answer to a Binding Update, from the tokens above."""
    update = action_packet.payload
    assert isinstance(update, BindingUpdate)
    is_deregistration = update.lifetime == 0
    if key is None:
        key = reference_key(HOME_TOKEN, b"" if is_deregistration else CARE_OF_TOKEN)
    message = BindingAcknowledgement(
        status=status,
        sequence=update.sequence if sequence is None else sequence,
        lifetime=update.lifetime if lifetime is None else lifetime,
        options=options,
    )
    address = HOME_ADDRESS if is_deregistration else action_packet.source
    source = action_packet.destination
    if is_signed:
        message = _signed(message, key, address, source)
    is_at_home = action_packet.source == HOME_ADDRESS
    return arrives(
        message,
        source=source,
        destination=destination or action_packet.source,
        through_type2=None if is_at_home else HOME_ADDRESS,
    )


def _signed(
    message: BindingAcknowledgement, key: bytes, address: IPv6Address, correspondent: IPv6Address
) -> BindingAcknowledgement:
    empty = replace(message, options=(*message.options, BindingAuthorizationData(bytes(12))))
    header = encode_mobility_message(empty)
    value = reference_authenticator(key, address, correspondent, header)
    return replace(message, options=(*message.options, BindingAuthorizationData(value)))


def expected_authenticator(packet: IPv6Packet, key: bytes, address: IPv6Address) -> bytes:
    """What a Binding Update must end in (RFC 6275 6.2.7)."""
    update = packet.payload
    assert isinstance(update, BindingUpdate)
    header = encode_mobility_message(update)
    return reference_authenticator(key, address, packet.destination, header)


def traffic(peer: IPv6Address = CORRESPONDENT, **fields: Any) -> TrafficSeen:
    """One packet out, unless said otherwise."""
    values: dict[str, Any] = {"packets_out": 1, **fields}
    return TrafficSeen(local=HOME_ADDRESS, peer=peer, **values)


class CorrespondentDriver(Driver):
    """One correspondent registration, and the correspondent's answers."""

    registration: CorrespondentRegistration

    def __init__(self, *, is_permanent: bool = False, **settings: Any) -> None:
        self.registration = CorrespondentRegistration(
            CorrespondentRegistrationSettings(
                home_address=HOME_ADDRESS, home_agent_address=HOME_AGENT, **settings
            ),
            CORRESPONDENT,
            random=Random(1),
            sequence=SharedSequence(1000),
            is_permanent=is_permanent,
        )
        super().__init__(self.registration)

    def start(
        self, address: IPv6Address = CARE_OF_A, *, is_bound: bool = True, **fields: Any
    ) -> list[Output]:
        """Away, with the home agent's acknowledgement there already unless said otherwise."""
        until = self.now + 10_000 if is_bound else None
        where = care_of(address, **fields)
        return self.note(self.registration.start(where, self.now, home_bound_until=until))

    def tell(self, event: PacketReceived) -> list[Output]:
        """A packet of the correspondent came in."""
        return self.note(self.registration.handle(event, self.now))

    def answer_home_test(self, **fields: Any) -> list[Output]:
        """Answer the newest Home Test Init."""
        outputs = [o for _, o in self.log]
        return self.tell(home_test(cookie_of(outputs, HomeTestInit), **fields))

    def answer_care_of_test(self, **fields: Any) -> list[Output]:
        """Answer the newest Care-of Test Init, to where it came from."""
        action, init = sent([o for _, o in self.log], CareOfTestInit)[-1]
        return self.tell(care_of_test(init.cookie, action.packet.source, **fields))

    def newest_update(self) -> IPv6Packet:
        """The packet with the newest Binding Update."""
        return sent([o for _, o in self.log], BindingUpdate)[-1][0].packet

    def acknowledge(self, **fields: Any) -> list[Output]:
        """Answer the newest Binding Update."""
        return self.tell(acknowledgement_of(self.newest_update(), **fields))

    def establish(self, address: IPv6Address = CARE_OF_A, **fields: Any) -> list[Output]:
        """From nothing to the direct path."""
        self.start(address)
        self.answer_home_test()
        self.answer_care_of_test()
        return self.acknowledge(**fields)

    def note_traffic(self, **fields: Any) -> list[Output]:
        """Packets went or came."""
        return self.note(self.registration.note_traffic(traffic(**fields), self.now))

    def binding_error(self, status: int = 1, **fields: Any) -> list[Output]:
        """A Binding Error from the correspondent."""
        home_address = fields.pop("home_address", HOME_ADDRESS)
        values: dict[str, Any] = {"destination": CARE_OF_A, **fields}
        return self.tell(arrives(BindingError(status, home_address), **values))

    def refresh_request(self) -> list[Output]:
        """A Binding Refresh Request from the correspondent."""
        return self.tell(arrives(BindingRefreshRequest(), tunnel_source=HOME_AGENT))
