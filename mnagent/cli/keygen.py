"""``mnagent keygen``: makes the key files of a mobile node and its home agents."""

from __future__ import annotations

import argparse

from mnagent.cli.processor import ADVICE, CHEAPEST, description, has_aes
from mnagent.runtime.key_files import write_key_pairs


def main(arguments: argparse.Namespace) -> int:
    """Write both files of each home agent and say where each belongs."""
    home_agents = tuple(dict.fromkeys(arguments.home_agent))
    pairs = write_key_pairs(
        arguments.output,
        home_address=arguments.home_address,
        home_agents=home_agents,
        encryption=arguments.encryption
        if arguments.protection == "ipsec"
        else arguments.protection,
        overwrite=arguments.force,
    )
    for home_agent, (mobile_node, own) in zip(home_agents, pairs, strict=True):
        print(f"{mobile_node}: for mobile_node.keys on the mobile node")
        which = "the home agent" if len(pairs) == 1 else f"the home agent {home_agent}"
        print(f"{own}: for home_agent.mobile_nodes.keys on {which}")
    print("All are secret (mode 0600). Carry each to its machine over ssh, and delete it here.")
    is_for_ipsec = arguments.protection == "ipsec"
    if is_for_ipsec and arguments.encryption != CHEAPEST and not has_aes(description()):
        print(f"This processor has no instructions for AES: {ADVICE}.")
    return 0
