"""What of a configuration can change while the agent runs, and what a change comes to."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any, Final

from mnagent.agent.roles import HomeAgentChange
from mnagent.config.model import Configuration
from mnagent.ipsec.policy import SecurityPolicyDatabase
from mnagent.mobility.mobile_node import MobileNodeSettings

CHANGES_LIVE: Final = frozenset(
    {
        "home_agent.home_prefixes",
        "home_agent.mobile_nodes",
        "home_agent.nodes_directory",
        "home_agent.max_lifetime",
        "home_agent.max_bindings",
        "home_agent.revocation",
        "home_agent.switch_rate",
        "home_agent.early_forwarding",
        "mobile_node.lifetime",
        "mobile_node.initial_bindack_timeout_first_registration",
        "mobile_node.early_tunnel",
        "mobile_node.path_check_interval",
        "mobile_node.route_optimization",
        "mobile_node.route_optimization_policy",
        "host.log_level",
    }
)
"""Keys of a configuration that a running agent takes up; the others need a restart."""
_TABLES: Final = ("mobile_node", "home_agent", "correspondent", "host")


class NeedsRestart(ValueError):
    """A change that a running agent cannot take up."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        super().__init__(
            f"cannot change while running: {', '.join(keys)}; nothing was changed, restart to apply"
        )
        self.keys = keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconfiguration:
    """A change that has been checked, for `mnagent.agent.agent.Agent.reconfigure`."""

    policies: SecurityPolicyDatabase
    """Those of the new keys."""
    home_agent: HomeAgentChange | None = None
    mobile_node: MobileNodeSettings | None = None
    rekeyed: frozenset[IPv6Address] = frozenset()
    """Home addresses whose keys are others than before."""


def changed_keys(old: Configuration, new: Configuration) -> tuple[str, ...]:
    """The keys whose values differ, such as ``mobile_node.lifetime``.

    Raises:
        NeedsRestart: one of them cannot change while the agent runs.
    """
    keys = ["role"] if old.role is not new.role else []
    for table in _TABLES:
        keys += _changes_of(table, getattr(old, table), getattr(new, table))
    fixed = tuple(key for key in keys if key not in CHANGES_LIVE)
    if fixed:
        raise NeedsRestart(fixed)
    return tuple(keys)


def _changes_of(table: str, old: Any, new: Any) -> list[str]:
    if old is None or new is None:
        return [] if old is new else [table]
    return [
        f"{table}.{field.name}"
        for field in dataclasses.fields(old)
        if getattr(old, field.name) != getattr(new, field.name)
    ]
