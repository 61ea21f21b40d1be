"""Tables, associations, counters: what Python publishes to the data path and reads of it."""

import threading
from ipaddress import IPv6Address

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from mnagent.datapath._esp cimport (
    AES_CBC,
    AES_GCM,
    CHACHA20,
    ESP_HEADER_LENGTH,
    NULL_HMAC,
    Association,
    CipherCache,
    association_free,
    association_new,
    association_same,
    cipher_cache_free,
    cipher_cache_new,
    esp_seal,
    esp_sealed_length,
    next_in_need,
    take_in_need,
)
from mnagent.datapath._headers cimport Headers, walk_extension_headers
from mnagent.datapath._memory cimport (
    ASSOCIATION,
    PLAIN,
    memory_add_reader,
    memory_count,
    memory_free_all,
    memory_give_back,
    memory_has_passed,
    memory_reclaim,
    memory_retire,
    memory_take,
    memory_uncount,
)
from mnagent.datapath._tables cimport (
    IPV6_LENGTH,
    DirectPath,
    Insertion,
    Map,
    Ports,
    Tunnel,
    WayOut,
    address_count,
    address_uncount,
    map_next,
    map_put,
    map_remove,
    map_reserve,
    path_find,
    peer_find,
    spi_find,
    tables_free,
    tables_new,
    tables_put_tunnel,
    tables_remove_tunnel,
    tunnel_find,
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
from mnagent.datapath.atomics cimport full_fence, load_word, store_word
from mnagent.datapath.octets cimport get16, put16, same_address
from mnagent.datapath.replay cimport REPLAY_WINDOW_MAX
from mnagent.datapath.verdicts cimport DROP_SEQUENCE_EXHAUSTED, TUNNELLED, VERDICT_COUNT, Verdict

from mnagent.core.actions import TunnelEnd
from mnagent.core.security import Direction, EspMode, EspTransform
from mnagent.datapath.tables import Changes, HandedUp, NextHop, SequenceExhausted, Traffic

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


cdef object next_hop_of(const Tunnel* tunnel):
    if tunnel.interface == 0:
        return None
    return NextHop(
        interface=tunnel.interface,
        destination_mac=tunnel.link_addresses[:6],
        source_mac=tunnel.link_addresses[6:12],
    )


cdef object address_of(const uint8_t* octets):
    return IPv6Address(octets[:16])


cdef class _Core:
    """Tables, associations and counters: all that does not depend on what the ports are.

    Readers of the tables are the workers. Nothing here waits for them: what they may still use is
    freed later (see `_memory`).
    """

    def __cinit__(self, *arguments, **keywords):
        cdef Ports* ports
        self.outbound_worker = worker_new()
        self.inbound_worker = worker_new()
        self.outbound_reader = <TrafficReader*>calloc(1, sizeof(TrafficReader))
        self.inbound_reader = <TrafficReader*>calloc(1, sizeof(TrafficReader))
        self.ciphers = cipher_cache_new()
        self.tables = tables_new()
        if (
            self.outbound_worker == NULL or self.inbound_worker == NULL
            or self.outbound_reader == NULL or self.inbound_reader == NULL
            or self.ciphers == NULL or self.tables == NULL
        ):
            raise MemoryError
        memory_add_reader(&self.memory, &self.outbound_worker.epoch)
        memory_add_reader(&self.memory, &self.inbound_worker.epoch)
        self.pending_sequences = {}
        self.in_need = set()
        self.locals = frozenset()
        self.peer_bindings = {}
        self.borrowers = {}
        self.direct_paths = {}
        self.paths_to = {}
        self.ways = {}
        self.protect_lock = threading.Lock()
        # Those of the subclass are not there yet.
        ports = <Ports*>memory_take(&self.memory, sizeof(Ports))
        if ports == NULL:
            raise MemoryError
        ports.version = 1
        self.tables.ports = <uint64_t><uintptr_t>ports
        self.shared.tables = <uint64_t><uintptr_t>self.tables

    def __dealloc__(self):
        worker_free(self.outbound_worker)
        worker_free(self.inbound_worker)
        cipher_cache_free(self.ciphers)
        free(self.outbound_reader)
        free(self.inbound_reader)
        tables_free(self.tables, &self.memory)
        memory_free_all(&self.memory)

    def publish(self, tables):
        """Put the whole desired state in force: what is not in it goes. Associations that stay
        keep their numbers and window.
        """
        tunnels = {}
        for entry in tables.tunnels:
            tunnels.setdefault(entry.home_address, entry)
        associations = {(each.spi, each.direction): each for each in tables.associations}
        bindings = {}
        for entry in tables.peer_bindings:
            bindings.setdefault(entry.home_address, entry)
        paths = {}
        for entry in tables.direct_paths:
            paths.setdefault((entry.home_address, entry.correspondent), entry)
        self.change(
            Changes(
                tunnels=tuple(tunnels.values()),
                removed_tunnels=tuple(self._homes() - tunnels.keys()),
                associations=tuple(associations.values()),
                removed_associations=tuple(self._installed() - associations.keys()),
                local_addresses=tables.local_addresses,
                peer_bindings=tuple(bindings.values()),
                removed_peer_bindings=tuple(self.peer_bindings.keys() - bindings.keys()),
                direct_paths=tuple(paths.values()),
                removed_direct_paths=tuple(self.direct_paths.keys() - paths.keys()),
            )
        )

    def change(self, changes):
        """Put changes in force; everything else stays as it is."""
        try:
            self._remove(changes)
            for description in changes.associations:
                self._put_association(description)
            if changes.local_addresses is not None:
                self._set_locals(frozenset(changes.local_addresses))
            for entry in changes.tunnels:
                self._put_tunnel(entry)
            for entry in changes.peer_bindings:
                self._put_peer_binding(entry)
            for entry in changes.direct_paths:
                self._put_direct_path(entry)
        finally:
            self._finish()

    cdef _remove(self, object changes):
        for home_address in changes.removed_tunnels:
            self._remove_tunnel(home_address)
        for correspondent in changes.removed_direct_paths:
            self._remove_direct_path(correspondent)
        for home_address in changes.removed_peer_bindings:
            self._remove_peer_binding(home_address)
        for spi, direction in changes.removed_associations:
            self._remove_association(spi, direction is Direction.INBOUND)

    cdef _finish(self):
        """Let the threads know; free what none of them can still use."""
        self.ways.clear()
        store_word(&self.tables.generation, self.tables.generation + 1)
        full_fence()
        self._tell_workers()
        self._reclaim()

    cdef _reclaim(self):
        while memory_has_passed(&self.memory):
            # What is about to be freed must be in no list; nobody puts it into one any more.
            self._collect_in_need(self.outbound_worker.ciphers)
            self._collect_in_need(self.ciphers)
            if not memory_reclaim(&self.memory):
                return

    def _tell_workers(self):
        """Wake those that wait while there is work for them by the new tables."""

    def _homes(self):
        cdef uint32_t at = 0
        cdef Tunnel* tunnel = <Tunnel*>map_next(&self.tables.homes, &at)
        found = set()
        while tunnel != NULL:
            found.add(address_of(tunnel.home_address))
            tunnel = <Tunnel*>map_next(&self.tables.homes, &at)
        return found

    def _installed(self):
        cdef uint32_t at
        cdef Association* association
        cdef Map* each
        found = set()
        for direction in (Direction.INBOUND, Direction.OUTBOUND):
            at = 0
            each = &self.tables.inbound if direction is Direction.INBOUND else &self.tables.outbound
            association = <Association*>map_next(each, &at)
            while association != NULL:
                found.add((association.spi, direction))
                association = <Association*>map_next(each, &at)
        return found

    # Tunnels.

    cdef _put_tunnel(self, object entry):
        cdef Tunnel* tunnel = <Tunnel*>memory_take(&self.memory, sizeof(Tunnel))
        if tunnel == NULL:
            raise MemoryError
        try:
            self._fill_tunnel(tunnel, entry)
        except BaseException:
            memory_give_back(&self.memory, tunnel)
            raise
        self._replace_tunnel(tunnel)

    cdef _replace_tunnel(self, Tunnel* tunnel):
        """Put it in the former one's place, unless it says the same."""
        cdef Tunnel* former = tunnel_find(self.tables, tunnel.home_address)
        cdef size_t said = <uint8_t*>&tunnel.activity - <uint8_t*>tunnel
        if former != NULL and memcmp(tunnel, former, said) == 0:
            memory_give_back(&self.memory, tunnel)
        elif not tables_put_tunnel(self.tables, &self.memory, tunnel):
            memory_give_back(&self.memory, tunnel)
            raise MemoryError

    cdef _remove_tunnel(self, object home_address):
        cdef bytes packed = home_address.packed
        cdef Tunnel* tunnel = tunnel_find(self.tables, <const uint8_t*>packed)
        if tunnel != NULL:
            tables_remove_tunnel(self.tables, &self.memory, tunnel)

    cdef _fill_tunnel(self, Tunnel* tunnel, object entry):
        next_hop = entry.next_hop
        copy_address(tunnel.home_address, entry.home_address)
        copy_address(tunnel.local, entry.local)
        copy_address(tunnel.remote, entry.remote)
        tunnel.mobile_end = entry.end is TunnelEnd.MOBILE_NODE
        tunnel.hold = entry.hold
        if entry.encapsulation_limit is not None:
            tunnel.layers = entry.encapsulation_limit + 1
        tunnel.seal = entry.outbound_spi is not None
        tunnel.outbound_spi = entry.outbound_spi or 0
        tunnel.require_esp = entry.inbound_spi is not None
        tunnel.inbound_spi = entry.inbound_spi or 0
        tunnel.seal_home_tests = entry.home_test_outbound_spi is not None
        tunnel.home_test_outbound_spi = entry.home_test_outbound_spi or 0
        tunnel.home_test_inbound_spi = entry.home_test_inbound_spi or 0
        tunnel.mtu = min(max(entry.mtu, 1280), MAX_INNER)
        tunnel.path_mtu = entry.path_mtu
        if next_hop is not None:
            tunnel.interface = next_hop.interface
            memcpy(tunnel.link_addresses, <const uint8_t*><bytes>next_hop.destination_mac, 6)
            memcpy(tunnel.link_addresses + 6, <const uint8_t*><bytes>next_hop.source_mac, 6)
        self._lead_tunnel(tunnel, next_hop)
        self._bind_tunnel(tunnel)

    cdef _lead_tunnel(self, Tunnel* tunnel, object next_hop):
        """What depends on the ports."""
        cdef WayOut* way = &tunnel.way
        cdef uint8_t* outer
        self._fill_way(way, next_hop, tunnel.remote)
        if tunnel.path_mtu and (way.outer_mtu == 0 or tunnel.path_mtu < way.outer_mtu):
            way.outer_mtu = tunnel.path_mtu
        if way.outer_mtu:
            way.outer_mtu = max(way.outer_mtu, 1280)
        outer = way.head + way.link_length
        outer[0] = 0x60
        outer[6] = 50 if tunnel.seal else 41
        outer[7] = 64
        memcpy(outer + 8, tunnel.local, 16)
        memcpy(outer + 24, tunnel.remote, 16)

    cdef _bind_tunnel(self, Tunnel* tunnel):
        """What depends on the associations."""
        tunnel.outbound = tunnel.home_test = NULL
        if tunnel.seal:
            tunnel.outbound = self._association_of(tunnel, tunnel.outbound_spi)
        if tunnel.seal_home_tests:
            tunnel.home_test = self._association_of(tunnel, tunnel.home_test_outbound_spi)

    cdef Association* _association_of(self, const Tunnel* tunnel, uint32_t spi):
        """NULL while there is none. One may serve several home addresses (RFC 6275 11.4.2 forms
        them): `_bind_users` finds its own tunnel by its home address, the others as borrowers."""
        cdef Association* association = spi_find(&self.tables.outbound, spi)
        if association == NULL or not same_address(
            association.home_address, tunnel.home_address
        ):
            self.borrowers.setdefault(spi, set()).add(tunnel.home_address[:16])
        return association

    cdef _copy_tunnel(self, const Tunnel* tunnel, bint is_led_anew):
        """The same tunnel by the ports or the associations as they are now."""
        cdef Tunnel* made = <Tunnel*>memory_take(&self.memory, sizeof(Tunnel))
        if made == NULL:
            raise MemoryError
        memcpy(made, tunnel, <uint8_t*>&made.activity - <uint8_t*>made)
        if not is_led_anew:
            self._bind_tunnel(made)
        else:
            memset(&made.way, 0, sizeof(WayOut))
            self._lead_tunnel(made, next_hop_of(made))
        self._replace_tunnel(made)

    def _lead_all_anew(self):
        """After a change of the ports."""
        cdef bytes packed
        for home_address in self._homes():
            packed = home_address.packed
            self._copy_tunnel(tunnel_find(self.tables, <const uint8_t*>packed), True)
        for entry in tuple(self.peer_bindings.values()):
            self._put_peer_binding(entry)
        for entry in tuple(self.direct_paths.values()):
            self._put_direct_path(entry)

    # Associations.

    cdef _put_association(self, object description):
        cdef bint inbound = description.direction is Direction.INBOUND
        cdef Map* installed = &self.tables.inbound if inbound else &self.tables.outbound
        cdef Association* association = self._make_association(description)
        cdef Association* former
        memory_count(&self.memory, association)
        former = spi_find(installed, association.spi)
        if former != NULL and association_same(former, association):
            memory_uncount(&self.memory, association)
            association_free(association)
            return
        if not map_reserve(installed, &self.memory):
            memory_uncount(&self.memory, association)
            association_free(association)
            raise MemoryError
        numbers = None if inbound else self.pending_sequences.pop(association.spi, None)
        if numbers is not None:
            self._store_sequence(association, numbers[0], numbers[1])
        map_put(installed, association)
        if not inbound:
            self._bind_users(association)
            if former != NULL:
                self._bind_again(former.home_address)
        memory_retire(&self.memory, former, ASSOCIATION)

    cdef Association* _make_association(self, object description) except NULL:
        cdef bytes key = description.encryption_key
        cdef bytes integrity_key = description.integrity_key
        cdef Association* association
        if description.replay_window > REPLAY_WINDOW_MAX:
            raise ValueError(f"replay window of {description.replay_window} packets is too large")
        if not description.transform.is_aead and len(integrity_key) != 32:
            raise ValueError("HMAC-SHA-256-128 takes an integrity key of 32 octets")
        association = association_new(
            TRANSFORMS[description.transform], <const uint8_t*>key, <uint32_t>len(key),
            <const uint8_t*>integrity_key, <uint32_t>len(integrity_key),
            description.direction is Direction.INBOUND, description.replay_window,
        )
        if association == NULL:
            raise ValueError(f"the keys do not fit {description.transform.value}")
        association.spi = description.spi
        association.tunnel_mode = description.mode is EspMode.TUNNEL
        copy_address(association.home_address, description.home_address)
        return association

    cdef _remove_association(self, uint32_t spi, bint inbound):
        cdef Map* installed = &self.tables.inbound if inbound else &self.tables.outbound
        cdef Association* association = spi_find(installed, spi)
        if association == NULL:
            return
        map_remove(installed, &self.memory, association)
        if not inbound:
            self._bind_users(association)
        memory_retire(&self.memory, association, ASSOCIATION)

    cdef _bind_users(self, const Association* association):
        """An association came or went: these tunnels may want it."""
        cdef bytes home_address
        self._bind_again(association.home_address)
        for home_address in self.borrowers.pop(association.spi, ()):
            self._bind_again(<const uint8_t*>home_address)

    cdef _bind_again(self, const uint8_t* home_address):
        cdef Tunnel* tunnel = tunnel_find(self.tables, home_address)
        if tunnel != NULL:
            self._copy_tunnel(tunnel, False)

    # Our own addresses and direct paths.

    cdef _set_locals(self, object addresses):
        cdef bytes packed
        for address in self.locals - addresses:
            packed = address.packed
            address_uncount(&self.tables.locals, &self.memory, <const uint8_t*>packed)
            self.locals -= {address}
        for address in addresses - self.locals:
            packed = address.packed
            if not address_count(&self.tables.locals, &self.memory, <const uint8_t*>packed):
                raise MemoryError
            self.locals |= {address}

    cdef _put_peer_binding(self, object entry):
        self._put_path(self._make_path(entry, None, entry), True)
        self.peer_bindings[entry.home_address] = entry
        self._make_paths_to(entry.home_address)

    cdef _remove_peer_binding(self, object home_address):
        cdef bytes packed = home_address.packed
        cdef DirectPath* path = peer_find(self.tables, <const uint8_t*>packed)
        if path == NULL:
            return
        del self.peer_bindings[home_address]
        map_remove(&self.tables.peers, &self.memory, path)
        memory_retire(&self.memory, path, PLAIN)
        self._make_paths_to(home_address)

    cdef _make_paths_to(self, object correspondent):
        """Paths that have a peer binding too get both headers."""
        for home_address in tuple(self.paths_to.get(correspondent, ())):
            self._put_direct_path(self.direct_paths[home_address, correspondent])

    cdef _put_direct_path(self, object entry):
        cdef bytes packed = entry.home_address.packed
        binding = self.peer_bindings.get(entry.correspondent)
        key = (entry.home_address, entry.correspondent)
        self._put_path(self._make_path(entry, entry, binding), False)
        if key not in self.direct_paths and not address_count(
            &self.tables.own_homes, &self.memory, <const uint8_t*>packed
        ):
            raise MemoryError
        self.direct_paths[key] = entry
        self.paths_to.setdefault(entry.correspondent, set()).add(entry.home_address)

    cdef _remove_direct_path(self, tuple key):
        cdef bytes home_address = key[0].packed, correspondent = key[1].packed
        cdef DirectPath* path = path_find(
            self.tables, <const uint8_t*>home_address, <const uint8_t*>correspondent
        )
        if path == NULL:
            return
        del self.direct_paths[key]
        self.paths_to[key[1]].discard(key[0])
        if not self.paths_to[key[1]]:
            del self.paths_to[key[1]]
        map_remove(&self.tables.paths, &self.memory, path)
        address_uncount(&self.tables.own_homes, &self.memory, <const uint8_t*>home_address)
        memory_retire(&self.memory, path, PLAIN)

    cdef _put_path(self, DirectPath* path, bint is_peer):
        cdef Map* into = &self.tables.peers if is_peer else &self.tables.paths
        if not map_reserve(into, &self.memory):
            memory_give_back(&self.memory, path)
            raise MemoryError
        memory_retire(&self.memory, map_put(into, path), PLAIN)

    cdef DirectPath* _make_path(
        self, object entry, object direct, object binding
    ) except NULL:
        """What is inserted: a type 2 routing header (RFC 6275 6.4), then a Home Address option
        (6.3).
        """
        cdef DirectPath* path = <DirectPath*>memory_take(&self.memory, sizeof(DirectPath))
        cdef Insertion* insertion = &path.insertion
        cdef bytes octets = b"", packed
        if path == NULL:
            raise MemoryError
        try:
            copy_address(path.peer, (binding or direct).home_address)
            destination = None
            if binding is not None:
                destination = binding.care_of_address
                insertion.has_destination = True
                copy_address(insertion.destination, destination)
                octets += bytes([60, 2, 2, 1, 0, 0, 0, 0]) + binding.home_address.packed
            if direct is not None:
                copy_address(path.peer, direct.correspondent)
                copy_address(path.local, direct.home_address)
                destination = destination or direct.correspondent
                insertion.has_source = True
                copy_address(insertion.source, direct.care_of_address)
                octets += bytes([0, 2, 1, 2, 0, 0, 0xC9, 16]) + direct.home_address.packed
            insertion.length = <uint32_t>len(octets)
            memcpy(insertion.octets, <const uint8_t*>octets, len(octets))
            packed = destination.packed
            self._fill_way(&path.way, entry.next_hop, <const uint8_t*>packed)
            path.mtu = min(max(entry.mtu, 1280), MAX_INNER)
        except BaseException:
            memory_give_back(&self.memory, path)
            raise
        return path

    # Ports.

    cdef _fill_way(self, WayOut* way, object next_hop, const uint8_t* destination):
        cdef bytes header
        # Its fields are hashed faster than itself.
        key = next_hop and (next_hop.interface, next_hop.source_mac, next_hop.destination_mac)
        led = self.ways.get(key)
        if led is None:
            led = self.ways[key] = (*self._way_out(next_hop), self._offload_out(next_hop))
        way.descriptor, way.outer_mtu, header, way.offload_descriptor = led
        way.raw = next_hop is None
        way.link_length = len(header)
        memcpy(way.destination, destination, 16)
        memcpy(way.head, <const uint8_t*>header, len(header))

    def _way_out(self, next_hop):
        """Descriptor, largest packet (0: not known) and link header of a next hop."""
        if next_hop is None:
            return -1, 0, b""
        return -1, 0, next_hop.destination_mac + next_hop.source_mac + b"\x86\xdd"

    def _offload_out(self, next_hop):
        """Descriptor for super-packets, -1 where there is none."""
        return -1

    cdef _replace_ports(self):
        cdef Ports* former = <Ports*><uintptr_t>self.tables.ports
        cdef Ports* made = <Ports*>memory_take(&self.memory, sizeof(Ports))
        if made == NULL:
            raise MemoryError
        made.version = former.version + 1
        self._fill_ports(made)
        store_word(&self.tables.ports, <uint64_t><uintptr_t>made)
        memory_retire(&self.memory, former, PLAIN)

    cdef _fill_ports(self, Ports* ports):
        pass

    # Sequence numbers and what is sent from here.

    def set_sequence(self, spi, *, next, limit):
        """Give an outbound association its next number and the first it may not use.

        For an SPI that is not published yet the numbers are kept until it is.
        """
        cdef Association* association
        if not 1 <= next <= limit <= 1 << 32:
            raise ValueError("sequence numbers lie between 1 and 2**32, next before limit")
        association = spi_find(&self.tables.outbound, spi)
        if association == NULL:
            self.pending_sequences[spi] = (next, limit)
        else:
            self._store_sequence(association, next, limit)

    cdef _store_sequence(self, Association* association, uint64_t upcoming, uint64_t limit):
        cdef uint8_t reserve = 0
        while upcoming + (<uint64_t>4 << reserve) <= limit:
            reserve += 1
        # Never backwards: numbers that threads took meanwhile stay taken.
        association.reserve = reserve
        store_word(&association.numbers.outbound.limit, limit)
        if load_word(&association.numbers.outbound.next) < upcoming:
            store_word(&association.numbers.outbound.next, upcoming)

    def sequence_number(self, spi):
        """The next sequence number of an outbound association; KeyError when there is none."""
        return self._numbers_of(spi)[0]

    def _numbers_of(self, uint32_t spi):
        cdef Association* association = spi_find(&self.tables.outbound, spi)
        if association == NULL:
            raise KeyError(spi)
        return (
            load_word(&association.numbers.outbound.next),
            load_word(&association.numbers.outbound.limit),
        )

    def sequences(self):
        """Outbound SPI -> (next sequence number, first one that may not be used)."""
        cdef uint32_t at = 0
        cdef Association* association = <Association*>map_next(&self.tables.outbound, &at)
        found = {}
        while association != NULL:
            found[association.spi] = self._numbers_of(association.spi)
            association = <Association*>map_next(&self.tables.outbound, &at)
        return found

    def take_sequences_in_need(self):
        """The same of those that went past half of what they were given since the last call."""
        self._collect_in_need(self.outbound_worker.ciphers)
        self._collect_in_need(self.ciphers)
        found = {}
        for spi in self.in_need:
            if spi_find(&self.tables.outbound, spi) != NULL:
                found[spi] = self._numbers_of(spi)
        self.in_need.clear()
        return found

    cdef _collect_in_need(self, CipherCache* cache):
        cdef Association* association = take_in_need(cache)
        while association != NULL:
            self.in_need.add(association.spi)
            association = next_in_need(association)

    def protect(self, spi, packet):
        """Transport mode (RFC 4303 3.1.1): ESP goes behind the extension headers of a whole packet.

        Raises KeyError for an unknown SPI, SequenceExhausted, and ValueError for a malformed
        packet.
        """
        cdef Association* association = spi_find(&self.tables.outbound, spi)
        cdef bytes source = packet
        cdef uint32_t length = <uint32_t>len(source), at, field, plain, sealed = 0
        cdef Headers headers
        cdef Verdict verdict
        cdef uint8_t next_header
        if association == NULL:
            raise KeyError(spi)
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
                    association, self.ciphers, made + at, plain, next_header, &sealed
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
                    arrived_at=slot.at,
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
                destination_port=port, direct=direct, direct_in=direct,
            )
        for local, peer, packets, protocol, port, direct in take_table(
            self.outbound_worker.traffic, self.outbound_reader
        ):
            entry = pairs.get((local, peer))
            pairs[local, peer] = Traffic(
                local=local, peer=peer, packets_in=entry.packets_in if entry else 0,
                packets_out=packets, protocol=protocol, destination_port=port, direct=direct,
                direct_in=entry.direct_in if entry else False,
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
        cdef uint32_t at = 0
        cdef Tunnel* tunnel = <Tunnel*>map_next(&self.tables.homes, &at)
        found = {}
        while tunnel != NULL:
            found[address_of(tunnel.home_address)] = (
                tunnel.activity.packets_out, tunnel.activity.packets_in
            )
            tunnel = <Tunnel*>map_next(&self.tables.homes, &at)
        return found

    def memory_of_tables(self):
        """Octets that all entries take, with their keys, and what waits to be freed."""
        return self.memory.octets
