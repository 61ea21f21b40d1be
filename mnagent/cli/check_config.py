"""``mnagent check-config``: checks a configuration, and the key files it names, without using
them."""

from __future__ import annotations

import argparse

from mnagent.config import Configuration, Role, RouteOptimization, load
from mnagent.runtime.key_files import load_key_sets

MANUAL_KEYS_NOTE = (
    "the keys are manual (RFC 3776 4.4): after both ends have lost their state, old messages can "
    "be replayed; keep host.state_directory, and make new keys when it is lost"
)
"""What whoever uses manual keys must know (RFC 3776 4.4, RFC 4877 4.3)."""


def main(arguments: argparse.Namespace) -> int:
    """Exit status 0 when everything is right; errors go the way of all bad input."""
    configuration = load(arguments.config or arguments.file)
    print(f"{configuration.path}: {summary(configuration)}")
    print(f"direct paths: {direct_paths(configuration)}")
    if not arguments.without_keys and configuration.role is not Role.CORRESPONDENT:
        keys = load_key_sets(configuration)
        count = sum(len(one.associations) for one in keys)
        print(f"keys: {count} security associations for {_peers(configuration, len(keys))}")
        print(f"note: {MANUAL_KEYS_NOTE}")
    return 0


def _peers(configuration: Configuration, count: int) -> str:
    peer = "mobile node" if configuration.mobile_node is None else "home agent"
    return f"{count} {peer}" if count == 1 else f"{count} {peer}s"


def summary(configuration: Configuration) -> str:
    """What the configuration makes of this machine, in one line."""
    node, agent = configuration.mobile_node, configuration.home_agent
    if node is not None:
        named = ", ".join(map(str, node.home_agents)) or "to be discovered"
        agents = "home agents" if len(node.home_agents) > 1 else "home agent"
        return (
            f"mobile node {node.home_address}/{node.home_prefix_length}, "
            f"{agents} {named}, roaming with {', '.join(node.interfaces)}"
        )
    if agent is None:
        assert configuration.correspondent is not None
        names = ", ".join(configuration.correspondent.interfaces) or "all with carrier"
        return f"correspondent of mobile nodes, interfaces: {names}"
    link = f"home link {agent.home_link}" if agent.home_link else "virtual home prefix"
    count = len(agent.mobile_nodes)
    nodes = "1 mobile node" if count == 1 else f"{count} mobile nodes"
    prefixes = ", ".join(map(str, agent.home_prefixes))
    return f"home agent {agent.address} for {prefixes} ({link}), serving {nodes}"


def direct_paths(configuration: Configuration) -> str:
    """Who may take them, in one line."""
    node, correspondent = configuration.mobile_node, configuration.correspondent
    words = []
    if node is not None:
        uses = {node.route_optimization, *(each.use for each in node.route_optimization_policy)}
        if uses == {RouteOptimization.NEVER}:
            words.append("never to correspondents")
        else:
            words.append(f"{node.route_optimization.value} to correspondents")
            exceptions = len(node.route_optimization_policy)
            if exceptions:
                words.append(f"with {exceptions} exception{'' if exceptions == 1 else 's'}")
    if correspondent is None:
        words.append("refused to other mobile nodes")
    else:
        words.append(f"granted to mobile nodes for up to {correspondent.max_lifetime} s")
    return ", ".join(words)
