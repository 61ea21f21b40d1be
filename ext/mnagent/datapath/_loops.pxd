# The two loops and what they share with Python.

from libc.stdint cimport uint8_t, uint64_t

from mnagent.datapath._tables cimport Tables
from mnagent.datapath._worker cimport Worker

cdef enum:
    # Room for a few super-packets, or a batch of small packets.
    ARENA_LENGTH = 8 * (65536 + 256)


cdef struct Shared:
    # A `Tables*`, set once.
    uint64_t tables
    # Set by Python, read by both loops.
    uint64_t stop


cdef struct Loop:
    Shared* shared
    Worker* worker
    # Descriptor whose readability interrupts a wait.
    int wake
    # Signalled when something is handed up.
    int notify
    int tunnel
    uint8_t* memory


cdef void run_outbound(Loop* loop) noexcept nogil
cdef void run_inbound(Loop* loop) noexcept nogil
