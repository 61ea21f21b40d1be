/* SPDX-License-Identifier: Apache-2.0 */
/* What comes from a link for us: checked as strictly as in user space, stripped, and handed to the
 * host through the tunnel device (RFC 6275 9.3.1, 10.4.5, 11.3.3, 15.4, RFC 2473 3.3). What is in
 * any way unusual, and all that is wrong, goes on to user space, which counts or answers it.
 *
 * A tunnel packet that the link merged (GRO) stays marked as one of a tunnel when the outer header
 * is gone. That is harmless where it ends here, but a network card that cuts such packets by itself
 * would look for two headers when it is forwarded: hence TAKES_MERGED. */

#ifndef MNAGENT_INBOUND_H
#define MNAGENT_INBOUND_H

#include "traffic.h"

#define STRIP_FLAGS (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET)

struct arrival {
	struct ipv6_header ip;
	__u32 length; /* octets from the IPv6 header on, without what pads the frame */
	const struct settings *settings;
	__u64 now;
};

HERE int hand_to_host(struct __sk_buff *skb, const struct arrival *arrival)
{
	return bpf_redirect(arrival->settings->tunnel_interface, BPF_F_INGRESS);
}

/* RFC 6040 figure 4. Negative: to be dropped, which user space does. Sets the inner traffic class's
 * octet that holds the field. */
HERE int copy_congestion(const struct ipv6_header *outer, struct ipv6_header *inner)
{
	__u8 outer_ecn = outer->first[1] >> 4 & ECN_MASK;
	__u8 inner_ecn = inner->first[1] >> 4 & ECN_MASK;

	if (outer_ecn == ECN_CE) {
		if (inner_ecn == 0)
			return -1;
		inner->first[1] |= ECN_CE << 4;
	} else if (outer_ecn == ECN_ECT1 && inner_ecn == ECN_ECT0) {
		inner->first[1] = (inner->first[1] & 0xcf) | ECN_ECT1 << 4;
	}
	return 0;
}

HERE int is_own_home(const union address *address)
{
	return (find_local(address) & IS_OWN_HOME) != 0;
}

/* Whose tunnel it is: to a home address at the mobile end, from one at the home agent. */
HERE struct tunnel *find_inbound_tunnel(const struct ipv6_header *inner)
{
	struct tunnel *tunnel;

	if (is_own_home(&inner->destination)) {
		tunnel = bpf_map_lookup_elem(&tunnels, &inner->destination);
		if (tunnel && tunnel->flags & MOBILE_END)
			return same_address(&inner->source, &inner->destination) ? 0 : tunnel;
	}
	tunnel = bpf_map_lookup_elem(&tunnels, &inner->source);
	return tunnel && !(tunnel->flags & MOBILE_END) ? tunnel : 0;
}

HERE int inner_is_sound(const struct arrival *arrival, const struct ipv6_header *inner)
{
	return is_version6(inner)
		&& bpf_ntohs(inner->payload_length) + 2 * IPV6_LENGTH <= arrival->length
		&& !is_link_scope(&inner->source) && !is_link_scope(&inner->destination)
		&& !is_multicast(&inner->source);
}

HERE int take_from_tunnel(struct __sk_buff *skb, const struct arrival *arrival, __u32 link)
{
	struct ipv6_header inner;
	struct upper_layer upper;
	struct passage passage = {};
	struct tunnel *tunnel;
	__u8 class_octet;

	if (bpf_skb_load_bytes(skb, link + IPV6_LENGTH, &inner, sizeof(inner))
	    || bpf_skb_load_bytes(skb, link + 2 * IPV6_LENGTH, &upper, sizeof(upper)))
		return -1;
	if (!inner_is_sound(arrival, &inner) || !is_plain(inner.next_header, &upper))
		return -1;
	tunnel = find_inbound_tunnel(&inner);
	if (!tunnel || !(tunnel->flags & SERVES_INBOUND)
	    || !same_address(&tunnel->remote, &arrival->ip.source))
		return -1;
	if (skb->gso_size && !(tunnel->flags & MOBILE_END)
	    && !(arrival->settings->flags & TAKES_MERGED))
		return -1;
	class_octet = inner.first[1];
	if (copy_congestion(&arrival->ip, &inner))
		return -1;
	if (bpf_skb_adjust_room(skb, -IPV6_LENGTH, BPF_ADJ_ROOM_MAC, STRIP_FLAGS))
		return -1;
	if (inner.first[1] != class_octet
	    && bpf_skb_store_bytes(skb, link + 1, &inner.first[1], 1, BPF_F_RECOMPUTE_CSUM))
		return TC_ACT_SHOT;
	__sync_fetch_and_add(&tunnel->packets_in, 1);
	if (tunnel->flags & MOBILE_END) {
		passage.flow.pair.local = inner.destination;
		passage.flow.pair.peer = inner.source;
		passage.protocol = inner.next_header;
		passage.port = upper.source_port;
		note_traffic(&passage, arrival->now);
	}
	return count(DECAPSULATED, hand_to_host(skb, arrival));
}

HERE int is_routing_header(const struct inserted_header *header)
{
	return header->length == 2 && header->head[0] == 2 && header->head[1] == 1;
}

/* The option as everybody writes it; other forms go to user space. */
HERE int is_home_address_option(const struct inserted_header *header)
{
	return header->length == 2 && header->head[0] == 1 && header->head[1] == 2
		&& header->head[4] == 0xc9 && header->head[5] == sizeof(union address);
}

/* A Home Address option counts from the care-of address of its binding only. */
HERE int is_bound(const union address *home, const union address *care_of)
{
	struct path *peer = bpf_map_lookup_elem(&peers, home);

	return peer && same_address(&peer->destination, care_of);
}

HERE int take_direct(struct __sk_buff *skb, const struct arrival *arrival, __u32 link)
{
	struct ipv6_header ip = arrival->ip;
	struct inserted_header header;
	struct upper_layer upper;
	struct passage passage = {.flow.kind = IS_DIRECT};
	__u32 at = IPV6_LENGTH;
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;

	if (ip.next_header == PROTOCOL_ROUTING) {
		if (bpf_skb_load_bytes(skb, link + at, &header, sizeof(header))
		    || !is_routing_header(&header) || !is_own_home(&header.address))
			return -1;
		ip.destination = header.address;
		ip.next_header = header.next_header;
		at += INSERTED_LENGTH;
	}
	if (ip.next_header == PROTOCOL_DESTINATION_OPTIONS) {
		if (bpf_skb_load_bytes(skb, link + at, &header, sizeof(header))
		    || !is_home_address_option(&header)
		    || is_multicast(&header.address) || is_link_scope(&header.address)
		    || !is_bound(&header.address, &arrival->ip.source))
			return -1;
		ip.source = header.address;
		ip.next_header = header.next_header;
		at += INSERTED_LENGTH;
	}
	if (arrival->length < at || bpf_skb_load_bytes(skb, link + at, &upper, sizeof(upper))
	    || !is_plain(ip.next_header, &upper) || same_address(&ip.source, &ip.destination))
		return -1;
	/* Whatever the card found right was summed with other addresses. */
	if (skb->gso_size)
		flags |= BPF_F_ADJ_ROOM_NO_CSUM_RESET;
	if (bpf_skb_adjust_room(skb, IPV6_LENGTH - (__s32)at, BPF_ADJ_ROOM_NET, flags))
		return -1;
	ip.payload_length = bpf_htons(arrival->length - at);
	if (bpf_skb_store_bytes(skb, link, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM))
		return TC_ACT_SHOT;
	passage.flow.pair.local = ip.destination;
	passage.flow.pair.peer = ip.source;
	passage.protocol = ip.next_header;
	passage.port = upper.source_port;
	note_traffic(&passage, arrival->now);
	return count(RECEIVED_DIRECT, hand_to_host(skb, arrival));
}

HERE int is_for_us(struct __sk_buff *skb, const struct arrival *arrival, __u32 link)
{
	if (!is_version6(&arrival->ip) || arrival->length > skb->len - link)
		return 0;
	if (is_link_scope(&arrival->ip.source) || is_multicast(&arrival->ip.source))
		return 0;
	return (find_local(&arrival->ip.destination) & IS_LOCAL) != 0;
}

/* `link` is the length of the link header. */
HERE int take_inbound(struct __sk_buff *skb, const __u32 link)
{
	struct arrival arrival = {};
	__u8 next_header;

	if (skb->protocol != bpf_htons(ETH_P_IPV6) || skb->pkt_type != 0 || skb->vlan_present)
		return -1;
	/* Most of what comes is not for us: one octet tells. */
	if (bpf_skb_load_bytes(skb, link + 6, &next_header, 1))
		return -1;
	if (next_header != PROTOCOL_IPV6 && next_header != PROTOCOL_ROUTING
	    && next_header != PROTOCOL_DESTINATION_OPTIONS)
		return -1;
	arrival.now = bpf_ktime_get_boot_ns();
	arrival.settings = find_settings(arrival.now);
	if (!arrival.settings || bpf_skb_load_bytes(skb, link, &arrival.ip, sizeof(arrival.ip)))
		return -1;
	arrival.length = bpf_ntohs(arrival.ip.payload_length) + IPV6_LENGTH;
	if (!is_for_us(skb, &arrival, link))
		return -1;
	if (next_header == PROTOCOL_IPV6)
		return take_from_tunnel(skb, &arrival, link);
	return take_direct(skb, &arrival, link);
}

#endif
