"""What a seed makes: the same steps, the same packets."""

from __future__ import annotations

from ipaddress import IPv6Address
from random import Random

import pytest

from mnagent.rig.checks import open_packet
from mnagent.rig.soak import plan
from mnagent.rig.soak.attacks import ATTACKS, Scene, forged_errors
from mnagent.rig.soak.plan import STAGES, Stage, plan_round
from mnagent.rig.soak.watch import MARKER
from mnagent.rig.topology import LINK_A
from mnagent.wire.mobility import BindingError
from mnagent.wire.packet import decode_packet

SCENE = Scene(
    home_address=IPv6Address("2001:db8:1::10"),
    home_agent=IPv6Address("2001:db8:1::1"),
    correspondent=IPv6Address("2001:db8:c::2"),
    care_of_address=IPv6Address("2001:db8:a::99"),
    spis=[1001, 1002],
    recorded=[bytes([0x60, 0, 0, 0, 0, 24, 135, 64]) + bytes(56)] * 3,
)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_plan_same_seed_makes_the_same_steps(stage: Stage) -> None:
    assert plan_round(stage, "seed/0") == plan_round(stage, "seed/0")
    assert plan_round(stage, "seed/0") != plan_round(stage, "seed/1")


@pytest.mark.parametrize("number", range(20))
def test_plan_each_move_leads_to_another_link_and_the_last_to_link_a(number: int) -> None:
    position = LINK_A
    for step in plan_round(STAGES[0], str(number)):
        for link in step.links:
            assert link != position
            position = link
    assert position == LINK_A


def test_plan_without_kills_kills_nobody() -> None:
    endurance = STAGES[-1]
    kinds = {step.kind for number in range(50) for step in plan_round(endurance, str(number))}
    assert not endurance.kills
    assert not any("killed" in kind for kind in kinds)
    assert set(ATTACKS) < kinds


def test_plan_steps_that_must_be_come_first() -> None:
    steps = plan_round(STAGES[0], "seed", steps=2, must=(plan.FLUSHED, plan.HANDOVER))
    assert [step.kind for step in steps[:2]] == [plan.FLUSHED, plan.HANDOVER]
    assert len(steps) == 5


def test_stages_share_all_of_the_time() -> None:
    assert sum(stage.share for stage in STAGES) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_same_seed_makes_the_same_packets_of_right_length(name: str) -> None:
    packets = ATTACKS[name](Random("seed"), SCENE)
    assert packets
    assert packets == ATTACKS[name](Random("seed"), SCENE)
    for packet in packets:
        assert int.from_bytes(packet[4:6], "big") == len(packet) - 40


@pytest.mark.parametrize("name", ["spoofed inner packets", "reflection attempts"])
def test_attack_that_nobody_may_pass_on_is_marked(name: str) -> None:
    assert all(MARKER in packet for packet in ATTACKS[name](Random(1), SCENE))


def test_forged_message_is_well_formed() -> None:
    for octets in forged_errors(Random(1), SCENE):
        packet = decode_packet(octets)
        assert isinstance(packet.payload, BindingError)
        assert open_packet(octets, 0.0).destination == SCENE.care_of_address
