"""The correspondent node in every state, under every input, and under random sequences of them."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import IPv6Address
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mnagent.core.actions import Action, RemovePeerBinding, SendPacket, SetPeerBinding
from mnagent.core.events import (
    ActionFailed,
    AddressAppeared,
    AddressVanished,
    Event,
    PacketReceived,
    ShutdownRequested,
    TrafficSeen,
)
from mnagent.mobility.correspondent_cache import PeerKey
from mnagent.mobility.correspondent_node import CorrespondentNode
from mnagent.wire.buffer import DecodeError
from mnagent.wire.checksum import upper_layer_checksum
from mnagent.wire.icmp6 import DestinationUnreachable, EchoRequest
from mnagent.wire.ipv6 import IPv6Packet, RawPayload, Type2RoutingHeader
from mnagent.wire.mobility import (
    BindingAcknowledgement,
    BindingError,
    BindingStatus,
    BindingUpdate,
    CareOfTest,
    HomeTest,
    UnknownMobilityMessage,
)
from mnagent.wire.packet import decode_packet, encode_packet
from tests.support.correspondent import (
    CARE_OF_ADDRESS,
    CORRESPONDENT,
    HOME_ADDRESS,
    OTHER_CARE_OF_ADDRESS,
    OTHER_CORRESPONDENT,
    OTHER_HOME_ADDRESS,
    SETTINGS,
    Peer,
    arrived,
    home_address_option,
)

HOME_ADDRESSES = (HOME_ADDRESS, OTHER_HOME_ADDRESS, IPv6Address("2001:db8:1::30"))
CARE_OF_ADDRESSES = (CARE_OF_ADDRESS, OTHER_CARE_OF_ADDRESS)
CORRESPONDENTS = (CORRESPONDENT, OTHER_CORRESPONDENT)
KEEPS_SILENT_ABOUT_KEYS = {
    BindingStatus.EXPIRED_HOME_NONCE_INDEX,
    BindingStatus.EXPIRED_CARE_OF_NONCE_INDEX,
    BindingStatus.EXPIRED_NONCES,
    BindingStatus.HOME_REGISTRATION_NOT_SUPPORTED,
    BindingStatus.REGISTRATION_TYPE_CHANGE_DISALLOWED,
}


class Host:
    """A correspondent node and the host that does what it asks, checking the promises."""

    def __init__(self, *, max_bindings: int = 2) -> None:
        self.now = 0.0
        self.max_bindings = max_bindings
        self.node = CorrespondentNode(
            replace(SETTINGS, max_bindings=max_bindings), random=Random(0)
        )
        self.peers: dict[IPv6Address, IPv6Address] = {}

    def feed(self, event: Event) -> list[Action]:
        """Hand an event in, carry the answer out, check everything."""
        before = self.node.bindings
        actions = self.node.handle(event, self.now)
        self._carry_out(actions)
        if isinstance(event, PacketReceived):
            self._check_answers(event, actions)
            if not isinstance(event.packet.payload, BindingUpdate | DestinationUnreachable):
                alive = [each for each in before if each.expires_at > self.now]
                assert list(self.node.bindings) == alive
        self.check()
        return actions

    def advance(self, seconds: float) -> None:
        """Let time pass, running the timers that come due, each at its time."""
        end = self.now + seconds
        while True:
            deadline = self.node.next_deadline()
            if deadline is None or deadline > end:
                break
            self.run_timers(max(deadline, self.now))
        self.now = end

    def run_timers(self, at: float) -> None:
        """Run the timers once; none may be due any more afterwards."""
        self.now = at
        self._carry_out(self.node.handle_timer(at))
        deadline = self.node.next_deadline()
        assert deadline is None or deadline > at
        self.check()

    def check(self) -> None:
        """What holds after every step."""
        bindings = self.node.bindings
        latest = {
            entry.home_address: max(
                (each for each in bindings if each.home_address == entry.home_address),
                key=lambda each: (each.updated_at, each.correspondent),
            ).care_of_address
            for entry in bindings
        }
        assert self.peers == latest
        assert len(bindings) <= self.max_bindings
        for entry in bindings:
            assert self.now < entry.expires_at <= entry.updated_at + 420.0

    def _carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case SetPeerBinding(home_address=home_address, care_of_address=care_of_address):
                    assert self.peers.get(home_address) != care_of_address
                    self.peers[home_address] = care_of_address
                case RemovePeerBinding(home_address=home_address):
                    del self.peers[home_address]
                case SendPacket(packet=packet):
                    assert decode_packet(encode_packet(packet)) == packet

    def _check_answers(self, event: PacketReceived, actions: list[Action]) -> None:
        update = event.packet.payload
        for action in actions:
            if not isinstance(action, SendPacket):
                continue
            assert action.packet.destination == event.packet.source
            answer = action.packet.payload
            if isinstance(answer, BindingAcknowledgement):
                assert isinstance(update, BindingUpdate)
                assert answer.lifetime <= min(update.lifetime, 420)
                assert answer.is_accepted or answer.lifetime == 0
                assert bool(answer.options) == (answer.status not in KEEPS_SILENT_ABOUT_KEYS)
            elif isinstance(answer, HomeTest | CareOfTest):
                assert action.packet.extension_headers == ()
            else:
                assert isinstance(answer, BindingError)


def nothing(host: Host, peer: Peer) -> None:
    """As started, the tests run."""


def bound(host: Host, peer: Peer) -> None:
    host.feed(peer.update(10))


def bound_elsewhere(host: Host, peer: Peer) -> None:
    other = replace(peer, care_of_address=OTHER_CARE_OF_ADDRESS)
    other.ask_for_care_of_token(host.node, host.now)
    host.feed(other.update(10))


def bound_twice(host: Host, peer: Peer) -> None:
    bound(host, peer)
    host.feed(replace(peer, correspondent=OTHER_CORRESPONDENT).update(3))


def full(host: Host, peer: Peer) -> None:
    for address in HOME_ADDRESSES[1:]:
        other = Peer(home_address=address).run_tests(host.node, host.now)
        host.feed(other.update(10))


def guarded(host: Host, peer: Peer) -> None:
    bound(host, peer)
    host.feed(peer.deregistration(11))


def expired(host: Host, peer: Peer) -> None:
    bound(host, peer)
    host.advance(500.0)


def nonces_expired(host: Host, peer: Peer) -> None:
    bound(host, peer)
    host.advance(300.0)


def stopped(host: Host, peer: Peer) -> None:
    bound(host, peer)
    host.feed(ShutdownRequested())


STATES: tuple[Callable[[Host, Peer], None], ...] = (
    nothing,
    bound,
    bound_elsewhere,
    bound_twice,
    full,
    guarded,
    expired,
    nonces_expired,
    stopped,
)


def unreachable(peer: Peer) -> PacketReceived:
    quoted = IPv6Packet(
        CORRESPONDENT,
        peer.care_of_address,
        RawPayload(17, bytes(8)),
        extension_headers=(Type2RoutingHeader(peer.home_address),),
    )
    error = DestinationUnreachable(0, encode_packet(quoted))
    return arrived(IPv6Packet(IPv6Address("2001:db8:9::1"), CORRESPONDENT, error))


def with_option(peer: Peer, payload: object) -> PacketReceived:
    headers = (home_address_option(peer.home_address),)
    packet = IPv6Packet(CARE_OF_ADDRESS, CORRESPONDENT, payload, extension_headers=headers)  # type: ignore[arg-type]
    return arrived(packet)


SET = SetPeerBinding(home_address=HOME_ADDRESS, care_of_address=CARE_OF_ADDRESS)
INPUTS: dict[str, Callable[[Peer], Event]] = {
    "home-test": lambda peer: peer.home_test_init(),
    "care-of-test": lambda peer: peer.care_of_test_init(),
    "update-newer": lambda peer: peer.update(12),
    "update-same": lambda peer: peer.update(10),
    "update-older": lambda peer: peer.update(9),
    "update-short": lambda peer: peer.update(12, 4),
    "update-unacknowledged": lambda peer: peer.update(12, acknowledge=False),
    "update-forged": lambda peer: peer.update(12, key=bytes(20)),
    "update-nonces": lambda peer: peer.update(12, indices=(0, 0)),
    "update-home": lambda peer: peer.update(12, home_registration=True),
    "update-alternate": lambda peer: peer.update(12, alternate=OTHER_CARE_OF_ADDRESS),
    "update-to-ourselves": lambda peer: peer.update(12, alternate=CORRESPONDENT),
    "deregistration": lambda peer: peer.deregistration(12),
    "deregistration-away": lambda peer: peer.update(12, 0),
    "deregistration-older": lambda peer: peer.deregistration(9),
    "home-address-option": lambda peer: with_option(peer, EchoRequest(1, 1)),
    "unknown-message": lambda peer: with_option(peer, UnknownMobilityMessage(99, bytes(10))),
    "binding-error": lambda peer: with_option(peer, BindingError(1, HOME_ADDRESS)),
    "unreachable": unreachable,
    "traffic": lambda peer: TrafficSeen(local=CORRESPONDENT, peer=peer.home_address, packets_out=1),
    "host-failed": lambda peer: ActionFailed(action=SET, errno=errno.ENOBUFS),
    "address-gone": lambda peer: AddressVanished(interface=2, address=CORRESPONDENT),
    "care-of-is-ours": lambda peer: AddressAppeared(
        interface=2, address=CARE_OF_ADDRESS, prefix_length=64
    ),
    "shutdown": lambda peer: ShutdownRequested(),
}


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
@pytest.mark.parametrize("name", INPUTS)
def test_correspondent_any_state_any_input_keeps_its_promises(
    name: str, state: Callable[[Host, Peer], None]
) -> None:
    host = Host()
    peer = Peer().run_tests(host.node)
    state(host, peer)
    event = INPUTS[name](peer)
    host.feed(event)
    host.feed(event)
    host.advance(900.0)
    assert host.node.bindings == ()
    assert host.node.next_deadline() is None
    assert host.peers == {}


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_correspondent_binding_update_with_any_octet_changed_binds_nothing(
    data: st.DataObject,
) -> None:
    """Every octet of the Mobility Header and both addresses are authorized."""
    host = Host()
    octets = bytearray(Peer().run_tests(host.node).update().data)
    # The addresses, the home address in its option, the Mobility Header without its checksum.
    places = [*range(8, 40), *range(48, 68), *range(70, len(octets))]
    position = data.draw(st.sampled_from(places))
    octets[position] ^= data.draw(st.integers(1, 255))
    changed = with_right_checksum(bytes(octets))
    try:
        packet = decode_packet(changed)
    except DecodeError:
        return
    actions = host.feed(PacketReceived(packet=packet, interface=2, data=changed))
    assert not any(isinstance(each, SetPeerBinding) for each in actions)


def with_right_checksum(octets: bytes) -> bytes:
    """The same packet with the checksum its content asks for, so that it gets to the machine."""
    home_address, destination = IPv6Address(octets[48:64]), IPv6Address(octets[24:40])
    header = octets[64:68] + bytes(2) + octets[70:]
    checksum = upper_layer_checksum(home_address, destination, 135, header).to_bytes(2, "big")
    return octets[:68] + checksum + octets[70:]


class CorrespondentMachine(RuleBasedStateMachine):
    """Mobile nodes that test, register, move and replay, and time."""

    def __init__(self) -> None:
        super().__init__()
        self.sequence = 0

    @initialize(max_bindings=st.integers(1, 3), sequence=st.sampled_from((0, 32760, 65530)))
    def start(self, max_bindings: int, sequence: int) -> None:
        self.host = Host(max_bindings=max_bindings)
        self.sequence = sequence
        self.tokens: dict[tuple[IPv6Address, IPv6Address, IPv6Address], Peer] = {}
        self.captured: list[tuple[Peer, PacketReceived]] = []

    @rule(
        home_address=st.sampled_from(HOME_ADDRESSES),
        care_of_address=st.sampled_from(CARE_OF_ADDRESSES),
        correspondent=st.sampled_from(CORRESPONDENTS),
    )
    def mobile_node_tests(
        self,
        home_address: IPv6Address,
        care_of_address: IPv6Address,
        correspondent: IPv6Address,
    ) -> None:
        peer = Peer(home_address, care_of_address, correspondent)
        peer.run_tests(self.host.node, self.host.now)
        self.host.feed(peer.home_test_init())
        self.tokens[home_address, care_of_address, correspondent] = peer

    @precondition(lambda self: self.tokens)
    @rule(
        data=st.data(),
        lifetime=st.sampled_from((420.0, 100.0, 4.0, 0.0)),
        step=st.sampled_from((1, 1, 1, 2, 0, -1)),
        acknowledge=st.booleans(),
    )
    def mobile_node_registers(
        self, data: st.DataObject, lifetime: float, step: int, acknowledge: bool
    ) -> None:
        peer = data.draw(st.sampled_from(list(self.tokens.values())))
        self.sequence = (self.sequence + step) % 65536
        event = peer.update(self.sequence, lifetime, acknowledge=acknowledge)
        self._deliver(peer, event)

    @precondition(lambda self: self.captured)
    @rule(data=st.data())
    def mobile_node_deregisters(self, data: st.DataObject) -> None:
        peer, _ = data.draw(st.sampled_from(self.captured))
        self.sequence = (self.sequence + 1) % 65536
        self.host.feed(peer.deregistration(self.sequence))

    @precondition(lambda self: self.captured)
    @rule(data=st.data())
    def attacker_replays(self, data: st.DataObject) -> None:
        """What was accepted once is never accepted again."""
        before = self.host.node.bindings
        _, event = data.draw(st.sampled_from(self.captured))
        actions = self.host.feed(event)
        assert not any(isinstance(each, SetPeerBinding) for each in actions)
        after = {each.key: each.sequence for each in self.host.node.bindings}
        for entry in before:
            assert entry.expires_at <= self.host.now or after[entry.key] == entry.sequence

    @rule(name=st.sampled_from(("home-address-option", "unknown-message", "update-forged")))
    def rubbish_arrives(self, name: str) -> None:
        self.host.feed(INPUTS[name](Peer()))

    @rule(home_address=st.sampled_from(HOME_ADDRESSES), outwards=st.booleans())
    def traffic_flows(self, home_address: IPv6Address, outwards: bool) -> None:
        seen = TrafficSeen(
            local=CORRESPONDENT,
            peer=home_address,
            packets_in=not outwards,
            packets_out=outwards,
        )
        for action in self.host.feed(seen):
            assert isinstance(action, SendPacket)
            assert action.packet.destination == home_address

    @rule(home_address=st.sampled_from(HOME_ADDRESSES))
    def network_complains(self, home_address: IPv6Address) -> None:
        self.host.feed(unreachable(Peer(home_address)))

    @rule(seconds=st.sampled_from((0.1, 1.0, 5.0, 31.0, 70.0, 200.0)))
    def time_passes(self, seconds: float) -> None:
        self.host.advance(seconds)

    @precondition(lambda self: self.host.node.next_deadline() is not None)
    @rule(lateness=st.sampled_from((0.0, 0.01, 30.0)))
    def timer_runs_late(self, lateness: float) -> None:
        deadline = self.host.node.next_deadline()
        assert deadline is not None
        self.host.run_timers(max(deadline, self.host.now) + lateness)

    def _deliver(self, peer: Peer, event: PacketReceived) -> None:
        update = event.packet.payload
        assert isinstance(update, BindingUpdate)
        self.host.feed(event)
        key = PeerKey(event.packet.logical_source, event.packet.destination)
        for entry in self.host.node.bindings:
            if entry.key == key and entry.sequence == update.sequence:
                self.captured.append((replace(peer), event))

    @precondition(lambda self: hasattr(self, "host"))
    @invariant()
    def promises_hold(self) -> None:
        self.host.check()

    def teardown(self) -> None:
        """Whatever went before, an orderly end leaves nothing behind."""
        self.host.feed(ShutdownRequested())
        assert self.host.peers == {}
        assert self.host.node.next_deadline() is None


TestCorrespondentMachine = CorrespondentMachine.TestCase
TestCorrespondentMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
