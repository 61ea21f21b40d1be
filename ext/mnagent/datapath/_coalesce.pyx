"""Coalescing: what the receiving stack saves on a run of segments is most of its cost a packet."""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from mnagent.datapath._tables cimport IPV6_LENGTH
from mnagent.datapath._worker cimport (
    BATCH,
    FLOWS,
    VNET_LENGTH,
    Arrival,
    Coalescer,
    SuperPacket,
    Worker,
)
from mnagent.datapath.linux cimport (
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_TCPV6,
    VIRTIO_NET_HDR_GSO_UDP_L4,
    iovec,
    virtio_net_hdr,
)
from mnagent.datapath.octets cimport (
    fold,
    get16,
    get32,
    hash_address,
    put16,
    sum_octets,
    sum_pseudo_header,
)
from mnagent.datapath.protocols cimport PROTOCOL_TCP, PROTOCOL_UDP

cdef enum:
    TCP_LENGTH = 20
    UDP_LENGTH = 8
    TCP_ACK = 0x10
    TCP_PSH = 0x08


cdef uint32_t mergeable_header(const uint8_t* packet, uint32_t length) noexcept nogil:
    """Length of all headers when the packet may join a run of its flow, else 0."""
    cdef uint32_t head
    if packet[6] == PROTOCOL_UDP:
        head = IPV6_LENGTH + UDP_LENGTH
        if length <= head or get16(packet + 44) + IPV6_LENGTH != length:
            return 0
        return 0 if packet[46] == 0 and packet[47] == 0 else head
    if packet[6] != PROTOCOL_TCP or length <= IPV6_LENGTH + TCP_LENGTH:
        return 0
    if packet[53] & <uint8_t>~TCP_PSH != TCP_ACK:
        return 0
    head = IPV6_LENGTH + (packet[52] >> 4) * 4
    if head < IPV6_LENGTH + TCP_LENGTH or head >= length:
        return 0
    return head


cdef bint checksum_is_right(const uint8_t* packet, uint32_t length) noexcept nogil:
    cdef uint64_t total = sum_pseudo_header(packet + 8, length - IPV6_LENGTH, packet[6])
    return fold(sum_octets(packet + IPV6_LENGTH, length - IPV6_LENGTH, total)) == 0xFFFF


cdef bint continues(
    const SuperPacket* run, const uint8_t* packet, uint32_t head, uint32_t length
) noexcept nogil:
    """Whether the packet is the run's next: headers differ in length, sequence, PSH, checksum
    only.
    """
    cdef const uint8_t* first = run.data
    if (
        run.header_length != head
        or length - head > run.vnet.gso_size
        or run.length + length - head > 65535
        or memcmp(first, packet, 4) != 0
        # Next header to ports.
        or memcmp(first + 6, packet + 6, 38) != 0
    ):
        return False
    if packet[6] == PROTOCOL_UDP:
        return True
    return (
        get32(packet + 44) == run.next_sequence
        # Acknowledgement and data offset, window, urgent pointer and options.
        and memcmp(first + 48, packet + 48, 5) == 0
        and memcmp(first + 54, packet + 54, 2) == 0
        and memcmp(first + 58, packet + 58, head - 58) == 0
    )


cdef void append(
    Coalescer* coalescer, SuperPacket* run, const uint8_t* packet, uint32_t head, uint32_t length
) noexcept nogil:
    cdef int32_t piece = <int32_t>coalescer.piece_count
    coalescer.piece_count += 1
    coalescer.pieces[piece].iov_base = <void*>(packet + head)
    coalescer.pieces[piece].iov_len = length - head
    coalescer.next_piece[piece] = -1
    if run.last_piece < 0:
        run.first_piece = piece
    else:
        coalescer.next_piece[run.last_piece] = piece
    run.last_piece = piece
    run.segments += 1
    run.length += length - head
    run.next_sequence += length - head
    if packet[6] == PROTOCOL_TCP:
        run.data[53] |= packet[53] & TCP_PSH


cdef inline bint ends_run(const uint8_t* packet) noexcept nogil:
    return packet[6] == PROTOCOL_TCP and packet[53] & TCP_PSH


cdef inline uint32_t flow_of(const uint8_t* packet, uint32_t length) noexcept nogil:
    cdef uint32_t ports = get32(packet + 40) if length >= IPV6_LENGTH + 4 else 0
    ports ^= hash_address(packet + 8) ^ hash_address(packet + 24)
    return ((ports * <uint32_t>0x9E3779B1) >> 16) % FLOWS


cdef void coalesce(
    Worker* worker, const Arrival* arrival, uint32_t offset, uint8_t* packet, uint32_t length
) noexcept nogil:
    """Queue a decapsulated packet for the TUN device, as the next segment of a run where it is
    one.
    """
    cdef Coalescer* coalescer = worker.coalescer
    cdef SuperPacket* run
    cdef uint32_t head = 0, flow = 0
    cdef int32_t open_run
    if coalescer.count == BATCH:
        flush_tunnel(worker)
    if not has_offload(arrival):
        head = mergeable_header(packet, length)
    if head and packet[6] == PROTOCOL_UDP and not worker.merges_datagrams:
        head = 0
    if packet[24] == 0xFF:
        # A group's packets are also read as they are from the device, to be passed on.
        head = 0
    if packet[6] == PROTOCOL_UDP or packet[6] == PROTOCOL_TCP:
        flow = flow_of(packet, length)
        open_run = coalescer.flows[flow]
        if head and not checksum_is_right(packet, length):
            head = 0
        if head and open_run >= 0:
            run = &coalescer.packets[open_run]
            if continues(run, packet, head, length):
                append(coalescer, run, packet, head, length)
                if length - head < run.vnet.gso_size or ends_run(packet):
                    coalescer.flows[flow] = -1
                return
        coalescer.flows[flow] = -1
    run = &coalescer.packets[coalescer.count]
    memset(run, 0, sizeof(SuperPacket))
    run.first_piece = run.last_piece = -1
    run.data = packet
    run.length = length
    run.segments = 1
    if head:
        run.header_length = head
        run.vnet.gso_size = <uint16_t>(length - head)
        run.next_sequence = get32(packet + 44) + (length - head)
        if not ends_run(packet):
            coalescer.flows[flow] = <int32_t>coalescer.count
    elif has_offload(arrival):
        keep_offload(run, arrival, offset)
    coalescer.count += 1


cdef inline bint has_offload(const Arrival* arrival) noexcept nogil:
    return (arrival.vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) or arrival.vnet.gso_type


cdef void keep_offload(SuperPacket* run, const Arrival* arrival, uint32_t offset) noexcept nogil:
    """The link handed over a run already, or a checksum left to do: say so, counted from the
    inner packet.
    """
    cdef uint32_t moved = offset + arrival.link_length
    if arrival.vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM and arrival.vnet.csum_start >= moved:
        run.vnet = arrival.vnet
        run.vnet.csum_start -= <uint16_t>moved
        run.vnet.hdr_len = 0 if run.vnet.hdr_len < moved else <uint16_t>(run.vnet.hdr_len - moved)


cdef void finish_run(SuperPacket* run) noexcept nogil:
    """Make the first packet's headers those of the run; the checksum is left to the kernel."""
    cdef uint32_t length = run.length - IPV6_LENGTH
    cdef bint datagrams = run.data[6] == PROTOCOL_UDP
    cdef uint16_t sum16
    put16(run.data + 4, length)
    sum16 = fold(sum_pseudo_header(run.data + 8, length, run.data[6]))
    run.vnet.flags = <uint8_t>VIRTIO_NET_HDR_F_NEEDS_CSUM
    run.vnet.hdr_len = <uint16_t>run.header_length
    run.vnet.csum_start = IPV6_LENGTH
    if datagrams:
        put16(run.data + 44, length)
        run.vnet.gso_type = <uint8_t>VIRTIO_NET_HDR_GSO_UDP_L4
        run.vnet.csum_offset = 6
    else:
        run.vnet.gso_type = <uint8_t>VIRTIO_NET_HDR_GSO_TCPV6
        run.vnet.csum_offset = 16
    memcpy(run.data + IPV6_LENGTH + run.vnet.csum_offset, &sum16, 2)


cdef void flush_tunnel(Worker* worker) noexcept nogil:
    """Write what is queued to the TUN device, in order of arrival within each flow."""
    cdef Coalescer* coalescer = worker.coalescer
    cdef iovec vectors[BATCH + 2]
    cdef SuperPacket* run
    cdef uint32_t at, used
    cdef int32_t piece
    for at in range(coalescer.count):
        run = &coalescer.packets[at]
        vectors[1].iov_base = run.data
        vectors[1].iov_len = run.length
        used = 2
        if run.segments > 1:
            finish_run(run)
            vectors[1].iov_len = run.header_length + run.vnet.gso_size
            piece = run.first_piece
            while piece >= 0:
                vectors[used] = coalescer.pieces[piece]
                used += 1
                piece = coalescer.next_piece[piece]
        elif run.header_length:
            memset(&run.vnet, 0, sizeof(virtio_net_hdr))
        vectors[0].iov_base = &run.vnet
        vectors[0].iov_len = VNET_LENGTH
        worker.write_tunnel(worker, vectors, used)
    coalescer.count = 0
    coalescer.piece_count = 0
    memset(coalescer.flows, 0xFF, sizeof(coalescer.flows))
