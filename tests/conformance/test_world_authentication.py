"""Registration without IPsec (RFC 4285): each way works, and only the one that was agreed on."""

from __future__ import annotations

from random import Random

import pytest

from mnagent.core.drops import DropReason
from mnagent.ipsec.keys import KeySet, generate_pair, load_key_file
from tests.support import topology
from tests.support.requirement import requirement
from tests.support.topology import CORRESPONDENT, HOME_ADDRESS, HOME_AGENT, PREFIX_A, Topology
from tests.support.world import World

NODE = {"protection": "authentication-option", "identifier": "node@example.org"}


def authentication_keys(seed: int) -> tuple[KeySet, KeySet]:
    texts = generate_pair(
        HOME_ADDRESS,
        HOME_AGENT,
        random_bytes=Random(seed).randbytes,
        encryption="authentication-option",
    )
    return load_key_file(texts[0]), load_key_file(texts[1])


@pytest.fixture
def without_ipsec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topology, "make_keys", authentication_keys)
    served = "".join(f'\n{key} = "{value}"' for key, value in NODE.items())
    monkeypatch.setattr(topology, "SERVED_EXTRA", served)


@requirement("RFC4285-5", "EXT-10")
@pytest.mark.usefixtures("without_ipsec")
def test_mobile_node_registers_and_is_reached_without_ipsec() -> None:
    with World(seed=4285) as world:
        net = Topology(world, mobile_node=NODE)
        net.register_in(net.link_a, PREFIX_A)
        net.mobile_node.send_data(CORRESPONDENT, b"away")
        world.run_for(1)
        assert net.correspondent.received_data() == [b"away"]
        net.return_home()
        assert net.bound_to is None


@requirement("RFC4285-5", "EXT-10")
@pytest.mark.usefixtures("without_ipsec")
def test_home_agent_refuses_the_way_that_was_not_agreed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with World(seed=4286) as world:
        net = Topology(world, mobile_node=NODE)
        monkeypatch.undo()
        ipsec = Topology(World(seed=4286))
        net.home_agent.esp = ipsec.home_agent.esp
        net.home_agent.start(ipsec.new_home_agent())
        net.move(net.link_a)
        world.run_for(10)
        assert net.bound_to is None
        agent = net.home_agent.agent
        assert agent is not None
        assert agent.counters[f"drop-{DropReason.NOT_PROTECTED.value}"] >= 1
