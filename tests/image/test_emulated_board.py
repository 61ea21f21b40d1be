"""The very file that is flashed, booted in QEMU: from files on its boot partition to roaming, and
through a power cut. Run by ci/image, which builds the image; evidence stays in its folder."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mnagent.rig.board.remote import ssh_command
from mnagent.rig.daemon import MOBILE_NODE_KEYS, DaemonEvent, toml_document
from mnagent.rig.emulator import MACHINES, Card, EmulatedBoard, Machine
from mnagent.rig.host import boottime
from mnagent.rig.impairment import Impairment
from mnagent.rig.namespace import RigError, run
from mnagent.rig.roaming import Roaming, RoamingSettings
from mnagent.rig.topology import (
    FOREIGN_PREFIXES,
    HOME_ADDRESS,
    LINK_A,
    LINK_B,
    MOBILE,
    MOBILE_INTERFACE,
)

pytestmark = [pytest.mark.root, pytest.mark.image]

BOOT_TIMEOUT = 900.0
"""Seconds an emulated board may take from power to its first registration, on a busy machine."""
MOVE_TIMEOUT = 180.0
PORT = f"{MOBILE}-port"
COUNT_MODULES = (
    'import sys; sys.path.insert(0, "/usr/lib/mnagent"); '
    "import mnagent.runtime.service; print(len(sys.modules))"
)
ECHO = 'while read -r line; do echo "$line"; done'


@dataclass(slots=True)
class Story:
    """What happened, for the evidence."""

    machine: str
    facts: dict[str, Any] = field(default_factory=dict)

    def tell(self, name: str, value: Any) -> None:
        self.facts[name] = value
        print(f"{self.machine}: {name}: {value}", flush=True)


class Bench:
    """The rig's network with an emulated board as its mobile node."""

    def __init__(self, roaming: Roaming, machine: Machine, folder: Path, image: Path) -> None:
        self.roaming = roaming
        self.folder = folder
        self.key = folder / "login"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))
        self.card = Card.flash(image, folder / "card.img")
        self.card.put(self._user_files(machine))
        switch = roaming.topology["switch"]
        roaming.topology[MOBILE].ip(f"link del {MOBILE_INTERFACE}")
        switch.ip(f"tuntap add dev {PORT} mode tap")
        self.board = EmulatedBoard(roaming.hosts["switch"], machine, self.card, port=PORT)

    def _user_files(self, machine: Machine) -> dict[str, str]:
        settings = self.roaming.mobile_node_configuration()
        settings["mobile_node"] |= {
            "interfaces": [machine.interface],
            "keys": "/etc/mnagent/keys/mobile-node.toml",
        }
        return {
            "mnagent.toml": toml_document(settings),
            "keys/mobile-node.toml": (self.roaming.keys() / MOBILE_NODE_KEYS).read_text(),
            "ssh/authorized_keys": self.key.with_suffix(".pub").read_text(),
        }

    async def plug(self, link: str) -> float:
        """Pull the board's cable and plug it into a link; returns when."""
        await self.board.set_carrier(False)
        self.roaming.topology.unplug()
        at = boottime()
        self.roaming.topology.plug(link)
        await self.board.set_carrier(True)
        return at

    async def registered(self, link: str, *, after: float, timeout: float) -> DaemonEvent:
        """The home agent's word that the board is registered from a link."""
        prefix = f"{FOREIGN_PREFIXES[link].network_address}".removesuffix("::")

        def is_from_link(event: DaemonEvent) -> bool:
            return event.details.get("care_of_address", "").startswith(prefix + ":")

        found: dict[str, DaemonEvent] = {}
        async with asyncio.timeout(timeout):
            while not found:
                if not self.board.is_running:
                    raise RigError(f"the board restarted: {self.board.serial_text()[-800:]}")
                for name in ("binding-created", "binding-updated"):
                    event = self.roaming.home_agent.find(name, after=after, matching=is_from_link)
                    if event is not None:
                        found[name] = event
                await asyncio.sleep(0.05)
        return next(iter(found.values()))

    def remote(self, *command: str) -> tuple[str, ...]:
        """The command that runs a command on the board, at its home address."""
        return (*ssh_command(self.key), f"root@{HOME_ADDRESS}", *command)

    async def ask(self, *command: str) -> str:
        """What a command prints on the board, asked for by the correspondent over SSH. The agent is
        up before the SSH server: one that refuses is asked again."""
        name = self.roaming.topology["correspondent"].name
        async with asyncio.timeout(300):
            while True:
                process = await asyncio.create_subprocess_exec(
                    *("ip", "netns", "exec", name, *self.remote(*command)),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                )
                output, errors = await process.communicate()
                if process.returncode == 0:
                    return output.decode()
                if b"Connection refused" not in errors:
                    raise RigError(f"ssh {' '.join(command)}: {errors.decode(errors='replace')}")
                await asyncio.sleep(0.5)


class Session:
    """One SSH connection from the correspondent to the board's home address, kept open."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def open(cls, bench: Bench) -> Session:
        name = bench.roaming.topology["correspondent"].name
        return cls(
            await asyncio.create_subprocess_exec(
                *("ip", "netns", "exec", name, *bench.remote(ECHO)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
        )

    async def echo(self, words: str, *, timeout: float) -> float:
        """Seconds until the board echoed ``words`` over the connection."""
        assert self._process.stdin is not None and self._process.stdout is not None
        started = time.monotonic()
        self._process.stdin.write(f"{words}\n".encode())
        async with asyncio.timeout(timeout):
            while (line := await self._process.stdout.readline()).decode().strip() != words:
                assert line, "the connection was closed"
        return time.monotonic() - started

    async def close(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


@pytest.fixture
def evidence(request: pytest.FixtureRequest) -> Path:
    """A folder that stays."""
    folder = Path(request.config.getoption("--evidence")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.parametrize("name", sorted(MACHINES))
def test_flashed_board_roams_and_survives_a_power_cut(
    name: str, request: pytest.FixtureRequest, evidence: Path, tmp_path: Path
) -> None:
    image = request.config.getoption("--image")
    if image is None:
        pytest.skip("needs --image FILE.img.zst; ci/image builds one")
    if name not in request.config.getoption("--machine"):
        pytest.skip("another machine was asked for")
    story = Story(name)
    story.tell("not_emulated_and_so_not_tried", MACHINES[name].lacks)
    asyncio.run(_tell_story(story, Path(image), tmp_path, evidence))
    (evidence / f"{name}.json").write_text(json.dumps(story.facts, indent=2) + "\n")


async def _tell_story(story: Story, image: Path, folder: Path, evidence: Path) -> None:
    settings = RoamingSettings(impairment=Impairment(delay=0.005))
    async with Roaming(settings) as roaming:
        bench = Bench(roaming, MACHINES[story.machine], folder, image)
        await roaming.home_agent.start()
        try:
            first = await _boot_and_register(story, bench)
            await bench.ask("true")  # The agent goes first; SSH comes once it has started.
            story.tell("seconds_from_registration_to_ssh", round(boottime() - first.at, 1))
            session = await Session.open(bench)
            try:
                await _roam(story, bench, session)
            finally:
                await session.close()
            await _look_at_the_start(story, bench, evidence)
            await _look_inside(story, bench, evidence)
            await _cut_power(story, bench, first)
            if bench.board.machine.tells_carrier:  # The others are slow, and have the same system.
                await _never_write_to_the_root(story, bench, first)
        finally:
            await bench.board.power_cut()
            for number, log in enumerate(bench.board.serial_logs, 1):
                shutil.copy(log, evidence / f"{story.machine}-serial-{number}.log")
            shutil.copy(
                roaming.directory / "home-agent.log", evidence / f"{story.machine}-home-agent.log"
            )
            (folder / "card.img").unlink()


async def _boot_and_register(story: Story, bench: Bench) -> DaemonEvent:
    bench.roaming.topology.plug(LINK_A)
    started = boottime()
    await bench.board.power_on()
    event = await bench.registered(LINK_A, after=started, timeout=BOOT_TIMEOUT)
    story.tell("seconds_from_power_to_registration", round(event.at - started, 1))
    story.tell("cpu_seconds_of_the_emulator_until_then", round(bench.board.cpu_seconds(), 1))
    story.tell("load_of_this_machine", os.getloadavg()[0])
    story.tell("care_of_address", event.details["care_of_address"])
    return event


async def _roam(story: Story, bench: Bench, session: Session) -> None:
    story.tell("seconds_to_log_in", round(await session.echo("hello", timeout=300), 1))
    gaps = []
    for number, link in enumerate((LINK_B, LINK_A)):
        moved = await bench.plug(link)
        event = await bench.registered(link, after=moved, timeout=MOVE_TIMEOUT)
        gaps.append(round(event.at - moved, 2))
        await session.echo(f"after move {number}", timeout=MOVE_TIMEOUT)
    story.tell("seconds_from_plug_to_registration", gaps)
    story.tell("connection_survived_moves", len(gaps))


async def _look_inside(story: Story, bench: Bench, evidence: Path) -> None:
    report = await bench.ask("cat", "/boot/firmware/mnagent-report.txt")
    assert "all well" in report, report
    names = (await bench.ask("ls", "-1R", "/boot/firmware")).split()
    assert "mobile-node.toml" not in names, "a key file stayed on the boot partition"
    status = json.loads(await bench.ask("mnagent", "status", "--json"))
    story.tell("status_role", status["role"])
    story.tell("engine", status["engine"])
    assert status["engine"]["kind"] == "kernel", "the kernel of the image refused its part"
    pid = (await bench.ask("systemctl", "show", "-P", "MainPID", "mnagent-mobile-node")).strip()
    memory = await bench.ask("grep", "-E", "'VmRSS|RssAnon'", f"/proc/{pid}/status")
    for name, line in zip(("rss", "rss_of_its_own"), memory.splitlines(), strict=True):
        story.tell(f"daemon_{name}_mebibytes", round(int(line.split()[1]) / 1024, 1))
    mappings = await bench.ask("cat", f"/proc/{pid}/smaps")
    (evidence / f"{story.machine}-memory.txt").write_text(_largest(mappings))
    imported = await bench.ask("python3", "-I", "-c", f"'{COUNT_MODULES}'")
    story.tell("daemon_modules", int(imported))
    story.tell("kernel", (await bench.ask("uname", "-r")).strip())
    shadow = await bench.ask("cut", "-d:", "-f2", "/etc/shadow")
    assert set(shadow.split()) == {"*"}, "somebody has a password"


def _largest(mappings: str) -> str:
    """Resident KiB of a process by what is mapped, and how much of it is its own, largest first."""
    sizes: dict[str, list[int]] = {}
    name = ""
    for line in mappings.splitlines():
        words = line.split()
        if re.fullmatch(r"[0-9a-f]+-[0-9a-f]+", words[0]):
            name = words[5] if len(words) > 5 else "[anonymous]"
        elif words[0] in ("Rss:", "Anonymous:"):
            sizes.setdefault(name, [0, 0])[words[0] == "Anonymous:"] += int(words[1])
    ordered = sorted(sizes.items(), key=lambda item: -item[1][0])
    return "".join(f"{rss:8} {own:8} {name}\n" for name, (rss, own) in ordered)


async def _look_at_the_start(story: Story, bench: Bench, evidence: Path) -> None:
    """When what happened, by the board's own clock, which starts with its kernel."""
    seconds, journal = await _first_binding_update(bench)
    story.tell("seconds_from_kernel_to_first_binding_update", seconds)
    parts = []
    for what in (("time",), ("critical-chain", "mnagent-mobile-node.service"), ("blame",)):
        parts.append(await bench.ask("systemd-analyze", "--no-pager", *what))
    (evidence / f"{story.machine}-start.txt").write_text("\n".join((*parts, journal)))


async def _first_binding_update(bench: Bench) -> tuple[float, str]:
    """Seconds since the kernel's start, and the journal that says so."""
    journal = await bench.ask(
        *("journalctl", "-b", "-q", "-o", "short-monotonic", "-u", "mnagent-mobile-node")
    )
    sent = re.search(r"^\[ *([0-9.]+)\].*binding-update-sent", journal, re.MULTILINE)
    assert sent is not None, journal
    return round(float(sent[1]), 1), journal


async def _cut_power(story: Story, bench: Bench, first: DaemonEvent) -> None:
    await bench.board.power_cut()
    cut = boottime()
    await bench.board.power_on()
    event = await bench.registered(LINK_A, after=cut, timeout=BOOT_TIMEOUT)
    story.tell("seconds_from_power_cut_to_registration", round(event.at - cut, 1))
    story.tell("cpu_seconds_of_the_emulator_after_power_cut", round(bench.board.cpu_seconds(), 1))
    assert event.details["care_of_address"] == first.details["care_of_address"]
    story.tell("same_care_of_address_after_power_cut", True)
    seconds, _ = await _first_binding_update(bench)
    story.tell("seconds_from_kernel_to_first_binding_update_after_power_cut", seconds)
    rejected = bench.roaming.home_agent.find("binding-update-rejected", after=cut)
    assert rejected is None, f"the home agent refused the board: {rejected}"
    trouble = re.findall(
        r"(?i).*(?:EXT4-fs error|I/O error|UNEXPECTED INCONSISTENCY).*", bench.board.serial_text()
    )
    assert not trouble, trouble
    errors = await bench.ask("journalctl", "-k", "-b", "-p", "err", "--no-pager", "-q")
    assert "EXT4-fs" not in errors, errors
    story.tell("file_systems_after_power_cut", "clean")


async def _never_write_to_the_root(story: Story, bench: Bench, first: DaemonEvent) -> None:
    """As the README on the boot partition tells the user to."""
    await bench.board.power_cut()
    line = bench.card.get("cmdline.txt").strip()
    bench.card.put({"cmdline.txt": f"{line} overlayroot=tmpfs:recurse=0\n"})
    started = boottime()
    await bench.board.power_on()
    event = await bench.registered(LINK_A, after=started, timeout=BOOT_TIMEOUT)
    assert event.details["care_of_address"] == first.details["care_of_address"]
    kinds = await bench.ask("findmnt", "-n", "-o", "FSTYPE", "/", ";", "findmnt -n /media/root-ro")
    root, below = kinds.strip().splitlines()
    assert root.startswith("overlay"), kinds
    assert re.search(r"\bro\b", below), kinds
    story.tell("root_file_system_never_written", True)
