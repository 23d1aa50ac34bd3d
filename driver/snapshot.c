// SPDX-License-Identifier: GPL-2.0
/*
 * A snapshot: what is cached now, told once, for who does not want to hear
 * what becomes of it. It goes past the table and needs no hook: of a file
 * nothing is kept but the runs of pages that are to be told, until they are
 * read. Runs in the context of the task's own calls and may sleep.
 */
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched.h>
#include "duet.h"
#include "trace.h"

/* A page of what is to be told, as runs whatever the task asked for. */
struct duet_chunk {
	struct list_head list;
	unsigned int nr;
	unsigned int next;		/* the first that was not told */
	struct duet_item item[];
};

#define DUET_CHUNK_ITEMS \
	((PAGE_SIZE - sizeof(struct duet_chunk)) / sizeof(struct duet_item))

static void duet_chunk_free(struct duet_task *task, struct duet_chunk *chunk)
{
	list_del(&chunk->list);
	free_page((unsigned long)chunk);
	atomic_long_sub(PAGE_SIZE, &task->pending);
	duet_uncharge(PAGE_SIZE);
}

/* Forgets what was not read. */
void duet_snapshot_drop(struct duet_task *task)
{
	struct duet_chunk *chunk, *next;

	lockdep_assert_held(&task->lock);
	list_for_each_entry_safe(chunk, next, &task->snapshot, list)
		duet_chunk_free(task, chunk);
}

/* A chunk with room for a run; NULL when there can be no more of them. */
static struct duet_chunk *duet_chunk_get(struct duet_task *task)
{
	enum duet_drop why = DUET_DROP_TASK_LIMIT;
	struct duet_chunk *chunk;

	chunk = list_last_entry(&task->snapshot, struct duet_chunk, list);
	if (!list_empty(&task->snapshot) && chunk->nr < DUET_CHUNK_ITEMS)
		return chunk;
	if (atomic_long_read(&task->pending) + PAGE_SIZE > task->limit)
		goto lost;
	why = DUET_DROP_LIMIT;
	if (!duet_charge(PAGE_SIZE))
		goto lost;
	why = DUET_DROP_NOMEM;
	chunk = (struct duet_chunk *)__get_free_page(GFP_KERNEL_ACCOUNT);
	if (!chunk) {
		duet_uncharge(PAGE_SIZE);
		goto lost;
	}
	chunk->nr = 0;
	chunk->next = 0;
	list_add_tail(&chunk->list, &task->snapshot);
	atomic_long_add(PAGE_SIZE, &task->pending);
	return chunk;
lost:
	if (!test_and_set_bit(DUET_TASK_LOST, &task->flags)) {
		duet_task_drop(task, why);
		trace_duet_overflow(task, 0, why);
	}
	return NULL;
}

static u16 duet_folio_state(const struct duet_task *task, struct folio *folio)
{
	u16 state = 0;

	if (task->states & DUET_PAGE_EXISTS)
		state |= DUET_PAGE_ADDED;
	if (task->states & DUET_PAGE_MODIFIED && folio_test_dirty(folio))
		state |= DUET_PAGE_DIRTY;
	return state;
}

/*
 * Adds what is cached of a file from the state's index on, as far as the
 * chunk has room, from at most DUET_RUN_PAGES entries of the page cache:
 * shadows of evicted pages count, of which there may be millions. False when
 * that was all.
 */
static bool duet_snapshot_part(const struct duet_task *task,
			       const struct inode *inode,
			       struct xa_state *xas, struct duet_chunk *chunk)
{
	struct duet_item *item = chunk->item + chunk->nr;
	unsigned int batch = DUET_RUN_PAGES;
	struct duet_item *last = NULL;
	struct folio *folio;

	/* Keeps folios from going and from being split; bounded by batch. */
	xas_lock_irq(xas);
	xas_for_each(xas, folio, ULONG_MAX) {
		u16 state = 0;

		if (!xas_retry(xas, folio) && !xa_is_value(folio))
			state = duet_folio_state(task, folio);
		if (state && last && last->state == state &&
		    last->idx + last->nr == folio->index) {
			last->nr += folio_nr_pages(folio);
		} else if (state) {
			*item = (struct duet_item){
				.uuid.ino = inode->i_ino,
				.uuid.gen = inode->i_generation,
				.uuid.tid = task->slot + 1,
				.idx = folio->index,
				.state = state,
				.nr = folio_nr_pages(folio),
			};
			last = item++;
			chunk->nr++;
		}
		if (!--batch || chunk->nr == DUET_CHUNK_ITEMS) {
			xas_pause(xas);
			break;
		}
	}
	xas_unlock_irq(xas);
	return folio;
}

/* One inode of the file system; the caller has a reference to it. */
void duet_snapshot_inode(struct duet_task *task, struct inode *inode)
{
	struct duet_chunk *chunk;
	struct dentry *name;

	XA_STATE(xas, &inode->i_mapping->i_pages, 0);

	lockdep_assert_held(&task->lock);
	if (test_bit(DUET_TASK_LOST, &task->flags) ||
	    !duet_is_inside(task, inode) ||
	    duet_is_silent(task, inode->i_ino, inode->i_generation) ||
	    !duet_may_know(task, inode))
		return;
	if (!task->privileged) {
		name = duet_reach(task, inode);
		if (IS_ERR(name))
			return;
		dput(name);
	}
	do {
		chunk = duet_chunk_get(task);
		if (!chunk || duet_is_cut_short(task))
			break;
		cond_resched();
	} while (duet_snapshot_part(task, inode, &xas, chunk));
}

/* Fills items with at most max of what is to be told, and returns how many. */
unsigned int duet_snapshot_read(struct duet_task *task,
				struct duet_item *items, unsigned int max)
{
	struct duet_chunk *chunk;
	struct duet_item *item;
	unsigned int n = 0;

	lockdep_assert_held(&task->lock);
	while (n < max && !list_empty(&task->snapshot)) {
		chunk = list_first_entry(&task->snapshot, struct duet_chunk,
					 list);
		if (chunk->next < chunk->nr) {
			item = &chunk->item[chunk->next];
			items[n] = *item;
			if (task->regflags & DUET_REGISTER_RANGES) {
				chunk->next++;
			} else {
				items[n].nr = 0;
				item->idx++;
				chunk->next += !--item->nr;
			}
			n++;
		}
		if (chunk->next == chunk->nr)
			duet_chunk_free(task, chunk);
	}
	return n;
}
