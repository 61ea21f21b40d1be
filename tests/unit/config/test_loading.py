"""Configuration files: what loads, and how each mistake is named."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest

from mnagent.config import (
    Autoconfiguration,
    Configuration,
    ConfigurationError,
    CorrespondentConfiguration,
    LogLevel,
    NewConnections,
    PayloadProtection,
    Role,
    RouteOptimization,
    RouteOptimizationPolicy,
    load,
)

MOBILE_NODE = """
role = "mobile-node"
[mobile_node]
home_address = "2001:db8:1::10"
home_agent = "2001:db8:1::1"
interfaces = ["wlan0", "eth0"]
keys = "keys/mobile-node.toml"
"""
HOME_AGENT = """
role = "home-agent"
[home_agent]
address = "2001:db8:1::1"
home_prefix = "2001:db8:1::/64"
[[home_agent.mobile_nodes]]
home_address = "2001:db8:1::10"
keys = "/etc/keys/home-agent.toml"
"""


def written(directory: Path, text: str | bytes) -> Path:
    path = directory / "mnagent.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def loaded(directory: Path, text: str) -> Configuration:
    return load(written(directory, text))


def error_of(directory: Path, text: str | bytes) -> ConfigurationError:
    path = written(directory, text)
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    error = caught.value
    assert error.path == path
    assert error.expected
    assert error.remedy
    assert str(error).startswith(str(path))
    assert error.key_path in str(error)
    assert "\n" not in str(error)
    return error


def test_mobile_node_smallest_file_has_the_defaults(tmp_path: Path) -> None:
    configuration = loaded(tmp_path, MOBILE_NODE)
    node = configuration.mobile_node
    assert configuration.role is Role.MOBILE_NODE
    assert configuration.home_agent is None
    assert node is not None
    assert node.home_address == IPv6Address("2001:db8:1::10")
    assert node.home_prefix == IPv6Network("2001:db8:1::/64")
    assert node.interfaces == ("wlan0", "eth0")
    assert node.keys == (tmp_path / "keys/mobile-node.toml",)
    assert node.home_agents == (IPv6Address("2001:db8:1::1"),)
    assert (node.lifetime, node.initial_bindack_timeout_first_registration) == (600, 1.5)
    assert node.autoconfiguration is Autoconfiguration.AGENT
    assert node.new_connections is NewConnections.HOME_ADDRESS
    assert node.payload_protection is PayloadProtection.NONE
    assert node.optimistic
    host = configuration.host
    assert (host.tunnel_interface, host.route_table, host.rule_priority) == ("mnagent0", 6275, 6275)
    assert host.control_socket == Path("/run/mnagent/control.sock")
    assert host.state_directory == Path("/var/lib/mnagent")
    assert host.log_level is LogLevel.INFO


def test_home_agent_smallest_file_has_the_defaults(tmp_path: Path) -> None:
    configuration = loaded(tmp_path, HOME_AGENT)
    agent = configuration.home_agent
    assert configuration.role is Role.HOME_AGENT
    assert configuration.mobile_node is None
    assert agent is not None
    assert agent.home_link is None
    assert agent.interfaces == ()
    assert agent.max_lifetime == 3600
    assert agent.mobile_nodes[0].keys == Path("/etc/keys/home-agent.toml")


def test_home_agent_outside_the_prefix_loads(tmp_path: Path) -> None:
    text = HOME_AGENT.replace('address = "2001:db8:1::1"', 'address = "2001:db8:9::1"', 1)
    assert loaded(tmp_path, text).home_agent is not None


def test_number_without_a_point_is_good_for_seconds(tmp_path: Path) -> None:
    text = f"{MOBILE_NODE}initial_bindack_timeout_first_registration = 2"
    node = loaded(tmp_path, text).mobile_node
    assert node is not None
    assert node.initial_bindack_timeout_first_registration == 2.0


@pytest.mark.parametrize(
    ("old", "new", "key_path", "expected"),
    [
        ("", "colour = 1\n", "colour", "unknown key"),
        ("interfaces", "interface", "mobile_node.interface", 'perhaps "interfaces"'),
        ("home_agent =", "home_agents =", "mobile_node.home_agents", 'perhaps "home_agent"'),
        ("[mobile_node]", "[mobile-node]", "mobile-node", 'perhaps "mobile_node"'),
        ('role = "mobile-node"', "", "role", "missing"),
        ('role = "mobile-node"', "role = 1", "role", "expected a string, found a whole number"),
        ('role = "mobile-node"', 'role = "node"', "role", '"mobile-node" or "home-agent"'),
        ('role = "mobile-node"', 'role = "home-agent"', "mobile_node", "no such table"),
        ("1::10", "1::zz", "mobile_node.home_address", "an IPv6 address"),
        ("2001:db8:1::10", "10.0.0.1", "mobile_node.home_address", "an IPv6 address"),
        ("2001:db8:1::10", "fe80::1", "mobile_node.home_address", "can be routed"),
        ("2001:db8:1::10", "ff0e::1", "mobile_node.home_address", "can be routed"),
        ("2001:db8:1::10", "::1", "mobile_node.home_address", "can be routed"),
        ("2001:db8:1::10", "::", "mobile_node.home_address", "can be routed"),
        ("2001:db8:1::10", "::ffff:1.2.3.4", "mobile_node.home_address", "can be routed"),
        ("2001:db8:1::10", "2001:db8:1::1", "mobile_node.home_address", "home agent's address"),
        ("2001:db8:1::10", "2001:db8:1::", "mobile_node.home_address", "anycast"),
        ('["wlan0", "eth0"]', "[]", "mobile_node.interfaces", "at least one"),
        ('"wlan0"', '"eth0"', "mobile_node.interfaces[1]", "listed twice"),
        ('"wlan0"', '"wlan 0"', "mobile_node.interfaces[0]", "an interface name"),
        ('"wlan0"', '"a-very-long-name"', "mobile_node.interfaces[0]", "at most 15"),
        ('"wlan0"', '""', "mobile_node.interfaces[0]", "an interface name"),
        ('"wlan0"', '".."', "mobile_node.interfaces[0]", "an interface name"),
        ('"wlan0"', "3", "mobile_node.interfaces[0]", "expected a string, found a whole"),
        ('"wlan0"', '"mnagent0"', "host.tunnel_interface", "physical interface"),
        ('"keys/mobile-node.toml"', '""', "mobile_node.keys", "path of a file"),
    ],
)
def test_mistake_in_a_value_names_file_key_and_expectation(
    old: str, new: str, key_path: str, expected: str, tmp_path: Path
) -> None:
    error = error_of(tmp_path, MOBILE_NODE.replace(old, new, 1))
    assert error.key_path == key_path
    assert expected in error.expected


@pytest.mark.parametrize(
    ("line", "key_path", "expected"),
    [
        ("lifetime = 3", "mobile_node.lifetime", "4 to 262140 seconds, found 3"),
        ("lifetime = 262141", "mobile_node.lifetime", "4 to 262140"),
        ('lifetime = "600"', "mobile_node.lifetime", "expected a whole number, found a string"),
        ("lifetime = 6.5", "mobile_node.lifetime", "expected a whole number, found a number"),
        ("lifetime = true", "mobile_node.lifetime", "found true or false"),
        ("home_prefix_length = 0", "mobile_node.home_prefix_length", "1 to 127"),
        ("home_prefix_length = 128", "mobile_node.home_prefix_length", "1 to 127"),
        ("optimistic = 1", "mobile_node.optimistic", "expected true or false"),
        ('interface_order = "x"', "mobile_node.interface_order", '"listed" or "by-kind"'),
        ("weak_signal = 70", "mobile_node.weak_signal", "-100 to -30 dBm, found 70"),
        ("weak_signal = nan", "mobile_node.weak_signal", "-100 to -30 dBm"),
        ("path_check_interval = 4.9", "mobile_node.path_check_interval", "0 or 5 to 86400"),
        ("path_check_interval = nan", "mobile_node.path_check_interval", "0 or 5 to 86400"),
        ('autoconfiguration = "dhcp"', "mobile_node.autoconfiguration", '"agent" or "kernel"'),
        ('new_connections = "x"', "mobile_node.new_connections", '"home-address" or'),
        ('payload_protection = "x"', "mobile_node.payload_protection", '"none" or "esp"'),
        *(
            (
                f"initial_bindack_timeout_first_registration = {value}",
                "mobile_node.initial_bindack_timeout_first_registration",
                "more than 0 and at most 32 seconds",
            )
            for value in ("0.0", "-1", "32.5", "nan", "inf")
        ),
        ("[host]\nroute_table = 0", "host.route_table", "1 to 4294967294"),
        ("[host]\nroute_table = 254", "host.route_table", "kernel's own"),
        ("[host]\nrule_priority = 32766", "host.rule_priority", "2 to 32765"),
        ('[host]\nlog_level = "loud"', "host.log_level", '"debug" or "info"'),
        ('[host]\nstate_directory = "x"', "host.state_directory", "absolute path"),
        ('[host]\ncontrol_socket = "x"', "host.control_socket", "absolute path"),
        (f'[host]\ncontrol_socket = "/{"x" * 107}"', "host.control_socket", "107 octets"),
        ('[host]\ntunnel_interface = "a/b"', "host.tunnel_interface", "interface name"),
        ("[host]\nport = 1", "host.port", "unknown key"),
        ("[host]\nlifetime = 60", "host.lifetime", "it belongs in [mobile_node]"),
        ("[home_agent]", "home_agent.address", "missing"),
        ("[home_agent]\nhome_link = 1", "home_agent.home_link", "expected a string"),
        ("[[host]]", "host", "expected a table, found a list"),
    ],
)
def test_mistake_in_an_added_line_names_key_and_expectation(
    line: str, key_path: str, expected: str, tmp_path: Path
) -> None:
    error = error_of(tmp_path, f"{MOBILE_NODE}{line}\n")
    assert error.key_path == key_path
    assert expected in error.expected


def test_single_brackets_around_a_list_of_tables_are_told_to_be_double(tmp_path: Path) -> None:
    error = error_of(tmp_path, HOME_AGENT.replace("[[", "[").replace("]]", "]"))
    assert error.key_path == "home_agent.mobile_nodes"
    assert error.remedy == "write [[home_agent.mobile_nodes]] above each of them"


def test_remedy_for_an_unknown_key_names_a_reference_that_is_there(tmp_path: Path) -> None:
    error = error_of(tmp_path, f"colour = 1\n{MOBILE_NODE}")
    (reference,) = [word.rstrip(",") for word in error.remedy.split() if "/" in word]
    assert "[mobile_node]" in Path(reference).read_text()


@pytest.mark.parametrize(
    ("old", "new", "key_path", "expected"),
    [
        ("::/64", "::/129", "home_agent.home_prefix", "a prefix such as"),
        ("::/64", "::", "home_agent.home_prefix", "a prefix such as"),
        ("1::/64", "1::1/64", "home_agent.home_prefix", "no bits after"),
        ("2001:db8:1::/64", "fe80::/64", "home_agent.home_prefix", "can be routed"),
        ("2001:db8:1::/64", "::/0", "home_agent.home_prefix (length)", "1 to 127"),
        ("1::10", "2::10", "home_agent.mobile_nodes[0].home_address", "in the home prefix"),
        ("1::10", "1::1", "home_agent.mobile_nodes[0].home_address", "home agent's address"),
        ("keys =", "key =", "home_agent.mobile_nodes[0].key", "unknown key"),
        (
            "[[home_agent.mobile_nodes]]",
            "[host]",
            "host.home_address",
            "it belongs in [mobile_node] or [home_agent.mobile_nodes]",
        ),
        (
            "[[home",
            'home_link = "a b"\n[[home',
            "home_agent.home_link",
            "an interface name",
        ),
        (
            "[[home",
            'home_link = "mnagent0"\n[[home',
            "host.tunnel_interface",
            "physical interface",
        ),
    ],
)
def test_mistake_in_a_home_agents_file_names_key_and_expectation(
    old: str, new: str, key_path: str, expected: str, tmp_path: Path
) -> None:
    error = error_of(tmp_path, HOME_AGENT.replace(old, new, 1))
    assert error.key_path == key_path
    assert expected in error.expected


def test_home_agent_serving_an_address_twice_is_refused(tmp_path: Path) -> None:
    entry = HOME_AGENT[HOME_AGENT.index("[[") :]
    error = error_of(tmp_path, HOME_AGENT + entry)
    assert error.key_path == "home_agent.mobile_nodes[1].home_address"


def test_home_agent_serving_nobody_is_refused(tmp_path: Path) -> None:
    text = HOME_AGENT[: HOME_AGENT.index("[[")] + "mobile_nodes = []"
    assert error_of(tmp_path, text).key_path == "home_agent.mobile_nodes"


def test_role_without_its_table_is_refused_with_the_remedy(tmp_path: Path) -> None:
    error = error_of(tmp_path, 'role = "home-agent"')
    assert error.key_path == "home_agent"
    assert "[home_agent]" in error.remedy


def test_file_that_is_not_toml_names_the_line(tmp_path: Path) -> None:
    assert "line 2" in str(error_of(tmp_path, 'role = "x"\n= 3'))


def test_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    assert "UTF-8" in str(error_of(tmp_path, b"role = \xff"))


def test_file_that_is_too_long_is_refused(tmp_path: Path) -> None:
    assert "too long" in str(error_of(tmp_path, b"#" * (4 * 1024 * 1024 + 1)))


def test_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.toml: cannot be read: No such file"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        load(str(tmp_path))


CORRESPONDENT = 'role = "correspondent"\n'


def test_correspondent_needs_nothing_but_its_role(tmp_path: Path) -> None:
    configuration = loaded(tmp_path, CORRESPONDENT)
    assert configuration.role is Role.CORRESPONDENT
    assert configuration.mobile_node is None and configuration.home_agent is None
    assert configuration.correspondent == CorrespondentConfiguration(
        interfaces=(), max_bindings=4096, max_lifetime=420
    )


@pytest.mark.parametrize("text", [MOBILE_NODE, HOME_AGENT])
def test_mobile_node_and_home_agent_are_correspondents_unless_told_otherwise(
    text: str, tmp_path: Path
) -> None:
    assert loaded(tmp_path, text).correspondent is not None
    table = text.index("keys =") if text is MOBILE_NODE else text.index("[[")
    switched_off = f"{text[:table]}correspondent = false\n{text[table:]}"
    assert loaded(tmp_path, switched_off).correspondent is None
    error = error_of(tmp_path, f"{switched_off}\n[correspondent]\nmax_bindings = 3\n")
    assert error.key_path == "correspondent"


def test_correspondent_limits_apply_to_every_role(tmp_path: Path) -> None:
    found = loaded(tmp_path, f"{HOME_AGENT}\n[correspondent]\nmax_lifetime = 60\n").correspondent
    assert found is not None and found.max_lifetime == 60


def test_route_optimization_policies_keep_their_order(tmp_path: Path) -> None:
    text = f"""{MOBILE_NODE}
route_optimization = "always"
[[mobile_node.route_optimization_policy]]
prefix = "2001:db8:2::/48"
ports = [53, "5000-5100"]
use = "never"
[[mobile_node.route_optimization_policy]]
use = "on-traffic"
"""
    node = loaded(tmp_path, text).mobile_node
    assert node is not None
    assert node.route_optimization is RouteOptimization.ALWAYS
    assert node.route_optimization_policy == (
        RouteOptimizationPolicy(
            prefix=IPv6Network("2001:db8:2::/48"),
            ports=((53, 53), (5000, 5100)),
            use=RouteOptimization.NEVER,
        ),
        RouteOptimizationPolicy(
            prefix=IPv6Network("::/0"), ports=(), use=RouteOptimization.ON_TRAFFIC
        ),
    )


@pytest.mark.parametrize(
    ("text", "key_path", "expected"),
    [
        ("[correspondent]\nmax_lifetime = 421", "correspondent.max_lifetime", "4 to 420"),
        ("[correspondent]\nmax_bindings = 0", "correspondent.max_bindings", "1 to 1000000"),
        ('[correspondent]\ninterfaces = ["a/b"]', "correspondent.interfaces[0]", "interface name"),
        (
            '[correspondent]\ninterfaces = ["eth0"]\n[host]\ntunnel_interface = "eth0"',
            "host.tunnel_interface",
            "eth0 is listed",
        ),
        ("[home_agent]", "home_agent.address", "missing"),
        ("[host]\nroute_table = 252", "host.route_table", "252, or the next one"),
    ],
)
def test_correspondent_with_a_mistake_is_named(
    text: str, key_path: str, expected: str, tmp_path: Path
) -> None:
    error = error_of(tmp_path, CORRESPONDENT + text)
    assert error.key_path == key_path
    assert expected in error.expected


@pytest.mark.parametrize(
    ("policy", "key", "expected"),
    [
        ("", "use", "missing"),
        ('use = "sometimes"', "use", '"on-traffic" or "always" or "never"'),
        ('use = "never"\nprefix = "2001:db8::1/64"', "prefix", "no bits after"),
        ('use = "never"\nports = ["80-79"]', "ports[0]", "a port such as 443"),
        ('use = "never"\nports = [80, 0]', "ports[1]", "a port such as 443"),
        ('use = "never"\nports = ["65535-65536"]', "ports[0]", "a port such as 443"),
        ('use = "never"\nports = [1.5]', "ports[0]", "a whole number or a string"),
    ],
)
def test_route_optimization_policy_with_a_mistake_is_named(
    policy: str, key: str, expected: str, tmp_path: Path
) -> None:
    text = f"{MOBILE_NODE}[[mobile_node.route_optimization_policy]]\n{policy}\n"
    error = error_of(tmp_path, text)
    assert error.key_path.startswith("mobile_node.route_optimization_policy[")
    assert error.key_path.endswith(f"].{key}") or error.key_path.endswith("[...]")
    assert expected in error.expected


def test_interfaces_of_a_correspondent_do_not_go_with_another_role(tmp_path: Path) -> None:
    error = error_of(tmp_path, f'{MOBILE_NODE}[correspondent]\ninterfaces = ["eth0"]\n')
    assert error.key_path == "correspondent.interfaces"


def test_more_home_addresses_come_after_the_first(tmp_path: Path) -> None:
    text = MOBILE_NODE + 'more_home_addresses = ["2001:db8:1::11"]\nfollow_renumbering = false\n'
    node = loaded(tmp_path, text).mobile_node
    assert node is not None
    assert [str(each) for each in node.home_addresses] == ["2001:db8:1::10", "2001:db8:1::11"]
    assert not node.follow_renumbering


@pytest.mark.parametrize(
    ("addresses", "key_path", "expected"),
    [
        (["2001:db8:1::10"], "mobile_node.more_home_addresses[0]", "listed twice"),
        (["ff02::1"], "mobile_node.more_home_addresses[0]", "unicast"),
        (
            [f"2001:db8:1::{number:x}" for number in range(32, 40)],
            "mobile_node.more_home_addresses",
            "at most 7",
        ),
    ],
)
def test_mistake_in_more_home_addresses_is_named(
    addresses: list[str], key_path: str, expected: str, tmp_path: Path
) -> None:
    listed = ", ".join(f'"{each}"' for each in addresses)
    error = error_of(tmp_path, MOBILE_NODE + f"more_home_addresses = [{listed}]\n")
    assert error.key_path == key_path
    assert expected in error.expected


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        ("min_prefix_advertisement_interval = 0.5", "min_prefix_advertisement_interval"),
        ("max_prefix_advertisement_interval = 500.0", "min_prefix_advertisement_interval"),
        ("max_prefix_advertisement_interval = 1e9", "max_prefix_advertisement_interval"),
    ],
)
def test_prefix_advertisement_intervals_are_checked(lines: str, key: str, tmp_path: Path) -> None:
    text = HOME_AGENT.replace("[[home", f"{lines}\n[[home")
    assert error_of(tmp_path, text).key_path == f"home_agent.{key}"
