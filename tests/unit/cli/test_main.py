"""The command line: endings by exit status, one line for every mistake, no secret shown."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from ipaddress import IPv6Address
from pathlib import Path
from types import SimpleNamespace

import pytest

from mnagent import __version__
from mnagent.cli.main import main
from mnagent.config import Configuration, LogLevel
from mnagent.ipsec.keys import KeySet
from tests.support.requirement import requirement

HOME_ADDRESS = "2001:db8:1::10"
HOME_AGENT = "2001:db8:1::1"
SECRET_PATTERN = r'_key = "([0-9a-f]{8,})"'


def keygen(directory: Path, *more: str) -> int:
    ends = ("--home-address", HOME_ADDRESS, "--home-agent", HOME_AGENT)
    return main(["keygen", *ends, "-o", str(directory), *more])


@pytest.fixture
def keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    directory = tmp_path / "keys"
    assert keygen(directory) == 0
    capsys.readouterr()
    return directory


@pytest.fixture
def mobile_node(tmp_path: Path, keys: Path) -> Path:
    path = tmp_path / "mobile-node.conf"
    path.write_text(
        f"""
role = "mobile-node"
[mobile_node]
home_address = "{HOME_ADDRESS}"
home_agent = "{HOME_AGENT}"
interfaces = ["wlan0"]
keys = "{keys}/mobile-node.toml"
[host]
control_socket = "{tmp_path}/control.sock"
"""
    )
    return path


@pytest.fixture
def home_agent(tmp_path: Path, keys: Path) -> Path:
    path = tmp_path / "home-agent.conf"
    path.write_text(
        f"""
role = "home-agent"
[home_agent]
address = "{HOME_AGENT}"
home_prefix = "2001:db8:1::/64"
[[home_agent.mobile_nodes]]
home_address = "{HOME_ADDRESS}"
keys = "{keys}/home-agent.toml"
"""
    )
    return path


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What stands on standard error, which is one line and no traceback."""
    text = capsys.readouterr().err
    assert text.startswith("mnagent: ")
    assert text.count("\n") == 1
    assert "Traceback" not in text
    return text


def secrets(directory: Path) -> list[str]:
    texts = [path.read_text() for path in directory.glob("*.toml")]
    return [secret for text in texts for secret in re.findall(SECRET_PATTERN, text)]


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mnagent {__version__}\n" * 2


@pytest.mark.parametrize("command", ["run", "status", "check-config", "keygen", "doctor", ""])
def test_help_is_printed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    assert "usage: mnagent" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "COMMAND"),
        ("dance", "invalid choice"),
        ("version 3", "unrecognized"),
        ("status --intervall 3", "--intervall 3 (`mnagent status --help`"),
        ("bindings list --all", "--all (`mnagent bindings list --help`"),
        ("run", "--config"),
        ("run -c x --log-level loud", "--log-level"),
        ("run -c /no/such/file", "/no/such/file: cannot be read"),
        ("check-config", "FILE"),
        ("check-config /no/such/file", "/no/such/file: cannot be read"),
        ("check-config -c /no/such/file", "/no/such/file: cannot be read"),
        ("status -c /no/such/file", "/no/such/file: cannot be read"),
        ("status -c x --socket y", "not allowed with"),
        ("status --watch --interval 0", "0.05 to 86400"),
        ("status --watch --interval x", "0.05 to 86400"),
        ("status --watch --interval nan", "0.05 to 86400"),
        ("keygen", "--home-address"),
        ("keygen --home-address 10.0.0.1", "an IPv6 address, found '10.0.0.1'"),
        ("keygen --home-address ff02::1 --home-agent 2001:db8::1 -o /tmp", "home_address"),
        ("keygen --home-address 2001:db8::1 --home-agent 2001:db8::1 -o /tmp", "other than"),
        ("keygen --encryption des", "--encryption"),
    ],
)
def test_bad_command_line_is_status_2_and_one_line(
    line: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    assert words in one_line(capsys)


def test_keygen_writes_two_private_files_and_shows_no_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "new" / "keys"
    before = os.umask(0)
    try:
        assert keygen(directory) == 0
    finally:
        os.umask(before)
    assert sorted(path.name for path in directory.iterdir()) == [
        "home-agent.toml",
        "mobile-node.toml",
    ]
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for path in directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    output = capsys.readouterr()
    assert "mobile-node.toml" in output.out
    assert len(secrets(directory)) == 32
    assert not any(secret in output.out + output.err for secret in secrets(directory))


def test_keygen_encryption_option_sets_the_key_length(tmp_path: Path) -> None:
    lengths = {}
    for name in ("aes-cbc-128", "aes-cbc-256"):
        assert keygen(tmp_path / name, "--encryption", name) == 0
        text = (tmp_path / name / "mobile-node.toml").read_text()
        lengths[name] = {len(key) for key in re.findall(r'encryption_key = "(\w+)"', text)}
    assert lengths == {"aes-cbc-128": {32}, "aes-cbc-256": {64}}


def test_keygen_into_a_file_asks_for_a_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "keys").touch()
    assert keygen(tmp_path / "keys") == 2
    assert "expected a directory" in one_line(capsys)


def test_keygen_files_that_are_there_are_kept_unless_forced(
    keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (keys / "mobile-node.toml").read_text()
    (keys / "home-agent.toml").unlink()
    assert keygen(keys) == 2
    assert "exists already" in one_line(capsys)
    assert (keys / "mobile-node.toml").read_text() == before
    assert not (keys / "home-agent.toml").exists()
    assert keygen(keys, "--force") == 0
    assert (keys / "mobile-node.toml").read_text() != before


def test_keygen_link_in_the_place_is_replaced_and_not_followed(keys: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (keys / "mobile-node.toml").unlink()
    (keys / "mobile-node.toml").symlink_to(victim)
    assert keygen(keys) == 2
    assert keygen(keys, "--force") == 0
    assert victim.read_text() == "precious"
    assert not (keys / "mobile-node.toml").is_symlink()


def test_keygen_directory_that_cannot_be_made_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert keygen(tmp_path / "file" / "keys") == 1
    assert "file" in one_line(capsys)


def test_check_config_good_mobile_node(
    mobile_node: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-config", str(mobile_node)]) == 0
    output = capsys.readouterr().out
    assert f"mobile node {HOME_ADDRESS}/64, home agent {HOME_AGENT}, roaming with wlan0" in output
    assert "8 security associations for 1 home agent" in output
    assert not any(secret in output for secret in secrets(mobile_node.parent / "keys"))


@requirement("RFC3776-4.4", "SEC-15")
def test_check_config_manual_keys_are_warned_about(
    mobile_node: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-config", str(mobile_node)]) == 0
    assert "old messages can be replayed" in capsys.readouterr().out


def test_check_config_good_home_agent(home_agent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", "-c", str(home_agent)]) == 0
    assert "virtual home prefix), serving 1 mobile node" in capsys.readouterr().out


def test_check_config_good_correspondent_needs_no_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "correspondent.toml"
    path.write_text('role = "correspondent"\n[correspondent]\nmax_lifetime = 60\n')
    assert main(["check-config", str(path)]) == 0
    output = capsys.readouterr().out
    assert "correspondent of mobile nodes, interfaces: all with carrier" in output
    assert "direct paths: granted to mobile nodes for up to 60 s" in output
    assert "keys" not in output


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("", "on-traffic to correspondents, granted to mobile nodes for up to 420 s"),
        ('route_optimization = "never"', "never to correspondents, granted"),
        ("correspondent = false", "on-traffic to correspondents, refused to other mobile nodes"),
        (
            '[[mobile_node.route_optimization_policy]]\nuse = "never"',
            "on-traffic to correspondents, with 1 exception, granted",
        ),
    ],
)
def test_check_config_says_who_may_take_direct_paths(
    lines: str, words: str, mobile_node: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = mobile_node.read_text().replace("[mobile_node]\n", f"[mobile_node]\n{lines}\n")
    if lines.startswith("[["):
        text = f"{mobile_node.read_text()}\n{lines}\n"
    mobile_node.write_text(text)
    assert main(["check-config", str(mobile_node)]) == 0
    assert f"direct paths: {words}" in capsys.readouterr().out


def test_check_config_without_keys_leaves_them_alone(mobile_node: Path, keys: Path) -> None:
    (keys / "mobile-node.toml").unlink()
    assert main(["check-config", str(mobile_node), "--without-keys"]) == 0


def test_check_config_key_file_too_open_is_refused(
    mobile_node: Path, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (keys / "mobile-node.toml").chmod(0o640)
    assert main(["check-config", str(mobile_node)]) == 2
    message = one_line(capsys)
    assert "mode 0640" in message
    assert "chmod 600" in message


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (HOME_ADDRESS, "2001:db8:1::11", "home_address: expected what"),
        (f'"{HOME_AGENT}"', '"2001:db8:1::2"', "home_agent: expected what"),
        ("mobile-node.toml", "home-agent.toml", 'end: expected "mobile-node"'),
        ("mobile-node.toml", "other.toml", "No such file"),
    ],
)
def test_check_config_key_file_that_does_not_fit_is_named(
    old: str, new: str, words: str, mobile_node: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mobile_node.write_text(mobile_node.read_text().replace(old, new))
    assert main(["check-config", str(mobile_node)]) == 2
    assert words in one_line(capsys)


def test_check_config_short_key_is_named_and_not_shown(
    mobile_node: Path, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = keys / "mobile-node.toml"
    text = path.read_text()
    secret = re.findall(SECRET_PATTERN, text)[0]
    path.write_text(text.replace(secret, secret[:-2]))
    assert main(["check-config", str(mobile_node)]) == 2
    message = one_line(capsys)
    assert f"{path}: binding.outbound.encryption_key: expected 16 or 32 octets, found 31" in message
    assert secret[:8] not in message


def test_check_config_payload_keys_missing_are_asked_for(
    mobile_node: Path, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = mobile_node.read_text().replace("[host]", 'payload_protection = "esp"\n[host]')
    mobile_node.write_text(text)
    assert main(["check-config", str(mobile_node)]) == 0
    path = keys / "mobile-node.toml"
    path.write_text(path.read_text()[: path.read_text().index("[payload")])
    capsys.readouterr()
    assert main(["check-config", str(mobile_node)]) == 2
    assert "payload: missing" in one_line(capsys)


def test_check_config_two_nodes_with_one_spi_are_refused(
    home_agent: Path, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = keys / "other.toml"
    text = (keys / "home-agent.toml").read_text()
    other.write_text(text.replace(HOME_ADDRESS, "2001:db8:1::20"))
    other.chmod(0o600)
    entry = f'[[home_agent.mobile_nodes]]\nhome_address = "2001:db8:1::20"\nkeys = "{other}"\n'
    home_agent.write_text(home_agent.read_text() + entry)
    assert main(["check-config", str(home_agent)]) == 2
    assert "expected another one" in one_line(capsys)


def test_run_hands_the_configuration_to_the_service(
    mobile_node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Configuration] = []

    def run(
        configuration: Configuration,
        *,
        reread: Callable[[], Configuration],
        key_sets: tuple[KeySet, ...],
    ) -> int:
        assert reread() == configuration
        assert [each.home_address for each in key_sets] == [IPv6Address(HOME_ADDRESS)]
        seen.append(configuration)
        return 4

    service = SimpleNamespace(run=run)
    monkeypatch.setitem(sys.modules, "mnagent.runtime.service", service)
    monkeypatch.setattr("mnagent.runtime.service", service, raising=False)
    assert main(["run", "-c", str(mobile_node)]) == 4
    assert main(["run", "-c", str(mobile_node), "--log-level", "error"]) == 4
    assert [one.host.log_level for one in seen] == [LogLevel.INFO, LogLevel.ERROR]
    assert seen[0].mobile_node is not None
    assert seen[0].mobile_node.home_address == IPv6Address(HOME_ADDRESS)


def test_run_bad_keys_are_status_2_before_anything_is_touched(
    mobile_node: Path, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (keys / "mobile-node.toml").chmod(0o644)
    assert main(["run", "-c", str(mobile_node)]) == 2
    assert "mode 0644" in one_line(capsys)


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left"), 1)]
)
def test_error_on_the_way_ends_with_its_status(
    error: BaseException,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(arguments: object) -> int:
        raise error

    monkeypatch.setattr("mnagent.cli.version.main", fail)
    assert main(["version"]) == status
    assert "Traceback" not in capsys.readouterr().err


def test_demo_arguments_go_to_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def demo(argv: list[str]) -> int:
        seen.append(argv)
        return 7

    monkeypatch.setitem(sys.modules, "mnagent.rig.demo", SimpleNamespace(main=demo))
    assert main(["demo", "--json", "x"]) == 7
    assert seen == [["--json", "x"]]


def test_rig_arguments_go_to_the_rig(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rig = SimpleNamespace(main=lambda argv: len(argv))
    monkeypatch.setitem(sys.modules, "mnagent.rig.wifi.command", rig)
    assert main(["rig", "wifi", "--roams", "3"]) == 2
    assert main(["rig", "wifi", "captive", "--roams", "3"]) == 3
    assert main(["rig"]) == 2
    assert "required: WHAT (`mnagent rig --help`" in one_line(capsys)
    assert main(["rig", "--help"]) == 0
    assert "wifi" in capsys.readouterr().out


def test_demo_without_its_libraries_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> object:
        raise ModuleNotFoundError("no", name="rich")

    monkeypatch.setattr("importlib.import_module", missing)
    assert main(["demo"]) == 1
    assert "needs rich" in one_line(capsys)


def test_output_whose_reader_is_gone_ends_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "mnagent.cli.main", "version"]
    process = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert process.returncode == 141
    assert process.stderr == b""


def test_version_imports_nothing_heavy() -> None:
    code = (
        "import sys; from mnagent.cli.main import main; main(['version']);"
        "heavy = {'asyncio', 'msgspec', 'cryptography', 'pyroute2', 'rich', 'scapy', 'netifaces'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.splitlines()[-1] == "[]"


def test_daemon_imports_no_library_of_the_rig() -> None:
    code = (
        "import sys, mnagent.cli.run, mnagent.runtime.service;"
        "print(sorted({'aiohttp', 'grpc', 'labgrid', 'netifaces', 'rich', 'scapy'}"
        "& set(sys.modules)))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.splitlines()[-1] == "[]"
