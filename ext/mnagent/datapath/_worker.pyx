"""A worker's memory and its ports: real descriptors, or memory for tests."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

from mnagent.datapath._esp cimport cipher_cache_free, cipher_cache_new
from mnagent.datapath._tables cimport ETHERNET_LENGTH, IPV6_LENGTH, LIMIT_LENGTH, WayOut
from mnagent.datapath._traffic cimport TrafficTable
from mnagent.datapath.atomics cimport load_word, store_word
from mnagent.datapath.libcrypto cimport RAND_bytes
from mnagent.datapath.linux cimport (
    AF_INET6,
    CLOCK_MONOTONIC,
    EAGAIN,
    EINTR,
    ENETDOWN,
    ENOBUFS,
    ENXIO,
    PACKET_QDISC_BYPASS,
    SOL_PACKET,
    clock_gettime,
    errno,
    iovec,
    mmsghdr,
    sendmmsg,
    setsockopt,
    sockaddr_in6,
    timespec,
    virtio_net_hdr,
    writev,
)
from mnagent.datapath.octets cimport put16, put32, put_checksum, sum_octets, sum_pseudo_header
from mnagent.datapath.protocols cimport (
    FRAGMENT_LENGTH,
    ICMP_INFORMATIONAL,
    MINIMUM_MTU,
    PROTOCOL_DESTINATION_OPTIONS,
    PROTOCOL_FRAGMENT,
    PROTOCOL_ICMPV6,
)
from mnagent.datapath.verdicts cimport (
    DROP_HAND_UP_FULL,
    DROP_HAND_UP_TOO_LARGE,
    DROP_RATE_LIMITED,
    HANDED_UP,
    Verdict,
)

cdef Worker* worker_new() noexcept nogil:
    cdef Worker* worker = <Worker*>calloc(1, sizeof(Worker))
    if worker == NULL:
        return NULL
    worker.frames = <FrameBatch*>calloc(1, sizeof(FrameBatch))
    worker.coalescer = <Coalescer*>calloc(1, sizeof(Coalescer))
    worker.handed_up = <HandUpRing*>calloc(1, sizeof(HandUpRing))
    worker.held = <HeldQueue*>calloc(1, sizeof(HeldQueue))
    worker.reassemblies = <Reassembly*>calloc(REASSEMBLIES, sizeof(Reassembly))
    worker.scratch = <uint8_t*>malloc(FRAME_SLOT)
    worker.traffic = <TrafficTable*>calloc(1, sizeof(TrafficTable))
    worker.ciphers = cipher_cache_new()
    if worker.frames != NULL:
        worker.frames.slots = <uint8_t*>malloc(BATCH * FRAME_SLOT)
    if (
        worker.frames == NULL or worker.frames.slots == NULL or worker.coalescer == NULL
        or worker.handed_up == NULL or worker.held == NULL or worker.reassemblies == NULL
        or worker.scratch == NULL or worker.traffic == NULL or worker.ciphers == NULL
        or RAND_bytes(<uint8_t*>&worker.identification, sizeof(worker.identification)) != 1
    ):
        worker_free(worker)
        return NULL
    worker.tunnel_descriptor = -1
    memset(worker.coalescer.flows, 0xFF, sizeof(worker.coalescer.flows))
    return worker


cdef void worker_free(Worker* worker) noexcept nogil:
    cdef uint32_t at
    if worker == NULL:
        return
    if worker.frames != NULL:
        free(worker.frames.slots)
    if worker.held != NULL:
        for at in range(worker.held.count):
            free(worker.held.packets[(worker.held.first + at) % HELD_MAX].data)
    if worker.reassemblies != NULL:
        for at in range(<uint32_t>REASSEMBLIES):
            free(worker.reassemblies[at].data)
    free(worker.reassemblies)
    free(worker.scratch)
    free(worker.traffic)
    cipher_cache_free(worker.ciphers)
    free(worker.frames)
    free(worker.coalescer)
    free(worker.handed_up)
    free(worker.held)
    free(worker.captured_frames.data)
    free(worker.captured_tunnel.data)
    free(worker)


cdef void count(Worker* worker, Verdict verdict) noexcept nogil:
    worker.verdicts[<int>verdict] += 1


cdef long monotonic_seconds() noexcept nogil:
    """Only the rare paths read the clock."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec


cdef bint rate_allows(RateLimit* limit, uint32_t per_second) noexcept nogil:
    cdef long now = monotonic_seconds()
    if now != limit.second:
        limit.second = now
        limit.taken = 0
    limit.taken += 1
    return limit.taken <= per_second


cdef bint forbids_error(const uint8_t* packet, uint32_t length) noexcept nogil:
    """No error about an error, nor about a packet to or from a group (RFC 4443 2.4 e)."""
    if packet[8] == 0xFF or packet[24] == 0xFF:
        return True
    return packet[6] == PROTOCOL_ICMPV6 and (
        length <= IPV6_LENGTH or packet[40] < ICMP_INFORMATIONAL
    )


cdef Verdict write_error(
    Worker* worker, const uint8_t* source, uint32_t kind, uint32_t value, const uint8_t* packet,
    uint32_t length, Verdict verdict
) noexcept nogil:
    """Send an ICMPv6 error about ``packet`` to its source, through the TUN device."""
    cdef uint8_t error[VNET_LENGTH + MINIMUM_MTU]
    cdef uint8_t* reply = error + VNET_LENGTH
    cdef uint32_t quoted = MINIMUM_MTU - IPV6_LENGTH - 8
    cdef uint32_t payload
    cdef iovec vector
    if forbids_error(packet, length):
        return verdict
    # RFC 4443 2.4 f.
    if not rate_allows(&worker.errors, ERRORS_PER_SECOND):
        return DROP_RATE_LIMITED
    if length < quoted:
        quoted = length
    payload = quoted + 8
    memset(error, 0, VNET_LENGTH + IPV6_LENGTH + 8)
    reply[0] = 0x60
    put16(reply + 4, payload)
    reply[6] = PROTOCOL_ICMPV6
    reply[7] = 64
    memcpy(reply + 8, source, 16)
    memcpy(reply + 24, packet + 8, 16)
    put16(reply + 40, kind)
    put32(reply + 44, value)
    memcpy(reply + 48, packet, quoted)
    put_checksum(
        reply + 42,
        sum_octets(
            reply + 40, payload, sum_pseudo_header(reply + 8, payload, PROTOCOL_ICMPV6)
        ),
    )
    vector.iov_base = error
    vector.iov_len = VNET_LENGTH + IPV6_LENGTH + payload
    worker.write_tunnel(worker, &vector, 1)
    return verdict


cdef uint8_t* frame_begin(Worker* worker, const WayOut* way) noexcept nogil:
    """The next frame's slot, with link header and outer IPv6 header in place; returns what
    follows.
    """
    cdef uint8_t* slot
    cdef uint32_t link = way.link_length
    if worker.frames.count == BATCH:
        worker.flush_frames(worker)
    slot = worker.frames.slots + worker.frames.count * FRAME_SLOT + FRAME_HEADROOM
    memcpy(slot, way.head, ETHERNET_LENGTH + IPV6_LENGTH)
    return slot + link + IPV6_LENGTH


cdef void frame_commit(
    Worker* worker, const WayOut* way, uint8_t* start, uint32_t head_length,
    const uint8_t* payload, uint32_t payload_length
) noexcept nogil:
    """Queue the frame begun: ``head_length`` octets in its slot, then ``payload`` where it lies."""
    cdef FrameBatch* frames = worker.frames
    cdef uint32_t at = frames.count
    cdef mmsghdr* message = &frames.messages[at]
    frames.vectors[2 * at].iov_base = start
    frames.vectors[2 * at].iov_len = head_length
    frames.vectors[2 * at + 1].iov_base = <void*>payload
    frames.vectors[2 * at + 1].iov_len = payload_length
    message.msg_hdr.msg_iov = &frames.vectors[2 * at]
    message.msg_hdr.msg_iovlen = 2 if payload_length else 1
    message.msg_hdr.msg_name = NULL
    message.msg_hdr.msg_namelen = 0
    if way.raw:
        frames.names[at].sin6_family = <unsigned short>AF_INET6
        memcpy(frames.names[at].sin6_addr.s6_addr, way.destination, 16)
        message.msg_hdr.msg_name = &frames.names[at]
        message.msg_hdr.msg_namelen = sizeof(sockaddr_in6)
    frames.descriptors[at] = way.descriptor
    frames.count += 1


cdef void frame_commit_offload(
    Worker* worker, const WayOut* way, const virtio_net_hdr* vnet, uint8_t* start,
    uint32_t head_length, const uint8_t* payload, uint32_t payload_length
) noexcept nogil:
    """The same, by the descriptor that takes a virtio header."""
    cdef uint32_t at = worker.frames.count
    memcpy(start - VNET_LENGTH, vnet, VNET_LENGTH)
    frame_commit(
        worker, way, start - VNET_LENGTH, VNET_LENGTH + head_length, payload, payload_length
    )
    worker.frames.descriptors[at] = way.offload_descriptor


cdef void frame_commit_outer(
    Worker* worker, const WayOut* way, uint8_t* outer, uint32_t head_length,
    const uint8_t* payload, uint32_t payload_length
) noexcept nogil:
    """Queue the outer packet begun at ``outer``, in fragments where the path asks."""
    cdef uint32_t length = head_length + payload_length
    if way.outer_mtu == 0 or length <= way.outer_mtu:
        frame_commit(
            worker, way, outer - way.link_length, way.link_length + head_length,
            payload, payload_length,
        )
        return
    memcpy(worker.scratch, outer, head_length)
    if payload_length:
        memcpy(worker.scratch + head_length, payload, payload_length)
    commit_fragments(worker, way, worker.scratch, length)


cdef void commit_fragments(
    Worker* worker, const WayOut* way, const uint8_t* whole, uint32_t length
) noexcept nogil:
    """RFC 8200 4.5, of an IPv6 header, with or without the option of tunnels behind it, and the
    payload's headers; the option goes into each fragment.
    """
    cdef uint32_t field = 6, head = IPV6_LENGTH, most, body, at = 0, piece
    cdef uint8_t* start
    cdef uint8_t* header
    if whole[6] == PROTOCOL_DESTINATION_OPTIONS:
        field = IPV6_LENGTH
        head += LIMIT_LENGTH
    most = (way.outer_mtu - head - FRAGMENT_LENGTH) & ~<uint32_t>7
    body = length - head
    worker.identification += 1
    while at < body:
        piece = most if body - at > most else body - at
        start = frame_begin(worker, way) - IPV6_LENGTH
        header = start + head
        memcpy(start, whole, head)
        put16(start + 4, head - IPV6_LENGTH + FRAGMENT_LENGTH + piece)
        start[field] = PROTOCOL_FRAGMENT
        header[0] = whole[field]
        header[1] = 0
        put16(header + 2, at | (1 if at + piece < body else 0))
        put32(header + 4, worker.identification)
        memcpy(header + FRAGMENT_LENGTH, whole + head + at, piece)
        frame_commit(
            worker, way, start - way.link_length,
            way.link_length + head + FRAGMENT_LENGTH + piece, NULL, 0,
        )
        worker.fragments_sent += 1
        at += piece


cdef bint use_queueing_discipline(int descriptor) noexcept nogil:
    """No longer go past it. False where that makes no sense: on sockets of other kinds."""
    cdef int off = 0
    return setsockopt(descriptor, SOL_PACKET, PACKET_QDISC_BYPASS, &off, sizeof(off)) == 0


cdef void flush_frames_to_devices(Worker* worker) noexcept nogil:
    """One sendmmsg for each run of frames with the same descriptor; a frame that fails is
    skipped.

    A device that is out of room (USB has little) gets the kernel's queue before it from then on:
    that costs some time for each frame, but no frame.
    """
    cdef FrameBatch* frames = worker.frames
    cdef uint32_t first = 0, last
    cdef int sent, relieved = -1
    while first < frames.count:
        last = first + 1
        while last < frames.count and frames.descriptors[last] == frames.descriptors[first]:
            last += 1
        while first < last:
            sent = sendmmsg(frames.descriptors[first], &frames.messages[first], last - first, 0)
            if sent > 0:
                worker.frames_sent += sent
                first += sent
            elif errno == EINTR:
                continue
            elif (
                errno == ENOBUFS and relieved != frames.descriptors[first]
                and use_queueing_discipline(frames.descriptors[first])
            ):
                relieved = frames.descriptors[first]
            elif errno == ENETDOWN or errno == ENXIO or errno == EAGAIN:
                worker.frames_failed += last - first
                first = last
            else:
                worker.frames_failed += 1
                first += 1
    frames.count = 0


cdef void write_tunnel_to_device(
    Worker* worker, const iovec* vectors, uint32_t pieces
) noexcept nogil:
    worker.tunnel_writes += 1
    while writev(worker.tunnel_descriptor, vectors, <int>pieces) < 0:
        if errno != EINTR:
            worker.tunnel_write_failures += 1
            return


cdef void capture(Capture* into, const iovec* vectors, uint32_t pieces) noexcept nogil:
    """Append one record: its length in four octets, then the octets."""
    cdef size_t length = 0
    cdef uint32_t at, recorded
    cdef uint8_t* grown
    for at in range(pieces):
        length += vectors[at].iov_len
    if into.length + length + 4 > into.capacity:
        grown = <uint8_t*>realloc(into.data, 2 * (into.length + length + 4))
        if grown == NULL:
            return
        into.data = grown
        into.capacity = 2 * (into.length + length + 4)
    recorded = <uint32_t>length
    memcpy(into.data + into.length, &recorded, 4)
    into.length += 4
    for at in range(pieces):
        memcpy(into.data + into.length, vectors[at].iov_base, vectors[at].iov_len)
        into.length += vectors[at].iov_len


cdef void flush_frames_to_memory(Worker* worker) noexcept nogil:
    cdef FrameBatch* frames = worker.frames
    cdef uint32_t at
    for at in range(frames.count):
        capture(
            &worker.captured_frames, frames.messages[at].msg_hdr.msg_iov,
            <uint32_t>frames.messages[at].msg_hdr.msg_iovlen,
        )
    worker.frames_sent += frames.count
    frames.count = 0


cdef void write_tunnel_to_memory(
    Worker* worker, const iovec* vectors, uint32_t pieces
) noexcept nogil:
    worker.tunnel_writes += 1
    capture(&worker.captured_tunnel, vectors, pieces)


cdef void worker_use_memory(Worker* worker) noexcept nogil:
    worker.flush_frames = flush_frames_to_memory
    worker.write_tunnel = write_tunnel_to_memory


cdef void worker_use_devices(Worker* worker, int tunnel_descriptor) noexcept nogil:
    worker.tunnel_descriptor = tunnel_descriptor
    worker.flush_frames = flush_frames_to_devices
    worker.write_tunnel = write_tunnel_to_device


cdef Verdict hand_up(
    Worker* worker, const Arrival* arrival, const uint8_t* packet, uint32_t length
) noexcept nogil:
    cdef HandUpRing* ring = worker.handed_up
    cdef uint64_t written = ring.written
    cdef HandedUpSlot* slot = &ring.slots[written % HAND_UP_SLOTS]
    if length > HAND_UP_LENGTH:
        return DROP_HAND_UP_TOO_LARGE
    if written - load_word(&ring.taken) >= HAND_UP_SLOTS:
        return DROP_HAND_UP_FULL
    slot.length = length
    slot.interface = arrival.interface
    slot.at = arrival.at
    slot.link_source_length = arrival.link_source_length
    memcpy(slot.link_source, arrival.link_source, sizeof(slot.link_source))
    slot.protected_by = arrival.protected_by
    slot.tunnelled = arrival.tunnelled
    memcpy(slot.tunnel_source, arrival.tunnel_source, 16)
    memcpy(slot.data, packet, length)
    store_word(&ring.written, written + 1)
    worker.hand_up_pending += 1
    return HANDED_UP
