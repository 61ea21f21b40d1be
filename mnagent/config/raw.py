"""The shape of a configuration file: key names, kinds of values, defaults. Meaning is checked
later."""

from __future__ import annotations

from typing import Final

import msgspec


class RawRouteOptimizationPolicy(
    msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True
):
    """``[[mobile_node.route_optimization_policy]]``."""

    prefix: str = "::/0"
    ports: list[int | str] = []
    use: str


class RawMobileNode(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """``[mobile_node]``."""

    home_address: str
    home_prefix_length: int = 64
    more_home_addresses: list[str] = []
    follow_renumbering: bool = True
    home_agent: str | list[str] = []
    interfaces: list[str]
    keys: str | list[str]
    lifetime: int = 600
    initial_bindack_timeout_first_registration: float = 1.5
    autoconfiguration: str = "agent"
    dhcp6: str = "auto"
    interface_identifiers: str = "stable"
    new_connections: str = "home-address"
    payload_protection: str = "none"
    protection: str = "ipsec"
    identifier: str | None = None
    optimistic: bool = True
    early_tunnel: bool = True
    home_agent_switch: bool = True
    route_optimization: str = "on-traffic"
    route_optimization_policy: list[RawRouteOptimizationPolicy] = []
    correspondent: bool = True
    interface_order: str = "listed"
    weak_signal: float = -75.0
    scan_when_weak: bool = True
    path_check_interval: float = 60.0
    path_silence: float = 1.0
    home_agent_timeout: float = 1.5


class RawServedMobileNode(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """``[[home_agent.mobile_nodes]]``, and a whole file of the nodes' directory."""

    home_address: str
    keys: str
    protection: str = "ipsec"
    identifier: str | None = None


class RawHomeAgent(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """``[home_agent]``."""

    address: str
    home_prefix: str | None = None
    home_prefixes: list[str] = []
    home_link: str | None = None
    interfaces: list[str] = []
    max_lifetime: int = 3600
    max_bindings: int = 4096
    revocation: bool = True
    switch_rate: float = 1.0
    early_forwarding: bool = True
    payload_protection: str = "none"
    correspondent: bool = True
    discovery: bool = True
    multicast: bool = False
    preference: int = 0
    advertise: bool = False
    advertisement_interval: float = 10.0
    default_router: bool = False
    retransmission_timer: float = 1.0
    min_prefix_advertisement_interval: float = 600.0
    max_prefix_advertisement_interval: float = 86400.0
    nodes_directory: str = "nodes.d"
    mobile_nodes: list[RawServedMobileNode] = []


class RawCorrespondent(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """``[correspondent]``."""

    interfaces: list[str] = []
    max_bindings: int = 4096
    max_lifetime: int = 420


class RawHost(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """``[host]``."""

    tunnel_interface: str = "mnagent0"
    route_table: int = 6275
    rule_priority: int = 6275
    state_directory: str = "/var/lib/mnagent"
    control_socket: str = "/run/mnagent/control.sock"
    log_level: str = "info"
    keep_tunnel_interface: bool = False
    metrics_port: int = 0
    engine: str = "auto"
    tunnel_encapsulation_limit: int | None = None


class RawConfiguration(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The whole file."""

    role: str
    mobile_node: RawMobileNode | None = None
    home_agent: RawHomeAgent | None = None
    correspondent: RawCorrespondent | None = None
    host: RawHost = RawHost()


TABLES: Final[dict[str, type[msgspec.Struct]]] = {
    "": RawConfiguration,
    "mobile_node": RawMobileNode,
    "mobile_node.route_optimization_policy": RawRouteOptimizationPolicy,
    "home_agent": RawHomeAgent,
    "home_agent.mobile_nodes": RawServedMobileNode,
    "correspondent": RawCorrespondent,
    "host": RawHost,
}
"""The shape of each table by its name; the file itself is the nameless one."""
