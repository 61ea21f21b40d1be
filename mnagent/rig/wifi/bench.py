"""The rig's topology with access points for links: the cable of `mnagent.rig.topology` becomes air.

The links, routers, home agent and correspondent are those of the namespaces; the mobile node's
interface is a radio, and each link has access points as ports::

                  ap-1    ap-3                     ap-2                    ap-4, open
                   |       |                        |                        |
                 ==link-a====                     ==link-b==              ==captive==
                 router-a                         router-b                a router that forwards
                                                                          nothing

The wires are cables with netem at both ends: a program that delays frames would cost an emulated
processor more than all the rest.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from ipaddress import IPv6Interface, IPv6Network
from pathlib import Path
from typing import Any

from mnagent.rig.advertising import start_radvd
from mnagent.rig.carrier import CarrierWatch
from mnagent.rig.host import Host, Process, boottime
from mnagent.rig.impairment import Impairment
from mnagent.rig.namespace import run
from mnagent.rig.roaming import Move, Roaming, RoamingSettings
from mnagent.rig.topology import (
    HOME_WIRE,
    LINK_A,
    LINK_B,
    MOBILE,
    CapturePoint,
    End,
    Topology,
    add_bridge,
    connect,
)
from mnagent.rig.wifi.radio import (
    STATION_INTERFACE,
    STRONG,
    AccessPoint,
    AccessPointPlan,
    Station,
    give_radio,
    load_radios,
    set_strength,
)

MODEM_INTERFACE = "wwan0"
"""A cable that passes for a cellular modem, by its name; only there while a scenario wants it."""
AIR_INTERFACE = "hwsim0"
"""Hears every frame of every simulated radio."""
RIVALS = ("mip6", "esp6", "xfrm_user")
"""Modules of the kernel that handle the same headers as the program under test."""
CAPTIVE = "captive"
CAPTIVE_ROUTER = "wall"
CAPTIVE_PREFIX = IPv6Network("2001:db8:d::/64")
ACCESS_POINTS = {
    plan.name: plan
    for plan in (
        AccessPointPlan(name="ap-1", radio=1, link=LINK_A, channel=1),
        AccessPointPlan(name="ap-2", radio=2, link=LINK_B, channel=6),
        AccessPointPlan(name="ap-3", radio=3, link=LINK_A, channel=11),
        AccessPointPlan(name="ap-4", radio=4, link=CAPTIVE, channel=3, is_open=True),
    )
}
_TIME = re.compile(r"^(\d+\.\d+): (\S+)[^:]*: (.*)$")


class WirelessTopology(Topology):
    """The mobile node has a radio instead of a cable."""

    def build(self) -> None:
        """As the other, with the captive link and the radios' places."""
        load_radios(1 + len(ACCESS_POINTS))
        run("modprobe", "-a", *RIVALS)
        super().build()
        switch = self["switch"]
        add_bridge(switch, CAPTIVE)
        router = self.add_host(CAPTIVE_ROUTER, CAPTIVE, IPv6Interface("2001:db8:d::1/64"))
        router.sysctl(ipv6__conf__all__forwarding=1)
        for plan in ACCESS_POINTS.values():
            give_radio(plan.radio, switch)
        run("ip", "link", "set", AIR_INTERFACE, "netns", switch.name)
        switch.ip(f"link set {AIR_INTERFACE} up")

    @property
    def capture_points(self) -> list[CapturePoint]:
        """As the other, with the captive link."""
        return [*super().capture_points, CapturePoint(CAPTIVE, self["switch"], CAPTIVE)]

    def lay_mobile_cable(self, role: str = MOBILE) -> None:
        """Its radio."""
        give_radio(0, self[role])

    def unplug(self, role: str = MOBILE) -> None:
        """Nothing to pull."""

    def plug(self, link: str, role: str = MOBILE) -> None:
        """Nothing to plug: see `WirelessRoaming.roam`."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What ``iw event`` told of the station."""

    at: float
    """Seconds on CLOCK_BOOTTIME."""
    text: str

    @property
    def is_connect(self) -> bool:
        """It joined an access point."""
        return self.text.startswith(("connected to", "roamed to"))


def parse_sightings(text: str, interface: str, *, offset: float) -> list[Sighting]:
    """The lines of ``iw event -t`` about an interface; ``offset`` is what CLOCK_BOOTTIME is behind
    the wall clock."""
    found = []
    for line in text.splitlines():
        match = _TIME.match(line)
        if match is not None and match[2] == interface:
            found.append(Sighting(float(match[1]) - offset, match[3]))
    return found


class WirelessRoaming(Roaming):
    """Asynchronous context: all of it stands on entry but the daemons; see `Roaming`."""

    def __init__(self, settings: RoamingSettings | None = None) -> None:
        settings = settings or RoamingSettings()
        node: dict[str, Any] = {
            "interfaces": [STATION_INTERFACE, MODEM_INTERFACE],
            "interface_order": "by-kind",
            **settings.mobile_node,
        }
        super().__init__(replace(settings, mobile_node=node, virtual_home=True))
        self.topology = WirelessTopology(virtual_home=True, far_home=settings.home_delay > 0)
        self.access_points: dict[str, AccessPoint] = {}
        self.trips: list[Move] = []
        """The moves, from access point to access point."""
        self.station: Station
        self._air: Process
        self.carrier: CarrierWatch

    async def _build(self) -> None:
        await super()._build()
        router = Host(self.topology[CAPTIVE_ROUTER], self.topology.directory)
        self.hosts[CAPTIVE_ROUTER] = router
        await start_radvd(router, "eth0", CAPTIVE_PREFIX)
        switch = self.hosts["switch"]
        for name, plan in ACCESS_POINTS.items():
            set_strength(plan, STRONG)
            self.access_points[name] = AccessPoint(plan, switch)
            await self.access_points[name].start()
        mobile = self.hosts[MOBILE]
        frequencies = tuple(plan.frequency for plan in ACCESS_POINTS.values())
        self.station = Station(mobile, frequencies)
        log = str(self._sightings)
        await mobile.start("iw-event", ("sh", "-c", f"exec iw event -t >{log}"))
        self.carrier = CarrierWatch(mobile.namespace, STATION_INTERFACE)

    @property
    def _sightings(self) -> Path:
        return self.directory / "iw-event.txt"

    @property
    def sightings(self) -> list[Sighting]:
        """What the kernel told of associations so far, by a witness of the rig's own."""
        offset = time.time() - boottime()
        text = self._sightings.read_text(errors="replace")
        return parse_sightings(text, STATION_INTERFACE, offset=offset)

    async def _lay_wires(self) -> None:
        for link, ends in self.topology.wires.items():
            left, right = (end.partition(":")[::2] for end in ends)
            places = {space.name: space for space in self.topology.namespaces}
            cable = [End(places[name], interface) for name, interface in (left, right)]
            connect(cable[0], cable[1])
            impairment = self.settings.impairment
            if link == HOME_WIRE:
                impairment = Impairment(delay=self.settings.home_delay)
            for end in cable:
                run("tc", "-n", end.namespace.name, *netem(end.interface, impairment))
            self.topology.join_wire(link)

    async def start_captures(self, directory: Path) -> dict[str, Path]:
        """Of every link, and of the air."""
        command = ("tcpdump", "-q", "-Z", "root", "-i", AIR_INTERFACE, "-w")
        self._air = await self.hosts["switch"].start(
            "tcpdump", (*command, str(directory / "air.pcap"))
        )
        return await super().start_captures(directory)

    async def finish_captures(self) -> int:
        """As the other."""
        await self._air.stop(timeout=30.0)
        return await super().finish_captures()

    async def connect(self, name: str) -> Move:
        """Bring the station to its first access point. Raises RigError."""
        plan = ACCESS_POINTS[name]
        at = boottime()
        await self.station.start()
        await self.station.associated()
        await self.station.hears(plan.bssid)
        if not self.station.is_at(plan.bssid):
            self.station.roam(plan.bssid)
        await self.station.at(plan.bssid)
        return self.note_move(plan, at)

    async def roam(self, name: str) -> Move:
        """Order the station to another access point; returns once it is there. Raises RigError."""
        plan = ACCESS_POINTS[name]
        await self.station.hears(plan.bssid)
        at = boottime()
        self.station.roam(plan.bssid)
        await self.station.at(plan.bssid)
        return self.note_move(plan, at)

    async def disconnect(self) -> None:
        """Have the station leave its access point, until `connect`."""
        await self.station.stop()
        self.topology.positions[MOBILE] = None

    def plug_modem(self, link: str) -> None:
        """Give the mobile node a second interface, on a link. Raises RigError."""
        switch = self.topology["switch"]
        port = End(switch, f"{MODEM_INTERFACE}-port")
        connect(port, End(self.topology[MOBILE], MODEM_INTERFACE))
        switch.ip(f"link set {port.interface} master {link}")

    def unplug_modem(self) -> None:
        """Take it away. Raises RigError."""
        self.topology[MOBILE].ip(f"link del {MODEM_INTERFACE}")

    def note_move(self, plan: AccessPointPlan, at: float) -> Move:
        """The station went to where an access point is, by whatever means, from an instant on."""
        origin = self.topology.positions[MOBILE] or "nowhere"
        self.topology.positions[MOBILE] = plan.link
        self.moves.append(Move(origin, plan.link, at, at))
        place = self.trips[-1].destination if self.trips else "nowhere"
        self.trips.append(Move(place, plan.name, at, at))
        return self.moves[-1]


def netem(interface: str, impairment: Impairment) -> list[str]:
    """Arguments of tc that make a device late and lossy."""
    command = ["qdisc", "add", "dev", interface, "root", "netem", "limit", "10000"]
    command += ["delay", f"{impairment.delay * 1e6:.0f}us"]
    if impairment.jitter:
        command.append(f"{impairment.jitter * 1e6:.0f}us")
    if impairment.loss:
        command += ["loss", f"{impairment.loss:.4%}"]
    return command
