// SPDX-License-Identifier: GPL-2.0
/*
 * The file systems that tasks are registered on, and what changes there that
 * is no page event: names that move, are linked or removed, and the unmount.
 * fsnotify tells us, by one mark on the superblock, in process context.
 */
#include <linux/dcache.h>
#include <linux/magic.h>
#include <linux/rwsem.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include "compat.h"
#include "duet.h"

/* btrfs: inode number of every subvolume's root (BTRFS_FIRST_FREE_OBJECTID) */
#define DUET_BTRFS_SUBVOL_INO	256

/* What the hooks were proved on. */
static const unsigned long duet_supported[] = {
	EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, F2FS_SUPER_MAGIC,
};

/*
 * Marks that were not freed yet. An unmount and an rmdir destroy marks as well:
 * such a one is on no list that could be waited for, and who destroys it may
 * be in a function of ours.
 */
static atomic_t duet_nr_marks;
static DECLARE_WAIT_QUEUE_HEAD(duet_no_marks);

static struct fsnotify_group *duet_sb_group;
static struct fsnotify_group *duet_opens_group;
static struct fsnotify_group *duet_pin_group;

static void duet_mark_init(struct fsnotify_mark *mark,
			   struct fsnotify_group *group)
{
	atomic_inc(&duet_nr_marks);
	fsnotify_init_mark(mark, group);
}

/* At the end of each free_mark(). */
static void duet_mark_freed(void)
{
	if (atomic_dec_and_test(&duet_nr_marks))
		wake_up_all(&duet_no_marks);
}

static struct duet_fs *duet_fs_of(struct fsnotify_mark *mark)
{
	return container_of(mark, struct duet_fs, mark);
}

/*
 * Keeps the file system from being unmounted by taking s_umount, shared. Only
 * if nobody has it alone or waits for it. The mark is still there while fs->sb
 * is set, and goes, with s_umount held alone, before the superblock's memory
 * does, which RCU delays.
 */
static struct super_block *duet_fs_trylock(struct duet_fs *fs)
{
	struct super_block *sb;

	rcu_read_lock();
	sb = READ_ONCE(fs->sb);
	if (sb && !down_read_trylock(&sb->s_umount))
		sb = NULL;
	if (sb && READ_ONCE(fs->sb) != sb) {
		up_read(&sb->s_umount);
		sb = NULL;
	}
	rcu_read_unlock();
	return sb;
}

/*
 * Pins a file system, so that its inodes may be used; false when it has been
 * unmounted, or the caller is killed.
 *
 * The pin is s_umount, not a reference to the superblock. With a reference of
 * ours umount(2) would succeed, and the file system live on until we let go:
 * with its device in use, and dirty. So it waits instead. It waits for a look
 * at one file: a pin is kept no longer than that, or its holder looks at
 * duet_fs_is_awaited() after each. Who waits comes first: the lock is tried
 * for, which fails then, so tasks that pin in turn keep nobody out.
 *
 * drop_caches uses inodes in the same way. What it does not mind: the last
 * reference to an inode that was deleted waits for the thaw if the file system
 * is frozen, and who thaws needs s_umount. A file system that was not frozen
 * when we took s_umount is not frozen until we let go. One that was has a
 * reference to its superblock from who froze it, and lives on after an unmount
 * as it is. Then, and only then, we take a reference as well.
 *
 * A pin is not taken twice by one thread, nor kept while a path is walked: a
 * walk may wait for a server of a user's, for ever.
 */
bool duet_fs_pin(struct duet_fs *fs, struct duet_pin *pin)
{
	while (!(pin->sb = duet_fs_trylock(fs))) {
		if (!READ_ONCE(fs->sb) || fatal_signal_pending(current))
			return false;
		/* An unmount, a remount, a freeze: for its own length. */
		schedule_timeout_killable(1);
	}
	pin->frozen = READ_ONCE(pin->sb->s_writers.frozen) != SB_UNFROZEN;
	if (likely(!pin->frozen))
		return true;
	atomic_inc(&pin->sb->s_active);
	up_read(&pin->sb->s_umount);
	return true;
}

void duet_fs_unpin(struct duet_pin *pin)
{
	if (likely(!pin->frozen))
		up_read(&pin->sb->s_umount);
	else
		deactivate_super(pin->sb);
}

/* Whether somebody waits for us to unpin; once thawed, that may come. */
bool duet_fs_is_awaited(const struct duet_pin *pin)
{
	if (likely(!pin->frozen))
		return rwsem_is_contended(&pin->sb->s_umount);
	return READ_ONCE(pin->sb->s_writers.frozen) == SB_UNFROZEN;
}

/* ---- what changes there ---- */

/* Decides anew about one file that was renamed, linked or unlinked. */
static void duet_file_moved(struct duet_fs *fs, struct inode *inode,
			    unsigned int how)
{
	struct duet_file *spare = NULL;
	enum duet_drop why;

	/* Before RCU, where waiting is allowed; locks of the VFS are held. */
	if (!duet_has_file(inode))
		spare = duet_file_alloc(GFP_NOFS, &why);
	rcu_read_lock();
	duet_decide(fs, inode, &spare, how);
	rcu_read_unlock();
	if (spare)
		duet_file_free(spare);
}

/*
 * A directory was moved. The tasks whose border it crossed look at all
 * inodes again; what a move changes below is not known otherwise. Of one that
 * is too deep for us, all do.
 */
static void duet_dir_moved(struct duet_fs *fs, struct dentry *dentry,
			   struct inode *old_dir)
{
	struct dentry *new = dget_parent(dentry);
	struct dentry *old = d_find_any_alias(old_dir);
	struct duet_map was = {}, is = {};
	struct duet_roots *roots;
	bool crossed = false;
	bool known = true;
	unsigned int i;

	rcu_read_lock();
	if (old)
		known = duet_roots_above(fs, old, &was);
	known &= duet_roots_above(fs, new, &is);
	roots = duet_dereference(fs->roots);
	for (i = 0; roots && i < roots->nr; i++) {
		struct duet_task *task = roots->task[i];

		if (known && test_bit(task->slot, was.words) ==
			     test_bit(task->slot, is.words))
			continue;
		if (!crossed)
			duet_new_epoch();
		crossed = true;
		duet_task_rescan(task);
	}
	rcu_read_unlock();
	dput(old);
	dput(new);
}

/* Whether what happened to a file can change who wants it, or who may know. */
static bool duet_is_move(struct inode *inode, u32 mask, int data_type)
{
	if (!S_ISREG(inode->i_mode))
		return false;
	/* Nobody has met a file that is being created. */
	if (mask & FS_CREATE)
		return data_type == FSNOTIFY_EVENT_INODE;	/* link() */
	if (mask & FS_DELETE)
		return inode->i_nlink;
	/* The number of links may have changed. */
	if (mask & FS_ATTRIB)
		return duet_has_file(inode);
	return true;
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

	if (mask & FS_ATTRIB)
		duet_attrs_changed(fs, inode);
	if (mask & FS_RENAME && mask & FS_ISDIR) {
		duet_dir_moved(fs, fsnotify_data_dentry(data, data_type), dir);
		duet_ways_changed(fs, fsnotify_data_dentry(data, data_type));
	}
	if (!duet_is_move(inode, mask, data_type))
		return 0;

	duet_moved(fs, inode);
	duet_delay(DUET_DELAY_MOVED);
	if (mask & FS_RENAME)
		/* The only name, or one of several. */
		duet_file_moved(fs, inode,
				inode->i_nlink < 2 ? DUET_DECIDE_LEAVE : 0);
	else if (mask & FS_CREATE)
		duet_file_moved(fs, inode, 0);
	/* Of one that went or moved, other directories may be asked now. */
	if (mask & (FS_RENAME | FS_DELETE))
		duet_attrs_changed(fs, inode);
	/* unlink(), or another file was renamed over this name */
	if (mask & (FS_DELETE | FS_ATTRIB) ? inode->i_nlink > 0 :
	    mask & FS_RENAME && inode->i_nlink > 1) {
		rcu_read_lock();
		duet_names_changed(inode, !(mask & FS_ATTRIB));
		rcu_read_unlock();
	}
	return 0;
}

struct duet_opens_mark {
	struct fsnotify_mark mark;
	struct duet_fs *fs;
};

/*
 * The name that is opened here may be the first that we see of a file whose
 * pages are cached: its dentry was gone, or another of its names was used
 * until now.
 */
static int duet_opens_event(struct fsnotify_group *group, u32 mask,
			    const void *data, int data_type, struct inode *dir,
			    const struct qstr *name, u32 cookie,
			    struct fsnotify_iter_info *iter)
{
	struct fsnotify_mark *mark = iter->marks[FSNOTIFY_ITER_TYPE_SB];
	struct inode *inode = fsnotify_data_inode(data, data_type);

	if (!mark || !inode || !S_ISREG(inode->i_mode) ||
	    !data_race(inode->i_mapping->nrpages))
		return 0;
	rcu_read_lock();
	duet_decide(container_of(mark, struct duet_opens_mark, mark)->fs,
		    inode, NULL, DUET_DECIDE_OPENED);
	rcu_read_unlock();
	return 0;
}

static void duet_opens_free(struct fsnotify_mark *mark)
{
	kfree(container_of(mark, struct duet_opens_mark, mark));
	duet_mark_freed();
}

static const struct fsnotify_ops duet_opens_ops = {
	.handle_event = duet_opens_event,
	.free_mark = duet_opens_free,
};

/* While s_umount is had by somebody alone. */
#define DUET_LISTEN_AGAIN	(HZ / 20)

/*
 * Begins to hear of opens, which cost every open something, hence only now
 * that a file was met whose names are not all known. What was opened before
 * this, the tasks find by looking at all inodes once more.
 */
static void duet_fs_listen(struct work_struct *work)
{
	struct duet_fs *fs = container_of(to_delayed_work(work), struct duet_fs,
					  listen);
	struct duet_opens_mark *opens;
	struct duet_roots *roots;
	struct super_block *sb;
	unsigned int i;

	if (fs->opens)
		return;
	/* Who puts the file system waits for this work: it waits for nobody. */
	sb = duet_fs_trylock(fs);
	if (!sb) {
		if (READ_ONCE(fs->sb))
			queue_delayed_work(system_unbound_wq, &fs->listen,
					   DUET_LISTEN_AGAIN);
		return;
	}
	opens = kzalloc(sizeof(*opens), GFP_KERNEL);
	if (!opens)
		goto again;
	opens->fs = fs;
	duet_mark_init(&opens->mark, duet_opens_group);
	opens->mark.mask = FS_OPEN;
	if (duet_add_sb_mark(&opens->mark, sb)) {
		fsnotify_put_mark(&opens->mark);
		goto again;
	}
	fs->opens = &opens->mark;

	duet_new_epoch();
	rcu_read_lock();
	roots = duet_dereference(fs->roots);
	for (i = 0; roots && i < roots->nr; i++) {
		duet_task_rescan(roots->task[i]);
	}
	rcu_read_unlock();
	up_read(&sb->s_umount);
	return;

again:	/* There is no memory: nobody else would begin with it. */
	up_read(&sb->s_umount);
	queue_delayed_work(system_unbound_wq, &fs->listen, HZ);
}

/* A file was met whose names are not all known. Also in a probe. */
void duet_fs_unnamed(struct duet_fs *fs)
{
	if (READ_ONCE(fs->unnamed))
		return;
	duet_delay(DUET_DELAY_UNNAMED);
	/* Two who meet one at a time queue it once. */
	if (xchg(&fs->unnamed, true))
		return;
	queue_delayed_work(system_unbound_wq, &fs->listen, 0);
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

	duet_delay(DUET_DELAY_FREEING);
	WRITE_ONCE(fs->sb, NULL);
	rcu_read_lock();
	roots = duet_dereference(fs->roots);
	for (i = 0; roots && i < roots->nr; i++) {
		set_bit(DUET_TASK_GONE, &roots->task[i]->flags);
		duet_task_wake(roots->task[i]);
	}
	rcu_read_unlock();
}

static void duet_sb_free(struct fsnotify_mark *mark)
{
	struct duet_fs *fs = duet_fs_of(mark);

	/* An event that was being handled to the last may have queued it. */
	cancel_delayed_work_sync(&fs->listen);
	kfree(rcu_dereference_protected(fs->roots, true));
	kfree(fs);
	duet_mark_freed();
}

static const struct fsnotify_ops duet_sb_ops = {
	.handle_event = duet_sb_event,
	.freeing_mark = duet_sb_freeing,
	.free_mark = duet_sb_free,
};

struct duet_inode_mark {
	struct fsnotify_mark mark;
	struct duet_task *task;		/* with a reference */
	struct inode **which;		/* of its inodes */
};

static int duet_pin_event(struct fsnotify_group *group, u32 mask,
			  const void *data, int data_type, struct inode *dir,
			  const struct qstr *name, u32 cookie,
			  struct fsnotify_iter_info *iter)
{
	return 0;
}

/*
 * The mark goes: the task ends, or the directory was removed, or its file
 * system is unmounted. The inode's address means nothing from here on.
 */
static void duet_pin_freeing(struct fsnotify_mark *mark,
			     struct fsnotify_group *group)
{
	struct duet_inode_mark *pin =
		container_of(mark, struct duet_inode_mark, mark);
	struct duet_task *task = pin->task;

	WRITE_ONCE(*pin->which, NULL);
	if (pin->which != &task->root)
		return;
	set_bit(DUET_TASK_GONE, &task->flags);
	duet_task_wake(task);
}

static void duet_pin_free(struct fsnotify_mark *mark)
{
	struct duet_inode_mark *pin =
		container_of(mark, struct duet_inode_mark, mark);

	duet_task_put(pin->task);
	kfree(pin);
	duet_mark_freed();
}

static const struct fsnotify_ops duet_pin_ops = {
	.handle_event = duet_pin_event,
	.freeing_mark = duet_pin_freeing,
	.free_mark = duet_pin_free,
};

static struct fsnotify_group *duet_group(const struct fsnotify_ops *ops,
					 int flags)
{
	struct fsnotify_group *group = fsnotify_alloc_group(ops, flags);

	return IS_ERR(group) ? NULL : group;
}

int duet_watch_init(void)
{
	duet_sb_group = duet_group(&duet_sb_ops, 0);
	duet_opens_group = duet_group(&duet_opens_ops, 0);
	/* Two tasks may be registered on one directory. */
	duet_pin_group = duet_group(&duet_pin_ops, FSNOTIFY_GROUP_DUPS);
	if (duet_sb_group && duet_opens_group && duet_pin_group)
		return 0;
	duet_watch_exit();
	return -ENOMEM;
}

/*
 * Marks are freed later, by code of this module: waits for that, when every
 * task is gone and no mark is made. Who destroys or uses one sleeps on nothing
 * meanwhile. The second waits for the last free_mark() to return.
 */
void duet_watch_settle(void)
{
	wait_event(duet_no_marks, !atomic_read(&duet_nr_marks));
	fsnotify_wait_marks_destroyed();
}

void duet_watch_exit(void)
{
	duet_watch_settle();
	if (duet_pin_group)
		fsnotify_put_group(duet_pin_group);
	if (duet_opens_group)
		fsnotify_put_group(duet_opens_group);
	if (duet_sb_group)
		fsnotify_put_group(duet_sb_group);
}

/*
 * Keeps an inode by a mark that wants no events. Unlike a plain reference it
 * does not keep the file system from being unmounted, nor the inode from
 * being deleted: these take it away.
 */
struct fsnotify_mark *duet_pin_inode(struct inode **which,
				     struct duet_task *task)
{
	struct inode *inode = *which;
	struct duet_inode_mark *pin;
	int err;

	pin = kzalloc(sizeof(*pin), GFP_KERNEL_ACCOUNT);
	if (!pin)
		return ERR_PTR(-ENOMEM);
	pin->which = which;
	pin->task = task;
	kref_get(&task->ref);
	duet_mark_init(&pin->mark, duet_pin_group);
	err = fsnotify_add_inode_mark(&pin->mark, inode, 0);
	if (err) {
		fsnotify_put_mark(&pin->mark);
		return ERR_PTR(err);
	}
	return &pin->mark;
}

void duet_unpin_inode(struct fsnotify_mark *mark)
{
	if (IS_ERR_OR_NULL(mark))
		return;
	fsnotify_destroy_mark(mark, duet_pin_group);
	fsnotify_put_mark(mark);
}

DEFINE_STATIC_KEY_FALSE(duet_watched_many);

/* How many places of duet.watched the probes look at. */
void duet_set_nr_watched(unsigned int nr)
{
	lockdep_assert_held(&duet.lock);
	WRITE_ONCE(duet.nr_watched, nr);
	if (nr < 2)
		duet_hooks_linger();
	else if (!static_key_enabled(&duet_watched_many))
		static_branch_enable(&duet_watched_many);
}

/*
 * Publishes a file system at its place. The fast test looks at sb alone, so
 * that comes last, and goes first.
 */
static void duet_watched_set(struct duet_fs *fs, bool on)
{
	struct duet_watched *watched = &duet.watched[fs->place];
	unsigned int nr = max(duet.nr_watched, fs->place + 1);

	lockdep_assert_held(&duet.lock);
	if (on) {
		rcu_assign_pointer(watched->fs, fs);
		/* pairs with duet_watched_fs(), which checks what it finds */
		smp_store_release(&watched->sb, fs->sb);
	} else {
		WRITE_ONCE(watched->sb, NULL);
		RCU_INIT_POINTER(watched->fs, NULL);
		while (nr && !duet.watched[nr - 1].sb)
			nr--;
	}
	duet_set_nr_watched(nr);
}

static unsigned int duet_watched_place(void)
{
	unsigned int place = 0;

	/* There are fewer file systems than tasks, so a place is free. */
	while (duet.watched[place].sb)
		place++;
	return place;
}

/* duet.lock; 0 is none's. It comes round after 2^32 file systems. */
static u32 duet_last_fs;

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
	fs->dev = new_encode_dev(sb->s_dev);
	fs->id = ++duet_last_fs;
	fs->nr_tasks = 1;
	if (sb->s_magic == BTRFS_SUPER_MAGIC)
		fs->subvol_ino = DUET_BTRFS_SUBVOL_INO;
	INIT_DELAYED_WORK(&fs->listen, duet_fs_listen);
	duet_mark_init(&fs->mark, duet_sb_group);
	fs->mark.mask = FS_RENAME | FS_CREATE | FS_DELETE | FS_ATTRIB;
	err = duet_add_sb_mark(&fs->mark, sb);
	if (err) {
		fsnotify_put_mark(&fs->mark);
		return ERR_PTR(err);
	}
	list_add_tail(&fs->list, &duet.filesystems);
	fs->place = duet_watched_place();
	duet_watched_set(fs, true);
	return fs;
}

void duet_fs_put(struct duet_fs *fs)
{
	lockdep_assert_held(&duet.lock);
	if (--fs->nr_tasks)
		return;
	list_del(&fs->list);
	duet_watched_set(fs, false);
	/* After this no probe finds it. */
	synchronize_rcu();
	fsnotify_destroy_mark(&fs->mark, duet_sb_group);
	/* From here on the work finds no superblock, and does nothing. */
	cancel_delayed_work_sync(&fs->listen);
	if (fs->opens) {
		fsnotify_destroy_mark(fs->opens, duet_opens_group);
		fsnotify_put_mark(fs->opens);
	}
	fsnotify_put_mark(&fs->mark);
}

static int duet_roots_update(struct duet_fs *fs, struct duet_task *add,
			     const struct duet_task *del, gfp_t gfp)
{
	struct duet_roots *old, *new;
	unsigned int i, nr;

	old = rcu_dereference_protected(fs->roots, lockdep_is_held(&duet.lock));
	nr = (old ? old->nr : 0) + (add ? 1 : 0);
	new = kzalloc(struct_size(new, task, nr), gfp);
	if (!new)
		return -ENOMEM;
	for (i = 0; old && i < old->nr; i++)
		if (old->task[i] != del)
			new->task[new->nr++] = old->task[i];
	if (add)
		new->task[new->nr++] = add;
	rcu_assign_pointer(fs->roots, new);
	if (old)
		kfree_rcu(old, rcu);
	duet_new_epoch();
	return 0;
}

int duet_fs_add_root(struct duet_fs *fs, struct duet_task *task)
{
	return duet_roots_update(fs, task, NULL, GFP_KERNEL_ACCOUNT);
}

void duet_fs_del_root(struct duet_fs *fs, const struct duet_task *task)
{
	/* A few words, and there is no way back from here. */
	duet_roots_update(fs, NULL, task, GFP_KERNEL | __GFP_NOFAIL);
}
