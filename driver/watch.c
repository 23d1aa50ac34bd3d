// SPDX-License-Identifier: GPL-2.0
/*
 * The file systems that tasks are registered on, and what changes there that
 * is no page event: names that move, are linked or removed, and the unmount.
 * fsnotify tells us, by one mark on the superblock, in process context.
 */
#include <linux/dcache.h>
#include <linux/magic.h>
#include <linux/slab.h>
#include "compat.h"
#include "duet.h"

/* btrfs: inode number of every subvolume's root (BTRFS_FIRST_FREE_OBJECTID) */
#define DUET_BTRFS_SUBVOL_INO	256

/* What the hooks were proved on. */
static const unsigned long duet_supported[] = {
	EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, F2FS_SUPER_MAGIC,
};

static struct fsnotify_group *duet_sb_group;
static struct fsnotify_group *duet_pin_group;

static struct duet_fs *duet_fs_of(struct fsnotify_mark *mark)
{
	return container_of(mark, struct duet_fs, mark);
}

/* Decides anew about one file that was renamed, linked or unlinked. */
static void duet_file_moved(struct duet_fs *fs, struct inode *inode,
			    unsigned int how)
{
	struct duet_file *spare;

	if (!S_ISREG(inode->i_mode))
		return;
	/* Before RCU, where waiting is allowed; locks of the VFS are held. */
	spare = duet_file_alloc(GFP_NOFS);
	rcu_read_lock();
	duet_decide(fs, inode, &spare, how);
	rcu_read_unlock();
	if (spare)
		duet_file_free(spare);
}

/*
 * A directory was moved. The tasks whose border it crossed look at all
 * inodes again; what a move changes below is not known otherwise.
 */
static void duet_dir_moved(struct duet_fs *fs, struct dentry *dentry,
			   struct inode *old_dir)
{
	struct dentry *old = d_find_any_alias(old_dir);
	struct duet_roots *roots;
	bool crossed = false;
	unsigned int i, seq;

	rcu_read_lock();
	roots = rcu_dereference(fs->roots);
	for (i = 0; roots && i < roots->nr; i++) {
		struct duet_task *task;
		bool was, is;

		do {
			seq = read_seqbegin(&rename_lock);
			was = old && duet_below(old, roots->root[i].inode);
			is = duet_below(dentry->d_parent, roots->root[i].inode);
		} while (read_seqretry(&rename_lock, seq));
		if (was == is)
			continue;
		if (!crossed)
			duet_new_epoch();
		crossed = true;
		task = rcu_dereference(duet.task[roots->root[i].slot]);
		if (!task || task->fs != fs)
			continue;
		set_bit(DUET_TASK_RESCAN, &task->flags);
		duet_task_wake(task);
	}
	rcu_read_unlock();
	dput(old);
}

static int duet_sb_event(struct fsnotify_group *group, u32 mask,
			 const void *data, int data_type, struct inode *dir,
			 const struct qstr *name, u32 cookie,
			 struct fsnotify_iter_info *iter)
{
	struct fsnotify_mark *mark = iter->marks[FSNOTIFY_ITER_TYPE_SB];
	struct inode *inode = fsnotify_data_inode(data, data_type);
	struct duet_fs *fs;

	if (!mark || !inode)
		return 0;
	fs = duet_fs_of(mark);

	if (mask & FS_OPEN) {
		/*
		 * The name that is opened here may be the first that we see
		 * of a file whose pages are cached: its dentry was gone, or
		 * another of its names was used until now.
		 */
		if (S_ISREG(inode->i_mode) && inode->i_mapping->nrpages) {
			rcu_read_lock();
			duet_decide(fs, inode, NULL, DUET_DECIDE_OPENED);
			rcu_read_unlock();
		}
		return 0;
	}

	/* An attribute that changes is the number of links, or no matter. */
	if (mask & FS_ATTRIB && !duet_has_file(inode))
		return 0;

	/* Verdicts that are being made now look again: see duet_decide(). */
	atomic_inc(&fs->moves);
	smp_mb__after_atomic();	/* pairs with the one in duet_decide() */
	if (mask & FS_RENAME && mask & FS_ISDIR)
		duet_dir_moved(fs, fsnotify_data_dentry(data, data_type), dir);
	else if (mask & FS_RENAME)
		duet_file_moved(fs, inode, DUET_DECIDE_LEAVE);
	else if (mask & FS_CREATE && data_type == FSNOTIFY_EVENT_INODE)
		duet_file_moved(fs, inode, 0);		/* link() */
	else if (mask & (FS_DELETE | FS_ATTRIB) && inode->i_nlink)
		/* unlink(), or another file was renamed over this name */
		duet_file_moved(fs, inode,
				DUET_DECIDE_LEAVE | DUET_DECIDE_UNNAMED);
	return 0;
}

/*
 * The mark goes: we let go of the file system, or its superblock is being
 * shut down. Then every inode is gone already, and the tasks are told.
 */
static void duet_sb_freeing(struct fsnotify_mark *mark,
			    struct fsnotify_group *group)
{
	struct duet_fs *fs = duet_fs_of(mark);
	struct duet_roots *roots;
	unsigned int i;

	WRITE_ONCE(fs->sb, NULL);
	rcu_read_lock();
	roots = rcu_dereference(fs->roots);
	for (i = 0; roots && i < roots->nr; i++) {
		struct duet_task *task;

		task = rcu_dereference(duet.task[roots->root[i].slot]);
		if (!task || task->fs != fs)
			continue;
		set_bit(DUET_TASK_GONE, &task->flags);
		duet_task_wake(task);
	}
	rcu_read_unlock();
}

static void duet_sb_free(struct fsnotify_mark *mark)
{
	struct duet_fs *fs = duet_fs_of(mark);

	kfree(rcu_dereference_protected(fs->roots, true));
	kfree(fs);
}

static const struct fsnotify_ops duet_sb_ops = {
	.handle_event = duet_sb_event,
	.freeing_mark = duet_sb_freeing,
	.free_mark = duet_sb_free,
};

static int duet_pin_event(struct fsnotify_group *group, u32 mask,
			  const void *data, int data_type, struct inode *dir,
			  const struct qstr *name, u32 cookie,
			  struct fsnotify_iter_info *iter)
{
	return 0;
}

static void duet_pin_free(struct fsnotify_mark *mark)
{
	kfree(mark);
}

static const struct fsnotify_ops duet_pin_ops = {
	.handle_event = duet_pin_event,
	.free_mark = duet_pin_free,
};

int duet_watch_init(void)
{
	duet_sb_group = fsnotify_alloc_group(&duet_sb_ops, 0);
	if (IS_ERR(duet_sb_group))
		return PTR_ERR(duet_sb_group);
	/* Two tasks may be registered on one directory. */
	duet_pin_group = fsnotify_alloc_group(&duet_pin_ops,
					      FSNOTIFY_GROUP_DUPS);
	if (IS_ERR(duet_pin_group)) {
		fsnotify_put_group(duet_sb_group);
		return PTR_ERR(duet_pin_group);
	}
	return 0;
}

/* Marks are freed later, by code of this module: waits for that. */
void duet_watch_settle(void)
{
	fsnotify_wait_marks_destroyed();
}

void duet_watch_exit(void)
{
	duet_watch_settle();
	fsnotify_put_group(duet_pin_group);
	fsnotify_put_group(duet_sb_group);
}

/*
 * Keeps an inode by a mark that wants no events. Unlike a plain reference it
 * does not keep the file system from being unmounted: that takes it away.
 */
struct fsnotify_mark *duet_pin_inode(struct inode *inode)
{
	struct fsnotify_mark *mark;
	int err;

	mark = kzalloc(sizeof(*mark), GFP_KERNEL);
	if (!mark)
		return ERR_PTR(-ENOMEM);
	fsnotify_init_mark(mark, duet_pin_group);
	err = fsnotify_add_inode_mark(mark, inode, 0);
	if (err) {
		fsnotify_put_mark(mark);
		return ERR_PTR(err);
	}
	return mark;
}

void duet_unpin_inode(struct fsnotify_mark *mark)
{
	if (IS_ERR_OR_NULL(mark))
		return;
	fsnotify_destroy_mark(mark, duet_pin_group);
	fsnotify_put_mark(mark);
}

/* Publishes the list of watched file systems anew. */
static int duet_watched_update(gfp_t gfp)
{
	struct duet_watched *new = NULL, *old;
	struct duet_fs *fs;
	unsigned int nr = 0;

	lockdep_assert_held(&duet.lock);
	list_for_each_entry(fs, &duet.filesystems, list)
		nr++;
	if (nr) {
		new = kzalloc(struct_size(new, fs, nr), gfp);
		if (!new)
			return -ENOMEM;
		list_for_each_entry(fs, &duet.filesystems, list)
			new->fs[new->nr++] = fs;
	}
	old = rcu_replace_pointer(duet.watched, new,
				  lockdep_is_held(&duet.lock));
	if (old)
		kfree_rcu(old, rcu);
	return 0;
}

/* The file system of a task to be; every get has its put. */
struct duet_fs *duet_fs_get(struct super_block *sb)
{
	struct duet_fs *fs;
	unsigned int i;
	int err;

	lockdep_assert_held(&duet.lock);
	for (i = 0; i < ARRAY_SIZE(duet_supported); i++)
		if (duet_supported[i] == sb->s_magic)
			break;
	if (i == ARRAY_SIZE(duet_supported))
		return ERR_PTR(-EOPNOTSUPP);

	list_for_each_entry(fs, &duet.filesystems, list) {
		if (READ_ONCE(fs->sb) == sb) {
			fs->nr_tasks++;
			return fs;
		}
	}

	fs = kzalloc(sizeof(*fs), GFP_KERNEL);
	if (!fs)
		return ERR_PTR(-ENOMEM);
	fs->sb = sb;
	fs->nr_tasks = 1;
	if (sb->s_magic == BTRFS_SUPER_MAGIC)
		fs->subvol_ino = DUET_BTRFS_SUBVOL_INO;
	fsnotify_init_mark(&fs->mark, duet_sb_group);
	fs->mark.mask = FS_RENAME | FS_CREATE | FS_DELETE | FS_ATTRIB | FS_OPEN;
	err = duet_add_sb_mark(&fs->mark, sb);
	if (err) {
		fsnotify_put_mark(&fs->mark);
		return ERR_PTR(err);
	}
	list_add_tail(&fs->list, &duet.filesystems);
	err = duet_watched_update(GFP_KERNEL);
	if (err) {
		duet_fs_put(fs);
		return ERR_PTR(err);
	}
	return fs;
}

void duet_fs_put(struct duet_fs *fs)
{
	lockdep_assert_held(&duet.lock);
	if (--fs->nr_tasks)
		return;
	list_del(&fs->list);
	/* A few words, and there is no way back from here. */
	duet_watched_update(GFP_KERNEL | __GFP_NOFAIL);
	synchronize_rcu();
	fsnotify_destroy_mark(&fs->mark, duet_sb_group);
	fsnotify_put_mark(&fs->mark);
}

/*
 * Keeps the superblock from being shut down, for as long as a call takes.
 * The mark is still there while fs->sb is set, and goes before the
 * superblock's memory does, which RCU delays.
 */
struct super_block *duet_fs_pin(struct duet_fs *fs)
{
	struct super_block *sb;

	rcu_read_lock();
	sb = READ_ONCE(fs->sb);
	if (sb && !atomic_inc_not_zero(&sb->s_active))
		sb = NULL;
	rcu_read_unlock();
	return sb;
}

static int duet_roots_update(struct duet_fs *fs, const struct duet_task *add,
			     const struct duet_task *del, gfp_t gfp)
{
	struct duet_roots *old, *new;
	unsigned int i, nr;

	old = rcu_dereference_protected(fs->roots, lockdep_is_held(&duet.lock));
	nr = (old ? old->nr : 0) + (add ? 1 : 0);
	new = kzalloc(struct_size(new, root, nr), gfp);
	if (!new)
		return -ENOMEM;
	for (i = 0; old && i < old->nr; i++)
		if (!del || old->root[i].slot != del->slot)
			new->root[new->nr++] = old->root[i];
	if (add) {
		new->root[new->nr].inode = add->root;
		new->root[new->nr++].slot = add->slot;
	}
	rcu_assign_pointer(fs->roots, new);
	if (old)
		kfree_rcu(old, rcu);
	duet_new_epoch();
	return 0;
}

int duet_fs_add_root(struct duet_fs *fs, const struct duet_task *task)
{
	return duet_roots_update(fs, task, NULL, GFP_KERNEL);
}

void duet_fs_del_root(struct duet_fs *fs, const struct duet_task *task)
{
	/* A few words, and there is no way back from here. */
	duet_roots_update(fs, NULL, task, GFP_KERNEL | __GFP_NOFAIL);
}
