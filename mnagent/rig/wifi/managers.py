"""Programs that own the station's interface on ordinary systems: NetworkManager, systemd-networkd.

They run as on a board, but for the init system: each is started by hand in the station's namespace,
with the settings that README recommends beside the agent.
"""

from __future__ import annotations

from pathlib import Path

from mnagent.rig.host import Host, Process
from mnagent.rig.namespace import run
from mnagent.rig.wifi.radio import NETWORK, SECRET, STATION_INTERFACE, Station, until

NETWORK_MANAGER = f"""\
[main]
plugins=keyfile
dns=none
rc-manager=unmanaged
[keyfile]
unmanaged-devices=except:interface-name:{STATION_INTERFACE}
[connectivity]
enabled=false
[device]
wifi.scan-rand-mac-address=no
"""
NETWORK_MANAGER_CONNECTION = f"""\
[connection]
id=rig
type=wifi
interface-name={STATION_INTERFACE}
autoconnect=true
[wifi]
ssid={NETWORK}
mode=infrastructure
cloned-mac-address=permanent
powersave=2
[wifi-security]
key-mgmt=wpa-psk
psk={SECRET}
[ipv4]
method=disabled
[ipv6]
method=link-local
addr-gen-mode=eui64
"""
NETWORKD = """\
[Network]
ManageForeignRoutes=no
ManageForeignRoutingPolicyRules=no
"""
NETWORKD_STATION = f"""\
[Match]
Name={STATION_INTERFACE}
[Network]
DHCP=no
IPv6AcceptRA=no
LinkLocalAddressing=ipv6
KeepConfiguration=static
IgnoreCarrierLoss=5s
"""


def _write(path: str, text: str) -> None:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    target.chmod(0o600 if path.endswith(".nmconnection") else 0o644)


class Manager:
    """What owns the interface, beside the station's supplicant."""

    def __init__(self, host: Host, station: Station) -> None:
        self._host = host
        self._station = station
        self._processes: list[Process] = []

    async def start(self) -> None:
        """Returns once the interface is under its care. Raises RigError."""
        await self._start("udev", "/lib/systemd/systemd-udevd")
        await until(lambda: Path("/run/udev/control").exists(), "no udev", timeout=60.0)
        await self._host.run("udevadm", "trigger", "--action=add", "--subsystem-match=net")
        await self._host.run("udevadm", "settle", "--timeout=60")

    async def stop(self) -> None:
        """End it and what it started, latest first."""
        while self._processes:
            await self._processes.pop().stop(timeout=30.0)

    async def _start(self, name: str, *command: str) -> Process:
        started = await self._host.start(name, command)
        self._processes.append(started)
        return started


class NetworkManager(Manager):
    """With its own supplicant, told over D-Bus."""

    async def start(self) -> None:
        _write("/etc/NetworkManager/NetworkManager.conf", NETWORK_MANAGER)
        connection = "/etc/NetworkManager/system-connections/rig.nmconnection"
        _write(connection, NETWORK_MANAGER_CONNECTION)
        Path("/run/dbus").mkdir(exist_ok=True)
        bus = Path("/run/dbus/system_bus_socket")
        bus.unlink(missing_ok=True)
        await super().start()
        await self._start("dbus", "dbus-daemon", "--system", "--nofork", "--nopidfile")
        await until(bus.exists, "no D-Bus", timeout=60.0)
        await self._station.stop()
        control = str(self._station.control.path.parent)
        log = str(self._host.directory / "managed.supplicant")
        await self._start("supplicant-dbus", "wpa_supplicant", "-u", "-t", "-O", control, "-f", log)
        await self._start("NetworkManager", "NetworkManager", "--no-daemon")
        await until(
            lambda: self._station.control.exists, "NetworkManager does nothing", timeout=120.0
        )
        await self._station.associated(timeout=120.0)

    async def stop(self) -> None:
        await super().stop()
        self._station.control.path.unlink(missing_ok=True)
        await self._station.start()
        await self._station.associated()


class Networkd(Manager):
    """Beside the rig's supplicant."""

    async def start(self) -> None:
        _write("/etc/systemd/networkd.conf.d/mnagent.conf", NETWORKD)
        _write("/etc/systemd/network/50-station.network", NETWORKD_STATION)
        folder = Path("/run/systemd/netif")
        for name in ("links", "leases", "lldp"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        run("chown", "-R", "systemd-network:systemd-network", str(folder))
        await super().start()
        await self._start("networkd", "/lib/systemd/systemd-networkd")
        index = self._host.namespace.interface_index(STATION_INTERFACE)
        state = folder / "links" / str(index)

        def managed() -> bool:
            return state.exists() and "ADMIN_STATE=configured" in state.read_text()

        await until(managed, "networkd does not manage the station", timeout=120.0)
