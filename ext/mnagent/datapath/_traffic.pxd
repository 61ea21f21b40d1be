# Which pairs of addresses carried packets: what route optimization is decided by.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    TRAFFIC_PAIRS = 4096
    TRAFFIC_SLOTS = 8192
    # How far a pair lies from where its hash points, at most.
    TRAFFIC_PROBES = 16
    # Milliseconds without a packet after which a pair's slot may become another's, if need be.
    TRAFFIC_STALE = 60000
    # Milliseconds between two signals for pairs that go on.
    TRAFFIC_INTERVAL = 1000


cdef struct TrafficSlot:
    # 0 before it was ever used, odd while the addresses change. One writer, a worker; one reader,
    # Python.
    uint64_t version
    uint64_t packets
    # Protocol, port at the peer, whether there is one, and whether the path is direct.
    uint64_t last
    # When the last packet came, 0 while the slot is free.
    uint64_t seen
    uint8_t local[16]
    uint8_t peer[16]


cdef struct TrafficTable:
    # Milliseconds; the loop sets it once a batch.
    uint64_t now
    uint64_t signalled
    bint pending
    uint32_t pairs
    # The slot to look at next for a stale pair.
    uint32_t hand
    uint64_t ignored
    TrafficSlot slots[TRAFFIC_SLOTS]


cdef struct TrafficReader:
    # Python's own: what it took of each slot, and of which version.
    uint64_t versions[TRAFFIC_SLOTS]
    uint64_t taken[TRAFFIC_SLOTS]


cdef void note_traffic(
    TrafficTable* table, const uint8_t* local, const uint8_t* peer, const uint8_t* packet,
    uint32_t length, bint outbound, bint direct
) noexcept nogil
cdef uint64_t monotonic_milliseconds() noexcept nogil
cdef list take_table(TrafficTable* table, TrafficReader* reader)
