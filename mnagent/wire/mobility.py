"""Mobility Header messages (RFC 6275 6.1).

Every message starts with the common header; its Checksum is `mnagent.wire.packet`'s work::

    +---------------+---------------+---------------+---------------+
    | Payload Proto |  Header Len   |   MH Type     |   Reserved    |
    +---------------+---------------+---------------+---------------+
    |           Checksum            |  message data ...
    +---------------+---------------+

Times are seconds here; units of 4 seconds exist only on the wire.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv6Address
from struct import pack, unpack_from
from typing import ClassVar, Final

from mnagent.wire import constants
from mnagent.wire.buffer import DecodeError, sized, unsigned
from mnagent.wire.constants import LIFETIME_UNIT, NEXT_HEADER_NONE
from mnagent.wire.mobility_options import (
    MobilityOption,
    decode_mobility_options,
    encode_mobility_options,
)


class BindingStatus(enum.IntEnum):
    """Status of a Binding Acknowledgement; below 128 means accepted (RFC 6275 6.1.8)."""

    BINDING_UPDATE_ACCEPTED = 0
    ACCEPTED_BUT_PREFIX_DISCOVERY_NECESSARY = 1
    REASON_UNSPECIFIED = 128
    ADMINISTRATIVELY_PROHIBITED = 129
    INSUFFICIENT_RESOURCES = 130
    HOME_REGISTRATION_NOT_SUPPORTED = 131
    NOT_HOME_SUBNET = 132
    NOT_HOME_AGENT_FOR_THIS_MOBILE_NODE = 133
    DUPLICATE_ADDRESS_DETECTION_FAILED = 134
    SEQUENCE_NUMBER_OUT_OF_WINDOW = 135
    EXPIRED_HOME_NONCE_INDEX = 136
    EXPIRED_CARE_OF_NONCE_INDEX = 137
    EXPIRED_NONCES = 138
    REGISTRATION_TYPE_CHANGE_DISALLOWED = 139
    IDENTIFIER_MISMATCH = 144
    """RFC 4285: the time in the replay protection option is not close to ours."""
    MESSAGE_IDENTIFIER_REQUIRED = 145
    """RFC 4285: the replay protection option is missing."""
    AUTHENTICATION_FAILED = 146
    """RFC 4285."""
    INVALID_CARE_OF_ADDRESS = 174

    @property
    def sentence(self) -> str:
        """One sentence for people."""
        return _BINDING_STATUS_SENTENCES[self]


_BINDING_STATUS_SENTENCES: Final = {
    BindingStatus.BINDING_UPDATE_ACCEPTED: "The binding was accepted.",
    BindingStatus.ACCEPTED_BUT_PREFIX_DISCOVERY_NECESSARY: (
        "The binding was accepted, but the home prefix is changing: ask for the new prefixes."
    ),
    BindingStatus.REASON_UNSPECIFIED: "The other side refused the binding without giving a reason.",
    BindingStatus.ADMINISTRATIVELY_PROHIBITED: (
        "The home agent's configuration does not allow this mobile node to register."
    ),
    BindingStatus.INSUFFICIENT_RESOURCES: "The home agent has no room for another binding now.",
    BindingStatus.HOME_REGISTRATION_NOT_SUPPORTED: "The node asked is not a home agent.",
    BindingStatus.NOT_HOME_SUBNET: (
        "The home address is not within the prefixes the home agent serves."
    ),
    BindingStatus.NOT_HOME_AGENT_FOR_THIS_MOBILE_NODE: (
        "The home agent has no binding for this home address to change or remove."
    ),
    BindingStatus.DUPLICATE_ADDRESS_DETECTION_FAILED: (
        "Another node on the home link already uses the home address."
    ),
    BindingStatus.SEQUENCE_NUMBER_OUT_OF_WINDOW: (
        "The update's sequence number is older than the one the other side remembers."
    ),
    BindingStatus.EXPIRED_HOME_NONCE_INDEX: (
        "The proof of the home address has expired: test the home address again."
    ),
    BindingStatus.EXPIRED_CARE_OF_NONCE_INDEX: (
        "The proof of the care-of address has expired: test the care-of address again."
    ),
    BindingStatus.EXPIRED_NONCES: (
        "The proofs of home and care-of address have both expired: test both again."
    ),
    BindingStatus.REGISTRATION_TYPE_CHANGE_DISALLOWED: (
        "A binding of the other kind (home or correspondent registration) already exists."
    ),
    BindingStatus.IDENTIFIER_MISMATCH: (
        "The clocks of mobile node and home agent are too far apart, or the update was replayed."
    ),
    BindingStatus.MESSAGE_IDENTIFIER_REQUIRED: (
        "The home agent wants the time in each update, as protection against replays."
    ),
    BindingStatus.AUTHENTICATION_FAILED: (
        "The update's authenticator is wrong: the two ends have different keys."
    ),
    BindingStatus.INVALID_CARE_OF_ADDRESS: "The care-of address cannot be bound.",
}


class RevocationTrigger(enum.IntEnum):
    """Why a binding is revoked (RFC 5846 5.1), as far as one mobile node is concerned."""

    UNSPECIFIED = 0
    ADMINISTRATIVE_REASON = 1
    USER_INITIATED_TERMINATION = 5
    ACCESS_NETWORK_TERMINATION = 6
    POSSIBLE_OUT_OF_SYNC_STATE = 7


class RevocationStatus(enum.IntEnum):
    """Status of a Binding Revocation Acknowledgement; below 128 means done (RFC 5846 5.2)."""

    SUCCESS = 0
    PARTIAL_SUCCESS = 1
    BINDING_DOES_NOT_EXIST = 128
    IPV4_HOME_ADDRESS_OPTION_REQUIRED = 129
    GLOBAL_REVOCATION_NOT_AUTHORIZED = 130
    MOBILE_NODE_IDENTITY_REQUIRED = 131
    MOBILE_NODE_ATTACHED = 132
    TRIGGER_NOT_SUPPORTED = 133
    FUNCTION_NOT_SUPPORTED = 134
    PROXY_BINDING_REVOCATION_NOT_SUPPORTED = 135


class BindingErrorStatus(enum.IntEnum):
    """Status of a Binding Error (RFC 6275 6.1.9)."""

    UNKNOWN_BINDING_FOR_HOME_ADDRESS_OPTION = 1
    UNRECOGNIZED_MOBILITY_HEADER_TYPE = 2

    @property
    def sentence(self) -> str:
        """One sentence for people."""
        if self is BindingErrorStatus.UNKNOWN_BINDING_FOR_HOME_ADDRESS_OPTION:
            return "The other side knows no binding for the home address used."
        return "The other side does not know this kind of mobility message."


def status_sentence(status: int) -> str:
    """One sentence for any Binding Acknowledgement status, known or not."""
    try:
        return BindingStatus(status).sentence
    except ValueError:
        verb = "accepted" if status < _FIRST_REJECTION else "refused"
        return f"The binding was {verb} with status {status}, which has no known meaning."


_FIRST_REJECTION: Final = 128


def _binding_status(value: int) -> int:
    """The named status where there is one."""
    try:
        return BindingStatus(value)
    except ValueError:
        return value


def _binding_error_status(value: int) -> int:
    try:
        return BindingErrorStatus(value)
    except ValueError:
        return value


@dataclass(frozen=True, slots=True)
class BindingRefreshRequest:
    """A correspondent or home agent asks for a new binding (RFC 6275 6.1.2)."""

    message_type: ClassVar[int] = constants.BINDING_REFRESH_REQUEST
    options: tuple[MobilityOption, ...] = ()


@dataclass(frozen=True, slots=True)
class HomeTestInit:
    """Start of the home address test, sent through the home agent (RFC 6275 6.1.3)."""

    message_type: ClassVar[int] = constants.HOME_TEST_INIT
    cookie: bytes
    """Home init cookie, 8 octets."""
    options: tuple[MobilityOption, ...] = ()


@dataclass(frozen=True, slots=True)
class CareOfTestInit:
    """Start of the care-of address test, sent directly (RFC 6275 6.1.4)."""

    message_type: ClassVar[int] = constants.CARE_OF_TEST_INIT
    cookie: bytes
    """Care-of init cookie, 8 octets."""
    options: tuple[MobilityOption, ...] = ()


@dataclass(frozen=True, slots=True)
class HomeTest:
    """Answer to a Home Test Init (RFC 6275 6.1.5)."""

    message_type: ClassVar[int] = constants.HOME_TEST
    nonce_index: int
    cookie: bytes
    """Home init cookie, echoed, 8 octets."""
    keygen_token: bytes
    """Home keygen token, 8 octets."""
    options: tuple[MobilityOption, ...] = ()


@dataclass(frozen=True, slots=True)
class CareOfTest:
    """Answer to a Care-of Test Init (RFC 6275 6.1.6)."""

    message_type: ClassVar[int] = constants.CARE_OF_TEST
    nonce_index: int
    cookie: bytes
    """Care-of init cookie, echoed, 8 octets."""
    keygen_token: bytes
    """Care-of keygen token, 8 octets."""
    options: tuple[MobilityOption, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingUpdate:
    """A mobile node tells its care-of address (RFC 6275 6.1.7)."""

    message_type: ClassVar[int] = constants.BINDING_UPDATE
    sequence: int
    """16 bits, compared modulo 2**16 (RFC 6275 9.5.1)."""
    lifetime: float
    """Seconds, up to 262140, on the wire rounded down to a multiple of 4. 0 removes the binding."""
    acknowledge: bool = False
    home_registration: bool = False
    link_local_compatibility: bool = False
    key_management_mobility: bool = False
    other_flags: int = 0
    """The flag bits below the four named ones (0x0fff), of extensions such as RFC 3963."""
    options: tuple[MobilityOption, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingAcknowledgement:
    """Answer to a Binding Update (RFC 6275 6.1.8)."""

    message_type: ClassVar[int] = constants.BINDING_ACKNOWLEDGEMENT
    status: int
    """A `BindingStatus` where it has a name."""
    sequence: int
    """Echoed; with SEQUENCE_NUMBER_OUT_OF_WINDOW the last one that was accepted."""
    lifetime: float
    """Seconds granted, as in BindingUpdate."""
    key_management_mobility: bool = False
    other_flags: int = 0
    """The flag bits below K (0x7f)."""
    options: tuple[MobilityOption, ...] = ()

    @property
    def is_accepted(self) -> bool:
        """True when the status means that the binding is in force."""
        return self.status < _FIRST_REJECTION


@dataclass(frozen=True, slots=True)
class BindingError:
    """Complaint about a Home Address option or a message type (RFC 6275 6.1.9)."""

    message_type: ClassVar[int] = constants.BINDING_ERROR
    status: int
    """A `BindingErrorStatus` where it has a name."""
    home_address: IPv6Address
    """From the Home Address option of the packet complained about, else unspecified."""
    options: tuple[MobilityOption, ...] = ()


@dataclass(frozen=True, slots=True)
class HomeAgentSwitch:
    """A home agent asks a mobile node to look for another one (RFC 5142 4)."""

    message_type: ClassVar[int] = constants.HOME_AGENT_SWITCH
    home_agents: tuple[IPv6Address, ...] = ()
    """Others, in order of preference; none leaves the mobile node to discover them."""
    options: tuple[MobilityOption, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingRevocationIndication:
    """A home agent has ended, or is about to end, a binding (RFC 5846 5.1)."""

    message_type: ClassVar[int] = constants.BINDING_REVOCATION
    trigger: int
    """A `RevocationTrigger`, or another number."""
    sequence: int
    """16 bits; no relation to those of Binding Updates."""
    proxy_binding: bool = False
    ipv4_only: bool = False
    is_global: bool = False
    options: tuple[MobilityOption, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingRevocationAcknowledgement:
    """Answer to a Binding Revocation Indication (RFC 5846 5.2)."""

    message_type: ClassVar[int] = constants.BINDING_REVOCATION
    status: int
    """A `RevocationStatus`, or another number."""
    sequence: int
    """Echoed."""
    proxy_binding: bool = False
    ipv4_only: bool = False
    is_global: bool = False
    options: tuple[MobilityOption, ...] = ()


@dataclass(frozen=True, slots=True)
class UnknownMobilityMessage:
    """A message of any other type; the receiver answers with a Binding Error (RFC 6275 9.2)."""

    message_type: int
    data: bytes = b""
    """Message data after the checksum; the encoder fills it up with zeros to 8n+2 octets."""


MobilityMessage = (
    BindingRefreshRequest
    | HomeTestInit
    | CareOfTestInit
    | HomeTest
    | CareOfTest
    | BindingUpdate
    | BindingAcknowledgement
    | BindingError
    | HomeAgentSwitch
    | BindingRevocationIndication
    | BindingRevocationAcknowledgement
    | UnknownMobilityMessage
)

COMMON_HEADER_LENGTH: Final = 6
"""Octets before the message data."""

MINIMUM_LENGTHS: Final = {
    constants.BINDING_REFRESH_REQUEST: 8,
    constants.HOME_TEST_INIT: 16,
    constants.CARE_OF_TEST_INIT: 16,
    constants.HOME_TEST: 24,
    constants.CARE_OF_TEST: 24,
    constants.BINDING_UPDATE: 16,
    constants.BINDING_ACKNOWLEDGEMENT: 16,
    constants.BINDING_ERROR: 24,
    constants.HOME_AGENT_SWITCH: 8,
    constants.BINDING_REVOCATION: 16,
}
"""Octets of the shortest valid header of each known type (RFC 6275 6.1, 5142 4, 5846 5)."""

_ACKNOWLEDGE: Final = 0x8000
_HOME_REGISTRATION: Final = 0x4000
_LINK_LOCAL_COMPATIBILITY: Final = 0x2000
_KEY_MANAGEMENT_MOBILITY: Final = 0x1000
_OTHER_UPDATE_BITS: Final = 12
_ACKNOWLEDGEMENT_KEY_MANAGEMENT_MOBILITY: Final = 0x80
_OTHER_ACKNOWLEDGEMENT_BITS: Final = 7

_PROXY_BINDING: Final = 0x8000
_IPV4_ONLY: Final = 0x4000
_GLOBAL: Final = 0x2000

_COOKIE_LENGTH: Final = 8
_TOKEN_LENGTH: Final = 8


def _lifetime_units(lifetime: float) -> int:
    return unsigned(lifetime // LIFETIME_UNIT, 16, "lifetime in units of 4 s")


def _test_init_data(message: HomeTestInit | CareOfTestInit) -> bytes:
    return bytes(2) + sized(message.cookie, _COOKIE_LENGTH, "cookie")


def _test_data(message: HomeTest | CareOfTest) -> bytes:
    index = unsigned(message.nonce_index, 16, "nonce index")
    cookie = sized(message.cookie, _COOKIE_LENGTH, "cookie")
    return pack("!H", index) + cookie + sized(message.keygen_token, _TOKEN_LENGTH, "keygen token")


def _update_data(message: BindingUpdate) -> bytes:
    flags = (
        unsigned(message.other_flags, _OTHER_UPDATE_BITS, "other flags")
        | _ACKNOWLEDGE * message.acknowledge
        | _HOME_REGISTRATION * message.home_registration
        | _LINK_LOCAL_COMPATIBILITY * message.link_local_compatibility
        | _KEY_MANAGEMENT_MOBILITY * message.key_management_mobility
    )
    sequence = unsigned(message.sequence, 16, "sequence number")
    return pack("!HHH", sequence, flags, _lifetime_units(message.lifetime))


def _acknowledgement_data(message: BindingAcknowledgement) -> bytes:
    flags = unsigned(message.other_flags, _OTHER_ACKNOWLEDGEMENT_BITS, "other flags")
    flags |= _ACKNOWLEDGEMENT_KEY_MANAGEMENT_MOBILITY * message.key_management_mobility
    sequence = unsigned(message.sequence, 16, "sequence number")
    status = unsigned(message.status, 8, "status")
    return pack("!BBHH", status, flags, sequence, _lifetime_units(message.lifetime))


def _revocation_data(
    message: BindingRevocationIndication | BindingRevocationAcknowledgement,
) -> bytes:
    if isinstance(message, BindingRevocationIndication):
        head = constants.BINDING_REVOCATION_INDICATION, unsigned(message.trigger, 8, "trigger")
    else:
        head = constants.BINDING_REVOCATION_ACKNOWLEDGEMENT, unsigned(message.status, 8, "status")
    flags = (
        _PROXY_BINDING * message.proxy_binding
        | _IPV4_ONLY * message.ipv4_only
        | _GLOBAL * message.is_global
    )
    return pack("!BBHH", *head, unsigned(message.sequence, 16, "sequence number"), flags)


def _fixed_data(message: MobilityMessage) -> bytes:
    """Message data without options."""
    match message:
        case HomeTestInit() | CareOfTestInit():
            return _test_init_data(message)
        case HomeTest() | CareOfTest():
            return _test_data(message)
        case BindingUpdate():
            return _update_data(message)
        case BindingAcknowledgement():
            return _acknowledgement_data(message)
        case BindingError(status, home_address):
            return pack("!Bx", unsigned(status, 8, "status")) + home_address.packed
        case BindingRefreshRequest():
            return bytes(2)
        case HomeAgentSwitch(home_agents):
            count = unsigned(len(home_agents), 8, "number of home agents")
            return bytes((count, 0)) + b"".join(address.packed for address in home_agents)
        case BindingRevocationIndication() | BindingRevocationAcknowledgement():
            return _revocation_data(message)
        case _:
            if message.message_type in MINIMUM_LENGTHS:
                raise ValueError(f"message type {message.message_type} has a class of its own")
            return message.data + bytes(-(COMMON_HEADER_LENGTH + len(message.data)) % 8)


def encode_mobility_message(message: MobilityMessage) -> bytes:
    """A whole Mobility Header with a checksum of zero; ValueError when a field does not fit."""
    data = _fixed_data(message)
    if not isinstance(message, UnknownMobilityMessage):
        data += encode_mobility_options(message.options, COMMON_HEADER_LENGTH + len(data))
    length = unsigned((COMMON_HEADER_LENGTH + len(data)) // 8 - 1, 8, "header length")
    message_type = unsigned(message.message_type, 8, "message type")
    return pack("!BBBxxx", NEXT_HEADER_NONE, length, message_type) + data


def decode_mobility_message(data: bytes, offset: int) -> MobilityMessage:
    """Decode a whole Mobility Header that starts at ``offset`` of its packet.

    The caller has checked length, checksum, Payload Proto and the minimum length of the type.
    DecodeError when the options are malformed.
    """
    match data[2]:
        case constants.HOME_TEST_INIT:
            return HomeTestInit(data[8:16], _options(data, 16, offset))
        case constants.CARE_OF_TEST_INIT:
            return CareOfTestInit(data[8:16], _options(data, 16, offset))
        case constants.HOME_TEST:
            index = int.from_bytes(data[6:8], "big")
            return HomeTest(index, data[8:16], data[16:24], _options(data, 24, offset))
        case constants.CARE_OF_TEST:
            index = int.from_bytes(data[6:8], "big")
            return CareOfTest(index, data[8:16], data[16:24], _options(data, 24, offset))
        case constants.BINDING_UPDATE:
            return _decode_update(data, offset)
        case constants.BINDING_ACKNOWLEDGEMENT:
            return _decode_acknowledgement(data, offset)
        case constants.BINDING_ERROR:
            status = _binding_error_status(data[6])
            return BindingError(status, IPv6Address(data[8:24]), _options(data, 24, offset))
        case constants.BINDING_REFRESH_REQUEST:
            return BindingRefreshRequest(_options(data, 8, offset))
        case constants.HOME_AGENT_SWITCH:
            return _decode_switch(data, offset)
        case constants.BINDING_REVOCATION:
            return _decode_revocation(data, offset)
        case message_type:
            return UnknownMobilityMessage(message_type, data[COMMON_HEADER_LENGTH:])


def _options(data: bytes, start: int, offset: int) -> tuple[MobilityOption, ...]:
    return decode_mobility_options(data[start:], start, offset + start)


def _decode_update(data: bytes, offset: int) -> BindingUpdate:
    sequence, flags, lifetime = unpack_from("!HHH", data, COMMON_HEADER_LENGTH)
    return BindingUpdate(
        sequence=sequence,
        lifetime=lifetime * LIFETIME_UNIT,
        acknowledge=bool(flags & _ACKNOWLEDGE),
        home_registration=bool(flags & _HOME_REGISTRATION),
        link_local_compatibility=bool(flags & _LINK_LOCAL_COMPATIBILITY),
        key_management_mobility=bool(flags & _KEY_MANAGEMENT_MOBILITY),
        other_flags=flags & ((1 << _OTHER_UPDATE_BITS) - 1),
        options=_options(data, 12, offset),
    )


def _decode_switch(data: bytes, offset: int) -> HomeAgentSwitch:
    end = 8 + 16 * data[6]
    if end > len(data):
        raise DecodeError("more home agents than there is room for", offset + 6)
    addresses = tuple(IPv6Address(data[at : at + 16]) for at in range(8, end, 16))
    return HomeAgentSwitch(addresses, _options(data, end, offset))


def _decode_revocation(
    data: bytes, offset: int
) -> BindingRevocationIndication | BindingRevocationAcknowledgement:
    kind, code, sequence, flags = unpack_from("!BBHH", data, COMMON_HEADER_LENGTH)
    bits = (bool(flags & _PROXY_BINDING), bool(flags & _IPV4_ONLY), bool(flags & _GLOBAL))
    options = _options(data, 12, offset)
    if kind == constants.BINDING_REVOCATION_INDICATION:
        return BindingRevocationIndication(
            trigger=code,
            sequence=sequence,
            proxy_binding=bits[0],
            ipv4_only=bits[1],
            is_global=bits[2],
            options=options,
        )
    if kind == constants.BINDING_REVOCATION_ACKNOWLEDGEMENT:
        return BindingRevocationAcknowledgement(
            status=code,
            sequence=sequence,
            proxy_binding=bits[0],
            ipv4_only=bits[1],
            is_global=bits[2],
            options=options,
        )
    raise DecodeError(f"binding revocation type {kind}", offset + COMMON_HEADER_LENGTH)


def _decode_acknowledgement(data: bytes, offset: int) -> BindingAcknowledgement:
    status, flags, sequence, lifetime = unpack_from("!BBHH", data, COMMON_HEADER_LENGTH)
    return BindingAcknowledgement(
        status=_binding_status(status),
        sequence=sequence,
        lifetime=lifetime * LIFETIME_UNIT,
        key_management_mobility=bool(flags & _ACKNOWLEDGEMENT_KEY_MANAGEMENT_MOBILITY),
        other_flags=flags & ((1 << _OTHER_ACKNOWLEDGEMENT_BITS) - 1),
        options=_options(data, 12, offset),
    )
