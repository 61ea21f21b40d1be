"""Making and freeing the lookup tables (open addressing, at most half full)."""

from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from mnagent.datapath._esp cimport Association
from mnagent.datapath.octets cimport hash_address, same_address


cdef uint32_t slots_for(uint32_t entries) noexcept nogil:
    cdef uint32_t slots = 8
    while slots < 2 * entries:
        slots *= 2
    return slots


cdef bint address_map_make(AddressMap* table, uint32_t entries) noexcept nogil:
    cdef uint32_t slots = slots_for(entries), at
    table.slots = <AddressSlot*>malloc(slots * sizeof(AddressSlot))
    if table.slots == NULL:
        return False
    for at in range(slots):
        table.slots[at].value = -1
    table.mask = slots - 1
    return True


cdef void address_map_add(AddressMap* table, const uint8_t* address, int32_t value) noexcept nogil:
    """The first value for an address stays."""
    cdef uint32_t at = hash_address(address) & table.mask
    while table.slots[at].value >= 0:
        if same_address(table.slots[at].address, address):
            return
        at = (at + 1) & table.mask
    memcpy(table.slots[at].address, address, 16)
    table.slots[at].value = value


cdef bint pair_map_make(PairMap* table, uint32_t entries) noexcept nogil:
    cdef uint32_t slots = slots_for(entries)
    table.slots = <int32_t*>malloc(slots * sizeof(int32_t))
    if table.slots == NULL:
        return False
    memset(table.slots, 0xFF, slots * sizeof(int32_t))
    table.mask = slots - 1
    return True


cdef void tables_add_path(Tables* tables, int32_t path) noexcept nogil:
    """Make one of ``tables.paths`` found; the first for a pair of addresses stays."""
    cdef DirectPath* added = &tables.paths[path]
    cdef uint32_t at = hash_pair(added.local, added.peer) & tables.pairs.mask
    while tables.pairs.slots[at] >= 0:
        at = (at + 1) & tables.pairs.mask
    tables.pairs.slots[at] = path


cdef Tables* tables_new(
    uint32_t tunnels, uint32_t associations, uint32_t locals, uint32_t peers, uint32_t paths
) noexcept nogil:
    cdef Tables* tables = <Tables*>calloc(1, sizeof(Tables))
    cdef uint32_t spi_slots = slots_for(associations)
    if tables == NULL:
        return NULL
    # Twice: those of the home tests come behind.
    tables.tunnels = <Tunnel*>calloc(2 * tunnels + 1, sizeof(Tunnel))
    tables.peers = <DirectPath*>calloc(peers + 1, sizeof(DirectPath))
    tables.paths = <DirectPath*>calloc(paths + 1, sizeof(DirectPath))
    tables.inbound = <Association**>calloc(spi_slots, sizeof(Association*))
    tables.spi_mask = spi_slots - 1
    if (
        tables.tunnels == NULL or tables.inbound == NULL
        or tables.peers == NULL or tables.paths == NULL
        or not address_map_make(&tables.peer_homes, peers)
        or not address_map_make(&tables.own_homes, tunnels + paths)
        or not pair_map_make(&tables.pairs, paths)
        or not address_map_make(&tables.homes, tunnels)
        or not address_map_make(&tables.remotes, tunnels)
        or not address_map_make(&tables.locals, locals)
    ):
        tables_free(tables)
        return NULL
    return tables


cdef void tables_add_inbound(Tables* tables, Association* association) noexcept nogil:
    cdef uint32_t at = hash_spi(association.spi) & tables.spi_mask
    while tables.inbound[at] != NULL:
        at = (at + 1) & tables.spi_mask
    tables.inbound[at] = association


cdef void tables_free(Tables* tables) noexcept nogil:
    """The associations are not the tables' own."""
    if tables == NULL:
        return
    free(tables.tunnels)
    free(tables.inbound)
    free(tables.peers)
    free(tables.paths)
    free(tables.peer_homes.slots)
    free(tables.own_homes.slots)
    free(tables.pairs.slots)
    free(tables.homes.slots)
    free(tables.remotes.slots)
    free(tables.locals.slots)
    free(tables)
