"""Reassembly of tunnel packets, bounded, without overlaps."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport malloc
from libc.string cimport memcmp, memcpy

from mnagent.datapath._tables cimport IPV6_LENGTH
from mnagent.datapath._worker cimport (
    REASSEMBLIES,
    REASSEMBLY_LENGTH,
    REASSEMBLY_PIECES,
    REASSEMBLY_SECONDS,
    Reassembly,
    Worker,
    monotonic_seconds,
)
from mnagent.datapath.octets cimport get16, put16
from mnagent.datapath.protocols cimport (
    FRAGMENT_LENGTH,
    PROTOCOL_DESTINATION_OPTIONS,
    PROTOCOL_ESP,
    PROTOCOL_FRAGMENT,
    PROTOCOL_IPV6,
)
from mnagent.datapath.verdicts cimport (
    DECAPSULATED,
    DROP_FRAGMENT,
    FRAGMENT_KEPT,
    NOT_OURS,
    Verdict,
)


cdef Reassembly* find_reassembly(Worker* worker, const uint8_t* key) noexcept nogil:
    """The one of this packet, or a free one, or the oldest made free."""
    cdef long now = monotonic_seconds()
    cdef Reassembly* chosen = NULL
    cdef Reassembly* one
    cdef int at
    for at in range(REASSEMBLIES):
        one = &worker.reassemblies[at]
        if one.pieces and now - one.began > REASSEMBLY_SECONDS:
            one.pieces = 0
        if one.pieces and memcmp(one.key, key, sizeof(one.key)) == 0:
            return one
        if chosen == NULL or (chosen.pieces and (not one.pieces or one.order < chosen.order)):
            chosen = one
    if chosen.data == NULL:
        chosen.data = <uint8_t*>malloc(REASSEMBLY_LENGTH)
        if chosen.data == NULL:
            return NULL
    chosen.pieces = chosen.received = chosen.total = 0
    chosen.began = now
    chosen.order = worker.reassembly_order
    worker.reassembly_order += 1
    memcpy(chosen.key, key, sizeof(chosen.key))
    return chosen


cdef bint add_piece(
    Reassembly* whole, uint32_t start, uint32_t end, bint more
) noexcept nogil:
    """False when the fragments contradict each other: overlaps are never accepted (RFC 5722)."""
    cdef uint32_t at
    if whole.pieces == REASSEMBLY_PIECES or (whole.total and end > whole.total):
        return False
    for at in range(whole.pieces):
        if start < whole.ends[at] and end > whole.starts[at]:
            return False
        if not more and whole.ends[at] > end:
            return False
    if not more:
        if whole.total:
            return False
        whole.total = end
    whole.starts[whole.pieces] = <uint16_t>start
    whole.ends[whole.pieces] = <uint16_t>end
    whole.pieces += 1
    whole.received += end - start
    return True


cdef void keep_fragment_header(
    Reassembly* whole, const uint8_t* packet, uint32_t start
) noexcept nogil:
    """The first fragment's header counts; congestion met by any of them stays (RFC 3168 5.3)."""
    cdef uint8_t congestion = 0
    if whole.pieces > 1:
        congestion = whole.data[1] & 0x30
    if start == 0 or whole.pieces == 1:
        memcpy(whole.data, packet, IPV6_LENGTH)
    if congestion == 0x30 or (packet[1] & 0x30) == 0x30:
        whole.data[1] |= 0x30


cdef inline bint follows_options(const uint8_t* packet, uint32_t at) noexcept nogil:
    """Behind one header of destination options, as a Tunnel Encapsulation Limit is in one."""
    return (
        packet[6] == PROTOCOL_DESTINATION_OPTIONS
        and packet[IPV6_LENGTH] == PROTOCOL_FRAGMENT
        and at == IPV6_LENGTH + (packet[IPV6_LENGTH + 1] + 1) * 8
    )


cdef Verdict keep_fragment(
    Worker* worker, const uint8_t* packet, uint32_t length, uint32_t at, Reassembly** whole
) noexcept nogil:
    """Keep a fragment of a tunnel packet; DECAPSULATED when ``whole`` is complete with it."""
    cdef const uint8_t* header = packet + at
    cdef Reassembly* found
    cdef uint8_t key[36]
    cdef uint32_t start, end, more
    cdef bint bare = at == IPV6_LENGTH
    if at + FRAGMENT_LENGTH >= length or not (bare or follows_options(packet, at)):
        return DROP_FRAGMENT
    if header[0] != PROTOCOL_IPV6 and header[0] != PROTOCOL_ESP:
        return NOT_OURS if bare else DROP_FRAGMENT
    start = get16(header + 2) & 0xFFF8
    more = header[3] & 1
    end = start + (length - at - FRAGMENT_LENGTH)
    if end > REASSEMBLY_LENGTH - IPV6_LENGTH or (more and (end - start) & 7):
        return DROP_FRAGMENT
    memcpy(key, packet + 8, 32)
    memcpy(key + 32, header + 4, 4)
    found = find_reassembly(worker, key)
    if found == NULL:
        return DROP_FRAGMENT
    if not add_piece(found, start, end, more):
        found.pieces = 0
        return DROP_FRAGMENT
    keep_fragment_header(found, packet, start)
    memcpy(found.data + IPV6_LENGTH + start, header + FRAGMENT_LENGTH, end - start)
    if found.total == 0 or found.received < found.total:
        return FRAGMENT_KEPT
    found.pieces = 0
    found.data[6] = header[0]
    put16(found.data + 4, found.total)
    whole[0] = found
    return DECAPSULATED
