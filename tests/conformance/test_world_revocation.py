"""A binding that its home agent ends: told, answered, and made anew (RFC 5846)."""

from __future__ import annotations

from tests.support.requirement import requirement
from tests.support.topology import HOME_ADDRESS, PREFIX_A, Topology
from tests.support.world import World


@requirement("RFC5846-6", "EXT-08")
def test_binding_that_is_revoked_ends_at_both_ends_and_comes_back_later() -> None:
    with World(seed=5846) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        agent = net.home_agent.agent
        assert agent is not None
        actions = agent.delete_binding(HOME_ADDRESS, world.now)
        assert actions is not None
        net.home_agent.carry_out(actions)
        world.run_for(0.5)
        assert net.bound_to is None
        assert net.state == "refused"
        world.run_until(lambda: net.is_registered_in(PREFIX_A), timeout=20.0)
