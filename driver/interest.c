// SPDX-License-Identifier: GPL-2.0
/*
 * Who wants this file.
 *
 * A file is of interest to a task when one of its names lies below the task's
 * directory, which is decided by walking the dentries up to the directory's
 * inode: no path string is compared, and it does not matter whose context the
 * event came in. That walk takes i_lock and looks at rename_lock, so it is
 * done in ADDED, FLUSHED and in process context, never in REMOVED or DIRTIED,
 * and its result is kept: "somebody" in an entry of the file, found by the
 * inode's address, "nobody" in a small lossy cache. REMOVED and DIRTIED only
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
#include "duet.h"

/*
 * The cache of "nobody" verdicts: a slot holds the inode's address and the
 * low bits of the epoch in one word, so it is read and written without a
 * lock. A collision forgets a verdict, which is then found again.
 */
#define DUET_NOBODY_BITS	14
#define DUET_NOBODY_EPOCH_BITS	19
#define DUET_NOBODY_EPOCH_MASK	((1U << DUET_NOBODY_EPOCH_BITS) - 1)

static u64 *duet_nobody;

static u64 *duet_nobody_slot(const struct inode *inode)
{
	return &duet_nobody[hash_ptr(inode, DUET_NOBODY_BITS)];
}

/* The 45 bits of an inode's address that differ, above the epoch's bits. */
static u64 duet_nobody_word(const struct inode *inode, unsigned int epoch)
{
	return ((u64)(uintptr_t)inode >> 3) << DUET_NOBODY_EPOCH_BITS |
	       (epoch & DUET_NOBODY_EPOCH_MASK);
}

static bool duet_nobody_wants(const struct inode *inode)
{
	return READ_ONCE(*duet_nobody_slot(inode)) ==
	       duet_nobody_word(inode, atomic_read(&duet.epoch));
}

static void duet_nobody_set(const struct inode *inode, unsigned int epoch)
{
	WRITE_ONCE(*duet_nobody_slot(inode), duet_nobody_word(inode, epoch));
}

static void duet_nobody_clear(const struct inode *inode)
{
	u64 *slot = duet_nobody_slot(inode);

	if (READ_ONCE(*slot) >> DUET_NOBODY_EPOCH_BITS ==
	    duet_nobody_word(inode, 0) >> DUET_NOBODY_EPOCH_BITS)
		WRITE_ONCE(*slot, 0);
}

/* Every verdict so far is void. */
void duet_new_epoch(void)
{
	unsigned int epoch = atomic_inc_return(&duet.epoch);
	unsigned int i;

	/* A word's epoch comes round: let no old word look like a new one. */
	if (!(epoch & DUET_NOBODY_EPOCH_MASK))
		for (i = 0; i < 1U << DUET_NOBODY_BITS; i++)
			WRITE_ONCE(duet_nobody[i], 0);
}

static u32 duet_hash_inode(const void *data, u32 len, u32 seed)
{
	return hash_64(*(const u64 *)data ^ seed, 32);
}

static const struct rhashtable_params duet_by_inode_params = {
	.key_len = sizeof(struct inode *),
	.key_offset = offsetof(struct duet_file, key_inode),
	.head_offset = offsetof(struct duet_file, by_inode),
	.hashfn = duet_hash_inode,
	.automatic_shrinking = true,
};

static const struct rhashtable_params duet_by_ino_params = {
	.key_len = sizeof(struct duet_key),
	.key_offset = offsetof(struct duet_file, key),
	.head_offset = offsetof(struct duet_file, by_ino),
	.automatic_shrinking = true,
};

int duet_interest_start(void)
{
	int err;

	duet_nobody = kvcalloc(1U << DUET_NOBODY_BITS, sizeof(*duet_nobody),
			       GFP_KERNEL);
	if (!duet_nobody)
		return -ENOMEM;
	err = rhashtable_init(&duet.by_inode, &duet_by_inode_params);
	if (err)
		goto free_nobody;
	err = rhltable_init(&duet.by_ino, &duet_by_ino_params);
	if (err)
		goto free_by_inode;
	duet.file_cache = kmem_cache_create("duet_file", duet.file_size, 0, 0,
					    NULL);
	if (!duet.file_cache) {
		err = -ENOMEM;
		goto free_by_ino;
	}
	return 0;

free_by_ino:
	rhltable_destroy(&duet.by_ino);
free_by_inode:
	rhashtable_destroy(&duet.by_inode);
free_nobody:
	kvfree(duet_nobody);
	return err;
}

void duet_interest_stop(void)
{
	kmem_cache_destroy(duet.file_cache);
	rhltable_destroy(&duet.by_ino);
	rhashtable_destroy(&duet.by_inode);
	kvfree(duet_nobody);
}

struct duet_fs *duet_watched_fs(const struct super_block *sb)
{
	struct duet_watched *watched = rcu_dereference(duet.watched);
	unsigned int i;

	if (!watched)
		return NULL;
	for (i = 0; i < watched->nr; i++)
		if (READ_ONCE(watched->fs[i]->sb) == sb)
			return watched->fs[i];
	return NULL;
}

/* ---- entries of files ---- */

struct duet_file *duet_file_alloc(gfp_t gfp)
{
	struct duet_file *file;

	if (atomic_long_read(&duet.bytes) + duet.file_size > duet.limit)
		return NULL;
	file = kmem_cache_zalloc(duet.file_cache, gfp);
	if (!file)
		return NULL;
	atomic_long_add(duet.file_size, &duet.bytes);
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
	atomic_long_sub(duet.file_size, &duet.bytes);
	atomic_long_dec(&duet.nr_files);
	call_rcu(&file->rcu, duet_file_free_rcu);
}

struct duet_file *duet_file_by_inode(const struct inode *inode)
{
	return rhashtable_lookup(&duet.by_inode, &inode, duet_by_inode_params);
}

bool duet_has_file(const struct inode *inode)
{
	bool found;

	rcu_read_lock();
	found = duet_file_by_inode(inode);
	rcu_read_unlock();
	return found;
}

/*
 * What is left of a file whose inode was evicted, and has come back. Returned
 * with a hold, as by duet_file_make().
 */
static struct duet_file *duet_file_reborn(struct duet_fs *fs,
					  struct inode *inode,
					  const struct duet_map *map)
{
	struct duet_key key = { .fs = fs, .ino = inode->i_ino };
	struct rhlist_head *list, *pos;
	struct duet_file *file;
	unsigned long flags;
	unsigned int i;
	bool mine;

	list = rhltable_lookup(&duet.by_ino, &key, duet_by_ino_params);
	rhl_for_each_entry_rcu(file, pos, list, by_ino) {
		if (file->gen != inode->i_generation || READ_ONCE(file->inode))
			continue;
		/* A subvolume's sibling has the same number, not the tasks. */
		mine = false;
		duet_for_each_slot(i, map)
			if (test_bit(i, file->active.words))
				mine = true;
		if (!mine)
			continue;
		spin_lock_irqsave(&file->lock, flags);
		mine = !file->dead && !file->inode;
		if (mine) {
			file->inode = inode;
			file->key_inode = inode;
			file->holds++;
		}
		spin_unlock_irqrestore(&file->lock, flags);
		if (!mine)
			continue;
		if (!rhashtable_lookup_insert_fast(&duet.by_inode,
						   &file->by_inode,
						   duet_by_inode_params))
			return file;
		spin_lock_irqsave(&file->lock, flags);
		file->inode = NULL;
		spin_unlock_irqrestore(&file->lock, flags);
		duet_file_release(file);
	}
	return NULL;
}

/*
 * Makes the entry of a file. It comes with a hold: a task that lets go must
 * not take it away before it is in both hashes and somebody wants it. NULL
 * without memory, or when another CPU was faster.
 */
static struct duet_file *duet_file_make(struct duet_fs *fs, struct inode *inode,
					const struct duet_map *map,
					struct duet_file **spare)
{
	struct duet_file *file;
	int err;

	file = duet_file_reborn(fs, inode, map);
	if (file)
		return file;
	if (spare) {
		file = *spare;
		*spare = NULL;
	} else {
		/* First sight of a file in a probe, where nothing may wait. */
		file = duet_file_alloc(GFP_NOWAIT | __GFP_NOWARN |
				       __GFP_NOMEMALLOC);
	}
	if (!file)
		return NULL;
	file->inode = inode;
	file->key_inode = inode;
	file->key.fs = fs;
	file->key.ino = inode->i_ino;
	file->gen = inode->i_generation;
	file->epoch = atomic_read(&duet.epoch) - 1;

	file->holds = 1;

	/* by_ino first: whoever finds it by its inode finds it whole. */
	err = rhltable_insert(&duet.by_ino, &file->by_ino, duet_by_ino_params);
	if (err)
		goto free;
	err = rhashtable_lookup_insert_fast(&duet.by_inode, &file->by_inode,
					    duet_by_inode_params);
	if (!err)
		return file;
	rhltable_remove(&duet.by_ino, &file->by_ino, duet_by_ino_params);
free:
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

/* Gives up a hold of the file; the last one takes it away when it is unused. */
void duet_file_release(struct duet_file *file)
{
	unsigned long flags;
	struct inode *inode;
	bool dead;

	/*
	 * Whoever finds a dead entry tries again until it is out of the hash,
	 * perhaps on this CPU, in a probe: do not let it in between.
	 */
	preempt_disable();
	spin_lock_irqsave(&file->lock, flags);
	file->holds--;
	inode = file->inode;
	dead = !file->dead && !file->holds && list_empty(&file->nodes) &&
	       (!inode || bitmap_empty(file->active.words, duet.max_tasks));
	if (dead)
		file->dead = true;
	spin_unlock_irqrestore(&file->lock, flags);
	if (dead) {
		if (inode)
			rhashtable_remove_fast(&duet.by_inode, &file->by_inode,
					       duet_by_inode_params);
		duet_remember_origin(file);
		rhltable_remove(&duet.by_ino, &file->by_ino,
				duet_by_ino_params);
		duet_file_free(file);
	}
	preempt_enable();
}

/* The entry that this task's uuid means. RCU. */
struct duet_file *duet_file_by_ino(struct duet_task *task, u64 ino, u32 gen)
{
	struct duet_key key = { .fs = task->fs, .ino = ino };
	struct rhlist_head *list, *pos;
	struct duet_file *file;

	list = rhltable_lookup(&duet.by_ino, &key, duet_by_ino_params);
	rhl_for_each_entry_rcu(file, pos, list, by_ino) {
		if (file->gen != gen || READ_ONCE(file->dead))
			continue;
		if (test_bit(task->slot, file->active.words) ||
		    READ_ONCE(file->want[task->slot].flags))
			return file;
	}
	return NULL;
}

/* ---- verdicts ---- */

/*
 * Walks from a dentry up. Dentries are freed by RCU; the caller looks at
 * rename_lock. Returns whether the walk ended at the top, that is, whether
 * the dentry is connected.
 */
static bool duet_walk(const struct duet_fs *fs, const struct duet_roots *roots,
		      const struct dentry *dentry, struct duet_map *map)
{
	const struct dentry *parent;
	unsigned int i;

	for (;; dentry = parent) {
		const struct inode *inode = READ_ONCE(dentry->d_inode);

		for (i = 0; i < roots->nr; i++)
			if (roots->root[i].inode == inode)
				__set_bit(roots->root[i].slot, map->words);
		/* Another subvolume begins above; tasks end at its border. */
		if (fs->subvol_ino && inode && inode->i_ino == fs->subvol_ino)
			return true;
		parent = READ_ONCE(dentry->d_parent);
		if (parent == dentry)
			return dentry == READ_ONCE(inode->i_sb->s_root);
	}
}

/*
 * Which tasks' directories the inode has a name under. Not under file->lock
 * nor xa_lock. Returns false when no name of it is known.
 */
static bool duet_verdict(struct duet_fs *fs, struct inode *inode,
			 struct duet_map *map, struct duet_origin *origin)
{
	const struct duet_roots *roots = rcu_dereference(fs->roots);
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
		hlist_for_each_entry(alias, &inode->i_dentry, d_u.d_alias) {
			struct duet_map below = {};

			/* a name that was removed, while others are left */
			if (d_unhashed(alias) && inode->i_nlink)
				continue;
			if (roots)
				connected |= duet_walk(fs, roots, alias, &below);
			dir = READ_ONCE(alias->d_parent->d_inode);
			if (bitmap_empty(below.words, duet.max_tasks) || !dir)
				continue;
			bitmap_or(map->words, map->words, below.words,
				  duet.max_tasks);
			origin->ino = dir->i_ino;
			origin->gen = dir->i_generation;
		}
		spin_unlock(&inode->i_lock);
	} while (read_seqretry(&rename_lock, seq));
	return connected;
}

bool duet_is_done(struct duet_task *task, u64 ino, u32 gen)
{
	return xa_load(&task->done, ino) == xa_mk_value(gen);
}

/* The task wants the file's events from here on. */
static void duet_file_join(struct duet_file *file, struct duet_task *task,
			   unsigned int how)
{
	struct duet_want *want = &file->want[task->slot];

	lockdep_assert_held(&file->lock);
	if (test_bit(task->slot, file->active.words) ||
	    duet_is_done(task, file->key.ino, file->gen))
		return;
	__set_bit(task->slot, file->active.words);
	if (task->states && !file->nr_state++ && file->nr_nodes)
		file->stale = true;
	if (how & DUET_DECIDE_FRESH && !file->stale &&
	    !(want->flags & DUET_WANT_LEFT))
		return;
	want->flags &= ~DUET_WANT_LEFT;
	want->flags |= DUET_WANT_SYNC;
	duet_queue_file(file, task);
}

static void duet_file_deactivate(struct duet_file *file,
				 struct duet_task *task)
{
	lockdep_assert_held(&file->lock);
	if (__test_and_clear_bit(task->slot, file->active.words) &&
	    task->states)
		file->nr_state--;
}

/* No name of the file is below the task's directory any more. */
static void duet_file_leave(struct duet_file *file, struct duet_task *task)
{
	struct duet_want *want = &file->want[task->slot];

	duet_file_deactivate(file, task);
	want->flags |= DUET_WANT_LEFT | DUET_WANT_SYNC;
	duet_queue_file(file, task);
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
	struct duet_origin origin = {};
	unsigned int epoch, i;
	unsigned long flags;
	struct duet_map map;
	bool known;
	int moves;

again:
	epoch = atomic_read(&duet.epoch);
	moves = atomic_read(&fs->moves);
	smp_rmb();	/* what the verdict sees is not older than these */
	file = duet_file_by_inode(inode);
	if (how & DUET_DECIDE_OPENED && inode->i_nlink < 2 &&
	    (file ? file->epoch == epoch : duet_nobody_wants(inode)))
		return file;
	known = duet_verdict(fs, inode, &map, &origin);
	duet_for_each_slot(i, &map) {
		struct duet_task *task = rcu_dereference(duet.task[i]);

		if (!task || duet_is_done(task, inode->i_ino,
					  inode->i_generation))
			__clear_bit(i, map.words);
	}
	if (!file) {
		if (bitmap_empty(map.words, duet.max_tasks)) {
			/* Another name may be inside, and be used next. */
			if (known && inode->i_nlink < 2)
				duet_nobody_set(inode, epoch);
			goto check;
		}
		file = duet_file_make(fs, inode, &map, spare);
		if (!file)
			file = duet_file_by_inode(inode);
		else
			made = file;
		if (!file) {
			atomic_long_inc(&duet.nr_dropped);
			duet_for_each_slot(i, &map) {
				struct duet_task *task;

				task = rcu_dereference(duet.task[i]);
				if (!task)
					continue;
				atomic_long_inc(&task->nr_dropped);
				if (!task->states)
					continue;
				set_bit(DUET_TASK_RESCAN, &task->flags);
				duet_task_wake(task);
			}
			return NULL;
		}
		/* CPUs that believe that nobody wants it look again. */
		duet_nobody_clear(inode);
	}

	spin_lock_irqsave(&file->lock, flags);
	if (file->dead) {
		spin_unlock_irqrestore(&file->lock, flags);
		cpu_relax();
		goto again;
	}
	duet_for_each_slot(i, &map) {
		struct duet_task *task = rcu_dereference(duet.task[i]);

		if (task && task->fs == fs)
			duet_file_join(file, task, how);
	}
	/* A name outside says nothing while another may be inside. */
	if ((known && (inode->i_nlink < 2 || how & DUET_DECIDE_LEAVE)) ||
	    how & DUET_DECIDE_UNNAMED) {
		duet_for_each_slot(i, &file->active) {
			struct duet_task *task = rcu_dereference(duet.task[i]);

			if (task && !test_bit(i, map.words))
				duet_file_leave(file, task);
		}
	}
	if (origin.ino)
		file->origin = origin;
	/* With no name known, the next event or open decides again. */
	file->epoch = known ? epoch : epoch - 1;
	spin_unlock_irqrestore(&file->lock, flags);

check:
	/* Either a rename sees what we wrote, or we see that it renamed. */
	smp_mb();
	if (atomic_read(&fs->moves) != moves)
		goto again;
	if (made)
		duet_file_release(made);
	return file;
}

/* ---- events ---- */

/*
 * An event of a folio, in a probe. RCU keeps what we find; nothing here
 * waits or takes a lock that other files' events take.
 */
void duet_page_event(struct folio *folio, struct address_space *mapping,
		     u32 event)
{
	struct inode *inode = mapping->host;
	struct duet_file *file;
	struct duet_fs *fs;
	unsigned long flags;
	bool decide;

	rcu_read_lock();
	fs = duet_watched_fs(inode->i_sb);
	if (!fs || !S_ISREG(inode->i_mode))
		goto out;
	decide = event == DUET_PAGE_ADDED || event == DUET_PAGE_FLUSHED;
again:
	file = duet_file_by_inode(inode);
	if (decide && (file ? file->epoch != atomic_read(&duet.epoch) :
			      !duet_nobody_wants(inode))) {
		unsigned int how = 0;

		if (event == DUET_PAGE_ADDED &&
		    mapping->nrpages == folio_nr_pages(folio))
			how = DUET_DECIDE_FRESH;
		file = duet_decide(fs, inode, NULL, how);
	}
	if (!file)
		goto out;
	spin_lock_irqsave(&file->lock, flags);
	if (unlikely(file->dead)) {
		spin_unlock_irqrestore(&file->lock, flags);
		/* Nobody wanted it when it died. Only ADDED can tell anew. */
		if (!decide)
			goto out;
		cpu_relax();
		goto again;
	}
	if (!bitmap_empty(file->active.words, duet.max_tasks))
		duet_file_event(file, folio->index, folio_nr_pages(folio),
				event);
	spin_unlock_irqrestore(&file->lock, flags);
out:
	rcu_read_unlock();
}

static void duet_node_evicted(struct duet_node *node, void *arg)
{
	struct duet_news news;
	unsigned int i;

	node->cached = 0;
	node->dirty = 0;
	duet_for_each_slot(i, &node->file->active) {
		struct duet_task *task = rcu_dereference(duet.task[i]);

		if (task && duet_node_news(node, task, &news))
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
	if (!S_ISREG(inode->i_mode) || !duet_watched_fs(inode->i_sb))
		goto out;
	duet_nobody_clear(inode);
again:
	file = duet_file_by_inode(inode);
	if (!file)
		goto out;
	preempt_disable();
	spin_lock_irqsave(&file->lock, flags);
	if (file->dead) {
		spin_unlock_irqrestore(&file->lock, flags);
		preempt_enable();
		cpu_relax();
		goto again;
	}
	file->inode = NULL;
	file->holds++;
	spin_unlock_irqrestore(&file->lock, flags);
	rhashtable_remove_fast(&duet.by_inode, &file->by_inode,
			       duet_by_inode_params);
	preempt_enable();
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

	if (slot->next)
		node->nr_queued--;
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
		duet_file_release(file);
	}
}

/* Takes a task that no probe sees any more out of every file. */
void duet_task_forget(struct duet_task *task)
{
	struct rhashtable_iter iter;
	struct duet_file *file;
	unsigned int n = 0;

	lockdep_assert_held(&task->lock);
	rhltable_walk_enter(&duet.by_ino, &iter);
	rhashtable_walk_start(&iter);
	while ((file = rhashtable_walk_next(&iter))) {
		if (IS_ERR(file))	/* resized: starts again */
			continue;
		/* Held, so that the walk finds its place again after a rest. */
		if (file->key.fs != task->fs || !duet_file_hold(file))
			continue;
		if (++n % DUET_RUN_PAGES == 0) {
			rhashtable_walk_stop(&iter);
			cond_resched();
			rhashtable_walk_start(&iter);
		}
		duet_file_forget(file, task);
		duet_file_release(file);
	}
	rhashtable_walk_stop(&iter);
	rhashtable_walk_exit(&iter);

	duet_drop_queue(task, task->todo);
	task->todo = NULL;
	duet_drop_queue(task, llist_del_all(&task->queue));
	if (task->file) {
		duet_file_release(task->file);
		task->file = NULL;
	}
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
