"""Outbound stages: find the tunnel, check the size, segment, encapsulate (RFC 2473 3.1, RFC 6275
10.4.2, 11.3.1).

The hop limit of the inner packet is the kernel's affair: it originated the packet, or forwarded
it to
the TUN device.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from mnagent.datapath._esp cimport ESP_HEADER_LENGTH, esp_seal
from mnagent.datapath._tables cimport IPV6_LENGTH, Tables, Tunnel, address_find
from mnagent.datapath._worker cimport (
    HELD_MAX,
    HELD_OCTETS_MAX,
    HeldPacket,
    HeldQueue,
    ERROR_TOO_BIG,
    Worker,
    count,
    frame_begin,
    frame_commit_outer,
    write_error,
)
from mnagent.datapath.linux cimport (
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_ECN,
    VIRTIO_NET_HDR_GSO_NONE,
    VIRTIO_NET_HDR_GSO_TCPV6,
    VIRTIO_NET_HDR_GSO_UDP_L4,
    virtio_net_hdr,
)
from mnagent.datapath.octets cimport (
    get16,
    get32,
    is_link_scope,
    put16,
    put32,
    put_checksum,
    sum_octets,
)
from mnagent.datapath.verdicts cimport (
    DROP_BAD_OFFLOAD,
    DROP_HOLD_OVERFLOW,
    DROP_LINK_SCOPE,
    DROP_NO_ASSOCIATION,
    DROP_NO_TUNNEL,
    DROP_NOT_IPV6,
    DROP_TRUNCATED,
    HELD,
    PACKET_TOO_BIG,
    TUNNELLED,
    Verdict,
)

cdef enum:
    PROTOCOL_TCP = 6
    PROTOCOL_UDP = 17
    PROTOCOL_IPV6 = 41
    PROTOCOL_ESP = 50
    TCP_LENGTH = 20
    UDP_LENGTH = 8
    # Extension headers and a full TCP header; far below a frame's slot.
    MAX_INNER_HEAD = 1024
    TCP_FIN_PSH = 0x09
    TCP_CWR = 0x80


cdef Tunnel* find_tunnel(const Tables* tables, const uint8_t* packet) noexcept nogil:
    """A mobile node sends from its home address; a home agent sends to one."""
    cdef int32_t at = address_find(&tables.homes, packet + 8)
    if at >= 0 and tables.tunnels[at].mobile_end:
        return &tables.tunnels[at]
    at = address_find(&tables.homes, packet + 24)
    if at >= 0 and not tables.tunnels[at].mobile_end:
        return &tables.tunnels[at]
    return NULL


cdef Verdict encapsulate(
    Worker* worker, const Tunnel* tunnel, uint8_t* inner, uint32_t head_length,
    const uint8_t* payload, uint32_t payload_length
) noexcept nogil:
    """Finish the frame whose inner headers lie at ``inner``: outer header, ESP where asked,
    queue.
    """
    cdef uint32_t inner_length = head_length + payload_length
    cdef uint32_t sealed_length = 0
    cdef uint8_t* outer
    cdef uint8_t* esp
    cdef Verdict verdict
    if not tunnel.seal:
        outer = inner - IPV6_LENGTH
        put16(outer + 4, inner_length)
        # Version, traffic class (ECN as RFC 6040 normal mode) and flow label as the inner packet's.
        memcpy(outer, inner, 4)
        frame_commit_outer(
            worker, tunnel, outer, IPV6_LENGTH + head_length, payload, payload_length
        )
        return TUNNELLED
    memcpy(inner + head_length, payload, payload_length)
    esp = inner - ESP_HEADER_LENGTH - tunnel.outbound.iv_length
    outer = esp - IPV6_LENGTH
    memcpy(outer, inner, 4)
    verdict = esp_seal(
        tunnel.outbound, worker.lane, esp, inner_length, PROTOCOL_IPV6, &sealed_length
    )
    if verdict != TUNNELLED:
        return verdict
    put16(outer + 4, sealed_length)
    frame_commit_outer(worker, tunnel, outer, IPV6_LENGTH + sealed_length, NULL, 0)
    return TUNNELLED


cdef uint8_t* begin_inner(Worker* worker, const Tunnel* tunnel) noexcept nogil:
    """Where the inner packet goes in the next frame."""
    cdef uint8_t* after = frame_begin(worker, tunnel)
    if tunnel.seal:
        return after + ESP_HEADER_LENGTH + tunnel.outbound.iv_length
    return after


cdef bint complete_checksum(
    const virtio_net_hdr* vnet, uint8_t* packet, uint32_t length
) noexcept nogil:
    """Do what the kernel left to the device: the field holds the pseudo-header's sum."""
    cdef uint32_t start = vnet.csum_start, field = start + vnet.csum_offset
    cdef uint64_t total
    if not vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM:
        return True
    if start < IPV6_LENGTH or start & 1 or field + 2 > length:
        return False
    total = sum_octets(packet + start, length - start, 0)
    put_checksum(packet + field, total)
    if vnet.csum_offset == 6:
        avoid_zero(packet + field)
    return True


cdef Verdict send_whole(
    Worker* worker, const Tunnel* tunnel, const virtio_net_hdr* vnet, uint8_t* packet,
    uint32_t length
) noexcept nogil:
    cdef uint8_t* inner
    if length > tunnel.mtu:
        return packet_too_big(worker, tunnel, packet, length)
    if not complete_checksum(vnet, packet, length):
        return DROP_BAD_OFFLOAD
    inner = begin_inner(worker, tunnel)
    memcpy(inner, packet, IPV6_LENGTH)
    return encapsulate(
        worker, tunnel, inner, IPV6_LENGTH, packet + IPV6_LENGTH, length - IPV6_LENGTH
    )


cdef uint32_t super_packet_head(
    const virtio_net_hdr* vnet, const uint8_t* packet, uint32_t length, bint datagrams
) noexcept nogil:
    """Length of the headers that every segment repeats, 0 when the offload makes no sense."""
    cdef uint32_t start = vnet.csum_start, least = UDP_LENGTH if datagrams else TCP_LENGTH, head
    if start < IPV6_LENGTH or start & 1 or start + least > length or vnet.gso_size == 0:
        return 0
    head = start + (UDP_LENGTH if datagrams else (packet[start + 12] >> 4) * 4)
    if head < start + least or head >= length or head > MAX_INNER_HEAD:
        return 0
    return head


cdef inline void adapt_tcp(
    uint8_t* header, uint32_t sequence, bint first, bint last, bint congestion
) noexcept nogil:
    put32(header + 4, sequence)
    if not last:
        header[13] &= <uint8_t>~TCP_FIN_PSH
    if congestion and not first:
        header[13] &= <uint8_t>~TCP_CWR


cdef Verdict send_segments(
    Worker* worker, const Tunnel* tunnel, const virtio_net_hdr* vnet, uint8_t* packet,
    uint32_t length, bint datagrams
) noexcept nogil:
    """Cut a super-packet into segments with their own lengths, sequence numbers and checksums."""
    cdef uint32_t start = vnet.csum_start, size = vnet.gso_size
    cdef uint32_t head = super_packet_head(vnet, packet, length, datagrams)
    cdef uint32_t at = head, piece, sequence, field = start + (6 if datagrams else 16)
    cdef uint64_t addresses
    cdef uint8_t* inner
    cdef Verdict verdict
    if head == 0:
        return DROP_BAD_OFFLOAD
    if head + size > tunnel.mtu and length > tunnel.mtu:
        return packet_too_big(worker, tunnel, packet, length)
    sequence = get32(packet + start + 4)
    memset(packet + field, 0, 2)
    addresses = sum_octets(packet + 8, 32, 0)
    while at < length:
        piece = size if length - at > size else length - at
        inner = begin_inner(worker, tunnel)
        memcpy(inner, packet, head)
        put16(inner + 4, head - IPV6_LENGTH + piece)
        if datagrams:
            put16(inner + start + 4, UDP_LENGTH + piece)
        else:
            adapt_tcp(
                inner + start, sequence + (at - head), at == head, at + piece == length,
                vnet.gso_type & VIRTIO_NET_HDR_GSO_ECN,
            )
        put_checksum(
            inner + field,
            segment_sum(addresses, inner + start, head - start, packet + at, piece, datagrams),
        )
        if datagrams:
            avoid_zero(inner + field)
        verdict = encapsulate(worker, tunnel, inner, head, packet + at, piece)
        if verdict != TUNNELLED:
            return verdict
        at += piece
    return TUNNELLED


cdef inline uint64_t segment_sum(
    uint64_t addresses, const uint8_t* header, uint32_t header_length, const uint8_t* payload,
    uint32_t length, bint datagrams
) noexcept nogil:
    cdef uint8_t rest[8]
    put32(rest, header_length + length)
    put32(rest + 4, PROTOCOL_UDP if datagrams else PROTOCOL_TCP)
    addresses = sum_octets(rest, 8, addresses)
    return sum_octets(payload, length, sum_octets(header, header_length, addresses))


cdef inline void avoid_zero(uint8_t* field) noexcept nogil:
    """A UDP checksum of zero would mean none (RFC 8200 8.1)."""
    if field[0] == 0 and field[1] == 0:
        field[0] = field[1] = 0xFF


cdef Verdict packet_too_big(
    Worker* worker, const Tunnel* tunnel, const uint8_t* packet, uint32_t length
) noexcept nogil:
    """Tell the sender the tunnel's MTU (RFC 2473 7.1): never below 1280."""
    return write_error(
        worker, tunnel.local, ERROR_TOO_BIG, tunnel.mtu, packet, length, PACKET_TOO_BIG
    )


cdef Verdict hold(
    Worker* worker, const virtio_net_hdr* vnet, const uint8_t* packet, uint32_t length
) noexcept nogil:
    """Keep a copy until the tunnel has a path again; the oldest make room."""
    cdef HeldQueue* queue = worker.held
    cdef HeldPacket* kept
    cdef uint8_t* copied
    while queue.count and (
        queue.count == HELD_MAX or queue.octets + length > HELD_OCTETS_MAX
    ):
        kept = &queue.packets[queue.first]
        queue.octets -= kept.length
        free(kept.data)
        kept.data = NULL
        queue.first = (queue.first + 1) % HELD_MAX
        queue.count -= 1
        worker.released += 1
        count(worker, DROP_HOLD_OVERFLOW)
    copied = <uint8_t*>malloc(length)
    if copied == NULL:
        return DROP_HOLD_OVERFLOW
    memcpy(copied, packet, length)
    kept = &queue.packets[(queue.first + queue.count) % HELD_MAX]
    kept.vnet = vnet[0]
    kept.length = length
    kept.data = copied
    queue.count += 1
    queue.octets += length
    return HELD


cdef void release_held(Worker* worker) noexcept nogil:
    """After a change of tables: what is queued goes its way, or back into the queue."""
    cdef HeldQueue* queue = worker.held
    cdef uint32_t remaining = queue.count
    cdef HeldPacket kept
    while remaining:
        kept = queue.packets[queue.first]
        queue.packets[queue.first].data = NULL
        queue.first = (queue.first + 1) % HELD_MAX
        queue.count -= 1
        queue.octets -= kept.length
        worker.released += 1
        count(worker, route(worker, &kept.vnet, kept.data, kept.length))
        # The frame points into the packet.
        worker.flush_frames(worker)
        free(kept.data)
        remaining -= 1


cdef Verdict route(
    Worker* worker, virtio_net_hdr* vnet, uint8_t* packet, uint32_t length
) noexcept nogil:
    cdef Tunnel* tunnel
    cdef uint8_t kind
    cdef Verdict verdict
    if length < IPV6_LENGTH:
        return DROP_TRUNCATED
    if packet[0] >> 4 != 6:
        return DROP_NOT_IPV6
    if get16(packet + 4) + IPV6_LENGTH != length:
        return DROP_TRUNCATED
    if is_link_scope(packet + 8) or is_link_scope(packet + 24):
        return DROP_LINK_SCOPE
    tunnel = find_tunnel(worker.tables, packet)
    if tunnel == NULL:
        return DROP_NO_TUNNEL
    if tunnel.hold:
        return hold(worker, vnet, packet, length)
    if tunnel.seal and tunnel.outbound == NULL:
        return DROP_NO_ASSOCIATION
    kind = vnet.gso_type & <uint8_t>~VIRTIO_NET_HDR_GSO_ECN
    if kind == VIRTIO_NET_HDR_GSO_NONE:
        verdict = send_whole(worker, tunnel, vnet, packet, length)
    elif kind == VIRTIO_NET_HDR_GSO_TCPV6:
        verdict = send_segments(worker, tunnel, vnet, packet, length, False)
    elif kind == VIRTIO_NET_HDR_GSO_UDP_L4:
        verdict = send_segments(worker, tunnel, vnet, packet, length, True)
    else:
        return DROP_BAD_OFFLOAD
    if verdict == TUNNELLED:
        tunnel.activity.packets_out += 1
    return verdict


cdef void outbound(
    Worker* worker, virtio_net_hdr* vnet, uint8_t* packet, uint32_t length
) noexcept nogil:
    """One packet read from the TUN device. Frames may point into it until they are flushed."""
    worker.packets += 1
    count(worker, route(worker, vnet, packet, length))
