"""The writer's side of the lookup tables. Callers have the GIL."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from mnagent.datapath._esp cimport Association
from mnagent.datapath._memory cimport (
    ASSOCIATION,
    PLAIN,
    Memory,
    memory_give_back,
    memory_retire,
    memory_take,
)
from mnagent.datapath.atomics cimport store_word
from mnagent.datapath.octets cimport hash_address

cdef enum:
    SLOTS_MIN = 8


cdef uint32_t hash_entry(Key key, const void* entry) noexcept nogil:
    if key == BY_SPI:
        return hash_spi((<const Association*>entry).spi)
    if key == BY_PAIR:
        return hash_pair((<const DirectPath*>entry).local, (<const DirectPath*>entry).peer)
    return hash_address(<const uint8_t*>entry)


cdef bint same_key(Key key, const void* left, const void* right) noexcept nogil:
    if key == BY_SPI:
        return (<const Association*>left).spi == (<const Association*>right).spi
    return memcmp(left, right, 32 if key == BY_PAIR else 16) == 0


cdef bint map_reserve(Map* table, Memory* memory) noexcept nogil:
    """Make room for one more entry: at least half the slots stay free. False when memory is out."""
    cdef Index* index = map_index(table)
    cdef Index* made
    cdef uint32_t slots = SLOTS_MIN, at, into
    cdef uint64_t entry
    if index != NULL and 2 * (index.taken + 1) <= index.mask + 1:
        return True
    while slots < 2 * ((index.entries if index != NULL else 0) + 1):
        slots *= 2
    if index != NULL and 8 * index.entries > 3 * slots:
        # Nearly full again at once: what was removed is not worth the work.
        slots *= 2
    made = <Index*>memory_take(memory, sizeof(Index) + slots * sizeof(uint64_t))
    if made == NULL:
        return False
    made.mask = slots - 1
    made.slots = <uint64_t*>(made + 1)
    for at in range(index.mask + 1 if index != NULL else 0):
        entry = index.slots[at]
        if entry > TOMBSTONE:
            into = hash_entry(table.key, <void*><uintptr_t>entry) & made.mask
            while made.slots[into]:
                into = (into + 1) & made.mask
            made.slots[into] = entry
            made.entries += 1
    made.taken = made.entries
    store_word(&table.index, <uint64_t><uintptr_t>made)
    memory_retire(memory, index, PLAIN)
    return True


cdef void* map_put(Map* table, void* entry) noexcept nogil:
    """Let an entry be found, after `map_reserve`; returns the one of its key that it replaces."""
    cdef Index* index = map_index(table)
    cdef uint32_t at = hash_entry(table.key, entry) & index.mask
    cdef uint32_t free_at = 0
    cdef bint has_free = False
    cdef void* there
    while index.slots[at]:
        there = <void*><uintptr_t>index.slots[at]
        if index.slots[at] == TOMBSTONE:
            if not has_free:
                free_at = at
                has_free = True
        elif same_key(table.key, there, entry):
            store_word(&index.slots[at], <uint64_t><uintptr_t>entry)
            return there
        at = (at + 1) & index.mask
    if has_free:
        at = free_at
    else:
        index.taken += 1
    index.entries += 1
    store_word(&index.slots[at], <uint64_t><uintptr_t>entry)
    return NULL


cdef void map_remove(Map* table, Memory* memory, const void* entry) noexcept nogil:
    """Let this very entry be found no more; the caller retires it."""
    cdef Index* index = map_index(table)
    cdef uint32_t at
    if index == NULL:
        return
    at = hash_entry(table.key, entry) & index.mask
    while index.slots[at] != <uint64_t><uintptr_t>entry:
        if index.slots[at] == 0:
            return
        at = (at + 1) & index.mask
    index.entries -= 1
    if index.entries == 0:
        store_word(&table.index, 0)
        memory_retire(memory, index, PLAIN)
    elif index.slots[(at + 1) & index.mask] == 0:
        # No search goes on behind it.
        store_word(&index.slots[at], 0)
        index.taken -= 1
    else:
        store_word(&index.slots[at], TOMBSTONE)


cdef void* map_next(const Map* table, uint32_t* at) noexcept nogil:
    """The entries one after the other, ``at`` beginning at 0; NULL behind the last."""
    cdef Index* index = map_index(table)
    cdef uint64_t entry
    while index != NULL and at[0] <= index.mask:
        entry = index.slots[at[0]]
        at[0] += 1
        if entry > TOMBSTONE:
            return <void*><uintptr_t>entry
    return NULL


cdef Tables* tables_new() noexcept nogil:
    cdef Tables* tables = <Tables*>calloc(1, sizeof(Tables))
    if tables != NULL:
        tables.paths.key = BY_PAIR
        tables.inbound.key = tables.outbound.key = BY_SPI
    return tables


cdef void retire_entries(Map* table, Memory* memory, bint are_associations) noexcept nogil:
    cdef uint32_t at = 0
    cdef void* entry = map_next(table, &at)
    while entry != NULL:
        memory_retire(memory, entry, ASSOCIATION if are_associations else PLAIN)
        entry = map_next(table, &at)
    memory_retire(memory, map_index(table), PLAIN)


cdef void tables_free(Tables* tables, Memory* memory) noexcept nogil:
    """When there are no readers any more: all of it is retired, for `memory_free_all`."""
    cdef uint32_t at = 0
    cdef Tunnel* tunnel
    if tables == NULL:
        return
    tunnel = <Tunnel*>map_next(&tables.homes, &at)
    while tunnel != NULL:
        memory_retire(memory, tunnel.activity, PLAIN)
        tunnel = <Tunnel*>map_next(&tables.homes, &at)
    retire_entries(&tables.homes, memory, False)
    retire_entries(&tables.remotes, memory, False)
    retire_entries(&tables.locals, memory, False)
    retire_entries(&tables.own_homes, memory, False)
    retire_entries(&tables.peers, memory, False)
    retire_entries(&tables.paths, memory, False)
    retire_entries(&tables.inbound, memory, True)
    retire_entries(&tables.outbound, memory, True)
    memory_retire(memory, <void*><uintptr_t>tables.ports, PLAIN)
    free(tables)


# Tunnels.

cdef bint link_remote(Tables* tables, Memory* memory, Tunnel* tunnel) noexcept nogil:
    cdef Remote* remote = <Remote*>address_find(&tables.remotes, tunnel.remote)
    if remote == NULL:
        if not map_reserve(&tables.remotes, memory):
            return False
        remote = <Remote*>memory_take(memory, sizeof(Remote))
        if remote == NULL:
            return False
        memcpy(remote.address, tunnel.remote, 16)
        store_word(&remote.first, <uint64_t><uintptr_t>tunnel)
        map_put(&tables.remotes, remote)
        return True
    tunnel.following = <Tunnel*><uintptr_t>remote.first
    tunnel.following.preceding = tunnel
    store_word(&remote.first, <uint64_t><uintptr_t>tunnel)
    return True


cdef void unlink_remote(Tables* tables, Memory* memory, Tunnel* tunnel) noexcept nogil:
    cdef Remote* remote
    if tunnel.following != NULL:
        tunnel.following.preceding = tunnel.preceding
    if tunnel.preceding != NULL:
        tunnel.preceding.following = tunnel.following
        return
    remote = <Remote*>address_find(&tables.remotes, tunnel.remote)
    if tunnel.following != NULL:
        store_word(&remote.first, <uint64_t><uintptr_t>tunnel.following)
    else:
        map_remove(&tables.remotes, memory, remote)
        memory_retire(memory, remote, PLAIN)


cdef bint tables_put_tunnel(Tables* tables, Memory* memory, Tunnel* tunnel) noexcept nogil:
    """Put a tunnel made by `memory_take` in the place of its home address's former one, whose
    activity it goes on with. False when memory is out: nothing has changed then.
    """
    cdef Tunnel* former = tunnel_find(tables, tunnel.home_address)
    cdef Activity* activity = NULL if former == NULL else former.activity
    cdef bint is_new_end = tunnel.mobile_end and (former == NULL or not former.mobile_end)
    tunnel.following = tunnel.preceding = NULL
    if activity == NULL:
        activity = <Activity*>memory_take(memory, sizeof(Activity))
    tunnel.activity = activity
    if (
        activity == NULL or not map_reserve(&tables.homes, memory)
        or not link_remote(tables, memory, tunnel)
    ):
        if former == NULL:
            memory_give_back(memory, activity)
        return False
    if is_new_end and not address_count(&tables.own_homes, memory, tunnel.home_address):
        unlink_remote(tables, memory, tunnel)
        if former == NULL:
            memory_retire(memory, activity, PLAIN)
        return False
    tables.mobile_ends += is_new_end
    map_put(&tables.homes, tunnel)
    if former != NULL:
        unlink_remote(tables, memory, former)
        if former.mobile_end and not tunnel.mobile_end:
            address_uncount(&tables.own_homes, memory, former.home_address)
            tables.mobile_ends -= 1
        memory_retire(memory, former, PLAIN)
    return True


cdef void tables_remove_tunnel(Tables* tables, Memory* memory, Tunnel* tunnel) noexcept nogil:
    map_remove(&tables.homes, memory, tunnel)
    unlink_remote(tables, memory, tunnel)
    if tunnel.mobile_end:
        address_uncount(&tables.own_homes, memory, tunnel.home_address)
        tables.mobile_ends -= 1
    memory_retire(memory, tunnel.activity, PLAIN)
    memory_retire(memory, tunnel, PLAIN)


# Addresses of our own.

cdef bint address_count(Map* table, Memory* memory, const uint8_t* address) noexcept nogil:
    """One more reason why an address is ours; False when memory is out."""
    cdef OwnAddress* own = <OwnAddress*>address_find(table, address)
    if own == NULL:
        if not map_reserve(table, memory):
            return False
        own = <OwnAddress*>memory_take(memory, sizeof(OwnAddress))
        if own == NULL:
            return False
        memcpy(own.address, address, 16)
        map_put(table, own)
    own.reasons += 1
    return True


cdef void address_uncount(Map* table, Memory* memory, const uint8_t* address) noexcept nogil:
    cdef OwnAddress* own = <OwnAddress*>address_find(table, address)
    if own == NULL:
        return
    own.reasons -= 1
    if own.reasons == 0:
        map_remove(table, memory, own)
        memory_retire(memory, own, PLAIN)
