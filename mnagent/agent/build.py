"""From a configuration and keys to an agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv6Address
from random import Random
from typing import TYPE_CHECKING, Final

from mnagent.agent.agent import Agent
from mnagent.agent.dispatch import Dispatcher
from mnagent.agent.reconfiguration import Reconfiguration
from mnagent.agent.roles import (
    CorrespondentRole,
    HomeAgentChange,
    HomeAgentDirectoryFactory,
    HomeAgentFactory,
    HomeAgentRole,
    MobileNodeRole,
)
from mnagent.autoconf.autoconfiguration import AgentAutoconfiguration, KernelAutoconfiguration
from mnagent.autoconf.dhcp6 import DUID_LENGTH, Dhcp6Settings, make_duid
from mnagent.autoconf.interface_id import IdentifierKind
from mnagent.autoconf.lease_record import LEASES_KEY
from mnagent.autoconf.link_memory import KNOWN_LINKS_KEY
from mnagent.autoconf.slaac import SlaacSettings
from mnagent.config.model import (
    Autoconfiguration,
    Configuration,
    CorrespondentConfiguration,
    Dhcp6,
    HomeAgentConfiguration,
    InterfaceOrder,
    MobileNodeConfiguration,
    PayloadProtection,
    Role,
)
from mnagent.core.actions import Action, PersistRecord
from mnagent.core.records import KeptRecord
from mnagent.ipsec.keys import KeySet
from mnagent.ipsec.mobility_policy import home_agent_database, mobile_node_database
from mnagent.ipsec.policy import SecurityPolicyDatabase
from mnagent.mobility.correspondent_node import CorrespondentNode, CorrespondentNodeSettings
from mnagent.mobility.home_addresses import HOME_ADDRESSES_KEY, HomeAddresses
from mnagent.mobility.home_agent_selection import HomeAgentSelection
from mnagent.mobility.home_registration import HomeRegistration
from mnagent.mobility.message_authentication import Authentication, WallClock
from mnagent.mobility.mobile_node import MobileNode, MobileNodeSettings, Surroundings
from mnagent.mobility.route_optimization import (
    RouteOptimizationMode,
    RouteOptimizationPolicy,
    RouteOptimizationRule,
)

if TYPE_CHECKING:  # a mobile node goes without what only home agents need
    from mnagent.mobility.home_agent import HomeAgent, HomeAgentSettings
    from mnagent.mobility.home_agent_directory import HomeAgentDirectory

IDENTIFIER_SECRET_KEY: Final = "interface-identifier-secret"
"""Record that keeps the secret of stable interface identifiers (RFC 7217 5)."""
IDENTIFIER_SECRET_LENGTH: Final = 32
DUID_KEY: Final = "dhcp6-identifier"
"""Record that keeps the DUID, by which DHCPv6 servers know this node (RFC 8415 11)."""


def _same(now: float) -> float:
    return now


def build_agent(
    configuration: Configuration,
    *,
    random: Random,
    persisted: Mapping[str, str],
    associations: Sequence[KeySet],
    kept: Mapping[str, KeptRecord] | None = None,
    wall_clock: WallClock = _same,
) -> Agent:
    """Build the agent of the configured role.

    Args:
        configuration: checked.
        random: `random.SystemRandom()` in the daemon, seeded in tests.
        persisted: the records that `PersistRecord` left, by key.
        associations: the key sets: the mobile node's one, one for each mobile node served, or
            none for a correspondent.
        kept: the records that `JournalRecord` left, by key.
        wall_clock: the time of day at an instant, where messages carry it (RFC 4285).

    Raises:
        ValueError: the keys are not those of the configured addresses, or payload is to be
            protected without keys for it.
    """
    if configuration.role is Role.MOBILE_NODE:
        assert configuration.mobile_node is not None
        node = configuration.mobile_node
        return _build_mobile_node(
            node,
            _build_correspondent_node(
                configuration.correspondent, random=random, addresses=node.home_addresses
            ),
            random=random,
            persisted=persisted,
            kept=kept or {},
            keys=associations,
            wall_clock=wall_clock,
        )
    if configuration.role is Role.HOME_AGENT:
        assert configuration.home_agent is not None
        agent = configuration.home_agent
        correspondent_node = _build_correspondent_node(
            configuration.correspondent,
            random=random,
            addresses=(agent.address,),
            refuse_home_registrations=False,
        )
        return _build_home_agent(
            agent,
            correspondent_node,
            random=random,
            keys=associations,
            kept=kept or {},
            wall_clock=wall_clock,
        )
    policies = SecurityPolicyDatabase()
    return Agent(
        CorrespondentRole(_build_correspondent_node(configuration.correspondent, random=random)),
        policies=policies,
        dispatcher=Dispatcher(policies),
    )


def _build_correspondent_node(
    configuration: CorrespondentConfiguration | None,
    *,
    random: Random,
    addresses: tuple[IPv6Address, ...] = (),
    refuse_home_registrations: bool = True,
) -> CorrespondentNode:
    """Without a configuration it is switched off, and says so to mobile nodes that ask."""
    settings = CorrespondentNodeSettings(
        addresses=frozenset(addresses),
        enabled=configuration is not None,
        refuse_home_registrations=refuse_home_registrations,
    )
    if configuration is not None:
        settings = replace(
            settings,
            max_bindings=configuration.max_bindings,
            max_lifetime=float(configuration.max_lifetime),
        )
    return CorrespondentNode(settings, random=random)


def _build_mobile_node(
    configuration: MobileNodeConfiguration,
    correspondent_node: CorrespondentNode,
    *,
    random: Random,
    persisted: Mapping[str, str],
    kept: Mapping[str, KeptRecord],
    keys: Sequence[KeySet],
    wall_clock: WallClock,
) -> Agent:
    _check_home_agents(configuration, keys)
    policies = _mobile_node_policies(configuration, keys)
    home_addresses = _build_home_addresses(
        configuration,
        random=random,
        persisted=persisted,
        kept=kept,
        keys=keys,
        wall_clock=wall_clock,
    )
    autoconfiguration, first_actions = _build_autoconfiguration(
        configuration, random=random, persisted=persisted
    )
    return Agent(
        MobileNodeRole(autoconfiguration, home_addresses, correspondent_node),
        policies=policies,
        dispatcher=Dispatcher(
            policies,
            home_addresses=frozenset(configuration.home_addresses),
            tunnel_peers=frozenset(key_set.home_agent for key_set in keys),
            follows_switch=configuration.home_agent_switch,
        ),
        first_actions=first_actions,
    )


def _build_home_addresses(
    configuration: MobileNodeConfiguration,
    *,
    random: Random,
    persisted: Mapping[str, str],
    kept: Mapping[str, KeptRecord],
    keys: Sequence[KeySet],
    wall_clock: WallClock,
) -> HomeAddresses:
    settings = _mobile_node_settings(configuration, keys, wall_clock)

    def factory(
        home_address: IPv6Address, surroundings: Surroundings, may_ask_for_link_local: bool
    ) -> MobileNode:
        return MobileNode(
            replace(
                settings,
                home_address=home_address,
                link_local_compatibility=may_ask_for_link_local,
            ),
            random=random,
            persisted_sequence=persisted.get(HomeRegistration.sequence_key(home_address)),
            persisted_binding=persisted.get(HomeRegistration.binding_key(home_address)),
            persisted_home_agent=persisted.get(HomeAgentSelection.current_key(home_address)),
            persisted_home_agents=persisted.get(HomeAgentSelection.list_key(home_address)),
            surroundings=surroundings,
            kept=kept,
        )

    return HomeAddresses(
        configuration.home_addresses,
        follows_renumbering=configuration.follow_renumbering,
        surroundings=Surroundings(
            home_addresses=configuration.home_addresses,
            home_prefixes=(configuration.home_prefix,),
            interfaces=settings.interfaces,
            by_kind=settings.by_kind,
        ),
        factory=factory,
        random=random,
        persisted=persisted.get(HOME_ADDRESSES_KEY),
    )


def _mobile_node_policies(
    configuration: MobileNodeConfiguration, keys: Sequence[KeySet]
) -> SecurityPolicyDatabase:
    protect_payload = configuration.payload_protection is PayloadProtection.ESP
    return mobile_node_database(*keys, protect_payload=protect_payload)


def _authentication(
    keys: KeySet | None, identifier: str | None, wall_clock: WallClock
) -> Authentication | None:
    if keys is None or keys.authentication is None or identifier is None:
        return None
    return Authentication(
        association=keys.authentication, identifier=identifier, wall_clock=wall_clock
    )


def _mobile_node_settings(
    configuration: MobileNodeConfiguration, keys: Sequence[KeySet], wall_clock: WallClock
) -> MobileNodeSettings:
    usable = tuple(dict.fromkeys(key_set.home_agent for key_set in keys))
    return MobileNodeSettings(
        authentication=tuple(
            (each.home_agent, authentication)
            for each in keys
            if (authentication := _authentication(each, configuration.identifier, wall_clock))
        ),
        home_address=configuration.home_address,
        home_agent_address=(*configuration.home_agents, *usable)[0],
        home_agents=configuration.home_agents,
        usable_home_agents=usable,
        home_agent_timeout=configuration.home_agent_timeout,
        path_silence=configuration.path_silence,
        home_prefix_length=configuration.home_prefix_length,
        interfaces=configuration.interfaces,
        lifetime=float(configuration.lifetime),
        initial_bindack_timeout_first_registration=(
            configuration.initial_bindack_timeout_first_registration
        ),
        optimistic_tunnel=configuration.early_tunnel,
        route_optimization=_policy_of(configuration),
        by_kind=configuration.interface_order is InterfaceOrder.BY_KIND,
        path_check_interval=configuration.path_check_interval,
    )


def _policy_of(configuration: MobileNodeConfiguration) -> RouteOptimizationPolicy:
    return RouteOptimizationPolicy(
        default=RouteOptimizationMode(configuration.route_optimization.value),
        rules=tuple(
            RouteOptimizationRule(
                prefix=policy.prefix,
                mode=RouteOptimizationMode(policy.use.value),
                ports=policy.ports,
            )
            for policy in configuration.route_optimization_policy
        ),
    )


def _build_autoconfiguration(
    configuration: MobileNodeConfiguration, *, random: Random, persisted: Mapping[str, str]
) -> tuple[AgentAutoconfiguration | KernelAutoconfiguration, tuple[Action, ...]]:
    never = frozenset(configuration.home_addresses)
    if configuration.autoconfiguration is Autoconfiguration.KERNEL:
        kernel = KernelAutoconfiguration(
            random=random,
            optimistic=configuration.optimistic,
            interfaces=configuration.interfaces,
            never=never,
        )
        return kernel, ()
    secret = _octets_of(persisted, IDENTIFIER_SECRET_KEY, IDENTIFIER_SECRET_LENGTH)
    first_actions: tuple[Action, ...] = ()
    if secret is None:
        secret = random.randbytes(IDENTIFIER_SECRET_LENGTH)
        first_actions = (PersistRecord(key=IDENTIFIER_SECRET_KEY, value=secret.hex()),)
    settings = SlaacSettings(
        optimistic=configuration.optimistic,
        identifiers=IdentifierKind(configuration.interface_identifiers.value),
        secret=secret,
        never=never,
    )
    duid = _octets_of(persisted, DUID_KEY, DUID_LENGTH)
    if duid is None:
        duid = make_duid(random)
        first_actions += (PersistRecord(key=DUID_KEY, value=duid.hex()),)
    dhcp6 = Dhcp6Settings(
        duid=duid,
        enabled=configuration.dhcp6 is not Dhcp6.OFF,
        stateless=configuration.dhcp6 is Dhcp6.STATELESS,
        optimistic=configuration.optimistic,
        never=never,
    )
    agent = AgentAutoconfiguration(
        settings,
        random=random,
        interfaces=configuration.interfaces,
        dhcp6=dhcp6,
        persisted_links=persisted.get(KNOWN_LINKS_KEY),
        persisted_leases=persisted.get(LEASES_KEY),
    )
    return agent, first_actions


def _octets_of(persisted: Mapping[str, str], key: str, length: int) -> bytes | None:
    """What an earlier run kept; a record that cannot be read is made anew."""
    try:
        octets = bytes.fromhex(persisted.get(key, ""))
    except ValueError:
        return None
    return octets if len(octets) == length else None


def _build_home_agent(
    configuration: HomeAgentConfiguration,
    correspondent_node: CorrespondentNode,
    *,
    random: Random,
    keys: Sequence[KeySet],
    kept: Mapping[str, KeptRecord],
    wall_clock: WallClock,
) -> Agent:
    policies = _home_agent_policies(configuration, keys)
    settings = _home_agent_settings(configuration, keys, wall_clock)
    factory = _home_agent_factory(settings, random=random)
    return Agent(
        HomeAgentRole(
            factory,
            home_link=configuration.home_link,
            correspondent_node=correspondent_node,
            kept=kept,
            directory_factory=_home_agent_directory_factory(configuration, random=random),
        ),
        policies=policies,
        dispatcher=Dispatcher(policies),
    )


def _home_agent_policies(
    configuration: HomeAgentConfiguration, keys: Sequence[KeySet]
) -> SecurityPolicyDatabase:
    served = {node.home_address for node in configuration.mobile_nodes}
    for key_set in keys:
        if key_set.home_address not in served:
            raise ValueError(f"keys for {key_set.home_address}, which is not served")
        _check_keys(key_set, home_address=key_set.home_address, home_agent=configuration.address)
    protect_payload = configuration.payload_protection is PayloadProtection.ESP
    return home_agent_database(configuration.address, keys, protect_payload=protect_payload)


def _home_agent_factory(settings: HomeAgentSettings, *, random: Random) -> HomeAgentFactory:
    from mnagent.mobility.home_agent import HomeAgent

    def factory(interface: int | None, link_layer_address: bytes) -> HomeAgent:
        own = replace(settings, home_link=interface, link_layer_address=link_layer_address)
        return HomeAgent(own, random=random)

    return factory


def _home_agent_directory_factory(
    configuration: HomeAgentConfiguration, *, random: Random
) -> HomeAgentDirectoryFactory | None:
    if not (configuration.discovery or configuration.advertise):
        return None
    from mnagent.mobility.home_agent_advertiser import AdvertisedPrefix
    from mnagent.mobility.home_agent_directory import DirectorySettings, HomeAgentDirectory

    settings = DirectorySettings(
        address=configuration.address,
        prefixes=tuple(AdvertisedPrefix(prefix=each) for each in configuration.home_prefixes),
        preference=configuration.preference,
        answers=configuration.discovery,
        advertises=configuration.advertise,
        max_interval=configuration.advertisement_interval,
        is_default_router=configuration.default_router,
    )

    def factory(interface: int | None, link_layer_address: bytes) -> HomeAgentDirectory:
        return HomeAgentDirectory(
            settings, home_link=interface, link_layer_address=link_layer_address, random=random
        )

    return factory


def _home_agent_settings(
    configuration: HomeAgentConfiguration, keys: Sequence[KeySet], wall_clock: WallClock
) -> HomeAgentSettings:
    """All but the home link."""
    from mnagent.core.prefix_lifetime import TWO_HOURS
    from mnagent.mobility.home_agent import AuthorisedMobileNode, HomeAgentSettings, HomePrefix

    by_address = {key_set.home_address: key_set for key_set in keys}
    return HomeAgentSettings(
        address=configuration.address,
        home_prefixes=tuple(HomePrefix(prefix=each) for each in configuration.home_prefixes),
        # Where a router advertises them, its lifetimes count.
        prefix_retirement=TWO_HOURS if configuration.advertise else None,
        mobile_nodes=tuple(
            AuthorisedMobileNode(
                # The policies' own object: tables find it without comparing.
                home_address=node.home_address if key_set is None else key_set.home_address,
                authentication=_authentication(key_set, node.identifier, wall_clock),
            )
            for node in configuration.mobile_nodes
            for key_set in (by_address.get(node.home_address),)
        ),
        max_lifetime=float(configuration.max_lifetime),
        max_bindings=configuration.max_bindings,
        revocation=configuration.revocation,
        switch_rate=configuration.switch_rate,
        multicast=configuration.multicast,
        early_forwarding=configuration.early_forwarding,
        retransmission_timer=configuration.retransmission_timer,
        min_prefix_advertisement_interval=configuration.min_prefix_advertisement_interval,
        max_prefix_advertisement_interval=configuration.max_prefix_advertisement_interval,
    )


def build_reconfiguration(
    configuration: Configuration,
    *,
    random: Random,
    associations: Sequence[KeySet],
    former_associations: Sequence[KeySet],
    wall_clock: WallClock = _same,
) -> Reconfiguration:
    """Check a changed configuration that `changed_keys` lets through, and say what it comes to.

    Raises:
        ValueError: as `build_agent`.
    """
    former = {(each.home_address, each.home_agent): each for each in former_associations}
    rekeyed = frozenset(
        each.home_address
        for each in associations
        if former.get((each.home_address, each.home_agent)) != each
    )
    agent, node = configuration.home_agent, configuration.mobile_node
    if agent is not None:
        change = HomeAgentChange(
            settings=(settings := _home_agent_settings(agent, associations, wall_clock)),
            factory=_home_agent_factory(settings, random=random),
            directory_factory=_home_agent_directory_factory(agent, random=random),
        )
        policies = _home_agent_policies(agent, associations)
        return Reconfiguration(policies=policies, home_agent=change, rekeyed=rekeyed)
    if node is not None:
        return Reconfiguration(
            policies=_mobile_node_policies(node, associations),
            mobile_node=_mobile_node_settings(node, associations, wall_clock),
            rekeyed=rekeyed,
        )
    return Reconfiguration(policies=SecurityPolicyDatabase())


def _check_home_agents(configuration: MobileNodeConfiguration, keys: Sequence[KeySet]) -> None:
    """A mobile node has one set of keys for each of its home addresses with each home agent that
    it names, and may have more."""
    if not keys:
        raise ValueError("a mobile node has at least one set of keys")
    known = {(key_set.home_address, key_set.home_agent): key_set for key_set in keys}
    if len(known) != len(keys):
        raise ValueError("two sets of keys are for the same home agent")
    for home_address in configuration.home_addresses:
        for home_agent in configuration.home_agents:
            found = known.get((home_address, home_agent), keys[0])
            _check_keys(found, home_address=home_address, home_agent=home_agent)
    for key_set in keys:
        if key_set.home_address not in configuration.home_addresses:
            _check_keys(
                key_set, home_address=configuration.home_address, home_agent=key_set.home_agent
            )


def _check_keys(keys: KeySet, *, home_address: IPv6Address, home_agent: IPv6Address) -> None:
    if keys.home_address != home_address:
        raise ValueError(f"the keys are for home address {keys.home_address}, not {home_address}")
    if keys.home_agent != home_agent:
        raise ValueError(f"the keys are for home agent {keys.home_agent}, not {home_agent}")
