"""What the daemon says, and leaves behind, where it cannot start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

CONFIGURATION = """
role = "mobile-node"
[mobile_node]
home_address = "2001:db8:1::10"
home_agent = "2001:db8:1::1"
interfaces = ["absent0"]
keys = "mobile-node.toml"
[host]
state_directory = "{directory}/state"
control_socket = "{directory}/control.sock"
"""

EXIT_FAILED = 1
EXIT_USAGE = 2


def mnagent(*arguments: str | Path, first: str = "true", through: str = "") -> tuple[int, str]:
    """Run the command in namespaces of its own, ``through`` another one, after ``first``.

    Returns its exit status, and all it said; "LEFT BEHIND" is added where rules, routes or devices
    are not as before.
    """
    command = " ".join(map(str, (through, sys.executable, "-m", "mnagent.cli.main", *arguments)))
    script = f"""
        before=$(ip -6 rule; ip -6 route show table all; ip -o link)
        {first}; {command}; status=$?
        after=$(ip -6 rule; ip -6 route show table all; ip -o link)
        [ "$before" = "$after" ] || echo "LEFT BEHIND: $after"
        exit $status
    """
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    status, output = mnagent(
        "keygen --home-address 2001:db8:1::10 --home-agent 2001:db8:1::1 -o", tmp_path
    )
    assert status == 0, output
    path = tmp_path / "node.toml"
    path.write_text(CONFIGURATION.format(directory=tmp_path))
    return path


def test_daemon_without_a_tunnel_device_names_it_and_the_remedy(configuration: Path) -> None:
    status, output = mnagent("run -c", configuration, first="mount -t tmpfs tmpfs /dev/net")
    assert status == EXIT_FAILED
    assert "/dev/net/tun" in output and "modprobe tun" in output
    assert "Traceback" not in output and "LEFT BEHIND" not in output


@pytest.mark.parametrize("missing", ["net_admin", "net_raw"])
def test_daemon_without_a_capability_names_it_and_the_remedy(
    configuration: Path, missing: str
) -> None:
    status, output = mnagent(
        "run -c",
        configuration,
        through=f"setpriv --bounding-set=-{missing} --inh-caps=-{missing}",
    )
    assert status == EXIT_FAILED
    assert "CAP_NET_ADMIN and CAP_NET_RAW" in output and "run as root" in output
    assert "Traceback" not in output and "LEFT BEHIND" not in output


def test_daemon_with_a_key_file_others_can_read_refuses_it(configuration: Path) -> None:
    keys = configuration.parent / "mobile-node.toml"
    keys.chmod(0o640)
    status, output = mnagent("run -c", configuration)
    assert status == EXIT_USAGE
    assert str(keys) in output and "0600" in output
    assert "Traceback" not in output and "LEFT BEHIND" not in output


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("state_directory", "{directory}/node.toml", "correct host.state_directory"),
        ("control_socket", "{directory}/node.toml/socket", "correct host.control_socket"),
    ],
)
def test_daemon_that_cannot_have_its_files_names_them_and_the_key(
    configuration: Path, key: str, value: str, remedy: str
) -> None:
    value = value.format(directory=configuration.parent)  # a file where a directory is needed
    lines = configuration.read_text().splitlines()
    lines = [line for line in lines if not line.startswith(key)] + [f'{key} = "{value}"']
    configuration.write_text("\n".join(lines))
    status, output = mnagent("run -c", configuration)
    assert status == EXIT_FAILED
    assert f"{configuration}: File exists; {remedy}" in output
    assert "Traceback" not in output and "LEFT BEHIND" not in output


def test_daemon_whose_metrics_port_is_taken_names_it_and_leaves_no_socket(
    configuration: Path,
) -> None:
    with configuration.open("a") as file:
        file.write("metrics_port = 9999\n")
    busy = (
        'import socket, subprocess, sys; held = socket.create_server(("127.0.0.1", 9999)); '
        "sys.exit(subprocess.call(sys.argv[1:]))"
    )
    status, output = mnagent(
        "run -c", configuration, first="ip link set lo up", through=f"{sys.executable} -c '{busy}'"
    )
    assert status == EXIT_FAILED
    assert "TCP port 9999: Address already in use; correct host.metrics_port" in output
    assert not (configuration.parent / "control.sock").exists()
    assert "Traceback" not in output and "mnagent0" not in output


def test_doctor_on_a_machine_that_has_everything_finds_no_error(configuration: Path) -> None:
    status, output = mnagent("doctor -c", configuration)
    assert status == 0, output
    assert "kernel engine: " in output and "The agent can work here" in output
    assert "Traceback" not in output and "LEFT BEHIND" not in output


def test_doctor_without_any_capability_says_so_and_checks_the_rest(configuration: Path) -> None:
    status, output = mnagent("doctor", through="setpriv --bounding-set=-all --inh-caps=-all")
    assert status == EXIT_FAILED
    assert "lacks CAP_NET_ADMIN and CAP_NET_RAW" in output and "libcrypto: " in output
    assert "you must be root" not in output  # a library's own words, amid ours
    assert "Traceback" not in output and "LEFT BEHIND" not in output
