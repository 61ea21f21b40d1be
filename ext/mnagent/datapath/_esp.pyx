"""ESP (RFC 4303) through libcrypto: seal and open in place, without allocating.

The packet is ``SPI | sequence | IV | payload | padding, pad length, next header | ICV``. The
payload already lies behind the IV when `esp_seal` is called. Tunnel and transport mode differ only
in who calls.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from mnagent.datapath.atomics cimport (
    add_word,
    compare_swap_word,
    load_word,
    store_word,
    swap_word,
)
from mnagent.datapath.libcrypto cimport (
    CRYPTO_memcmp,
    EVP_CIPHER,
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
from mnagent.datapath.replay cimport (
    REPLAY_WINDOW_MAX,
    replay_acceptable,
    replay_advance,
    replay_free,
    replay_make,
)
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
    INTEGRITY_KEY_LENGTH = 32

cdef uint64_t serials = 0


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


cdef void hmac_prepare(CipherPlace* place, const uint8_t* key) noexcept nogil:
    """Save the two digest states that depend on the key only (RFC 2104 4)."""
    cdef uint8_t pad[HMAC_BLOCK]
    cdef int at
    memset(pad, 0x36, HMAC_BLOCK)
    for at in range(INTEGRITY_KEY_LENGTH):
        pad[at] ^= key[at]
    SHA256_Init(&place.inner)
    SHA256_Update(&place.inner, pad, HMAC_BLOCK)
    for at in range(HMAC_BLOCK):
        pad[at] ^= 0x36 ^ 0x5C
    SHA256_Init(&place.outer)
    SHA256_Update(&place.outer, pad, HMAC_BLOCK)
    OPENSSL_cleanse(pad, HMAC_BLOCK)


cdef CipherCache* cipher_cache_new() noexcept nogil:
    """Of zeroed pages: a few associations touch a few of them."""
    cdef CipherCache* cache = <CipherCache*>calloc(1, sizeof(CipherCache))
    if cache != NULL:
        cache.in_need = END_OF_LIST
    return cache


cdef void cipher_cache_free(CipherCache* cache) noexcept nogil:
    cdef uint32_t at
    if cache == NULL:
        return
    for at in range(<uint32_t>CIPHER_PLACES):
        if cache.places[at].serial:
            EVP_CIPHER_CTX_free(cache.places[at].cipher)
            OPENSSL_cleanse(&cache.places[at], sizeof(CipherPlace))
    free(cache)


cdef CipherPlace* prepare(CipherCache* cache, const Association* association) noexcept nogil:
    """The association's place in this thread's cache; whose it was has to be prepared anew. NULL
    when libcrypto fails.
    """
    cdef CipherPlace* place = &cache.places[association.serial % CIPHER_PLACES]
    cdef const EVP_CIPHER* cipher
    if place.serial == association.serial:
        return place
    # It must be known at the end that there is something to free.
    place.serial = association.serial
    cipher = choose_cipher(<Transform>association.transform, association.key_length)
    if association.transform == AES_CBC or association.transform == NULL_HMAC:
        hmac_prepare(place, association.keys + KEYS_LENGTH - INTEGRITY_KEY_LENGTH)
    if cipher == NULL:
        return place
    if place.cipher == NULL:
        place.cipher = EVP_CIPHER_CTX_new()
    if place.cipher == NULL or not EVP_CipherInit_ex(
        place.cipher, cipher, NULL, association.keys, NULL, 0 if association.inbound else 1
    ):
        EVP_CIPHER_CTX_free(place.cipher)
        place.cipher = NULL
        place.serial = 0
        return NULL
    if association.transform == AES_CBC:
        # The others have none to turn off, and would be told so again with every packet.
        EVP_CIPHER_CTX_set_padding(place.cipher, 0)
    return place


cdef Association* association_new(
    Transform transform, const uint8_t* key, uint32_t key_length,
    const uint8_t* integrity_key, uint32_t integrity_key_length, bint inbound,
    uint32_t replay_size
) noexcept nogil:
    """NULL when the keys do not fit the transform, the window is too large, or memory is out."""
    cdef const EVP_CIPHER* cipher = choose_cipher(transform, key_length)
    cdef Association* association
    if integrity_key_length > INTEGRITY_KEY_LENGTH or replay_size > REPLAY_WINDOW_MAX:
        return NULL
    if cipher == NULL and transform != NULL_HMAC:
        return NULL
    association = <Association*>calloc(1, sizeof(Association))
    if association == NULL:
        return NULL
    association.serial = <uint32_t>add_word(&serials, 1) + 1
    association.transform = <uint8_t>transform
    association.inbound = inbound
    association.iv_length = 16 if transform == AES_CBC else 0 if transform == NULL_HMAC else 8
    if cipher != NULL:
        association.key_length = <uint8_t>key_length
        memcpy(association.keys, key, key_length)
    if transform == AES_CBC or transform == NULL_HMAC:
        memcpy(
            association.keys + KEYS_LENGTH - INTEGRITY_KEY_LENGTH, integrity_key,
            integrity_key_length,
        )
    if not inbound:
        association.numbers.outbound.next = 1
        association.numbers.outbound.limit = <uint64_t>1 << 32
        return association
    association.replay_size = <uint16_t>replay_size
    if not replay_make(&association.numbers.inbound, replay_size):
        association_free(association)
        return NULL
    return association


cdef bint association_same(const Association* left, const Association* right) noexcept nogil:
    """Whether they are one and the same but for the numbers used."""
    return (
        left.spi == right.spi and left.inbound == right.inbound
        and left.tunnel_mode == right.tunnel_mode and left.transform == right.transform
        and left.key_length == right.key_length and left.replay_size == right.replay_size
        and memcmp(left.home_address, right.home_address, 16) == 0
        and CRYPTO_memcmp(left.keys, right.keys, KEYS_LENGTH) == 0
    )


cdef void association_free(Association* association) noexcept nogil:
    """No thread may use it any more, nor may it be in a list."""
    if association == NULL:
        return
    if association.inbound:
        replay_free(&association.numbers.inbound)
    OPENSSL_cleanse(association, sizeof(Association))
    free(association)


cdef uint32_t esp_sealed_length(
    const Association* association, uint32_t plain_length
) noexcept nogil:
    """Octets from the ESP header to the end of the ICV for a payload of this length."""
    cdef uint32_t block = esp_block_length(association)
    cdef uint32_t padded = (plain_length + 2 + block - 1) & ~(block - 1)
    return ESP_HEADER_LENGTH + association.iv_length + padded + ESP_ICV_LENGTH


cdef uint32_t esp_largest_plain(const Association* association, uint32_t room) noexcept nogil:
    """The largest payload whose sealed form fits ``room`` octets, 0 when none does."""
    cdef uint32_t fixed = ESP_HEADER_LENGTH + association.iv_length + ESP_ICV_LENGTH
    cdef uint32_t block = esp_block_length(association)
    if room < fixed + block:
        return 0
    return ((room - fixed) & ~(block - 1)) - 2


cdef bint take_sequence(
    Association* association, CipherCache* cache, uint32_t* sequence
) noexcept nogil:
    """Two threads may seal at once: each number is given out once, and never one past the limit."""
    cdef Outbound* numbers = &association.numbers.outbound
    cdef uint64_t taken = load_word(&numbers.next), limit = load_word(&numbers.limit)
    while taken < limit:
        if compare_swap_word(&numbers.next, &taken, taken + 1):
            sequence[0] = <uint32_t>taken
            if limit - taken <= <uint64_t>1 << association.reserve:
                tell_need(association, cache)
            return True
    tell_need(association, cache)
    return False


cdef void tell_need(Association* association, CipherCache* cache) noexcept nogil:
    """Put it into the thread's list, unless it is in one."""
    cdef uint64_t none = IN_NO_LIST, first = load_word(&cache.in_need)
    if load_word(&association.numbers.outbound.following) != IN_NO_LIST:
        return
    if not compare_swap_word(&association.numbers.outbound.following, &none, END_OF_LIST):
        return
    store_word(&association.numbers.outbound.following, first)
    while not compare_swap_word(&cache.in_need, &first, <uint64_t><uintptr_t>association):
        store_word(&association.numbers.outbound.following, first)


cdef Association* take_in_need(CipherCache* cache) noexcept nogil:
    """The first of those that need a higher limit, NULL when there is none; the others by
    `next_in_need`.
    """
    cdef uint64_t first = swap_word(&cache.in_need, END_OF_LIST)
    return NULL if first == END_OF_LIST else <Association*><uintptr_t>first


cdef Association* next_in_need(Association* association) noexcept nogil:
    """What follows a taken one, which may come into a list again from now on."""
    cdef uint64_t following = load_word(&association.numbers.outbound.following)
    store_word(&association.numbers.outbound.following, IN_NO_LIST)
    return NULL if following == END_OF_LIST else <Association*><uintptr_t>following


cdef bint take_random(CipherCache* cache, uint8_t* out, uint32_t length) noexcept nogil:
    if cache.random_left < length:
        if RAND_bytes(cache.random, RANDOM_POOL) != 1:
            return False
        cache.random_left = RANDOM_POOL
    cache.random_left -= length
    memcpy(out, cache.random + cache.random_left, length)
    return True


cdef void hmac(
    CipherCache* cache, const CipherPlace* place, const uint8_t* data, uint32_t length,
    uint8_t* digest
) noexcept nogil:
    cache.running = place.inner
    SHA256_Update(&cache.running, data, length)
    SHA256_Final(digest, &cache.running)
    cache.running = place.outer
    SHA256_Update(&cache.running, digest, 32)
    SHA256_Final(digest, &cache.running)


cdef bint seal_aead(
    const Association* association, CipherPlace* place, uint8_t* esp, uint32_t length
) noexcept nogil:
    """The nonce is salt and sequence: never twice under one key (RFC 4106 3.1, RFC 7634 2)."""
    cdef uint8_t nonce[NONCE_LENGTH]
    cdef uint8_t* text = esp + ESP_HEADER_LENGTH + 8
    cdef int done = 0
    memcpy(nonce, association.keys + association.key_length - SALT_LENGTH, SALT_LENGTH)
    memset(nonce + 4, 0, 4)
    memcpy(nonce + 8, esp + 4, 4)
    memcpy(esp + ESP_HEADER_LENGTH, nonce + 4, 8)
    return (
        EVP_CipherInit_ex(place.cipher, NULL, NULL, NULL, nonce, -1) == 1
        and EVP_CipherUpdate(place.cipher, NULL, &done, esp, ESP_HEADER_LENGTH) == 1
        and EVP_CipherUpdate(place.cipher, text, &done, text, <int>length) == 1
        and EVP_CipherFinal_ex(place.cipher, text + length, &done) == 1
        and EVP_CIPHER_CTX_ctrl(
            place.cipher, EVP_CTRL_AEAD_GET_TAG, ESP_ICV_LENGTH, text + length
        ) == 1
    )


cdef bint seal_hmac(
    const Association* association, CipherCache* cache, CipherPlace* place, uint8_t* esp,
    uint32_t length
) noexcept nogil:
    """Encrypt, then authenticate (RFC 4868); the IV cannot be foreseen (RFC 3602 2)."""
    cdef uint8_t digest[32]
    cdef uint8_t* text = esp + ESP_HEADER_LENGTH + association.iv_length
    cdef int done = 0
    if association.transform == AES_CBC:
        if not take_random(cache, esp + ESP_HEADER_LENGTH, 16):
            return False
        if EVP_CipherInit_ex(
            place.cipher, NULL, NULL, NULL, esp + ESP_HEADER_LENGTH, -1
        ) != 1 or EVP_CipherUpdate(place.cipher, text, &done, text, <int>length) != 1:
            return False
    hmac(cache, place, esp, <uint32_t>(text - esp) + length, digest)
    memcpy(text + length, digest, ESP_ICV_LENGTH)
    return True


cdef Verdict esp_seal(
    Association* association, CipherCache* cache, uint8_t* esp, uint32_t plain_length,
    uint8_t next_header, uint32_t* sealed_length
) noexcept nogil:
    """Protect the payload that lies at ``esp + 8 + iv_length``; ESP_TRAILER_MAX octets follow it.
    """
    cdef uint8_t* text = esp + ESP_HEADER_LENGTH + association.iv_length
    cdef uint32_t block = esp_block_length(association)
    cdef uint32_t padded = (plain_length + 2 + block - 1) & ~(block - 1)
    cdef uint32_t padding = padded - plain_length - 2
    cdef uint32_t at, sequence = 0
    cdef bint sealed
    cdef CipherPlace* place = prepare(cache, association)
    if place == NULL:
        return DROP_CRYPTO_FAILURE
    if not take_sequence(association, cache, &sequence):
        return DROP_SEQUENCE_EXHAUSTED
    put32(esp, association.spi)
    put32(esp + 4, sequence)
    for at in range(padding):
        text[plain_length + at] = <uint8_t>(at + 1)
    text[padded - 2] = <uint8_t>padding
    text[padded - 1] = next_header
    if association.transform == AES_GCM or association.transform == CHACHA20:
        sealed = seal_aead(association, place, esp, padded)
    else:
        sealed = seal_hmac(association, cache, place, esp, padded)
    sealed_length[0] = ESP_HEADER_LENGTH + association.iv_length + padded + ESP_ICV_LENGTH
    return TUNNELLED if sealed else DROP_CRYPTO_FAILURE


cdef Verdict open_aead(
    const Association* association, CipherPlace* place, uint8_t* esp, uint32_t length
) noexcept nogil:
    cdef uint8_t nonce[NONCE_LENGTH]
    cdef uint8_t* text = esp + ESP_HEADER_LENGTH + 8
    cdef int done = 0
    memcpy(nonce, association.keys + association.key_length - SALT_LENGTH, SALT_LENGTH)
    memcpy(nonce + 4, esp + ESP_HEADER_LENGTH, 8)
    if (
        EVP_CipherInit_ex(place.cipher, NULL, NULL, NULL, nonce, -1) != 1
        or EVP_CipherUpdate(place.cipher, NULL, &done, esp, ESP_HEADER_LENGTH) != 1
        or EVP_CipherUpdate(place.cipher, text, &done, text, <int>length) != 1
        or EVP_CIPHER_CTX_ctrl(
            place.cipher, EVP_CTRL_AEAD_SET_TAG, ESP_ICV_LENGTH, text + length
        ) != 1
    ):
        return DROP_CRYPTO_FAILURE
    if EVP_CipherFinal_ex(place.cipher, text + length, &done) != 1:
        return DROP_AUTHENTICATION
    return DECAPSULATED


cdef Verdict open_hmac(
    const Association* association, CipherCache* cache, CipherPlace* place, uint8_t* esp,
    uint32_t length
) noexcept nogil:
    cdef uint8_t digest[32]
    cdef uint8_t* text = esp + ESP_HEADER_LENGTH + association.iv_length
    cdef int done = 0
    hmac(cache, place, esp, <uint32_t>(text - esp) + length, digest)
    if CRYPTO_memcmp(digest, text + length, ESP_ICV_LENGTH) != 0:
        return DROP_AUTHENTICATION
    if association.transform == AES_CBC and (
        EVP_CipherInit_ex(place.cipher, NULL, NULL, NULL, esp + ESP_HEADER_LENGTH, -1) != 1
        or EVP_CipherUpdate(place.cipher, text, &done, text, <int>length) != 1
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
    Association* association, CipherCache* cache, uint8_t* esp, uint32_t length,
    uint32_t* plain_length, uint8_t* next_header
) noexcept nogil:
    """Window check, authenticate, window advance, padding (RFC 4303 3.4). The payload stays in
    place.
    """
    cdef uint32_t overhead = ESP_HEADER_LENGTH + association.iv_length + ESP_ICV_LENGTH
    cdef uint32_t text_length, padding, sequence
    cdef uint8_t* text = esp + ESP_HEADER_LENGTH + association.iv_length
    cdef uint32_t block = esp_block_length(association)
    cdef CipherPlace* place
    cdef Verdict verdict
    if length < overhead + block:
        return DROP_TRUNCATED
    text_length = length - overhead
    if text_length & (block - 1):
        return DROP_TRUNCATED
    sequence = get32(esp + 4)
    if not replay_acceptable(
        &association.numbers.inbound, association.replay_size, sequence
    ):
        return DROP_REPLAY
    place = prepare(cache, association)
    if place == NULL:
        return DROP_CRYPTO_FAILURE
    if association.transform == AES_GCM or association.transform == CHACHA20:
        verdict = open_aead(association, place, esp, text_length)
    else:
        verdict = open_hmac(association, cache, place, esp, text_length)
    if verdict != DECAPSULATED:
        return verdict
    replay_advance(&association.numbers.inbound, association.replay_size, sequence)
    padding = text[text_length - 2]
    if padding + 2 > text_length:
        return DROP_BAD_PADDING
    plain_length[0] = text_length - 2 - padding
    if not padding_is_monotonic(text, plain_length[0], padding):
        return DROP_BAD_PADDING
    next_header[0] = text[text_length - 1]
    return DECAPSULATED
