# The part of libcrypto the engine uses. SHA256_* is the one interface of OpenSSL 3 that restarts
# an HMAC
# from a saved state without allocating.

from libc.stdint cimport uint8_t

cdef extern from *:
    """
    #define OPENSSL_SUPPRESS_DEPRECATED
    #include <openssl/evp.h>
    #include <openssl/rand.h>
    #include <openssl/sha.h>
    #include <openssl/crypto.h>
    """
    ctypedef struct EVP_CIPHER:
        pass
    ctypedef struct EVP_CIPHER_CTX:
        pass
    ctypedef struct ENGINE:
        pass
    ctypedef struct SHA256_CTX:
        pass

    int EVP_CTRL_AEAD_SET_IVLEN
    int EVP_CTRL_AEAD_GET_TAG
    int EVP_CTRL_AEAD_SET_TAG

    const EVP_CIPHER* EVP_aes_128_cbc() nogil
    const EVP_CIPHER* EVP_aes_256_cbc() nogil
    const EVP_CIPHER* EVP_aes_128_gcm() nogil
    const EVP_CIPHER* EVP_aes_256_gcm() nogil
    const EVP_CIPHER* EVP_chacha20_poly1305() nogil
    EVP_CIPHER_CTX* EVP_CIPHER_CTX_new() nogil
    void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX* context) nogil
    int EVP_CIPHER_CTX_set_padding(EVP_CIPHER_CTX* context, int pad) nogil
    int EVP_CIPHER_CTX_ctrl(EVP_CIPHER_CTX* context, int kind, int argument, void* pointer) nogil
    int EVP_CipherInit_ex(
        EVP_CIPHER_CTX* context, const EVP_CIPHER* cipher, ENGINE* engine,
        const uint8_t* key, const uint8_t* iv, int encrypt
    ) nogil
    int EVP_CipherUpdate(
        EVP_CIPHER_CTX* context, uint8_t* out, int* out_length, const uint8_t* data, int length
    ) nogil
    int EVP_CipherFinal_ex(EVP_CIPHER_CTX* context, uint8_t* out, int* out_length) nogil

    int SHA256_Init(SHA256_CTX* context) nogil
    int SHA256_Update(SHA256_CTX* context, const void* data, size_t length) nogil
    int SHA256_Final(uint8_t* digest, SHA256_CTX* context) nogil

    int RAND_bytes(uint8_t* out, int length) nogil
    int CRYPTO_memcmp(const void* left, const void* right, size_t length) nogil
    void OPENSSL_cleanse(void* at, size_t length) nogil
