"""For tests: the stages over memory ports."""

from collections import namedtuple

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from mnagent.datapath._coalesce cimport flush_tunnel
from mnagent.datapath._core cimport _Core
from mnagent.datapath._inbound cimport inbound
from mnagent.datapath._outbound cimport outbound, release_held
from mnagent.datapath._tables cimport ETHERNET_LENGTH, Tunnel, tunnel_find
from mnagent.datapath._traffic cimport monotonic_milliseconds
from mnagent.datapath._worker cimport VNET_LENGTH, Arrival, Capture, Worker, worker_use_memory
from mnagent.datapath.linux cimport CLOCK_MONOTONIC, clock_gettime, timespec, virtio_net_hdr

cdef list take_captured(Capture* captured):
    cdef size_t at = 0
    cdef uint32_t length
    records = []
    while at < captured.length:
        memcpy(&length, captured.data + at, 4)
        at += 4
        records.append(captured.data[at:at + length])
        at += length
    captured.length = 0
    return records


Processed = namedtuple("Processed", ("frames", "to_tunnel", "handed_up"))


cdef class Pipeline(_Core):
    """The engine's stages over memory ports: no privileges, no threads.

    With ``passes_super_packets`` frames of TCP on direct paths bear a virtio header, and
    super-packets leave whole.
    """

    cdef bint passes_super_packets

    def __cinit__(self, *, passes_super_packets=False):
        self.passes_super_packets = passes_super_packets
        worker_use_memory(self.outbound_worker)
        worker_use_memory(self.inbound_worker)
        self.inbound_worker.merges_datagrams = True
        self.set_time(monotonic_milliseconds())

    def _offload_out(self, next_hop):
        return 0 if self.passes_super_packets else -1

    def set_time(self, milliseconds):
        """What the clock says from now on to the table of traffic."""
        self.outbound_worker.traffic.now = self.inbound_worker.traffic.now = milliseconds

    def wants_attention(self):
        """Whether an engine would have signalled traffic since the last call."""
        cdef bint pending = (
            self.outbound_worker.traffic.pending or self.inbound_worker.traffic.pending
        )
        self.outbound_worker.traffic.pending = self.inbound_worker.traffic.pending = False
        return bool(pending)

    cdef bint _take_tables(self, Worker* worker):
        """Whether they are the same as the last time."""
        cdef bint same = worker.generation == self.tables.generation
        worker.tables = self.tables
        worker.generation = self.tables.generation
        return same

    def process_outbound(self, packets, offloads=None):
        """Carry packets as if read from the TUN device; ``offloads`` are their virtio headers."""
        cdef Worker* worker = self.outbound_worker
        cdef virtio_net_hdr vnet
        cdef uint8_t* copied
        cdef bytes packet, header
        cdef uint32_t length
        if not self._take_tables(worker):
            release_held(worker)
        for at, packet in enumerate(packets):
            header = bytes(VNET_LENGTH) if offloads is None else offloads[at]
            memcpy(&vnet, <const uint8_t*>header, VNET_LENGTH)
            length = <uint32_t>len(packet)
            copied = <uint8_t*>malloc(length)
            memcpy(copied, <const uint8_t*>packet, length)
            outbound(worker, &vnet, copied, length)
            worker.flush_frames(worker)
            free(copied)
        return Processed(
            take_captured(&worker.captured_frames), take_captured(&worker.captured_tunnel), []
        )

    def process_inbound(self, frames, *, link_length=0, interface=1, offloads=None):
        """Carry frames as if one batch from a link; what goes to the TUN device has its virtio
        header.
        """
        cdef Worker* worker = self.inbound_worker
        cdef Arrival arrival
        cdef bytes frame, header
        cdef uint32_t head = link_length, length
        cdef uint8_t** copies = <uint8_t**>calloc(len(frames) + 1, sizeof(uint8_t*))
        self._take_tables(worker)
        arrival.interface = interface
        arrival.at = 0
        arrival.link_length = head
        for at, frame in enumerate(frames):
            header = bytes(VNET_LENGTH) if offloads is None else offloads[at]
            memcpy(&arrival.vnet, <const uint8_t*>header, VNET_LENGTH)
            length = <uint32_t>len(frame)
            copies[<int>at] = <uint8_t*>malloc(length)
            memcpy(copies[<int>at], <const uint8_t*>frame, length)
            arrival.link_source_length = 6 if head == ETHERNET_LENGTH else 0
            if length < head:
                head = length
            elif head == ETHERNET_LENGTH:
                memcpy(arrival.link_source, copies[<int>at] + 6, 6)
            inbound(worker, &arrival, copies[<int>at] + head, length - head)
            head = link_length
        flush_tunnel(worker)
        worker.flush_frames(worker)
        for at in range(len(frames)):
            free(copies[<int>at])
        free(copies)
        worker.hand_up_pending = 0
        return Processed(
            take_captured(&worker.captured_frames), take_captured(&worker.captured_tunnel),
            self.take_handed_up(),
        )

    def time_lookups(self, bytes addresses, *, int rounds):
        """Nanoseconds to find the tunnel of one of the home addresses, 16 octets each, on average
        over so many rounds through them; what is found is looked into, as a packet's stages do.
        """
        cdef const uint8_t* at = <const uint8_t*>addresses
        cdef size_t count = len(addresses) // 16, each
        cdef uint64_t found = 0
        cdef int _round
        cdef Tunnel* tunnel
        cdef timespec began, ended
        clock_gettime(CLOCK_MONOTONIC, &began)
        for _round in range(rounds):
            for each in range(count):
                tunnel = tunnel_find(self.tables, at + 16 * each)
                if tunnel != NULL:
                    found += tunnel.mtu != 0
        clock_gettime(CLOCK_MONOTONIC, &ended)
        if found != <uint64_t>count * rounds:
            raise KeyError("not all addresses have a tunnel")
        return (
            (ended.tv_sec - began.tv_sec) * 1e9 + (ended.tv_nsec - began.tv_nsec)
        ) / (count * rounds)
