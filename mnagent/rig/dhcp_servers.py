"""DHCPv6 servers as real peers: Kea, dnsmasq and ISC dhcpd, with one pool on one link."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Final

from mnagent.rig.host import START_TIMEOUT, Host, Process
from mnagent.rig.namespace import RigError

POLL_INTERVAL = 0.02
"""Seconds between two looks for the words that say a server is ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """What a server leases."""

    prefix: IPv6Network
    first: IPv6Address
    last: IPv6Address
    renew_after: int = 4
    """T1 in seconds; dnsmasq has its own, about a minute."""
    preferred_lifetime: int = 60
    """Seconds."""
    valid_lifetime: int = 120
    """Seconds."""
    rapid_commit: bool = True


@dataclass(frozen=True, slots=True)
class DhcpServer:
    """How to run a server."""

    program: str
    ready: str
    """What it writes once it serves."""
    command: Callable[[Path, str, Pool], tuple[str, ...]]
    """Makes its files in a folder; the command line."""


def _kea(directory: Path, interface: str, pool: Pool) -> tuple[str, ...]:
    subnet = {
        "id": 1,
        "subnet": str(pool.prefix),
        "interface": interface,
        "rapid-commit": pool.rapid_commit,
        "pools": [{"pool": f"{pool.first} - {pool.last}"}],
    }
    settings = {
        "interfaces-config": {"interfaces": [interface]},
        "lease-database": {"type": "memfile", "persist": False},
        "server-id": {"type": "LLT", "persist": False},
        "renew-timer": pool.renew_after,
        "rebind-timer": 2 * pool.renew_after,
        "preferred-lifetime": pool.preferred_lifetime,
        "valid-lifetime": pool.valid_lifetime,
        "subnet6": [subnet],
        "loggers": [
            {
                "name": "kea-dhcp6",
                "output_options": [{"output": "stderr", "flush": True}],
                "severity": "DEBUG",
                "debuglevel": 50,
            }
        ],
    }
    path = directory / "kea.json"
    path.write_text(json.dumps({"Dhcp6": settings}, indent=2))
    folders = (f"KEA_{name}_DIR={directory}" for name in ("PIDFILE", "LOCKFILE", "DHCP_DATA"))
    return ("env", *folders, "kea-dhcp6", "-c", str(path))


def _dnsmasq(directory: Path, interface: str, pool: Pool) -> tuple[str, ...]:
    length, lifetime = pool.prefix.prefixlen, pool.valid_lifetime
    return (
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        f"--pid-file={directory / 'dnsmasq.pid'}",
        f"--dhcp-leasefile={directory / 'dnsmasq.leases'}",
        "--port=0",
        "--user=root",
        "--log-facility=-",
        "--log-dhcp",
        f"--interface={interface}",
        f"--dhcp-range={pool.first},{pool.last},{length},{lifetime}",
    )


_DHCPD_CONFIGURATION = """\
default-lease-time {valid};
preferred-lifetime {preferred};
option dhcp-renewal-time {renew_after};
option dhcp-rebinding-time {rebind_after};
{rapid_commit}
subnet6 {prefix} {{
    range6 {first} {last};
}}
"""


def _dhcpd(directory: Path, interface: str, pool: Pool) -> tuple[str, ...]:
    configuration, leases = directory / "dhcpd.conf", directory / "dhcpd.leases"
    configuration.write_text(
        _DHCPD_CONFIGURATION.format(
            valid=pool.valid_lifetime,
            preferred=pool.preferred_lifetime,
            renew_after=pool.renew_after,
            rebind_after=2 * pool.renew_after,
            rapid_commit="option dhcp6.rapid-commit;" if pool.rapid_commit else "",
            prefix=pool.prefix,
            first=pool.first,
            last=pool.last,
        )
    )
    leases.touch()
    files = ("-cf", str(configuration), "-lf", str(leases), "-pf", str(directory / "dhcpd.pid"))
    return ("dhcpd", "-6", "-f", "-d", *files, interface)


SERVERS: Final[Mapping[str, DhcpServer]] = {
    "kea": DhcpServer("kea-dhcp6", "DHCP6_STARTED", _kea),
    "dnsmasq": DhcpServer("dnsmasq", "DHCPv6, IP range", _dnsmasq),
    "dhcpd": DhcpServer("dhcpd", "Server starting service", _dhcpd),
}


async def start_dhcp_server(host: Host, name: str, interface: str, pool: Pool) -> Process:
    """Serve a pool on a link; returns once it does. Raises RigError."""
    server = SERVERS[name]
    label = _label(host, name)
    directory = host.directory / label
    directory.mkdir(exist_ok=True)
    process = await host.start(label, server.command(directory, interface, pool))
    try:
        async with asyncio.timeout(START_TIMEOUT):
            while server.ready not in log_of(host, name):
                if process.returncode is not None:
                    raise RigError(f"{name} ended: {log_of(host, name)[-500:]}")
                await asyncio.sleep(POLL_INTERVAL)
    except TimeoutError:
        raise RigError(f"{name} does not start: {log_of(host, name)[-500:]}") from None
    return process


def log_of(host: Host, name: str) -> str:
    """What a server has written so far."""
    path = host.directory / f"{_label(host, name)}.log"
    return path.read_text(errors="replace") if path.exists() else ""


def _label(host: Host, name: str) -> str:
    """Hosts share a folder."""
    return f"{name}-{host.namespace.name.rpartition('-')[2]}"
