# Anti-replay windows (RFC 4303 3.4.3, RFC 6479). Up to 64 packets they are one word that shifts;
# larger ones are a ring of words, so that advancing clears whole words and never shifts. 32-bit
# sequence numbers, no extended ones (they need an exchange to agree on).

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

cdef enum:
    REPLAY_WORDS = 128
    REPLAY_WINDOW_MAX = 64 * (REPLAY_WORDS - 1)
    REPLAY_WORD_SIZE = 64


cdef struct Replay:
    uint64_t highest
    # Bit n is the number `highest - n`.
    uint64_t seen
    # For more than 64 packets: bit `number % 64` of word `number / 64`, modulo their count.
    uint64_t* words


cdef inline bint replay_make(Replay* window, uint32_t size) noexcept nogil:
    window.highest = window.seen = 0
    window.words = NULL
    if size > REPLAY_WORD_SIZE:
        window.words = <uint64_t*>calloc(REPLAY_WORDS, sizeof(uint64_t))
        return window.words != NULL
    return True


cdef inline void replay_free(Replay* window) noexcept nogil:
    free(window.words)


cdef inline bint replay_acceptable(
    const Replay* window, uint32_t size, uint32_t sequence
) noexcept nogil:
    """The first check, before the packet is authenticated (RFC 4303 3.4.3)."""
    cdef uint64_t age
    if size == 0:
        return True
    if sequence == 0:
        return False
    if sequence > window.highest:
        return True
    age = window.highest - sequence
    if age >= size:
        return False
    if window.words == NULL:
        return not (window.seen >> age) & 1
    return not (window.words[(sequence >> 6) & (REPLAY_WORDS - 1)] >> (sequence & 63)) & 1


cdef inline void replay_advance(Replay* window, uint32_t size, uint32_t sequence) noexcept nogil:
    """After authentication only."""
    cdef uint64_t last = sequence >> 6, leap, cleared
    if size == 0:
        return
    if window.words == NULL:
        if sequence > window.highest:
            leap = sequence - window.highest
            window.seen = window.seen << leap if leap < REPLAY_WORD_SIZE else 0
            window.highest = sequence
        window.seen |= <uint64_t>1 << (window.highest - sequence)
        return
    if sequence > window.highest:
        cleared = last - (window.highest >> 6)
        if cleared > REPLAY_WORDS:
            cleared = REPLAY_WORDS
        while cleared:
            window.words[(last - cleared + 1) & (REPLAY_WORDS - 1)] = 0
            cleared -= 1
        window.highest = sequence
    window.words[last & (REPLAY_WORDS - 1)] |= <uint64_t>1 << (sequence & 63)
