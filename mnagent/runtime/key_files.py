"""Key files on disk: reading those a configuration names, writing those `mnagent keygen` makes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from ipaddress import IPv6Address
from pathlib import Path
from typing import NamedTuple

from mnagent.config import (
    Configuration,
    ConfigurationError,
    PayloadProtection,
    Protection,
    read_private_file,
)
from mnagent.core.actions import TunnelEnd
from mnagent.core.security import Direction
from mnagent.ipsec.keys import KeyFileError, KeySet, generate_pair, load_key_file
from mnagent.ipsec.purpose import Purpose

MOBILE_NODE_FILE = "mobile-node.toml"
HOME_AGENT_FILE = "home-agent.toml"


def load_key_sets(configuration: Configuration) -> tuple[KeySet, ...]:
    """The keys of every association a configuration asks for; one set a home address, and on a
    mobile node one a home agent.

    Raises:
        ConfigurationError: a key file cannot be used, or does not fit the configuration.
    """
    sets = []
    spis: dict[tuple[Direction, int], Path] = {}
    for path, expected in _expectations(configuration):
        keys = load_private_key_file(path)
        _compare(path, keys, expected, configuration)
        for association in keys.associations:
            other = spis.setdefault((association.direction, association.spi), path)
            if other != path:
                what = f"SPI {association.spi:#010x} is in {other} too, expected another one"
                raise ConfigurationError(path, "spi", what, "make one of the two again")
        sets.append(keys)
    _check_home_agents(configuration, sets)
    return tuple(sets)


def _check_home_agents(configuration: Configuration, sets: list[KeySet]) -> None:
    """A mobile node has the keys of each home agent it names, and each only once."""
    node = configuration.mobile_node
    if node is None:
        return
    found: dict[tuple[IPv6Address, IPv6Address], Path] = {}
    for path, keys in zip(node.keys, sets, strict=True):
        other = found.setdefault((keys.home_address, keys.home_agent), path)
        if other != path:
            what = f"{other} is for {keys.home_agent} too, expected another home agent"
            raise ConfigurationError(path, "home_agent", what, "name one of the two")
    for home_address in node.home_addresses:
        for home_agent in node.home_agents:
            if (home_address, home_agent) not in found:
                what = f"no key file is for {home_address} with the home agent {home_agent}"
                remedy = "name its file too, or make one with `mnagent keygen`"
                raise ConfigurationError(configuration.path, "mobile_node.keys", what, remedy)
    for path, keys in zip(node.keys, sets, strict=True):
        if keys.home_address not in node.home_addresses:
            what = f"expected a home address of {configuration.path}, found {keys.home_address}"
            remedy = "name it in more_home_addresses, or name another file"
            raise ConfigurationError(path, "home_address", what, remedy)


def load_private_key_file(path: Path) -> KeySet:
    """One key file, its mode and owner checked.

    Raises:
        ConfigurationError: it cannot be used.
    """
    try:
        return load_key_file(read_private_file(path), file=str(path))
    except KeyFileError as error:
        raise ConfigurationError(path, error.key_path, error.expected, error.remedy) from None


def write_key_pairs(
    directory: Path,
    *,
    home_address: IPv6Address,
    home_agents: Sequence[IPv6Address],
    encryption: str = "aes-cbc-256",
    overwrite: bool = False,
) -> list[tuple[Path, Path]]:
    """Make new keys and write both ends' files, mode 0600, into a directory (made when missing).

    Returns:
        For each home agent the paths of the mobile node's file and of the home agent's; they are
        numbered where there are several.

    Raises:
        ConfigurationError: a file is there already, or an address does not fit.
        OSError: a file cannot be written.
    """
    used: set[int] = set()
    texts = [_generate(directory, home_address, each, encryption, used) for each in home_agents]
    pairs = [_paths(directory, number, len(home_agents)) for number in range(len(home_agents))]
    if directory.exists() and not directory.is_dir():
        raise ConfigurationError(
            directory, "", "expected a directory, found a file", "name another"
        )
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not overwrite:
        for path in (path for pair in pairs for path in pair):
            if path.exists() or path.is_symlink():
                raise ConfigurationError(
                    path, "", "exists already", "--force replaces it, which voids its keys"
                )
    for pair, both in zip(pairs, texts, strict=True):
        for path, text in zip(pair, both, strict=True):
            _write_private(path, text)
    return pairs


def _paths(directory: Path, number: int, count: int) -> tuple[Path, Path]:
    names = (MOBILE_NODE_FILE, HOME_AGENT_FILE)
    if count > 1:
        names = (
            MOBILE_NODE_FILE.replace(".", f"-{number + 1}."),
            HOME_AGENT_FILE.replace(".", f"-{number + 1}."),
        )
    return directory / names[0], directory / names[1]


def _generate(
    directory: Path,
    home_address: IPv6Address,
    home_agent: IPv6Address,
    encryption: str,
    used_spis: set[int],
) -> tuple[str, str]:
    try:
        return generate_pair(
            home_address,
            home_agent,
            random_bytes=os.urandom,
            encryption=encryption,
            used_spis=used_spis,
        )
    except KeyFileError as error:
        raise ConfigurationError(
            directory, error.key_path, error.expected, "give another address"
        ) from None


def _write_private(path: Path, text: str) -> None:
    """Write a new file beside the place and move it there: never readable, never half written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)  # whatever the umask is
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


class _Expectation(NamedTuple):
    """What the configuration says about one key file; None is any that it names."""

    end: TunnelEnd
    home_address: IPv6Address | None
    home_agent: IPv6Address | None
    protection: Protection


def _expectations(configuration: Configuration) -> list[tuple[Path, _Expectation]]:
    node, agent = configuration.mobile_node, configuration.home_agent
    if node is not None:
        end = TunnelEnd.MOBILE_NODE
        # With one of each, a file of another home agent is the likely mistake.
        is_single = len(node.keys) == len(node.home_agents) == 1
        home_agent = node.home_agents[0] if is_single else None
        home_address = None if node.more_home_addresses else node.home_address
        expectation = _Expectation(end, home_address, home_agent, node.protection)
        return [(path, expectation) for path in node.keys]
    if agent is None:
        return []
    end = TunnelEnd.HOME_AGENT
    return [
        (served.keys, _Expectation(end, served.home_address, agent.address, served.protection))
        for served in agent.mobile_nodes
    ]


def _compare(
    path: Path, keys: KeySet, expected: _Expectation, configuration: Configuration
) -> None:
    said = f"expected what {configuration.path} says"
    if keys.end is not expected.end:
        what = f'expected "{expected.end.value}", found "{keys.end.value}"'
        raise ConfigurationError(path, "end", what, "name this end's file, not the other end's")
    for name in ("home_address", "home_agent"):
        wanted, found = getattr(expected, name), getattr(keys, name)
        if wanted not in (None, found):
            what = f"{said}, {wanted}, found {found}"
            raise ConfigurationError(path, name, what, "name the right file, or make new keys")
    authenticates = expected.protection is Protection.AUTHENTICATION_OPTION
    if (keys.authentication is not None) is not authenticates:
        what = f"{said}, where protection says other keys"
        raise ConfigurationError(
            path, "authentication", what, "make new keys (`mnagent keygen --protection`)"
        )
    table = configuration.mobile_node or configuration.home_agent
    protects = table is not None and table.payload_protection is PayloadProtection.ESP
    if protects and Purpose.PAYLOAD not in keys.pairs:
        what = f'missing, and payload_protection is "esp" in {configuration.path}'
        raise ConfigurationError(path, Purpose.PAYLOAD.value, what, "make new keys")
