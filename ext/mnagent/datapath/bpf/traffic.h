/* SPDX-License-Identifier: Apache-2.0 */
/* Which pairs of addresses carry packets: what route optimization is decided by. A pair is reported
 * by its first packet and then at most once an interval. */

#ifndef MNAGENT_TRAFFIC_H
#define MNAGENT_TRAFFIC_H

#include "tables.h"

#define REPORT_INTERVAL 1000000000ULL

struct passage {
	struct pair pair;
	__u8 protocol;
	__u8 flags; /* of the report */
	__be16 port;
};

HERE void report(const struct passage *passage, __u32 packets_out, __u32 packets_in)
{
	struct report made = {
		.pair = passage->pair,
		.packets_out = packets_out,
		.packets_in = packets_in,
		.port = bpf_ntohs(passage->port),
		.protocol = passage->protocol,
		.flags = passage->flags,
	};

	if (passage->protocol != PROTOCOL_ICMPV6)
		made.flags |= HAS_PORT;
	bpf_ringbuf_output(&reports, &made, sizeof(made), 0);
}

/* Counts may be off by a few where two processors carry the same pair: they are hints. */
HERE void note_traffic(const struct passage *passage, __u64 now)
{
	int is_outbound = passage->flags & IS_OUTBOUND;
	struct traffic *known = bpf_map_lookup_elem(&pairs, &passage->pair);
	struct traffic fresh = {.reported_at = now};

	if (!known) {
		bpf_map_update_elem(&pairs, &passage->pair, &fresh, BPF_ANY);
		report(passage, is_outbound ? 1 : 0, is_outbound ? 0 : 1);
		return;
	}
	if (is_outbound)
		known->packets_out += 1;
	else
		known->packets_in += 1;
	if (now - known->reported_at < REPORT_INTERVAL)
		return;
	known->reported_at = now;
	report(passage, known->packets_out, known->packets_in);
	known->packets_out = 0;
	known->packets_in = 0;
}

#endif
