"""Bindings with home agents that another one has taken over from.

A home agent that fell silent may come back with the binding it had, and would intercept the home
address beside the one that serves it now. So the old binding is deleted there, with the back-off of
any other Binding Update, for as long as it can live; nothing else waits for that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from ipaddress import IPv6Address

from mnagent.core.actions import PersistRecord, ReportEvent, SendPacket
from mnagent.core.drops import DropReason
from mnagent.core.events import PacketReceived
from mnagent.core.indications import BindingDeleted, Output
from mnagent.core.timers import earliest
from mnagent.mobility.home_registration import CareOf, HomePath, HomeRegistration


class FormerRegistrations:
    """Those of one home address, by home agent."""

    def __init__(self, home_address: IPv6Address) -> None:
        self._sequence_key = HomeRegistration.sequence_key(home_address)
        self._registrations: dict[IPv6Address, HomeRegistration] = {}
        self._ended_drops: Counter[DropReason] = Counter()

    @property
    def drops(self) -> Counter[DropReason]:
        """Of all that were left, also those that are over."""
        return sum((each.drops for each in self._registrations.values()), self._ended_drops)

    def __contains__(self, home_agent: IPv6Address) -> bool:
        return home_agent in self._registrations

    def add(self, registration: HomeRegistration, now: float) -> None:
        """Its home agent is left; without a binding there is nothing to remember."""
        registration.suspend()
        if registration.may_be_bound(now):
            self._registrations[registration.home_agent_address] = registration
        else:
            self._ended_drops += registration.drops

    def take(self, home_agent: IPv6Address) -> HomeRegistration | None:
        """It is registered with again."""
        registration = self._registrations.pop(home_agent, None)
        if registration is not None:
            registration.suspend()
        return registration

    def bound(self, now: float) -> IPv6Address | None:
        """The home agent left last that may still hold a binding."""
        bound = [
            address
            for address, registration in self._registrations.items()
            if registration.may_be_bound(now)
        ]
        return bound[-1] if bound else None

    def release(self, care_of: CareOf, now: float) -> list[Output]:
        """Another home agent has accepted: delete these bindings from where we are."""
        return self._of_each(lambda registration: registration.release(care_of, now))

    def release_at_home(self, interface: int, now: float) -> list[Output]:
        """The node is home: delete these bindings from there."""
        path = HomePath(interface=interface)
        return self._of_each(lambda registration: registration.deregister_at_home(path, now))

    def suspend(self) -> None:
        """There is nowhere to send from now."""
        for registration in self._registrations.values():
            registration.suspend()

    def handle(self, event: PacketReceived, now: float) -> list[Output]:
        """A message of one of these home agents."""
        home_agent = event.packet.source
        registration = self._registrations[home_agent]
        return self._settle(home_agent, registration.handle(event, now))

    def handle_timer(self, now: float) -> list[Output]:
        outputs = self._of_each(lambda registration: registration.handle_timer(now))
        for home_agent, registration in list(self._registrations.items()):
            if not registration.may_be_bound(now):
                self._end(home_agent)
        return outputs

    def next_deadline(self) -> float | None:
        return earliest(*(each.next_deadline() for each in self._registrations.values()))

    def _end(self, home_agent: IPv6Address) -> None:
        self._ended_drops += self._registrations.pop(home_agent).drops

    def _of_each(self, ask: Callable[[HomeRegistration], list[Output]]) -> list[Output]:
        return [
            output
            for home_agent, registration in list(self._registrations.items())
            for output in self._settle(home_agent, ask(registration))
        ]

    def _settle(self, home_agent: IPv6Address, outputs: list[Output]) -> list[Output]:
        """What is sent, and the numbers it took. What people are told, and what is kept of the
        binding, is the present registration's."""
        settled: list[Output] = []
        for output in outputs:
            if isinstance(output, BindingDeleted):
                self._end(home_agent)
                details = (("home_agent", str(home_agent)), ("answered", str(output.answered)))
                settled.append(ReportEvent(name="former-binding-ended", details=details))
            elif isinstance(output, SendPacket) or (
                isinstance(output, PersistRecord) and output.key == self._sequence_key
            ):
                settled.append(output)
        return settled
