"""Access points and a station on simulated radios (mac80211_hwsim), with real hostapd and
wpa_supplicant.

Radio 0 is the station's, radio n access point n's, whose BSSID is ``02:00:00:00:0n:00``. All share
one network name and one secret, as WPA2-PSK or WPA3-SAE, whichever the station asks for; one more,
open, is the network of a place where nothing gets through.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mnagent.rig.host import Host, Process, boottime
from mnagent.rig.namespace import Namespace, RigError, run
from mnagent.rig.wifi.control import ControlSocket

NETWORK = "mnagent"
OPEN_NETWORK = "captive"
SECRET = "one secret for all"
STATION_INTERFACE = "wlan0"
STRONG, WEAK = -50, -80
"""dBm that the station hears of an access point; simulated radios cannot be heard worse."""
TRANSMIT_POWER = 20
"""dBm of a simulated radio; what is heard is that more than what is set."""
POLL_INTERVAL = 0.02
SUPPLICANT_FOLDER = Path("/run/wpa_supplicant")
RADIO_FOLDER = Path("/sys/kernel/debug/ieee80211")

_HOSTAPD = """\
interface={interface}
bridge={bridge}
driver=nl80211
ctrl_interface={control}
ssid={network}
hw_mode=g
channel={channel}
beacon_int=100
supported_rates=60 90 120 180 240 360 480 540
basic_rates=60 120 240
"""
_PROTECTED = f"""\
wpa=2
wpa_key_mgmt=WPA-PSK SAE
rsn_pairwise=CCMP
ieee80211w=1
sae_require_mfp=1
wpa_passphrase={SECRET}
"""
_SUPPLICANT = """\
ctrl_interface={control}
update_config=0
ap_scan=1
p2p_disabled=1
network={{
    ssid="{network}"
    scan_freq={frequencies}
    key_mgmt={key_management}
    ieee80211w=0
    psk="{secret}"
}}
network={{
    ssid="{open_network}"
    scan_freq={frequencies}
    key_mgmt=NONE
    disabled=1
}}
"""
PROTECTED_ID, OPEN_ID = 0, 1
"""Numbers of the supplicant's two networks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessPointPlan:
    """Where an access point is and what it offers."""

    name: str
    radio: int
    link: str
    """The bridge it is a port of."""
    channel: int
    is_open: bool = False

    @property
    def bssid(self) -> str:
        """Its address in the air."""
        return f"02:00:00:00:{self.radio:02x}:00"

    @property
    def interface(self) -> str:
        """Of its radio."""
        return f"wlan{self.radio}"

    @property
    def frequency(self) -> int:
        """MHz."""
        return 2407 + 5 * self.channel

    def configuration(self, control: Path) -> str:
        """What hostapd is told."""
        text = _HOSTAPD.format(
            interface=self.interface,
            bridge=self.link,
            control=control,
            network=OPEN_NETWORK if self.is_open else NETWORK,
            channel=self.channel,
        )
        return text if self.is_open else text + _PROTECTED


def load_radios(count: int) -> None:
    """Make simulated radios. Raises RigError."""
    run("modprobe", "mac80211_hwsim", f"radios={count}")
    run("modprobe", "-a", "ccm", "gcm", "cmac", "bridge", "veth", "tun", "sch_netem")


def give_radio(radio: int, namespace: Namespace) -> None:
    """Move a radio and its interface into a namespace. Raises RigError."""
    run("iw", "phy", f"phy{radio}", "set", "netns", "name", namespace.name)


def set_strength(plan: AccessPointPlan, level: int) -> None:
    """How the station hears an access point from now on, in dBm."""
    # As unsigned: older kernels refuse a minus sign.
    value = (level - TRANSMIT_POWER) & 0xFFFFFFFF
    path = RADIO_FOLDER / f"phy{plan.radio}" / "hwsim" / "rx_rssi"
    path.write_text(str(value))


class AccessPoint:
    """hostapd on one radio, over as many lives as a scenario gives it."""

    def __init__(self, plan: AccessPointPlan, host: Host) -> None:
        self.plan = plan
        self._host = host
        self._folder = host.directory / "hostapd"
        self._folder.mkdir(exist_ok=True)
        self._process: Process | None = None
        self.control = ControlSocket(self._folder / plan.interface)

    async def start(self) -> None:
        """Returns once it sends beacons. Raises RigError."""
        path = self._host.directory / f"{self.plan.name}.conf"
        path.write_text(self.plan.configuration(self._folder))
        self.control.path.unlink(missing_ok=True)
        log = str(self._host.directory / f"{self.plan.name}.hostapd")
        command = ("hostapd", "-t", "-f", log, str(path))
        self._process = process = await self._host.start(self.plan.name, command)

        def works() -> bool:
            if process.returncode is not None:
                raise RigError(f"{self.plan.name} ended: see {log}")
            return self.control.exists and self.control.fields("STATUS").get("state") == "ENABLED"

        await until(works, f"{self.plan.name} does not start", timeout=30.0)

    async def stop(self) -> None:
        """It takes leave of its station."""
        await self._end(signal.SIGTERM)

    async def die(self) -> None:
        """Its beacons end without a word."""
        await self._end(signal.SIGKILL)

    async def _end(self, number: int) -> None:
        if self._process is None:
            raise RigError(f"{self.plan.name} does not run")
        self._process.send_signal(number)
        await self._process.wait(timeout=10.0)
        self._process = None


class Station:
    """wpa_supplicant on the station's radio."""

    def __init__(self, host: Host, frequencies: tuple[int, ...]) -> None:
        self._host = host
        self._frequencies = frequencies
        self._process: Process | None = None
        # Where it is on a board, and where the agent looks for it.
        SUPPLICANT_FOLDER.mkdir(exist_ok=True)
        self.control = ControlSocket(SUPPLICANT_FOLDER / STATION_INTERFACE)

    async def start(self, *, key_management: str = "WPA-PSK") -> None:
        """Returns once it takes orders. Raises RigError."""
        path = self._host.directory / "supplicant.conf"
        path.write_text(
            _SUPPLICANT.format(
                control=self.control.path.parent,
                network=NETWORK,
                open_network=OPEN_NETWORK,
                secret=SECRET,
                frequencies=" ".join(map(str, self._frequencies)),
                key_management=key_management,
            )
        )
        log = str(self._host.directory / "station.supplicant")
        options = ("-t", "-D", "nl80211", "-i", STATION_INTERFACE, "-c", str(path), "-f", log)
        self._process = await self._host.start("supplicant", ("wpa_supplicant", *options))
        await until(
            lambda: self.control.exists and self.control.ask("PING") == "PONG",
            "wpa_supplicant does not start",
            timeout=30.0,
        )

    def place(self) -> str:
        """BSSID of the access point it is associated with, keys and all, or nothing."""
        status = self.control.fields("STATUS")
        return status.get("bssid", "") if status.get("wpa_state") == "COMPLETED" else ""

    def is_at(self, bssid: str) -> bool:
        """Whether it is associated there."""
        return self.place() == bssid

    async def stop(self) -> None:
        """End it: the interface is another's."""
        if self._process is not None:
            await self._process.stop(timeout=30.0)
            self._process = None

    async def associated(self, *, timeout: float = 60.0) -> None:
        """Wait until it is at whatever access point. Raises RigError."""
        await until(
            lambda: bool(self.place()),
            "the station finds no access point",
            timeout=timeout,
        )

    async def at(self, bssid: str, *, timeout: float = 30.0) -> None:
        """Wait until it is. Raises RigError."""
        await until(lambda: self.is_at(bssid), f"not at {bssid}", timeout=timeout)

    async def hears(self, bssid: str) -> None:
        """Scan until an access point is known. Raises RigError."""

        def known() -> bool:
            return f"bssid={bssid}" in self.control.ask(f"BSS {bssid}")

        deadline = boottime() + 60.0
        while not known():
            # Refused while it scans: then that scan is the one.
            self.control.ask("SCAN TYPE=ONLY freq=" + ",".join(map(str, self._frequencies)))
            try:
                await until(known, f"{bssid} is not heard", timeout=4.0)
            except RigError:
                if boottime() > deadline:
                    raise

    def roam(self, bssid: str) -> None:
        """Order it to another access point of the network. Raises RigError."""
        self.control.tell(f"ROAM {bssid}")


async def until(
    condition: Callable[[], bool],
    complaint: str,
    *,
    timeout: float,
    interval: float = POLL_INTERVAL,
) -> None:
    """Wait for what can only be looked at. Raises RigError with the complaint after ``timeout``
    seconds."""
    deadline = boottime() + timeout
    while not condition():
        if boottime() > deadline:
            raise RigError(f"{complaint} within {timeout:.0f} s")
        await asyncio.sleep(interval)
