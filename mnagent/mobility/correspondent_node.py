"""The correspondent node: binds mobile nodes' home addresses to care-of addresses (RFC 6275 9).

What this node knows of one mobile node (``binding`` of `correspondent_cache`)::

    (nothing) --authentic BU--> bound --authentic BU--> bound
        ^                         |
        |   BU lifetime 0, lifetime over, persistent ICMPv6 errors, eviction, host refuses
        |                         v
        `---- nonces too old -- guarded (sequence number only, against replays)

Home Test Init and Care-of Test Init leave nothing behind: tokens are made from the nonces, and made
again when a Binding Update names them (RFC 6275 5.2.5). Binding Updates of strangers leave nothing
behind either until their authenticator is right.

Floods. There is no limit by source prefix on tests: with a forged source anybody could use up a
chosen victim's share with a few packets a second, and no table of sources is worth its memory when
sources are free. A test costs two hashes, and its answer is barely longer than the question. What
has to be bounded is the time this takes from everything else, so strangers together have a budget
of STRANGER_TEST_RATE a second and the home and care-of addresses of bindings another one, which
strangers cannot use up. Over budget a test is dropped; the mobile node asks again.

Binding Errors go out through one of BINDING_ERROR_SHARES buckets, chosen by a keyed hash of the
source's /64: one prefix that sends rubbish keeps few others from hearing, in constant memory.

Inside another role the parent asks `claims` whether a packet is this machine's. In a home agent,
what concerns a home address registered there is for the home agent first: it alone can tell a
change of the registration's type (status 139) and a Home Address option that it has a binding for.
`ShutdownRequested` is answered with the host put back as it was, without `Finish`: that is the
parent's to say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from random import Random
from typing import Any, Final

from mnagent.core.actions import (
    Action,
    RemovePeerBinding,
    ReportEvent,
    SendPacket,
    SetPeerBinding,
)
from mnagent.core.drops import DropReason
from mnagent.core.events import (
    ActionFailed,
    AddressAppeared,
    AddressVanished,
    Event,
    PacketReceived,
    ShutdownRequested,
    TrafficSeen,
)
from mnagent.core.timers import earliest
from mnagent.mobility.addresses import is_routable_unicast
from mnagent.mobility.binding_cache import MAX_BINDINGS
from mnagent.mobility.binding_error import BindingErrorSender, TokenBucket
from mnagent.mobility.binding_request import BindingRequest, read_binding_request
from mnagent.mobility.constants import LIFETIME_UNIT, MAX_RR_BINDING_LIFETIME
from mnagent.mobility.correspondent_cache import PeerBinding, PeerBindingCache, PeerKey
from mnagent.mobility.keygen import (
    authorization_of,
    authorized,
    binding_management_key,
    is_authorized,
)
from mnagent.mobility.nonces import Nonces
from mnagent.mobility.sequence import sequence_newer
from mnagent.wire.buffer import DecodeError
from mnagent.wire.constants import NEXT_HEADER_AUTHENTICATION
from mnagent.wire.esp import EspPacket
from mnagent.wire.icmp6 import DestinationUnreachable, DestinationUnreachableCode
from mnagent.wire.ipv6 import IPv6Packet, RawPayload, Type2RoutingHeader
from mnagent.wire.mobility import (
    BindingAcknowledgement,
    BindingErrorStatus,
    BindingRefreshRequest,
    BindingStatus,
    BindingUpdate,
    CareOfTest,
    CareOfTestInit,
    HomeTest,
    HomeTestInit,
    MobilityMessage,
)
from mnagent.wire.mobility_options import NonceIndices
from mnagent.wire.packet import decode_invoking

STRANGER_TEST_RATE: Final = 2000.0
"""Test Inits answered a second for addresses without a binding, together; as many at once."""
PEER_TEST_RATE: Final = 2000.0
"""Test Inits answered a second for the addresses of bindings, together; as many at once."""
BINDING_ERROR_SHARES: Final = 16
"""Buckets for Binding Errors, each with the rate of `binding_error`."""
REFRESH_REQUEST_LEAD: Final = 30.0
"""Seconds before its end from which a binding in use is asked to be refreshed; a quarter of the
lifetime where that is less."""
REFRESH_REQUEST_INTERVAL: Final = 5.0
"""Least time, in seconds, between Binding Refresh Requests for one binding."""
MAX_REFRESH_REQUESTS: Final = 3
"""Binding Refresh Requests for one binding without a Binding Update in between."""
UNREACHABLE_ERRORS: Final = 3
"""ICMPv6 errors that are persistent (RFC 6275 9.3.4) when they span UNREACHABLE_SPAN."""
UNREACHABLE_SPAN: Final = 3.0
"""Seconds."""
UNREACHABLE_MEMORY: Final = 10.0
"""Seconds after an error within which the next one continues the row."""
HOST_FAILURE_DELAY: Final = 30.0
"""How long, in seconds, new bindings are refused after the host failed to use one."""

_NODE_IS_THERE: Final = DestinationUnreachableCode.PORT_UNREACHABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrespondentNodeSettings:
    """What a correspondent node is told. Raises `ValueError` for values that make no sense."""

    addresses: frozenset[IPv6Address] = frozenset()
    """Own addresses that are served whatever interfaces have them, such as a mobile node's home
    address; those that appear on interfaces are served as well."""
    enabled: bool = True
    """Route optimization on or off (RFC 6275 8.2). Off, mobile nodes are told with Binding Errors,
    so that they stay with their home agent at once."""
    refuse_home_registrations: bool = True
    """False inside a home agent, whose own machine takes them."""
    max_bindings: int = MAX_BINDINGS
    max_lifetime: float = MAX_RR_BINDING_LIFETIME
    """Seconds, 4 to MAX_RR_BINDING_LIFETIME."""

    def __post_init__(self) -> None:
        if not LIFETIME_UNIT <= self.max_lifetime <= MAX_RR_BINDING_LIFETIME:
            raise ValueError(
                f"max_lifetime {self.max_lifetime} s is not within "
                f"{LIFETIME_UNIT} s and {MAX_RR_BINDING_LIFETIME} s"
            )
        if self.max_bindings < 1:
            raise ValueError("max_bindings must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Authority:
    """What a Binding Update is authorized with, once its nonces are found."""

    key: bytes
    """Binding management key."""
    address: IPv6Address
    """The "care-of address" of RFC 6275 6.2.7: the home address in a deregistration."""
    until: float
    """From then on the Binding Update cannot be replayed: one of its nonces is too old."""


class CorrespondentNode:
    """The sans-IO correspondent node. Every public method is safe for whatever a peer sends."""

    def __init__(self, settings: CorrespondentNodeSettings, *, random: Random) -> None:
        """``random`` must be good enough for keys."""
        self.drops: Counter[DropReason] = Counter()
        """Packets not acted on, by reason."""
        self._settings = settings
        self._cache = PeerBindingCache(max_entries=settings.max_bindings)
        self._nonces = Nonces(random=random)
        self._interface_addresses: set[tuple[int, IPv6Address]] = set()
        self._home_addresses: set[IPv6Address] = set()
        self._addresses = settings.addresses
        self._carried: dict[IPv6Address, IPv6Address] = {}
        """Home address to care-of address, as the host was told."""
        self._refused_until: float | None = None
        self._stranger_tests = TokenBucket(rate=STRANGER_TEST_RATE, burst=STRANGER_TEST_RATE)
        self._peer_tests = TokenBucket(rate=PEER_TEST_RATE, burst=PEER_TEST_RATE)
        self._binding_errors = tuple(BindingErrorSender() for _ in range(BINDING_ERROR_SHARES))
        self._share_salt = random.getrandbits(64)
        self._is_stopped = False
        self._handlers: dict[type, Callable[[Any, float], list[Action]]] = {
            PacketReceived: self._on_packet,
            TrafficSeen: self._on_traffic_seen,
            AddressAppeared: self._on_address_appeared,
            AddressVanished: self._on_address_vanished,
            ActionFailed: self._on_action_failed,
            ShutdownRequested: self._on_shutdown_requested,
        }

    @property
    def bindings(self) -> tuple[PeerBinding, ...]:
        """The bindings, oldest first."""
        return tuple(self._cache)

    @property
    def addresses(self) -> frozenset[IPv6Address]:
        """The own addresses that are served."""
        return self._addresses

    def claims(self, event: PacketReceived) -> bool:
        """Whether a packet is for this machine rather than for another one of the same role."""
        packet = event.packet
        if packet.logical_destination not in self._addresses:
            return False
        match packet.payload:
            case HomeTestInit() | CareOfTestInit():
                return True
            case BindingUpdate(home_registration=True):
                key = PeerKey(packet.logical_source, packet.logical_destination)
                return self._settings.refuse_home_registrations or (
                    self._cache.find(key) is not None
                )
            case BindingUpdate():
                return True
            case DestinationUnreachable() as error:
                return self._binding_of_error(error) is not None
            case payload:
                return packet.home_address_option is not None and not isinstance(
                    payload, MobilityMessage
                )

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take in what happened; return what is to be done. Ignores events of other machines."""
        handler = self._handlers.get(type(event))
        if handler is None or self._is_stopped:
            return []
        return self._expire(now) + handler(event, now)

    def handle_timer(self, now: float) -> list[Action]:
        """Do what is due."""
        self._nonces.discard_expired(now)
        return self._expire(now)

    def next_deadline(self) -> float | None:
        """When `handle_timer` wants to run, or None."""
        return earliest(self._cache.next_deadline(), self._nonces.next_deadline())

    # Packets.

    def _on_packet(self, event: PacketReceived, now: float) -> list[Action]:
        if not self.claims(event):
            return self._drop(DropReason.UNEXPECTED_MESSAGE)
        match event.packet.payload:
            case HomeTestInit() | CareOfTestInit() as message:
                return self._on_test_init(event.packet, message, now)
            case BindingUpdate() as update:
                return self._on_binding_update(event, update, now)
            case DestinationUnreachable() as error:
                return self._on_destination_unreachable(error, now)
            case _:
                return self._on_home_address_option(event, now)

    def _on_test_init(
        self, packet: IPv6Packet, message: HomeTestInit | CareOfTestInit, now: float
    ) -> list[Action]:
        """Answer to where the test came from (RFC 6275 9.4); no binding is looked at."""
        is_home_test = isinstance(message, HomeTestInit)
        if packet.home_address_options:
            return self._drop(DropReason.HOME_ADDRESS_OPTION_IN_TEST)
        if not is_routable_unicast(packet.source) or packet.source in self._addresses:
            return self._drop(
                DropReason.HOME_ADDRESS_NOT_ROUTABLE
                if is_home_test
                else DropReason.CARE_OF_ADDRESS_NOT_ROUTABLE
            )
        if not self._settings.enabled:
            return self._refuse_everything(packet, now)
        budget = self._peer_tests if self._cache.knows(packet.source) else self._stranger_tests
        if not budget.take(now):
            return self._drop(DropReason.RATE_LIMITED)
        nonce = self._nonces.current(now)
        answer: HomeTest | CareOfTest
        if is_home_test:
            token = nonce.home_keygen_token(packet.source)
            answer = HomeTest(nonce.index, message.cookie, token)
        else:
            token = nonce.care_of_keygen_token(packet.source)
            answer = CareOfTest(nonce.index, message.cookie, token)
        return [SendPacket(packet=IPv6Packet(packet.logical_destination, packet.source, answer))]

    def _on_home_address_option(self, event: PacketReceived, now: float) -> list[Action]:
        """The data path found no binding for this packet (RFC 6275 9.3.1)."""
        packet = event.packet
        home_address = packet.logical_source
        if len(packet.home_address_options) > 1:
            return self._drop(DropReason.TWO_HOME_ADDRESS_OPTIONS)
        if not is_routable_unicast(home_address):
            return self._drop(DropReason.HOME_ADDRESS_NOT_ROUTABLE)
        if event.protected_by is not None or _is_ipsec(packet):
            return self._drop(DropReason.UNEXPECTED_MESSAGE)
        entry = self._cache.find(PeerKey(home_address, packet.logical_destination))
        if entry is not None and entry.care_of_address == packet.source:
            # It overtook the binding on its way to the data path.
            return self._drop(DropReason.UNEXPECTED_MESSAGE)
        self._drop(DropReason.NO_BINDING)
        status = BindingErrorStatus.UNKNOWN_BINDING_FOR_HOME_ADDRESS_OPTION
        return self._send_binding_error(packet, status, now)

    def _refuse_everything(self, packet: IPv6Packet, now: float) -> list[Action]:
        """Say that this node does not do route optimization, as one that never heard of it."""
        self._drop(DropReason.ROUTE_OPTIMIZATION_OFF)
        status = BindingErrorStatus.UNRECOGNIZED_MOBILITY_HEADER_TYPE
        return self._send_binding_error(packet, status, now)

    def _send_binding_error(
        self, packet: IPv6Packet, status: BindingErrorStatus, now: float
    ) -> list[Action]:
        share = hash((self._share_salt, int(packet.source) >> 64)) % BINDING_ERROR_SHARES
        return [*self._binding_errors[share].answer(packet, status=status, now=now)]

    def _drop(self, reason: DropReason) -> list[Action]:
        self.drops[reason] += 1
        return []

    # Binding Updates.

    def _on_binding_update(
        self, event: PacketReceived, update: BindingUpdate, now: float
    ) -> list[Action]:
        """The tests of RFC 6275 9.5.1: silent ones first, nothing said before its authority."""
        request = read_binding_request(event, update)
        if isinstance(request, DropReason):
            return self._drop(request)
        if not self._settings.enabled:
            return self._refuse_everything(event.packet, now)
        key = PeerKey(request.home_address, event.packet.logical_destination)
        if update.home_registration:
            return self._refuse_home_registration(request, key)
        indices = next((each for each in update.options if isinstance(each, NonceIndices)), None)
        if indices is None:
            return self._drop(DropReason.NO_NONCE_INDICES)
        if authorization_of(update) is None:
            return self._drop(DropReason.NO_BINDING_AUTHORIZATION)
        self._stop_refresh_requests(key)
        authority = self._authority_of(request, indices, now)
        if isinstance(authority, BindingStatus):
            self._drop(DropReason.UNKNOWN_NONCE)
            return [self._acknowledge(request, key, authority)]
        if not is_authorized(
            event.packet,
            authority.key,
            care_of_address=authority.address,
            correspondent=key.correspondent,
            data=event.data,
        ):
            return self._drop(DropReason.BAD_AUTHENTICATOR)
        return self._on_authentic_update(request, key, authority, now)

    def _refuse_home_registration(self, request: BindingRequest, key: PeerKey) -> list[Action]:
        """There is no key to authorize the answer with; it tells nothing of the binding."""
        if self._cache.find(key) is not None:
            status = BindingStatus.REGISTRATION_TYPE_CHANGE_DISALLOWED
        else:
            status = BindingStatus.HOME_REGISTRATION_NOT_SUPPORTED
        self._drop(DropReason.UNSUPPORTED_MESSAGE)
        return [self._acknowledge(request, key, status)]

    def _authority_of(
        self, request: BindingRequest, indices: NonceIndices, now: float
    ) -> _Authority | BindingStatus:
        """Make the tokens again from what the packet says (RFC 6275 5.2.5), or say which nonce is
        not known."""
        home = self._nonces.find(indices.home, now)
        if request.is_deregistration:
            if home is None:
                return BindingStatus.EXPIRED_HOME_NONCE_INDEX
            home_token = home.home_keygen_token(request.home_address)
            return _Authority(
                key=binding_management_key(home_token),
                address=request.home_address,
                until=home.expires_at,
            )
        care_of = self._nonces.find(indices.care_of, now)
        if home is None or care_of is None:
            if home is not None:
                return BindingStatus.EXPIRED_CARE_OF_NONCE_INDEX
            if care_of is not None:
                return BindingStatus.EXPIRED_HOME_NONCE_INDEX
            return BindingStatus.EXPIRED_NONCES
        return _Authority(
            key=binding_management_key(
                home.home_keygen_token(request.home_address),
                care_of.care_of_keygen_token(request.care_of_address),
            ),
            address=request.care_of_address,
            until=min(home.expires_at, care_of.expires_at),
        )

    def _on_authentic_update(
        self, request: BindingRequest, key: PeerKey, authority: _Authority, now: float
    ) -> list[Action]:
        last = self._cache.last_sequence(key)
        if last is not None and not sequence_newer(request.update.sequence, last):
            is_bound = self._cache.find(key) is not None
            self._drop(DropReason.STALE_SEQUENCE if is_bound else DropReason.REPLAYED_NONCE)
            status = BindingStatus.SEQUENCE_NUMBER_OUT_OF_WINDOW
            return self._reject(request, key, status, authority, sequence=last)
        if request.is_deregistration:
            return self._deregister(request, key, authority, now)
        if {request.home_address, request.care_of_address} & self._addresses:
            # A binding of, or to, ourselves would send packets round (RFC 6275 15.1).
            return self._reject(request, key, BindingStatus.ADMINISTRATIVELY_PROHIBITED, authority)
        evicted = None
        if self._cache.find(key) is None:
            is_refused = self._refused_until is not None and now < self._refused_until
            if not self._cache.has_room_for(key):
                evicted = self._cache.eviction_candidate(now)
                is_refused = is_refused or evicted is None
            if is_refused:
                self._drop(DropReason.CACHE_FULL)
                return self._reject(request, key, BindingStatus.INSUFFICIENT_RESOURCES, authority)
        actions = [] if evicted is None else self._remove(evicted, "evicted", now)
        return actions + self._accept(request, key, authority, now)

    def _accept(
        self, request: BindingRequest, key: PeerKey, authority: _Authority, now: float
    ) -> list[Action]:
        previous = self._cache.find(key)
        least = min(request.update.lifetime, self._settings.max_lifetime)
        granted = float(least // LIFETIME_UNIT * LIFETIME_UNIT)
        entry = PeerBinding(
            home_address=key.home_address,
            correspondent=key.correspondent,
            care_of_address=request.care_of_address,
            sequence=request.update.sequence,
            granted_lifetime=granted,
            registered_at=now if previous is None else previous.registered_at,
            updated_at=now,
            expires_at=now + granted,
            guarded_until=max(authority.until, self._cache.guarded_until(key)),
            used_at=now,
        )
        self._cache.store(entry)
        actions = self._carry(key.home_address)
        if request.update.acknowledge:
            status = BindingStatus.BINDING_UPDATE_ACCEPTED
            actions.append(
                self._acknowledge(request, key, status, authority=authority, lifetime=granted)
            )
        name = "peer-binding-created" if previous is None else "peer-binding-updated"
        return [*actions, _report(name, entry)]

    def _deregister(
        self, request: BindingRequest, key: PeerKey, authority: _Authority, now: float
    ) -> list[Action]:
        """Delete, and refuse what was sent before this, arrived or not (RFC 6275 9.5.3)."""
        entry = self._cache.find(key)
        sequence = request.update.sequence
        actions: list[Action] = []
        if entry is None:
            self._cache.guard(key, sequence, until=authority.until, now=now)
        else:
            until = max(authority.until, entry.guarded_until)
            last = replace(entry, sequence=sequence, guarded_until=until)
            actions = self._remove(last, "deregistered", now)
        if request.update.acknowledge:
            status = BindingStatus.BINDING_UPDATE_ACCEPTED
            actions.append(self._acknowledge(request, key, status, authority=authority))
        return actions

    def _reject(
        self,
        request: BindingRequest,
        key: PeerKey,
        status: BindingStatus,
        authority: _Authority,
        *,
        sequence: int | None = None,
    ) -> list[Action]:
        """Refuse an authentic Binding Update; said even where no answer is asked for (9.5.4)."""
        answer = self._acknowledge(request, key, status, authority=authority, sequence=sequence)
        if status is BindingStatus.SEQUENCE_NUMBER_OUT_OF_WINDOW:
            return [answer]
        details = (
            ("home_address", str(request.home_address)),
            ("care_of_address", str(request.care_of_address)),
            ("status", str(int(status))),
            ("sentence", status.sentence),
        )
        return [answer, ReportEvent(name="peer-binding-rejected", details=details, warning=True)]

    def _acknowledge(
        self,
        request: BindingRequest,
        key: PeerKey,
        status: BindingStatus,
        *,
        authority: _Authority | None = None,
        lifetime: float = 0.0,
        sequence: int | None = None,
    ) -> SendPacket:
        """Answer to the Source Address, whatever the cache says (RFC 6275 9.5.4)."""
        message = BindingAcknowledgement(
            status=status,
            sequence=request.update.sequence if sequence is None else sequence,
            lifetime=lifetime,
        )
        if authority is not None:
            message = authorized(
                message,
                authority.key,
                care_of_address=authority.address,
                correspondent=key.correspondent,
            )
        headers = (
            () if request.is_from_home_address else (Type2RoutingHeader(request.home_address),)
        )
        return SendPacket(
            packet=IPv6Packet(key.correspondent, request.source, message, extension_headers=headers)
        )

    # Bindings.

    def _carry(self, home_address: IPv6Address) -> list[Action]:
        """Tell the host where a peer is now: where its latest Binding Update said, to whichever of
        our addresses that was."""
        bindings = self._cache.of_home_address(home_address)
        told = self._carried.get(home_address)
        if not bindings:
            # Several entries may have gone at once.
            was_told = self._carried.pop(home_address, None) is not None
            return [RemovePeerBinding(home_address=home_address)] if was_told else []
        care_of_address = bindings[-1].care_of_address
        if care_of_address == told:
            return []
        self._carried[home_address] = care_of_address
        return [SetPeerBinding(home_address=home_address, care_of_address=care_of_address)]

    def _remove(self, entry: PeerBinding, reason: str, now: float) -> list[Action]:
        self._cache.remove(entry, now)
        return [
            *self._carry(entry.home_address),
            _report("peer-binding-removed", entry, reason=reason),
        ]

    def _expire(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for entry in self._cache.pop_expired(now):
            actions += self._carry(entry.home_address)
            actions.append(_report("peer-binding-removed", entry, reason="expired"))
        return actions

    def _on_traffic_seen(self, event: TrafficSeen, now: float) -> list[Action]:
        """Note the use of a binding; ask for a new one when it is about to end (9.5.5)."""
        entry = self._cache.find(PeerKey(event.peer, event.local))
        if entry is None:
            return []
        entry = replace(entry, used_at=now)
        actions: list[Action] = []
        lead = min(REFRESH_REQUEST_LEAD, entry.granted_lifetime / 4)
        asked_before = entry.refresh_requests > 0
        if (
            now >= entry.expires_at - lead
            and entry.refresh_requests < MAX_REFRESH_REQUESTS
            and not (asked_before and now < entry.refresh_requested_at + REFRESH_REQUEST_INTERVAL)
        ):
            requests = entry.refresh_requests + 1
            entry = replace(entry, refresh_requests=requests, refresh_requested_at=now)
            # Always by way of the home address, never by type 2 routing header (RFC 6275 9.5.5).
            message = BindingRefreshRequest()
            packet = IPv6Packet(entry.correspondent, entry.home_address, message)
            actions.append(SendPacket(packet=packet))
        self._cache.store(entry)
        return actions

    def _stop_refresh_requests(self, key: PeerKey) -> None:
        """A Binding Update came, whatever becomes of it (RFC 6275 9.5.5)."""
        entry = self._cache.find(key)
        if entry is not None:
            self._cache.store(replace(entry, refresh_requests=MAX_REFRESH_REQUESTS))

    def _binding_of_error(self, error: DestinationUnreachable) -> PeerBinding | None:
        """The binding by which the packet complained about was sent."""
        try:
            packet = decode_invoking(error.invoking)
        except DecodeError:
            return None
        home_address = packet.type2_home_address
        if home_address is None:
            return None
        entry = self._cache.find(PeerKey(home_address, packet.logical_source))
        is_current = entry is not None and entry.care_of_address == packet.destination
        return entry if is_current else None

    def _on_destination_unreachable(
        self, error: DestinationUnreachable, now: float
    ) -> list[Action]:
        """Only persistent errors end a binding: each costs the mobile node packets (9.3.4)."""
        entry = self._binding_of_error(error)
        if entry is None or error.code == _NODE_IS_THERE:
            return self._drop(DropReason.UNEXPECTED_MESSAGE)
        is_first = not entry.unreachable_errors or now > entry.unreachable_at + UNREACHABLE_MEMORY
        entry = replace(
            entry,
            unreachable_errors=1 if is_first else entry.unreachable_errors + 1,
            unreachable_since=now if is_first else entry.unreachable_since,
            unreachable_at=now,
        )
        if (
            entry.unreachable_errors >= UNREACHABLE_ERRORS
            and now >= entry.unreachable_since + UNREACHABLE_SPAN
        ):
            return self._remove(entry, "unreachable", now)
        self._cache.store(entry)
        return []

    # The host.

    def _on_address_appeared(self, event: AddressAppeared, now: float) -> list[Action]:
        """An address is served once it is ours for sure."""
        place = (event.interface, event.address)
        if event.tentative or event.duplicate or not is_routable_unicast(event.address):
            self._interface_addresses.discard(place)
        else:
            self._interface_addresses.add(place)
        return self._count_addresses()

    def _on_address_vanished(self, event: AddressVanished, now: float) -> list[Action]:
        """Its bindings stay until they end: it may be back in a moment."""
        self._interface_addresses.discard((event.interface, event.address))
        return self._count_addresses()

    def _count_addresses(self) -> list[Action]:
        on_interfaces = {address for _, address in self._interface_addresses}
        self._addresses = self._settings.addresses | on_interfaces | self._home_addresses
        return []

    def serve(self, home_address: IPv6Address) -> None:
        """Another home address of this node, that no interface we hear of has."""
        self._home_addresses.add(home_address)
        self._count_addresses()

    def stop_serving(self, home_address: IPv6Address) -> None:
        """It has ended; its bindings stay until they end too."""
        self._home_addresses.discard(home_address)
        self._count_addresses()

    def _on_action_failed(self, event: ActionFailed, now: float) -> list[Action]:
        """Without the host's help there is no binding; the peer's next packet is told so."""
        if not isinstance(event.action, SetPeerBinding):
            return []
        if event.action.home_address not in self._carried:
            return []
        self._refused_until = now + HOST_FAILURE_DELAY
        reason = event.reason or "host-refused"
        bindings = self._cache.of_home_address(event.action.home_address)
        actions: list[Action] = []
        for entry in bindings:
            self._cache.remove(entry, now)
            actions.append(_report("peer-binding-removed", entry, reason=reason))
        return self._carry(event.action.home_address) + actions

    def _on_shutdown_requested(self, event: ShutdownRequested, now: float) -> list[Action]:
        """Leave the host as it was; Binding Errors after a restart tell the mobile nodes."""
        actions: list[Action] = []
        for home_address in tuple(self._carried):
            actions.append(RemovePeerBinding(home_address=home_address))
        self._carried.clear()
        self._cache = PeerBindingCache(max_entries=self._settings.max_bindings)
        self._nonces.forget()
        self._is_stopped = True
        return actions


def _is_ipsec(packet: IPv6Packet) -> bool:
    """What follows proves itself, so that no binding is needed (RFC 6275 9.3.1)."""
    payload = packet.payload
    return isinstance(payload, EspPacket) or (
        isinstance(payload, RawPayload) and payload.next_header == NEXT_HEADER_AUTHENTICATION
    )


def _report(name: str, entry: PeerBinding, *, reason: str | None = None) -> ReportEvent:
    details = [
        ("home_address", str(entry.home_address)),
        ("care_of_address", str(entry.care_of_address)),
        ("correspondent", str(entry.correspondent)),
        ("lifetime", f"{entry.granted_lifetime:.0f}"),
    ]
    if reason is not None:
        details.append(("reason", reason))
    return ReportEvent(name=name, details=tuple(details))
