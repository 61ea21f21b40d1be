# Packets from the TUN device into the tunnel.

from libc.stdint cimport uint8_t, uint32_t

from mnagent.datapath._worker cimport Worker
from mnagent.datapath.linux cimport virtio_net_hdr

cdef void outbound(
    Worker* worker, virtio_net_hdr* vnet, uint8_t* packet, uint32_t length
) noexcept nogil
cdef void release_held(Worker* worker) noexcept nogil
