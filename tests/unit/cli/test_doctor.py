"""``mnagent doctor``: each finding on a machine that has the trouble, with its remedy."""

from __future__ import annotations

import argparse
import errno
import fnmatch
import json
from pathlib import Path

import pytest

from mnagent.cli import doctor
from mnagent.cli.doctor_checks import CHECKS, Finding, Level, run_checks
from mnagent.cli.probe import Probe
from mnagent.config import Configuration, load

CONFIGURATION = """
role = "mobile-node"
[mobile_node]
home_address = "2001:db8:1::10"
home_agent = "2001:db8:1::1"
interfaces = ["wlan0"]
keys = "keys.toml"
"""
HOME_AGENT = """
role = "home-agent"
[home_agent]
address = "2001:db8:1::1"
home_prefix = "2001:db8:1::/64"
home_link = "eth0"
[[home_agent.mobile_nodes]]
home_address = "2001:db8:1::10"
keys = "keys.toml"
"""


class FakeProbe(Probe):
    """A machine where all is well; tests spoil it."""

    def __init__(self) -> None:
        self.contents = {
            "/proc/self/status": "Name:\tx\nCapEff:\t0000000000003000\n",
            "/proc/net/if_inet6": "",
            "/proc/sys/net/ipv6/conf/all/forwarding": "0\n",
            "/proc/cpuinfo": "flags : fpu aes sse\n",
            "/sys/class/net/wlan0/operstate": "up\n",
        }
        self.running = {"systemd", "bash"}
        self.tun = self.packet = self.rules = 0
        self.ingress: str | None = None
        self.engine: str | None = None
        self.kernel_engine: tuple[str, str] | None = None
        self.bpf_file_system = True
        self.libcrypto: str | None = "OpenSSL 3.0"
        self.present = {"lo": ["::1"], "wlan0": ["fe80::1"], "eth0": []}

    def read(self, path: str) -> str | None:
        return self.contents.get(path)

    def files(self, pattern: str) -> list[str]:
        return [path for path in self.contents if fnmatch.fnmatch(path, f"/{pattern}")]

    def try_open(self, path: str) -> int:
        return self.tun

    def try_packet_socket(self) -> int:
        return self.packet

    def try_ingress_table(self) -> str | None:
        return self.ingress

    def try_policy_rules(self) -> int:
        return self.rules

    def processes(self) -> set[str]:
        return self.running

    def kernel_engine_error(self) -> tuple[str, str] | None:
        return self.kernel_engine

    def has_bpf_file_system(self) -> bool:
        return self.bpf_file_system

    def engine_error(self) -> str | None:
        return self.engine

    def libcrypto_version(self) -> str | None:
        return self.libcrypto

    def interfaces(self) -> dict[str, list[str]]:
        return self.present


@pytest.fixture
def probe() -> FakeProbe:
    return FakeProbe()


def configured(directory: Path, text: str = CONFIGURATION) -> Configuration:
    path = directory / "mnagent.toml"
    path.write_text(text)
    return load(path)


def trouble(findings: list[Finding]) -> Finding:
    """The one finding that is bad; it has a remedy."""
    bad = [one for one in findings if one.level in (Level.WARNING, Level.ERROR)]
    assert len(bad) == 1
    assert bad[0].remedy
    return bad[0]


def test_doctor_healthy_machine_has_no_trouble(probe: FakeProbe, tmp_path: Path) -> None:
    for configuration in (None, configured(tmp_path)):
        findings = run_checks(probe, configuration)
        assert {one.level for one in findings} <= {Level.GOOD, Level.NOTE}
        assert len(findings) >= len(CHECKS) - 1


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("CapEff:\t0000000000000000\n", "CAP_NET_ADMIN and CAP_NET_RAW"),
        ("CapEff:\t0000000000001000\n", "lacks CAP_NET_RAW"),
        ("", "CAP_NET_ADMIN"),
    ],
)
def test_doctor_missing_privileges_are_named(status: str, words: str, probe: FakeProbe) -> None:
    probe.contents["/proc/self/status"] = status
    assert words in trouble(run_checks(probe, None)).text


@pytest.mark.parametrize(
    ("code", "remedy"),
    [(errno.ENOENT, "modprobe tun"), (errno.ENODEV, "CONFIG_TUN"), (errno.EACCES, "root")],
)
def test_doctor_no_tunnel_device_has_a_remedy(code: int, remedy: str, probe: FakeProbe) -> None:
    probe.tun = code
    finding = trouble(run_checks(probe, None))
    assert finding.level is Level.ERROR
    assert remedy in finding.remedy


def test_doctor_kernel_without_ipv6_is_an_error(probe: FakeProbe) -> None:
    del probe.contents["/proc/net/if_inet6"]
    assert "without IPv6" in trouble(run_checks(probe, None)).text


def test_doctor_ipv6_off_on_our_interface_is_an_error(probe: FakeProbe, tmp_path: Path) -> None:
    probe.contents["/proc/sys/net/ipv6/conf/wlan0/disable_ipv6"] = "1\n"
    finding = trouble(run_checks(probe, configured(tmp_path)))
    assert "wlan0" in finding.text
    assert "net.ipv6.conf.wlan0.disable_ipv6=0" in finding.remedy


@pytest.mark.parametrize(
    ("code", "words"), [(errno.EAFNOSUPPORT, "no AF_PACKET"), (errno.EPERM, "cannot be opened")]
)
def test_doctor_no_packet_sockets_is_an_error(code: int, words: str, probe: FakeProbe) -> None:
    probe.packet = code
    assert words in trouble(run_checks(probe, None)).text


def test_doctor_no_ingress_table_is_an_error(probe: FakeProbe) -> None:
    probe.ingress = "nftables refused:\nno such thing"
    finding = trouble(run_checks(probe, None))
    assert "nftables refused: no such thing" in finding.text
    assert "CONFIG_NF_TABLES_NETDEV" in finding.remedy


def test_doctor_no_policy_rules_is_an_error(probe: FakeProbe) -> None:
    probe.rules = errno.EOPNOTSUPP
    assert "CONFIG_IPV6_MULTIPLE_TABLES" in trouble(run_checks(probe, None)).remedy


def test_doctor_forwarding_depends_on_the_role(probe: FakeProbe, tmp_path: Path) -> None:
    home_agent = configured(tmp_path, HOME_AGENT)
    notes = [one for one in run_checks(probe, home_agent) if one.check == "forwarding"]
    assert [one.level for one in notes] == [Level.NOTE]
    probe.contents["/proc/sys/net/ipv6/conf/all/forwarding"] = "1\n"
    notes = [one for one in run_checks(probe, home_agent) if one.check == "forwarding"]
    assert [one.level for one in notes] == [Level.GOOD]
    finding = trouble(run_checks(probe, configured(tmp_path)))
    assert "ignores router advertisements" in finding.text


def test_doctor_correspondent_may_forward_or_not_and_needs_no_keys(
    probe: FakeProbe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = 'role = "correspondent"\n[correspondent]\ninterfaces = ["wlan0"]\n'
    correspondent = configured(tmp_path, text)
    for forwarding in ("0", "1"):
        probe.contents["/proc/sys/net/ipv6/conf/all/forwarding"] = forwarding
        findings = run_checks(probe, correspondent)
        assert {one.level for one in findings} <= {Level.GOOD, Level.NOTE}
    assert doctor.main(arguments(correspondent.path), probe) == 0
    assert "a correspondent needs no keys" in capsys.readouterr().out
    del probe.present["wlan0"]
    assert trouble(run_checks(probe, correspondent)).check == "interfaces"


def test_doctor_network_manager_in_the_way_has_the_lines_to_write(
    probe: FakeProbe, tmp_path: Path
) -> None:
    probe.running.add("NetworkManager")
    configuration = configured(tmp_path)
    finding = trouble(run_checks(probe, configuration))
    line = "unmanaged-devices=interface-name:mnagent0;interface-name:wlan0"
    assert line in finding.remedy
    probe.contents["/etc/NetworkManager/conf.d/mnagent.conf"] = f"[keyfile]\n{line}\n"
    assert not [one for one in run_checks(probe, configuration) if one.level is Level.WARNING]
    patterns = "unmanaged-devices=interface-name:wlan*,interface-name:=mnagent0"
    probe.contents["/etc/NetworkManager/conf.d/mnagent.conf"] = f"[keyfile]\n{patterns}\n"
    assert not [one for one in run_checks(probe, configuration) if one.level is Level.WARNING]
    probe.contents["/etc/NetworkManager/conf.d/mnagent.conf"] = f"[keyfile]\n# {line}\n"
    assert trouble(run_checks(probe, configuration)).check == "NetworkManager"


@pytest.mark.parametrize("name", ["systemd-network", "systemd-networkd"])
def test_doctor_networkd_that_removes_rules_has_the_lines_to_write(
    name: str, probe: FakeProbe
) -> None:
    probe.running.add(name)
    finding = trouble(run_checks(probe, None))
    assert '"ManageForeignRoutes=no"' in finding.remedy
    assert '"ManageForeignRoutingPolicyRules=no"' in finding.remedy
    path = "/etc/systemd/networkd.conf.d/mnagent.conf"
    probe.contents[path] = "[Network]\nManageForeignRoutes=no\n"
    assert "Routes=" not in trouble(run_checks(probe, None)).remedy
    probe.contents[path] += "ManageForeignRoutingPolicyRules = false\n"
    assert not [one for one in run_checks(probe, None) if one.level is Level.WARNING]


def test_doctor_dhcpcd_that_configures_ipv6_is_named(probe: FakeProbe, tmp_path: Path) -> None:
    probe.running.add("dhcpcd")
    configuration = configured(tmp_path)
    assert "noipv6" in trouble(run_checks(probe, configuration)).remedy
    for settings in ("noipv6rs\n", "denyinterfaces eth0 wlan0\n"):
        probe.contents["/etc/dhcpcd.conf"] = settings
        assert not [one for one in run_checks(probe, configuration) if one.level is Level.WARNING]


def test_doctor_dhcpcd_is_welcome_where_the_kernel_has_the_addresses(
    probe: FakeProbe, tmp_path: Path
) -> None:
    probe.running.add("dhcpcd")
    text = CONFIGURATION + 'autoconfiguration = "kernel"\n'
    findings = run_checks(probe, configured(tmp_path, text))
    assert not [one for one in findings if one.level is Level.WARNING]


def test_doctor_engine_and_libcrypto_missing_are_errors(probe: FakeProbe) -> None:
    probe.engine = "it is not built"
    assert trouble(run_checks(probe, None)).check == "engine"
    probe.engine, probe.libcrypto = None, None
    assert trouble(run_checks(probe, None)).check == "libcrypto"


def test_doctor_processor_without_aes_is_told(probe: FakeProbe) -> None:
    probe.contents["/proc/cpuinfo"] = "Features : fp asimd crc32\n"
    found = [one for one in run_checks(probe, None) if one.check == "processor"]
    assert "no instructions for AES" in found[0].text
    assert "mnagent bench crypto" in found[0].remedy


def test_doctor_interface_that_is_not_there_is_a_warning(probe: FakeProbe, tmp_path: Path) -> None:
    del probe.present["wlan0"]
    assert (
        "wlan0 is configured and not there" in trouble(run_checks(probe, configured(tmp_path))).text
    )


def arguments(path: Path | None = None, *, as_json: bool = False) -> argparse.Namespace:
    return argparse.Namespace(config=path, json=as_json)


def test_doctor_exit_status_is_1_only_with_an_error(
    probe: FakeProbe, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.main(arguments(), probe) == 0
    assert capsys.readouterr().out.endswith("The agent can work here.\n")
    probe.running.add("systemd-networkd")
    assert doctor.main(arguments(), probe) == 0
    assert "1 to look at" in capsys.readouterr().out
    probe.tun = errno.ENOENT
    assert doctor.main(arguments(), probe) == 1
    output = capsys.readouterr().out
    assert "ERROR  tunnel device" in output
    assert "-> `modprobe tun`" in output
    assert "1 to repair, 1 to look at" in output


def test_doctor_json_has_every_finding(
    probe: FakeProbe, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.main(arguments(as_json=True), probe) == 0
    findings = json.loads(capsys.readouterr().out)
    assert {"check", "level", "text", "remedy"} == set(findings[0])
    assert len(findings) == len(run_checks(probe, None))


def test_doctor_bad_configuration_and_keys_are_findings(
    probe: FakeProbe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mnagent.toml"
    path.write_text("colour = 1")
    assert doctor.main(arguments(path), probe) == 1
    assert "configuration:" in capsys.readouterr().out
    configured(tmp_path)
    assert doctor.main(arguments(path), probe) == 1
    output = capsys.readouterr().out
    assert "ERROR  keys:" in output
    assert "mnagent keygen" in output


def test_doctor_without_the_kernel_engine_warns_and_says_what_to_do(probe: FakeProbe) -> None:
    probe.kernel_engine = ("it is not built", "install clang")
    (finding,) = [each for each in run_checks(probe, None) if each.check == "kernel engine"]
    assert finding.level is Level.WARNING
    assert "not built" in finding.text
    assert finding.remedy == "install clang"


def test_doctor_without_a_bpf_file_system_notes_what_that_costs(probe: FakeProbe) -> None:
    probe.bpf_file_system = False
    found = [each for each in run_checks(probe, None) if each.check == "kernel engine"]
    assert [each.level for each in found] == [Level.GOOD, Level.NOTE]
    assert "/sys/fs/bpf" in found[1].remedy


@pytest.mark.parametrize(("choice", "level"), [("kernel", Level.ERROR), ("userspace", Level.NOTE)])
def test_doctor_judges_the_kernel_engine_by_what_is_asked_for(
    probe: FakeProbe, tmp_path: Path, choice: str, level: Level
) -> None:
    probe.kernel_engine = ("it is not built", "install clang")
    configuration = configured(tmp_path, f'{CONFIGURATION}[host]\nengine = "{choice}"\n')
    found = run_checks(probe, configuration)
    assert [each.level for each in found if each.check == "kernel engine"] == [level]


def test_probe_looks_at_this_machine_without_harm() -> None:
    probe = Probe()
    assert probe.read("/proc/self/status")
    assert probe.read("/no/such/file") is None
    assert "/etc" in probe.files("et[c]")
    assert probe.try_open("/no/such/device") == errno.ENOENT
    assert isinstance(probe.try_packet_socket(), int)
    assert probe.try_policy_rules() == 0
    assert probe.processes()
    assert "lo" in probe.interfaces()
    assert probe.libcrypto_version()
