# What both the engine and the pipeline of the tests are made of.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from mnagent.datapath._esp cimport Association, CipherCache
from mnagent.datapath._loops cimport Shared
from mnagent.datapath._memory cimport Memory
from mnagent.datapath._tables cimport DirectPath, Ports, Tables, Tunnel, WayOut
from mnagent.datapath._traffic cimport TrafficReader
from mnagent.datapath._worker cimport HandUpRing, Worker


cdef class _Core:
    cdef Shared shared
    cdef Tables* tables
    cdef Memory memory
    cdef Worker* outbound_worker
    cdef Worker* inbound_worker
    # What `protect` needs to seal.
    cdef CipherCache* ciphers
    cdef dict pending_sequences
    # SPI to the home addresses whose tunnels name an association of another one.
    cdef dict borrowers
    cdef set in_need
    cdef object locals
    # What direct paths are made from: each depends on two entries.
    cdef dict peer_bindings
    cdef dict direct_paths
    cdef dict paths_to
    # Of one operation: next hops that are the same lead the same way.
    cdef dict ways
    cdef object protect_lock
    cdef TrafficReader* outbound_reader
    cdef TrafficReader* inbound_reader

    cdef _remove(self, object changes)
    cdef _finish(self)
    cdef _reclaim(self)
    cdef _put_tunnel(self, object entry)
    cdef _replace_tunnel(self, Tunnel* tunnel)
    cdef _remove_tunnel(self, object home_address)
    cdef _fill_tunnel(self, Tunnel* tunnel, object entry)
    cdef _lead_tunnel(self, Tunnel* tunnel, object next_hop)
    cdef _bind_tunnel(self, Tunnel* tunnel)
    cdef Association* _association_of(self, const Tunnel* tunnel, uint32_t spi)
    cdef _copy_tunnel(self, const Tunnel* tunnel, bint is_led_anew)
    cdef _put_association(self, object description)
    cdef Association* _make_association(self, object description) except NULL
    cdef _remove_association(self, uint32_t spi, bint inbound)
    cdef _bind_users(self, const Association* association)
    cdef _bind_again(self, const uint8_t* home_address)
    cdef _set_locals(self, object addresses)
    cdef _put_peer_binding(self, object entry)
    cdef _remove_peer_binding(self, object home_address)
    cdef _make_paths_to(self, object correspondent)
    cdef _put_direct_path(self, object entry)
    cdef _remove_direct_path(self, tuple key)
    cdef _put_path(self, DirectPath* path, bint is_peer)
    cdef DirectPath* _make_path(self, object entry, object direct, object binding) except NULL
    cdef _fill_way(self, WayOut* way, object next_hop, const uint8_t* destination)
    cdef _replace_ports(self)
    cdef _fill_ports(self, Ports* ports)
    cdef _store_sequence(self, Association* association, uint64_t upcoming, uint64_t limit)
    cdef _collect_in_need(self, CipherCache* cache)
    cdef list _take(self, HandUpRing* ring)
