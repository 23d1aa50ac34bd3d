// SPDX-License-Identifier: GPL-2.0
/*
 * Who wants this file.
 *
 * A file is of interest to a task when one of its names lies below the task's
 * directory, which is decided by walking the dentries up to the directory's
 * inode: no path string is compared, and it does not matter whose context the
 * event came in. That walk takes i_lock, so it is done in ADDED, FLUSHED and
 * in process context, never in REMOVED or DIRTIED, and its result is kept:
 * "somebody" in an entry of the file, found by its inode, "nobody" in a small
 * lossy cache. REMOVED and DIRTIED only look the entry up. An inode that is
 * unknown there interests nobody, since all that is cached was seen by the
 * scan or by ADDED.
 *
 * Both kinds of verdict die with the inode (clear_inode()). When directories
 * are registered or files move into one, duet.epoch makes the older verdicts
 * void.
 *
 * Anybody may make trees as deep, and files of as many names, as he likes, and
 * may rename in a loop. So a verdict in a probe has a budget. Beyond that it
 * is put off: the file is taken to be everybody's, for the time being, and
 * each task's reader looks at it again, in process context, before anything
 * of it is told.
 *
 * A walk takes no lock that renames take, nor does it begin again when one
 * comes between. What it sees may then be of two moments. Where that matters
 * some directory crossed a task's border, which is told after the fact, and
 * has all of it decided anew: see duet_dir_moved().
 */
#include <linux/dcache.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched.h>
#include "compat.h"
#include "duet.h"
#include "trace.h"

/*
 * What a verdict costs at most, in steps of some ten instructions: where
 * nothing may wait, however often it is begun again, and where a reader
 * decides what was put off.
 */
#define DUET_STEPS_QUICK	1024
#define DUET_STEPS_THOROUGH	(4U << 20)

/* What the parts of it are taken for. */
#define DUET_STEPS_LEVEL	3
#define DUET_STEPS_ROOT		2

/* How often it is begun again, when what it is about moves meanwhile. */
#define DUET_VERDICT_TRIES	3

/* A verdict that is being made, and what it is made with. */
struct duet_verdict {
	struct duet_fs *fs;
	struct inode *inode;
	struct duet_file **spare;	/* NULL in a probe */
	unsigned int how;
	unsigned long added;		/* pages that have come just now */

	unsigned int losses;		/* what it sees is not older than these */
	unsigned int epoch;
	int moves;
	unsigned int budget;
	struct duet_steps steps;	/* left of it */
	bool met;			/* some task's directory */
	bool known;			/* where a name of the file is */
	bool moving;			/* it had no name for a moment */
	bool short_of;			/* of memory for some task's slot */
	struct duet_map map;		/* tasks with a name in their directory */
	struct duet_map maybe;		/* tasks that may have one */
	unsigned int wanted;		/* of both, that are to be told */
	u64 subvol;			/* of a task that wants the file */
	struct duet_origin origin;
	struct duet_file *file;		/* its entry, if it has one */
	struct duet_file *made;		/* the same, with a hold, if it is new */
	enum duet_drop why;		/* there is none, or no room in it */
};

static DEFINE_SPINLOCK(duet_epoch_lock);

/*
 * A word's number comes round after 2^16: let no old word look like a new one.
 * Each word is cleared twice until then, one with each number.
 */
static void duet_nobody_wipe(unsigned int number)
{
	BUILD_BUG_ON(DUET_NOBODY_BITS >= 16);
	lockdep_assert_held(&duet_epoch_lock);
	WRITE_ONCE(duet.nobody[number % BIT(DUET_NOBODY_BITS)], 0);
}

/* Every word that says that a loss was told is void. */
static void duet_losses_void(void)
{
	unsigned int losses = duet.losses + 1;

	lockdep_assert_held(&duet_epoch_lock);
	duet_nobody_wipe(losses);
	/* Who sees the new number sees what made it necessary. */
	smp_store_release(&duet.losses, losses);
	/* Who sees the old one had his page cached before we look: duet_is_lost() */
	smp_mb();
}

/* Every verdict so far is void. */
void duet_new_epoch(void)
{
	unsigned int epoch;

	/* In process context; probes only read the epoch. */
	spin_lock(&duet_epoch_lock);
	epoch = duet.epoch + 1;
	duet_nobody_wipe(epoch);
	/* Who sees the new epoch sees what made it necessary. */
	smp_store_release(&duet.epoch, epoch);
	duet_losses_void();
	spin_unlock(&duet_epoch_lock);
}

/*
 * Takes away a flag that says that a task lost something: the caller tells of
 * it, or looks for it. What is lost from here on has to set it again.
 */
bool duet_loss_take(struct duet_task *task, unsigned int flag)
{
	if (!test_and_clear_bit(flag, &task->flags))
		return false;
	/* In process context; after the flag is seen to be cleared. */
	spin_lock(&duet_epoch_lock);
	duet_losses_void();
	spin_unlock(&duet_epoch_lock);
	return true;
}

static void duet_nobody_set(const struct inode *inode, unsigned int epoch)
{
	WRITE_ONCE(*duet_nobody_slot(inode), duet_nobody_word(inode, epoch));
}

/* What it says of the file, of either kind, it says no more. */
void duet_nobody_clear(const struct inode *inode)
{
	u64 *slot = duet_nobody_slot(inode);

	if ((READ_ONCE(*slot) & ~DUET_NOBODY_LOST) >> 16 ==
	    duet_nobody_word(inode, 0) >> 16)
		WRITE_ONCE(*slot, 0);
}

static u64 duet_lost_word(const struct inode *inode, unsigned int losses)
{
	return duet_nobody_word(inode, losses) | DUET_NOBODY_LOST;
}

/*
 * Whether there was no room for the file's entry, and is none now, and each
 * task that wants the file has a flag that says so, and that nobody took since:
 * then its next events change nothing, and no verdict is made. In a probe, that
 * has no lock of the page cache.
 */
bool duet_is_lost(const struct inode *inode)
{
	u64 word = READ_ONCE(*duet_nobody_slot(inode));

	if (word != duet_lost_word(inode, READ_ONCE(duet.losses)))
		return false;
	/*
	 * The page is in the cache; either who takes the flag to look for it
	 * finds it, or we see that he took it. Pairs with duet_losses_void().
	 */
	smp_mb();
	return word == duet_lost_word(inode, READ_ONCE(duet.losses)) &&
	       !duet_has_room(duet.file_size) && !duet_file_find(inode);
}

/* ---- the way up ---- */

static bool duet_step(struct duet_steps *steps, unsigned int cost)
{
	if (steps->left < cost) {
		steps->cut = true;
		return false;
	}
	steps->left -= cost;
	return true;
}

/* Whether another subvolume begins above; tasks end at its border. */
bool duet_is_border(const struct duet_fs *fs, const struct inode *inode)
{
	return fs->subvol_ino && inode->i_ino == fs->subvol_ino;
}

/* What was met on the way up: the top, so the dentry is connected, ... */
#define DUET_WALK_TOP	BIT(0)
/* ... and a registered directory. */
#define DUET_WALK_ROOT	BIT(1)

/* Walks from a dentry up, under RCU, by which dentries are freed. */
static unsigned int duet_walk(const struct duet_fs *fs,
			      const struct duet_roots *roots,
			      const struct dentry *dentry,
			      struct duet_map *map, struct duet_steps *steps)
{
	const struct dentry *parent;
	unsigned int i, met = 0;

	for (;; dentry = parent) {
		const struct inode *inode = READ_ONCE(dentry->d_inode);

		if (unlikely(!inode) || !duet_step(steps, DUET_STEPS_LEVEL))
			return met;
		/* Each registered directory has a mark: duet_pin_inode(). */
		if (rcu_access_pointer(inode->i_fsnotify_marks)) {
			if (!duet_step(steps, DUET_STEPS_ROOT * roots->nr))
				return met;
			for (i = 0; i < roots->nr; i++) {
				if (READ_ONCE(roots->task[i]->root) != inode)
					continue;
				__set_bit(roots->task[i]->slot, map->words);
				met |= DUET_WALK_ROOT;
			}
		}
		if (duet_is_border(fs, inode))
			return met | DUET_WALK_TOP;
		parent = READ_ONCE(dentry->d_parent);
		if (parent == dentry)
			return dentry == dentry->d_sb->s_root ?
			       met | DUET_WALK_TOP : met;
	}
}

/*
 * Which tasks' directories a directory lies below, or is. False when that was
 * not found out. RCU; the caller has a reference.
 */
bool duet_roots_above(const struct duet_fs *fs, const struct dentry *dentry,
		      struct duet_map *map)
{
	const struct duet_roots *roots = duet_dereference(fs->roots);
	struct duet_steps steps = { .left = DUET_STEPS_THOROUGH };

	bitmap_zero(map->words, DUET_MAX_TASKS);
	if (roots)
		duet_walk(fs, roots, dentry, map, &steps);
	return !steps.cut;
}

/* Whether a directory is above a dentry, or is it. RCU. */
static bool duet_leads_to(const struct dentry *dentry, const struct inode *root,
			  const struct duet_fs *fs, struct duet_steps *steps)
{
	const struct dentry *parent;

	for (;; dentry = parent) {
		const struct inode *inode = READ_ONCE(dentry->d_inode);

		if (inode == root)
			return true;
		if (unlikely(!inode) || duet_is_border(fs, inode) ||
		    !duet_step(steps, DUET_STEPS_LEVEL))
			return false;
		parent = READ_ONCE(dentry->d_parent);
		if (parent == dentry)
			return false;
	}
}

/* A name that was removed, while others are left. */
bool duet_is_former(const struct dentry *name, const struct inode *inode)
{
	return d_unhashed(name) && inode->i_nlink;
}

/*
 * Whether a name leads to the task's directory. The caller has a reference to
 * it, or i_lock.
 */
static bool duet_leads_below(const struct duet_task *task,
			     const struct dentry *name,
			     struct duet_steps *steps)
{
	const struct inode *root = READ_ONCE(task->root);
	const struct inode *inode = d_inode(name);
	bool below;

	if (!root || !inode || duet_is_former(name, inode))
		return false;
	rcu_read_lock();
	below = duet_leads_to(name, root, task->fs, steps);
	rcu_read_unlock();
	return below;
}

bool duet_is_below(const struct duet_task *task, const struct dentry *name)
{
	struct duet_steps steps = { .left = DUET_STEPS_THOROUGH };

	return duet_leads_below(task, name, &steps);
}

/*
 * The next of the inode's names that the dcache has, after one that the caller
 * has a reference to and gives up, or the first: so that nobody waits while
 * all of them are looked at. Those that come meanwhile are not met.
 */
struct dentry *duet_next_name(struct inode *inode, struct dentry *name)
{
	struct dentry *next = NULL;
	struct hlist_node *node;

	/* In process context, where nothing else is locked. */
	spin_lock(&inode->i_lock);
	/* One that somebody has a reference to stays on the list. */
	node = name ? name->DUET_D_ALIAS.next : inode->i_dentry.first;
	if (node && !WARN_ON_ONCE(name && d_inode(name) != inode)) {
		next = hlist_entry(node, struct dentry, DUET_D_ALIAS);
		spin_lock(&next->d_lock);
		dget_dlock(next);
		spin_unlock(&next->d_lock);
	}
	spin_unlock(&inode->i_lock);
	dput(name);
	return next;
}

/* What a name may be asked for. */
typedef bool duet_name_test(const struct duet_task *task,
			    const struct dentry *name,
			    struct duet_steps *steps);

static bool duet_is_hashed(const struct duet_task *task,
			   const struct dentry *name, struct duet_steps *steps)
{
	return !d_unhashed(name);
}

/* The first such name of the inode that the dcache has, with a reference. */
static __always_inline struct dentry *
duet_first_name(const struct duet_task *task, struct inode *inode,
		duet_name_test *is)
{
	struct duet_steps steps = { .left = DUET_STEPS_THOROUGH };
	struct dentry *name = NULL;

	while ((name = duet_next_name(inode, name))) {
		if (is(task, name, &steps))
			return name;
		if (!duet_step(&steps, DUET_STEPS_LEVEL) ||
		    duet_is_cut_short(task)) {
			dput(name);
			return NULL;
		}
		cond_resched();
	}
	return NULL;
}

/*
 * Whether the inode has such a name. Most files have one name, which needs no
 * reference. May sleep.
 */
static __always_inline bool duet_any_name(const struct duet_task *task,
					  struct inode *inode,
					  duet_name_test *is)
{
	struct duet_steps steps = { .left = DUET_STEPS_QUICK };
	struct dentry *name;
	bool found = false;

	/* In process context, where nothing else is locked. */
	spin_lock(&inode->i_lock);
	/* Bounded by the steps. */
	hlist_for_each_entry(name, &inode->i_dentry, DUET_D_ALIAS) {
		found = is(task, name, &steps);
		if (found || !duet_step(&steps, DUET_STEPS_LEVEL))
			break;
	}
	spin_unlock(&inode->i_lock);
	if (likely(found || !steps.cut))
		return found;
	name = duet_first_name(task, inode, is);
	dput(name);
	return name;
}

/*
 * A name of the inode below the task's directory that the dcache has, with a
 * reference, or NULL. Of a file that is deleted there is the last one, as long
 * as somebody has it open.
 */
struct dentry *duet_name_below(const struct duet_task *task,
			       struct inode *inode)
{
	return duet_first_name(task, inode, duet_leads_below);
}

/* Whether there is one. May sleep. */
bool duet_is_inside(const struct duet_task *task, struct inode *inode)
{
	return duet_any_name(task, inode, duet_leads_below);
}

/*
 * Whether the dcache has a name of the inode. That of who opened a file and
 * removed the name is none, while the file has others: of those there may be
 * as many as somebody has descriptors. May sleep.
 */
bool duet_has_name(const struct duet_task *task, struct inode *inode)
{
	return duet_any_name(task, inode, duet_is_hashed);
}

/* ---- verdicts ---- */

static void duet_verdict_begin(struct duet_verdict *verdict,
			       unsigned int budget)
{
	/* pairs with duet_losses_void(): flags taken until then are seen so */
	verdict->losses = smp_load_acquire(&duet.losses);
	verdict->epoch = smp_load_acquire(&duet.epoch);
	verdict->moves = atomic_read_acquire(duet_moves(verdict->fs,
							verdict->inode));
	bitmap_zero(verdict->map.words, DUET_MAX_TASKS);
	bitmap_zero(verdict->maybe.words, DUET_MAX_TASKS);
	verdict->budget = budget;
	verdict->steps = (struct duet_steps){ .left = budget };
	verdict->met = false;
	verdict->known = false;
	verdict->moving = false;
	verdict->short_of = false;
}

/* Which tasks' directories one name lies below. RCU. */
static void duet_look_at_name(struct duet_verdict *verdict,
			      const struct duet_roots *roots,
			      const struct dentry *name)
{
	const struct inode *dir;
	unsigned int met;

	if (!duet_step(&verdict->steps, DUET_STEPS_LEVEL) ||
	    duet_is_former(name, verdict->inode))
		return;
	met = duet_walk(verdict->fs, roots, name, &verdict->map,
			&verdict->steps);
	if (met & DUET_WALK_TOP)
		verdict->known = true;
	if (!(met & DUET_WALK_ROOT))
		return;
	verdict->met = true;
	dir = READ_ONCE(READ_ONCE(name->d_parent)->d_inode);
	if (!dir)
		return;
	verdict->origin.ino = dir->i_ino;
	verdict->origin.gen = dir->i_generation;
	verdict->origin.fs = verdict->fs->id;
}

/*
 * Looks at the names that the inode has in the dcache. RCU; not under
 * file->lock nor xa_lock.
 */
static void duet_look_quickly(struct duet_verdict *verdict)
{
	const struct duet_roots *roots = duet_dereference(verdict->fs->roots);
	struct inode *inode = verdict->inode;
	struct dentry *name;
	unsigned int seq;

	if (!roots) {
		verdict->known = true;
		return;
	}
	seq = read_seqbegin(&rename_lock);
	/* i_lock keeps the names, is taken with interrupts on. */
	spin_lock(&inode->i_lock);
	/* Bounded by the steps. */
	hlist_for_each_entry(name, &inode->i_dentry, DUET_D_ALIAS) {
		duet_look_at_name(verdict, roots, name);
		if (unlikely(verdict->steps.cut))
			break;
	}
	/* One that is deleted, or a file system's own, is never given one. */
	if (!inode->i_nlink && hlist_empty(&inode->i_dentry))
		verdict->known = true;
	spin_unlock(&inode->i_lock);
	/* A name is out of the dcache while it is being renamed. */
	if (unlikely(!verdict->known))
		verdict->moving = read_seqretry(&rename_lock, seq);
}

/*
 * The same for a reader, who has a reference to the inode and may sleep.
 * Nothing is locked over more than one name.
 */
static void duet_look_thoroughly(struct duet_verdict *verdict)
{
	struct inode *inode = verdict->inode;
	const struct duet_roots *roots;
	struct dentry *name = NULL;
	unsigned int seq;

	seq = read_seqbegin(&rename_lock);
	while ((name = duet_next_name(inode, name))) {
		rcu_read_lock();
		roots = duet_dereference(verdict->fs->roots);
		if (roots)
			duet_look_at_name(verdict, roots, name);
		rcu_read_unlock();
		if (verdict->steps.cut) {
			dput(name);
			break;
		}
		cond_resched();
	}
	if (!inode->i_nlink && hlist_empty(&inode->i_dentry))
		verdict->known = true;
	if (!verdict->known)
		verdict->moving = read_seqretry(&rename_lock, seq);
}

/* Where there was no end to it: each task that is not found yet is to look. */
static void duet_put_off(struct duet_verdict *verdict)
{
	const struct duet_roots *roots = duet_dereference(verdict->fs->roots);
	unsigned int i;

	for (i = 0; roots && i < roots->nr; i++)
		if (!test_bit(roots->task[i]->slot, verdict->map.words))
			__set_bit(roots->task[i]->slot, verdict->maybe.words);
}

/* Leaves in a map those tasks that are to be told of the file. RCU. */
static struct duet_task *duet_leave_out(struct duet_verdict *verdict,
					struct duet_map *map)
{
	const struct inode *inode = verdict->inode;
	struct duet_task *silent = NULL;
	unsigned int i;

	duet_for_each_slot(i, map) {
		struct duet_task *task = duet_dereference(duet.task[i]);

		if (task && task->fs == verdict->fs) {
			/* Who wants the file is in its subvolume. */
			verdict->subvol = task->subvol;
			if (!duet_is_silent(task, inode->i_ino,
					    inode->i_generation)) {
				verdict->wanted++;
				continue;
			}
			silent = task;
		}
		__clear_bit(i, map->words);
	}
	return silent;
}

/* The task wants the file's events from here on; false if it did already. */
static bool duet_file_join(struct duet_file *file, struct duet_task *task,
			   bool fresh)
{
	struct duet_want *want = &file->want[task->slot];

	lockdep_assert_held(&file->lock);
	if (test_bit(task->slot, file->active.words) ||
	    duet_is_silent(task, file->ino, file->gen))
		return false;
	if (unlikely(want->flags & DUET_WANT_FORGET)) {
		want->flags |= DUET_WANT_MISSED;
		return false;
	}
	__set_bit(task->slot, file->active.words);
	this_cpu_inc(task->counts->files);
	/* Of runs that are there, what was not kept up so far is not known. */
	if (task->states & DUET_PAGE_EXISTS && !file->nr_exists++)
		file->stale |= file->nr_nodes;
	if (task->states & DUET_PAGE_MODIFIED && !file->nr_modified++)
		file->stale |= file->nr_nodes;
	if (fresh && !file->stale && !(want->flags & DUET_WANT_LEFT))
		return true;
	if (want->flags & DUET_WANT_LEFT)
		want->flags |= DUET_WANT_BACK;
	want->flags &= ~DUET_WANT_LEFT;
	/* In its first scan, a task that wants no news has the file synced. */
	if (test_bit(DUET_TASK_QUIET, &task->flags))
		return true;
	want->flags |= DUET_WANT_SYNC | DUET_WANT_NEW;
	duet_queue_file(file, task);
	return true;
}

/* No name of the file is below the task's directory any more. */
static void duet_file_leave(struct duet_file *file, struct duet_task *task)
{
	struct duet_want *want = &file->want[task->slot];

	duet_file_deactivate(file, task);
	want->flags |= DUET_WANT_LEFT | DUET_WANT_SYNC;
	duet_queue_file(file, task);
}

/* Has the task look for a name of the file when it reads. */
static void duet_want_verify(struct duet_file *file, struct duet_task *task)
{
	lockdep_assert_held(&file->lock);
	file->want[task->slot].flags |= DUET_WANT_VERIFY;
	duet_queue_file(file, task);
}

/*
 * The file has no room for what a task that wants it is told: it is for the
 * task as one that has no entry. file->lock.
 */
static noinline void duet_short_of(struct duet_verdict *verdict,
				   struct duet_task *task)
{
	duet_task_lost(task, verdict->why);
	verdict->short_of = true;
}

/* Whether it has; file->lock. */
static __always_inline bool duet_has_room_for(struct duet_file *file,
					      struct duet_verdict *verdict,
					      struct duet_task *task)
{
	if (likely(duet_has_slot(file, task, &verdict->why)))
		return true;
	duet_short_of(verdict, task);
	return false;
}

/* Of a verdict that was cut short, tasks that may have a name; file->lock. */
static noinline void duet_decided_maybe(struct duet_file *file,
					struct duet_verdict *verdict,
					bool fresh)
{
	struct duet_task *task;
	unsigned int i;

	duet_for_each_task(task, i, &verdict->maybe) {
		struct duet_want *want = &file->want[i];
		bool told = want->flags & (DUET_WANT_LEFT | DUET_WANT_TOLD);

		if (!duet_has_room_for(file, verdict, task))
			continue;
		if (duet_file_join(file, task, fresh) && !told)
			want->flags |= DUET_WANT_MAYBE;
		if (test_bit(i, file->active.words))
			duet_want_verify(file, task);
	}
}

/* Those who wanted the file and have no name of it any more; file->lock. */
static noinline void duet_decided_left(struct duet_file *file,
				       const struct duet_verdict *verdict,
				       bool holds)
{
	struct duet_task *task;
	unsigned int i;

	duet_for_each_task(task, i, &file->active) {
		/* Who was told nothing yet has nothing taken back. */
		if (test_bit(i, verdict->map.words) ||
		    test_bit(i, verdict->maybe.words) ||
		    file->want[i].flags & DUET_WANT_MAYBE)
			continue;
		if (likely(holds))
			duet_file_leave(file, task);
		else
			duet_want_verify(file, task);
	}
}

/*
 * Writes the verdict into the file's entry; file->lock, RCU. Of one that is void
 * already, and stands for now, each task that it is about looks again.
 */
static void duet_file_decided(struct duet_file *file,
			      struct duet_verdict *verdict, bool holds)
{
	const struct address_space *mapping = verdict->inode->i_mapping;
	struct duet_task *task;
	bool fresh, all, lasts;
	unsigned int i;

	lockdep_assert_held(&file->lock);
	/*
	 * Under xa_lock: no other page is cached, and who adds one from here
	 * on finds the entry, and waits for us.
	 */
	fresh = verdict->added && verdict->added == mapping->nrpages;
	duet_for_each_task(task, i, &verdict->map) {
		if (!duet_has_room_for(file, verdict, task))
			continue;
		duet_file_join(file, task, fresh);
		file->want[i].flags &= ~DUET_WANT_MAYBE;
		if (unlikely(!holds) && test_bit(i, file->active.words))
			duet_want_verify(file, task);
	}
	if (unlikely(verdict->steps.cut))
		duet_decided_maybe(file, verdict, fresh);
	/* A name outside says nothing while another may be inside. */
	all = verdict->known && !verdict->steps.cut &&
	      (verdict->inode->i_nlink < 2 ||
	       verdict->how & DUET_DECIDE_LEAVE);
	/* Of an entry that we made ourselves, nobody knows but from now on. */
	if ((all || verdict->how & DUET_DECIDE_UNNAMED) && !verdict->made)
		duet_decided_left(file, verdict, holds);
	if (verdict->origin.ino)
		file->origin = verdict->origin;
	file->nlink = verdict->inode->i_nlink;
	/* With no name known, or room, the next event or open decides again. */
	lasts = (verdict->known || verdict->steps.cut) && !verdict->short_of;
	WRITE_ONCE(file->epoch, lasts ? verdict->epoch : verdict->epoch - 1);
	/* Somebody wants it, which keeps it. */
	if (verdict->made && !duet_map_empty(&file->active)) {
		file->holds--;
		verdict->made = NULL;
	}
}

/* No entry for a file that these tasks want. In a probe. */
static void duet_map_lost(const struct duet_map *map, enum duet_drop why)
{
	struct duet_task *task;
	unsigned int i;

	duet_for_each_task(task, i, map)
		duet_task_lost(task, why);
}

/* Whether nothing has changed since the verdict began. */
static bool duet_verdict_holds(const struct duet_verdict *verdict)
{
	/* Either a rename sees what we wrote, or we see that it renamed. */
	smp_mb();
	return atomic_read(duet_moves(verdict->fs, verdict->inode)) ==
		       verdict->moves;
}

/* Nobody wants the file, of which there is no entry. RCU. */
static void duet_nobody_decided(const struct duet_verdict *verdict,
				const struct duet_task *silent)
{
	const struct inode *inode = verdict->inode;

	/* Who is done with a file may ask for its path. */
	if (silent && verdict->origin.ino)
		duet_remember(silent->subvol, inode->i_ino, inode->i_generation,
			      &verdict->origin);
	/* Another name may be inside, and be used next. */
	if (verdict->known && inode->i_nlink < 2)
		duet_nobody_set(inode, verdict->epoch);
	else if (READ_ONCE(*duet_nobody_slot(inode)) & DUET_NOBODY_LOST)
		duet_nobody_clear(inode);
}

/*
 * There is no entry of a file that somebody wants. What all its tasks
 * know is not told them again with each page, as far as the names are known.
 */
static void duet_lost_decided(const struct duet_verdict *verdict)
{
	const struct inode *inode = verdict->inode;

	duet_map_lost(&verdict->map, verdict->why);
	duet_map_lost(&verdict->maybe, verdict->why);
	if (verdict->why == DUET_DROP_LIMIT &&
	    (verdict->steps.cut || (verdict->known && inode->i_nlink < 2)))
		WRITE_ONCE(*duet_nobody_slot(inode),
			   duet_lost_word(inode, verdict->losses));
}

/*
 * Writes a verdict down. False when it is void already, and put_off does not
 * say that it is to stand for now. RCU.
 */
static bool duet_settle(struct duet_verdict *verdict, bool put_off)
{
	struct inode *inode = verdict->inode;
	struct address_space *mapping = inode->i_mapping;
	struct duet_task *silent = NULL;
	struct duet_file *file;
	bool holds;

	verdict->file = NULL;
	verdict->wanted = 0;
	duet_delay(DUET_DELAY_VERDICT);
	trace_duet_verdict(inode, verdict->map.words[0], verdict->known,
			   verdict->budget - verdict->steps.left,
			   verdict->steps.cut);
	if ((!verdict->known && !verdict->moving && !verdict->steps.cut) ||
	    inode->i_nlink > 1)
		duet_fs_unnamed(verdict->fs);
	if (verdict->met)
		silent = duet_leave_out(verdict, &verdict->map);
	if (unlikely(verdict->steps.cut))
		duet_leave_out(verdict, &verdict->maybe);
	duet_delay(DUET_DELAY_WANTED);

	/* Nothing of the page cache is locked, so interrupts are on. */
	for (;;) {
		file = duet_file_find(inode);
		if (!file) {
			if (!verdict->wanted) {
				duet_nobody_decided(verdict, silent);
				duet_delay(DUET_DELAY_NOBODY);
				return duet_verdict_holds(verdict) || put_off;
			}
			file = duet_file_make(verdict->fs, inode,
					      verdict->subvol, verdict->spare,
					      &verdict->made, &verdict->why);
			if (!file) {
				duet_lost_decided(verdict);
				return true;
			}
		}
		/* CPUs that believe that nobody wants it look again. */
		duet_nobody_clear(inode);
		/* Both, for duet_file_decided(); as in duet_sync_locked(). */
		xa_lock_irq(&mapping->i_pages);
		spin_lock(&file->lock);
		if (!file->dead)
			break;
		/* It leaves the hash with preemption off: a moment. */
		spin_unlock(&file->lock);
		xa_unlock_irq(&mapping->i_pages);
		cpu_relax();
	}
	/* What was seen with the old roots, or names, throws nobody off. */
	holds = READ_ONCE(duet.epoch) == verdict->epoch &&
		duet_verdict_holds(verdict);
	if (holds || put_off)
		duet_file_decided(file, verdict, holds);
	spin_unlock(&file->lock);
	xa_unlock_irq(&mapping->i_pages);
	verdict->file = file;
	return put_off || (holds && duet_verdict_holds(verdict));
}

static void duet_verdict_end(struct duet_verdict *verdict)
{
	if (verdict->made)
		duet_file_release(verdict->made);
}

/* Whether a verdict of before holds, where only an open asks. */
static bool duet_is_settled(struct duet_verdict *verdict)
{
	struct duet_file *file;

	if (!(verdict->how & DUET_DECIDE_OPENED) ||
	    verdict->inode->i_nlink > 1)
		return false;
	file = duet_file_find(verdict->inode);
	verdict->file = file;
	return file ? READ_ONCE(file->epoch) == verdict->epoch :
		      duet_nobody_wants(verdict->inode);
}

static struct duet_file *duet_decide_quickly(struct duet_verdict *verdict)
{
	unsigned int tries, left = DUET_STEPS_QUICK;

	for (tries = 0; tries < DUET_VERDICT_TRIES; tries++) {
		duet_verdict_begin(verdict, left);
		if (!tries && duet_is_settled(verdict))
			return verdict->file;
		duet_look_quickly(verdict);
		left = verdict->steps.left;
		if (unlikely(verdict->steps.cut))
			break;
		if (likely(!verdict->moving) &&
		    duet_settle(verdict, false))
			goto end;
	}
	/* Each task's reader looks, before anything of it is told. */
	verdict->steps.cut = true;
	duet_put_off(verdict);
	duet_settle(verdict, true);
end:
	duet_verdict_end(verdict);
	return verdict->file;
}

/*
 * Decides anew who wants a file, and returns its entry, if it has one then.
 * The inode does not die meanwhile: the caller has a reference, or a locked
 * folio of it. RCU. In a probe spare is NULL.
 */
struct duet_file *duet_decide(struct duet_fs *fs, struct inode *inode,
			      struct duet_file **spare, unsigned int how)
{
	struct duet_verdict verdict = {
		.fs = fs,
		.inode = inode,
		.spare = spare,
		.how = how,
	};

	return duet_decide_quickly(&verdict);
}

/* The same for a file of which so many pages have come just now. */
struct duet_file *duet_decide_added(struct duet_fs *fs, struct inode *inode,
				    unsigned long added)
{
	struct duet_verdict verdict = {
		.fs = fs,
		.inode = inode,
		.added = added,
	};

	return duet_decide_quickly(&verdict);
}

/* At the inode's names; not under RCU. Most files have few. */
static void duet_look(struct duet_verdict *verdict)
{
	duet_verdict_begin(verdict, DUET_STEPS_QUICK);
	rcu_read_lock();
	duet_look_quickly(verdict);
	rcu_read_unlock();
	if (likely(!verdict->steps.cut))
		return;
	duet_verdict_begin(verdict, DUET_STEPS_THOROUGH);
	duet_look_thoroughly(verdict);
}

/* As the quick one; not under RCU. Returns the entry with a hold. */
static struct duet_file *duet_decide_thoroughly(struct duet_verdict *verdict)
{
	unsigned int tries = 0;
	bool last, done;

	do {
		last = ++tries == DUET_VERDICT_TRIES;
		duet_look(verdict);
		duet_delay(DUET_DELAY_LOOKED);
		done = false;
		if (verdict->moving && !last)
			continue;
		rcu_read_lock();
		done = duet_settle(verdict, last);
		if (done && verdict->file && !duet_file_hold(verdict->file))
			verdict->file = NULL;
		rcu_read_unlock();
	} while (!done);
	duet_verdict_end(verdict);
	return verdict->file;
}

/*
 * The same for who may sleep, not under RCU: all of the file's names are
 * looked at. Beyond DUET_STEPS_THOROUGH, what was not found is not there.
 * Returns the entry with a hold.
 */
struct duet_file *duet_decide_slowly(struct duet_fs *fs, struct inode *inode,
				     struct duet_file **spare, unsigned int how)
{
	struct duet_verdict verdict = {
		.fs = fs,
		.inode = inode,
		.spare = spare,
		.how = how,
	};

	return duet_decide_thoroughly(&verdict);
}

/*
 * A file that was taken to be the task's for the time being is not: what was
 * noted of it is not told. False when that has to be looked at again.
 */
static bool duet_maybe_not(struct duet_task *task, struct duet_file *file)
{
	struct duet_want *want = &file->want[task->slot];
	unsigned long flags;
	bool drop;

	/* As in every probe: see table.c. */
	spin_lock_irqsave(&file->lock, flags);
	drop = (want->flags & (DUET_WANT_MAYBE | DUET_WANT_VERIFY)) ==
	       DUET_WANT_MAYBE;
	if (drop) {
		duet_file_deactivate(file, task);
		want->flags &= DUET_WANT_QUEUED | DUET_WANT_ALLOWED;
		want->flags |= DUET_WANT_DROP;
	}
	spin_unlock_irqrestore(&file->lock, flags);
	return drop;
}

/*
 * Decides for a reader, who took the file off his queue to look whether it is
 * his, and holds it and its inode.
 */
void duet_decide_for(struct duet_task *task, struct duet_file *file,
		     struct inode *inode, unsigned int how)
{
	struct duet_verdict verdict = {
		.fs = task->fs,
		.inode = inode,
		.how = how,
	};
	struct duet_file *found;

	lockdep_assert_held(&task->lock);
	found = duet_decide_thoroughly(&verdict);
	if (found)
		duet_file_release(found);
	if (!duet_maybe_not(task, file) || duet_is_anybodys(file) ||
	    !(verdict.known || verdict.steps.cut))
		return;
	/*
	 * Nobody else wants it: let it not begin again with its next page. A
	 * name that comes into use later is told of by its link or open.
	 */
	duet_nobody_set(inode, verdict.epoch);
	if (!duet_verdict_holds(&verdict) || duet_is_anybodys(file))
		duet_nobody_clear(inode);
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
	struct duet_task *task;
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
	duet_for_each_task(task, i, &file->active)
		duet_want_verify(file, task);
unlock:
	spin_unlock_irqrestore(&file->lock, flags);
}
