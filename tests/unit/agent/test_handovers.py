"""The handover record: what counts as one, and which phases it notes."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from mnagent.agent.handovers import (
    CORRESPONDENT_PHASES,
    CORRESPONDENT_START_TIME,
    MAX_CORRESPONDENTS,
    MAX_HANDOVERS,
    MAX_OPEN_TIME,
    PHASES,
    HandoverLog,
    HandoverRecord,
)
from mnagent.core.actions import ReportEvent, SendPacket
from mnagent.core.events import (
    Association,
    AssociationChanged,
    LinkCause,
    LinkDown,
    LinkUp,
    TrafficSeen,
    TunnelActivity,
)
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.mobility import BindingUpdate, CareOfTestInit, HomeTestInit, MobilityMessage

HOME = IPv6Address("2001:db8:1::10")
CARE_OF = IPv6Address("2001:db8:b::1")
PEER = IPv6Address("2001:db8:c::99")


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

    def send(self, message: MobilityMessage, now: float, *, peer: IPv6Address = PEER) -> None:
        self.log.sent(SendPacket(packet=IPv6Packet(CARE_OF, peer, message)), now)

    def tell(self, name: str, now: float) -> None:
        self.log.observe(ReportEvent(name=name, details=(("correspondent", str(PEER)),)), now)

    def traffic(self, now: float, **fields: int | bool) -> None:
        self.log.traffic_seen(TrafficSeen(local=HOME, peer=PEER, **fields), now)  # type: ignore[arg-type]

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
    assert {phases[name]["count"] for name in PHASES} == {1}
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


def update(*, lifetime: float = 420, home_registration: bool = False) -> BindingUpdate:
    return BindingUpdate(sequence=1, lifetime=lifetime, home_registration=home_registration)


def test_every_phase_of_a_correspondent_is_noted_once(story: Story) -> None:
    story.link_up(10.0)
    story.register(str(CARE_OF), 10.02)
    for later in (0.0, 0.5):
        story.traffic(
            10.02 + later / 1000, direct=True, packets_out=1, direct_in=True, packets_in=1
        )
        story.send(CareOfTestInit(bytes(8)), 10.03 + later)
        story.send(HomeTestInit(bytes(8)), 10.031 + later)
        story.tell("addresses-tested", 10.08 + later)
        story.send(update(), 10.081 + later)
        story.tell("direct-path", 10.12 + later)
        story.traffic(10.121 + later, packets_out=1, packets_in=1)
        story.traffic(10.122 + later, direct=True, packets_out=1, packets_in=1)
        story.traffic(10.17 + later, direct=True, direct_in=True, packets_in=1)
    assert story.last.correspondents == {
        str(PEER): {
            "tests_started_at": 10.03,
            "tests_passed_at": 10.08,
            "update_sent_at": 10.081,
            "acknowledged_at": 10.12,
            "first_packet_out_at": 10.122,
            "first_packet_in_at": 10.17,
        }
    }
    phases = story.log.totals["phases"]
    assert {phases[name]["count"] for name in CORRESPONDENT_PHASES} == {1}
    assert phases["first-direct-packet-in"]["seconds"] == pytest.approx(0.17)


def test_update_for_the_home_agent_is_no_correspondents(story: Story) -> None:
    story.send(update(home_registration=True), 1.02)
    assert story.last.correspondents == {}


def test_correspondent_met_later_is_not_of_the_handover(story: Story) -> None:
    story.send(HomeTestInit(bytes(8)), 1.02 + CORRESPONDENT_START_TIME)
    assert story.last.correspondents == {}


def test_correspondents_of_the_first_attachment_are_noted_and_not_counted(story: Story) -> None:
    story.send(HomeTestInit(bytes(8)), 1.02)
    assert story.last.correspondents == {str(PEER): {"tests_started_at": 1.02}}
    assert story.log.totals["phases"]["return-routability-started"]["count"] == 0


def test_correspondents_of_one_handover_are_bounded(story: Story) -> None:
    for number in range(MAX_CORRESPONDENTS + 3):
        story.send(HomeTestInit(bytes(8)), 1.02, peer=IPv6Address(int(PEER) + number))
    assert len(story.last.correspondents) == MAX_CORRESPONDENTS
    assert str(PEER) in story.last.correspondents


def test_correspondents_deregistration_at_home_is_of_the_return(story: Story) -> None:
    story.link_up(10.0)
    story.home(10.05)
    story.send(update(lifetime=0), 10.051)
    story.tell("correspondent-deregistered", 10.09)
    reached = {"update_sent_at": 10.051, "acknowledged_at": 10.09}
    assert story.last.correspondents == {str(PEER): reached}


def test_correspondents_without_a_handover_are_ignored() -> None:
    story = Story()
    story.send(HomeTestInit(bytes(8)), 1.0)
    assert story.log.records == ()


def associated(
    story: Story, now: float, *, index: int = 3, change: Association = Association.CONNECTED
) -> None:
    access_point = b"" if change is Association.DISCONNECTED else bytes.fromhex("020000000200")
    event = AssociationChanged(interface=index, change=change, access_point=access_point)
    story.log.associated(event, now)


@pytest.mark.parametrize("instant", [9.9, 10.001])
def test_handover_on_wifi_names_the_access_point_whichever_notice_comes_first(
    story: Story, instant: float
) -> None:
    if instant < 10.0:
        associated(story, instant)
    story.link_up(10.0, index=3)
    if instant > 10.0:
        associated(story, instant)
    story.register("2001:db8:b::1", 10.02, index=3)
    assert (story.last.access_point, story.last.associated_at) == ("02:00:00:00:02:00", instant)


def test_handover_on_wifi_takes_a_late_notice_while_it_is_new(story: Story) -> None:
    story.link_up(10.0, index=3)
    story.register("2001:db8:b::1", 10.02, index=3)
    associated(story, 10.1, index=2)
    assert story.last.access_point == ""
    associated(story, 10.1)
    assert (story.last.access_point, story.last.associated_at) == ("02:00:00:00:02:00", 10.1)
    associated(story, 10.2)
    assert story.last.associated_at == 10.1


def test_roam_within_a_link_long_after_leaves_the_record_alone(story: Story) -> None:
    story.link_up(10.0, index=3)
    story.register("2001:db8:b::1", 10.02, index=3)
    associated(story, 20.0)
    assert (story.last.access_point, story.last.associated_at) == ("", None)


def test_renumbering_names_the_access_point_but_no_association(story: Story) -> None:
    associated(story, 5.0)
    story.link_up(5.1, index=3)
    story.register("2001:db8:b::1", 5.2, index=3)
    story.register("2001:db8:d::1", 30.0, index=3)
    assert (story.last.access_point, story.last.associated_at) == ("02:00:00:00:02:00", None)


def test_access_point_that_was_left_is_forgotten(story: Story) -> None:
    associated(story, 9.0)
    associated(story, 9.1, change=Association.DISCONNECTED)
    story.link_up(10.0, index=3)
    story.register("2001:db8:b::1", 10.02, index=3)
    assert story.last.access_point == ""
