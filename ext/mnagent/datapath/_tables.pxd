# What the engine looks up: tunnels and peers by home address, direct paths by pairs of addresses,
# associations by SPI, our own addresses.
#
# Maps of pointers to entries. The threads read them without a lock while one writer, who has the
# GIL, changes them: an entry is never changed but replaced, by one store to its slot, and what was
# replaced is retired (see `_memory`). A map is an open addressing table at most half full; one that
# fills up is made anew and replaced in the same way.

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t, uintptr_t

from mnagent.datapath._esp cimport Association
from mnagent.datapath._memory cimport Memory
from mnagent.datapath.atomics cimport load_word
from mnagent.datapath._ring cimport Ring
from mnagent.datapath.octets cimport hash_address, same_address
from mnagent.datapath.protocols cimport HOME_TEST, HOME_TEST_INIT, PROTOCOL_MOBILITY

cdef enum:
    ETHERNET_LENGTH = 14
    IPV6_LENGTH = 40
    MAX_PORTS = 32
    # In the slot of an entry that was removed.
    TOMBSTONE = 1
    # A Home Address option with its padding and header; a type 2 routing header.
    INSERTED_LENGTH = 24
    INSERTED_MAX = 2 * INSERTED_LENGTH
    # Destination options with nothing but a Tunnel Encapsulation Limit.
    LIMIT_LENGTH = 8


cdef struct Activity:
    # Outlives the tunnel's entries; each word has one writer.
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
    # Key of a path: both; of a peer binding: the first.
    # The correspondent as upper layers know it.
    uint8_t peer[16]
    # The home address that is the packet's source; unspecified in a peer binding.
    uint8_t local[16]
    uint32_t mtu
    WayOut way
    Insertion insertion


cdef struct Tunnel:
    # The key.
    uint8_t home_address[16]
    uint8_t local[16]
    uint8_t remote[16]
    uint8_t mobile_end
    uint8_t hold
    # Payload must leave, or have come, by ESP; the association is NULL while it is not installed.
    uint8_t seal
    uint8_t require_esp
    # Home tests leave by an association of their own (RFC 3776 3.2).
    uint8_t seal_home_tests
    # Ethernet addresses of the next hop, destination first, and its interface.
    uint8_t link_addresses[12]
    int32_t interface
    uint32_t outbound_spi
    uint32_t inbound_spi
    uint32_t home_test_outbound_spi
    # SPI that home tests must have come by; 0: they are treated as payload.
    uint32_t home_test_inbound_spi
    uint32_t mtu
    # How many tunnels, this one included, may be around a packet: its Tunnel Encapsulation Limit
    # and one; 0 sends none (RFC 2473 4.1.1).
    uint32_t layers
    # As it was told, 0 for none; `way` has the lesser of it and the port's.
    uint32_t path_mtu
    WayOut way
    Association* outbound
    Association* home_test
    # From here on it is about where the entry stands, not what it says.
    Activity* activity
    # Others with the same remote end: the writer's.
    Tunnel* following
    Tunnel* preceding


cdef struct Remote:
    # The key.
    uint8_t address[16]
    # A `Tunnel*`: one of those with this remote end; the others follow it.
    uint64_t first


cdef struct OwnAddress:
    # The key.
    uint8_t address[16]
    # How many entries make it our own: the writer's.
    uint32_t reasons


cdef enum Key:
    BY_ADDRESS
    BY_PAIR
    BY_SPI


cdef struct Index:
    uint32_t mask
    # Entries, and slots that are not free: the writer's.
    uint32_t entries
    uint32_t taken
    # Pointers to entries, 0, or TOMBSTONE. They lie behind this structure.
    uint64_t* slots


cdef struct Map:
    # An `Index*`, 0 while there are no entries.
    uint64_t index
    Key key


cdef struct Port:
    int interface
    int descriptor
    uint32_t link_length
    Ring* ring


cdef struct Ports:
    uint64_t version
    uint32_t count
    Port ports[MAX_PORTS]


cdef struct Tables:
    # Goes up with every change.
    uint64_t generation
    # Tunnels whose mobile end is here.
    uint64_t mobile_ends
    # A `Ports*`.
    uint64_t ports
    Map homes
    Map remotes
    Map locals
    # Home addresses of this node itself.
    Map own_homes
    # Peers by home address, direct paths by the pair of addresses the host knows.
    Map peers
    Map paths
    Map inbound
    # The threads find these by way of their tunnels; `protect` by SPI.
    Map outbound


cdef inline Index* map_index(const Map* table) noexcept nogil:
    return <Index*><uintptr_t>load_word(<uint64_t*>&table.index)


cdef inline void* address_find(const Map* table, const uint8_t* address) noexcept nogil:
    cdef Index* index = map_index(table)
    cdef uint32_t at
    cdef uint64_t found
    if index == NULL:
        return NULL
    at = hash_address(address) & index.mask
    while True:
        found = load_word(&index.slots[at])
        if found == 0:
            return NULL
        if found != TOMBSTONE and same_address(<uint8_t*><uintptr_t>found, address):
            return <void*><uintptr_t>found
        at = (at + 1) & index.mask


cdef inline Tunnel* tunnel_find(const Tables* tables, const uint8_t* home) noexcept nogil:
    return <Tunnel*>address_find(&tables.homes, home)


cdef inline Tunnel* remote_find(const Tables* tables, const uint8_t* address) noexcept nogil:
    """One of the tunnels with this remote end."""
    cdef Remote* remote = <Remote*>address_find(&tables.remotes, address)
    return NULL if remote == NULL else <Tunnel*><uintptr_t>load_word(&remote.first)


cdef inline bint is_local(const Tables* tables, const uint8_t* address) noexcept nogil:
    return address_find(&tables.locals, address) != NULL


cdef inline uint32_t hash_pair(const uint8_t* local, const uint8_t* peer) noexcept nogil:
    return hash_address(local) * <uint32_t>31 + hash_address(peer)


cdef inline DirectPath* path_find(
    const Tables* tables, const uint8_t* local, const uint8_t* peer
) noexcept nogil:
    cdef Index* index = map_index(&tables.paths)
    cdef uint32_t at
    cdef uint64_t found
    cdef DirectPath* path
    if index == NULL:
        return NULL
    at = hash_pair(local, peer) & index.mask
    while True:
        found = load_word(&index.slots[at])
        if found == 0:
            return NULL
        if found != TOMBSTONE:
            path = <DirectPath*><uintptr_t>found
            if same_address(path.peer, peer) and same_address(path.local, local):
                return path
        at = (at + 1) & index.mask


cdef inline DirectPath* peer_find(const Tables* tables, const uint8_t* home) noexcept nogil:
    return <DirectPath*>address_find(&tables.peers, home)


cdef inline uint32_t hash_spi(uint32_t spi) noexcept nogil:
    return (spi * <uint32_t>0x9E3779B1) >> 7


cdef inline Association* spi_find(const Map* table, uint32_t spi) noexcept nogil:
    cdef Index* index = map_index(table)
    cdef uint32_t at
    cdef uint64_t found
    if index == NULL:
        return NULL
    at = hash_spi(spi) & index.mask
    while True:
        found = load_word(&index.slots[at])
        if found == 0:
            return NULL
        if found != TOMBSTONE and (<Association*><uintptr_t>found).spi == spi:
            return <Association*><uintptr_t>found
        at = (at + 1) & index.mask


cdef inline bint is_home_test(const uint8_t* packet, uint32_t length, bint init) noexcept nogil:
    # A Home Test Init, or a Home Test.
    return (
        packet[6] == PROTOCOL_MOBILITY and length > IPV6_LENGTH + 2
        and packet[IPV6_LENGTH + 2] == (HOME_TEST_INIT if init else HOME_TEST)
    )


cdef Tables* tables_new() noexcept nogil
cdef void tables_free(Tables* tables, Memory* memory) noexcept nogil
cdef bint map_reserve(Map* table, Memory* memory) noexcept nogil
cdef void* map_put(Map* table, void* entry) noexcept nogil
cdef void map_remove(Map* table, Memory* memory, const void* entry) noexcept nogil
cdef void* map_next(const Map* table, uint32_t* at) noexcept nogil
cdef bint tables_put_tunnel(Tables* tables, Memory* memory, Tunnel* tunnel) noexcept nogil
cdef void tables_remove_tunnel(Tables* tables, Memory* memory, Tunnel* tunnel) noexcept nogil
cdef bint address_count(Map* table, Memory* memory, const uint8_t* address) noexcept nogil
cdef void address_uncount(Map* table, Memory* memory, const uint8_t* address) noexcept nogil
