// SPDX-License-Identifier: GPL-2.0
/*
 * What happened to the pages of the files that somebody wants: one node for
 * each aligned run of 64 pages, in a hash, one copy for all tasks.
 *
 * Everything of a file and of its nodes is under file->lock. The lock is
 * taken in the probes with xa_lock of the same file's page cache held, which
 * the kernel takes in hard interrupts, so interrupts are off. Two CPUs meet
 * on it only where they would meet on that xa_lock. No section under it is
 * longer than one folio or DUET_BATCH nodes.
 */
#include <linux/hash.h>
#include <linux/mm.h>
#include <linux/rculist_bl.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include "duet.h"

#define DUET_BATCH	32

static struct hlist_bl_head *duet_bucket(const struct duet_file *file, u64 run)
{
	/* Page 0 of every file must spread, and so must the runs of one. */
	u64 key = (u64)(uintptr_t)file + run * 0xff51afd7ed558ccdULL;

	return &duet.buckets[hash_64(key, duet.bucket_bits)];
}

int duet_table_start(void)
{
	unsigned long nodes = duet.limit / duet.node_size;
	unsigned long i;

	/* As many buckets as there can be nodes: chains stay short. */
	duet.bucket_bits = clamp_t(unsigned int, ilog2(nodes) + 1, 10, 24);
	duet.buckets = kvmalloc_array(1UL << duet.bucket_bits,
				      sizeof(*duet.buckets), GFP_KERNEL);
	if (!duet.buckets)
		return -ENOMEM;
	for (i = 0; i < 1UL << duet.bucket_bits; i++)
		INIT_HLIST_BL_HEAD(&duet.buckets[i]);

	duet.node_cache = kmem_cache_create("duet_node", duet.node_size, 0, 0,
					    NULL);
	if (!duet.node_cache) {
		kvfree(duet.buckets);
		return -ENOMEM;
	}
	return 0;
}

void duet_table_stop(void)
{
	kmem_cache_destroy(duet.node_cache);
	kvfree(duet.buckets);
}

/* How many nodes the fullest bucket holds. Looks at every bucket: for people. */
unsigned int duet_table_longest_chain(void)
{
	unsigned int len, longest = 0;
	struct hlist_bl_node *pos;
	struct duet_node *node;
	unsigned long i;

	lockdep_assert_held(&duet.lock);
	for (i = 0; duet.on && i < 1UL << duet.bucket_bits; i++) {
		len = 0;
		rcu_read_lock();	/* nodes come and go meanwhile */
		hlist_bl_for_each_entry_rcu(node, pos, &duet.buckets[i], hash)
			len++;
		rcu_read_unlock();
		longest = max(longest, len);
		cond_resched();
	}
	return longest;
}

/* In a probe: GFP_NOWAIT, may fail, and takes nothing of the reserves. */
struct duet_node *duet_node_alloc(gfp_t gfp)
{
	struct duet_node *node;

	if (atomic_long_read(&duet.bytes) + duet.node_size > duet.limit)
		return NULL;
	node = kmem_cache_zalloc(duet.node_cache, gfp);
	if (!node)
		return NULL;
	atomic_long_add(duet.node_size, &duet.bytes);
	atomic_long_inc(&duet.nr_nodes);
	return node;
}

static void duet_node_free_rcu(struct rcu_head *rcu)
{
	kmem_cache_free(duet.node_cache,
			container_of(rcu, struct duet_node, rcu));
}

/* Others may be walking over it on their way along the bucket. */
void duet_node_free(struct duet_node *node)
{
	atomic_long_sub(duet.node_size, &duet.bytes);
	atomic_long_dec(&duet.nr_nodes);
	call_rcu(&node->rcu, duet_node_free_rcu);
}

/* RCU carries us over other files' nodes; this file's stay, by its lock. */
struct duet_node *duet_node_find(struct duet_file *file, u64 run)
{
	struct hlist_bl_node *pos;
	struct duet_node *node;

	lockdep_assert_held(&file->lock);
	node = file->last;
	if (node && node->run == run)
		return node;
	hlist_bl_for_each_entry_rcu(node, pos, duet_bucket(file, run), hash) {
		if (node->file == file && node->run == run) {
			file->last = node;
			return node;
		}
	}
	return NULL;
}

void duet_node_add(struct duet_file *file, u64 run, struct duet_node *node)
{
	struct hlist_bl_head *bucket = duet_bucket(file, run);

	lockdep_assert_held(&file->lock);
	node->file = file;
	node->run = run;
	list_add_tail(&node->in_file, &file->nodes);
	file->nr_nodes++;
	file->last = node;
	/* The innermost lock; interrupts are off, a chain is short. */
	hlist_bl_lock(bucket);
	hlist_bl_add_head_rcu(&node->hash, bucket);
	hlist_bl_unlock(bucket);
}

/* Takes a node away that says nothing any more. */
bool duet_node_gc(struct duet_node *node)
{
	struct duet_file *file = node->file;
	struct hlist_bl_head *bucket = duet_bucket(file, node->run);
	unsigned int i;

	lockdep_assert_held(&file->lock);
	if (node->nr_queued || node->cached || node->dirty)
		return false;
	for (i = 0; i < duet.max_tasks; i++) {
		struct duet_slot *slot = &node->slot[i];

		if (slot->added | slot->removed | slot->dirty | slot->flushed)
			return false;
	}
	hlist_bl_lock(bucket);
	hlist_bl_del_rcu(&node->hash);
	hlist_bl_unlock(bucket);
	list_del(&node->in_file);
	file->nr_nodes--;
	if (file->last == node)
		file->last = NULL;
	duet_node_free(node);
	return true;
}

/*
 * Calls fn for every node that the file has now, with file->lock held, in
 * steps of DUET_BATCH. Nodes that come meanwhile may or may not be seen. fn
 * may free its node. The caller keeps the file (a hold).
 */
void duet_file_each_node(struct duet_file *file,
			 void (*fn)(struct duet_node *node, void *arg),
			 void *arg)
{
	unsigned int left, batch;
	unsigned long flags;

	spin_lock_irqsave(&file->lock, flags);
	left = file->nr_nodes;
	while (left && !list_empty(&file->nodes)) {
		for (batch = 0; batch < DUET_BATCH && left; batch++, left--) {
			struct duet_node *node;

			node = list_first_entry_or_null(&file->nodes,
							struct duet_node,
							in_file);
			if (!node)
				break;
			/* The first goes last, so the next is the next. */
			list_move_tail(&node->in_file, &file->nodes);
			fn(node, arg);
		}
		spin_unlock_irqrestore(&file->lock, flags);
		spin_lock_irqsave(&file->lock, flags);
	}
	spin_unlock_irqrestore(&file->lock, flags);
}

/* First mark of a file for this task: puts it where the reader looks. */
void duet_queue_file(struct duet_file *file, struct duet_task *task)
{
	struct duet_want *want = &file->want[task->slot];

	lockdep_assert_held(&file->lock);
	if (want->flags & DUET_WANT_QUEUED)
		return;
	want->flags |= DUET_WANT_QUEUED;
	file->holds++;
	llist_add(&want->queue, &task->queue);
	duet_task_wake(task);
}

void duet_queue_node(struct duet_node *node, struct duet_task *task)
{
	struct duet_file *file = node->file;
	struct duet_want *want = &file->want[task->slot];
	struct duet_slot *slot = &node->slot[task->slot];

	lockdep_assert_held(&file->lock);
	if (!slot->next) {
		slot->next = want->pending ?: DUET_LIST_END;
		want->pending = node;
		node->nr_queued++;
	}
	duet_queue_file(file, task);
}

/* What the task has to be told of the node, or-ed and one by one. */
u64 duet_node_news(const struct duet_node *node, const struct duet_task *task,
		   struct duet_news *news)
{
	const struct duet_slot *slot = &node->slot[task->slot];
	bool left = node->file->want[task->slot].flags & DUET_WANT_LEFT;
	u64 cached = left ? 0 : node->cached;
	u64 dirty = left ? 0 : node->dirty;

	if (task->states & DUET_PAGE_EXISTS) {
		news->added = cached & ~slot->added;
		news->removed = slot->added & ~cached;
	} else {
		news->added = slot->added;
		news->removed = slot->removed;
	}
	if (task->states & DUET_PAGE_MODIFIED) {
		news->dirty = dirty & ~slot->dirty;
		news->flushed = slot->dirty & ~dirty;
	} else {
		news->dirty = slot->dirty;
		news->flushed = slot->flushed;
	}
	return news->added | news->removed | news->dirty | news->flushed;
}

/* The task has been told its news of these pages of the node. */
void duet_node_told(struct duet_node *node, const struct duet_task *task,
		    u64 pages)
{
	struct duet_slot *slot = &node->slot[task->slot];
	bool left = node->file->want[task->slot].flags & DUET_WANT_LEFT;

	lockdep_assert_held(&node->file->lock);
	slot->added &= ~pages;
	slot->removed &= ~pages;
	slot->dirty &= ~pages;
	slot->flushed &= ~pages;
	if (left)
		return;
	if (task->states & DUET_PAGE_EXISTS)
		slot->added |= node->cached & pages;
	if (task->states & DUET_PAGE_MODIFIED)
		slot->dirty |= node->dirty & pages;
}

static void duet_node_event(struct duet_file *file, struct duet_node *node,
			    u64 pages, u32 event)
{
	struct duet_news news;
	unsigned int i;

	if (file->nr_state) {
		switch (event) {
		case DUET_PAGE_ADDED:
			node->cached |= pages;
			break;
		case DUET_PAGE_REMOVED:
			node->cached &= ~pages;
			node->dirty &= ~pages;
			break;
		case DUET_PAGE_DIRTY:
			node->dirty |= pages;
			break;
		case DUET_PAGE_FLUSHED:
			node->dirty &= ~pages;
			break;
		}
	}

	duet_for_each_slot(i, &file->active) {
		struct duet_task *task = rcu_dereference(duet.task[i]);
		struct duet_slot *slot = &node->slot[i];

		if (!task)
			continue;
		switch (event & task->events) {
		case DUET_PAGE_ADDED:
			slot->added |= pages;
			break;
		case DUET_PAGE_REMOVED:
			slot->removed |= pages;
			break;
		case DUET_PAGE_DIRTY:
			slot->dirty |= pages;
			break;
		case DUET_PAGE_FLUSHED:
			slot->flushed |= pages;
			break;
		default:
			if (!(event & task->looks) ||
			    !duet_node_news(node, task, &news))
				continue;
		}
		duet_queue_node(node, task);
	}
}

/* No memory for an entry of this file's: who needs the truth looks himself. */
void duet_file_lost(struct duet_file *file)
{
	unsigned int i;

	lockdep_assert_held(&file->lock);
	file->stale = true;
	atomic_long_inc(&duet.nr_dropped);
	duet_for_each_slot(i, &file->active) {
		struct duet_task *task = rcu_dereference(duet.task[i]);

		if (!task)
			continue;
		atomic_long_inc(&task->nr_dropped);
		if (!task->states)
			continue;
		file->want[i].flags |= DUET_WANT_SYNC;
		duet_queue_file(file, task);
	}
}

/*
 * Records an event of a folio. In a probe; the caller is in an RCU read
 * section and has file->lock, the file is not dead.
 */
void duet_file_event(struct duet_file *file, u64 index, u64 nr, u32 event)
{
	u64 end = index + nr;

	lockdep_assert_held(&file->lock);
	while (index < end) {
		u64 run = index >> DUET_RUN_SHIFT;
		u64 next = min(end, (run + 1) << DUET_RUN_SHIFT);
		unsigned int first = index & (DUET_RUN_PAGES - 1);
		u64 pages = GENMASK_ULL(first + (next - index) - 1, first);
		struct duet_node *node = duet_node_find(file, run);

		if (!node) {
			/*
			 * Once in 64 pages. Possibly in reclaim, with xa_lock
			 * held: never waits, leaves the reserves alone.
			 */
			node = duet_node_alloc(GFP_NOWAIT | __GFP_NOWARN |
					       __GFP_NOMEMALLOC);
			if (!node) {
				duet_file_lost(file);
				return;
			}
			duet_node_add(file, run, node);
		}
		duet_node_event(file, node, pages, event);
		index = next;
	}
}
