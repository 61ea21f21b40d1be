"""Routers that advertise: radvd, as a real peer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from ipaddress import IPv6Network

from mnagent.rig.host import START_TIMEOUT, Host, Process
from mnagent.rig.namespace import RigError

POLL_INTERVAL = 0.02
"""Seconds between two looks for the file that says radvd is ready."""

RADVD_CONFIGURATION = """\
interface {interface} {{
    AdvSendAdvert on;
{timing}
    AdvDefaultLifetime 1800;
    AdvManagedFlag {managed};
{home_agent}
    prefix {prefix} {{
        AdvOnLink on;
        AdvAutonomous {autonomous};
        AdvRouterAddr {addresses};
    }};
}};
"""
_MOBILE_TIMING = """\
    # A solicitation is answered at once, and the next one 30 ms later too (RFC 6275 section 7.5).
    MinRtrAdvInterval 3;
    MaxRtrAdvInterval 10;
    MinDelayBetweenRAs 0.03;
    AdvIntervalOpt on;"""


@dataclass(frozen=True, slots=True)
class RadvdTiming:
    """How often a router advertises, and what."""

    lines: str = _MOBILE_TIMING
    managed: bool = False
    """The M flag, and no prefix for stateless addresses: addresses come from DHCPv6 alone."""
    addresses: bool = True
    """The R flag: the router tells its own address, from which a mobile node that returns knows
    its home agent's link-layer address."""

    @classmethod
    def defaults(cls) -> RadvdTiming:
        """As radvd comes: one advertisement in 3 s, after a random delay."""
        return cls("")


RADVD_HOME_AGENT = """\
    AdvHomeAgentFlag on;
    AdvHomeAgentInfo on;
    HomeAgentLifetime 1800;
    HomeAgentPreference 0;
"""


async def start_radvd(
    host: Host,
    interface: str,
    prefix: IPv6Network,
    *,
    home_agent: bool = False,
    timing: RadvdTiming | None = None,
) -> Process:
    """Advertise a prefix on a link with radvd; returns once it is configured. Raises RigError."""
    name = f"radvd-{host.namespace.name.rpartition('-')[2]}"
    path = host.directory / f"{name}.conf"
    timing = timing or RadvdTiming()
    path.write_text(
        RADVD_CONFIGURATION.format(
            interface=interface,
            prefix=prefix,
            timing=timing.lines,
            managed="on" if timing.managed else "off",
            addresses="on" if timing.addresses else "off",
            autonomous="off" if timing.managed else "on",
            home_agent=RADVD_HOME_AGENT if home_agent else "",
        )
    )
    pid_file = path.with_suffix(".pid")
    radvd = ("radvd", "-n", "-C", str(path), "-p", str(pid_file), "-m", "stderr")
    process = await host.start(name, radvd)
    # radvd writes its pid only after it has read its configuration and opened its socket.
    async with asyncio.timeout(START_TIMEOUT):
        while not (pid_file.exists() and pid_file.read_text().strip()):
            if process.returncode is not None:
                raise RigError(f"radvd ended: see {host.directory / name}.log")
            await asyncio.sleep(POLL_INTERVAL)
    return process
