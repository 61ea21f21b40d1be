"""The home agent in every state, under every input, and under random sequences of them."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import IPv6Address
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from mnagent.core.actions import (
    Action,
    Finish,
    InterceptHomeAddress,
    JoinGroup,
    LeaveGroup,
    RemoveTunnel,
    SendPacket,
    SetTunnel,
    StopIntercepting,
)
from mnagent.core.events import (
    ActionFailed,
    Event,
    LinkDown,
    LinkUp,
    PacketReceived,
    ShutdownRequested,
)
from mnagent.mobility.addresses import derived_link_local, solicited_node_group
from mnagent.mobility.home_agent import HOST_FAILURE_DELAY, HomeAgent
from mnagent.mobility.restored_bindings import MAX_WAIT
from mnagent.mobility.sequence import sequence_newer
from mnagent.wire.ipv6 import DestinationOptions, HomeAddressOption, IPv6Packet, RawPayload
from mnagent.wire.mobility import (
    BindingAcknowledgement,
    BindingError,
    BindingUpdate,
    HomeTestInit,
    UnknownMobilityMessage,
)
from mnagent.wire.mobility_options import AlternateCareOfAddress
from mnagent.wire.packet import decode_packet, encode_packet
from tests.support.home_link import (
    CARE_OF_ADDRESS,
    CORRESPONDENT,
    HOME_ADDRESS,
    HOME_AGENT_ADDRESS,
    HOME_AGENT_MAC,
    HOME_LINK,
    HOME_LINK_LOCAL,
    MOBILE_NODE_MAC,
    NEIGHBOR,
    OTHER_CARE_OF_ADDRESS,
    OTHER_HOME_ADDRESS,
    SETTINGS,
    actions_of,
    advertisement,
    binding_update,
    on_home_link,
    probe_by_another,
    register,
    solicitation,
    update_from_home,
)

MAX_LIFETIME = 400.0


class Host:
    """A home agent and the host that does what it asks, checking the promises on the way."""

    def __init__(
        self,
        *,
        home_link: int | None = HOME_LINK,
        max_bindings: int = 2,
        early_forwarding: bool = False,
    ) -> None:
        self.now = 0.0
        self.settings = replace(
            SETTINGS,
            home_link=home_link,
            max_lifetime=MAX_LIFETIME,
            max_bindings=max_bindings,
            early_forwarding=early_forwarding,
        )
        self.home_agent = HomeAgent(self.settings, random=Random(0))
        self.intercepted: set[IPv6Address] = set()
        self.tunnels: dict[IPv6Address, IPv6Address] = {}
        self.groups: set[IPv6Address] = set()
        self.is_finished = False
        self._sequences: dict[IPv6Address, int] = {}

    def feed(self, event: Event) -> list[Action]:
        """Hand an event in, carry the answer out, check everything."""
        actions = self.home_agent.handle(event, self.now)
        self._carry_out(actions)
        if isinstance(event, PacketReceived):
            self._check_acknowledgements(event, actions)
        self.check()
        return actions

    def advance(self, seconds: float) -> None:
        """Let time pass, running the timers that come due, each at its time."""
        end = self.now + seconds
        while True:
            deadline = self.home_agent.next_deadline()
            if deadline is None or deadline > end:
                break
            self.run_timers(deadline)
        self.now = end

    def run_timers(self, at: float) -> None:
        """Run the timers once; none may be due any more afterwards."""
        assert at >= self.now, "a deadline lay in the past"
        self.now = at
        self._carry_out(self.home_agent.handle_timer(at))
        deadline = self.home_agent.next_deadline()
        assert deadline is None or deadline > at
        self.check()

    def check(self) -> None:
        """What holds after every step."""
        bindings = self.home_agent.bindings
        forwarding = {entry.home_address: entry.care_of_address for entry in bindings}
        if self.settings.early_forwarding:
            assert forwarding.items() <= self.home_agent.forwarding.items()
            assert self.home_agent.forwarding.keys() <= {*forwarding, *self.home_agent.probing}
            forwarding = self.home_agent.forwarding
        assert self.intercepted == set(forwarding)
        assert self.tunnels == forwarding
        assert len(bindings) <= self.settings.max_bindings
        for entry in bindings:
            assert self.now < entry.expires_at <= self.now + MAX_LIFETIME
            self._check_sequence(entry.home_address, entry.sequence)
        deadline = self.home_agent.next_deadline()
        assert deadline is None or deadline >= self.now
        self._check_groups()

    def _carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case InterceptHomeAddress(home_address=address):
                    assert address not in self.intercepted
                    self.intercepted.add(address)
                case StopIntercepting(home_address=address):
                    self.intercepted.remove(address)
                    self._sequences.pop(address, None)
                case SetTunnel(home_address=address, remote=remote):
                    self.tunnels[address] = remote
                case RemoveTunnel(home_address=address):
                    del self.tunnels[address]
                case JoinGroup(group=group):
                    self.groups.add(group)
                case LeaveGroup(group=group):
                    self.groups.remove(group)
                case SendPacket(packet=packet):
                    assert decode_packet(encode_packet(packet)) == packet
                case Finish():
                    self.is_finished = True

    def _check_sequence(self, home_address: IPv6Address, sequence: int) -> None:
        last = self._sequences.get(home_address)
        assert last is None or sequence == last or sequence_newer(sequence, last)
        self._sequences[home_address] = sequence

    def _check_groups(self) -> None:
        """Groups are those of the addresses probed or defended, and no others."""
        needed = {
            solicited_node_group(address)
            for address in (
                *self.home_agent.probing,
                *(entry.home_address for entry in self.home_agent.bindings),
            )
        }
        # A link-local address with the same interface identifier is in the same group.
        assert self.groups == (needed if self.settings.home_link is not None else set())

    def _check_acknowledgements(self, event: PacketReceived, actions: list[Action]) -> None:
        update = event.packet.payload
        for action in actions_of(actions, SendPacket):
            answer = action.packet.payload
            if isinstance(answer, BindingAcknowledgement) and isinstance(update, BindingUpdate):
                assert action.packet.destination == event.packet.source
                assert answer.lifetime <= min(update.lifetime, MAX_LIFETIME)
                assert not answer.is_accepted or answer.sequence == update.sequence
                assert answer.is_accepted or answer.lifetime == 0


def nothing(host: Host) -> None:
    """As started."""


def probing(host: Host) -> None:
    host.feed(binding_update(sequence=10))


def registered(host: Host) -> None:
    probing(host)
    host.advance(1.0)


def registered_with_link_local(host: Host) -> None:
    host.feed(binding_update(sequence=10, link_local_compatibility=True))
    host.advance(1.0)


def deregistered(host: Host) -> None:
    registered(host)
    host.feed(update_from_home(sequence=11))


def expired(host: Host) -> None:
    registered(host)
    host.advance(MAX_LIFETIME + 1)


def link_down(host: Host) -> None:
    registered(host)
    host.feed(LinkDown(interface=HOME_LINK))


def stopped(host: Host) -> None:
    registered(host)
    host.feed(ShutdownRequested())


STATES: tuple[Callable[[Host], None], ...] = (
    nothing,
    probing,
    registered,
    registered_with_link_local,
    deregistered,
    expired,
    link_down,
    stopped,
)


def with_option(payload: object) -> PacketReceived:
    packet = IPv6Packet(
        CARE_OF_ADDRESS,
        HOME_AGENT_ADDRESS,
        payload,  # type: ignore[arg-type]
        extension_headers=(DestinationOptions((HomeAddressOption(HOME_ADDRESS),)),),
    )
    return PacketReceived(packet=packet, interface=3)


TUNNELLED = PacketReceived(
    packet=IPv6Packet(HOME_ADDRESS, CORRESPONDENT, RawPayload(6, bytes(20))),
    interface=3,
    tunnel_source=CARE_OF_ADDRESS,
)
TO_LINK_LOCAL = replace(
    on_home_link(IPv6Packet(NEIGHBOR, HOME_LINK_LOCAL, RawPayload(6, bytes(20)))), data=bytes(60)
)
INTERCEPT = InterceptHomeAddress(home_address=HOME_ADDRESS)
GROUP = JoinGroup(interface=HOME_LINK, group=solicited_node_group(HOME_ADDRESS))

INPUTS: dict[str, Event] = {
    "registration-newer": binding_update(sequence=12),
    "registration-same": binding_update(sequence=10),
    "registration-older": binding_update(sequence=9),
    "registration-elsewhere": binding_update(sequence=12, source=OTHER_CARE_OF_ADDRESS),
    "registration-link-local": binding_update(sequence=12, link_local_compatibility=True),
    "registration-alternate": binding_update(
        sequence=12, options=(AlternateCareOfAddress(OTHER_CARE_OF_ADDRESS),)
    ),
    "registration-unprefixed": binding_update(home_address=CORRESPONDENT),
    "registration-of-other": binding_update(home_address=OTHER_HOME_ADDRESS),
    "registration-correspondent": binding_update(sequence=12, home_registration=False),
    "registration-bare": binding_update(home_address=None),
    "deregistration-away": binding_update(sequence=12, lifetime=0),
    "deregistration-home": update_from_home(sequence=12),
    "deregistration-older": update_from_home(sequence=9),
    "solicitation": solicitation(),
    "solicitation-link-local": solicitation(HOME_LINK_LOCAL),
    "solicitation-forwarded": solicitation(hop_limit=64),
    "advertisement": advertisement(),
    "advertisement-link-local": advertisement(HOME_LINK_LOCAL),
    "probe-by-another": probe_by_another(),
    "home-address-option": with_option(RawPayload(6, bytes(20))),
    "home-test-init": with_option(HomeTestInit(bytes(8))),
    "binding-error": with_option(BindingError(1, HOME_ADDRESS)),
    "unknown-mobility-message": with_option(UnknownMobilityMessage(200, bytes(6))),
    "tunnelled": TUNNELLED,
    "to-link-local": TO_LINK_LOCAL,
    "link-up": LinkUp(interface=HOME_LINK, name="home0", link_layer_address=HOME_AGENT_MAC),
    "link-down": LinkDown(interface=HOME_LINK),
    "join-failed": ActionFailed(action=GROUP, errno=errno.ENOBUFS),
    "shutdown": ShutdownRequested(),
}


@pytest.mark.parametrize("home_link", [HOME_LINK, None], ids=["physical", "virtual"])
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("early", [False, True], ids=["", "early"])
def test_home_agent_any_state_any_input_keeps_its_promises(
    name: str, state: Callable[[Host], None], home_link: int | None, early: bool
) -> None:
    host = Host(home_link=home_link, early_forwarding=early)
    state(host)
    host.feed(INPUTS[name])
    host.feed(INPUTS[name])
    host.advance(MAX_LIFETIME + 20)
    assert host.home_agent.bindings == ()
    assert host.home_agent.next_deadline() is None
    assert host.groups == set()
    assert host.home_agent.forwarding == {}


HOME_ADDRESSES = (HOME_ADDRESS, OTHER_HOME_ADDRESS, CORRESPONDENT, derived_link_local(HOME_ADDRESS))
CARE_OF_ADDRESSES = (CARE_OF_ADDRESS, OTHER_CARE_OF_ADDRESS, OTHER_HOME_ADDRESS, NEIGHBOR)
TARGETS = (HOME_ADDRESS, OTHER_HOME_ADDRESS, HOME_LINK_LOCAL, NEIGHBOR)


class HomeAgentMachine(RuleBasedStateMachine):
    """Random Binding Updates, neighbours, links and time."""

    def __init__(self) -> None:
        super().__init__()
        self.sequence = 0

    @initialize(
        home_link=st.sampled_from((HOME_LINK, HOME_LINK, None)),
        max_bindings=st.integers(1, 2),
        sequence=st.sampled_from((0, 32760, 65530)),
        early=st.booleans(),
    )
    def start(self, home_link: int | None, max_bindings: int, sequence: int, early: bool) -> None:
        self.host = Host(home_link=home_link, max_bindings=max_bindings, early_forwarding=early)
        self.sequence = sequence

    @rule(
        home_address=st.sampled_from(HOME_ADDRESSES[:2]),
        source=st.sampled_from(CARE_OF_ADDRESSES[:2]),
        lifetime=st.sampled_from((600.0, 60.0, 4.0, 0.0)),
        link_local=st.booleans(),
        step=st.sampled_from((1, 1, 1, 0, -1, -3)),
    )
    def mobile_node_registers(
        self,
        home_address: IPv6Address,
        source: IPv6Address,
        lifetime: float,
        link_local: bool,
        step: int,
    ) -> None:
        self.sequence = (self.sequence + step) % 65536
        self.host.feed(
            binding_update(
                self.sequence,
                lifetime,
                home_address=home_address,
                source=source,
                link_local_compatibility=link_local,
            )
        )

    @rule(
        sequence=st.integers(0, 65535),
        lifetime=st.floats(0, 262140),
        home_address=st.none() | st.sampled_from(HOME_ADDRESSES),
        source=st.sampled_from((*CARE_OF_ADDRESSES, HOME_ADDRESS, IPv6Address("ff02::1"))),
        alternate=st.none() | st.sampled_from(CARE_OF_ADDRESSES),
        home_registration=st.booleans(),
        at_home=st.booleans(),
    )
    def anything_like_an_update_arrives(
        self,
        sequence: int,
        lifetime: float,
        home_address: IPv6Address | None,
        source: IPv6Address,
        alternate: IPv6Address | None,
        home_registration: bool,
        at_home: bool,
    ) -> None:
        self.host.feed(
            binding_update(
                sequence,
                lifetime,
                home_address=home_address,
                source=source,
                options=() if alternate is None else (AlternateCareOfAddress(alternate),),
                home_registration=home_registration,
                interface=HOME_LINK if at_home else 3,
                link_layer_source=MOBILE_NODE_MAC,
            )
        )

    @rule(source=st.sampled_from(CARE_OF_ADDRESSES[:2]))
    def mobile_node_registers_and_waits(self, source: IPv6Address) -> None:
        self.sequence = (self.sequence + 1) % 65536
        self.host.feed(binding_update(self.sequence, source=source))
        self.host.advance(1.0)

    @rule(home_address=st.sampled_from(HOME_ADDRESSES[:2]))
    def mobile_node_returns_home(self, home_address: IPv6Address) -> None:
        self.sequence = (self.sequence + 1) % 65536
        self.host.feed(update_from_home(self.sequence, source=home_address))

    @rule(asked=st.sampled_from(TARGETS))
    def neighbor_asks(self, asked: IPv6Address) -> None:
        answers = self.host.feed(solicitation(asked))
        if self.host.settings.home_link is None:
            assert answers == []
            return
        is_bound = any(
            asked == entry.home_address
            or (entry.is_link_local_defended and asked == derived_link_local(entry.home_address))
            for entry in self.host.home_agent.bindings
        )
        assert len(answers) == is_bound

    @rule(asked=st.sampled_from(TARGETS), is_probe=st.booleans())
    def neighbor_claims(self, asked: IPv6Address, is_probe: bool) -> None:
        self.host.feed(probe_by_another(asked) if is_probe else advertisement(asked))

    @rule(name=st.sampled_from(("tunnelled", "to-link-local", "home-address-option")))
    def packet_arrives(self, name: str) -> None:
        self.host.feed(INPUTS[name])

    @rule(seconds=st.sampled_from((0.1, 0.5, 1.0, 5.0, 11.0, 100.0)))
    def time_passes(self, seconds: float) -> None:
        self.host.advance(seconds)

    @precondition(lambda self: self.host.home_agent.next_deadline() is not None)
    @rule(lateness=st.sampled_from((0.0, 0.01, 30.0)))
    def timer_runs_late(self, lateness: float) -> None:
        deadline = self.host.home_agent.next_deadline()
        assert deadline is not None
        self.host.run_timers(max(deadline, self.host.now) + lateness)

    @rule(seconds=st.sampled_from((0.0, 0.5, 20.0)))
    def link_goes_and_comes_back(self, seconds: float) -> None:
        self.host.feed(INPUTS["link-down"])
        self.host.advance(seconds)
        self.host.feed(INPUTS["link-up"])
        self.host.advance(MAX_WAIT)  # until nobody else can be serving our mobile nodes

    @rule(action=st.sampled_from((INTERCEPT, GROUP)))
    def host_fails(self, action: Action) -> None:
        self.host.feed(ActionFailed(action=action, errno=errno.EPERM))
        self.host.advance(HOST_FAILURE_DELAY)

    @precondition(lambda self: hasattr(self, "host"))
    @invariant()
    def promises_hold(self) -> None:
        self.host.check()

    def teardown(self) -> None:
        """Whatever went before, an orderly end leaves nothing behind."""
        self.host.feed(ShutdownRequested())
        assert self.host.is_finished
        assert self.host.groups == set()
        assert self.host.home_agent.next_deadline() is None


TestHomeAgentMachine = HomeAgentMachine.TestCase
TestHomeAgentMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def test_home_agent_driven_for_long_forgets_what_is_over() -> None:
    host = Host()
    for sequence in range(1, 200):
        host.feed(binding_update(sequence, 60))
        host.advance(1.0)
    assert register(host.home_agent, now=host.now, sequence=200)
    host.advance(math.ceil(MAX_LIFETIME) + 20.0)
    assert host.home_agent.bindings == ()
