"""What ``mnagent status`` shows: a read-only view of the agent, made of JSON's own types."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from mnagent.core.actions import ReportEvent

MAX_HANDOVERS: Final = 32
"""Handovers remembered; the oldest goes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoverRecord:
    """One change of the point of attachment. Instants are seconds on the daemon's clock."""

    link_up_at: float
    interface: str = ""
    """Name."""
    care_of_address: str | None = None
    """None while there is none, and at home."""
    care_of_address_ready_at: float | None = None
    update_sent_at: float | None = None
    """When the first Binding Update left."""
    acknowledged_at: float | None = None
    at_home: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceSnapshot:
    """One interface the agent uses."""

    index: int
    name: str
    up: bool
    link_layer_address: str
    addresses: dict[str, str] = field(default_factory=dict)
    """Address to its state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrespondentSnapshot:
    """The path to one correspondent. Tokens are told by age, never by value."""

    correspondent: str
    path: str
    """``direct`` or ``home-agent``."""
    state: str
    care_of_address: str | None
    """Of the direct path, None while the home agent is used."""
    binding_lifetime_remaining: float
    """Seconds, 0 without a binding."""
    home_token_age: float | None
    """Seconds, None without a usable token."""
    care_of_token_age: float | None
    reason: str | None
    """Why the peer is not optimized, None on the direct path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MobileNodeSnapshot:
    """A mobile node's view."""

    home_address: str
    home_agent: str
    state: str
    at_home: bool
    care_of_address: str | None
    """Primary care-of address, registered or not."""
    bound_care_of_address: str | None
    """The one the home agent acknowledged."""
    binding_lifetime_remaining: float
    """Seconds, 0 without a binding."""
    sequence: int | None
    """Of the newest Binding Update."""
    last_status: int | None
    """Of the newest matching Binding Acknowledgement."""
    tunnel: str | None
    """Care-of address packets are tunnelled from, or None."""
    handovers: tuple[HandoverRecord, ...]
    correspondents: tuple[CorrespondentSnapshot, ...] = ()
    """Peers seen while away, optimized or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingSnapshot:
    """One entry of a home agent's binding cache."""

    home_address: str
    care_of_address: str
    lifetime_remaining: float
    """Seconds."""
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeAgentSnapshot:
    """A home agent's view."""

    state: str
    bindings: tuple[BindingSnapshot, ...]
    probing: tuple[str, ...]
    """Home addresses whose uniqueness is being checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerBindingSnapshot:
    """A mobile node that has a binding with this correspondent."""

    home_address: str
    correspondent: str
    """Our address that it is for."""
    care_of_address: str
    lifetime_remaining: float
    """Seconds."""
    sequence: int
    unused_for: float
    """Seconds since it was known to carry traffic, or was updated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrespondentNodeSnapshot:
    """The view as a correspondent of other mobile nodes."""

    addresses: tuple[str, ...]
    """Ours that are served."""
    bindings: tuple[PeerBindingSnapshot, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSnapshot:
    """Everything, at one instant."""

    role: str
    now: float
    """Seconds on the daemon's clock."""
    interfaces: tuple[InterfaceSnapshot, ...]
    counters: dict[str, int]
    mobile_node: MobileNodeSnapshot | None = None
    home_agent: HomeAgentSnapshot | None = None
    correspondent_node: CorrespondentNodeSnapshot | None = None
    """None where that is switched off."""

    def to_json(self) -> dict[str, Any]:
        """Dictionaries, lists, strings, numbers, booleans and None only."""
        return asdict(self)


class HandoverLog:
    """Puts the milestones of handovers together from what the agent reports."""

    def __init__(self) -> None:
        self._records: deque[HandoverRecord] = deque(maxlen=MAX_HANDOVERS)

    @property
    def records(self) -> tuple[HandoverRecord, ...]:
        """Oldest first."""
        return tuple(self._records)

    def link_up(self, interface: str, now: float) -> None:
        """A link came up, or changed: a handover may follow."""
        self._records.append(HandoverRecord(link_up_at=now, interface=interface))

    def observe(self, report: ReportEvent, now: float) -> None:
        """Note the milestone a report stands for, if it is one."""
        details = dict(report.details)
        match report.name:
            case "care-of-address-ready":
                self._on_care_of_address(details["address"], now)
            case "binding-update-sent":
                if self._records and self._records[-1].update_sent_at is None:
                    self._update(update_sent_at=now)
            case "binding-accepted":
                if self._records and self._records[-1].acknowledged_at is None:
                    self._update(acknowledged_at=now)
            case "returned-home":
                if self._records and not self._records[-1].at_home:
                    self._update(at_home=True, acknowledged_at=now)

    def _on_care_of_address(self, address: str, now: float) -> None:
        if not self._records or self._records[-1].care_of_address is not None:
            # A new address without a link event: the prefix or the preferred interface changed.
            self._records.append(HandoverRecord(link_up_at=now))
        self._update(care_of_address=address, care_of_address_ready_at=now)

    def _update(self, **changes: Any) -> None:
        self._records[-1] = replace(self._records[-1], **changes)
