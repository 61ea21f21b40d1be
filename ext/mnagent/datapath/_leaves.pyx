"""For tests only: the leaves that no other module shows to Python."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from mnagent.datapath._core import VERDICT_NAMES
from mnagent.datapath._esp cimport (
    AES_CBC,
    AES_GCM,
    CHACHA20,
    ESP_HEADER_LENGTH,
    NULL_HMAC,
    Association,
    CipherCache,
    association_free,
    association_new,
    cipher_cache_free,
    cipher_cache_new,
    esp_largest_plain,
    esp_open,
    esp_seal,
    esp_sealed_length,
)
from mnagent.datapath.octets cimport fold, is_link_scope, sum_octets
from mnagent.datapath.replay cimport (
    Replay as ReplayWindow,
    replay_acceptable,
    replay_advance,
    replay_free,
    replay_make,
)
from mnagent.datapath.verdicts cimport DECAPSULATED, TUNNELLED, Verdict

TRANSFORMS = {
    "aes-cbc-hmac-sha256-128": AES_CBC,
    "aes-gcm-16": AES_GCM,
    "chacha20-poly1305": CHACHA20,
    "null-hmac-sha256-128": NULL_HMAC,
}


def checksum(bytes data):
    """The ones' complement sum of ``data``, folded, in network byte order."""
    cdef uint32_t folded = fold(sum_octets(<const uint8_t*>data, len(data), 0))
    cdef uint8_t stored[2]
    memcpy(stored, &folded, 2)
    return (stored[0] << 8) | stored[1]


def link_scope(bytes address):
    """Whether the engine keeps this address out of tunnels."""
    return bool(is_link_scope(<const uint8_t*>address))


cdef class Replay:
    """One anti-replay window."""

    cdef ReplayWindow window
    cdef uint32_t size

    def __cinit__(self, uint32_t size):
        self.size = size
        if not replay_make(&self.window, size):
            raise MemoryError

    def __dealloc__(self):
        replay_free(&self.window)

    def take(self, uint32_t sequence):
        """Check and, when acceptable, advance; tells which."""
        if not replay_acceptable(&self.window, self.size, sequence):
            return False
        replay_advance(&self.window, self.size, sequence)
        return True


cdef class Esp:
    """One association over plain buffers, of exactly the length they need."""

    cdef Association* association
    cdef CipherCache* cache

    def __cinit__(
        self, *, str transform, bytes key, bytes integrity_key=b"", uint32_t spi=256,
        bint inbound=False, uint32_t window=0
    ):
        self.association = association_new(
            TRANSFORMS[transform], <const uint8_t*>key, <uint32_t>len(key),
            <const uint8_t*>integrity_key, <uint32_t>len(integrity_key), inbound, window,
        )
        if self.association == NULL:
            raise ValueError("the keys do not fit")
        self.association.spi = spi
        self.cache = cipher_cache_new()
        if self.cache == NULL:
            raise MemoryError

    def __dealloc__(self):
        cipher_cache_free(self.cache)
        association_free(self.association)

    def largest_plain(self, uint32_t room):
        """See `esp_largest_plain`."""
        return esp_largest_plain(self.association, room)

    def seal(self, bytes plain, uint8_t next_header, *, uint64_t sequence):
        """From the ESP header to the ICV; raises the verdict's name when it is none."""
        cdef uint32_t total = esp_sealed_length(self.association, <uint32_t>len(plain)), length = 0
        cdef uint8_t* made = <uint8_t*>malloc(total)
        cdef Verdict verdict
        self.association.numbers.outbound.next = sequence
        memcpy(
            made + ESP_HEADER_LENGTH + self.association.iv_length,
            <const uint8_t*>plain, len(plain),
        )
        verdict = esp_seal(
            self.association, self.cache, made, <uint32_t>len(plain), next_header, &length
        )
        try:
            if verdict != TUNNELLED:
                raise ValueError(VERDICT_NAMES[<int>verdict])
            assert length == total
            return made[:length]
        finally:
            free(made)

    def open(self, bytes esp):
        """(payload, next header), or raises ValueError with the verdict's name."""
        cdef uint32_t length = 0
        cdef uint8_t next_header = 0
        cdef uint8_t* copied = <uint8_t*>malloc(len(esp))
        cdef Verdict verdict
        memcpy(copied, <const uint8_t*>esp, len(esp))
        verdict = esp_open(
            self.association, self.cache, copied, <uint32_t>len(esp), &length, &next_header
        )
        cdef uint32_t start = ESP_HEADER_LENGTH + self.association.iv_length
        try:
            if verdict != DECAPSULATED:
                raise ValueError(VERDICT_NAMES[<int>verdict])
            return copied[start:start + length], next_header
        finally:
            free(copied)
