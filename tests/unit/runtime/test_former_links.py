from __future__ import annotations

import pytest

from mnagent.datapath import HandedUp
from mnagent.runtime.former_links import MAX_AGE, FormerLinks

NOON = 1_700_000_000_000_000_000


def packet(arrived_at: int, interface: int = 2) -> HandedUp:
    return HandedUp(data=b"", interface=interface, arrived_at=arrived_at)


@pytest.mark.parametrize("age", [1, 5_000_000, MAX_AGE - 1])
def test_packet_from_before_the_links_return_is_dropped_and_counted(age: int) -> None:
    links = FormerLinks()
    links.came_up(2, NOON)
    assert not links.admits(packet(NOON - age))
    assert links.dropped == 1


@pytest.mark.parametrize("age", [0, -5_000_000, MAX_AGE, 3600 * 10**9])
def test_packet_of_the_present_link_or_another_time_of_day_is_taken(age: int) -> None:
    links = FormerLinks()
    links.came_up(2, NOON)
    assert links.admits(packet(NOON - age))
    assert links.dropped == 0


def test_packet_of_another_interface_or_without_a_time_is_taken() -> None:
    links = FormerLinks()
    assert links.admits(packet(NOON))
    links.came_up(2, NOON)
    assert links.admits(packet(NOON - 1, interface=3))
    assert links.admits(packet(0))
