"""Home addresses that follow the home link's prefixes (RFC 6275 10.6, 11.4.3).

A home network is renumbered by giving its link another prefix. A mobile node that is served then
has a home address in that prefix too: the one with the interface identifier of its configured home
address. Both ends form it by this rule, so nothing has to be configured for it, and its policies
(RFC 3776 4.2: one for each home address) lead to the associations of the configured one.

An address that two mobile nodes could claim by the rule, one that is configured for somebody, and
the home agent's own are never formed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from ipaddress import IPv6Address, IPv6Network

from mnagent.core.actions import Action, RemoveHomeAddress, SetHomeAddress
from mnagent.mobility.home_prefixes import address_in


class ServedHomeAddresses:
    """Which configured home address stands behind each one that is served."""

    def __init__(self, *, home_agent_address: IPv6Address) -> None:
        self._home_agent_address = home_agent_address
        self._formed: dict[IPv6Address, IPv6Address] = {}

    def configured_for(self, home_address: IPv6Address) -> IPv6Address:
        """The home address whose mobile node and keys serve this one: itself by default."""
        return self._formed.get(home_address, home_address) if self._formed else home_address

    def follow(
        self, configured: Collection[IPv6Address], prefixes: Collection[IPv6Network]
    ) -> list[Action]:
        """Serve what follows from these; what does not any more ends."""
        wanted = self._form(configured, prefixes)
        gone = [each for each in self._formed if each not in wanted]
        new = [each for each in wanted if self._formed.get(each) != wanted[each]]
        self._formed = wanted
        return [
            *(RemoveHomeAddress(home_address=each) for each in gone),
            *(SetHomeAddress(home_address=each, like=wanted[each]) for each in new),
        ]

    def _form(
        self, configured: Collection[IPv6Address], prefixes: Collection[IPv6Network]
    ) -> dict[IPv6Address, IPv6Address]:
        claims = [
            (address, each)
            for prefix in prefixes
            for each in configured
            if (address := address_in(prefix, each)) is not None
        ]
        count = Counter(address for address, _ in claims)
        taken = {*configured, self._home_agent_address}
        return {
            address: each
            for address, each in claims
            if count[address] == 1 and address not in taken
        }
