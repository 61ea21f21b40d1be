"""Which lost datagrams a handover excuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from mnagent.rig.handover import Handover, datagram_faults
from mnagent.rig.roaming import Traffic

DELAY = 0.02


class Recorded:
    """What one end recorded, of datagrams sent each 100 ms from 0.1 s on."""

    def __init__(self, count: int, received: list[int]) -> None:
        self._records = [
            {"kind": "sent", "sequence": n, "at": n / 10} for n in range(1, count + 1)
        ] + [{"kind": "received", "sequence": n, "at": n / 10 + DELAY} for n in received]

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [record for record in self._records if record["kind"] == kind]


def faults(to_peer: list[int], to_node: list[int]) -> list[str]:
    """Of ten datagrams each way, with a link down at 0.45 s."""
    ends = (Recorded(10, to_node), Recorded(10, to_peer))
    handover = Handover(
        origin="home",
        destination="link-a",
        link_down_at=0.45,
        link_up_at=0.45,
        care_of_address_at=None,
        acknowledged_at=None,
        first_out_at=None,
        first_in_at=None,
        ping_resumed_at=None,
        outgoing_resumed_at=None,
        incoming_resumed_at=None,
        lost=0,
    )
    traffic = cast(Traffic, SimpleNamespace(datagrams=ends))
    return datagram_faults(traffic, [handover], in_flight=0.1)


ALL = list(range(1, 11))


def test_datagrams_that_all_came_have_no_fault() -> None:
    assert faults(ALL, ALL) == []


def test_datagrams_lost_until_the_first_that_came_again_are_excused() -> None:
    assert faults([1, 2, 3, 7, 8, 9, 10], [1, 2, 3, 4, 6, 7, 8, 9, 10]) == []


def test_datagram_lost_after_that_is_a_fault_of_its_direction() -> None:
    assert faults([1, 2, 3, 6, 8, 9, 10], ALL) == ["1 lost to the peer: 7"]


def test_datagram_lost_long_before_the_handover_is_a_fault() -> None:
    assert faults(ALL, [2, 3, 4, 5, 6, 7, 8, 9, 10]) == ["1 lost to the node: 1"]


def test_datagram_that_came_twice_is_a_fault() -> None:
    assert faults([*ALL, 9], ALL) == ["1 repeated to the peer"]


def test_datagrams_that_never_came_again_are_the_handovers() -> None:
    assert faults([1, 2, 3, 4], ALL) == []
