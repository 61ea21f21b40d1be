"""The handover record: what counts as one, and which phases it notes."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from mnagent.agent.handovers import MAX_HANDOVERS, MAX_OPEN_TIME, HandoverLog, HandoverRecord
from mnagent.core.actions import ReportEvent
from mnagent.core.events import LinkCause, LinkDown, LinkUp, TunnelActivity

HOME = IPv6Address("2001:db8:1::10")


class Story:
    def __init__(self) -> None:
        self.log = HandoverLog()

    def link_up(self, now: float, *, index: int = 2, cause: LinkCause = LinkCause.CARRIER) -> None:
        name = {2: "eth0", 3: "wlan0"}[index]
        event = LinkUp(interface=index, name=name, link_layer_address=b"", cause=cause)
        self.log.link_changed(event, now)

    def ready(self, address: str, now: float, *, index: int = 2) -> None:
        details = (("address", address), ("interface", str(index)))
        self.log.observe(ReportEvent(name="care-of-address-ready", details=details), now)

    def home(self, now: float) -> None:
        self.log.observe(ReportEvent(name="returned-home", details=(("interface", "2"),)), now)

    def report(self, name: str, now: float) -> None:
        self.log.observe(ReportEvent(name=name), now)

    def carried(self, out: int, back: int, now: float) -> None:
        activity = TunnelActivity(home_address=HOME, packets_out=out, packets_in=back)
        self.log.carried(activity, now)

    def register(self, address: str, now: float, *, index: int = 2) -> None:
        self.ready(address, now, index=index)
        self.report("binding-update-sent", now)
        self.report("binding-accepted", now + 0.04)

    @property
    def last(self) -> HandoverRecord:
        return self.log.records[-1]


@pytest.fixture
def story() -> Story:
    started = Story()
    started.link_up(1.0)
    started.register("2001:db8:a::1", 1.01)
    return started


def test_phases_without_a_handover_are_ignored() -> None:
    story = Story()
    for name in ("binding-update-sent", "binding-accepted", "deregistered", "other"):
        story.report(name, 1.0)
    story.carried(1, 1, 1.0)
    assert story.log.records == ()


def test_first_attachment_is_kept_and_not_counted(story: Story) -> None:
    assert (story.last.cause, story.last.number) == ("start", 0)
    assert story.log.totals["count"] == 0
    assert story.log.totals["phases"]["care-of-address"]["count"] == 0


def test_every_phase_of_a_move_is_noted_once(story: Story) -> None:
    story.carried(10, 10, 9.9)
    story.link_up(10.0)
    for later in (0.0, 0.5):
        story.log.solicited(2, 10.001 + later)
        story.log.advertised(2, 10.012 + later)
    story.ready("2001:db8:b::1", 10.02)
    for later in (0.0, 0.5):
        story.report("binding-update-sent", 10.021 + later)
        story.carried(11 + round(later), 10, 10.03 + later)
        story.report("binding-accepted", 10.06 + later)
        story.carried(12 + round(later), 11, 10.061 + later)
    story.log.address_unique(2, "2001:db8:b::1", 11.2)
    assert story.last == HandoverRecord(
        link_up_at=10.0,
        interface="eth0",
        number=1,
        previous_care_of_address="2001:db8:a::1",
        care_of_address="2001:db8:b::1",
        router_solicited_at=10.001,
        router_advertised_at=10.012,
        care_of_address_ready_at=10.02,
        duplicate_detection_ended_at=11.2,
        update_sent_at=10.021,
        acknowledged_at=10.06,
        first_packet_out_at=10.03,
        first_packet_in_at=10.061,
    )
    phases = story.log.totals["phases"]
    assert {phase["count"] for phase in phases.values()} == {1}
    assert phases["binding-acknowledgement"]["buckets"]["0.05"] == 0
    assert phases["binding-acknowledgement"]["buckets"]["0.1"] == 1


def test_link_that_comes_back_with_the_same_address_is_no_handover(story: Story) -> None:
    story.link_up(10.0, cause=LinkCause.ASSOCIATION)
    story.register("2001:db8:a::1", 10.02)
    assert len(story.log.records) == 1
    assert story.last.update_sent_at == 1.01


def test_new_address_without_a_link_event_begins_with_itself(story: Story) -> None:
    story.ready("2001:db8:a::2", 20.0)
    assert (story.last.link_up_at, story.last.cause) == (20.0, "address")


def test_link_event_of_long_ago_is_not_the_cause(story: Story) -> None:
    story.link_up(10.0, index=3)
    story.ready("2001:db8:a::2", 10.1 + MAX_OPEN_TIME)
    assert story.last.cause == "address"
    assert story.last.interface == "eth0"


def test_loss_of_the_interface_in_use_begins_a_handover_to_another(story: Story) -> None:
    story.link_up(5.0, index=3)
    story.log.link_changed(LinkDown(interface=2), 10.0)
    story.register("2001:db8:b::1", 10.0, index=3)
    assert (story.last.cause, story.last.interface) == ("link-lost", "wlan0")
    assert story.last.link_up_at == 10.0


def test_loss_of_a_spare_interface_begins_nothing(story: Story) -> None:
    story.log.link_changed(LinkDown(interface=3), 10.0)
    story.ready("2001:db8:a::2", 10.5)
    assert story.last.cause == "address"


def test_solicitation_on_another_interface_is_not_this_handovers(story: Story) -> None:
    story.link_up(10.0)
    story.log.solicited(3, 10.001)
    story.ready("2001:db8:b::1", 10.02)
    assert story.last.router_solicited_at is None


def test_late_acknowledgement_of_the_former_move_is_not_the_new_ones(story: Story) -> None:
    story.link_up(10.0)
    story.report("binding-accepted", 10.001)
    story.register("2001:db8:b::1", 10.02)
    assert story.last.acknowledged_at == pytest.approx(10.06)


def test_return_home_keeps_the_deregistration_and_is_noted_once(story: Story) -> None:
    story.link_up(10.0)
    story.report("binding-update-sent", 10.01)
    story.report("deregistered", 10.05)
    for now in (10.06, 11.0):
        story.home(now)
    assert len(story.log.records) == 2
    assert story.last.at_home
    assert (story.last.update_sent_at, story.last.acknowledged_at) == (10.01, 10.05)
    assert (story.last.interface, story.last.care_of_address) == ("eth0", None)


def test_address_that_is_unique_elsewhere_does_not_count(story: Story) -> None:
    story.log.address_unique(2, "2001:db8:a::99", 2.0)
    assert story.last.duplicate_detection_ended_at is None


def test_packets_carried_before_the_link_event_are_of_the_former_link(story: Story) -> None:
    story.carried(5, 5, 2.0)
    story.link_up(10.0)
    story.ready("2001:db8:b::1", 10.02)
    story.carried(5, 5, 10.03)
    assert story.last.first_packet_in_at is None


def test_log_forgets_the_oldest() -> None:
    story = Story()
    for number in range(MAX_HANDOVERS + 3):
        story.ready(f"2001:db8:a::{number:x}", float(number))
    assert len(story.log.records) == MAX_HANDOVERS
    assert story.log.records[0].link_up_at == 3.0
    assert story.log.totals["count"] == MAX_HANDOVERS + 2
