# Publication between threads: acquire and release on words and pointers.

from libc.stdint cimport uint32_t, uint64_t

cdef extern from *:
    """
    #define mnagent_load(at) __atomic_load_n((at), __ATOMIC_ACQUIRE)
    #define mnagent_store(at, value) __atomic_store_n((at), (value), __ATOMIC_RELEASE)
    #define mnagent_add(at, value) __atomic_fetch_add((at), (value), __ATOMIC_ACQ_REL)
    #define mnagent_swap(at, value) __atomic_exchange_n((at), (value), __ATOMIC_SEQ_CST)
    #define mnagent_compare_swap(at, expected, value) __atomic_compare_exchange_n( \
        (at), (expected), (value), 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)
    #define mnagent_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
    """
    uint64_t load_word "mnagent_load"(uint64_t* at) nogil
    void store_word "mnagent_store"(uint64_t* at, uint64_t value) nogil
    uint32_t load_half_word "mnagent_load"(uint32_t* at) nogil
    void store_half_word "mnagent_store"(uint32_t* at, uint32_t value) nogil
    uint64_t add_word "mnagent_add"(uint64_t* at, uint64_t value) nogil
    uint64_t swap_word "mnagent_swap"(uint64_t* at, uint64_t value) nogil
    # What was stored before it is seen by whoever loads behind a fence of their own.
    void full_fence "mnagent_fence"() nogil
    bint compare_swap_word "mnagent_compare_swap"(
        uint64_t* at, uint64_t* expected, uint64_t value
    ) nogil
