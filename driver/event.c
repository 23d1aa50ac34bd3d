// SPDX-License-Identifier: GPL-2.0
/*
 * The way of an event from a hook to the tasks' marks: what every page of a
 * watched file system pays. All of it runs in probes, with preemption off:
 * that keeps what RCU protects. Nothing here waits, nothing is allocated but
 * an entry at the first sight of a file and a node once in 64 pages, and no
 * lock is taken that another file's events take.
 */
#include <linux/mm.h>
#include <linux/pagemap.h>
#include "duet.h"

DEFINE_PER_CPU(struct duet_counts, duet_counts);

/* Whether a state-based task has to be told something of the node. */
static __always_inline bool duet_node_differs(const struct duet_node *node,
					      const struct duet_task *task,
					      const u64 *bits)
{
	u64 differs = 0;

	if (task->states & DUET_PAGE_EXISTS)
		differs |= node->cached ^ bits[DUET_EVENT_ADDED];
	if (task->states & DUET_PAGE_MODIFIED)
		differs |= node->dirty ^ bits[DUET_EVENT_DIRTY];
	return differs;
}

/* Tells one task of an event, in a probe. */
static __always_inline void duet_slot_event(struct duet_node *node,
					    struct duet_slot *slot,
					    unsigned long i, u64 pages,
					    enum duet_event event)
{
	struct duet_task *task = duet_dereference(duet.task[i]);

	if (unlikely(!task))
		return;
	if (duet_is_queued(slot)) {	/* already: just mark */
		if (task->events & DUET_EVENT_BIT(event))
			slot->bits[event] |= pages;
		return;
	}
	if (!(task->events & DUET_EVENT_BIT(event)) &&
	    (!(task->looks & DUET_EVENT_BIT(event)) ||
	     !duet_node_differs(node, task, slot->bits)))
		return;
	if (unlikely(duet_is_full(task))) {
		duet_want_lost(node->file, task, DUET_DROP_TASK_LIMIT);
		return;
	}
	if (task->events & DUET_EVENT_BIT(event))
		slot->bits[event] |= pages;
	duet_queue_node(node, task);
}

/*
 * What duet_for_each_slot() does, in fewer instructions: some of a word of the
 * map, whose slots follow each other from the first of the word on.
 */
static __always_inline void duet_word_event(struct duet_node *node,
					    struct duet_slot *slots,
					    unsigned long left,
					    unsigned int first, u64 pages,
					    enum duet_event event)
{
	for (; left; left &= left - 1)
		duet_slot_event(node, &slots[__ffs(left)], first + __ffs(left),
				pages, event);
}

/* The rest of the map, where there can be more than 64 tasks. */
static noinline void duet_words_event(struct duet_node *node,
				      const struct duet_map *map, u64 pages,
				      enum duet_event event)
{
	unsigned int word, first;

	for (word = 1; word < duet.map_words; word++) {
		first = word * BITS_PER_LONG;
		duet_word_event(node, duet_slot_of(node, first),
				map->words[word], first, pages, event);
	}
}

/* Each task that wants the file; file->lock. */
static __always_inline void duet_tasks_event(struct duet_node *node,
					     const struct duet_map *map,
					     u64 pages, enum duet_event event)
{
	const unsigned long first = BIT(DUET_FIRST_SLOTS) - 1;
	unsigned long left = map->words[0];

	duet_word_event(node, node->slot, left & first, 0, pages, event);
	if (left & ~first)
		duet_word_event(node, node->more - DUET_FIRST_SLOTS,
				left & ~first, 0, pages, event);
	if (unlikely(duet.map_words > 1))
		duet_words_event(node, map, pages, event);
}

static __always_inline void duet_node_event(struct duet_file *file,
					    struct duet_node *node, u64 pages,
					    enum duet_event event)
{
	switch (event) {
	case DUET_EVENT_ADDED:
		if (file->nr_exists)
			node->cached |= pages;
		break;
	case DUET_EVENT_REMOVED:
		node->cached &= ~pages;
		node->dirty &= ~pages;
		break;
	case DUET_EVENT_DIRTY:
		if (file->nr_modified)
			node->dirty |= pages;
		break;
	default:
		node->dirty &= ~pages;
		break;
	}
	duet_tasks_event(node, &file->active, pages, event);
}

/*
 * No node for a part of the file. In a probe: possibly in reclaim, with
 * xa_lock held.
 */
static noinline void duet_file_lost(struct duet_file *file, enum duet_drop why)
{
	struct duet_task *task;
	unsigned int i;

	lockdep_assert_held(&file->lock);
	file->stale = true;
	duet_for_each_task(task, i, &file->active)
		duet_want_lost(file, task, why);
}

static bool duet_wants(const struct duet_task *task, enum duet_event event)
{
	return task->events & DUET_EVENT_BIT(event);
}

/*
 * Whether an event has to be kept where nothing was cached or told so far: not
 * for tasks that have no room for it, which would cost everybody's.
 */
static bool duet_is_news(const struct duet_file *file, enum duet_event event)
{
	const struct duet_task *task;
	unsigned int i;

	if ((event == DUET_EVENT_ADDED && file->nr_exists) ||
	    (event == DUET_EVENT_DIRTY && file->nr_modified))
		return true;
	duet_for_each_task(task, i, &file->active)
		if (duet_wants(task, event) && !duet_is_full(task))
			return true;
	return false;
}

/* No task that wants the event has room for it. */
static void duet_event_lost(struct duet_file *file, enum duet_event event)
{
	struct duet_task *task;
	unsigned int i;

	duet_for_each_task(task, i, &file->active)
		if (duet_wants(task, event))
			duet_want_lost(file, task, DUET_DROP_TASK_LIMIT);
}

static noinline struct duet_node *duet_node_make(struct duet_file *file,
						 u64 run,
						 enum duet_event event)
{
	struct duet_node *node;
	enum duet_drop why;

	if (duet_map_empty(&file->active))
		return NULL;
	if (!duet_is_news(file, event)) {
		duet_event_lost(file, event);
		return NULL;
	}
	node = duet_node_first(file, &why);
	/*
	 * Once in 64 pages. Possibly in reclaim, with xa_lock held: never
	 * waits, leaves the reserves alone.
	 */
	if (!node)
		node = duet_node_alloc(DUET_GFP_PROBE, &why);
	if (node)
		duet_node_add(file, run, node);
	else
		duet_file_lost(file, why);
	return node;
}

/* Records what happened to pages of one run of 64; file->lock. */
static __always_inline void duet_run_event(struct duet_file *file, u64 run,
					   u64 pages, enum duet_event event)
{
	struct duet_node *node = file->last;

	if (unlikely(!node || node->run != run)) {
		node = duet_node_find(file, run);
		if (!node)
			node = duet_node_make(file, run, event);
		if (!node)
			return;
	}
	duet_node_event(file, node, pages, event);
	/* Only these take something away that was all that it said. */
	if ((event == DUET_EVENT_REMOVED || event == DUET_EVENT_FLUSHED) &&
	    !node->nr_queued && !(node->cached | node->dirty))
		duet_node_gc(node);
}

/*
 * Records an event of a folio of several pages; file->lock. Out of the way of
 * the others, and once for all kinds of events.
 */
static noinline void duet_large_event(struct duet_file *file, u64 index,
				      u64 nr, enum duet_event event)
{
	u64 end = index + nr, next;

	/* Bounded by the runs of the folio: 8 for 2 MiB. */
	for (; index < end; index = next) {
		u64 run = index >> DUET_RUN_SHIFT;
		u64 pages = ~0ULL << (index & (DUET_RUN_PAGES - 1));

		next = (run + 1) << DUET_RUN_SHIFT;
		if (next > end) {
			pages &= ~0ULL >> (next - end);
			next = end;
		}
		duet_run_event(file, run, pages, event);
	}
}

/* Records an event of a folio; file->lock, the file is not dead. */
static __always_inline void duet_file_event(struct duet_file *file,
					    struct folio *folio,
					    enum duet_event event)
{
	u64 index = folio->index;

	lockdep_assert_held(&file->lock);
	if (likely(!folio_test_large(folio)))
		duet_run_event(file, index >> DUET_RUN_SHIFT,
			       1ULL << (index & (DUET_RUN_PAGES - 1)), event);
	else
		duet_large_event(file, index, folio_nr_pages(folio), event);
}

/*
 * A file that was not seen before, or whose last verdict is void. What a file
 * system keeps of its own in a page cache is no regular file. Only where
 * nothing of the page cache is locked: ADDED and FLUSHED.
 */
static noinline struct duet_file *duet_first_sight(struct inode *inode,
						   struct folio *folio,
						   enum duet_event event)
{
	struct duet_fs *fs;

	if (unlikely(!S_ISREG(inode->i_mode))) {
		duet_hook_proved(inode, (enum duet_hook_id)event);
		return NULL;
	}
	fs = duet_watched_fs(inode->i_sb);
	if (!fs)
		return NULL;
	if (unlikely(duet_may_be_lost(inode)) && duet_is_lost(inode)) {
		this_cpu_inc(duet_counts.drops[DUET_DROP_LIMIT]);
		return NULL;
	}
	return duet_decide_added(fs, inode, event == DUET_EVENT_ADDED ?
					    folio_nr_pages(folio) : 0);
}

/* Records an event of a folio; false when nobody wanted the file, and it died. */
static __always_inline bool duet_record(struct duet_file *file,
					struct folio *folio,
					enum duet_event event)
{
	/* The others are told with xa_lock held, so interrupts are off. */
	const bool irqs = event == DUET_EVENT_ADDED ||
			  event == DUET_EVENT_FLUSHED;
	bool dead;

	if (irqs)
		spin_lock_irq(&file->lock);
	else
		spin_lock(&file->lock);
	dead = file->dead;
	if (likely(!dead)) {
		this_cpu_inc(duet_counts.events[event]);
		duet_file_event(file, folio, event);
	}
	if (irqs)
		spin_unlock_irq(&file->lock);
	else
		spin_unlock(&file->lock);
	return !dead;
}

/* As long as it takes to have a verdict that lasts until it is recorded. */
static noinline void duet_decide_event(struct folio *folio,
				       enum duet_event event)
{
	struct inode *inode = folio->mapping->host;	/* the folio is locked */
	struct duet_file *file;

	for (;;) {
		file = duet_first_sight(inode, folio, event);
		if (!file || duet_record(file, folio, event))
			return;
		cpu_relax();
	}
}

/*
 * Functions of their own, so that an event of no interest, which is what most
 * are, saves no register.
 */
static noinline void duet_record_removed(struct duet_file *file,
					 struct folio *folio)
{
	duet_record(file, folio, DUET_EVENT_REMOVED);
}

static noinline void duet_record_dirtied(struct duet_file *file,
					 struct folio *folio)
{
	duet_record(file, folio, DUET_EVENT_DIRTY);
}

static noinline void duet_record_flushed(struct duet_file *file,
					 struct folio *folio)
{
	if (unlikely(!duet_record(file, folio, DUET_EVENT_FLUSHED)))
		duet_decide_event(folio, DUET_EVENT_FLUSHED);
}

static __always_inline bool duet_is_decided(const struct duet_file *file)
{
	return likely(file && READ_ONCE(file->epoch) == READ_ONCE(duet.epoch));
}

void duet_page_added(struct folio *folio, struct address_space *mapping)
{
	struct inode *inode = mapping->host;
	struct duet_file *file = duet_file_find(inode);

	if (duet_misses(DUET_EVENT_ADDED))
		return;
	if (duet_is_decided(file)) {
		if (likely(duet_record(file, folio, DUET_EVENT_ADDED)))
			return;
	} else if (!file && duet_nobody_wants(inode)) {
		return;
	}
	duet_decide_event(folio, DUET_EVENT_ADDED);
}

void duet_page_flushed(struct folio *folio, struct address_space *mapping)
{
	struct inode *inode = mapping->host;
	struct duet_file *file = duet_file_find(inode);

	if (duet_misses(DUET_EVENT_FLUSHED))
		return;
	if (duet_is_decided(file))
		duet_record_flushed(file, folio);
	else if (file || !duet_nobody_wants(inode))
		duet_decide_event(folio, DUET_EVENT_FLUSHED);
	duet_delay(DUET_DELAY_FLUSHED);
}

/* With xa_lock held there is no verdict: nothing of the file was cached. */

void duet_page_removed(struct folio *folio, struct address_space *mapping)
{
	struct inode *inode = mapping->host;
	struct duet_file *file = duet_file_find(inode);

	if (duet_misses(DUET_EVENT_REMOVED))
		return;
	if (file)
		duet_record_removed(file, folio);
	else if (unlikely(!S_ISREG(inode->i_mode)))
		duet_hook_proved(inode, DUET_HOOK_REMOVED);
}

void duet_page_dirtied(struct folio *folio, struct address_space *mapping)
{
	struct inode *inode = mapping->host;
	struct duet_file *file = duet_file_find(inode);

	if (duet_misses(DUET_EVENT_DIRTY))
		return;
	if (file)
		duet_record_dirtied(file, folio);
	else if (unlikely(!S_ISREG(inode->i_mode)))
		duet_hook_proved(inode, DUET_HOOK_DIRTIED);
}
