"""Keygen tokens, the binding management key and the authenticator (RFC 6275 5.2.5, 6.2.7).

The correspondent node makes a token for each of a mobile node's two addresses, the mobile node
receives both and makes the key of them, and each end authorizes its messages with that key::

    home keygen token    = First(64, HMAC_SHA1(Kcn, home address    | nonce | 0x00))
    care-of keygen token = First(64, HMAC_SHA1(Kcn, care-of address | nonce | 0x01))
    Kbm                  = SHA1(home keygen token | care-of keygen token)
    Kbm to deregister    = SHA1(home keygen token)
    authenticator        = First(96, HMAC_SHA1(Kbm, care-of address | correspondent | MH Data))

Nothing here is kept, and nothing here is ever compared but in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from ipaddress import IPv6Address
from typing import Final, TypeVar

from mnagent.wire.constants import MAX_NESTING, NEXT_HEADER_IPV6, NEXT_HEADER_MOBILITY
from mnagent.wire.ipv6 import IPv6Packet, RawPayload
from mnagent.wire.mobility import (
    BindingAcknowledgement,
    BindingUpdate,
    MobilityMessage,
    encode_mobility_message,
)
from mnagent.wire.mobility_options import BindingAuthorizationData
from mnagent.wire.packet import decode_invoking

NODE_KEY_LENGTH: Final = 20
"""Octets of Kcn (RFC 6275 5.2.1)."""
NONCE_LENGTH: Final = 8
"""Octets of a nonce, as RFC 6275 5.2.2 recommends."""
KEYGEN_TOKEN_LENGTH: Final = 8
AUTHENTICATOR_LENGTH: Final = 12
"""Octets: the 96 bits of RFC 6275 6.2.7."""

_HOME: Final = b"\x00"
_CARE_OF: Final = b"\x01"
_CHECKSUM: Final = slice(4, 6)

Authorizable = TypeVar("Authorizable", BindingUpdate, BindingAcknowledgement)


def home_keygen_token(node_key: bytes, home_address: IPv6Address, nonce: bytes) -> bytes:
    """The 8 octets that prove to have received what was sent to ``home_address``."""
    return _keygen_token(node_key, home_address.packed + nonce + _HOME)


def care_of_keygen_token(node_key: bytes, care_of_address: IPv6Address, nonce: bytes) -> bytes:
    """The 8 octets that prove to have received what was sent to ``care_of_address``."""
    return _keygen_token(node_key, care_of_address.packed + nonce + _CARE_OF)


def _keygen_token(node_key: bytes, data: bytes) -> bytes:
    return hmac.digest(node_key, data, "sha1")[:KEYGEN_TOKEN_LENGTH]


def binding_management_key(home_token: bytes, care_of_token: bytes | None = None) -> bytes:
    """Kbm, 20 octets; without a care-of token the one that deletes a binding."""
    return hashlib.sha1(home_token + (care_of_token or b"")).digest()


def authenticator(
    key: bytes,
    care_of_address: IPv6Address,
    correspondent: IPv6Address,
    mobility_header_octets: bytes,
) -> bytes:
    """The 12 octets of a Binding Authorization Data option (RFC 6275 6.2.7).

    Args:
        key: the binding management key.
        care_of_address: the one that is registered, alternate or not; in a deregistration and its
            acknowledgement the home address, wherever they are sent from.
        correspondent: the correspondent node's address; of a correspondent that is itself mobile
            the home address.
        mobility_header_octets: what the function of that name returns.
    """
    data = care_of_address.packed + correspondent.packed + mobility_header_octets
    return hmac.digest(key, data, "sha1")[:AUTHENTICATOR_LENGTH]


def mobility_header_octets(packet: IPv6Packet, data: bytes = b"") -> bytes:
    """ "MH Data": the Mobility Header with a checksum of zero and its authenticator cut off.

    Args:
        packet: holds a mobility message that ends in Binding Authorization Data.
        data: the octets it was decoded from, which are what the sender has authorized (reserved
            bits, padding, unknown options); empty for a packet that is yet to be encoded.

    Raises `ValueError` for a packet without a mobility message or without that option, and
    `mnagent.wire.buffer.DecodeError` for ``data`` that is no packet.
    """
    message = packet.payload
    if not isinstance(message, MobilityMessage):
        raise ValueError("the packet holds no mobility message")
    header = received_mobility_header(data) if data else encode_mobility_message(message)
    return _covered(message, header)


def received_mobility_header(data: bytes) -> bytes:
    """The Mobility Header in a packet's octets, whatever headers and tunnels are around it.

    ValueError where there is none."""
    for _ in range(MAX_NESTING):
        payload = decode_invoking(data).payload
        assert isinstance(payload, RawPayload), "the payload of a quoted packet is never decoded"
        if payload.next_header == NEXT_HEADER_MOBILITY and len(payload.data) >= 8:
            # Octets after the end of the Mobility Header belong to nothing.
            return payload.data[: (payload.data[1] + 1) * 8]
        if payload.next_header != NEXT_HEADER_IPV6:
            break
        data = payload.data
    raise ValueError("the packet holds no Mobility Header")


def _covered(message: MobilityMessage, header: bytes) -> bytes:
    option = authorization_of(message)
    if option is None:
        raise ValueError("the message does not end in Binding Authorization Data")
    covered = bytearray(header[: len(header) - len(option.authenticator)])
    covered[_CHECKSUM] = bytes(2)
    return bytes(covered)


def authorization_of(message: MobilityMessage) -> BindingAuthorizationData | None:
    """The Binding Authorization Data a message ends in (RFC 6275 9.5.1: it must be last)."""
    options = getattr(message, "options", ())
    last = options[-1] if options else None
    return last if isinstance(last, BindingAuthorizationData) else None


def authorized(
    message: Authorizable,
    key: bytes,
    *,
    care_of_address: IPv6Address,
    correspondent: IPv6Address,
) -> Authorizable:
    """The message with Binding Authorization Data as its last option.

    Addresses as in `authenticator`; the message must not have the option yet (`ValueError`).
    """
    empty = BindingAuthorizationData(bytes(AUTHENTICATOR_LENGTH))
    draft = replace(message, options=(*message.options, empty))
    octets = _covered(draft, encode_mobility_message(draft))
    value = authenticator(key, care_of_address, correspondent, octets)
    return replace(message, options=(*message.options, BindingAuthorizationData(value)))


def is_authorized(
    packet: IPv6Packet,
    key: bytes,
    *,
    care_of_address: IPv6Address,
    correspondent: IPv6Address,
    data: bytes = b"",
) -> bool:
    """Whether a received message's authenticator is right; compares in constant time.

    Addresses as in `authenticator`, ``data`` as in `mobility_header_octets`. False as well for a
    message without the option or with one of another length.
    """
    message = packet.payload
    option = authorization_of(message) if isinstance(message, MobilityMessage) else None
    if option is None:
        return False
    octets = mobility_header_octets(packet, data)
    expected = authenticator(key, care_of_address, correspondent, octets)
    return hmac.compare_digest(expected, option.authenticator)
