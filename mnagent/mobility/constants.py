"""Numbers of RFC 6275 sections 12 and 13, in the RFC's spelling, and the few this agent adds.

All times are seconds.
"""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import Final

# RFC 6275 section 12.
DHAAD_RETRIES: Final = 4
INITIAL_BINDACK_TIMEOUT: Final = 1.0
INITIAL_DHAAD_TIMEOUT: Final = 3.0
INITIAL_SOLICIT_TIMER: Final = 3.0
MAX_BINDACK_TIMEOUT: Final = 32.0
MAX_DELETE_BCE_TIMEOUT: Final = 10.0
MAX_NONCE_LIFETIME: Final = 240.0
MAX_TOKEN_LIFETIME: Final = 210.0
MAX_RO_FAILURE: Final = 3
MAX_RR_BINDING_LIFETIME: Final = 420.0
MAX_UPDATE_RATE: Final = 3
"""Messages of one type to one peer within a second."""
PREFIX_ADV_RETRIES: Final = 3
PREFIX_ADV_TIMEOUT: Final = 3.0

# RFC 4861 section 10 and RFC 4862 section 5.1, which RFC 6275 leans on.
RETRANS_TIMER: Final = 1.0
DUP_ADDR_DETECT_TRANSMITS: Final = 1
MAX_NEIGHBOR_ADVERTISEMENT: Final = 3

NEIGHBOR_DISCOVERY_HOP_LIMIT: Final = 255
UNSPECIFIED_ADDRESS: Final = IPv6Address("::")
ALL_NODES: Final = IPv6Address("ff02::1")

# RFC 6275 section 13: the defaults.
INITIAL_BINDACK_TIMEOUT_FIRST_REGISTRATION: Final = 1.5 * RETRANS_TIMER * DUP_ADDR_DETECT_TRANSMITS
MAX_MOB_PFX_ADV_INTERVAL: Final = 86_400.0
MIN_DELAY_BETWEEN_RAS: Final = 3.0
MIN_MOB_PFX_ADV_INTERVAL: Final = 600.0

# RFC 5142 section 8.
INITIAL_HA_SWITCH_TIMEOUT: Final = 5.0
MAX_HA_SWITCH_TIMEOUT: Final = 20.0
MAX_HA_SWITCH_TRANSMIT_RATE: Final = 1.0
"""Messages a second."""

SEQUENCE_MODULUS: Final = 1 << 16
LIFETIME_UNIT: Final = 4.0
"""Binding lifetimes travel in units of four seconds (RFC 6275 6.1.7), so none is shorter."""

# This agent's own choices.
MAX_DISCOVERED_HOME_AGENTS: Final = (1280 - 48) // 16
"""Addresses of a Home Agent Address Discovery Reply that fits into 1280 octets (10.5.1)."""
REFRESH_FRACTION: Final = 0.85
"""Share of a granted lifetime after which the binding is refreshed (RFC 6275 11.7.3: well
before)."""
INITIAL_REFUSED_DELAY: Final = 8.0
"""First wait after a refusal that only an administrator can cure; doubles at each refusal."""
MAX_REFUSED_DELAY: Final = 256.0
SEQUENCE_BLOCK: Final = 64
"""Sequence numbers reserved in stable storage at a time."""
MAX_SHUTDOWN_UPDATES: Final = 2
"""Deregistrations tried before a stopping node leaves without an answer."""
MAX_HOME_AGENT_SOLICITATIONS: Final = 3
"""Neighbor Solicitations for the home agent's link-layer address on return (RFC 6275 11.5.5)."""
MAX_HOME_ABSENCE: Final = 5.0
"""Off the home link for no longer, as while roaming between its access points, and without having
registered, the node takes its home address up again without probing it."""
