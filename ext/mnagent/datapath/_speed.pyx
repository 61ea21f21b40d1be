"""For `mnagent bench crypto`: how long ESP takes on this processor, by the engine's own code."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from posix.time cimport CLOCK_THREAD_CPUTIME_ID, clock_gettime, timespec

from mnagent.datapath._esp cimport (
    AES_CBC,
    AES_GCM,
    CHACHA20,
    NULL_HMAC,
    Association,
    CipherCache,
    association_free,
    association_new,
    cipher_cache_free,
    cipher_cache_new,
    esp_open,
    esp_seal,
    esp_sealed_length,
)
from mnagent.datapath.verdicts cimport DECAPSULATED, TUNNELLED

cdef enum:
    IPV6 = 41

TRANSFORMS = {
    "aes-cbc-hmac-sha256-128": AES_CBC,
    "aes-gcm-16": AES_GCM,
    "chacha20-poly1305": CHACHA20,
    "null-hmac-sha256-128": NULL_HMAC,
}


cdef double thread_seconds() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now)
    return now.tv_sec + now.tv_nsec * 1e-9


cdef double time_seal(
    Association* association, CipherCache* cache, uint8_t* packet, uint32_t length,
    uint32_t rounds
) noexcept nogil:
    """Seconds of this thread for so many packets, or less than 0 when one failed."""
    cdef uint32_t _, sealed = 0
    cdef double started = thread_seconds()
    for _ in range(rounds):
        if esp_seal(association, cache, packet, length, IPV6, &sealed) != TUNNELLED:
            return -1
    return thread_seconds() - started


cdef double time_open(
    Association* association, CipherCache* cache, uint8_t* packet, const uint8_t* sealed,
    uint32_t total, uint32_t rounds
) noexcept nogil:
    cdef uint32_t _, length = 0
    cdef uint8_t next_header = 0
    cdef double started = thread_seconds()
    for _ in range(rounds):
        memcpy(packet, sealed, total)
        if esp_open(association, cache, packet, total, &length, &next_header) != DECAPSULATED:
            return -1
    return thread_seconds() - started


def measure(
    *, str transform, bytes key, bytes integrity_key, uint32_t length, uint32_t rounds
):
    """Seconds of processor time to seal, and to open, ``rounds`` packets of ``length`` octets.

    Raises ValueError when the keys do not fit the transform, RuntimeError when libcrypto fails.
    """
    cdef Association* out = association_new(
        TRANSFORMS[transform], <const uint8_t*>key, <uint32_t>len(key),
        <const uint8_t*>integrity_key, <uint32_t>len(integrity_key), False, 0,
    )
    cdef Association* back = association_new(
        TRANSFORMS[transform], <const uint8_t*>key, <uint32_t>len(key),
        <const uint8_t*>integrity_key, <uint32_t>len(integrity_key), True, 0,
    )
    cdef CipherCache* cache = cipher_cache_new()
    cdef uint8_t* packet = NULL
    cdef uint8_t* sealed = NULL
    cdef uint32_t total, made = 0
    cdef double seal_time, open_time
    try:
        if out == NULL or back == NULL:
            raise ValueError("the keys do not fit")
        if cache == NULL:
            raise MemoryError()
        total = esp_sealed_length(out, length)
        packet = <uint8_t*>calloc(1, total)
        sealed = <uint8_t*>calloc(1, total)
        if packet == NULL or sealed == NULL:
            raise MemoryError()
        out.spi = back.spi = 256
        out.numbers.outbound.next = 1
        out.numbers.outbound.limit = <uint64_t>rounds + 2
        with nogil:
            seal_time = time_seal(out, cache, packet, length, rounds)
            if esp_seal(out, cache, packet, length, IPV6, &made) != TUNNELLED:
                seal_time = -1
            memcpy(sealed, packet, total)
            open_time = time_open(back, cache, packet, sealed, total, rounds)
        if seal_time < 0 or open_time < 0:
            raise RuntimeError("libcrypto refused")
        return seal_time, open_time
    finally:
        free(packet)
        free(sealed)
        association_free(out)
        association_free(back)
        cipher_cache_free(cache)
