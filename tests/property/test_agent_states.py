"""A mobile node's whole agent, told anything at any time, keeps its word.

Links flap, routers come, resign and contradict each other, home agents answer whatever they like,
the machine sleeps for a day. Nothing raises, no timer spins, every home address is where the node
is, and a stop leaves nothing behind.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv6Address
from random import Random
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from mnagent.agent.build import build_agent
from mnagent.agent.roles import MobileNodeRole
from mnagent.core.actions import (
    Action,
    AddAddress,
    AddDefaultRouter,
    Finish,
    HoldTunnel,
    JoinGroup,
    LeaveGroup,
    LeaveHomeLink,
    RemoveAddress,
    RemoveDefaultRouter,
    RemoveDirectPath,
    RemoveTunnel,
    SendPacket,
    SendThroughTunnel,
    SetDirectPath,
    SetTunnel,
    UseHomeLink,
)
from mnagent.core.events import (
    ActionFailed,
    AddressAppeared,
    AddressVanished,
    DatagramReceived,
    DefaultRouterAppeared,
    DefaultRouterVanished,
    Event,
    LinkCause,
    LinkDown,
    LinkKind,
    LinkUp,
    ShutdownRequested,
    SignalMeasured,
    TrafficSeen,
    TunnelActivity,
)
from mnagent.ipsec.keys import generate_pair, load_key_file
from mnagent.ipsec.purpose import Purpose
from mnagent.mobility.home_link import HomeLinkState
from mnagent.mobility.home_registration import RegistrationState
from mnagent.mobility.mobile_node import MobileNode
from mnagent.mobility.movement import AtHome, Away
from mnagent.wire.icmp6 import DestinationUnreachable, PacketTooBig, ParameterProblem
from mnagent.wire.ipv6 import IPv6Packet, Type2RoutingHeader
from mnagent.wire.mobility import (
    BindingError,
    BindingRefreshRequest,
    BindingRevocationIndication,
    BindingUpdate,
    CareOfTest,
    CareOfTestInit,
    HomeAgentSwitch,
    HomeTest,
    HomeTestInit,
    MobilityMessage,
)
from mnagent.wire.mobility_options import BindingRefreshAdvice
from mnagent.wire.ndisc import NeighborAdvertisement, NeighborSolicitation, TargetLinkLayerAddress
from mnagent.wire.packet import encode_packet
from tests.support.packets import binding_acknowledgement, router_advertisement
from tests.support.topology import CORRESPONDENT, HOME_ADDRESS, HOME_AGENT, configuration_of

SECOND_HOME_ADDRESS = IPv6Address("2001:db8:1::11")
SECOND_HOME_AGENT = IPv6Address("2001:db8:1::2")
HOME_ADDRESSES = (HOME_ADDRESS, SECOND_HOME_ADDRESS)
HOME_AGENTS = (HOME_AGENT, SECOND_HOME_AGENT)
INTERFACES = {2: "eth0", 3: "eth1"}
PREFIXES = tuple(f"2001:db8:{each}::/64" for each in ("1", "1", "2", "a", "b", "e"))
STATUSES = (0, 0, 0, 0, 1, 2, 127, 128, 129, 131, 133, 134, 135, 136, 144, 174, 255)
MAX_TIMERS_IN_AN_INSTANT: Final = 40
_SOMEWHERE = (RegistrationState.UNREGISTERED, RegistrationState.DEREGISTERING)


class Machine:
    """The agent, what the host has of it, and everybody around."""

    def __init__(self, random: Random) -> None:
        self.random = random
        keys = [
            load_key_file(generate_pair(home, agent, random_bytes=random.randbytes)[0])
            for agent in HOME_AGENTS
            for home in HOME_ADDRESSES
        ]
        places = [(agent, home) for agent in HOME_AGENTS for home in HOME_ADDRESSES]
        self._inbound = {
            place: each.pairs[Purpose.BINDING].inbound.spi
            for place, each in zip(places, keys, strict=True)
        }
        self.agent = build_agent(
            _configuration(random), random=Random(1), persisted={}, associations=keys
        )
        self.now = 1000.0
        self.updates: list[SendPacket] = []
        self.tests: list[IPv6Packet] = []
        self.failing: list[Action] = []
        self.configured: set[tuple[Any, ...]] = set()
        self.groups: Counter[tuple[int, IPv6Address]] = Counter()
        self.finished = 0

    # What the host does.

    def tell(self, event: Event) -> None:
        """Hand an event in, and do what comes out."""
        self._do(self.agent.handle(event, self.now))

    def advance(self, duration: float) -> None:
        """Let time pass, each timer at its instant."""
        end, in_an_instant = self.now + duration, 0
        while (deadline := self.agent.next_deadline()) is not None and deadline <= end:
            in_an_instant = in_an_instant + 1 if deadline <= self.now else 0
            assert in_an_instant < MAX_TIMERS_IN_AN_INSTANT, "a timer spins"
            self.now = max(self.now, deadline)
            self._do(self.agent.handle_timer(self.now))
        self.now = end

    def sleep(self, duration: float) -> None:
        """All that was due meanwhile is due at once."""
        self.now += duration
        self.advance(0.0)

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            if self.random.random() < 0.1:
                self.failing = [*self.failing[-9:], action]
            self._take(action)

    def _take(self, action: Action) -> None:
        match action:
            case SendPacket() | SendThroughTunnel():
                self._note_packet(action)
            case AddAddress() | AddDefaultRouter() | SetDirectPath():
                self.configured.add(_key(action))
            case SetTunnel() | HoldTunnel() | UseHomeLink():
                self.configured.add(_key(action))
            case RemoveAddress() | RemoveDefaultRouter():
                assert _key(action) in self.configured, "what was never there is taken off"
                self.configured.discard(_key(action))
            case RemoveDirectPath() | RemoveTunnel() | LeaveHomeLink():
                self.configured.discard(_key(action))
            case JoinGroup():
                self.groups[(action.interface, action.group)] += 1
            case LeaveGroup():
                self.groups[(action.interface, action.group)] -= 1
                assert self.groups[(action.interface, action.group)] >= 0, "never joined"
            case Finish():
                self.finished += 1

    def _note_packet(self, action: SendPacket | SendThroughTunnel) -> None:
        encode_packet(action.packet)
        if isinstance(action.packet.payload, HomeTestInit | CareOfTestInit):
            self.tests = [*self.tests[-7:], action.packet]
        elif isinstance(action, SendPacket) and isinstance(action.packet.payload, BindingUpdate):
            self.updates = [*self.updates[-7:], action]

    # What must hold after each event.

    @property
    def nodes(self) -> tuple[MobileNode, ...]:
        role = self.agent.role
        assert isinstance(role, MobileNodeRole)
        return role.home_addresses.nodes

    def check(self) -> None:
        self.agent.snapshot(self.now)
        assert len({str(node.attachment) for node in self.nodes}) == 1, "in one place"
        for node in self.nodes:
            if node.registration.state is not RegistrationState.ADDRESS_DUPLICATE:
                _check(node)
            assert node.tunnel_address is None or isinstance(node.attachment, Away)

    # What happens around it.

    def link(self) -> None:
        index = self.random.choice((2, 2, 3))
        if self.random.random() < 0.3:
            self.tell(LinkDown(interface=index))
            return
        event = LinkUp(
            interface=index,
            name=INTERFACES[index],
            link_layer_address=bytes((2, 0, 0, 0, 0, 16 + index)),
            kind=self.random.choice(list(LinkKind)),
            cause=self.random.choice(list(LinkCause)),
            access_point=self.random.choice((b"", b"\1" * 6, b"\3" * 6)),
        )
        self.tell(event)

    def router(self) -> None:
        random = self.random
        packet = router_advertisement(
            IPv6Address(f"fe80::{random.randint(1, 3):x}"),
            *random.sample(PREFIXES, random.randint(1, 2)),
            mac=random.choice((self._neighbor(), None)),
            lifetime=random.choice((1800, 1800, 30, 0)),
            valid=random.choice((3600, 7200, 60, 4, 0, math.inf)),
            preferred=random.choice((1800, 30, 0, math.inf)),
            managed=random.random() < 0.1,
        )
        self._receive(packet)

    def neighbor(self) -> None:
        random = self.random
        mac = self._neighbor()
        target = random.choice((*HOME_ADDRESSES, self._care_of(), IPv6Address("fe80::1")))
        if random.random() < 0.5:
            options = (TargetLinkLayerAddress(mac),)
            own = IPv6Address("fe80::12")
            reply = NeighborAdvertisement(target, router=True, solicited=True, options=options)
            self._receive(IPv6Packet(target, own, reply, hop_limit=255), mac=mac)
        else:
            group = IPv6Address(int(IPv6Address("ff02::1:ff00:0")) | int(target) & 0xFFFFFF)
            source = random.choice((IPv6Address("::"), IPv6Address("fe80::2")))
            asking = NeighborSolicitation(target)
            self._receive(IPv6Packet(source, group, asking, hop_limit=255), mac=mac)

    def own_address(self) -> None:
        index = self.random.choice(tuple(INTERFACES))
        address = IPv6Address(f"fe80::{16 + index:x}")
        if self.random.random() < 0.3:
            gone = self.random.choice((address, self._care_of()))
            self.tell(AddressVanished(interface=index, address=gone))
            return
        event = AddressAppeared(
            interface=index,
            address=address,
            prefix_length=64,
            tentative=self.random.random() < 0.2,
            duplicate=self.random.random() < 0.1,
        )
        self.tell(event)

    def kernel(self) -> None:
        """The kernel, or another daemon, configures the interface."""
        random = self.random
        index = random.choice((2, 2, 3))
        router = IPv6Address(f"fe80::{random.randint(1, 3):x}")
        address = IPv6Address(random.choice(PREFIXES).removesuffix("/64")) + 16 + index
        lifetime = random.choice((None, 4.0, 60.0, 3600.0))
        appeared = AddressAppeared(
            interface=index,
            address=address,
            prefix_length=64,
            tentative=random.random() < 0.2,
            deprecated=random.random() < 0.1,
            duplicate=random.random() < 0.1,
            valid_lifetime=lifetime,
            preferred_lifetime=lifetime,
        )
        events = (
            *(appeared, appeared, AddressVanished(interface=index, address=address)),
            *(DefaultRouterAppeared(interface=index, router=router),) * 2,
            DefaultRouterVanished(interface=index, router=router),
        )
        self.tell(random.choice(events))

    def acknowledge(self) -> None:
        random = self.random
        if not self.updates:
            return
        action = self.updates[-1] if random.random() < 0.8 else random.choice(self.updates)
        packet, update = action.packet, action.packet.payload
        assert isinstance(update, BindingUpdate)
        home_address = packet.logical_source
        is_home = packet.source == home_address
        advice = (BindingRefreshAdvice(random.choice((0, 4, 262140))),)
        answer = binding_acknowledgement(
            packet.destination,
            home_address,
            care_of_address=None if is_home else packet.source,
            sequence=update.sequence if random.random() < 0.9 else random.randrange(65536),
            status=random.choice(STATUSES),
            lifetime=random.choice((update.lifetime, update.lifetime, 0, 4, 262140)),
            options=advice if random.random() < 0.2 else (),
        )
        self._receive(answer, spi=self._inbound.get((packet.destination, home_address)))

    def home_agent(self) -> None:
        random = self.random
        home_agent, home_address = random.choice(tuple(self._inbound))
        message: MobilityMessage = random.choice(
            (
                BindingError(1, home_address),
                BindingError(2, home_address),
                BindingRefreshRequest(),
                BindingRevocationIndication(
                    sequence=random.randrange(65536), trigger=random.choice((1, 2, 200))
                ),
                HomeAgentSwitch(tuple(random.sample(HOME_AGENTS, random.randint(0, 2)))),
            )
        )
        headers = (Type2RoutingHeader(home_address),)
        packet = IPv6Packet(home_agent, self._care_of(), message, extension_headers=headers)
        self._receive(packet, spi=self._inbound[home_agent, home_address])

    def correspondent(self) -> None:
        random = self.random
        if not self.tests:
            return
        asked = random.choice(self.tests)
        init = asked.payload
        assert isinstance(init, HomeTestInit | CareOfTestInit)
        kind = HomeTest if isinstance(init, HomeTestInit) else CareOfTest
        answer = kind(random.choice((1, 65535)), init.cookie, random.randbytes(8))
        packet = IPv6Packet(asked.destination, asked.source, answer)
        self._receive(packet, tunnel=HOME_AGENT if kind is HomeTest else None)

    def icmp_error(self) -> None:
        if not self.updates:
            return
        invoking = encode_packet(self.updates[-1].packet)
        error = self.random.choice(
            (
                DestinationUnreachable(0, invoking),
                ParameterProblem(1, 40, invoking),
                ParameterProblem(2, 40, invoking),
                PacketTooBig(1280, invoking),
            )
        )
        self._receive(IPv6Packet(HOME_AGENT, self._care_of(), error))

    def traffic(self) -> None:
        random = self.random
        home_address = random.choice(HOME_ADDRESSES)
        peer = CORRESPONDENT + random.randrange(40)
        self.tell(TrafficSeen(local=home_address, peer=peer, packets_out=random.randrange(4)))
        sent, came = int(self.now), int(self.now / 100)
        self.tell(TunnelActivity(home_address=home_address, packets_out=sent, packets_in=came))

    def failure(self) -> None:
        if self.failing:
            self.tell(ActionFailed(action=self.random.choice(self.failing), errno=101))

    def signal(self) -> None:
        level = self.random.uniform(-90.0, -30.0)
        index = self.random.choice(tuple(INTERFACES))
        self.tell(SignalMeasured(interface=index, level=level, is_weak=level < -75))

    def suspend(self) -> None:
        self.sleep(self.random.choice((10.0, 400.0, 5000.0, 100_000.0)))

    def pause(self) -> None:
        self.advance(self.random.choice((0.0, 0.01, 0.3, 1.0, 1.5, 5.0, 30.0, 120.0)))

    def _neighbor(self) -> bytes:
        return bytes((2, 0, 0, 0, 0, self.random.randint(1, 3)))

    def _care_of(self) -> IPv6Address:
        added = sorted(IPv6Address(key[-1]) for key in self.configured if key[0] == "address")
        return self.random.choice(added or [IPv6Address("2001:db8:a::10")])

    def _receive(
        self,
        packet: IPv6Packet,
        *,
        spi: int | None = None,
        tunnel: IPv6Address | None = None,
        mac: bytes = b"\2\0\0\0\0\1",
    ) -> None:
        event = DatagramReceived(
            data=encode_packet(packet),
            interface=self.random.choice((2, 2, 3)),
            link_layer_source=mac,
            protected_by=spi,
            tunnel_source=tunnel,
        )
        self.tell(event)


def _configuration(random: Random) -> Any:
    several = random.random() < 0.5
    both = f'"{HOME_AGENT}", "{SECOND_HOME_AGENT}"'
    return configuration_of(f"""
role = "mobile-node"
[mobile_node]
home_address = "{HOME_ADDRESS}"
more_home_addresses = ["{SECOND_HOME_ADDRESS}"]
home_agent = [{both if several else both.partition(",")[0]}]
interfaces = ["eth0", "eth1"]
keys = ["/etc/mnagent/1.toml", "/etc/mnagent/2.toml"]
early_tunnel = {str(random.random() < 0.5).lower()}
path_check_interval = {random.choice((0.0, 5.0))}
route_optimization = "{random.choice(("never", "on-traffic"))}"
autoconfiguration = "{random.choice(("agent", "agent", "kernel"))}"
""")


def _key(action: Any) -> tuple[Any, ...]:
    match action:
        case AddAddress() | RemoveAddress():
            return "address", action.interface, action.address
        case AddDefaultRouter() | RemoveDefaultRouter():
            return "router", action.interface, action.router
        case SetDirectPath() | RemoveDirectPath():
            return "direct", action.home_address, action.correspondent
        case UseHomeLink() | LeaveHomeLink():
            return "home-link", action.home_address
        case _:
            return "tunnel", action.home_address


def _check(node: MobileNode) -> None:
    state, at_home = node.registration.state, node.home_link.state
    if isinstance(node.attachment, AtHome):
        assert at_home is not HomeLinkState.IDLE, "at home, and does nothing about it"
        is_waiting = at_home is HomeLinkState.DEREGISTERING
        assert not is_waiting or state is RegistrationState.DEREGISTERING, "waits for nobody"
        return
    assert at_home is HomeLinkState.IDLE
    if isinstance(node.attachment, Away) and node.home_agents.current is not None:
        assert state not in _SOMEWHERE, "away, and does not register"
        assert node.registration.next_deadline() is not None


EVENTS: tuple[Callable[[Machine], None], ...] = (
    *(Machine.link, Machine.own_address, Machine.home_agent, Machine.correspondent),
    *(Machine.router, Machine.neighbor, Machine.icmp_error, Machine.traffic),
    *(Machine.acknowledge, Machine.failure, Machine.signal, Machine.suspend),
    *(Machine.router, Machine.acknowledge, Machine.pause, Machine.pause, Machine.pause),
    *(Machine.kernel, Machine.kernel),
)


@settings(max_examples=120, deadline=None)
@given(st.lists(st.sampled_from(EVENTS), max_size=60), st.integers(0, 2**32))
def test_agent_told_anything_keeps_its_word_and_leaves_nothing(
    script: list[Callable[[Machine], None]], seed: int
) -> None:
    machine = Machine(Random(seed))
    for happen in (Machine.link, Machine.router, Machine.pause, Machine.acknowledge, *script):
        happen(machine)
        machine.check()
    machine.tell(ShutdownRequested())
    machine.advance(20.0)
    assert machine.finished == 1
    assert not machine.configured and not +machine.groups
