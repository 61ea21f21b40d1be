"""A run: stages of rounds of steps, and what must hold after each of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from mnagent.rig.daemon import MOBILE_NODE_KEYS
from mnagent.rig.host import Process, boottime
from mnagent.rig.impairment import Impairment
from mnagent.rig.keyfile import read_associations
from mnagent.rig.namespace import RigError
from mnagent.rig.roaming import Roaming, RoamingSettings, Traffic
from mnagent.rig.soak import clock, faults, plan, watch
from mnagent.rig.soak.attacks import VICTIM
from mnagent.rig.soak.plan import STAGES, Stage, Step, plan_round
from mnagent.rig.soak.record import Broken, Done, Findings
from mnagent.rig.soak.resources import (
    Kernel,
    Memory,
    differences,
    look_at_program,
    look_into_kernel,
)
from mnagent.rig.topology import (
    FOREIGN_PREFIXES,
    HOME_ADDRESS,
    HOME_AGENT,
    HOME_PREFIX,
    LINK_A,
    LINK_B,
    End,
)

CALM = Impairment(delay=0.005)
ROLES = {"mobile": "mobile-node", "home-agent": "home-agent", "correspondent": "correspondent"}
"""Namespaces that have a daemon, and its name."""
OURS = ("rules", "links", "tables", "proxies", "associations")
"""What only a daemon makes in these namespaces."""
DETECTION = 1.5
"""Seconds until duplicate address detection of the last address is over."""
ATTACK_GAP = 1.5
"""Seconds without an answer that an attack may cost; a handover is worth less on a calm machine."""
RECOVERY = 40.0
"""Seconds after which all must be well again, whatever was done."""
PATIENCE = 60.0
"""Seconds for which connections, at the end of a round, may wait for their own timers."""
NOTICE = 0.2
"""Seconds from before a plug is put in until a daemon on a loaded machine has noticed."""
GROWTH_ALLOWANCE = 512
"""Kilobytes a daemon may grow, after its warm-up, between the two halves of its life."""
FIRST_GROWTH_ALLOWANCE = 3072
"""The same for a life too short for its histories and caches to be full."""
DIRECT_PATIENCE = 10.0
"""Seconds that the direct path may take at the end of a round."""
FULL = 400
"""Handovers after which histories and caches are full."""

KERNEL_STATE = (
    ("-6", "-s", "addr"),
    ("-6", "route", "show", "table", "all"),
    ("-6", "rule"),
    ("-6", "-s", "neigh"),
)

CONNECTIONS = "connections survive, every octet in order"
RESUMED = f"traffic resumes within {RECOVERY:.0f} s of whatever was done"
UNDISTURBED = f"an attack interrupts nothing for {ATTACK_GAP} s"
KERNEL = "nothing is left over or missing in the kernel"
BEHIND = "a stopped daemon leaves the kernel as it was"
DESCRIPTORS = "descriptors and threads of a daemon stay as many"
MEMORY = "the memory of a daemon stays flat"
ALIVE = "no daemon ends by itself"
ERRORS = "no daemon meets an error that it did not expect"
COMPLETE = "the watch saw every frame"

Say = Callable[[str], None]


@dataclass(slots=True)
class Rig:
    """One stage's rig while it stands."""

    stage: Stage
    roaming: Roaming
    observer: Process
    recorded: list[bytes] = field(default_factory=list)
    """Signalling that passed and was not replayed yet."""
    traffic: Traffic | None = None
    dead: list[tuple[float, float]] = field(default_factory=list)
    """When the mobile node's daemon was dead or not registered again yet, CLOCK_BOOTTIME."""
    moves: int = 0
    is_direct: bool = False
    """Whether the round's traffic ended on the direct path, which has routes of its own."""
    read: int = 0
    """Records of the observer that were looked at."""


class Soak:
    """A run; `run` returns its findings."""

    def __init__(self, findings: Findings, say: Say, evidence: Path | None = None) -> None:
        """``evidence`` is where logs and kernel state go when an invariant was violated."""
        self._evidence = evidence
        self.findings = findings
        self._say = say
        self._where = ("", 0, "")
        self._memory = Memory()
        self._logs: Counter[str] = Counter()

    async def run(self, stages: Sequence[Stage] = STAGES, **options: Any) -> Findings:
        """All stages; ``options`` go to `_stage`."""
        began = time.monotonic()
        for stage in stages:
            await self._stage(stage, **options)
        self.findings.seconds = time.monotonic() - began
        return self.findings

    def _break(self, invariant: str, detail: str) -> None:
        stage, number, step = self._where
        broken = Broken(invariant=invariant, stage=stage, round=number, step=step, detail=detail)
        self.findings.broken.append(broken)
        self._say(f"BROKEN: {invariant}: {detail}")

    def _hold(self, invariant: str, held: bool, detail: str) -> None:
        self.findings.judged[invariant] += 1
        if not held:
            self._break(invariant, detail)

    # A stage

    async def _stage(
        self,
        stage: Stage,
        *,
        steps: int = plan.STEPS,
        first_round: int = 0,
        rounds: int | None = None,
        must: Sequence[str] = (),
    ) -> None:
        """Rounds until the stage's time is over, or so many of them."""
        self._where = (stage.name, first_round, "start")
        self._memory, self._logs = Memory(), Counter()
        ends_at = boottime() + stage.share * self.findings.minutes * 60
        async with self._rig(stage) as rig:
            before = {role: look_into_kernel(rig.roaming.topology[role]) for role in ROLES}
            await self._begin(rig)
            baseline: dict[str, Kernel] | None = None
            number = first_round
            while number - first_round < (rounds or sys.maxsize):
                await self._round(rig, number, steps, must)
                baseline = await self._look(rig, baseline)
                number += 1
                if rounds is None and boottime() >= ends_at:
                    break
            await self._end(rig, before)

    @contextlib.asynccontextmanager
    async def _rig(self, stage: Stage) -> AsyncIterator[Rig]:
        settings = RoamingSettings(
            impairment=CALM,
            home_delay=0.003,
            payload_protection=stage.payload_protection,
            mobile_node={"route_optimization": "on-traffic"},
        )
        async with Roaming(settings) as roaming:
            for agent in roaming.agents.values():
                offset = agent.configuration.with_suffix(".clock")
                clock.make_offset(offset)
                agent.program = (sys.executable, "-m", "mnagent.rig.soak.clock", str(offset))
                text = agent.configuration.read_text()
                agent.configuration.write_text(text.replace('"debug"', '"info"'))
            yield Rig(stage, roaming, await self._start_watch(roaming, stage))

    async def _start_watch(self, roaming: Roaming, stage: Stage) -> Process:
        associations = read_associations(roaming.directory / MOBILE_NODE_KEYS)
        places = [
            f"{point.namespace.name}:{point.interface}:{point.name}"
            for point in roaming.topology.capture_points
            if point.name != "core-router-a"
        ]
        orders = watch.Orders(
            home_address=str(HOME_ADDRESS),
            home_agent=str(HOME_AGENT),
            home_prefix=str(HOME_PREFIX),
            victim=str(VICTIM),
            foreign={link: str(prefix) for link, prefix in FOREIGN_PREFIXES.items()},
            mobile_node=_macs(roaming, "mobile", "eth0"),
            agents=_macs(roaming, "home-agent", "to-core", "access"),
            correspondent=_macs(roaming, "correspondent", "eth0"),
            payload_spis=tuple(item.spi for item in associations if item.purpose == "payload"),
            is_payload_protected=stage.payload_protection == "esp",
            are_tests_protected=any(item.purpose == "return_routability" for item in associations),
        )
        observer = await roaming.hosts["switch"].start_module(
            "watch", "mnagent.rig.soak.watch", json.dumps(asdict(orders)), *places
        )
        await observer.wait_for_kind("ready")
        return observer

    async def _begin(self, rig: Rig) -> None:
        roaming = rig.roaming
        await roaming.home_agent.start()
        await roaming.correspondent.start()
        await roaming.mobile_node.start()
        for link in (LINK_A, LINK_B, LINK_A):
            await roaming.settled(roaming.move(link))

    async def _end(self, rig: Rig, before: dict[str, Kernel]) -> None:
        self._where = (rig.stage.name, self._where[1], "end")
        self._judge_memory(rig)
        for name in ("mobile-node", "correspondent", "home-agent"):
            agent = rig.roaming.agents[name]
            with contextlib.suppress(OSError):
                counters = (await agent.status())["counters"]
                self.findings.counters.setdefault(name, Counter()).update(counters)
            await agent.stop()
        for role in ROLES:
            after = look_into_kernel(rig.roaming.topology[role])
            # What the mobile node's kernel learnt from routers by itself afterwards is its own.
            found = [text for text in differences(before[role], after) if text.startswith(OURS)]
            self._hold(BEHIND, not found, f"{role}: {'; '.join(found)}")
        rig.observer.end_input()
        await rig.observer.wait(timeout=20)
        self._listen(rig)
        finished = rig.observer.of_kind("finished")
        if not finished:
            raise RigError("the watch ended early")
        last = finished[0]
        self._hold(COMPLETE, last["dropped"] == 0, f"{last['dropped']} frames were missed")
        self.findings.frames += last["frames"]
        self.findings.judged.update(last["rules"])
        self.findings.excused["neighbour discovery from the home address"] += last[
            "neighbour_discovery"
        ]

    # A round

    async def _round(self, rig: Rig, number: int, steps: int, must: Sequence[str]) -> None:
        seed = f"{self.findings.seed}/{rig.stage.name}/{number}"
        self._where = (rig.stage.name, number, "traffic")
        rig.traffic = await Traffic.start(rig.roaming)
        try:
            for step in plan_round(rig.stage, seed, steps, must):
                self._where = (rig.stage.name, number, f"{step.number} {step.kind}")
                await self._step(rig, number, step)
            self._where = (rig.stage.name, number, "connections")
            try:
                await rig.traffic.resumed(boottime(), timeout=PATIENCE)
            except RigError as error:
                self._break(CONNECTIONS, str(error))
                await self._keep_evidence(rig)
            rig.is_direct = await self._becomes_direct(rig)
            await rig.traffic.finish()
            for name in ("outgoing", "incoming"):
                ends = getattr(rig.traffic, name)
                records = [end.records[-1] if end.records else {} for end in ends]
                self._hold(CONNECTIONS, Traffic.survived(ends), f"{name}: {records}")
        finally:
            await _forget(rig)

    async def _step(self, rig: Rig, round_number: int, step: Step) -> None:
        began = boottime()
        fault = faults.Fault(rig, step, Random(step.seed))
        packets = await fault.do()
        done_at = boottime()
        broken = len(self.findings.broken)
        try:
            await self._recovered(rig, done_at)
            self.findings.judged[RESUMED] += 1
        except (RigError, TimeoutError) as error:
            self._hold(RESUMED, False, f"{error} {await _state(rig)}")
            await self._keep_evidence(rig)
        if fault.killed_mobile_at is not None:
            rig.dead.append((fault.killed_mobile_at, boottime()))
        gap = _gap(rig.traffic, began, boottime())
        if fault.is_attack:
            self._hold(UNDISTURBED, gap <= ATTACK_GAP, f"{gap:.2f} s without an answer")
        stage = rig.stage.name
        self.findings.done.append(
            Done(
                stage=stage,
                round=round_number,
                number=step.number,
                kind=step.kind,
                links=step.links,
                gap=round(gap, 3),
                packets=packets,
            )
        )
        self._say(f"{stage} {round_number}.{step.number} {step.kind}: gap {gap * 1000:.0f} ms")
        rig.moves += len(step.links)
        await self._check_daemons(rig)
        self._listen(rig)
        if len(self.findings.broken) > broken:
            await self._keep_evidence(rig)

    async def _recovered(self, rig: Rig, since: float) -> None:
        """A ping is answered, and the mobile node is registered from where it is."""
        assert rig.traffic is not None
        await rig.traffic.ping.wait_for(
            lambda record: record["kind"] == "reply" and record["sent_at"] >= since,
            timeout=RECOVERY,
        )
        async with asyncio.timeout(RECOVERY):
            while not await faults.is_settled(rig.roaming):
                await asyncio.sleep(0.05)

    async def _becomes_direct(self, rig: Rig) -> bool:
        """After the last handover the direct path comes back, if nothing has discouraged it."""
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(DIRECT_PATIENCE):
                while True:
                    node = (await rig.roaming.mobile_node.status())["mobile_node"]
                    if any(each["path"] == "direct" for each in node["correspondents"]):
                        return True
                    await asyncio.sleep(0.05)
        self.findings.excused["a round that ended on the way through the home agent"] += 1
        return False

    async def _check_daemons(self, rig: Rig) -> None:
        for name, agent in rig.roaming.agents.items():
            process = agent.process
            alive = process is not None and process.returncode is None
            self._hold(ALIVE, alive, f"{name}: {agent.log_tail()}")
            if not alive:
                await agent.kill()
                await agent.start()
            log = rig.roaming.directory / f"{name}.log"
            with log.open(errors="replace") as file:
                file.seek(self._logs[name])
                text = file.read()
            self._logs[name] += len(text.encode())
            self._hold(ERRORS, "Traceback" not in text, f"{name}: {_excerpt(text)}")

    def _listen(self, rig: Rig) -> None:
        """Take what the watch said since. Raises RigError when it watches no more."""
        if rig.observer.returncode:
            raise RigError("the watch ended early")
        records = rig.observer.records
        for record in records[rig.read :]:
            if record["kind"] == "signalling":
                rig.recorded.append(bytes.fromhex(record["packet"]))
            elif record["kind"] == "violation":
                self._accuse(rig, record)
        del records[: max(0, len(records) - 1)]
        rig.read = len(records)

    def _accuse(self, rig: Rig, record: dict[str, Any]) -> None:
        at = record["at"] - (time.time() - boottime())
        if record["rule"] == watch.HOME_SOURCE and any(
            begin <= at <= end for begin, end in rig.dead
        ):
            self.findings.excused["from the home address while the daemon was dead"] += 1
            return
        if record["rule"] == watch.HOME_SOURCE and any(
            move.link_up_at <= at <= move.link_up_at + NOTICE for move in rig.roaming.moves
        ):
            self.findings.excused["from the home address before the move could be noticed"] += 1
            return
        self._break(record["rule"], f"{record['link']}: {record['detail']}")

    async def _keep_evidence(self, rig: Rig) -> None:
        """The daemons' logs and status, and what their kernels hold, as early as it is known."""
        stage, number, step = self._where
        folder = (self._evidence or Path()) / f"{stage}-{number}-{step}".replace(" ", "-")
        if self._evidence is None or folder.exists():
            return
        folder.mkdir(parents=True)
        for role, name in ROLES.items():
            shutil.copy(rig.roaming.directory / f"{name}.log", folder)
            with contextlib.suppress(OSError):
                status = await rig.roaming.agents[name].status()
                (folder / f"{name}.json").write_text(json.dumps(status, indent=1))
            namespace = rig.roaming.topology[role]
            shown = [f"# {' '.join(each)}\n{namespace.show(*each)}" for each in KERNEL_STATE]
            (folder / f"{name}.kernel").write_text("\n".join(shown))

    # Between rounds

    async def _look(self, rig: Rig, baseline: dict[str, Kernel] | None) -> dict[str, Kernel] | None:
        """Compare what all of them hold with what they held after the first round."""
        await asyncio.sleep(DETECTION)
        now = {role: look_into_kernel(rig.roaming.topology[role]) for role in ROLES}
        for role, name in ROLES.items():
            if baseline is not None and rig.is_direct:
                found = differences(baseline[role], now[role])
                self._hold(KERNEL, not found, f"{role}: {'; '.join(found)}")
            process = rig.roaming.agents[name].process
            if process is not None and process.returncode is None:
                self._memory.add(name, rig.moves, look_at_program(process.pid))
        return baseline or (now if rig.is_direct else None)

    def _judge_memory(self, rig: Rig) -> None:
        for name, samples in self._memory.lives().items():
            first, last = samples[0][1], samples[-1][1]
            growth = self._memory.growth(name)
            self.findings.daemons.append(
                {
                    "stage": rig.stage.name,
                    "daemon": name,
                    "handovers": samples[-1][0] - samples[0][0],
                    "memory_kb": [program.memory for _, program in samples],
                    "descriptors": [first.descriptors, last.descriptors],
                    "threads": [first.threads, last.threads],
                    "growth": None if growth is None else asdict(growth),
                }
            )
            same = (first.descriptors, first.threads) == (last.descriptors, last.threads)
            detail = f"{first.descriptors}, {first.threads} then {last.descriptors}, {last.threads}"
            self._hold(DESCRIPTORS, same, f"{name}: {detail}")
            if growth is not None:
                full = samples[int(len(samples) / 3)][0] >= FULL
                allowance = GROWTH_ALLOWANCE if full else FIRST_GROWTH_ALLOWANCE
                detail = f"{name}: {growth.kilobytes} KB in {growth.moves} handovers"
                self._hold(MEMORY, growth.kilobytes <= allowance, detail)


def _macs(roaming: Roaming, role: str, *interfaces: str) -> tuple[str, ...]:
    namespace = roaming.topology[role]
    return tuple(End(namespace, interface).link_layer_address() for interface in interfaces)


async def _forget(rig: Rig) -> None:
    """End the round's traffic, and keep nothing of it."""
    traffic, rig.traffic = rig.traffic, None
    if traffic is None:
        return
    ended = (traffic.ping, *traffic.outgoing, *traffic.incoming)
    stops: list[Awaitable[None]] = [process.stop() for process in ended]
    await asyncio.gather(*stops)
    for host in rig.roaming.hosts.values():
        host.processes = [
            process
            for process in host.processes
            if process not in ended and process.returncode is None
        ]


async def _state(rig: Rig) -> str:
    try:
        node = (await rig.roaming.mobile_node.status())["mobile_node"]
    except OSError as error:
        return f"(no status: {error})"
    keys = ("state", "care_of_address", "bound_care_of_address")
    return str({key: node.get(key) for key in keys} | {"at": rig.roaming.topology.position})


def _gap(traffic: Traffic | None, begin: float, end: float) -> float:
    """Longest time without an answer."""
    assert traffic is not None
    instants: list[float] = [record["at"] for record in traffic.ping.of_kind("reply")]
    earlier = [at for at in instants if at < begin]
    inside = [at for at in instants if begin <= at <= end]
    marks = [earlier[-1] if earlier else begin, *inside, end]
    return max(later - former for former, later in pairwise(marks))


def _excerpt(text: str) -> str:
    position = text.find("Traceback")
    return text[position : position + 1500] if position >= 0 else ""
