"""Runs one machine in virtual time and keeps what it puts out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from ipaddress import IPv6Address, IPv6Network
from random import Random
from typing import Any, Protocol, TypeVar

from mnagent.core.actions import Action
from mnagent.core.events import LinkUp
from mnagent.core.indications import AddressUsable, Output, RouterFound
from mnagent.mobility.home_registration import (
    CareOf,
    HomeRegistration,
    HomeRegistrationSettings,
)
from mnagent.mobility.mobile_node import MobileNode, MobileNodeSettings
from mnagent.wire.mobility import BindingUpdate
from tests.support.matching import of_type, sent
from tests.support.packets import binding_acknowledgement, received

HOME_ADDRESS = IPv6Address("2001:db8:1::10")
HOME_AGENT = IPv6Address("2001:db8:1::1")
CARE_OF_A = IPv6Address("2001:db8:a::10")
CARE_OF_B = IPv6Address("2001:db8:b::10")
ROUTER = IPv6Address("fe80::1")
OWN_MAC = bytes.fromhex("020000000010")
INTERFACE = 2

Kind = TypeVar("Kind")


class Machine(Protocol):
    """What every machine has."""

    def handle_timer(self, now: float) -> Sequence[Output]: ...

    def next_deadline(self) -> float | None: ...


class Driver:
    """A machine, its clock and its outputs."""

    def __init__(self, machine: Machine, *, now: float = 1000.0) -> None:
        self.machine = machine
        self.now = now
        self.log: list[tuple[float, Output]] = []

    def note(self, outputs: Sequence[Output]) -> list[Output]:
        """Keep what the machine put out just now."""
        self.log += [(self.now, output) for output in outputs]
        return list(outputs)

    def advance(self, duration: float) -> list[Output]:
        """Let time pass, each deadline at its instant; what came out meanwhile."""
        end = self.now + duration
        outputs: list[Output] = []
        while (deadline := self.machine.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            outputs += self.note(self.machine.handle_timer(self.now))
        self.now = end
        return outputs

    def times_of(self, kind: type[object]) -> list[float]:
        """When packets with such a payload were sent."""
        return [at for at, output in self.log if sent([output], kind)]

    def all(self, kind: type[Kind]) -> list[Kind]:
        """Every output of a type."""
        return of_type([output for _, output in self.log], kind)

    def updates(self) -> list[BindingUpdate]:
        """Every Binding Update sent."""
        return [message for _, message in sent([o for _, o in self.log], BindingUpdate)]


class RegistrationDriver(Driver):
    """A home registration and the home agent's answers."""

    registration: HomeRegistration

    def __init__(
        self,
        *,
        persisted_sequence: str | None = None,
        persisted_binding: str | None = None,
        **settings: Any,
    ) -> None:
        self.registration = HomeRegistration(
            HomeRegistrationSettings(
                home_address=HOME_ADDRESS, home_agent_address=HOME_AGENT, **settings
            ),
            random=Random(1),
            persisted_sequence=persisted_sequence,
            persisted_binding=persisted_binding,
        )
        super().__init__(self.registration)

    def register(
        self,
        address: IPv6Address = CARE_OF_A,
        *,
        valid_for: float = math.inf,
        compatible: bool = False,
    ) -> list[Output]:
        """Ask for a registration."""
        care_of = CareOf(
            address=address,
            interface=INTERFACE,
            valid_until=self.now + valid_for,
            link_local_compatibility=compatible,
        )
        return self.note(self.registration.register(care_of, self.now))

    def acknowledge(self, **fields: Any) -> list[Output]:
        """The home agent answers the newest update, away or at home as it was sent."""
        entry = self.registration.entry
        assert entry is not None
        is_home = entry.care_of_address == HOME_ADDRESS
        values: dict[str, Any] = {
            "sequence": entry.sequence,
            "lifetime": entry.lifetime,
            "care_of_address": None if is_home else entry.care_of_address,
        }
        values.update(fields)
        packet = binding_acknowledgement(HOME_AGENT, HOME_ADDRESS, **values)
        return self.note(self.registration.handle(received(packet), self.now))

    def establish(self, address: IPv6Address = CARE_OF_A, **fields: Any) -> None:
        """Register and have it accepted."""
        self.register(address)
        self.acknowledge(**fields)


class MobileNodeDriver(Driver):
    """A mobile node without autoconfiguration: the test says what that would."""

    node: MobileNode

    def __init__(
        self,
        *,
        persisted_sequence: str | None = None,
        persisted_binding: str | None = None,
        **settings: Any,
    ) -> None:
        self.node = MobileNode(
            MobileNodeSettings(
                home_address=HOME_ADDRESS, home_agent_address=HOME_AGENT, **settings
            ),
            random=Random(1),
            persisted_sequence=persisted_sequence,
            persisted_binding=persisted_binding,
        )
        super().__init__(self.node)

    def tell(self, event: Any) -> list[Output]:
        """Hand an event in."""
        return self.note(self.node.handle(event, self.now))

    def link_up(self, interface: int = INTERFACE, name: str = "eth0") -> list[Output]:
        """An interface came up."""
        return self.tell(LinkUp(interface=interface, name=name, link_layer_address=OWN_MAC))

    def visit(
        self, address: IPv6Address = CARE_OF_A, *, interface: int = INTERFACE
    ) -> list[Output]:
        """A router of a foreign link, and an address there."""
        outputs = self.tell(router_found(address, interface=interface))
        usable = AddressUsable(interface=interface, address=address, prefix_length=64)
        return outputs + self.tell(usable)

    def come_home(self, **fields: Any) -> list[Output]:
        """The home agent's router advertisement."""
        return self.tell(router_found(HOME_ADDRESS, **fields))

    def acknowledge(self, **fields: Any) -> list[Output]:
        """The home agent answers the newest update."""
        entry = self.node.registration.entry
        assert entry is not None
        is_home = entry.care_of_address == HOME_ADDRESS
        values: dict[str, Any] = {
            "sequence": entry.sequence,
            "lifetime": entry.lifetime,
            "care_of_address": None if is_home else entry.care_of_address,
        }
        values.update(fields)
        return self.tell(received(binding_acknowledgement(HOME_AGENT, HOME_ADDRESS, **values)))

    def actions(self) -> list[Action]:
        """Everything put out so far."""
        return [output for _, output in self.log]  # type: ignore[misc]


def router_found(address: IPv6Address, **fields: Any) -> RouterFound:
    """A router that advertises the /64 of an address."""
    values: dict[str, Any] = {
        "interface": INTERFACE,
        "router": ROUTER,
        "prefixes": (IPv6Network((address, 64), strict=False),),
    }
    values.update(fields)
    return RouterFound(**values)
