"""The key files of a mobile node with more than one home address."""

from __future__ import annotations

from ipaddress import IPv6Address
from pathlib import Path

import pytest

from mnagent.config import ConfigurationError, load
from mnagent.runtime.key_files import load_key_sets, write_key_pairs

HOMES = (IPv6Address("2001:db8:1::10"), IPv6Address("2001:db8:1::11"))
HOME_AGENT = IPv6Address("2001:db8:1::1")


def configured(directory: Path, *, more: str, keys: list[str]) -> Path:
    """A configuration with key files for both home addresses beside it."""
    for home_address in HOMES:
        write_key_pairs(
            directory / f"{home_address}", home_address=home_address, home_agents=[HOME_AGENT]
        )
    path = directory / "mnagent.toml"
    listed = ", ".join(f'"{name}/mobile-node.toml"' for name in keys)
    path.write_text(
        'role = "mobile-node"\n[mobile_node]\nhome_address = "2001:db8:1::10"\n'
        f'{more}home_agent = "2001:db8:1::1"\ninterfaces = ["eth0"]\nkeys = [{listed}]\n'
    )
    return path


MORE = 'more_home_addresses = ["2001:db8:1::11"]\n'


def test_each_home_address_has_its_keys(tmp_path: Path) -> None:
    path = configured(tmp_path, more=MORE, keys=["2001:db8:1::10", "2001:db8:1::11"])
    assert {each.home_address for each in load_key_sets(load(path))} == set(HOMES)


@pytest.mark.parametrize(
    ("more", "keys", "expected"),
    [
        (MORE, ["2001:db8:1::10"], "no key file is for 2001:db8:1::11"),
        ("", ["2001:db8:1::11"], "2001:db8:1::10, found 2001:db8:1::11"),
    ],
)
def test_keys_that_do_not_fit_the_home_addresses_are_refused(
    more: str, keys: list[str], expected: str, tmp_path: Path
) -> None:
    path = configured(tmp_path, more=more, keys=keys)
    with pytest.raises(ConfigurationError, match=expected):
        load_key_sets(load(path))


def test_keys_of_a_home_address_that_is_not_configured_are_refused(tmp_path: Path) -> None:
    path = configured(
        tmp_path,
        more=MORE.replace("::11", "::10:1"),
        keys=["2001:db8:1::10", "2001:db8:1::11"],
    )
    with pytest.raises(ConfigurationError, match="no key file is for"):
        load_key_sets(load(path))
