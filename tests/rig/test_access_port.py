"""The port of a board's cable among the rig's links, and its VLAN behind a switch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from labgrid import Target

from mnagent.rig.board.drivers import AccessPort, AccessPortDriver, Surroundings
from mnagent.rig.namespace import Namespace, RigError, run
from mnagent.rig.topology import FOREIGN_PREFIXES, LINK_A, LINK_B, MOBILE, Topology

VLAN = 101
PORT = f"port{os.getpid() % 1_000_000}"
"""Of this machine; the board's end is called eth9."""


@pytest.fixture
def port(topology: Topology) -> Iterator[str]:
    """A cable between this machine and the place of the mobile node."""
    board = topology[MOBILE].name
    run("ip", "link", "add", "name", PORT, "type", "veth", "peer", "name", "eth9", "netns", board)
    try:
        yield PORT
    finally:
        with contextlib.suppress(RigError):
            run("ip", "link", "del", PORT)


def attached(topology: Topology, **settings: Any) -> AccessPortDriver:
    """The port in the rig, plugged into nothing."""
    target = Target("main")
    AccessPort(target, "port", **settings)
    driver = AccessPortDriver(target, "access")
    target.activate(driver)
    rig: Any = SimpleNamespace(topology=topology)
    portal: Any = None
    driver.attach(Surroundings(portal=portal, roaming=rig, folder=Path("unused")))
    return driver


def reaches(board: Namespace, interface: str, link: str) -> bool:
    """Whether a board with an address of a link reaches that link's router over an interface."""
    prefix = FOREIGN_PREFIXES[link]
    address = f"{prefix[0x99]}/64"
    board.ip(f"link set {interface} up", f"address add {address} dev {interface} nodad")
    ping = ("ping", "-n", "-c", "1", "-w", "3", "-I", interface, f"{prefix[1]}")
    try:
        run("ip", "netns", "exec", board.name, *ping)
    except RigError:
        return False
    finally:
        board.ip(f"address del {address} dev {interface}")
    return True


def test_port_leads_to_the_link_it_is_plugged_into_and_comes_back(
    topology: Topology, port: str
) -> None:
    driver = attached(topology, interface=port)
    topology.plug(LINK_A)
    assert reaches(topology[MOBILE], "eth9", LINK_A)
    assert not reaches(topology[MOBILE], "eth9", LINK_B)
    topology.unplug()
    topology.plug(LINK_B)
    assert reaches(topology[MOBILE], "eth9", LINK_B)
    driver.detach()
    driver.detach()
    assert "master" not in run("ip", "link", "show", "dev", port)


@pytest.mark.may_skip(reason="some kernels are built without VLANs")
def test_vlan_of_a_port_leads_to_the_link_and_leaves_the_port_alone(
    topology: Topology, port: str
) -> None:
    board = topology[MOBILE]
    try:
        board.ip(f"link add link eth9 name tagged type vlan id {VLAN}")
    except RigError as error:
        pytest.skip(f"this kernel has no VLANs: {error}")
    board.ip("link set eth9 up")
    driver = attached(topology, interface=port, vlan=VLAN)
    topology.plug(LINK_A)
    assert reaches(board, "tagged", LINK_A)
    topology.unplug()
    topology.plug(LINK_B)
    assert reaches(board, "tagged", LINK_B)
    driver.detach()
    assert "UP" in run("ip", "link", "show", "dev", port)
    assert driver.facts == {"access port": f"{port}, VLAN {VLAN}"}
