"""The attack and chaos suite in short: each kind of step once, under all invariants."""

from __future__ import annotations

import asyncio
import socket

from mnagent.rig.soak import plan, watch
from mnagent.rig.soak.attacks import ATTACKS, ipv6
from mnagent.rig.soak.plan import Stage
from mnagent.rig.soak.record import Findings
from mnagent.rig.soak.story import NOTICE, Rig, Soak
from mnagent.rig.topology import CORRESPONDENT, HOME_ADDRESS, MOBILE_INTERFACE

SEED = "short"
EVERYTHING = tuple(kind for kind in plan.KINDS if kind not in ATTACKS)
SHORT = Stage(name="short", share=1.0, kills=True, payload_protection="none")


def findings() -> Findings:
    return Findings(seed=SEED, minutes=0.0)


def test_everything_that_goes_wrong_once_breaks_no_invariant() -> None:
    must = [
        kind for pair in zip(ATTACKS, [*EVERYTHING, plan.HANDOVER], strict=False) for kind in pair
    ]
    soak = Soak(findings(), print)
    found = asyncio.run(soak.run([SHORT], steps=0, rounds=1, must=must))
    assert found.broken == []
    assert {step.kind for step in found.done} >= {*ATTACKS, *EVERYTHING}
    for rule in (watch.HOME_SOURCE, watch.MOBILITY_CLEAR, watch.TESTS_CLEAR, watch.MISDIRECTED):
        assert found.judged[rule] > 100


class Leaky(Soak):
    """A run in which the mobile node lets a packet out that it must not."""

    async def _begin(self, rig: Rig) -> None:
        await super()._begin(rig)
        await asyncio.sleep(NOTICE)  # until then it is forgiven
        packet = ipv6(HOME_ADDRESS, CORRESPONDENT, 59, b"")
        mobile = rig.roaming.topology["mobile"]
        with mobile.inside(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind((MOBILE_INTERFACE, 0x86DD))
            own = sender.getsockname()[4]
            sender.send(bytes(6) + own + b"\x86\xdd" + packet)


def test_packet_with_the_home_address_on_a_foreign_link_is_found() -> None:
    soak = Leaky(findings(), print)
    found = asyncio.run(soak.run([SHORT], steps=0, rounds=1))
    assert [each.invariant for each in found.broken] == [watch.HOME_SOURCE]
