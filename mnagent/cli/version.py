"""``mnagent version``."""

from __future__ import annotations

import argparse

from mnagent import __version__


def main(arguments: argparse.Namespace) -> int:
    """Print the version."""
    print(f"mnagent {__version__}")
    return 0
