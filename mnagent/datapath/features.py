"""What a network device does by itself, asked of it by ethtool's ioctl."""

from __future__ import annotations

import array
import fcntl
import socket
import struct

SIOCETHTOOL = 0x8946
ETHTOOL_GDRVINFO = 0x03
ETHTOOL_GSTRINGS = 0x1B
ETHTOOL_GSSET_INFO = 0x37
ETHTOOL_GFEATURES = 0x3A
ETH_SS_FEATURES = 4
STRING_LENGTH = 32

PLAIN_IPV6_CHECKSUM = "tx-checksum-ipv6"
"""Computes checksums of TCP and UDP right behind the IPv6 header only."""
CUTS_TUNNELLED = "tx-ipxip6-segmentation"
"""Cuts super-packets that are in an IPv6 tunnel."""
SOFTWARE_BUSES = frozenset({b"", b"tun", b"tap"})


def _ask(handle: socket.socket, name: str, request: bytes) -> bytes:
    buffer = array.array("B", request)
    address, _ = buffer.buffer_info()
    fcntl.ioctl(handle, SIOCETHTOOL, struct.pack("16sP16x", name.encode(), address))
    return buffer.tobytes()


def active_features(handle: socket.socket, name: str) -> frozenset[str]:
    """Names of the features that are on, as ``ethtool -k`` with kernel names; OSError if unknown.

    ``handle`` is any socket in the device's network namespace.
    """
    answer = _ask(
        handle, name, struct.pack("=IIQI", ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0)
    )
    (count,) = struct.unpack_from("=I", answer, 16)
    request = struct.pack("=III", ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count)
    strings = _ask(handle, name, request + bytes(count * STRING_LENGTH))[12:]
    names = [
        strings[at : at + STRING_LENGTH].split(b"\0")[0].decode()
        for at in range(0, count * STRING_LENGTH, STRING_LENGTH)
    ]
    blocks = (count + 31) // 32
    request = struct.pack("=II", ETHTOOL_GFEATURES, blocks)
    answer = _ask(handle, name, request + bytes(blocks * 16))[8:]
    # Per block: available, requested, active, never changed.
    active = [struct.unpack_from("=I", answer, 16 * block + 8)[0] for block in range(blocks)]
    return frozenset(
        feature for at, feature in enumerate(names) if feature and active[at // 32] >> at % 32 & 1
    )


def cuts_tunnelled_packets(handle: socket.socket, name: str) -> bool:
    """Whether hardware would cut what the kernel marks as a tunnel's: it looks for two headers."""
    try:
        # struct ethtool_drvinfo: the bus is the fifth text.
        answer = _ask(handle, name, struct.pack("=I", ETHTOOL_GDRVINFO) + bytes(192))
        bus = answer[4 + 32 * 3 : 4 + 32 * 4].split(b"\0")[0]
        return bus not in SOFTWARE_BUSES and CUTS_TUNNELLED in active_features(handle, name)
    except OSError:
        return False


def cuts_behind_extension_headers(handle: socket.socket, name: str) -> bool:
    """Whether TCP super-packets with extension headers may be given to the device.

    Kernels before 6.17 trust a device that knows plain IPv6 checksums only with such packets too,
    and they leave with wrong ones. One with generic checksums, or with none, is safe: the kernel
    cuts what the device does not.
    """
    try:
        return PLAIN_IPV6_CHECKSUM not in active_features(handle, name)
    except OSError:
        return False
