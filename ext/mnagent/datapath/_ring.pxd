# A receive ring: the kernel puts frames where the engine works on them, without a call for each.

from libc.stdint cimport uint8_t, uint32_t

from mnagent.datapath.atomics cimport load_half_word, store_half_word
from mnagent.datapath.linux cimport TP_STATUS_KERNEL, TP_STATUS_USER, tpacket2_hdr

cdef enum:
    # A frame of an ordinary link with what the kernel puts before it; larger ones are read by a
    # call of their own.
    RING_SLOT = 2048
    RING_BLOCK = 65536


cdef struct Ring:
    uint8_t* slots
    uint32_t frames
    # The slot the kernel fills next, and, from there backwards, how many the engine still holds.
    uint32_t upcoming
    uint32_t held


cdef class ReceiveRing:
    cdef Ring ring
    cdef size_t length


cdef inline tpacket2_hdr* ring_take(Ring* ring) noexcept nogil:
    """The next frame, to hold until `ring_release`; NULL when there is none yet."""
    cdef tpacket2_hdr* head = <tpacket2_hdr*>(ring.slots + ring.upcoming * RING_SLOT)
    if ring.held == ring.frames or not load_half_word(&head.tp_status) & TP_STATUS_USER:
        return NULL
    ring.upcoming = (ring.upcoming + 1) % ring.frames
    ring.held += 1
    return head


cdef inline void ring_release(Ring* ring) noexcept nogil:
    """Give back all that are held, in order."""
    cdef uint32_t at
    cdef tpacket2_hdr* head
    while ring.held:
        at = (ring.upcoming + ring.frames - ring.held) % ring.frames
        head = <tpacket2_hdr*>(ring.slots + at * RING_SLOT)
        store_half_word(&head.tp_status, TP_STATUS_KERNEL)
        ring.held -= 1
