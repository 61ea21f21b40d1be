"""The only asyncio, sockets and file descriptors of the project."""
