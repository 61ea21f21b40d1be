"""ESP (RFC 4303) through libcrypto: seal and open in place, without allocating.

The packet is ``SPI | sequence | IV | payload | padding, pad length, next header | ICV``. The
payload already
lies behind the IV when `esp_seal` is called. Tunnel and transport mode differ only in who calls.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from mnagent.datapath.atomics cimport compare_swap_word, load_word
from mnagent.datapath.libcrypto cimport (
    CRYPTO_memcmp,
    EVP_CIPHER,
    EVP_CIPHER_CTX,
    EVP_CIPHER_CTX_ctrl,
    EVP_CIPHER_CTX_free,
    EVP_CIPHER_CTX_new,
    EVP_CIPHER_CTX_set_padding,
    EVP_CTRL_AEAD_GET_TAG,
    EVP_CTRL_AEAD_SET_TAG,
    EVP_CipherFinal_ex,
    EVP_CipherInit_ex,
    EVP_CipherUpdate,
    EVP_aes_128_cbc,
    EVP_aes_128_gcm,
    EVP_aes_256_cbc,
    EVP_aes_256_gcm,
    EVP_chacha20_poly1305,
    OPENSSL_cleanse,
    RAND_bytes,
    SHA256_Final,
    SHA256_Init,
    SHA256_Update,
)
from mnagent.datapath.octets cimport get32, put32
from mnagent.datapath.replay cimport replay_acceptable, replay_advance
from mnagent.datapath.verdicts cimport (
    DROP_AUTHENTICATION,
    DROP_BAD_PADDING,
    DROP_CRYPTO_FAILURE,
    DROP_REPLAY,
    DROP_SEQUENCE_EXHAUSTED,
    DROP_TRUNCATED,
    DECAPSULATED,
    TUNNELLED,
    Verdict,
)

cdef enum:
    SALT_LENGTH = 4
    NONCE_LENGTH = 12
    HMAC_BLOCK = 64


cdef const EVP_CIPHER* choose_cipher(Transform transform, uint32_t key_length) noexcept nogil:
    if transform == AES_CBC:
        if key_length == 16:
            return EVP_aes_128_cbc()
        return EVP_aes_256_cbc() if key_length == 32 else NULL
    if transform == AES_GCM:
        if key_length == 16 + SALT_LENGTH:
            return EVP_aes_128_gcm()
        return EVP_aes_256_gcm() if key_length == 32 + SALT_LENGTH else NULL
    if transform == CHACHA20 and key_length == 32 + SALT_LENGTH:
        return EVP_chacha20_poly1305()
    return NULL


cdef void hmac_prepare(
    Association* association, const uint8_t* key, uint32_t key_length
) noexcept nogil:
    """Save the two digest states that depend on the key only (RFC 2104 4)."""
    cdef uint8_t pad[HMAC_BLOCK]
    cdef int at
    memset(pad, 0x36, HMAC_BLOCK)
    for at in range(<int>key_length):
        pad[at] ^= key[at]
    SHA256_Init(&association.inner)
    SHA256_Update(&association.inner, pad, HMAC_BLOCK)
    for at in range(HMAC_BLOCK):
        pad[at] ^= 0x36 ^ 0x5C
    SHA256_Init(&association.outer)
    SHA256_Update(&association.outer, pad, HMAC_BLOCK)
    OPENSSL_cleanse(pad, HMAC_BLOCK)


cdef Association* association_new(
    Transform transform, const uint8_t* key, uint32_t key_length,
    const uint8_t* integrity_key, uint32_t integrity_key_length, bint inbound
) noexcept nogil:
    """NULL when the keys do not fit the transform or memory is out."""
    cdef const EVP_CIPHER* cipher = choose_cipher(transform, key_length)
    cdef Association* association
    cdef EVP_CIPHER_CTX* context
    cdef int lane
    if integrity_key_length > HMAC_BLOCK or (cipher == NULL and transform != NULL_HMAC):
        return NULL
    association = <Association*>calloc(1, sizeof(Association))
    if association == NULL:
        return NULL
    association.transform = transform
    association.inbound = inbound
    association.block_length = 16 if transform == AES_CBC else 4
    association.iv_length = 16 if transform == AES_CBC else 0 if transform == NULL_HMAC else 8
    association.next_sequence = 1
    association.sequence_limit = <uint64_t>1 << 32
    if transform == AES_GCM or transform == CHACHA20:
        memcpy(association.salt, key + key_length - SALT_LENGTH, SALT_LENGTH)
    else:
        hmac_prepare(association, integrity_key, integrity_key_length)
    if cipher != NULL:
        for lane in range(LANES):
            context = EVP_CIPHER_CTX_new()
            association.lanes[lane].cipher = context
            if context == NULL or not EVP_CipherInit_ex(
                context, cipher, NULL, key, NULL, 0 if inbound else 1
            ):
                association_free(association)
                return NULL
            EVP_CIPHER_CTX_set_padding(context, 0)
    return association


cdef void association_free(Association* association) noexcept nogil:
    cdef int lane
    if association == NULL:
        return
    for lane in range(LANES):
        EVP_CIPHER_CTX_free(association.lanes[lane].cipher)
    OPENSSL_cleanse(association, sizeof(Association))
    free(association)


cdef uint32_t esp_sealed_length(
    const Association* association, uint32_t plain_length
) noexcept nogil:
    """Octets from the ESP header to the end of the ICV for a payload of this length."""
    cdef uint32_t block = association.block_length
    cdef uint32_t padded = (plain_length + 2 + block - 1) & ~(block - 1)
    return ESP_HEADER_LENGTH + association.iv_length + padded + ESP_ICV_LENGTH


cdef uint32_t esp_largest_plain(const Association* association, uint32_t room) noexcept nogil:
    """The largest payload whose sealed form fits ``room`` octets, 0 when none does."""
    cdef uint32_t fixed = ESP_HEADER_LENGTH + association.iv_length + ESP_ICV_LENGTH
    if room < fixed + association.block_length:
        return 0
    return ((room - fixed) & ~(association.block_length - 1)) - 2


cdef bint take_sequence(Association* association, uint32_t* sequence) noexcept nogil:
    """Two threads may seal at once: each number is given out once, and never one past the limit."""
    cdef uint64_t taken = load_word(&association.next_sequence)
    while taken < load_word(&association.sequence_limit):
        if compare_swap_word(&association.next_sequence, &taken, taken + 1):
            sequence[0] = <uint32_t>taken
            return True
    return False


cdef bint take_random(Lane* lane, uint8_t* out, uint32_t length) noexcept nogil:
    if lane.random_left < length:
        if RAND_bytes(lane.random, RANDOM_POOL) != 1:
            return False
        lane.random_left = RANDOM_POOL
    lane.random_left -= length
    memcpy(out, lane.random + lane.random_left, length)
    return True


cdef void hmac(
    Association* association, Lane* lane, const uint8_t* data, uint32_t length, uint8_t* digest
) noexcept nogil:
    lane.running = association.inner
    SHA256_Update(&lane.running, data, length)
    SHA256_Final(digest, &lane.running)
    lane.running = association.outer
    SHA256_Update(&lane.running, digest, 32)
    SHA256_Final(digest, &lane.running)


cdef bint seal_aead(
    Association* association, Lane* lane, uint8_t* esp, uint32_t length
) noexcept nogil:
    """The nonce is salt and sequence: never twice under one key (RFC 4106 3.1, RFC 7634 2)."""
    cdef uint8_t nonce[NONCE_LENGTH]
    cdef uint8_t* text = esp + ESP_HEADER_LENGTH + 8
    cdef int done = 0
    memcpy(nonce, association.salt, SALT_LENGTH)
    memset(nonce + 4, 0, 4)
    memcpy(nonce + 8, esp + 4, 4)
    memcpy(esp + ESP_HEADER_LENGTH, nonce + 4, 8)
    return (
        EVP_CipherInit_ex(lane.cipher, NULL, NULL, NULL, nonce, -1) == 1
        and EVP_CipherUpdate(lane.cipher, NULL, &done, esp, ESP_HEADER_LENGTH) == 1
        and EVP_CipherUpdate(lane.cipher, text, &done, text, <int>length) == 1
        and EVP_CipherFinal_ex(lane.cipher, text + length, &done) == 1
        and EVP_CIPHER_CTX_ctrl(
            lane.cipher, EVP_CTRL_AEAD_GET_TAG, ESP_ICV_LENGTH, text + length
        ) == 1
    )


cdef bint seal_hmac(
    Association* association, Lane* lane, uint8_t* esp, uint32_t length
) noexcept nogil:
    """Encrypt, then authenticate (RFC 4868); the IV cannot be foreseen (RFC 3602 2)."""
    cdef uint8_t digest[32]
    cdef uint8_t* text = esp + ESP_HEADER_LENGTH + association.iv_length
    cdef int done = 0
    if association.transform == AES_CBC:
        if not take_random(lane, esp + ESP_HEADER_LENGTH, 16):
            return False
        if EVP_CipherInit_ex(
            lane.cipher, NULL, NULL, NULL, esp + ESP_HEADER_LENGTH, -1
        ) != 1 or EVP_CipherUpdate(lane.cipher, text, &done, text, <int>length) != 1:
            return False
    hmac(association, lane, esp, <uint32_t>(text - esp) + length, digest)
    memcpy(text + length, digest, ESP_ICV_LENGTH)
    return True


cdef Verdict esp_seal(
    Association* association, int lane, uint8_t* esp, uint32_t plain_length, uint8_t next_header,
    uint32_t* sealed_length
) noexcept nogil:
    """Protect the payload that lies at ``esp + 8 + iv_length``; ESP_TRAILER_MAX octets follow it.
    """
    cdef uint8_t* text = esp + ESP_HEADER_LENGTH + association.iv_length
    cdef uint32_t block = association.block_length
    cdef uint32_t padded = (plain_length + 2 + block - 1) & ~(block - 1)
    cdef uint32_t padding = padded - plain_length - 2
    cdef uint32_t at, sequence = 0
    cdef bint sealed
    if not take_sequence(association, &sequence):
        return DROP_SEQUENCE_EXHAUSTED
    put32(esp, association.spi)
    put32(esp + 4, sequence)
    for at in range(padding):
        text[plain_length + at] = <uint8_t>(at + 1)
    text[padded - 2] = <uint8_t>padding
    text[padded - 1] = next_header
    if association.transform == AES_GCM or association.transform == CHACHA20:
        sealed = seal_aead(association, &association.lanes[lane], esp, padded)
    else:
        sealed = seal_hmac(association, &association.lanes[lane], esp, padded)
    sealed_length[0] = ESP_HEADER_LENGTH + association.iv_length + padded + ESP_ICV_LENGTH
    return TUNNELLED if sealed else DROP_CRYPTO_FAILURE


cdef Verdict open_aead(
    Association* association, Lane* lane, uint8_t* esp, uint32_t length
) noexcept nogil:
    cdef uint8_t nonce[NONCE_LENGTH]
    cdef uint8_t* text = esp + ESP_HEADER_LENGTH + 8
    cdef int done = 0
    memcpy(nonce, association.salt, SALT_LENGTH)
    memcpy(nonce + 4, esp + ESP_HEADER_LENGTH, 8)
    if (
        EVP_CipherInit_ex(lane.cipher, NULL, NULL, NULL, nonce, -1) != 1
        or EVP_CipherUpdate(lane.cipher, NULL, &done, esp, ESP_HEADER_LENGTH) != 1
        or EVP_CipherUpdate(lane.cipher, text, &done, text, <int>length) != 1
        or EVP_CIPHER_CTX_ctrl(
            lane.cipher, EVP_CTRL_AEAD_SET_TAG, ESP_ICV_LENGTH, text + length
        ) != 1
    ):
        return DROP_CRYPTO_FAILURE
    if EVP_CipherFinal_ex(lane.cipher, text + length, &done) != 1:
        return DROP_AUTHENTICATION
    return DECAPSULATED


cdef Verdict open_hmac(
    Association* association, Lane* lane, uint8_t* esp, uint32_t length
) noexcept nogil:
    cdef uint8_t digest[32]
    cdef uint8_t* text = esp + ESP_HEADER_LENGTH + association.iv_length
    cdef int done = 0
    hmac(association, lane, esp, <uint32_t>(text - esp) + length, digest)
    if CRYPTO_memcmp(digest, text + length, ESP_ICV_LENGTH) != 0:
        return DROP_AUTHENTICATION
    if association.transform == AES_CBC and (
        EVP_CipherInit_ex(lane.cipher, NULL, NULL, NULL, esp + ESP_HEADER_LENGTH, -1) != 1
        or EVP_CipherUpdate(lane.cipher, text, &done, text, <int>length) != 1
    ):
        return DROP_CRYPTO_FAILURE
    return DECAPSULATED


cdef bint padding_is_monotonic(
    const uint8_t* text, uint32_t length, uint32_t padding
) noexcept nogil:
    """The contents of RFC 4303 2.4, which none of our transforms replaces."""
    cdef uint32_t at
    for at in range(padding):
        if text[length + at] != <uint8_t>(at + 1):
            return False
    return True


cdef Verdict esp_open(
    Association* association, int lane, uint8_t* esp, uint32_t length, uint32_t* plain_length,
    uint8_t* next_header
) noexcept nogil:
    """Window check, authenticate, window advance, padding (RFC 4303 3.4). The payload stays in
    place.
    """
    cdef uint32_t overhead = ESP_HEADER_LENGTH + association.iv_length + ESP_ICV_LENGTH
    cdef uint32_t text_length, padding, sequence
    cdef uint8_t* text = esp + ESP_HEADER_LENGTH + association.iv_length
    cdef Verdict verdict
    if length < overhead + association.block_length:
        return DROP_TRUNCATED
    text_length = length - overhead
    if text_length & (association.block_length - 1):
        return DROP_TRUNCATED
    sequence = get32(esp + 4)
    if not replay_acceptable(&association.replay, sequence):
        return DROP_REPLAY
    if association.transform == AES_GCM or association.transform == CHACHA20:
        verdict = open_aead(association, &association.lanes[lane], esp, text_length)
    else:
        verdict = open_hmac(association, &association.lanes[lane], esp, text_length)
    if verdict != DECAPSULATED:
        return verdict
    replay_advance(&association.replay, sequence)
    padding = text[text_length - 2]
    if padding + 2 > text_length:
        return DROP_BAD_PADDING
    plain_length[0] = text_length - 2 - padding
    if not padding_is_monotonic(text, plain_length[0], padding):
        return DROP_BAD_PADDING
    next_header[0] = text[text_length - 1]
    return DECAPSULATED
