"""What can go wrong while building, said so that a reader knows what to do."""

from __future__ import annotations


class BuildError(Exception):
    """The build cannot go on; the text names the thing and the remedy."""
