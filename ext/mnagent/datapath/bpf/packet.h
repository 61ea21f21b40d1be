/* SPDX-License-Identifier: Apache-2.0 */
/* What the programs look at in a packet. */

#ifndef MNAGENT_PACKET_H
#define MNAGENT_PACKET_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define IPV6_LENGTH 40
/* A Home Address option with its padding and header; a type 2 routing header. */
#define INSERTED_LENGTH 24

#define PROTOCOL_TCP 6
#define PROTOCOL_UDP 17
#define PROTOCOL_IPV6 41
#define PROTOCOL_ROUTING 43
#define PROTOCOL_ICMPV6 58
#define PROTOCOL_DESTINATION_OPTIONS 60

#define ICMP_INFORMATIONAL 128
#define NEIGHBOUR_DISCOVERY_FIRST 133
#define NEIGHBOUR_DISCOVERY_LAST 137

#define ECN_MASK 3
#define ECN_CE 3
#define ECN_ECT1 1
#define ECN_ECT0 2

#define HERE static __always_inline

union address {
	__u8 octets[16];
	__u32 halves[4];
	__u64 words[2];
};

struct ipv6_header {
	__u8 first[4]; /* version, traffic class, flow label */
	__be16 payload_length;
	__u8 next_header;
	__u8 hop_limit;
	union address source;
	union address destination;
};

/* Both kinds of inserted header: six octets of their own, then what tells them apart. */
struct inserted_header {
	__u8 next_header;
	__u8 length;
	__u8 head[6];
	union address address;
};

/* As much of an upper layer as decisions need. */
struct upper_layer {
	__be16 source_port; /* or ICMPv6 type and code */
	__be16 destination_port;
	__u32 rest;
};

HERE int same_address(const union address *left, const union address *right)
{
	return left->words[0] == right->words[0] && left->words[1] == right->words[1];
}

/* Unspecified, loopback, link-local, or multicast of interface or link scope: never tunnelled. */
HERE int is_link_scope(const union address *address)
{
	if (address->octets[0] == 0xff)
		return (address->octets[1] & 0x0f) <= 2;
	if (address->octets[0] == 0xfe)
		return (address->octets[1] & 0xc0) == 0x80;
	return address->words[0] == 0 && address->halves[2] == 0
		&& bpf_ntohl(address->halves[3]) <= 1;
}

HERE int is_multicast(const union address *address)
{
	return address->octets[0] == 0xff;
}

HERE int is_version6(const struct ipv6_header *header)
{
	return header->first[0] >> 4 == 6;
}

/* Plain payload: all else is for user space to judge. */
HERE int is_plain(__u8 protocol, const struct upper_layer *upper)
{
	__u8 kind;

	if (protocol == PROTOCOL_TCP || protocol == PROTOCOL_UDP)
		return 1;
	if (protocol != PROTOCOL_ICMPV6)
		return 0;
	kind = *(const __u8 *)upper;
	return kind >= ICMP_INFORMATIONAL
		&& (kind < NEIGHBOUR_DISCOVERY_FIRST || kind > NEIGHBOUR_DISCOVERY_LAST);
}

#endif
