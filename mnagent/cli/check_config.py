"""``mnagent check-config``: checks a configuration, and the key files it names, without using
them."""

from __future__ import annotations

import argparse

from mnagent.config import Configuration, load
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
    if not arguments.without_keys:
        keys = load_key_sets(configuration)
        count = sum(len(one.associations) for one in keys)
        nodes = "mobile node" if len(keys) == 1 else "mobile nodes"
        print(f"keys: {count} security associations for {len(keys)} {nodes}")
        print(f"note: {MANUAL_KEYS_NOTE}")
    return 0


def summary(configuration: Configuration) -> str:
    """What the configuration makes of this machine, in one line."""
    node, agent = configuration.mobile_node, configuration.home_agent
    if node is not None:
        return (
            f"mobile node {node.home_address}/{node.home_prefix_length}, "
            f"home agent {node.home_agent}, roaming with {', '.join(node.interfaces)}"
        )
    assert agent is not None
    link = f"home link {agent.home_link}" if agent.home_link else "virtual home prefix"
    count = len(agent.mobile_nodes)
    nodes = "1 mobile node" if count == 1 else f"{count} mobile nodes"
    return f"home agent {agent.address} for {agent.home_prefix} ({link}), serving {nodes}"
