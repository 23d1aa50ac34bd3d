// SPDX-License-Identifier: GPL-2.0
/*
 * Of which files a task is told nothing: those that it marked done, and those
 * that it may know nothing of.
 *
 * Both are kept by inode number and generation, so they outlive the inode's
 * stay in memory, and are asked when a verdict is made, not per event.
 *
 * What a file has in the page cache is told to who could open it where the
 * task is registered, and would be told by mincore(2): its owner, who may write
 * it, who is capable. A task is asked for both with the credentials that it was
 * registered with, before the first delivery of a file, and again when the
 * attributes of the file or of a directory change, or either moves.
 */
#include <linux/cred.h>
#include <linux/dcache.h>
#include <linux/maple_tree.h>
#include <linux/sched/signal.h>
#include <linux/xarray.h>
#include "compat.h"
#include "duet.h"

/*
 * A mark, as an xarray value: the generation, above it whether the file is
 * refused and not done, and above that which asking refused it.
 */
#define DUET_MARK_REFUSED	BIT_ULL(32)
#define DUET_MARK_ASKED_SHIFT	33
#define DUET_MARK_ASKED_MASK	GENMASK(29, 0)

/*
 * What one mark costs the limits: its share of the tree's nodes at worst. They
 * have 256 bytes and 16 slots, of which 7 are in use at least: three marks and
 * the gaps around them, and in the nodes above 7 others. 256 / 3 * 7 / 6.
 */
#define DUET_MARK_BYTES		100

static unsigned long duet_refusal(u32 gen, unsigned int asked)
{
	return gen | DUET_MARK_REFUSED |
	       (asked & DUET_MARK_ASKED_MASK) << DUET_MARK_ASKED_SHIFT;
}

/* In a probe as well: the tree is read under RCU. */
static bool duet_has_mark(struct duet_task *task, u64 ino, unsigned long mark)
{
	return mtree_load(&task->marks, ino) == xa_mk_value(mark);
}

static bool duet_is_done(struct duet_task *task, u64 ino, u32 gen)
{
	return duet_has_mark(task, ino, gen);
}

/* Whether the task may not know of the file, as it was answered last. */
static bool duet_is_refused(struct duet_task *task, u64 ino, u32 gen)
{
	return duet_has_mark(task, ino,
			     duet_refusal(gen, atomic_read(&task->asked)));
}

/* For duet_is_silent(), where the task has marks. */
bool duet_is_marked_silent(struct duet_task *task, u64 ino, u32 gen)
{
	return duet_is_done(task, ino, gen) ||
	       (!task->privileged && duet_is_refused(task, ino, gen));
}

void duet_marks_init(struct duet_task *task)
{
	mt_init_flags(&task->marks, MT_FLAGS_USE_RCU);
}

static bool duet_mark_is_done(void *mark)
{
	return mark && !(xa_to_value(mark) & DUET_MARK_REFUSED);
}

static int duet_mark(struct duet_task *task, u64 ino, unsigned long value)
{
	void *old = mtree_load(&task->marks, ino);
	int err;

	lockdep_assert_held(&task->lock);
	if (ino == ULONG_MAX)	/* no inode's, and the end of the tree */
		return -EINVAL;
	if (!old && ((task->nr_marks + 1) * DUET_MARK_BYTES > task->limit ||
		     !duet_charge(DUET_MARK_BYTES)))
		return -ENOSPC;
	err = mtree_store(&task->marks, ino, xa_mk_value(value), GFP_KERNEL);
	if (err) {
		if (!old)
			duet_uncharge(DUET_MARK_BYTES);
		return err;
	}
	if (!old)
		task->nr_marks++;
	atomic_long_add(!(value & DUET_MARK_REFUSED) - duet_mark_is_done(old),
			&task->nr_done);
	return 0;
}

/* Not by mtree_erase(), which without memory leaves the mark and says nothing. */
static int duet_unmark(struct duet_task *task, u64 ino)
{
	void *old = mtree_load(&task->marks, ino);
	int err;

	lockdep_assert_held(&task->lock);
	if (!old)
		return 0;
	err = mtree_store(&task->marks, ino, NULL, GFP_KERNEL);
	if (err)
		return err;
	task->nr_marks--;
	duet_uncharge(DUET_MARK_BYTES);
	if (duet_mark_is_done(old))
		atomic_long_dec(&task->nr_done);
	return 0;
}

/* Marks that are looked at between two offers of the processor to others. */
#define DUET_MARKS_STEP	256

/*
 * Where the first step of the marks ends; 0 when there are fewer. Nobody else
 * has them any more, but the tree says that RCU or its lock be held.
 */
static unsigned long duet_marks_step(struct duet_task *task)
{
	MA_STATE(mas, &task->marks, 0, 0);
	unsigned int left = DUET_MARKS_STEP;
	unsigned long last = 0;
	void *mark;

	rcu_read_lock();
	mas_for_each(&mas, mark, ULONG_MAX) {
		if (--left)
			continue;
		last = mas.last;
		break;
	}
	rcu_read_unlock();
	return last;
}

void duet_marks_destroy(struct duet_task *task)
{
	unsigned long last;

	lockdep_assert_held(&task->lock);
	duet_uncharge(task->nr_marks * DUET_MARK_BYTES);
	task->nr_marks = 0;
	/*
	 * No probe sees the task any more. To free the tree by RCU takes the
	 * metadata in the last slot of a full node for a child: an oops in
	 * mt_free_walk() of 6.1 to 6.12.
	 */
	mt_clear_in_rcu(&task->marks);
	/* In steps: the tree's lock is a spinlock. Without memory, at once. */
	while ((last = duet_marks_step(task))) {
		if (mtree_store_range(&task->marks, 0, last, NULL, GFP_KERNEL))
			break;
		cond_resched();
	}
	mtree_destroy(&task->marks);
}

/* The next mark from an index on, which is left behind it; none once it ends. */
static void *duet_next_mark(struct duet_task *task, unsigned long *index)
{
	void *mark = NULL;

	/* They are freed a grace period after STOPPED is set. */
	rcu_read_lock();
	if (!test_bit(DUET_TASK_STOPPED, &task->flags))
		mark = mt_find(&task->marks, index, ULONG_MAX - 1);
	rcu_read_unlock();
	return mark;
}

/*
 * The first file that is done, from an inode number on. 0 when there is none,
 * EINTR when a signal came: then *ino is where to go on.
 */
int duet_next_done(struct duet_task *task, unsigned long *ino, u32 *gen)
{
	unsigned int left = DUET_MARKS_STEP;
	unsigned long index = *ino;
	void *mark;

	while ((mark = duet_next_mark(task, &index))) {
		if (duet_mark_is_done(mark)) {
			*ino = index - 1;
			*gen = xa_to_value(mark);
			return 1;
		}
		if (--left)
			continue;
		left = DUET_MARKS_STEP;
		cond_resched();
		if (signal_pending(current)) {
			*ino = index;
			return -EINTR;
		}
	}
	return 0;
}

/* Marks the file and drops what the task has of it. */
static int duet_silence(struct duet_task *task, u64 ino, u32 gen,
			unsigned long value)
{
	struct duet_file *file;
	int err;

	err = duet_mark(task, ino, value);
	if (err)
		return err;
	/* From here on no probe takes it up again: now drop what there is. */
	file = duet_file_held(task, ino, gen);
	if (file) {
		duet_file_forget(file, task);
		duet_file_release(file);
	}
	return 0;
}

int duet_task_done(struct duet_task *task, u64 ino, u32 gen)
{
	lockdep_assert_held(&task->lock);
	return duet_silence(task, ino, gen, gen);
}

int duet_task_undone(struct duet_task *task, u64 ino, u32 gen)
{
	struct duet_pin pin;
	struct inode *inode;
	int err;

	lockdep_assert_held(&task->lock);
	if (!duet_is_done(task, ino, gen))
		return 0;
	err = duet_unmark(task, ino);
	if (err)
		return err;
	/* What is cached of it now is news to the task. */
	inode = duet_inode_of(task, ino, gen, &pin);
	if (inode) {
		duet_moved(task->fs, inode);
		rcu_read_lock();
		duet_decide(task->fs, inode, NULL, 0);
		rcu_read_unlock();
		duet_inode_put(inode, &pin);
	} else if (!duet_is_known(task, ino, gen)) {
		/* We may have forgotten that we knew it: a scan finds it. */
		duet_task_rescan(task);
	}
	return 0;
}

static int duet_named(struct duet_task *task, struct dentry *dentry, void *arg)
{
	return 0;
}

/* 1 when the file is done or of no interest, 0 when not; or ENOMEM. */
int duet_task_check(struct duet_task *task, u64 ino, u32 gen)
{
	struct duet_file *file;
	int ret = 1;

	lockdep_assert_held(&task->lock);
	if (duet_is_silent(task, ino, gen))
		return 1;
	if (task->privileged) {
		rcu_read_lock();
		file = duet_file_by_ino(task, ino, gen, false);
		if (file && READ_ONCE(file->inode) &&
		    duet_is_active(file, task))
			ret = 0;
		rcu_read_unlock();
		if (!ret)
			return 0;
	}
	ret = duet_with_name(task, ino, gen, duet_named, NULL);
	return ret && ret != -ENOMEM ? 1 : ret;
}

/* ---- who may know ---- */

/* As can_do_mincore() and can_do_cachestat() have it. May sleep. */
bool duet_may_know(const struct duet_task *task, struct inode *inode)
{
	const struct cred *old;
	bool may;

	if (task->privileged)
		return true;
	old = override_creds(task->cred);
	/* Tasks of idmapped mounts are not registered without privilege. */
	may = inode_owner_or_capable(DUET_NO_IDMAP, inode) ||
	      !inode_permission(DUET_NO_IDMAP, inode, MAY_WRITE);
	revert_creds(old);
	return may;
}

/* Directories between a file and the task's own that are asked for one name. */
#define DUET_REACH_DEPTH	4096

/* Names of a file that are tried. */
#define DUET_REACH_NAMES	32

/* Names that are looked at for those that still exist. */
#define DUET_REACH_LOOK		1024

enum duet_way {
	DUET_WAY_OPEN,
	DUET_WAY_SHUT,		/* a directory may not be searched */
	DUET_WAY_OUTSIDE	/* it does not lead to the task's directory */
};

/*
 * The way of a name up to the task's directory, with references, since asking
 * may sleep. What is renamed meanwhile is asked again: see
 * duet_ways_changed(). Deeper than the bound it is shut.
 */
static enum duet_way duet_way_up(const struct duet_task *task,
				 struct dentry *name)
{
	const struct inode *root = READ_ONCE(task->root);
	struct dentry *dir = dget(name), *parent;
	enum duet_way way = DUET_WAY_OPEN;
	unsigned int left = DUET_REACH_DEPTH;

	while (root) {
		struct inode *inode = d_inode(dir);

		if (way == DUET_WAY_OPEN && dir != name &&
		    inode_permission(DUET_NO_IDMAP, inode, MAY_EXEC))
			way = DUET_WAY_SHUT;
		if (inode == root)
			goto out;
		if (!left--) {
			way = DUET_WAY_SHUT;
			goto out;
		}
		if (IS_ROOT(dir) || duet_is_border(task->fs, inode))
			break;
		parent = dget_parent(dir);
		dput(dir);
		dir = parent;
	}
	way = DUET_WAY_OUTSIDE;
out:
	dput(dir);
	return way;
}

/* Whether the task could open the file by this name. May sleep. */
bool duet_may_pass(const struct duet_task *task, struct dentry *name)
{
	const struct cred *old;
	bool may;

	if (task->privileged)
		return true;
	old = override_creds(task->cred);
	may = duet_way_up(task, name) == DUET_WAY_OPEN;
	revert_creds(old);
	return may;
}

/*
 * A name in memory by which the task could open the file, with a reference.
 * EACCES when it may search the way of none of them; ENOENT when none is known
 * to lie below its directory, or not all were tried. The caller has a reference
 * to the inode and its file system pinned. May sleep.
 */
struct dentry *duet_reach(const struct duet_task *task, struct inode *inode)
{
	unsigned int look = DUET_REACH_LOOK, left = DUET_REACH_NAMES;
	struct dentry *name = NULL;
	const struct cred *old;
	bool shut = false;

	while ((name = duet_next_name(inode, name))) {
		enum duet_way way;

		if (!look-- || !left) {
			dput(name);
			break;
		}
		if (duet_is_former(name, inode))
			continue;
		left--;
		old = override_creds(task->cred);
		way = duet_way_up(task, name);
		revert_creds(old);
		if (way == DUET_WAY_OPEN)
			return name;
		shut |= way == DUET_WAY_SHUT;
		cond_resched();
	}
	return ERR_PTR(shut && left ? -EACCES : -ENOENT);
}

/* How far a task may know of a file that it is about to be told of. */
enum duet_answer {
	DUET_ANSWER_YES,
	DUET_ANSWER_NO,		/* and not before the file changes */
	DUET_ANSWER_SHUT,	/* nor before a directory does */
	DUET_ANSWER_NOT_NOW,	/* no name is known, or not all of them are */
	DUET_ANSWER_UNNAMED	/* no name is in memory */
};

/* before: what was answered last, which stands for what was deleted. */
static enum duet_answer duet_ask(struct duet_task *task, struct inode *inode,
				 bool before)
{
	bool deleted = !inode->i_nlink, several = inode->i_nlink > 1;
	struct dentry *name;

	if (!duet_may_know(task, inode))
		return DUET_ANSWER_NO;
	name = duet_reach(task, inode);
	if (!IS_ERR(name)) {
		dput(name);
		return DUET_ANSWER_YES;
	}
	if (deleted && name == ERR_PTR(-ENOENT))
		return before ? DUET_ANSWER_YES : DUET_ANSWER_NO;
	if (name == ERR_PTR(-ENOENT))
		return DUET_ANSWER_UNNAMED;
	/* Another name may be used. */
	return several ? DUET_ANSWER_NOT_NOW : DUET_ANSWER_SHUT;
}

/* The same of a name from where it was last: by the caller's own rights. */
static enum duet_answer duet_ask_again(struct duet_task *task,
				       struct duet_file *file)
{
	enum duet_answer answer;
	struct path path;
	int err;

	err = duet_name_again(task, file->ino, file->gen, &path);
	if (err)
		return err == -ENOMEM ? DUET_ANSWER_UNNAMED :
					DUET_ANSWER_NOT_NOW;
	if (duet_may_pass(task, path.dentry))
		answer = DUET_ANSWER_YES;
	else if (d_inode(path.dentry)->i_nlink > 1)
		answer = DUET_ANSWER_NOT_NOW;
	else
		answer = DUET_ANSWER_SHUT;
	path_put(&path);
	return answer;
}

/* Directories keep a file from the task: it looks again when one changes. */
static void duet_shut_out(struct duet_task *task, unsigned int asked)
{
	set_bit(DUET_TASK_SHUT, &task->flags);
	smp_mb__after_atomic();	/* pairs with the one in duet_ways_changed() */
	if (atomic_read(&task->asked) == asked)
		return;
	duet_task_rescan(task);
}

/* Whether that was asked, and stands. */
bool duet_is_admitted(const struct duet_task *task,
		      const struct duet_file *file)
{
	const struct duet_want *want = &file->want[task->slot];
	const unsigned int flags = duet_want_flags(want);

	return task->privileged ||
	       ((flags & (DUET_WANT_ALLOWED | DUET_WANT_ASK)) ==
			DUET_WANT_ALLOWED &&
		READ_ONCE(want->asked) == atomic_read(&task->asked));
}

/*
 * Whether the task may be told of the file that it is about to read. If not,
 * it is refused from here on, until something changes. The caller holds the
 * file.
 */
bool duet_admit(struct duet_task *task, struct duet_file *file)
{
	struct duet_want *want = &file->want[task->slot];
	struct duet_pin pin;
	struct inode *inode;
	unsigned long flags, refusal;
	enum duet_answer answer;
	unsigned int asked;
	bool may;

	lockdep_assert_held(&task->lock);
	/* Before what is asked: pairs with the one in duet_ways_changed(). */
	asked = atomic_read_acquire(&task->asked);
	if (duet_is_admitted(task, file))
		return true;
	/* Done while it was queued: that stands, whatever the answer. */
	if (duet_is_done(task, file->ino, file->gen))
		goto forget;
	/* As in every probe: see table.c. */
	spin_lock_irqsave(&file->lock, flags);
	may = want->flags & DUET_WANT_ALLOWED;
	want->flags &= ~DUET_WANT_ASK;	/* first: it may be set again */
	want->flags |= DUET_WANT_ALLOWED;
	WRITE_ONCE(want->asked, asked);
	spin_unlock_irqrestore(&file->lock, flags);
	refusal = duet_refusal(file->gen, asked);
	/* From disk, if it was evicted; if it is deleted, as it was before. */
	answer = may ? DUET_ANSWER_YES : DUET_ANSWER_NOT_NOW;
	inode = duet_inode_of(task, file->ino, file->gen, &pin);
	if (inode) {
		answer = duet_ask(task, inode, may);
		duet_inode_put(inode, &pin);
		if (answer == DUET_ANSWER_UNNAMED && duet_may_read_names(task))
			answer = duet_ask_again(task, file);
		if (answer == DUET_ANSWER_UNNAMED) {
			/* Not now: a scan finds it, at the next call. */
			duet_task_rescan(task);
			goto forget;
		}
	} else if (fatal_signal_pending(current)) {
		/* Not asked. Another may share the task: a scan finds it. */
		set_bit(DUET_TASK_RESCAN, &task->flags);
		goto forget;
	}
	if (answer == DUET_ANSWER_YES)
		return true;
	if (inode && answer != DUET_ANSWER_NO)
		duet_shut_out(task, asked);
	/* Without room for the mark it is asked again the next time. */
	if (answer != DUET_ANSWER_NOT_NOW)
		duet_mark(task, file->ino, refusal);
forget:
	duet_file_forget(file, task);
	return false;
}

/*
 * Whether a directory is below another, as it seems: what is renamed meanwhile
 * is told by itself. After *left steps it may be. RCU.
 */
static bool duet_may_be_below(const struct dentry *dir,
			      const struct inode *root, unsigned int *left)
{
	const struct dentry *parent;

	for (; *left; dir = parent, --*left) {
		if (READ_ONCE(dir->d_inode) == root)
			return true;
		parent = READ_ONCE(dir->d_parent);
		if (parent == dir)
			return false;
	}
	return true;
}

/*
 * The owner, the mode or the place of a directory changed: every answer that a
 * task had about a file below its own may be another now, and is asked for at
 * the file's next delivery. Files that a directory kept from it may be cached:
 * it looks at all inodes again, at most once a read. A directory was locked,
 * so it stays where it is.
 */
void duet_ways_changed(struct duet_fs *fs, const struct dentry *dir)
{
	unsigned int left = DUET_REACH_DEPTH, i;
	struct duet_roots *roots;
	bool again = false;

	rcu_read_lock();
	roots = duet_dereference(fs->roots);
	for (i = 0; roots && i < roots->nr; i++) {
		struct duet_task *task = roots->task[i];
		const struct inode *root = READ_ONCE(task->root);

		if (task->privileged || !root ||
		    !duet_may_be_below(dir, root, &left))
			continue;
		smp_mb__before_atomic(); /* who sees this sees what changed */
		atomic_inc(&task->asked);
		smp_mb__after_atomic();	/* see duet_shut_out() */
		if (!test_and_clear_bit(DUET_TASK_SHUT, &task->flags))
			continue;
		if (!again)
			duet_new_epoch();
		again = true;
		duet_task_rescan(task);
	}
	rcu_read_unlock();
}

/* The owner, the mode or the names of the inode changed. */
void duet_attrs_changed(struct duet_fs *fs, struct inode *inode)
{
	struct duet_roots *roots;
	struct dentry *dir;
	bool again = false;
	unsigned int i;

	if (S_ISDIR(inode->i_mode)) {
		dir = d_find_any_alias(inode);
		if (dir)
			duet_ways_changed(fs, dir);
		dput(dir);
		return;
	}
	/* Deleted: what it was is what counts for what is still to be told. */
	if (!S_ISREG(inode->i_mode) || !inode->i_nlink)
		return;
	rcu_read_lock();
	roots = duet_dereference(fs->roots);
	for (i = 0; roots && i < roots->nr; i++) {
		struct duet_task *task = roots->task[i];
		struct duet_file *file;
		unsigned long flags;

		if (task->privileged)
			continue;
		/* Voids every refusal of the task; they are asked for anew. */
		if (duet_is_refused(task, inode->i_ino, inode->i_generation)) {
			atomic_inc(&task->asked);
			again = true;
		}
		file = duet_file_held(task, inode->i_ino, inode->i_generation);
		if (!file)
			continue;
		/* As in every probe: see table.c. */
		spin_lock_irqsave(&file->lock, flags);
		file->want[task->slot].flags |= DUET_WANT_ASK;
		spin_unlock_irqrestore(&file->lock, flags);
		duet_file_release(file);
	}
	if (again) {
		duet_new_epoch();
		duet_decide(fs, inode, NULL, 0);
	}
	rcu_read_unlock();
}
