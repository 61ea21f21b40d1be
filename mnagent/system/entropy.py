"""Randomness: ``random.SystemRandom`` in the daemon, a seeded generator in tests."""

from __future__ import annotations

import random


def seeded(seed: int) -> random.Random:
    """A generator that gives the same run for the same seed; never for keys."""
    return random.Random(seed)
