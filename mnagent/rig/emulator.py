"""Boards that are not there: a card image booted in QEMU, its network port plugged into a link.

The file that is booted is the one that is flashed. What the firmware of a real board does, the rig
does: it takes kernel, initramfs, device tree and command line from the card's boot partition.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mnagent.rig.host import Host, Process, processor_seconds
from mnagent.rig.namespace import RigError, run

BOOT_OFFSET_MEBIBYTES = 4
"""Where the boot partition begins on every card."""
PATIENCE = "systemd.default_timeout_start_sec=600"
"""An emulated processor is slow, and the machine that emulates it may be busy."""
POLL_INTERVAL = 0.2
START_ATTEMPTS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One of QEMU's machines, and how its card and network are plugged in."""

    name: str
    arguments: tuple[str, ...]
    drive: str
    network: str
    console: str
    """Kernel's name of the serial port that is logged."""
    serial_before: tuple[str, ...] = ()
    """Serial ports before that one."""
    device_tree: str = ""
    kernel_options: str = ""
    interface: str = "eth0"
    """Name of the network interface on the board."""
    tells_carrier: bool = True
    """Whether the board sees its cable pulled."""
    lacks: str
    """What of a board it does not have, and so cannot try."""


VIRT = Machine(
    name="virt",
    arguments=("-M", "virt", "-cpu", "cortex-a72", "-smp", "2", "-m", "512"),
    drive="if=virtio",
    network="virtio-net-pci,romfile=",
    console="ttyAMA0,115200",
    lacks="all devices of a Raspberry Pi: SD card, Ethernet, Wi-Fi, watchdog",
)
RASPI3B = Machine(
    name="raspi3b",
    arguments=("-M", "raspi3b"),
    drive="if=sd",
    network="usb-net",
    console="ttyS1,115200",
    serial_before=("null",),
    device_tree="bcm2837-rpi-3-b.dtb",
    # What QEMU emulates badly or not at all; cdc_subset would take the network from rndis_host, and
    # its watchdog bites when it is armed.
    kernel_options="modprobe.blacklist=cdc_subset,vchiq,vc4,hci_uart,bcm2835_wdt "
    "initcall_blacklist=bcm2835_wdt_driver_init systemd.watchdog_sec=0",
    interface="usb0",
    tells_carrier=False,
    lacks="Wi-Fi, watchdog, Bluetooth, graphics; its network is a USB card that is always plugged "
    "in, so that the board finds out by itself that it is on another link",
)
MACHINES = {machine.name: machine for machine in (VIRT, RASPI3B)}


class Card:
    """A card of one's own, made from an image; its boot partition can be read and written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def flash(cls, image: Path, path: Path, *, mebibytes: int = 2048) -> Card:
        """Write a compressed image to a card of that size, a power of two. Raises RigError."""
        run("zstd", "-q", "-d", "-f", str(image), "-o", str(path))
        if path.stat().st_size > mebibytes << 20:
            raise RigError(f"{image} does not fit a card of {mebibytes} MiB")
        with path.open("r+b") as file:
            file.truncate(mebibytes << 20)
        return cls(path)

    def put(self, files: Mapping[str, str]) -> None:
        """Write text files to the boot partition, by their paths there. Raises RigError."""
        with tempfile.TemporaryDirectory() as folder:
            for name, text in files.items():
                source = Path(folder) / "file"
                source.write_text(text, encoding="utf-8")
                self._mtools("mcopy", "-o", str(source), f"::/{name}")

    def get(self, name: str) -> str:
        """A text file of the boot partition. Raises RigError when there is none."""
        return self._mtools("mtype", f"::/{name}")

    def names(self) -> list[str]:
        """Paths of all files on the boot partition."""
        listed = self._mtools("mdir", "-b", "-/", "::/").splitlines()
        return sorted(name.removeprefix("::/") for name in listed)

    def extract(self, name: str, target: Path) -> None:
        """Copy a file of the boot partition out. Raises RigError."""
        self._mtools("mcopy", "-n", "-o", f"::/{name}", str(target))

    def _mtools(self, command: str, *arguments: str) -> str:
        place = f"{self.path}@@{BOOT_OFFSET_MEBIBYTES}M"
        return run("env", "MTOOLS_SKIP_CHECK=1", command, "-i", place, *arguments)


class EmulatedBoard:
    """A machine with a card, in a host's namespace, its network on the tap ``port`` there."""

    def __init__(self, host: Host, machine: Machine, card: Card, *, port: str) -> None:
        self.machine = machine
        self.card = card
        self.serial_logs: list[Path] = []
        """One a start, oldest first."""
        self._host = host
        self._port = port
        self._process: Process | None = None

    async def power_on(self) -> None:
        """Start it; returns once QEMU runs. Raises RigError."""
        folder = self._host.directory
        log = folder / f"serial-{len(self.serial_logs) + 1}.log"
        self.serial_logs.append(log)
        kernel, initramfs = self._firmware(folder)
        machine = self.machine
        tree = ("-dtb", str(folder / machine.device_tree)) if machine.device_tree else ()
        options = self.card.get("cmdline.txt").split()
        options = [option for option in options if not option.startswith("console=")]
        line = " ".join((f"console={machine.console}", *options, machine.kernel_options, PATIENCE))
        serial = [entry for name in machine.serial_before for entry in ("-serial", name)]
        wait = "server=on,wait=off"
        command = [
            "qemu-system-aarch64",
            *machine.arguments,
            *("-accel", "tcg,thread=multi"),
            *("-kernel", str(kernel), "-initrd", str(initramfs), *tree, "-append", line),
            *("-drive", f"file={self.card.path},format=raw,cache=unsafe,{machine.drive}"),
            *("-netdev", f"tap,id=net,ifname={self._port},script=no,downscript=no"),
            *("-device", f"{machine.network},netdev=net,id=card,mac=52:54:00:6d:6e:01"),
            *serial,
            *("-chardev", f"socket,id=console,path={self.console},{wait},logfile={log}"),
            *("-serial", "chardev:console"),
            *("-qmp", f"unix:{self._socket},{wait}"),
            *("-display", "none", "-monitor", "none", "-no-reboot"),
        ]
        for socket in (self._socket, self.console):
            socket.unlink(missing_ok=True)
        self._process = await self._host.start("qemu", command)
        for _ in range(START_ATTEMPTS):
            if self._socket.exists():
                return
            if self._process.returncode is not None:
                break
            await asyncio.sleep(POLL_INTERVAL)
        words = (folder / "qemu.log").read_text(errors="replace")[-400:]
        raise RigError(f"QEMU did not start: {words}")

    @property
    def console(self) -> Path:
        """The Unix socket of its serial console, for one at a time."""
        return self._host.directory / "console.sock"

    @property
    def _socket(self) -> Path:
        return self._host.directory / "qemu.qmp"

    def _firmware(self, folder: Path) -> tuple[Path, Path]:
        """Do what the board's firmware does; returns kernel and initramfs."""
        names = dict[str, str]()
        for line in self.card.get("config.txt").splitlines():
            if line.startswith("kernel="):
                names["kernel"] = line.removeprefix("kernel=").strip()
            elif line.startswith("initramfs "):
                names["initramfs"] = line.split()[1]
        if len(names) != 2:
            raise RigError("config.txt on the card names no kernel and initramfs")
        for kind, name in names.items():
            self.card.extract(name, folder / kind)
        if self.machine.device_tree:
            self.card.extract(self.machine.device_tree, folder / self.machine.device_tree)
        return folder / "kernel", folder / "initramfs"

    async def set_carrier(self, up: bool) -> None:
        """Let the board see its cable plugged or pulled, where the machine can. Raises RigError."""
        if self.machine.tells_carrier:
            await self._tell("set_link", name="card", up=up)

    @property
    def is_running(self) -> bool:
        """Whether the emulator runs: it ends when the board restarts by itself."""
        return self._process is not None and self._process.returncode is None

    async def power_cut(self) -> None:
        """It gets no chance to tidy up."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            with contextlib.suppress(TimeoutError):
                await self._process.wait(timeout=10)
            await self._process.stop()
            self._process = None

    async def _tell(self, command: str, **arguments: object) -> None:
        reader, writer = await asyncio.open_unix_connection(str(self._socket))
        try:
            await reader.readline()
            for request in (
                {"execute": "qmp_capabilities"},
                {"execute": command, "arguments": arguments},
            ):
                writer.write(json.dumps(request).encode() + b"\n")
                while True:
                    answer = json.loads(await reader.readline())
                    if "error" in answer:
                        raise RigError(f"QEMU: {command}: {answer['error']['desc']}")
                    if "return" in answer:
                        break
        finally:
            writer.close()

    def cpu_seconds(self) -> float:
        """Processor time that the emulator took since it was last powered on: what does not depend
        on who else uses this machine. Raises RigError when it is off."""
        if self._process is None:
            raise RigError("the board is off")
        return processor_seconds(self._process.pid)

    def serial_text(self) -> str:
        """All that the board said on its console since it was last powered on."""
        return self.serial_logs[-1].read_text(errors="replace") if self.serial_logs else ""
