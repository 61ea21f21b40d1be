# One security association and its two operations (RFC 4303).

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from mnagent.datapath.libcrypto cimport EVP_CIPHER_CTX, SHA256_CTX
from mnagent.datapath.replay cimport ReplayWindow
from mnagent.datapath.verdicts cimport Verdict

cdef enum:
    LANES = 2
    ENGINE_LANE = 0
    CONTROL_LANE = 1
    ESP_HEADER_LENGTH = 8
    ESP_IV_MAX = 16
    ESP_ICV_LENGTH = 16
    # Padding up to 15, pad length, next header, ICV.
    ESP_TRAILER_MAX = 15 + 2 + ESP_ICV_LENGTH
    RANDOM_POOL = 2048

cdef enum Transform:
    AES_CBC
    AES_GCM
    CHACHA20
    NULL_HMAC


cdef struct Lane:
    # What one thread needs to run the transform; two threads may use one association at once.
    EVP_CIPHER_CTX* cipher
    SHA256_CTX running
    uint32_t random_left
    uint8_t random[RANDOM_POOL]


cdef struct Association:
    uint32_t spi
    bint inbound
    bint tunnel_mode
    Transform transform
    uint32_t iv_length
    uint32_t block_length
    uint8_t salt[4]
    uint8_t home_address[16]
    SHA256_CTX inner
    SHA256_CTX outer
    # Outbound: the next sequence number, and the first that may not be used yet.
    uint64_t next_sequence
    uint64_t sequence_limit
    ReplayWindow replay
    Lane lanes[LANES]


cdef Association* association_new(
    Transform transform, const uint8_t* key, uint32_t key_length,
    const uint8_t* integrity_key, uint32_t integrity_key_length, bint inbound
) noexcept nogil
cdef void association_free(Association* association) noexcept nogil
cdef uint32_t esp_sealed_length(
    const Association* association, uint32_t plain_length
) noexcept nogil
cdef uint32_t esp_largest_plain(const Association* association, uint32_t room) noexcept nogil
cdef Verdict esp_seal(
    Association* association, int lane, uint8_t* esp, uint32_t plain_length, uint8_t next_header,
    uint32_t* sealed_length
) noexcept nogil
cdef Verdict esp_open(
    Association* association, int lane, uint8_t* esp, uint32_t length, uint32_t* plain_length,
    uint8_t* next_header
) noexcept nogil
