# Leaves: byte order, the internet checksum, comparing and hashing addresses. Unaligned access goes
# through memcpy, which compiles to one instruction and is defined behaviour.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy


cdef inline uint32_t get16(const uint8_t* at) noexcept nogil:
    return (<uint32_t>at[0] << 8) | at[1]


cdef inline uint32_t get32(const uint8_t* at) noexcept nogil:
    return (<uint32_t>at[0] << 24) | (<uint32_t>at[1] << 16) | (<uint32_t>at[2] << 8) | at[3]


cdef inline void put16(uint8_t* at, uint32_t value) noexcept nogil:
    at[0] = <uint8_t>(value >> 8)
    at[1] = <uint8_t>value


cdef inline void put32(uint8_t* at, uint32_t value) noexcept nogil:
    put16(at, value >> 16)
    put16(at + 2, value & 0xFFFF)


cdef inline uint64_t load64(const uint8_t* at) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, at, 8)
    return word


cdef inline bint same_address(const uint8_t* left, const uint8_t* right) noexcept nogil:
    return load64(left) == load64(right) and load64(left + 8) == load64(right + 8)


cdef inline uint32_t hash_address(const uint8_t* address) noexcept nogil:
    cdef uint64_t mixed = load64(address) * <uint64_t>0x9E3779B97F4A7C15 ^ load64(address + 8)
    # Addresses mostly differ in their last octets, a word's highest here: bring those down.
    mixed = (mixed ^ (mixed >> 32)) * <uint64_t>0xD6E8FEB86659FD93
    mixed = (mixed ^ (mixed >> 32)) * <uint64_t>0xC2B2AE3D27D4EB4F
    return <uint32_t>(mixed >> 32)


cdef inline bint is_link_scope(const uint8_t* address) noexcept nogil:
    """Unspecified, loopback, link-local, or multicast of interface or link scope: never
    tunnelled.
    """
    if address[0] == 0xFF:
        return (address[1] & 0x0F) <= 2
    if address[0] == 0xFE:
        return (address[1] & 0xC0) == 0x80
    return address[0] == 0 and load64(address) == 0 and get32(address + 8) == 0 \
        and get32(address + 12) <= 1


cdef inline uint64_t add_carry(uint64_t total, uint64_t word) noexcept nogil:
    total += word
    return total + (total < word)


cdef inline uint64_t sum_octets(
    const uint8_t* at, size_t length, uint64_t total
) noexcept nogil:
    """Ones' complement sum in native byte order (RFC 1071 2.B); pieces must start at even
    offsets.
    """
    cdef uint64_t second = 0, third = 0, fourth = 0, word
    while length >= 32:
        total = add_carry(total, load64(at))
        second = add_carry(second, load64(at + 8))
        third = add_carry(third, load64(at + 16))
        fourth = add_carry(fourth, load64(at + 24))
        at += 32
        length -= 32
    total = add_carry(add_carry(total, second), add_carry(third, fourth))
    while length >= 8:
        total = add_carry(total, load64(at))
        at += 8
        length -= 8
    if length:
        word = 0
        memcpy(&word, at, length)
        total = add_carry(total, word)
    return total


cdef inline uint16_t fold(uint64_t total) noexcept nogil:
    """The 16-bit sum, still in native byte order: store it with memcpy."""
    total = (total >> 32) + <uint32_t>total
    total = (total >> 32) + <uint32_t>total
    total = (total >> 16) + (total & 0xFFFF)
    total = (total >> 16) + (total & 0xFFFF)
    return <uint16_t>total


cdef inline uint64_t sum_pseudo_header(
    const uint8_t* addresses, uint32_t length, uint8_t next_header
) noexcept nogil:
    """RFC 8200 8.1, of the source and destination addresses that lie side by side at
    ``addresses``.
    """
    cdef uint8_t rest[8]
    put32(rest, length)
    put32(rest + 4, next_header)
    return sum_octets(addresses, 32, sum_octets(rest, 8, 0))


cdef inline void put_checksum(uint8_t* at, uint64_t total) noexcept nogil:
    cdef uint16_t value = <uint16_t>~fold(total)
    memcpy(at, &value, 2)
