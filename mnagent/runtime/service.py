"""The daemon: owns the event loop, every descriptor and the `Agent`, and tidies up behind itself.

Everything that touches the agent runs in callbacks of one event loop, one after the other. Events
that actions bring about (`ActionFailed`) are queued behind those that are there already.

A stop (SIGTERM, SIGINT, the control socket) tells the agent, gives it `STOP_PATIENCE` to
deregister, and puts the host back as it was. The tunnel device with the home address goes too,
unless ``host.keep_tunnel_interface`` asks to keep it for sockets to survive a planned restart;
after a crash it is there in any case and the next start adopts it. A second signal does not wait
for the deregistration.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import random
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from ipaddress import IPv6Address
from typing import Any

from mnagent.agent.reconfiguration import Reconfiguration
from mnagent.config import Configuration, ConfigurationError, Role, load
from mnagent.control.lock import AlreadyRunning, DaemonLock
from mnagent.control.metrics import MetricsServer
from mnagent.control.schema import ControlEvent
from mnagent.control.server import ControlServer, Refused
from mnagent.core.actions import Action, ReportEvent
from mnagent.core.events import (
    Association,
    AssociationChanged,
    DatagramReceived,
    Event,
    LinkDown,
    LinkKind,
    LinkUp,
    ShutdownRequested,
    SignalMeasured,
    TrafficSeen,
    TunnelActivity,
)
from mnagent.core.timers import Timers, earliest
from mnagent.datapath import Traffic
from mnagent.ipsec.keys import KeySet
from mnagent.link.messages import AddressMessage, LinkMessage, Message, Overrun
from mnagent.link.monitor import LinkMonitor
from mnagent.link.signal import Scan, SignalWatch
from mnagent.link.wireless import (
    AccessPointMessage,
    AssociationChange,
    AssociationMessage,
    SignalMessage,
)
from mnagent.runtime import process
from mnagent.runtime.assembly import (
    AgentBuilder,
    Assembly,
    StartError,
    assemble,
    virtual_prefixes,
)
from mnagent.runtime.former_links import FormerLinks
from mnagent.runtime.journal import SYNC_INTERVAL
from mnagent.runtime.kernel import ROUTE_PROTOCOL
from mnagent.runtime.loop import BootTimer
from mnagent.runtime.multicast import GroupForwarder
from mnagent.runtime.netlink import NotificationSocket
from mnagent.runtime.next_hop import VERIFY_INTERVAL
from mnagent.runtime.reload import (
    Change,
    ReloadRefused,
    associations_of,
    merged,
    outbound_without,
    read_change,
)
from mnagent.runtime.sequences import CHECK_INTERVAL
from mnagent.runtime.sockets import TUNNEL_PROTOCOLS, PathMtuListener
from mnagent.runtime.supplicant import ask_to_scan
from mnagent.runtime.suspend import ClockJumpWatch, SleepDetector
from mnagent.runtime.wireless import WirelessSocket

logger = logging.getLogger(__name__)

STOP_PATIENCE = 3.0
"""Seconds the agent has to deregister."""
REFRESH_DELAY = 0.02
"""Seconds that route changes are gathered before paths are asked for again."""
REFRESH_PAUSE = 0.005
"""Seconds between two lots of paths, for everything else that waits."""
ASSOCIATIONS = {
    AssociationChange.CONNECTED: Association.CONNECTED,
    AssociationChange.ROAMED: Association.ROAMED,
    AssociationChange.DISCONNECTED: Association.DISCONNECTED,
}
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
ACTIVITY_INTERVAL = 1.0
"""Seconds between two looks at what the tunnel carried."""
FIRST_PACKET_PATIENCE = 3.0
"""Seconds after a movement, or a change to a direct path, during which the first packets are looked
for more often."""
FIRST_PACKET_SHARE = 0.02
"""Of the time since the movement: how exactly their time is known, and what it may cost."""
MIN_ACTIVITY_INTERVAL = 0.001
MISSING_INTERFACE = "It is used as soon as it is there; `ip link` lists those that are."
EXIT_STOPPED = 0
EXIT_START_FAILED = 1
EXIT_ALREADY_RUNNING = 3
EXIT_CRASHED = 4


def run(
    configuration: Configuration,
    *,
    build: AgentBuilder | None = None,
    reread: Callable[[], Configuration] | None = None,
    key_sets: tuple[KeySet, ...] | None = None,
) -> int:
    """Run the daemon until it is told to stop; returns the exit status (see the module's
    constants).

    ``build`` makes another agent than the configured one, for tests. ``reread`` reads the
    configuration anew, for a reload; by default from the file it came from. ``key_sets`` are those
    of the configuration, where they have been read already.
    """
    _set_up_logging(configuration.host.log_level.value)
    try:
        process.require_capabilities()
        with DaemonLock(configuration.host.control_socket) as lock:
            again = reread or partial(load, configuration.path)
            start = partial(assemble, configuration, build=build, key_sets=key_sets)
            return asyncio.run(_run(configuration, lock, start, reread=again))
    except (AlreadyRunning, process.StateInUse) as error:
        logger.error("%s", error)
        return EXIT_ALREADY_RUNNING
    except (StartError, ConfigurationError) as error:
        logger.error("%s", error)
        return EXIT_START_FAILED
    except OSError as error:
        logger.error("failed to start: %s", process.reason_of(error))
        return EXIT_START_FAILED


async def _run(
    configuration: Configuration,
    lock: DaemonLock,
    start: Callable[..., Assembly],
    *,
    reread: Callable[[], Configuration],
) -> int:
    process.be_prompt()
    signals: list[int] = []
    for number in (*STOP_SIGNALS, signal.SIGHUP):
        # One that came while the host is half changed would leave it so.
        asyncio.get_running_loop().add_signal_handler(number, signals.append, number)
    with contextlib.ExitStack() as stack:
        assembly = start(stack, entropy=random.SystemRandom())
        service = Service(configuration, assembly, stack, lock=lock, reread=reread)
        return await service.run(signals)


def _set_up_logging(level: str) -> None:
    """To standard error; the service manager adds time and priority."""
    timed = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format=f"{timed}%(levelname)s %(message)s",
        force=True,
    )


def _expected_interfaces(configuration: Configuration) -> tuple[str, ...]:
    """Besides those that are used because they are named."""
    agent = configuration.home_agent
    return () if agent is None or agent.home_link is None else (agent.home_link,)


def traffic_seen(traffic: Traffic) -> TrafficSeen:
    """The engine's report as the machines' event."""
    return TrafficSeen(
        local=traffic.local,
        peer=traffic.peer,
        packets_in=traffic.packets_in,
        packets_out=traffic.packets_out,
        destination_port=traffic.destination_port,
        protocol=traffic.protocol,
        direct=traffic.direct,
        direct_in=traffic.direct_in,
    )


class Service:
    """A running daemon."""

    def __init__(
        self,
        configuration: Configuration,
        assembly: Assembly,
        stack: contextlib.ExitStack,
        *,
        lock: DaemonLock,
        reread: Callable[[], Configuration],
    ) -> None:
        self._configuration = configuration
        self._reread = reread
        self._reloading = asyncio.Lock()
        self._parts = assembly
        self._stack = stack
        self._clock = assembly.clock
        self._agent = assembly.agent
        self._loop = asyncio.get_running_loop()
        self._timer = BootTimer(self._loop, self._on_timer)
        stack.callback(self._timer.close)
        self._timers: Timers[str] = Timers()
        self._pending: deque[Event] = deque()
        self._handling = False
        self._stopping = False
        self._done = asyncio.Event()
        self._exit_status = EXIT_STOPPED
        self._attached: set[int] = set()
        self._present: set[int] = set()
        """All interfaces there were when they were read last."""
        self._had_link: set[int] = set()
        self._former_links = FormerLinks()
        self._addresses: dict[tuple[int, IPv6Address], AddressMessage] = {}
        self._missing: tuple[str, ...] = ()
        self._control = ControlServer(configuration.host.control_socket, self, lock=lock)
        self._started_at = self._clock.now()
        self._wireless: WirelessSocket | None = None
        node = configuration.mobile_node
        self._signals = SignalWatch(
            threshold=-math.inf if node is None else node.weak_signal,
            scans=node is not None and node.scan_when_weak,
        )
        self._metrics = (
            MetricsServer(configuration.host.metrics_port, self.status)
            if configuration.host.metrics_port
            else None
        )
        self._activity: dict[IPv6Address, tuple[int, int]] = {}
        self._moved_at = self._started_at
        self._awaited: dict[IPv6Address, tuple[int, int]] | None = None
        self._is_direct_awaited = False
        self._journal_sync: asyncio.Task[None] | None = None
        self._hangup: asyncio.Task[None] | None = None
        self._manager = process.ServiceManager(dict(os.environ))
        self._monitor = LinkMonitor(
            assembly.interface_names,
            ignored=(configuration.host.tunnel_interface,),
            own_protocol=ROUTE_PROTOCOL,
            expected=_expected_interfaces(configuration),
        )

    async def run(self, signals: Sequence[int] = ()) -> int:
        """Start, serve until done, stop. ``signals`` are those that came already, and come until we
        listen to them."""
        self._parts.on_report(self._report)
        self._parts.on_finish(self._done.set)
        try:
            await self._control.start()
            if self._metrics is not None:
                await self._metrics.start()
            self._start()
            if not set(STOP_SIGNALS).isdisjoint(signals):
                self._guarded(self.shutdown)
            await self._done.wait()
        finally:
            self._manager.notify("STOPPING=1")
            if self._journal_sync is not None:
                await self._journal_sync
            # After a crash of ours the service manager starts us again, and sockets live on.
            crashed = self._exit_status != EXIT_STOPPED
            self._parts.device.stays = crashed or self._configuration.host.keep_tunnel_interface
            if self._metrics is not None:
                await self._metrics.stop()
            await self._control.stop()
        return self._exit_status

    # the surface for the control socket

    def status(self) -> dict[str, Any]:
        """See `mnagent.control.server.Handler.status`."""
        now = self._clock.now()
        return {
            "role": self._configuration.role.value,
            "uptime": round(now - self._started_at, 3),
            "now": now,
            "process": os.getpid(),
            "tunnel_interface": self._configuration.host.tunnel_interface,
            "engine": self._parts.engine.status(),
            "missing_interfaces": list(self._monitor.missing),
            **self._parts.snapshot(now),
            "counters": self.counters(),
        }

    def counters(self) -> dict[str, int]:
        """See `mnagent.control.server.Handler.counters`."""
        groups = self._parts.groups
        return {
            **self._agent.counters,
            **self._parts.datapath.counters(),
            "drop-former-link": self._former_links.dropped,
            **({} if groups is None else groups.counters),
        }

    def shutdown(self) -> None:
        """See `mnagent.control.server.Handler.shutdown`. The second call does not wait any
        longer."""
        if self._stopping:
            self._done.set()
            return
        self._stopping = True
        logger.info("stopping")
        self._timers.set("give-up", self._clock.now() + STOP_PATIENCE)
        self._feed([ShutdownRequested()])

    async def reload(self) -> list[str]:
        """See `mnagent.control.server.Handler.reload`."""
        async with self._reloading:
            try:
                change = await read_change(
                    self._configuration,
                    self._parts.key_sets,
                    reread=self._reread,
                    entropy=random.SystemRandom(),
                )
                if change.reconfiguration is not None:
                    self._add_associations(change)
                    self._guarded(partial(self._apply, change, change.reconfiguration))
            except ReloadRefused as error:
                logger.error("the configuration was not reloaded: %s", error)
                raise Refused(str(error)) from error
        details = (("changed", ", ".join(change.keys) or "nothing"),)
        self._report(ReportEvent(name="configuration-reloaded", details=details))
        return list(change.keys)

    def _add_associations(self, change: Change) -> None:
        """Old and new ones are there together while the agent says goodbye and hello."""
        parts, old = self._parts, self._parts.tunnels.associations
        known = set(old)
        parts.tunnels.set_associations(merged(old, change.associations))
        parts.tunnels.flush()
        try:
            parts.sequences.start(each for each in change.associations if each not in known)
        except (OSError, ValueError) as error:
            parts.tunnels.set_associations(old)
            parts.tunnels.flush()
            raise ReloadRefused(f"failed to reserve sequence numbers: {error}") from error

    def _apply(self, change: Change, reconfiguration: Reconfiguration) -> None:
        parts = self._parts
        old, new = associations_of(parts.key_sets), change.associations
        self._perform(self._agent.reconfigure(reconfiguration, self._clock.now()))
        parts.sequences.retire(each.spi for each in outbound_without(old, new))
        parts.tunnels.set_associations(new)
        if parts.home_agent_routing is not None:
            parts.home_agent_routing.set_virtual_prefixes(virtual_prefixes(change.configuration))
        self._configuration, parts.key_sets = change.configuration, change.key_sets
        logging.getLogger().setLevel(change.configuration.host.log_level.value.upper())
        self._feed(())

    def bindings(self, after: IPv6Address | None, limit: int) -> dict[str, Any]:
        """See `mnagent.control.server.Handler.bindings`."""
        now = self._clock.now()
        page = self._agent.bindings(after, limit, now)
        if page is None:
            raise Refused("this is no home agent")
        return {"now": now, **page.to_json()}

    def delete_binding(self, home_address: IPv6Address) -> None:
        """See `mnagent.control.server.Handler.delete_binding`."""
        actions = self._agent.delete_binding(home_address, self._clock.now())
        if actions is None:
            raise Refused(f"{home_address} has no binding here")
        self._perform(actions)
        self._feed(())

    def ask_to_switch(
        self, home_addresses: tuple[IPv6Address, ...], home_agents: tuple[IPv6Address, ...]
    ) -> tuple[IPv6Address, ...]:
        """See `mnagent.control.server.Handler.ask_to_switch`."""
        now = self._clock.now()
        asked, actions = self._agent.ask_to_switch(home_addresses, home_agents, now)
        if home_addresses and not asked:
            raise Refused("none of these has a binding here that IPsec protects")
        self._perform(actions)
        self._feed(())
        return asked

    # start

    def _start(self) -> None:
        # To the very end: a signal that came while the host is put back would leave it half so.
        for number in STOP_SIGNALS:
            self._loop.add_signal_handler(number, self._guarded, self.shutdown)
        self._loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        has_many_routes = self._configuration.role is Role.HOME_AGENT
        self._notifications = NotificationSocket(
            ignoring_routes_of=self._parts.kernel.port if has_many_routes else None
        )
        self._stack.callback(self._notifications.close)
        self._add_reader(self._notifications.fileno(), self._on_notifications)
        self._add_reader(self._parts.wake_descriptor, self._on_handed_up)
        self._follow_wireless()
        self._sleep = SleepDetector()
        self._clock_jumps = ClockJumpWatch(self._loop, partial(self._guarded, self._on_clock_jump))
        self._stack.callback(self._clock_jumps.close)
        for protocol in TUNNEL_PROTOCOLS:
            listener = PathMtuListener(protocol)
            self._stack.callback(listener.close)
            self._add_reader(listener.fileno(), partial(self._on_path_error, listener))
        self._follow_groups()
        self._parts.dhcp.opened = self._watch_dhcp
        self._parts.dhcp.closing = self._unwatch
        now = self._clock.now()
        self._timers.set("verify", now + VERIFY_INTERVAL)
        self._timers.set("sequences", now + CHECK_INTERVAL)
        if self._parts.takeover is not None:
            self._timers.set("activity", now + ACTIVITY_INTERVAL)
        if self._manager.watchdog_interval is not None:
            self._timers.set("watchdog", now)
        self._parts.datapath.start()
        self._stack.callback(self._parts.datapath.stop)
        self._guarded(self._resynchronize)
        process.settle_memory()
        self._manager.notify("READY=1")
        logger.info("started as %s", self._configuration.role.value)

    def _add_reader(self, descriptor: int, callback: Callable[[], None]) -> None:
        self._loop.add_reader(descriptor, self._guarded, callback)
        self._stack.callback(self._loop.remove_reader, descriptor)

    def _follow_groups(self) -> None:
        groups, memberships = self._parts.groups, self._parts.memberships
        if groups is not None:
            self._add_reader(groups.tunnels, groups.receive_from_tunnels)
            groups.opened = partial(self._watch_groups, groups)
            groups.closing = self._unwatch
        if memberships is not None:
            self._add_reader(memberships.fileno(), lambda: self._feed(memberships.receive()))

    def _watch_groups(self, groups: GroupForwarder, descriptor: int) -> None:
        self._loop.add_reader(descriptor, self._guarded, groups.receive_from_home_link)

    def _unwatch(self, descriptor: int) -> None:
        self._loop.remove_reader(descriptor)

    def _watch_dhcp(self, interface: int, descriptor: int) -> None:
        def receive() -> None:
            self._feed(self._parts.dhcp.receive(interface))

        self._loop.add_reader(descriptor, self._guarded, receive)

    def _guarded(self, callback: Callable[[], None]) -> None:
        """An exception in a callback is our bug: crash loudly, but put the host back first."""
        try:
            callback()
        except Exception:
            logger.exception("the agent crashed")
            self._exit_status = EXIT_CRASHED
            self._done.set()

    def _on_hangup(self) -> None:
        self._hangup = self._loop.create_task(self._reload_quietly())

    async def _reload_quietly(self) -> None:
        try:
            await self.reload()
        except Refused:
            pass  # the log has it
        except Exception:
            logger.exception("the configuration was not reloaded")

    # the agent

    def _feed(self, events: Iterable[Event]) -> None:
        self._pending.extend(events)
        if self._handling:
            return
        self._handling = True
        try:
            while self._pending:
                event = self._pending.popleft()
                self._before(event)
                self._perform(self._agent.handle(event, self._clock.now()))
                self._after(event)
            self._parts.tunnels.flush()
            self._flush_journal()
        finally:
            self._handling = False
            self._arm()

    def _flush_journal(self) -> None:
        self._parts.journal.flush()
        if self._parts.journal.is_dirty and "journal" not in self._timers:
            self._timers.set("journal", self._clock.now() + SYNC_INTERVAL)

    async def _sync_journal(self) -> None:
        """In a thread: a slow card holds up nobody."""
        failure = None
        try:
            await asyncio.to_thread(self._parts.journal.begin_sync())
        except OSError as error:
            failure = error
        self._parts.journal.end_sync(failure)

    def _before(self, event: Event) -> None:
        """What the tunnel carried up to now was of the former link, and so is what came."""
        if isinstance(event, (LinkUp, LinkDown)):
            self._note_activity()
        if isinstance(event, LinkUp):
            self._former_links.came_up(event.interface, time.clock_gettime_ns(time.CLOCK_REALTIME))

    def _after(self, event: Event) -> None:
        """The routers have been asked; before their answer is acted on, the kernel's knowledge of
        the former link goes."""
        if not isinstance(event, (LinkUp, LinkDown)):
            return
        if isinstance(event, LinkDown):
            self._signals.left(event.interface)
        elif event.kind is LinkKind.WIFI and self._wireless is not None:
            self._signals.associated(event.interface, event.name, self._clock.now())
        if event.interface in self._had_link and self._parts.takeover is not None:
            self._parts.takeover.link_changed(event.interface)
        self._had_link.add(event.interface)

    def _perform(self, actions: list[Action]) -> None:
        self._pending.extend(self._parts.executor.perform(actions))

    def _arm(self) -> None:
        self._timer.arm(
            earliest(
                self._agent.next_deadline(),
                self._monitor.next_deadline(),
                self._signals.next_deadline(),
                self._timers.next_deadline(),
            )
        )

    def _on_timer(self) -> None:
        self._guarded(self._run_timers)

    def _run_timers(self) -> None:
        now = self._clock.now()
        deadline = self._agent.next_deadline()
        if deadline is not None and deadline <= now:
            self._perform(self._agent.handle_timer(now))
        self._pending.extend(self._monitor.handle_timer(now))
        self._ask_wireless(now)
        for name in self._timers.due(now):
            self._on_own_timer(name, now)
        self._feed(())

    def _on_own_timer(self, name: str, now: float) -> None:
        if name == "verify":
            self._parts.resolver.verify()
            self._parts.tunnels.refresh()  # the kernel does not tell of path MTUs that expired
            self._timers.set("verify", now + VERIFY_INTERVAL)
        elif name == "sequences":
            self._check_sequences()
            self._timers.set("sequences", now + CHECK_INTERVAL)
        elif name == "refresh":
            self._parts.tunnels.refresh()
            if self._parts.resolver.is_behind:
                self._timers.set("refresh", now + REFRESH_PAUSE)
        elif name == "activity":
            self._pending.extend(self._read_activity())
            self._pending.extend(self._read_traffic())
            self._timers.set("activity", now + self._activity_interval(now))
        elif name == "journal":
            self._journal_sync = self._loop.create_task(self._sync_journal())
        elif name == "watchdog":
            self._manager.notify("WATCHDOG=1")
            self._timers.set("watchdog", now + (self._manager.watchdog_interval or 1.0))
        elif name == "give-up":
            logger.warning("no answer to the deregistration; leaving without it")
            self._done.set()

    # what the tunnel carries

    def _note_activity(self) -> None:
        """Told at once, ahead of what is being handled: what comes later is of the new link."""
        for event in self._read_activity():
            self._perform(self._agent.handle(event, self._clock.now()))

    def _read_activity(self) -> list[Event]:
        """What changed since the last look."""
        before, self._activity = self._activity, self._parts.datapath.activity()
        return [
            TunnelActivity(home_address=home, packets_out=counts[0], packets_in=counts[1])
            for home, counts in self._activity.items()
            if before.get(home) != counts
        ]

    def _read_traffic(self) -> list[Event]:
        """What pairs of addresses carried since the last look."""
        return [traffic_seen(traffic) for traffic in self._parts.datapath.take_traffic()]

    def _activity_interval(self, now: float) -> float:
        """Short after a movement until something went each way, which for direct paths, of which
        there may be many, is not waited for."""
        elapsed = now - self._moved_at
        if self._awaited is None or elapsed > FIRST_PACKET_PATIENCE:
            self._awaited = None
            return ACTIVITY_INTERVAL
        if not self._is_direct_awaited and all(
            counts[0] > before[0] and counts[1] > before[1]
            for home, counts in self._activity.items()
            for before in (self._awaited.get(home, (0, 0)),)
        ):
            self._awaited = None
            return ACTIVITY_INTERVAL
        return max(MIN_ACTIVITY_INTERVAL, elapsed * FIRST_PACKET_SHARE)

    def _await_first_packets(self, *, directly: bool = False) -> None:
        if self._parts.takeover is None:
            return
        self._is_direct_awaited = directly
        self._moved_at = self._clock.now()
        self._awaited = dict(self._activity)
        self._timers.set("activity", self._moved_at + MIN_ACTIVITY_INTERVAL)

    def _check_sequences(self) -> None:
        try:
            self._parts.sequences.check()
        except OSError as error:
            logger.error("failed to reserve sequence numbers: %s", error)

    def _report(self, event: ReportEvent) -> None:
        details = dict(event.details)
        if event.name == "care-of-address-ready":
            self._await_first_packets()
        elif event.name == "direct-path":
            self._await_first_packets(directly=True)
        level = logging.WARNING if event.warning else logging.INFO
        if logger.isEnabledFor(level):
            text = " ".join(f"{name}={value}" for name, value in details.items())
            logger.log(level, "%s %s", event.name, text)
        self._control.publish(
            ControlEvent(
                name=event.name, at=self._clock.now(), details=details, warning=event.warning
            )
        )

    # what comes in

    def _on_handed_up(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._parts.wake_descriptor, 8)
        self._feed(self._read_traffic())
        self._feed(
            DatagramReceived(
                data=packet.data,
                interface=packet.interface,
                link_layer_source=packet.link_layer_source,
                protected_by=packet.protected_by,
                tunnel_source=packet.tunnel_source,
            )
            for packet in self._parts.datapath.take_handed_up()
            if self._former_links.admits(packet)
        )

    def _on_path_error(self, listener: PathMtuListener) -> None:
        """One path's: a home agent has very many, and who sends errors is not known."""
        if self._parts.resolver.suspect(listener.receive()):
            self._refresh_soon()
            self._arm()

    def _on_notifications(self) -> None:
        messages = self._notifications.receive()
        if any(isinstance(message, Overrun) for message in messages):
            logger.warning("netlink notifications were lost; reading everything again")
            self._resynchronize(after_loss=True)
            return
        events: list[Event] = []
        for message in messages:
            events += self._take(message)
        self._publish_addresses()
        self._note_missing()
        self._feed(events)

    def _resynchronize(self, *, after_loss: bool = False) -> None:
        kernel = self._parts.kernel
        self._monitor.resync_started()
        self._addresses.clear()
        events: list[Event] = []
        links = kernel.links()
        present = {link.interface for link in links}
        if self._parts.device.interface not in present:
            self._end_without_device()
        for interface in self._attached - present:
            self._detach(interface)
        for interface in self._present - present:
            self._parts.datapath.detach(interface)
        self._present = present
        routes = kernel.routes()
        if after_loss:
            self._parts.host.reassert(frozenset(route.identity for route in routes))
        messages: list[Message] = [*links, *kernel.addresses(), *routes]
        for message in messages:
            events += self._take(message)
        events += self._monitor.resync_finished(self._clock.now())
        self._publish_addresses()
        self._note_missing()
        self._schedule_refresh()
        self._feed(events)

    def _take(self, message: Message) -> list[Event]:
        events = self._monitor.handle(message, self._clock.now())
        if isinstance(message, LinkMessage):
            if message.removed and message.interface == self._parts.device.interface:
                self._end_without_device()
            self._follow_link(message)
        elif isinstance(message, AddressMessage):
            self._follow_address(message)
        self._parts.host.handle(message)
        if self._parts.resolver.concerns(message):
            self._schedule_refresh()
        return events

    def _end_without_device(self) -> None:
        """Routes, rules and the engine hang on it: the service manager starts us anew."""
        name = self._configuration.host.tunnel_interface
        logger.error("the tunnel interface %s was removed; nothing goes without it", name)
        self._exit_status = EXIT_CRASHED
        self._done.set()

    def _on_clock_jump(self) -> None:
        slept = self._sleep.check()
        if not slept:
            return
        details = (("seconds", f"{slept:.0f}"),)
        self._report(ReportEvent(name="resumed", details=details))
        self._resynchronize()
        self._feed(self._monitor.resumed(self._clock.now()))

    # Wi-Fi

    def _follow_wireless(self) -> None:
        if self._parts.takeover is None:
            return  # a home agent does not roam
        try:
            self._wireless = WirelessSocket()
        except OSError as error:
            logger.debug("no generic netlink: %s", error)
            return
        self._stack.callback(self._wireless.close)
        self._add_reader(self._wireless.fileno(), self._on_wireless)

    def _on_wireless(self) -> None:
        assert self._wireless is not None
        messages, lost = self._wireless.receive()
        if lost:
            logger.warning("Wi-Fi notifications were lost; taking every link for a new one")
            self._resynchronize()
            self._feed(self._monitor.resumed(self._clock.now()))
            return
        events: list[Event] = []
        for message in messages:
            if isinstance(message, SignalMessage):
                events += self._follow_signal(message)
            elif isinstance(message, AccessPointMessage):
                self._signals.heard(message)
            else:
                events += self._on_association(message)
        self._feed(events)

    def _follow_signal(self, message: SignalMessage) -> list[SignalMeasured]:
        now = self._clock.now()
        events, reports = self._signals.measured(message, now)
        for report in reports:
            self._report(report)
        self._ask_wireless(now)
        return events

    def _ask_wireless(self, now: float) -> None:
        for request in self._signals.handle_timer(now):
            if isinstance(request, Scan) and ask_to_scan(request.name, request.frequencies):
                continue
            if self._wireless is not None:
                self._wireless.send(request)

    def _on_association(self, message: AssociationMessage) -> list[Event]:
        if message.interface not in self._monitor.interfaces:
            return []
        events: list[Event] = [
            AssociationChanged(
                interface=message.interface,
                change=ASSOCIATIONS[message.change],
                access_point=message.access_point,
            )
        ]
        if message.change is AssociationChange.DISCONNECTED:
            self._monitor.dissociated(message.interface)
            return events
        # The carrier's notifications come by another socket: what we know may be older than this.
        for link in self._parts.kernel.links():
            if link.interface == message.interface:
                events += self._take(link)
        return events + self._monitor.associated(
            message.interface, self._clock.now(), access_point=message.access_point
        )

    def _schedule_refresh(self) -> None:
        self._parts.resolver.invalidate()
        self._refresh_soon()

    def _refresh_soon(self) -> None:
        if "refresh" not in self._timers:
            self._timers.set("refresh", self._clock.now() + REFRESH_DELAY)

    def _follow_link(self, message: LinkMessage) -> None:
        watched = message.interface in self._monitor.interfaces
        if watched and message.interface not in self._attached:
            self._attach(message)
        elif not watched and message.interface in self._attached:
            self._detach(message.interface)
        elif watched:
            self._parts.shield.rename(message.interface, message.name)
        elif message.removed:
            # The engine may have sent by an interface that is not among those we use.
            self._parts.datapath.detach(message.interface)

    def _attach(self, message: LinkMessage) -> None:
        try:
            if self._parts.takeover is not None:
                self._parts.takeover.take(message.interface, message.name)
            self._parts.shield.attach(message.interface, message.name)
            self._parts.datapath.attach(message.interface)
        except OSError as error:
            logger.warning("failed to use %s: %s", message.name, error)
            self._release(message.interface)
            return
        self._attached.add(message.interface)
        logger.debug("using %s", message.name)

    def _detach(self, interface: int) -> None:
        self._attached.discard(interface)
        self._had_link.discard(interface)
        self._parts.dhcp.detach(interface)
        self._release(interface)
        self._addresses = {
            key: message for key, message in self._addresses.items() if key[0] != interface
        }

    def _release(self, interface: int) -> None:
        """What `_attach` took, as far as it came."""
        if self._parts.takeover is not None:
            self._parts.takeover.forget(interface)
        self._parts.shield.detach(interface)
        with contextlib.suppress(OSError):
            self._parts.datapath.detach(interface)

    def _follow_address(self, message: AddressMessage) -> None:
        key = (message.interface, message.address)
        if message.removed or message.duplicate:
            self._addresses.pop(key, None)
        elif message.interface in self._monitor.interfaces:
            self._addresses[key] = message

    def _publish_addresses(self) -> None:
        """Once for all that was notified: in between, an address of ours may be missing."""
        local = {address for _, address in self._addresses if not address.is_link_local}
        self._parts.tunnels.set_local_addresses(frozenset(local | self._parts.own_addresses))

    def _note_missing(self) -> None:
        missing = self._monitor.missing
        if missing != self._missing:
            for name in set(missing) - set(self._missing):
                details = (("interface", name), ("sentence", MISSING_INTERFACE))
                self._report(ReportEvent(name="interface-missing", details=details, warning=True))
            for name in set(self._missing) - set(missing):
                self._report(ReportEvent(name="interface-present", details=(("interface", name),)))
            self._missing = missing
