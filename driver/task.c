// SPDX-License-Identifier: GPL-2.0
/*
 * The life of Duet and of its tasks: on, registration, reading, the end.
 *
 * A task belongs to its descriptor. Whatever ends it first, the last close or
 * a stop, takes it out of everything that the probes see, and waits for
 * nobody: a call that works on the task, and perhaps sleeps on what a user
 * controls, is a user of it, and the last of them takes away what it had. Its
 * slot, its hooks and the tables stay until then. Only the structure waits for
 * the descriptor.
 */
#include <linux/anon_inodes.h>
#include <linux/cred.h>
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/pid.h>
#include <linux/poll.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include "duet.h"
#include "trace.h"

/* One part in 32 of the machine's memory, and a quarter of that a task. */
#define DUET_LIMIT_SHIFT	5
#define DUET_TASK_LIMIT_SHIFT	2

/* What the tasks of one user may have of it, and of the slots, in percent. */
#define DUET_USER_SHARE		25

/* ---- on and off ---- */

static unsigned long duet_default_limit(const unsigned long *which)
{
	unsigned long limit;

	limit = totalram_pages() << (PAGE_SHIFT - DUET_LIMIT_SHIFT);
	if (which == &duet.limit)
		return limit;
	return limit >> DUET_TASK_LIMIT_SHIFT;
}

void duet_default_limits(void)
{
	duet.limit = duet_default_limit(&duet.limit);
	duet.task_limit = duet_default_limit(&duet.task_limit);
	duet.max_tasks = DUET_DEFAULT_TASKS;
	duet.user_share = DUET_USER_SHARE;
}

/* How much longer chains may become than the tables were made for. */
#define DUET_LIMIT_GROWTH	8

/* Sets the limit of all tasks, or that of the tasks to come; 0: the default. */
int duet_set_limit(unsigned long *which, unsigned long bytes)
{
	int err = 0;

	mutex_lock(&duet.lock);
	if (!bytes)
		bytes = duet_default_limit(which);
	if (which == &duet.limit && bytes < duet_level(duet_bytes()))
		err = -EBUSY;
	else if (which == &duet.limit && duet.built &&
		 bytes / DUET_LIMIT_GROWTH > duet.built_limit)
		err = -ERANGE;
	else
		WRITE_ONCE(*which, bytes);
	/* What CPUs took ahead of what was allowed before is not kept. */
	if (!err)
		duet_stocks_drain();
	mutex_unlock(&duet.lock);
	if (!err)
		duet_sysfs_changed();
	return err;
}

/* For the tasks to come; 0: the default. */
int duet_set_user_share(unsigned int percent)
{
	if (percent > 100)
		return -EINVAL;
	mutex_lock(&duet.lock);
	WRITE_ONCE(duet.user_share, percent ?: DUET_USER_SHARE);
	mutex_unlock(&duet.lock);
	duet_sysfs_changed();
	return 0;
}

/* For the next start: the size of every node depends on it. */
int duet_set_max_tasks(unsigned int max_tasks)
{
	int err = 0;

	if (!max_tasks || max_tasks > DUET_MAX_TASKS)
		return -EINVAL;
	mutex_lock(&duet.lock);
	if (duet.built)
		err = max_tasks == duet.max_tasks ? 0 : -EBUSY;
	else
		WRITE_ONCE(duet.max_tasks, max_tasks);
	mutex_unlock(&duet.lock);
	if (!err)
		duet_sysfs_changed();
	return err;
}

static int duet_build(void)
{
	int err;

	duet.built_limit = duet.limit;
	duet.map_words = BITS_TO_LONGS(duet.max_tasks);
	duet.node_size = duet_node_bytes(duet.max_tasks);
	duet.first_node = duet_first_place(duet.max_tasks);
	duet.file_size = duet_file_bytes(duet.max_tasks);
	duet.more_size = duet.node_size + duet.first_node - duet.file_size;
	err = duet_table_start();
	if (err)
		return err;
	err = duet_files_start();
	if (err)
		goto stop_table;
	err = duet_path_start();
	if (err)
		goto stop_interest;
	duet.built = true;
	return 0;

stop_interest:
	duet_files_stop();
stop_table:
	duet_table_stop();
	return err;
}

/* Takes the tables away once Duet is off and no task has anything in them. */
static void duet_unbuild(void)
{
	lockdep_assert_held(&duet.lock);
	if (duet.on || !duet.built || !bitmap_empty(duet.slots, DUET_MAX_TASKS))
		return;
	/* Probes that nobody needs see the tables to their end as well. */
	duet_hooks_detach();
	/* A rename that is being looked at sees the tables to its end. */
	duet_watch_settle();
	/* The entries' and nodes' callbacks need the caches. */
	rcu_barrier();
	duet_path_stop();
	duet_files_stop();
	duet_table_stop();
	duet.built = false;
}

static int duet_start_locked(unsigned int max_tasks)
{
	int err = 0;

	lockdep_assert_held(&duet.lock);
	if (duet.on)
		return -EALREADY;
	if (duet.built) {
		/* Somebody is still busy with a task of before. */
		if (max_tasks && max_tasks != duet.max_tasks)
			return -EBUSY;
	} else {
		if (max_tasks)
			duet.max_tasks = max_tasks;
		err = duet_build();
	}
	if (!err)
		WRITE_ONCE(duet.on, true);
	return err;
}

/* On, for so many tasks; 0: for as many as were set. */
int duet_start(unsigned int max_tasks)
{
	int err;

	if (max_tasks > DUET_MAX_TASKS)
		return -EINVAL;
	mutex_lock(&duet.lock);
	err = duet_start_locked(max_tasks);
	mutex_unlock(&duet.lock);
	if (!err)
		duet_sysfs_changed();
	return err;
}

static void duet_task_takedown(struct duet_task *task);
static void duet_task_unuse(struct duet_task *task);

/* Who ended a task waits so long, at most, for who is still busy with it. */
#define DUET_END_WAIT	(HZ / 2)

static DECLARE_WAIT_QUEUE_HEAD(duet_forgotten);

/* Without duet.lock: who clears one wakes us after that, and we look again. */
static bool duet_is_forgotten(void)
{
	return data_race(bitmap_empty(duet.slots, DUET_MAX_TASKS));
}

/* Ends every task; readers wake and are told. */
int duet_stop(void)
{
	struct duet_task *task, *next;
	LIST_HEAD(ended);

	mutex_lock(&duet.lock);
	if (!duet.on) {
		mutex_unlock(&duet.lock);
		return -EALREADY;
	}
	WRITE_ONCE(duet.on, false);
	list_for_each_entry_safe(task, next, &duet.tasks, list) {
		kref_get(&task->ref);
		duet_task_takedown(task);
		list_add_tail(&task->list, &ended);
	}
	duet_unbuild();
	mutex_unlock(&duet.lock);
	list_for_each_entry_safe(task, next, &ended, list) {
		list_del_init(&task->list);
		duet_task_unuse(task);
		duet_task_put(task);
	}
	wait_event_timeout(duet_forgotten, duet_is_forgotten(), DUET_END_WAIT);
	duet_sysfs_changed();
	duet_sysfs_tasks_changed();
	return 0;
}

/* ---- waking ---- */

static void duet_task_wake_work(struct irq_work *work)
{
	struct duet_task *task = container_of(work, struct duet_task, wake);

	wake_up_poll(&task->wait, EPOLLIN | EPOLLRDNORM | EPOLLHUP);
}

/*
 * Once between two looks of the reader. The probe may hold xa_lock, so the
 * waking itself is left to an interrupt work, which runs with nothing held.
 */
void duet_task_wake(struct duet_task *task)
{
	/*
	 * What there is to see comes before the look at READY. Pairs with the
	 * one in duet_collect(): either we see that READY is clear, or the
	 * reader sees what we did. Nothing on amd64, after an atomic.
	 */
	smp_mb__after_atomic();
	if (!test_bit(DUET_TASK_READY, &task->flags) &&
	    !test_and_set_bit(DUET_TASK_READY, &task->flags))
		irq_work_queue(&task->wake);
}

/* Has the reader look at all inodes again. */
void duet_task_rescan(struct duet_task *task)
{
	set_bit(DUET_TASK_RESCAN, &task->flags);
	duet_task_wake(task);
}

/* ---- the end of a task ---- */

static void duet_task_free(struct kref *ref)
{
	struct duet_task *task = container_of(ref, struct duet_task, ref);

	/* A mark on its directory may have woken it to the last. */
	irq_work_sync(&task->wake);
	if (task->cred)
		put_cred(task->cred);
	put_pid(task->owner);
	kfree(task->prefix);
	kfree(task->path);
	kfree(task->items);
	free_percpu(task->counts);
	kfree(task);
}

void duet_task_put(struct duet_task *task)
{
	kref_put(&task->ref, duet_task_free);
}

/*
 * Ends a task: nothing finds it any more. What it had goes with its last user,
 * of whom the caller, without duet.lock, is one.
 */
static void duet_task_takedown(struct duet_task *task)
{
	lockdep_assert_held(&duet.lock);
	trace_duet_task_end(task);
	set_bit(DUET_TASK_STOPPED, &task->flags);
	wake_up_poll(&task->wait, EPOLLIN | EPOLLRDNORM | EPOLLHUP);
	duet_sysfs_del(task);

	if (!duet_is_snapshot(task))
		duet_fs_del_root(task->fs, task);
	RCU_INIT_POINTER(duet.task[task->slot], NULL);
	list_del_init(&task->list);
	duet.nr_tasks--;
	/* No probe and no rename sees the task after this. */
	synchronize_rcu();
}

/*
 * How many slots, from the first on, can say something of a page. More from
 * before a task is to be seen, so whoever finds bits of it under a file's lock
 * finds its slot counted; less once it has left every file.
 */
static void duet_count_slots(unsigned int at_least)
{
	unsigned int last = find_last_bit(duet.slots, DUET_MAX_TASKS);

	lockdep_assert_held(&duet.lock);
	/* With none the kernel says the size. */
	last = last < DUET_MAX_TASKS ? last + 1 : 0;
	WRITE_ONCE(duet.nr_slots, max(last, at_least));
}

/* Takes away what a task had that nobody uses any more. */
static void duet_task_dismantle(struct duet_task *task)
{
	/* Nobody can want it: for those that say that it has to be held. */
	mutex_lock(&task->lock);
	duet_task_forget(task);
	duet_snapshot_drop(task);
	duet_marks_destroy(task);
	mutex_unlock(&task->lock);
	duet_unpin_inode(task->root_mark);
	duet_unpin_inode(task->top_mark);

	mutex_lock(&duet.lock);
	/* Not before: the entries' inodes are told of their end by a hook. */
	duet_hooks_put(task->hooks);
	duet_fs_put(task->fs);
	__clear_bit(task->slot, duet.slots);
	duet_count_slots(0);
	WRITE_ONCE(task->forgotten, true);
	duet_unbuild();
	mutex_unlock(&duet.lock);
	wake_up_all(&duet_forgotten);
}

static void duet_task_unuse(struct duet_task *task)
{
	if (refcount_dec_and_test(&task->users))
		duet_task_dismantle(task);
}

static int duet_task_enter(struct duet_task *task, bool wait)
{
	int err;

	if (test_bit(DUET_TASK_STOPPED, &task->flags) ||
	    !refcount_inc_not_zero(&task->users))
		return duet_stop_reason(task);
	if (wait)
		err = mutex_lock_killable(&task->lock);
	else
		err = mutex_trylock(&task->lock) ? 0 : -EBUSY;
	if (err)
		goto unuse;
	if (!test_bit(DUET_TASK_STOPPED, &task->flags))
		return 0;
	mutex_unlock(&task->lock);
	err = duet_stop_reason(task);
unuse:
	duet_task_unuse(task);
	return err;
}

/*
 * Begins to work at the reader's end of a task, unless that has ended or the
 * caller is killed while others do. The caller has a reference.
 */
int duet_task_lock(struct duet_task *task)
{
	return duet_task_enter(task, true);
}

/* The same, if nobody works there now: else EBUSY. */
int duet_task_trylock(struct duet_task *task)
{
	return duet_task_enter(task, false);
}

void duet_task_unlock(struct duet_task *task)
{
	mutex_unlock(&task->lock);
	duet_task_unuse(task);
}

/*
 * Becomes a user of every task that has something in the tables, at most
 * DUET_MAX_TASKS, with a reference to each, and says how many they are.
 */
unsigned int duet_tasks_use(struct duet_task **tasks)
{
	struct duet_task *task;
	unsigned int nr = 0;

	mutex_lock(&duet.lock);
	list_for_each_entry(task, &duet.tasks, list) {
		if (duet_is_snapshot(task))
			continue;
		/* On the list it has not ended, so it has its first user. */
		refcount_inc(&task->users);
		kref_get(&task->ref);
		tasks[nr++] = task;
	}
	mutex_unlock(&duet.lock);
	return nr;
}

void duet_tasks_unuse(struct duet_task **tasks, unsigned int nr)
{
	while (nr--) {
		duet_task_unuse(tasks[nr]);
		duet_task_put(tasks[nr]);
	}
}

/* Ends a task whose descriptor may stay open; false when it had ended. */
bool duet_task_end(struct duet_task *task)
{
	bool alive;

	mutex_lock(&duet.lock);
	alive = !test_bit(DUET_TASK_STOPPED, &task->flags);
	if (alive) {
		/* Before STOPPED, in the same word: who sees that sees why. */
		set_bit(DUET_TASK_ENDED, &task->flags);
		duet_task_takedown(task);
	}
	mutex_unlock(&duet.lock);
	if (!alive)
		return false;
	duet_task_unuse(task);
	wait_event_timeout(duet_forgotten, READ_ONCE(task->forgotten),
			   DUET_END_WAIT);
	duet_sysfs_tasks_changed();
	return true;
}

int duet_task_release(struct inode *inode, struct file *file)
{
	struct duet_task *task = file->private_data;

	duet_task_end(task);
	duet_task_put(task);
	return 0;
}

/* ---- registration ---- */

/*
 * Whether the caller may act on a task whose number he knows: the process that
 * registered it, while that has the rights that it had, or who administers the
 * system.
 */
static bool duet_may_act(const struct duet_task *task)
{
	return (task->owner == task_tgid(current) && duet_is_callers(task)) ||
	       capable(CAP_SYS_ADMIN);
}

/*
 * The task that an identity means, with a reference: the descriptor's own, or
 * one that the caller may act on; to look at, one that he may see.
 */
struct duet_task *duet_task_get(unsigned int id, struct file *file, bool look)
{
	struct duet_task *task = duet_task_of(file), *found = ERR_PTR(-ESRCH);

	if (task && (!id || task->slot + 1 == id)) {
		kref_get(&task->ref);
		return task;
	}
	if (!id)
		return ERR_PTR(-EINVAL);
	mutex_lock(&duet.lock);
	list_for_each_entry(task, &duet.tasks, list) {
		if (task->slot + 1 != id)
			continue;
		if (!(look ? duet_may_see(task) : duet_may_act(task))) {
			found = ERR_PTR(-EPERM);
			break;
		}
		kref_get(&task->ref);
		found = task;
		break;
	}
	mutex_unlock(&duet.lock);
	return found;
}

static int duet_check_mask(u32 mask, u32 flags)
{
	if (mask & ~(DUET_EVENTS | DUET_STATES))
		return -EINVAL;
	if (!(mask & (DUET_EVENTS | DUET_STATES)))
		return -EINVAL;
	if (mask & DUET_PAGE_EXISTS &&
	    mask & (DUET_PAGE_ADDED | DUET_PAGE_REMOVED))
		return -EINVAL;
	if (mask & DUET_PAGE_MODIFIED &&
	    mask & (DUET_PAGE_DIRTY | DUET_PAGE_FLUSHED))
		return -EINVAL;
	/* What is to be told once is a state, and all that is told. */
	if (flags & DUET_REGISTER_SNAPSHOT &&
	    (mask & DUET_EVENTS || flags & DUET_REGISTER_NO_SCAN))
		return -EINVAL;
	return 0;
}

/* A path as the calling process would say it. */
static char *duet_path_string(const struct path *path)
{
	char *buf = kmalloc(PATH_MAX, GFP_KERNEL), *at, *copy;

	if (!buf)
		return ERR_PTR(-ENOMEM);
	at = d_path(path, buf, PATH_MAX);
	if (IS_ERR(at))
		copy = at;
	else
		copy = kstrdup(at, GFP_KERNEL_ACCOUNT);
	kfree(buf);
	return copy ?: ERR_PTR(-ENOMEM);
}

static struct duet_task *duet_task_new(const char *name, u32 regmask,
				       u32 regflags, const struct path *path)
{
	struct path top = { .mnt = path->mnt, .dentry = path->mnt->mnt_root };
	struct duet_task *task;
	int err;

	task = kzalloc(sizeof(*task), GFP_KERNEL_ACCOUNT);
	if (!task)
		return ERR_PTR(-ENOMEM);
	kref_init(&task->ref);
	INIT_LIST_HEAD(&task->list);
	duet_marks_init(task);
	init_llist_head(&task->queue);
	INIT_LIST_HEAD(&task->snapshot);
	init_irq_work(&task->wake, duet_task_wake_work);
	init_waitqueue_head(&task->wait);
	mutex_init(&task->read_lock);
	mutex_init(&task->lock);
	__set_bit(DUET_TASK_STOPPED, &task->flags);
	task->nodes = DUET_LIST_END;
	task->regmask = regmask;
	task->regflags = regflags;
	task->events = regmask & DUET_EVENTS;
	task->states = regmask & DUET_STATES;
	if (regmask & DUET_PAGE_EXISTS)
		task->looks |= DUET_PAGE_ADDED | DUET_PAGE_REMOVED;
	if (regmask & DUET_PAGE_MODIFIED)
		task->looks |= DUET_PAGE_DIRTY | DUET_PAGE_FLUSHED |
			       DUET_PAGE_REMOVED;
	if (regflags & DUET_REGISTER_NO_SCAN)
		__set_bit(DUET_TASK_QUIET, &task->flags);
	/* Who hears of no change needs no hook. */
	task->hooks = duet_is_snapshot(task) ? 0 : duet_hooks_for(regmask);
	task->root = d_inode(path->dentry);
	task->top = d_inode(top.dentry);
	task->subvol = duet_subvol_of(task->root);
	task->owner = get_pid(task_tgid(current));
	task->cred = get_current_cred();
	task->privileged = duet_is_admin();
	task->start = ktime_get_boottime_ns();
	strscpy(task->name, name, sizeof(task->name));

	err = -ENOMEM;
	task->items = kmalloc_array(DUET_ITEMS, sizeof(*task->items),
				    GFP_KERNEL_ACCOUNT);
	task->counts = alloc_percpu_gfp(struct duet_task_counts,
					GFP_KERNEL_ACCOUNT);
	if (!task->items || !task->counts)
		goto free;
	task->path = duet_path_string(path);
	if (IS_ERR(task->path)) {
		err = PTR_ERR(task->path);
		task->path = NULL;
		goto free;
	}
	task->prefix = duet_path_string(&top);
	if (IS_ERR(task->prefix)) {
		err = PTR_ERR(task->prefix);
		task->prefix = NULL;
		goto free;
	}
	if (!strcmp(task->prefix, "/"))
		*task->prefix = '\0';	/* what follows has its own slash */
	return task;
free:
	duet_task_put(task);
	return ERR_PTR(err);
}

/* Whether the directory was removed while nobody would have told us. */
static bool duet_is_removed(const struct inode *inode)
{
	return !inode->i_nlink || (S_ISDIR(inode->i_mode) && IS_DEADDIR(inode));
}

/*
 * Who has a slot, as long as it is taken, which may be longer than the task is
 * on the list: a call that works on it may last. duet.lock.
 */
static struct {
	kuid_t uid;
	bool shared;			/* it counts to the user's share */
	unsigned long limit;
} duet_holders[DUET_MAX_TASKS];

/* What a user without CAP_SYS_ADMIN has left of a whole, in percent. */
static unsigned long duet_share_of(unsigned long whole)
{
	return mult_frac(whole, (unsigned long)duet.user_share, 100UL);
}

/*
 * Gives the task its limit. The tasks of one user have no more than a share of
 * the slots, and their limits none than one of all memory. Who asks for none
 * gets half of what is left, so that another finds something.
 */
static int duet_take_share(struct duet_task *task)
{
	unsigned long bytes = duet_share_of(duet.limit), limit;
	unsigned int nr = max(duet_share_of(duet.max_tasks), 1UL), slot;

	lockdep_assert_held(&duet.lock);
	if (task->privileged) {
		task->limit = task->limit ?: duet.task_limit;
		return 0;
	}
	for_each_set_bit(slot, duet.slots, DUET_MAX_TASKS) {
		if (!duet_holders[slot].shared ||
		    !uid_eq(duet_holders[slot].uid, task->cred->uid))
			continue;
		nr -= !!nr;
		bytes -= min(bytes, duet_holders[slot].limit);
	}
	limit = task->limit ?: min(duet.task_limit, bytes / 2);
	if (!nr || limit > bytes ||
	    (!task->limit && bytes / 2 < duet.file_size + duet.node_size))
		return -EDQUOT;
	task->limit = limit;
	return 0;
}

/*
 * Makes the task known to the probes. Undone by duet_task_takedown() and
 * duet_task_dismantle().
 */
static int duet_task_setup(struct duet_task *task, const struct path *path)
{
	struct inode *root = d_inode(path->dentry);
	unsigned int slot;
	int err;

	lockdep_assert_held(&duet.lock);
	if (!duet.on)
		return -ESHUTDOWN;
	slot = find_first_zero_bit(duet.slots, duet.max_tasks);
	if (slot == duet.max_tasks)
		return -EUSERS;
	err = duet_take_share(task);
	if (err)
		return err;
	task->slot = slot;
	task->fs = duet_fs_get(root->i_sb);
	if (IS_ERR(task->fs))
		return PTR_ERR(task->fs);
	task->root_mark = duet_pin_inode(&task->root, task);
	if (IS_ERR(task->root_mark)) {
		err = PTR_ERR(task->root_mark);
		goto put_fs;
	}
	task->top_mark = duet_pin_inode(&task->top, task);
	if (IS_ERR(task->top_mark)) {
		err = PTR_ERR(task->top_mark);
		goto unpin_root;
	}
	err = -ENOENT;
	if (duet_is_removed(root))
		goto unpin_top;
	err = duet_hooks_get(task->hooks);
	if (err)
		goto unpin_top;
	err = duet_sysfs_add(task);
	if (err)
		goto put_hooks;
	duet_count_slots(slot + 1);
	rcu_assign_pointer(duet.task[slot], task);
	if (!duet_is_snapshot(task)) {
		err = duet_fs_add_root(task->fs, task);
		if (err)
			goto del_sysfs;
	}
	__set_bit(slot, duet.slots);
	duet_holders[slot].uid = task->cred->uid;
	duet_holders[slot].shared = !task->privileged;
	duet_holders[slot].limit = task->limit;
	refcount_set(&task->users, 1);
	clear_bit(DUET_TASK_STOPPED, &task->flags);
	list_add_tail(&task->list, &duet.tasks);
	duet.nr_tasks++;
	trace_duet_task_start(task);
	return 0;

del_sysfs:
	RCU_INIT_POINTER(duet.task[slot], NULL);
	synchronize_rcu();
	duet_count_slots(0);
	duet_sysfs_del(task);
put_hooks:
	duet_hooks_put(task->hooks);
unpin_top:
	duet_unpin_inode(task->top_mark);
unpin_root:
	duet_unpin_inode(task->root_mark);
put_fs:
	duet_fs_put(task->fs);
	return err;
}

/* A descriptor above 0, which the published interface promises. */
static int duet_reserve_fd(unsigned int flags)
{
	int zero, fd = get_unused_fd_flags(flags);

	if (fd)
		return fd;
	zero = fd;
	fd = get_unused_fd_flags(flags);
	put_unused_fd(zero);
	return fd;
}

/* The directory, or regular file, that the caller may list, or read. */
static int duet_lookup(const struct duet_registration *reg, struct path *path)
{
	unsigned int flags = LOOKUP_FOLLOW;
	umode_t mode;
	int err;

	if (reg->where)
		err = *reg->where ? kern_path(reg->where, flags, path) :
				    -ENOENT;
	else
		err = user_path_at(reg->dirfd, reg->user_where,
				   flags | LOOKUP_EMPTY, path);
	if (err)
		return err;
	mode = d_inode(path->dentry)->i_mode;
	if (S_ISDIR(mode))
		err = path_permission(path, MAY_READ | MAY_EXEC);
	else if (S_ISREG(mode) && !reg->only_dir)
		err = path_permission(path, MAY_READ);
	else
		err = -ENOTDIR;
	/* Whose file is whose there, we could not say later. */
	if (!err && is_idmapped_mnt(path->mnt) && !capable(CAP_SYS_ADMIN))
		err = -EOPNOTSUPP;
	if (err)
		path_put(path);
	return err;
}

/* Registers a task of the calling process; returns its descriptor. */
int duet_register(struct duet_registration *reg)
{
	struct duet_task *task;
	struct file *file;
	struct path path;
	int err, fd;

	err = duet_check_mask(reg->mask, reg->flags);
	if (err)
		return err;
	if (reg->limit > READ_ONCE(duet.task_limit) && !capable(CAP_SYS_ADMIN))
		return -EPERM;
	err = duet_lookup(reg, &path);
	if (err)
		return err;
	task = duet_task_new(reg->name, reg->mask, reg->flags, &path);
	if (IS_ERR(task)) {
		err = PTR_ERR(task);
		goto put_path;
	}
	task->limit = reg->limit;
	fd = duet_reserve_fd(reg->flags & DUET_REGISTER_INHERIT ? 0 : O_CLOEXEC);
	if (fd < 0) {
		err = fd;
		goto put_task;
	}
	task->fd = fd;
	file = anon_inode_getfile("[duet]", &duet_task_fops, task,
				  O_RDONLY |
				  (reg->flags & DUET_REGISTER_NONBLOCK ?
				   O_NONBLOCK : 0));
	if (IS_ERR(file)) {
		err = PTR_ERR(file);
		goto put_fd;
	}

	/* From here on the file owns the task, and fput() ends both. */
	mutex_lock(&duet.lock);
	err = duet_task_setup(task, &path);
	mutex_unlock(&duet.lock);
	if (!err) {
		/*
		 * Who decides about a file with the directories of before is
		 * done after this, and who adds a page sees the new epoch.
		 * Nobody decides for a snapshot.
		 */
		if (!duet_is_snapshot(task))
			synchronize_rcu();
		/* Its end may have come first: there is nothing to scan then. */
		err = duet_task_lock(task);
		if (!err) {
			err = duet_scan(task);
			if (err == -ESHUTDOWN)	/* stopped meanwhile */
				err = duet_stop_reason(task);
			clear_bit(DUET_TASK_QUIET, &task->flags);
			duet_task_unlock(task);
		}
		reg->tid = task->slot + 1;
		duet_sysfs_tasks_changed();
	}
	path_put(&path);
	if (!err && reg->publish)
		err = reg->publish(reg);
	if (err) {
		put_unused_fd(fd);
		fput(file);
		return err;
	}
	/* Only now can anyone see it: what the scan found waits in it. */
	fd_install(fd, file);
	return fd;

put_fd:
	put_unused_fd(fd);
put_task:
	duet_task_put(task);
put_path:
	path_put(&path);
	return err;
}
