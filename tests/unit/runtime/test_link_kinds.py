from __future__ import annotations

from pathlib import Path

import pytest

from mnagent.core.events import LinkKind
from mnagent.runtime.link_kinds import ARPHRD_ETHER, ARPHRD_PPP, ARPHRD_RAWIP, kind_of


@pytest.mark.parametrize(
    ("name", "hardware_type", "kind"),
    [
        ("eth0", ARPHRD_ETHER, LinkKind.ETHERNET),
        ("enp3s0", ARPHRD_ETHER, LinkKind.ETHERNET),
        ("wlan0", ARPHRD_ETHER, LinkKind.WIFI),
        ("wlp2s0", ARPHRD_ETHER, LinkKind.WIFI),
        ("wwan0", ARPHRD_RAWIP, LinkKind.CELLULAR),
        ("wwp0s20f0u4", ARPHRD_ETHER, LinkKind.CELLULAR),
        ("anything", ARPHRD_PPP, LinkKind.CELLULAR),
        ("tun0", 65534, LinkKind.OTHER),
    ],
)
def test_kind_follows_from_hardware_type_and_name(
    name: str, hardware_type: int, kind: LinkKind, tmp_path: Path
) -> None:
    assert kind_of(name, hardware_type, root=tmp_path) is kind


@pytest.mark.parametrize(
    ("word", "kind"),
    [("wlan", LinkKind.WIFI), ("wwan", LinkKind.CELLULAR), ("bridge", LinkKind.ETHERNET)],
)
def test_kernel_knows_better_than_the_name(word: str, kind: LinkKind, tmp_path: Path) -> None:
    (tmp_path / "lan0").mkdir()
    (tmp_path / "lan0" / "uevent").write_text(f"DEVTYPE={word}\nINTERFACE=lan0\nIFINDEX=3\n")
    assert kind_of("lan0", ARPHRD_ETHER, root=tmp_path) is kind


def test_radio_behind_a_renamed_interface_is_wi_fi(tmp_path: Path) -> None:
    (tmp_path / "uplink" / "phy80211").mkdir(parents=True)
    (tmp_path / "uplink" / "uevent").write_text("INTERFACE=uplink\n")
    assert kind_of("uplink", ARPHRD_ETHER, root=tmp_path) is LinkKind.WIFI
