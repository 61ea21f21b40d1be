# What the engine looks up: tunnels by home address, associations by SPI, our own addresses. One
# immutable structure, made under the GIL and published by one pointer swap.

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from mnagent.datapath._esp cimport Association
from mnagent.datapath.octets cimport hash_address, same_address

cdef enum:
    ETHERNET_LENGTH = 14
    IPV6_LENGTH = 40
    MAX_PORTS = 32


cdef struct Activity:
    # Outlives the tables; each word has one writer.
    uint64_t packets_out
    uint64_t packets_in


cdef struct Tunnel:
    uint8_t home_address[16]
    uint8_t local[16]
    uint8_t remote[16]
    bint mobile_end
    bint hold
    # Payload must leave, or have come, by ESP; the association is NULL while it is not installed.
    bint seal
    bint require_esp
    uint32_t inbound_spi
    Association* outbound
    Activity* activity
    uint32_t mtu
    # Largest outer packet the port takes, 0 when the kernel decides (raw socket).
    uint32_t outer_mtu
    # Descriptor to send by; raw when the kernel resolves the next hop.
    int descriptor
    bint raw
    uint32_t link_length
    # Ethernet header and outer IPv6 header, ready to copy.
    uint8_t head[ETHERNET_LENGTH + IPV6_LENGTH]


cdef struct AddressSlot:
    uint8_t address[16]
    # Index of the entry, -1 when the slot is free.
    int32_t value


cdef struct AddressMap:
    uint32_t mask
    AddressSlot* slots


cdef struct Port:
    int interface
    int descriptor
    uint32_t link_length


cdef struct Tables:
    uint32_t tunnel_count
    Tunnel* tunnels
    AddressMap homes
    AddressMap remotes
    AddressMap locals
    uint32_t spi_mask
    Association** inbound
    uint32_t port_count
    Port ports[MAX_PORTS]


cdef inline int32_t address_find(const AddressMap* table, const uint8_t* address) noexcept nogil:
    cdef uint32_t at = hash_address(address) & table.mask
    while table.slots[at].value >= 0:
        if same_address(table.slots[at].address, address):
            return table.slots[at].value
        at = (at + 1) & table.mask
    return -1


cdef inline uint32_t hash_spi(uint32_t spi) noexcept nogil:
    return (spi * <uint32_t>0x9E3779B1) >> 7


cdef inline Association* spi_find(const Tables* tables, uint32_t spi) noexcept nogil:
    cdef uint32_t at = hash_spi(spi) & tables.spi_mask
    while tables.inbound[at] != NULL:
        if tables.inbound[at].spi == spi:
            return tables.inbound[at]
        at = (at + 1) & tables.spi_mask
    return NULL


cdef bint address_map_make(AddressMap* table, uint32_t entries) noexcept nogil
cdef void address_map_add(AddressMap* table, const uint8_t* address, int32_t value) noexcept nogil
cdef Tables* tables_new(
    uint32_t tunnels, uint32_t associations, uint32_t locals
) noexcept nogil
cdef void tables_add_inbound(Tables* tables, Association* association) noexcept nogil
cdef void tables_free(Tables* tables) noexcept nogil
