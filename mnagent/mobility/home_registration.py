"""Home registration: keeping the home agent informed of where the mobile node is (RFC 6275 11.7.1).

Theory of operation. One Binding Update at a time is outstanding, always the newest. It goes again,
with a new sequence number, after 1 s (1.5 s when the home agent has to probe the home address
first), then after twice as long each time, and every 32 s in the end, until a Binding
Acknowledgement with exactly its number comes (11.8). No more than MAX_UPDATE_RATE leave within a
second: a care-of address that comes too early waits and is overtaken by later ones, so the last
one wins. Only `_step` changes the state, by the table below.

                    register            accepted
    UNREGISTERED --------------> REGISTERING -----> REGISTERED <------+
         ^                        |   ^  ^            |               | accepted
         | deleted        refused |   |  | expired    | refresh       |
         |                        v   |  +----------- | -----> REFRESHING
    DEREGISTERING <-- deregister  REFUSED (waits) <---+--- refused ---+
                      (from any)         duplicate (134, from any) --> ADDRESS_DUPLICATE, for good

What the home agent may believe is kept apart from what it acknowledged: an update whose
acknowledgement was lost may well have made a binding, so a node that comes home deregisters as long
as any update it sent can still be alive.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from random import Random
from typing import Final

from mnagent.core.actions import PersistRecord, ReportEvent, SendPacket
from mnagent.core.drops import DropReason
from mnagent.core.events import PacketReceived
from mnagent.core.indications import (
    BindingAccepted,
    BindingDeleted,
    BindingExpired,
    BindingRejected,
    Output,
)
from mnagent.core.timers import Timers
from mnagent.mobility.binding_status import (
    FIRST_REJECTING_STATUS,
    NO_BINDING_STATUSES,
    name_of,
    sentence_of,
)
from mnagent.mobility.binding_update_list import (
    BindingUpdateList,
    BindingUpdateListEntry,
    UpdateRateLimiter,
)
from mnagent.mobility.constants import (
    INITIAL_BINDACK_TIMEOUT,
    INITIAL_BINDACK_TIMEOUT_FIRST_REGISTRATION,
    INITIAL_REFUSED_DELAY,
    LIFETIME_UNIT,
    MAX_BINDACK_TIMEOUT,
    MAX_REFUSED_DELAY,
    REFRESH_FRACTION,
)
from mnagent.mobility.message_authentication import Authentication, UpdateSigner
from mnagent.mobility.sequence import SequenceCounter
from mnagent.wire.ipv6 import DestinationOptions, HomeAddressOption, IPv6Packet
from mnagent.wire.mobility import (
    BindingAcknowledgement,
    BindingError,
    BindingRefreshRequest,
    BindingRevocationAcknowledgement,
    BindingRevocationIndication,
    BindingStatus,
    BindingUpdate,
    RevocationStatus,
    RevocationTrigger,
)
from mnagent.wire.mobility_options import AlternateCareOfAddress, BindingRefreshAdvice

UNREACHABLE_AFTER: Final = 3
"""Unanswered updates after which people are told."""
UNREACHABLE: Final = (
    "It answers no Binding Update. Does it run, does ESP reach it, and were the key files of both "
    "ends made together?"
)
MAX_IMMEDIATE_RESYNCS: Final = 3
"""Status 135 answered at once so many times in a row; then the back-off timer paces us."""
MAX_UPDATES_TO_LEARNT_ADDRESS: Final = 2
"""Deregistrations sent to a learnt link-layer address before resolving the home agent's."""
ACCEPTANCE_DELAY: Final = 10.0
"""Seconds an update may travel, and be probed for, before its lifetime starts to run."""
UNKNOWN_BINDING: Final = 1
"""Binding Error status: no binding for the Home Address option (RFC 6275 6.1.9)."""


class RegistrationState(enum.Enum):
    """Where the registration stands; the value is what ``mnagent status`` shows."""

    UNREGISTERED = "unregistered"
    REGISTERING = "registering"
    REGISTERED = "registered"
    REFRESHING = "refreshing"
    REFUSED = "refused"
    DEREGISTERING = "deregistering"
    ADDRESS_DUPLICATE = "home-address-duplicate"


class _Input(enum.Enum):
    REGISTER = enum.auto()
    SUSPEND = enum.auto()
    REFRESH = enum.auto()
    ACCEPTED = enum.auto()
    REFUSED = enum.auto()
    EXPIRED = enum.auto()
    DEREGISTER = enum.auto()
    DELETED = enum.auto()
    DUPLICATE = enum.auto()


_S = RegistrationState
_FROM_ANY: Final = {
    _Input.REGISTER: _S.REGISTERING,
    _Input.SUSPEND: _S.UNREGISTERED,
    _Input.DEREGISTER: _S.DEREGISTERING,
    _Input.DELETED: _S.UNREGISTERED,
    _Input.DUPLICATE: _S.ADDRESS_DUPLICATE,
}
_ANSWERED: Final = {_Input.ACCEPTED: _S.REGISTERED, _Input.REFUSED: _S.REFUSED}
_TRANSITIONS: Final = {
    _S.UNREGISTERED: {**_FROM_ANY, _Input.REFRESH: _S.REFRESHING, _Input.EXPIRED: _S.UNREGISTERED},
    _S.REGISTERING: {**_FROM_ANY, **_ANSWERED, _Input.EXPIRED: _S.REGISTERING},
    _S.REGISTERED: {
        **_FROM_ANY,
        _Input.REFRESH: _S.REFRESHING,
        _Input.EXPIRED: _S.REGISTERING,
        _Input.REFUSED: _S.REFUSED,
    },
    _S.REFRESHING: {**_FROM_ANY, **_ANSWERED, _Input.EXPIRED: _S.REGISTERING},
    _S.REFUSED: {**_FROM_ANY, _Input.EXPIRED: _S.REFUSED, _Input.REFUSED: _S.REFUSED},
    _S.DEREGISTERING: {
        **_FROM_ANY,
        _Input.REFUSED: _S.DEREGISTERING,
        _Input.EXPIRED: _S.DEREGISTERING,
    },
    _S.ADDRESS_DUPLICATE: {given: _S.ADDRESS_DUPLICATE for given in _FROM_ANY},
}


class _Timer(enum.Enum):
    TRANSMIT = enum.auto()
    REFRESH = enum.auto()
    EXPIRY = enum.auto()
    POSSIBLE_BINDING_END = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeRegistrationSettings:
    """What an administrator decides about one home registration."""

    home_address: IPv6Address
    home_agent_address: IPv6Address
    lifetime: float = 600.0
    """Asked for, seconds."""
    home_address_valid_until: float = math.inf
    """Instant at which the home address itself ends (RFC 6275 11.7.1)."""
    initial_bindack_timeout_first_registration: float = INITIAL_BINDACK_TIMEOUT_FIRST_REGISTRATION
    """Seconds (RFC 6275 13, InitialBindackTimeoutFirstReg)."""
    authentication: Authentication | None = None
    """Protects updates where IPsec does not (RFC 4285)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CareOf:
    """A care-of address to register."""

    address: IPv6Address
    interface: int
    valid_until: float = math.inf
    """Instant at which the address ends."""
    link_local_compatibility: bool = False
    """The interface's link-local address has the home address's interface identifier (L bit)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HomePath:
    """How to reach the home agent on the home link (RFC 6275 11.5.5)."""

    interface: int
    link_layer_destination: bytes | None = None
    """The home agent's link-layer address, or None to have it resolved."""
    link_local_compatibility: bool = False


class HomeRegistration:
    """The registration of one home address with one home agent."""

    def __init__(
        self,
        settings: HomeRegistrationSettings,
        *,
        random: Random,
        persisted_sequence: str | None = None,
        persisted_binding: str | None = None,
        sequence: SequenceCounter | None = None,
    ) -> None:
        """Start unregistered.

        ``persisted_sequence`` and ``persisted_binding`` are the values of this machine's records
        (`sequence_key`, `binding_key`) that an earlier run left, or None. ``sequence`` is the
        counter of another registration of this home address, to go on from.
        """
        self._settings = settings
        self.home_address_valid_until = settings.home_address_valid_until
        """Instant at which the home address ends; follows what is learnt of its prefix."""
        self._state = RegistrationState.UNREGISTERED
        self.sequence = sequence or SequenceCounter(
            self.sequence_key(settings.home_address), random=random, persisted=persisted_sequence
        )
        self._list = BindingUpdateList()
        self._limiter = UpdateRateLimiter()
        self._timers: Timers[_Timer] = Timers()
        self._care_of: CareOf | None = None
        self._home_path: HomePath | None = None
        self._signer = (
            None
            if settings.authentication is None
            else UpdateSigner(settings.authentication, settings.home_address)
        )
        self._bound_address: IPv6Address | None = None
        self._bound_until = -math.inf
        self._is_overtaken = False
        self._possibly_bound_until = -math.inf
        self._restored_lifetime = _restored_lifetime(persisted_binding)
        self._recorded_binding = persisted_binding or "0"
        self._is_outstanding = False
        self._timeout = INITIAL_BINDACK_TIMEOUT
        self._unanswered = 0
        self._tries_left: int | None = None
        self._resyncs = 0
        self._refused_delay = INITIAL_REFUSED_DELAY
        self._error_reported = False
        self.drops: Counter[DropReason] = Counter()
        self.last_status: int | None = None
        """Status of the last matching acknowledgement."""

    @staticmethod
    def sequence_key(home_address: IPv6Address) -> str:
        """Name of the record that keeps the sequence number across restarts."""
        return f"sequence.{home_address}"

    @staticmethod
    def binding_key(home_address: IPv6Address) -> str:
        """Name of the record that tells whether the home agent may hold a binding."""
        return f"binding.{home_address}"

    @property
    def home_agent_address(self) -> IPv6Address:
        return self._settings.home_agent_address

    @property
    def is_unanswered(self) -> bool:
        """Whether people have been told that no update is answered."""
        return self._is_outstanding and self._unanswered >= UNREACHABLE_AFTER

    @property
    def state(self) -> RegistrationState:
        return self._state

    @property
    def entry(self) -> BindingUpdateListEntry | None:
        """The newest Binding Update sent, or None."""
        return self._list.find(self._settings.home_agent_address, self._settings.home_address)

    @property
    def bound_address(self) -> IPv6Address | None:
        """The care-of address the home agent acknowledged last, while that binding lives."""
        return self._bound_address

    def remaining(self, now: float) -> float:
        """Seconds left of the acknowledged binding, 0 without one."""
        return max(0.0, self._bound_until - now) if self._bound_address else 0.0

    def may_be_bound(self, now: float) -> bool:
        """Whether some update, acknowledged or not, may still be in the home agent's cache."""
        self._restore(now)
        return now < self._possibly_bound_until

    def is_bound_to(self, address: IPv6Address, now: float) -> bool:
        """Whether the home agent surely tunnels to ``address``: it was told no other since."""
        return self._bound_address == address and not self._is_overtaken and now < self._bound_until

    # What the mobile node asks for.

    def register(self, care_of: CareOf, now: float) -> list[Output]:
        """Make this the primary care-of address; the same again only updates its lifetime."""
        if self._state is RegistrationState.ADDRESS_DUPLICATE:
            return []
        self._restore(now)
        is_same = self._care_of is not None and self._care_of.address == care_of.address
        self._care_of = care_of
        if is_same and self._home_path is None:
            return []
        self._home_path = None
        self._tries_left = None
        if self.is_bound_to(care_of.address, now):
            # Back on a link the home agent still tunnels to: the update is only the proof that
            # the path works, and packets need not wait for it.
            self._step(_Input.REFRESH)
        else:
            self._step(_Input.REGISTER)
        return self._begin(now)

    def change(self, *, lifetime: float, initial_bindack_timeout_first_registration: float) -> None:
        """Other settings (seconds), from the next update on."""
        self._settings = replace(
            self._settings,
            lifetime=lifetime,
            initial_bindack_timeout_first_registration=initial_bindack_timeout_first_registration,
        )

    def prove(self, now: float) -> list[Output]:
        """Refresh ahead of time: the acknowledgement proves that the home agent is reached."""
        return (
            self._refresh(now, first=False) if self._state is RegistrationState.REGISTERED else []
        )

    def suspend(self) -> None:
        """There is no care-of address now: be silent until there is one. The binding lives on."""
        self._step(_Input.SUSPEND)
        self._care_of = None
        self._home_path = None
        self._be_silent()

    def deregister_at_home(self, path: HomePath, now: float) -> list[Output]:
        """Delete the binding from the home link, source and care-of address the home address."""
        if not self.may_be_bound(now):
            return [BindingDeleted(answered=False)]
        self._care_of = None
        self._home_path = path
        self._tries_left = None
        self._step(_Input.DEREGISTER)
        return self._begin(now)

    def deregister(self, now: float, *, tries: int | None = None) -> list[Output]:
        """Delete the binding from where we are, after ``tries`` unanswered updates give up."""
        has_way = self._care_of is not None or self._home_path is not None
        if not has_way or not self.may_be_bound(now):
            return [BindingDeleted(answered=False)]
        self._tries_left = tries
        self._step(_Input.DEREGISTER)
        return self._begin(now)

    def release(self, care_of: CareOf, now: float) -> list[Output]:
        """Another home agent has taken over: delete the binding here, for as long as it may live.

        Meanwhile a home agent that is back would intercept the home address as well.
        """
        if not self.may_be_bound(now):
            return [BindingDeleted(answered=False)]
        is_releasing = self._state is RegistrationState.DEREGISTERING and self._care_of is not None
        if is_releasing and self._address == care_of.address:
            return []  # with the back-off it has come to, whatever the other one acknowledges
        self._care_of, self._home_path = care_of, None
        self._tries_left = None
        self._step(_Input.DEREGISTER)
        return self._begin(now)

    # Events.

    def handle(self, event: PacketReceived, now: float) -> list[Output]:
        """A mobility message that passed the security policy (RFC 6275 11.7.3, 11.3.6)."""
        if event.packet.source != self._settings.home_agent_address or self.entry is None:
            return self._drop(DropReason.UNKNOWN_PEER)
        match event.packet.payload:
            case BindingAcknowledgement() as acknowledgement:
                fault = self._authentication_fault(event, now)
                if fault is not None:
                    return self._drop(fault)
                return self._on_acknowledgement(event.packet, acknowledgement, now)
            case BindingError() as error:
                return self._on_binding_error(error, now)
            case BindingRefreshRequest():
                return self._refresh(now, first=False)
            case BindingRevocationIndication() as indication:
                return self._on_revocation(event.packet, indication, now)
        return self._drop(DropReason.UNEXPECTED_MESSAGE)

    def _authentication_fault(self, event: PacketReceived, now: float) -> DropReason | None:
        if self._signer is None or self.entry is None:
            return None
        return self._signer.check(event, self.entry.care_of_address, now)

    def handle_icmp_error(self, invoking: bytes) -> list[Output]:
        """An ICMPv6 error that quotes a packet. Told to people, believed by nobody (MN-43).

        Anybody can forge one, and the Binding Update goes again anyway (RFC 6275 11.3.5 speaks of
        correspondents only).
        """
        entry = self.entry
        quoted_source, quoted_destination = invoking[8:24], invoking[24:40]
        if (
            entry is None
            or not self._is_outstanding
            or self._error_reported
            or quoted_destination != entry.destination.packed
            or quoted_source not in (entry.care_of_address.packed, entry.home_address.packed)
        ):
            return self._drop(DropReason.UNEXPECTED_MESSAGE)
        self._error_reported = True
        details = (("home_agent", str(entry.destination)),)
        return [ReportEvent(name="binding-update-undeliverable", details=details, warning=True)]

    def handle_timer(self, now: float) -> list[Output]:
        """Retransmit, refresh, expire: whatever is due."""
        outputs: list[Output] = []
        for timer in self._timers.due(now):
            match timer:
                case _Timer.TRANSMIT:
                    outputs += self._on_transmit_timer(now)
                case _Timer.REFRESH:
                    outputs += self._refresh(now, first=False)
                case _Timer.EXPIRY:
                    outputs += self._on_expiry(now)
                case _:
                    outputs += self._on_possible_binding_end(now)
        return outputs

    def next_deadline(self) -> float | None:
        return self._timers.next_deadline()

    # Acknowledgements.

    def _on_acknowledgement(
        self, packet: IPv6Packet, acknowledgement: BindingAcknowledgement, now: float
    ) -> list[Output]:
        entry = self.entry
        assert entry is not None
        if packet.logical_destination != self._settings.home_address:
            return self._drop(DropReason.UNKNOWN_PEER)
        if not self._is_outstanding:
            return self._drop(DropReason.UNEXPECTED_MESSAGE)
        if acknowledgement.status == BindingStatus.SEQUENCE_NUMBER_OUT_OF_WINDOW:
            return self._on_sequence_out_of_window(acknowledgement, now)
        if acknowledgement.sequence != entry.sequence:
            return self._drop(DropReason.SEQUENCE_MISMATCH)
        if acknowledgement.status == BindingStatus.IDENTIFIER_MISMATCH and self._signer is not None:
            return self._resynchronize(int(acknowledgement.status), now)
        self._is_outstanding = False
        self._timers.cancel(_Timer.TRANSMIT)
        self.last_status = int(acknowledgement.status)
        if self._state is RegistrationState.DEREGISTERING:
            return self._on_deregistration_answer(acknowledgement, now)
        if acknowledgement.status == BindingStatus.DUPLICATE_ADDRESS_DETECTION_FAILED:
            return self._on_home_address_duplicate()
        if acknowledgement.status >= FIRST_REJECTING_STATUS:
            return self._refuse(int(acknowledgement.status), now)
        return self._accept(entry, acknowledgement, now)

    def _accept(
        self, entry: BindingUpdateListEntry, acknowledgement: BindingAcknowledgement, now: float
    ) -> list[Output]:
        # RFC 6275 11.7.3: max(L_remain - (L_update - L_ack), 0), counted from when the update left.
        granted = min(entry.lifetime, acknowledgement.lifetime)
        expires_at = entry.sent_at + granted
        if expires_at <= now:
            sentence = "The home agent granted no time; trying again later."
            return self._refuse(int(acknowledgement.status), now, sentence=sentence)
        first = self._bound_address != entry.care_of_address
        self._list.put(replace(entry, acknowledged=True, expires_at=expires_at))
        self._bound_address, self._bound_until = entry.care_of_address, expires_at
        self._is_overtaken = False
        # The home agent counts from its own acceptance, which lies between sending and now.
        self._possibly_bound_until = now + granted
        self._timers.set(_Timer.POSSIBLE_BINDING_END, self._possibly_bound_until)
        self._refused_delay = INITIAL_REFUSED_DELAY
        self._step(_Input.ACCEPTED)
        self._timers.set(_Timer.EXPIRY, expires_at)
        refresh_at = entry.sent_at + _refresh_interval(granted, acknowledgement)
        self._timers.set(_Timer.REFRESH, max(refresh_at, now + INITIAL_BINDACK_TIMEOUT))
        status = int(acknowledgement.status)
        details = (
            ("status", str(status)),
            ("lifetime", f"{granted:g}"),
            ("care_of_address", str(entry.care_of_address)),
            ("sentence", sentence_of(status)),
        )
        return [
            ReportEvent(name="binding-accepted", details=details),
            BindingAccepted(
                care_of_address=entry.care_of_address,
                status=status,
                lifetime=expires_at - now,
                first=first,
            ),
        ]

    def _on_sequence_out_of_window(
        self, acknowledgement: BindingAcknowledgement, now: float
    ) -> list[Output]:
        self.sequence.resume_after(acknowledgement.sequence)
        return self._resynchronize(int(acknowledgement.status), now)

    def _resynchronize(self, status: int, now: float) -> list[Output]:
        """The home agent has told what it wants: sequence number, or time of day."""
        self.last_status = status
        self._resyncs += 1
        outputs: list[Output] = [_rejection(status)]
        if self._resyncs <= MAX_IMMEDIATE_RESYNCS:
            outputs += self._transmit(now)
        return outputs

    def _on_home_address_duplicate(self) -> list[Output]:
        status = int(BindingStatus.DUPLICATE_ADDRESS_DETECTION_FAILED)
        self._step(_Input.DUPLICATE)
        self._be_silent()
        details = (("address", str(self._settings.home_address)),)
        return [
            *self._forget_binding(),
            _rejection(status),
            ReportEvent(name="duplicate-address", details=details, warning=True),
            BindingRejected(status=status),
        ]

    def _refuse(self, status: int, now: float, *, sentence: str | None = None) -> list[Output]:
        self._step(_Input.REFUSED)
        self._timers.cancel(_Timer.REFRESH)
        self._timers.set(_Timer.TRANSMIT, now + self._refused_delay)
        self._refused_delay = min(self._refused_delay * 2, MAX_REFUSED_DELAY)
        return [_rejection(status, sentence=sentence), BindingRejected(status=status)]

    def _on_deregistration_answer(
        self, acknowledgement: BindingAcknowledgement, now: float
    ) -> list[Output]:
        status = int(acknowledgement.status)
        if status >= FIRST_REJECTING_STATUS and status not in NO_BINDING_STATUSES:
            if self._tries_left is not None:
                return [_rejection(status), *self._deleted(answered=True)]
            return self._refuse(status, now)
        records = self._forget_binding()
        reports: list[Output] = [ReportEvent(name="deregistered")]
        if status >= FIRST_REJECTING_STATUS:
            reports = [_rejection(status)]
        return [*records, *reports, *self._deleted(answered=True)]

    def _deleted(self, *, answered: bool) -> list[Output]:
        self._step(_Input.DELETED)
        self._be_silent()
        return [BindingDeleted(answered=answered)]

    def _forget_binding(self) -> list[Output]:
        self._bound_address, self._bound_until = None, -math.inf
        self._possibly_bound_until = -math.inf
        self._restored_lifetime = 0.0
        self._timers.cancel(_Timer.EXPIRY)
        self._timers.cancel(_Timer.POSSIBLE_BINDING_END)
        return self._record_binding(0.0)

    # Revocation (RFC 5846 10).

    def _on_revocation(
        self, packet: IPv6Packet, indication: BindingRevocationIndication, now: float
    ) -> list[Output]:
        header = packet.type2_routing_header
        if header is None or header.home_address != self._settings.home_address:
            return self._drop(DropReason.NO_TYPE2_ROUTING_HEADER)
        status = _revocation_status(indication)
        if status is RevocationStatus.SUCCESS and not self.may_be_bound(now):
            # RFC 5846 10 would have us be silent, 6.2.1 wants this answer, which ends it at once.
            status = RevocationStatus.BINDING_DOES_NOT_EXIST
        answer = self._answer_revocation(packet, indication, status)
        if status is not RevocationStatus.SUCCESS:
            return [answer]
        details = (("trigger", str(int(indication.trigger))),)
        report = ReportEvent(name="binding-revoked", details=details, warning=True)
        if self._state is RegistrationState.DEREGISTERING:
            return [answer, report, *self._forget_binding(), *self._deleted(answered=True)]
        outputs = [answer, report, *self._forget_binding()]
        if self._care_of is None:
            return outputs
        self._is_outstanding = False
        self._refused_delay = INITIAL_REFUSED_DELAY
        refused = self._refuse(int(BindingStatus.ADMINISTRATIVELY_PROHIBITED), now)
        return [*outputs, *refused]

    def _answer_revocation(
        self,
        packet: IPv6Packet,
        indication: BindingRevocationIndication,
        status: RevocationStatus,
    ) -> SendPacket:
        message = BindingRevocationAcknowledgement(
            status=status,
            sequence=indication.sequence,
            proxy_binding=indication.proxy_binding,
            ipv4_only=indication.ipv4_only,
            is_global=indication.is_global,
        )
        home_address = DestinationOptions((HomeAddressOption(self._settings.home_address),))
        answer = IPv6Packet(
            packet.destination, packet.source, message, extension_headers=(home_address,)
        )
        interface = None if self._care_of is None else self._care_of.interface
        return SendPacket(packet=answer, interface=interface)

    # Errors and requests.

    def _on_binding_error(self, error: BindingError, now: float) -> list[Output]:
        if error.status != UNKNOWN_BINDING or error.home_address != self._settings.home_address:
            return self._drop(DropReason.UNEXPECTED_MESSAGE)
        # Binding Errors are not authenticated: it costs an update, never the tunnel. The home agent
        # that lost its cache probes the home address again, hence the long first time-out.
        return self._refresh(now, first=True)

    def _refresh(self, now: float, *, first: bool) -> list[Output]:
        if self._state is not RegistrationState.REGISTERED:
            return self._drop(DropReason.UNEXPECTED_MESSAGE)
        self._step(_Input.REFRESH)
        return self._begin(now, first=first)

    def _on_expiry(self, now: float) -> list[Output]:
        was_waiting = self._state in (RegistrationState.REGISTERED, RegistrationState.REFRESHING)
        self._bound_address, self._bound_until = None, -math.inf
        self._timers.cancel(_Timer.REFRESH)
        self._step(_Input.EXPIRED)
        report = ReportEvent(name="binding-expired", warning=True)
        outputs: list[Output] = [report, BindingExpired()]
        return [*outputs, *self._begin(now)] if was_waiting else outputs

    def _on_possible_binding_end(self, now: float) -> list[Output]:
        if now < self._possibly_bound_until:
            return []
        records = self._forget_binding()
        if self._state is not RegistrationState.DEREGISTERING:
            return records
        return [*records, *self._deleted(answered=False)]

    # Sending.

    def _begin(self, now: float, *, first: bool = False) -> list[Output]:
        """A new update, with a back-off of its own (RFC 6275 11.8)."""
        is_deregistration = self._state is RegistrationState.DEREGISTERING
        self._timeout = INITIAL_BINDACK_TIMEOUT
        if (first or self._bound_address is None) and not is_deregistration:
            self._timeout = self._settings.initial_bindack_timeout_first_registration
        self._unanswered = 0
        self._resyncs = 0
        self._error_reported = False
        self._is_outstanding = False
        self._timers.cancel(_Timer.REFRESH)
        return self._transmit(now)

    def _on_transmit_timer(self, now: float) -> list[Output]:
        if self._state is RegistrationState.REFUSED:
            self._step(_Input.REGISTER)
            return self._begin(now)
        if not self._is_outstanding:
            return self._transmit(now)
        self._unanswered += 1
        if self._tries_left is not None and self._unanswered >= self._tries_left:
            return self._deleted(answered=False)
        self._timeout = min(self._timeout * 2, MAX_BINDACK_TIMEOUT)
        outputs: list[Output] = []
        if self._unanswered == UNREACHABLE_AFTER:
            details = (
                ("home_agent", str(self._settings.home_agent_address)),
                ("sentence", UNREACHABLE),
            )
            report = ReportEvent(name="home-agent-unreachable", details=details, warning=True)
            outputs.append(report)
        return outputs + self._transmit(now)

    def _transmit(self, now: float) -> list[Output]:
        allowed_at = self._limiter.allowed_at(now)
        if allowed_at > now:
            # Not outstanding any more: the number that will count is the one yet to be sent.
            self._is_outstanding = False
            self._timers.set(_Timer.TRANSMIT, allowed_at)
            return []
        self._limiter.sent(now)
        self._is_outstanding = True
        self._timers.set(_Timer.TRANSMIT, now + self._timeout)
        sequence, records = self.sequence.take()
        lifetime = self._lifetime(now)
        entry = BindingUpdateListEntry(
            destination=self._settings.home_agent_address,
            home_address=self._settings.home_address,
            care_of_address=self._address,
            lifetime=lifetime,
            sequence=sequence,
            sent_at=now,
            expires_at=now + lifetime,
        )
        self._list.put(entry)
        if entry.care_of_address != self._bound_address or lifetime == 0:
            self._is_overtaken = True
        outputs: list[Output] = [*records, *self._note_possible_binding(entry)]
        details = (
            ("sequence", str(sequence)),
            ("care_of_address", str(entry.care_of_address)),
            ("lifetime", f"{lifetime:g}"),
        )
        return [
            *outputs,
            self._send(entry),
            ReportEvent(name="binding-update-sent", details=details),
        ]

    @property
    def _address(self) -> IPv6Address:
        return self._settings.home_address if self._care_of is None else self._care_of.address

    def _lifetime(self, now: float) -> float:
        """What to ask for: no longer than home and care-of address live, never 0 by accident."""
        if self._state is RegistrationState.DEREGISTERING:
            return 0.0
        assert self._care_of is not None
        limit = min(
            self._settings.lifetime,
            self.home_address_valid_until - now,
            self._care_of.valid_until - now,
        )
        return max(limit // LIFETIME_UNIT, 1.0) * LIFETIME_UNIT

    def _note_possible_binding(self, entry: BindingUpdateListEntry) -> list[Output]:
        if entry.lifetime == 0:
            # Until it is answered the old binding counts; past its end nothing is left to delete.
            self._timers.set(_Timer.POSSIBLE_BINDING_END, self._possibly_bound_until)
            return []
        until = entry.expires_at + ACCEPTANCE_DELAY
        self._possibly_bound_until = max(self._possibly_bound_until, until)
        self._timers.set(_Timer.POSSIBLE_BINDING_END, self._possibly_bound_until)
        return self._record_binding(self._settings.lifetime)

    def _record_binding(self, lifetime: float) -> list[Output]:
        value = f"{lifetime:g}"
        if value == self._recorded_binding:
            return []
        self._recorded_binding = value
        return [PersistRecord(key=self.binding_key(self._settings.home_address), value=value)]

    def _send(self, entry: BindingUpdateListEntry) -> SendPacket:
        way: CareOf | HomePath | None = self._care_of or self._home_path
        assert way is not None
        update = BindingUpdate(
            sequence=entry.sequence,
            lifetime=entry.lifetime,
            acknowledge=True,
            home_registration=True,
            link_local_compatibility=way.link_local_compatibility,
            options=(AlternateCareOfAddress(entry.care_of_address),),
        )
        if self._signer is not None:
            update = self._signer.sign(update, entry.care_of_address, entry.sent_at)
        if self._care_of is None:
            packet = IPv6Packet(entry.home_address, entry.destination, update)
            return SendPacket(
                packet=packet,
                interface=way.interface,
                link_layer_destination=self._home_agent_link_layer_address(),
            )
        home_address = DestinationOptions((HomeAddressOption(entry.home_address),))
        packet = IPv6Packet(
            entry.care_of_address, entry.destination, update, extension_headers=(home_address,)
        )
        return SendPacket(packet=packet, interface=way.interface)

    def _home_agent_link_layer_address(self) -> bytes | None:
        """Learnt from whoever defends the home address; if that one does not answer, resolved."""
        if self._home_path is None or self._unanswered >= MAX_UPDATES_TO_LEARNT_ADDRESS:
            return None
        return self._home_path.link_layer_destination

    # State.

    def _step(self, given: _Input) -> None:
        self._state = _TRANSITIONS[self._state][given]

    def _be_silent(self) -> None:
        self._is_outstanding = False
        self._timers.cancel(_Timer.TRANSMIT)
        self._timers.cancel(_Timer.REFRESH)

    def _restore(self, now: float) -> None:
        """Count a binding an earlier run left from now on: when it was made is not known."""
        if self._restored_lifetime > 0:
            until = now + self._restored_lifetime
            self._possibly_bound_until = max(self._possibly_bound_until, until)
            self._timers.set(_Timer.POSSIBLE_BINDING_END, self._possibly_bound_until)
            self._restored_lifetime = 0.0

    def _drop(self, reason: DropReason) -> list[Output]:
        self.drops[reason] += 1
        return []


def _refresh_interval(granted: float, acknowledgement: BindingAcknowledgement) -> float:
    """Seconds after which to refresh a binding (RFC 6275 11.7.3, Binding Refresh Advice)."""
    interval = granted * REFRESH_FRACTION
    for option in acknowledgement.options:
        if isinstance(option, BindingRefreshAdvice) and 0 < option.interval < interval:
            interval = option.interval
    return interval


def _rejection(status: int, *, sentence: str | None = None) -> ReportEvent:
    details = (
        ("status", str(status)),
        ("name", name_of(status)),
        ("sentence", sentence or sentence_of(status)),
    )
    return ReportEvent(name="binding-rejected", details=details, warning=True)


def _revocation_status(indication: BindingRevocationIndication) -> RevocationStatus:
    """What becomes of an indication for a binding that is there (RFC 5846 6.2.1, 10)."""
    if indication.proxy_binding:
        return RevocationStatus.PROXY_BINDING_REVOCATION_NOT_SUPPORTED
    if indication.ipv4_only:
        return RevocationStatus.IPV4_HOME_ADDRESS_OPTION_REQUIRED
    if indication.is_global:
        return RevocationStatus.FUNCTION_NOT_SUPPORTED
    if indication.trigger not in set(RevocationTrigger):
        return RevocationStatus.TRIGGER_NOT_SUPPORTED
    return RevocationStatus.SUCCESS


def _restored_lifetime(record: str | None) -> float:
    """Seconds that a binding of an earlier run may last; an unreadable record counts as none."""
    try:
        lifetime = float(record) if record is not None else 0.0
    except ValueError:
        return 0.0
    return lifetime if 0 < lifetime < math.inf else 0.0
