"""Puts the daemon's parts together, and says how each is taken apart (an `ExitStack`, last made
first)."""

from __future__ import annotations

import contextlib
import logging
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, Protocol

from mnagent.config import Autoconfiguration, Configuration, NewConnections, Role
from mnagent.core.actions import Action, ReportEvent, TunnelEnd
from mnagent.core.events import Event
from mnagent.core.security import SecurityAssociation
from mnagent.datapath import Engine
from mnagent.runtime import process, tun
from mnagent.runtime.executor import Executor
from mnagent.runtime.host import HostState
from mnagent.runtime.kernel import LinuxKernel
from mnagent.runtime.key_files import load_key_sets
from mnagent.runtime.leftovers import remove_leftovers
from mnagent.runtime.loop import BootClock
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
from mnagent.system.store import Store

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


class AgentBuilder(Protocol):
    """`mnagent.agent.build.build_agent`."""

    def __call__(
        self,
        configuration: Configuration,
        *,
        random: random.Random,
        persisted: Mapping[str, str],
        associations: Any,
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
    host: HostState
    resolver: NextHopResolver
    tunnels: TunnelKeeper
    shield: Shield
    takeover: Takeover | None
    """None where nothing moves: on a home agent and a correspondent."""
    sequences: SequenceKeeper
    executor: Executor
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
) -> Assembly:
    """Open everything. What was opened or changed is put back when ``stack`` is left.

    Raises:
        StartError: with a sentence that says what is wrong and what to do.
        process.StateInUse: another copy holds the state directory.
    """
    try:
        process.require_capabilities()
        process.forbid_core_dumps()
        if build is None:
            from mnagent.agent.build import build_agent

            build = build_agent
        return _assemble(configuration, stack, entropy, build)
    except OSError as error:
        raise StartError(f"failed to start: {error.strerror or error}") from error


def _assemble(
    configuration: Configuration,
    stack: contextlib.ExitStack,
    entropy: random.Random,
    build: AgentBuilder,
) -> Assembly:
    key_sets = load_key_sets(configuration)
    associations = tuple(
        association for key_set in key_sets for association in key_set.associations
    )
    state = configuration.host.state_directory
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    stack.callback(os.close, process.lock(state / "lock"))
    store = FileStore(state / "records")
    clock = BootClock()
    kernel = LinuxKernel()
    stack.callback(kernel.close)
    settings = SavedSettings(
        kernel, state / "settings.json", boot_identifier=process.boot_identifier()
    )
    tun_descriptor, tunnel = _open_tunnel(configuration, stack, kernel)
    _remove_leftovers(configuration, kernel, tunnel)
    host = HostState(kernel, clock)
    takeover = _takeover(configuration, stack, kernel, settings)
    stack.callback(settings.restore)
    stack.callback(host.clear)
    _set_host_settings(configuration, settings)
    wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    stack.callback(os.close, wake)
    engine: Datapath = Engine(tun_fd=tun_descriptor, wake_fd=wake)
    stack.callback(engine.close)
    parts = _connect(
        configuration, stack, kernel, host, engine, store, associations=associations, tunnel=tunnel
    )
    agent = build(configuration, random=entropy, persisted=store.load(), associations=key_sets)
    process.drop_capabilities()
    return Assembly(
        configuration=configuration,
        clock=clock,
        agent=agent,
        kernel=kernel,
        datapath=engine,
        host=host,
        takeover=takeover,
        wake_descriptor=wake,
        interface_names=_interface_names(configuration),
        own_addresses=_own_addresses(configuration),
        **parts,
    )


def _takeover(
    configuration: Configuration,
    stack: contextlib.ExitStack,
    kernel: LinuxKernel,
    settings: SavedSettings,
) -> Takeover | None:
    node = configuration.mobile_node
    if node is None:
        return None
    by_agent = node.autoconfiguration is Autoconfiguration.AGENT
    takeover = Takeover(kernel, settings, by_agent=by_agent)
    stack.callback(takeover.solicit)
    return takeover


def _open_tunnel(
    configuration: Configuration, stack: contextlib.ExitStack, kernel: LinuxKernel
) -> tuple[int, int]:
    """The TUN device's descriptor and interface index; the device is up, with no address of its
    own."""
    name = configuration.host.tunnel_interface
    descriptor = tun.open_device(name)
    stack.callback(os.close, descriptor)
    if not configuration.host.keep_tunnel_interface:
        stack.callback(tun.forget_device, descriptor)
    index = next(link.interface for link in kernel.links() if link.name == name)
    for setting, value in (("addr_gen_mode", "1"), ("accept_ra", "0"), ("autoconf", "0")):
        kernel.write_setting(_INTERFACE_SETTINGS.format(name=name, setting=setting), value)
    kernel.set_link(index, up=True, mtu=TUNNEL_DEVICE_MTU)
    return descriptor, index


def _remove_leftovers(configuration: Configuration, kernel: LinuxKernel, tunnel: int) -> None:
    names = _interface_names(configuration)
    interfaces = frozenset(
        link.interface
        for link in kernel.links()
        if link.interface != tunnel and (not names or link.name in names)
    )
    remove_leftovers(
        kernel,
        tables=dict(_tables(configuration)),
        interfaces=interfaces,
        tunnel=tunnel,
    )


def _set_host_settings(configuration: Configuration, settings: SavedSettings) -> None:
    """A home agent forwards. Turning that on makes the kernel ignore router advertisements, unless
    an interface says otherwise; a virtual server may live on them."""
    if configuration.role is not Role.HOME_AGENT:
        return
    root = Path("/proc/sys/net/ipv6/conf")
    forwarding = "net/ipv6/conf/all/forwarding"
    if (root / "all/forwarding").read_text().strip() != "0":
        return
    names = [path.name for path in root.iterdir() if path.name != "all"]
    settings.remember(forwarding)
    for name in names:
        settings.remember(_INTERFACE_SETTINGS.format(name=name, setting="forwarding"))
        accepts = _INTERFACE_SETTINGS.format(name=name, setting="accept_ra")
        if (root / name / "accept_ra").read_text().strip() == "1":
            settings.set(accepts, "2")
    settings.set(forwarding, "1")


def _connect(
    configuration: Configuration,
    stack: contextlib.ExitStack,
    kernel: LinuxKernel,
    host: HostState,
    engine: Datapath,
    store: Store,
    *,
    associations: tuple[SecurityAssociation, ...],
    tunnel: int,
) -> dict[str, Any]:
    """The parts between the agent's actions and kernel and engine."""
    sequences = SequenceKeeper(store, engine)
    shield = Shield(
        configuration.host.tunnel_interface, home_agent=_home_agent_address(configuration)
    )
    stack.callback(shield.close)
    resolver = NextHopResolver(kernel, tunnel_interface=tunnel)
    listeners = _Listeners()
    routing = _routing(configuration, host, tunnel)
    tunnels = _tunnels(
        configuration,
        routing,
        engine,
        resolver,
        shield,
        associations=associations,
        peers=_peer_routing(configuration, host, tunnel),
    )
    tunnels.publish()
    sequences.start(associations)
    stack.callback(_stop_sequences, sequences)
    if isinstance(routing, MobileNodeRouting):
        routing.start()
    sender = Sender(engine)
    stack.callback(sender.close)
    executor = Executor(
        kernel=kernel,
        host=host,
        tunnels=tunnels,
        routing=routing,
        sender=sender,
        store=store,
        report=lambda event: listeners.report(event),
        finish=lambda: listeners.finish(),
    )
    return {
        "resolver": resolver,
        "tunnels": tunnels,
        "shield": shield,
        "sequences": sequences,
        "executor": executor,
        "listeners": listeners,
    }


def _tunnels(
    configuration: Configuration,
    routing: MobileNodeRouting | HomeAgentRouting | None,
    engine: Datapath,
    resolver: NextHopResolver,
    shield: Shield,
    *,
    associations: tuple[SecurityAssociation, ...],
    peers: PeerRouting,
) -> TunnelKeeper:
    def mtu_changed(home_address: IPv6Address, mtu: int) -> None:
        with contextlib.suppress(OSError):
            if isinstance(routing, MobileNodeRouting):
                routing.tunnel_mtu_changed(mtu)
            elif routing is not None:
                routing.tunnel_mtu_changed(home_address, mtu)

    node = configuration.mobile_node
    if isinstance(routing, MobileNodeRouting) and node is not None:
        optimized = OptimizedPaths(
            resolver,
            home_address=node.home_address,
            set_peer_route=peers.mtu_changed,
            set_direct_route=routing.direct_path_mtu_changed,
        )
    else:
        optimized = OptimizedPaths(resolver, set_peer_route=peers.mtu_changed)
    return TunnelKeeper(
        datapath=engine,
        resolver=resolver,
        shield=shield,
        associations=associations,
        end=TunnelEnd.HOME_AGENT if node is None else TunnelEnd.MOBILE_NODE,
        mtu_changed=mtu_changed,
        optimized=optimized,
    )


def _stop_sequences(sequences: SequenceKeeper) -> None:
    try:
        sequences.stop()
    except OSError as error:
        logger.error("failed to note the sequence numbers: %s", error)


def _routing(
    configuration: Configuration, host: HostState, tunnel: int
) -> MobileNodeRouting | HomeAgentRouting | None:
    """None for a correspondent, which has neither a home address nor tunnels."""
    node = configuration.mobile_node
    if node is None:
        if configuration.home_agent is None:
            return None
        return HomeAgentRouting(host, tunnel_interface=tunnel)
    return MobileNodeRouting(
        host,
        home_address=node.home_address,
        tunnel_interface=tunnel,
        table=configuration.host.route_table,
        priority=configuration.host.rule_priority,
        new_connections=node.new_connections is NewConnections.HOME_ADDRESS,
    )


def _peer_routing(configuration: Configuration, host: HostState, tunnel: int) -> PeerRouting:
    node = configuration.mobile_node
    _, (table, priority) = _tables(configuration)
    return PeerRouting(
        host,
        tunnel_interface=tunnel,
        table=table,
        priority=priority,
        home_address=None if node is None else node.home_address,
        new_connections=(node is not None and node.new_connections is NewConnections.HOME_ADDRESS),
    )


def _tables(configuration: Configuration) -> tuple[tuple[int, int], tuple[int, int]]:
    """The route tables, each with its rule's priority: the home address's, and mobile peers',
    which is looked at first."""
    host = configuration.host
    return (
        (host.route_table, host.rule_priority),
        (host.route_table + 1, host.rule_priority - 1),
    )


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


def _home_agent_address(configuration: Configuration) -> IPv6Address | None:
    """None for a correspondent, which knows none."""
    if configuration.mobile_node is not None:
        return configuration.mobile_node.home_agent
    return None if configuration.home_agent is None else configuration.home_agent.address


def _own_addresses(configuration: Configuration) -> frozenset[IPv6Address]:
    if configuration.mobile_node is not None:
        return frozenset({configuration.mobile_node.home_address})
    if configuration.home_agent is not None:
        return frozenset({configuration.home_agent.address})
    return frozenset()
