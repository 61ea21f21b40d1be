"""What carries the benchmark's traffic: plain forwarding, the engine at both ends, or tunnels of
others: wireguard-go, and strongSwan with its ESP in user space.

mobile --- router --- agent --- correspondent        one network namespace each
"""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

from mnagent.core.actions import TunnelEnd
from mnagent.core.security import Direction, EspMode, EspTransform, SecurityAssociation
from mnagent.datapath import (
    DirectPathEntry,
    Engine,
    NextHop,
    PeerBindingEntry,
    Tables,
    TunnelEntry,
)
from mnagent.system.datapath import Datapath
from tests.bench import strongswan
from tests.bench.generator import End
from tests.ext.namespaces import Namespaces, entered, open_tunnel_device, run

HOME = IPv6Address("2001:db8:1::10")
CARE_OF = IPv6Address("2001:db8:2::10")
AGENT = IPv6Address("2001:db8:3::1")
CORRESPONDENT = IPv6Address("2001:db8:4::1")
WIREGUARD_HOME = IPv6Address("2001:db8:5::10")
WIREGUARD = "/usr/bin/wireguard-go"

fork = multiprocessing.get_context("fork")


@dataclass(frozen=True, slots=True)
class Case:
    """One way to carry the traffic; ``engine`` names ours, which is empty where there is none."""

    name: str
    engine: str = ""
    transform: EspTransform | None = None
    direct: bool = False
    """Route optimization: Home Address option up, type 2 routing header down."""


FORWARDING = "forwarding"
FORWARDING_SINGLY = "forwarding-singly"
"""Without super-packets, which no tunnel in user space can send."""
WIREGUARD_GO = "wireguard-go"
STRONGSWAN = "strongswan"
CASES = (
    Case(FORWARDING),
    Case(FORWARDING_SINGLY),
    Case("tunnel", "userspace"),
    Case("direct", "userspace", direct=True),
    Case("tunnel-kernel", "kernel"),
    Case("direct-kernel", "kernel", direct=True),
    Case("esp-aes-gcm", "userspace", EspTransform.AES_GCM_16),
    Case("esp-aes-cbc", "userspace", EspTransform.AES_CBC_HMAC_SHA256_128),
    Case("esp-chacha20", "userspace", EspTransform.CHACHA20_POLY1305),
    Case(WIREGUARD_GO),
    Case(STRONGSWAN),
)


def is_installed(case: Case) -> bool:
    """Whether this machine has what the case needs."""
    if case.engine == "kernel":
        return importlib.util.find_spec("mnagent.datapath._kernel") is not None
    if case.name == STRONGSWAN:
        return strongswan.is_installed()
    return case.name != WIREGUARD_GO or bool(shutil.which("wg") and Path(WIREGUARD).exists())


@dataclass(frozen=True, slots=True)
class Carrier:
    """A way that is up: the two ends, and the processes that carry, by role."""

    mobile: End
    correspondent: End
    processes: dict[str, int]


class Topology(Namespaces):
    """The four namespaces, routed, without any tunnel."""

    def __init__(self) -> None:
        super().__init__("bench")

    def build(self) -> None:
        self.mobile, self.router, self.agent, self.correspondent = (
            self.add(name) for name in ("mobile", "router", "agent", "correspondent")
        )
        self.link((self.mobile, "eth0"), (self.router, "eth0"))
        self.link((self.router, "eth1"), (self.agent, "eth0"))
        self.link((self.agent, "eth1"), (self.correspondent, "eth0"))
        for namespace, interface, address in (
            (self.mobile, "eth0", f"{CARE_OF}/64"),
            (self.router, "eth0", "2001:db8:2::1/64"),
            (self.router, "eth1", "2001:db8:3::2/64"),
            (self.agent, "eth0", f"{AGENT}/64"),
            (self.agent, "eth1", "2001:db8:4::2/64"),
            (self.correspondent, "eth0", f"{CORRESPONDENT}/64"),
        ):
            self.ip(namespace, f"addr add {address} dev {interface} nodad")
        self.keep_from_kernel(self.mobile, "eth0", CARE_OF)
        self.keep_from_kernel(self.agent, "eth0", AGENT)
        self.keep_from_kernel(self.correspondent, "eth0", CORRESPONDENT)
        self.forward(self.router)
        self.forward(self.agent)
        self.ip(self.mobile, "route add default via 2001:db8:2::1")
        self.ip(self.agent, "route add 2001:db8:2::/64 via 2001:db8:3::2")
        self.ip(self.router, "route add 2001:db8:4::/64 via 2001:db8:3::1")
        self.ip(self.correspondent, "route add default via 2001:db8:4::2")

    def next_hop(self, namespace: str, *, towards: tuple[str, str]) -> NextHop:
        return NextHop(
            interface=self.index(namespace, "eth0"),
            source_mac=self.link_layer_address(namespace, "eth0"),
            destination_mac=self.link_layer_address(*towards),
        )


def associations(transform: EspTransform, *, mobile: bool) -> tuple[SecurityAssociation, ...]:
    aead = transform.is_aead
    key_length = {EspTransform.AES_GCM_16: 20, EspTransform.CHACHA20_POLY1305: 36}
    return tuple(
        SecurityAssociation(
            spi=spi,
            direction=Direction.OUTBOUND if outbound else Direction.INBOUND,
            mode=EspMode.TUNNEL,
            transform=transform,
            home_address=HOME,
            peer=AGENT,
            encryption_key=bytes([spi & 0xFF]) * key_length.get(transform, 16),
            integrity_key=b"" if aead else bytes([spi & 0x0F]) * 32,
            replay_window=1024,
        )
        for spi, outbound in ((0x1001, mobile), (0x1002, not mobile))
    )


def tunnel_mtu(case: Case) -> int:
    if case.direct:
        return 1476
    return 1460 if case.transform is None else 1422 if case.transform.is_aead else 1398


def tunnel_tables(end: TunnelEnd, next_hop: NextHop, case: Case) -> Tables:
    mobile = end is TunnelEnd.MOBILE_NODE
    local, remote = (CARE_OF, AGENT) if mobile else (AGENT, CARE_OF)
    out, into = (0x1001, 0x1002) if mobile else (0x1002, 0x1001)
    sealed = case.transform is not None
    entry = TunnelEntry(
        end=end,
        home_address=HOME,
        local=local,
        remote=remote,
        next_hop=next_hop,
        mtu=tunnel_mtu(case),
        outbound_spi=out if sealed else None,
        inbound_spi=into if sealed else None,
    )
    return Tables(
        tunnels=(entry,),
        local_addresses=(local,),
        associations=associations(case.transform, mobile=mobile) if case.transform else (),
    )


def direct_tables(end: TunnelEnd, next_hop: NextHop, case: Case) -> Tables:
    mtu = tunnel_mtu(case)
    if end is TunnelEnd.MOBILE_NODE:
        path = DirectPathEntry(
            home_address=HOME,
            correspondent=CORRESPONDENT,
            care_of_address=CARE_OF,
            next_hop=next_hop,
            mtu=mtu,
        )
        return Tables(local_addresses=(CARE_OF, HOME), direct_paths=(path,))
    binding = PeerBindingEntry(
        home_address=HOME, care_of_address=CARE_OF, next_hop=next_hop, mtu=mtu
    )
    return Tables(local_addresses=(CORRESPONDENT,), peer_bindings=(binding,))


def make_engine(case: Case, tun: int) -> Datapath:
    """The engine of the case, in the namespace the thread is in."""
    wake = os.eventfd(0)
    if case.engine == "userspace":
        return Engine(tun_fd=tun, wake_fd=wake)
    from mnagent.datapath.kernel_engine import KernelEngine

    interface = socket.if_nametoindex("mnagent0")
    return KernelEngine(tun_fd=tun, wake_fd=wake, tunnel_interface=interface)


def drive_engine(namespace: str, end: TunnelEnd, next_hop: NextHop, case: Case, pipe: Any) -> None:
    """Body of a tunnel end's process."""
    make_tables = direct_tables if case.direct else tunnel_tables
    with entered(namespace):
        tun = open_tunnel_device("mnagent0")
        run("ip", "link", "set", "mnagent0", "mtu", str(tunnel_mtu(case)), "up")
        if end is TunnelEnd.MOBILE_NODE:
            run("ip", "addr", "add", f"{HOME}/128", "dev", "mnagent0", "nodad")
            run(*f"ip -6 route add {CORRESPONDENT} dev mnagent0 src {HOME}".split())
        else:
            run(*f"ip -6 route add {HOME} dev mnagent0".split())
        engine = make_engine(case, tun)
        engine.publish(make_tables(end, next_hop, case))
        engine.attach(next_hop.interface)
    engine.start()
    pipe.send("ready")
    pipe.recv()
    pipe.send(engine.counters())
    engine.close()


@contextlib.contextmanager
def engines(topology: Topology, case: Case) -> Iterator[dict[str, int]]:
    """Both ends, each in a process; yields the process ids by role."""
    children = {}
    far = "correspondent" if case.direct else "home-agent"
    for role, namespace, end, towards in (
        ("mobile-node", topology.mobile, TunnelEnd.MOBILE_NODE, (topology.router, "eth0")),
        (far, topology.correspondent, TunnelEnd.HOME_AGENT, (topology.agent, "eth1"))
        if case.direct
        else (far, topology.agent, TunnelEnd.HOME_AGENT, (topology.router, "eth1")),
    ):
        ours, theirs = fork.Pipe()
        next_hop = topology.next_hop(namespace, towards=towards)
        child = fork.Process(
            target=drive_engine, args=(namespace, end, next_hop, case, theirs), daemon=True
        )
        child.start()
        theirs.close()
        children[role] = (child, ours)
    try:
        for _, ours in children.values():
            ours.recv()
        yield {role: child.pid for role, (child, _) in children.items() if child.pid}
        for _, ours in children.values():
            ours.send("stop")
            shown = {name: value for name, value in ours.recv().items() if value}
            if os.environ.get("BENCH_COUNTERS"):
                print("   ", shown)
    finally:
        for child, _ in children.values():
            child.join(2)
            if child.is_alive():
                child.kill()


@contextlib.contextmanager
def wireguard(topology: Topology) -> Iterator[dict[str, int]]:
    """wireguard-go at both ends, on the same namespaces."""
    keys = [run("wg", "genkey").strip() for _ in range(2)]
    public = [
        subprocess.run(["wg", "pubkey"], input=key, capture_output=True, text=True).stdout.strip()
        for key in keys
    ]
    names = [f"wg{end}{os.getpid() % 100000}" for end in "ma"]
    namespaces = (topology.mobile, topology.agent)
    allowed = ("::/0", f"{WIREGUARD_HOME}/128")
    endpoints = (f"[{AGENT}]:51820", f"[{CARE_OF}]:51820")
    processes = []
    try:
        for name, namespace in zip(names, namespaces, strict=True):
            environment = {**os.environ, "WG_PROCESS_FOREGROUND": "1", "LOG_LEVEL": "error"}
            command = ["ip", "netns", "exec", namespace, WIREGUARD, name]
            processes.append(
                subprocess.Popen(
                    command,
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
        for at, (name, namespace) in enumerate(zip(names, namespaces, strict=True)):
            path = Path(f"/var/run/wireguard/{name}.sock")
            for _ in range(200):
                if path.exists():
                    break
                time.sleep(0.02)
            command = ["ip", "netns", "exec", namespace, "wg", "set", name, "private-key"]
            command += ["/dev/stdin", "listen-port", "51820", "peer", public[1 - at]]
            command += ["endpoint", endpoints[at], "allowed-ips", allowed[at]]
            subprocess.run(command, input=keys[at], text=True, check=True)
            topology.ip(namespace, f"link set {name} mtu 1420 up")
        topology.ip(topology.mobile, f"addr add {WIREGUARD_HOME}/128 dev {names[0]} nodad")
        topology.ip(
            topology.mobile,
            f"route add {CORRESPONDENT} dev {names[0]} src {WIREGUARD_HOME}",
        )
        topology.ip(topology.agent, f"route add {WIREGUARD_HOME} dev {names[1]}")
        yield {
            role: process.pid
            for role, process in zip(("mobile-node", "home-agent"), processes, strict=True)
        }
    finally:
        for process in processes:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def libipsec(topology: Topology) -> Iterator[dict[str, int]]:
    """strongSwan at both ends; it makes the routes itself."""
    topology.ip(topology.mobile, f"addr add {HOME}/128 dev lo nodad")
    mobile = strongswan.Side(topology.mobile, CARE_OF, f"{HOME}/128")
    agent = strongswan.Side(topology.agent, AGENT, "2001:db8:4::/64")
    with strongswan.tunnel(mobile, agent) as processes:
        yield dict(zip(("mobile-node", "home-agent"), processes, strict=True))


@contextlib.contextmanager
def carrying(case: Case) -> Iterator[Carrier]:
    """The namespaces with the case's way through them."""
    with Topology() as topology, contextlib.ExitStack() as stack:
        topology.build()
        home, processes = CARE_OF, {}
        if case.engine:
            home, processes = HOME, stack.enter_context(engines(topology, case))
        elif case.name == WIREGUARD_GO:
            home, processes = WIREGUARD_HOME, stack.enter_context(wireguard(topology))
        elif case.name == STRONGSWAN:
            home, processes = HOME, stack.enter_context(libipsec(topology))
        elif case.name == FORWARDING_SINGLY:
            for namespace in (topology.mobile, topology.correspondent):
                offloads = "ethtool -K eth0 tso off gso off tx-udp-segmentation off"
                run(*f"ip netns exec {namespace} {offloads}".split())
        yield Carrier(
            mobile=End(topology.mobile, home),
            correspondent=End(topology.correspondent, CORRESPONDENT),
            processes=processes,
        )
