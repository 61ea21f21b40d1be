"""Whole agents, security associations and hosts included, over links that lose and shuffle.

The access links of the mobile node misbehave while it travels. Once they behave again, both ends
agree on where it is, and traffic flows through the tunnel both ways.
"""

from __future__ import annotations

from ipaddress import IPv6Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnagent.wire.icmp6 import EchoReply
from tests.support.requirement import requirement
from tests.support.topology import CORRESPONDENT, HOME_ADDRESS, PREFIX_A, PREFIX_B, Topology
from tests.support.world import Link, World

PLACES = ("home", "a", "b", "nowhere")
CONVERGENCE = 150.0
"""Seconds: three of the longest back-off, router solicitation, and detection at each end."""
LIFETIME = 300
PROTECTIONS = ("none", "esp")
PAUSE = LIFETIME / 4


RESTART = "home-agent-restarts"
JOURNEYS = st.lists(
    st.tuples(
        st.sampled_from((*PLACES, RESTART)),
        st.sampled_from((0.3, 1.5, 4.0, 12.0, 60.0)),
        st.booleans(),
    ),
    max_size=6,
)


class Traveller:
    """A mobile node on the way through the topology."""

    def __init__(
        self,
        world: World,
        *,
        trouble: float = 0.0,
        payload_protection: str = "none",
        early: bool = True,
    ) -> None:
        self.world = world
        self.topology = Topology(
            world,
            mobile_node={
                "lifetime": LIFETIME,
                "payload_protection": payload_protection,
                "early_tunnel": early,
            },
            home_agent={"payload_protection": payload_protection, "early_forwarding": early},
            access_loss=trouble,
            access_reorder=trouble,
            access_duplicate=trouble,
        )
        self.place = "nowhere"

    def move(self, place: str, *, carrier_lost: bool = True) -> None:
        """Change the place; a firmware that roams by itself does not show the loss of the link."""
        topology = self.topology
        links = {"home": topology.home, "a": topology.link_a, "b": topology.link_b}
        self.place = place
        if place == "nowhere":
            if topology.port.link is not None:
                topology.mobile_node.detach(topology.port)
        else:
            topology.move(links[place], carrier_lost=carrier_lost)

    def restart_home_agent(self) -> None:
        """Its daemon dies and comes back without bindings; its routes are cleared at the start."""
        node = self.topology.home_agent
        node.kill()
        node.routes = [route for route in node.routes if route.port is not None]
        node.start(self.topology.new_home_agent())

    def heal(self) -> None:
        """From now on the links behave."""
        links: tuple[Link, ...] = tuple(self.world.links.values())
        for link in links:
            link.loss = link.reorder = link.duplicate = 0.0

    @property
    def agrees(self) -> bool:
        """Both ends have the same idea of where the mobile node is, and it is the truth."""
        topology = self.topology
        if self.place == "home":
            return topology.state == "at-home" and topology.bound_to is None
        prefix: IPv6Network = {"a": PREFIX_A, "b": PREFIX_B}[self.place]
        bound = topology.bound_to
        is_bound = topology.state in ("registered", "refreshing")
        return is_bound and bound is not None and bound in prefix

    def go_on(self, step: str, *, carrier_lost: bool) -> None:
        """One step of a journey."""
        if step == RESTART:
            self.restart_home_agent()
        else:
            self.move(step, carrier_lost=carrier_lost)

    def wait_until_agreed(self) -> None:
        """Let time pass, with some traffic: it is what tells a home agent that it forgot."""
        for _ in range(int(CONVERGENCE)):
            if self.agrees:
                return
            if self.place != "home":
                self.topology.mobile_node.ping(HOME_ADDRESS, CORRESPONDENT)
            self.world.run_for(1.0)
        raise AssertionError(f"no agreement within {CONVERGENCE} s")

    def answers_ping(self) -> bool:
        """Whether the correspondent reaches the home address, and hears back."""
        before = self._replies()
        self.topology.correspondent.ping(CORRESPONDENT, HOME_ADDRESS)
        self.world.run_for(3.0)
        return self._replies() > before

    def _replies(self) -> int:
        delivered = self.topology.correspondent.delivered
        return sum(isinstance(packet.payload, EchoReply) for _, packet in delivered)


@requirement("RFC6275-11.8", "HA-14", "SEC-18")
@settings(max_examples=20, deadline=None)
@given(
    journey=JOURNEYS,
    last=st.sampled_from(("home", "a", "b")),
    seed=st.integers(0, 2**16),
    trouble=st.sampled_from((0.0, 0.2, 0.5)),
    payload_protection=st.sampled_from(PROTECTIONS),
    early=st.booleans(),
)
def test_agents_after_losses_stop_agree_and_carry_traffic(
    journey: list[tuple[str, float, bool]],
    last: str,
    seed: int,
    trouble: float,
    payload_protection: str,
    early: bool,
) -> None:
    with World(seed=seed) as world:
        traveller = Traveller(
            world, trouble=trouble, payload_protection=payload_protection, early=early
        )
        for place, duration, carrier_lost in journey:
            traveller.go_on(place, carrier_lost=carrier_lost)
            world.run_for(duration)
        traveller.move(last)
        world.run_for(2.0)
        traveller.heal()
        traveller.wait_until_agreed()
        assert traveller.answers_ping()
        for _ in range(6):
            world.run_for(PAUSE)
            assert traveller.agrees, "agreed, but not for good"


@requirement("RFC6275-11.3.6", "OPS-03", "MN-46")
@pytest.mark.parametrize("payload_protection", PROTECTIONS)
def test_agents_after_home_agent_restart_recover_by_traffic(
    payload_protection: str,
) -> None:
    with World(seed=5) as world:
        traveller = Traveller(world, payload_protection=payload_protection)
        topology = traveller.topology
        topology.register_in(topology.link_a, PREFIX_A)
        traveller.restart_home_agent()
        assert topology.bound_to is None
        topology.mobile_node.ping(HOME_ADDRESS, CORRESPONDENT)
        world.run_until(lambda: topology.is_registered_in(PREFIX_A), timeout=5.0)
        assert traveller.answers_ping()
