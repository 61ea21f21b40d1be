"""The agent: one role, the packet checks before it and the security policy after it.

    event -> Dispatcher (DatagramReceived only) -> Role -> security policy -> actions

Nothing in here knows of sockets, files or clocks. Every method is called by one thread.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from mnagent.agent.dispatch import Dispatcher
from mnagent.agent.handovers import HandoverLog
from mnagent.agent.roles import (
    CorrespondentRole,
    HomeAgentRole,
    MobileNodeRole,
    correspondent_snapshot,
)
from mnagent.agent.snapshot import AgentSnapshot, InterfaceSnapshot
from mnagent.core.actions import (
    Action,
    RemoveTunnel,
    ReportEvent,
    SendPacket,
    SetTunnel,
)
from mnagent.core.drops import DropReason
from mnagent.core.events import (
    ActionFailed,
    AddressAppeared,
    AddressVanished,
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
        return self._finish([*actions, *self.role.handle(event, now)], now)

    def handle_timer(self, now: float) -> list[Action]:
        """Do what is due at ``now``."""
        return self._finish(self.role.handle_timer(now), now)

    def next_deadline(self) -> float | None:
        """When `handle_timer` wants to be called, or None."""
        return self.role.next_deadline()

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
                case ReportEvent():
                    self._note(action, now)
                    finished.append(action)
                case _:
                    finished.append(action)
        return finished

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
        self._policies.activate_tunnel(action.home_address)
        tests = self._policies.home_test_associations(action.home_address)
        if tests is not None:
            action = replace(
                action,
                home_test_outbound_spi=tests.outbound.spi,
                home_test_inbound_spi=tests.inbound.spi,
            )
        pair = self._policies.payload_associations(action.home_address)
        if pair is None:
            return action
        return replace(action, outbound_spi=pair.outbound.spi, inbound_spi=pair.inbound.spi)


def _state_of(event: AddressAppeared) -> str:
    if event.duplicate:
        return "duplicate"
    if event.tentative:
        return "tentative"
    return "deprecated" if event.deprecated else "preferred"
