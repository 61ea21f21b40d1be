"""What labgrid does not have: cables that the rig re-plugs, and the rig's emulator as a board.

Names in environments: `NamespaceDriver`, `RadioDriver`, `EmulatorDriver`, and `AccessPort` with
`AccessPortDriver`. The resource can be exported from any host of a farm.
"""

from __future__ import annotations

import abc
import contextlib
import json
import os
import select
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import attr
from labgrid import target_factory
from labgrid.driver import Driver
from labgrid.driver.consoleexpectmixin import ConsoleExpectMixin
from labgrid.protocol import ConsoleProtocol, PowerProtocol
from labgrid.resource import Resource
from pexpect import TIMEOUT

from mnagent.rig.board.portal import Portal
from mnagent.rig.emulator import MACHINES, Card, EmulatedBoard
from mnagent.rig.host import boottime
from mnagent.rig.namespace import RigError, run
from mnagent.rig.roaming import Move, Roaming, RoamingSettings
from mnagent.rig.topology import FOREIGN_PREFIXES, MOBILE, MOBILE_INTERFACE
from mnagent.rig.wifi.bench import ACCESS_POINTS, WirelessRoaming

PORT = f"{MOBILE}-port"
"""The access cable's end in the namespace with the links, whatever it is made of."""
SERIAL_SHELL = "serial-shell"
"""File on a card's boot partition: see boards/README.md."""
RADIOS = Path("/sys/class/ieee80211")
"""One entry a radio of this machine."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the rig has built around the board."""

    portal: Portal
    roaming: Roaming
    folder: Path
    """For large files; it stays."""


class AccessProtocol(abc.ABC):
    """The mobile node's cable, or what it has instead of one."""

    is_namespace = False
    """Whether the node is part of the rig itself."""
    outlives_the_rig = False
    """Whether what is written to the node is still there when the rig is gone."""

    def network(self, settings: RoamingSettings) -> Roaming:
        """What the node roams in, not built yet. Raises RigError where that cannot be."""
        return Roaming(settings)

    @abc.abstractmethod
    def attach(self, surroundings: Surroundings) -> None:
        """Make the board the mobile node of the rig, plugged into nothing. Raises RigError."""

    @abc.abstractmethod
    def detach(self) -> None:
        """Take it out again; nothing happens when it was never in. Raises RigError."""

    @abc.abstractmethod
    def set_carrier(self, up: bool) -> None:
        """Let the board see its cable pulled or plugged, beyond what the port does."""

    def pull(self, surroundings: Surroundings) -> None:
        """Take the node off whatever link it is on."""
        surroundings.roaming.topology.unplug()

    def move(self, surroundings: Surroundings, link: str, *, hands: float) -> Move:
        """Take the node to a link; returns when that was. A cable is in nobody's port for
        ``hands`` seconds. Raises RigError."""
        roaming = surroundings.roaming
        origin = roaming.topology.position or "nowhere"
        roaming.topology.unplug()
        down_at = boottime()
        self.set_carrier(False)
        time.sleep(hands)
        up_at = boottime()
        roaming.topology.plug(link)
        self.set_carrier(True)
        roaming.moves.append(Move(origin, link, down_at, up_at))
        return roaming.moves[-1]

    @property
    @abc.abstractmethod
    def facts(self) -> dict[str, str]:
        """What is known of the board from outside."""


@target_factory.reg_driver
@attr.s(eq=False)
class NamespaceDriver(Driver, AccessProtocol):
    """The mobile node is a namespace of the rig itself, as in ``mnagent demo``."""

    is_namespace = True

    def attach(self, surroundings: Surroundings) -> None:
        """It is there already."""

    def detach(self) -> None:
        """It goes with the rig."""

    def set_carrier(self, up: bool) -> None:
        """The cable's other end does it."""

    @property
    def facts(self) -> dict[str, str]:
        """Its kernel is this machine's."""
        return {"board": "namespace", "kernel": os.uname().release}


@target_factory.reg_driver
@attr.s(eq=False)
class RadioDriver(NamespaceDriver):
    """The mobile node is a namespace with a simulated radio, each link has an access point, and the
    node's wpa_supplicant is told where to roam. For a machine without radios of its own, such as
    that of `mnagent.rig.wifi.target`."""

    def network(self, settings: RoamingSettings) -> Roaming:
        """With access points. Raises RigError where there are radios already: the rig would take
        them for its own."""
        if RADIOS.is_dir() and any(RADIOS.iterdir()):
            raise RigError(
                "this machine has radios of its own: ci/rig --target wifi boots one that has none"
            )
        return WirelessRoaming(settings)

    def pull(self, surroundings: Surroundings) -> None:
        """The node leaves its access point."""
        surroundings.portal(_wireless(surroundings).disconnect())

    def move(self, surroundings: Surroundings, link: str, *, hands: float) -> Move:
        """Order the station to a link's access point. Both instants of the move are those of the
        order, so that leaving one access point and joining the other count as part of it; there is
        no cable that would be in nobody's port meanwhile."""
        roaming, name = _wireless(surroundings), access_point(link)
        is_first = roaming.topology.position is None
        return surroundings.portal(roaming.connect(name) if is_first else roaming.roam(name))

    @property
    def facts(self) -> dict[str, str]:
        """Where it roams, too."""
        names = ", ".join(map(access_point, FOREIGN_PREFIXES))
        return {**super().facts, "board": "namespace with a radio", "access points": names}


def access_point(link: str) -> str:
    """The first access point of a link."""
    return next(plan.name for plan in ACCESS_POINTS.values() if plan.link == link)


def _wireless(surroundings: Surroundings) -> WirelessRoaming:
    assert isinstance(surroundings.roaming, WirelessRoaming)
    return surroundings.roaming


@target_factory.reg_resource
@attr.s(eq=False)
class AccessPort(Resource):
    """The interface of the rig's host that a board's cable, or its VLAN, ends at.

    Args:
        interface (str): name of the interface
        vlan (int): optional, the VLAN of the board's port on a switch behind the interface
    """

    interface: str = attr.ib(validator=attr.validators.instance_of(str))
    vlan: int | None = attr.ib(
        default=None, validator=attr.validators.optional(attr.validators.instance_of(int))
    )


@target_factory.reg_driver
@attr.s(eq=False)
class AccessPortDriver(Driver, AccessProtocol):
    """Puts an `AccessPort` into one access link after the other."""

    bindings = {"port": AccessPort}  # noqa: RUF012
    outlives_the_rig = True

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self._switch: str | None = None

    def attach(self, surroundings: Surroundings) -> None:
        """Move the interface (or its VLAN) to the rig's links."""
        topology = surroundings.roaming.topology
        interface, vlan = self.port.interface, self.port.vlan
        topology[MOBILE].ip(f"link del {MOBILE_INTERFACE}")
        switch = topology["switch"].name
        if vlan is None:
            run("ip", "link", "set", interface, "down")
            run("ip", "link", "set", interface, "name", PORT, "netns", switch)
            self._switch = switch
        else:
            run("ip", "link", "set", interface, "up")
            options = ("link", interface, "name", PORT, "netns", switch, "type", "vlan")
            run("ip", "link", "add", *options, "id", str(vlan))

    def detach(self) -> None:
        """Give the interface back to the host; a VLAN goes with the rig."""
        switch, self._switch = self._switch, None
        if switch is not None:
            here = ("name", self.port.interface, "netns", str(os.getpid()))
            run("ip", "-n", switch, "link", "set", PORT, "down", "nomaster")
            run("ip", "-n", switch, "link", "set", PORT, *here)

    def set_carrier(self, up: bool) -> None:
        """The port's own state is the carrier of a cable; behind a switch there is none to see."""

    @property
    def facts(self) -> dict[str, str]:
        """Where it is plugged in."""
        vlan = "" if self.port.vlan is None else f", VLAN {self.port.vlan}"
        return {"access port": f"{self.port.interface}{vlan}"}


@target_factory.reg_driver
@attr.s(eq=False)
class EmulatorDriver(ConsoleExpectMixin, Driver, PowerProtocol, ConsoleProtocol, AccessProtocol):
    """A card image in the rig's emulator: power, serial console and cable in one.

    Args:
        machine (str): one of `mnagent.rig.emulator.MACHINES`
        image (str): key under ``images`` of the card image (.img.zst)
    """

    machine: str = attr.ib(validator=attr.validators.in_(sorted(MACHINES)))
    image: str = attr.ib(default="card", validator=attr.validators.instance_of(str))
    txdelay: float = attr.ib(default=0.0, validator=attr.validators.instance_of(float))
    txchunk: int = attr.ib(default=1, validator=attr.validators.instance_of(int))

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self._around: Surroundings | None = None
        self._board: EmulatedBoard | None = None
        self._console: socket.socket | None = None

    @property
    def _image(self) -> Path:
        return Path(self.target.env.config.get_image_path(self.image))

    @property
    def _manifest(self) -> Path:
        return self._image.with_name(f"{self._image.name}.json")

    def attach(self, surroundings: Surroundings) -> None:
        """Flash a card, and give the emulator a tap among the rig's links."""
        if not self._image.exists():
            raise RigError(f"no image {self._image}: ci/rig builds it")
        topology = surroundings.roaming.topology
        topology[MOBILE].ip(f"link del {MOBILE_INTERFACE}")
        topology["switch"].ip(f"tuntap add dev {PORT} mode tap")
        card = Card.flash(self._image, surroundings.folder / "card.img")
        card.put({SERIAL_SHELL: ""})
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(self._manifest, surroundings.folder / "image.json")
        host = surroundings.roaming.hosts["switch"]
        self._board = EmulatedBoard(host, MACHINES[self.machine], card, port=PORT)
        self._around = surroundings

    def detach(self) -> None:
        """Cut its power, keep what it said, throw the card away."""
        if self._around is None or self._board is None:
            return
        self.off()
        for number, log in enumerate(self._board.serial_logs, 1):
            with contextlib.suppress(FileNotFoundError):
                kept = self._around.folder / f"serial-{number}.log"
                kept.write_bytes(log.read_bytes())
        self._board.card.path.unlink(missing_ok=True)
        self._around = self._board = None

    def set_carrier(self, up: bool) -> None:
        """As far as the emulated board can see it."""
        around, board = self._attached()
        around.portal(board.set_carrier(up))

    @property
    def facts(self) -> dict[str, str]:
        """From the manifest beside the image."""
        facts = {"board": f"QEMU {self.machine}"}
        with contextlib.suppress(FileNotFoundError):
            manifest = json.loads(self._manifest.read_text())
            for key in ("title", "suite", "mnagent", "commit", "image_sha256"):
                facts[f"image {key.removeprefix('image_')}"] = str(manifest[key])
        return facts

    @Driver.check_active
    def on(self) -> None:
        """Power it on; nothing happens when it is."""
        around, board = self._attached()
        if board.is_running:
            return
        around.portal(board.power_on())
        self._console = socket.socket(socket.AF_UNIX)
        self._console.connect(str(board.console))

    def off(self) -> None:
        """Cut its power; nothing happens when it is off."""
        if self._console is not None:
            self._console.close()
            self._console = None
        if self._around is not None and self._board is not None:
            self._around.portal(self._board.power_cut())

    @Driver.check_active
    def cycle(self) -> None:
        """Off and on."""
        self.off()
        self.on()

    def _attached(self) -> tuple[Surroundings, EmulatedBoard]:
        if self._around is None or self._board is None:
            raise RigError("the emulated board is not part of the rig yet")
        return self._around, self._board

    def _read(self, size: int = 1, timeout: float = 0.0, max_size: int | None = None) -> bytes:
        if self._console is None:
            raise RigError("the emulated board is off")
        ready, _, _ = select.select([self._console], [], [], timeout)
        if not ready:
            raise TIMEOUT(f"nothing on the console within {timeout:.2f} s")
        data = self._console.recv(max_size or max(size, 4096))
        if not data:
            raise RigError("the emulated board ended")
        return data

    def _write(self, data: bytes) -> Any:
        if self._console is None:
            raise RigError("the emulated board is off")
        return self._console.sendall(data)
