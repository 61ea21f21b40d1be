# Memory of what the threads look up: counted, and freed only when no thread can still see it.
#
# A thread that looks things up is a reader. Its epoch is odd while it may hold pointers into the
# tables and even while it cannot (before it waits for packets); it changes at each quiescent point.
# The writer, who has the GIL, unlinks first and retires then; what was retired is freed once each
# reader's epoch has changed or is even. Nobody waits for anybody.

from libc.stdint cimport uint64_t

from mnagent.datapath.atomics cimport full_fence, store_word

cdef enum:
    READERS_MAX = 64

cdef enum RetiredKind:
    PLAIN
    ASSOCIATION


cdef struct Retired:
    void* at
    RetiredKind kind


cdef struct RetiredList:
    size_t count
    size_t capacity
    Retired* entries


cdef struct Memory:
    # Octets of the allocator that the tables hold, what waits to be freed included.
    uint64_t octets
    int reader_count
    uint64_t* readers[READERS_MAX]
    # What the readers' epochs were when `waiting` began to wait.
    uint64_t epochs[READERS_MAX]
    RetiredList fresh
    RetiredList waiting


cdef inline void reader_pass(uint64_t* epoch) noexcept nogil:
    """A quiescent point: whatever the reader found before, it looks up again."""
    store_word(epoch, epoch[0] + (2 if epoch[0] & 1 else 1))
    full_fence()


cdef inline void reader_leave(uint64_t* epoch) noexcept nogil:
    """Before the reader waits: until the next `reader_pass` it looks at nothing."""
    store_word(epoch, (epoch[0] | 1) + 1)
    full_fence()


cdef bint memory_add_reader(Memory* memory, uint64_t* epoch) noexcept nogil
cdef void* memory_take(Memory* memory, size_t length) noexcept nogil
cdef void memory_count(Memory* memory, void* at) noexcept nogil
cdef void memory_uncount(Memory* memory, void* at) noexcept nogil
cdef void memory_give_back(Memory* memory, void* at) noexcept nogil
cdef void memory_retire(Memory* memory, void* at, RetiredKind kind) noexcept nogil
cdef bint memory_has_passed(Memory* memory) noexcept nogil
cdef bint memory_reclaim(Memory* memory) noexcept nogil
cdef void memory_free_all(Memory* memory) noexcept nogil
