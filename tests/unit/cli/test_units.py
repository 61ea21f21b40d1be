"""The systemd units: well-formed, and with no more privileges than are needed."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from collections import defaultdict
from importlib import resources
from pathlib import Path

import pytest

UNITS = sorted(
    Path(str(unit)) for unit in resources.files("mnagent.runtime").joinpath("units").iterdir()
)
ROLES = ("correspondent", "home-agent", "mobile-node")


def service(unit: Path) -> dict[str, list[str]]:
    """The ``[Service]`` section; a key may stand there more than once."""
    values: dict[str, list[str]] = defaultdict(list)
    section = unit.read_text().partition("[Service]")[2].partition("[Install]")[0]
    for line in section.splitlines():
        if line and not line.startswith("#"):
            key, _, value = line.partition("=")
            values[key].append(value)
    return values


def test_units_are_there_for_the_three_roles() -> None:
    assert [unit.name for unit in UNITS] == [f"mnagent-{role}.service" for role in ROLES]


def test_units_differ_in_names_and_comments_only() -> None:
    bodies = {
        "\n".join(line for line in unit.read_text().splitlines() if not line.startswith("#"))
        .replace(" CAP_NET_BIND_SERVICE", "")
        .replace(role, "ROLE")
        .replace(role.replace("-", " "), "ROLE")
        .replace("correspondent node", "ROLE")
        .replace("ROLE node", "ROLE")
        for role, unit in zip(ROLES, UNITS, strict=True)
    }
    assert len(bodies) == 1


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_unit_has_least_privileges_and_a_watchdog(unit: Path) -> None:
    values = service(unit)
    port = "CAP_NET_BIND_SERVICE " if "mobile" in unit.name else ""  # the DHCPv6 client's
    assert values["CapabilityBoundingSet"] == [
        f"CAP_BPF CAP_NET_ADMIN {port}CAP_NET_RAW CAP_PERFMON"
    ]
    assert values["NoNewPrivileges"] == ["yes"]
    assert values["Type"] == ["notify"]
    assert int(values["WatchdogSec"][0]) > 0
    assert values["DeviceAllow"] == ["/dev/net/tun rw"]
    assert values["ProtectSystem"] == ["strict"]
    assert values["UMask"] == ["0077"]
    assert values["LimitCORE"] == ["0"]
    assert values["StateDirectoryMode"] == values["RuntimeDirectoryMode"] == ["0700"]
    assert values["RestartPreventExitStatus"] == ["2 3"]
    role = unit.stem.removeprefix("mnagent-")
    assert values["ExecStart"] == [f"mnagent run -c /etc/mnagent/{role}.toml"]
    assert values["ExecReload"] == [f"mnagent reload -c /etc/mnagent/{role}.toml"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_unit_is_good_for_systemd(unit: Path, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        configparser.ConfigParser(strict=False, interpolation=None).read_string(unit.read_text())
        return
    copy = tmp_path / unit.name
    # The program need not be installed where systemd looks for it.
    copy.write_text(unit.read_text().replace("=mnagent ", "=/bin/true "))
    done = subprocess.run(
        [analyze, "verify", str(copy)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert unit.name not in done.stderr
