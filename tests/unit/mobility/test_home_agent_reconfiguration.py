"""A home agent that is given other mobile nodes and limits, or told to end a binding."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Network

from mnagent.core.actions import (
    InterceptHomeAddress,
    JournalRecord,
    RemoveTunnel,
    SetTunnel,
    StopIntercepting,
)
from mnagent.mobility.home_agent import AuthorisedMobileNode, HomeAgent, HomeAgentSettings
from mnagent.mobility.home_prefixes import HomePrefix
from mnagent.wire.mobility import BindingStatus
from tests.support.home_link import (
    CARE_OF_ADDRESS,
    HOME_ADDRESS,
    HOME_LINK,
    OTHER_CARE_OF_ADDRESS,
    OTHER_HOME_ADDRESS,
    SETTINGS,
    actions_of,
    binding_update,
    make_home_agent,
    only_acknowledgement,
    register,
    reports,
)

NODE = AuthorisedMobileNode(home_address=HOME_ADDRESS)
OTHER_NODE = AuthorisedMobileNode(home_address=OTHER_HOME_ADDRESS)


def changed(home_agent: HomeAgent, settings: HomeAgentSettings, **arguments: object) -> list:
    rekeyed = arguments.get("rekeyed", frozenset())
    return [
        *home_agent.withdraw_unserved(settings, 10.0),
        *home_agent.reconfigure(settings, rekeyed=rekeyed, now=10.0),  # type: ignore[arg-type]
    ]


def with_both_registered(**changes: object) -> HomeAgent:
    home_agent = make_home_agent(home_link=None, **changes)
    register(home_agent)
    other = {"home_address": OTHER_HOME_ADDRESS, "source": OTHER_CARE_OF_ADDRESS}
    register(home_agent, now=1.0, **other)
    return home_agent


def test_change_that_serves_the_same_nodes_leaves_bindings_alone() -> None:
    home_agent = with_both_registered()
    before = home_agent.bindings
    assert changed(home_agent, replace(SETTINGS, max_lifetime=60.0)) == []
    assert home_agent.bindings == before
    later = only_acknowledgement(home_agent.handle(binding_update(sequence=2), 11.0))
    assert later.lifetime == 60.0


def test_change_ends_the_binding_of_a_node_that_is_gone_and_no_other() -> None:
    home_agent = with_both_registered()
    actions = changed(home_agent, replace(SETTINGS, mobile_nodes=(OTHER_NODE,)))
    assert actions_of(actions, RemoveTunnel) == [RemoveTunnel(home_address=HOME_ADDRESS)]
    assert actions_of(actions, StopIntercepting) == [StopIntercepting(home_address=HOME_ADDRESS)]
    (report,) = reports(actions, "binding-removed")
    assert ("reason", "not-served") in report.details
    assert [each.home_address for each in home_agent.bindings] == [OTHER_HOME_ADDRESS]
    refused = only_acknowledgement(home_agent.handle(binding_update(sequence=2), 11.0))
    assert refused.status == BindingStatus.ADMINISTRATIVELY_PROHIBITED


def test_change_serves_a_node_that_is_new() -> None:
    home_agent = make_home_agent(home_link=None, mobile_nodes=(OTHER_NODE,))
    changed(home_agent, replace(SETTINGS, mobile_nodes=(NODE, OTHER_NODE)))
    assert only_acknowledgement(register(home_agent, now=11.0)).is_accepted


def test_change_of_keys_sets_the_tunnel_again() -> None:
    home_agent = with_both_registered()
    actions = changed(home_agent, SETTINGS, rekeyed=frozenset({HOME_ADDRESS}))
    (tunnel,) = actions_of(actions, SetTunnel)
    assert (tunnel.home_address, tunnel.remote) == (HOME_ADDRESS, CARE_OF_ADDRESS)


def test_change_ends_a_probe_for_a_node_that_is_gone() -> None:
    home_agent = make_home_agent()
    home_agent.handle(binding_update(), 9.5)
    assert home_agent.probing == (HOME_ADDRESS,)
    changed(home_agent, replace(SETTINGS, mobile_nodes=(OTHER_NODE,)))
    assert home_agent.probing == ()
    assert home_agent.handle_timer(11.0) == []


def test_change_to_fewer_bindings_lets_those_in_force_run_out() -> None:
    home_agent = with_both_registered()
    changed(home_agent, replace(SETTINGS, max_bindings=1))
    assert len(home_agent.bindings) == 2
    assert only_acknowledgement(home_agent.handle(binding_update(sequence=2), 11.0)).is_accepted


def test_change_keeps_the_home_link() -> None:
    home_agent = make_home_agent()
    changed(home_agent, replace(SETTINGS, home_link=None, link_layer_address=b""))
    home_agent.handle(binding_update(), 11.0)
    assert home_agent.probing == (HOME_ADDRESS,)
    assert SETTINGS.home_link == HOME_LINK


def test_binding_deleted_is_gone_and_its_number_stays() -> None:
    home_agent = with_both_registered(revocation=False)
    actions = home_agent.delete_binding(HOME_ADDRESS, 5.0)
    assert actions is not None
    assert actions_of(actions, StopIntercepting) == [StopIntercepting(home_address=HOME_ADDRESS)]
    (report,) = reports(actions, "binding-removed")
    assert ("reason", "deleted") in report.details
    (record,) = actions_of(actions, JournalRecord)
    assert record.value is not None and record.value.endswith(" d")
    assert [each.home_address for each in home_agent.bindings] == [OTHER_HOME_ADDRESS]
    assert home_agent.delete_binding(HOME_ADDRESS, 5.0) is None
    stale = only_acknowledgement(home_agent.handle(binding_update(sequence=1), 6.0))
    assert stale.status == BindingStatus.SEQUENCE_NUMBER_OUT_OF_WINDOW
    again = home_agent.handle(binding_update(sequence=2), 7.0)
    assert actions_of(again, InterceptHomeAddress)


def test_binding_deleted_while_probing_comes_to_nothing() -> None:
    home_agent = make_home_agent()
    home_agent.handle(binding_update(), 0.0)
    assert home_agent.delete_binding(HOME_ADDRESS, 0.5) is not None
    assert home_agent.handle_timer(2.0) == []
    assert home_agent.bindings == ()


def test_change_of_prefixes_lets_the_former_one_retire() -> None:
    home_agent = with_both_registered()
    new = HomePrefix(prefix=IPv6Network("2001:db8:9::/64"))
    settings = replace(SETTINGS, home_prefixes=(new,), prefix_retirement=7200.0)
    changed(home_agent, settings)
    refreshed = only_acknowledgement(home_agent.handle(binding_update(sequence=2), 11.0))
    assert refreshed.status == BindingStatus.ACCEPTED_BUT_PREFIX_DISCOVERY_NECESSARY
    later = 10.0 + 7200.0
    home_agent.handle_timer(later)
    assert home_agent.bindings == ()
