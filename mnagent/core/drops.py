"""Why a packet from the network was not acted on.

The peer's fault never raises: it is a drop with a reason, and every reason is a counter. The engine
has its own verdicts (`mnagent.datapath`); these are the control plane's.
"""

from __future__ import annotations

import enum


class DropReason(enum.Enum):
    """One counter each; the value is the name shown by ``mnagent status``."""

    MALFORMED = "malformed"
    BAD_CHECKSUM = "bad-checksum"
    PAYLOAD_PROTOCOL = "payload-protocol"
    MESSAGE_TOO_SHORT = "message-too-short"
    UNKNOWN_MOBILITY_MESSAGE = "unknown-mobility-message"
    UNEXPECTED_MESSAGE = "unexpected-message"
    NOT_PROTECTED = "not-protected"
    WRONG_SECURITY_ASSOCIATION = "wrong-security-association"
    NO_HOME_ADDRESS_OPTION = "no-home-address-option"
    TWO_HOME_ADDRESS_OPTIONS = "two-home-address-options"
    HOME_ADDRESS_NOT_ROUTABLE = "home-address-not-routable"
    CARE_OF_ADDRESS_NOT_ROUTABLE = "care-of-address-not-routable"
    MULTICAST_SOURCE = "multicast-source"
    NONCE_INDICES_IN_HOME_REGISTRATION = "nonce-indices-in-home-registration"
    UNSUPPORTED_MESSAGE = "unsupported-message"
    SEQUENCE_MISMATCH = "sequence-mismatch"
    STALE_SEQUENCE = "stale-sequence"
    UNKNOWN_PEER = "unknown-peer"
    NO_BINDING = "no-binding"
    BAD_TYPE2_ROUTING_HEADER = "bad-type2-routing-header"
    BAD_HOP_LIMIT = "bad-hop-limit"
    NOT_LINK_LOCAL = "not-link-local"
    RATE_LIMITED = "rate-limited"
    CACHE_FULL = "cache-full"
    UNKNOWN_NONCE = "unknown-nonce"
    NO_NONCE_INDICES = "no-nonce-indices"
    NO_BINDING_AUTHORIZATION = "no-binding-authorization"
    BAD_AUTHENTICATOR = "bad-authenticator"
    REPLAYED_NONCE = "replayed-nonce"
    WRONG_COOKIE = "wrong-cookie"
    WRONG_CARE_OF_ADDRESS = "wrong-care-of-address"
    NOT_THROUGH_TUNNEL = "not-through-tunnel"
    TOKEN_ALREADY_HELD = "token-already-held"
    NO_ROLE = "no-role"
    HOME_ADDRESS_OPTION_IN_TEST = "home-address-option-in-test"
    ROUTE_OPTIMIZATION_OFF = "route-optimization-off"
    NO_TYPE2_ROUTING_HEADER = "no-type2-routing-header"
    WRONG_PREFIX_IDENTIFIER = "wrong-prefix-identifier"
    """Mobile prefix discovery: the answer to nothing that was asked, or not the first one."""
    WRONG_TRANSACTION = "wrong-transaction"
    """DHCPv6: the answer to nothing that was asked."""
    WRONG_IDENTIFIER = "wrong-identifier"
    """DHCPv6: another client's DUID, another server's, or none."""
    NO_ADDRESSES_AVAILABLE = "no-addresses-available"
    WRONG_LIFETIMES = "wrong-lifetimes"
    """DHCPv6: preferred above valid, or T1 above T2."""
    SERVER_REFUSED = "server-refused"
    """DHCPv6: another status than success."""
