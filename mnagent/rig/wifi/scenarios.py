"""The scenarios, and the program that runs them inside the machine::

    python -m mnagent.rig.wifi.scenarios OUTPUT [--roams N] [NAME ...]

All share one bench: daemons and connections go on from the first scenario to the last, so that each
of them has to survive all of it. Each scenario states claims about what it saw; ``results.json`` in
the output folder holds them, beside logs and captures. The exit status is 0 when all were true.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from statistics import median
from typing import Any

from mnagent.control.client import Client
from mnagent.rig.daemon import MOBILE_NODE_KEYS
from mnagent.rig.host import PATIENCE, boottime, processor_seconds
from mnagent.rig.impairment import Impairment
from mnagent.rig.library import Line, Step
from mnagent.rig.namespace import RigError, run
from mnagent.rig.recorder import LiveWriter
from mnagent.rig.roaming import Move, RoamingSettings, Traffic
from mnagent.rig.telling import Telling, trips_of
from mnagent.rig.topology import HOME_AGENT, LINK_A, LINK_B, MOBILE
from mnagent.rig.wifi.bench import ACCESS_POINTS, CAPTIVE, MODEM_INTERFACE, WirelessRoaming
from mnagent.rig.wifi.managers import Manager, Networkd, NetworkManager
from mnagent.rig.wifi.radio import (
    OPEN_ID,
    PROTECTED_ID,
    STATION_INTERFACE,
    STRONG,
    WEAK,
    AccessPointPlan,
    set_strength,
    until,
)
from mnagent.rig.wifi.recording import as_handover
from mnagent.rig.wifi.results import Claim, Outcome, Results, Roam, median_of

DELAY = 0.02
"""Seconds, one way, between each foreign link and the core."""
HOME_DELAY = 0.01
"""The same between core and home agent."""
ALLOWANCE_MS = 30.0
"""Beyond both round trips, from the nl80211 event to the Binding Acknowledgement."""
DWELL = 0.7
"""Seconds of traffic after each roam."""
LOOK_AROUND = 2.5
"""Seconds after which the agent has looked which access points there are."""
SCAN_TIME = 3.0
"""Seconds after a signal became weak in which the agent has the station scan, and that takes."""
SCAN_PATIENCE = 5.0
"""Seconds from a weak signal to the roam that the agent's scan leads to."""
NOTICE_TIMEOUT = 20.0
"""Seconds in which a path where nothing gets through must be noticed."""
KEPT = (".log", ".hostapd", ".supplicant", ".txt", ".pcap")
"""Kinds of files in the bench's folder that outlive it."""
MOST_OF_A_PROCESSOR = 0.3
"""Share of it that the node's daemon may take over a scenario; ten roams in as many seconds take a
tenth."""
SETTLE_TIMEOUT = 15.0 * PATIENCE
SETTLE_INTERVAL = 0.2
_PING_TIME = re.compile(r"time=([\d.]+) ms")


class Stage:
    """The bench with its traffic, and what scenarios need again and again."""

    def __init__(
        self,
        roaming: WirelessRoaming,
        traffic: Traffic,
        roams: int,
        tell: Callable[[Line], None] = lambda line: None,
    ) -> None:
        self.tell = tell
        self.roaming = roaming
        self.traffic = traffic
        self.roams = roams
        self.round_trips_ms: dict[str, float] = {}
        self.position = ACCESS_POINTS["ap-1"]

    async def roam(self, name: str) -> Roam:
        """By command, until all traffic has resumed. Raises RigError."""
        origin = self.position
        move = await self.roaming.roam(name)
        return await self.finish("command", origin, move)

    async def roams_by_itself(self, means: str, began_at: float, *, timeout: float = 60.0) -> Roam:
        """Wait until the station is at another access point, and finish as `roam`."""
        origin = self.position
        station = self.roaming.station

        def elsewhere() -> bool:
            return station.place() not in ("", origin.bssid)

        await until(elsewhere, f"the station stays at {origin.name}", timeout=timeout)
        return await self.finish(means, origin, self.arrived(began_at))

    def place(self) -> AccessPointPlan:
        """The access point the station is at. Raises RigError when it is at none."""
        bssid = self.roaming.station.place()
        plan = next((one for one in ACCESS_POINTS.values() if one.bssid == bssid), None)
        if plan is None:
            raise RigError("the station has left again")
        return plan

    async def reconnected(self, began_at: float) -> None:
        """Wait until the station has joined an access point since an instant. Raises RigError."""
        await until(lambda: self._connected_at(began_at) is not None, "not connected", timeout=60.0)
        await self.roaming.station.associated()

    def arrived(self, began_at: float) -> Move:
        """The move to where the station is now."""
        return self.roaming.note_move(self.place(), began_at)

    async def finish(self, means: str, origin: AccessPointPlan, move: Move) -> Roam:
        """Wait for registration and traffic after a move, and measure it."""
        roaming = self.roaming
        self.position = self.place()
        if move.origin != move.destination:
            await roaming.settled(move, timeout=SETTLE_TIMEOUT)
        connected_at = self._connected_at(move.link_up_at)
        await self.traffic.resumed(connected_at or move.link_up_at, timeout=SETTLE_TIMEOUT)
        await asyncio.sleep(DWELL)
        roam = await self.measure(means, origin, move)
        self.tell(as_handover(roam, len(trips_of(roaming.trips))))
        return roam

    def _connected_at(self, since: float) -> float | None:
        seen = self.roaming.sightings
        return next((one.at for one in seen if one.is_connect and one.at >= since), None)

    async def measure(self, means: str, origin: AccessPointPlan, move: Move) -> Roam:
        """What the agent and the witnesses told of a move."""
        roaming, since = self.roaming, move.link_up_at
        events = [event for event in roaming.mobile_node.events if event.at >= since]
        times: dict[str, float] = {}
        for event in events:
            times.setdefault(event.name, event.at)
        updates = [event for event in events if event.name == "binding-update-sent"]
        noticed = [
            event
            for event in events
            if event.name == "access-point-changed" and event.details["access_point"]
        ]
        record = await self._record(since) if move.origin != move.destination else {}
        connected_at = self._connected_at(since)
        changed_at = times.get("care-of-address-ready")
        probes = self.probes(since)
        return Roam(
            means=means,
            origin=origin.name,
            destination=self.position.name,
            changes_link=move.origin != move.destination,
            began_at=since,
            connected_at=connected_at,
            link_up_at=roaming.carrier.usable_after(connected_at or since),
            noticed_at=noticed[-1].at if noticed else None,
            access_point=record.get("access_point", "")
            or (noticed[-1].details["access_point"] if noticed else ""),
            solicited_at=record.get("router_solicited_at"),
            advertised_at=record.get("router_advertised_at"),
            care_of_address_at=changed_at,
            update_sent_at=updates[0].at if updates else None,
            acknowledged_at=times.get("binding-accepted"),
            updates=len(updates),
            care_of_addresses=tuple(
                dict.fromkeys(event.details["care_of_address"] for event in updates)
            ),
            **probes,
        )

    async def _record(self, since: float) -> dict[str, Any]:
        """The agent's own record of the newest handover."""
        answer = await Client(self.roaming.mobile_node.socket).handovers()
        records = [one for one in answer["handovers"] if one["link_up_at"] >= since]
        return dict(records[-1]) if records else {}

    def probes(self, since: float) -> dict[str, Any]:
        """What became of the probes since an instant, but for the latest."""
        ping = self.traffic.ping
        until_at = boottime() - 0.5
        answers = {one["sequence"]: one["at"] for one in ping.of_kind("reply")}
        window = [one for one in ping.of_kind("sent") if since - 0.3 <= one["at"] < until_at]
        replies = [one["at"] for one in window if one["sequence"] in answers]
        lost = [one["at"] for one in window if one["sequence"] not in answers]
        last_lost = max(lost, default=since)
        resumed = [
            answers[one["sequence"]]
            for one in window
            if one["sequence"] in answers and one["at"] >= last_lost
        ]
        return {
            "replies": tuple(replies),
            "lost": tuple(lost),
            "resumed_at": min(resumed, default=None),
        }

    async def configured(self, interface: str) -> None:
        """Wait until the agent has an address that it can use on an interface. Raises RigError."""
        deadline = boottime() + SETTLE_TIMEOUT
        while boottime() < deadline:
            status = await self.roaming.mobile_node.status()
            found = next((one for one in status["interfaces"] if one["name"] == interface), None)
            addresses = {} if found is None else found["addresses"]
            if any(
                state == "preferred" and not IPv6Address(address).is_link_local
                for address, state in addresses.items()
            ):
                return
            await asyncio.sleep(SETTLE_INTERVAL)
        raise RigError(f"no address on {interface}")

    def processor_seconds(self) -> dict[str, float]:
        """What the node's daemon and the captures, as far as they run, have taken of the processor
        so far."""
        roaming = self.roaming
        programs = {"daemon": roaming.mobile_node.process, "captures": roaming.capture}
        return {
            name: processor_seconds(program.pid)
            for name, program in programs.items()
            if program is not None and program.returncode is None
        }

    def connections_live(self) -> bool:
        """No connection has failed so far."""
        ends = (*self.traffic.outgoing, *self.traffic.incoming)
        return all(end.returncode is None and not end.of_kind("failed") for end in ends)

    async def measure_round_trips(self) -> None:
        """To the access router over the air, and on to the home agent. Raises RigError."""
        roaming = self.roaming
        link = self.position.link
        router = {LINK_A: "router-a", LINK_B: "router-b"}[link]
        mobile, beyond = roaming.topology[MOBILE], roaming.topology[router]
        address = json.loads(beyond.show("-j", "-6", "addr", "show", "dev", "access"))
        local = next(one["local"] for one in address[0]["addr_info"] if one["scope"] == "link")
        near = await _round_trip(mobile.name, f"{local}%{STATION_INTERFACE}")
        far = await _round_trip(beyond.name, str(HOME_AGENT))
        self.round_trips_ms = {"access-router": near, "home-agent": round(near + far, 1)}


async def _round_trip(namespace: str, address: str) -> float:
    command = ("ip", "netns", "exec", namespace, "ping", "-6", "-n", "-c", "15", "-i", "0.1")
    shown = await asyncio.to_thread(run, *command, address)
    times = [float(found) for found in _PING_TIME.findall(shown)]
    if not times:
        raise RigError(f"{address} does not answer")
    return round(median(times), 1)


# The scenarios.


async def across_links(stage: Stage, outcome: Outcome) -> None:
    """Roams by command between access points with different prefixes"""
    await stage.measure_round_trips()
    for number in range(stage.roams):
        outcome.roams.append(await stage.roam("ap-2" if number % 2 == 0 else "ap-1"))
    _claim_noticed(outcome)
    budget = sum(stage.round_trips_ms.values()) + ALLOWANCE_MS
    middle = median_of([roam.registration_ms for roam in outcome.roams])
    outcome.claims.append(
        Claim(
            "the median time from the nl80211 event to the Binding Acknowledgement is at most"
            " both round trips and 30 ms",
            middle is not None and middle <= budget,
            f"{middle} ms of {budget:.1f} ms",
        )
    )
    early = [
        roam
        for roam in outcome.roams
        if roam.update_sent_at is None
        or roam.connected_at is None
        or roam.link_up_at is None
        or roam.update_sent_at < roam.connected_at
    ]
    outcome.claims.append(
        Claim(
            "each roam led to a Binding Update after the nl80211 event",
            not early,
            ", ".join(f"{roam.origin} to {roam.destination}" for roam in early),
        )
    )


async def within_link(stage: Stage, outcome: Outcome) -> None:
    """Roams by command between access points with the same prefix"""
    if stage.position.link != LINK_A:
        await stage.roam("ap-1")
    for name in ("ap-3", "ap-1", "ap-3", "ap-1"):
        if stage.position.name != name:
            outcome.roams.append(await stage.roam(name))
    _claim_noticed(outcome)
    _claim_no_change(outcome)


async def by_signal(stage: Stage, outcome: Outcome) -> None:
    """Roams that the station makes because the signal falls"""
    control = stage.roaming.station.control
    control.tell(f'SET_NETWORK {PROTECTED_ID} bgscan "simple:2:-65:30"')
    # Background scans begin with an association.
    await stage.roam("ap-3" if stage.position.name == "ap-1" else "ap-1")
    try:
        for name in ("ap-2", "ap-1", "ap-2", "ap-1"):
            began_at = boottime()
            for plan in ACCESS_POINTS.values():
                set_strength(plan, STRONG if plan.name == name else WEAK)
            outcome.roams.append(await stage.roams_by_itself("signal", began_at))
    finally:
        control.tell(f'SET_NETWORK {PROTECTED_ID} bgscan ""')
        _set_strengths(STRONG)
    _claim_noticed(outcome)
    told = [event.at for event in stage.roaming.mobile_node.events if event.name == "signal-weak"]
    warned = [
        roam
        for roam in outcome.roams
        if any(roam.began_at <= at < (roam.connected_at or 0.0) for at in told)
    ]
    text = "the agent told of the weak signal before each roam"
    detail = f"{len(warned)} of {len(outcome.roams)}"
    outcome.claims.append(Claim(text, len(warned) == len(outcome.roams), detail))


async def weak_signal(stage: Stage, outcome: Outcome) -> None:
    """The signal falls, and the supplicant does not scan by itself: the agent has it scan"""
    control = stage.roaming.station.control
    # The kernel forgets what it has not heard for half a minute.
    control.tell("SCAN TYPE=ONLY")
    await stage.roam("ap-3" if stage.position.name == "ap-1" else "ap-1")
    await asyncio.sleep(LOOK_AROUND)
    try:
        began_at = boottime()
        for plan in ACCESS_POINTS.values():
            set_strength(plan, STRONG if plan.name == "ap-2" else WEAK)
        outcome.roams.append(await stage.roams_by_itself("weak signal", began_at))
    finally:
        _set_strengths(STRONG)
    _claim_noticed(outcome)
    (roam,) = outcome.roams
    events = stage.roaming.mobile_node.events
    told = [one.at for one in events if one.name == "signal-weak" and one.at >= began_at]
    seconds = (roam.connected_at or 0.0) - began_at
    outcome.claims.append(
        Claim(
            "the agent told of the weak signal, and the station was elsewhere soon after",
            bool(told) and told[0] < (roam.connected_at or 0.0) < told[0] + SCAN_PATIENCE,
            f"{seconds:.1f} s after it fell",
        )
    )


async def second_interface(stage: Stage, outcome: Outcome) -> None:
    """The signal falls, and there is a cellular modem: registered there before the link is lost"""
    roaming = stage.roaming
    if stage.position.link != LINK_A:
        await stage.roam("ap-1")
    roaming.plug_modem(LINK_B)
    try:
        await stage.configured(MODEM_INTERFACE)
        fell_at = boottime()
        _set_strengths(WEAK)
        left_at = await roaming.settled(_move(LINK_B, fell_at), timeout=SETTLE_TIMEOUT)
        stayed = roaming.station.is_at(stage.position.bssid)
        # Beyond the agent's first scan.
        await asyncio.sleep(SCAN_TIME)
        rose_at = boottime()
        _set_strengths(STRONG)
        back_at = await roaming.settled(_move(LINK_A, rose_at), timeout=SETTLE_TIMEOUT)
        await stage.traffic.resumed(boottime(), timeout=SETTLE_TIMEOUT)
        await asyncio.sleep(DWELL)
        lost = stage.probes(fell_at)["lost"]
    finally:
        _set_strengths(STRONG)
        roaming.unplug_modem()
    text = "the node registered from the modem while the station was still associated"
    outcome.claims.append(Claim(text, stayed, f"{left_at - fell_at:.1f} s after the signal fell"))
    text = "it came back when the signal was good again"
    outcome.claims.append(Claim(text, back_at > rose_at, f"{back_at - rose_at:.1f} s after"))
    outcome.claims.append(Claim("no probe was lost either way", not lost, f"{len(lost)} lost"))


def _move(destination: str, at: float) -> Move:
    return Move("the other interface", destination, at, at)


def _set_strengths(level: int) -> None:
    for plan in ACCESS_POINTS.values():
        set_strength(plan, level)


async def access_point_dies(stage: Stage, outcome: Outcome) -> None:
    """Access points that end without a word, and one that takes leave"""
    for name, end in (("ap-2", "die"), ("ap-1", "die"), ("ap-2", "stop")):
        if stage.position.name != name:
            await stage.roam(name)
        others = [plan for plan in ACCESS_POINTS.values() if plan.link != stage.position.link]
        heard = next(plan for plan in others if plan.link != CAPTIVE)
        neighbours = [
            plan
            for plan in ACCESS_POINTS.values()
            if plan.name not in (name, heard.name) and plan.link != CAPTIVE
        ]
        for plan in neighbours:
            set_strength(plan, WEAK)
        dead = stage.roaming.access_points[name]
        began_at = boottime()
        await (dead.die() if end == "die" else dead.stop())
        outcome.roams.append(await stage.roams_by_itself(f"{name} {end}s", began_at))
        for plan in neighbours:
            set_strength(plan, STRONG)
        await dead.start()
    _claim_noticed(outcome)


async def reauthentication(stage: Stage, outcome: Outcome) -> None:
    """The same access point again: ordered by the station, and forced by the access point"""
    station = stage.roaming.station
    address = "02:00:00:00:00:00"
    for means in ("reassociation", "deauthentication"):
        origin, began_at = stage.position, boottime()
        if means == "reassociation":
            station.control.tell("REASSOCIATE")
        else:
            point = stage.roaming.access_points[stage.position.name]
            point.control.tell(f"DEAUTHENTICATE {address}")
        await stage.reconnected(began_at)
        outcome.roams.append(await stage.finish(means, origin, stage.arrived(began_at)))
    _claim_noticed(outcome)
    stayed = [roam for roam in outcome.roams if not roam.changes_link]
    outcome.claims.append(Claim("the station came back to the same link", bool(stayed)))
    _claim_no_change(outcome)


async def wpa3(stage: Stage, outcome: Outcome) -> None:
    """WPA3-SAE with protected management frames instead of WPA2-PSK"""
    station = stage.roaming.station
    await _reconnect(stage, {"key_mgmt": "SAE", "ieee80211w": "2"})
    shown = station.control.fields("STATUS").get("key_mgmt", "")
    outcome.claims.append(Claim("the station uses SAE", shown == "SAE", shown))
    for _ in range(2):
        outcome.roams.append(await stage.roam("ap-2"))
        outcome.roams.append(await stage.roam("ap-1"))
    await _reconnect(stage, {"key_mgmt": "WPA-PSK", "ieee80211w": "0"})
    _claim_noticed(outcome)


async def _reconnect(stage: Stage, settings: dict[str, str]) -> None:
    station, began_at = stage.roaming.station, boottime()
    for name, value in settings.items():
        station.control.tell(f"SET_NETWORK {PROTECTED_ID} {name} {value}")
    station.control.tell("DISCONNECT")
    station.control.tell("RECONNECT")
    await stage.reconnected(began_at)
    await stage.finish("command", stage.position, stage.arrived(began_at))


async def captive(stage: Stage, outcome: Outcome) -> None:
    """Through an open network where nothing gets through, and back"""
    roaming = stage.roaming
    station, agent = roaming.station, roaming.mobile_node
    began_at = boottime()
    station.control.tell(f"SELECT_NETWORK {OPEN_ID}")
    plan = ACCESS_POINTS["ap-4"]
    await station.at(plan.bssid, timeout=60.0)
    roaming.note_move(plan, began_at)
    arrived_at = boottime()
    try:
        event = await agent.wait_for(
            "path-doubtful", after=began_at, timeout=NOTICE_TIMEOUT * PATIENCE
        )
        noticed, detail = True, f"{event.at - arrived_at:.1f} s after it got there"
    except RigError as error:
        noticed, detail = False, str(error)
    outcome.claims.append(Claim("the node notices that nothing comes back", noticed, detail))
    accepted = agent.find("binding-accepted", after=arrived_at)
    outcome.claims.append(Claim("it does not take itself for registered there", accepted is None))
    stage.position = plan
    began_at = boottime()
    station.control.tell(f"SELECT_NETWORK {PROTECTED_ID}")
    outcome.roams.append(await stage.roams_by_itself("leaving a captive network", began_at))
    outcome.claims.append(
        Claim(
            f"it is registered again from {stage.position.name}",
            outcome.roams[-1].acknowledged_at is not None,
            f"{outcome.roams[-1].registration_ms} ms after the nl80211 event",
        )
    )


async def network_manager(stage: Stage, outcome: Outcome) -> None:
    """With NetworkManager owning the interface"""
    await _managed(stage, outcome, NetworkManager)


async def networkd(stage: Stage, outcome: Outcome) -> None:
    """With systemd-networkd owning the interface"""
    await _managed(stage, outcome, Networkd)


async def _managed(stage: Stage, outcome: Outcome, kind: type[Manager]) -> None:
    roaming = stage.roaming
    manager = kind(roaming.hosts[MOBILE], roaming.station)
    began_at = boottime()
    try:
        await manager.start()
        stage.arrived(began_at)
        stage.position = stage.place()
        await stage.traffic.resumed(boottime(), timeout=SETTLE_TIMEOUT)
        for _ in range(2):
            for name in ("ap-2", "ap-3", "ap-1"):
                if stage.position.name != name:
                    outcome.roams.append(await stage.roam(name))
    finally:
        began_at = boottime()
        await manager.stop()
        await roaming.station.associated()
        stage.arrived(began_at)
        stage.position = stage.place()
        await stage.traffic.resumed(boottime(), timeout=SETTLE_TIMEOUT)
    crossed = [roam for roam in outcome.roams if roam.changes_link]
    registered = sum(roam.acknowledged_at is not None for roam in crossed)
    outcome.claims.append(
        Claim(
            "the node registered from each link under its interface's new owner",
            bool(crossed) and registered == len(crossed),
            f"{registered} of {len(crossed)}",
        )
    )
    _claim_noticed(outcome)


def _claim_noticed(outcome: Outcome) -> None:
    """The agent told the right access point of each roam, at the time of the kernel's event."""
    missed = [
        f"{roam.origin} to {roam.destination}"
        for roam in outcome.roams
        if roam.access_point != ACCESS_POINTS[roam.destination].bssid or roam.connected_at is None
    ]
    count = len(outcome.roams)
    text = "the agent noticed every roam by nl80211, with the access point's address"
    outcome.claims.append(
        Claim(text, bool(outcome.roams) and not missed, ", ".join(missed) or f"{count} of {count}")
    )


def _claim_no_change(outcome: Outcome) -> None:
    roams = [roam for roam in outcome.roams if not roam.changes_link]
    changed = [roam for roam in roams if len(roam.care_of_addresses) > 1]
    addresses = {address for roam in roams for address in roam.care_of_addresses}
    outcome.claims.append(
        Claim(
            "no care-of address changed, and no Binding Update was sent to change one",
            bool(roams) and not changed and len(addresses) <= 1,
            ", ".join(sorted(addresses)),
        )
    )
    most = max((roam.updates for roam in roams), default=0)
    outcome.claims.append(
        Claim("no roam cost more than one Binding Update, a check", most <= 1, f"at most {most}")
    )


@dataclass(frozen=True, slots=True)
class Scenario:
    """A name to ask for it by, and what it does."""

    name: str
    play: Callable[[Stage, Outcome], Awaitable[None]]

    @property
    def title(self) -> str:
        """In a sentence."""
        return " ".join((self.play.__doc__ or self.name).split())


SCENARIOS = (
    Scenario("across-links", across_links),
    Scenario("within-link", within_link),
    Scenario("by-signal", by_signal),
    Scenario("weak-signal", weak_signal),
    Scenario("second-interface", second_interface),
    Scenario("access-point-dies", access_point_dies),
    Scenario("reauthentication", reauthentication),
    Scenario("wpa3", wpa3),
    Scenario("captive", captive),
    Scenario("network-manager", network_manager),
    Scenario("networkd", networkd),
)


async def play(names: Sequence[str], roams: int, output: Path) -> Results:
    """Run scenarios on one bench. Raises RigError when the bench itself fails."""
    results = Results(kernel=os.uname().release)
    settings = RoamingSettings(impairment=Impairment(delay=DELAY), home_delay=HOME_DELAY)
    bench = WirelessRoaming(settings)
    live = LiveWriter(output)
    async with bench, Telling(live.tell, bench, trips=bench.trips) as telling:
        try:
            _say("the bench stands")
            stage = await _begin(bench, roams, telling)
            for scenario in SCENARIOS:
                if not names or scenario.name in names:
                    telling.tell(Step(at=boottime(), text=scenario.title))
                    results.outcomes.append(await _play_one(scenario, stage))
            results.round_trips_ms = stage.round_trips_ms
            results.outcomes.append(await _end(stage))
        finally:
            for path in bench.directory.iterdir():
                if path.is_file() and path.suffix in KEPT:
                    shutil.copy(path, output / path.name)
            shutil.copy(bench.directory / MOBILE_NODE_KEYS, output)
    results.seconds = round(float(Path("/proc/uptime").read_text().split()[0]), 1)
    return results


async def _begin(roaming: WirelessRoaming, roams: int, telling: Telling) -> Stage:
    telling.tell(Step(at=boottime(), text="The bench stands, the node registers"))
    await roaming.home_agent.start()
    move = await roaming.connect("ap-1")
    await roaming.mobile_node.start()
    await roaming.settled(move, timeout=SETTLE_TIMEOUT)
    _say("the node is registered")
    # Written to memory: the output folder is slow.
    await roaming.start_captures(roaming.directory)
    traffic = await Traffic.start(roaming)
    _say("connections are open")
    return Stage(roaming, traffic, roams, telling.tell)


async def _play_one(scenario: Scenario, stage: Stage) -> Outcome:
    outcome = Outcome(name=scenario.name, title=scenario.title)
    started, used = time.monotonic(), stage.processor_seconds()
    try:
        await scenario.play(stage, outcome)
    except (RigError, OSError) as error:
        outcome.error = str(error) or type(error).__name__
    alive = stage.connections_live()
    outcome.claims.append(Claim("no connection was lost", alive))
    seconds = time.monotonic() - started
    now = stage.processor_seconds()
    shares = {name: (now[name] - before) / seconds for name, before in used.items() if name in now}
    outcome.claims.append(_frugal(shares))
    outcome.seconds = round(seconds, 1)
    _say(f"{'ok  ' if outcome.succeeded else 'FAIL'} {scenario.title}: {_summary(outcome)}")
    return outcome


def _frugal(shares: dict[str, float]) -> Claim:
    return Claim(
        "the node's daemon left the processor to others",
        shares.get("daemon", 1.0) < MOST_OF_A_PROCESSOR,
        ", ".join(f"{name} {share:.0%}" for name, share in shares.items()),
    )


def _summary(outcome: Outcome) -> str:
    failed = [f"not true: {c.text} ({c.detail})" for c in outcome.claims if not c.held]
    middle = median_of([roam.registration_ms for roam in outcome.roams if roam.changes_link])
    parts = [f"{len(outcome.roams)} roams in {outcome.seconds} s"]
    parts += [f"median {middle} ms from nl80211 to acknowledgement"] if middle else []
    parts += [outcome.error] if outcome.error else []
    return "; ".join([*parts, *failed])


async def _end(stage: Stage) -> Outcome:
    """What must be true of the whole of it."""
    outcome = Outcome(name="connections", title="Connections that lived through all of it")
    started = time.monotonic()
    await stage.traffic.finish()
    for name, pair in (("opened", stage.traffic.outgoing), ("accepted", stage.traffic.incoming)):
        text = f"the TCP connection that the node {name} ended in order, every octet there"
        outcome.claims.append(Claim(text, Traffic.survived(pair)))
    sent = len(stage.traffic.ping.of_kind("sent"))
    answered = len(stage.traffic.ping.of_kind("reply"))
    text = "probes were answered outside of roams"
    outcome.claims.append(Claim(text, answered > sent / 2, f"{answered} of {sent}"))
    dropped = await stage.roaming.finish_captures()
    text = "the captures are complete"
    outcome.claims.append(Claim(text, not dropped, f"{dropped} frames missed"))
    agent = stage.roaming.mobile_node
    failed = [event for event in agent.events if event.name == "action-failed"]
    outcome.claims.append(
        Claim(
            "the agent could do all it wanted",
            not failed,
            "; ".join(str(dict(event.details)) for event in failed[:3]),
        )
    )
    with contextlib.suppress(RigError):
        await agent.stop()
    outcome.seconds = round(time.monotonic() - started, 1)
    return outcome


def _say(text: str) -> None:
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    print(f"[{uptime:6.1f} s] {text}", flush=True)


def main(arguments: list[str]) -> int:
    """The program; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="mnagent.rig.wifi.scenarios")
    parser.add_argument("output", type=Path)
    parser.add_argument("--roams", type=int, default=10)
    parser.add_argument("names", nargs="*")
    options = parser.parse_intermixed_args(arguments)
    try:
        results = asyncio.run(play(options.names, options.roams, options.output))
    except RigError as error:
        print(f"the bench failed: {error}", flush=True)
        return 2
    (options.output / "results.json").write_text(json.dumps(results.as_record()))
    return 0 if results.succeeded else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
