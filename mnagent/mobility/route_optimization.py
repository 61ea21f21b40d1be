"""Route optimization: which correspondents are talked to directly, and when (RFC 6275 11.7.2, 8.5).

Theory of operation. Traffic with a peer, in either direction, starts a correspondent registration
if the policy allows it. The table holds at most MAX_CORRESPONDENTS: a newcomer takes the place of
the peer that was quiet longest among those that surely hold no binding; when there is none, it
stays in the tunnel. Starts are paced, so that neither a handover with a full table nor a flood of
forged sources makes a burst of messages.

                update sent to the home agent        home link in use
    nowhere ------------------------------> away  ------------------> home
       ^                                      |                        |
       `------ no link, or returning home ----+------------------------'

On a new care-of address every direct path ends at once, and every peer that has traffic, or that
may be sending to an address we left, is registered anew, all in parallel: the tests leave together
with the home agent's update, the updates after its acknowledgement. On the home link every peer
that may hold a binding is asked to delete it.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, IPv6Network
from random import Random
from types import MappingProxyType
from typing import Final

from mnagent.core.actions import SetDirectPath
from mnagent.core.drops import DropReason
from mnagent.core.events import ActionFailed, PacketReceived, TrafficSeen
from mnagent.core.indications import Output
from mnagent.core.timers import earliest
from mnagent.mobility import correspondent_record
from mnagent.mobility.addresses import is_routable_unicast
from mnagent.mobility.binding_error import TokenBucket
from mnagent.mobility.constants import SEQUENCE_MODULUS
from mnagent.mobility.correspondent_registration import (
    CorrespondentRegistration,
    CorrespondentRegistrationSettings,
    CorrespondentState,
)
from mnagent.mobility.home_registration import CareOf
from mnagent.mobility.sequence import SharedSequence
from mnagent.wire.icmp6 import ParameterProblem

MAX_CORRESPONDENTS: Final = 256
"""Peers in the table. One without a possible binding is evicted for a new one, the quietest
first."""
MAX_REFUSED_PEERS: Final = 64
"""Peers remembered with the reason why they are not optimized; the oldest goes."""
START_RATE: Final = 100.0
"""Registrations started a second, in the long run."""
START_BURST: Final = 64.0
_NOBODY: Final[Mapping[IPv6Address, float]] = MappingProxyType({})
"""Registrations started at once after a quiet time."""


class RouteOptimizationMode(enum.Enum):
    """When a correspondent is talked to directly."""

    ALWAYS = "always"
    """From the first packet on, whoever sent it, and kept without traffic; a single address even
    without any."""
    NEVER = "never"
    """All its packets go through the home agent."""
    ON_TRAFFIC = "on-traffic"
    """From our own first packet on, while there is traffic. A peer that only sends does not count:
    anybody can forge that, and would make us send tests to whom it names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteOptimizationRule:
    """What holds for some peers; the first rule that matches decides."""

    prefix: IPv6Network
    """Of the peer's address; its home address if it is mobile itself."""
    mode: RouteOptimizationMode
    ports: tuple[tuple[int, int], ...] = ()
    """First and last of each range of ports at the peer, empty for all traffic. A path is a peer's,
    not a port's: ``never`` for a port brings all of the peer's packets back into the tunnel, from
    the report of such traffic until it has ceased for an idle timeout. To be sure from the first
    packet, forbid the whole prefix."""

    def matches(self, peer: IPv6Address, port: int | None) -> bool:
        """Whether the rule is about this peer and port; None is a protocol without ports."""
        if peer not in self.prefix:
            return False
        if not self.ports:
            return True
        return port is not None and any(first <= port <= last for first, last in self.ports)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteOptimizationPolicy:
    """What an administrator decides (RFC 6275 8.5: on by default, can be off)."""

    default: RouteOptimizationMode = RouteOptimizationMode.ON_TRAFFIC
    rules: tuple[RouteOptimizationRule, ...] = ()

    def mode_of(self, peer: IPv6Address, port: int | None = None) -> RouteOptimizationMode:
        """The mode for a packet of this peer."""
        for rule in self.rules:
            if rule.matches(peer, port):
                return rule.mode
        return self.default

    @property
    def permanent_peers(self) -> tuple[IPv6Address, ...]:
        """Single addresses that are optimized without being asked."""
        return tuple(
            rule.prefix.network_address
            for rule in self.rules
            if rule.mode is RouteOptimizationMode.ALWAYS
            and rule.prefix.num_addresses == 1
            and not rule.ports
        )


class _Place(enum.Enum):
    NOWHERE = enum.auto()
    AWAY = enum.auto()
    HOME = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrespondentStatus:
    """One peer, for people. Spans are seconds; tokens are told by age, never by value."""

    correspondent: IPv6Address
    state: str
    is_direct: bool
    care_of_address: IPv6Address | None
    """Of the direct path."""
    lifetime_remaining: float
    home_token_age: float | None
    care_of_token_age: float | None
    reason: str | None
    """Why the tunnel is used, None on the direct path."""


class RouteOptimization:
    """All correspondents of one home address."""

    def __init__(
        self,
        settings: CorrespondentRegistrationSettings,
        policy: RouteOptimizationPolicy,
        *,
        random: Random,
        told: Mapping[IPv6Address, float] = _NOBODY,
    ) -> None:
        """``told``: correspondents that an earlier run told a care-of address, and until when each
        may hold a binding."""
        self._settings = settings
        self._policy = policy
        self._random = random
        self._sequence = SharedSequence(random.randrange(SEQUENCE_MODULUS))
        self._place = _Place.NOWHERE
        self._care_of: CareOf | None = None
        self._home_bound_until: float | None = None
        self._registrations: dict[IPv6Address, CorrespondentRegistration] = {}
        self._refused: dict[IPv6Address, str] = {}
        self._forbidden_until: dict[IPv6Address, float] = {}
        self._starts = TokenBucket(rate=START_RATE, burst=START_BURST)
        self._waiting: dict[IPv6Address, None] = {}
        self._waits_until: float | None = None
        self._drops: Counter[DropReason] = Counter()
        self._told = dict(told)
        self._forgotten: list[Output] = []
        """Records of those that had to make room."""

    @property
    def drops(self) -> Counter[DropReason]:
        """What was not acted on, here and in every registration so far."""
        total = Counter(self._drops)
        for registration in self._registrations.values():
            total.update(registration.drops)
        return total

    @property
    def registrations(self) -> tuple[CorrespondentRegistration, ...]:
        """In the order in which traffic with the peers was first seen."""
        return tuple(self._registrations.values())

    # Where the mobile node is.

    def move(self, care_of: CareOf, now: float) -> list[Output]:
        """A care-of address was sent to the home agent; its acknowledgement is still to come."""
        if self._care_of is not None and self._care_of.address == care_of.address:
            self._care_of = care_of
            for registration in self._registrations.values():
                registration.update_care_of(care_of)
            return []
        outputs = self._leave()
        self._place, self._care_of = _Place.AWAY, care_of
        for peer in self._policy.permanent_peers:
            self._admit(peer, now, is_permanent=True)
        return outputs + self._settle_all(now)

    def home_registered(
        self, care_of_address: IPv6Address, until: float, now: float
    ) -> list[Output]:
        """The home agent tunnels to this address until then: updates may leave (MN-54)."""
        if self._care_of is None or self._care_of.address != care_of_address:
            return []
        self._home_bound_until = until
        outputs: list[Output] = []
        for registration in self._by_recency():
            outputs += registration.home_registered(until, now)
        return outputs

    def change_home_agent(self, home_agent_address: IPv6Address) -> None:
        """The home address is registered with another home agent; direct paths stay."""
        self._settings = replace(self._settings, home_agent_address=home_agent_address)
        for registration in self._registrations.values():
            registration.change_home_agent(home_agent_address)

    def home_lost(self) -> None:
        """The home agent's binding ended or was refused: no updates until there is one again."""
        self._home_bound_until = None
        for registration in self._registrations.values():
            registration.home_lost()

    def suspend(self) -> list[Output]:
        """There is no care-of address, or the home link is being taken back: no direct path."""
        return self._leave()

    def return_home(self, now: float) -> list[Output]:
        """The home address is in use on the home link: delete what bindings there are (RR-10)."""
        if self._place is _Place.HOME:
            return []
        outputs = self._leave()
        self._place = _Place.HOME
        return outputs + self._settle_all(now)

    def shut_down(self, now: float) -> list[Output]:
        """The node stops: one deregistration each where a young home token allows it."""
        outputs: list[Output] = []
        for registration in self._by_recency():
            if self._place is _Place.AWAY:
                outputs += registration.say_goodbye(now)
            else:
                outputs += registration.leave()
        self._place, self._care_of, self._home_bound_until = _Place.NOWHERE, None, None
        self._registrations.clear()
        self._stop_waiting()
        return outputs

    def change_policy(self, policy: RouteOptimizationPolicy, now: float) -> list[Output]:
        """From now on this one counts, for direct paths that there are as well."""
        self._policy = policy
        self._forbidden_until.clear()
        if self._place is not _Place.AWAY:
            return []
        outputs: list[Output] = []
        for registration in self._by_recency():
            if policy.mode_of(registration.correspondent) is RouteOptimizationMode.NEVER:
                outputs += self._withdraw(registration, now)
        for peer in policy.permanent_peers:
            self._admit(peer, now, is_permanent=True)
        return outputs + self._settle_all(now)

    # Events.

    def handle(self, event: PacketReceived | TrafficSeen, now: float) -> list[Output]:
        """Traffic, or a mobility message from anybody but the home agent."""
        if isinstance(event, TrafficSeen):
            return self._on_traffic(event, now)
        registration = self._registrations.get(event.packet.logical_source)
        if registration is None:
            return self._drop(DropReason.UNKNOWN_PEER)
        return [*registration.handle(event, now), *self._settle(registration, now)]

    def handle_parameter_problem(self, problem: ParameterProblem, now: float) -> list[Output]:
        """An ICMPv6 Parameter Problem that quotes a packet; it never makes an entry (MN-42)."""
        quoted = problem.invoking[24:40]
        peer = IPv6Address(quoted) if len(quoted) == 16 else None
        registration = None if peer is None else self._registrations.get(peer)
        if registration is None:
            return self._drop(DropReason.UNKNOWN_PEER)
        outputs = registration.handle_parameter_problem(problem, now)
        return outputs + self._settle(registration, now)

    def peer_moved(self, peer: IPv6Address, now: float) -> list[Output]:
        """A correspondent that is mobile itself is somewhere else now (RFC 6275 5.2.9)."""
        registration = self._registrations.get(peer)
        return [] if registration is None else registration.peer_moved(now)

    def handle_failure(self, event: ActionFailed, now: float) -> list[Output]:
        """The host could not do something; without its direct path a peer is left to the tunnel."""
        action = event.action
        if not isinstance(action, SetDirectPath):
            return []
        registration = self._registrations.get(action.correspondent)
        return [] if registration is None else registration.direct_path_failed(action, now)

    def handle_timer(self, now: float) -> list[Output]:
        """Whatever is due."""
        outputs: list[Output] = []
        for registration in self.registrations:
            deadline = registration.next_deadline()
            if deadline is not None and deadline <= now:
                outputs += registration.handle_timer(now)
                outputs += self._settle(registration, now)
        if self._waits_until is not None and self._waits_until <= now:
            outputs += self._start_waiting(now)
        return outputs

    def next_deadline(self) -> float | None:
        deadlines = (registration.next_deadline() for registration in self.registrations)
        return earliest(self._waits_until, *deadlines)

    # For people.

    def status(self, now: float) -> tuple[CorrespondentStatus, ...]:
        """Every peer in the table, and those kept out of it with the reason."""
        known = [self._status(registration, now) for registration in self.registrations]
        refused = [
            CorrespondentStatus(
                correspondent=peer,
                state="not-optimized",
                is_direct=False,
                care_of_address=None,
                lifetime_remaining=0.0,
                home_token_age=None,
                care_of_token_age=None,
                reason=reason,
            )
            for peer, reason in self._refused.items()
            if peer not in self._registrations
        ]
        return (*known, *refused)

    def _status(self, registration: CorrespondentRegistration, now: float) -> CorrespondentStatus:
        home, care_of = registration.tokens(now)
        is_direct = registration.direct_address is not None
        return CorrespondentStatus(
            correspondent=registration.correspondent,
            state=registration.state.value,
            is_direct=is_direct,
            care_of_address=registration.direct_address,
            lifetime_remaining=registration.remaining(now),
            home_token_age=None if home is None else home.age(now),
            care_of_token_age=None if care_of is None else care_of.age(now),
            reason=None if is_direct else self._reason(registration),
        )

    def _reason(self, registration: CorrespondentRegistration) -> str:
        if registration.is_withdrawn:
            return "policy"
        if registration.state is CorrespondentState.SUSPENDED:
            return registration.suspension_reason or "suspended"
        if self._place is _Place.HOME:
            return "at-home"
        if self._place is _Place.NOWHERE:
            return "no-care-of-address"
        return "in-progress"

    # Traffic and policy.

    def _on_traffic(self, event: TrafficSeen, now: float) -> list[Output]:
        peer = event.peer
        if event.local != self._settings.home_address or self._place is not _Place.AWAY:
            return []
        mode = self._mode_of(event, now)
        registration = self._registrations.get(peer)
        if mode is RouteOptimizationMode.NEVER:
            self._refuse(peer, "policy")
            return [] if registration is None else self._withdraw(registration, now)
        if registration is None:
            is_permanent = mode is RouteOptimizationMode.ALWAYS
            if not (is_permanent or event.packets_out):
                return []
            registration = self._admit(peer, now, is_permanent=is_permanent)
            if registration is None:
                self._refuse(peer, "table-full")
                return []
        registration.is_withdrawn = False
        outputs = self._take_forgotten() + registration.note_traffic(event, now)
        return outputs + self._settle(registration, now)

    def _mode_of(self, event: TrafficSeen, now: float) -> RouteOptimizationMode:
        peer = event.peer
        own = (self._settings.home_address, self._settings.home_agent_address)
        if peer in own or not is_routable_unicast(peer):
            return RouteOptimizationMode.NEVER
        mode = self._policy.mode_of(peer, event.destination_port)
        if mode is RouteOptimizationMode.NEVER:
            self._forbid(peer, now)
            return mode
        if now < self._forbidden_until.get(peer, -math.inf):
            return RouteOptimizationMode.NEVER
        self._forbidden_until.pop(peer, None)
        return mode

    def _forbid(self, peer: IPv6Address, now: float) -> None:
        """Another port of the same peer does not undo what this one demanded."""
        self._forbidden_until.pop(peer, None)
        while len(self._forbidden_until) >= MAX_CORRESPONDENTS:
            del self._forbidden_until[next(iter(self._forbidden_until))]
        self._forbidden_until[peer] = now + self._settings.idle_timeout

    def _withdraw(self, registration: CorrespondentRegistration, now: float) -> list[Output]:
        if registration.is_withdrawn:
            return []
        registration.is_withdrawn = True
        outputs = registration.leave()
        return outputs + self._settle(registration, now)

    def _refuse(self, peer: IPv6Address, reason: str) -> None:
        self._refused.pop(peer, None)
        while len(self._refused) >= MAX_REFUSED_PEERS:
            del self._refused[next(iter(self._refused))]
        self._refused[peer] = reason

    # The table.

    def _admit(
        self, peer: IPv6Address, now: float, *, is_permanent: bool
    ) -> CorrespondentRegistration | None:
        """The peer's registration, made if there is room; None otherwise."""
        known = self._registrations.get(peer)
        if known is not None:
            return known
        if len(self._registrations) >= MAX_CORRESPONDENTS and not self._evict(now):
            return None
        self._refused.pop(peer, None)
        registration = CorrespondentRegistration(
            self._settings,
            peer,
            random=self._random,
            sequence=self._sequence,
            is_permanent=is_permanent,
        )
        self._registrations[peer] = registration
        return registration

    def _evict(self, now: float) -> bool:
        """A peer that may hold a binding stays: it would go on sending to an address we left."""
        victims = [r for r in self._registrations.values() if not r.may_be_bound(now)]
        if not victims:
            return False
        self._remove(min(victims, key=lambda r: (r.is_permanent, _quiet_since(r))))
        return True

    def _remove(self, registration: CorrespondentRegistration) -> None:
        del self._registrations[registration.correspondent]
        self._waiting.pop(registration.correspondent, None)
        self._drops.update(registration.drops)
        self._forgotten += registration.forget_record()

    def _take_forgotten(self) -> list[Output]:
        forgotten, self._forgotten = self._forgotten, []
        return forgotten

    def _by_recency(self) -> list[CorrespondentRegistration]:
        return sorted(self._registrations.values(), key=_quiet_since, reverse=True)

    # What to do about each.

    def _leave(self) -> list[Output]:
        self._place, self._care_of, self._home_bound_until = _Place.NOWHERE, None, None
        self._stop_waiting()
        outputs: list[Output] = []
        for registration in self._registrations.values():
            outputs += registration.leave()
        return outputs

    def _restore(self, now: float) -> list[Output]:
        """Take up those that may be bound since an earlier run."""
        told, self._told = self._told, {}
        outputs: list[Output] = []
        for peer, until in told.items():
            registration = self._admit(peer, now, is_permanent=False) if until > now else None
            if registration is None:
                outputs.append(correspondent_record.forgotten(self._settings.home_address, peer))
                continue
            registration.restore(until)
            mode = self._policy.mode_of(peer)
            registration.is_withdrawn = mode is RouteOptimizationMode.NEVER
        return outputs

    def _settle_all(self, now: float) -> list[Output]:
        outputs = self._restore(now)
        for registration in self._by_recency():
            outputs += self._settle(registration, now)
        return outputs

    def _settle(self, registration: CorrespondentRegistration, now: float) -> list[Output]:
        """Give an idle registration its next task, or let it go."""
        is_idle = registration.state is CorrespondentState.IDLE
        if not is_idle or registration.correspondent in self._waiting:
            return []
        if self._place is _Place.NOWHERE:
            return []
        if not self._has_task(registration, now):
            self._remove(registration)
            return self._take_forgotten()
        if not self._waiting and self._starts.take(now):
            return self._start(registration, now)
        self._waiting[registration.correspondent] = None
        if self._waits_until is None:
            self._waits_until = now + 1.0 / START_RATE
        return []

    def _has_task(self, registration: CorrespondentRegistration, now: float) -> bool:
        if self._place is _Place.HOME or registration.is_withdrawn:
            return registration.may_be_bound(now)
        assert self._care_of is not None
        must_be_told = registration.must_be_told(self._care_of.address, now)
        return must_be_told or registration.is_active(now)

    def _start(self, registration: CorrespondentRegistration, now: float) -> list[Output]:
        until = self._home_bound_until
        if self._care_of is None or registration.is_withdrawn:
            return registration.deregister(self._care_of, now, home_bound_until=until)
        return registration.start(self._care_of, now, home_bound_until=until)

    def _start_waiting(self, now: float) -> list[Output]:
        outputs: list[Output] = []
        while self._waiting and self._starts.take(now):
            peer = next(iter(self._waiting))
            del self._waiting[peer]
            outputs += self._start(self._registrations[peer], now)
        self._waits_until = now + 1.0 / START_RATE if self._waiting else None
        return outputs

    def _stop_waiting(self) -> None:
        self._waiting.clear()
        self._waits_until = None

    def _drop(self, reason: DropReason) -> list[Output]:
        self._drops[reason] += 1
        return []


def _quiet_since(registration: CorrespondentRegistration) -> float:
    last = registration.last_traffic_at
    return -math.inf if last is None else last
