"""Outbound stages: find the tunnel, check the size, segment, encapsulate (RFC 2473 3.1, RFC 6275
10.4.2, 11.3.1).

The hop limit of the inner packet is the kernel's affair: it originated the packet, or forwarded
it to
the TUN device.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from mnagent.datapath._esp cimport ESP_HEADER_LENGTH, esp_seal
from mnagent.datapath._direct cimport Egress, find_egress
from mnagent.datapath._headers cimport find_encapsulation_limit, make_head
from mnagent.datapath._tables cimport INSERTED_MAX, IPV6_LENGTH, LIMIT_LENGTH, Tunnel, WayOut
from mnagent.datapath._traffic cimport note_traffic
from mnagent.datapath._worker cimport (
    HELD_MAX,
    HELD_OCTETS_MAX,
    HeldPacket,
    HeldQueue,
    ERROR_PARAMETER,
    ERROR_TOO_BIG,
    Worker,
    count,
    frame_begin,
    frame_commit,
    frame_commit_offload,
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
from mnagent.datapath.protocols cimport (
    ENCAPSULATION_LIMIT_OPTION,
    MINIMUM_MTU,
    PROTOCOL_DESTINATION_OPTIONS,
    PROTOCOL_ESP,
    PROTOCOL_FRAGMENT,
    PROTOCOL_HOP_BY_HOP,
    PROTOCOL_IPV6,
    PROTOCOL_ROUTING,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
)
from mnagent.datapath.verdicts cimport (
    DROP_BAD_OFFLOAD,
    DROP_ENCAPSULATION_LIMIT,
    DROP_HOLD_OVERFLOW,
    DROP_LINK_SCOPE,
    DROP_NO_ASSOCIATION,
    DROP_NO_TUNNEL,
    DROP_NOT_IPV6,
    DROP_TRUNCATED,
    HELD,
    PACKET_TOO_BIG,
    SENT_DIRECT,
    TUNNELLED,
    Verdict,
)

cdef enum:
    TCP_LENGTH = 20
    TCP_CHECKSUM = 16
    UDP_LENGTH = 8
    # Below what links take as one, with their own headers.
    SUPER_PACKET_MAX = 65535
    # Extension headers and a full TCP header; far below a frame's slot.
    MAX_INNER_HEAD = 1024
    TCP_FIN_PSH = 0x09
    TCP_CWR = 0x80
    PADDING_MORE = 1


cdef virtio_net_hdr NO_OFFLOAD
memset(&NO_OFFLOAD, 0, sizeof(virtio_net_hdr))


cdef void commit_direct(
    Worker* worker, const Egress* egress, const virtio_net_hdr* vnet, uint8_t* packet,
    uint32_t head_length, const uint8_t* payload, uint32_t payload_length
) noexcept nogil:
    cdef const WayOut* way = egress.way
    cdef uint8_t* start = packet - way.link_length
    head_length += way.link_length
    if egress.by_offload:
        frame_commit_offload(worker, way, vnet, start, head_length, payload, payload_length)
    else:
        frame_commit(worker, way, start, head_length, payload, payload_length)


cdef inline uint32_t options_length(const Egress* egress) noexcept nogil:
    return LIMIT_LENGTH if egress.layers else 0


cdef inline void put_options(const Egress* egress, uint8_t* outer) noexcept nogil:
    """The Tunnel Encapsulation Limit behind the outer header, padded to eight octets."""
    cdef uint8_t* options = outer + IPV6_LENGTH
    if egress.layers == 0:
        return
    memset(options, 0, LIMIT_LENGTH)
    options[0] = outer[6]
    options[2] = ENCAPSULATION_LIMIT_OPTION
    options[3] = 1
    options[4] = <uint8_t>(egress.layers - 1)
    options[5] = PADDING_MORE
    options[6] = 1
    outer[6] = PROTOCOL_DESTINATION_OPTIONS


cdef inline bint has_extension_header(const uint8_t* packet) noexcept nogil:
    return (
        packet[6] == PROTOCOL_DESTINATION_OPTIONS or packet[6] == PROTOCOL_HOP_BY_HOP
        or packet[6] == PROTOCOL_ROUTING or packet[6] == PROTOCOL_FRAGMENT
    )


cdef Verdict limit_nesting(
    Worker* worker, Egress* egress, const uint8_t* packet, uint32_t length
) noexcept nogil:
    """A packet that is in a tunnel already may say how many more it may enter (RFC 2473 4.1.1)."""
    cdef uint32_t at
    if not has_extension_header(packet):
        return TUNNELLED
    at = find_encapsulation_limit(packet, length)
    if at == 0:
        return TUNNELLED
    if packet[at] == 0:
        return write_error(
            worker, egress.reporter, ERROR_PARAMETER, at, packet, length, DROP_ENCAPSULATION_LIMIT
        )
    if egress.layers == 0:
        egress.mtu = max(egress.mtu - LIMIT_LENGTH, <uint32_t>MINIMUM_MTU)
    egress.layers = packet[at]
    return TUNNELLED


cdef Verdict encapsulate(
    Worker* worker, const Egress* egress, uint8_t* inner, uint32_t head_length,
    const uint8_t* payload, uint32_t payload_length
) noexcept nogil:
    """Finish the frame whose headers, as the host or a direct path has them, lie at ``inner``:
    outer header and ESP where asked, queue.
    """
    cdef Tunnel* tunnel = egress.tunnel
    cdef uint32_t inner_length = head_length + payload_length
    cdef uint32_t sealed_length = 0, options = options_length(egress)
    cdef uint8_t* outer
    cdef uint8_t* esp
    cdef Verdict verdict
    if tunnel == NULL:
        commit_direct(worker, egress, &NO_OFFLOAD, inner, head_length, payload, payload_length)
        return SENT_DIRECT
    if not egress.seal:
        outer = inner - options - IPV6_LENGTH
        put16(outer + 4, options + inner_length)
        # Version, traffic class (ECN as RFC 6040 normal mode) and flow label as the inner packet's.
        memcpy(outer, inner, 4)
        put_options(egress, outer)
        frame_commit_outer(
            worker, &tunnel.way, outer, IPV6_LENGTH + options + head_length, payload,
            payload_length,
        )
        return TUNNELLED
    memcpy(inner + head_length, payload, payload_length)
    esp = inner - ESP_HEADER_LENGTH - egress.association.iv_length
    outer = esp - options - IPV6_LENGTH
    memcpy(outer, inner, 4)
    outer[6] = PROTOCOL_ESP
    put_options(egress, outer)
    verdict = esp_seal(
        egress.association, worker.ciphers, esp, inner_length, PROTOCOL_IPV6, &sealed_length
    )
    if verdict != TUNNELLED:
        return verdict
    put16(outer + 4, options + sealed_length)
    frame_commit_outer(
        worker, &tunnel.way, outer, IPV6_LENGTH + options + sealed_length, NULL, 0
    )
    return TUNNELLED


cdef uint8_t* begin_inner(Worker* worker, const Egress* egress) noexcept nogil:
    """Where the packet goes in the next frame."""
    cdef uint8_t* after = frame_begin(worker, egress.way)
    cdef Tunnel* tunnel = egress.tunnel
    if tunnel == NULL:
        return after - IPV6_LENGTH
    after += options_length(egress)
    if egress.seal:
        return after + ESP_HEADER_LENGTH + egress.association.iv_length
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
    Worker* worker, const Egress* egress, const virtio_net_hdr* vnet, uint8_t* packet,
    uint32_t length
) noexcept nogil:
    cdef uint8_t* inner
    cdef uint32_t head = IPV6_LENGTH, made
    if length > egress.mtu:
        return packet_too_big(worker, egress, packet, length)
    if not complete_checksum(vnet, packet, length):
        return DROP_BAD_OFFLOAD
    if egress.insertion != NULL:
        head = egress.point
    inner = begin_inner(worker, egress)
    made = copy_head(egress, inner, packet, head)
    put16(inner + 4, made + length - head - IPV6_LENGTH)
    return encapsulate(worker, egress, inner, made, packet + head, length - head)


cdef inline uint32_t copy_head(
    const Egress* egress, uint8_t* into, const uint8_t* packet, uint32_t head
) noexcept nogil:
    """The first ``head`` octets with what is inserted into them; returns how many they are."""
    if egress.insertion == NULL:
        memcpy(into, packet, head)
        return head
    return make_head(into, egress.insertion, packet, head, egress.point, egress.field)


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
    Worker* worker, const Egress* egress, const virtio_net_hdr* vnet, uint8_t* packet,
    uint32_t length, bint datagrams
) noexcept nogil:
    """Cut a super-packet into segments with their own lengths, sequence numbers and checksums.

    Checksums cover the addresses the host knows (RFC 6275 6.3, 6.4), so nothing inserted counts.
    """
    cdef uint8_t pattern[MAX_INNER_HEAD + INSERTED_MAX]
    cdef uint32_t start = vnet.csum_start, size = vnet.gso_size
    cdef uint32_t head = super_packet_head(vnet, packet, length, datagrams)
    cdef uint32_t at = head, piece, sequence, made, offset = 6 if datagrams else 16
    cdef uint64_t addresses
    cdef uint8_t* inner
    cdef uint8_t* upper
    cdef Verdict verdict = DROP_BAD_OFFLOAD
    if head == 0 or egress.point > start:
        return DROP_BAD_OFFLOAD
    if head + size > egress.mtu and length > egress.mtu:
        return packet_too_big(worker, egress, packet, length)
    sequence = get32(packet + start + 4)
    memset(packet + start + offset, 0, 2)
    addresses = sum_octets(packet + 8, 32, 0)
    made = copy_head(egress, pattern, packet, head)
    while at < length:
        piece = size if length - at > size else length - at
        inner = begin_inner(worker, egress)
        memcpy(inner, pattern, made)
        put16(inner + 4, made - IPV6_LENGTH + piece)
        upper = inner + made - (head - start)
        if datagrams:
            put16(upper + 4, UDP_LENGTH + piece)
        else:
            adapt_tcp(
                upper, sequence + (at - head), at == head, at + piece == length,
                vnet.gso_type & VIRTIO_NET_HDR_GSO_ECN,
            )
        put_checksum(
            upper + offset,
            segment_sum(addresses, upper, head - start, packet + at, piece, datagrams),
        )
        if datagrams:
            avoid_zero(upper + offset)
        verdict = encapsulate(worker, egress, inner, made, packet + at, piece)
        if not was_sent(verdict):
            return verdict
        at += piece
    return verdict


cdef inline bint was_sent(Verdict verdict) noexcept nogil:
    return verdict == TUNNELLED or verdict == SENT_DIRECT


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
    Worker* worker, const Egress* egress, const uint8_t* packet, uint32_t length
) noexcept nogil:
    """Tell the sender what fits (RFC 2473 7.1): never below 1280."""
    return write_error(
        worker, egress.reporter, ERROR_TOO_BIG, egress.mtu, packet, length, PACKET_TOO_BIG
    )


cdef bint send_super_packet(
    Worker* worker, const Egress* egress, const virtio_net_hdr* vnet, const uint8_t* packet,
    uint32_t length
) noexcept nogil:
    """Let a TCP super-packet leave whole, for the link or the kernel to cut behind the headers
    inserted; False where that cannot be.

    A kernel that gets it whole and forwards it, such as a virtual machine's host, takes what is 12
    octets behind the IPv6 header for TCP's data offset when it sizes the segments. Where that
    would make them longer than they are, they are cut here.
    """
    cdef uint32_t head = super_packet_head(vnet, packet, length, False), made
    cdef virtio_net_hdr moved = vnet[0]
    cdef uint8_t* start
    if (
        head == 0 or egress.point > vnet.csum_start or vnet.csum_offset != TCP_CHECKSUM
        or not vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM
        or head + vnet.gso_size > egress.mtu
        or length + egress.insertion.length > SUPER_PACKET_MAX
    ):
        return False
    start = begin_inner(worker, egress)
    made = copy_head(egress, start, packet, head)
    if <uint32_t>(start[IPV6_LENGTH + 12] >> 4) * 4 > made - IPV6_LENGTH:
        return False
    put16(start + 4, made + length - head - IPV6_LENGTH)
    moved.flags = <uint8_t>VIRTIO_NET_HDR_F_NEEDS_CSUM
    moved.hdr_len = <uint16_t>(egress.way.link_length + made)
    moved.csum_start = <uint16_t>(
        egress.way.link_length + vnet.csum_start + egress.insertion.length
    )
    commit_direct(worker, egress, &moved, start, made, packet + head, length - head)
    return True


cdef Verdict send(
    Worker* worker, const Egress* egress, const virtio_net_hdr* vnet, uint8_t* packet,
    uint32_t length
) noexcept nogil:
    cdef uint8_t kind = vnet.gso_type & <uint8_t>~VIRTIO_NET_HDR_GSO_ECN
    if kind == VIRTIO_NET_HDR_GSO_NONE:
        return send_whole(worker, egress, vnet, packet, length)
    if kind == VIRTIO_NET_HDR_GSO_TCPV6:
        if egress.by_offload and send_super_packet(worker, egress, vnet, packet, length):
            return SENT_DIRECT
        return send_segments(worker, egress, vnet, packet, length, False)
    if kind == VIRTIO_NET_HDR_GSO_UDP_L4:
        return send_segments(worker, egress, vnet, packet, length, True)
    return DROP_BAD_OFFLOAD


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
    cdef Egress egress
    cdef Verdict verdict
    if length < IPV6_LENGTH:
        return DROP_TRUNCATED
    if packet[0] >> 4 != 6:
        return DROP_NOT_IPV6
    if get16(packet + 4) + IPV6_LENGTH != length:
        return DROP_TRUNCATED
    if is_link_scope(packet + 8) or is_link_scope(packet + 24):
        return DROP_LINK_SCOPE
    if not find_egress(worker.tables, packet, length, &egress):
        return DROP_NO_TUNNEL
    if egress.tunnel != NULL:
        if egress.tunnel.hold:
            return hold(worker, vnet, packet, length)
        if egress.seal and egress.association == NULL:
            return DROP_NO_ASSOCIATION
        verdict = limit_nesting(worker, &egress, packet, length)
        if verdict != TUNNELLED:
            return verdict
    verdict = send(worker, &egress, vnet, packet, length)
    if not was_sent(verdict):
        return verdict
    if egress.tunnel != NULL:
        egress.tunnel.activity.packets_out += 1
    if egress.tunnel == NULL or egress.tunnel.mobile_end:
        note_traffic(
            worker.traffic, packet + 8, packet + 24, packet, length, True, egress.tunnel == NULL
        )
    return verdict


cdef void outbound(
    Worker* worker, virtio_net_hdr* vnet, uint8_t* packet, uint32_t length
) noexcept nogil:
    """One packet read from the TUN device. Frames may point into it until they are flushed."""
    worker.packets += 1
    count(worker, route(worker, vnet, packet, length))
