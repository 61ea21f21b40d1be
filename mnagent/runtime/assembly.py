"""Puts the daemon's parts together, and says how each is taken apart (an `ExitStack`, last made
first)."""

from __future__ import annotations

import contextlib
import logging
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any, Protocol

from mnagent.agent.reconfiguration import Reconfiguration
from mnagent.agent.snapshot import BindingPage
from mnagent.config import Autoconfiguration, Configuration, Dhcp6, NewConnections, Role
from mnagent.config.loading import MAX_ROUTE_TABLE, RESERVED_ROUTE_TABLES
from mnagent.core.actions import Action, ReportEvent, TunnelEnd
from mnagent.core.events import Event
from mnagent.core.records import KeptRecord
from mnagent.core.security import SecurityAssociation
from mnagent.ipsec.keys import KeySet
from mnagent.mobility.home_addresses import MAX_HOME_ADDRESSES
from mnagent.runtime import process, tun
from mnagent.runtime.dhcp_sockets import DhcpSockets
from mnagent.runtime.engines import ChosenEngine, choose_engine, sizes_for
from mnagent.runtime.executor import Executor
from mnagent.runtime.host import HostState
from mnagent.runtime.journal import Journal
from mnagent.runtime.kernel import LinuxKernel
from mnagent.runtime.key_files import load_key_sets
from mnagent.runtime.leftovers import remove_leftovers
from mnagent.runtime.loop import BootClock
from mnagent.runtime.multicast import GroupForwarder, MembershipListener, ThroughTunnel
from mnagent.runtime.next_hop import NextHopResolver
from mnagent.runtime.nftables import Shield
from mnagent.runtime.optimized_paths import OptimizedPaths
from mnagent.runtime.policy_routing import HomeAgentRouting, MobileNodeRouting, PeerRouting
from mnagent.runtime.sequences import SequenceKeeper
from mnagent.runtime.settings import SavedSettings
from mnagent.runtime.sockets import Sender
from mnagent.runtime.store import FileStore
from mnagent.runtime.takeover import Takeover
from mnagent.runtime.tunnels import TunnelKeeper
from mnagent.system.clock import Clock
from mnagent.system.datapath import Datapath
from mnagent.system.kernel import LOOPBACK_INTERFACE

logger = logging.getLogger(__name__)

TUNNEL_DEVICE_MTU = 1500
"""Octets; each route has its own, locked."""
_INTERFACE_SETTINGS = "net/ipv6/conf/{name}/{setting}"


class StartError(Exception):
    """The daemon cannot start; the message is for people."""


class AgentMachine(Protocol):
    """`mnagent.agent.Agent`."""

    @property
    def counters(self) -> Mapping[str, int]: ...

    def handle(self, event: Event, now: float) -> list[Action]: ...

    def handle_timer(self, now: float) -> list[Action]: ...

    def next_deadline(self) -> float | None: ...

    def snapshot(self, now: float) -> Any: ...

    def reconfigure(self, change: Reconfiguration, now: float) -> list[Action]: ...

    def bindings(self, after: IPv6Address | None, limit: int, now: float) -> BindingPage | None: ...

    def delete_binding(self, home_address: IPv6Address, now: float) -> list[Action] | None: ...

    def ask_to_switch(
        self,
        home_addresses: tuple[IPv6Address, ...],
        home_agents: tuple[IPv6Address, ...],
        now: float,
    ) -> tuple[tuple[IPv6Address, ...], list[Action]]: ...


class AgentBuilder(Protocol):
    """`mnagent.agent.build.build_agent`."""

    def __call__(
        self,
        configuration: Configuration,
        *,
        random: random.Random,
        persisted: Mapping[str, str],
        associations: Any,
        kept: Mapping[str, KeptRecord],
        wall_clock: Callable[[float], float],
    ) -> AgentMachine: ...


@dataclass(slots=True)
class _Listeners:
    report: Callable[[ReportEvent], None] = lambda event: None
    finish: Callable[[], None] = lambda: None


@dataclass(slots=True, kw_only=True)
class Assembly:
    """The parts of a daemon that is ready to serve."""

    configuration: Configuration
    clock: Clock
    agent: AgentMachine
    kernel: LinuxKernel
    datapath: Datapath
    engine: ChosenEngine
    device: tun.Device
    host: HostState
    resolver: NextHopResolver
    tunnels: TunnelKeeper
    shield: Shield
    takeover: Takeover | None
    """None where nothing moves: on a home agent and a correspondent."""
    sequences: SequenceKeeper
    executor: Executor
    home_agent_routing: HomeAgentRouting | None
    journal: Journal
    key_sets: tuple[KeySet, ...]
    dhcp: DhcpSockets
    groups: GroupForwarder | None
    """None where no multicast is forwarded."""
    memberships: MembershipListener | None
    """None where nothing moves."""
    wake_descriptor: int
    interface_names: tuple[str, ...]
    own_addresses: frozenset[IPv6Address]
    """Addresses that packets for us may have besides those on the interfaces."""
    listeners: _Listeners

    def on_report(self, callback: Callable[[ReportEvent], None]) -> None:
        """Who hears of `ReportEvent`."""
        self.listeners.report = callback

    def on_finish(self, callback: Callable[[], None]) -> None:
        """Who hears of `Finish`."""
        self.listeners.finish = callback

    def snapshot(self, now: float) -> dict[str, Any]:
        """The agent's read-only view, of JSON's types."""
        return dict(self.agent.snapshot(now).to_json())


def assemble(
    configuration: Configuration,
    stack: contextlib.ExitStack,
    *,
    entropy: random.Random,
    build: AgentBuilder | None = None,
    key_sets: tuple[KeySet, ...] | None = None,
) -> Assembly:
    """Open everything. What was opened or changed is put back when ``stack`` is left.

    ``key_sets`` are read from the configuration's files by default.

    Raises:
        StartError: with a sentence that says what is wrong and what to do.
        process.StateInUse: another copy holds the state directory.
    """
    try:
        process.forbid_core_dumps()
        if build is None:
            from mnagent.agent.build import build_agent

            build = build_agent
        if key_sets is None:
            key_sets = load_key_sets(configuration)
        return _Assembler(configuration, stack, key_sets).assemble(entropy, build)
    except (OSError, ValueError) as error:
        logger.debug("failed to start", exc_info=True)
        raise StartError(f"failed to start: {process.reason_of(error)}") from error


def virtual_prefixes(configuration: Configuration) -> tuple[IPv6Network, ...]:
    """The home prefixes that are on no link."""
    agent = configuration.home_agent
    return () if agent is None or agent.home_link is not None else agent.home_prefixes


class _Assembler:
    """Makes one part after the other."""

    def __init__(
        self,
        configuration: Configuration,
        stack: contextlib.ExitStack,
        key_sets: tuple[KeySet, ...],
    ) -> None:
        self._configuration = configuration
        self._stack = stack
        self._clock = BootClock()
        self._key_sets = key_sets
        state = configuration.host.state_directory
        try:
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = process.lock(state / "lock")
        except OSError as error:
            error.strerror = f"{error.strerror}; correct host.state_directory"
            raise
        stack.callback(os.close, lock)
        self._store = FileStore(state / "records")
        self._journal = Journal(
            state / "bindings.journal",
            self._clock,
            boot_identifier=process.boot_identifier(),
        )
        self._kept = self._journal.open()
        stack.callback(self._journal.close)
        self._kernel = LinuxKernel()
        stack.callback(self._kernel.close)
        self._settings = SavedSettings(
            self._kernel, state / "settings.json", boot_identifier=process.boot_identifier()
        )
        self._device = self._open_device()
        self._remove_leftovers()
        self._host = HostState(self._kernel, self._clock)
        self._takeover = self._make_takeover()
        stack.callback(self._settings.restore)
        stack.callback(self._host.clear)
        self._set_host_settings()

    def assemble(self, entropy: random.Random, build: AgentBuilder) -> Assembly:
        configuration = self._configuration
        wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stack.callback(os.close, wake)
        chosen = choose_engine(
            configuration.host.engine,
            tun=self._device.descriptor,
            wake=wake,
            name=configuration.host.tunnel_interface,
            interface=self._device.interface,
            sizes=sizes_for(configuration),
        )
        engine = chosen.datapath
        self._stack.callback(engine.close)
        shield = Shield(
            configuration.host.tunnel_interface,
            home_agents=_home_agent_addresses(configuration, self._key_sets),
            behind_sockets=chosen.in_kernel,
        )
        self._stack.callback(shield.close)
        self._peers = self._make_peer_routing()
        resolver = NextHopResolver(
            self._kernel,
            tunnel_interface=self._device.interface,
            remembers=configuration.role is Role.HOME_AGENT,
        )
        routing = self._make_routing()
        tunnels = self._make_tunnels(engine, resolver, shield=shield, routing=routing)
        sequences = SequenceKeeper(self._store, engine)
        sequences.start(self._associations)
        self._stack.callback(_stop_sequences, sequences)
        if isinstance(routing, MobileNodeRouting):
            routing.start()
        elif routing is not None:
            routing.set_virtual_prefixes(virtual_prefixes(configuration))
        listeners = _Listeners()
        dhcp = DhcpSockets()
        self._stack.callback(dhcp.close)
        through = self._make_through(engine, tunnels)
        groups = self._make_group_forwarder(through)
        executor = self._make_executor(
            engine,
            tunnels,
            shield=shield,
            dhcp=dhcp,
            routing=routing,
            listeners=listeners,
            through=through,
            groups=groups,
        )
        agent = build(
            configuration,
            random=entropy,
            persisted=self._store.load(),
            associations=self._key_sets,
            kept=self._kept,
            wall_clock=self._clock.wall_clock,
        )
        process.drop_capabilities(
            opens_low_ports=_leases_addresses(configuration), uses_bpf=chosen.in_kernel
        )
        return Assembly(
            configuration=configuration,
            clock=self._clock,
            agent=agent,
            kernel=self._kernel,
            datapath=engine,
            engine=chosen,
            device=self._device,
            host=self._host,
            resolver=resolver,
            tunnels=tunnels,
            shield=shield,
            takeover=self._takeover,
            sequences=sequences,
            executor=executor,
            home_agent_routing=routing if isinstance(routing, HomeAgentRouting) else None,
            journal=self._journal,
            key_sets=self._key_sets,
            dhcp=dhcp,
            groups=groups,
            memberships=self._make_membership_listener(),
            wake_descriptor=wake,
            interface_names=_interface_names(configuration),
            own_addresses=_own_addresses(configuration),
            listeners=listeners,
        )

    @property
    def _associations(self) -> tuple[SecurityAssociation, ...]:
        return tuple(
            association for key_set in self._key_sets for association in key_set.associations
        )

    def _open_device(self) -> tun.Device:
        """The TUN device, up, with no address of its own."""
        name = self._configuration.host.tunnel_interface
        adopted = any(link.name == name for link in self._kernel.links())
        device = tun.Device(name, stays=adopted)
        self._stack.callback(device.close)
        for setting, value in (("addr_gen_mode", "1"), ("accept_ra", "0"), ("autoconf", "0")):
            self._kernel.write_setting(
                _INTERFACE_SETTINGS.format(name=name, setting=setting), value
            )
        self._kernel.set_link(device.interface, up=True, mtu=TUNNEL_DEVICE_MTU)
        return device

    def _remove_leftovers(self) -> None:
        names = _interface_names(self._configuration)
        tunnel = self._device.interface
        remove_leftovers(
            self._kernel,
            tables=dict(_tables(self._configuration)),
            interfaces=frozenset(
                link.interface
                for link in self._kernel.links()
                if link.interface != tunnel and (not names or link.name in names)
            )
            | {LOOPBACK_INTERFACE},
            tunnel=tunnel,
        )

    def _make_takeover(self) -> Takeover | None:
        node = self._configuration.mobile_node
        if node is None:
            return None
        by_agent = node.autoconfiguration is Autoconfiguration.AGENT
        takeover = Takeover(self._kernel, self._settings, by_agent=by_agent)
        self._stack.callback(takeover.solicit)
        return takeover

    def _set_host_settings(self) -> None:
        """A home agent forwards. Turning that on makes the kernel ignore router advertisements,
        unless an interface says otherwise; a virtual server may live on them."""
        if self._configuration.role is not Role.HOME_AGENT:
            return
        root = Path("/proc/sys/net/ipv6/conf")
        forwarding = "net/ipv6/conf/all/forwarding"
        if (root / "all/forwarding").read_text().strip() != "0":
            return
        self._settings.remember(forwarding)
        for name in [path.name for path in root.iterdir() if path.name != "all"]:
            self._settings.remember(_INTERFACE_SETTINGS.format(name=name, setting="forwarding"))
            if (root / name / "accept_ra").read_text().strip() == "1":
                accepts = _INTERFACE_SETTINGS.format(name=name, setting="accept_ra")
                self._settings.set(accepts, "2")
        self._settings.set(forwarding, "1")

    def _make_routing(self) -> MobileNodeRouting | HomeAgentRouting | None:
        """None for a correspondent, which has neither a home address nor tunnels."""
        node = self._configuration.mobile_node
        tunnel = self._device.interface
        if node is None:
            if self._configuration.home_agent is None:
                return None
            return HomeAgentRouting(self._host, tunnel_interface=tunnel)
        return MobileNodeRouting(
            self._host,
            home_address=node.home_address,
            tunnel_interface=tunnel,
            table=self._configuration.host.route_table,
            priority=self._configuration.host.rule_priority,
            new_connections=node.new_connections is NewConnections.HOME_ADDRESS,
            more_home_addresses=node.more_home_addresses,
            more_tables=_more_tables(self._configuration),
            peers=self._peers,
        )

    def _make_peer_routing(self) -> PeerRouting:
        node = self._configuration.mobile_node
        is_preferred = node is not None and node.new_connections is NewConnections.HOME_ADDRESS
        (table, priority) = _tables(self._configuration)[1]
        return PeerRouting(
            self._host,
            tunnel_interface=self._device.interface,
            table=table,
            priority=priority,
            home_address=None if node is None else node.home_address,
            new_connections=is_preferred,
        )

    def _make_optimized_paths(
        self,
        resolver: NextHopResolver,
        routing: MobileNodeRouting | HomeAgentRouting | None,
    ) -> OptimizedPaths:
        peers = self._peers
        node = self._configuration.mobile_node
        if node is None or not isinstance(routing, MobileNodeRouting):
            return OptimizedPaths(resolver, set_peer_route=peers.mtu_changed)
        return OptimizedPaths(
            resolver,
            home_address=node.home_address,
            set_peer_route=peers.mtu_changed,
            set_direct_route=routing.direct_path_mtu_changed,
        )

    def _make_tunnels(
        self,
        engine: Datapath,
        resolver: NextHopResolver,
        *,
        shield: Shield,
        routing: MobileNodeRouting | HomeAgentRouting | None,
    ) -> TunnelKeeper:
        def mtu_changed(home_address: IPv6Address, mtu: int) -> None:
            with contextlib.suppress(OSError):
                if isinstance(routing, MobileNodeRouting) or routing is not None:
                    routing.tunnel_mtu_changed(home_address, mtu)

        is_node = self._configuration.mobile_node is not None
        tunnels = TunnelKeeper(
            datapath=engine,
            resolver=resolver,
            shield=shield,
            associations=self._associations,
            end=TunnelEnd.MOBILE_NODE if is_node else TunnelEnd.HOME_AGENT,
            mtu_changed=mtu_changed,
            optimized=self._make_optimized_paths(resolver, routing),
            encapsulation_limit=self._configuration.host.tunnel_encapsulation_limit,
            sends_directly=not is_node and self._configuration.correspondent is not None,
        )
        tunnels.publish()
        return tunnels

    def _make_executor(
        self,
        engine: Datapath,
        tunnels: TunnelKeeper,
        *,
        shield: Shield,
        dhcp: DhcpSockets,
        routing: MobileNodeRouting | HomeAgentRouting | None,
        listeners: _Listeners,
        through: ThroughTunnel | None,
        groups: GroupForwarder | None,
    ) -> Executor:
        sender = Sender(engine)
        self._stack.callback(sender.close)
        return Executor(
            kernel=self._kernel,
            host=self._host,
            tunnel_interface=self._device.interface,
            tunnels=tunnels,
            routing=routing,
            sender=sender,
            dhcp=dhcp,
            store=self._store,
            journal=self._journal,
            report=lambda event: listeners.report(event),
            finish=lambda: listeners.finish(),
            silence=shield.silence,
            through=through,
            groups=groups,
        )

    def _make_through(self, engine: Datapath, tunnels: TunnelKeeper) -> ThroughTunnel | None:
        if self._configuration.role is Role.CORRESPONDENT:
            return None
        through = ThroughTunnel(
            engine,
            tunnel_of=tunnels.tunnel_of,
            device=self._device.descriptor,
            encapsulation_limit=self._configuration.host.tunnel_encapsulation_limit,
        )
        self._stack.callback(through.close)
        return through

    def _make_group_forwarder(self, through: ThroughTunnel | None) -> GroupForwarder | None:
        agent = self._configuration.home_agent
        if agent is None or not agent.multicast or through is None:
            return None
        groups = GroupForwarder(
            tunnel_interface=self._device.interface,
            home_link=agent.home_link,
            carry=through.carry,
        )
        self._stack.callback(groups.close)
        return groups

    def _make_membership_listener(self) -> MembershipListener | None:
        if self._configuration.mobile_node is None:
            return None
        memberships = MembershipListener(self._device.interface)
        self._stack.callback(memberships.close)
        return memberships


def _leases_addresses(configuration: Configuration) -> bool:
    """True when the DHCPv6 client may have to open its port."""
    node = configuration.mobile_node
    return (
        node is not None
        and node.autoconfiguration is Autoconfiguration.AGENT
        and node.dhcp6 is not Dhcp6.OFF
    )


def _stop_sequences(sequences: SequenceKeeper) -> None:
    try:
        sequences.stop()
    except OSError as error:
        logger.error("failed to note the sequence numbers: %s", error)


def _tables(configuration: Configuration) -> tuple[tuple[int, int], ...]:
    """The route tables, each with its rules' priority: the home address's, mobile peers', which is
    looked at first, and those of further home addresses."""
    host = configuration.host
    return (
        (host.route_table, host.rule_priority),
        (host.route_table + 1, host.rule_priority - 1),
        *((table, host.rule_priority) for table in _more_tables(configuration)),
    )


def _more_tables(configuration: Configuration) -> tuple[int, ...]:
    """For the home addresses beyond the first, configured or formed."""
    first = configuration.host.route_table + 2
    tables = range(first, first + MAX_HOME_ADDRESSES + len(RESERVED_ROUTE_TABLES))
    free = [t for t in tables if t not in RESERVED_ROUTE_TABLES and t <= MAX_ROUTE_TABLE]
    return tuple(free[: MAX_HOME_ADDRESSES - 1])


def _interface_names(configuration: Configuration) -> tuple[str, ...]:
    """Interfaces the daemon may use; none named means all."""
    if configuration.mobile_node is not None:
        return configuration.mobile_node.interfaces
    agent, correspondent = configuration.home_agent, configuration.correspondent
    if agent is None and correspondent is not None:
        return correspondent.interfaces
    if agent is None or not agent.interfaces:
        return ()
    link = (
        () if agent.home_link is None or agent.home_link in agent.interfaces else (agent.home_link,)
    )
    return agent.interfaces + link


def _home_agent_addresses(
    configuration: Configuration, key_sets: tuple[KeySet, ...]
) -> frozenset[IPv6Address]:
    """Ends of tunnels; none for a correspondent. A mobile node may use any it has keys for."""
    if configuration.home_agent is not None:
        return frozenset({configuration.home_agent.address})
    return frozenset(keys.home_agent for keys in key_sets)


def _own_addresses(configuration: Configuration) -> frozenset[IPv6Address]:
    if configuration.mobile_node is not None:
        return frozenset(configuration.mobile_node.home_addresses)
    if configuration.home_agent is not None:
        return frozenset({configuration.home_agent.address})
    return frozenset()
