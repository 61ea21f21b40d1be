/* SPDX-License-Identifier: Apache-2.0 */
/* What the host sends through the tunnel device: which way it takes, what is put before or into it
 * (RFC 2473 3.1, RFC 6275 9.3.2, 10.4.2, 11.3.1). What is in any way unusual goes on to user space,
 * which reads the device. */

#ifndef MNAGENT_OUTBOUND_H
#define MNAGENT_OUTBOUND_H

#include "traffic.h"

#define OUTER_HOP_LIMIT 64
#define TCP_OFFSET_AT (IPV6_LENGTH + 12)
#define UDP_LENGTH 8
/* The kernel's own bound on a super-packet with what is added to it. */
#define LONGEST_PACKET 65535

struct frame_head {
	__u8 unused[2]; /* aligns what follows */
	__u8 link[ETH_HLEN];
	struct ipv6_header ip;
};

/* Whether what leaves fits: a super-packet's segments, or the packet itself. */
HERE int fits(struct __sk_buff *skb, __u8 protocol, __u32 mtu)
{
	__u32 head = IPV6_LENGTH + UDP_LENGTH;
	__u8 offset;

	if (skb->len <= mtu)
		return 1;
	if (!skb->gso_size || skb->len + IPV6_LENGTH > LONGEST_PACKET)
		return 0;
	if (protocol == PROTOCOL_TCP) {
		if (bpf_skb_load_bytes(skb, TCP_OFFSET_AT, &offset, 1))
			return 0;
		head = IPV6_LENGTH + (offset >> 4) * 4;
	}
	return head + skb->gso_size <= mtu;
}

/* Put link header and IPv6 header in front, where there is only the IPv6 header's room yet. */
HERE int leave(struct __sk_buff *skb, struct frame_head *head, const struct way *way)
{
	if (bpf_skb_change_head(skb, ETH_HLEN, 0))
		return TC_ACT_SHOT;
	__builtin_memcpy(head->link, way->link, ETH_HLEN);
	if (bpf_skb_store_bytes(skb, 0, head->link, ETH_HLEN + IPV6_LENGTH, 0))
		return TC_ACT_SHOT;
	return bpf_redirect(way->interface, 0);
}

/* Make room for an outer header. A packet that came out of a tunnel itself and is forwarded still
 * counts as encapsulated, and its offsets fit: then the room alone is enough. */
HERE int make_outer_room(struct __sk_buff *skb, __u8 protocol)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET;

	if (!bpf_skb_adjust_room(skb, IPV6_LENGTH, BPF_ADJ_ROOM_MAC,
				 flags | BPF_F_ADJ_ROOM_ENCAP_L3_IPV6))
		return 0;
	if (skb->gso_size && protocol != PROTOCOL_TCP)
		return -1;
	return bpf_skb_adjust_room(skb, IPV6_LENGTH, BPF_ADJ_ROOM_MAC, flags);
}

/* Negative: nothing was changed. */
HERE int send_tunnelled(struct __sk_buff *skb, const struct ipv6_header *inner,
			const struct tunnel *tunnel)
{
	struct frame_head head = {};
	__u32 length = skb->len;

	if (make_outer_room(skb, inner->next_header))
		return -1;
	/* Version, traffic class (ECN as RFC 6040 normal mode) and flow label as the inner's. */
	__builtin_memcpy(head.ip.first, inner->first, sizeof(head.ip.first));
	head.ip.payload_length = bpf_htons(length);
	head.ip.next_header = PROTOCOL_IPV6;
	head.ip.hop_limit = OUTER_HOP_LIMIT;
	head.ip.source = tunnel->local;
	head.ip.destination = tunnel->remote;
	return leave(skb, &head, &tunnel->way);
}

HERE void make_routing_header(struct inserted_header *header, const union address *home)
{
	header->length = 2;
	header->head[0] = 2; /* type */
	header->head[1] = 1; /* segments left */
	header->address = *home;
}

HERE void make_home_address_option(struct inserted_header *header, const union address *home)
{
	header->length = 2;
	header->head[0] = 1; /* PadN of four octets */
	header->head[1] = 2;
	header->head[4] = 0xc9;
	header->head[5] = sizeof(union address);
	header->address = *home;
}

/* Insert a routing header, a Home Address option, or both in this order. Negative: nothing was
 * changed. */
HERE int send_directly(struct __sk_buff *skb, const struct ipv6_header *ip,
		       const struct path *path)
{
	struct inserted_header inserted[2] = {};
	struct frame_head head = {.ip = *ip};
	int both = (path->flags & (HAS_SOURCE | HAS_DESTINATION)) == (HAS_SOURCE | HAS_DESTINATION);
	__u32 size = both ? 2 * INSERTED_LENGTH : INSERTED_LENGTH;

	if (bpf_skb_adjust_room(skb, size, BPF_ADJ_ROOM_NET,
				BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET))
		return -1;
	head.ip.payload_length = bpf_htons(bpf_ntohs(ip->payload_length) + size);
	if (path->flags & HAS_DESTINATION) {
		make_routing_header(&inserted[0], &ip->destination);
		inserted[0].next_header = both ? PROTOCOL_DESTINATION_OPTIONS : ip->next_header;
		head.ip.next_header = PROTOCOL_ROUTING;
		head.ip.destination = path->destination;
	} else {
		make_home_address_option(&inserted[0], &ip->source);
		inserted[0].next_header = ip->next_header;
		head.ip.next_header = PROTOCOL_DESTINATION_OPTIONS;
	}
	if (both) {
		make_home_address_option(&inserted[1], &ip->source);
		inserted[1].next_header = ip->next_header;
	}
	if (path->flags & HAS_SOURCE)
		head.ip.source = path->source;
	if (both ? bpf_skb_store_bytes(skb, IPV6_LENGTH, inserted, 2 * INSERTED_LENGTH, 0)
		 : bpf_skb_store_bytes(skb, IPV6_LENGTH, inserted, INSERTED_LENGTH, 0))
		return TC_ACT_SHOT;
	return leave(skb, &head, &path->way);
}

/* A mobile node sends from its home address; a home agent sends to one. `source` is what the source
 * address is here. */
HERE struct tunnel *find_outbound_tunnel(const struct ipv6_header *ip, __u64 source)
{
	struct tunnel *tunnel;

	if (source & IS_OWN_HOME) {
		tunnel = bpf_map_lookup_elem(&tunnels, &ip->source);
		if (tunnel && tunnel->flags & MOBILE_END)
			return tunnel;
	}
	tunnel = bpf_map_lookup_elem(&tunnels, &ip->destination);
	return tunnel && !(tunnel->flags & MOBILE_END) ? tunnel : 0;
}

/* The direct path where there is one. `is_to_peer`: the destination is a mobile peer that there is
 * no path of its own to, which a mobile node reaches through its tunnel. */
HERE struct path *find_path(const struct passage *passage, __u64 source,
			    const struct tunnel *tunnel, int *is_to_peer)
{
	struct path *path;

	*is_to_peer = 0;
	if (source & IS_OWN_HOME) {
		path = bpf_map_lookup_elem(&paths, &passage->flow.pair);
		if (path)
			return path;
	}
	if (tunnel && !(tunnel->flags & MOBILE_END) && !(source & IS_LOCAL))
		return 0; /* forwarded */
	path = bpf_map_lookup_elem(&peers, &passage->flow.pair.peer);
	*is_to_peer = path && tunnel && tunnel->flags & MOBILE_END;
	return path;
}

HERE int is_sendable(struct __sk_buff *skb, const struct ipv6_header *ip)
{
	return is_version6(ip) && bpf_ntohs(ip->payload_length) + IPV6_LENGTH == skb->len
		&& !is_link_scope(&ip->source) && !is_link_scope(&ip->destination);
}

HERE int send_outbound(struct __sk_buff *skb)
{
	struct ipv6_header ip;
	struct upper_layer upper;
	struct passage passage = {.flow.kind = IS_OUTBOUND};
	struct tunnel *tunnel;
	struct path *path;
	__u64 now = bpf_ktime_get_boot_ns(), source;
	int is_to_peer, action;

	if (!find_settings(now) || bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip))
	    || bpf_skb_load_bytes(skb, IPV6_LENGTH, &upper, sizeof(upper)))
		return -1;
	if (!is_sendable(skb, &ip) || !is_plain(ip.next_header, &upper))
		return -1;
	passage.flow.pair.local = ip.source;
	passage.flow.pair.peer = ip.destination;
	passage.protocol = ip.next_header;
	passage.port = upper.destination_port;
	source = find_local(&ip.source);
	tunnel = find_outbound_tunnel(&ip, source);
	path = find_path(&passage, source, tunnel, &is_to_peer);
	if (is_to_peer)
		return -1;
	if (path) {
		if (!(path->flags & SERVES_PATH) || !fits(skb, ip.next_header, path->way.mtu))
			return -1;
		action = send_directly(skb, &ip, path);
		if (action < 0)
			return -1;
		passage.flow.kind |= IS_DIRECT;
		note_traffic(&passage, now);
		return count(SENT_DIRECT, action);
	}
	if (!tunnel || !(tunnel->flags & SERVES_OUTBOUND)
	    || !fits(skb, ip.next_header, tunnel->way.mtu))
		return -1;
	action = send_tunnelled(skb, &ip, tunnel);
	if (action < 0)
		return -1;
	__sync_fetch_and_add(&tunnel->packets_out, 1);
	if (tunnel->flags & MOBILE_END)
		note_traffic(&passage, now);
	return count(TUNNELLED, action);
}

#endif
