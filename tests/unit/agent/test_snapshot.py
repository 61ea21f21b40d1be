from __future__ import annotations

from mnagent.agent.snapshot import MAX_HANDOVERS, HandoverLog
from mnagent.core.actions import ReportEvent


def ready(address: str) -> ReportEvent:
    details = (("address", address), ("interface", "2"))
    return ReportEvent(name="care-of-address-ready", details=details)


def test_milestones_without_a_handover_are_ignored() -> None:
    log = HandoverLog()
    for name in ("binding-update-sent", "binding-accepted", "returned-home", "other"):
        log.observe(ReportEvent(name=name), 1.0)
    assert log.records == ()


def test_only_the_first_update_and_acknowledgement_count() -> None:
    log = HandoverLog()
    log.link_up("wlan0", 1.0)
    log.observe(ready("2001:db8::1"), 2.0)
    for now in (3.0, 4.0):
        log.observe(ReportEvent(name="binding-update-sent"), now)
        log.observe(ReportEvent(name="binding-accepted"), now + 0.5)
    (record,) = log.records
    assert (record.care_of_address_ready_at, record.update_sent_at) == (2.0, 3.0)
    assert record.acknowledged_at == 3.5


def test_new_address_without_a_link_event_is_a_handover_of_its_own() -> None:
    log = HandoverLog()
    log.observe(ready("2001:db8::1"), 1.0)
    log.observe(ready("2001:db8::2"), 2.0)
    assert [record.link_up_at for record in log.records] == [1.0, 2.0]


def test_return_is_noted_once() -> None:
    log = HandoverLog()
    log.link_up("wlan0", 1.0)
    for now in (2.0, 3.0):
        log.observe(ReportEvent(name="returned-home"), now)
    assert [record.acknowledged_at for record in log.records] == [2.0]


def test_log_forgets_the_oldest() -> None:
    log = HandoverLog()
    for number in range(MAX_HANDOVERS + 3):
        log.link_up("wlan0", float(number))
    assert len(log.records) == MAX_HANDOVERS and log.records[0].link_up_at == 3.0
