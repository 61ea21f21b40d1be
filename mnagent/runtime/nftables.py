"""Keeps Mobile IPv6 packets from the kernel, which would answer them with ICMPv6 errors.

An nftables ``netdev`` table with one ingress chain per interface. The table has the ``owner`` flag:
it vanishes with this process, however that ends. A packet socket bound to ETH_P_ALL is served
before this hook, so the engine has seen what is dropped here. Beside the in-kernel engine the
sockets are bound to IPv6 and served after that hook: an ``ip6`` table drops at prerouting then,
which is after them and before anything answers, or puts fragments together. Only packets to our own
addresses are dropped: a home agent forwards other nodes' mobility packets as any router does.

Tunnelled packets are dropped whether or not their tunnel stands right now: those under way while a
tunnel moves or ends are the engine's to count, not the kernel's to answer.

libnftables is used in process: a table of the ``nft`` command would go when that command exits.
"""

from __future__ import annotations

import ctypes
import errno
import logging
from collections.abc import Iterable
from ipaddress import IPv6Address

logger = logging.getLogger(__name__)

LIBRARY = "libnftables.so.1"
PRIORITY = -300
"""Before other ingress chains."""
PREROUTING_PRIORITY = -450
"""Before fragments are put together (-400)."""

_TABLE = """
add table {family} {table} {{ flags owner; }}
add set {family} {table} local {{ type ipv6_addr; }}
add set {family} {table} spis {{ typeof esp spi; }}
add chain {family} {table} shield
add chain {family} {table} optimistic
add rule {family} {table} shield icmpv6 type nd-neighbor-solicit jump optimistic
add rule {family} {table} shield ip6 daddr != @local return
{tunnels}
add rule {family} {table} shield meta l4proto esp esp spi @spis counter drop
add rule {family} {table} shield ip6 nexthdr 60 @nh,368,8 0xc9 counter drop
add rule {family} {table} shield rt type 2 counter drop
add rule {family} {table} shield meta l4proto 135 counter drop
"""
# They are passed with every packet: what carries payload comes first, what is rare last.
_TUNNELS = """
add rule {family} {table} shield meta l4proto 41 ip6 saddr {{ {home_agents} }} counter drop
add rule {family} {table} shield meta l4proto 41 ip6 daddr {{ {home_agents} }} counter drop
"""
_PREROUTING = """
add set ip6 {table} interfaces {{ type ifname; }}
add chain ip6 {table} prerouting {{ type filter hook prerouting priority {priority}; }}
add rule ip6 {table} prerouting iifname @interfaces jump shield
"""
_CHAIN = (
    "add chain netdev {table} {chain} "
    '{{ type filter hook ingress device "{device}" priority {priority}; policy accept; }}\n'
    "add rule netdev {table} {chain} meta protocol ip6 jump shield\n"
)


class NftablesError(OSError):
    """libnftables is missing or refused."""


class _Library:
    """The few calls of libnftables that are needed."""

    def __init__(self) -> None:
        try:
            library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise NftablesError(
                errno.ENOENT, f"{LIBRARY} is missing; install the nftables package"
            ) from error
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        library.nft_ctx_free.argtypes = [ctypes.c_void_p]
        library.nft_ctx_buffer_output.argtypes = [ctypes.c_void_p]
        library.nft_ctx_buffer_error.argtypes = [ctypes.c_void_p]
        library.nft_ctx_get_error_buffer.argtypes = [ctypes.c_void_p]
        library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self._library = library
        self._context: int | None = library.nft_ctx_new(0)
        library.nft_ctx_buffer_output(self._context)
        library.nft_ctx_buffer_error(self._context)

    def run(self, commands: str) -> None:
        """Run a batch: all of it or nothing."""
        if self._library.nft_run_cmd_from_buffer(self._context, commands.encode()) != 0:
            text = self._library.nft_ctx_get_error_buffer(self._context) or b""
            raise NftablesError(errno.EIO, f"nftables refused: {text.decode().strip()}")

    def close(self) -> None:
        """Free the context; its tables vanish."""
        if self._context is not None:
            self._library.nft_ctx_free(self._context)
            self._context = None


class Shield:
    """The table, brought to a desired state."""

    def __init__(
        self, table: str, *, home_agents: frozenset[IPv6Address], behind_sockets: bool = False
    ) -> None:
        """One of ``home_agents`` is an end of every tunnel, whichever end this node is; empty where
        there are no tunnels. ``behind_sockets``: they are bound to IPv6."""
        self._table = table
        self._family = "ip6" if behind_sockets else "netdev"
        self._library = _Library()
        self._interfaces: dict[int, str] = {}
        self._contents: dict[str, frozenset[str]] = {
            name: frozenset() for name in ("local", "spis")
        }
        rules = _TABLE.replace("{tunnels}", _TUNNELS if home_agents else "")
        if behind_sockets:
            rules += _PREROUTING
        self._library.run(
            rules.format(
                family=self._family,
                table=table,
                home_agents=", ".join(str(address) for address in sorted(home_agents)),
                priority=PREROUTING_PRIORITY,
            )
        )

    def close(self) -> None:
        """Take the table away."""
        self._library.close()

    def attach(self, interface: int, name: str) -> None:
        """Guard an interface; doing it again is no error."""
        if interface in self._interfaces:
            return
        if self._family == "ip6":
            self._library.run(f'add element ip6 {self._table} interfaces {{ "{name}" }}\n')
        else:
            self._library.run(
                _CHAIN.format(
                    table=self._table, chain=f"ingress{interface}", device=name, priority=PRIORITY
                )
            )
        self._interfaces[interface] = name

    def rename(self, interface: int, name: str) -> None:
        """An interface that is guarded has this name now; it may be the one it had."""
        if self._family == "ip6" and self._interfaces.get(interface, name) != name:
            self.detach(interface)
            self.attach(interface, name)

    def detach(self, interface: int) -> None:
        """Stop guarding; the kernel has removed the chain already where the interface is gone."""
        name = self._interfaces.pop(interface, None)
        if name is None:
            return
        if self._family == "ip6":
            if name not in self._interfaces.values():  # one that came again is there already
                self._library.run(f'delete element ip6 {self._table} interfaces {{ "{name}" }}\n')
            return
        chain = f"netdev {self._table} ingress{interface}"
        try:
            self._library.run(f"flush chain {chain}\ndelete chain {chain}\n")
        except NftablesError:
            logger.debug("the ingress chain of interface %d was gone", interface)

    def silence(self, addresses: Iterable[IPv6Address]) -> None:
        """Keep the kernel from answering Neighbor Solicitations for these, all there are."""
        chain = f"{self._family} {self._table} optimistic"
        rules = "".join(
            f"add rule {chain} @th,64,128 {int(address):#x} counter drop\n"
            for address in sorted(addresses)
        )
        self._library.run(f"flush chain {chain}\n{rules}")

    def guard(
        self,
        *,
        local_addresses: Iterable[IPv6Address],
        spis: Iterable[int],
    ) -> None:
        """Set our addresses and the inbound associations."""
        wanted = {
            "local": frozenset(str(address) for address in local_addresses),
            "spis": frozenset(str(spi) for spi in spis),
        }
        commands = ""
        for name, elements in wanted.items():
            target = f"{self._family} {self._table} {name}"
            gone = self._contents[name] - elements
            new = elements - self._contents[name]
            if gone:
                commands += f"delete element {target} {{ {', '.join(sorted(gone))} }}\n"
            if new:
                commands += f"add element {target} {{ {', '.join(sorted(new))} }}\n"
        if commands:
            self._library.run(commands)
            self._contents = wanted
