"""Deferred freeing of what the threads look up."""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free, realloc

from mnagent.datapath._esp cimport Association, association_free
from mnagent.datapath.atomics cimport full_fence, load_word
from mnagent.datapath.linux cimport malloc_usable_size

cdef enum:
    # What the allocator itself keeps beside an allocation.
    ALLOCATION_HEAD = 8


cdef bint memory_add_reader(Memory* memory, uint64_t* epoch) noexcept nogil:
    """False when there are too many."""
    if memory.reader_count == READERS_MAX:
        return False
    memory.readers[memory.reader_count] = epoch
    memory.reader_count += 1
    return True


cdef void* memory_take(Memory* memory, size_t length) noexcept nogil:
    """Zeroed; NULL when there is none."""
    cdef void* taken = calloc(1, length)
    if taken != NULL:
        memory_count(memory, taken)
    return taken


cdef void memory_count(Memory* memory, void* at) noexcept nogil:
    memory.octets += malloc_usable_size(at) + ALLOCATION_HEAD


cdef void memory_uncount(Memory* memory, void* at) noexcept nogil:
    memory.octets -= malloc_usable_size(at) + ALLOCATION_HEAD


cdef void memory_give_back(Memory* memory, void* at) noexcept nogil:
    """What no reader ever saw."""
    if at != NULL:
        memory_uncount(memory, at)
        free(at)


cdef void memory_retire(Memory* memory, void* at, RetiredKind kind) noexcept nogil:
    """What no reader finds any more, but may still hold."""
    cdef RetiredList* into = &memory.fresh
    cdef Retired* grown
    if at == NULL:
        return
    if into.count == into.capacity:
        grown = <Retired*>realloc(into.entries, 2 * (into.capacity + 8) * sizeof(Retired))
        if grown == NULL:
            # Better never freed than freed too early.
            return
        into.entries = grown
        into.capacity = 2 * (into.capacity + 8)
    into.entries[into.count].at = at
    into.entries[into.count].kind = kind
    into.count += 1


cdef bint memory_has_passed(Memory* memory) noexcept nogil:
    """Whether no reader can hold any more what waits."""
    cdef int at
    cdef uint64_t epoch
    if memory.waiting.count == 0:
        return True
    full_fence()
    for at in range(memory.reader_count):
        epoch = load_word(memory.readers[at])
        if epoch & 1 and epoch == memory.epochs[at]:
            return False
    return True


cdef void free_entries(Memory* memory, RetiredList* retired) noexcept nogil:
    cdef size_t at
    for at in range(retired.count):
        memory_uncount(memory, retired.entries[at].at)
        if retired.entries[at].kind == ASSOCIATION:
            association_free(<Association*>retired.entries[at].at)
        else:
            free(retired.entries[at].at)
    retired.count = 0


cdef bint memory_reclaim(Memory* memory) noexcept nogil:
    """After `memory_has_passed` only: free what waited, and let wait what came since; False when
    there was nothing.
    """
    cdef RetiredList emptied
    cdef int at
    free_entries(memory, &memory.waiting)
    if memory.fresh.count == 0:
        return False
    emptied = memory.waiting
    memory.waiting = memory.fresh
    memory.fresh = emptied
    full_fence()
    for at in range(memory.reader_count):
        memory.epochs[at] = load_word(memory.readers[at])
    return True


cdef void memory_free_all(Memory* memory) noexcept nogil:
    """When there are no readers any more."""
    free_entries(memory, &memory.waiting)
    free_entries(memory, &memory.fresh)
    free(memory.waiting.entries)
    free(memory.fresh.entries)
    memory.waiting.entries = memory.fresh.entries = NULL
