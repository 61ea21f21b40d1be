# Anti-replay window as RFC 6479: a ring of 64-bit words, so that advancing clears whole words and
# never
# shifts. 32-bit sequence numbers, no extended ones (they need an exchange to agree on).

from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    REPLAY_WORDS = 128
    REPLAY_WINDOW_MAX = 64 * (REPLAY_WORDS - 1)


cdef struct ReplayWindow:
    uint32_t size
    uint32_t highest
    uint64_t words[REPLAY_WORDS]


cdef inline bint replay_acceptable(const ReplayWindow* window, uint32_t sequence) noexcept nogil:
    """The first check, before the packet is authenticated (RFC 4303 3.4.3)."""
    if window.size == 0:
        return True
    if sequence == 0:
        return False
    if sequence > window.highest:
        return True
    if window.highest - sequence >= window.size:
        return False
    return not (window.words[(sequence >> 6) & (REPLAY_WORDS - 1)] >> (sequence & 63)) & 1


cdef inline void replay_advance(ReplayWindow* window, uint32_t sequence) noexcept nogil:
    """After authentication only."""
    cdef uint32_t word, last, cleared
    if window.size == 0:
        return
    if sequence > window.highest:
        word = window.highest >> 6
        last = sequence >> 6
        cleared = last - word
        if cleared > REPLAY_WORDS:
            cleared = REPLAY_WORDS
        while cleared:
            window.words[(last - cleared + 1) & (REPLAY_WORDS - 1)] = 0
            cleared -= 1
        window.highest = sequence
    window.words[(sequence >> 6) & (REPLAY_WORDS - 1)] |= <uint64_t>1 << (sequence & 63)
