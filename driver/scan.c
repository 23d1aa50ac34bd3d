// SPDX-License-Identifier: GPL-2.0
/*
 * Bringing the table in line with the page cache itself: when a task
 * registers, when a file or a directory moves in or out of its directory,
 * when the table missed something. Runs in the context of the task's own
 * calls and may sleep.
 */
#include <linux/dcache.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include "compat.h"
#include "duet.h"

/* One file that is being brought in line, for one task. */
struct duet_sync {
	struct duet_file *file;
	struct address_space *mapping;
	struct duet_task *task;
	struct duet_node *spare;	/* allocated where waiting is allowed */
	bool short_of;			/* a node was needed, and none spare */
	bool fresh;			/* what is cached is an event */
	bool back;			/* and so is that it had gone */
	bool lost;			/* no memory for all of it */
	bool busy;			/* somebody kept writing it back */
	enum duet_drop why;
};

/* What was seen, to the node and to whom it is news; file->lock. */
static void duet_sync_node(struct duet_sync *sync, struct duet_node *node,
			   const struct duet_look *look)
{
	struct duet_file *file = sync->file;
	struct duet_task *task = sync->task;
	struct duet_slot *slot = duet_slot_of(node, task->slot);
	u64 *bits = slot->bits;
	struct duet_news news;

	duet_node_set(node, look->cached, look->dirty);
	duet_node_announce(node, task);
	if (file->want[task->slot].flags & DUET_WANT_LEFT) {
		if (task->events & DUET_PAGE_REMOVED)
			bits[DUET_EVENT_REMOVED] |= look->cached;
	} else if (test_bit(DUET_TASK_QUIET, &task->flags)) {
		if (!duet_is_queued(slot))
			duet_node_told(node, task, ~0ULL);
	} else if (sync->fresh) {
		if (task->events & DUET_PAGE_ADDED)
			bits[DUET_EVENT_ADDED] |= look->cached;
		if (task->events & DUET_PAGE_DIRTY)
			bits[DUET_EVENT_DIRTY] |= look->dirty;
		if (sync->back && task->events & DUET_PAGE_REMOVED)
			bits[DUET_EVENT_REMOVED] |= look->cached;
	}
	if (duet_node_news(node, task, &news))
		duet_queue_node(node, task);
	else
		duet_node_gc(node);
}

/* Whether there may be something to note of a run that has no node. */
static bool duet_sync_needs(const struct duet_sync *sync,
			    const struct duet_look *look)
{
	const struct duet_file *file = sync->file;

	if (sync->task->events || file->nr_exists)
		return look->cached;
	return file->nr_modified && look->dirty;
}

/*
 * A folio of the run that is dirty and locked, with a reference, or NULL. Who
 * looked holds xa_lock still, and so it is there.
 */
static struct folio *duet_busy_folio(struct xa_state *xas, u64 first,
				     const struct duet_look *look)
{
	u64 busy = look->dirty & look->locked;
	struct folio *folio;

	if (!busy)
		return NULL;
	xas_set(xas, first + __ffs64(busy));
	folio = xas_load(xas);
	return folio_try_get(folio) ? folio : NULL;
}

/*
 * Brings one run of the file in line, and tells the task of it as of news.
 * Returns a folio that has to be waited for, with a reference, or NULL.
 */
static struct folio *duet_sync_locked(struct duet_sync *sync, u64 run)
{
	u64 first = run << DUET_RUN_SHIFT;
	struct duet_file *file = sync->file;
	struct duet_look look = {};
	struct duet_node *node;
	struct folio *busy;

	XA_STATE(xas, &sync->mapping->i_pages, first);

	rcu_read_lock();
	xas_lock_irq(&xas);
	/*
	 * Below xa_lock, as the probes take it, and before the look: what
	 * FLUSHED, which takes no xa_lock, says meanwhile comes after it.
	 */
	spin_lock(&file->lock);
	duet_look_at(&xas, first, first + DUET_RUN_PAGES - 1, &look);
	duet_delay(DUET_DELAY_LOOK);
	node = duet_node_find(file, run);
	if (!node && duet_sync_needs(sync, &look)) {
		node = duet_node_first(file, &sync->why);
		if (!node)
			swap(node, sync->spare);
		if (node)
			duet_node_add(file, run, node);
		else
			sync->short_of = true;
	}
	if (node)
		duet_sync_node(sync, node, &look);
	spin_unlock(&file->lock);
	busy = duet_busy_folio(&xas, first, &look);
	xas_unlock_irq(&xas);
	rcu_read_unlock();
	return busy;
}

/* Has a node ready for where one may be needed; false without memory. */
static bool duet_sync_spare(struct duet_sync *sync)
{
	if (!sync->spare)
		sync->spare = duet_node_alloc(GFP_KERNEL, &sync->why);
	return sync->spare;
}

/* As above, and sees write-back that has begun on the run to its end. */
static void duet_sync_run(struct duet_sync *sync, u64 run)
{
	unsigned int rounds = 0;
	struct folio *busy;
	int err = 0;

	if (duet_nr_nodes(sync->file))
		duet_sync_spare(sync);
	duet_delay(DUET_DELAY_SPARE);
	do {
		sync->short_of = false;
		busy = duet_sync_locked(sync, run);
		if (busy) {
			err = folio_wait_locked_killable(busy);
			folio_put(busy);
		} else if (!sync->short_of) {
			break;
		}
		if (sync->short_of && !duet_sync_spare(sync)) {
			sync->lost = true;
			break;
		}
		/* One page after the other, if it must be, but not for ever. */
		if (++rounds > DUET_RUN_PAGES) {
			sync->busy = true;
			break;
		}
	} while (!err);
}

/* Whether there is no sense in going on. */
bool duet_is_cut_short(const struct duet_task *task)
{
	return fatal_signal_pending(current) ||
	       test_bit(DUET_TASK_STOPPED, &task->flags);
}

/* Every run that is cached. */
static void duet_sync_cached(struct duet_sync *sync)
{
	unsigned long index = 0;

	while (duet_next_cached(sync->mapping, &index, sync->task)) {
		cond_resched();
		if (duet_is_cut_short(sync->task))
			break;
		duet_sync_run(sync, index >> DUET_RUN_SHIFT);
		index |= DUET_RUN_PAGES - 1;
		if (++index == 0)
			break;
	}
}

struct duet_runs {
	unsigned int nr;
	unsigned int max;
	u64 *run;
};

static void duet_collect_run(struct duet_node *node, void *arg)
{
	struct duet_runs *runs = arg;

	if (runs->nr < runs->max)
		runs->run[runs->nr++] = node->run;
}

/* Every run that we know something of, cached or not. */
static void duet_sync_known(struct duet_sync *sync)
{
	struct duet_runs runs = { .max = duet_nr_nodes(sync->file) };
	unsigned int i;

	/* As large as users like: that it failed is told. */
	runs.run = kvmalloc_array(runs.max ?: 1, sizeof(*runs.run),
				  GFP_KERNEL | __GFP_NOWARN);
	if (!runs.run) {
		sync->why = DUET_DROP_NOMEM;
		sync->lost = true;
		return;
	}
	duet_file_each_node(sync->file, duet_collect_run, &runs);
	for (i = 0; i < runs.nr && !duet_is_cut_short(sync->task); i++) {
		duet_sync_run(sync, runs.run[i]);
		cond_resched();
	}
	kvfree(runs.run);
}

static void duet_node_recheck(struct duet_node *node, void *arg)
{
	struct duet_task *task = arg;
	struct duet_news news;

	if (node->file->inode)
		duet_node_trim(node);
	else			/* nothing is cached */
		duet_node_set(node, 0, 0);
	if (duet_node_news(node, task, &news))
		duet_queue_node(node, task);
	else
		duet_node_gc(node);
}

/*
 * A reference to the file's inode, with its file system pinned, without which
 * the inode would be in the way of an unmount. NULL when it is gone.
 */
struct inode *duet_file_inode(struct duet_file *file, struct duet_pin *pin)
{
	struct inode *inode;

	if (!duet_fs_pin(file->fs, pin))
		return NULL;
	/* Inodes are freed by RCU; igrab() refuses one that is dying. */
	rcu_read_lock();
	inode = READ_ONCE(file->inode);
	if (inode)
		inode = igrab(inode);
	rcu_read_unlock();
	if (inode && READ_ONCE(file->inode) == inode)
		return inode;
	duet_inode_put(inode, pin);
	return NULL;
}

/* What such functions took. */
void duet_inode_put(struct inode *inode, struct duet_pin *pin)
{
	iput(inode);
	duet_fs_unpin(pin);
}

/*
 * What the file knows that is cached no more was not all looked at. Others may
 * have compared it meanwhile without that: they do so again. file->lock.
 */
static void duet_hand_over(struct duet_file *file, const struct duet_task *task)
{
	struct duet_task *other;
	unsigned int i;

	lockdep_assert_held(&file->lock);
	file->stale = true;
	duet_for_each_task(other, i, &file->active) {
		if (other == task || !other->states)
			continue;
		file->want[i].flags |= DUET_WANT_SYNC;
		duet_queue_file(file, other);
	}
}

/*
 * Compares the file with the page cache for a task that began to want it, or
 * ceased to. The inode, if it is not gone, is kept by the caller.
 */
static void duet_sync_inode(struct duet_file *file, struct duet_task *task,
			    struct inode *inode)
{
	struct duet_sync sync = {
		.file = file,
		.task = task,
		.why = DUET_DROP_NOMEM,
	};
	struct duet_want *want = &file->want[task->slot];
	unsigned long flags;
	bool stale;

	lockdep_assert_held(&task->lock);
	/* As in every probe: see table.c. */
	spin_lock_irqsave(&file->lock, flags);
	sync.fresh = want->flags & DUET_WANT_NEW;
	sync.back = want->flags & DUET_WANT_BACK;
	want->flags &= ~(DUET_WANT_SYNC | DUET_WANT_NEW | DUET_WANT_BACK);
	stale = file->stale;
	file->stale = false;
	spin_unlock_irqrestore(&file->lock, flags);

	if (inode) {
		sync.mapping = inode->i_mapping;
		duet_sync_cached(&sync);
		/* Runs that were cached once and are not any more. */
		if (stale)
			duet_sync_known(&sync);
	}
	if (sync.spare)
		duet_node_free(sync.spare);
	duet_file_each_node(file, duet_node_recheck, task);

	if (likely(!sync.lost && !sync.busy && !duet_is_cut_short(task)))
		return;
	if (sync.lost)
		duet_task_drop(task, sync.why);
	spin_lock_irqsave(&file->lock, flags);
	if (stale)
		duet_hand_over(file, task);
	if (sync.lost) {	/* the task can not be told the truth: say so */
		want->flags |= DUET_WANT_LOST;
		file->stale = true;
	} else if (sync.busy) {	/* once more, at the next read */
		want->flags |= DUET_WANT_SYNC;
	} else {		/* it is being killed; another may share its end */
		want->flags |= DUET_WANT_SYNC |
			       (sync.fresh ? DUET_WANT_NEW : 0);
	}
	duet_queue_file(file, task);
	spin_unlock_irqrestore(&file->lock, flags);
}

/* The same for a file that the caller holds. */
void duet_sync_file(struct duet_file *file, struct duet_task *task)
{
	struct duet_pin pin;
	struct inode *inode = duet_file_inode(file, &pin);

	duet_sync_inode(file, task, inode);
	if (inode)
		duet_inode_put(inode, &pin);
}

/*
 * Directories that one call of a task reads for names, and how long it does:
 * each is read from its begin to the name, and others may have made it long.
 * What is left waits for the next call, and the task is woken for that.
 */
#define DUET_NAME_READS	256
#define DUET_NAME_TIME	(HZ / 4)

void duet_name_budget(struct duet_task *task)
{
	lockdep_assert_held(&task->lock);
	task->name_reads = DUET_NAME_READS;
}

/* Whether the call may read one more. */
bool duet_may_read_names(struct duet_task *task)
{
	lockdep_assert_held(&task->lock);
	if (task->name_reads == DUET_NAME_READS)
		task->name_end = jiffies + DUET_NAME_TIME;
	else if (time_after_eq(jiffies, task->name_end))
		task->name_reads = 0;
	if (!task->name_reads)
		return false;
	task->name_reads--;
	return true;
}

/*
 * The inode of a file went. Who wants it is decided anew when it comes back;
 * whether it was the task's, where that was put off, nobody can tell any more.
 */
static void duet_evicted_maybe(struct duet_task *task, struct duet_file *file)
{
	struct duet_want *want = &file->want[task->slot];
	unsigned long flags;

	/* As in every probe: see table.c. */
	spin_lock_irqsave(&file->lock, flags);
	if (want->flags & DUET_WANT_MAYBE && want->pending) {
		want->flags |= DUET_WANT_DROP;
		if (task->events)
			set_bit(DUET_TASK_LOST, &task->flags);
	}
	want->flags &= ~DUET_WANT_MAYBE;
	spin_unlock_irqrestore(&file->lock, flags);
}

/*
 * Sees whether the file has a name below the task's directory still, and
 * decides anew with what is known then. A name that the dcache has lost is
 * read from where it was last, if the call has reads left. The caller holds
 * the file, and no lock of the VFS.
 */
void duet_verify_names(struct duet_task *task, struct duet_file *file)
{
	struct duet_want *want = &file->want[task->slot];
	unsigned int how = DUET_DECIDE_LEAVE, why;
	struct duet_pin pin;
	struct inode *inode;
	unsigned long flags;
	struct path path;
	bool seen;
	int err;

	/* As in every probe: see table.c. First: it may be set again. */
	spin_lock_irqsave(&file->lock, flags);
	why = want->flags & (DUET_WANT_VERIFY | DUET_WANT_FIND);
	want->flags &= ~why;
	spin_unlock_irqrestore(&file->lock, flags);
	if (why & DUET_WANT_VERIFY)
		how |= DUET_DECIDE_UNNAMED;
	inode = duet_file_inode(file, &pin);
	if (!inode)
		goto gone;
	seen = !inode->i_nlink || duet_is_inside(task, inode);
	if (seen)
		duet_decide_for(task, file, inode, how);
	duet_inode_put(inode, &pin);
	if (seen)
		return;

	/* With nothing pinned but the mount, whose unmount fails meanwhile. */
	if (!duet_may_read_names(task))
		goto later;
	err = duet_name_again(task, file->ino, file->gen, &path);
	if (err == -ENOMEM)
		goto later;
	if (!err) {
		duet_decide_for(task, file, d_inode(path.dentry), how);
		path_put(&path);
		return;
	}
	inode = duet_file_inode(file, &pin);
	if (!inode)
		goto gone;
	duet_decide_for(task, file, inode, how);
	duet_inode_put(inode, &pin);
	return;

gone:
	if (!fatal_signal_pending(current)) {
		duet_evicted_maybe(task, file);
		return;
	}
later:
	spin_lock_irqsave(&file->lock, flags);
	want->flags |= why;
	spin_unlock_irqrestore(&file->lock, flags);
}

/*
 * Whether a file has to be compared for a task that looks at all. Who is
 * event-based is told only of files that are new to it, unless it asked. The
 * caller holds the file.
 */
static bool duet_scan_wants(struct duet_file *file, struct duet_task *task)
{
	struct duet_want *want = &file->want[task->slot];
	unsigned long flags;
	bool wants;

	/* As in every probe: see table.c. */
	spin_lock_irqsave(&file->lock, flags);
	if (test_bit(DUET_TASK_RETELL, &task->flags) &&
	    test_bit(task->slot, file->active.words))
		want->flags |= DUET_WANT_NEW;
	wants = want->flags & (DUET_WANT_SYNC | DUET_WANT_NEW) ||
		(task->states && (want->flags & DUET_WANT_LEFT ||
				  test_bit(task->slot, file->active.words)));
	spin_unlock_irqrestore(&file->lock, flags);
	return wants;
}

/*
 * Whether the inode may have a name below the task's directory that the dcache
 * does not know. It is where any of a single name's dentries is.
 */
static bool duet_is_unseen(const struct duet_task *task, struct inode *inode)
{
	if (inode->i_nlink == 1)
		return !duet_has_name(task, inode);
	return inode->i_nlink && !duet_is_inside(task, inode);
}

/*
 * Leaves it to the reader to look for that name where it was, one directory
 * at a time, if the task wants the file now. A scan reads no directory.
 */
static bool duet_find_later(struct duet_task *task, const struct inode *inode)
{
	struct duet_file *file;
	unsigned long flags;
	bool wanted;

	file = duet_file_held(task, inode->i_ino, inode->i_generation);
	if (!file)
		return false;
	/* As in every probe: see table.c. */
	spin_lock_irqsave(&file->lock, flags);
	wanted = test_bit(task->slot, file->active.words);
	if (wanted) {
		file->want[task->slot].flags |= DUET_WANT_FIND;
		duet_queue_file(file, task);
	}
	spin_unlock_irqrestore(&file->lock, flags);
	duet_file_release(file);
	return wanted;
}

/* One inode of the file system, for a task that scans. */
static void duet_scan_inode(struct duet_task *task, struct inode *inode,
			    struct duet_file **spare)
{
	struct duet_file *file;
	enum duet_drop why;
	bool unseen;

	if (duet_is_snapshot(task)) {
		duet_snapshot_inode(task, inode);
		return;
	}

	unseen = duet_is_unseen(task, inode) && duet_find_later(task, inode);
	/* Allocated here, where waiting is allowed. */
	if (!*spare)
		*spare = duet_file_alloc(GFP_KERNEL, &why);
	file = duet_decide_slowly(task->fs, inode, spare,
				  unseen ? 0 : DUET_DECIDE_LEAVE);
	if (!file)
		return;
	if (duet_scan_wants(file, task))
		duet_sync_inode(file, task, inode);
	duet_file_release(file);
}

/*
 * What is in no inode any more, but was not taken back yet, because there
 * was no room to say so.
 */
static void duet_scan_evicted(struct duet_task *task)
{
	struct duet_file *file = NULL;
	unsigned long bucket;

	while ((file = duet_file_next(file, &bucket))) {
		if (file->fs != task->fs || READ_ONCE(file->inode) ||
		    !duet_nr_nodes(file))
			continue;
		duet_file_each_node(file, duet_node_recheck, task);
	}
}

/*
 * Looks at every inode of the file system that has pages, or was of interest
 * until now: is it, to the task, and what of it is cached. The list's lock is
 * let go at every inode that is looked at, and at least every DUET_SCAN_STEP.
 */
#define DUET_SCAN_STEP	256

/* Whether to stop between two inodes, and why. */
static int duet_scan_cut(const struct duet_task *task,
			 const struct duet_pin *pin, bool yield)
{
	if (fatal_signal_pending(current))
		return -EINTR;
	if (test_bit(DUET_TASK_STOPPED, &task->flags))
		return -ESHUTDOWN;
	return yield && duet_fs_is_awaited(pin) ? -EAGAIN : 0;
}

static int duet_scan_inodes(struct duet_task *task, const struct duet_pin *pin,
			    bool yield)
{
	struct super_block *sb = pin->sb;
	struct inode *inode, *held = NULL;
	struct duet_file *spare = NULL;
	unsigned int skipped = 0, dying = 0, limit = DUET_SCAN_STEP;
	int err = 0;

	/* In process context; what is done under it is bounded by the step. */
	spin_lock(&sb->s_inode_list_lock);
	list_for_each_entry(inode, &sb->s_inodes, i_sb_list) {
		bool look = S_ISREG(inode->i_mode) &&
			    (data_race(inode->i_mapping->nrpages) ||
			     duet_has_file(inode));

		if (!look && ++skipped < DUET_SCAN_STEP)
			continue;
		/*
		 * The reference keeps our place in the list. An inode that dies
		 * is none. There may be many in a row: we come by again, when
		 * some have died, and if not, go twice as far.
		 */
		if (igrab(inode)) {
			spin_unlock(&sb->s_inode_list_lock);
			iput(held);
			held = inode;
			limit = DUET_SCAN_STEP;
			if (look)
				duet_scan_inode(task, inode, &spare);
		} else if (++dying < limit) {
			continue;
		} else {
			spin_unlock(&sb->s_inode_list_lock);
			inode = held ?: list_entry(&sb->s_inodes, struct inode,
						   i_sb_list);
			limit *= 2;
		}
		skipped = 0;
		dying = 0;
		cond_resched();
		err = duet_scan_cut(task, pin, yield);
		spin_lock(&sb->s_inode_list_lock);
		if (err)
			break;
	}
	spin_unlock(&sb->s_inode_list_lock);
	iput(held);
	if (spare)
		duet_file_free(spare);
	return err;
}

/*
 * Looks at all inodes, and lets go of the file system between two of them when
 * somebody waits for that: an unmount, a remount, a freeze. Without a pin there
 * is no place in the list of inodes to go on from, so that begins anew. Who
 * remounts all the time waits for the last of so many begins to its end.
 */
#define DUET_SCAN_BEGINS	8

static int duet_scan_pinned(struct duet_task *task)
{
	unsigned int begins = 0;
	struct duet_pin pin;
	int err;

	do {
		if (!duet_fs_pin(task->fs, &pin))	/* unmounted: no pages */
			return fatal_signal_pending(current) ? -EINTR : 0;
		if (duet_is_snapshot(task)) {	/* this takes its place */
			duet_snapshot_drop(task);
			duet_loss_take(task, DUET_TASK_LOST);
		}
		err = duet_scan_inodes(task, &pin, ++begins < DUET_SCAN_BEGINS);
		duet_fs_unpin(&pin);
	} while (err == -EAGAIN);
	return err;
}

int duet_scan(struct duet_task *task)
{
	long drops;
	int err;

	lockdep_assert_held(&task->lock);
	duet_loss_take(task, DUET_TASK_RESCAN);
	drops = duet_drops(task);
	/* Until it is seen that this one has room: see duet_task_lost(). */
	set_bit(DUET_TASK_STARVED, &task->flags);
	if (task->states && !duet_is_snapshot(task))
		duet_scan_evicted(task);
	err = duet_scan_pinned(task);
	if (err)
		set_bit(DUET_TASK_RESCAN, &task->flags);
	else
		clear_bit(DUET_TASK_RETELL, &task->flags);
	/* What is lost from here on is to be looked for, and not told. */
	if (drops == duet_drops(task))
		duet_loss_take(task, DUET_TASK_STARVED);
	return err;
}
