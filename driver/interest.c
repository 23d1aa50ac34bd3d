// SPDX-License-Identifier: GPL-2.0
/*
 * Who wants this file.
 *
 * A file is of interest to a task when one of its names lies below the task's
 * directory, which is decided by walking the dentries up to the directory's
 * inode: no path string is compared, and it does not matter whose context the
 * event came in. That walk takes i_lock and looks at rename_lock, so it is
 * done in ADDED, FLUSHED and in process context, never in REMOVED or DIRTIED,
 * and its result is kept: "somebody" in an entry of the file, found by its
 * inode, "nobody" in a small lossy cache. REMOVED and DIRTIED only
 * look the entry up. An inode that is unknown there interests nobody, since
 * all that is cached was seen by the scan or by ADDED.
 *
 * Both kinds of verdict die with the inode (clear_inode()). When directories
 * are registered or files move into one, duet.epoch makes the older verdicts
 * void.
 */
#include <linux/dcache.h>
#include <linux/hash.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include "compat.h"
#include "duet.h"
#include "trace.h"

static void duet_nobody_set(const struct inode *inode, unsigned int epoch)
{
	WRITE_ONCE(*duet_nobody_slot(inode), duet_nobody_word(inode, epoch));
}

static void duet_nobody_clear(const struct inode *inode)
{
	u64 *slot = duet_nobody_slot(inode);

	if (READ_ONCE(*slot) >> 16 == duet_nobody_word(inode, 0) >> 16)
		WRITE_ONCE(*slot, 0);
}

static DEFINE_SPINLOCK(duet_epoch_lock);

/* Every verdict so far is void. */
void duet_new_epoch(void)
{
	unsigned int epoch, i;

	/* In process context; probes only read the epoch. */
	spin_lock(&duet_epoch_lock);
	epoch = duet.epoch + 1;
	/* A word's epoch comes round: let no old word look like a new one. */
	if (!(u16)epoch)
		for (i = 0; i < 1U << DUET_NOBODY_BITS; i++)
			WRITE_ONCE(duet.nobody[i], 0);
	/* Who sees the new epoch sees what made it necessary. */
	smp_store_release(&duet.epoch, epoch);
	spin_unlock(&duet_epoch_lock);
}

int duet_interest_start(void)
{
	unsigned long files = duet.limit / duet.file_size;

	/* As many buckets as there can be files: chains stay short. */
	duet.file_bits = clamp_t(unsigned int, ilog2(files | 1) + 1, 10, 24);
	duet.nobody = kvcalloc(1U << DUET_NOBODY_BITS, sizeof(*duet.nobody),
			       GFP_KERNEL);
	/* Zeroed heads are empty lists. */
	duet.file_buckets = kvcalloc(1UL << duet.file_bits,
				     sizeof(*duet.file_buckets), GFP_KERNEL);
	duet.file_cache = kmem_cache_create("duet_file", duet.file_size, 0, 0,
					    NULL);
	if (duet.nobody && duet.file_buckets && duet.file_cache)
		return 0;
	duet_interest_stop();
	return -ENOMEM;
}

void duet_interest_stop(void)
{
	kmem_cache_destroy(duet.file_cache);
	kvfree(duet.file_buckets);
	kvfree(duet.nobody);
}

/* RCU. */
struct duet_fs *duet_watched_fs(const struct super_block *sb)
{
	unsigned int i, nr = READ_ONCE(duet.nr_watched);

	for (i = 0; i < nr; i++) {
		struct duet_fs *fs;

		if (READ_ONCE(duet.watched[i].sb) != sb)
			continue;
		fs = duet_dereference(duet.watched[i].fs);
		if (fs && READ_ONCE(fs->sb) == sb)
			return fs;
	}
	return NULL;
}

/* ---- entries of files ---- */

/*
 * A bucket is changed under one of these locks: alone, in process context or
 * a probe that has no lock of the page cache, so with interrupts on.
 */
#define DUET_FILE_LOCKS	256

static spinlock_t duet_file_locks[DUET_FILE_LOCKS] = {
	[0 ... DUET_FILE_LOCKS - 1] = __SPIN_LOCK_UNLOCKED(duet_file_locks)
};

static spinlock_t *duet_file_lock(const struct hlist_head *bucket)
{
	unsigned long nr = (unsigned long)bucket / sizeof(*bucket);

	return &duet_file_locks[nr % DUET_FILE_LOCKS];
}

struct duet_file *duet_file_alloc(gfp_t gfp, enum duet_drop *why)
{
	struct duet_file *file;

	if (!duet_charge(duet.file_size)) {
		*why = DUET_DROP_LIMIT;
		return NULL;
	}
	file = kmem_cache_zalloc(duet.file_cache, gfp);
	if (!file) {
		duet_uncharge(duet.file_size);
		*why = DUET_DROP_NOMEM;
		return NULL;
	}
	atomic_long_inc(&duet.nr_files);
	spin_lock_init(&file->lock);
	INIT_LIST_HEAD(&file->nodes);
	return file;
}

static void duet_file_free_rcu(struct rcu_head *rcu)
{
	kmem_cache_free(duet.file_cache,
			container_of(rcu, struct duet_file, rcu));
}

/* Probes may still be looking at it. */
void duet_file_free(struct duet_file *file)
{
	duet_uncharge(duet.file_size);
	atomic_long_dec(&duet.nr_files);
	call_rcu(&file->rcu, duet_file_free_rcu);
}

bool duet_has_file(const struct inode *inode)
{
	bool found;

	rcu_read_lock();
	found = duet_file_find(inode);
	rcu_read_unlock();
	return found;
}

static void duet_file_deactivate(struct duet_file *file,
				 struct duet_task *task)
{
	lockdep_assert_held(&file->lock);
	if (!__test_and_clear_bit(task->slot, file->active.words))
		return;
	atomic_long_dec(&task->nr_files);
	if (task->states)
		file->nr_state--;
}

/*
 * The entry of an inode that was evicted and is back: what its tasks were
 * told is still to be taken back. Comes with a hold.
 */
static struct duet_file *duet_file_reborn(struct duet_fs *fs,
					  struct inode *inode, u64 subvol)
{
	struct duet_file *file;

	hlist_for_each_entry_rcu(file, duet_file_bucket(inode->i_ino), hash,
				 rcu_read_lock_sched_held()) {
		struct duet_task *task;
		unsigned long flags;
		unsigned int i;
		bool mine;

		if (file->ino != inode->i_ino || file->fs != fs ||
		    file->subvol != subvol ||
		    file->gen != inode->i_generation || READ_ONCE(file->inode))
			continue;
		/* As in every probe: see table.c. */
		spin_lock_irqsave(&file->lock, flags);
		mine = !file->dead && !file->inode;
		if (mine) {
			WRITE_ONCE(file->inode, inode);
			file->holds++;
			/* They join again: something may have been missed. */
			duet_for_each_slot(i, &file->active) {
				task = duet_dereference(duet.task[i]);
				if (task)
					duet_file_deactivate(file, task);
			}
		}
		spin_unlock_irqrestore(&file->lock, flags);
		if (mine)
			return file;
	}
	return NULL;
}

/*
 * Makes the entry of a file. It comes with a hold: a task that lets go must
 * not take it away before somebody wants it. NULL without memory, or when
 * another CPU was faster.
 */
static struct duet_file *duet_file_make(struct duet_fs *fs, struct inode *inode,
					const struct duet_map *map,
					struct duet_file **spare,
					enum duet_drop *why)
{
	struct hlist_head *bucket = duet_file_bucket(inode->i_ino);
	const struct duet_task *task;
	struct duet_file *file;
	u64 subvol;

	/* A task that wants the file is in the same subvolume. */
	task = duet_dereference(duet.task[find_first_bit(map->words,
							 DUET_MAX_TASKS)]);
	subvol = task ? task->subvol : 0;
	file = duet_file_reborn(fs, inode, subvol);
	if (file)
		return file;
	if (spare && *spare) {
		file = *spare;
		*spare = NULL;
	} else {
		/* First sight of a file in a probe, where nothing may wait. */
		file = duet_file_alloc(GFP_NOWAIT | __GFP_NOWARN |
				       __GFP_NOMEMALLOC, why);
	}
	if (!file)
		return NULL;
	file->inode = inode;
	file->ino = inode->i_ino;
	file->subvol = subvol;
	file->fs = fs;
	file->gen = inode->i_generation;
	file->epoch = READ_ONCE(duet.epoch) - 1;
	file->holds = 1;

	/* See duet_file_locks. */
	spin_lock(duet_file_lock(bucket));
	if (!duet_file_find(inode)) {
		hlist_add_head_rcu(&file->hash, bucket);
		spin_unlock(duet_file_lock(bucket));
		return file;
	}
	spin_unlock(duet_file_lock(bucket));
	duet_file_free(file);
	return NULL;
}

/* Keeps a file beyond the RCU section; false when it is too late for that. */
bool duet_file_hold(struct duet_file *file)
{
	unsigned long flags;
	bool dead;

	spin_lock_irqsave(&file->lock, flags);
	dead = file->dead;
	if (!dead)
		file->holds++;
	spin_unlock_irqrestore(&file->lock, flags);
	return !dead;
}

/* Whether nobody needs the entry; file->lock. */
bool duet_file_unused(struct duet_file *file)
{
	lockdep_assert_held(&file->lock);
	return !file->holds && !file->nr_nodes &&
	       (!file->inode || duet_map_empty(&file->active));
}

/* Takes an entry away that was found unused and marked dead. */
void duet_file_bury(struct duet_file *file)
{
	struct hlist_head *bucket = duet_file_bucket(file->ino);

	/* See duet_file_locks. */
	spin_lock(duet_file_lock(bucket));
	hlist_del_rcu(&file->hash);
	spin_unlock(duet_file_lock(bucket));
	duet_remember_file(file);
	duet_file_free(file);
}

/* Gives up a hold of the file; the last one takes it away when it is unused. */
void duet_file_release(struct duet_file *file)
{
	unsigned long flags;
	bool dead;

	/*
	 * Whoever finds a dead entry tries again until it is out of the hash,
	 * perhaps on this CPU, in a probe: do not let it in between.
	 */
	preempt_disable();
	spin_lock_irqsave(&file->lock, flags);
	file->holds--;
	dead = duet_file_unused(file);
	if (dead)
		file->dead = true;
	spin_unlock_irqrestore(&file->lock, flags);
	if (dead)
		duet_file_bury(file);
	preempt_enable();
}

/* The entry that this task's uuid means. RCU. */
struct duet_file *duet_file_by_ino(struct duet_task *task, u64 ino, u32 gen)
{
	struct duet_file *file;

	hlist_for_each_entry_rcu(file, duet_file_bucket(ino), hash,
				 rcu_read_lock_sched_held()) {
		if (file->ino != ino || file->gen != gen ||
		    file->fs != task->fs || file->subvol != task->subvol ||
		    READ_ONCE(file->dead))
			continue;
		if (test_bit(task->slot, file->active.words) ||
		    READ_ONCE(file->want[task->slot].flags))
			return file;
	}
	return NULL;
}

/* The same, with a hold. */
struct duet_file *duet_file_held(struct duet_task *task, u64 ino, u32 gen)
{
	struct duet_file *file;

	rcu_read_lock();
	file = duet_file_by_ino(task, ino, gen);
	if (file && !duet_file_hold(file))
		file = NULL;
	rcu_read_unlock();
	return file;
}

static struct duet_file *duet_file_head(unsigned long bucket)
{
	return hlist_entry_safe(duet_dereference(hlist_first_rcu(&duet.file_buckets[bucket])),
				struct duet_file, hash);
}

static struct duet_file *duet_file_after(struct duet_file *file)
{
	return hlist_entry_safe(duet_dereference(hlist_next_rcu(&file->hash)),
				struct duet_file, hash);
}

/*
 * The next entry of the hash after file, which was the last one or NULL to
 * begin, with a hold; gives up the hold of file. NULL at the end.
 */
struct duet_file *duet_file_next(struct duet_file *file, unsigned long *bucket)
{
	struct duet_file *next;

	rcu_read_lock();
	if (file) {
		/* It is held, so it is in the hash still. */
		next = duet_file_after(file);
	} else {
		*bucket = 0;
		next = duet_file_head(0);
	}
	for (;;) {
		while (next && !duet_file_hold(next))
			next = duet_file_after(next);
		if (next || ++*bucket >> duet.file_bits)
			break;
		if (*bucket % 256 == 0) {
			rcu_read_unlock();
			cond_resched();
			rcu_read_lock();
		}
		next = duet_file_head(*bucket);
	}
	rcu_read_unlock();
	if (file)
		duet_file_release(file);
	return next;
}

/* ---- verdicts ---- */

/* Whether another subvolume begins above; tasks end at its border. */
static bool duet_is_border(const struct duet_fs *fs, const struct inode *inode)
{
	return fs->subvol_ino && inode->i_ino == fs->subvol_ino;
}

/*
 * Walks from a dentry up. Dentries are freed by RCU; the caller looks at
 * rename_lock. Returns whether the walk ended at the top, that is, whether
 * the dentry is connected, and in *below whether it met a root.
 */
static bool duet_walk(const struct duet_fs *fs, const struct duet_roots *roots,
		      const struct dentry *dentry, struct duet_map *map,
		      bool *below)
{
	const struct dentry *parent;
	unsigned int i;

	for (;; dentry = parent) {
		const struct inode *inode = READ_ONCE(dentry->d_inode);

		if (unlikely(!inode))
			return false;
		for (i = 0; i < roots->nr; i++) {
			if (READ_ONCE(roots->task[i]->root) != inode)
				continue;
			__set_bit(roots->task[i]->slot, map->words);
			*below = true;
		}
		if (duet_is_border(fs, inode))
			return true;
		parent = READ_ONCE(dentry->d_parent);
		if (parent == dentry)
			return dentry == dentry->d_sb->s_root;
	}
}

/*
 * Which tasks' directories the inode has a name under. Not under file->lock
 * nor xa_lock. Returns false when no name of it is known.
 */
static bool duet_verdict(struct duet_fs *fs, struct inode *inode,
			 struct duet_map *map, struct duet_origin *origin)
{
	const struct duet_roots *roots = duet_dereference(fs->roots);
	const struct inode *dir;
	struct dentry *alias;
	unsigned int seq;
	bool connected;

	do {
		bitmap_zero(map->words, DUET_MAX_TASKS);
		connected = false;
		seq = read_seqbegin(&rename_lock);
		/* i_lock keeps the aliases, is taken with interrupts on. */
		spin_lock(&inode->i_lock);
		hlist_for_each_entry(alias, &inode->i_dentry, DUET_D_ALIAS) {
			bool below = false;

			/* a name that was removed, while others are left */
			if (d_unhashed(alias) && inode->i_nlink)
				continue;
			if (roots)
				connected |= duet_walk(fs, roots, alias, map,
						       &below);
			dir = READ_ONCE(alias->d_parent->d_inode);
			if (!below || !dir)
				continue;
			origin->ino = dir->i_ino;
			origin->gen = dir->i_generation;
		}
		spin_unlock(&inode->i_lock);
	} while (read_seqretry(&rename_lock, seq));
	return connected;
}

/* The task wants the file's events from here on. */
static void duet_file_join(struct duet_file *file, struct duet_task *task,
			   unsigned int how)
{
	struct duet_want *want = &file->want[task->slot];

	lockdep_assert_held(&file->lock);
	if (test_bit(task->slot, file->active.words) ||
	    duet_is_silent(task, file->ino, file->gen))
		return;
	__set_bit(task->slot, file->active.words);
	atomic_long_inc(&task->nr_files);
	if (task->states && !file->nr_state++ && file->nr_nodes)
		file->stale = true;
	if (how & DUET_DECIDE_FRESH && !file->stale &&
	    !(want->flags & DUET_WANT_LEFT))
		return;
	if (want->flags & DUET_WANT_LEFT)
		want->flags |= DUET_WANT_BACK;
	want->flags &= ~DUET_WANT_LEFT;
	/* In its first scan, a task that wants no news has the file synced. */
	if (test_bit(DUET_TASK_QUIET, &task->flags))
		return;
	want->flags |= DUET_WANT_SYNC | DUET_WANT_NEW;
	duet_queue_file(file, task);
}

/* No name of the file is below the task's directory any more. */
static void duet_file_leave(struct duet_file *file, struct duet_task *task)
{
	struct duet_want *want = &file->want[task->slot];

	duet_file_deactivate(file, task);
	want->flags |= DUET_WANT_LEFT | DUET_WANT_SYNC;
	duet_queue_file(file, task);
}

/* No entry for a file that these tasks want. In a probe. */
static void duet_map_lost(const struct duet_map *map, enum duet_drop why)
{
	unsigned int i;

	duet_for_each_slot(i, map) {
		struct duet_task *task = duet_dereference(duet.task[i]);

		if (task)
			duet_task_lost(task, why);
	}
}

/*
 * Decides anew who wants a file, and returns its entry, if it has one then.
 * The inode does not die meanwhile: the caller has a reference, or a locked
 * folio of it. RCU. In a probe spare is NULL.
 */
struct duet_file *duet_decide(struct duet_fs *fs, struct inode *inode,
			      struct duet_file **spare, unsigned int how)
{
	struct duet_file *file, *made = NULL;
	enum duet_drop why = DUET_DROP_NOMEM;
	struct duet_origin origin = {};
	struct duet_task *silent = NULL;
	unsigned int epoch, i;
	struct duet_map map;
	bool known;
	int moves;

again:
	/* What the verdict sees is not older than these. */
	epoch = smp_load_acquire(&duet.epoch);
	moves = atomic_read_acquire(&fs->moves);
	file = duet_file_find(inode);
	if (how & DUET_DECIDE_OPENED && !made && inode->i_nlink < 2 &&
	    (file ? file->epoch == epoch : duet_nobody_wants(inode)))
		return file;
	known = duet_verdict(fs, inode, &map, &origin);
	trace_duet_verdict(inode, map.words[0], known);
	if (!known || inode->i_nlink > 1)
		duet_fs_unnamed(fs);
	duet_for_each_slot(i, &map) {
		struct duet_task *task = duet_dereference(duet.task[i]);

		if (task && task->fs == fs) {
			if (!duet_is_silent(task, inode->i_ino,
					    inode->i_generation))
				continue;
			silent = task;
		}
		__clear_bit(i, map.words);
	}
	if (!file) {
		if (duet_map_empty(&map)) {
			/* Who is done with a file may ask for its path. */
			if (silent && origin.ino)
				duet_remember(fs, silent->subvol, inode->i_ino,
					      inode->i_generation, &origin);
			/* Another name may be inside, and be used next. */
			if (known && inode->i_nlink < 2)
				duet_nobody_set(inode, epoch);
			goto check;
		}
		file = duet_file_make(fs, inode, &map, spare, &why);
		if (!file)
			file = duet_file_find(inode);
		else
			made = file;
		if (!file) {
			duet_map_lost(&map, why);
			return NULL;
		}
		/* CPUs that believe that nobody wants it look again. */
		duet_nobody_clear(inode);
	}

	/* Nothing of the page cache is locked, so interrupts are on. */
	spin_lock_irq(&file->lock);
	if (file->dead) {
		spin_unlock_irq(&file->lock);
		cpu_relax();
		goto again;
	}
	duet_for_each_slot(i, &map) {
		struct duet_task *task = duet_dereference(duet.task[i]);

		if (task)
			duet_file_join(file, task, how);
	}
	/* A name outside says nothing while another may be inside. */
	if ((known && (inode->i_nlink < 2 || how & DUET_DECIDE_LEAVE)) ||
	    how & DUET_DECIDE_UNNAMED) {
		duet_for_each_slot(i, &file->active) {
			struct duet_task *task = duet_dereference(duet.task[i]);

			if (task && !test_bit(i, map.words))
				duet_file_leave(file, task);
		}
	}
	if (origin.ino)
		file->origin = origin;
	file->nlink = inode->i_nlink;
	/* With no name known, the next event or open decides again. */
	file->epoch = known ? epoch : epoch - 1;
	/* Somebody wants it, which keeps it. */
	if (made && !duet_map_empty(&file->active)) {
		file->holds--;
		made = NULL;
	}
	spin_unlock_irq(&file->lock);

check:
	/* Either a rename sees what we wrote, or we see that it renamed. */
	smp_mb();
	if (atomic_read(&fs->moves) != moves)
		goto again;
	if (made)
		duet_file_release(made);
	return file;
}

/*
 * A name of the inode was removed, or moved while it has others, or perhaps
 * so if there are fewer now: each task that wants it looks for a name that is
 * left, when it reads. Here, where directories are locked, none can be looked
 * up. RCU.
 */
void duet_names_changed(struct inode *inode, bool removed)
{
	struct duet_file *file;
	unsigned long flags;
	unsigned int i;

	file = duet_file_find(inode);
	if (!file)
		return;
	/* As in every probe: see table.c. */
	spin_lock_irqsave(&file->lock, flags);
	if (file->dead || (!removed && file->nlink == inode->i_nlink))
		goto unlock;
	file->nlink = inode->i_nlink;
	duet_for_each_slot(i, &file->active) {
		struct duet_task *task = duet_dereference(duet.task[i]);

		if (!task)
			continue;
		file->want[i].flags |= DUET_WANT_VERIFY;
		duet_queue_file(file, task);
	}
unlock:
	spin_unlock_irqrestore(&file->lock, flags);
}

/* ---- the end of an inode ---- */

static void duet_node_evicted(struct duet_node *node, void *arg)
{
	struct duet_file *file = node->file;
	struct duet_news news;
	unsigned int i;

	node->cached = 0;
	node->dirty = 0;
	duet_for_each_slot(i, &file->active) {
		struct duet_task *task = duet_dereference(duet.task[i]);

		if (!task || node->slot[i].next ||
		    !duet_node_news(node, task, &news))
			continue;
		if (duet_is_full(task))
			duet_want_lost(file, task, DUET_DROP_TASK_LIMIT);
		else
			duet_queue_node(node, task);
	}
	duet_node_gc(node);
}

/* The inode dies: it has no page any more, and its address will be reused. */
void duet_inode_evicted(struct inode *inode)
{
	struct duet_file *file;
	unsigned long flags;

	rcu_read_lock();
	if (!S_ISREG(inode->i_mode)) {
		duet_hook_proved(inode, DUET_HOOK_EVICTED);
		goto out;
	}
	duet_nobody_clear(inode);
again:
	file = duet_file_find(inode);
	if (!file)
		goto out;
	/* As in every probe: see table.c. */
	spin_lock_irqsave(&file->lock, flags);
	if (file->dead) {
		spin_unlock_irqrestore(&file->lock, flags);
		cpu_relax();
		goto again;
	}
	WRITE_ONCE(file->inode, NULL);
	file->holds++;
	spin_unlock_irqrestore(&file->lock, flags);
	duet_file_each_node(file, duet_node_evicted, NULL);
	duet_file_release(file);
out:
	rcu_read_unlock();
}

/* ---- a task that lets go ---- */

static void duet_node_forget(struct duet_node *node, void *arg)
{
	struct duet_task *task = arg;
	struct duet_slot *slot = &node->slot[task->slot];

	if (slot->next) {
		node->nr_queued--;
		atomic_long_sub(duet.node_size, &task->pending);
	}
	memset(slot, 0, sizeof(*slot));
	if (!node->file->nr_state) {
		node->cached = 0;
		node->dirty = 0;
	}
	duet_node_gc(node);
}

/*
 * The task is done with the file, or the task itself ends: nothing of it
 * stays. Under task->lock, which keeps the task's lists of nodes to us.
 */
void duet_file_forget(struct duet_file *file, struct duet_task *task)
{
	struct duet_want *want = &file->want[task->slot];
	unsigned long flags;

	lockdep_assert_held(&task->lock);
	if (task->file == file)
		task->nodes = DUET_LIST_END;
	spin_lock_irqsave(&file->lock, flags);
	duet_file_deactivate(file, task);
	want->pending = NULL;
	want->flags &= DUET_WANT_QUEUED;
	file->holds++;
	spin_unlock_irqrestore(&file->lock, flags);
	duet_file_each_node(file, duet_node_forget, task);
	/* The task may ask for its path; others may keep the entry. */
	duet_remember_file(file);
	duet_file_release(file);
}

/* Drops files that wait for a reader who will not come. */
static void duet_drop_queue(struct duet_task *task, struct llist_node *queue)
{
	struct llist_node *next;
	struct duet_file *file;

	for (; queue; queue = next) {
		next = queue->next;
		file = duet_queued_file(task, queue);
		file->want[task->slot].flags = 0;
		atomic_long_sub(duet.file_size, &task->pending);
		duet_file_release(file);
	}
}

/* Takes a task that no probe sees any more out of every file. */
void duet_task_forget(struct duet_task *task)
{
	struct duet_file *file = NULL;
	unsigned long bucket;

	lockdep_assert_held(&task->lock);
	while ((file = duet_file_next(file, &bucket)))
		if (file->fs == task->fs)
			duet_file_forget(file, task);

	duet_drop_queue(task, task->todo);
	task->todo = NULL;
	duet_drop_queue(task, llist_del_all(&task->queue));
	if (task->file) {
		duet_file_release(task->file);
		task->file = NULL;
	}
}

static bool duet_leads_to(const struct duet_task *task,
			  const struct dentry *dentry)
{
	const struct inode *root = READ_ONCE(task->root);
	const struct dentry *parent;

	for (;; dentry = parent) {
		const struct inode *inode = READ_ONCE(dentry->d_inode);

		if (unlikely(!inode) || inode == root)
			return inode;
		if (duet_is_border(task->fs, inode))
			return false;
		parent = READ_ONCE(dentry->d_parent);
		if (parent == dentry)
			return false;
	}
}

/* Whether the inode has a name below the task's directory. */
bool duet_is_inside(const struct duet_task *task, struct inode *inode)
{
	struct dentry *alias;
	unsigned int seq;
	bool inside;

	rcu_read_lock();
	do {
		inside = false;
		seq = read_seqbegin(&rename_lock);
		/* In process context, as in duet_verdict(). */
		spin_lock(&inode->i_lock);
		hlist_for_each_entry(alias, &inode->i_dentry, DUET_D_ALIAS) {
			if (d_unhashed(alias) && inode->i_nlink)
				continue;
			inside = duet_leads_to(task, alias);
			if (inside)
				break;
		}
		spin_unlock(&inode->i_lock);
	} while (read_seqretry(&rename_lock, seq));
	rcu_read_unlock();
	return inside;
}

bool duet_below(const struct dentry *dentry, const struct inode *root)
{
	const struct dentry *parent;

	for (;; dentry = parent) {
		if (READ_ONCE(dentry->d_inode) == root)
			return true;
		parent = READ_ONCE(dentry->d_parent);
		if (parent == dentry)
			return false;
	}
}
