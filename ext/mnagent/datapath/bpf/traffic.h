/* SPDX-License-Identifier: Apache-2.0 */
/* Which pairs of addresses carry packets: what route optimization is decided by. Each way of a pair,
 * and the direct path apart from the tunnel, is reported by its first packet and then at most once
 * an interval. The daemon forgets the direct ones when a path changes, so that its first packets
 * are told of too. */

#ifndef MNAGENT_TRAFFIC_H
#define MNAGENT_TRAFFIC_H

#include "tables.h"

#define REPORT_INTERVAL 1000000000ULL

struct passage {
	struct flow flow;
	__u8 protocol;
	__be16 port;
};

HERE void report(const struct passage *passage, __u64 packets)
{
	struct report made = {
		.flow = passage->flow,
		.packets = packets,
		.port = bpf_ntohs(passage->port),
		.protocol = passage->protocol,
		.flags = passage->protocol == PROTOCOL_ICMPV6 ? 0 : HAS_PORT,
	};

	bpf_ringbuf_output(&reports, &made, sizeof(made), 0);
}

/* Counts may be off by a few where two processors carry the same flow: they are hints. */
HERE void note_traffic(const struct passage *passage, __u64 now)
{
	struct traffic *known = bpf_map_lookup_elem(&flows, &passage->flow);
	struct traffic fresh = {.reported_at = now};

	if (!known) {
		bpf_map_update_elem(&flows, &passage->flow, &fresh, BPF_ANY);
		report(passage, 1);
		return;
	}
	known->packets += 1;
	if (now - known->reported_at < REPORT_INTERVAL)
		return;
	known->reported_at = now;
	report(passage, known->packets);
	known->packets = 0;
}

#endif
