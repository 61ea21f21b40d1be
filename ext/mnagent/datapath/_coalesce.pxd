# What goes to the TUN device: runs of segments as one packet.

from libc.stdint cimport uint8_t, uint32_t

from mnagent.datapath._worker cimport Arrival, Worker

cdef void coalesce(
    Worker* worker, const Arrival* arrival, uint32_t offset, uint8_t* packet, uint32_t length
) noexcept nogil
cdef void flush_tunnel(Worker* worker) noexcept nogil
