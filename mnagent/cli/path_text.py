"""Direct paths in sentences: which way packets take to whom, and why not directly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mnagent.cli.duration import duration

PEERS_SHOWN = 32
REASONS = {
    "policy": "route_optimization says so",
    "table-full": "too many correspondents",
    "at-home": "at home nothing is to be gained",
    "no-care-of-address": "there is no care-of address",
    "in-progress": "being set up",
    "suspended": "a while after it failed",
    "no-answer-to-tests": "it does not answer the address tests",
    "no-answer-to-updates": "it does not answer Binding Updates",
    "mobility-header-not-supported": "it does not know Mobile IPv6",
    "message-type-not-supported": "it does not do route optimization",
    "no-lifetime-granted": "it grants no lifetime",
}
"""Others are RFC 6275's names of a status, which say what they mean."""

Table = Mapping[str, Any]


def correspondents(peers: Sequence[Table]) -> Iterator[str]:
    """Those a mobile node talks to."""
    if not peers:
        return
    direct = sum(one.get("path") == "direct" for one in peers)
    yield ""
    yield f"Correspondents: {direct} directly, {len(peers) - direct} through the home agent."
    width = max(len(str(one.get("correspondent"))) for one in peers[:PEERS_SHOWN])
    for one in peers[:PEERS_SHOWN]:
        words = _directly(one) if one.get("path") == "direct" else _through_home_agent(one)
        yield f"  {one.get('correspondent')!s:<{width}}  {words}{_tokens(one)}"
    yield from _rest(len(peers))


def _directly(one: Table) -> str:
    left = duration(one.get("binding_lifetime_remaining") or 0.0)
    return f"direct from {one.get('care_of_address')}, for another {left}"


def _through_home_agent(one: Table) -> str:
    reason = str(one.get("reason") or one.get("state") or "unknown")
    return f"through the home agent: {REASONS.get(reason, reason.replace('-', ' '))}"


def _tokens(one: Table) -> str:
    ages = [
        f"{name} token {duration(one[key])} old"
        for name, key in (("home", "home_token_age"), ("care-of", "care_of_token_age"))
        if one.get(key) is not None
    ]
    return f" ({', '.join(ages)})" if ages else ""


def peers(node: Table | None, *, alone: bool) -> Iterator[str]:
    """Those that have a binding with a correspondent; ``alone`` says so where there is none."""
    if node is None:
        return
    bindings: Sequence[Table] = node.get("bindings") or ()
    if not bindings and not alone:
        return
    yield ""
    number = node.get("binding_count", len(bindings))
    count = {0: "No mobile node sends", 1: "One mobile node sends"}.get(
        number, f"{number} mobile nodes send"
    )
    yield f"{count} to this host directly."
    width = max((len(str(one.get("home_address"))) for one in bindings[:PEERS_SHOWN]), default=0)
    for one in bindings[:PEERS_SHOWN]:
        left = duration(one.get("lifetime_remaining") or 0.0)
        yield (
            f"  {one.get('home_address')!s:<{width}}  at {one.get('care_of_address')}, "
            f"for another {left}, to {one.get('correspondent')}"
        )
    if number > PEERS_SHOWN:
        yield f"  and {number - PEERS_SHOWN} more"


def _rest(count: int) -> Iterator[str]:
    if count > PEERS_SHOWN:
        yield f"  and {count - PEERS_SHOWN} more (--json has all)"
