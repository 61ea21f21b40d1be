"""Reading the configuration again while the agent runs.

A change is read and checked as a whole, in a thread, before anything is touched; what cannot be
used, and what a running agent cannot take up, leaves everything as it was. Bindings, tunnels and
connections live on, except those of mobile nodes that are no longer served.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

from mnagent.agent.build import build_reconfiguration
from mnagent.agent.reconfiguration import NeedsRestart, Reconfiguration, changed_keys
from mnagent.config import Configuration, ConfigurationError
from mnagent.core.security import Direction, SecurityAssociation
from mnagent.ipsec.keys import KeySet
from mnagent.runtime.key_files import load_key_sets
from mnagent.runtime.loop import BootClock

logger = logging.getLogger(__name__)


class ReloadRefused(Exception):
    """The new configuration cannot be used, and the old one still counts. Its text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A configuration that has been read, checked, and compared with the one that counts."""

    configuration: Configuration
    key_sets: tuple[KeySet, ...]
    keys: tuple[str, ...]
    """Those that changed, such as ``home_agent.mobile_nodes``."""
    reconfiguration: Reconfiguration | None
    """None when nothing changed."""

    @property
    def associations(self) -> tuple[SecurityAssociation, ...]:
        """All of the new keys."""
        return associations_of(self.key_sets)


async def read_change(
    present: Configuration,
    key_sets: tuple[KeySet, ...],
    *,
    reread: Callable[[], Configuration],
    entropy: random.Random,
) -> Change:
    """Read everything again, in a thread. Raises `ReloadRefused`."""

    def read() -> Change:
        configuration = reread()
        keys = changed_keys(present, configuration)
        new_sets = load_key_sets(configuration)
        if not keys and new_sets == key_sets:
            return Change(configuration=present, key_sets=key_sets, keys=(), reconfiguration=None)
        _check_same_ends(present, key_sets, new_sets)
        reconfiguration = build_reconfiguration(
            configuration,
            random=entropy,
            associations=new_sets,
            former_associations=key_sets,
            wall_clock=BootClock().wall_clock,
        )
        rekeyed = tuple(f"keys of {each}" for each in sorted(reconfiguration.rekeyed))
        return Change(
            configuration=configuration,
            key_sets=new_sets,
            keys=keys + rekeyed,
            reconfiguration=reconfiguration,
        )

    try:
        return await asyncio.to_thread(read)
    except (NeedsRestart, ConfigurationError, ValueError, OSError) as error:
        raise ReloadRefused(str(error)) from error


def _check_same_ends(
    present: Configuration, former: tuple[KeySet, ...], new: tuple[KeySet, ...]
) -> None:
    """A mobile node's home agents are known by its keys; they do not change while it runs."""
    if present.mobile_node is None:
        return
    ends = [{(each.home_address, each.home_agent) for each in sets} for sets in (former, new)]
    if ends[0] != ends[1]:
        raise NeedsRestart(("mobile_node.keys",))


def associations_of(key_sets: tuple[KeySet, ...]) -> tuple[SecurityAssociation, ...]:
    """All of them, both directions."""
    return tuple(each for key_set in key_sets for each in key_set.associations)


def merged(
    old: tuple[SecurityAssociation, ...], new: tuple[SecurityAssociation, ...]
) -> tuple[SecurityAssociation, ...]:
    """Both, and of two with one SPI and direction the new one."""
    by_name = {(each.spi, each.direction): each for each in (*old, *new)}
    return tuple(by_name.values())


def outbound_without(
    some: tuple[SecurityAssociation, ...], others: tuple[SecurityAssociation, ...]
) -> tuple[SecurityAssociation, ...]:
    """The outbound ones of ``some`` that are not among ``others``."""
    known = set(map(_name, others))
    return tuple(
        each for each in some if each.direction is Direction.OUTBOUND and _name(each) not in known
    )


def _name(association: SecurityAssociation) -> tuple[int, Direction]:
    return association.spi, association.direction
