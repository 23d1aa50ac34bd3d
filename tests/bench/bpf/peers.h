/* SPDX-License-Identifier: MIT */
/* What the eBPF programs and their reader share. */
#ifndef BENCH_PEERS_H
#define BENCH_PEERS_H

struct peer_event {
	__u64 ino;
	__u64 index;
	__u32 dev;
	__u32 what;
};

#endif
