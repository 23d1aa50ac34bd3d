// SPDX-License-Identifier: GPL-2.0-only
/*
 * What one would write with eBPF instead: programs on the tracepoints that Duet uses. peer.c loads
 * those of one name. No vmlinux.h: the few members used are found by BTF.
 */
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "peers.h"

char LICENSE[] SEC("license") = "GPL";

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct super_block {
	unsigned int s_dev;
};
struct inode {
	unsigned long i_ino;
	struct super_block *i_sb;
};
struct address_space {
	struct inode *host;
};
struct folio {
	struct address_space *mapping;
	unsigned long index;
};
#pragma clang attribute pop

struct file_key {
	__u64 ino;
	__u64 dev;
};

struct page_key {
	__u64 ino;
	__u64 dev;
	__u64 index;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 16);
	__type(key, struct file_key);
	__type(value, __u64);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 16);
	__type(key, struct page_key);
	__type(value, __u64);
} states SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} ring SEC(".maps");

static __always_inline int count(struct address_space *mapping)
{
	struct inode *inode = mapping->host;
	struct file_key key = { inode->i_ino, inode->i_sb->s_dev };
	__u64 *known = bpf_map_lookup_elem(&counts, &key), one = 1;

	if (known)
		__sync_fetch_and_add(known, 1);
	else
		bpf_map_update_elem(&counts, &key, &one, BPF_ANY);
	return 0;
}

static __always_inline int state(struct folio *folio, struct address_space *mapping, __u64 bit)
{
	struct inode *inode = mapping->host;
	struct page_key key = { inode->i_ino, inode->i_sb->s_dev, folio->index };
	__u64 *known = bpf_map_lookup_elem(&states, &key);

	if (known)
		__sync_fetch_and_or(known, bit);
	else
		bpf_map_update_elem(&states, &key, &bit, BPF_ANY);
	return 0;
}

static __always_inline int tell(struct folio *folio, struct address_space *mapping, __u32 bit,
				__u64 wake)
{
	struct inode *inode = mapping->host;
	struct peer_event *event = bpf_ringbuf_reserve(&ring, sizeof(*event), 0);

	if (!event)
		return 0;
	event->ino = inode->i_ino;
	event->index = folio->index;
	event->dev = inode->i_sb->s_dev;
	event->what = bit;
	bpf_ringbuf_submit(event, wake);
	return 0;
}

#define ADD SEC("tp_btf/mm_filemap_add_to_page_cache")
#define DELETE SEC("tp_btf/mm_filemap_delete_from_page_cache")
#define DIRTY SEC("tp_btf/writeback_dirty_folio")

ADD int BPF_PROG(counts_add, struct folio *folio)
{
	return count(folio->mapping);
}

DELETE int BPF_PROG(counts_delete, struct folio *folio)
{
	return count(folio->mapping);
}

DIRTY int BPF_PROG(counts_dirty, struct folio *folio, struct address_space *mapping)
{
	return mapping ? count(mapping) : 0;
}

ADD int BPF_PROG(states_add, struct folio *folio)
{
	return state(folio, folio->mapping, 1);
}

DELETE int BPF_PROG(states_delete, struct folio *folio)
{
	return state(folio, folio->mapping, 2);
}

DIRTY int BPF_PROG(states_dirty, struct folio *folio, struct address_space *mapping)
{
	return mapping ? state(folio, mapping, 4) : 0;
}

ADD int BPF_PROG(ring_add, struct folio *folio)
{
	return tell(folio, folio->mapping, 1, BPF_RB_NO_WAKEUP);
}

DELETE int BPF_PROG(ring_delete, struct folio *folio)
{
	return tell(folio, folio->mapping, 2, BPF_RB_NO_WAKEUP);
}

DIRTY int BPF_PROG(ring_dirty, struct folio *folio, struct address_space *mapping)
{
	return mapping ? tell(folio, mapping, 4, BPF_RB_NO_WAKEUP) : 0;
}

ADD int BPF_PROG(woken_add, struct folio *folio)
{
	return tell(folio, folio->mapping, 1, BPF_RB_FORCE_WAKEUP);
}

DELETE int BPF_PROG(woken_delete, struct folio *folio)
{
	return tell(folio, folio->mapping, 2, BPF_RB_FORCE_WAKEUP);
}

DIRTY int BPF_PROG(woken_dirty, struct folio *folio, struct address_space *mapping)
{
	return mapping ? tell(folio, mapping, 4, BPF_RB_FORCE_WAKEUP) : 0;
}
