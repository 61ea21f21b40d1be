"""The agent: one role, the packet checks before it and the security policy after it.

    event -> Dispatcher (DatagramReceived only) -> Role -> security policy -> actions

Nothing in here knows of sockets, files or clocks. Every method is called by one thread.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from typing import Any

from mnagent.agent.dispatch import Dispatcher
from mnagent.agent.handovers import HandoverLog
from mnagent.agent.reconfiguration import Reconfiguration
from mnagent.agent.roles import (
    CorrespondentRole,
    HomeAgentRole,
    MobileNodeRole,
    correspondent_snapshot,
)
from mnagent.agent.snapshot import AgentSnapshot, BindingPage, InterfaceSnapshot
from mnagent.core.actions import (
    Action,
    RemoveHomeAddress,
    RemoveTunnel,
    ReportEvent,
    SendPacket,
    SetHomeAddress,
    SetTunnel,
    TunnelEnd,
)
from mnagent.core.drops import DropReason
from mnagent.core.events import (
    ActionFailed,
    AddressAppeared,
    AddressVanished,
    AssociationChanged,
    DatagramReceived,
    Event,
    LinkDown,
    LinkUp,
    PacketReceived,
    TrafficSeen,
    TunnelActivity,
)
from mnagent.ipsec.policy import SecurityPolicyDatabase
from mnagent.wire.ndisc import RouterAdvertisement, RouterSolicitation

MAX_DOWN = 16
"""Interfaces without a link that are remembered: they may be gone for good."""


@dataclass(slots=True)
class _Interface:
    name: str
    link_layer_address: bytes
    is_up: bool = True


class Agent:
    """A mobile node, a home agent or a correspondent, told the time."""

    def __init__(
        self,
        role: MobileNodeRole | HomeAgentRole | CorrespondentRole,
        *,
        policies: SecurityPolicyDatabase,
        dispatcher: Dispatcher,
        first_actions: tuple[Action, ...] = (),
    ) -> None:
        """``first_actions`` come out with the first event's."""
        self.role = role
        self._policies = policies
        self._dispatcher = dispatcher
        self._first_actions = first_actions
        self._interfaces: dict[int, _Interface] = {}
        self._addresses: dict[int, dict[str, str]] = {}
        self._handovers = HandoverLog()
        self._counts: Counter[str] = Counter()

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take in what happened at ``now`` (seconds); return what is to be done, in order."""
        actions = [*self._first_actions]
        self._first_actions = ()
        if isinstance(event, DatagramReceived):
            self._counts["packets-received"] += 1
            received, answers = self._dispatcher.receive(event, now)
            actions += answers
            actions += [] if received is None else self._deliver(received, now)
            return self._finish(actions, now)
        if isinstance(event, PacketReceived):
            admitted, answers = self._dispatcher.admit(event, now)
            actions += answers
            actions += [] if admitted is None else self._deliver(admitted, now)
            return self._finish(actions, now)
        actions += self._observe(event, now)
        if isinstance(event, AssociationChanged):
            return self._finish(actions, now)
        return self._finish([*actions, *self.role.handle(event, now)], now)

    def handle_timer(self, now: float) -> list[Action]:
        """Do what is due at ``now``."""
        return self._finish(self.role.handle_timer(now), now)

    def next_deadline(self) -> float | None:
        """When `handle_timer` wants to be called, or None."""
        return self.role.next_deadline()

    def reconfigure(self, change: Reconfiguration, now: float) -> list[Action]:
        """Take up a change that has been checked; the role stays.

        What ends is said with the old keys, what begins with the new ones: both have to be there
        while the actions are carried out.
        """
        role = self.role
        if isinstance(role, HomeAgentRole) and change.home_agent is not None:
            gone = role.withdraw_unserved(change.home_agent, now)
            actions = self._finish(gone, now)
            self._policies.replace_with(change.policies)
            outputs = role.reconfigure(change.home_agent, rekeyed=change.rekeyed, now=now)
            return actions + self._finish(outputs, now)
        self._policies.replace_with(change.policies)
        if isinstance(role, MobileNodeRole) and change.mobile_node is not None:
            outputs = role.reconfigure(change.mobile_node, rekeyed=change.rekeyed, now=now)
            return self._finish(outputs, now)
        return []

    def bindings(self, after: IPv6Address | None, limit: int, now: float) -> BindingPage | None:
        """A home agent's bindings, see `HomeAgentRole.bindings`; None where this is none."""
        if not isinstance(self.role, HomeAgentRole):
            return None
        return self.role.bindings(after, limit, now)

    def delete_binding(self, home_address: IPv6Address, now: float) -> list[Action] | None:
        """End a mobile node's binding; None where it has none, or this is no home agent."""
        if not isinstance(self.role, HomeAgentRole):
            return None
        actions = self.role.delete_binding(home_address, now)
        return None if actions is None else self._finish(actions, now)

    def ask_to_switch(
        self,
        home_addresses: tuple[IPv6Address, ...],
        home_agents: tuple[IPv6Address, ...],
        now: float,
    ) -> tuple[tuple[IPv6Address, ...], list[Action]]:
        """Have mobile nodes leave this home agent: who is asked, and what is to be done."""
        if not isinstance(self.role, HomeAgentRole):
            return (), []
        asked, actions = self.role.ask_to_switch(home_addresses, home_agents, now)
        return asked, self._finish(actions, now)

    @property
    def counters(self) -> dict[str, int]:
        """Packets and drops since the start, by name."""
        drops: Counter[DropReason] = self._dispatcher.drops + self.role.drops
        counts = dict(self._counts)
        counts.update({f"drop-{reason.value}": count for reason, count in drops.items()})
        return dict(sorted(counts.items()))

    def snapshot(self, now: float) -> AgentSnapshot:
        """What ``mnagent status`` shows."""
        role = self.role
        return AgentSnapshot(
            role=role.name,
            now=now,
            interfaces=tuple(self._interface_snapshots()),
            counters=self.counters,
            mobile_node=(
                role.snapshot(now, self._handovers) if isinstance(role, MobileNodeRole) else None
            ),
            home_agent=role.snapshot(now) if isinstance(role, HomeAgentRole) else None,
            correspondent_node=(
                None
                if role.correspondent_node is None
                else correspondent_snapshot(role.correspondent_node, now)
            ),
        )

    # On the way in.

    def _deliver(self, event: PacketReceived, now: float) -> list[Action]:
        if isinstance(event.packet.payload, RouterAdvertisement):
            self._handovers.advertised(event.interface, now)
        return self.role.handle(event, now)

    def _observe(self, event: Event, now: float) -> list[Action]:
        """Keep what the snapshot shows, and report what people want to see."""
        match event:
            case LinkUp():
                if event.interface not in self._interfaces:
                    self._forget_former(event.name)
                interface = _Interface(event.name, event.link_layer_address)
                self._interfaces[event.interface] = interface
                self._handovers.link_changed(event, now)
                details = (("interface", event.name), ("index", str(event.interface)))
                return [ReportEvent(name="link-up", details=details)]
            case LinkDown():
                known = self._interfaces.get(event.interface)
                if known is None or not known.is_up:
                    return []
                known.is_up = False
                self._handovers.link_changed(event, now)
                details = (("interface", known.name), ("index", str(event.interface)))
                return [ReportEvent(name="link-down", details=details)]
            case AssociationChanged():
                self._handovers.associated(event, now)
                return [self._report_association(event)]
            case AddressAppeared():
                addresses = self._addresses.setdefault(event.interface, {})
                addresses[str(event.address)] = _state_of(event)
            case AddressVanished():
                self._addresses.get(event.interface, {}).pop(str(event.address), None)
            case TunnelActivity():
                self._handovers.carried(event, now)
            case TrafficSeen():
                self._handovers.traffic_seen(event, now)
            case ActionFailed():
                return [self._report_failure(event)]
        return []

    def _forget_former(self, name: str) -> None:
        """An adapter that is plugged in again has another index each time, and one of a container
        another name as well."""
        down = [index for index, known in self._interfaces.items() if not known.is_up]
        for at, index in enumerate(reversed(down)):
            if at >= MAX_DOWN or self._interfaces[index].name == name:
                del self._interfaces[index]
                self._addresses.pop(index, None)

    def _report_association(self, event: AssociationChanged) -> ReportEvent:
        known = self._interfaces.get(event.interface)
        details = (
            ("interface", "" if known is None else known.name),
            ("index", str(event.interface)),
            ("change", event.change.value),
            ("access_point", event.access_point.hex(":")),
        )
        return ReportEvent(name="access-point-changed", details=details)

    def _report_failure(self, event: ActionFailed) -> ReportEvent:
        self._counts["actions-failed"] += 1
        details = (
            ("action", type(event.action).__name__),
            ("errno", str(event.errno)),
            ("reason", event.reason),
        )
        return ReportEvent(name="action-failed", details=details, warning=True)

    def _interface_snapshots(self) -> list[InterfaceSnapshot]:
        return [
            InterfaceSnapshot(
                index=index,
                name=interface.name,
                up=interface.is_up,
                link_layer_address=interface.link_layer_address.hex(":"),
                addresses={**self._addresses.get(index, {}), **self._own_states(index)},
            )
            for index, interface in sorted(self._interfaces.items())
        ]

    def _own_states(self, index: int) -> dict[str, str]:
        if not isinstance(self.role, MobileNodeRole):
            return {}
        states = self.role.autoconfiguration.states().get(index, {})
        return {str(address): state.value for address, state in states.items()}

    # On the way out.

    def _finish(self, actions: list[Action], now: float) -> list[Action]:
        finished: list[Action] = []
        for action in actions:
            match action:
                case SendPacket():
                    if isinstance(action.packet.payload, RouterSolicitation):
                        self._handovers.solicited(action.interface or 0, now)
                    self._handovers.sent(action, now)
                    finished += self._protect(action)
                case SetTunnel():
                    finished.append(self._protect_payload(action))
                case RemoveTunnel():
                    self._policies.deactivate_tunnel(action.home_address)
                    finished.append(action)
                case SetHomeAddress():
                    self._serve(action)
                    finished.append(action)
                case RemoveHomeAddress():
                    self._policies.remove_home_address(action.home_address)
                    self._dispatcher.remove_home_address(action.home_address)
                    finished.append(action)
                case ReportEvent():
                    self._note(action, now)
                    finished.append(action)
                case _:
                    finished.append(action)
        return finished

    def _serve(self, action: SetHomeAddress) -> None:
        """Policies and headers for a home address that was formed (RFC 3776 4.2, 4.3)."""
        if action.like != action.home_address:
            self._policies.add_home_address(action.home_address, like=action.like)
        if isinstance(self.role, MobileNodeRole):
            self._dispatcher.add_home_address(action.home_address)

    def _note(self, report: ReportEvent, now: float) -> None:
        self._handovers.observe(report, now)
        if report.name == "address-unique":
            details = dict(report.details)
            self._handovers.address_unique(int(details["interface"]), details["address"], now)

    def _protect(self, action: SendPacket) -> list[Action]:
        """Fill in the association the policy demands, or refuse to send (RFC 4301 5.1)."""
        policy = self._policies.outbound(action.packet)
        if policy is None:
            self._counts["packets-sent"] += 1
            return [action]
        if policy.associations is None:
            self._counts["packets-refused-by-policy"] += 1
            return []
        self._counts["packets-sent"] += 1
        return [
            SendPacket(
                packet=action.packet,
                interface=action.interface,
                link_layer_destination=action.link_layer_destination,
                protect_with=policy.associations.outbound.spi,
            )
        ]

    def _protect_payload(self, action: SetTunnel) -> SetTunnel:
        is_mobile_node = action.end is TunnelEnd.MOBILE_NODE
        home_agent = action.remote if is_mobile_node else action.local
        self._policies.activate_tunnel(action.home_address, home_agent)
        pair, tests = self._policies.tunnel_associations(action.home_address)
        spis: dict[str, Any] = {}
        if pair is not None:
            spis |= {"outbound_spi": pair.outbound.spi, "inbound_spi": pair.inbound.spi}
        if tests is not None:
            spis["home_test_outbound_spi"] = tests.outbound.spi
            spis["home_test_inbound_spi"] = tests.inbound.spi
        return replace(action, **spis) if spis else action


def _state_of(event: AddressAppeared) -> str:
    if event.duplicate:
        return "duplicate"
    if event.tentative:
        return "tentative"
    return "deprecated" if event.deprecated else "preferred"
