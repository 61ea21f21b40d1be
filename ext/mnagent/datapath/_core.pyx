"""Tables, associations, counters: what Python publishes to the data path and reads of it."""

import threading
from ipaddress import IPv6Address

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from mnagent.datapath._esp cimport (
    AES_CBC,
    AES_GCM,
    CHACHA20,
    CONTROL_LANE,
    ENGINE_LANE,
    ESP_HEADER_LENGTH,
    NULL_HMAC,
    Association,
    association_free,
    association_new,
    esp_seal,
    esp_sealed_length,
)
from mnagent.datapath._headers cimport Headers, walk_extension_headers
from mnagent.datapath._tables cimport (
    IPV6_LENGTH,
    Activity,
    DirectPath,
    Insertion,
    Tables,
    Tunnel,
    WayOut,
    address_map_add,
    tables_add_inbound,
    tables_add_path,
    tables_free,
    tables_new,
)
from mnagent.datapath._traffic cimport TrafficReader, take_table
from mnagent.datapath._worker cimport (
    HAND_UP_SLOTS,
    MAX_INNER,
    HandedUpSlot,
    HandUpRing,
    Worker,
    worker_free,
    worker_new,
)
from mnagent.datapath.atomics cimport load_word, store_word
from mnagent.datapath.octets cimport get16, put16
from mnagent.datapath.replay cimport REPLAY_WINDOW_MAX
from mnagent.datapath.verdicts cimport DROP_SEQUENCE_EXHAUSTED, TUNNELLED, VERDICT_COUNT, Verdict

from mnagent.core.actions import TunnelEnd
from mnagent.core.security import Direction, EspMode, EspTransform
from mnagent.datapath.tables import HandedUp, SequenceExhausted, Traffic

TRANSFORMS = {
    EspTransform.AES_CBC_HMAC_SHA256_128: AES_CBC,
    EspTransform.AES_GCM_16: AES_GCM,
    EspTransform.CHACHA20_POLY1305: CHACHA20,
    EspTransform.NULL_HMAC_SHA256_128: NULL_HMAC,
}

VERDICT_NAMES = (
    "tunnelled",
    "decapsulated",
    "sent-direct",
    "received-direct",
    "handed-up",
    "held",
    "packet-too-big",
    "relayed-error",
    "fragment-kept",
    "not-local",
    "not-ours",
    "drop-no-tunnel",
    "drop-link-scope",
    "drop-bad-offload",
    "drop-no-association",
    "drop-sequence-exhausted",
    "drop-rate-limited",
    "drop-hold-overflow",
    "drop-encapsulation-limit",
    "drop-truncated",
    "drop-not-ipv6",
    "drop-bad-extension-header",
    "drop-bad-routing-header",
    "drop-home-address",
    "drop-no-peer-binding",
    "drop-fragment",
    "drop-no-binding",
    "drop-outer-source",
    "drop-bad-checksum",
    "drop-inner-source",
    "drop-inner-scope",
    "drop-inner-malformed",
    "drop-ecn",
    "drop-not-protected",
    "drop-wrong-association",
    "drop-unknown-spi",
    "drop-replay",
    "drop-authentication",
    "drop-bad-padding",
    "drop-dummy",
    "drop-crypto-failure",
    "drop-hand-up-full",
    "drop-hand-up-too-large",
)
assert len(VERDICT_NAMES) == VERDICT_COUNT

cdef void copy_address(uint8_t* into, object address):
    cdef bytes packed = address.packed
    memcpy(into, <const uint8_t*>packed, 16)


cdef class _AssociationHandle:
    """Owns one association of the engine; its numbers and window outlive any one set of tables."""

    def __cinit__(self, description):
        cdef bytes key = description.encryption_key
        cdef bytes integrity_key = description.integrity_key
        self.description = description
        if description.replay_window > REPLAY_WINDOW_MAX:
            raise ValueError(f"replay window of {description.replay_window} packets is too large")
        if not description.transform.is_aead and len(integrity_key) != 32:
            raise ValueError("HMAC-SHA-256-128 takes an integrity key of 32 octets")
        self.association = association_new(
            TRANSFORMS[description.transform], <const uint8_t*>key, <uint32_t>len(key),
            <const uint8_t*>integrity_key, <uint32_t>len(integrity_key),
            description.direction is Direction.INBOUND,
        )
        if self.association == NULL:
            raise ValueError(f"the keys do not fit {description.transform.value}")
        self.association.spi = description.spi
        self.association.tunnel_mode = description.mode is EspMode.TUNNEL
        self.association.replay.size = description.replay_window
        copy_address(self.association.home_address, description.home_address)

    def __dealloc__(self):
        association_free(self.association)


cdef class _ActivityHandle:
    """Counts the packets of one home address for as long as it has a tunnel."""

    def __cinit__(self):
        self.activity = <Activity*>calloc(1, sizeof(Activity))
        if self.activity == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.activity)


cdef class _Core:
    """Tables, associations and counters: all that does not depend on what the ports are."""

    def __cinit__(self, *arguments, **keywords):
        self.outbound_worker = worker_new()
        self.inbound_worker = worker_new()
        self.outbound_reader = <TrafficReader*>calloc(1, sizeof(TrafficReader))
        self.inbound_reader = <TrafficReader*>calloc(1, sizeof(TrafficReader))
        if (
            self.outbound_worker == NULL or self.inbound_worker == NULL
            or self.outbound_reader == NULL or self.inbound_reader == NULL
        ):
            raise MemoryError
        self.outbound_worker.lane = self.inbound_worker.lane = ENGINE_LANE
        self.associations = {}
        self.activities = {}
        self.pending_sequences = {}
        self.latest = None
        self.protect_lock = threading.Lock()

    def __dealloc__(self):
        worker_free(self.outbound_worker)
        worker_free(self.inbound_worker)
        free(self.outbound_reader)
        free(self.inbound_reader)
        tables_free(<Tables*>self.shared.tables)

    def publish(self, tables):
        """Put the whole desired state in force. Associations that stay keep their numbers and
        window.
        """
        associations = {
            (description.spi, description.direction): self._association(description)
            for description in tables.associations
        }
        activities = {
            tunnel.home_address: self.activities.get(tunnel.home_address) or _ActivityHandle()
            for tunnel in tables.tunnels
        }
        for spi, (upcoming, limit) in list(self.pending_sequences.items()):
            if (spi, Direction.OUTBOUND) in associations:
                self._store_sequence(associations[spi, Direction.OUTBOUND], upcoming, limit)
                del self.pending_sequences[spi]
        cdef Tables* made = self._build(tables, associations, activities)
        cdef Tables* former = <Tables*>self.shared.tables
        store_word(&self.shared.tables, <uint64_t>made)
        self._wait_until_unused()
        tables_free(former)
        self.associations = associations
        self.activities = activities
        self.latest = tables

    def _association(self, description):
        handle = self.associations.get((description.spi, description.direction))
        if handle is not None and (<_AssociationHandle>handle).description == description:
            return handle
        return _AssociationHandle(description)

    cdef Tables* _build(self, object tables, dict associations, dict activities) except NULL:
        cdef Tables* made = tables_new(
            len(tables.tunnels), len(tables.associations), len(tables.local_addresses),
            len(tables.peer_bindings), len(tables.direct_paths),
        )
        cdef _AssociationHandle handle
        cdef uint8_t address[16]
        if made == NULL:
            raise MemoryError
        try:
            for (_, direction), handle in associations.items():
                if direction is Direction.INBOUND:
                    tables_add_inbound(made, handle.association)
            for local in tables.local_addresses:
                copy_address(address, local)
                address_map_add(&made.locals, address, 0)
            for index, entry in enumerate(tables.tunnels):
                self._fill(&made.tunnels[<int>index], entry, associations, activities)
                address_map_add(&made.homes, made.tunnels[<int>index].home_address, index)
                address_map_add(&made.remotes, made.tunnels[<int>index].remote, index)
                if made.tunnels[<int>index].mobile_end:
                    address_map_add(&made.own_homes, made.tunnels[<int>index].home_address, 0)
                self._fill_home_test(
                    &made.tunnels[<int>index], &made.tunnels[<int>(index + len(tables.tunnels))],
                    entry, associations,
                )
            made.tunnel_count = len(tables.tunnels)
            self._build_direct_paths(made, tables)
            self._fill_ports(made)
        except BaseException:
            tables_free(made)
            raise
        return made

    cdef _fill(self, Tunnel* tunnel, object entry, dict associations, dict activities):
        cdef uint8_t* outer
        cdef _AssociationHandle handle
        copy_address(tunnel.home_address, entry.home_address)
        copy_address(tunnel.local, entry.local)
        copy_address(tunnel.remote, entry.remote)
        tunnel.mobile_end = entry.end is TunnelEnd.MOBILE_NODE
        tunnel.hold = entry.hold
        if entry.encapsulation_limit is not None:
            tunnel.layers = entry.encapsulation_limit + 1
        tunnel.seal = entry.outbound_spi is not None
        tunnel.require_esp = entry.inbound_spi is not None
        tunnel.inbound_spi = entry.inbound_spi or 0
        handle = associations.get((entry.outbound_spi, Direction.OUTBOUND))
        tunnel.outbound = NULL if handle is None else handle.association
        tunnel.activity = (<_ActivityHandle>activities[entry.home_address]).activity
        tunnel.mtu = min(max(entry.mtu, 1280), MAX_INNER)
        self._fill_way(&tunnel.way, entry.next_hop, entry.remote)
        if entry.path_mtu and (tunnel.way.outer_mtu == 0 or entry.path_mtu < tunnel.way.outer_mtu):
            tunnel.way.outer_mtu = entry.path_mtu
        if tunnel.way.outer_mtu:
            tunnel.way.outer_mtu = max(tunnel.way.outer_mtu, 1280)
        outer = tunnel.way.head + tunnel.way.link_length
        outer[0] = 0x60
        outer[6] = 50 if tunnel.seal else 41
        outer[7] = 64
        memcpy(outer + 8, tunnel.local, 16)
        memcpy(outer + 24, tunnel.remote, 16)

    cdef _fill_home_test(
        self, Tunnel* tunnel, Tunnel* home_test, object entry, dict associations
    ):
        cdef _AssociationHandle handle
        tunnel.home_test_inbound_spi = entry.home_test_inbound_spi or 0
        if entry.home_test_outbound_spi is None:
            return
        handle = associations.get((entry.home_test_outbound_spi, Direction.OUTBOUND))
        home_test[0] = tunnel[0]
        home_test.seal = True
        home_test.outbound = NULL if handle is None else handle.association
        home_test.way.head[home_test.way.link_length + 6] = 50
        tunnel.home_test = home_test

    cdef _fill_way(self, WayOut* way, object next_hop, object destination):
        cdef bytes header
        way.descriptor, way.outer_mtu, header = self._way_out(next_hop)
        way.offload_descriptor = self._offload_out(next_hop)
        way.raw = next_hop is None
        way.link_length = len(header)
        copy_address(way.destination, destination)
        memcpy(way.head, <const uint8_t*>header, len(header))

    cdef _build_direct_paths(self, Tables* made, object tables):
        """Paths that have a peer binding too get both headers."""
        cdef DirectPath* path
        bindings = {}
        for index, entry in enumerate(tables.peer_bindings):
            bindings.setdefault(entry.home_address, entry)
            path = &made.peers[<int>index]
            copy_address(path.peer, entry.home_address)
            self._fill_path(path, entry, None, entry)
            address_map_add(&made.peer_homes, path.peer, index)
        made.peer_count = len(tables.peer_bindings)
        for index, entry in enumerate(tables.direct_paths):
            path = &made.paths[<int>index]
            copy_address(path.local, entry.home_address)
            copy_address(path.peer, entry.correspondent)
            self._fill_path(path, entry, entry, bindings.get(entry.correspondent))
            address_map_add(&made.own_homes, path.local, 0)
            tables_add_path(made, index)
        made.path_count = len(tables.direct_paths)

    cdef _fill_path(self, DirectPath* path, object entry, object direct, object binding):
        """What is inserted: a type 2 routing header (RFC 6275 6.4), then a Home Address option
        (6.3).
        """
        cdef Insertion* insertion = &path.insertion
        cdef bytes octets = b""
        destination = None
        if binding is not None:
            destination = binding.care_of_address
            insertion.has_destination = True
            copy_address(insertion.destination, destination)
            octets += bytes([60, 2, 2, 1, 0, 0, 0, 0]) + binding.home_address.packed
        if direct is not None:
            destination = destination or direct.correspondent
            insertion.has_source = True
            copy_address(insertion.source, direct.care_of_address)
            octets += bytes([0, 2, 1, 2, 0, 0, 0xC9, 16]) + direct.home_address.packed
        insertion.length = <uint32_t>len(octets)
        memcpy(insertion.octets, <const uint8_t*>octets, len(octets))
        self._fill_way(&path.way, entry.next_hop, destination)
        path.mtu = min(max(entry.mtu, 1280), MAX_INNER)

    def _way_out(self, next_hop):
        """Descriptor, largest packet (0: not known) and link header of a next hop."""
        if next_hop is None:
            return -1, 0, b""
        return -1, 0, next_hop.destination_mac + next_hop.source_mac + b"\x86\xdd"

    def _offload_out(self, next_hop):
        """Descriptor for super-packets, -1 where there is none."""
        return -1

    cdef _fill_ports(self, Tables* tables):
        pass

    def _wait_until_unused(self):
        pass

    def set_sequence(self, spi, *, next, limit):
        """Give an outbound association its next number and the first it may not use.

        For an SPI that is not published yet the numbers are kept until it is.
        """
        if not 1 <= next <= limit <= 1 << 32:
            raise ValueError("sequence numbers lie between 1 and 2**32, next before limit")
        handle = self.associations.get((spi, Direction.OUTBOUND))
        if handle is None:
            self.pending_sequences[spi] = (next, limit)
        else:
            self._store_sequence(handle, next, limit)

    cdef _store_sequence(self, _AssociationHandle handle, uint64_t upcoming, uint64_t limit):
        cdef Association* association = handle.association
        # Never backwards: numbers that threads took meanwhile stay taken.
        store_word(&association.sequence_limit, limit)
        if load_word(&association.next_sequence) < upcoming:
            store_word(&association.next_sequence, upcoming)

    def sequence_number(self, spi):
        """The next sequence number of an outbound association; KeyError when there is none."""
        return self.sequences()[spi][0]

    def sequences(self):
        """Outbound SPI -> (next sequence number, first one that may not be used)."""
        cdef _AssociationHandle handle
        found = {}
        for (spi, direction), handle in self.associations.items():
            if direction is Direction.OUTBOUND:
                found[spi] = (
                    load_word(&handle.association.next_sequence),
                    load_word(&handle.association.sequence_limit),
                )
        return found

    def protect(self, spi, packet):
        """Transport mode (RFC 4303 3.1.1): ESP goes behind the extension headers of a whole packet.

        Raises KeyError for an unknown SPI, SequenceExhausted, and ValueError for a malformed
        packet.
        """
        cdef _AssociationHandle handle = self.associations[spi, Direction.OUTBOUND]
        cdef Association* association = handle.association
        cdef bytes source = packet
        cdef uint32_t length = <uint32_t>len(source), at, field, plain, sealed = 0
        cdef Headers headers
        cdef Verdict verdict
        cdef uint8_t next_header
        if length < IPV6_LENGTH or get16(<const uint8_t*>source + 4) + IPV6_LENGTH != length:
            raise ValueError("not one whole IPv6 packet")
        if not walk_extension_headers(<const uint8_t*>source, length, &headers):
            raise ValueError("malformed extension header")
        at, field = headers.end, headers.next_header_at
        plain = length - at
        cdef uint32_t total = at + esp_sealed_length(association, plain)
        if total > IPV6_LENGTH + 65535:
            raise ValueError("too long to protect")
        cdef uint8_t* made = <uint8_t*>malloc(total)
        if made == NULL:
            raise MemoryError
        try:
            memcpy(made, <const uint8_t*>source, at)
            memcpy(
                made + at + ESP_HEADER_LENGTH + association.iv_length,
                <const uint8_t*>source + at, plain,
            )
            next_header = made[field]
            with self.protect_lock:
                verdict = esp_seal(
                    association, CONTROL_LANE, made + at, plain, next_header, &sealed
                )
            if verdict == DROP_SEQUENCE_EXHAUSTED:
                raise SequenceExhausted(spi)
            if verdict != TUNNELLED:
                raise RuntimeError("libcrypto failed to protect a packet")
            made[field] = 50
            put16(made + 4, total - IPV6_LENGTH)
            return made[:total]
        finally:
            free(made)

    def take_handed_up(self):
        """Take what the engine handed up since the last call, in order of arrival."""
        return self._take(self.inbound_worker.handed_up)

    cdef list _take(self, HandUpRing* ring):
        cdef uint64_t taken = ring.taken
        cdef uint64_t written = load_word(&ring.written)
        cdef HandedUpSlot* slot
        packets = []
        while taken != written:
            slot = &ring.slots[taken % HAND_UP_SLOTS]
            packets.append(
                HandedUp(
                    data=slot.data[:slot.length],
                    interface=slot.interface,
                    link_layer_source=slot.link_source[:slot.link_source_length],
                    protected_by=slot.protected_by or None,
                    tunnel_source=IPv6Address(slot.tunnel_source[:16]) if slot.tunnelled else None,
                )
            )
            taken += 1
        store_word(&ring.taken, taken)
        return packets

    def take_traffic(self):
        """What pairs of addresses carried since the last call, as `Traffic`.

        Protocol, port and path are those of the last packet out, or in where none went out.
        """
        pairs = {}
        for local, peer, packets, protocol, port, direct in take_table(
            self.inbound_worker.traffic, self.inbound_reader
        ):
            pairs[local, peer] = Traffic(
                local=local, peer=peer, packets_in=packets, protocol=protocol,
                destination_port=port, direct=direct,
            )
        for local, peer, packets, protocol, port, direct in take_table(
            self.outbound_worker.traffic, self.outbound_reader
        ):
            entry = pairs.get((local, peer))
            pairs[local, peer] = Traffic(
                local=local, peer=peer, packets_in=entry.packets_in if entry else 0,
                packets_out=packets, protocol=protocol, destination_port=port, direct=direct,
            )
        return list(pairs.values())

    def counters(self):
        """Every verdict of both directions, and what the ports did."""
        cdef Worker* out = self.outbound_worker
        cdef Worker* into = self.inbound_worker
        found = {
            name: out.verdicts[<int>at] + into.verdicts[<int>at]
            for at, name in enumerate(VERDICT_NAMES)
        }
        found["packets-outbound"] = out.packets
        found["packets-inbound"] = into.packets
        found["released"] = out.released
        found["frames-sent"] = out.frames_sent
        found["fragments-sent"] = out.fragments_sent
        found["traffic-ignored"] = out.traffic.ignored + into.traffic.ignored
        found["frames-failed"] = out.frames_failed
        found["tunnel-writes"] = out.tunnel_writes + into.tunnel_writes
        found["tunnel-write-failures"] = out.tunnel_write_failures + into.tunnel_write_failures
        return found

    def activity(self):
        """Home address -> packets carried (out, in)."""
        cdef _ActivityHandle handle
        return {
            address: (handle.activity.packets_out, handle.activity.packets_in)
            for address, handle in self.activities.items()
        }
