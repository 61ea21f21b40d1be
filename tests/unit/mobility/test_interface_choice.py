from __future__ import annotations

import pytest

from mnagent.core.events import LinkKind
from mnagent.mobility.interface_choice import (
    FIRST_HOLD,
    FLAP_MEMORY,
    SIGNAL_STEP,
    InterfaceChoice,
)

KINDS = {
    "ppp0": LinkKind.CELLULAR,
    "tun7": LinkKind.OTHER,
    "wlan0": LinkKind.WIFI,
    "wlan1": LinkKind.WIFI,
    "eth0": LinkKind.ETHERNET,
}


def choice(*names: str, by_kind: bool = True) -> InterfaceChoice:
    made = InterfaceChoice(names, by_kind=by_kind)
    for name, kind in KINDS.items():
        made.came(name, kind, 0.0)
    return made


def order(made: InterfaceChoice, *, current: str | None = None) -> list[str]:
    return sorted(KINDS, key=lambda name: made.rank(name, current=current))


def test_by_kind_is_ethernet_then_wi_fi_then_cellular() -> None:
    assert order(choice()) == ["eth0", "wlan0", "wlan1", "ppp0", "tun7"]


def test_list_decides_between_those_of_a_kind_and_alone_where_it_is_the_order() -> None:
    names = ("ppp0", "wlan1", "wlan0", "eth0", "tun7")
    assert order(choice(*names)) == ["eth0", "wlan1", "wlan0", "ppp0", "tun7"]
    assert order(choice(*names, by_kind=False)) == list(names)


def test_names_that_are_not_listed_are_not_accepted() -> None:
    assert InterfaceChoice(("eth0",)).accepts("eth0")
    assert not InterfaceChoice(("eth0",)).accepts("docker0")
    assert InterfaceChoice(()).accepts("any")


def test_weak_wi_fi_comes_after_all_that_are_not_until_it_is_strong_again() -> None:
    made = choice()
    made.measured("wlan0", -70.0, is_weak=True)
    assert order(made)[-1] == "wlan0"
    made.measured("wlan0", -69.0, is_weak=False)
    assert order(made).index("wlan0") < order(made).index("ppp0")
    made.measured("unknown0", -10.0, is_weak=True)


def test_better_signal_wins_only_when_it_is_much_better() -> None:
    made = choice()
    made.measured("wlan0", -60.0, is_weak=False)
    made.measured("wlan1", -60.0 + SIGNAL_STEP - 1, is_weak=False)
    assert order(made)[1] == "wlan1"
    assert order(made, current="wlan0")[1] == "wlan0"
    made.measured("wlan1", -60.0 + SIGNAL_STEP + 1, is_weak=False)
    assert order(made, current="wlan0")[1] == "wlan1"


def test_signal_of_a_link_that_went_is_forgotten() -> None:
    made = choice()
    made.measured("wlan0", -90.0, is_weak=True)
    made.went("wlan0", 1.0)
    made.came("wlan0", LinkKind.WIFI, 2.0)
    assert order(made)[1:3] == ["wlan0", "wlan1"]


def test_one_loss_has_no_consequence_and_each_further_one_doubles_the_wait() -> None:
    made = choice()
    waits = []
    for loss in range(4):
        made.went("eth0", 100.0 + loss)
        made.came("eth0", LinkKind.ETHERNET, 100.5 + loss)
        waits.append(made.held_until("eth0", 100.5 + loss) - (100.5 + loss))
    assert waits == pytest.approx([0.0, FIRST_HOLD, 2 * FIRST_HOLD, 4 * FIRST_HOLD])


def test_losses_are_forgotten() -> None:
    made = choice()
    for loss in range(4):
        made.went("eth0", 100.0 + loss)
    now = 104.0 + FLAP_MEMORY
    made.came("eth0", LinkKind.ETHERNET, now)
    assert made.held_until("eth0", now) == now
    assert made.held_until("never-seen", now) == now
    made.went("never-seen", now)
