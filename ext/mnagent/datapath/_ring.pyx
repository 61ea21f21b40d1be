"""Making and freeing receive rings (TPACKET_V2, whose frames can be read as soon as they are there;
those of version 3 wait for a block to fill, or for a timer).
"""

from libc.stdint cimport uint8_t
from libc.string cimport memset

from mnagent.datapath.linux cimport (
    MAP_FAILED,
    MAP_SHARED,
    PACKET_COPY_THRESH,
    PACKET_RX_RING,
    PACKET_VERSION,
    PROT_READ,
    PROT_WRITE,
    SOL_PACKET,
    TPACKET_V2,
    mmap,
    munmap,
    setsockopt,
    tpacket_req,
)


cdef class ReceiveRing:
    """The ring of an AF_PACKET socket that is not bound yet; the memory stays until it is freed.

    ``frames``: how many it holds, a multiple of `RING_BLOCK` over `RING_SLOT`. All of its memory is
    taken at once.
    """

    def __init__(self, descriptor, frames):
        cdef int version = TPACKET_V2, whole = 1
        cdef tpacket_req request
        cdef void* mapped
        if frames < 1 or frames % (RING_BLOCK // RING_SLOT):
            raise ValueError("a ring has whole blocks of frames")
        self.length = frames * RING_SLOT
        request.tp_block_size = RING_BLOCK
        request.tp_block_nr = self.length // RING_BLOCK
        request.tp_frame_size = RING_SLOT
        request.tp_frame_nr = frames
        if (
            setsockopt(descriptor, SOL_PACKET, PACKET_VERSION, &version, sizeof(version)) < 0
            or setsockopt(descriptor, SOL_PACKET, PACKET_COPY_THRESH, &whole, sizeof(whole)) < 0
            or setsockopt(descriptor, SOL_PACKET, PACKET_RX_RING, &request, sizeof(request)) < 0
        ):
            raise OSError("failed to make the receive ring")
        mapped = mmap(NULL, self.length, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0)
        if mapped == MAP_FAILED:
            raise OSError("failed to map the receive ring")
        self.ring.slots = <uint8_t*>mapped
        self.ring.frames = frames

    def __cinit__(self, descriptor, frames):
        memset(&self.ring, 0, sizeof(Ring))

    def __dealloc__(self):
        if self.ring.slots != NULL:
            munmap(self.ring.slots, self.length)
