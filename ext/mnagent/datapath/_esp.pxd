# Security associations and their two operations (RFC 4303).
#
# An association is little more than its keys: there may be hundreds of thousands. What it takes to
# run the transform lies in a `CipherCache`, one for each thread that seals or opens; there an
# association has a place for as long as no other one needs it.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from mnagent.datapath.libcrypto cimport EVP_CIPHER_CTX, SHA256_CTX
from mnagent.datapath.replay cimport Replay
from mnagent.datapath.verdicts cimport Verdict

cdef enum:
    ESP_HEADER_LENGTH = 8
    ESP_IV_MAX = 16
    ESP_ICV_LENGTH = 16
    # Padding up to 15, pad length, next header, ICV.
    ESP_TRAILER_MAX = 15 + 2 + ESP_ICV_LENGTH
    RANDOM_POOL = 2048
    # Both keys, or an AEAD's key and salt.
    KEYS_LENGTH = 64
    # Associations that one thread can run without preparing them anew.
    CIPHER_PLACES = 1024
    IN_NO_LIST = 0
    END_OF_LIST = 1

cdef enum Transform:
    AES_CBC
    AES_GCM
    CHACHA20
    NULL_HMAC


cdef struct CipherPlace:
    # Serial number of the association it is prepared for, 0 for none.
    uint32_t serial
    EVP_CIPHER_CTX* cipher
    SHA256_CTX inner
    SHA256_CTX outer


cdef struct CipherCache:
    # An `Association*` or END_OF_LIST: outbound associations that this thread found in need of a
    # higher limit. Python takes the whole list.
    uint64_t in_need
    SHA256_CTX running
    uint32_t random_left
    uint8_t random[RANDOM_POOL]
    CipherPlace places[CIPHER_PLACES]


cdef struct Outbound:
    # The next sequence number, and the first that may not be used yet.
    uint64_t next
    uint64_t limit
    # An `Association*`: what follows in the list of those that soon need a higher limit,
    # IN_NO_LIST, or END_OF_LIST.
    uint64_t following


cdef union Numbers:
    Outbound outbound
    Replay inbound


cdef struct Association:
    Numbers numbers
    uint32_t spi
    # Never given out twice, so that no thread takes one association's keys for another's.
    uint32_t serial
    # Inbound: packets; 0 checks nothing.
    uint16_t replay_size
    uint8_t transform
    uint8_t inbound
    uint8_t tunnel_mode
    uint8_t iv_length
    uint8_t key_length
    # Outbound: soon in need of a higher limit when fewer than 2 to the power of this are left.
    uint8_t reserve
    uint8_t home_address[16]
    uint8_t keys[KEYS_LENGTH]


cdef inline uint32_t esp_block_length(const Association* association) noexcept nogil:
    return 16 if association.transform == AES_CBC else 4


cdef CipherCache* cipher_cache_new() noexcept nogil
cdef void cipher_cache_free(CipherCache* cache) noexcept nogil
cdef Association* association_new(
    Transform transform, const uint8_t* key, uint32_t key_length,
    const uint8_t* integrity_key, uint32_t integrity_key_length, bint inbound,
    uint32_t replay_size
) noexcept nogil
cdef bint association_same(const Association* left, const Association* right) noexcept nogil
cdef void association_free(Association* association) noexcept nogil
cdef Association* take_in_need(CipherCache* cache) noexcept nogil
cdef Association* next_in_need(Association* association) noexcept nogil
cdef uint32_t esp_sealed_length(
    const Association* association, uint32_t plain_length
) noexcept nogil
cdef uint32_t esp_largest_plain(const Association* association, uint32_t room) noexcept nogil
cdef Verdict esp_seal(
    Association* association, CipherCache* cache, uint8_t* esp, uint32_t plain_length,
    uint8_t next_header, uint32_t* sealed_length
) noexcept nogil
cdef Verdict esp_open(
    Association* association, CipherCache* cache, uint8_t* esp, uint32_t length,
    uint32_t* plain_length, uint8_t* next_header
) noexcept nogil
