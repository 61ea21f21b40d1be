"""mnagent: a Mobile IPv6 agent for small boards (RFC 6275, RFC 3776, RFC 4877)."""

__version__ = "0.1.0"
