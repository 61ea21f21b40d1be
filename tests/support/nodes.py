"""Nodes of a `World`: a small IPv6 host, a router, and a host with an agent and its data path.

The hosts resolve neighbours, forward, answer echo requests and take datagrams; no more. They know
nothing of mobility: what an `AgentNode` does beyond that is what its agent's actions say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv6Address, IPv6Network
from types import UnionType

from mnagent.agent.agent import Agent
from mnagent.core.actions import (
    Action,
    AddAddress,
    AddDefaultRouter,
    Finish,
    HoldTunnel,
    InterceptHomeAddress,
    JoinAnycast,
    JoinGroup,
    JournalRecord,
    LeaveAnycast,
    LeaveGroup,
    LeaveHomeLink,
    PersistRecord,
    RemoveAddress,
    RemoveDefaultRouter,
    RemoveDirectPath,
    RemoveHomeAddress,
    RemovePeerBinding,
    RemoveTunnel,
    ReportEvent,
    SendDhcpMessage,
    SendPacket,
    SetDirectPath,
    SetHomeAddress,
    SetPeerBinding,
    SetTunnel,
    StopIntercepting,
    TunnelEnd,
    UseHomeLink,
)
from mnagent.core.events import (
    AddressAppeared,
    AddressVanished,
    DatagramReceived,
    DefaultRouterAppeared,
    DhcpMessageReceived,
    Event,
    LinkDown,
    LinkUp,
    ShutdownRequested,
    TrafficSeen,
    TunnelActivity,
)
from mnagent.core.records import KeptRecord
from mnagent.ipsec.association import SecurityAssociationDatabase
from mnagent.ipsec.esp_reference import EspError, ReferenceEsp, protect_tunnel
from mnagent.ipsec.keys import KeySet
from mnagent.wire.buffer import DecodeError
from mnagent.wire.icmp6 import EchoReply, EchoRequest
from mnagent.wire.ipv6 import (
    DestinationOptions,
    ExtensionHeader,
    HomeAddressOption,
    IPv6Packet,
    RawPayload,
    Type2RoutingHeader,
)
from mnagent.wire.mobility import HomeTest, HomeTestInit, MobilityMessage
from mnagent.wire.ndisc import (
    NeighborAdvertisement,
    NeighborSolicitation,
    PrefixInformation,
    RouterAdvertisement,
    RouterSolicitation,
    SourceLinkLayerAddress,
    TargetLinkLayerAddress,
)
from mnagent.wire.packet import decode_packet, encode_packet
from tests.support.dhcp_server import ScriptedServer
from tests.support.packets import (
    datagram,
    datagram_content,
    datagram_port,
    router_advertisement,
)
from tests.support.world import Frame, Link, Port, World

UNSPECIFIED = IPv6Address("::")
ALL_NODES = IPv6Address("ff02::1")
ALL_DHCP_SERVERS = IPv6Address("ff02::1:2")
DHCP_CLIENT_PORT, DHCP_SERVER_PORT = 546, 547
HELD_PACKETS = 64
TRAFFIC_INTERVAL = 0.5
"""Seconds between two reports of one pair's traffic; the first comes at once."""
PROTOCOL_IPV6, PROTOCOL_ROUTING, PROTOCOL_ESP, PROTOCOL_ICMPV6 = 41, 43, 50, 58
PROTOCOL_DESTINATION_OPTIONS, PROTOCOL_MOBILITY = 60, 135
MOBILITY_PROTOCOLS = {
    PROTOCOL_IPV6,
    PROTOCOL_ROUTING,
    PROTOCOL_ESP,
    PROTOCOL_DESTINATION_OPTIONS,
    PROTOCOL_MOBILITY,
}


def solicited_node(address: IPv6Address) -> IPv6Address:
    """The group in which neighbours ask about an address."""
    return IPv6Address(int(IPv6Address("ff02::1:ff00:0")) | int(address) & 0xFFFFFF)


def multicast_mac(group: IPv6Address) -> bytes:
    """RFC 2464 7."""
    return b"\x33\x33" + group.packed[12:]


def link_local_of(mac: bytes) -> IPv6Address:
    """The address a kernel makes from its link-layer address."""
    identifier = bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:]
    return IPv6Address(b"\xfe\x80" + bytes(6) + identifier)


def source_of(data: bytes) -> IPv6Address:
    """Source address of an encoded packet."""
    return IPv6Address(data[8:24])


def destination_of(data: bytes) -> IPv6Address:
    """Destination address of an encoded packet."""
    return IPv6Address(data[24:40])


@dataclass(frozen=True, slots=True)
class Route:
    """Where packets to a prefix go; ``port`` None is the tunnel device."""

    prefix: IPv6Network
    port: Port | None
    via: IPv6Address | None = None


def _has_payload(data: bytes, kind: type[object] | UnionType) -> bool:
    """Whether an encoded packet carries such a message."""
    try:
        return isinstance(decode_packet(data).payload, kind)
    except DecodeError:
        return False


def _protocol_and_port(data: bytes, *, at_destination: bool) -> tuple[int | None, int | None]:
    """Upper-layer protocol and the peer's port of an encoded packet."""
    payload = decode_packet(data).payload
    if not isinstance(payload, RawPayload):
        return None, None
    ports = payload.data[2:4] if at_destination else payload.data[:2]
    return payload.next_header, int.from_bytes(ports, "big")


class Host:
    """A node with ports, addresses, routes and a neighbour cache."""

    def __init__(self, world: World, name: str, *, forwards: bool = False) -> None:
        self.world = world
        self.name = name
        self.forwards = forwards
        self.ports: list[Port] = []
        self.addresses: dict[int, dict[IPv6Address, int]] = {}
        self.groups: dict[int, set[IPv6Address]] = {}
        self.anycast: dict[int | None, set[IPv6Address]] = {}
        self.routes: list[Route] = []
        self.neighbors: dict[tuple[int, IPv6Address], bytes] = {}
        self.delivered: list[tuple[float, IPv6Packet]] = []
        """Packets for upper layers, and when."""
        self.unroutable = 0
        self._waiting: dict[tuple[int, IPv6Address], deque[bytes]] = {}

    # Configuration.

    def add_port(self, link: Link | None = None, *addresses: str) -> Port:
        """Add an interface; addresses are written with their prefix length."""
        index = len(self.ports) + 2
        port = Port(self, index, f"eth{len(self.ports)}", self.world.new_mac())
        self.ports.append(port)
        self.addresses[index] = {link_local_of(port.mac): 64}
        self.groups[index] = set()
        for text in addresses:
            address, length = text.split("/")
            self.addresses[index][IPv6Address(address)] = int(length)
        if link is not None:
            link.attach(port)
        return port

    def add_route(self, prefix: str, port: Port, via: str | IPv6Address | None = None) -> None:
        """Add a static route."""
        gateway = None if via is None else IPv6Address(via)
        self.routes.append(Route(IPv6Network(prefix), port, gateway))

    def link_local(self, port: Port) -> IPv6Address:
        """The link-local address of a port."""
        return link_local_of(port.mac)

    def owns(self, address: IPv6Address) -> bool:
        """Whether the address is one of this node's."""
        own = (*self.addresses.values(), *self.anycast.values())
        return any(address in addresses for addresses in own)

    # Sending.

    def send(self, packet: IPv6Packet) -> None:
        """Send a packet of this node's own."""
        self.route(encode_packet(packet))

    def ping(self, source: IPv6Address, destination: IPv6Address, sequence: int = 1) -> None:
        """Send an echo request."""
        self.send(IPv6Packet(source, destination, EchoRequest(1, sequence, b"ping")))

    def route(self, data: bytes) -> None:
        """Send an encoded packet the way the routes say."""
        route = self.find_route(source_of(data), destination_of(data))
        if route is None or route.port is None:
            self.unroutable += 1
            return
        self.output(route.port, route.via or destination_of(data), data)

    def find_route(self, source: IPv6Address, destination: IPv6Address) -> Route | None:
        """Connected prefixes first, then the longest route."""
        for port in self.ports:
            for address, length in self.addresses[port.index].items():
                if destination in IPv6Network((address, length), strict=False) and port.link:
                    return Route(IPv6Network((address, length), strict=False), port)
        candidates = [route for route in self.routes if destination in route.prefix]
        return max(candidates, key=lambda route: route.prefix.prefixlen, default=None)

    def output(self, port: Port, next_hop: IPv6Address, data: bytes) -> None:
        """Resolve the next hop and send, or wait for the answer."""
        if next_hop.is_multicast:
            port.send(multicast_mac(next_hop), data)
            return
        mac = self.neighbors.get((port.index, next_hop))
        if mac is not None:
            port.send(mac, data)
            return
        queue = self._waiting.setdefault((port.index, next_hop), deque(maxlen=16))
        queue.append(data)
        if len(queue) == 1:
            self._solicit(port, next_hop, tries=3)

    def _solicit(self, port: Port, target: IPv6Address, tries: int) -> None:
        if (port.index, target) not in self._waiting:
            return
        if not tries:
            del self._waiting[(port.index, target)]
            return
        source = self.link_local(port)
        message = NeighborSolicitation(target, options=(SourceLinkLayerAddress(port.mac),))
        group = solicited_node(target)
        data = encode_packet(IPv6Packet(source, group, message, hop_limit=255))
        port.send(multicast_mac(group), data)
        self.world.after(1.0, lambda: self._solicit(port, target, tries - 1))

    def learn(self, port: Port, address: IPv6Address, mac: bytes) -> None:
        """Enter a neighbour and send what waited for it."""
        self.neighbors[(port.index, address)] = mac
        for data in self._waiting.pop((port.index, address), ()):
            port.send(mac, data)

    # Receiving.

    def receive(self, port: Port, frame: Frame) -> None:
        """A frame arrived."""
        self.take_in(port, frame.data)

    def take_in(self, port: Port | None, data: bytes) -> None:
        """What a kernel does with a packet: for us, to be forwarded, or neither."""
        destination = destination_of(data)
        if destination.is_multicast or self.owns(destination):
            self.deliver(port, data)
        elif self.forwards and data[7] > 1:
            self.route(data[:7] + bytes((data[7] - 1,)) + data[8:])

    def deliver(self, port: Port | None, data: bytes) -> None:
        """A packet for this node."""
        try:
            packet = decode_packet(data)
        except DecodeError:
            return
        match packet.payload:
            case NeighborSolicitation() as solicitation:
                if port is not None:
                    self._on_solicitation(port, packet, solicitation)
            case NeighborAdvertisement() as advertisement:
                if port is not None:
                    self._on_advertisement(port, advertisement)
            case EchoRequest(identifier, sequence, content):
                self.delivered.append((self.world.now, packet))
                reply = EchoReply(identifier, sequence, content)
                self.send(IPv6Packet(packet.destination, packet.source, reply))
            case _:
                self.delivered.append((self.world.now, packet))

    def _on_solicitation(
        self, port: Port, packet: IPv6Packet, message: NeighborSolicitation
    ) -> None:
        is_anycast = message.target in self.anycast.get(port.index, ())
        if message.target not in self.addresses[port.index] and not is_anycast:
            return
        is_probe = packet.source == UNSPECIFIED
        for option in message.options:
            if isinstance(option, SourceLinkLayerAddress) and not is_probe:
                self.learn(port, packet.source, option.address)
        answer = NeighborAdvertisement(
            message.target,
            router=self.forwards,
            solicited=not is_probe,
            override=not is_anycast,
            options=(TargetLinkLayerAddress(port.mac),),
        )
        destination = ALL_NODES if is_probe else packet.source
        source = self.link_local(port) if is_anycast else message.target
        packet = IPv6Packet(source, destination, answer, hop_limit=255)
        self.output(port, destination, encode_packet(packet))

    def _on_advertisement(self, port: Port, message: NeighborAdvertisement) -> None:
        key = (port.index, message.target)
        if key not in self.neighbors and key not in self._waiting:
            return
        if key in self.neighbors and not message.override:
            return
        for option in message.options:
            if isinstance(option, TargetLinkLayerAddress):
                self.learn(port, message.target, option.address)

    # For tests.

    def received_data(self) -> list[bytes]:
        """What datagrams brought, in order."""
        contents = (datagram_content(packet) for _, packet in self.delivered)
        return [content for content in contents if content is not None]

    def echo_replies(self) -> list[int]:
        """Sequence numbers of the echo replies that came."""
        return [
            packet.payload.sequence
            for _, packet in self.delivered
            if isinstance(packet.payload, EchoReply)
        ]


class Router(Host):
    """Forwards, and advertises prefixes on some of its ports."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name, forwards=True)
        self.advertised: dict[int, tuple[str, ...]] = {}
        self.interval = 30.0
        """Seconds between unsolicited advertisements."""
        self.with_router_addresses = False
        self.valid_lifetime = 3600.0
        self.preferred_lifetime = 1800.0
        self.managed = False
        """Whether addresses come from DHCPv6 alone."""

    def advertise(self, port: Port, *prefixes: str) -> None:
        """Answer solicitations on this port, and speak up from time to time."""
        self.advertised[port.index] = prefixes
        self.world.after(self.interval, lambda: self._periodic(port))

    def deliver(self, port: Port | None, data: bytes) -> None:
        super().deliver(port, data)
        if port is None or port.index not in self.advertised or data[6] != PROTOCOL_ICMPV6:
            return
        try:
            is_solicitation = isinstance(decode_packet(data).payload, RouterSolicitation)
        except DecodeError:
            return
        if is_solicitation:
            self.world.after(0.005, lambda: self.send_advertisement(port))

    def send_advertisement(self, port: Port) -> None:
        """Multicast one now."""
        addresses = [a for a in self.addresses[port.index] if not a.is_link_local]
        packet = router_advertisement(
            self.link_local(port),
            *self.advertised[port.index],
            mac=port.mac,
            valid=self.valid_lifetime,
            preferred=self.preferred_lifetime,
            addresses=tuple(map(str, addresses)) if self.with_router_addresses else (),
            managed=self.managed,
        )
        port.send(multicast_mac(ALL_NODES), encode_packet(packet))

    def _periodic(self, port: Port) -> None:
        self.send_advertisement(port)
        self.world.after(self.interval, lambda: self._periodic(port))


class DhcpServerNode(Host):
    """A host with a DHCPv6 server on its first port."""

    def __init__(self, world: World, name: str, link: Link, server: ScriptedServer) -> None:
        super().__init__(world, name)
        self.server = server
        self.add_port(link)

    def deliver(self, port: Port | None, data: bytes) -> None:
        super().deliver(port, data)
        packet = decode_packet(data)
        if port is None or datagram_port(packet) != DHCP_SERVER_PORT:
            return
        answer = self.server.answer(datagram_content(packet) or b"")
        if answer is not None:
            ports = (DHCP_SERVER_PORT, DHCP_CLIENT_PORT)
            reply = datagram(self.link_local(port), packet.source, answer, ports=ports)
            self.output(port, packet.source, encode_packet(reply))


@dataclass(slots=True)
class _Traffic:
    """Packets of one pair that were not reported yet."""

    packets_in: int = 0
    packets_out: int = 0
    protocol: int | None = None
    port: int | None = None
    direct: bool = False
    reported_at: float | None = None
    is_due: bool = False


@dataclass(slots=True)
class _Tunnel:
    action: SetTunnel | None
    """None while packets are held."""
    held: deque[bytes]


class AgentNode(Router):
    """A router or host with an agent: its kernel, its engine and its daemon in one."""

    def __init__(
        self,
        world: World,
        name: str,
        *,
        keys: Sequence[KeySet],
        home_address: IPv6Address | None = None,
    ) -> None:
        """``home_address`` makes it a mobile node; without one it is a home agent and forwards."""
        super().__init__(world, name)
        self.forwards = home_address is None
        self.home_address = home_address
        self.home_addresses = {home_address: True} if home_address is not None else {}
        """Of a mobile node; False for a deprecated one."""
        self.agent: Agent | None = None
        self.esp = ReferenceEsp(
            SecurityAssociationDatabase(a for key_set in keys for a in key_set.associations)
        )
        self.actions: list[tuple[float, Action]] = []
        self.records: dict[str, str] = {}
        self.journal: dict[str, KeptRecord] = {}
        self.is_finished = False
        self.verdicts: dict[str, int] = {}
        self.handed_up: list[DatagramReceived] = []
        self.refused_actions: Callable[[Action], bool] = lambda _: False
        self.configures_itself = False
        """Whether its kernel makes addresses and default routes from advertisements."""
        self._tunnels: dict[IPv6Address, _Tunnel] = {}
        self._direct: dict[tuple[IPv6Address, IPv6Address], SetDirectPath] = {}
        self._peers: dict[IPv6Address, IPv6Address] = {}
        self._traffic: dict[tuple[IPv6Address, IPv6Address], _Traffic] = {}
        self._home_links: dict[IPv6Address, UseHomeLink] = {}
        self._generation = 0

    # The daemon.

    def start(self, agent: Agent) -> None:
        """Run an agent, in place of an earlier one; links that are up are announced."""
        self.agent = agent
        self.is_finished = False
        for port in self.ports:
            if port.link is not None:
                self._announce(port)

    def stop(self) -> None:
        """Ask the agent to stop."""
        self.tell(ShutdownRequested())

    def kill(self) -> None:
        """The daemon dies without a word. Its tunnels go with it, its addresses stay."""
        self.agent = None
        self._tunnels.clear()
        self._direct.clear()
        self._peers.clear()

    def tell(self, event: Event) -> None:
        """Hand an event to the agent and do what it says."""
        if self.agent is not None and not self.is_finished:
            self._execute(self.agent.handle(event, self.world.now))

    def carry_out(self, actions: list[Action]) -> None:
        """Do what the agent answered to somebody in charge, as the daemon does."""
        self._execute(actions)
        self._set_timer()

    def attach(self, port: Port, link: Link, *, carrier_lost: bool = True) -> None:
        """Move a port to a link. Without loss of carrier it is a roam: only LinkUp is told."""
        if port.link is not None and carrier_lost:
            self.detach(port)
        link.attach(port)
        self._announce(port)

    def detach(self, port: Port) -> None:
        """Unplug a port."""
        if port.link is not None:
            port.link.detach(port)
        if self.configures_itself:
            own = self.link_local(port)
            self.addresses[port.index] = {own: 64}
            self.routes = [route for route in self.routes if route.port is not port]
        self.neighbors = {k: v for k, v in self.neighbors.items() if k[0] != port.index}
        self.tell(LinkDown(interface=port.index))

    def _announce(self, port: Port) -> None:
        self.neighbors = {k: v for k, v in self.neighbors.items() if k[0] != port.index}
        self.tell(LinkUp(interface=port.index, name=port.name, link_layer_address=port.mac))
        self._tell_link_local(port, tentative=True)
        self.world.after(1.0, lambda: self._tell_link_local(port, tentative=False))

    def _tell_link_local(self, port: Port, *, tentative: bool) -> None:
        if port.link is not None:
            address = self.link_local(port)
            self.tell(
                AddressAppeared(
                    interface=port.index, address=address, prefix_length=64, tentative=tentative
                )
            )

    def watch_tunnel(self, *, interval: float = 1.0) -> None:
        """Tell the agent what its tunnel carried, again and again, as the daemon does."""
        if self.agent is not None and not self.is_finished:
            assert self.home_address is not None
            activity = TunnelActivity(
                home_address=self.home_address,
                packets_out=self.verdicts.get("encapsulated", 0),
                packets_in=self.verdicts.get("decapsulated", 0),
            )
            self.tell(activity)
            self.world.after(interval, lambda: self.watch_tunnel(interval=interval))

    def _set_timer(self) -> None:
        self._generation += 1
        generation = self._generation
        deadline = None if self.agent is None else self.agent.next_deadline()
        if deadline is not None:
            self.world.at(deadline, lambda: self._on_timer(generation))

    def _on_timer(self, generation: int) -> None:
        if generation == self._generation and self.agent is not None and not self.is_finished:
            self._execute(self.agent.handle_timer(self.world.now))

    def _execute(self, actions: list[Action]) -> None:
        for action in actions:
            self.actions.append((self.world.now, action))
            if not self.refused_actions(action):
                self._do(action)
        self._set_timer()

    # Actions.

    def _do(self, action: Action) -> None:
        match action:
            case SendPacket():
                self._send_control(action)
            case SendDhcpMessage():
                self._send_dhcp(action)
            case AddAddress():
                is_new = action.address not in self.addresses[action.interface]
                self.addresses[action.interface][action.address] = action.prefix_length
                if is_new:
                    self._tell_address(action)
            case RemoveAddress():
                if self.addresses[action.interface].pop(action.address, None) is not None:
                    gone = AddressVanished(interface=action.interface, address=action.address)
                    self.world.after(0.0, lambda: self.tell(gone))
            case AddDefaultRouter() | RemoveDefaultRouter():
                self._set_default_router(action)
            case JoinGroup():
                self.groups[action.interface].add(action.group)
            case LeaveGroup():
                self.groups[action.interface].discard(action.group)
            case JoinAnycast():
                self.anycast.setdefault(action.interface, set()).add(action.address)
            case LeaveAnycast():
                self.anycast.get(action.interface, set()).discard(action.address)
            case PersistRecord():
                self.records[action.key] = action.value
            case JournalRecord(key=key, value=None):
                self.journal.pop(key, None)
            case JournalRecord(key=key, value=str() as value):
                self.journal[key] = KeptRecord(value=value, kept_at=self.world.now)
            case Finish():
                self.is_finished = True
            case ReportEvent():
                pass
            case _:
                self._do_mobility(action)

    def _do_mobility(self, action: Action) -> None:
        match action:
            case SetTunnel():
                held = self._tunnels.pop(action.home_address, None)
                self._tunnels[action.home_address] = _Tunnel(action, deque())
                for data in held.held if held is not None else ():
                    self._encapsulate(action.home_address, data)
            case HoldTunnel():
                queue: deque[bytes] = deque(maxlen=HELD_PACKETS)
                self._tunnels[action.home_address] = _Tunnel(None, queue)
            case RemoveTunnel():
                tunnel = self._tunnels.pop(action.home_address, None)
                self._count("held-dropped", 0 if tunnel is None else len(tunnel.held))
            case UseHomeLink():
                self._home_links[action.home_address] = action
                self.addresses[action.interface][action.home_address] = 128
            case LeaveHomeLink():
                link = self._home_links.pop(action.home_address, None)
                if link is not None:
                    self.addresses[link.interface].pop(action.home_address, None)
            case SetHomeAddress():
                if self.home_address is not None:
                    self.home_addresses[action.home_address] = action.preferred
            case RemoveHomeAddress():
                self.home_addresses.pop(action.home_address, None)
            case InterceptHomeAddress():
                host_route = IPv6Network((action.home_address, 128))
                self.routes.append(Route(host_route, None))
            case SetDirectPath():
                self._direct[(action.home_address, action.correspondent)] = action
            case RemoveDirectPath():
                self._direct.pop((action.home_address, action.correspondent), None)
            case SetPeerBinding():
                self._peers[action.home_address] = action.care_of_address
            case RemovePeerBinding():
                self._peers.pop(action.home_address, None)
            case StopIntercepting():
                network = IPv6Network((action.home_address, 128))
                self.routes = [route for route in self.routes if route.prefix != network]

    def _tell_address(self, action: AddAddress) -> None:
        appeared = AddressAppeared(
            interface=action.interface,
            address=action.address,
            prefix_length=action.prefix_length,
            valid_lifetime=action.valid_lifetime,
            preferred_lifetime=action.preferred_lifetime,
        )
        self.world.after(0.0, lambda: self.tell(appeared))

    def _set_default_router(self, action: AddDefaultRouter | RemoveDefaultRouter) -> None:
        port = self._port(action.interface)
        route = Route(IPv6Network("::/0"), port, action.router)
        if isinstance(action, RemoveDefaultRouter):
            self.routes = [each for each in self.routes if each != route]
        elif route not in self.routes:
            self.routes.append(route)
        if isinstance(action, AddDefaultRouter) and action.link_layer_address:
            self.learn(port, action.router, action.link_layer_address)

    def _port(self, index: int) -> Port:
        return self.ports[index - 2]

    def _send_control(self, action: SendPacket) -> None:
        data = encode_packet(action.packet)
        if action.protect_with is not None:
            data = self.esp.protect(action.protect_with, data)
        if action.link_layer_destination is not None:
            assert action.interface is not None
            self._port(action.interface).send(action.link_layer_destination, data)
        elif action.interface is None and action.packet.source in self.home_addresses:
            self.route(data)
        elif action.interface is None:
            self.send_natively(data)
        elif action.packet.destination.is_multicast or action.packet.destination.is_link_local:
            self.output(self._port(action.interface), action.packet.destination, data)
        else:
            self.send_natively(data, port=self._port(action.interface))

    def _send_dhcp(self, action: SendDhcpMessage) -> None:
        port = self._port(action.interface)
        ports = (DHCP_CLIENT_PORT, DHCP_SERVER_PORT)
        packet = datagram(self.link_local(port), ALL_DHCP_SERVERS, action.data, ports=ports)
        self.output(port, ALL_DHCP_SERVERS, encode_packet(packet))

    def deliver(self, port: Port | None, data: bytes) -> None:
        super().deliver(port, data)
        if port is None or destination_of(data) != self.link_local(port):
            return
        packet = decode_packet(data)
        content = datagram_content(packet)
        if content is not None and datagram_port(packet) == DHCP_CLIENT_PORT:
            self.tell(DhcpMessageReceived(data=content, interface=port.index, source=packet.source))

    def send_natively(self, data: bytes, *, port: Port | None = None) -> None:
        """Send around the tunnel device, by one port if given."""
        route = self._native_route(destination_of(data), port)
        if route is None or route.port is None or route.port.link is None:
            self._count("no-route")
            return
        self.output(route.port, route.via or destination_of(data), data)

    def _native_route(self, destination: IPv6Address, port: Port | None) -> Route | None:
        route = super().find_route(UNSPECIFIED, destination)
        if route is not None and route.port is not None and port in (None, route.port):
            return route
        candidates = [
            route
            for route in self.routes
            if destination in route.prefix and route.port is not None and port in (None, route.port)
        ]
        return max(candidates, key=lambda route: route.prefix.prefixlen, default=None)

    # The data path.

    def owns(self, address: IPv6Address) -> bool:
        return address in self.home_addresses or super().owns(address)

    def route(self, data: bytes) -> None:
        """Packets of the home address go to the tunnel device unless at home."""
        data, direct = self._optimize(data)
        if direct is not None:
            port = None if direct.interface is None else self._port(direct.interface)
            self.send_natively(data, port=port)
            return
        if source_of(data) in self.home_addresses:
            link = self._home_links.get(source_of(data))
            if link is None:
                self._encapsulate(source_of(data), data)
                return
            self._send_from_home(link, data)
            return
        route = self.find_route(source_of(data), destination_of(data))
        if route is not None and route.port is None:
            self._encapsulate(destination_of(data), data)
            return
        super().route(data)

    def find_route(self, source: IPv6Address, destination: IPv6Address) -> Route | None:
        for route in self.routes:
            if route.port is None and destination in route.prefix:
                return route
        return super().find_route(source, destination)

    def _send_from_home(self, home: UseHomeLink, data: bytes) -> None:
        destination = destination_of(data)
        prefix = IPv6Network((home.home_address, home.prefix_length), strict=False)
        next_hop = destination if destination in prefix else home.router
        self.output(self._port(home.interface), next_hop, data)

    def _encapsulate(self, home_address: IPv6Address, data: bytes) -> None:
        tunnel = self._tunnels.get(home_address)
        if self.home_address is not None:
            self._note_traffic(data, is_out=True, direct=False)
        if tunnel is None:
            self._count("no-tunnel")
        elif tunnel.action is None:
            if len(tunnel.held) == HELD_PACKETS:
                self._count("held-dropped")
            tunnel.held.append(data)
        else:
            self._send_through(tunnel.action, data)

    def _send_through(self, tunnel: SetTunnel, data: bytes) -> None:
        self._count("encapsulated")
        kind = HomeTestInit if tunnel.end is TunnelEnd.MOBILE_NODE else HomeTest
        is_test = _has_payload(data, kind) and tunnel.home_test_outbound_spi is not None
        spi = tunnel.home_test_outbound_spi if is_test else tunnel.outbound_spi
        if spi is None:
            packet = IPv6Packet(tunnel.local, tunnel.remote, decode_packet(data))
            outer = encode_packet(packet)
        else:
            association = self.esp.database.outbound(spi)
            sequence = self.esp.database.counter(spi).take()
            outer = protect_tunnel(
                association, sequence, data, source=tunnel.local, destination=tunnel.remote
            )
        port = None if tunnel.interface is None else self._port(tunnel.interface)
        self.send_natively(outer, port=port)

    def receive(self, port: Port, frame: Frame) -> None:
        """The engine sees it first; neighbour discovery is copied to the agent."""
        data = frame.data
        destination = destination_of(data)
        if destination.is_multicast and not self._is_member(port, destination):
            return
        if data[6] == PROTOCOL_ICMPV6 and len(data) > 40 and 144 <= data[40] <= 145:
            self._hand_up(data, port, frame.source)
        if data[6] == PROTOCOL_ICMPV6 and len(data) > 40 and 133 <= data[40] <= 137:
            self._hand_up(data, port, frame.source)
            if self.configures_itself:
                self._autoconfigure(port, data)
        if data[6] in MOBILITY_PROTOCOLS and self.owns(destination):
            self._on_mobility_packet(data, port, frame.source)
        elif self._is_icmp_error(data) and self.owns(destination):
            self._hand_up(data, port, frame.source)
        else:
            self.take_in(port, data)

    def _autoconfigure(self, port: Port, data: bytes) -> None:
        """What a kernel with accept_ra does; its detection takes a second."""
        packet = decode_packet(data)
        if not isinstance(packet.payload, RouterAdvertisement):
            return
        route = Route(IPv6Network("::/0"), port, packet.source)
        self.routes = [r for r in self.routes if r.port is not port] + [route]
        self.tell(DefaultRouterAppeared(interface=port.index, router=packet.source))
        for option in packet.payload.options:
            if isinstance(option, PrefixInformation):
                own = int(self.link_local(port)) & (2**64 - 1)
                address = IPv6Address(int(option.prefix.network_address) | own)
                is_new = address not in self.addresses[port.index]
                self.addresses[port.index][address] = 64
                self._tell_global(port, address, tentative=is_new)
                self.world.after(1.0, partial(self._tell_global, port, address, tentative=False))

    def _tell_global(self, port: Port, address: IPv6Address, *, tentative: bool) -> None:
        if port.link is not None and address in self.addresses[port.index]:
            self.tell(
                AddressAppeared(
                    interface=port.index, address=address, prefix_length=64, tentative=tentative
                )
            )

    def _is_icmp_error(self, data: bytes) -> bool:
        return data[6] == PROTOCOL_ICMPV6 and len(data) > 40 and data[40] < 128

    def _is_member(self, port: Port, group: IPv6Address) -> bool:
        addresses = (*self.addresses[port.index], *self.anycast.get(port.index, ()))
        own = {solicited_node(address) for address in addresses}
        well_known = {ALL_NODES, IPv6Address("ff02::2")}
        return group in own | self.groups[port.index] | well_known

    def _on_mobility_packet(self, data: bytes, port: Port, link_layer_source: bytes) -> None:
        protected_by = None
        if self._has_esp(data):
            try:
                data, protected_by = self.esp.unprotect(data)
            except EspError as error:
                self._count(f"esp-{error.failure.value}")
                return
        inner = self._inner_packet(data)
        if inner is None:
            restored = self._restore(data) if protected_by is None else None
            if restored is not None:
                self._note_traffic(restored, is_out=False, direct=True)
                self.take_in(None, restored)
                return
            self._hand_up(data, port, link_layer_source, protected_by=protected_by)
        else:
            self._decapsulate(data, inner, port, link_layer_source, protected_by)

    def _has_esp(self, data: bytes) -> bool:
        protocol, offset = data[6], 40
        while protocol in (PROTOCOL_DESTINATION_OPTIONS, PROTOCOL_ROUTING):
            if offset + 8 > len(data):
                return False
            protocol, offset = data[offset], offset + 8 * (data[offset + 1] + 1)
        return protocol == PROTOCOL_ESP

    def _inner_packet(self, data: bytes) -> bytes | None:
        return data[40:] if data[6] == PROTOCOL_IPV6 and len(data) >= 80 else None

    def _decapsulate(
        self,
        data: bytes,
        inner: bytes,
        port: Port,
        link_layer_source: bytes,
        protected_by: int | None,
    ) -> None:
        """RFC 6275 10.4.5 and 11.3.3: the outer and the inner address must fit the tunnel."""
        is_mobile_node = self.home_address is not None
        key = destination_of(inner) if is_mobile_node else source_of(inner)
        tunnel = self._tunnels.get(key)
        if tunnel is None or tunnel.action is None:
            self._count("no-binding")
            self._hand_up(inner, port, link_layer_source, tunnel_source=source_of(data))
            return
        action = tunnel.action
        assert (action.end is TunnelEnd.MOBILE_NODE) == is_mobile_node
        kind = HomeTest if is_mobile_node else HomeTestInit
        is_test = _has_payload(inner, kind) and action.home_test_inbound_spi is not None
        expected = action.home_test_inbound_spi if is_test else action.inbound_spi
        if source_of(data) != action.remote and expected is None:
            self._count("wrong-tunnel-source")
        elif protected_by != expected:
            self._count("not-protected")
        elif is_mobile_node and _has_payload(inner, MobilityMessage):
            self._hand_up(
                inner,
                port,
                link_layer_source,
                protected_by=protected_by,
                tunnel_source=source_of(data),
            )
        else:
            if is_mobile_node:
                inner = self._restore(inner) or inner
                self._note_traffic(inner, is_out=False, direct=False)
            self._count("decapsulated")
            self.take_in(None, inner)

    def _hand_up(
        self,
        data: bytes,
        port: Port,
        link_layer_source: bytes,
        *,
        protected_by: int | None = None,
        tunnel_source: IPv6Address | None = None,
    ) -> None:
        event = DatagramReceived(
            data=data,
            interface=port.index,
            link_layer_source=link_layer_source,
            protected_by=protected_by,
            tunnel_source=tunnel_source,
        )
        self.handed_up.append(event)
        self.tell(event)

    # Route optimization.

    def _optimize(self, data: bytes) -> tuple[bytes, SetDirectPath | None]:
        """Type 2 routing header for a peer with a binding, Home Address option on a direct path.

        Mobility messages get neither from the engine (RFC 6275 6.1).
        """
        direct = self._direct.get((source_of(data), destination_of(data)))
        peer_address = self._peers.get(destination_of(data))
        if (direct is None and peer_address is None) or _has_payload(data, MobilityMessage):
            return data, None
        if direct is not None or self.home_address is None:
            self._note_traffic(data, is_out=True, direct=True)
        packet = decode_packet(data)
        headers: tuple[ExtensionHeader, ...] = packet.extension_headers
        if direct is not None:
            headers = (DestinationOptions((HomeAddressOption(packet.source),)), *headers)
        if peer_address is not None:
            headers = (Type2RoutingHeader(packet.destination), *headers)
        changed = replace(
            packet,
            source=packet.source if direct is None else direct.care_of_address,
            destination=peer_address or packet.destination,
            extension_headers=headers,
        )
        self._count("optimized")
        return encode_packet(changed), direct

    def _restore(self, data: bytes) -> bytes | None:
        """The packet as upper layers see it, or None for one that the agent is to see."""
        try:
            packet = decode_packet(data)
        except DecodeError:
            return None
        header, option = packet.type2_routing_header, packet.home_address_option
        if isinstance(packet.payload, MobilityMessage) or (header is None and option is None):
            return None
        if header is not None and header.home_address not in self.home_addresses:
            return None
        if option is not None and self._peers.get(option) != packet.source:
            return None
        self._count("restored")
        source, destination = packet.logical_source, packet.logical_destination
        kept = tuple(
            each
            for each in packet.extension_headers
            if not isinstance(each, Type2RoutingHeader | DestinationOptions)
        )
        plain = replace(packet, source=source, destination=destination, extension_headers=kept)
        return encode_packet(plain)

    def _note_traffic(self, data: bytes, *, is_out: bool, direct: bool) -> None:
        if _has_payload(data, MobilityMessage):
            return
        # Of a packet with mobility headers these are the home addresses (RFC 6275 11.7.2).
        packet = decode_packet(data)
        source, destination = packet.logical_source, packet.logical_destination
        pair = (source, destination) if is_out else (destination, source)
        traffic = self._traffic.setdefault(pair, _Traffic())
        traffic.packets_out += is_out
        traffic.packets_in += not is_out
        traffic.direct = direct
        traffic.protocol, traffic.port = _protocol_and_port(data, at_destination=is_out)
        if not traffic.is_due:
            traffic.is_due = True
            last = traffic.reported_at
            delay = 0.0 if last is None else max(0.0, last + TRAFFIC_INTERVAL - self.world.now)
            self.world.after(delay, lambda: self._report_traffic(pair))

    def _report_traffic(self, pair: tuple[IPv6Address, IPv6Address]) -> None:
        traffic = self._traffic[pair]
        self._traffic[pair] = _Traffic(reported_at=self.world.now)
        self.tell(
            TrafficSeen(
                local=pair[0],
                peer=pair[1],
                packets_in=traffic.packets_in,
                packets_out=traffic.packets_out,
                destination_port=traffic.port,
                protocol=traffic.protocol,
                direct=traffic.direct,
            )
        )

    def _count(self, verdict: str, amount: int = 1) -> None:
        self.verdicts[verdict] = self.verdicts.get(verdict, 0) + amount

    # For tests.

    def send_data(self, destination: IPv6Address, data: bytes) -> None:
        """Send a datagram from the home address."""
        assert self.home_address is not None
        self.send(datagram(self.home_address, destination, data))

    def done(self, kind: type[Action]) -> list[Action]:
        """The actions of a type, oldest first."""
        return [action for _, action in self.actions if isinstance(action, kind)]

    def reported(self, name: str) -> list[dict[str, str]]:
        """Details of the reports of a name, oldest first."""
        return [
            dict(action.details)
            for _, action in self.actions
            if isinstance(action, ReportEvent) and action.name == name
        ]
