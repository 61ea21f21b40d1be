"""The daemon's shell against a real kernel, with an agent that does what the test says."""

from __future__ import annotations

import ast
import contextlib
import errno
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from mnagent.rig.host import processor_seconds
from mnagent.rig.namespace import Namespace, unique_prefix
from mnagent.runtime.kernel import LinuxKernel
from mnagent.runtime.key_files import write_key_pairs
from mnagent.runtime.nftables import Shield
from mnagent.runtime.service import (
    EXIT_ALREADY_RUNNING,
    EXIT_CRASHED,
    EXIT_START_FAILED,
    EXIT_STOPPED,
)
from mnagent.wire.icmp6 import PacketTooBig
from mnagent.wire.ipv6 import IPv6Packet, RawPayload
from mnagent.wire.packet import encode_packet
from tests.support.mounts import own_mounts
from tests.support.requirement import requirement

HOME = "2001:db8:1::10"
AGENT = "2001:db8:1::1"
CARE_OF = "2001:db8:a::5"
ROUTER_MAC = "020000000001"
PATIENCE = 10.0
"""Seconds until something awaited counts as not happening."""
ROOT = Path(__file__).parents[2]


def eventually(claim: Callable[[], object], what: str) -> None:
    """Wait until a claim holds."""
    deadline = time.monotonic() + PATIENCE
    while not claim():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}"
        time.sleep(0.02)


class Machine:
    """A namespace with eth0 (its other end is p0, in a namespace beside), and a scripted daemon."""

    def __init__(self, namespace: Namespace, other: Namespace, directory: Path) -> None:
        self.namespace = namespace
        self.other = other
        self.directory = directory
        self.process: subprocess.Popen[bytes] | None = None
        self._scripts = 0

    def lay_cable(self) -> None:
        self.namespace.ip(
            f"link add eth0 type veth peer name p0 netns {self.other.name}",
            "link set eth0 addrgenmode none up",
        )
        self.other.ip("link set p0 up")

    def write_configuration(self, role: str = "mobile-node", **host: object) -> Path:
        keys = self.directory / "keys"
        if not keys.exists():
            write_key_pairs(keys, home_address=IPv6Address(HOME), home_agents=[IPv6Address(AGENT)])
        lines = [f'role = "{role}"']
        if role == "mobile-node":
            lines += [
                "[mobile_node]",
                f'home_address = "{HOME}"',
                f'home_agent = "{AGENT}"',
                'interfaces = ["eth0"]',
                f'keys = "{keys}/mobile-node.toml"',
            ]
        elif role == "home-agent":
            lines += [
                "[home_agent]",
                f'address = "{AGENT}"',
                'home_prefix = "2001:db8:1::/64"',
                'interfaces = ["eth0"]',
                "[[home_agent.mobile_nodes]]",
                f'home_address = "{HOME}"',
                f'keys = "{keys}/home-agent.toml"',
            ]
        lines += [
            "[host]",
            f'state_directory = "{self.directory}/state"',
            f'control_socket = "{self.directory}/control.sock"',
            *(f"{name} = {json.dumps(value)}" for name, value in host.items()),
        ]
        path = self.directory / "configuration.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    def spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        module = "tests.support.scripted_daemon"
        configuration = str(self.directory / "configuration.toml")
        with self.namespace.inside():
            return subprocess.Popen(
                [sys.executable, "-m", module, configuration, str(self.directory), *arguments],
                cwd=ROOT,
                stderr=(self.directory / "log").open("ab"),
            )

    def start(self) -> None:
        (self.directory / "events").unlink(missing_ok=True)
        self.process = self.spawn()
        eventually(lambda: "started as" in self.log(), "start")

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        process, self.process = self.process, None
        process.send_signal(number)
        status = process.wait(PATIENCE)
        (self.directory / "log").write_text("")
        return status

    def log(self) -> str:
        return (self.directory / "log").read_text()

    def events(self) -> str:
        path = self.directory / "events"
        return path.read_text() if path.exists() else ""

    def act(self, *actions: str) -> None:
        """Have the daemon perform actions, ``{eth0}`` being the interface's index."""
        self._scripts += 1
        text = "[" + ",".join(actions).replace("{eth0}", str(self.index())) + "]"
        ast.parse(text)
        path = self.directory / f"{self._scripts:04}.actions"
        path.with_suffix(".new").write_text(text)
        path.with_suffix(".new").rename(path)
        eventually(path.with_suffix(".done").exists, "actions performed")

    def index(self, name: str = "eth0") -> int:
        with self.namespace.inside():
            return socket.if_nametoindex(name)

    def run(self, *command: str) -> str:
        with self.namespace.inside():
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def rules(self) -> str:
        return self.namespace.show("-6", "rule")

    def routes(self, table: str = "all") -> str:
        return self.namespace.show("-6", "route", "show", "table", table)

    def state(self) -> list[str]:
        """Everything a run could leave behind."""
        settings = "grep . /proc/sys/net/ipv6/conf/*/accept_ra /proc/sys/net/ipv6/conf/*/autoconf"
        settings += " /proc/sys/net/ipv6/conf/*/forwarding"
        text = "".join(
            [
                self.rules(),
                re.sub(r" expires \d+sec", "", self.routes()),
                re.sub(r"valid_lft.*", "", self.namespace.show("-6", "addr")),
                self.run("nft", "list", "ruleset"),
                self.run("sh", "-c", settings),
            ]
        )
        return text.splitlines()


AWAY = (
    f'AddAddress(interface={{eth0}}, address=address("{CARE_OF}"), prefix_length=64,'
    "valid_lifetime=100.0, preferred_lifetime=50.0)",
    'AddDefaultRouter(interface={eth0}, router=address("fe80::1"), lifetime=600.0,'
    f'link_layer_address=bytes.fromhex("{ROUTER_MAC}"))',
    f'SetTunnel(end=TunnelEnd.MOBILE_NODE, home_address=address("{HOME}"),'
    f'local=address("{CARE_OF}"), remote=address("{AGENT}"), interface={{eth0}})',
)
AT_HOME = (
    f'UseHomeLink(home_address=address("{HOME}"), prefix_length=64, interface={{eth0}},'
    'router=address("fe80::1"))'
)


FOREIGN_PACKETS = (
    (135, bytes.fromhex("3b000100") + bytes(4)),  # a mobility header
    (41, struct.pack("!IHBB", 6 << 28, 0, 59, 64) + bytes(32)),  # a tunnelled packet
    (43, bytes([59, 2, 2, 1]) + bytes(4) + IPv6Address(HOME).packed),  # type 2 routing header
    (60, bytes([59, 2, 1, 2, 0, 0, 0xC9, 16]) + IPv6Address(HOME).packed),  # Home Address option
)


ETH_P_IPV6 = 0x86DD
ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT = 133, 134
UNKNOWN_NEXT_HEADER = 253
GROUPS = 2500
MAX_PORTS = 32
"""Interfaces the engine takes."""


CORRESPONDENT = "2001:db8:c::1"
PEER = "2001:db8:2::20"
PEER_CARE_OF = "2001:db8:b::6"
BINDING = (
    f'SetPeerBinding(home_address=address("{PEER}"), care_of_address=address("{PEER_CARE_OF}"))'
)
NO_BINDING = f'RemovePeerBinding(home_address=address("{PEER}"))'


def give_address(machine: Machine) -> None:
    """Make the machine an ordinary host with a router."""
    machine.namespace.ip(
        f"addr add {CORRESPONDENT}/64 dev eth0 nodad",
        f"neigh add fe80::1 lladdr {bytes.fromhex(ROUTER_MAC).hex(':')} dev eth0",
        "route add default via fe80::1 dev eth0",
    )


def refused_next_header(frames: socket.socket) -> int | None:
    """The next header of the packet that a received Parameter Problem quotes, if it is one."""
    packet = frames.recv(2048)
    return packet[54] if packet[6] == 58 and packet[40] == 4 else None


def mac_of(machine: Machine) -> bytes:
    match = re.search(r"link/ether (\S+)", machine.namespace.show("link", "show", "eth0"))
    assert match is not None
    return bytes.fromhex(match[1].replace(":", ""))


@contextmanager
def two_namespaces() -> Iterator[tuple[Namespace, Namespace]]:
    prefix = unique_prefix()
    names = [f"{prefix}-machine", f"{prefix}-other"]
    made: list[Namespace] = []
    try:
        for name in names:
            made.append(Namespace.create(name))
        yield made[0], made[1]
    finally:
        for namespace in made:
            namespace.remove()


@pytest.fixture
def bare_machine(tmp_path: Path) -> Iterator[Machine]:
    """Without a cable."""
    with two_namespaces() as (namespace, other):
        machine = Machine(namespace, other, tmp_path)
        machine.write_configuration()
        try:
            yield machine
        finally:
            if machine.process is not None:
                machine.process.kill()
                machine.process.wait()


@pytest.fixture
def machine(bare_machine: Machine) -> Machine:
    bare_machine.lay_cable()
    eventually(lambda: "LOWER_UP" in bare_machine.namespace.show("link", "show", "eth0"), "carrier")
    return bare_machine


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_daemon_stopped_while_away_leaves_the_kernel_as_it_was(
    machine: Machine, number: int
) -> None:
    before = machine.state()
    machine.start()
    machine.act(*AWAY)
    assert machine.state() != before
    assert machine.stop(number) == EXIT_STOPPED
    assert machine.state() == before


def test_daemon_stopped_at_home_leaves_the_kernel_as_it_was(machine: Machine) -> None:
    before = machine.state()
    machine.start()
    machine.act(*AWAY)
    machine.act(AT_HOME)
    assert f"inet6 {HOME}/64" in machine.namespace.show("-6", "addr", "show", "dev", "eth0")
    assert machine.stop() == EXIT_STOPPED
    assert machine.state() == before


def test_daemon_killed_leaves_the_tunnel_which_the_next_run_adopts(machine: Machine) -> None:
    before = machine.state()
    machine.start()
    machine.act(*AWAY)
    tunnel = machine.index("mnagent0")
    machine.stop(signal.SIGKILL)
    assert machine.index("mnagent0") == tunnel
    assert f"inet6 {HOME}/128" in machine.namespace.show("-6", "addr", "show", "dev", "mnagent0")
    assert "mnagent0" not in machine.run("nft", "list", "ruleset")
    machine.start()
    assert machine.index("mnagent0") == tunnel
    addresses = machine.namespace.show("-6", "addr", "show", "dev", "eth0")
    assert CARE_OF not in addresses
    assert "proto 62" not in machine.routes("main")
    assert machine.stop() == EXIT_STOPPED
    assert machine.state() == before


def test_daemon_told_to_keep_the_tunnel_leaves_it_with_its_address(machine: Machine) -> None:
    machine.write_configuration(keep_tunnel_interface=True)
    machine.start()
    machine.stop()
    assert "mnagent0" in machine.namespace.show("link")
    assert "6275" not in machine.rules()


def test_daemon_whose_tunnel_device_is_removed_ends_to_be_started_anew(machine: Machine) -> None:
    before = machine.state()
    machine.start()
    machine.act(*AWAY)
    machine.namespace.ip("link del mnagent0")
    assert machine.process is not None
    assert machine.process.wait(PATIENCE) == EXIT_CRASHED
    assert "mnagent0 was removed" in machine.log()
    assert machine.state() == before
    (machine.directory / "log").write_text("")
    machine.start()
    assert f"inet6 {HOME}/128" in machine.namespace.show("-6", "addr", "show", "dev", "mnagent0")


def test_socket_bound_to_the_home_address_survives_a_kill(machine: Machine) -> None:
    machine.start()
    with machine.namespace.inside():
        server = socket.create_server((HOME, 4711), family=socket.AF_INET6)
    with server:
        machine.stop(signal.SIGKILL)
        machine.start()
        with machine.namespace.inside():
            client = socket.create_connection((HOME, 4711), timeout=PATIENCE)
        with client:
            assert server.accept()[1][0] == HOME
        machine.stop()


@requirement("RFC6275-11.3.1", "MN-33")
def test_home_address_is_the_source_of_new_connections_only(machine: Machine) -> None:
    machine.start()
    machine.act(*AWAY)
    new = machine.run("ip", "-6", "route", "get", "2001:db8:99::1")
    assert f"src {HOME}" in new
    assert "dev mnagent0" in new
    assert "mtu 1460" in new or "mtu lock 1460" in new
    bound = machine.run("ip", "-6", "route", "get", "2001:db8:99::1", "from", CARE_OF)
    assert "dev eth0" in bound
    machine.stop()


def test_rules_routes_and_address_flushed_by_others_come_back(machine: Machine) -> None:
    machine.start()
    machine.act(*AWAY)
    rules, routes = machine.rules(), machine.routes("6275")
    machine.run("ip", "-6", "rule", "del", "priority", "6275")
    eventually(lambda: machine.rules() == rules, "the rule is back")
    machine.run("ip", "-6", "route", "flush", "table", "6275")
    eventually(lambda: machine.routes("6275") == routes, "the route is back")
    machine.namespace.ip(f"addr del {HOME}/128 dev mnagent0")
    eventually(lambda: HOME in machine.namespace.show("-6", "addr"), "the address is back")
    eventually(lambda: machine.routes("6275") == routes, "its route is back")
    machine.namespace.ip("link set mnagent0 down", "link set mnagent0 up")
    eventually(lambda: HOME in machine.namespace.show("-6", "addr"), "address after down, up")
    eventually(lambda: machine.routes("6275") == routes, "route after down, up")
    machine.stop()


def test_interface_that_comes_goes_and_comes_again_is_used(bare_machine: Machine) -> None:
    machine = bare_machine
    machine.start()
    assert "interface-missing interface=eth0" in machine.log()
    for count in (1, 2):
        machine.lay_cable()
        eventually(lambda n=count: machine.events().count("LinkUp(") == n, "link up")
        eventually(lambda: '"eth0"' in machine.run("nft", "list", "ruleset"), "shield")
        machine.act(*AWAY)
        machine.namespace.ip("link del eth0")
        eventually(lambda n=count: machine.events().count("LinkDown(") == n, "link down")
        assert machine.log().count("interface-missing") == count + 1
    assert machine.stop() == EXIT_STOPPED


@pytest.mark.parametrize("role", ["mobile-node", "correspondent"])
def test_mobility_packets_are_kept_from_the_kernel(machine: Machine, role: str) -> None:
    machine.write_configuration(role)
    own, packets = CARE_OF, FOREIGN_PACKETS
    if role == "correspondent":
        give_address(machine)
        # What it does not know of a tunnel is its kernel's.
        own, packets = CORRESPONDENT, tuple(each for each in packets if each[0] != 41)
    machine.start()
    if role == "mobile-node":
        machine.act(*AWAY)
    eventually(lambda: own in machine.run("nft", "list", "ruleset"), "own address known")
    with machine.other.inside():
        frames = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IPV6))
    with frames:
        frames.settimeout(PATIENCE)
        frames.bind(("p0", ETH_P_IPV6))
        for next_header, data in (*packets, (UNKNOWN_NEXT_HEADER, bytes(8))):
            header = struct.pack("!IHBB", 6 << 28, len(data), next_header, 64)
            addresses = IPv6Address(AGENT).packed + IPv6Address(own).packed
            destination = ("p0", ETH_P_IPV6, 0, 0, mac_of(machine))
            frames.sendto(header + addresses + data, destination)
        # The last is the kernel's to refuse: once it has been, all the others would have been.
        refused = [refused_next_header(frames)]
        while UNKNOWN_NEXT_HEADER not in refused:
            refused.append(refused_next_header(frames))
    assert [header for header in refused if header is not None] == [UNKNOWN_NEXT_HEADER]
    machine.stop()


def test_second_daemon_does_not_start_and_does_no_harm(machine: Machine) -> None:
    machine.start()
    machine.act(*AWAY)
    state = machine.state()
    second = machine.spawn()
    assert second.wait(PATIENCE) == EXIT_ALREADY_RUNNING
    assert "already running" in machine.log()
    assert machine.state() == state
    assert machine.stop() == EXIT_STOPPED


@pytest.mark.parametrize(("engine", "more"), [("userspace", 0), ("kernel", 1 << 39)])
@pytest.mark.parametrize(
    ("role", "kept"), [("mobile-node", 0x3400), ("home-agent", 0x3000), ("correspondent", 0x3000)]
)
def test_daemon_keeps_only_the_network_capabilities_and_cannot_be_dumped(
    machine: Machine, role: str, kept: int, engine: str, more: int
) -> None:
    """CAP_NET_ADMIN and CAP_NET_RAW; on a mobile node CAP_NET_BIND_SERVICE for DHCPv6's port,
    CAP_BPF beside the in-kernel engine."""
    kept |= more
    machine.write_configuration(role, engine=engine)
    machine.start()
    assert machine.process is not None
    process = Path(f"/proc/{machine.process.pid}")
    capabilities = dict(
        line.split(":\t") for line in (process / "status").read_text().splitlines() if "Cap" in line
    )
    assert {int(capabilities[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {kept}
    assert re.search(r"Max core file size +0 +0", (process / "limits").read_text())
    machine.stop()


def test_home_agent_forwards_while_it_runs(machine: Machine) -> None:
    machine.write_configuration("home-agent")
    before = machine.state()
    machine.start()
    assert machine.run("cat", "/proc/sys/net/ipv6/conf/eth0/forwarding") == "1\n"
    assert machine.run("cat", "/proc/sys/net/ipv6/conf/eth0/accept_ra") == "2\n"
    machine.act(f'InterceptHomeAddress(home_address=address("{HOME}"))')
    assert f"{HOME} via fe80::1 dev mnagent0 proto 62" in machine.routes("main")
    machine.act(f'StopIntercepting(home_address=address("{HOME}"))')
    assert f"{HOME} via fe80::1 dev mnagent0" not in machine.routes("main")
    assert machine.stop() == EXIT_STOPPED
    assert machine.state() == before


def test_home_agent_on_a_host_of_many_interfaces_starts_and_says_which_it_leaves_out(
    bare_machine: Machine,
) -> None:
    pairs = range(MAX_PORTS // 2 + 1)
    bare_machine.namespace.ip(*(f"link add a{at} type veth peer name b{at}" for at in pairs))
    path = bare_machine.write_configuration("home-agent")
    path.write_text(path.read_text().replace('interfaces = ["eth0"]', ""))
    bare_machine.start()
    left_out = re.findall(r"failed to use (\w+): (.*)", bare_machine.log())
    assert "crashed" not in bare_machine.log(), bare_machine.log()
    assert len({name for name, _ in left_out}) == 2
    assert all(f"{MAX_PORTS} interfaces" in reason for _, reason in left_out)
    assert "shield" in bare_machine.run("nft", "list", "ruleset")
    for name, _ in left_out:
        assert f'"{name}"' not in bare_machine.run("nft", "list", "ruleset")
    assert bare_machine.stop() == 0


def test_interface_that_gets_another_name_stays_guarded(bare_machine: Machine) -> None:
    bare_machine.lay_cable()
    path = bare_machine.write_configuration("home-agent", engine="kernel")
    path.write_text(path.read_text().replace('interfaces = ["eth0"]', ""))
    bare_machine.start()

    def guarded(name: str) -> bool:
        return f'"{name}"' in bare_machine.run(
            "nft", "list", "set", "ip6", "mnagent0", "interfaces"
        )

    assert guarded("eth0")
    bare_machine.namespace.ip("link set eth0 down", "link set eth0 name uplink")
    eventually(lambda: guarded("uplink"), "guard of the new name")
    assert not guarded("eth0")


def test_guard_of_an_interface_that_came_again_outlives_its_former_one(machine: Machine) -> None:
    with machine.namespace.inside():
        shield = Shield("guard", home_agents=frozenset(), behind_sockets=True)
        shield.attach(5, "eth0")
        shield.attach(6, "eth0")
        shield.detach(5)
        assert '"eth0"' in machine.run("nft", "list", "set", "ip6", "guard", "interfaces")
        shield.detach(6)
        assert '"eth0"' not in machine.run("nft", "list", "set", "ip6", "guard", "interfaces")
        shield.close()


def test_groups_of_a_thousand_mobile_nodes_are_joined_and_left(machine: Machine) -> None:
    """A socket takes 365 by Linux 6.1's default, some 2300 by a later one's."""
    first = IPv6Address("ff02::1:ff00:1")

    def joined() -> int:
        return machine.run("cat", "/proc/net/igmp6").count(" ff0200000000000000000001ff")

    with machine.namespace.inside():
        kernel, eth0 = LinuxKernel(), socket.if_nametoindex("eth0")
        before, descriptors = joined(), 0
        for _ in range(2):
            for number in range(GROUPS):
                kernel.join_group(eth0, first + number)
            kernel.join_group(eth0, first)
            assert joined() == before + GROUPS
            assert descriptors in (0, len(os.listdir("/proc/self/fd")))
            descriptors = len(os.listdir("/proc/self/fd"))
            for number in range(GROUPS):
                kernel.leave_group(eth0, first + number)
            assert joined() == before
        kernel.close()


def test_flood_of_notifications_is_survived_by_reading_again(machine: Machine) -> None:
    machine.start()
    machine.act(*AWAY)
    assert machine.process is not None
    os.kill(machine.process.pid, signal.SIGSTOP)
    batch = "\n".join(f"route add 2001:db8:{i:x}::/48 dev eth0 table 99" for i in range(1, 8000))
    with machine.namespace.inside():
        for command in (batch, batch.replace("route add", "route del")):
            subprocess.run(["ip", "-6", "-batch", "-"], input=command.encode(), check=True)
    machine.run("ip", "-6", "rule", "del", "priority", "6275")
    os.kill(machine.process.pid, signal.SIGCONT)
    eventually(lambda: "6275" in machine.rules(), "the rule is back")
    assert "notifications were lost" in machine.log()
    assert machine.stop() == EXIT_STOPPED


def frames_of(machine: Machine) -> socket.socket:
    """What eth0 sends, seen at the other end, link-layer header and all."""
    with machine.other.inside():
        frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IPV6))
    frames.settimeout(PATIENCE)
    frames.bind(("p0", ETH_P_IPV6))
    return frames


def frame_with(frames: socket.socket, next_header: int) -> bytes:
    while True:
        frame = frames.recv(2048)
        if frame[20] == next_header:
            return frame


def test_packet_to_a_group_is_framed_for_it(machine: Machine) -> None:
    machine.start()
    with frames_of(machine) as frames:
        machine.act(
            'SendPacket(packet=IPv6Packet(address("fe80::5"), address("ff02::2"),'
            "RouterSolicitation(()), hop_limit=255), interface={eth0})"
        )
        frame = frame_with(frames, 58)
    assert frame[:6] == bytes.fromhex("333300000002")
    assert frame[6:12] == mac_of(machine)
    machine.stop()


def test_packet_with_a_link_layer_destination_needs_no_resolution(machine: Machine) -> None:
    machine.start()
    with frames_of(machine) as frames:
        machine.act(
            'SendPacket(packet=IPv6Packet(address("2001:db8:1::1"), address("2001:db8:1::10"),'
            'RawPayload(253, b"hello")), interface={eth0},'
            f'link_layer_destination=bytes.fromhex("{ROUTER_MAC}"))'
        )
        frame = frame_with(frames, 253)
    assert frame[:6] == bytes.fromhex(ROUTER_MAC)
    machine.stop()


def test_packet_from_an_address_that_is_not_configured_is_routed(machine: Machine) -> None:
    machine.start()
    machine.act(*AWAY)
    with frames_of(machine) as frames:
        machine.act(
            f'SendPacket(packet=IPv6Packet(address("2001:db8:a::77"), address("{AGENT}"),'
            'RawPayload(253, b"hello")), interface={eth0})'
        )
        frame = frame_with(frames, 253)
    assert frame[:6] == bytes.fromhex(ROUTER_MAC)
    assert frame[22:38] == IPv6Address("2001:db8:a::77").packed
    machine.stop()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("interface={eth0}", errno.ENETUNREACH),
        ("interface=4711", errno.ENODEV),
        ("interface={eth0}, protect_with=4711", errno.ENOKEY),
    ],
)
def test_packet_that_cannot_leave_is_a_failed_action(
    machine: Machine, arguments: str, code: int
) -> None:
    machine.start()
    machine.act(
        f'SendPacket(packet=IPv6Packet(address("{CARE_OF}"), address("2001:db8:f::1"),'
        f'RawPayload(253, b"")), {arguments})'
    )
    eventually(lambda: f"errno={code}" in machine.events(), "the action failed")
    machine.stop()


def test_path_by_an_interface_stays_with_it_when_another_has_the_better_route(
    machine: Machine,
) -> None:
    machine.start()
    machine.act(*AWAY)
    machine.namespace.ip(
        f"link add modem type veth peer name p1 netns {machine.other.name}",
        "link set modem addrgenmode none up",
        f"neigh add fe80::2 lladdr {bytes.fromhex(ROUTER_MAC).hex(':')} dev modem",
        "route add default via fe80::2 dev modem metric 1",
    )
    machine.other.ip("link set p1 up")
    with machine.namespace.inside(), closing(LinuxKernel()) as kernel:
        agent, care_of = IPv6Address(AGENT), IPv6Address(CARE_OF)
        modem = kernel.path(agent, source=care_of, interface=None)
        cable = kernel.path(agent, source=care_of, interface=machine.index())
        with pytest.raises(OSError, match="unreachable"):
            kernel.path(agent, source=care_of, interface=machine.index("lo"))
    assert modem.interface == machine.index("modem")
    assert (cable.interface, cable.neighbour) == (machine.index(), IPv6Address("fe80::1"))
    machine.stop()


def test_packet_too_big_lowers_the_mtu_of_the_tunnel(machine: Machine) -> None:
    machine.start()
    machine.act(*AWAY)
    eventually(lambda: "mtu 1460" in machine.routes("6275"), "MTU of the link less the tunnel")
    outer = IPv6Packet(
        IPv6Address(CARE_OF),
        IPv6Address(AGENT),
        IPv6Packet(IPv6Address(HOME), IPv6Address("2001:db8:99::1"), RawPayload(59, bytes(1400))),
    )
    too_big = IPv6Packet(
        IPv6Address("2001:db8:f::1"),
        IPv6Address(CARE_OF),
        PacketTooBig(1400, encode_packet(outer)[:1200]),
    )
    with machine.other.inside():
        frames = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    with frames:
        frames.sendto(encode_packet(too_big), ("p0", ETH_P_IPV6, 0, 0, mac_of(machine)))
    eventually(lambda: "mtu 1360" in machine.routes("6275"), "MTU of the path less the tunnel")
    machine.stop()


def test_what_the_kernel_learned_on_the_former_link_goes_with_it(machine: Machine) -> None:
    machine.namespace.ip(
        "addr add 2001:db8:9::5/64 dev eth0 valid_lft 100 preferred_lft 50 nodad",
        "addr add 2001:db8:8::5/64 dev eth0 nodad",
    )
    machine.run(
        *[
            "ip",
            "-6",
            "route",
            "add",
            "default",
            "via",
            "fe80::9",
            "dev",
            "eth0",
            "proto",
            "ra",
            "metric",
            "1024",
            "onlink",
        ]
    )
    machine.start()
    learned = ("2001:db8:9::5", "fe80::9", "2001:db8:9::/64")

    def addresses() -> str:
        return machine.namespace.show("-6", "addr") + machine.routes("main")

    assert all(text in addresses() for text in learned)
    machine.other.ip("link set p0 down")
    eventually(lambda: "LinkDown(" in machine.events(), "link down")
    machine.other.ip("link set p0 up")
    eventually(lambda: machine.events().count("LinkUp(") == 2, "link up")
    assert not any(text in addresses() for text in learned)
    assert "2001:db8:8::5" in addresses()
    with frames_of(machine) as frames:
        machine.namespace.ip("addr add fe80::7/64 dev eth0 nodad")
        assert machine.stop() == EXIT_STOPPED
        solicitation = frame_with(frames, 58)
        while solicitation[54] != ROUTER_SOLICITATION:
            solicitation = frame_with(frames, 58)


@pytest.mark.parametrize("was_up", [True, False], ids=["was-up", "never-up"])
def test_interface_that_is_down_costs_no_processor_time(machine: Machine, was_up: bool) -> None:
    """The socket of an interface that is down has an error, and an error ends every wait."""
    if not was_up:
        machine.namespace.ip("link set eth0 down")
    machine.start()
    if was_up:
        machine.namespace.ip("link set eth0 down")
        eventually(lambda: "LinkDown(" in machine.events(), "link down")
    assert machine.process is not None
    before = processor_seconds(machine.process.pid)
    time.sleep(1.0)
    assert processor_seconds(machine.process.pid) - before < 0.2
    machine.namespace.ip("link set eth0 up")
    eventually(lambda: "LinkUp(" in machine.events().rpartition("LinkDown(")[2], "link up")
    assert machine.stop() == EXIT_STOPPED


def test_stop_on_the_link_of_the_start_asks_routers_for_what_ran_out_meanwhile(
    machine: Machine,
) -> None:
    machine.namespace.ip("addr add fe80::7/64 dev eth0 nodad")
    machine.start()
    with frames_of(machine) as frames:
        assert machine.stop() == EXIT_STOPPED
        solicitation = frame_with(frames, 58)
        while solicitation[54] != ROUTER_SOLICITATION:
            solicitation = frame_with(frames, 58)


@requirement("RFC6275-11.5.1", "MOV-02")
def test_advertisement_of_the_former_link_is_read_before_the_links_return(
    machine: Machine,
) -> None:
    machine.start()
    begun = machine.directory / "begun"
    script = machine.directory / "0000.new"
    # While the daemon does something else, a router speaks and the link goes and comes.
    script.write_text(
        f"[*(__import__('pathlib').Path({str(begun)!r}).touch() or ()),"
        " *(__import__('time').sleep(1.0) or ())]"
    )
    script.rename(script.with_suffix(".actions"))
    eventually(begun.exists, "the daemon to be busy")
    advertisement = struct.pack("!BBHBBHII", ROUTER_ADVERTISEMENT, 0, 0, 64, 0, 1800, 0, 0)
    header = struct.pack("!IHBB", 6 << 28, len(advertisement), 58, 255)
    addresses = IPv6Address("fe80::1").packed + IPv6Address("ff02::1").packed
    packet = header + addresses + advertisement
    group, router = bytes.fromhex("333300000001"), bytes.fromhex(ROUTER_MAC)
    with machine.other.inside(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind(("p0", 0))
        ethertype = struct.pack("!H", ETH_P_IPV6)
        sender.send(group + router + ethertype + packet)
    machine.other.ip("link set p0 down", "link set p0 up")
    eventually(lambda: machine.events().count("LinkUp(") == 2, "link up")
    events = machine.events().splitlines()
    # The kernel at the other end solicits and announces too, once the link is back.
    (heard,) = [at for at, text in enumerate(events) if repr(packet) in text]
    assert heard < max(at for at, text in enumerate(events) if text.startswith("LinkUp("))


def test_start_that_fails_leaves_the_kernel_as_it_was_and_an_adopted_tunnel_alone(
    machine: Machine,
) -> None:
    before = machine.state()
    machine.start()
    machine.stop()
    record = next((machine.directory / "state" / "records").glob("esp-sequences.*"))
    kept = record.read_text()
    record.write_text("x")
    assert machine.spawn().wait(PATIENCE) == EXIT_START_FAILED
    assert "is damaged" in machine.log()
    assert machine.state() == before
    record.write_text(kept)
    machine.start()
    machine.stop(signal.SIGKILL)
    record.write_text("x")
    assert machine.spawn().wait(PATIENCE) == EXIT_START_FAILED
    assert f"inet6 {HOME}/128" in machine.namespace.show("-6", "addr", "show", "dev", "mnagent0")


def test_start_with_no_room_on_the_disk_names_the_file(machine: Machine) -> None:
    state = machine.directory / "state"
    state.mkdir()
    before = machine.state()
    with own_mounts():
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", state], check=True)
        (state / "lock").write_bytes(bytes(4096))  # all there is
        assert machine.spawn().wait(PATIENCE) == EXIT_START_FAILED
    assert f"{state}/records/esp-sequences.record: No space left" in machine.log()
    assert machine.state() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_daemon_told_to_stop_in_the_middle_of_its_start_leaves_the_kernel_as_it_was(
    machine: Machine, number: int
) -> None:
    before = machine.state()
    assert machine.spawn(str(int(number))).wait(PATIENCE) == 0
    assert machine.state() == before


def test_daemon_told_to_stop_over_and_over_leaves_the_kernel_as_it_was(machine: Machine) -> None:
    before = machine.state()
    machine.start()
    machine.act(*AWAY)
    process = machine.process
    assert process is not None
    while process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.001)
    assert machine.state() == before
    assert not (machine.directory / "control.sock").exists()


def test_daemon_whose_port_for_metrics_is_taken_leaves_no_control_socket(machine: Machine) -> None:
    machine.namespace.ip("link set lo up")
    with machine.namespace.inside():
        taken = socket.create_server(("::1", 0), family=socket.AF_INET6)
    with taken:
        machine.write_configuration(metrics_port=taken.getsockname()[1])
        assert machine.spawn().wait(PATIENCE) == EXIT_START_FAILED
    assert not (machine.directory / "control.sock").exists()


def test_packet_from_the_home_address_takes_the_tunnel_though_a_direct_path_is_there(
    machine: Machine,
) -> None:
    """As a Home Test Init does (RFC 6275 11.6.1)."""
    machine.start()
    path = (
        f'SetDirectPath(home_address=address("{HOME}"), correspondent=address("{CORRESPONDENT}"),'
        f'care_of_address=address("{CARE_OF}"), interface={{eth0}})'
    )
    machine.act(*AWAY, path)
    assert f"{CORRESPONDENT} dev mnagent0" in machine.routes("6275")
    with frames_of(machine) as frames:
        machine.act(
            f'SendPacket(packet=IPv6Packet(address("{HOME}"), address("{CORRESPONDENT}"),'
            'RawPayload(135, bytes.fromhex("3b01010000000000") + bytes(8))))'
        )
        outer = frame_with(frames, 41)[14:]
    assert outer[8:40] == IPv6Address(CARE_OF).packed + IPv6Address(AGENT).packed
    inner = outer[40:]
    assert inner[6] == 135
    assert inner[8:40] == IPv6Address(HOME).packed + IPv6Address(CORRESPONDENT).packed
    machine.stop()


def test_correspondent_leads_only_its_own_packets_to_a_mobile_peer_into_the_engine(
    machine: Machine,
) -> None:
    machine.write_configuration("correspondent")
    give_address(machine)
    machine.start()
    machine.act(BINDING)

    def route(*more: str) -> str:
        return machine.namespace.show("-6", "route", "get", PEER, *more)

    assert f"dev mnagent0 table 6276 proto 62 src {CORRESPONDENT}" in route()
    assert "mtu 1476" in route()
    assert "dev eth0" in route("mark", "6275")
    machine.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
    assert "dev eth0" in route("from", "2001:db8:d::1", "iif", "eth0")
    machine.act(NO_BINDING)
    assert "dev eth0" in route()
    machine.stop()


def test_correspondent_stopped_or_killed_leaves_the_kernel_as_it_was(machine: Machine) -> None:
    machine.write_configuration("correspondent")
    give_address(machine)
    before = machine.state()
    machine.start()
    machine.act(BINDING)
    assert "lookup 6276" in machine.rules()
    machine.stop(signal.SIGKILL)
    assert "lookup 6276" in machine.rules()
    machine.start()
    assert "lookup 6276" not in machine.rules()
    assert PEER not in machine.routes()
    machine.act(BINDING)
    assert machine.stop() == EXIT_STOPPED
    assert machine.state() == before


def test_mobile_node_leads_packets_of_its_home_address_alone_to_a_mobile_peer(
    machine: Machine,
) -> None:
    machine.start()
    machine.act(*AWAY, BINDING)

    def route(*more: str) -> str:
        return machine.namespace.show("-6", "route", "get", PEER, *more)

    assert "table 6276" in route("from", HOME)
    assert f"table 6276 proto 62 src {HOME}" in route()
    assert "dev eth0" in route("from", CARE_OF)
    assert "table 6275" in route("from", HOME, "mark", "6275")
    machine.act(AT_HOME)
    assert "dev mnagent0 table 6276" in route("from", HOME)
    assert "dev eth0 table 6275" in route("from", HOME, "mark", "6275")
    machine.stop()
