# What the engine looks up: tunnels and peers by home address, direct paths by pairs of addresses,
# associations by SPI, our own addresses. One
# immutable structure, made under the GIL and published by one pointer swap.

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from mnagent.datapath._esp cimport Association
from mnagent.datapath.octets cimport hash_address, same_address
from mnagent.datapath.protocols cimport HOME_TEST, HOME_TEST_INIT, PROTOCOL_MOBILITY

cdef enum:
    ETHERNET_LENGTH = 14
    IPV6_LENGTH = 40
    MAX_PORTS = 32
    # A Home Address option with its padding and header; a type 2 routing header.
    INSERTED_LENGTH = 24
    INSERTED_MAX = 2 * INSERTED_LENGTH
    # Destination options with nothing but a Tunnel Encapsulation Limit.
    LIMIT_LENGTH = 8


cdef struct Activity:
    # Outlives the tables; each word has one writer.
    uint64_t packets_out
    uint64_t packets_in


cdef struct WayOut:
    # Descriptor to send by; raw when the kernel resolves the next hop, by `destination`.
    int descriptor
    bint raw
    # Takes a virtio header before the frame, and super-packets; -1 where there is none.
    int offload_descriptor
    uint8_t destination[16]
    # Largest packet the port takes, 0 when the kernel decides (raw socket).
    uint32_t outer_mtu
    uint32_t link_length
    # Ethernet header and, for tunnels, outer IPv6 header, ready to copy.
    uint8_t head[ETHERNET_LENGTH + IPV6_LENGTH]


cdef struct Insertion:
    # What the direct path puts into a packet: a type 2 routing header, a Home Address option, or
    # both in this order; and the addresses that go with them.
    bint has_source
    bint has_destination
    uint8_t source[16]
    uint8_t destination[16]
    uint32_t length
    uint8_t octets[INSERTED_MAX]


cdef struct DirectPath:
    # The home address that is the packet's source; unspecified in a peer binding.
    uint8_t local[16]
    # The correspondent as upper layers know it.
    uint8_t peer[16]
    uint32_t mtu
    WayOut way
    Insertion insertion


cdef struct Tunnel:
    uint8_t home_address[16]
    uint8_t local[16]
    uint8_t remote[16]
    bint mobile_end
    bint hold
    # How many tunnels, this one included, may be around a packet: its Tunnel Encapsulation Limit
    # and one; 0 sends none (RFC 2473 4.1.1).
    uint32_t layers
    # Payload must leave, or have come, by ESP; the association is NULL while it is not installed.
    bint seal
    bint require_esp
    uint32_t inbound_spi
    Association* outbound
    # Home tests have an association of their own (RFC 3776 3.2): this tunnel with it, and the SPI
    # they must have come by. NULL and 0: they are treated as payload.
    Tunnel* home_test
    uint32_t home_test_inbound_spi
    Activity* activity
    uint32_t mtu
    WayOut way


cdef struct AddressSlot:
    uint8_t address[16]
    # Index of the entry, -1 when the slot is free.
    int32_t value


cdef struct AddressMap:
    uint32_t mask
    AddressSlot* slots


cdef struct PairMap:
    uint32_t mask
    # Indices of direct paths, -1 when the slot is free.
    int32_t* slots


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
    # Home addresses of this node itself.
    AddressMap own_homes
    # Peers by home address, direct paths by the pair of addresses the host knows.
    uint32_t peer_count
    DirectPath* peers
    AddressMap peer_homes
    uint32_t path_count
    DirectPath* paths
    PairMap pairs
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


cdef inline uint32_t hash_pair(const uint8_t* local, const uint8_t* peer) noexcept nogil:
    return hash_address(local) * <uint32_t>31 + hash_address(peer)


cdef inline DirectPath* path_find(
    const Tables* tables, const uint8_t* local, const uint8_t* peer
) noexcept nogil:
    cdef uint32_t at
    cdef DirectPath* path
    if tables.path_count == 0:
        return NULL
    at = hash_pair(local, peer) & tables.pairs.mask
    while tables.pairs.slots[at] >= 0:
        path = &tables.paths[tables.pairs.slots[at]]
        if same_address(path.local, local) and same_address(path.peer, peer):
            return path
        at = (at + 1) & tables.pairs.mask
    return NULL


cdef inline DirectPath* peer_find(const Tables* tables, const uint8_t* home) noexcept nogil:
    cdef int32_t at
    if tables.peer_count == 0:
        return NULL
    at = address_find(&tables.peer_homes, home)
    return NULL if at < 0 else &tables.peers[at]


cdef inline uint32_t hash_spi(uint32_t spi) noexcept nogil:
    return (spi * <uint32_t>0x9E3779B1) >> 7


cdef inline Association* spi_find(const Tables* tables, uint32_t spi) noexcept nogil:
    cdef uint32_t at = hash_spi(spi) & tables.spi_mask
    while tables.inbound[at] != NULL:
        if tables.inbound[at].spi == spi:
            return tables.inbound[at]
        at = (at + 1) & tables.spi_mask
    return NULL


cdef inline bint is_home_test(const uint8_t* packet, uint32_t length, bint init) noexcept nogil:
    # A Home Test Init, or a Home Test.
    return (
        packet[6] == PROTOCOL_MOBILITY and length > IPV6_LENGTH + 2
        and packet[IPV6_LENGTH + 2] == (HOME_TEST_INIT if init else HOME_TEST)
    )


cdef bint address_map_make(AddressMap* table, uint32_t entries) noexcept nogil
cdef void address_map_add(AddressMap* table, const uint8_t* address, int32_t value) noexcept nogil
cdef Tables* tables_new(
    uint32_t tunnels, uint32_t associations, uint32_t locals, uint32_t peers, uint32_t paths
) noexcept nogil
cdef void tables_add_path(Tables* tables, int32_t path) noexcept nogil
cdef void tables_add_inbound(Tables* tables, Association* association) noexcept nogil
cdef void tables_free(Tables* tables) noexcept nogil
