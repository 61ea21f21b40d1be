"""Inbound stages: header walk, ESP, tunnel checks, decapsulation, coalescing.

Nothing here trusts the packet; every length is checked before it is used, and the ends of a
tunnel are
checked before its payload goes anywhere (RFC 6275 10.4.5, 15.4, RFC 2473 3.3).
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memcmp, memcpy, memmove, memset

from mnagent.datapath._esp cimport (
    ESP_HEADER_LENGTH,
    Association,
    esp_open,
)
from mnagent.datapath._tables cimport IPV6_LENGTH, Tables, Tunnel, address_find, spi_find
from mnagent.datapath._worker cimport (
    BATCH,
    ERROR_TOO_BIG,
    ERROR_UNREACHABLE,
    FLOWS,
    REASSEMBLIES,
    REASSEMBLY_LENGTH,
    REASSEMBLY_PIECES,
    REASSEMBLY_SECONDS,
    STRANGERS_PER_SECOND,
    VNET_LENGTH,
    Arrival,
    Coalescer,
    Reassembly,
    SuperPacket,
    Worker,
    count,
    hand_up,
    monotonic_seconds,
    rate_allows,
    write_error,
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
    is_link_scope,
    put16,
    same_address,
    sum_octets,
    sum_pseudo_header,
)
from mnagent.datapath.verdicts cimport (
    DECAPSULATED,
    DROP_BAD_CHECKSUM,
    DROP_BAD_EXTENSION_HEADER,
    DROP_DUMMY,
    DROP_ECN,
    DROP_FRAGMENT,
    DROP_INNER_MALFORMED,
    DROP_INNER_SCOPE,
    DROP_INNER_SOURCE,
    DROP_NO_BINDING,
    DROP_NOT_IPV6,
    DROP_NOT_PROTECTED,
    DROP_OUTER_SOURCE,
    DROP_TRUNCATED,
    DROP_UNKNOWN_SPI,
    DROP_WRONG_ASSOCIATION,
    FRAGMENT_KEPT,
    NOT_LOCAL,
    NOT_OURS,
    RELAYED_ERROR,
    Verdict,
)

cdef enum:
    PROTOCOL_HOP_BY_HOP = 0
    PROTOCOL_TCP = 6
    PROTOCOL_UDP = 17
    PROTOCOL_IPV6 = 41
    PROTOCOL_ROUTING = 43
    PROTOCOL_FRAGMENT = 44
    PROTOCOL_ESP = 50
    PROTOCOL_ICMPV6 = 58
    PROTOCOL_NONE = 59
    PROTOCOL_DESTINATION_OPTIONS = 60
    PROTOCOL_MOBILITY = 135
    NEIGHBOUR_DISCOVERY_FIRST = 133
    NEIGHBOUR_DISCOVERY_LAST = 137
    AGENT_DISCOVERY_FIRST = 144
    AGENT_DISCOVERY_LAST = 147
    HOME_ADDRESS_OPTION = 0xC9
    MAX_EXTENSION_HEADERS = 8
    MINIMUM_MTU = 1280
    TCP_LENGTH = 20
    UDP_LENGTH = 8
    TCP_ACK = 0x10
    TCP_PSH = 0x08
    ECN_MASK = 0x03
    ECN_CE = 0x03
    ECN_ECT1 = 0x01


cdef bint read_options(
    uint8_t* header, uint32_t length, Arrival* arrival
) noexcept nogil:
    """Find the Home Address option (RFC 6275 6.3); other options are the control plane's affair."""
    cdef uint32_t at = 2, size
    while at < length:
        if header[at] == 0:
            at += 1
            continue
        if at + 2 > length:
            return False
        size = 2 + header[at + 1]
        if at + size > length:
            return False
        if header[at] == HOME_ADDRESS_OPTION:
            if size != 18:
                return False
            arrival.home_address_option = header + at + 2
        at += size
    return True


cdef bint walk_extension_headers(
    uint8_t* packet, uint32_t length, Arrival* arrival, uint32_t* end, uint32_t* next_header_at
) noexcept nogil:
    """Walk to the first header that is no extension header before ESP; False when malformed."""
    cdef uint32_t at = IPV6_LENGTH, field = 6, size
    cdef uint8_t next_header
    cdef int _headers
    for _headers in range(MAX_EXTENSION_HEADERS):
        next_header = packet[field]
        if (
            next_header != PROTOCOL_HOP_BY_HOP and next_header != PROTOCOL_ROUTING
            and next_header != PROTOCOL_DESTINATION_OPTIONS
        ):
            end[0] = at
            next_header_at[0] = field
            return True
        if at + 8 > length:
            return False
        size = (packet[at + 1] + 1) * 8
        if at + size > length:
            return False
        if next_header == PROTOCOL_DESTINATION_OPTIONS:
            if not read_options(packet + at, size, arrival):
                return False
        elif next_header == PROTOCOL_ROUTING and packet[at + 2] == 2:
            if size != 24 or packet[at + 3] > 1:
                return False
            arrival.type2_home_address = packet + at + 8
        field = at
        at += size
    return False


cdef bint inner_is_sound(const uint8_t* inner, uint32_t length) noexcept nogil:
    return (
        length >= IPV6_LENGTH and inner[0] >> 4 == 6
        and get16(inner + 4) + IPV6_LENGTH <= length
    )


cdef Verdict find_inbound_tunnel(
    const Tables* tables, const uint8_t* outer, const uint8_t* inner, Tunnel** found
) noexcept nogil:
    """Whose tunnel it is: the inner packet is to (mobile end) or from (home agent end) a home
    address.
    """
    cdef int32_t at = address_find(&tables.homes, inner + 24)
    if at >= 0 and tables.tunnels[at].mobile_end:
        if same_address(inner + 8, inner + 24):
            return DROP_INNER_SOURCE
        found[0] = &tables.tunnels[at]
        return DECAPSULATED
    at = address_find(&tables.homes, inner + 8)
    if at >= 0 and not tables.tunnels[at].mobile_end:
        found[0] = &tables.tunnels[at]
        return DECAPSULATED
    if address_find(&tables.remotes, outer + 8) >= 0:
        return DROP_INNER_SOURCE
    return DROP_NO_BINDING


cdef Verdict copy_congestion(uint8_t outer_class, uint8_t* inner) noexcept nogil:
    """RFC 6040 figure 4. ``outer_class`` holds the outer ECN field in its two lowest bits."""
    cdef uint8_t outer_ecn = outer_class & ECN_MASK
    cdef uint8_t inner_ecn = (inner[1] >> 4) & ECN_MASK
    if outer_ecn == ECN_CE:
        if inner_ecn == 0:
            return DROP_ECN
        inner[1] |= ECN_CE << 4
    elif outer_ecn == ECN_ECT1 and inner_ecn == 2:
        inner[1] = <uint8_t>((inner[1] & 0xCF) | (ECN_ECT1 << 4))
    return DECAPSULATED


cdef bint is_control(const uint8_t* inner, uint32_t length, const Tables* tables) noexcept nogil:
    """Mobility messages for this node itself, such as a Home Test through the tunnel."""
    return inner[6] == PROTOCOL_MOBILITY and address_find(&tables.locals, inner + 24) >= 0


cdef bint is_home_agent(const Tables* tables) noexcept nogil:
    """A mobile node always has its tunnel, be it on hold."""
    return tables.tunnel_count == 0 or not tables.tunnels[0].mobile_end


cdef Verdict show_stranger(
    Worker* worker, Arrival* arrival, const uint8_t* outer, const uint8_t* inner, uint32_t length,
    const Association* association
) noexcept nogil:
    """Let a home agent's control plane see some of what no tunnel takes.

    One that lost its bindings learns this way whom to ask for a registration (Binding Error).
    """
    if not is_home_agent(worker.tables):
        return DROP_NO_BINDING
    if association != NULL and not same_address(association.home_address, inner + 8):
        return DROP_INNER_SOURCE
    if not rate_allows(&worker.strangers, STRANGERS_PER_SECOND):
        return DROP_NO_BINDING
    arrival.tunnelled = True
    memcpy(arrival.tunnel_source, outer + 8, 16)
    return hand_up(worker, arrival, inner, length)


cdef Verdict decapsulate(
    Worker* worker, Arrival* arrival, const uint8_t* outer, uint8_t* inner, uint32_t length,
    Association* association
) noexcept nogil:
    """Check both ends of the tunnel, then pass the inner packet on. ``association`` authenticated
    it.
    """
    cdef Tunnel* tunnel = NULL
    cdef Verdict verdict
    if not inner_is_sound(inner, length):
        return DROP_INNER_MALFORMED
    length = get16(inner + 4) + IPV6_LENGTH
    if is_link_scope(outer + 8) or outer[8] == 0xFF:
        return DROP_OUTER_SOURCE
    if is_link_scope(inner + 8) or is_link_scope(inner + 24) or inner[8] == 0xFF:
        return DROP_INNER_SCOPE
    verdict = find_inbound_tunnel(worker.tables, outer, inner, &tunnel)
    if verdict == DROP_NO_BINDING:
        return show_stranger(worker, arrival, outer, inner, length, association)
    if verdict != DECAPSULATED:
        return verdict
    if association == NULL:
        if tunnel.require_esp:
            return DROP_NOT_PROTECTED
        if not same_address(tunnel.remote, outer + 8):
            return DROP_OUTER_SOURCE
    elif not same_address(association.home_address, tunnel.home_address):
        return DROP_INNER_SOURCE
    elif tunnel.require_esp and tunnel.inbound_spi != association.spi:
        return DROP_WRONG_ASSOCIATION
    verdict = copy_congestion(<uint8_t>(outer[1] >> 4), inner)
    if verdict != DECAPSULATED:
        return verdict
    tunnel.activity.packets_in += 1
    if is_control(inner, length, worker.tables):
        arrival.tunnelled = True
        memcpy(arrival.tunnel_source, outer + 8, 16)
        return hand_up(worker, arrival, inner, length)
    coalesce(worker, arrival, <uint32_t>(inner - outer), inner, length)
    return DECAPSULATED


cdef Verdict open_esp(
    Worker* worker, Arrival* arrival, uint8_t* packet, uint32_t length, uint32_t esp_at,
    uint32_t next_header_at
) noexcept nogil:
    """The association is found by SPI alone: the peer's address may change under it (RFC 6275
    SEC-17).
    """
    cdef Association* association
    cdef uint8_t* esp = packet + esp_at
    cdef uint8_t* plain
    cdef uint32_t plain_length = 0
    cdef uint8_t next_header = 0
    cdef Verdict verdict
    if esp_at + ESP_HEADER_LENGTH > length:
        return DROP_TRUNCATED
    association = spi_find(worker.tables, get32(esp))
    if association == NULL:
        return DROP_UNKNOWN_SPI
    verdict = esp_open(
        association, worker.lane, esp, length - esp_at, &plain_length, &next_header
    )
    if verdict != DECAPSULATED:
        return verdict
    if next_header == PROTOCOL_NONE:
        return DROP_DUMMY
    plain = esp + ESP_HEADER_LENGTH + association.iv_length
    arrival.protected_by = association.spi
    if association.tunnel_mode != (next_header == PROTOCOL_IPV6):
        return DROP_WRONG_ASSOCIATION
    if association.tunnel_mode:
        return decapsulate(worker, arrival, packet, plain, plain_length, association)
    packet[next_header_at] = next_header
    memmove(esp, plain, plain_length)
    put16(packet + 4, esp_at - IPV6_LENGTH + plain_length)
    return hand_up(worker, arrival, packet, esp_at + plain_length)


cdef bint is_wanted_icmp(const uint8_t* packet, uint32_t length, uint32_t at) noexcept nogil:
    """Neighbour discovery, home agent discovery and prefix discovery."""
    if at + 4 > length:
        return False
    return (
        NEIGHBOUR_DISCOVERY_FIRST <= packet[at] <= NEIGHBOUR_DISCOVERY_LAST
        or AGENT_DISCOVERY_FIRST <= packet[at] <= AGENT_DISCOVERY_LAST
    )


cdef Tunnel* quoted_tunnel(const Tables* tables, const uint8_t* outer) noexcept nogil:
    """The tunnel whose packet an error quotes, by its outer addresses; NULL when it is none of
    ours.
    """
    cdef int32_t at = address_find(&tables.remotes, outer + 24)
    cdef Tunnel* tunnel
    if at < 0:
        return NULL
    tunnel = &tables.tunnels[at]
    return tunnel if same_address(tunnel.local, outer + 8) else NULL


cdef Verdict relay_error(
    Worker* worker, Arrival* arrival, uint8_t* packet, uint32_t length
) noexcept nogil:
    """An ICMPv6 error about a packet of ours (RFC 2473 8).

    Packet Too Big also goes up, with the tunnel's far end, so that the tunnel's MTU follows. What
    was
    inside ESP cannot be relayed; the next packets are answered by the tunnel's new MTU.
    """
    cdef const Tables* tables = worker.tables
    cdef uint8_t* outer = packet + IPV6_LENGTH + 8
    cdef uint8_t* inner = outer + IPV6_LENGTH
    cdef uint32_t mtu, quoted, inner_length
    cdef bint too_big = packet[40] == 2
    cdef int32_t at
    cdef Tunnel* tunnel
    if length < IPV6_LENGTH + 8 + IPV6_LENGTH or address_find(&tables.locals, outer + 8) < 0:
        return NOT_OURS
    if (
        outer[6] != PROTOCOL_IPV6 and outer[6] != PROTOCOL_ESP and outer[6] != PROTOCOL_ROUTING
        and outer[6] != PROTOCOL_DESTINATION_OPTIONS and outer[6] != PROTOCOL_MOBILITY
    ):
        return NOT_OURS
    if not icmp_checksum_is_right(packet, length):
        return DROP_BAD_CHECKSUM
    tunnel = quoted_tunnel(tables, outer)
    if tunnel != NULL and too_big:
        arrival.tunnelled = True
        memcpy(arrival.tunnel_source, outer + 24, 16)
    if tunnel == NULL or outer[6] != PROTOCOL_IPV6:
        return hand_up(worker, arrival, packet, length)
    mtu = get32(packet + 44)
    quoted = length - <uint32_t>(inner - packet)
    if quoted < IPV6_LENGTH or inner[0] >> 4 != 6:
        return hand_up(worker, arrival, packet, length)
    at = address_find(&tables.homes, inner + (8 if tunnel.mobile_end else 24))
    if at < 0 or not same_address(tables.tunnels[at].remote, tunnel.remote):
        return NOT_OURS
    if packet[40] == 4:
        # We send no Tunnel Encapsulation Limit, the one problem that concerns the inner sender.
        return hand_up(worker, arrival, packet, length)
    if not too_big:
        return write_error(
            worker, tunnel.local, ERROR_UNREACHABLE, 0, inner, quoted, RELAYED_ERROR
        )
    inner_length = get16(inner + 4) + IPV6_LENGTH
    mtu = mtu - IPV6_LENGTH if mtu > MINIMUM_MTU + IPV6_LENGTH else MINIMUM_MTU
    if inner_length > mtu:
        write_error(worker, tunnel.local, ERROR_TOO_BIG, mtu, inner, quoted, RELAYED_ERROR)
    return hand_up(worker, arrival, packet, length)


cdef bint icmp_checksum_is_right(const uint8_t* packet, uint32_t length) noexcept nogil:
    cdef uint64_t total = sum_pseudo_header(packet + 8, length - IPV6_LENGTH, PROTOCOL_ICMPV6)
    return fold(sum_octets(packet + IPV6_LENGTH, length - IPV6_LENGTH, total)) == 0xFFFF


cdef Verdict receive(
    Worker* worker, Arrival* arrival, uint8_t* packet, uint32_t length
) noexcept nogil:
    cdef uint32_t at = 0, next_header_at = 0
    cdef uint8_t next_header
    if length < IPV6_LENGTH:
        return DROP_TRUNCATED
    if packet[0] >> 4 != 6:
        return DROP_NOT_IPV6
    if get16(packet + 4) + IPV6_LENGTH > length:
        return DROP_TRUNCATED
    length = get16(packet + 4) + IPV6_LENGTH
    if packet[6] == PROTOCOL_ICMPV6:
        if length > IPV6_LENGTH and 1 <= packet[40] <= 4:
            return relay_error(worker, arrival, packet, length)
        if not is_wanted_icmp(packet, length, IPV6_LENGTH):
            return NOT_OURS
        return hand_up(worker, arrival, packet, length)
    if address_find(&worker.tables.locals, packet + 24) < 0:
        return NOT_LOCAL
    if not walk_extension_headers(packet, length, arrival, &at, &next_header_at):
        return DROP_BAD_EXTENSION_HEADER
    next_header = packet[next_header_at]
    if next_header == PROTOCOL_IPV6:
        return decapsulate(worker, arrival, packet, packet + at, length - at, NULL)
    if next_header == PROTOCOL_ESP:
        return open_esp(worker, arrival, packet, length, at, next_header_at)
    if next_header == PROTOCOL_FRAGMENT:
        return reassemble(worker, arrival, packet, length, at)
    if next_header == PROTOCOL_MOBILITY or at > IPV6_LENGTH:
        return hand_up(worker, arrival, packet, length)
    return NOT_OURS


# Reassembly of outer packets: only a path below 1320 octets or so makes fragments of them.


cdef Reassembly* find_reassembly(Worker* worker, const uint8_t* key) noexcept nogil:
    """The one of this packet, or a free one, or the oldest made free."""
    cdef long now = monotonic_seconds()
    cdef Reassembly* chosen = NULL
    cdef Reassembly* one
    cdef int at
    for at in range(REASSEMBLIES):
        one = &worker.reassemblies[at]
        if one.pieces and now - one.began > REASSEMBLY_SECONDS:
            one.pieces = 0
        if one.pieces and memcmp(one.key, key, sizeof(one.key)) == 0:
            return one
        if chosen == NULL or (chosen.pieces and (not one.pieces or one.order < chosen.order)):
            chosen = one
    if chosen.data == NULL:
        chosen.data = <uint8_t*>malloc(REASSEMBLY_LENGTH)
        if chosen.data == NULL:
            return NULL
    chosen.pieces = chosen.received = chosen.total = 0
    chosen.began = now
    chosen.order = worker.reassembly_order
    worker.reassembly_order += 1
    memcpy(chosen.key, key, sizeof(chosen.key))
    return chosen


cdef bint add_piece(
    Reassembly* whole, uint32_t start, uint32_t end, bint more
) noexcept nogil:
    """False when the fragments contradict each other: overlaps are never accepted (RFC 5722)."""
    cdef uint32_t at
    if whole.pieces == REASSEMBLY_PIECES or (whole.total and end > whole.total):
        return False
    for at in range(whole.pieces):
        if start < whole.ends[at] and end > whole.starts[at]:
            return False
        if not more and whole.ends[at] > end:
            return False
    if not more:
        if whole.total:
            return False
        whole.total = end
    whole.starts[whole.pieces] = <uint16_t>start
    whole.ends[whole.pieces] = <uint16_t>end
    whole.pieces += 1
    whole.received += end - start
    return True


cdef Verdict reassemble(
    Worker* worker, Arrival* arrival, uint8_t* packet, uint32_t length, uint32_t at
) noexcept nogil:
    """Keep a fragment of a tunnel packet; the last to come carries the whole one on."""
    cdef uint8_t* header = packet + at
    cdef uint8_t* body = header + 8
    cdef Reassembly* whole
    cdef uint8_t key[36]
    cdef uint32_t start, end, more
    cdef Verdict verdict
    if at != IPV6_LENGTH or at + 8 >= length:
        return DROP_FRAGMENT
    if header[0] != PROTOCOL_IPV6 and header[0] != PROTOCOL_ESP:
        return NOT_OURS
    start = get16(header + 2) & 0xFFF8
    more = header[3] & 1
    end = start + (length - at - 8)
    if end > REASSEMBLY_LENGTH - IPV6_LENGTH or (more and (end - start) & 7):
        return DROP_FRAGMENT
    memcpy(key, packet + 8, 32)
    memcpy(key + 32, header + 4, 4)
    whole = find_reassembly(worker, key)
    if whole == NULL:
        return DROP_FRAGMENT
    if not add_piece(whole, start, end, more):
        whole.pieces = 0
        return DROP_FRAGMENT
    keep_fragment_header(whole, packet, start)
    memcpy(whole.data + IPV6_LENGTH + start, body, end - start)
    if whole.total == 0 or whole.received < whole.total:
        return FRAGMENT_KEPT
    whole.pieces = 0
    whole.data[6] = header[0]
    put16(whole.data + 4, whole.total)
    memset(&arrival.vnet, 0, sizeof(virtio_net_hdr))
    verdict = receive(worker, arrival, whole.data, IPV6_LENGTH + whole.total)
    # What is queued points into the buffer.
    flush_tunnel(worker)
    return verdict


cdef void keep_fragment_header(
    Reassembly* whole, const uint8_t* packet, uint32_t start
) noexcept nogil:
    """The first fragment's header counts; congestion met by any of them stays (RFC 3168 5.3)."""
    cdef uint8_t congestion = 0
    if whole.pieces > 1:
        congestion = whole.data[1] & 0x30
    if start == 0 or whole.pieces == 1:
        memcpy(whole.data, packet, IPV6_LENGTH)
    if congestion == 0x30 or (packet[1] & 0x30) == 0x30:
        whole.data[1] |= 0x30


cdef void inbound(
    Worker* worker, Arrival* arrival, uint8_t* packet, uint32_t length
) noexcept nogil:
    """One packet from a link. The TUN writes it leads to may point into it until `flush_tunnel`."""
    worker.packets += 1
    arrival.protected_by = 0
    arrival.tunnelled = False
    arrival.home_address_option = NULL
    arrival.type2_home_address = NULL
    count(worker, receive(worker, arrival, packet, length))


# Coalescing: what the receiving stack saves on a run of segments is most of its cost per packet.


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
