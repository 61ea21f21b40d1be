"""Mobile nodes dropped into a directory, and several home prefixes."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest

from mnagent.config import ConfigurationError, HomeAgentConfiguration, Protection, load

HOME_AGENT = """
role = "home-agent"
[home_agent]
address = "2001:db8:1::1"
home_prefix = "2001:db8:1::/64"
"""
LISTED = '[[home_agent.mobile_nodes]]\nhome_address = "2001:db8:1::10"\nkeys = "a.toml"\n'


def written(directory: Path, text: str = HOME_AGENT, **nodes: str) -> Path:
    """A configuration, and node files by name."""
    (directory / "nodes.d").mkdir(exist_ok=True)
    for name, node in nodes.items():
        (directory / "nodes.d" / f"{name}.toml").write_text(node)
    path = directory / "home-agent.toml"
    path.write_text(text)
    return path


def node(address: str, keys: str = "../keys/node.toml") -> str:
    return f'home_address = "{address}"\nkeys = "{keys}"\n'


def loaded(path: Path) -> HomeAgentConfiguration:
    agent = load(path).home_agent
    assert agent is not None
    return agent


def error_of(path: Path) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    return caught.value


def test_nodes_of_the_directory_come_after_those_of_the_file(tmp_path: Path) -> None:
    path = written(
        tmp_path, HOME_AGENT + LISTED, b=node("2001:db8:1::30"), a=node("2001:db8:1::20", "k.toml")
    )
    served = loaded(path).mobile_nodes
    assert [str(each.home_address)[-4:] for each in served] == ["::10", "::20", "::30"]
    assert [each.keys for each in served] == [
        tmp_path / "a.toml",
        tmp_path / "nodes.d" / "k.toml",
        tmp_path / "nodes.d" / ".." / "keys" / "node.toml",
    ]


def test_nodes_directory_may_be_empty_and_elsewhere(tmp_path: Path) -> None:
    assert loaded(written(tmp_path)).mobile_nodes == ()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.toml").write_text(node("2001:db8:1::20"))
    path = written(tmp_path, HOME_AGENT + 'nodes_directory = "other"')
    assert [each.home_address for each in loaded(path).mobile_nodes] == [
        IPv6Address("2001:db8:1::20")
    ]


def test_nodes_directory_holds_leftovers_which_do_not_count(tmp_path: Path) -> None:
    path = written(tmp_path)
    for name in (".x.toml", "x.toml~", "x.toml.dpkg-old", "README"):
        (tmp_path / "nodes.d" / name).write_text("not TOML at all")
    assert loaded(path).mobile_nodes == ()


def test_nodes_directory_that_is_missing_needs_a_node_in_the_file(tmp_path: Path) -> None:
    path = written(tmp_path)
    (tmp_path / "nodes.d").rmdir()
    error = error_of(path)
    assert error.key_path == "home_agent.mobile_nodes"
    assert "nodes.d" in error.remedy
    path.write_text(HOME_AGENT + LISTED)
    assert len(loaded(path).mobile_nodes) == 1


def test_nodes_directory_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    looped = tmp_path / "looped"
    looped.symlink_to(looped)
    error = error_of(written(tmp_path, HOME_AGENT + 'nodes_directory = "looped"'))
    assert error.path == looped
    assert "cannot be read" in error.expected


@pytest.mark.parametrize(
    ("text", "key_path", "expected"),
    [
        ("= 1", "", "valid TOML"),
        ('home_address = "2001:db8:1::20"', "keys", "missing"),
        (node("2001:db8:2::20"), "home_address", "in the home prefix"),
        (node("2001:db8:1::1"), "home_address", "home agent's address"),
        (node("2001:db8:1::20") + "key = 1", "key", "unknown key"),
    ],
)
def test_mistake_in_a_nodes_file_names_that_file(
    tmp_path: Path, text: str, key_path: str, expected: str
) -> None:
    error = error_of(written(tmp_path, a=text))
    assert error.path == tmp_path / "nodes.d" / "a.toml"
    assert error.key_path == key_path
    assert expected in error.expected


def test_node_in_two_files_names_both(tmp_path: Path) -> None:
    error = error_of(written(tmp_path, a=node("2001:db8:1::20"), b=node("2001:db8:1::20")))
    assert error.path == tmp_path / "nodes.d" / "b.toml"
    assert str(tmp_path / "nodes.d" / "a.toml") in error.expected


def test_home_agent_with_several_home_prefixes_serves_addresses_of_each(tmp_path: Path) -> None:
    text = HOME_AGENT + 'home_prefixes = ["2001:db8:2::/64"]'
    agent = loaded(written(tmp_path, text, a=node("2001:db8:2::20"), b=node("2001:db8:1::20")))
    assert agent.home_prefixes == (IPv6Network("2001:db8:1::/64"), IPv6Network("2001:db8:2::/64"))
    assert len(agent.mobile_nodes) == 2


def test_home_prefixes_alone_are_enough(tmp_path: Path) -> None:
    text = HOME_AGENT.replace('home_prefix = "2001:db8:1::/64"', 'home_prefixes = ["1::/64"]')
    assert loaded(written(tmp_path, text)).home_prefixes == (IPv6Network("1::/64"),)


@pytest.mark.parametrize(
    ("changed", "key_path", "expected"),
    [
        ("", "home_agent.home_prefix", "missing"),
        ('home_prefixes = ["1::/64", "1::/48"]', "home_agent.home_prefixes[1]", "overlap"),
        ('home_prefixes = ["1::1/64"]', "home_agent.home_prefixes[0]", "no bits after"),
    ],
)
def test_home_prefixes_with_a_mistake_are_named(
    tmp_path: Path, changed: str, key_path: str, expected: str
) -> None:
    text = HOME_AGENT.replace('home_prefix = "2001:db8:1::/64"', changed)
    error = error_of(written(tmp_path, text))
    assert error.key_path == key_path
    assert expected in error.expected


def test_node_that_authenticates_without_ipsec_has_an_identifier(tmp_path: Path) -> None:
    text = node("2001:db8:1::20") + 'protection = "authentication-option"\n'
    error = error_of(written(tmp_path, a=text))
    assert error.key_path == "identifier"
    path = written(tmp_path, a=text + 'identifier = "node@example.org"\n')
    (served,) = loaded(path).mobile_nodes
    assert served.protection is Protection.AUTHENTICATION_OPTION
    assert served.identifier == "node@example.org"
