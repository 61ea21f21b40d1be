"""A scripted DHCPv6 server: what it answers is what a test tells it."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv6Address

from mnagent.wire.dhcp6 import (
    ClientIdentifier,
    Dhcp6Message,
    Dhcp6MessageType,
    Dhcp6Option,
    Dhcp6Status,
    IdentityAssociation,
    LeasedAddress,
    OptionRequest,
    RapidCommit,
    ServerIdentifier,
    StatusCode,
    decode_dhcp6_message,
    encode_dhcp6_message,
)

SERVER_DUID = b"\0\1server"


@dataclass(slots=True)
class ScriptedServer:
    """Answers a message; every attribute can be changed at any time."""

    addresses: tuple[IPv6Address, ...] = (IPv6Address("2001:db8:a::1000"),)
    """To be leased; declined ones leave."""
    duid: bytes = SERVER_DUID
    allows_rapid_commit: bool = True
    preferred_lifetime: float = 100
    valid_lifetime: float = 200
    renew_after: float = 50
    rebind_after: float = 80
    status: int = Dhcp6Status.SUCCESS
    """Of the whole message."""
    association_status: int = Dhcp6Status.SUCCESS
    is_silent: bool = False
    extra: tuple[Dhcp6Option, ...] = ()
    """Further options of every answer."""
    answer_to: set[int] = field(default_factory=lambda: set(Dhcp6MessageType))
    """Types of messages it answers."""
    received: list[Dhcp6Message] = field(default_factory=list)

    def answer(self, data: bytes) -> bytes | None:
        """The answer to a message, or None."""
        message = decode_dhcp6_message(data)
        self.received.append(message)
        addressed = message.first(ServerIdentifier)
        if self.is_silent or addressed not in (None, ServerIdentifier(self.duid)):
            return None
        if message.message_type not in self.answer_to:
            return None
        return encode_dhcp6_message(self.compose(message))

    def compose(self, message: Dhcp6Message) -> Dhcp6Message:
        """The answer before it is encoded."""
        is_solicit = message.message_type == Dhcp6MessageType.SOLICIT
        is_rapid = self.allows_rapid_commit and message.first(RapidCommit) is not None
        kind = Dhcp6MessageType.REPLY
        if is_solicit and not is_rapid:
            kind = Dhcp6MessageType.ADVERTISE
        client = message.first(ClientIdentifier)
        assert client is not None
        options: list[Dhcp6Option] = [client, ServerIdentifier(self.duid), *self.extra]
        if is_solicit and is_rapid:
            options.append(RapidCommit())
        if self.status != Dhcp6Status.SUCCESS:
            options.append(StatusCode(self.status, b"no"))
        association = message.first(IdentityAssociation)
        if message.message_type == Dhcp6MessageType.DECLINE and association is not None:
            gone = {o.address for o in association.options if isinstance(o, LeasedAddress)}
            self.addresses = tuple(a for a in self.addresses if a not in gone)
        elif association is not None and message.first(OptionRequest) is not None:
            options.append(self._lease(association))
        return Dhcp6Message(kind, message.transaction, tuple(options))

    def _lease(self, asked: IdentityAssociation) -> IdentityAssociation:
        if self.association_status != Dhcp6Status.SUCCESS:
            refusal = StatusCode(self.association_status)
            return IdentityAssociation(asked.identifier, options=(refusal,))
        leased = tuple(
            LeasedAddress(address, self.preferred_lifetime, self.valid_lifetime)
            for address in self.addresses
        )
        return IdentityAssociation(asked.identifier, self.renew_after, self.rebind_after, leased)

    def types(self) -> list[int]:
        """What it was asked, oldest first."""
        return [message.message_type for message in self.received]
