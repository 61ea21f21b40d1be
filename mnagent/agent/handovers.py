"""The handover record: for each change of the point of attachment, when each phase was reached.

A link event opens a record that is not shown yet. It becomes a handover once the node is attached
somewhere else than before: with another care-of address, on another interface, or at home instead
of away. A link that flapped, or a roam within one link, is none and leaves no record. An attachment
without a link event (renumbering, another router) is a handover that starts there and then.

A correspondent belongs to the handover when its registration started with it; one met later on the
same link has nothing to do with the handover.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any, Final

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
from mnagent.wire.mobility import BindingUpdate, CareOfTestInit, HomeTestInit

MAX_HANDOVERS: Final = 128
"""Handovers remembered; the oldest goes first."""
MAX_OPEN_TIME: Final = 60.0
"""Seconds after which a link event is no longer taken for the cause of what happens."""
NOTICE_TIME: Final = 0.5
"""Seconds after a link came up within which a notice of Wi-Fi speaks of the same event."""
ASSOCIATION_TIME: Final = 5.0
"""Seconds before a link can be used within which its association began: keys are exchanged."""
CORRESPONDENT_START_TIME: Final = 5.0
"""Seconds from the attachment within which a registration with a correspondent is part of the
handover: a full table of them starts within two."""
MAX_CORRESPONDENTS: Final = 16
"""Correspondents noted of one handover: those with the latest traffic, which are told first."""
BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds, in seconds, of the distribution of each phase."""
PHASES: Final = {
    "router-solicitation": "router_solicited_at",
    "router-advertisement": "router_advertised_at",
    "care-of-address": "care_of_address_ready_at",
    "duplicate-address-detection": "duplicate_detection_ended_at",
    "binding-update": "update_sent_at",
    "binding-acknowledgement": "acknowledged_at",
    "first-packet-out": "first_packet_out_at",
    "first-packet-in": "first_packet_in_at",
}
"""Name of each phase, and the field of the record that tells when it was reached."""
CORRESPONDENT_PHASES: Final = {
    "return-routability-started": "tests_started_at",
    "return-routability-done": "tests_passed_at",
    "correspondent-binding-update": "update_sent_at",
    "correspondent-binding-acknowledgement": "acknowledged_at",
    "first-direct-packet-out": "first_packet_out_at",
    "first-direct-packet-in": "first_packet_in_at",
}
"""Name of each phase of a correspondent, and its key in the record."""
_CORRESPONDENT_REPORTS: Final = {
    "addresses-tested": "tests_passed_at",
    "direct-path": "acknowledged_at",
    "correspondent-deregistered": "acknowledged_at",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoverRecord:
    """One change of the point of attachment. Instants are seconds on the daemon's clock."""

    link_up_at: float
    """The link event it began with: the new link came up, or the one in use was lost."""
    interface: str = ""
    """Name of the interface moved to."""
    cause: str = "carrier"
    """A `mnagent.core.events.LinkCause`, or ``link-lost``, ``address`` or ``start``."""
    number: int = 0
    """Of the handovers since the start, 0 for the first attachment, which is none."""
    previous_care_of_address: str | None = None
    """None for home, and at the start."""
    care_of_address: str | None = None
    """None at home."""
    router_solicited_at: float | None = None
    """When the first Router Solicitation left."""
    router_advertised_at: float | None = None
    """When the first Router Advertisement came."""
    care_of_address_ready_at: float | None = None
    duplicate_detection_ended_at: float | None = None
    """When the care-of address was known to be unique; may be long after it was first used."""
    update_sent_at: float | None = None
    """When the first Binding Update left."""
    acknowledged_at: float | None = None
    first_packet_out_at: float | None = None
    """When the tunnel had carried something out, to some percent of the time since link up."""
    first_packet_in_at: float | None = None
    at_home: bool = False
    access_point: str = ""
    """BSSID on Wi-Fi, where the driver tells it."""
    associated_at: float | None = None
    """When Wi-Fi told of the association; before ``link_up_at`` but for the time in which two
    notices of the kernel overtake each other."""
    correspondents: dict[str, dict[str, float]] = field(default_factory=dict)
    """By correspondent: a value of CORRESPONDENT_PHASES to its instant; missing what was not
    reached, or not needed."""


@dataclass(slots=True)
class _Distribution:
    count: int = 0
    total: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * len(BUCKETS))

    def add(self, seconds: float) -> None:
        self.count += 1
        self.total += seconds
        for index, bound in enumerate(BUCKETS):
            self.buckets[index] += seconds <= bound


class HandoverLog:
    """Puts the phases of handovers together from what the agent does and reports."""

    def __init__(self) -> None:
        self._records: deque[HandoverRecord] = deque(maxlen=MAX_HANDOVERS)
        self._open: HandoverRecord | None = None
        self._attached: tuple[int | None, str] | None = None
        self._activity = (0, 0)
        self._baseline = (0, 0)
        self._names: dict[int, str] = {}
        self._open_interface: int | None = None
        self._associations: dict[int, tuple[str, float]] = {}
        self._count = 0
        self._attached_at = 0.0
        self._phases = {name: _Distribution() for name in (*PHASES, *CORRESPONDENT_PHASES)}

    @property
    def records(self) -> tuple[HandoverRecord, ...]:
        """Oldest first."""
        return tuple(self._records)

    @property
    def totals(self) -> dict[str, Any]:
        """Since the start: the count, and for each phase the distribution of its times."""
        return {
            "count": self._count,
            "phases": {
                name: {
                    "count": phase.count,
                    "seconds": round(phase.total, 6),
                    "buckets": {
                        f"{bound:g}": number
                        for bound, number in zip(BUCKETS, phase.buckets, strict=True)
                    },
                }
                for name, phase in self._phases.items()
            },
        }

    def link_changed(self, event: LinkUp | LinkDown, now: float) -> None:
        """A handover may follow."""
        if isinstance(event, LinkUp):
            self._names[event.interface] = event.name
            self._begin(event.interface, event.cause.value, now)
        elif self._attached is not None and self._attached[0] == event.interface:
            self._begin(None, "link-lost", now)

    def associated(self, event: AssociationChanged, now: float) -> None:
        """An interface is at another access point, or at none."""
        interface = event.interface
        if event.change is Association.DISCONNECTED:
            self._associations.pop(interface, None)
            return
        self._associations[interface] = (event.access_point.hex(":"), now)
        if self._open is not None and self._open_interface == interface:
            self._open = self._with_access_point(self._open, interface)
        elif self._records and self._attached is not None and self._attached[0] == interface:
            newest = self._records[-1]
            if newest.associated_at is None and now - newest.link_up_at < NOTICE_TIME:
                self._records[-1] = self._with_access_point(newest, interface)

    def _with_access_point(self, record: HandoverRecord, interface: int | None) -> HandoverRecord:
        if interface not in self._associations:
            return record
        access_point, at = self._associations[interface]
        is_its_own = abs(record.link_up_at - at) < ASSOCIATION_TIME
        return replace(record, access_point=access_point, associated_at=at if is_its_own else None)

    def _begin(self, interface: int | None, cause: str, now: float) -> None:
        name = "" if interface is None else self._names.get(interface, "")
        opened = HandoverRecord(link_up_at=now, interface=name, cause=cause)
        self._open = self._with_access_point(opened, interface)
        self._open_interface = interface
        self._baseline = self._activity

    def solicited(self, interface: int, now: float) -> None:
        """A Router Solicitation left."""
        self._mark_open(interface, "router_solicited_at", now)

    def advertised(self, interface: int, now: float) -> None:
        """A Router Advertisement came that was well-formed."""
        self._mark_open(interface, "router_advertised_at", now)

    def _mark_open(self, interface: int, name: str, now: float) -> None:
        record = self._open
        if (
            record is not None
            and interface == self._open_interface
            and getattr(record, name) is None
        ):
            changes: dict[str, Any] = {name: now}
            self._open = replace(record, **changes)

    def address_unique(self, interface: int, address: str, now: float) -> None:
        """Nobody else has the address: it may be used without reserve."""
        if self._records and self._attached == (interface, address):
            self._mark("duplicate_detection_ended_at", now)

    def carried(self, activity: TunnelActivity, now: float) -> None:
        """What the tunnel has carried so far."""
        self._activity = (activity.packets_out, activity.packets_in)
        if not self._records or self._records[-1].at_home or self._open is not None:
            return
        names = ("first_packet_out_at", "first_packet_in_at")
        for name, count, before in zip(names, self._activity, self._baseline, strict=True):
            if count > before:
                self._mark(name, now)

    def sent(self, action: SendPacket, now: float) -> None:
        """A packet left: one of a registration with a correspondent, perhaps."""
        message = action.packet.payload
        if isinstance(message, HomeTestInit | CareOfTestInit):
            phase = "tests_started_at"
        elif isinstance(message, BindingUpdate) and not message.home_registration:
            phase = "update_sent_at"
        else:
            return
        self._mark_correspondent(str(action.packet.logical_destination), phase, now)

    def traffic_seen(self, traffic: TrafficSeen, now: float) -> None:
        """Packets of a correspondent: those that go directly end its part of the handover."""
        correspondent = str(traffic.peer)
        if traffic.direct and traffic.packets_out:
            self._mark_correspondent(correspondent, "first_packet_out_at", now)
        if traffic.direct_in and traffic.packets_in:
            self._mark_correspondent(correspondent, "first_packet_in_at", now)

    def observe(self, report: ReportEvent, now: float) -> None:
        """Note the phase a report stands for, if it is one."""
        details = dict(report.details)
        match report.name:
            case "care-of-address-ready":
                interface = int(details["interface"])
                self._attach((interface, details["address"]), now)
            case "path-doubtful":
                self._begin(int(details["interface"]), LinkCause.SUSPICION.value, now)
            case "returned-home":
                self._attach((None, "home"), now, index=int(details["interface"]))
            case "binding-update-sent":
                self._mark_newest("update_sent_at", now)
            case "binding-accepted" | "deregistered":
                self._mark_newest("acknowledged_at", now)
            case name if name in _CORRESPONDENT_REPORTS:
                phase = _CORRESPONDENT_REPORTS[name]
                self._mark_correspondent(details["correspondent"], phase, now)

    def _mark_newest(self, name: str, now: float) -> None:
        """On the way home the update goes before it is known that the node will be there."""
        record = self._open
        if record is None:
            if self._records:
                self._mark(name, now)
        elif getattr(record, name) is None and (
            name == "update_sent_at" or record.update_sent_at is not None
        ):
            changes: dict[str, Any] = {name: now}
            self._open = replace(record, **changes)

    def _attach(
        self, where: tuple[int | None, str], now: float, *, index: int | None = None
    ) -> None:
        before, self._attached = self._attached, where
        self._attached_at = now if where != before else self._attached_at
        record, self._open = self._open, None
        if where == before:
            return
        if record is None or now - record.link_up_at > MAX_OPEN_TIME:
            record = self._with_access_point(
                HandoverRecord(link_up_at=now, cause="address"), where[0]
            )
            self._baseline = self._activity
        interface, address = where
        is_home = interface is None
        index = index if interface is None else interface
        if before is None:
            record = replace(record, cause="start")
        else:
            self._count += 1
        record = replace(
            record,
            number=self._count,
            interface=record.interface if index is None else self._names.get(index, ""),
            previous_care_of_address=_care_of(before),
            at_home=is_home,
            care_of_address=None if is_home else address,
            care_of_address_ready_at=None if is_home else now,
            update_sent_at=record.update_sent_at if is_home else None,
            acknowledged_at=(record.acknowledged_at or now) if is_home else None,
        )
        self._records.append(record)
        for phase, field_name in PHASES.items():
            if (instant := getattr(record, field_name)) is not None and record.number:
                self._phases[phase].add(instant - record.link_up_at)

    def _mark(self, name: str, now: float) -> None:
        """Note a phase of the newest record, the first time it is reached."""
        record = self._records[-1]
        if getattr(record, name) is not None:
            return
        changes: dict[str, Any] = {name: now}
        self._records[-1] = replace(record, **changes)
        if record.number:
            phase = next(phase for phase, field_name in PHASES.items() if field_name == name)
            self._phases[phase].add(now - record.link_up_at)

    def _mark_correspondent(self, correspondent: str, name: str, now: float) -> None:
        """Note a phase of a correspondent in the newest record, the first time it is reached."""
        if not self._records:
            return
        record = self._records[-1]
        reached = record.correspondents.get(correspondent, {})
        is_packet = name in ("first_packet_out_at", "first_packet_in_at")
        if name in reached or (is_packet and "acknowledged_at" not in reached):
            return
        is_late = now - self._attached_at > CORRESPONDENT_START_TIME
        if not reached and (is_late or len(record.correspondents) >= MAX_CORRESPONDENTS):
            return
        changed = {**record.correspondents, correspondent: {**reached, name: now}}
        self._records[-1] = replace(record, correspondents=changed)
        if record.number:
            phase = next(p for p, key in CORRESPONDENT_PHASES.items() if key == name)
            self._phases[phase].add(now - record.link_up_at)


def _care_of(where: tuple[int | None, str] | None) -> str | None:
    return None if where is None or where[0] is None else where[1]
