"""Which of several home agents the mobile node registers with (RFC 6275 11.4.1).

    nobody known --discovery--> candidates, in order
         current --refused, or silent for too long--> the next one that was not tried in this round
                  `-- none left --> a round is over: discovery again, and another, slower round

The current home agent stays as long as it answers; the one before it does not win back a mobile
node by coming back. After a restart the one that may hold a binding comes first (11.4.1: MUST).

Silence counts from the first update that waits for its answer, and only while the tunnel brings
nothing in either: an acknowledgement may be lost, a home agent that carries packets lives. No home
agent is left before InitialBindackTimeoutFirstReg has gone by, which is the least `timeout` there
may be; after a movement it has twice that, for then the new link may be what loses the updates.

Each home agent has keys of its own, so of those discovered only the ones that we have keys for are
candidates.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address, IPv6Network
from random import Random

from mnagent.core.actions import PersistRecord, ReportEvent, SendPacket
from mnagent.core.events import PacketReceived
from mnagent.core.timers import Timers, earliest
from mnagent.mobility.constants import (
    INITIAL_BINDACK_TIMEOUT_FIRST_REGISTRATION,
    INITIAL_REFUSED_DELAY,
    MAX_BINDACK_TIMEOUT,
    MAX_REFUSED_DELAY,
)
from mnagent.mobility.home_agent_discovery import (
    DiscoveryOutput,
    HomeAgentDiscovery,
    HomeAgentsFound,
)


class _Timer(enum.Enum):
    SILENCE = enum.auto()
    RETRY = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeAgentSelectionSettings:
    """What is known of the home agents of one home address."""

    home_address: IPv6Address
    home_prefix: IPv6Network
    configured: tuple[IPv6Address, ...] = ()
    """In order of preference; empty to discover them."""
    usable: tuple[IPv6Address, ...]
    """Those that we have keys for, at least one, the configured ones among them."""
    timeout: float = INITIAL_BINDACK_TIMEOUT_FIRST_REGISTRATION
    """Seconds of silence, in the first round, before the next one is tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeAgentChosen:
    """Register with this one now; stays within the mobile node."""

    address: IPv6Address
    reason: str
    """``refused``, ``unanswered``, ``retry`` or ``discovered``."""
    is_first_round: bool
    """Nobody was tried twice since the last acknowledgement."""


SelectionOutput = SendPacket | ReportEvent | PersistRecord | HomeAgentChosen


class HomeAgentSelection:
    """Chooses, and finds out whom there is to choose from."""

    def __init__(
        self,
        settings: HomeAgentSelectionSettings,
        *,
        random: Random,
        persisted_current: str | None = None,
        persisted_list: str | None = None,
    ) -> None:
        """The persisted values are those of this machine's records (`current_key`, `list_key`)."""
        self._settings = settings
        self._discovery = HomeAgentDiscovery(settings.home_prefix, random=random)
        self._timers: Timers[_Timer] = Timers()
        self.discovered = _addresses_of(persisted_list)
        """What the last reply listed, with keys or without."""
        self._candidates = self._in_order(settings.configured, self.discovered)
        self._current = next(iter(self._candidates), None)
        last = _addresses_of(persisted_current)
        if last and last[0] in self._candidates:
            self._current = last[0]
        self._recorded = persisted_current
        self._source: tuple[IPv6Address, int] | None = None
        self._tried: set[IPv6Address] = set()
        self._round_timeout = settings.timeout
        self._is_first_round = True
        self._refused_delay = INITIAL_REFUSED_DELAY
        self._timeout = settings.timeout
        self._heard_at: float | None = None
        self.drops = self._discovery.drops

    @staticmethod
    def current_key(home_address: IPv6Address) -> str:
        """Name of the record of the home agent registered with last."""
        return f"home-agent.{home_address}"

    @staticmethod
    def list_key(home_address: IPv6Address) -> str:
        """Name of the record of the home agents discovered last."""
        return f"home-agents.{home_address}"

    @property
    def current(self) -> IPv6Address | None:
        """The one to register with, None while nobody is known."""
        return self._current

    @property
    def candidates(self) -> tuple[IPv6Address, ...]:
        """Those that can be registered with, in the order in which they are tried."""
        return self._candidates

    @property
    def is_discovering(self) -> bool:
        return self._discovery.is_running

    # What the mobile node tells.

    def away(
        self, care_of_address: IPv6Address, interface: int, now: float
    ) -> list[SelectionOutput]:
        """There is a (new) care-of address; the path over it is not known to work."""
        source = (care_of_address, interface)
        if source != self._source:
            self._source = source
            self._start_over()
            self._timeout = 2 * self._settings.timeout
        if self._current is None or self._discovery.is_running:
            return self._discover(now)
        return []

    def not_away(self) -> None:
        """At home, or nowhere."""
        self._source = None
        self._timers.clear()
        self._discovery.stop()

    def update_sent(self, now: float) -> None:
        """An update waits for its answer."""
        if _Timer.SILENCE not in self._timers and self._has_alternative():
            self._timers.set(_Timer.SILENCE, now + self._timeout)

    def heard(self, now: float) -> None:
        """The tunnel brought something in."""
        self._heard_at = now

    def accepted(self) -> list[PersistRecord]:
        """The current home agent acknowledged."""
        self._start_over()
        self._discovery.stop()
        value = str(self._current)
        if value == self._recorded:
            return []
        self._recorded = value
        return [PersistRecord(key=self.current_key(self._settings.home_address), value=value)]

    def refused(self, now: float, *, bound_elsewhere: IPv6Address | None) -> list[SelectionOutput]:
        """The current home agent will not have us.

        ``bound_elsewhere`` is a home agent that may still hold a binding and defend the home
        address against this one.
        """
        self._timers.cancel(_Timer.SILENCE)
        if self._source is None or not self._has_alternative():
            return []
        chosen = self._next()
        if chosen is not None:
            return [self._choose(chosen, "refused")]
        outputs = self._end_round(now)
        if bound_elsewhere is not None and bound_elsewhere != self._current:
            return [*outputs, self._choose(bound_elsewhere, "refused")]
        self._timers.set(_Timer.RETRY, now + self._refused_delay)
        self._refused_delay = min(self._refused_delay * 2, MAX_REFUSED_DELAY)
        return outputs

    def knows(self, home_agent: IPv6Address) -> bool:
        """Whether we have keys for this home agent."""
        return home_agent in self._settings.usable

    def switch(
        self, sender: IPv6Address, suggested: tuple[IPv6Address, ...], now: float
    ) -> list[SelectionOutput]:
        """A home agent asks us to use another one: in the order it says, those of our home prefix
        first (RFC 5142 6.2). The one that wants to be left becomes the last resort; with nobody
        else to go to it is used until it refuses, which serves the mobile node better than
        deleting the binding at once as RFC 5142 6.1 says.
        """
        wanted = [each for each in self._in_order(suggested) if each != self._current]
        wanted.sort(key=lambda each: each not in self._settings.home_prefix)
        if sender != self._current and sender not in wanted:
            return []
        others = self._in_order(wanted, self._candidates)
        others = tuple(each for each in others if each != self._current)
        if not others:
            return self._discover(now) if self._may_discover() else []
        self._start_over()
        if self._current is not None:
            self._tried.add(self._current)
            self._candidates = (*others, self._current)
        return [self._choose(others[0], "switched")]

    def handle(self, event: PacketReceived, now: float) -> list[SelectionOutput]:
        """A Home Agent Address Discovery Reply."""
        return self._take(self._discovery.handle(event, now), now)

    def handle_timer(self, now: float) -> list[SelectionOutput]:
        outputs = self._take(self._discovery.handle_timer(now), now)
        for timer in self._timers.due(now):
            if timer is _Timer.SILENCE:
                outputs += self._on_silence(now)
            else:
                outputs.append(self._choose(self._candidates[0], "retry"))
        return outputs

    def next_deadline(self) -> float | None:
        return earliest(self._timers.next_deadline(), self._discovery.next_deadline())

    # Rounds.

    def _start_over(self) -> None:
        self._timers.clear()
        self._tried.clear()
        self._is_first_round = True
        self._round_timeout = self._timeout = self._settings.timeout
        self._refused_delay = INITIAL_REFUSED_DELAY

    def _has_alternative(self) -> bool:
        return len(self._candidates) > 1 or self._may_discover()

    def _may_discover(self) -> bool:
        """Whether it could bring up a home agent that is not a candidate, or another order."""
        return not self._settings.configured or not set(self._settings.usable) <= set(
            self._candidates
        )

    def _on_silence(self, now: float) -> list[SelectionOutput]:
        if self._heard_at is not None and now < self._heard_at + self._timeout:
            # Something came in while we waited: give it as long again from then.
            self._timers.set(_Timer.SILENCE, self._heard_at + self._timeout)
            return []
        chosen = self._next()
        if chosen is not None:
            return [self._choose(chosen, "unanswered")]
        outputs = self._end_round(now)
        return [*outputs, self._choose(self._candidates[0], "unanswered")]

    def _next(self) -> IPv6Address | None:
        assert self._current is not None  # it was sent an update
        self._tried.add(self._current)
        return next((each for each in self._candidates if each not in self._tried), None)

    def _end_round(self, now: float) -> list[SelectionOutput]:
        self._tried.clear()
        self._is_first_round = False
        self._round_timeout = min(self._round_timeout * 2, MAX_BINDACK_TIMEOUT)
        return self._discover(now) if self._may_discover() else []

    def _choose(self, address: IPv6Address, reason: str) -> HomeAgentChosen:
        self._current = address
        self._timeout = self._round_timeout
        self._timers.cancel(_Timer.SILENCE)
        self._timers.cancel(_Timer.RETRY)
        self._heard_at = None
        return HomeAgentChosen(address=address, reason=reason, is_first_round=self._is_first_round)

    # Discovery.

    def _discover(self, now: float) -> list[SelectionOutput]:
        if self._source is None:
            return []
        return self._take(self._discovery.start(*self._source, now), now)

    def _take(self, outputs: list[DiscoveryOutput], now: float) -> list[SelectionOutput]:
        taken: list[SelectionOutput] = []
        for output in outputs:
            if isinstance(output, HomeAgentsFound):
                taken += self._on_found(output.addresses, now)
            else:
                taken.append(output)
        return taken

    def _on_found(self, addresses: tuple[IPv6Address, ...], now: float) -> list[SelectionOutput]:
        outputs: list[SelectionOutput] = []
        if addresses:
            self.discovered = addresses
            listed = " ".join(str(address) for address in addresses)
            key = self.list_key(self._settings.home_address)
            outputs.append(PersistRecord(key=key, value=listed))
            if not set(addresses) & set(self._settings.usable):
                details = (("home_agents", listed),)
                outputs.append(
                    ReportEvent(name="home-agents-without-keys", details=details, warning=True)
                )
        found = self._in_order(addresses, self._settings.configured)
        # Where discovery is not answered, those that we have keys for are worth trying.
        self._candidates = found or self._settings.usable
        self._tried.clear()
        if self._current is not None and not addresses:
            return outputs
        return [*outputs, self._choose(self._candidates[0], "discovered")]

    def _in_order(self, *lists: Iterable[IPv6Address]) -> tuple[IPv6Address, ...]:
        """Those with keys, each once."""
        usable = set(self._settings.usable)
        return tuple(
            dict.fromkeys(address for each in lists for address in each if address in usable)
        )


def _addresses_of(record: str | None) -> tuple[IPv6Address, ...]:
    """Of a record; one that cannot be read counts as none."""
    try:
        return tuple(IPv6Address(text) for text in (record or "").split())
    except AddressValueError:
        return ()
