"""What a configuration says, checked and frozen. `mnagent.config.load` makes it.

Names, units and defaults are those of ``reference.toml``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path


class Role(enum.Enum):
    """What this node is."""

    MOBILE_NODE = "mobile-node"
    HOME_AGENT = "home-agent"
    CORRESPONDENT = "correspondent"


class Autoconfiguration(enum.Enum):
    """Who configures care-of addresses."""

    AGENT = "agent"
    KERNEL = "kernel"
    """The kernel or another daemon; the agent only watches."""


class Dhcp6(enum.Enum):
    """Whether addresses are taken from DHCPv6 servers."""

    AUTO = "auto"
    """As the M and O flags of routers say."""
    STATELESS = "stateless"
    """Information (DNS servers) at most, where they say so; never addresses."""
    OFF = "off"


class InterfaceIdentifiers(enum.Enum):
    """How the agent makes the lower 64 bits of care-of addresses."""

    STABLE = "stable"
    """Opaque, the same in the same prefix (RFC 7217)."""
    EUI64 = "eui64"
    """From the link-layer address (RFC 4291)."""
    TEMPORARY = "temporary"
    """Random, and another one each day (RFC 8981)."""


class NewConnections(enum.Enum):
    """Source address of new connections that ask for none."""

    HOME_ADDRESS = "home-address"
    CARE_OF_ADDRESS = "care-of-address"


class InterfaceOrder(enum.Enum):
    """Which of several interfaces that have a connection is used."""

    LISTED = "listed"
    """The first in the list of interfaces."""
    BY_KIND = "by-kind"
    """Ethernet before Wi-Fi before cellular; a weak signal comes last; then as listed."""


class PayloadProtection(enum.Enum):
    """What the tunnel between care-of address and home agent is."""

    NONE = "none"
    """IPv6 in IPv6 (RFC 2473)."""
    ESP = "esp"
    """ESP tunnel mode (RFC 3776 3.4)."""


class Protection(enum.Enum):
    """What protects Binding Updates and Acknowledgements; the other way is refused."""

    IPSEC = "ipsec"
    """ESP transport mode (RFC 3776)."""
    AUTHENTICATION_OPTION = "authentication-option"
    """The MN-HA mobility message authentication option (RFC 4285)."""


class RouteOptimization(enum.Enum):
    """When packets take the direct path to a correspondent (RFC 6275 11.3.1)."""

    ON_TRAFFIC = "on-traffic"
    """From our own first packet on, while there is traffic."""
    ALWAYS = "always"
    """From the first packet in either direction on, and kept without traffic."""
    NEVER = "never"
    """Everything takes the tunnel."""


class LogLevel(enum.Enum):
    """The least important message that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteOptimizationPolicy:
    """One ``[[mobile_node.route_optimization_policy]]``; the first that fits decides."""

    prefix: IPv6Network
    """Of the correspondent's address."""
    ports: tuple[tuple[int, int], ...]
    """First and last of each range of the correspondent's ports; empty for all traffic, also that
    without ports."""
    use: RouteOptimization


@dataclass(frozen=True, slots=True, kw_only=True)
class MobileNodeConfiguration:
    """Table ``[mobile_node]``."""

    home_address: IPv6Address
    home_prefix_length: int
    """Bits."""
    home_agents: tuple[IPv6Address, ...]
    """In order of preference; empty to discover them (RFC 6275 11.4.1)."""
    interfaces: tuple[str, ...]
    """Names, in order of preference."""
    keys: tuple[Path, ...]
    """One file a home agent."""
    lifetime: int
    """Seconds, asked for in Binding Updates."""
    initial_bindack_timeout_first_registration: float
    """Seconds (RFC 6275 11.8)."""
    autoconfiguration: Autoconfiguration
    dhcp6: Dhcp6
    """Of use when the agent itself configures."""
    interface_identifiers: InterfaceIdentifiers
    new_connections: NewConnections
    payload_protection: PayloadProtection
    optimistic: bool
    """Use the care-of address while duplicate address detection runs (RFC 4429)."""
    early_tunnel: bool
    home_agent_switch: bool
    """Let a home agent send this node to another one (RFC 5142)."""
    """Tunnel from a new care-of address once its Binding Update has left, before the answer."""
    route_optimization: RouteOptimization = RouteOptimization.ON_TRAFFIC
    """For what no policy fits."""
    route_optimization_policy: tuple[RouteOptimizationPolicy, ...] = ()
    """In order."""
    correspondent: bool = True
    """Be a correspondent of other mobile nodes too."""
    protection: Protection = Protection.IPSEC
    identifier: str | None = None
    """Network access identifier; always there with the authentication option."""
    interface_order: InterfaceOrder = InterfaceOrder.LISTED
    weak_signal: float = -75.0
    """dBm below which a Wi-Fi interface prepares to roam."""
    scan_when_weak: bool = True
    """Have it scan then."""
    path_check_interval: float = 60.0
    """Seconds between two proofs that the home agent is reached, 0 for none on a schedule."""
    more_home_addresses: tuple[IPv6Address, ...] = ()
    """Besides ``home_address``, with prefixes of the same length, of the same home link."""
    follow_renumbering: bool = True
    """Form a home address in each prefix that the home link is given (RFC 6275 11.4.3)."""
    path_silence: float = 1.0
    """Seconds without an answer to what leaves through the tunnel, until a proof is sought."""
    home_agent_timeout: float = 1.5
    """Seconds a home agent may leave updates unanswered before the next one is tried."""

    @property
    def home_addresses(self) -> tuple[IPv6Address, ...]:
        """All that are configured, the first one first."""
        return (self.home_address, *self.more_home_addresses)

    @property
    def home_prefix(self) -> IPv6Network:
        """The home subnet prefix."""
        return IPv6Network((self.home_address, self.home_prefix_length), strict=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedMobileNode:
    """One ``[[home_agent.mobile_nodes]]``, or a file of the nodes' directory."""

    home_address: IPv6Address
    keys: Path
    protection: Protection = Protection.IPSEC
    identifier: str | None = None
    """Network access identifier; always there with the authentication option."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeAgentConfiguration:
    """Table ``[home_agent]``."""

    address: IPv6Address
    home_prefixes: tuple[IPv6Network, ...]
    """At least one; each home address is in one of them."""
    home_link: str | None
    """Interface of the home link; None: a virtual home prefix, routed to this machine."""
    interfaces: tuple[str, ...]
    """Where tunnels arrive; empty for all that have carrier."""
    max_lifetime: int
    """Seconds; longer ones asked for are cut to this."""
    max_bindings: int
    revocation: bool
    """Tell mobile nodes whose binding is ended here (RFC 5846)."""
    switch_rate: float
    """Mobile nodes a second that are asked to switch to another home agent (RFC 5142 7)."""
    early_forwarding: bool
    """Forward for a home address while duplicate address detection for it still runs."""
    payload_protection: PayloadProtection
    nodes_directory: Path
    """Where files with one mobile node each may be dropped; it need not exist."""
    mobile_nodes: tuple[ServedMobileNode, ...]
    correspondent: bool = True
    """Be a correspondent of mobile nodes too."""
    discovery: bool = True
    """Answer home agent address discovery (RFC 6275 10.5)."""
    multicast: bool = False
    """Forward the multicast groups that mobile nodes listen to (RFC 6275 10.4.3)."""
    preference: int = 0
    """Among the home agents of the home link; higher is preferred (RFC 6275 7.4)."""
    advertise: bool = False
    """Send Router Advertisements on the home link."""
    advertisement_interval: float = 10.0
    """Seconds; MaxRtrAdvInterval (RFC 4861 6.2.1)."""
    default_router: bool = False
    """Whether the advertisements offer this machine as a default router."""
    retransmission_timer: float = 1.0
    """Seconds; RetransTimer of the home link."""
    min_prefix_advertisement_interval: float = 600.0
    """Seconds; MinMobPfxAdvInterval (RFC 6275 13)."""
    max_prefix_advertisement_interval: float = 86400.0
    """Seconds; MaxMobPfxAdvInterval (RFC 6275 13)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrespondentConfiguration:
    """Table ``[correspondent]``."""

    interfaces: tuple[str, ...]
    """Where mobile nodes' packets arrive, for the role of that name alone; empty for all that have
    carrier."""
    max_bindings: int
    max_lifetime: int
    """Seconds; longer ones asked for are cut to this."""


class EngineChoice(enum.Enum):
    """What carries packets."""

    AUTO = "auto"
    """The kernel where it can, user space otherwise."""
    USERSPACE = "userspace"
    KERNEL = "kernel"
    """Not without the kernel's help; what it cannot serve is user space's still."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostConfiguration:
    """Table ``[host]``."""

    tunnel_interface: str
    route_table: int
    rule_priority: int
    state_directory: Path
    control_socket: Path
    log_level: LogLevel
    keep_tunnel_interface: bool = False
    """Leave the TUN device with the home address when the agent stops: sockets survive."""
    metrics_port: int = 0
    """TCP port on the loopback interface for Prometheus, 0 for none."""
    engine: EngineChoice = EngineChoice.AUTO
    tunnel_encapsulation_limit: int | None = None
    """How many further tunnels may be put around ours (RFC 2473 4.1.1); None says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """A whole configuration. Of mobile node and home agent exactly the table of the role is there,
    and none with the role of a correspondent."""

    path: Path
    """The file it came from."""
    role: Role
    mobile_node: MobileNodeConfiguration | None
    home_agent: HomeAgentConfiguration | None
    host: HostConfiguration
    correspondent: CorrespondentConfiguration | None = None
    """None: this node takes no bindings as a correspondent."""
