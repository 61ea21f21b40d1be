"""Links between namespaces: virtual Ethernet cables, bridges as links, and a node that is
re-plugged.

The topology of the demo and of the scenarios (`Topology`)::

      correspondent                     2001:db8:c::2, may run mnagent or know nothing of mobility
            |
            | 2001:db8:c::/64
            |
          core -----------------------+----------------------+
            |                         |                      |
            | 2001:db8:f0::/64        | 2001:db8:f1::/64     | 2001:db8:f2::/64
       [ wire, if far ]            [ wire ]               [ wire ]     delay, loss, rate
            |                         |                      |
       home-agent                 router-a               router-b      radvd on each
            |                         |                      |
     ==home==========          ==link-a========       ==link-b========
     2001:db8:1::/64           2001:db8:a::/64        2001:db8:b::/64
            :                         :                      :
            +...... mobile's eth0, plugged into one of the three ......+

The links are bridges in a namespace of their own, ``switch``; a capture on a bridge sees each
frame of its link once. Moving the mobile node takes its port down, puts it into another bridge and
takes it up: the node sees its carrier go and come, as with a cable. With ``virtual_home`` there is
no home link: the home prefix is routed to the home agent, as to a rented server. With ``far_home``
a wire stands between core and home agent too, so that the way by the home agent can be long. There
can be more mobile nodes than one, each with its own namespace and port (`HOME_ADDRESSES`).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Interface, IPv6Network

from mnagent.rig.namespace import RUN_DIRECTORY, Namespace, unique_prefix

HOME = "home"
LINK_A = "link-a"
LINK_B = "link-b"
HOME_WIRE = "home-agent"
"""The wire between core and home agent, where there is one."""

HOME_PREFIX = IPv6Network("2001:db8:1::/64")
HOME_ADDRESS = IPv6Address("2001:db8:1::10")
MOBILE = "mobile"
SECOND_MOBILE = "mobile-2"
HOME_ADDRESSES = {MOBILE: HOME_ADDRESS, SECOND_MOBILE: IPv6Address("2001:db8:1::20")}
"""Of the mobile nodes, by the role of their namespaces."""
HOME_AGENT = IPv6Address("2001:db8:1::1")
CORRESPONDENT = IPv6Address("2001:db8:c::2")
FOREIGN_PREFIXES = {LINK_A: IPv6Network("2001:db8:a::/64"), LINK_B: IPv6Network("2001:db8:b::/64")}

MOBILE_INTERFACE = "eth0"
MOBILE_INDEX = 62
"""Index of the mobile node's interface, at which scenarios find it. See `connect`."""
FIRST_INDEX = 100

ACCESS = "access"
"""A router's interface on its link."""

ACCESS_WIRE = "access-"
"""Before a link's name: the wire between that link and its router."""

ROLES = ("switch", "core", "home-agent", "router-a", "router-b", "correspondent")
"""All but the mobile nodes."""


_indexes = itertools.count(FIRST_INDEX)


@dataclass(frozen=True, slots=True)
class End:
    """One end of a cable: a namespace, the name of the interface in it, and its addresses."""

    namespace: Namespace
    interface: str
    addresses: tuple[IPv6Interface, ...] = ()

    def configure(self) -> None:
        """Give it its addresses (without DAD: the rig numbers them apart) and take it up."""
        self.namespace.complete_checksums(self.interface)
        self.bring_up()

    def link_layer_address(self) -> str:
        """Of its interface."""
        shown = self.namespace.show("-json", "link", "show", "dev", self.interface)
        return str(json.loads(shown)[0]["address"])

    def bring_up(self) -> None:
        """Give it its addresses and take it up."""
        self.namespace.ip(
            *(f"addr add {address} dev {self.interface} nodad" for address in self.addresses),
            f"link set {self.interface} up",
        )


def connect(left: End, right: End) -> None:
    """Lay a cable (veth) between two namespaces and configure both ends. Raises RigError.

    The ends get different interface indexes: with the same one, the kernel takes the pair for one
    device and may take a second to notice its carrier (linkwatch_urgent_event).
    """
    left.namespace.ip(
        f"link add name {left.interface} index {next(_indexes)} type veth"
        f" peer name {right.interface} netns {right.namespace.name}"
    )
    for end in (left, right):
        end.configure()


def add_bridge(namespace: Namespace, name: str) -> None:
    """Make a link: a bridge that forwards at once and floods multicast. Raises RigError."""
    namespace.ip(
        f"link add name {name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
        f"link set {name} up",
    )


@dataclass(frozen=True, slots=True)
class CapturePoint:
    """Where a link can be captured."""

    name: str
    namespace: Namespace
    interface: str


class Topology:
    """The namespaces and cables of the picture above. Needs root; raises RigError."""

    def __init__(
        self,
        *,
        virtual_home: bool = False,
        far_home: bool = False,
        access_wires: bool = False,
        mobiles: tuple[str, ...] = (MOBILE,),
    ) -> None:
        """``access_wires`` puts an impaired wire between each foreign link and its router,
        ``far_home`` one between core and home agent."""
        self.access_wires = access_wires
        self.prefix = unique_prefix()
        self.virtual_home = virtual_home
        self.far_home = far_home
        self.mobiles = mobiles
        self.directory = RUN_DIRECTORY / self.prefix
        self.positions: dict[str, str | None] = dict.fromkeys(mobiles)
        """The link each mobile node is plugged into, or None."""
        self._namespaces: dict[str, Namespace] = {}

    def __getitem__(self, role: str) -> Namespace:
        return self._namespaces[role]

    @property
    def namespaces(self) -> list[Namespace]:
        """All of them."""
        return list(self._namespaces.values())

    @property
    def position(self) -> str | None:
        """The link the first mobile node is plugged into, or None."""
        return self.positions[MOBILE]

    @property
    def wires(self) -> dict[str, tuple[str, str]]:
        """Impaired wires still to be put in: link -> the two ends, ``NAMESPACE:INTERFACE``."""
        core = self["core"].name
        wires = {
            LINK_A: (f"{core}:to-a", f"{self['router-a'].name}:to-core"),
            LINK_B: (f"{core}:to-b", f"{self['router-b'].name}:to-core"),
        }
        if self.far_home:
            wires[HOME_WIRE] = (f"{core}:to-home", f"{self['home-agent'].name}:to-core")
        if self.access_wires:
            switch = self["switch"].name
            for link, router in ((LINK_A, "router-a"), (LINK_B, "router-b")):
                ends = (f"{self[router].name}:{ACCESS}", f"{switch}:{link}-router")
                wires[f"{ACCESS_WIRE}{link}"] = ends
        return wires

    @property
    def capture_points(self) -> list[CapturePoint]:
        """One a link."""
        switch, core = self["switch"], self["core"]
        points = [
            CapturePoint(LINK_A, switch, LINK_A),
            CapturePoint(LINK_B, switch, LINK_B),
            CapturePoint("core-home-agent", core, "to-home"),
            CapturePoint("core-router-a", core, "to-a"),
            CapturePoint("core-router-b", core, "to-b"),
            CapturePoint("core-correspondent", core, "to-peer"),
        ]
        return points if self.virtual_home else [CapturePoint(HOME, switch, HOME), *points]

    def build(self) -> None:
        """Make everything but the impaired wires, whose devices a process makes; then
        `join_wire`."""
        RUN_DIRECTORY.mkdir(mode=0o700, exist_ok=True)
        self.directory.mkdir(mode=0o700)
        for role in (*ROLES, *self.mobiles):
            self._namespaces[role] = Namespace.create(f"{self.prefix}-{role}")
            if role not in self.mobiles:
                # The rig numbers its routers apart: their links can be used as soon as they are up.
                self[role].sysctl(ipv6__conf__all__accept_dad=0, ipv6__conf__default__accept_dad=0)
        self["switch"].sysctl(ipv6__conf__all__disable_ipv6=1)
        for router in ("core", "home-agent", "router-a", "router-b"):
            self[router].sysctl(ipv6__conf__all__forwarding=1)
        for link in (LINK_A, LINK_B) if self.virtual_home else (HOME, LINK_A, LINK_B):
            add_bridge(self["switch"], link)
        self._build_backbone()
        self._build_links()

    def _build_backbone(self) -> None:
        core = self["core"]
        connect(
            End(core, "to-peer", (IPv6Interface("2001:db8:c::1/64"),)),
            End(self["correspondent"], "eth0", (IPv6Interface(f"{CORRESPONDENT}/64"),)),
        )
        self["correspondent"].ip("route add default via 2001:db8:c::1")
        if not self.far_home:
            connect(
                End(core, "to-home", (IPv6Interface("2001:db8:f0::1/64"),)),
                End(self["home-agent"], "to-core", (IPv6Interface("2001:db8:f0::2/64"),)),
            )
            core.ip(f"route add {HOME_PREFIX} via 2001:db8:f0::2")
            self["home-agent"].ip("route add default via 2001:db8:f0::1")
        if self.virtual_home:
            self["home-agent"].ip(f"addr add {HOME_AGENT}/128 dev lo")

    def _build_links(self) -> None:
        switch = self["switch"]
        routers = {LINK_A: ("router-a", 0xA), LINK_B: ("router-b", 0xB)}
        if not self.virtual_home:
            routers[HOME] = ("home-agent", 1)
        for link, (role, subnet) in routers.items():
            if self.access_wires and link != HOME:
                continue
            connect(
                End(self[role], ACCESS, (IPv6Interface(f"2001:db8:{subnet:x}::1/64"),)),
                End(switch, f"{link}-router"),
            )
            switch.ip(f"link set {link}-router master {link}")
        for role in self.mobiles:
            self.lay_mobile_cable(role)

    def lay_mobile_cable(self, role: str = MOBILE) -> None:
        """Give a mobile node its interface, plugged into nothing; anew when it was deleted."""
        switch, mobile = self["switch"], self[role]
        mobile.ip(
            f"link add name {MOBILE_INTERFACE} index {MOBILE_INDEX} type veth"
            f" peer name {role}-port netns {switch.name}"
        )
        for namespace, interface in ((switch, f"{role}-port"), (mobile, MOBILE_INTERFACE)):
            namespace.complete_checksums(interface)
        mobile.ip(f"link set {MOBILE_INTERFACE} up")

    def add_host(self, name: str, link: str, address: IPv6Interface) -> Namespace:
        """One more ordinary host, on a link, with this address alone."""
        host = self._namespaces[name] = Namespace.create(f"{self.prefix}-{name}")
        host.sysctl(ipv6__conf__default__autoconf=0)
        connect(End(host, "eth0", (address,)), End(self["switch"], f"{link}-{name}"))
        self["switch"].ip(f"link set {link}-{name} master {link}")
        return host

    def join_wire(self, link: str) -> None:
        """Configure the two ends of a wire whose devices are there now."""
        if link.startswith(ACCESS_WIRE):
            self._join_access_wire(link.removeprefix(ACCESS_WIRE))
            return
        number, router, to_router = {
            LINK_A: (1, self["router-a"], "to-a"),
            LINK_B: (2, self["router-b"], "to-b"),
            HOME_WIRE: (0, self["home-agent"], "to-home"),
        }[link]
        near, far = f"2001:db8:f{number}::1", f"2001:db8:f{number}::2"
        core = self["core"]
        ends = {
            near: End(core, to_router, (IPv6Interface(f"{near}/64"),)),
            far: End(router, "to-core", (IPv6Interface(f"{far}/64"),)),
        }
        for end in ends.values():
            end.bring_up()
        # The two routers know each other, as in any network that is in use: a handover is not to
        # wait for their neighbour discovery over the slow wire.
        for address, end, other in ((far, ends[near], ends[far]), (near, ends[far], ends[near])):
            neighbour = other.link_layer_address()
            end.namespace.ip(
                f"neigh add {address} lladdr {neighbour} dev {end.interface} nud permanent"
            )
        prefix = HOME_PREFIX if link == HOME_WIRE else FOREIGN_PREFIXES[link]
        core.ip(f"route add {prefix} via {far}")
        router.ip(f"route add default via {near}")

    def _join_access_wire(self, link: str) -> None:
        router, subnet = {LINK_A: ("router-a", 0xA), LINK_B: ("router-b", 0xB)}[link]
        End(self[router], ACCESS, (IPv6Interface(f"2001:db8:{subnet:x}::1/64"),)).bring_up()
        End(self["switch"], f"{link}-router").bring_up()
        self["switch"].ip(f"link set {link}-router master {link}")

    def unplug(self, role: str = MOBILE) -> None:
        """Take a mobile node's carrier away."""
        self["switch"].ip(f"link set {role}-port down")
        self.positions[role] = None

    def plug(self, link: str, role: str = MOBILE) -> None:
        """Put a mobile node into a link: its carrier comes up there."""
        self["switch"].ip(f"link set {role}-port master {link}", f"link set {role}-port up")
        self.positions[role] = link

    def remove(self) -> None:
        """Remove all of it, processes included; can be repeated. Raises RigError at the end for
        what could not be removed."""
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
            for namespace in self._namespaces.values():
                stack.callback(namespace.remove)
            self._namespaces = {}
