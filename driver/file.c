// SPDX-License-Identifier: GPL-2.0
/*
 * The entries of files that somebody wants, in a hash by inode number. Probes
 * find them without a lock; see duet.h for whose an entry is, and verdict.c
 * for who wants a file.
 */
#include <linux/hash.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include "duet.h"

/*
 * What is kept by inode number, the buckets here and the slots of path.c, is
 * changed under one of these locks: alone, in process context or a probe that
 * has no lock of the page cache, so with interrupts on. Each has a cache line;
 * a bit lock in each bucket is none that lockdep sees.
 */
#define DUET_INO_BITS	8

static struct {
	spinlock_t lock;
} ____cacheline_aligned_in_smp duet_ino_locks[1 << DUET_INO_BITS];

/* The top bits of the hash are those of the bucket and of the slot, too. */
spinlock_t *duet_ino_lock(u64 ino)
{
	return &duet_ino_locks[hash_64(ino, DUET_INO_BITS)].lock;
}

int duet_files_start(void)
{
	unsigned long files = duet.limit / duet.file_size;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(duet_ino_locks); i++)
		spin_lock_init(&duet_ino_locks[i].lock);
	/* As many buckets as there can be files: chains stay short. */
	duet.file_bits = clamp_t(unsigned int, ilog2(files | 1) + 1, 10, 24);
	/* That there is no memory for as much as was asked for, ENOMEM says. */
	duet.nobody = kvcalloc(1U << DUET_NOBODY_BITS, sizeof(*duet.nobody),
			       GFP_KERNEL | __GFP_NOWARN);
	/* Zeroed heads are empty lists. */
	duet.file_buckets = kvcalloc(1UL << duet.file_bits,
				     sizeof(*duet.file_buckets),
				     GFP_KERNEL | __GFP_NOWARN);
	duet.file_cache = kmem_cache_create("duet_file", duet.file_size, 0, 0,
					    NULL);
	if (duet.nobody && duet.file_buckets && duet.file_cache)
		return 0;
	duet_files_stop();
	return -ENOMEM;
}

void duet_files_stop(void)
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
	this_cpu_inc(duet_counts.files);
	spin_lock_init(&file->lock);
	file->salt = duet_salt();
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
	this_cpu_dec(duet_counts.files);
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

void duet_file_deactivate(struct duet_file *file,
			  struct duet_task *task)
{
	lockdep_assert_held(&file->lock);
	if (!__test_and_clear_bit(task->slot, file->active.words))
		return;
	this_cpu_dec(task->counts->files);
	if (task->states & DUET_PAGE_EXISTS)
		file->nr_exists--;
	if (task->states & DUET_PAGE_MODIFIED)
		file->nr_modified--;
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
				if (!task)
					continue;
				file->want[i].flags |= DUET_WANT_TOLD;
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
 * Makes the entry of a file. It comes with a hold, in *made: a task that lets
 * go must not take it away before somebody wants it. Without, when another CPU
 * was faster; NULL without memory. RCU.
 */
struct duet_file *duet_file_make(struct duet_fs *fs, struct inode *inode,
				 u64 subvol, struct duet_file **spare,
				 struct duet_file **made, enum duet_drop *why)
{
	struct hlist_head *bucket = duet_file_bucket(inode->i_ino);
	spinlock_t *lock = duet_ino_lock(inode->i_ino);
	struct duet_file *file, *found;

	file = duet_file_reborn(fs, inode, subvol);
	if (file) {
		*made = file;
		return file;
	}
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

	/* See duet_ino_locks. */
	spin_lock(lock);
	found = duet_file_find(inode);
	if (!found)
		hlist_add_head_rcu(&file->hash, bucket);
	spin_unlock(lock);
	if (found) {
		duet_file_free(file);
		return found;
	}
	*made = file;
	return file;
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
	spinlock_t *lock = duet_ino_lock(file->ino);

	/* See duet_ino_locks. */
	spin_lock(lock);
	hlist_del_rcu(&file->hash);
	spin_unlock(lock);
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
		WRITE_ONCE(file->dead, true);
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
		if (duet_is_active(file, task) ||
		    duet_want_flags(&file->want[task->slot]))
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

/* ---- the end of an inode ---- */

static void duet_node_evicted(struct duet_node *node, void *arg)
{
	node->cached = 0;
	node->dirty = 0;
	duet_node_announce(node, NULL);
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
	duet_delay(DUET_DELAY_EVICTED);
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
	rcu_read_unlock();
	/* Every file system may sleep where it evicts an inode. */
	duet_file_each_node_traced(file, duet_node_evicted, NULL);
	duet_file_release(file);
	return;
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
	duet_node_trim(node);
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
	/* Who joins meanwhile would be forgotten half, and his nodes be lost. */
	want->flags &= DUET_WANT_QUEUED;
	want->flags |= DUET_WANT_FORGET;
	file->holds++;
	spin_unlock_irqrestore(&file->lock, flags);
	duet_file_each_node(file, duet_node_forget, task);
	spin_lock_irqsave(&file->lock, flags);
	if (want->flags & DUET_WANT_MISSED)
		duet_task_rescan(task);
	want->flags &= ~(DUET_WANT_FORGET | DUET_WANT_MISSED);
	spin_unlock_irqrestore(&file->lock, flags);
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
