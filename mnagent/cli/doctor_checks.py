"""The checks of ``mnagent doctor``: each looks at one thing and says what it found, and the
remedy."""

from __future__ import annotations

import enum
import errno
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from mnagent.cli.probe import Probe
from mnagent.cli.processor import ADVICE, has_aes
from mnagent.config import Autoconfiguration, Configuration, EngineChoice, Role

CAP_NET_ADMIN = 12
CAP_NET_RAW = 13
IPV6_SETTINGS = "/proc/sys/net/ipv6/conf"


class Level(enum.Enum):
    """How bad a finding is."""

    GOOD = "good"
    NOTE = "note"
    """Worth knowing; nothing to do."""
    WARNING = "warning"
    """The agent works, not as well as it could."""
    ERROR = "error"
    """The agent cannot work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found."""

    check: str
    level: Level
    text: str
    remedy: str = ""
    """What to do; empty when there is nothing to do."""


Findings = Iterator[Finding]
Check = Callable[[Probe, Configuration | None], Findings]


def _finding(check: str, level: Level, text: str, remedy: str = "") -> Finding:
    return Finding(check=check, level=level, text=text, remedy=remedy)


def check_privileges(probe: Probe, configuration: Configuration | None) -> Findings:
    """CAP_NET_ADMIN and CAP_NET_RAW."""
    status = probe.read("/proc/self/status") or ""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", status, flags=re.MULTILINE)
    effective = int(found[1], 16) if found else 0
    names = {CAP_NET_ADMIN: "CAP_NET_ADMIN", CAP_NET_RAW: "CAP_NET_RAW"}
    missing = [name for bit, name in names.items() if not effective >> bit & 1]
    if missing:
        text = f"this process lacks {' and '.join(missing)}"
        remedy = "run as root, or by the systemd unit, which grants just these two"
        yield _finding("privileges", Level.ERROR, text, remedy)
    else:
        yield _finding("privileges", Level.GOOD, "CAP_NET_ADMIN and CAP_NET_RAW are there")


def check_tunnel_device(probe: Probe, configuration: Configuration | None) -> Findings:
    """/dev/net/tun."""
    code = probe.try_open("/dev/net/tun")
    if code == 0:
        yield _finding("tunnel device", Level.GOOD, "/dev/net/tun can be opened")
        return
    remedies = {
        errno.ENOENT: "`modprobe tun`; in a container, pass the device through (--device)",
        errno.ENODEV: "`modprobe tun`, or a kernel with CONFIG_TUN",
        errno.ENXIO: "`modprobe tun`, or a kernel with CONFIG_TUN",
    }
    remedy = remedies.get(code, "run as root; in a container, allow the device")
    text = f"/dev/net/tun cannot be opened: {os.strerror(code)}"
    yield _finding("tunnel device", Level.ERROR, text, remedy)


def check_ipv6(probe: Probe, configuration: Configuration | None) -> Findings:
    """IPv6 is there and not switched off."""
    if probe.read("/proc/net/if_inet6") is None:
        remedy = "boot without ipv6.disable=1, or `modprobe ipv6`"
        yield _finding("IPv6", Level.ERROR, "this kernel runs without IPv6", remedy)
        return
    names = ["all", "default", *_own_interfaces(configuration)]
    off = [
        name
        for name in names
        if (probe.read(f"{IPV6_SETTINGS}/{name}/disable_ipv6") or "0").strip() == "1"
    ]
    for name in off:
        remedy = f"`sysctl -w net.ipv6.conf.{name}.disable_ipv6=0`"
        text = f"IPv6 is switched off for {name}"
        yield _finding("IPv6", Level.ERROR, text, remedy)
    if not off:
        yield _finding("IPv6", Level.GOOD, "IPv6 is on")


def check_packet_sockets(probe: Probe, configuration: Configuration | None) -> Findings:
    """AF_PACKET, by which the engine sees packets before the kernel does."""
    code = probe.try_packet_socket()
    if code == 0:
        yield _finding("packet sockets", Level.GOOD, "AF_PACKET sockets can be opened")
    elif code == errno.EAFNOSUPPORT:
        remedy = "`modprobe af_packet`, or a kernel with CONFIG_PACKET"
        text = "this kernel has no AF_PACKET sockets"
        yield _finding("packet sockets", Level.ERROR, text, remedy)
    else:
        text = f"AF_PACKET sockets cannot be opened: {os.strerror(code)}"
        yield _finding("packet sockets", Level.ERROR, text, "run as root (CAP_NET_RAW)")


def check_nftables(probe: Probe, configuration: Configuration | None) -> Findings:
    """The netdev ingress hook, which keeps mobility packets from the kernel."""
    error = probe.try_ingress_table()
    if error is None:
        yield _finding("nftables", Level.GOOD, "a netdev ingress table can be made")
        return
    remedy = (
        "install the package nftables (libnftables1); the kernel needs CONFIG_NF_TABLES_NETDEV "
        "(`modprobe nf_tables`) and this process CAP_NET_ADMIN"
    )
    text = f"no netdev ingress table can be made: {' '.join(error.split())}"
    yield _finding("nftables", Level.ERROR, text, remedy)


def check_policy_rules(probe: Probe, configuration: Configuration | None) -> Findings:
    """``ip -6 rule``."""
    code = probe.try_policy_rules()
    if code == 0:
        yield _finding("policy routing", Level.GOOD, "the kernel has IPv6 routing rules")
    else:
        text = f"the kernel does not list IPv6 routing rules: {os.strerror(code)}"
        remedy = "use a kernel with CONFIG_IPV6_MULTIPLE_TABLES"
        yield _finding("policy routing", Level.ERROR, text, remedy)


def check_forwarding(probe: Probe, configuration: Configuration | None) -> Findings:
    """A home agent forwards; a mobile node must not, or the kernel ignores router
    advertisements."""
    if configuration is None:
        return
    forwarding = (probe.read(f"{IPV6_SETTINGS}/all/forwarding") or "0").strip() != "0"
    if configuration.role is Role.HOME_AGENT:
        if forwarding:
            yield _finding("forwarding", Level.GOOD, "the kernel forwards IPv6")
        else:
            text = "the kernel does not forward IPv6; the agent turns it on while it runs"
            remedy = "to have it always: net.ipv6.conf.all.forwarding=1 in /etc/sysctl.d"
            yield _finding("forwarding", Level.NOTE, text, remedy)
    elif forwarding and configuration.role is Role.MOBILE_NODE:
        text = "this mobile node forwards IPv6, so the kernel ignores router advertisements"
        remedy = "`sysctl -w net.ipv6.conf.all.forwarding=0`, unless it is a mobile router"
        yield _finding("forwarding", Level.WARNING, text, remedy)


def check_other_daemons(probe: Probe, configuration: Configuration | None) -> Findings:
    """Programs that configure the same interfaces."""
    running = probe.processes()
    found = [
        *_network_manager(probe, configuration, running),
        *_networkd(probe, running),
        *_dhcpcd(probe, configuration, running),
    ]
    if not found:
        text = "no other network daemon is in the way"
        found = [_finding("other daemons", Level.GOOD, text)]
    yield from found


def _own_interfaces(configuration: Configuration | None) -> tuple[str, ...]:
    if configuration is None:
        return ()
    if configuration.mobile_node is not None:
        return configuration.mobile_node.interfaces
    agent, correspondent = configuration.home_agent, configuration.correspondent
    if agent is None:
        return () if correspondent is None else correspondent.interfaces
    return agent.interfaces + ((agent.home_link,) if agent.home_link else ())


def _configures_addresses(configuration: Configuration | None) -> bool:
    """True when the agent means to do itself what the other daemon does."""
    node = None if configuration is None else configuration.mobile_node
    return node is not None and node.autoconfiguration is Autoconfiguration.AGENT


def _settings(probe: Probe, *patterns: str) -> str:
    """All lines of some configuration files, comments left out."""
    texts = [probe.read(path) or "" for pattern in patterns for path in probe.files(pattern)]
    lines = (line.strip() for text in texts for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith(("#", ";")))


def _network_manager(
    probe: Probe, configuration: Configuration | None, running: set[str]
) -> Findings:
    if "NetworkManager" not in running:
        return
    settings = _settings(
        probe, "etc/NetworkManager/NetworkManager.conf", "etc/NetworkManager/conf.d/*"
    )
    lists = re.findall(r"^unmanaged-devices\s*\+?=\s*(.*)$", settings, re.MULTILINE)
    patterns = [
        pattern.removeprefix("=")
        for pattern in re.findall(r"(?<!except:)interface-name:([^;,\s]+)", " ".join(lists))
    ]
    tunnel = configuration.host.tunnel_interface if configuration else "mnagent0"
    names = [tunnel]
    if _configures_addresses(configuration):
        names += _own_interfaces(configuration)
    missing = [
        name for name in names if not any(fnmatchcase(name, pattern) for pattern in patterns)
    ]
    if not missing:
        yield _finding("NetworkManager", Level.GOOD, "it runs and leaves our interfaces alone")
        return
    devices = ";".join(f"interface-name:{name}" for name in missing)
    yield _finding(
        "NetworkManager",
        Level.WARNING,
        f"it runs and may reconfigure {', '.join(missing)}",
        f'put "[keyfile]" and "unmanaged-devices={devices}" into '
        "/etc/NetworkManager/conf.d/mnagent.conf and reload it, or let it have the addresses "
        '(autoconfiguration = "kernel")',
    )


def _networkd(probe: Probe, running: set[str]) -> Findings:
    # The kernel cuts a process name to 15 octets.
    if not running & {"systemd-network", "systemd-networkd"}:
        return
    settings = _settings(probe, "etc/systemd/networkd.conf", "etc/systemd/networkd.conf.d/*.conf")
    wrong = [
        key
        for key in ("ManageForeignRoutes", "ManageForeignRoutingPolicyRules")
        if not re.search(rf"^{key}\s*=\s*(no|false|0|off)$", settings, re.MULTILINE)
    ]
    if not wrong:
        yield _finding("systemd-networkd", Level.GOOD, "it runs and keeps our routes and rules")
        return
    lines = ", ".join(f'"{key}=no"' for key in wrong)
    yield _finding(
        "systemd-networkd",
        Level.WARNING,
        "it runs and removes routes and rules of others when it restarts",
        f'put "[Network]" and {lines} into /etc/systemd/networkd.conf.d/mnagent.conf, '
        "and restart it",
    )


def _dhcpcd(probe: Probe, configuration: Configuration | None, running: set[str]) -> Findings:
    if "dhcpcd" not in running:
        return
    settings = _settings(probe, "etc/dhcpcd.conf")
    denied = set(" ".join(re.findall(r"^denyinterfaces\s+(.*)$", settings, re.MULTILINE)).split())
    left_alone = re.search(r"^(noipv6|noipv6rs|ipv4only)$", settings, re.MULTILINE)
    ours = set(_own_interfaces(configuration))
    if left_alone or (ours and ours <= denied) or not _configures_addresses(configuration):
        yield _finding("dhcpcd", Level.GOOD, "it runs and does not disturb")
        return
    yield _finding(
        "dhcpcd",
        Level.WARNING,
        "it runs and configures IPv6 addresses on our interfaces too",
        'put "noipv6" into /etc/dhcpcd.conf and restart it, or let it have the addresses '
        '(autoconfiguration = "kernel")',
    )


def check_engine(probe: Probe, configuration: Configuration | None) -> Findings:
    """The compiled data path."""
    error = probe.engine_error()
    if error is None:
        yield _finding("engine", Level.GOOD, "the compiled data path loads")
    else:
        text = f"the compiled data path does not load: {error}"
        remedy = "install libssl-dev and a C compiler, then `pip install .` again"
        yield _finding("engine", Level.ERROR, text, remedy)


def check_kernel_engine(probe: Probe, configuration: Configuration | None) -> Findings:
    """The in-kernel engine: nothing but speed depends on it, unless it is asked for."""
    choice = EngineChoice.AUTO if configuration is None else configuration.host.engine
    if choice is EngineChoice.USERSPACE:
        yield _finding("kernel engine", Level.NOTE, 'not used (host.engine = "userspace")')
        return
    error = probe.kernel_engine_error()
    if error is not None:
        level = Level.ERROR if choice is EngineChoice.KERNEL else Level.WARNING
        text = f"packets are carried in user space, which is slower: {error[0]}"
        yield _finding("kernel engine", level, text, error[1])
        return
    yield _finding("kernel engine", Level.GOOD, "the kernel takes the programs")
    if not probe.has_bpf_file_system():
        text = "there is no BPF file system: packets wait while the agent restarts after a crash"
        remedy = "mount -t bpf bpf /sys/fs/bpf (systemd does)"
        yield _finding("kernel engine", Level.NOTE, text, remedy)


def check_libcrypto(probe: Probe, configuration: Configuration | None) -> Findings:
    """libcrypto, and whether the processor helps it."""
    version = probe.libcrypto_version()
    if version is None:
        remedy = "install the package libssl3"
        yield _finding("libcrypto", Level.ERROR, "libcrypto is not there", remedy)
        return
    yield _finding("libcrypto", Level.GOOD, version)
    if has_aes(probe.read("/proc/cpuinfo") or ""):
        yield _finding("processor", Level.GOOD, "it has instructions for AES")
    else:
        text = "it has no instructions for AES, so ESP for payload costs more here"
        yield _finding("processor", Level.NOTE, text, ADVICE)


def check_interfaces(probe: Probe, configuration: Configuration | None) -> Findings:
    """What there is, and whether what is configured is there."""
    present = probe.interfaces()
    for name, addresses in sorted(present.items()):
        if name == "lo":
            continue
        state = (probe.read(f"/sys/class/net/{name}/operstate") or "unknown").strip()
        shown = ", ".join(addresses) or "no IPv6 address"
        yield _finding("interfaces", Level.NOTE, f"{name} is {state}: {shown}")
    for name in _own_interfaces(configuration):
        if name not in present:
            text = f"{name} is configured and not there; the agent waits for it to appear"
            remedy = "correct the name if it never will; `ip link` lists the names"
            yield _finding("interfaces", Level.WARNING, text, remedy)


CHECKS: tuple[Check, ...] = (
    check_privileges,
    check_tunnel_device,
    check_ipv6,
    check_packet_sockets,
    check_nftables,
    check_policy_rules,
    check_forwarding,
    check_other_daemons,
    check_engine,
    check_kernel_engine,
    check_libcrypto,
    check_interfaces,
)


def run_checks(probe: Probe, configuration: Configuration | None) -> list[Finding]:
    """All of them, in order."""
    return [finding for check in CHECKS for finding in check(probe, configuration)]
