# Walking extension headers, and what route optimization adds to them and takes from them.

from libc.stdint cimport uint8_t, uint32_t

from mnagent.datapath._tables cimport Insertion
from mnagent.datapath.verdicts cimport Verdict


cdef struct Headers:
    # The first header that is no extension header before ESP, and the field that says what it is.
    uint32_t end
    uint32_t next_header_at
    # Offsets in the packet, 0 when there is none: the Home Address option's address, its header,
    # the field naming that header; and the same of the type 2 routing header.
    uint32_t home_address_at
    uint32_t options_at
    uint32_t options_field
    # Nothing but padding is beside the option.
    bint option_is_alone
    uint32_t routing_at
    uint32_t routing_field
    # Why the walk failed.
    Verdict fault


cdef struct UpperLayer:
    uint8_t protocol
    # Where it begins, 0 in all fragments but the first.
    uint32_t at


cdef bint walk_extension_headers(
    const uint8_t* packet, uint32_t length, Headers* headers
) noexcept nogil
cdef bint find_insertion_point(
    const uint8_t* packet, uint32_t length, uint32_t* point, uint32_t* field
) noexcept nogil
cdef uint32_t find_encapsulation_limit(const uint8_t* packet, uint32_t length) noexcept nogil
cdef UpperLayer find_upper_layer(const uint8_t* packet, uint32_t length) noexcept nogil
cdef uint32_t make_head(
    uint8_t* into, const Insertion* insertion, const uint8_t* packet, uint32_t head,
    uint32_t point, uint32_t field
) noexcept nogil
cdef uint32_t strip(uint8_t* packet, const Headers* headers) noexcept nogil
