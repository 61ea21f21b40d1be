"""Correspondent registration: one peer told directly where the mobile node is (RFC 6275 11.7.2).

Theory of operation. Return routability fetches the tokens that are missing, a Binding Update with
Binding Authorization Data follows, and its acknowledgement puts the direct path up: 11.3.1 wants to
know the binding made, so every update asks for an answer. Only `_step` changes the state:

                start             tokens there           home agent has answered
    IDLE ---------------> TESTING -------------> WAITING -------------------> UPDATING
     ^  ^                  ^  ^  |  `------------------------------------------^  | accepted
     |  | expired, unused  |  |  | no answer, refused (from any)                  v
     |  `------------------|--|--|--------------------------------------------- BOUND
     | period over         |  `--|-------- refresh, nonces unknown ---------------'
    SUSPENDED <------------|-----'                  DEREGISTERING (from any) --> IDLE

The tests start with the home agent's update, the correspondent's update waits for the home agent's
acknowledgement (11.7.2). The direct path is apart from the state: it stays up through a refresh,
and goes at once when the care-of address changes, the binding ends or anything is refused; the
tunnel is always there to fall back on.

As in home registration, what the correspondent may believe is kept apart from what it
acknowledged: as long as any update can be alive there, a movement is told and a return home
deregisters.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address
from random import Random
from typing import Final

from mnagent.core.actions import RemoveDirectPath, ReportEvent, SendPacket, SetDirectPath
from mnagent.core.drops import DropReason
from mnagent.core.events import PacketReceived, TrafficSeen
from mnagent.core.indications import Output
from mnagent.core.timers import Timers, earliest
from mnagent.mobility import correspondent_record
from mnagent.mobility.binding_status import FIRST_REJECTING_STATUS, name_of
from mnagent.mobility.binding_update_list import BindingUpdateListEntry, UpdateRateLimiter
from mnagent.mobility.constants import (
    INITIAL_BINDACK_TIMEOUT,
    LIFETIME_UNIT,
    MAX_BINDACK_TIMEOUT,
    MAX_RO_FAILURE,
    MAX_RR_BINDING_LIFETIME,
    MAX_TOKEN_LIFETIME,
    REFRESH_FRACTION,
)
from mnagent.mobility.home_registration import ACCEPTANCE_DELAY, CareOf
from mnagent.mobility.keygen import authorized, binding_management_key, is_authorized
from mnagent.mobility.return_routability import (
    AddressesTested,
    AddressTestOutput,
    KeygenToken,
    ReturnRoutability,
)
from mnagent.mobility.sequence import SharedSequence
from mnagent.wire.buffer import DecodeError
from mnagent.wire.constants import OPTION_HOME_ADDRESS
from mnagent.wire.icmp6 import ParameterProblem, ParameterProblemCode
from mnagent.wire.ipv6 import DestinationOptions, HomeAddressOption, IPv6Packet
from mnagent.wire.mobility import (
    BindingAcknowledgement,
    BindingError,
    BindingErrorStatus,
    BindingRefreshRequest,
    BindingStatus,
    BindingUpdate,
    CareOfTest,
    HomeTest,
)
from mnagent.wire.mobility_options import NonceIndices
from mnagent.wire.packet import decode_packet

ROUTE_OPTIMIZATION_RETRY_DELAY: Final = 60.0
"""Seconds in the tunnel after a failure, before the first new try; doubles at each failure."""
MAX_ROUTE_OPTIMIZATION_RETRY_DELAY: Final = 3600.0
HOME_TOKEN_REFRESH_AGE: Final = MAX_TOKEN_LIFETIME - 30.0
"""Seconds after which a correspondent in use is asked for a new home token, so that a handover
finds a young one."""
PROGRESS_WINDOW: Final = 3.0
"""Seconds for which a packet that came directly proves the binding (RFC 6275 11.3.6)."""
DOUBT_INTERVAL: Final = 10.0
"""Seconds between two Binding Updates that ICMPv6 errors about the Home Address option, which
anybody can forge, bring about."""
RESTART_DELAY: Final = 2.0
"""Seconds in the tunnel after which a correspondent that took a binding before, and now refuses the
Home Address option, is asked again: most likely it is being restarted."""
EARLY_HOME_TEST_DELAY: Final = 0.02
"""Seconds that a Home Test Init stays behind a Binding Update to the home agent where nothing else
holds it back: on its heels it would come before the home agent has set the tunnel up, be dropped,
and be sent again only after INITIAL_BINDACK_TIMEOUT."""
RECORD_LEAD: Final = 60.0
"""Seconds that the record of a correspondent that may be bound outlasts the binding it is made
for."""
MAX_IMMEDIATE_RETRIES: Final = 3
"""Statuses 135 to 138 in a row that are answered with another try."""

_NONCE_STATUSES: Final = frozenset(
    {
        BindingStatus.EXPIRED_HOME_NONCE_INDEX,
        BindingStatus.EXPIRED_CARE_OF_NONCE_INDEX,
        BindingStatus.EXPIRED_NONCES,
    }
)
"""Sent without an authenticator, as the correspondent could not make one (RFC 6275 9.5.4)."""


class CorrespondentState(enum.Enum):
    """How far route optimization with one peer is; the value is what ``mnagent status`` shows."""

    IDLE = "idle"
    TESTING = "testing"
    WAITING = "waiting-for-home-agent"
    UPDATING = "updating"
    BOUND = "bound"
    SUSPENDED = "suspended"
    DEREGISTERING = "deregistering"


class _Input(enum.Enum):
    START = enum.auto()
    TESTED = enum.auto()
    UPDATE = enum.auto()
    ACCEPTED = enum.auto()
    SUSPEND = enum.auto()
    STOP = enum.auto()
    DEREGISTER = enum.auto()


_S = CorrespondentState
_FROM_ANY: Final = {
    _Input.START: _S.TESTING,
    _Input.SUSPEND: _S.SUSPENDED,
    _Input.STOP: _S.IDLE,
    _Input.DEREGISTER: _S.DEREGISTERING,
}
# The answer may come when a new update, or new tests for it, are already under way.
_UNDER_WAY: Final = {
    _Input.TESTED: _S.WAITING,
    _Input.UPDATE: _S.UPDATING,
    _Input.ACCEPTED: _S.BOUND,
}
_TRANSITIONS: Final = {
    _S.IDLE: {**_FROM_ANY, _Input.ACCEPTED: _S.BOUND},
    _S.TESTING: {**_FROM_ANY, **_UNDER_WAY},
    _S.WAITING: {**_FROM_ANY, **_UNDER_WAY},
    _S.UPDATING: {**_FROM_ANY, **_UNDER_WAY},
    _S.BOUND: _FROM_ANY,
    _S.SUSPENDED: _FROM_ANY,
    _S.DEREGISTERING: {
        **_FROM_ANY,
        _Input.TESTED: _S.DEREGISTERING,
        _Input.UPDATE: _S.DEREGISTERING,
    },
}


class _Timer(enum.Enum):
    TRANSMIT = enum.auto()
    REFRESH = enum.auto()
    HOME_TOKEN = enum.auto()
    EXPIRY = enum.auto()
    RESUME = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrespondentRegistrationSettings:
    """What holds for every correspondent of a home address."""

    home_address: IPv6Address
    home_agent_address: IPv6Address
    lifetime: float = MAX_RR_BINDING_LIFETIME
    """Asked for, seconds; never more than MAX_RR_BINDING_LIFETIME (RFC 6275 5.2.6)."""
    idle_timeout: float = 60.0
    """Seconds without a packet after which a binding is left to its end."""
    retry_delay: float = ROUTE_OPTIMIZATION_RETRY_DELAY
    """Seconds in the tunnel after the first failure."""
    max_failures: int = MAX_RO_FAILURE
    """Sendings of one message without an answer before the tunnel is fallen back on."""
    early_tunnel: bool = False
    """The tunnel is in use before the home agent has acknowledged it."""
    keep_home_token_young: bool = True
    """Fetch home tokens ahead of need while there is traffic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outstanding:
    """The update that awaits its acknowledgement, and what proves it."""

    update: BindingUpdate
    key: bytes = field(repr=False)
    authorized_address: IPv6Address


class CorrespondentRegistration:
    """One home address and one correspondent."""

    def __init__(
        self,
        settings: CorrespondentRegistrationSettings,
        correspondent: IPv6Address,
        *,
        random: Random,
        sequence: SharedSequence,
        is_permanent: bool = False,
    ) -> None:
        """``sequence`` numbers the updates to this and other correspondents; ``is_permanent`` keeps
        the binding without traffic (policy ``always``)."""
        self.correspondent = correspondent
        self.is_permanent = is_permanent
        self.is_withdrawn = False
        """The policy forbids what it allowed before: only a deregistration is left to do."""
        self.last_traffic_at: float | None = None
        self.suspension_reason: str | None = None
        """Why the tunnel is used, after a failure and until the next success."""
        self.drops: Counter[DropReason] = Counter()
        self._settings = settings
        self._state = CorrespondentState.IDLE
        self._tests = ReturnRoutability(
            home_address=settings.home_address,
            home_agent_address=settings.home_agent_address,
            correspondent=correspondent,
            random=random,
            max_failures=settings.max_failures,
        )
        self._timers: Timers[_Timer] = Timers()
        self._limiter = UpdateRateLimiter()
        self._numbers = sequence
        self._sequence = 0
        self._care_of: CareOf | None = None
        self._home_bound_until: float | None = None
        self._entry: BindingUpdateListEntry | None = None
        self._outstanding: _Outstanding | None = None
        self._direct: IPv6Address | None = None
        self._acknowledged_address: IPv6Address | None = None
        self._possibly_bound_until = -math.inf
        self._recorded_until = -math.inf
        self._progress_at: float | None = None
        self._refresh_at: float | None = None
        self._timeout = INITIAL_BINDACK_TIMEOUT
        self._unanswered = 0
        self._retries = 0
        self._retry_delay = settings.retry_delay
        self._is_refused = False
        self._is_error_reported = False
        self._doubted_at = -math.inf

    def change_home_agent(self, home_agent_address: IPv6Address) -> None:
        """Home Tests come by another home agent's tunnel from now on."""
        self._tests.home_agent_address = home_agent_address

    @property
    def state(self) -> CorrespondentState:
        return self._state

    @property
    def entry(self) -> BindingUpdateListEntry | None:
        """The newest Binding Update sent, or None."""
        return self._entry

    @property
    def direct_address(self) -> IPv6Address | None:
        """The care-of address of the direct path, or None while the tunnel is used."""
        return self._direct

    @property
    def is_refused(self) -> bool:
        """Suspended by what the correspondent said, not by silence."""
        return self._state is CorrespondentState.SUSPENDED and self._is_refused

    def may_be_bound(self, now: float) -> bool:
        """Whether some update, acknowledged or not, may still be in its binding cache."""
        return now < self._possibly_bound_until

    def must_be_told(self, care_of_address: IPv6Address, now: float) -> bool:
        """Whether it may be sending to another care-of address than this one."""
        return self.may_be_bound(now) and self._acknowledged_address != care_of_address

    def remaining(self, now: float) -> float:
        """Seconds left of the acknowledged binding, 0 without one."""
        entry = self._entry
        return entry.remaining(now) if entry is not None and entry.acknowledged else 0.0

    def is_active(self, now: float) -> bool:
        """Whether there was traffic lately."""
        if self.is_permanent:
            return True
        last = self.last_traffic_at
        return last is not None and now - last < self._settings.idle_timeout

    def tokens(self, now: float) -> tuple[KeygenToken | None, KeygenToken | None]:
        """Home and care-of token that may be used now."""
        return self._tests.home_token(now), self._tests.care_of_token(now)

    # What route optimization asks for.

    def restore(self, until: float) -> None:
        """An earlier run told it a care-of address; it may hold that binding until then."""
        self._possibly_bound_until = self._recorded_until = until

    def forget_record(self) -> list[Output]:
        """It holds no binding any more, or has been told to end it."""
        if self._recorded_until == -math.inf:
            return []
        self._recorded_until = -math.inf
        home_address = self._settings.home_address
        return [correspondent_record.forgotten(home_address, self.correspondent)]

    def leave(self) -> list[Output]:
        """The care-of address is no more: the tunnel at once, and silence. Tokens stay."""
        self._home_bound_until = None
        self._be_silent()
        if not self.is_refused:
            self._timers.cancel(_Timer.RESUME)
            self._step(_Input.STOP)
        return self._drop_direct_path("care-of-address-left")

    def start(self, care_of: CareOf, now: float, *, home_bound_until: float | None) -> list[Output]:
        """Have this care-of address bound; an acknowledged binding of it serves at once.

        ``home_bound_until`` is the end of the home agent's binding of that address, or None while
        its acknowledgement is awaited.
        """
        self._care_of = care_of
        self._home_bound_until = home_bound_until
        if self._is_bound_to(care_of.address, now):
            self._step(_Input.ACCEPTED)
            self._arm_binding_timers(now)
            return self._set_direct_path(now)
        return self._begin(now)

    def update_care_of(self, care_of: CareOf) -> None:
        """The same care-of address has other lifetimes now."""
        self._care_of = care_of

    def home_registered(self, until: float, now: float) -> list[Output]:
        """The home agent acknowledged the care-of address (MN-54)."""
        self._home_bound_until = until
        if self._state is CorrespondentState.WAITING:
            return self._on_tokens(now)
        if self._state is CorrespondentState.DEREGISTERING and not self._is_busy:
            return self._on_tokens(now)
        if self._state is CorrespondentState.BOUND:
            outputs = self._set_direct_path(now)
            entry = self._entry
            if entry is not None and entry.expires_at > until + LIFETIME_UNIT:
                # The home address ends earlier than it was known to (11.4.2): MUST be told.
                outputs += self._begin(now)
            return outputs
        return []

    def home_lost(self) -> None:
        """The home agent's binding is gone: no new update until there is one again."""
        self._home_bound_until = None

    def deregister(
        self, care_of: CareOf | None, now: float, *, home_bound_until: float | None = None
    ) -> list[Output]:
        """Delete the binding, from the home link with None: the home test alone (11.6.1, RR-10)."""
        self._care_of = care_of
        self._home_bound_until = home_bound_until
        self._be_silent()
        self._step(_Input.DEREGISTER)
        outputs = self._drop_direct_path("deregistering")
        self._reset_back_off()
        self._retries = 0
        return outputs + self._run_tests(now)

    def say_goodbye(self, now: float) -> list[Output]:
        """The node stops: delete the binding with what is at hand, and wait for nothing."""
        outputs = self._drop_direct_path("stopping")
        self._be_silent()
        is_possible = self.may_be_bound(now) and self._tests.home_token(now) is not None
        if self._home_bound_until is not None and self._care_of is not None and is_possible:
            self._step(_Input.DEREGISTER)
            goodbye = self._transmit(now)
            self._be_silent()
            outputs += goodbye + (self.forget_record() if goodbye else [])
        self._step(_Input.STOP)
        return outputs

    # Events.

    def note_traffic(self, event: TrafficSeen, now: float) -> list[Output]:
        """Packets went or came; a binding whose refresh was skipped is refreshed now."""
        if event.packets_in or event.packets_out:
            self.last_traffic_at = now
        if event.direct and event.packets_in and not event.packets_out:
            # With both directions in one report it could be the sent ones that went directly, while
            # the correspondent lost its binding and answers through the tunnel.
            self._progress_at = now
        is_due = self._refresh_at is not None and now >= self._refresh_at
        if self._state is CorrespondentState.BOUND and is_due:
            return self._begin(now)
        return []

    def handle(self, event: PacketReceived, now: float) -> list[Output]:
        """A mobility message from this correspondent."""
        match event.packet.payload:
            case HomeTest() | CareOfTest():
                return self._on_tests(self._tests.handle(event, now), now)
            case BindingAcknowledgement() as acknowledgement:
                return self._on_acknowledgement(event, acknowledgement, now)
            case BindingError() as error:
                return self._on_binding_error(event.packet, error, now)
            case BindingRefreshRequest():
                return self._on_refresh_request(now)
        return self._drop(DropReason.UNEXPECTED_MESSAGE)

    def handle_parameter_problem(self, problem: ParameterProblem, now: float) -> list[Output]:
        """An ICMPv6 Parameter Problem about a packet to this correspondent (RFC 6275 11.3.5)."""
        if problem.code == ParameterProblemCode.UNRECOGNIZED_OPTION:
            return self._on_unrecognized_option(problem, now)
        if problem.code != ParameterProblemCode.UNRECOGNIZED_NEXT_HEADER:
            return self._drop(DropReason.UNEXPECTED_MESSAGE)
        if not self._has_sent(problem.invoking):
            return self._drop(DropReason.UNKNOWN_PEER)
        return self._refuse("mobility-header-not-supported", now)

    def peer_moved(self, now: float) -> list[Output]:
        """The correspondent, mobile itself, told its new care-of address.

        What was sent to where it had been is lost: send it again at once.
        """
        if self._state is CorrespondentState.TESTING:
            return self._run_tests(now)
        if self._state is CorrespondentState.UPDATING:
            self._reset_back_off()
            return self._on_tokens(now)
        return []

    def direct_path_failed(self, action: SetDirectPath, now: float) -> list[Output]:
        """The host could not do it: the tunnel for a while. What it is doing no more is let be."""
        if self._direct != action.care_of_address:
            return []
        return self._suspend("direct-path-not-possible", now)

    def handle_timer(self, now: float) -> list[Output]:
        """Retransmit, refresh, expire, try again: whatever is due."""
        outputs = self._on_tests(self._tests.handle_timer(now), now)
        for timer in self._timers.due(now):
            match timer:
                case _Timer.TRANSMIT:
                    outputs += self._on_transmit_timer(now)
                case _Timer.REFRESH:
                    outputs += self._on_refresh_timer(now)
                case _Timer.HOME_TOKEN:
                    outputs += self._on_home_token_timer(now)
                case _Timer.EXPIRY:
                    outputs += self._on_expiry()
                case _:  # RESUME
                    self._step(_Input.STOP)
        return outputs

    def next_deadline(self) -> float | None:
        return earliest(self._timers.next_deadline(), self._tests.next_deadline())

    # Tests.

    def _begin(self, now: float) -> list[Output]:
        self._reset_back_off()
        self._retries = 0
        self._timers.cancel(_Timer.RESUME)
        self._timers.cancel(_Timer.REFRESH)
        self._timers.cancel(_Timer.HOME_TOKEN)
        self._step(_Input.START)
        return self._run_tests(now)

    def _reset_back_off(self) -> None:
        self._timeout = INITIAL_BINDACK_TIMEOUT
        self._unanswered = 0
        self._outstanding = None
        self._timers.cancel(_Timer.TRANSMIT)

    def _run_tests(self, now: float) -> list[Output]:
        is_early = self._settings.early_tunnel and self._home_bound_until is None
        is_tunnelled = self._care_of is not None
        tests = self._tests.start(
            self._care_of,
            now,
            home_only=self._state is CorrespondentState.DEREGISTERING,
            home_test_delay=EARLY_HOME_TEST_DELAY if is_early and is_tunnelled else 0.0,
        )
        return self._on_tests(tests, now)

    def _on_tests(self, given: list[AddressTestOutput] | DropReason, now: float) -> list[Output]:
        if isinstance(given, DropReason):
            return self._drop(given)
        outputs: list[Output] = []
        for output in given:
            match output:
                case SendPacket():
                    outputs.append(output)
                case AddressesTested():
                    details = (("correspondent", str(self.correspondent)),)
                    outputs.append(ReportEvent(name="addresses-tested", details=details))
                    outputs += self._on_tokens(now)
                case _:  # AddressTestsFailed
                    outputs += self._suspend("no-answer-to-tests", now)
        return outputs

    def _on_tokens(self, now: float) -> list[Output]:
        if not self._may_update(now):
            self._step(_Input.TESTED)
            return []
        return self._transmit(now)

    def _may_update(self, now: float) -> bool:
        """Never before the home agent's acknowledgement, nor for less than one unit (11.7.2)."""
        if self._care_of is None:
            return True
        if self._state is CorrespondentState.DEREGISTERING:
            return self._home_bound_until is not None
        return self._home_bound_until is not None and self._lifetime(now) >= LIFETIME_UNIT

    # Binding Updates.

    def _lifetime(self, now: float) -> float:
        """No longer than the home registration and the care-of address last (11.7.2)."""
        if self._state is CorrespondentState.DEREGISTERING:
            return 0.0
        assert self._care_of is not None and self._home_bound_until is not None
        limit = min(
            self._settings.lifetime,
            MAX_RR_BINDING_LIFETIME,
            self._home_bound_until - now,
            self._care_of.valid_until - now,
        )
        return limit // LIFETIME_UNIT * LIFETIME_UNIT

    def _transmit(self, now: float) -> list[Output]:
        home, care_of = self.tokens(now)
        is_deregistration = self._state is CorrespondentState.DEREGISTERING
        if home is None or (care_of is None and not is_deregistration):
            if not is_deregistration:
                self._step(_Input.START)
            return self._run_tests(now)
        allowed_at = self._limiter.allowed_at(now)
        if allowed_at > now:
            self._step(_Input.UPDATE)
            self._outstanding = None
            self._timers.set(_Timer.TRANSMIT, allowed_at)
            return []
        self._limiter.sent(now)
        self._step(_Input.UPDATE)
        self._timers.set(_Timer.TRANSMIT, now + self._timeout)
        self._sequence = self._numbers.take()
        return self._send(home, None if is_deregistration else care_of, now)

    def _send(self, home: KeygenToken, care_of: KeygenToken | None, now: float) -> list[Output]:
        home_address = self._settings.home_address
        lifetime = self._lifetime(now)
        # A deregistration is authorized for the home address, wherever it leaves from (6.2.7).
        source = home_address if self._care_of is None else self._care_of.address
        bound_address = home_address if care_of is None else source
        key = binding_management_key(home.value, None if care_of is None else care_of.value)
        nonces = NonceIndices(home.nonce_index, 0 if care_of is None else care_of.nonce_index)
        update = authorized(
            BindingUpdate(
                sequence=self._sequence, lifetime=lifetime, acknowledge=True, options=(nonces,)
            ),
            key,
            care_of_address=bound_address,
            correspondent=self.correspondent,
        )
        self._outstanding = _Outstanding(update=update, key=key, authorized_address=bound_address)
        self._keep_entry(bound_address, lifetime, now)
        record = self._record(now)
        if self._care_of is None:
            packet = IPv6Packet(source, self.correspondent, update)
            return [*record, SendPacket(packet=packet)]
        headers = (DestinationOptions((HomeAddressOption(home_address),)),)
        packet = IPv6Packet(source, self.correspondent, update, extension_headers=headers)
        return [*record, SendPacket(packet=packet, interface=self._care_of.interface)]

    def _record(self, now: float) -> list[Output]:
        """For a run after a crash. Made to hold for longer than the binding: anybody can have us
        send updates, and not each is to be a write."""
        if self._recorded_until >= self._possibly_bound_until:
            return []
        self._recorded_until = self._possibly_bound_until + RECORD_LEAD
        duration = self._recorded_until - now
        home_address = self._settings.home_address
        return [correspondent_record.told(home_address, self.correspondent, duration)]

    def _keep_entry(self, care_of_address: IPv6Address, lifetime: float, now: float) -> None:
        """Remember the newest update; a binding it only prolongs stays acknowledged meanwhile."""
        previous = self._entry
        is_refresh = previous is not None and self._is_bound_to(care_of_address, now)
        self._entry = BindingUpdateListEntry(
            destination=self.correspondent,
            home_address=self._settings.home_address,
            care_of_address=care_of_address,
            lifetime=lifetime,
            sequence=self._sequence,
            sent_at=now,
            expires_at=previous.expires_at if previous and is_refresh else now + lifetime,
            home_registration=False,
            acknowledged=is_refresh,
        )
        if care_of_address != self._acknowledged_address:
            self._acknowledged_address = None
        if lifetime > 0:
            until = now + lifetime + ACCEPTANCE_DELAY
            self._possibly_bound_until = max(self._possibly_bound_until, until)

    def _on_transmit_timer(self, now: float) -> list[Output]:
        if self._outstanding is not None:
            self._unanswered += 1
            if self._unanswered >= self._settings.max_failures:
                return self._suspend("no-answer-to-updates", now)
            self._timeout = min(self._timeout * 2, MAX_BINDACK_TIMEOUT)
        return self._on_tokens(now)

    # Binding Acknowledgements.

    def _on_acknowledgement(
        self, event: PacketReceived, acknowledgement: BindingAcknowledgement, now: float
    ) -> list[Output]:
        outstanding = self._outstanding
        if outstanding is None:
            return self._drop(DropReason.UNEXPECTED_MESSAGE)
        if event.packet.logical_destination != self._settings.home_address:
            return self._drop(DropReason.UNKNOWN_PEER)
        status = int(acknowledgement.status)
        is_authentic = is_authorized(
            event.packet,
            outstanding.key,
            care_of_address=outstanding.authorized_address,
            correspondent=self.correspondent,
            data=event.data,
        )
        if not is_authentic and status not in _NONCE_STATUSES:
            return self._drop(DropReason.BAD_AUTHENTICATOR)
        if status == BindingStatus.SEQUENCE_NUMBER_OUT_OF_WINDOW:
            # What one correspondent says is not to move the numbers that others get.
            self._numbers = SharedSequence(acknowledgement.sequence)
            return self._retry("sequence-number-out-of-window", now)
        if acknowledgement.sequence != outstanding.update.sequence:
            return self._drop(DropReason.SEQUENCE_MISMATCH)
        if status in _NONCE_STATUSES:
            return self._on_nonce_unknown(status, now)
        return self._on_answer(acknowledgement, now)

    def _on_answer(self, acknowledgement: BindingAcknowledgement, now: float) -> list[Output]:
        self._reset_back_off()
        self._tests.stop()
        status = int(acknowledgement.status)
        if self._state is CorrespondentState.DEREGISTERING:
            return self._on_deregistered()
        if status >= FIRST_REJECTING_STATUS:
            return self._refuse(name_of(status), now)
        assert self._entry is not None
        # RFC 6275 11.7.3: counted from when the update left. Binding Refresh Advice is the home
        # agent's to give and is not looked at here.
        granted = min(self._entry.lifetime, acknowledgement.lifetime)
        expires_at = self._entry.sent_at + granted
        if expires_at <= now:
            return self._refuse("no-lifetime-granted", now)
        self._entry = replace(self._entry, acknowledged=True, expires_at=expires_at)
        self._acknowledged_address = self._entry.care_of_address
        self._possibly_bound_until = now + granted
        self._retry_delay = self._settings.retry_delay
        self._retries = 0
        self.suspension_reason = None
        self._step(_Input.ACCEPTED)
        self._arm_binding_timers(now)
        return self._set_direct_path(now)

    def _on_deregistered(self) -> list[Output]:
        """Whatever the answer was, there is no more to be done about it."""
        self._forget_binding()
        self._step(_Input.STOP)
        details = (("correspondent", str(self.correspondent)),)
        report = ReportEvent(name="correspondent-deregistered", details=details)
        return [*self.forget_record(), report]

    def _on_nonce_unknown(self, status: int, now: float) -> list[Output]:
        if status != BindingStatus.EXPIRED_CARE_OF_NONCE_INDEX:
            self._tests.forget_home_token()
        if status != BindingStatus.EXPIRED_HOME_NONCE_INDEX:
            self._tests.forget_care_of_token()
        return self._retry(name_of(status), now)

    def _retry(self, reason: str, now: float) -> list[Output]:
        """Another update, after what tests it needs; not for ever."""
        self._retries += 1
        if self._retries > MAX_IMMEDIATE_RETRIES:
            return self._refuse(reason, now)
        self._reset_back_off()
        if self._state is not CorrespondentState.DEREGISTERING:
            self._step(_Input.START)
        return self._run_tests(now)

    # Binding Errors, requests and ICMPv6 errors.

    def _on_binding_error(
        self, packet: IPv6Packet, error: BindingError, now: float
    ) -> list[Output]:
        if error.status == BindingErrorStatus.UNRECOGNIZED_MOBILITY_HEADER_TYPE:
            # A node that may have a binding has answered the tests for it: the error is forged, and
            # believing it would leave that binding behind at the next movement.
            if not self._is_busy or self.may_be_bound(now):
                return self._drop(DropReason.UNEXPECTED_MESSAGE)
            return self._refuse("message-type-not-supported", now)
        is_ours = (
            error.status == BindingErrorStatus.UNKNOWN_BINDING_FOR_HOME_ADDRESS_OPTION
            and error.home_address == self._settings.home_address
            and self._direct is not None
            and packet.destination == self._direct
        )
        if not is_ours or self._has_progress(now):
            return self._drop(DropReason.UNEXPECTED_MESSAGE)
        # A correspondent that lost the binding most likely lost its nonces too.
        self._tests.forget_home_token()
        self._tests.forget_care_of_token()
        # Nobody signs such an error: were it forged, there is a binding to be told of movements.
        possibly_bound_until = self._possibly_bound_until
        self._forget_binding()
        self._possibly_bound_until = possibly_bound_until
        return [*self._drop_direct_path("binding-unknown"), *self._begin(now)]

    def _has_progress(self, now: float) -> bool:
        return self._progress_at is not None and now - self._progress_at < PROGRESS_WINDOW

    def _on_refresh_request(self, now: float) -> list[Output]:
        if self._state is not CorrespondentState.BOUND:
            return self._drop(DropReason.NO_BINDING)
        return self._begin(now)

    def _on_unrecognized_option(self, problem: ParameterProblem, now: float) -> list[Output]:
        """A node that answered our tests must know the option: told once, then discarded.

        It may have stopped being a correspondent, though, so the binding is asked for anew: the
        same error about that, which quotes its authenticator, can be believed. The direct path
        stays meanwhile.
        """
        self._drop(DropReason.UNEXPECTED_MESSAGE)
        at = slice(problem.pointer, problem.pointer + 1)
        if problem.invoking[at] != bytes((OPTION_HOME_ADDRESS,)):
            return []
        if self._has_sent(problem.invoking):
            return self._refuse("home-address-option-not-supported", now, delay=RESTART_DELAY)
        outputs: list[Output] = []
        if not self._is_error_reported:
            self._is_error_reported = True
            details = (("correspondent", str(self.correspondent)),)
            outputs = [
                ReportEvent(name="home-address-option-refused", details=details, warning=True)
            ]
        if self._state is CorrespondentState.BOUND and now >= self._doubted_at + DOUBT_INTERVAL:
            self._doubted_at = now
            outputs += self._begin(now)
        return outputs

    def _has_sent(self, invoking: bytes) -> bool:
        """Whether the quoted packet is one of ours that awaits an answer, octet by octet."""
        try:
            packet = decode_packet(invoking)
        except DecodeError:
            return False
        outstanding = self._outstanding
        if isinstance(packet.payload, BindingUpdate):
            return (
                outstanding is not None
                and packet.destination == self.correspondent
                and packet.payload == outstanding.update
            )
        return self._tests.has_sent(packet)

    # Failure.

    def _refuse(self, reason: str, now: float, *, delay: float | None = None) -> list[Output]:
        """The correspondent does not want to: a new care-of address does not change its mind."""
        outputs = self._suspend(reason, now, delay=delay)
        self._is_refused = True
        return outputs

    def _suspend(self, reason: str, now: float, *, delay: float | None = None) -> list[Output]:
        """Use the tunnel for a period, twice as long each time (RFC 6275 5.2.9, 11.7.3), or for
        ``delay`` seconds."""
        self._be_silent()
        self._step(_Input.SUSPEND)
        self._is_refused = False
        self.suspension_reason = reason
        if delay is None:
            delay = self._retry_delay
            self._retry_delay = min(delay * 2, MAX_ROUTE_OPTIMIZATION_RETRY_DELAY)
        self._timers.set(_Timer.RESUME, now + delay)
        details = (
            ("correspondent", str(self.correspondent)),
            ("reason", reason),
            ("seconds", f"{delay:g}"),
        )
        report = ReportEvent(name="route-optimization-suspended", details=details)
        return [*self._drop_direct_path(reason), report]

    # The binding in force.

    def _is_bound_to(self, address: IPv6Address, now: float) -> bool:
        entry = self._entry
        return (
            entry is not None
            and entry.acknowledged
            and entry.care_of_address == address
            and now < entry.expires_at
        )

    def _arm_binding_timers(self, now: float) -> None:
        entry = self._entry
        assert entry is not None
        self._timers.set(_Timer.EXPIRY, entry.expires_at)
        lifetime = entry.expires_at - entry.sent_at
        self._refresh_at = max(
            entry.sent_at + lifetime * REFRESH_FRACTION, now + INITIAL_BINDACK_TIMEOUT
        )
        self._timers.set(_Timer.REFRESH, self._refresh_at)
        self._arm_home_token_timer(now)

    def _arm_home_token_timer(self, now: float) -> None:
        token = self._tests.home_token(now)
        if self._settings.keep_home_token_young and token is not None:
            due_at = token.made_at + HOME_TOKEN_REFRESH_AGE
            self._timers.set(_Timer.HOME_TOKEN, max(due_at, now + INITIAL_BINDACK_TIMEOUT))

    def _on_home_token_timer(self, now: float) -> list[Output]:
        if self._state is not CorrespondentState.BOUND or not self.is_active(now):
            return []
        # Its failure says that the home path is down, which is home registration's matter: the
        # tests that this binding rests on were passed, so the direct path stays.
        self._timers.set(_Timer.HOME_TOKEN, now + HOME_TOKEN_REFRESH_AGE)
        return self._on_tests(self._tests.refresh_home_token(now), now)

    def _on_refresh_timer(self, now: float) -> list[Output]:
        is_wanted = self._state is CorrespondentState.BOUND and self.is_active(now)
        return self._begin(now) if is_wanted else []

    def _on_expiry(self) -> list[Output]:
        """A refresh that is under way goes on without the binding."""
        assert self._entry is not None
        self._entry = replace(self._entry, acknowledged=False)
        if self._state is CorrespondentState.BOUND:
            self._step(_Input.STOP)
        return self._drop_direct_path("binding-expired")

    def _forget_binding(self) -> None:
        self._entry = None
        self._acknowledged_address = None
        self._possibly_bound_until = -math.inf
        self._timers.cancel(_Timer.EXPIRY)

    def _set_direct_path(self, now: float) -> list[Output]:
        care_of = self._care_of
        if (
            care_of is None
            or self._direct == care_of.address
            or self._home_bound_until is None
            or not self._is_bound_to(care_of.address, now)
        ):
            return []
        self._direct = care_of.address
        details = (
            ("correspondent", str(self.correspondent)),
            ("care_of_address", str(care_of.address)),
            ("lifetime", f"{self.remaining(now):g}"),
        )
        return [
            SetDirectPath(
                home_address=self._settings.home_address,
                correspondent=self.correspondent,
                care_of_address=care_of.address,
                interface=care_of.interface,
            ),
            ReportEvent(name="direct-path", details=details),
        ]

    def _drop_direct_path(self, reason: str) -> list[Output]:
        if self._direct is None:
            return []
        self._direct = None
        details = (("correspondent", str(self.correspondent)), ("reason", reason))
        return [
            RemoveDirectPath(
                home_address=self._settings.home_address, correspondent=self.correspondent
            ),
            ReportEvent(name="direct-path-ended", details=details),
        ]

    # State.

    @property
    def _is_busy(self) -> bool:
        """An answer is awaited, or a message waits for its turn."""
        return self._tests.is_running or _Timer.TRANSMIT in self._timers

    def _be_silent(self) -> None:
        self._tests.stop()
        self._reset_back_off()
        self._timers.cancel(_Timer.REFRESH)
        self._timers.cancel(_Timer.HOME_TOKEN)

    def _step(self, given: _Input) -> None:
        self._state = _TRANSITIONS[self._state][given]

    def _drop(self, reason: DropReason) -> list[Output]:
        self.drops[reason] += 1
        return []
