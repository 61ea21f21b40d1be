"""``mnagent keygen``: makes the key files of a mobile node and its home agent."""

from __future__ import annotations

import argparse

from mnagent.cli.processor import ADVICE, CHEAPEST, description, has_aes
from mnagent.runtime.key_files import write_key_pair


def main(arguments: argparse.Namespace) -> int:
    """Write both files and say where each belongs."""
    mobile_node, home_agent = write_key_pair(
        arguments.output,
        home_address=arguments.home_address,
        home_agent=arguments.home_agent,
        encryption=arguments.encryption,
        overwrite=arguments.force,
    )
    print(f"{mobile_node}: for mobile_node.keys on the mobile node")
    print(f"{home_agent}: for home_agent.mobile_nodes.keys on the home agent")
    print("Both are secret (mode 0600). Carry each to its machine over ssh, and delete it here.")
    if arguments.encryption != CHEAPEST and not has_aes(description()):
        print(f"This processor has no instructions for AES: {ADVICE}.")
    return 0
