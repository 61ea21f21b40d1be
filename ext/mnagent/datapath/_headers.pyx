"""Extension headers: the walk, the place for a Home Address option or a type 2 routing header, and
their removal (RFC 6275 6.3, 6.4).
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memmove, memset

from mnagent.datapath._tables cimport IPV6_LENGTH, Insertion
from mnagent.datapath.octets cimport get16, put16
from mnagent.datapath.protocols cimport (
    ENCAPSULATION_LIMIT_OPTION,
    FRAGMENT_LENGTH,
    HOME_ADDRESS_OPTION,
    HOME_ADDRESS_OPTION_LENGTH,
    MAX_EXTENSION_HEADERS,
    PROTOCOL_DESTINATION_OPTIONS,
    PROTOCOL_FRAGMENT,
    PROTOCOL_HOP_BY_HOP,
    PROTOCOL_MOBILITY,
    PROTOCOL_NONE,
    PROTOCOL_ROUTING,
    TYPE2_LENGTH,
)
from mnagent.datapath.verdicts cimport DROP_BAD_EXTENSION_HEADER, DROP_BAD_ROUTING_HEADER

cdef enum:
    PADDING_ONE = 0
    PADDING_MORE = 1


cdef inline bint is_walked(uint8_t next_header) noexcept nogil:
    return (
        next_header == PROTOCOL_HOP_BY_HOP or next_header == PROTOCOL_ROUTING
        or next_header == PROTOCOL_DESTINATION_OPTIONS
    )


cdef bint read_options(
    const uint8_t* packet, uint32_t start, uint32_t end, Headers* headers
) noexcept nogil:
    """Find the Home Address option (RFC 6275 6.3); False when malformed or when there are two."""
    cdef uint32_t at = start + 2, size
    cdef bint found = False, others = False
    while at < end:
        if packet[at] == PADDING_ONE:
            at += 1
            continue
        if at + 2 > end:
            return False
        size = 2 + packet[at + 1]
        if at + size > end:
            return False
        if packet[at] == HOME_ADDRESS_OPTION:
            if size != HOME_ADDRESS_OPTION_LENGTH or headers.home_address_at:
                return False
            headers.home_address_at = at + 2
            headers.options_at = start
            found = True
        elif packet[at] != PADDING_MORE:
            others = True
        at += size
    if found:
        headers.option_is_alone = not others
    return True


cdef bint walk_extension_headers(
    const uint8_t* packet, uint32_t length, Headers* headers
) noexcept nogil:
    """Walk to the first header that is no extension header before ESP; False when malformed."""
    cdef uint32_t at = IPV6_LENGTH, field = 6, size
    cdef uint8_t next_header
    cdef int _headers
    memset(headers, 0, sizeof(Headers))
    headers.fault = DROP_BAD_EXTENSION_HEADER
    for _headers in range(MAX_EXTENSION_HEADERS):
        next_header = packet[field]
        if not is_walked(next_header):
            headers.end = at
            headers.next_header_at = field
            return True
        if at + 8 > length:
            return False
        size = (packet[at + 1] + 1) * 8
        if at + size > length:
            return False
        if next_header == PROTOCOL_DESTINATION_OPTIONS:
            if not read_options(packet, at, at + size, headers):
                return False
            if headers.options_at == at:
                headers.options_field = field
        elif next_header == PROTOCOL_ROUTING and packet[at + 2] == 2:
            # RFC 6275 11.3.3.
            if size != TYPE2_LENGTH or packet[at + 3] != 1 or headers.routing_at:
                headers.fault = DROP_BAD_ROUTING_HEADER
                return False
            headers.routing_at = at
            headers.routing_field = field
        field = at
        at += size
    return False


cdef bint find_insertion_point(
    const uint8_t* packet, uint32_t length, uint32_t* point, uint32_t* field
) noexcept nogil:
    """Behind hop-by-hop options and routing headers, before all else (RFC 6275 6.3, 6.4.1).

    False where nothing may be inserted: mobility messages (6.1), packets that bear a Home Address
    option or a type 2 routing header already, and malformed ones.
    """
    cdef Headers headers
    cdef uint32_t at = IPV6_LENGTH, named = 6
    cdef uint8_t next_header = packet[6]
    point[0] = IPV6_LENGTH
    field[0] = 6
    if not is_walked(next_header) and next_header != PROTOCOL_FRAGMENT:
        return next_header != PROTOCOL_MOBILITY
    if (
        not walk_extension_headers(packet, length, &headers)
        or headers.home_address_at or headers.routing_at
    ):
        return False
    while at < headers.end:
        next_header = packet[named]
        named = at
        at += (packet[at + 1] + 1) * 8
        if next_header != PROTOCOL_DESTINATION_OPTIONS:
            point[0] = at
            field[0] = named
    next_header = packet[headers.next_header_at]
    if next_header == PROTOCOL_FRAGMENT:
        if headers.end + FRAGMENT_LENGTH > length:
            return False
        next_header = packet[headers.end]
    return next_header != PROTOCOL_MOBILITY


cdef inline uint32_t limit_among(
    const uint8_t* packet, uint32_t at, uint32_t end
) noexcept nogil:
    """The same among the options of one header."""
    at += 2
    while at + 2 < end:
        if packet[at] == ENCAPSULATION_LIMIT_OPTION and packet[at + 1] == 1:
            return at + 2
        at += 1 if packet[at] == PADDING_ONE else 2 + packet[at + 1]
    return 0


cdef uint32_t find_encapsulation_limit(const uint8_t* packet, uint32_t length) noexcept nogil:
    """Where the packet says how many further tunnels may be put around it, 0 where it does not.

    Headers are looked at from the left until one that is no extension header, or cannot be read
    (RFC 2473 4.1.1 a).
    """
    cdef uint32_t at = IPV6_LENGTH, size, found
    cdef uint8_t next_header = packet[6]
    cdef int _headers
    for _headers in range(MAX_EXTENSION_HEADERS):
        if at + 8 > length:
            return 0
        if is_walked(next_header):
            size = (packet[at + 1] + 1) * 8
        elif next_header == PROTOCOL_FRAGMENT and not get16(packet + at + 2) & 0xFFF8:
            size = FRAGMENT_LENGTH
        else:
            return 0
        if at + size > length:
            return 0
        if next_header == PROTOCOL_DESTINATION_OPTIONS:
            found = limit_among(packet, at, at + size)
            if found:
                return found
        next_header = packet[at]
        at += size
    return 0


cdef UpperLayer find_upper_layer(const uint8_t* packet, uint32_t length) noexcept nogil:
    """What a packet carries, by the headers that are there; PROTOCOL_NONE when malformed."""
    cdef UpperLayer found
    cdef Headers headers
    found.protocol = packet[6]
    found.at = IPV6_LENGTH
    if not is_walked(found.protocol) and found.protocol != PROTOCOL_FRAGMENT:
        return found
    found.protocol = PROTOCOL_NONE
    if not walk_extension_headers(packet, length, &headers):
        return found
    found.protocol = packet[headers.next_header_at]
    found.at = headers.end
    if found.protocol == PROTOCOL_FRAGMENT:
        if headers.end + FRAGMENT_LENGTH > length:
            found.protocol = PROTOCOL_NONE
            return found
        found.protocol = packet[headers.end]
        found.at = headers.end + FRAGMENT_LENGTH
        if get16(packet + headers.end + 2) & 0xFFF8:
            found.at = 0
    return found


cdef uint32_t make_head(
    uint8_t* into, const Insertion* insertion, const uint8_t* packet, uint32_t head,
    uint32_t point, uint32_t field
) noexcept nogil:
    """The first ``head`` octets of a packet with what is inserted at ``point``; returns how many
    octets they are. The payload length stays the original's.
    """
    cdef uint32_t last = point + insertion.length - 24
    memcpy(into, packet, point)
    memcpy(into + point, insertion.octets, insertion.length)
    memcpy(into + point + insertion.length, packet + point, head - point)
    into[last] = packet[field]
    into[field] = (
        PROTOCOL_ROUTING if insertion.has_destination else PROTOCOL_DESTINATION_OPTIONS
    )
    if insertion.has_source:
        memcpy(into + 8, insertion.source, 16)
    if insertion.has_destination:
        memcpy(into + 24, insertion.destination, 16)
    return head + insertion.length


cdef inline uint32_t remove_header(
    uint8_t* packet, uint32_t at, uint32_t field
) noexcept nogil:
    """Close the gap from the left; returns how far the packet's begin moved."""
    cdef uint32_t size = (packet[at + 1] + 1) * 8
    packet[field] = packet[at]
    put16(packet + 4, get16(packet + 4) - size)
    memmove(packet + size, packet, at)
    return size


cdef uint32_t strip(uint8_t* packet, const Headers* headers) noexcept nogil:
    """Take off what `walk_extension_headers` found and restore the addresses, in place.

    Returns how many octets later the packet begins.
    """
    cdef uint8_t home_address[16]
    cdef uint8_t* option
    cdef uint32_t moved = 0
    cdef bint options_first = headers.options_at < headers.routing_at
    if headers.home_address_at:
        memcpy(home_address, packet + headers.home_address_at, 16)
        memcpy(packet + 8, home_address, 16)
    if headers.routing_at:
        memcpy(packet + 24, packet + headers.routing_at + 8, 16)
    if headers.routing_at and options_first:
        moved = remove_header(packet, headers.routing_at, headers.routing_field)
    if headers.home_address_at:
        if headers.option_is_alone:
            moved += remove_header(packet + moved, headers.options_at, headers.options_field)
        else:
            # Other options stay, for the kernel to judge.
            option = packet + moved + headers.home_address_at - 2
            memset(option, 0, HOME_ADDRESS_OPTION_LENGTH)
            option[0] = PADDING_MORE
            option[1] = HOME_ADDRESS_OPTION_LENGTH - 2
    if headers.routing_at and not options_first:
        moved += remove_header(packet + moved, headers.routing_at, headers.routing_field)
    return moved
