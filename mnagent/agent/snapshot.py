"""What ``mnagent status`` shows: a read-only view of the agent, made of JSON's own types."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final

from mnagent.agent.handovers import HandoverRecord

SHOWN_BINDINGS: Final = 100
"""Most that are listed in a snapshot: there may be very many, and making it holds up the agent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceSnapshot:
    """One interface the agent uses."""

    index: int
    name: str
    up: bool
    link_layer_address: str
    addresses: dict[str, str] = field(default_factory=dict)
    """Address to its state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrespondentSnapshot:
    """The path to one correspondent. Tokens are told by age, never by value."""

    correspondent: str
    home_address: str
    """Ours that the path is for."""
    path: str
    """``direct`` or ``home-agent``."""
    state: str
    care_of_address: str | None
    """Of the direct path, None while the home agent is used."""
    binding_lifetime_remaining: float
    """Seconds, 0 without a binding."""
    home_token_age: float | None
    """Seconds, None without a usable token."""
    care_of_token_age: float | None
    reason: str | None
    """Why the peer is not optimized, None on the direct path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeAddressSnapshot:
    """One home address of a mobile node."""

    home_address: str
    home_agent: str
    state: str
    preferred: bool
    """False: deprecated, new connections take another one."""
    formed: bool
    """Formed in a prefix that the home link was given; False for a configured one."""
    valid_lifetime_remaining: float | None
    """Seconds, None for no end."""
    preferred_lifetime_remaining: float | None
    """Seconds, None for no end."""
    bound_care_of_address: str | None
    binding_lifetime_remaining: float
    """Seconds, 0 without a binding."""
    tunnel: str | None
    """Care-of address packets are tunnelled from, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MobileNodeSnapshot:
    """A mobile node's view."""

    home_address: str
    home_agent: str
    state: str
    at_home: bool
    care_of_address: str | None
    """Primary care-of address, registered or not."""
    bound_care_of_address: str | None
    """The one the home agent acknowledged."""
    binding_lifetime_remaining: float
    """Seconds, 0 without a binding."""
    sequence: int | None
    """Of the newest Binding Update."""
    last_status: int | None
    """Of the newest matching Binding Acknowledgement."""
    unanswered: bool = False
    """The home agent has left several Binding Updates unanswered."""
    tunnel: str | None
    """Care-of address packets are tunnelled from, or None."""
    handovers: tuple[HandoverRecord, ...]
    """Oldest first, those remembered."""
    handover_totals: dict[str, Any] = field(default_factory=dict)
    """See `mnagent.agent.handovers.HandoverLog.totals`."""
    correspondents: tuple[CorrespondentSnapshot, ...] = ()
    """Peers seen while away, optimized or not."""
    home_addresses: tuple[HomeAddressSnapshot, ...] = ()
    """All of them; what is said above is of the one that speaks for the node."""
    home_agents: tuple[str, ...] = ()
    """Those that can be registered with, in the order in which they are tried."""
    discovered_home_agents: tuple[str, ...] = ()
    """Those the home link told of last, with keys or without (RFC 6275 11.4.1)."""
    discovering: bool = False
    """Whether the home link is being asked for its home agents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingSnapshot:
    """One entry of a home agent's binding cache."""

    home_address: str
    care_of_address: str
    lifetime_remaining: float
    """Seconds."""
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingPage:
    """Some of a home agent's bindings, in the order of their home addresses."""

    bindings: tuple[BindingSnapshot, ...]
    left: int
    """How many come after them."""

    def to_json(self) -> dict[str, Any]:
        """As `AgentSnapshot.to_json`."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedHomeAgentSnapshot:
    """Another home agent that was heard on the home link."""

    link_local: str
    preference: int
    lifetime_remaining: float
    """Seconds."""
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeAgentSnapshot:
    """A home agent's view."""

    state: str
    bindings: tuple[BindingSnapshot, ...]
    """The oldest `SHOWN_BINDINGS`."""
    probing: tuple[str, ...]
    """Home addresses whose uniqueness is being checked, no more than that."""
    binding_count: int = 0
    probing_count: int = 0
    home_agents: tuple[ListedHomeAgentSnapshot, ...] = ()
    """The Home Agents List (RFC 6275 10.1), without ourselves."""
    advertising: bool = False
    """Whether we send Router Advertisements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerBindingSnapshot:
    """A mobile node that has a binding with this correspondent."""

    home_address: str
    correspondent: str
    """Our address that it is for."""
    care_of_address: str
    lifetime_remaining: float
    """Seconds."""
    sequence: int
    unused_for: float
    """Seconds since it was known to carry traffic, or was updated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrespondentNodeSnapshot:
    """The view as a correspondent of other mobile nodes."""

    addresses: tuple[str, ...]
    """Ours that are served."""
    bindings: tuple[PeerBindingSnapshot, ...]
    """The oldest `SHOWN_BINDINGS`."""
    binding_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSnapshot:
    """Everything, at one instant."""

    role: str
    now: float
    """Seconds on the daemon's clock."""
    interfaces: tuple[InterfaceSnapshot, ...]
    counters: dict[str, int]
    mobile_node: MobileNodeSnapshot | None = None
    home_agent: HomeAgentSnapshot | None = None
    correspondent_node: CorrespondentNodeSnapshot | None = None
    """None where that is switched off."""

    def to_json(self) -> dict[str, Any]:
        """Dictionaries, lists, strings, numbers, booleans and None only."""
        return asdict(self)
