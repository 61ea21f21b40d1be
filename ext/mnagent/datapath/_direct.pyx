"""Route optimization's decisions: the way out of a packet (RFC 6275 9.3.2, 11.3.1), and whether one
with a Home Address option or a type 2 routing header may come in (9.3.1, 11.3.3).
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memset

from mnagent.datapath._headers cimport Headers, find_insertion_point
from mnagent.datapath._tables cimport (
    INSERTED_LENGTH,
    DirectPath,
    Tables,
    Tunnel,
    address_find,
    is_home_test,
    is_local,
    path_find,
    peer_find,
    tunnel_find,
)
from mnagent.datapath._worker cimport (
    UNBOUND_PER_SECOND,
    Arrival,
    Worker,
    hand_up,
    rate_allows,
)
from mnagent.datapath.octets cimport is_link_scope, same_address
from mnagent.datapath.protocols cimport (
    FRAGMENT_LENGTH,
    MINIMUM_MTU,
    PROTOCOL_AUTHENTICATION,
    PROTOCOL_ESP,
    PROTOCOL_FRAGMENT,
    PROTOCOL_IPV6,
    PROTOCOL_MOBILITY,
    PROTOCOL_TCP,
)
from mnagent.datapath.verdicts cimport (
    DROP_BAD_ROUTING_HEADER,
    DROP_FRAGMENT,
    DROP_HOME_ADDRESS,
    DROP_NO_PEER_BINDING,
    DROP_NOT_PROTECTED,
    DROP_OUTER_SOURCE,
    RECEIVED_DIRECT,
    Verdict,
)


cdef Tunnel* find_tunnel(const Tables* tables, const uint8_t* packet) noexcept nogil:
    """A mobile node sends from its home address; a home agent sends to one."""
    cdef Tunnel* tunnel
    if tables.mobile_ends:
        tunnel = tunnel_find(tables, packet + 8)
        if tunnel != NULL and tunnel.mobile_end:
            return tunnel
    tunnel = tunnel_find(tables, packet + 24)
    return NULL if tunnel == NULL or tunnel.mobile_end else tunnel


cdef void leave_directly(
    Egress* egress, DirectPath* path, const uint8_t* packet
) noexcept nogil:
    egress.way = &path.way
    egress.by_offload = (
        path.way.offload_descriptor >= 0 and packet[egress.field] == PROTOCOL_TCP
    )
    egress.insertion = &path.insertion
    egress.mtu = path.mtu
    # An address of ours, or one that is on the way.
    if path.insertion.has_source:
        egress.reporter = path.insertion.source
    else:
        egress.reporter = path.insertion.destination


cdef bint find_egress(
    const Tables* tables, const uint8_t* packet, uint32_t length, Egress* egress
) noexcept nogil:
    """The direct path where there is one and the packet may take it, else the tunnel; False for
    neither.

    A mobile node's packet to a peer with a binding but without a direct path of its own gets the
    routing header and takes the tunnel.
    """
    cdef DirectPath* path = path_find(tables, packet + 8, packet + 24)
    cdef DirectPath* peer = NULL
    cdef Tunnel* tunnel = find_tunnel(tables, packet)
    cdef bint forwarded = (
        tunnel != NULL and not tunnel.mobile_end and not is_local(tables, packet + 8)
    )
    memset(egress, 0, sizeof(Egress))
    if path == NULL and not forwarded:
        peer = peer_find(tables, packet + 24)
    if (path != NULL or peer != NULL) and not find_insertion_point(
        packet, length, &egress.point, &egress.field
    ):
        path = peer = NULL
    if path != NULL:
        leave_directly(egress, path, packet)
        return True
    if peer != NULL and (tunnel == NULL or not tunnel.mobile_end):
        leave_directly(egress, peer, packet)
        return True
    if tunnel == NULL:
        return False
    egress.way = &tunnel.way
    egress.tunnel = tunnel
    egress.seal = tunnel.seal
    egress.association = tunnel.outbound
    if tunnel.seal_home_tests and is_home_test(packet, length, tunnel.mobile_end):
        egress.seal = True
        egress.association = tunnel.home_test
    egress.layers = tunnel.layers
    egress.mtu = tunnel.mtu
    egress.reporter = tunnel.local
    if peer != NULL and tunnel.mtu >= MINIMUM_MTU + INSERTED_LENGTH:
        egress.insertion = &peer.insertion
        egress.mtu = tunnel.mtu - INSERTED_LENGTH
    return True


cdef Verdict check_binding(
    const Tables* tables, const uint8_t* source, const uint8_t* home_address
) noexcept nogil:
    """A Home Address option counts from the care-of address of its binding only: the peer's, or,
    at its home agent, the home registration's.
    """
    cdef const DirectPath* peer = peer_find(tables, home_address)
    cdef const Tunnel* tunnel
    if peer != NULL and same_address(peer.insertion.destination, source):
        return RECEIVED_DIRECT
    tunnel = tunnel_find(tables, home_address)
    if tunnel == NULL or tunnel.mobile_end or not same_address(tunnel.way.destination, source):
        return DROP_NO_PEER_BINDING
    return DROP_NOT_PROTECTED if tunnel.require_esp else RECEIVED_DIRECT


cdef Verdict check_fragment(
    const uint8_t* packet, uint32_t length, const Headers* headers
) noexcept nogil:
    """The kernel reassembles what upper layers get; what the engine would have to look into is
    not taken in pieces.
    """
    cdef uint8_t carried
    if headers.end + FRAGMENT_LENGTH > length:
        return DROP_FRAGMENT
    carried = packet[headers.end]
    if (
        carried == PROTOCOL_MOBILITY or carried == PROTOCOL_ESP or carried == PROTOCOL_IPV6
        or carried == PROTOCOL_AUTHENTICATION
    ):
        return DROP_FRAGMENT
    return RECEIVED_DIRECT


cdef Verdict admit(
    Worker* worker, Arrival* arrival, const uint8_t* packet, uint32_t length,
    const Headers* headers
) noexcept nogil:
    """RECEIVED_DIRECT when the packet may be stripped and given to the host."""
    cdef const Tables* tables = worker.tables
    cdef const uint8_t* source = packet + 8
    cdef const uint8_t* destination = packet + 24
    cdef Verdict verdict = RECEIVED_DIRECT
    if packet[headers.next_header_at] == PROTOCOL_FRAGMENT:
        verdict = check_fragment(packet, length, headers)
    if headers.routing_at:
        destination = packet + headers.routing_at + 8
        if address_find(&tables.own_homes, destination) == NULL:
            return DROP_BAD_ROUTING_HEADER
    if source[0] == 0xFF or is_link_scope(source):
        return DROP_OUTER_SOURCE
    if headers.home_address_at:
        source = packet + headers.home_address_at
        if source[0] == 0xFF or is_link_scope(source):
            return DROP_HOME_ADDRESS
    if same_address(source, destination):
        return DROP_HOME_ADDRESS if headers.home_address_at else DROP_OUTER_SOURCE
    if headers.home_address_at and verdict == RECEIVED_DIRECT:
        verdict = check_binding(tables, packet + 8, source)
    if verdict == DROP_NO_PEER_BINDING and rate_allows(&worker.unbound, UNBOUND_PER_SECOND):
        # The machine answers with a Binding Error (RFC 6275 9.3.3).
        hand_up(worker, arrival, packet, length)
    return verdict


cdef bint quotes_direct_path(
    const Tables* tables, const uint8_t* packet, const Headers* headers
) noexcept nogil:
    """Whether a packet with such headers is one that these tables would have sent."""
    cdef const uint8_t* peer = packet + 24
    cdef const DirectPath* path
    if headers.routing_at:
        peer = packet + headers.routing_at + 8
    if headers.home_address_at:
        path = path_find(tables, packet + headers.home_address_at, peer)
    else:
        path = peer_find(tables, peer)
    if path == NULL:
        return False
    if path.insertion.has_source and not same_address(path.insertion.source, packet + 8):
        return False
    if path.insertion.has_destination:
        return bool(headers.routing_at) and same_address(
            path.insertion.destination, packet + 24
        )
    return not headers.routing_at
