# What both the engine and the pipeline of the tests are made of.

from libc.stdint cimport uint64_t

from mnagent.datapath._esp cimport Association
from mnagent.datapath._loops cimport Shared
from mnagent.datapath._tables cimport Activity, DirectPath, Tables, Tunnel, WayOut
from mnagent.datapath._traffic cimport TrafficReader
from mnagent.datapath._worker cimport HandUpRing, Worker


cdef class _AssociationHandle:
    cdef Association* association
    cdef object description


cdef class _ActivityHandle:
    cdef Activity* activity


cdef class _Core:
    cdef Shared shared
    cdef Worker* outbound_worker
    cdef Worker* inbound_worker
    cdef dict associations
    cdef dict activities
    cdef dict pending_sequences
    cdef object latest
    cdef object protect_lock
    cdef TrafficReader* outbound_reader
    cdef TrafficReader* inbound_reader

    cdef Tables* _build(self, object tables, dict associations, dict activities) except NULL
    cdef _fill(self, Tunnel* tunnel, object entry, dict associations, dict activities)
    cdef _fill_home_test(
        self, Tunnel* tunnel, Tunnel* home_test, object entry, dict associations
    )
    cdef _fill_way(self, WayOut* way, object next_hop, object destination)
    cdef _build_direct_paths(self, Tables* made, object tables)
    cdef _fill_path(self, DirectPath* path, object entry, object direct, object binding)
    cdef _fill_ports(self, Tables* tables)
    cdef _store_sequence(self, _AssociationHandle handle, uint64_t upcoming, uint64_t limit)
    cdef list _take(self, HandUpRing* ring)
