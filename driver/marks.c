// SPDX-License-Identifier: GPL-2.0
/*
 * Of which files a task is told nothing: those that it marked done, and those
 * that it may know nothing of.
 *
 * Both are kept by inode number and generation, so they outlive the inode's
 * stay in memory, and are asked when a verdict is made, not per event.
 *
 * What a file has in the page cache is told to whom mincore(2) would tell it:
 * its owner, who may write it, who is capable. A task is asked for that with
 * the credentials that it was registered with, before the first delivery of a
 * file, and again when the file's attributes change.
 */
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/xarray.h>
#include "compat.h"
#include "duet.h"

/* Above the generation, in the value of a file that may not be known. */
#define DUET_MARK_REFUSED	(1UL << 32)

/* What one mark costs the limit: an entry of the tree and its share of it. */
#define DUET_MARK_BYTES		16

bool duet_is_done(struct duet_task *task, u64 ino, u32 gen)
{
	return xa_load(&task->done, ino) == xa_mk_value(gen);
}

static bool duet_is_refused(struct duet_task *task, u64 ino, u32 gen)
{
	return xa_load(&task->done, ino) == xa_mk_value(gen | DUET_MARK_REFUSED);
}

/* In a probe as well: the tree is read under RCU. */
bool duet_is_silent(struct duet_task *task, u64 ino, u32 gen)
{
	void *mark;

	if (xa_empty(&task->done))
		return false;
	mark = xa_load(&task->done, ino);
	return mark && (u32)xa_to_value(mark) == gen;
}

static int duet_mark(struct duet_task *task, u64 ino, unsigned long value)
{
	bool refused = value & DUET_MARK_REFUSED;
	void *old;

	lockdep_assert_held(&task->lock);
	if (!duet_charge(DUET_MARK_BYTES))
		return -ENOSPC;
	old = xa_store(&task->done, ino, xa_mk_value(value), GFP_KERNEL);
	if (old)	/* was there, or could not be made */
		duet_uncharge(DUET_MARK_BYTES);
	if (xa_is_err(old))
		return xa_err(old);
	if (!refused && (!old || xa_to_value(old) & DUET_MARK_REFUSED))
		atomic_long_inc(&task->nr_done);
	return 0;
}

static void duet_unmark(struct duet_task *task, u64 ino)
{
	void *old = xa_erase(&task->done, ino);

	if (!old)
		return;
	duet_uncharge(DUET_MARK_BYTES);
	if (!(xa_to_value(old) & DUET_MARK_REFUSED))
		atomic_long_dec(&task->nr_done);
}

void duet_marks_destroy(struct duet_task *task)
{
	unsigned long ino, n = 0;
	void *mark;

	xa_for_each(&task->done, ino, mark)
		n++;
	duet_uncharge(n * DUET_MARK_BYTES);
	xa_destroy(&task->done);
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
	struct super_block *sb;
	struct inode *inode;

	lockdep_assert_held(&task->lock);
	if (!duet_is_done(task, ino, gen))
		return 0;
	duet_unmark(task, ino);
	duet_new_epoch();
	/* What is cached of it now is news to the task. */
	inode = duet_inode_of(task, ino, gen, &sb);
	if (inode) {
		rcu_read_lock();
		duet_decide(task->fs, inode, NULL, 0);
		rcu_read_unlock();
		iput(inode);
		deactivate_super(sb);
	}
	return 0;
}

/* 1 when the file is done or of no interest, 0 when not. */
int duet_task_check(struct duet_task *task, u64 ino, u32 gen)
{
	struct super_block *sb;
	struct dentry *dentry;
	struct duet_file *file;
	struct inode *inode;
	int ret = 1;

	lockdep_assert_held(&task->lock);
	if (duet_is_silent(task, ino, gen))
		return 1;
	rcu_read_lock();
	file = duet_file_by_ino(task, ino, gen);
	if (file && READ_ONCE(file->inode) &&
	    test_bit(task->slot, file->active.words))
		ret = 0;
	rcu_read_unlock();
	if (!ret)
		return 0;
	inode = duet_inode_of(task, ino, gen, &sb);
	if (!inode)
		return 1;
	dentry = duet_name_of(task, inode, gen);
	if (dentry && duet_may_know(task, inode))
		ret = 0;
	dput(dentry);
	iput(inode);
	deactivate_super(sb);
	return ret;
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

/*
 * Whether the task may be told of the file that it is about to read. If not,
 * it is refused from here on, until the file's attributes change. The caller
 * holds the file.
 */
bool duet_admit(struct duet_task *task, struct duet_file *file)
{
	struct duet_want *want = &file->want[task->slot];
	struct super_block *sb;
	struct inode *inode;
	unsigned long flags;
	bool may = false;

	lockdep_assert_held(&task->lock);
	if (task->privileged || READ_ONCE(want->flags) & DUET_WANT_ALLOWED)
		return true;
	/* Set first: a change of the attributes takes it away again. */
	spin_lock_irqsave(&file->lock, flags);
	want->flags |= DUET_WANT_ALLOWED;
	spin_unlock_irqrestore(&file->lock, flags);
	/* From disk, if it was evicted; if it is deleted there is no telling. */
	inode = duet_inode_of(task, file->ino, file->gen, &sb);
	if (inode) {
		may = duet_may_know(task, inode);
		iput(inode);
		deactivate_super(sb);
	}
	if (may)
		return true;
	/* Without room for the mark it is asked again the next time. */
	if (!inode || duet_silence(task, file->ino, file->gen,
				   file->gen | DUET_MARK_REFUSED))
		duet_file_forget(file, task);
	return false;
}

/* The owner, the mode or the number of links of the inode changed. */
void duet_attrs_changed(struct duet_fs *fs, struct inode *inode)
{
	struct duet_roots *roots;
	bool again = false;
	unsigned int i;

	if (!S_ISREG(inode->i_mode))
		return;
	rcu_read_lock();
	roots = duet_dereference(fs->roots);
	for (i = 0; roots && i < roots->nr; i++) {
		struct duet_task *task = roots->task[i];
		struct duet_file *file;

		if (task->privileged)
			continue;
		if (duet_is_refused(task, inode->i_ino, inode->i_generation)) {
			duet_unmark(task, inode->i_ino);
			again = true;
		}
		file = duet_file_held(task, inode->i_ino, inode->i_generation);
		if (file) {
			unsigned long flags;

			spin_lock_irqsave(&file->lock, flags);
			file->want[task->slot].flags &= ~DUET_WANT_ALLOWED;
			spin_unlock_irqrestore(&file->lock, flags);
			duet_file_release(file);
		}
	}
	if (again) {
		duet_new_epoch();
		duet_decide(fs, inode, NULL, 0);
	}
	rcu_read_unlock();
}
