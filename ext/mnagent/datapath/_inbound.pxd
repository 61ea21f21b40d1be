# Packets from the links: out of the tunnel, up to the control plane, or nothing of ours.

from libc.stdint cimport uint8_t, uint32_t

from mnagent.datapath._worker cimport Arrival, Worker

cdef void inbound(
    Worker* worker, Arrival* arrival, uint8_t* packet, uint32_t length
) noexcept nogil
