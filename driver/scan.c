// SPDX-License-Identifier: GPL-2.0
/*
 * Bringing the table in line with the page cache itself: when a task
 * registers, when a file or a directory moves in or out of its directory,
 * when the table missed something. Runs in the context of the task's own
 * calls and may sleep.
 *
 * The page cache is looked at under xa_lock, 64 pages at a time. REMOVED and
 * DIRTIED come under the same lock, ADDED after the page can be seen, so
 * whatever races, the later word is the truth.
 */
#include <linux/dcache.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include "duet.h"

/*
 * Brings one run of the file in line, and tells the task of it as of news.
 * Returns a folio that has to be waited for, with a reference, or NULL.
 */
static struct folio *duet_sync_run(struct duet_file *file,
				   struct address_space *mapping, u64 run,
				   struct duet_task *task,
				   struct duet_node **spare)
{
	u64 first = run << DUET_RUN_SHIFT;
	u64 last = first + DUET_RUN_PAGES - 1;
	struct folio *folio, *busy = NULL;
	u64 cached = 0, dirty = 0;
	struct duet_node *node;
	struct duet_news news;
	struct duet_slot *slot;
	unsigned int i;

	XA_STATE(xas, &mapping->i_pages, first);

	/* Bounded by the 64 pages of the run. */
	xas_lock_irq(&xas);
	xas_for_each(&xas, folio, last) {
		u64 from, to, pages;

		if (xas_retry(&xas, folio) || xa_is_value(folio))
			continue;
		from = max_t(u64, folio->index, first) - first;
		to = min_t(u64, folio_next_index(folio) - 1, last) - first;
		pages = GENMASK_ULL(to, from);
		cached |= pages;
		if (!folio_test_dirty(folio))
			continue;
		dirty |= pages;
		/*
		 * FLUSHED comes before the flag is cleared, with the folio
		 * locked: dirty and locked may be clean in a moment.
		 */
		if (!busy && folio_test_locked(folio) && folio_try_get(folio))
			busy = folio;
	}

	spin_lock(&file->lock);
	node = duet_node_find(file, run);
	if (!node && cached && *spare) {
		node = *spare;
		*spare = NULL;
		duet_node_add(file, run, node);
	}
	if (!node) {
		if (cached) {	/* over the limit: say so, do not try again */
			atomic_long_inc(&duet.nr_dropped);
			atomic_long_inc(&task->nr_dropped);
		}
		goto out;
	}
	if (file->nr_state) {
		node->cached = cached;
		node->dirty = dirty;
	}
	slot = &node->slot[task->slot];
	if (file->want[task->slot].flags & DUET_WANT_LEFT) {
		if (task->events & DUET_PAGE_REMOVED)
			slot->removed |= cached;
	} else {
		if (task->events & DUET_PAGE_ADDED)
			slot->added |= cached;
		if (task->events & DUET_PAGE_DIRTY)
			slot->dirty |= dirty;
		duet_for_each_slot(i, &file->active) {
			struct duet_task *other = rcu_dereference(duet.task[i]);

			if (other && other != task &&
			    duet_node_news(node, other, &news))
				duet_queue_node(node, other);
		}
	}
	if (duet_node_news(node, task, &news))
		duet_queue_node(node, task);
	else
		duet_node_gc(node);
out:
	spin_unlock(&file->lock);
	xas_unlock_irq(&xas);
	return busy;
}

/* As above, and sees write-back that has begun on the run to its end. */
static void duet_sync_settled(struct duet_file *file,
			      struct address_space *mapping, u64 run,
			      struct duet_task *task, struct duet_node **spare)
{
	struct folio *busy;

	/* Allocated here, where waiting is allowed, used under the locks. */
	if (!*spare)
		*spare = duet_node_alloc(GFP_KERNEL);
	do {
		rcu_read_lock();
		busy = duet_sync_run(file, mapping, run, task, spare);
		rcu_read_unlock();
		if (busy) {
			int err = folio_wait_locked_killable(busy);

			folio_put(busy);
			if (err)
				break;
		}
	} while (busy);
}

struct duet_runs {
	u64 after;
	unsigned int nr;
	u64 run[16];
};

/* Collects the lowest runs of the file that come after a given one. */
static void duet_collect_run(struct duet_node *node, void *arg)
{
	struct duet_runs *runs = arg;
	unsigned int i;

	if (node->run < runs->after)
		return;
	for (i = runs->nr; i > 0 && runs->run[i - 1] > node->run; i--)
		if (i < ARRAY_SIZE(runs->run))
			runs->run[i] = runs->run[i - 1];
	if (i < ARRAY_SIZE(runs->run)) {
		runs->run[i] = node->run;
		if (runs->nr < ARRAY_SIZE(runs->run))
			runs->nr++;
	}
}

static void duet_node_recheck(struct duet_node *node, void *arg)
{
	struct duet_task *task = arg;
	struct duet_news news;

	if (!node->file->inode) {
		node->cached = 0;
		node->dirty = 0;
	}
	if (duet_node_news(node, task, &news))
		duet_queue_node(node, task);
	else
		duet_node_gc(node);
}

static void duet_sync_cached(struct duet_file *file,
			     struct address_space *mapping,
			     struct duet_task *task, struct duet_node **spare)
{
	unsigned long index = 0;
	void *entry;

	while ((entry = xa_find(&mapping->i_pages, &index, ULONG_MAX,
				XA_PRESENT))) {
		cond_resched();
		if (fatal_signal_pending(current))
			break;
		if (!xa_is_value(entry)) {
			duet_sync_settled(file, mapping,
					  index >> DUET_RUN_SHIFT, task, spare);
			index |= DUET_RUN_PAGES - 1;
		}
		if (++index == 0)
			break;
	}
}

static void duet_sync_nodes(struct duet_file *file,
			    struct address_space *mapping,
			    struct duet_task *task, struct duet_node **spare)
{
	struct duet_runs runs = {};
	unsigned int i;

	do {
		runs.nr = 0;
		duet_file_each_node(file, duet_collect_run, &runs);
		for (i = 0; i < runs.nr; i++)
			duet_sync_settled(file, mapping, runs.run[i], task,
					  spare);
		if (runs.nr)
			runs.after = runs.run[runs.nr - 1] + 1;
	} while (runs.nr && !fatal_signal_pending(current));
}

/*
 * A reference to the file's inode, and to its superblock, without which the
 * inode would be in the way of an unmount. NULL when it is gone.
 */
struct inode *duet_file_inode(struct duet_file *file, struct super_block **sb)
{
	struct inode *inode;

	*sb = duet_fs_pin(file->key.fs);
	if (!*sb)
		return NULL;
	/* Inodes are freed by RCU; igrab() refuses one that is dying. */
	rcu_read_lock();
	inode = READ_ONCE(file->inode);
	if (inode)
		inode = igrab(inode);
	rcu_read_unlock();
	if (inode && READ_ONCE(file->inode) == inode)
		return inode;
	iput(inode);
	deactivate_super(*sb);
	return NULL;
}

/*
 * Compares the file with the page cache for a task that began to want it, or
 * ceased to. The caller holds the file; task->lock.
 */
void duet_sync_file(struct duet_file *file, struct duet_task *task)
{
	struct duet_node *spare = NULL;
	struct super_block *sb;
	struct inode *inode;
	unsigned long flags;
	bool stale;

	lockdep_assert_held(&task->lock);
	inode = duet_file_inode(file, &sb);

	spin_lock_irqsave(&file->lock, flags);
	file->want[task->slot].flags &= ~DUET_WANT_SYNC;
	stale = file->stale;
	file->stale = false;
	spin_unlock_irqrestore(&file->lock, flags);

	if (inode) {
		duet_sync_cached(file, inode->i_mapping, task, &spare);
		/* Runs that were cached once and are not any more. */
		if (stale)
			duet_sync_nodes(file, inode->i_mapping, task, &spare);
		iput(inode);
		deactivate_super(sb);
	}
	if (spare)
		duet_node_free(spare);
	rcu_read_lock();
	duet_file_each_node(file, duet_node_recheck, task);
	rcu_read_unlock();
}

/* One inode of the file system, for a task that scans. */
static void duet_scan_inode(struct duet_task *task, struct inode *inode,
			    struct duet_file **spare)
{
	struct duet_file *file;
	bool sync, named;

	/*
	 * A file that we know by a name whose dentry is gone: look the name up
	 * again, where it was, to see where that is now.
	 */
	rcu_read_lock();
	file = duet_file_by_inode(inode);
	named = !file || (inode->i_nlink == 1 &&
			  !hlist_empty(&inode->i_dentry));
	rcu_read_unlock();
	if (!named)
		dput(duet_name_again(task, inode->i_ino, inode->i_generation));

	/* Allocated here, where waiting is allowed. */
	if (!*spare)
		*spare = duet_file_alloc(GFP_KERNEL);
	rcu_read_lock();
	file = duet_decide(task->fs, inode, spare, DUET_DECIDE_LEAVE);
	sync = file && (test_bit(task->slot, file->active.words) ||
			READ_ONCE(file->want[task->slot].flags)) &&
	       duet_file_hold(file);
	rcu_read_unlock();
	if (sync) {
		duet_sync_file(file, task);
		duet_file_release(file);
	}
}

/*
 * Looks at every inode of the file system that has pages, or was of interest
 * until now: is it, to the task, and what of it is cached. The list's lock is let go at every
 * inode that is looked at, and at least every DUET_SCAN_STEP.
 */
#define DUET_SCAN_STEP	256

int duet_scan(struct duet_task *task)
{
	struct inode *inode, *held = NULL;
	struct duet_file *spare = NULL;
	unsigned int skipped = 0;
	struct super_block *sb;
	int err = 0;

	lockdep_assert_held(&task->lock);
	clear_bit(DUET_TASK_RESCAN, &task->flags);
	sb = duet_fs_pin(task->fs);
	if (!sb)
		return 0;	/* unmounted: nothing is cached any more */

	spin_lock(&sb->s_inode_list_lock);
	list_for_each_entry(inode, &sb->s_inodes, i_sb_list) {
		bool look = S_ISREG(inode->i_mode) &&
			    (inode->i_mapping->nrpages || duet_has_file(inode));

		if (!look && ++skipped < DUET_SCAN_STEP)
			continue;
		/* The reference keeps our place in the list. */
		if (!igrab(inode))
			continue;
		spin_unlock(&sb->s_inode_list_lock);
		iput(held);
		held = inode;
		skipped = 0;
		if (look)
			duet_scan_inode(task, inode, &spare);
		cond_resched();
		if (fatal_signal_pending(current))
			err = -EINTR;
		else if (test_bit(DUET_TASK_STOPPED, &task->flags))
			err = -ESHUTDOWN;
		spin_lock(&sb->s_inode_list_lock);
		if (err)
			break;
	}
	spin_unlock(&sb->s_inode_list_lock);
	iput(held);
	if (spare)
		duet_file_free(spare);
	deactivate_super(sb);
	if (err)
		set_bit(DUET_TASK_RESCAN, &task->flags);
	return err;
}
