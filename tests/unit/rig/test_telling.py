"""What is told of a mobile node while it roams."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from mnagent.rig.daemon import DaemonEvent
from mnagent.rig.handover import Handover as Measured
from mnagent.rig.library import Handover, Line, Traffic
from mnagent.rig.roaming import Move, Roaming
from mnagent.rig.telling import Telling, as_recorded, from_events, from_records, probes, trips_of
from mnagent.rig.topology import SECOND_MOBILE


def sent(at: float) -> dict[str, Any]:
    return {"kind": "sent", "at": at}


def reply(at: float, sent_at: float) -> dict[str, Any]:
    return {"kind": "reply", "at": at, "sent_at": sent_at}


RECORDS = [
    sent(10.02),
    reply(10.06, 10.02),
    sent(10.08),
    sent(10.12),
    reply(10.13, 10.08),
    sent(10.18),
    sent(10.22),
]


def test_probes_count_when_they_left_and_not_when_they_were_answered() -> None:
    told = probes(RECORDS, since=0.0, until=10.25)
    assert told == [
        Traffic(at=10.0, sent=2, answered=2),
        Traffic(at=10.1, sent=2, answered=0),
    ]


def test_probes_are_told_once() -> None:
    first = probes(RECORDS, since=0.0, until=10.15)
    assert [line.at for line in first] == [10.0]
    since = first[-1].at + 0.1
    assert [line.at for line in probes(RECORDS, since=since, until=10.3)] == [10.1, 10.2]


def test_probe_on_the_border_of_what_was_told_is_not_told_again() -> None:
    since = 10.7 + 0.1
    assert since < 10.8  # in floating point
    assert probes([sent(since)], since=since, until=11.0) == []


def test_trips_leave_out_the_start_and_other_nodes() -> None:
    moves = [
        Move("nowhere", "home", 1.0, 1.1),
        Move("home", "link-a", 2.0, 2.1),
        Move("home", "link-b", 3.0, 3.1, SECOND_MOBILE),
    ]
    assert trips_of(moves) == [moves[1]]


TRIPS = [Move("home", "link-a", 2.0, 2.1), Move("link-a", "home", 4.0, 4.1)]


def test_events_before_the_link_came_up_say_nothing_of_a_trip() -> None:
    events = [
        DaemonEvent("binding-accepted", 2.05, {}),
        DaemonEvent("care-of-address-ready", 2.11, {}),
        DaemonEvent("something-else", 2.12, {}),
        DaemonEvent("binding-accepted", 2.15, {}),
        DaemonEvent("binding-accepted", 2.9, {}),
    ]
    told = from_events(TRIPS[0], 1, events)
    assert told.phases == {"care_of_address_ready": 10.0, "acknowledged": 50.0}
    assert (told.number, told.move) == (1, "home → link-a")


def test_trip_is_told_of_as_it_goes_on_until_who_gave_it_tells_that_it_is_over() -> None:
    told: list[Line] = []
    events: list[DaemonEvent] = []
    trips: list[Move] = []
    rig = SimpleNamespace(mobile_node=SimpleNamespace(events=events), moves=[])
    telling = Telling(told.append, cast(Roaming, rig), trips=trips)
    events.append(DaemonEvent("care-of-address-ready", 2.2, {}))
    telling._tell_events()
    trips.append(Move("ap-1", "ap-2", 3.0, 3.0))
    events.append(DaemonEvent("binding-update-sent", 3.25, {}))
    telling._tell_events()
    events.append(DaemonEvent("binding-accepted", 3.5, {}))
    telling._tell_events()
    over = Handover(number=1, origin="ap-1", destination="ap-2", at=3.1, cause="command")
    telling.tell(over)
    events.append(DaemonEvent("binding-accepted", 9.0, {}))
    telling._tell_events()
    first, second, last = told
    assert isinstance(first, Handover) and isinstance(second, Handover)
    assert (first.move, first.phases) == ("ap-1 → ap-2", {"update_sent": 250.0})
    assert second.phases == {"update_sent": 250.0, "acknowledged": 500.0}
    assert last is over


def test_records_belong_to_the_trip_they_follow() -> None:
    records = [
        {"link_up_at": 1.1, "cause": "start"},
        {
            "link_up_at": 2.2,
            "cause": "carrier",
            "router_solicited_at": 2.2,
            "acknowledged_at": 2.25,
        },
        {"link_up_at": 2.5, "cause": "address"},
        {"link_up_at": 4.05, "cause": "link-lost", "update_sent_at": None},
    ]
    first, second = from_records(records, TRIPS)
    assert (first.number, first.cause, first.at) == (1, "carrier", 2.2)
    assert first.phases == {"router_solicited": 0.0, "acknowledged": 50.0}
    assert (second.number, second.cause, second.phases) == (2, "link-lost", {})


def measured(**changes: Any) -> Measured:
    values: dict[str, Any] = {
        "origin": "home",
        "destination": "link-a",
        "link_down_at": 2.0,
        "link_up_at": 2.1,
        "care_of_address_at": 2.12,
        "acknowledged_at": 2.2,
        "first_out_at": 2.3,
        "first_in_at": 2.3,
        "ping_resumed_at": 2.3,
        "outgoing_resumed_at": 2.3,
        "incoming_resumed_at": 2.4,
        "lost": 4,
    }
    return Measured(**{**values, **changes})


def test_recorded_handover_joins_what_rig_and_node_know() -> None:
    records = [{"link_up_at": 2.11, "cause": "carrier", "acknowledged_at": 2.19}]
    (told,) = as_recorded([measured()], records)
    assert told.phases == {"care_of_address_ready": 10.0, "acknowledged": 80.0, "resumed": 290.0}
    assert (told.at, told.cause, told.lost) == (2.11, "carrier", 4)


def test_recorded_handover_without_a_record_is_what_the_rig_measured() -> None:
    (told,) = as_recorded([measured(incoming_resumed_at=None)], [])
    assert told.phases == {"care_of_address_ready": 20.0, "acknowledged": 100.0}
    assert (told.at, told.cause) == (2.1, "")
