// SPDX-License-Identifier: GPL-2.0
/*
 * The entries of files that somebody wants, in two hashes: those of inodes
 * that live by the inode's address, where probes find them without a lock, and
 * all of them by number and generation. An inode number comes again when a file
 * is deleted, and an entry stays until it was read: of one number there may be
 * as many as a task may leave unread. See duet.h for whose an entry is, and
 * verdict.c for who wants a file.
 */
#include <linux/hash.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include "duet.h"

struct duet_key_lock duet_key_locks[1 << DUET_KEY_BITS];

static spinlock_t *duet_living_lock(const struct inode *inode)
{
	return duet_key_lock((uintptr_t)inode);
}

static struct hlist_nulls_head *duet_living_bucket(const struct inode *inode)
{
	return &duet.living[hash_ptr(inode, duet.file_bits)];
}

/* Where all entries are found. Nobody can foretell which share a bucket. */
static u64 duet_file_key(u64 ino, u32 gen)
{
	return (((u64)gen << 32) + ino) * duet.hash_key;
}

static struct hlist_head *duet_file_bucket(u64 key)
{
	return &duet.files[hash_64(key, duet.file_bits)];
}

/*
 * A bucket has no more, or what walks it would take too long. Chance does not
 * make that many, and numbers and generations that are alike are those of
 * copies of a file system, of which fewer can be watched.
 */
#define DUET_FILE_CHAIN		256

int duet_files_start(void)
{
	unsigned long files = duet.limit / duet.file_size;
	unsigned long i;

	for (i = 0; i < ARRAY_SIZE(duet_key_locks); i++)
		spin_lock_init(&duet_key_locks[i].lock);
	/* As many buckets as there can be files: chains stay short. */
	duet.file_bits = clamp_t(unsigned int, ilog2(files | 1) + 1, 10, 24);
	/* That there is no memory for as much as was asked for, ENOMEM says. */
	duet.nobody = kvcalloc(1U << DUET_NOBODY_BITS, sizeof(*duet.nobody),
			       GFP_KERNEL | __GFP_NOWARN);
	/* Zeroed heads are empty lists. */
	duet.files = kvcalloc(1UL << duet.file_bits, sizeof(*duet.files),
			      GFP_KERNEL | __GFP_NOWARN);
	duet.living = kvmalloc_array(1UL << duet.file_bits,
				     sizeof(*duet.living),
				     GFP_KERNEL | __GFP_NOWARN);
	duet.file_cache = kmem_cache_create("duet_file", duet.file_size, 0, 0,
					    NULL);
	if (!duet.nobody || !duet.files || !duet.living || !duet.file_cache) {
		duet_files_stop();
		return -ENOMEM;
	}
	for (i = 0; i >> duet.file_bits == 0; i++) {
		INIT_HLIST_NULLS_HEAD(&duet.living[i], i);
		if (i % 65536 == 0)
			cond_resched();
	}
	return 0;
}

void duet_files_stop(void)
{
	kmem_cache_destroy(duet.file_cache);
	kvfree(duet.living);
	kvfree(duet.files);
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

static DEFINE_PER_CPU(u32, duet_nr_salts);

/* A number for a file that nobody can foretell, and that few others have. */
static u32 duet_salt(void)
{
	/* On another CPU by now: then two files may have the same. */
	u64 nr = (u64)raw_smp_processor_id() << 32 |
		 this_cpu_inc_return(duet_nr_salts);

	return nr * duet.salt_key >> 32;
}

struct duet_file *duet_file_alloc(gfp_t gfp, enum duet_drop *why)
{
	struct duet_file *file = duet_alloc(duet.file_cache, duet.file_size,
					    gfp, why);

	if (!file)
		return NULL;
	this_cpu_inc(duet_counts.files);
	spin_lock_init(&file->lock);
	file->salt = duet_salt();
	INIT_LIST_HEAD(&file->nodes);
	return file;
}

static void duet_file_free_rcu(struct rcu_head *rcu)
{
	struct duet_file *file = container_of(rcu, struct duet_file, rcu);
	struct duet_slot *more = duet_first_node(file)->more;

	if (more)
		kmem_cache_free(duet.more_cache, more);
	kmem_cache_free(duet.file_cache, file);
}

/* Probes may still be looking at it. */
void duet_file_free(struct duet_file *file)
{
	duet_uncharge(duet.file_size);
	if (duet_first_node(file)->more)
		duet_uncharge(duet.more_size);
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
 * The entry of a file whose inode was evicted, and is back: what its tasks
 * were told is still to be taken back. Counts the entries that were looked at.
 */
static struct duet_file *duet_file_former(const struct duet_fs *fs,
					  const struct inode *inode, u64 subvol,
					  u64 key, unsigned int *seen)
{
	struct duet_file *file;

	/* Bounded by DUET_FILE_CHAIN, and what CPUs added at the same time. */
	hlist_for_each_entry_rcu(file, duet_file_bucket(key), all,
				 rcu_read_lock_sched_held()) {
		++*seen;
		if (file->ino == inode->i_ino &&
		    file->gen == inode->i_generation && file->fs == fs &&
		    file->subvol == subvol && !READ_ONCE(file->inode) &&
		    !READ_ONCE(file->dead))
			return file;
	}
	return NULL;
}

/* Such an entry is the inode's again, with a hold, if it is not too late. */
static bool duet_file_revive(struct duet_file *file, struct inode *inode)
{
	struct duet_task *task;
	unsigned long flags;
	unsigned int i;
	bool mine;

	lockdep_assert_held(duet_living_lock(inode));
	/* As in every probe: see table.c. */
	spin_lock_irqsave(&file->lock, flags);
	mine = !file->dead && !file->inode;
	if (mine) {
		WRITE_ONCE(file->inode, inode);
		file->holds++;
		/* They join again: something may have been missed. */
		duet_for_each_task(task, i, &file->active) {
			file->want[i].flags |= DUET_WANT_TOLD;
			duet_file_deactivate(file, task);
		}
		hlist_nulls_add_head_rcu(&file->living,
					 duet_living_bucket(inode));
	}
	spin_unlock_irqrestore(&file->lock, flags);
	return mine;
}

/* A new entry, or NULL. Unless there is a spare one, in a probe. */
static struct duet_file *duet_file_new(struct duet_fs *fs, struct inode *inode,
				       u64 subvol, struct duet_file **spare,
				       enum duet_drop *why)
{
	struct duet_file *file;

	if (spare && *spare) {
		file = *spare;
		*spare = NULL;
	} else {
		/* First sight of a file in a probe, where nothing may wait. */
		file = duet_file_alloc(DUET_GFP_PROBE, why);
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
	return file;
}

/* Puts an entry that is held among all of them. */
static void duet_file_list(struct duet_file *file, u64 key)
{
	spinlock_t *lock = duet_key_lock(key);

	/* See duet_key_locks. */
	spin_lock(lock);
	hlist_add_head_rcu(&file->all, duet_file_bucket(key));
	spin_unlock(lock);
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
	const u64 key = duet_file_key(inode->i_ino, inode->i_generation);
	spinlock_t *lock = duet_living_lock(inode);
	struct duet_file *file, *found;
	unsigned int seen = 0;

	file = duet_file_former(fs, inode, subvol, key, &seen);
	if (unlikely(file)) {
		/* See duet_key_locks. */
		spin_lock(lock);
		found = duet_file_find(inode);
		if (!found && duet_file_revive(file, inode))
			found = *made = file;
		spin_unlock(lock);
		if (found)
			return found;
	}
	if (unlikely(seen >= DUET_FILE_CHAIN)) {
		*why = DUET_DROP_LIMIT;
		return NULL;
	}
	file = duet_file_new(fs, inode, subvol, spare, why);
	if (!file)
		return NULL;

	/* As above. */
	spin_lock(lock);
	found = duet_file_find(inode);
	if (!found)
		hlist_nulls_add_head_rcu(&file->living,
					 duet_living_bucket(inode));
	spin_unlock(lock);
	if (found) {
		duet_file_free(file);
		return found;
	}
	duet_file_list(file, key);
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
	spinlock_t *lock;

	/* Which does not change any more. See duet_key_locks. */
	if (file->inode) {
		lock = duet_living_lock(file->inode);
		spin_lock(lock);
		hlist_nulls_del_rcu(&file->living);
		spin_unlock(lock);
	}
	lock = duet_key_lock(duet_file_key(file->ino, file->gen));
	spin_lock(lock);
	hlist_del_rcu(&file->all);
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

/*
 * The entry that this task's uuid means, or, of a file that the task may be
 * done with, any that others have. RCU.
 */
struct duet_file *duet_file_by_ino(struct duet_task *task, u64 ino, u32 gen,
				   bool others)
{
	u64 key = duet_file_key(ino, gen);
	struct duet_file *file;

	/* Bounded by DUET_FILE_CHAIN. */
	hlist_for_each_entry_rcu(file, duet_file_bucket(key), all,
				 rcu_read_lock_sched_held()) {
		if (file->ino != ino || file->gen != gen ||
		    file->fs != task->fs || file->subvol != task->subvol ||
		    READ_ONCE(file->dead))
			continue;
		if (others || duet_is_active(file, task) ||
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
	file = duet_file_by_ino(task, ino, gen, false);
	if (file && !duet_file_hold(file))
		file = NULL;
	rcu_read_unlock();
	return file;
}

static struct duet_file *duet_file_head(unsigned long bucket)
{
	return hlist_entry_safe(duet_dereference(hlist_first_rcu(&duet.files[bucket])),
				struct duet_file, all);
}

static struct duet_file *duet_file_after(struct duet_file *file)
{
	return hlist_entry_safe(duet_dereference(hlist_next_rcu(&file->all)),
				struct duet_file, all);
}

/*
 * The next of all entries after file, which was the last one or NULL to
 * begin, with a hold; gives up the hold of file. NULL at the end.
 */
struct duet_file *duet_file_next(struct duet_file *file, unsigned long *bucket)
{
	struct duet_file *next;

	rcu_read_lock();
	if (file) {
		/* It is held, so it is there still. */
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
	if (next)
		duet_delay(DUET_DELAY_WALKED);
	return next;
}

/* ---- the end of an inode ---- */

static void duet_node_evicted(struct duet_node *node, void *arg)
{
	duet_node_set(node, 0, 0);
	duet_node_announce(node, NULL);
	duet_node_gc(node);
}

/* The inode dies: it has no page any more, and its address will be reused. */
void duet_inode_evicted(struct inode *inode)
{
	spinlock_t *lock = duet_living_lock(inode);
	struct duet_file *file;
	unsigned long flags;
	bool dead;

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
	duet_delay(DUET_DELAY_EVICTED);
	/* See duet_key_locks; below, as in every probe: see table.c. */
	spin_lock(lock);
	spin_lock_irqsave(&file->lock, flags);
	dead = file->dead;
	if (!dead) {
		hlist_nulls_del_rcu(&file->living);
		WRITE_ONCE(file->inode, NULL);
		file->holds++;
	}
	spin_unlock_irqrestore(&file->lock, flags);
	spin_unlock(lock);
	if (dead) {
		/* It goes with preemption off: a moment. */
		cpu_relax();
		goto again;
	}
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
	struct duet_slot *slot;

	if (!duet_slot_is(node, task->slot))
		return;
	slot = duet_slot_of(node, task->slot);
	if (duet_is_queued(slot)) {
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
	if (duet_is_snapshot(task))	/* which goes past them */
		return;
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
