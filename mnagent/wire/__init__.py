"""Octets to frozen values and back: IPv6, mobility, ICMPv6, neighbour discovery, ESP framing.

Standard library only. Decoders raise `mnagent.wire.buffer.DecodeError` and nothing else; encoders
raise ValueError for a value that does not fit its field.
"""
