"""Inbound stages: header walk, ESP, tunnel checks, decapsulation, coalescing.

Nothing here trusts the packet; every length is checked before it is used, and the ends of a
tunnel are
checked before its payload goes anywhere (RFC 6275 10.4.5, 15.4, RFC 2473 3.3).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset

from mnagent.datapath._coalesce cimport coalesce, flush_tunnel
from mnagent.datapath._direct cimport admit, quotes_direct_path
from mnagent.datapath._esp cimport (
    ESP_HEADER_LENGTH,
    Association,
    esp_open,
)
from mnagent.datapath._headers cimport Headers, strip, walk_extension_headers
from mnagent.datapath._reassembly cimport keep_fragment
from mnagent.datapath._tables cimport (
    IPV6_LENGTH,
    LIMIT_LENGTH,
    Tables,
    Tunnel,
    is_home_test,
    is_local,
    remote_find,
    spi_find,
    tunnel_find,
)
from mnagent.datapath._traffic cimport note_traffic
from mnagent.datapath._worker cimport (
    ERROR_TOO_BIG,
    ERROR_UNREACHABLE,
    STRANGERS_PER_SECOND,
    Arrival,
    Reassembly,
    Worker,
    count,
    hand_up,
    rate_allows,
    write_error,
)
from mnagent.datapath.linux cimport VIRTIO_NET_HDR_F_NEEDS_CSUM, virtio_net_hdr
from mnagent.datapath.octets cimport (
    fold,
    get16,
    get32,
    is_link_scope,
    put16,
    same_address,
    sum_octets,
    sum_pseudo_header,
)
from mnagent.datapath.protocols cimport (
    AGENT_DISCOVERY_FIRST,
    AGENT_DISCOVERY_LAST,
    ENCAPSULATION_LIMIT_OPTION,
    LISTENER_DISCOVERY_FIRST,
    LISTENER_DISCOVERY_LAST,
    LISTENER_REPORT_VERSION_2,
    MINIMUM_MTU,
    NEIGHBOUR_DISCOVERY_FIRST,
    NEIGHBOUR_DISCOVERY_LAST,
    PROTOCOL_AUTHENTICATION,
    PROTOCOL_DESTINATION_OPTIONS,
    PROTOCOL_ESP,
    PROTOCOL_FRAGMENT,
    PROTOCOL_HOP_BY_HOP,
    PROTOCOL_ICMPV6,
    PROTOCOL_IPV6,
    PROTOCOL_MOBILITY,
    PROTOCOL_NONE,
    PROTOCOL_ROUTING,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
)
from mnagent.datapath.verdicts cimport (
    DECAPSULATED,
    DROP_BAD_CHECKSUM,
    DROP_DUMMY,
    DROP_ECN,
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
    NOT_LOCAL,
    NOT_OURS,
    RECEIVED_DIRECT,
    RELAYED_ERROR,
    Verdict,
)

cdef enum:
    ECN_MASK = 0x03
    ECN_CE = 0x03
    ECN_ECT1 = 0x01
    # The limit itself in a tunnel packet of ours.
    LIMIT_AT = 44


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
    cdef Tunnel* tunnel
    if tables.mobile_ends:
        tunnel = tunnel_find(tables, inner + 24)
        if tunnel != NULL and tunnel.mobile_end:
            if same_address(inner + 8, inner + 24):
                return DROP_INNER_SOURCE
            found[0] = tunnel
            return DECAPSULATED
    tunnel = tunnel_find(tables, inner + 8)
    if tunnel != NULL and not tunnel.mobile_end:
        found[0] = tunnel
        return DECAPSULATED
    tunnel = remote_find(tables, outer + 8)
    if tunnel != NULL and tunnel.mobile_end and inner[24] == 0xFF:
        # A group's packet (RFC 6275 11.3.4): the host takes it if it listens on the tunnel device.
        found[0] = tunnel
        return DECAPSULATED
    if tunnel != NULL:
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


cdef bint is_control(const uint8_t* inner, const Tables* tables) noexcept nogil:
    """Mobility messages for this home agent itself, such as a tunnelled test."""
    return inner[6] == PROTOCOL_MOBILITY and is_local(tables, inner + 24)


cdef bint is_home_agent(const Tables* tables) noexcept nogil:
    """A mobile node always has its tunnel, be it on hold."""
    return tables.mobile_ends == 0


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


cdef Verdict check_protection(
    const Tunnel* tunnel, const uint8_t* outer, const uint8_t* inner, uint32_t length,
    const Association* association
) noexcept nogil:
    """Payload and home tests each by their own association, where they have one."""
    cdef uint32_t wanted = tunnel.inbound_spi
    cdef bint required = tunnel.require_esp
    if tunnel.home_test_inbound_spi:
        if is_home_test(inner, length, not tunnel.mobile_end):
            wanted = tunnel.home_test_inbound_spi
            required = True
        elif (
            not required and association != NULL
            and association.spi == tunnel.home_test_inbound_spi
        ):
            return DROP_WRONG_ASSOCIATION
    if association == NULL:
        if required:
            return DROP_NOT_PROTECTED
        return (
            DECAPSULATED if same_address(tunnel.remote, outer + 8) else DROP_OUTER_SOURCE
        )
    if (
        not same_address(association.home_address, tunnel.home_address)
        and association.spi != tunnel.inbound_spi
        and association.spi != tunnel.home_test_inbound_spi
    ):
        # What the tunnel names is its own, also where the association serves several addresses.
        return DROP_INNER_SOURCE
    if required and wanted != association.spi:
        return DROP_WRONG_ASSOCIATION
    return DECAPSULATED


cdef inline bint is_listener_message(const uint8_t* inner, uint32_t length) noexcept nogil:
    """Behind a Router Alert alone, as all of them are (RFC 3810 5)."""
    cdef uint8_t kind
    if (
        inner[6] != PROTOCOL_HOP_BY_HOP or length < IPV6_LENGTH + 8 + 4
        or inner[IPV6_LENGTH] != PROTOCOL_ICMPV6 or inner[IPV6_LENGTH + 1] != 0
    ):
        return False
    kind = inner[IPV6_LENGTH + 8]
    return (
        LISTENER_DISCOVERY_FIRST <= kind <= LISTENER_DISCOVERY_LAST
        or kind == LISTENER_REPORT_VERSION_2
    )


cdef Verdict take_listener_message(
    Worker* worker, Arrival* arrival, const uint8_t* outer, const uint8_t* inner, uint32_t length,
    const Association* association
) noexcept nogil:
    """The one thing of link scope that goes through a tunnel (RFC 6275 10.4.3), for the control
    plane. Its addresses tell nothing: whose it is the outer ones tell, or the association.
    """
    cdef Tables* tables = worker.tables
    cdef Tunnel* tunnel = NULL
    cdef Verdict verdict
    if association != NULL:
        tunnel = tunnel_find(tables, association.home_address)
    if tunnel == NULL:
        tunnel = remote_find(tables, outer + 8)
    if tunnel == NULL:
        return DROP_NO_BINDING
    verdict = check_protection(tunnel, outer, inner, length, association)
    if verdict != DECAPSULATED:
        return verdict
    mark_tunnelled(arrival, outer)
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
    if is_link_scope(inner + 24) and inner[24] == 0xFF and is_listener_message(inner, length):
        return take_listener_message(worker, arrival, outer, inner, length, association)
    if is_link_scope(inner + 8) or is_link_scope(inner + 24) or inner[8] == 0xFF:
        return DROP_INNER_SCOPE
    verdict = find_inbound_tunnel(worker.tables, outer, inner, &tunnel)
    if verdict == DROP_NO_BINDING:
        return show_stranger(worker, arrival, outer, inner, length, association)
    if verdict != DECAPSULATED:
        return verdict
    verdict = check_protection(tunnel, outer, inner, length, association)
    if verdict != DECAPSULATED:
        return verdict
    verdict = copy_congestion(<uint8_t>(outer[1] >> 4), inner)
    if verdict != DECAPSULATED:
        return verdict
    tunnel.activity.packets_in += 1
    if tunnel.mobile_end and inner[24] != 0xFF:
        return take_inner(worker, arrival, outer, inner, length)
    if is_control(inner, worker.tables):
        mark_tunnelled(arrival, outer)
        return hand_up(worker, arrival, inner, length)
    coalesce(worker, arrival, <uint32_t>(inner - outer), inner, length)
    return DECAPSULATED


cdef inline void mark_tunnelled(Arrival* arrival, const uint8_t* outer) noexcept nogil:
    arrival.tunnelled = True
    memcpy(arrival.tunnel_source, outer + 8, 16)


cdef Verdict take_inner(
    Worker* worker, Arrival* arrival, const uint8_t* outer, uint8_t* inner, uint32_t length
) noexcept nogil:
    """At a mobile node: mobility messages go up, such as a Home Test; a mobile correspondent's Home
    Address option is ours to take off, for we are the destination it was meant for.
    """
    cdef Headers headers
    cdef uint32_t offset = <uint32_t>(inner - outer)
    cdef Verdict verdict
    if inner[6] == PROTOCOL_MOBILITY:
        mark_tunnelled(arrival, outer)
        return hand_up(worker, arrival, inner, length)
    if inner[6] == PROTOCOL_DESTINATION_OPTIONS or inner[6] == PROTOCOL_ROUTING or inner[6] == 0:
        if not walk_extension_headers(inner, length, &headers):
            return headers.fault
        if inner[headers.next_header_at] == PROTOCOL_MOBILITY:
            mark_tunnelled(arrival, outer)
            return hand_up(worker, arrival, inner, length)
        if headers.home_address_at or headers.routing_at:
            mark_tunnelled(arrival, outer)
            verdict = take_direct(worker, arrival, offset, inner, length, &headers)
            return DECAPSULATED if verdict == RECEIVED_DIRECT else verdict
    note_traffic(worker.traffic, inner + 24, inner + 8, inner, length, False, False)
    coalesce(worker, arrival, offset, inner, length)
    return DECAPSULATED


cdef Verdict take_direct(
    Worker* worker, Arrival* arrival, uint32_t offset, uint8_t* packet, uint32_t length,
    const Headers* headers
) noexcept nogil:
    """What route optimization inserted is checked and taken off; the host gets the rest."""
    cdef uint32_t moved
    cdef Verdict verdict = admit(worker, arrival, packet, length, headers)
    if verdict != RECEIVED_DIRECT:
        return verdict
    moved = strip(packet, headers)
    packet += moved
    length -= moved
    restore_partial_checksum(arrival, offset + moved, packet, length)
    note_traffic(
        worker.traffic, packet + 24, packet + 8, packet, length, False, not arrival.tunnelled
    )
    coalesce(worker, arrival, offset + moved, packet, length)
    return RECEIVED_DIRECT


cdef void restore_partial_checksum(
    const Arrival* arrival, uint32_t offset, uint8_t* packet, uint32_t length
) noexcept nogil:
    """A checksum left to do starts from the sum over the addresses that are in the header now,
    whichever ones a link that merged segments took.
    """
    cdef uint32_t at = IPV6_LENGTH + arrival.vnet.csum_offset
    cdef uint16_t sum16
    if (
        not arrival.vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM
        or arrival.vnet.csum_start != arrival.link_length + offset + IPV6_LENGTH
        or at + 2 > length
    ):
        return
    if (
        (packet[6] == PROTOCOL_TCP and arrival.vnet.csum_offset == 16)
        or (packet[6] == PROTOCOL_UDP and arrival.vnet.csum_offset == 6)
    ):
        sum16 = fold(sum_pseudo_header(packet + 8, length - IPV6_LENGTH, packet[6]))
        memcpy(packet + at, &sum16, 2)


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
    association = spi_find(&worker.tables.inbound, get32(esp))
    if association == NULL:
        return DROP_UNKNOWN_SPI
    verdict = esp_open(
        association, worker.ciphers, esp, length - esp_at, &plain_length, &next_header
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
    cdef Tunnel* tunnel = remote_find(tables, outer + 24)
    return tunnel if tunnel != NULL and same_address(tunnel.local, outer + 8) else NULL


cdef inline bint quotes_limit(const uint8_t* outer, uint32_t length) noexcept nogil:
    """Whether the quoted packet has a Tunnel Encapsulation Limit as we put it."""
    return (
        outer[6] == PROTOCOL_DESTINATION_OPTIONS and length >= IPV6_LENGTH + LIMIT_LENGTH
        and outer[IPV6_LENGTH + 1] == 0
        and outer[IPV6_LENGTH + 2] == ENCAPSULATION_LIMIT_OPTION and outer[IPV6_LENGTH + 3] == 1
    )


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
    cdef uint32_t mtu, quoted, inner_length, overhead = IPV6_LENGTH
    cdef uint8_t carried
    cdef bint too_big = packet[40] == 2
    cdef Tunnel* tunnel
    cdef Tunnel* entered
    if length < IPV6_LENGTH + 8 + IPV6_LENGTH or not is_local(tables, outer + 8):
        return NOT_OURS
    if (
        outer[6] != PROTOCOL_IPV6 and outer[6] != PROTOCOL_ESP and outer[6] != PROTOCOL_ROUTING
        and outer[6] != PROTOCOL_DESTINATION_OPTIONS and outer[6] != PROTOCOL_MOBILITY
    ):
        return NOT_OURS
    if not icmp_checksum_is_right(packet, length):
        return DROP_BAD_CHECKSUM
    carried = outer[6]
    if quotes_limit(outer, length - IPV6_LENGTH - 8):
        carried = outer[IPV6_LENGTH]
        overhead += LIMIT_LENGTH
        inner += LIMIT_LENGTH
    elif outer[6] == PROTOCOL_ROUTING or outer[6] == PROTOCOL_DESTINATION_OPTIONS:
        return relay_direct_error(worker, arrival, packet, length)
    tunnel = quoted_tunnel(tables, outer)
    if tunnel != NULL and too_big:
        arrival.tunnelled = True
        memcpy(arrival.tunnel_source, outer + 24, 16)
    if tunnel == NULL or carried != PROTOCOL_IPV6:
        return hand_up(worker, arrival, packet, length)
    mtu = get32(packet + 44)
    if length < <uint32_t>(inner - packet) + IPV6_LENGTH or inner[0] >> 4 != 6:
        return hand_up(worker, arrival, packet, length)
    entered = tunnel_find(tables, inner + (8 if tunnel.mobile_end else 24))
    if entered == NULL or not same_address(entered.remote, tunnel.remote):
        return NOT_OURS
    quoted = length - <uint32_t>(inner - packet)
    if packet[40] == 4 and not (overhead > IPV6_LENGTH and mtu == LIMIT_AT and packet[41] == 0):
        # Of problems only too many tunnels concern the inner sender (RFC 2473 8.2).
        return hand_up(worker, arrival, packet, length)
    if not too_big:
        return write_error(
            worker, tunnel.local, ERROR_UNREACHABLE, 0, inner, quoted, RELAYED_ERROR
        )
    inner_length = get16(inner + 4) + IPV6_LENGTH
    mtu = mtu - overhead if mtu > MINIMUM_MTU + overhead else MINIMUM_MTU
    if inner_length > mtu:
        write_error(worker, tunnel.local, ERROR_TOO_BIG, mtu, inner, quoted, RELAYED_ERROR)
    return hand_up(worker, arrival, packet, length)


cdef Verdict relay_direct_error(
    Worker* worker, Arrival* arrival, uint8_t* packet, uint32_t length
) noexcept nogil:
    """All go up. Packet Too Big about a payload packet also goes to the host, as about the packet
    it knows.
    """
    cdef uint8_t* quoted = packet + IPV6_LENGTH + 8
    cdef uint32_t quoted_length = length - IPV6_LENGTH - 8
    cdef uint32_t mtu = get32(packet + 44), whole, moved
    cdef Headers headers
    cdef Verdict verdict = hand_up(worker, arrival, packet, length)
    cdef uint8_t carried
    if packet[40] != 2 or not walk_extension_headers(quoted, quoted_length, &headers):
        return verdict
    carried = quoted[headers.next_header_at]
    if (
        carried == PROTOCOL_MOBILITY or carried == PROTOCOL_ESP
        or not quotes_direct_path(worker.tables, quoted, &headers)
    ):
        return verdict
    whole = get16(quoted + 4) + IPV6_LENGTH
    memcpy(arrival.tunnel_source, quoted + 8, 16)
    moved = strip(quoted, &headers)
    mtu = mtu - moved if mtu > MINIMUM_MTU + moved else MINIMUM_MTU
    if whole - moved > mtu:
        write_error(
            worker, arrival.tunnel_source, ERROR_TOO_BIG, mtu, quoted + moved,
            quoted_length - moved, RELAYED_ERROR,
        )
    return verdict


cdef bint icmp_checksum_is_right(const uint8_t* packet, uint32_t length) noexcept nogil:
    cdef uint64_t total = sum_pseudo_header(packet + 8, length - IPV6_LENGTH, PROTOCOL_ICMPV6)
    return fold(sum_octets(packet + IPV6_LENGTH, length - IPV6_LENGTH, total)) == 0xFFFF


cdef Verdict receive(
    Worker* worker, Arrival* arrival, uint8_t* packet, uint32_t length
) noexcept nogil:
    cdef Headers headers
    cdef uint32_t at
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
    if not is_local(worker.tables, packet + 24):
        return NOT_LOCAL
    if not walk_extension_headers(packet, length, &headers):
        return headers.fault
    at = headers.end
    next_header = packet[headers.next_header_at]
    if next_header == PROTOCOL_IPV6:
        return decapsulate(worker, arrival, packet, packet + at, length - at, NULL)
    if next_header == PROTOCOL_ESP:
        return open_esp(worker, arrival, packet, length, at, headers.next_header_at)
    if is_for_control_plane(next_header, packet, length, at):
        return hand_up(worker, arrival, packet, length)
    if headers.home_address_at or headers.routing_at:
        return take_direct(worker, arrival, 0, packet, length, &headers)
    if next_header == PROTOCOL_FRAGMENT:
        return reassemble(worker, arrival, packet, length, at)
    return NOT_OURS


cdef inline bint is_for_control_plane(
    uint8_t next_header, const uint8_t* packet, uint32_t length, uint32_t at
) noexcept nogil:
    """Behind any headers. No binding is asked for before AH (RFC 6275 9.3.1), which is not ours."""
    if next_header == PROTOCOL_MOBILITY:
        return True
    if at == IPV6_LENGTH:
        return False
    return next_header == PROTOCOL_AUTHENTICATION or (
        next_header == PROTOCOL_ICMPV6 and is_wanted_icmp(packet, length, at)
    )


cdef Verdict reassemble(
    Worker* worker, Arrival* arrival, const uint8_t* packet, uint32_t length, uint32_t at
) noexcept nogil:
    """Keep a fragment of a tunnel packet; the last to come carries the whole one on."""
    cdef Reassembly* whole = NULL
    cdef Verdict verdict = keep_fragment(worker, packet, length, at, &whole)
    if verdict != DECAPSULATED:
        return verdict
    memset(&arrival.vnet, 0, sizeof(virtio_net_hdr))
    verdict = receive(worker, arrival, whole.data, IPV6_LENGTH + whole.total)
    # What is queued points into the buffer.
    flush_tunnel(worker)
    return verdict


cdef void inbound(
    Worker* worker, Arrival* arrival, uint8_t* packet, uint32_t length
) noexcept nogil:
    """One packet from a link. The TUN writes it leads to may point into it until `flush_tunnel`."""
    worker.packets += 1
    arrival.protected_by = 0
    arrival.tunnelled = False
    count(worker, receive(worker, arrival, packet, length))
