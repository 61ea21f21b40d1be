"""Removes what a killed run left behind. Everything of ours is marked with our protocol number."""

from __future__ import annotations

import logging
from ipaddress import IPv6Network

from mnagent.runtime.kernel import ROUTE_PROTOCOL, LinuxKernel
from mnagent.system.kernel import MAIN_TABLE, Route, Rule

logger = logging.getLogger(__name__)


def remove_leftovers(
    kernel: LinuxKernel,
    *,
    tables: dict[int, int],
    interfaces: frozenset[int],
    tunnel: int,
) -> int:
    """Remove our routes, rules and addresses as far as this configuration's reach goes.

    ``tables`` has our route tables, each with the priority of its rule. ``interfaces`` are the
    physical ones, ``tunnel`` the tunnel device (its addresses stay: sockets hang on them). Another
    daemon of ours with other tables and interfaces is not touched.
    """
    count = 0
    for rule in kernel.rules():
        if rule.protocol == ROUTE_PROTOCOL and tables.get(rule.table) == rule.priority:
            kernel.remove_rule(
                Rule(
                    priority=rule.priority,
                    table=rule.table,
                    source=rule.source,
                    mark=rule.mark,
                    chooses_source=rule.chooses_source,
                )
            )
            count += 1
    for route in kernel.routes():
        ours = route.table in tables or (
            route.table == MAIN_TABLE and route.interface in interfaces | {tunnel}
        )
        if route.protocol == ROUTE_PROTOCOL and ours:
            kernel.remove_route(
                Route(
                    destination=IPv6Network(route.destination),
                    table=route.table,
                    interface=route.interface,
                    gateway=route.gateway,
                    metric=route.metric,
                )
            )
            count += 1
    for address in kernel.addresses():
        if address.protocol == ROUTE_PROTOCOL and address.interface in interfaces:
            kernel.remove_address(
                address.interface, address.address, prefix_length=address.prefix_length
            )
            count += 1
    if count:
        logger.warning("removed %d routes, rules and addresses of a run that was killed", count)
    return count
