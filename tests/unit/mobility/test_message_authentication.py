"""RFC 4285 at both ends: what is signed is believed, everything else is dropped or refused."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address
from random import Random
from typing import Any

import pytest

from mnagent.core.actions import JournalRecord
from mnagent.core.drops import DropReason
from mnagent.core.events import PacketReceived
from mnagent.core.records import KeptRecord
from mnagent.core.security import MobilityAssociation
from mnagent.mobility.home_agent import TIMESTAMP_KEY, AuthorisedMobileNode, HomeAgent
from mnagent.mobility.home_registration import (
    CareOf,
    HomeRegistration,
    HomeRegistrationSettings,
    RegistrationState,
)
from mnagent.mobility.message_authentication import (
    TIMESTAMP_TOLERANCE,
    Authentication,
    UpdateVerifier,
    timestamp_of,
    wall_of,
)
from mnagent.wire.mobility import BindingAcknowledgement, BindingStatus, BindingUpdate
from mnagent.wire.mobility_options import (
    MessageAuthentication,
    MobileNodeIdentifier,
    MobilityOption,
    ReplayProtection,
)
from mnagent.wire.packet import decode_packet, encode_packet
from tests.support.home_link import (
    CARE_OF_ADDRESS,
    HOME_ADDRESS,
    HOME_AGENT_ADDRESS,
    acknowledgements,
    actions_of,
    binding_update,
    make_home_agent,
    only_acknowledgement,
    sent,
)
from tests.support.requirement import requirement

KEY = MobilityAssociation(spi=0x1234, key=bytes(range(16)))
OTHER_KEY = MobilityAssociation(spi=0x1234, key=bytes(range(1, 17)))
NAI = "node@example.org"
CARE_OF = CareOf(address=CARE_OF_ADDRESS, interface=3)


def authentication(
    key: MobilityAssociation = KEY, *, wrong_by: float = 0.0, identifier: str = NAI
) -> Authentication:
    return Authentication(
        association=key,
        identifier=identifier,
        wall_clock=lambda now: 1_700_000_000.0 + now + wrong_by,
    )


class Pair:
    """A registration and a home agent, with octets between them."""

    def __init__(
        self, node: Authentication | None = None, agent: Authentication | None = None
    ) -> None:
        self.registration = HomeRegistration(
            HomeRegistrationSettings(
                home_address=HOME_ADDRESS,
                home_agent_address=HOME_AGENT_ADDRESS,
                authentication=node or authentication(),
            ),
            random=Random(1),
        )
        served = AuthorisedMobileNode(
            home_address=HOME_ADDRESS, authentication=agent or authentication()
        )
        self.home_agent: HomeAgent = make_home_agent(home_link=None, mobile_nodes=(served,))

    def exchange(self, outputs: list[Any], now: float, *, rounds: int = 4) -> None:
        """Carry updates and answers to and fro."""
        for _ in range(rounds):
            updates = [carried(each.packet) for each in sent(outputs, BindingUpdate)]
            answers = [a for each in updates for a in self.home_agent.handle(each, now)]
            outputs = []
            for answer in sent(answers, BindingAcknowledgement):
                outputs += self.registration.handle(carried(answer.packet), now)

    def register(self, now: float = 10.0) -> None:
        self.exchange(self.registration.register(CARE_OF, now), now)


def carried(packet: Any) -> PacketReceived:
    """As it arrives: decoded from its octets, which come along."""
    data = encode_packet(packet)
    return PacketReceived(packet=decode_packet(data), interface=3, data=data)


def altered(received: PacketReceived, options: tuple[MobilityOption, ...]) -> PacketReceived:
    message = received.packet.payload
    assert isinstance(message, BindingUpdate | BindingAcknowledgement)
    return carried(replace(received.packet, payload=replace(message, options=options)))


def update_of(pair: Pair, now: float = 10.0) -> PacketReceived:
    (update,) = sent(pair.registration.register(CARE_OF, now), BindingUpdate)
    return carried(update.packet)


def test_timestamp_is_ntps_and_comes_back() -> None:
    assert timestamp_of(0.0) >> 32 == 2_208_988_800
    assert wall_of(timestamp_of(1_700_000_000.5)) == pytest.approx(1_700_000_000.5)


def test_key_is_not_shown() -> None:
    assert KEY.key.hex() not in repr(authentication())
    assert "key" not in repr(KEY)


@requirement("RFC4285-5", "EXT-10")
def test_update_and_answer_that_are_signed_make_a_binding() -> None:
    pair = Pair()
    update = update_of(pair)
    message = update.packet.payload
    assert isinstance(message, BindingUpdate)
    assert [type(each) for each in message.options[1:]] == [
        MobileNodeIdentifier,
        ReplayProtection,
        MessageAuthentication,
    ]
    answer = only_acknowledgement(pair.home_agent.handle(update, 10.1))
    assert answer.is_accepted
    assert answer.options[-2] == message.options[-2]
    (packet,) = sent(
        pair.home_agent.handle(update, 10.1), BindingAcknowledgement
    )  # the same again: refused by its number or time
    assert not packet.packet.payload.is_accepted  # type: ignore[union-attr]


def test_registration_is_made_kept_and_ended_with_signatures_alone() -> None:
    pair = Pair()
    pair.register()
    assert pair.registration.state is RegistrationState.REGISTERED
    assert len(pair.home_agent.bindings) == 1
    pair.exchange(pair.registration.prove(20.0), 20.0)
    assert pair.registration.state is RegistrationState.REGISTERED
    pair.exchange(pair.registration.deregister(30.0), 30.0)
    assert pair.home_agent.bindings == ()
    assert pair.registration.state is RegistrationState.UNREGISTERED


@requirement("RFC4285-5", "EXT-10")
@pytest.mark.parametrize("wrong_by", [-3600.0, 8.0, 3600.0])
def test_mobile_node_with_a_wrong_clock_learns_the_time(wrong_by: float) -> None:
    pair = Pair(authentication(wrong_by=wrong_by))
    pair.register()
    assert pair.registration.state is RegistrationState.REGISTERED


def test_update_that_is_replayed_is_refused_after_the_binding_is_gone() -> None:
    pair = Pair()
    update = update_of(pair)
    pair.home_agent.handle(update, 10.0)
    pair.home_agent.handle_timer(1000.0)
    fresh = only_acknowledgement(pair.home_agent.handle(update, 1000.0))
    assert fresh.status == BindingStatus.IDENTIFIER_MISMATCH
    close = Pair()
    close.home_agent.handle(update, 10.0)
    close.home_agent.delete_binding(HOME_ADDRESS, 10.5)
    again = only_acknowledgement(close.home_agent.handle(update, 11.0))
    assert again.status == BindingStatus.IDENTIFIER_MISMATCH


def test_update_that_is_replayed_is_refused_after_the_home_link_was_made_anew() -> None:
    pair = Pair()
    update = update_of(pair)
    pair.home_agent.handle(update, 10.0)
    pair.home_agent.delete_binding(HOME_ADDRESS, 10.5)
    pair.home_agent.move(9, b"", 10.6)
    again = only_acknowledgement(pair.home_agent.handle(update, 11.0))
    assert again.status == BindingStatus.IDENTIFIER_MISMATCH


def test_update_with_another_key_is_refused_and_its_answer_not_believed() -> None:
    pair = Pair(authentication(OTHER_KEY))
    update = update_of(pair)
    actions = pair.home_agent.handle(update, 10.0)
    assert only_acknowledgement(actions).status == BindingStatus.AUTHENTICATION_FAILED
    (answer,) = sent(actions, BindingAcknowledgement)
    assert pair.registration.handle(carried(answer.packet), 10.1) == []
    assert pair.registration.drops[DropReason.BAD_AUTHENTICATOR] == 1
    assert pair.home_agent.bindings == ()


def test_any_octet_of_an_update_that_changes_is_noticed() -> None:
    pair = Pair()
    update = update_of(pair)
    start = len(update.data) - 88
    for position in (start + 8, start + 11, start + 30, start + 50):
        octets = bytearray(update.data)
        octets[position] ^= 1
        changed = replace(update, data=bytes(octets))
        answers = acknowledgements(pair.home_agent.handle(changed, 10.0))
        assert all(not each.is_accepted for each in answers)
    assert pair.home_agent.bindings == ()


@requirement("RFC4285-5", "EXT-10")
@requirement("RFC4283-3", "EXT-11")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda o: o[:-1], DropReason.NO_MESSAGE_AUTHENTICATION),
        (lambda o: (*o[:-1], replace(o[-1], subtype=2)), DropReason.NO_MESSAGE_AUTHENTICATION),
        (lambda o: (*o, o[1]), DropReason.NO_MESSAGE_AUTHENTICATION),
        (lambda o: (*o[:-1], replace(o[-1], spi=300)), DropReason.UNKNOWN_MOBILITY_SPI),
        (lambda o: (o[0], *o[2:]), DropReason.WRONG_MOBILE_NODE_IDENTIFIER),
        (
            lambda o: (o[0], replace(o[1], subtype=9), *o[2:]),
            DropReason.WRONG_MOBILE_NODE_IDENTIFIER,
        ),
    ],
)
def test_update_without_the_right_options_is_dropped(change: Any, reason: DropReason) -> None:
    pair = Pair()
    update = update_of(pair)
    message = update.packet.payload
    assert isinstance(message, BindingUpdate)
    assert pair.home_agent.handle(altered(update, change(message.options)), 10.0) == []
    assert pair.home_agent.drops[reason] == 1


@requirement("RFC4283-3", "EXT-11")
def test_identifier_of_an_unknown_kind_beside_ours_is_skipped() -> None:
    pair = Pair()
    update = update_of(pair)
    message = update.packet.payload
    assert isinstance(message, BindingUpdate)
    other = MobileNodeIdentifier(b"x", 200)
    changed = altered(update, (other, *message.options))
    pair.home_agent.handle(changed, 10.0)
    assert not pair.home_agent.drops[DropReason.WRONG_MOBILE_NODE_IDENTIFIER]


def test_update_without_a_timestamp_is_told_to_have_one() -> None:
    pair = Pair()
    update = update_of(pair)
    message = update.packet.payload
    assert isinstance(message, BindingUpdate)
    # Signed all the same, by one who has the key.
    from mnagent.mobility import message_authentication as module

    options = (message.options[0], message.options[1], message.options[3])
    draft = replace(message, options=options)
    covered = module._covered(module.encode_mobility_message(draft))
    assert covered is not None
    value = module._authenticator(KEY.key, covered, CARE_OF_ADDRESS, HOME_ADDRESS)
    option = replace(options[2], authenticator=value)  # type: ignore[call-arg]
    answer = only_acknowledgement(
        pair.home_agent.handle(altered(update, (*options[:2], option)), 10.0)
    )
    assert answer.status == BindingStatus.MESSAGE_IDENTIFIER_REQUIRED
    assert isinstance(answer.options[-1], MessageAuthentication)


@requirement("RFC4285-5", "EXT-10")
def test_mobile_node_of_ipsec_must_not_use_the_option() -> None:
    home_agent = make_home_agent(home_link=None)
    option = MessageAuthentication(300, bytes(12))
    assert home_agent.handle(binding_update(options=(option,)), 1.0) == []
    assert home_agent.drops[DropReason.UNKNOWN_MOBILITY_SPI] == 1


@pytest.mark.parametrize("distance", [TIMESTAMP_TOLERANCE - 0.5, -TIMESTAMP_TOLERANCE + 0.5])
def test_clock_that_is_about_right_is_right_enough(distance: float) -> None:
    pair = Pair(authentication(wrong_by=distance))
    update = update_of(pair)
    assert only_acknowledgement(pair.home_agent.handle(update, 10.0)).is_accepted


def test_answer_to_another_update_is_dropped() -> None:
    pair = Pair()
    first = update_of(pair)
    (answer,) = sent(pair.home_agent.handle(first, 10.0), BindingAcknowledgement)
    pair.registration.handle_timer(12.0)  # sent again, with another time
    assert pair.registration.handle(carried(answer.packet), 12.1) == []
    assert pair.registration.drops[DropReason.WRONG_TIMESTAMP] == 1


def test_refusal_for_the_time_that_is_not_for_our_update_is_dropped() -> None:
    pair = Pair(authentication(wrong_by=-100.0))
    first = update_of(pair)
    (answer,) = sent(pair.home_agent.handle(first, 10.0), BindingAcknowledgement)
    pair.registration.handle_timer(12.3)
    assert pair.registration.handle(carried(answer.packet), 12.4) == []
    assert pair.registration.drops[DropReason.WRONG_TIMESTAMP] == 1


def test_revocation_is_not_sent_where_nothing_could_protect_it() -> None:
    pair = Pair()
    pair.register()
    actions = pair.home_agent.delete_binding(HOME_ADDRESS, 20.0)
    assert actions is not None
    assert not actions_of(sent(actions, object), object)
    assert pair.home_agent.bindings == ()


def test_switch_is_not_sent_where_nothing_could_protect_it() -> None:
    pair = Pair()
    pair.register()
    assert pair.home_agent.ask_to_switch((), (), 20.0) == ((), [])
    assert len(pair.home_agent.bindings) == 1


def test_update_that_is_replayed_after_a_restart_is_refused() -> None:
    pair, again = Pair(), Pair()
    update = update_of(pair)
    actions = pair.home_agent.handle(update, 10.0)
    records = {
        each.key: KeptRecord(value=each.value or "", kept_at=10.0)
        for each in actions_of(actions, JournalRecord)
        if each.key.startswith(TIMESTAMP_KEY)
    }
    assert len(records) == 1
    records |= {f"{TIMESTAMP_KEY}x": KeptRecord(value="y", kept_at=0.0)}
    again.home_agent.restore(records, 10.5)
    answer = only_acknowledgement(again.home_agent.handle(update, 11.0))
    assert answer.status == BindingStatus.IDENTIFIER_MISMATCH


def test_timestamps_of_an_earlier_run_count() -> None:
    verifier = UpdateVerifier()
    verifier.restore(HOME_ADDRESS, 5)
    verifier.restore(HOME_ADDRESS, 3)
    assert verifier.last(HOME_ADDRESS) == 5
    assert verifier.last(IPv6Address("::9")) == 0


def test_answer_that_is_not_signed_is_dropped() -> None:
    pair = Pair()
    update = update_of(pair)
    (answer,) = sent(pair.home_agent.handle(update, 10.0), BindingAcknowledgement)
    bare = altered(carried(answer.packet), ())
    assert pair.registration.handle(bare, 10.1) == []
    assert pair.registration.drops[DropReason.NO_MESSAGE_AUTHENTICATION] == 1


def test_option_that_the_octets_do_not_have_authenticates_nothing() -> None:
    pair = Pair()
    update = update_of(pair)
    bare = altered(update, ())
    mixed = replace(update, data=bare.data)
    refused = only_acknowledgement(pair.home_agent.handle(mixed, 10.0))
    assert refused.status == BindingStatus.AUTHENTICATION_FAILED
