"""Carries out actions, in order. What cannot be done comes back as `ActionFailed`."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address
from typing import Any, Protocol

from mnagent.core.actions import (
    Action,
    AddAddress,
    AddDefaultRouter,
    DeliverPacket,
    Finish,
    ForwardGroups,
    HoldTunnel,
    InterceptHomeAddress,
    JoinAnycast,
    JoinGroup,
    JournalRecord,
    LeaveAnycast,
    LeaveGroup,
    LeaveHomeLink,
    PersistRecord,
    RemoveAddress,
    RemoveDefaultRouter,
    RemoveDirectPath,
    RemoveHomeAddress,
    RemovePeerBinding,
    RemoveTunnel,
    ReportEvent,
    SendDhcpMessage,
    SendPacket,
    SendThroughTunnel,
    SetDirectPath,
    SetHomeAddress,
    SetPeerBinding,
    SetTunnel,
    StopIntercepting,
    UseHomeLink,
)
from mnagent.core.events import ActionFailed
from mnagent.datapath.tables import SequenceExhausted
from mnagent.runtime.host import HostState, OwnAddress
from mnagent.runtime.policy_routing import HomeAgentRouting, MobileNodeRouting
from mnagent.runtime.tunnels import TunnelKeeper
from mnagent.system.kernel import Kernel, Route
from mnagent.system.store import Store

logger = logging.getLogger(__name__)

_FIRST_ROUTER_METRIC = 1000
_LAST_ROUTER_METRIC = 300
_ROUTERS_OF_AN_INTERFACE = 17
_PREFIX_METRIC = 1024
_TUNNEL_ACTIONS = (SetTunnel, RemoveTunnel)


class PacketSender(Protocol):
    """`mnagent.runtime.sockets.Sender`."""

    def send(self, action: SendPacket) -> None: ...


class DhcpSender(Protocol):
    """`mnagent.runtime.dhcp_sockets.DhcpSockets`."""

    def send(self, action: SendDhcpMessage) -> None: ...


class TunnelSender(Protocol):
    """`mnagent.runtime.multicast.ThroughTunnel`."""

    def send(self, action: SendThroughTunnel) -> None: ...

    def deliver(self, action: DeliverPacket) -> None: ...


class GroupKeeper(Protocol):
    """`mnagent.runtime.multicast.GroupForwarder`."""

    def set_groups(self, action: ForwardGroups) -> None: ...


class RecordJournal(Protocol):
    """`mnagent.runtime.journal.Journal`."""

    def note(self, key: str, value: str | None) -> None: ...


class Executor:
    """One method an action; exceptions become `ActionFailed` in one place."""

    def __init__(
        self,
        *,
        kernel: Kernel,
        host: HostState,
        tunnel_interface: int,
        tunnels: TunnelKeeper,
        routing: MobileNodeRouting | HomeAgentRouting | None,
        sender: PacketSender,
        dhcp: DhcpSender,
        store: Store,
        journal: RecordJournal,
        report: Callable[[ReportEvent], None],
        finish: Callable[[], None],
        silence: Callable[[frozenset[IPv6Address]], None] = lambda addresses: None,
        through: TunnelSender | None = None,
        groups: GroupKeeper | None = None,
    ) -> None:
        """``silence`` keeps the kernel from answering for addresses whose uniqueness is checked."""
        self._kernel = kernel
        self._host = host
        self._tunnel_interface = tunnel_interface
        self._tunnels = tunnels
        self._routing = routing
        self._store = store
        self._journal = journal
        self._report = report
        self._finish = finish
        self._silence = silence
        self._optimistic: frozenset[IPv6Address] = frozenset()
        self._through = through
        self._groups = groups
        self._router_metrics: dict[str, int] = {}
        self._methods: dict[type[Any], Callable[[Any], None]] = {
            SendPacket: sender.send,
            SendDhcpMessage: dhcp.send,
            AddAddress: self._add_address,
            RemoveAddress: self._remove_address,
            AddDefaultRouter: self._add_default_router,
            RemoveDefaultRouter: self._remove_default_router,
            JoinGroup: self._join_group,
            LeaveGroup: self._leave_group,
            JoinAnycast: self._join_anycast,
            LeaveAnycast: self._leave_anycast,
            SetTunnel: tunnels.set_tunnel,
            SendThroughTunnel: self._send_through,
            DeliverPacket: self._deliver,
            ForwardGroups: self._forward_groups,
            HoldTunnel: self._hold_tunnel,
            RemoveTunnel: self._remove_tunnel,
            UseHomeLink: self._use_home_link,
            LeaveHomeLink: self._leave_home_link,
            SetHomeAddress: self._set_home_address,
            RemoveHomeAddress: self._remove_home_address,
            InterceptHomeAddress: self._intercept,
            StopIntercepting: self._stop_intercepting,
            SetPeerBinding: tunnels.set_peer_binding,
            RemovePeerBinding: tunnels.remove_peer_binding,
            SetDirectPath: tunnels.set_direct_path,
            RemoveDirectPath: tunnels.remove_direct_path,
            PersistRecord: self._persist,
            JournalRecord: self._note,
            ReportEvent: report,
            Finish: self._finished,
        }

    def perform(self, actions: Iterable[Action]) -> list[ActionFailed]:
        """Do them in order; a failure does not keep the later ones from being tried, except that
        nothing is sent behind a record that guards packets and could not be kept."""
        actions = tuple(actions)
        if sum(isinstance(action, _TUNNEL_ACTIONS) for action in actions) > 1:
            with self._tunnels.gathering():
                return self._perform_all(actions)
        return self._perform_all(actions)

    def _perform_all(self, actions: tuple[Action, ...]) -> list[ActionFailed]:
        failures: list[ActionFailed] = []
        unsafe = False
        for action in actions:
            if unsafe and isinstance(action, SendPacket):
                failures.append(
                    ActionFailed(action=action, errno=errno.EIO, reason="a record was not kept")
                )
                continue
            failure = self._perform_one(action)
            if failure is not None:
                failures.append(failure)
                unsafe |= isinstance(action, PersistRecord) and action.guards_packets
        return failures

    def _keep_silent(self, address: IPv6Address, *, optimistic: bool) -> None:
        """Before the address is there: a neighbour may ask as soon as we have sent something."""
        if optimistic == (address in self._optimistic):
            return
        self._optimistic ^= {address}
        try:
            self._silence(self._optimistic)
        except OSError as error:
            logger.warning("the kernel answers for addresses that are not checked yet: %s", error)

    def _perform_one(self, action: Action) -> ActionFailed | None:
        try:
            self._methods[type(action)](action)
        except OSError as error:
            code = error.errno or errno.EIO
            reason = error.strerror or str(error)
        except KeyError as error:
            code, reason = errno.ENOKEY, f"no security association {error}"
        except SequenceExhausted as error:
            code, reason = errno.EKEYEXPIRED, f"no sequence numbers left for {error.args[0]}"
        else:
            return None
        logger.debug("failed to perform %s: %s", type(action).__name__, reason)
        return ActionFailed(action=action, errno=code, reason=reason)

    def _add_address(self, action: AddAddress) -> None:
        own = OwnAddress(
            interface=action.interface,
            address=action.address,
            prefix_length=action.prefix_length,
        )
        self._keep_silent(action.address, optimistic=action.optimistic)
        self._host.set_address(
            own,
            valid_lifetime=action.valid_lifetime,
            preferred_lifetime=action.preferred_lifetime,
            prefix_route=False,
        )
        self._tunnels.add_local_address(action.address)
        if own.prefix_length < 128:
            # The kernel leaves the prefix route of an address with a lifetime behind when it goes.
            route = Route(
                destination=own.prefix,
                interface=own.interface,
                # Its own metric: replacing must not meet another interface's route to this prefix.
                metric=_PREFIX_METRIC + own.interface,
                lifetime=_whole_seconds(action.valid_lifetime),
            )
            self._host.set_route(_prefix_purpose(own), route)

    def _remove_address(self, action: RemoveAddress) -> None:
        own = OwnAddress(
            interface=action.interface,
            address=action.address,
            prefix_length=action.prefix_length,
        )
        self._host.remove_address(own)
        self._keep_silent(action.address, optimistic=False)
        self._tunnels.forget_local_address(action.address)
        if not self._host.has_address_in(own.interface, own.prefix):
            self._host.remove_route(_prefix_purpose(own))

    def _add_default_router(self, action: AddDefaultRouter) -> None:
        if action.link_layer_address:
            known = self._kernel.link_layer_address(action.interface, action.router)
            if known != action.link_layer_address:
                self._kernel.set_neighbour(
                    action.interface,
                    action.router,
                    link_layer_address=action.link_layer_address,
                )
        purpose = _router_purpose(action.interface, action.router)
        metric = self._router_metrics.get(purpose)
        if metric is None:
            metric = self._new_router_metric(action.interface)
        route = Route(
            interface=action.interface,
            gateway=action.router,
            metric=metric,
            lifetime=_whole_seconds(action.lifetime),
        )
        self._host.set_route(purpose, route)
        self._router_metrics[purpose] = metric

    def _new_router_metric(self, interface: int) -> int:
        """Each router its own metric, or the kernel would merge or replace them.

        The latest interface comes first. On one link the router that was there first stays first:
        another one that speaks up must not get the packets of addresses it may not know.
        """
        own = [
            metric
            for purpose, metric in self._router_metrics.items()
            if purpose.startswith(_router_purpose_prefix(interface))
        ]
        if own:
            return max(own) + 1
        lowest = min(self._router_metrics.values(), default=_FIRST_ROUTER_METRIC)
        return max(lowest - _ROUTERS_OF_AN_INTERFACE, _LAST_ROUTER_METRIC)

    def _remove_default_router(self, action: RemoveDefaultRouter) -> None:
        purpose = _router_purpose(action.interface, action.router)
        self._router_metrics.pop(purpose, None)
        self._host.remove_route(purpose)

    def _join_group(self, action: JoinGroup) -> None:
        self._kernel.join_group(action.interface, action.group)

    def _leave_group(self, action: LeaveGroup) -> None:
        self._kernel.leave_group(action.interface, action.group)

    def _join_anycast(self, action: JoinAnycast) -> None:
        interface = self._tunnel_interface if action.interface is None else action.interface
        self._kernel.join_anycast(interface, action.address)

    def _leave_anycast(self, action: LeaveAnycast) -> None:
        interface = self._tunnel_interface if action.interface is None else action.interface
        self._kernel.leave_anycast(interface, action.address)

    def _send_through(self, action: SendThroughTunnel) -> None:
        if self._through is None:
            raise OSError(errno.EOPNOTSUPP, "there are no tunnels here")
        self._through.send(action)

    def _deliver(self, action: DeliverPacket) -> None:
        if self._through is None:
            raise OSError(errno.EOPNOTSUPP, "there are no tunnels here")
        self._through.deliver(action)

    def _forward_groups(self, action: ForwardGroups) -> None:
        if self._groups is None:
            raise OSError(errno.EOPNOTSUPP, "only a home agent can do this")
        self._groups.set_groups(action)

    def _hold_tunnel(self, action: HoldTunnel) -> None:
        self._tunnels.hold_tunnel(action.home_address)

    def _remove_tunnel(self, action: RemoveTunnel) -> None:
        self._tunnels.remove_tunnel(action.home_address)

    def _mobile_node(self) -> MobileNodeRouting:
        if not isinstance(self._routing, MobileNodeRouting):
            raise OSError(errno.EOPNOTSUPP, "only a mobile node can do this")
        return self._routing

    def _home_agent(self) -> HomeAgentRouting:
        if not isinstance(self._routing, HomeAgentRouting):
            raise OSError(errno.EOPNOTSUPP, "only a home agent can do this")
        return self._routing

    def _use_home_link(self, action: UseHomeLink) -> None:
        self._mobile_node().use_home_link(action)

    def _leave_home_link(self, action: LeaveHomeLink) -> None:
        self._mobile_node().leave_home_link(action.home_address)

    def _set_home_address(self, action: SetHomeAddress) -> None:
        """On a home agent it is the security policy's alone."""
        if isinstance(self._routing, MobileNodeRouting):
            self._routing.set_home_address(action)
            self._tunnels.set_home_address(action.home_address)

    def _remove_home_address(self, action: RemoveHomeAddress) -> None:
        if isinstance(self._routing, MobileNodeRouting):
            self._tunnels.remove_home_address(action.home_address)
            self._routing.remove_home_address(action.home_address)

    def _intercept(self, action: InterceptHomeAddress) -> None:
        mtu = self._tunnels.tunnel_mtu(action.home_address)
        self._home_agent().intercept(action.home_address, mtu=mtu)

    def _stop_intercepting(self, action: StopIntercepting) -> None:
        self._home_agent().stop_intercepting(action.home_address)

    def _persist(self, action: PersistRecord) -> None:
        self._store.put(action.key, action.value)

    def _note(self, action: JournalRecord) -> None:
        self._journal.note(action.key, action.value)

    def _finished(self, action: Finish) -> None:
        self._finish()


def _whole_seconds(lifetime: float | None) -> int | None:
    """For the kernel, which counts routes' lifetimes in a signed 32 bit number; None for ever."""
    if lifetime is None or lifetime >= 1 << 31:
        return None
    return max(1, int(lifetime))


def _prefix_purpose(own: OwnAddress) -> str:
    return f"prefix-{own.interface}-{own.prefix}"


def _router_purpose(interface: int, router: IPv6Address) -> str:
    return f"{_router_purpose_prefix(interface)}{router}"


def _router_purpose_prefix(interface: int) -> str:
    return f"router-{interface}-"
