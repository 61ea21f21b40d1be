"""The outside world as small Protocols, each with an in-memory fake beside it."""
