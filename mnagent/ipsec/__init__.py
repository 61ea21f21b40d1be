"""IPsec between a mobile node and its home agent (RFC 3776, RFC 4877).

`selectors` and `policy` are the SPD, `association` the SAD, `mobility_policy` the policies that
Mobile IPv6 asks for, `keys` the key files of manually keyed associations, and `esp_reference` a
slow, plain ESP that the compiled one is measured against. Nothing here opens a file or reads a
clock.
"""
