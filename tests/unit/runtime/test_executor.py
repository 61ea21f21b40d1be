from __future__ import annotations

import errno
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest

from mnagent.core.actions import (
    Action,
    AddAddress,
    AddDefaultRouter,
    DeliverPacket,
    Finish,
    ForwardGroups,
    HoldTunnel,
    InterceptHomeAddress,
    JoinGroup,
    JournalRecord,
    LeaveGroup,
    LeaveHomeLink,
    PersistRecord,
    RemoveAddress,
    RemoveDefaultRouter,
    RemoveDirectPath,
    RemovePeerBinding,
    RemoveTunnel,
    ReportEvent,
    SendDhcpMessage,
    SendPacket,
    SendThroughTunnel,
    SetDirectPath,
    SetPeerBinding,
    SetTunnel,
    StopIntercepting,
    TunnelEnd,
    UseHomeLink,
)
from mnagent.core.events import ActionFailed
from mnagent.datapath import SequenceExhausted
from mnagent.runtime.executor import Executor
from mnagent.runtime.host import HostState
from mnagent.runtime.next_hop import NextHopResolver
from mnagent.runtime.policy_routing import HomeAgentRouting, MobileNodeRouting
from mnagent.runtime.tunnels import TunnelKeeper
from mnagent.system.clock import ManualClock
from mnagent.system.datapath import FakeDatapath
from mnagent.system.kernel import FakeKernel, LinkInformation, Path, Route
from mnagent.system.store import MemoryStore
from mnagent.wire.ipv6 import IPv6Packet, RawPayload

HOME = IPv6Address("2001:db8:1::10")
AGENT = IPv6Address("2001:db8:1::1")
CARE_OF = IPv6Address("2001:db8:a::5")
ROUTER = IPv6Address("fe80::1")
TUNNEL_INTERFACE = 9
LINK = 3
PACKET = SendPacket(packet=IPv6Packet(CARE_OF, AGENT, RawPayload(59, b"")))
ADD = AddAddress(interface=LINK, address=CARE_OF, prefix_length=64, valid_lifetime=100.0)
AT_HOME = UseHomeLink(home_address=HOME, prefix_length=64, interface=LINK, router=ROUTER)


class RememberingSender:
    def __init__(self) -> None:
        self.sent: list[SendPacket] = []
        self.failure: Exception | None = None

    def send(self, action: SendPacket) -> None:
        if self.failure is not None:
            raise self.failure
        self.sent.append(action)


class RememberingDhcp:
    def __init__(self) -> None:
        self.sent: list[SendDhcpMessage] = []

    def send(self, action: SendDhcpMessage) -> None:
        self.sent.append(action)


class RememberingTunnels:
    """Sends through tunnels, delivers, and forwards groups."""

    def __init__(self) -> None:
        self.done: list[Action] = []

    def send(self, action: SendThroughTunnel) -> None:
        self.done.append(action)

    def deliver(self, action: DeliverPacket) -> None:
        self.done.append(action)

    def set_groups(self, action: ForwardGroups) -> None:
        self.done.append(action)


class RefusingStore(MemoryStore):
    def put(self, key: str, value: str) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")


class Bench:
    """An executor over fakes, of a mobile node unless told otherwise."""

    def __init__(
        self,
        *,
        home_agent: bool = False,
        store: MemoryStore | None = None,
        multicast: RememberingTunnels | None = None,
    ) -> None:
        self.kernel = FakeKernel()
        for index in (LINK, LINK + 1):
            self.kernel.links[index] = LinkInformation(
                interface=index,
                name=f"ppp{index}",
                link_layer_address=b"",
                mtu=1500,
                needs_resolution=False,
            )
        self.datapath = FakeDatapath()
        self.host = HostState(self.kernel, ManualClock())
        self.store = store or MemoryStore()
        self.sender = RememberingSender()
        self.dhcp = RememberingDhcp()
        self.reports: list[ReportEvent] = []
        self.finished = 0
        self.silenced: list[frozenset[IPv6Address]] = []
        self.silence_fails = False
        self.notes: list[tuple[str, str | None]] = []
        self.routing: Any = HomeAgentRouting(self.host, tunnel_interface=TUNNEL_INTERFACE)
        if not home_agent:
            self.routing = MobileNodeRouting(
                self.host,
                home_address=HOME,
                tunnel_interface=TUNNEL_INTERFACE,
                table=6275,
                priority=6275,
                new_connections=True,
            )
            self.routing.start()
        self.tunnels = TunnelKeeper(
            datapath=self.datapath,
            resolver=NextHopResolver(self.kernel),
            shield=self,
            associations=(),
            end=TunnelEnd.HOME_AGENT if home_agent else TunnelEnd.MOBILE_NODE,
            mtu_changed=lambda home, mtu: None,
        )
        self.executor = Executor(
            tunnel_interface=TUNNEL_INTERFACE,
            kernel=self.kernel,
            host=self.host,
            tunnels=self.tunnels,
            routing=self.routing,
            sender=self.sender,
            dhcp=self.dhcp,
            store=self.store,
            journal=self,
            report=self.reports.append,
            finish=self._finish,
            silence=self._silence,
            through=multicast,
            groups=multicast,
        )

    def _silence(self, addresses: frozenset[IPv6Address]) -> None:
        self.silenced.append(addresses)
        if self.silence_fails:
            raise OSError(5, "no")

    def guard(self, **_: Any) -> None:
        """No shield here."""

    def note(self, key: str, value: str | None) -> None:
        """As a journal does."""
        self.notes.append((key, value))

    def _finish(self) -> None:
        self.finished += 1

    def perform(self, *actions: Any) -> list[ActionFailed]:
        failures = self.executor.perform(actions)
        self.tunnels.flush()
        return failures

    def routes(self, table: int) -> set[Route]:
        return {route for route in self.kernel.routes.values() if route.table == table}


OTHER_CARE_OF = IPv6Address("2001:db8:a::7")


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_mobile_node_starts_with_its_home_address_on_the_tunnel(bench: Bench) -> None:
    assert bench.kernel.addresses == {(TUNNEL_INTERFACE, HOME): 128}
    (rule,) = bench.kernel.rules
    assert (rule.source, rule.table, rule.chooses_source) == (HOME, 6275, True)
    (route,) = bench.routes(6275)
    assert (route.interface, route.source) == (TUNNEL_INTERFACE, HOME)


def test_address_comes_and_goes_with_its_prefix_route(bench: Bench) -> None:
    for _ in range(2):
        assert bench.perform(ADD) == []
    (route,) = bench.routes(254)
    assert (route.destination, route.lifetime) == (IPv6Network("2001:db8:a::/64"), 100)
    remove = RemoveAddress(interface=LINK, address=CARE_OF, prefix_length=64)
    for _ in range(2):
        assert bench.perform(remove) == []
    assert (LINK, CARE_OF) not in bench.kernel.addresses
    assert bench.routes(254) == set()


def test_kernel_is_silent_about_an_address_until_it_is_unique(bench: Bench) -> None:
    bench.perform(replace(ADD, optimistic=True), replace(ADD, optimistic=True))
    bench.perform(replace(ADD, address=OTHER_CARE_OF))
    bench.perform(ADD)
    assert bench.silenced == [frozenset((CARE_OF,)), frozenset()]


def test_kernel_is_not_silent_about_an_address_that_is_gone(bench: Bench) -> None:
    bench.perform(replace(ADD, optimistic=True))
    bench.perform(RemoveAddress(interface=LINK, address=CARE_OF, prefix_length=64))
    assert bench.silenced[-1] == frozenset()


def test_kernel_that_cannot_be_kept_silent_is_no_failure_of_the_address(bench: Bench) -> None:
    bench.silence_fails = True
    assert bench.perform(replace(ADD, optimistic=True)) == []
    assert bench.perform(ADD) == []


def test_prefix_route_stays_while_another_address_needs_it(bench: Bench) -> None:
    other = IPv6Address("2001:db8:a::6")
    bench.perform(ADD, replace(ADD, address=other))
    bench.perform(RemoveAddress(interface=LINK, address=CARE_OF, prefix_length=64))
    assert len(bench.routes(254)) == 1


def test_default_router_enters_main_table_and_neighbour_cache(bench: Bench) -> None:
    mac = bytes.fromhex("020000000001")
    add = AddDefaultRouter(interface=LINK, router=ROUTER, lifetime=1800.0, link_layer_address=mac)
    assert bench.perform(add, add) == []
    (route,) = bench.routes(254)
    assert (route.gateway, route.lifetime) == (ROUTER, 1800)
    assert bench.kernel.neighbours == {(LINK, ROUTER): mac}
    bench.perform(RemoveDefaultRouter(interface=LINK, router=ROUTER))
    assert bench.routes(254) == set()


def test_first_default_router_of_a_link_and_the_latest_link_are_preferred(bench: Bench) -> None:
    other, elsewhere = IPv6Address("fe80::2"), IPv6Address("fe80::3")
    bench.perform(
        AddDefaultRouter(interface=LINK, router=ROUTER, lifetime=1800.0),
        AddDefaultRouter(interface=LINK, router=other, lifetime=float("inf")),
        AddDefaultRouter(interface=LINK + 1, router=elsewhere, lifetime=1800.0),
    )
    metrics = {route.gateway: route.metric for route in bench.routes(254)}
    assert metrics[elsewhere] < metrics[ROUTER] < metrics[other]
    assert None in {route.lifetime for route in bench.routes(254)}


def test_home_link_takes_the_home_address_off_the_tunnel_route(bench: Bench) -> None:
    assert bench.perform(AT_HOME) == []
    assert bench.kernel.addresses == {(TUNNEL_INTERFACE, HOME): 128, (LINK, HOME): 64}
    assert {route.interface for route in bench.routes(6275)} == {LINK}
    assert all(route.source == HOME for route in bench.routes(254))
    for _ in range(2):
        assert bench.perform(LeaveHomeLink(home_address=HOME)) == []
    assert bench.kernel.addresses == {(TUNNEL_INTERFACE, HOME): 128}
    assert {route.interface for route in bench.routes(6275)} == {TUNNEL_INTERFACE}
    assert bench.routes(254) == set()


def test_home_link_on_another_interface_replaces_the_first(bench: Bench) -> None:
    bench.perform(AT_HOME, replace(AT_HOME, interface=4))
    assert bench.kernel.addresses == {(TUNNEL_INTERFACE, HOME): 128, (4, HOME): 64}


def test_tunnel_mtu_does_not_touch_the_route_at_home(bench: Bench) -> None:
    bench.perform(AT_HOME)
    bench.routing.tunnel_mtu_changed(HOME, 1400)
    assert {route.mtu for route in bench.routes(6275)} == {1500}
    bench.perform(LeaveHomeLink(home_address=HOME))
    assert {route.mtu for route in bench.routes(6275)} == {1400}


def test_home_agent_intercepts_by_a_host_route() -> None:
    bench = Bench(home_agent=True)
    for _ in range(2):
        assert bench.perform(InterceptHomeAddress(home_address=HOME)) == []
    (route,) = bench.routes(254)
    assert (route.destination.prefixlen, route.interface) == (128, TUNNEL_INTERFACE)
    bench.routing.tunnel_mtu_changed(HOME, 1360)
    assert {route.mtu for route in bench.routes(254)} == {1360}
    for _ in range(2):
        assert bench.perform(StopIntercepting(home_address=HOME)) == []
    assert bench.routes(254) == set()
    bench.routing.tunnel_mtu_changed(HOME, 1360)
    assert bench.routes(254) == set()


def test_rest_of_a_virtual_home_prefix_is_unreachable_as_long_as_it_is_served() -> None:
    bench = Bench(home_agent=True)
    first, second = IPv6Network("2001:db8:1::/64"), IPv6Network("2001:db8:2::/64")
    bench.routing.set_virtual_prefixes((first,))
    bench.routing.set_virtual_prefixes((first, second))
    bench.routing.set_virtual_prefixes((second,))
    (route,) = bench.kernel.routes.values()
    assert route.unreachable
    assert route.destination == second


def test_interception_that_comes_after_the_tunnel_has_its_mtu() -> None:
    bench = Bench(home_agent=True)
    bench.kernel.paths[CARE_OF] = Path(interface=LINK, neighbour=ROUTER, mtu=1500)
    tunnel = SetTunnel(end=TunnelEnd.HOME_AGENT, home_address=HOME, local=AGENT, remote=CARE_OF)
    bench.perform(tunnel, InterceptHomeAddress(home_address=HOME))
    assert {route.mtu for route in bench.routes(254)} == {1460}


def test_action_of_the_other_role_fails(bench: Bench) -> None:
    (failure,) = bench.perform(InterceptHomeAddress(home_address=HOME))
    assert failure.errno == errno.EOPNOTSUPP
    (failure,) = Bench(home_agent=True).perform(AT_HOME)
    assert failure.errno == errno.EOPNOTSUPP


def test_tunnel_actions_reach_the_engine(bench: Bench) -> None:
    bench.perform(HoldTunnel(home_address=HOME))
    assert bench.datapath.tables[-1].tunnels[0].hold
    bench.perform(RemoveTunnel(home_address=HOME))
    assert bench.datapath.tables[-1].tunnels == ()


def test_direct_path_actions_reach_the_engine(bench: Bench) -> None:
    bench.kernel.paths[AGENT] = Path(interface=LINK, neighbour=ROUTER, mtu=1500)
    path = SetDirectPath(home_address=HOME, correspondent=AGENT, care_of_address=CARE_OF)
    assert bench.perform(path) == []
    assert [entry.correspondent for entry in bench.datapath.tables[-1].direct_paths] == [AGENT]
    assert bench.perform(RemoveDirectPath(home_address=HOME, correspondent=AGENT)) == []
    assert bench.datapath.tables[-1].direct_paths == ()
    binding = SetPeerBinding(home_address=AGENT, care_of_address=CARE_OF)
    assert bench.perform(binding) == []
    assert [entry.home_address for entry in bench.datapath.tables[-1].peer_bindings] == [AGENT]
    assert bench.perform(RemovePeerBinding(home_address=AGENT)) == []
    assert bench.datapath.tables[-1].peer_bindings == ()


def test_groups_are_joined_and_left(bench: Bench) -> None:
    group = IPv6Address("ff02::1:ff00:10")
    bench.perform(JoinGroup(interface=LINK, group=group))
    assert bench.kernel.groups == {(LINK, group)}
    bench.perform(LeaveGroup(interface=LINK, group=group))
    assert bench.kernel.groups == set()


def test_report_and_finish_reach_their_listeners(bench: Bench) -> None:
    event = ReportEvent(name="hello")
    assert bench.perform(event, Finish()) == []
    assert bench.reports == [event]
    assert bench.finished == 1


def test_failure_does_not_keep_later_actions_back(bench: Bench) -> None:
    bench.kernel.failure = errno.EPERM
    failures = bench.perform(ADD, PACKET)
    assert failures == [ActionFailed(action=ADD, errno=errno.EPERM, reason="injected")]
    assert bench.sender.sent == [PACKET]


def test_nothing_is_sent_after_a_record_that_guards_packets_and_was_not_kept() -> None:
    bench = Bench(store=RefusingStore())
    record = PersistRecord(key="sequence", value="1", guards_packets=True)
    failures = bench.perform(record, PACKET)
    assert [failure.errno for failure in failures] == [errno.ENOSPC, errno.EIO]
    assert bench.sender.sent == []


def test_packets_leave_on_a_full_disk_that_takes_no_other_record() -> None:
    bench = Bench(store=RefusingStore())
    failures = bench.perform(PersistRecord(key="known-links", value="1"), PACKET)
    assert [failure.errno for failure in failures] == [errno.ENOSPC]
    assert bench.sender.sent == [PACKET]


def test_journal_record_reaches_the_journal(bench: Bench) -> None:
    assert (
        bench.perform(JournalRecord(key="a", value="1"), JournalRecord(key="b", value=None)) == []
    )
    assert bench.notes == [("a", "1"), ("b", None)]


def test_record_is_kept_before_the_packet(bench: Bench) -> None:
    assert bench.perform(PersistRecord(key="sequence", value="1"), PACKET) == []
    assert bench.store.records == {"sequence": "1"}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENETUNREACH, "network is unreachable"), errno.ENETUNREACH),
        (OSError("without a number"), errno.EIO),
        (KeyError(300), errno.ENOKEY),
        (SequenceExhausted(300), errno.EKEYEXPIRED),
    ],
)
def test_packet_that_cannot_be_sent_fails(bench: Bench, error: Exception, code: int) -> None:
    bench.sender.failure = error
    (failure,) = bench.perform(PACKET)
    assert (failure.action, failure.errno) == (PACKET, code)


def test_dhcp_message_goes_to_its_sockets() -> None:
    bench = Bench()
    message = SendDhcpMessage(interface=LINK, data=b"solicit")
    assert bench.perform(message) == []
    assert bench.dhcp.sent == [message]


MULTICAST: tuple[Action, ...] = (
    SendThroughTunnel(home_address=HOME, packet=PACKET.packet),
    DeliverPacket(data=b"query"),
    ForwardGroups(home_address=HOME, groups=(IPv6Address("ff0e::1"),)),
)


def test_multicast_goes_to_who_carries_it() -> None:
    carrier = RememberingTunnels()
    assert Bench(multicast=carrier).executor.perform(MULTICAST) == []
    assert carrier.done == [*MULTICAST]


@pytest.mark.parametrize("action", MULTICAST)
def test_multicast_without_who_carries_it_fails(action: Action) -> None:
    (failure,) = Bench().executor.perform([action])
    assert (failure.action, failure.errno) == (action, errno.EOPNOTSUPP)
