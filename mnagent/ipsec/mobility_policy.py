"""The policies that Mobile IPv6 asks for (RFC 3776 section 5.2, with the types of RFC 4877 7.2).

In the order in which they are tried:

1. Binding Updates and Acknowledgements between home address and home agent, revocations and home
   agent switch messages: transport mode.
2. Mobile Prefix Solicitations and Advertisements between the same two: transport mode.
3. Home Test Init and Home Test between the home address and anybody, in the tunnel: tunnel mode.
4. All else in the tunnel, if the payload is to be protected: tunnel mode.
5. Mobile Prefix Solicitations and Advertisements of anybody else: discarded. They are never taken,
   nor sent, without protection.
6. On a home agent, home registrations of anybody else, and on a mobile node, acknowledgements
   from the home agent to any other address: discarded (RFC 4877 7.2.1 asks for such an entry, so
   that nothing without an association slips past the database).

When the payload is protected with encryption, its pair carries the Home Test messages too: the
tunnel then has one pair of associations, and RFC 3776 4.3 is met by it.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Address
from typing import Final

from mnagent.core.actions import TunnelEnd
from mnagent.core.security import EspTransform
from mnagent.ipsec.association import AssociationPair
from mnagent.ipsec.keys import KeySet
from mnagent.ipsec.policy import SecurityPolicy, SecurityPolicyDatabase
from mnagent.ipsec.purpose import Purpose
from mnagent.ipsec.selectors import Selector
from mnagent.wire.icmp6 import MobilePrefixAdvertisement, MobilePrefixSolicitation
from mnagent.wire.mobility import (
    BindingAcknowledgement,
    BindingRevocationAcknowledgement,
    BindingRevocationIndication,
    BindingUpdate,
    HomeAgentSwitch,
    HomeTest,
    HomeTestInit,
)

FROM_MOBILE_NODE: Final = (BindingUpdate, BindingRevocationAcknowledgement)
TO_MOBILE_NODE: Final = (BindingAcknowledgement, BindingRevocationIndication, HomeAgentSwitch)


def mobile_node_database(*keys: KeySet, protect_payload: bool = False) -> SecurityPolicyDatabase:
    """The policies of a mobile node; its tunnel is inactive until somebody activates it.

    There is one set of keys for each home address and each of its home agents.

    Raises:
        ValueError: the payload is to be protected and there is no association for it.
    """
    policies = [
        policy for each in keys for policy in _policies(each, protect_payload=protect_payload)
    ]
    for home_agent in dict.fromkeys(each.home_agent for each in keys):
        policies.append(_refuse(Selector(source=home_agent, message=TO_MOBILE_NODE)))
    policies.append(
        _refuse(
            Selector(message=MobilePrefixAdvertisement),
            outbound=Selector(message=MobilePrefixSolicitation),
        )
    )
    return SecurityPolicyDatabase(policies)


def home_agent_database(
    home_agent: IPv6Address, keys: Iterable[KeySet], *, protect_payload: bool = False
) -> SecurityPolicyDatabase:
    """The policies of a home agent for all its mobile nodes.

    Each home address has exactly one association for its Binding Updates (RFC 3776 4.2).

    Raises:
        ValueError: two key sets are for one home address, or the payload has no association.
    """
    policies: list[SecurityPolicy] = []
    served: set[IPv6Address] = set()
    for key_set in keys:
        if key_set.home_address in served:
            raise ValueError(f"two sets of keys are for the home address {key_set.home_address}")
        served.add(key_set.home_address)
        policies += _policies(key_set, protect_payload=protect_payload)
    registration = Selector(destination=home_agent, message=BindingUpdate, home_registration=True)
    policies.append(_refuse(registration))
    policies.append(
        _refuse(
            Selector(message=MobilePrefixSolicitation),
            outbound=Selector(message=MobilePrefixAdvertisement),
        )
    )
    return SecurityPolicyDatabase(policies)


def _policies(keys: KeySet, *, protect_payload: bool) -> list[SecurityPolicy]:
    """Of one home address, at either end, in order."""
    if keys.authentication is not None:
        if protect_payload:
            raise ValueError(f"no payload keys for the home address {keys.home_address}")
        return [_self_protected(keys)]
    policies = [_binding(keys)]
    prefix_discovery = keys.pairs.get(Purpose.PREFIX_DISCOVERY)
    if prefix_discovery is not None:
        policies.append(_prefix_discovery(keys, prefix_discovery))
    payload = keys.pairs.get(Purpose.PAYLOAD) if protect_payload else None
    if protect_payload and payload is None:
        raise ValueError(f"no payload keys for the home address {keys.home_address}")
    return_routability = keys.pairs.get(Purpose.RETURN_ROUTABILITY)
    if payload is not None and _encrypts(payload):
        return_routability = payload
    if return_routability is not None:
        policies.append(_return_routability(keys, return_routability))
    if payload is not None:
        policies.append(_payload(keys, payload))
    return policies


def _self_protected(keys: KeySet) -> SecurityPolicy:
    """Updates and acknowledgements that carry RFC 4285's option, and none of the other messages,
    which have nothing to protect them then."""
    is_mobile_node = keys.end is TunnelEnd.MOBILE_NODE
    update = Selector(source=keys.home_address, destination=keys.home_agent, message=BindingUpdate)
    acknowledgement = Selector(
        source=keys.home_agent, destination=keys.home_address, message=BindingAcknowledgement
    )
    return SecurityPolicy(
        purpose=Purpose.BINDING,
        home_address=keys.home_address,
        home_agent=keys.home_agent,
        outbound=update if is_mobile_node else acknowledgement,
        inbound=acknowledgement if is_mobile_node else update,
        associations=None,
        is_bypass=True,
    )


def _encrypts(pair: AssociationPair) -> bool:
    transforms = (pair.outbound.transform, pair.inbound.transform)
    return EspTransform.NULL_HMAC_SHA256_128 not in transforms


def _policy(
    keys: KeySet,
    purpose: Purpose,
    *,
    pair: AssociationPair,
    from_mobile_node: Selector,
    to_mobile_node: Selector,
) -> SecurityPolicy:
    """The same two selectors serve both ends, the other way round."""
    is_mobile_node = keys.end is TunnelEnd.MOBILE_NODE
    return SecurityPolicy(
        purpose=purpose,
        home_address=keys.home_address,
        home_agent=keys.home_agent,
        outbound=from_mobile_node if is_mobile_node else to_mobile_node,
        inbound=to_mobile_node if is_mobile_node else from_mobile_node,
        associations=pair,
    )


def _binding(keys: KeySet) -> SecurityPolicy:
    """RFC 3776 5.2.1, RFC 4877 7.2.1; the same pair as RFC 5142 5.1 and RFC 5846 6.1 have it."""
    return _policy(
        keys,
        Purpose.BINDING,
        pair=keys.pairs[Purpose.BINDING],
        from_mobile_node=Selector(
            source=keys.home_address, destination=keys.home_agent, message=FROM_MOBILE_NODE
        ),
        to_mobile_node=Selector(
            source=keys.home_agent, destination=keys.home_address, message=TO_MOBILE_NODE
        ),
    )


def _prefix_discovery(keys: KeySet, pair: AssociationPair) -> SecurityPolicy:
    """RFC 3776 5.2.3, RFC 4877 7.2.3."""
    return _policy(
        keys,
        Purpose.PREFIX_DISCOVERY,
        pair=pair,
        from_mobile_node=Selector(
            source=keys.home_address,
            destination=keys.home_agent,
            message=MobilePrefixSolicitation,
        ),
        to_mobile_node=Selector(
            source=keys.home_agent,
            destination=keys.home_address,
            message=MobilePrefixAdvertisement,
        ),
    )


def _return_routability(keys: KeySet, pair: AssociationPair) -> SecurityPolicy:
    """RFC 3776 5.2.2, RFC 4877 7.2.2; the correspondent may be the home agent itself (4877 4.3)."""
    return _policy(
        keys,
        Purpose.RETURN_ROUTABILITY,
        pair=pair,
        from_mobile_node=Selector(source=keys.home_address, message=HomeTestInit),
        to_mobile_node=Selector(destination=keys.home_address, message=HomeTest),
    )


def _payload(keys: KeySet, pair: AssociationPair) -> SecurityPolicy:
    """RFC 3776 5.2.4, RFC 4877 7.2.4."""
    return _policy(
        keys,
        Purpose.PAYLOAD,
        pair=pair,
        from_mobile_node=Selector(source=keys.home_address),
        to_mobile_node=Selector(destination=keys.home_address),
    )


def _refuse(inbound: Selector, *, outbound: Selector | None = None) -> SecurityPolicy:
    purpose = Purpose.BINDING if outbound is None else Purpose.PREFIX_DISCOVERY
    return SecurityPolicy(
        purpose=purpose,
        home_address=None,
        outbound=outbound,
        inbound=inbound,
        associations=None,
    )
