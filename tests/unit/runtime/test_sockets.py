"""What error queues say."""

from __future__ import annotations

import select
import socket
import struct

import pytest

from mnagent.runtime.sockets import IPV6_RECVERR, PathMtuListener, is_too_big

PACKET_TOO_BIG, UNREACHABLE, LOCAL, ICMPV6 = 2, 1, 1, 3


def extended_error(*, origin: int, kind: int) -> bytes:
    """``struct sock_extended_err``, and who said so."""
    return struct.pack("=IBBBBII", 90, origin, kind, 0, 0, 1400, 0) + bytes(28)


@pytest.mark.parametrize(
    ("level", "origin", "kind", "expected"),
    [
        (socket.IPPROTO_IPV6, ICMPV6, PACKET_TOO_BIG, True),
        (socket.IPPROTO_IPV6, ICMPV6, UNREACHABLE, False),
        (socket.IPPROTO_IPV6, LOCAL, PACKET_TOO_BIG, False),
        (socket.SOL_SOCKET, ICMPV6, PACKET_TOO_BIG, False),
    ],
)
def test_error_is_a_packet_too_big_only_if_it_says_so(
    level: int, origin: int, kind: int, expected: bool
) -> None:
    data = extended_error(origin=origin, kind=kind)
    assert is_too_big([(level, IPV6_RECVERR, data)]) is expected
    assert not is_too_big([])
    assert not is_too_big([(level, IPV6_RECVERR, b"")])


def marked_socket() -> socket.socket:
    """A socket that has an error and nothing in its error queue."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("::1", 0))
        address = nobody.getsockname()
    marked = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    marked.setblocking(False)
    marked.connect(address)
    marked.send(b"to nobody")
    return marked


def test_error_that_is_in_no_queue_is_cleared_and_wakes_no_more() -> None:
    with marked_socket() as marked:
        poll = select.poll()
        poll.register(marked, 0)
        assert poll.poll(10_000) == [(marked.fileno(), select.POLLERR)]
        listener = object.__new__(PathMtuListener)
        listener._socket = marked
        assert listener.receive() == set()
        assert poll.poll(0) == []
