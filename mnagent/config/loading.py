"""From a file to a `Configuration`: TOML, then shape, then meaning; the first error ends it."""

from __future__ import annotations

import enum
import os
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address, IPv6Network, NetmaskValueError
from pathlib import Path
from typing import TypeVar

import msgspec

from mnagent.config.errors import ConfigurationError
from mnagent.config.model import (
    Autoconfiguration,
    Configuration,
    CorrespondentConfiguration,
    Dhcp6,
    EngineChoice,
    HomeAgentConfiguration,
    HostConfiguration,
    InterfaceIdentifiers,
    InterfaceOrder,
    LogLevel,
    MobileNodeConfiguration,
    NewConnections,
    PayloadProtection,
    Protection,
    Role,
    RouteOptimization,
    RouteOptimizationPolicy,
    ServedMobileNode,
)
from mnagent.config.raw import (
    RawConfiguration,
    RawCorrespondent,
    RawHomeAgent,
    RawHost,
    RawMobileNode,
    RawRouteOptimizationPolicy,
    RawServedMobileNode,
)
from mnagent.config.shape_error import shape_error

MAX_CONFIGURATION_LENGTH = 4 * 1024 * 1024
"""Octets."""
MAX_BINDING_LIFETIME = 0xFFFF * 4
"""Seconds; what the 16 bit field of a Binding Update can say (RFC 6275 6.1.7)."""
MIN_BINDING_LIFETIME = 4
MIN_PREFIX_ADVERTISEMENT_INTERVAL, MAX_PREFIX_ADVERTISEMENT_INTERVAL = 1.0, 30 * 86400.0
"""Seconds."""
MAX_MORE_HOME_ADDRESSES = 7
"""There has to be room for as many in the next prefix of the home link."""
MIN_PATH_CHECK_INTERVAL, MAX_PATH_CHECK_INTERVAL = 5.0, 86400.0
"""Seconds."""
MIN_WEAK_SIGNAL, MAX_WEAK_SIGNAL = -100.0, -30.0
MIN_PATH_SILENCE, MAX_PATH_SILENCE = 0.5, 60.0
"""Seconds."""
MIN_HOME_AGENT_TIMEOUT, MAX_HOME_AGENT_TIMEOUT = 1.5, 60.0
"""Seconds; not below InitialBindackTimeoutFirstReg (RFC 6275 11.4.1)."""
MAX_PREFERENCE = 0xFFFF
MIN_RETRANSMISSION_TIMER, MAX_RETRANSMISSION_TIMER = 0.05, 10.0
"""Seconds."""
MIN_SWITCH_RATE, MAX_SWITCH_RATE = 0.01, 1000.0
"""A second."""
MIN_ADVERTISEMENT_INTERVAL, MAX_ADVERTISEMENT_INTERVAL = 0.07, 1800.0
"""Seconds (RFC 6275 7.5, RFC 4861 6.2.1)."""
MAX_INITIAL_BINDACK_TIMEOUT = 32.0
"""Seconds; MAX_BINDACK_TIMEOUT (RFC 6275 12)."""
MAX_CORRESPONDENT_LIFETIME = 420
"""Seconds; MAX_RR_BINDING_LIFETIME (RFC 6275 12)."""
MAX_CORRESPONDENT_BINDINGS = 1_000_000
MAX_HOME_BINDINGS = 1_000_000
MAX_PORT = 65535
MAX_INTERFACE_NAME_LENGTH = 15
MAX_SOCKET_PATH_LENGTH = 107
"""Octets; what sockaddr_un holds."""
MAX_ROUTE_TABLE = 2**32 - 2
"""The next table is ours too."""
RESERVED_ROUTE_TABLES = (252, 253, 254, 255)
"""default, main, local, and the one whose next is default."""
MIN_RULE_PRIORITY = 2
"""The rule before it is ours too."""
MAX_RULE_PRIORITY = 32765
"""The rule for the main table has 32766; ours must come before it."""

Choice = TypeVar("Choice", bound=enum.Enum)


def load(path: Path | str) -> Configuration:
    """Read and check a configuration file; paths in it count from the file's directory.

    Raises:
        ConfigurationError: naming the file, the key, what was expected and the remedy.
    """
    path = Path(path)
    return _Checker(path).check(_decode(path, _read(path), RawConfiguration))


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONFIGURATION_LENGTH + 1)
    except OSError as error:
        remedy = "name the configuration file with -c FILE"
        raise ConfigurationError(path, "", f"cannot be read: {error.strerror}", remedy) from None
    if len(content) > MAX_CONFIGURATION_LENGTH:
        raise ConfigurationError(path, "", "is too long", "name a configuration file")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        expected = f"expected UTF-8 text, found something else at octet {error.start}"
        raise ConfigurationError(path, "", expected, "save it as UTF-8") from None


def _node_files(directory: Path) -> list[Path] | None:
    """Those that count, by name; None where there is no such directory. Editors' and package
    managers' leftovers do not count."""
    try:
        names = sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
        raise ConfigurationError(directory, "", reason, "run as its owner or as root") from None
    return [directory / name for name in names if re.fullmatch(r"[^.].*\.toml", name)]


Shape = TypeVar("Shape", bound=msgspec.Struct)


def _decode(path: Path, text: str, shape: type[Shape]) -> Shape:
    try:
        return msgspec.convert(tomllib.loads(text), shape)
    except tomllib.TOMLDecodeError as error:
        remedy = "correct the line (https://toml.io has the rules)"
        raise ConfigurationError(path, "", f"expected valid TOML: {error}", remedy) from None
    except msgspec.ValidationError as error:
        raise shape_error(path, str(error), shape) from None


@dataclass(frozen=True)
class _Checker:
    """Checks what the values mean; every method takes the path of the key it checks."""

    path: Path

    def check(self, raw: RawConfiguration) -> Configuration:
        role = self._choice("role", raw.role, Role)
        host = self._host(raw.host)
        mobile_node = home_agent = None
        if role is Role.MOBILE_NODE:
            self._absent("home_agent", raw.home_agent, role)
            mobile_node = self._mobile_node(self._present("mobile_node", raw.mobile_node, role))
        elif role is Role.HOME_AGENT:
            self._absent("mobile_node", raw.mobile_node, role)
            home_agent = self._home_agent(self._present("home_agent", raw.home_agent, role))
        else:
            self._absent("mobile_node", raw.mobile_node, role)
            self._absent("home_agent", raw.home_agent, role)
        configuration = Configuration(
            path=self.path,
            role=role,
            mobile_node=mobile_node,
            home_agent=home_agent,
            host=host,
            correspondent=self._correspondent(raw, role),
        )
        self._tunnel_interface_is_free(configuration)
        return configuration

    def _error(
        self, key_path: str, expected: str, remedy: str = "correct it"
    ) -> ConfigurationError:
        return ConfigurationError(self.path, key_path, expected, remedy)

    Table = TypeVar("Table", RawMobileNode, RawHomeAgent)

    def _present(self, name: str, table: Table | None, role: Role) -> Table:
        if table is None:
            raise self._error(name, f"missing, role is {role.value}", f"add the table [{name}]")
        return table

    def _absent(self, name: str, table: object, role: Role) -> None:
        if table is not None:
            remedy = "remove the table, or change role"
            raise self._error(name, f"expected no such table, role is {role.value}", remedy)

    def _mobile_node(self, raw: RawMobileNode) -> MobileNodeConfiguration:
        at = "mobile_node."
        length = self._within(f"{at}home_prefix_length", raw.home_prefix_length, 1, 127)
        home_address = self._address(f"{at}home_address", raw.home_address)
        home_agents = self._home_agents(f"{at}home_agent", raw.home_agent)
        prefix = IPv6Network((home_address, length), strict=False)
        self._home_address_fits(f"{at}home_address", home_address, (prefix,), home_agents)
        if not raw.interfaces:
            raise self._error(f"{at}interfaces", "expected at least one interface name")
        protection, identifier = self._protection(at, raw)
        return MobileNodeConfiguration(
            home_address=home_address,
            home_prefix_length=length,
            home_agents=home_agents,
            interfaces=self._interfaces(f"{at}interfaces", raw.interfaces),
            keys=self._key_files(f"{at}keys", raw.keys),
            lifetime=self._lifetime(f"{at}lifetime", raw.lifetime),
            initial_bindack_timeout_first_registration=self._seconds(
                f"{at}initial_bindack_timeout_first_registration",
                raw.initial_bindack_timeout_first_registration,
                MAX_INITIAL_BINDACK_TIMEOUT,
            ),
            autoconfiguration=self._choice(
                f"{at}autoconfiguration", raw.autoconfiguration, Autoconfiguration
            ),
            dhcp6=self._choice(f"{at}dhcp6", raw.dhcp6, Dhcp6),
            interface_identifiers=self._choice(
                f"{at}interface_identifiers", raw.interface_identifiers, InterfaceIdentifiers
            ),
            new_connections=self._choice(
                f"{at}new_connections", raw.new_connections, NewConnections
            ),
            payload_protection=self._choice(
                f"{at}payload_protection", raw.payload_protection, PayloadProtection
            ),
            optimistic=raw.optimistic,
            early_tunnel=raw.early_tunnel,
            home_agent_switch=raw.home_agent_switch,
            interface_order=self._choice(
                f"{at}interface_order", raw.interface_order, InterfaceOrder
            ),
            weak_signal=self._between(
                "mobile_node.weak_signal",
                raw.weak_signal,
                MIN_WEAK_SIGNAL,
                MAX_WEAK_SIGNAL,
                unit="dBm",
            ),
            scan_when_weak=raw.scan_when_weak,
            path_check_interval=self._path_check_interval(raw.path_check_interval),
            more_home_addresses=self._more_home_addresses(raw, home_address),
            follow_renumbering=raw.follow_renumbering,
            path_silence=self._between(
                f"{at}path_silence", raw.path_silence, MIN_PATH_SILENCE, MAX_PATH_SILENCE
            ),
            home_agent_timeout=self._between(
                f"{at}home_agent_timeout",
                raw.home_agent_timeout,
                MIN_HOME_AGENT_TIMEOUT,
                MAX_HOME_AGENT_TIMEOUT,
            ),
            route_optimization=self._choice(
                f"{at}route_optimization", raw.route_optimization, RouteOptimization
            ),
            route_optimization_policy=tuple(
                self._route_optimization_policy(f"{at}route_optimization_policy[{index}].", policy)
                for index, policy in enumerate(raw.route_optimization_policy)
            ),
            correspondent=raw.correspondent,
            protection=protection,
            identifier=identifier,
        )

    def _more_home_addresses(
        self, raw: RawMobileNode, first: IPv6Address
    ) -> tuple[IPv6Address, ...]:
        at = "mobile_node.more_home_addresses"
        if len(raw.more_home_addresses) > MAX_MORE_HOME_ADDRESSES:
            raise self._error(at, f"expected at most {MAX_MORE_HOME_ADDRESSES} addresses")
        found = [first]
        for index, text in enumerate(raw.more_home_addresses):
            address = self._address(f"{at}[{index}]", text)
            if address in found:
                raise self._error(f"{at}[{index}]", f"{address} is listed twice", "remove one")
            found.append(address)
        return tuple(found[1:])

    def _home_agents(self, key_path: str, given: str | list[str]) -> tuple[IPv6Address, ...]:
        """One, several in order of preference, or none, which asks for their discovery."""
        if isinstance(given, str):
            return (self._address(key_path, given),)
        found = [self._address(f"{key_path}[{index}]", text) for index, text in enumerate(given)]
        self._unrepeated(key_path, found)
        return tuple(found)

    def _key_files(self, key_path: str, given: str | list[str]) -> tuple[Path, ...]:
        """One file a home agent."""
        if isinstance(given, str):
            return (self._file(key_path, given),)
        found = [self._file(f"{key_path}[{index}]", text) for index, text in enumerate(given)]
        if not found:
            raise self._error(key_path, "expected at least one key file")
        self._unrepeated(key_path, found)
        return tuple(found)

    def _unrepeated(self, key_path: str, found: Sequence[object]) -> None:
        for index, item in enumerate(found):
            if item in found[:index]:
                raise self._error(f"{key_path}[{index}]", f"{item} is listed twice")

    def _route_optimization_policy(
        self, at: str, raw: RawRouteOptimizationPolicy
    ) -> RouteOptimizationPolicy:
        return RouteOptimizationPolicy(
            prefix=self._any_prefix(f"{at}prefix", raw.prefix),
            ports=tuple(
                self._ports(f"{at}ports[{index}]", ports) for index, ports in enumerate(raw.ports)
            ),
            use=self._choice(f"{at}use", raw.use, RouteOptimization),
        )

    def _ports(self, key_path: str, ports: int | str) -> tuple[int, int]:
        """One port or a range of ports, as first and last."""
        found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", str(ports), re.ASCII)
        if found:
            first, last = int(found[1]), int(found[2] or found[1])
            if 1 <= first <= last <= MAX_PORT:
                return first, last
        expected = f'expected a port such as 443 or a range such as "5000-5100", found {ports!r}'
        raise self._error(key_path, expected)

    def _correspondent(
        self, raw: RawConfiguration, role: Role
    ) -> CorrespondentConfiguration | None:
        """The table may be left out; mobile nodes and home agents can switch it off."""
        at = "correspondent."
        table = raw.mobile_node or raw.home_agent
        if table is not None and not table.correspondent:
            if raw.correspondent is not None:
                key = f"{role.value.replace('-', '_')}.correspondent"
                expected = f"expected no such table, {key} is false"
                raise self._error("correspondent", expected, "remove one of the two")
            return None
        found = raw.correspondent or RawCorrespondent()
        if found.interfaces and role is not Role.CORRESPONDENT:
            expected = f"expected no such key, role is {role.value}"
            remedy = "remove it; the interfaces of the role are used"
            raise self._error(f"{at}interfaces", expected, remedy)
        return CorrespondentConfiguration(
            interfaces=self._interfaces(f"{at}interfaces", found.interfaces),
            max_bindings=self._within(
                f"{at}max_bindings", found.max_bindings, 1, MAX_CORRESPONDENT_BINDINGS
            ),
            max_lifetime=self._within(
                f"{at}max_lifetime",
                found.max_lifetime,
                MIN_BINDING_LIFETIME,
                MAX_CORRESPONDENT_LIFETIME,
            ),
        )

    def _between(
        self, key_path: str, value: float, low: float, high: float, *, unit: str = "seconds"
    ) -> float:
        if not low <= value <= high:  # also for NaN
            raise self._error(key_path, f"expected {low:g} to {high:g} {unit}, found {value:g}")
        return value

    def _path_check_interval(self, seconds: float) -> float:
        low, high = MIN_PATH_CHECK_INTERVAL, MAX_PATH_CHECK_INTERVAL
        if seconds != 0 and not low <= seconds <= high:  # also for NaN
            expected = f"expected 0 or {low:g} to {high:g} seconds, found {seconds:g}"
            raise self._error("mobile_node.path_check_interval", expected)
        return seconds

    def _home_agent(self, raw: RawHomeAgent) -> HomeAgentConfiguration:
        at = "home_agent."
        address = self._address(f"{at}address", raw.address)
        prefixes = self._home_prefixes(raw)
        home_link = None
        if raw.home_link is not None:
            home_link = self._interface(f"{at}home_link", raw.home_link)
        return HomeAgentConfiguration(
            address=address,
            home_prefixes=prefixes,
            home_link=home_link,
            interfaces=self._interfaces(f"{at}interfaces", raw.interfaces),
            max_lifetime=self._lifetime(f"{at}max_lifetime", raw.max_lifetime),
            max_bindings=self._within(f"{at}max_bindings", raw.max_bindings, 1, MAX_HOME_BINDINGS),
            revocation=raw.revocation,
            switch_rate=self._between(
                "home_agent.switch_rate",
                raw.switch_rate,
                MIN_SWITCH_RATE,
                MAX_SWITCH_RATE,
                unit="a second",
            ),
            multicast=raw.multicast,
            early_forwarding=raw.early_forwarding,
            payload_protection=self._choice(
                f"{at}payload_protection", raw.payload_protection, PayloadProtection
            ),
            nodes_directory=self._file(f"{at}nodes_directory", raw.nodes_directory),
            mobile_nodes=self._mobile_nodes(raw, prefixes, address),
            correspondent=raw.correspondent,
            discovery=raw.discovery,
            preference=self._within(f"{at}preference", raw.preference, 0, MAX_PREFERENCE),
            advertise=self._advertise(raw),
            advertisement_interval=self._between(
                f"{at}advertisement_interval",
                raw.advertisement_interval,
                MIN_ADVERTISEMENT_INTERVAL,
                MAX_ADVERTISEMENT_INTERVAL,
            ),
            default_router=raw.default_router,
            retransmission_timer=self._between(
                f"{at}retransmission_timer",
                raw.retransmission_timer,
                MIN_RETRANSMISSION_TIMER,
                MAX_RETRANSMISSION_TIMER,
            ),
            min_prefix_advertisement_interval=self._between(
                f"{at}min_prefix_advertisement_interval",
                raw.min_prefix_advertisement_interval,
                MIN_PREFIX_ADVERTISEMENT_INTERVAL,
                raw.max_prefix_advertisement_interval,
            ),
            max_prefix_advertisement_interval=self._between(
                f"{at}max_prefix_advertisement_interval",
                raw.max_prefix_advertisement_interval,
                MIN_PREFIX_ADVERTISEMENT_INTERVAL,
                MAX_PREFIX_ADVERTISEMENT_INTERVAL,
            ),
        )

    def _advertise(self, raw: RawHomeAgent) -> bool:
        if raw.advertise and raw.home_link is None:
            expected = "a virtual home prefix has no link to advertise on"
            raise self._error("home_agent.advertise", expected, "name home_link, or remove it")
        return raw.advertise

    def _home_prefixes(self, raw: RawHomeAgent) -> tuple[IPv6Network, ...]:
        """The one of ``home_prefix`` first, if both keys are there."""
        named = [("home_agent.home_prefix", raw.home_prefix)] if raw.home_prefix else []
        named += [
            (f"home_agent.home_prefixes[{index}]", text)
            for index, text in enumerate(raw.home_prefixes)
        ]
        if not named:
            expected = "missing, and so is home_prefixes"
            raise self._error("home_agent.home_prefix", expected, "add one of the two")
        prefixes: list[IPv6Network] = []
        for key_path, text in named:
            prefix = self._prefix(key_path, text)
            for other in prefixes:
                if prefix.overlaps(other):
                    raise self._error(key_path, f"{prefix} and {other} overlap", "remove one")
            prefixes.append(prefix)
        return tuple(prefixes)

    def _mobile_nodes(
        self, raw: RawHomeAgent, prefixes: tuple[IPv6Network, ...], address: IPv6Address
    ) -> tuple[ServedMobileNode, ...]:
        """Those of the file first, then those dropped into the directory, by file name."""
        directory = self._file("home_agent.nodes_directory", raw.nodes_directory)
        files = _node_files(directory)
        if not raw.mobile_nodes and files is None:
            remedy = f"add one here, or a file in {directory}"
            expected = "expected at least one mobile node"
            raise self._error("home_agent.mobile_nodes", expected, remedy)
        found = [
            (self, f"home_agent.mobile_nodes[{index}].", node)
            for index, node in enumerate(raw.mobile_nodes)
        ]
        for path in files or ():
            found.append((_Checker(path), "", _decode(path, _read(path), RawServedMobileNode)))
        nodes: dict[IPv6Address, tuple[ServedMobileNode, Path]] = {}
        for checker, at, node in found:
            served = checker._served_node(at, node, prefixes=prefixes, home_agent=address)
            if served.home_address in nodes:
                _, other = nodes[served.home_address]
                where = "twice" if other == checker.path else f"in {other} too"
                expected = f"{served.home_address} is listed {where}"
                raise checker._error(f"{at}home_address", expected, "remove one of the two")
            nodes[served.home_address] = served, checker.path
        return tuple(node for node, _ in nodes.values())

    def _served_node(
        self,
        at: str,
        raw: RawServedMobileNode,
        *,
        prefixes: tuple[IPv6Network, ...],
        home_agent: IPv6Address,
    ) -> ServedMobileNode:
        home_address = self._address(f"{at}home_address", raw.home_address)
        self._home_address_fits(f"{at}home_address", home_address, prefixes, (home_agent,))
        keys = self._file(f"{at}keys", raw.keys)
        protection, identifier = self._protection(at, raw)
        return ServedMobileNode(
            home_address=home_address, keys=keys, protection=protection, identifier=identifier
        )

    def _protection(
        self, at: str, raw: RawServedMobileNode | RawMobileNode
    ) -> tuple[Protection, str | None]:
        """Way and identifier, which the authentication option needs (RFC 4285 4)."""
        protection = self._choice(f"{at}protection", raw.protection, Protection)
        if protection is Protection.IPSEC and raw.identifier is None:
            return protection, None
        identifier = raw.identifier or ""
        if not re.fullmatch(r"[!-?A-~]{1,120}@[A-Za-z0-9.-]{1,120}", identifier):
            expected = f'expected an identifier such as "node@example.org", found "{identifier}"'
            raise self._error(f"{at}identifier", expected)
        return protection, identifier

    def _host(self, raw: RawHost) -> HostConfiguration:
        at = "host."
        table = self._within(f"{at}route_table", raw.route_table, 1, MAX_ROUTE_TABLE)
        if table in RESERVED_ROUTE_TABLES:
            expected = f"{table}, or the next one, is one of the kernel's own tables"
            raise self._error(f"{at}route_table", expected, "use a table nobody else uses")
        socket = self._absolute(f"{at}control_socket", raw.control_socket)
        if len(str(socket).encode()) > MAX_SOCKET_PATH_LENGTH:
            expected = f"expected at most {MAX_SOCKET_PATH_LENGTH} octets"
            raise self._error(f"{at}control_socket", expected, "choose a shorter path")
        return HostConfiguration(
            tunnel_interface=self._interface(f"{at}tunnel_interface", raw.tunnel_interface),
            route_table=table,
            rule_priority=self._within(
                f"{at}rule_priority",
                raw.rule_priority,
                MIN_RULE_PRIORITY,
                MAX_RULE_PRIORITY,
            ),
            state_directory=self._absolute(f"{at}state_directory", raw.state_directory),
            control_socket=socket,
            log_level=self._choice(f"{at}log_level", raw.log_level, LogLevel),
            keep_tunnel_interface=raw.keep_tunnel_interface,
            metrics_port=self._within(f"{at}metrics_port", raw.metrics_port, 0, 65535),
            engine=self._choice(f"{at}engine", raw.engine, EngineChoice),
            tunnel_encapsulation_limit=self._encapsulation_limit(raw),
        )

    def _encapsulation_limit(self, raw: RawHost) -> int | None:
        limit = raw.tunnel_encapsulation_limit
        if limit is None:
            return None
        return self._within("host.tunnel_encapsulation_limit", limit, 0, 255)

    def _tunnel_interface_is_free(self, configuration: Configuration) -> None:
        used: tuple[str | None, ...] = ()
        if configuration.mobile_node is not None:
            used = configuration.mobile_node.interfaces
        if configuration.home_agent is not None:
            used = (*configuration.home_agent.interfaces, configuration.home_agent.home_link)
        if configuration.correspondent is not None:
            used = (*used, *configuration.correspondent.interfaces)
        if configuration.host.tunnel_interface in used:
            raise self._error(
                "host.tunnel_interface",
                f"{configuration.host.tunnel_interface} is listed as a physical interface too",
                "choose a name that no interface has",
            )

    def _choice(self, key_path: str, text: str, choices: type[Choice]) -> Choice:
        try:
            return choices(text)
        except ValueError:
            names = " or ".join(f'"{choice.value}"' for choice in choices)
            raise self._error(key_path, f'expected {names}, found "{text}"') from None

    def _within(self, key_path: str, number: int, low: int, high: int) -> int:
        if not low <= number <= high:
            raise self._error(key_path, f"expected {low} to {high}, found {number}")
        return number

    def _lifetime(self, key_path: str, seconds: int) -> int:
        if not MIN_BINDING_LIFETIME <= seconds <= MAX_BINDING_LIFETIME:
            limits = f"{MIN_BINDING_LIFETIME} to {MAX_BINDING_LIFETIME} seconds"
            raise self._error(key_path, f"expected {limits}, found {seconds}")
        return seconds

    def _seconds(self, key_path: str, seconds: float, high: float) -> float:
        if not 0 < seconds <= high:  # also false for NaN
            expected = f"expected more than 0 and at most {high:g} seconds, found {seconds:g}"
            raise self._error(key_path, expected)
        return seconds

    def _address(self, key_path: str, text: str) -> IPv6Address:
        try:
            address = IPv6Address(text)
        except AddressValueError:
            expected = f'expected an IPv6 address such as "2001:db8:1::10", found "{text}"'
            raise self._error(key_path, expected) from None
        if (
            address.is_multicast
            or address.is_link_local
            or address.is_loopback
            or address.is_unspecified
            or address.ipv4_mapped is not None
            or address.scope_id is not None
        ):
            expected = f"expected a unicast address that can be routed, found {address}"
            raise self._error(key_path, expected)
        return address

    def _prefix(self, key_path: str, text: str) -> IPv6Network:
        prefix = self._any_prefix(key_path, text)
        self._within(f"{key_path} (length)", prefix.prefixlen, 1, 127)
        self._address(key_path, str(prefix[1]))
        return prefix

    def _any_prefix(self, key_path: str, text: str) -> IPv6Network:
        try:
            if "/" not in text:
                raise AddressValueError
            return IPv6Network(text)
        except (AddressValueError, NetmaskValueError):
            expected = f'expected a prefix such as "2001:db8:1::/64", found "{text}"'
            raise self._error(key_path, expected) from None
        except ValueError:
            network = IPv6Network(text, strict=False)
            expected = f'expected no bits after the prefix length, found "{text}"'
            raise self._error(key_path, expected, f'write "{network}"') from None

    def _home_address_fits(
        self,
        key_path: str,
        address: IPv6Address,
        prefixes: tuple[IPv6Network, ...],
        home_agents: tuple[IPv6Address, ...],
    ) -> None:
        prefix = next((prefix for prefix in prefixes if address in prefix), None)
        if prefix is None:
            names = " or ".join(map(str, prefixes))
            expected = f"expected an address in the home prefix {names}, found {address}"
            raise self._error(key_path, expected)
        if address in home_agents:
            expected = f"{address} is the home agent's address, expected another one"
            raise self._error(key_path, expected)
        if address == prefix.network_address:
            expected = f"{address} is the prefix's subnet-router anycast address (RFC 4291 2.6.1)"
            raise self._error(key_path, expected, "use another address of the prefix")

    def _interface(self, key_path: str, name: str) -> str:
        """Check a name as the kernel's dev_valid_name does."""
        limit = MAX_INTERFACE_NAME_LENGTH
        if (
            not 0 < len(name.encode()) <= limit
            or name in (".", "..")
            or re.search(r"[/:\s\0]", name)
        ):
            expected = f'expected an interface name of at most {limit} octets, found "{name}"'
            raise self._error(key_path, expected, "`ip link` lists the names")
        return name

    def _interfaces(self, key_path: str, names: list[str]) -> tuple[str, ...]:
        checked = [
            self._interface(f"{key_path}[{index}]", name) for index, name in enumerate(names)
        ]
        for index, name in enumerate(checked):
            if name in checked[:index]:
                raise self._error(f"{key_path}[{index}]", f'"{name}" is listed twice')
        return tuple(checked)

    def _file(self, key_path: str, text: str) -> Path:
        if not text or "\0" in text:
            raise self._error(key_path, "expected the path of a file")
        return self.path.parent / text

    def _absolute(self, key_path: str, text: str) -> Path:
        path = Path(text)
        if not path.is_absolute() or "\0" in text:
            raise self._error(key_path, f'expected an absolute path, found "{text}"')
        return path
