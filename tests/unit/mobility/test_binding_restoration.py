"""A home agent that was killed takes its bindings up again."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

import pytest

from mnagent.core.actions import (
    Action,
    InterceptHomeAddress,
    JoinGroup,
    JournalRecord,
    LeaveGroup,
    SendPacket,
    SetTunnel,
    StopIntercepting,
)
from mnagent.core.events import LinkDown, LinkUp, ShutdownRequested
from mnagent.core.records import KeptRecord
from mnagent.mobility import binding_record
from mnagent.mobility.home_agent import HomeAgent, HomePrefix
from mnagent.wire.mobility import BindingAcknowledgement, BindingStatus
from mnagent.wire.ndisc import NeighborAdvertisement, NeighborSolicitation
from tests.support.home_link import (
    CARE_OF_ADDRESS,
    HOME_ADDRESS,
    HOME_AGENT_MAC,
    HOME_LINK,
    HOME_LINK_LOCAL,
    OTHER_CARE_OF_ADDRESS,
    OTHER_HOME_ADDRESS,
    actions_of,
    advertisement,
    binding_update,
    make_home_agent,
    only_acknowledgement,
    register,
    reports,
    sent,
    solicitation,
)
from tests.support.requirement import requirement

KEY = f"{binding_record.KEY_PREFIX}{HOME_ADDRESS}"


class Journal:
    """What the runtime keeps of the records, with the time of each."""

    def __init__(self) -> None:
        self.records: dict[str, KeptRecord] = {}

    def take(self, actions: list[Action], now: float) -> list[Action]:
        for action in actions_of(actions, JournalRecord):
            self.records.pop(action.key, None)
            if action.value is not None:
                self.records[action.key] = KeptRecord(value=action.value, kept_at=now)
        return actions


def registered(journal: Journal, **changes: object) -> HomeAgent:
    """A home agent with one binding, made at 0 on a virtual home link."""
    home_agent = make_home_agent(home_link=None)
    journal.take(register(home_agent, **changes), 0.0)
    return home_agent


@requirement("RFC6275-10.3.1", "OPS-03")
def test_home_agent_restored_serves_the_same_binding_at_once() -> None:
    journal = Journal()
    before = registered(journal)
    after = make_home_agent(home_link=None)
    actions = after.restore(journal.records, 100.0)
    assert after.bindings == before.bindings
    kinds = [type(action) for action in actions]
    assert kinds.index(SetTunnel) < kinds.index(InterceptHomeAddress)
    (tunnel,) = actions_of(actions, SetTunnel)
    assert tunnel.remote == CARE_OF_ADDRESS
    (report,) = reports(actions, "bindings-restored")
    assert report.details == (("count", "1"),)
    assert not sent(actions, BindingAcknowledgement)


def test_home_agent_restored_refreshes_without_probing_and_refuses_old_numbers() -> None:
    journal = Journal()
    registered(journal, sequence=7)
    after = make_home_agent()
    after.restore(journal.records, 100.0)
    stale = only_acknowledgement(after.handle(binding_update(sequence=7), 101.0))
    assert stale.status == BindingStatus.SEQUENCE_NUMBER_OUT_OF_WINDOW
    assert only_acknowledgement(after.handle(binding_update(sequence=8), 102.0)).is_accepted


def test_home_agent_restored_defends_addresses_on_the_home_link() -> None:
    journal = Journal()
    before = make_home_agent()
    journal.take(register(before, link_local_compatibility=True), 1.0)
    after = make_home_agent()
    asked = after.restore(journal.records, 2.0)
    assert len(actions_of(asked, JoinGroup)) == 1  # one group for both: same identifier
    assert actions_of(asked, InterceptHomeAddress)
    assert not sent(asked, NeighborAdvertisement)
    assert targets_of(asked, NeighborSolicitation) == {HOME_ADDRESS, HOME_LINK_LOCAL}
    assert after.handle(solicitation(), 2.1) == []
    actions = after.handle_timer(2.9)
    assert targets_of(actions, NeighborAdvertisement) == {HOME_ADDRESS, HOME_LINK_LOCAL}
    assert sent(after.handle(solicitation(), 3.0), NeighborAdvertisement)


def targets_of(actions: list[Action], kind: type) -> set[IPv6Address]:
    return {each.packet.payload.target for each in sent(actions, kind)}  # type: ignore[union-attr]


def restored(journal: Journal) -> HomeAgent:
    """One binding of a killed home agent, taken up at 100 on a physical home link."""
    before = make_home_agent()
    journal.take(register(before), 1.0)
    after = make_home_agent()
    journal.take(after.restore(journal.records, 100.0), 100.0)
    return after


@requirement("RFC6275-10.4.1", "OPS-03")
def test_home_agent_restored_leaves_the_address_to_another_that_serves_it() -> None:
    journal = Journal()
    after = restored(journal)
    actions = journal.take(after.handle(advertisement(), 100.2), 100.2)
    assert actions_of(actions, StopIntercepting)
    assert actions_of(actions, LeaveGroup)
    assert not sent(actions, NeighborAdvertisement)
    (report,) = reports(actions, "binding-removed")
    assert ("reason", "served-elsewhere") in report.details
    assert after.bindings == ()
    assert not sent(after.handle_timer(101.0), NeighborAdvertisement)
    # The number is kept: what was sent to the former home agent is no news to this one.
    stale = only_acknowledgement(after.handle(binding_update(sequence=1), 102.0))
    assert stale.status == BindingStatus.SEQUENCE_NUMBER_OUT_OF_WINDOW
    ended = only_acknowledgement(after.handle(binding_update(sequence=2, lifetime=0), 103.0))
    assert ended.is_accepted


@pytest.mark.parametrize("link_local", [False, True])
def test_home_agent_restored_defends_at_once_for_a_mobile_node_that_updates(
    link_local: bool,
) -> None:
    after = restored(Journal())
    update = binding_update(sequence=2, link_local_compatibility=link_local)
    actions = after.handle(update, 100.2)
    expected = {HOME_ADDRESS, HOME_LINK_LOCAL} if link_local else {HOME_ADDRESS}
    assert targets_of(actions, NeighborAdvertisement) == expected
    assert after.handle(advertisement(), 100.3) == []
    assert len(after.bindings) == 1


def test_home_agent_restored_forgets_the_question_with_the_binding() -> None:
    after = restored(Journal())
    after.handle(binding_update(sequence=2, lifetime=0), 100.2)
    assert not sent(after.handle_timer(101.0), NeighborAdvertisement)


def test_home_agent_restored_asks_again_when_the_link_was_down_meanwhile() -> None:
    after = restored(Journal())
    after.handle(LinkDown(interface=HOME_LINK), 100.2)
    assert after.handle_timer(101.0) == []
    actions = after.handle(home_link_up(), 101.5)
    assert targets_of(actions, NeighborSolicitation) == {HOME_ADDRESS}
    assert not sent(actions, NeighborAdvertisement)
    assert targets_of(after.handle_timer(102.4), NeighborAdvertisement) == {HOME_ADDRESS}


def test_home_agent_restored_does_not_ask_twice_when_the_link_is_told_of_again() -> None:
    after = restored(Journal())
    assert not sent(after.handle(home_link_up(), 100.2), NeighborSolicitation)


@requirement("RFC6275-10.4.1", "OPS-03")
def test_home_agent_whose_link_was_gone_for_long_asks_who_serves_by_now() -> None:
    home_agent = make_home_agent()
    register(home_agent)
    home_agent.handle(LinkDown(interface=HOME_LINK), 5.0)
    actions = home_agent.handle(home_link_up(), 7.0)
    assert targets_of(actions, NeighborSolicitation) == {HOME_ADDRESS}
    assert not sent(actions, NeighborAdvertisement)
    taken = home_agent.handle(advertisement(), 7.1)
    assert actions_of(taken, StopIntercepting)
    assert home_agent.bindings == ()


def home_link_up() -> LinkUp:
    return LinkUp(interface=HOME_LINK, name="eth0", link_layer_address=HOME_AGENT_MAC)


def test_home_agent_restored_after_the_binding_ended_forgets_it() -> None:
    journal = Journal()
    registered(journal, lifetime=60)
    after = make_home_agent(home_link=None)
    assert after.restore(journal.records, 60.0) == [JournalRecord(key=KEY, value=None)]
    assert after.bindings == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"mobile_nodes": ()},
        {"home_prefixes": (HomePrefix(prefix=IPv6Network("2001:db8:9::/64")),)},
    ],
)
def test_home_agent_restored_with_less_granted_forgets_it(changes: dict[str, object]) -> None:
    journal = Journal()
    registered(journal)
    after = make_home_agent(home_link=None, **changes)
    assert JournalRecord(key=KEY, value=None) in after.restore(journal.records, 1.0)


def test_home_agent_restored_with_too_little_room_keeps_the_first() -> None:
    journal = Journal()
    before = registered(journal)
    more = binding_update(home_address=OTHER_HOME_ADDRESS, source=OTHER_CARE_OF_ADDRESS)
    journal.take(before.handle(more, 1.0), 1.0)
    after = make_home_agent(home_link=None, max_bindings=1)
    actions = after.restore(journal.records, 2.0)
    assert [entry.home_address for entry in after.bindings] == [HOME_ADDRESS]
    assert [each.value for each in actions_of(actions, JournalRecord)] == [None]


def test_home_agent_restored_keeps_a_deregistration_for_its_number() -> None:
    journal = Journal()
    before = registered(journal)
    journal.take(before.handle(binding_update(sequence=2, lifetime=0), 1.0), 1.0)
    after = make_home_agent(home_link=None)
    assert after.restore(journal.records, 2.0) == []
    assert after.bindings == ()
    overtaken = only_acknowledgement(after.handle(binding_update(sequence=2), 3.0))
    assert overtaken.status == BindingStatus.SEQUENCE_NUMBER_OUT_OF_WINDOW


def test_home_agent_restored_ignores_the_records_of_others_and_damaged_ones() -> None:
    after = make_home_agent(home_link=None)
    records = {
        "other": KeptRecord(value="x", kept_at=0.0),
        f"{binding_record.KEY_PREFIX}nobody": KeptRecord(value="x", kept_at=0.0),
        KEY: KeptRecord(value="x", kept_at=0.0),
    }
    assert after.restore(records, 1.0) == [JournalRecord(key=KEY, value=None)]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "2001:db8:a::10 1 600 600",
        "2001:db8:a::10 65536 600 600 0 -",
        "2001:db8:a::10 1 300000 600 0 -",
        "2001:db8:a::10 1 600 300000 0 -",
        "2001:db8:a::10 1 600 600 -1 -",
        "2001:db8:a::10 1 600 nan 0 -",
        "nowhere 1 600 600 0 -",
    ],
)
def test_binding_record_that_makes_no_sense_is_none(value: str) -> None:
    record = KeptRecord(value=value, kept_at=0.0)
    assert binding_record.entry_of(HOME_ADDRESS, record) is None


def test_binding_record_tells_the_entry() -> None:
    journal = Journal()
    home_agent = registered(journal)
    (entry,) = home_agent.bindings
    assert binding_record.entry_of(HOME_ADDRESS, journal.records[KEY]) == entry


def test_binding_that_expires_or_cannot_be_served_is_forgotten() -> None:
    journal = Journal()
    home_agent = registered(journal, lifetime=60)
    assert KEY in journal.records
    journal.take(home_agent.handle_timer(60.0), 60.0)
    assert KEY not in journal.records


def test_shutdown_keeps_the_records_for_the_next_run() -> None:
    journal = Journal()
    home_agent = registered(journal)
    journal.take(home_agent.handle(ShutdownRequested(), 5.0), 5.0)
    assert KEY in journal.records


def test_record_comes_before_the_acknowledgement() -> None:
    actions = register(make_home_agent(home_link=None))
    kinds = [type(action) for action in actions]
    assert kinds.index(JournalRecord) < kinds.index(SendPacket)
    assert IPv6Address(actions_of(actions, JournalRecord)[0].key.partition(".")[2]) == HOME_ADDRESS
