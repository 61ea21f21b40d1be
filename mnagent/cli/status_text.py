"""The agent's state in sentences. Takes what the control socket gives, leaves out what is not
there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mnagent.cli import path_text
from mnagent.cli.duration import duration

NODE_STATES = {
    "detached": "Away from every link: no interface has a connection.",
    "at-home": "At home: packets take the home link, there is no tunnel.",
    "at-home-idle": "On the home link.",
    "at-home-finding-home-agent": "On the home link, looking for the home agent.",
    "at-home-deregistering": "On the home link, telling the home agent to let the address go.",
    "at-home-probing": "On the home link, checking that nobody else has the home address.",
    "at-home-duplicate": "On the home link, but another node has the home address.",
    "unregistered": "Away from home, not registered.",
    "registering": "Away from home, registering with the home agent.",
    "registered": "Away from home, registered with the home agent.",
    "refreshing": "Away from home, registered, renewing the registration.",
    "refused": "Away from home; the home agent refuses the registration.",
    "deregistering": "Leaving: telling the home agent.",
    "home-address-duplicate": "Stopped: another node has the home address.",
}
UNANSWERED = (
    "does the home agent run, does ESP reach it, were the key files of both ends made together?"
)
HANDOVERS_SHOWN = 8
FIRST_REJECTING_STATUS = 128

Table = Mapping[str, Any]


def render(status: Table) -> str:
    """Several lines, without one at the end."""
    agent: Table = status.get("agent") or status
    return "\n".join(
        (
            *_head(status),
            *_mobile_node(agent.get("mobile_node"), agent.get("now", status.get("now", 0.0))),
            *_home_agent(agent.get("home_agent")),
            *path_text.peers(
                agent.get("correspondent_node"), alone=status.get("role") == "correspondent"
            ),
            *_interfaces(agent.get("interfaces") or (), status.get("missing_interfaces") or ()),
            *_counters(status.get("counters") or agent.get("counters") or {}),
        )
    )


def _head(status: Table) -> Iterator[str]:
    role = str(status.get("role", "agent")).replace("-", " ").capitalize()
    words = [role]
    if "uptime" in status:
        words.append(f"running for {duration(status['uptime'])}")
    if "process" in status:
        words.append(f"process {status['process']}")
    if "tunnel_interface" in status:
        words.append(f"tunnel interface {status['tunnel_interface']}")
    yield ", ".join(words) + "."
    engine = status.get("engine")
    if engine is not None:
        yield _engine(engine)


def _engine(engine: Table) -> str:
    if engine.get("kind") != "kernel":
        reason = f" ({engine['reason']})" if engine.get("reason") else ""
        return f"Packets are carried in user space{reason}."
    there, here = engine.get("in_kernel", 0), engine.get("in_user_space", 0)
    kept = ", also while the agent restarts" if engine.get("survives_restart") else ""
    return (
        f"Packets are carried in the kernel ({engine.get('attachment')}){kept}: "
        f"{there} paths there, {here} in user space."
        f"{' The kernel is not reached: ' + engine['trouble'] + '.' if 'trouble' in engine else ''}"
    )


def _mobile_node(node: Table | None, now: float) -> Iterator[str]:
    if node is None:
        return
    state = str(node.get("state", ""))
    yield ""
    yield NODE_STATES.get(state, f"State: {state}.")
    yield f"  home address      {node.get('home_address')}"
    yield from _further_home_addresses(node)
    yield f"  home agent        {node.get('home_agent')}"
    yield from _other_home_agents(node)
    if node.get("care_of_address"):
        yield f"  care-of address   {node['care_of_address']}"
    bound = node.get("bound_care_of_address")
    if bound:
        left = duration(node.get("binding_lifetime_remaining", 0.0))
        yield f"  binding           {bound}, for another {left}"
    if not node.get("at_home"):
        tunnel = node.get("tunnel")
        yield f"  tunnel            {f'from {tunnel}' if tunnel else 'none'}"
    last = node.get("last_status")
    if isinstance(last, int) and last >= FIRST_REJECTING_STATUS:
        yield f"  last answer       {_sentence(last)} (status {last})"
    if node.get("unanswered"):
        yield f"  last answer       none: {UNANSWERED}"
    yield from path_text.correspondents(node.get("correspondents") or ())
    yield from _handovers(node.get("handovers") or (), now)


def _further_home_addresses(node: Table) -> Iterator[str]:
    """Each with its state, and how long it lasts where it does not for ever."""
    homes = node.get("home_addresses") or ()
    for one in homes:
        left = one.get("valid_lifetime_remaining")
        if len(homes) == 1 and left is None:
            return
        words = [str(one.get("state"))]
        if not one.get("preferred"):
            words.append("deprecated")
        if left is not None:
            words.append(f"for another {duration(left)}")
        yield f"    {one.get('home_address')}: {', '.join(words)}"


def _other_home_agents(node: Table) -> Iterator[str]:
    """What can be fallen back on, and what discovery is about."""
    current = node.get("home_agent")
    others = [each for each in node.get("home_agents") or () if each != current]
    if others:
        yield f"    then            {', '.join(others)}"
    usable = {current, *others}
    keyless = [each for each in node.get("discovered_home_agents") or () if each not in usable]
    if keyless:
        yield f"    without keys    {', '.join(keyless)}"
    if node.get("discovering"):
        yield "    asking the home link for its home agents"


def _sentence(status: int) -> str:
    from mnagent.mobility.binding_status import sentence_of

    return sentence_of(status)


def _handovers(handovers: Sequence[Table], now: float) -> Iterator[str]:
    if not handovers:
        return
    yield ""
    yield f"Latest handovers ({len(handovers)} remembered), times since the link came up:"
    yield "        ago  interface   address ready  update sent  acknowledged  care-of address"
    for one in handovers[-HANDOVERS_SHOWN:]:
        start = one.get("link_up_at", now)
        address = "(home)" if one.get("at_home") else one.get("care_of_address") or "-"
        yield (
            f"{duration(now - start):>11}  {one.get('interface') or '-':<10}  "
            f"{_since(start, one.get('care_of_address_ready_at')):>13}  "
            f"{_since(start, one.get('update_sent_at')):>11}  "
            f"{_since(start, one.get('acknowledged_at')):>12}  {address}"
        )


def _since(start: float, instant: float | None) -> str:
    return "-" if instant is None else f"{(instant - start) * 1000:.0f} ms"


def _home_agent(agent: Table | None) -> Iterator[str]:
    if agent is None:
        return
    bindings: Sequence[Table] = agent.get("bindings") or ()
    yield ""
    if agent.get("state") == "waiting-for-home-link":
        yield "Waiting for the home link: its interface is missing or has no carrier."
        yield "Until then only mobile nodes that are registered already are served."
    number = agent.get("binding_count", len(bindings))
    count = {0: "No mobile node is", 1: "One mobile node is"}.get(
        number, f"{number} mobile nodes are"
    )
    yield f"{count} away from home and registered."
    width = max((len(str(one.get("home_address"))) for one in bindings), default=0)
    for one in bindings:
        left = duration(one.get("lifetime_remaining", 0.0))
        home = str(one.get("home_address"))
        yield f"  {home:<{width}}  at {one.get('care_of_address')}, for another {left}"
    if number > len(bindings):
        yield f"  and {number - len(bindings)} more (`mnagent bindings list` shows all)"
    probing = agent.get("probing") or ()
    for address in probing:
        yield f"  {address}  being checked for duplicates"
    if (more := agent.get("probing_count", 0) - len(probing)) > 0:
        yield f"  and {more} more being checked"
    yield from _home_agents_list(agent.get("home_agents") or ())


def _home_agents_list(listed: Sequence[Table]) -> Iterator[str]:
    if not listed:
        return
    yield ""
    yield "Other home agents on the home link:"
    for one in listed:
        addresses = ", ".join(one.get("addresses") or ()) or "no global address told"
        left = duration(one.get("lifetime_remaining", 0.0))
        yield (
            f"  {addresses}  ({one.get('link_local')}), "
            f"preference {one.get('preference')}, for another {left}"
        )


def _interfaces(interfaces: Sequence[Table], missing: Sequence[str]) -> Iterator[str]:
    if interfaces or missing:
        yield ""
        yield "Interfaces:"
    for one in interfaces:
        yield f"  {one.get('name')}  {'up' if one.get('up') else 'down'}"
        for address, state in (one.get("addresses") or {}).items():
            yield f"    {address}  {state}"
    for name in missing:
        yield f"  {name}  missing: waiting for it to appear"


def _counters(counters: Mapping[str, int]) -> Iterator[str]:
    counted = {name: count for name, count in counters.items() if count}
    if not counted:
        return
    yield ""
    yield "Counters:"
    width = max(map(len, counted))
    for name, count in sorted(counted.items()):
        yield f"  {name:<{width}}  {count}"
