"""The TUN device that carries the home address. It is persistent: sockets bound to the home address
live on while the daemon restarts."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct

DEVICE = "/dev/net/tun"
TUNSETIFF = 0x400454CA
TUNSETPERSIST = 0x400454CB
TUNSETOWNER = 0x400454CC
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
IFNAMSIZ = 16


class TunnelDeviceError(OSError):
    """The device could not be had; the message says what to do."""


def open_device(name: str) -> int:
    """Create the device, or adopt it, and return its descriptor (non-blocking, one owner)."""
    if len(name.encode()) >= IFNAMSIZ:
        raise TunnelDeviceError(f"tunnel interface name too long: {name}")
    try:
        descriptor = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise TunnelDeviceError(
            error.errno,
            f"failed to open {DEVICE}: {error.strerror}; load the tun module (modprobe tun) and, "
            "in a container, pass the device in",
        ) from error
    request = struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI | IFF_VNET_HDR)
    try:
        fcntl.ioctl(descriptor, TUNSETIFF, request)
        fcntl.ioctl(descriptor, TUNSETOWNER, os.geteuid())
        fcntl.ioctl(descriptor, TUNSETPERSIST, 1)
    except OSError as error:
        os.close(descriptor)
        raise TunnelDeviceError(
            error.errno,
            f"failed to create the tunnel interface {name}: {error.strerror}; is another program "
            f"using it (ip -d link show {name}), or is CAP_NET_ADMIN missing?",
        ) from error
    return descriptor


class Device:
    """An open TUN device."""

    def __init__(self, name: str, *, stays: bool) -> None:
        """Create it, or adopt it; TunnelDeviceError when that fails."""
        self.descriptor = open_device(name)
        self.interface = socket.if_nametoindex(name)
        self.stays = stays
        """Whether `close` leaves the device, with its addresses, in the kernel."""

    def close(self) -> None:
        """Give the descriptor back; afterwards the device is there or not, as wanted."""
        with contextlib.suppress(OSError):  # somebody may have removed it
            fcntl.ioctl(self.descriptor, TUNSETPERSIST, int(self.stays))
        os.close(self.descriptor)
