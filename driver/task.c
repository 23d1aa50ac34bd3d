// SPDX-License-Identifier: GPL-2.0
/*
 * The life of Duet and of its tasks: on, registration, reading, the end.
 *
 * A task belongs to its descriptor. Whatever ends it first, the last close or
 * a stop, takes it out of everything that the probes see; only the structure
 * waits for the descriptor.
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
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include "duet.h"

/* One part in 32 of the machine's memory may hold nodes and files. */
#define DUET_LIMIT_SHIFT	5

/* ---- on and off ---- */

int duet_start(unsigned int max_tasks)
{
	int err = -EALREADY;

	if (max_tasks > DUET_MAX_TASKS)
		return -EINVAL;
	mutex_lock(&duet.lock);
	if (duet.on)
		goto out;
	duet.max_tasks = max_tasks ?: DUET_DEFAULT_TASKS;
	duet.node_size = offsetof(struct duet_node, slot[duet.max_tasks]);
	duet.file_size = offsetof(struct duet_file, want[duet.max_tasks]);
	duet.limit = totalram_pages() << (PAGE_SHIFT - DUET_LIMIT_SHIFT);
	err = duet_table_start();
	if (err)
		goto out;
	err = duet_interest_start();
	if (err)
		goto stop_table;
	err = duet_path_start();
	if (err)
		goto stop_interest;
	duet.on = true;
	goto out;

stop_interest:
	duet_interest_stop();
stop_table:
	duet_table_stop();
out:
	mutex_unlock(&duet.lock);
	return err;
}

static void duet_task_takedown(struct duet_task *task);

/* Ends every task and waits for nobody: readers wake and are told. */
int duet_stop(void)
{
	struct duet_task *task, *next;

	mutex_lock(&duet.lock);
	if (!duet.on) {
		mutex_unlock(&duet.lock);
		return -EALREADY;
	}
	list_for_each_entry_safe(task, next, &duet.tasks, list)
		duet_task_takedown(task);
	/* A rename that is being looked at sees the tables to its end. */
	duet_watch_settle();
	/* The entries' and nodes' callbacks need the caches. */
	rcu_barrier();
	duet_path_stop();
	duet_interest_stop();
	duet_table_stop();
	duet.on = false;
	mutex_unlock(&duet.lock);
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
	if (!test_bit(DUET_TASK_READY, &task->flags) &&
	    !test_and_set_bit(DUET_TASK_READY, &task->flags))
		irq_work_queue(&task->wake);
}

/* ---- the end of a task ---- */

static void duet_task_free(struct kref *ref)
{
	struct duet_task *task = container_of(ref, struct duet_task, ref);

	put_pid(task->owner);
	kfree(task->prefix);
	kfree(task->path);
	kfree(task->items);
	kfree(task);
}

void duet_task_put(struct duet_task *task)
{
	kref_put(&task->ref, duet_task_free);
}

/* Takes a task out of everything but its descriptor. */
static void duet_task_takedown(struct duet_task *task)
{
	lockdep_assert_held(&duet.lock);
	set_bit(DUET_TASK_STOPPED, &task->flags);
	wake_up_poll(&task->wait, EPOLLIN | EPOLLRDNORM | EPOLLHUP);

	duet_fs_del_root(task->fs, task);
	RCU_INIT_POINTER(duet.task[task->slot], NULL);
	/* No probe and no rename sees the task after this. */
	synchronize_rcu();

	mutex_lock(&task->lock);
	duet_task_forget(task);
	xa_destroy(&task->done);
	mutex_unlock(&task->lock);

	irq_work_sync(&task->wake);
	duet_hooks_put(task->hooks);
	duet_unpin_inode(task->root_mark);
	duet_unpin_inode(task->top_mark);
	duet_fs_put(task->fs);
	list_del_init(&task->list);
	duet.nr_tasks--;
}

static int duet_task_release(struct inode *inode, struct file *file)
{
	struct duet_task *task = file->private_data;

	mutex_lock(&duet.lock);
	if (!list_empty(&task->list))
		duet_task_takedown(task);
	mutex_unlock(&duet.lock);
	duet_task_put(task);
	return 0;
}

/* ---- reading ---- */

/* Merges two lists of nodes in page order. */
static struct duet_node *duet_merge(struct duet_node *a, struct duet_node *b,
				    unsigned int slot)
{
	struct duet_node *head, **tail = &head;

	while (a != DUET_LIST_END && b != DUET_LIST_END) {
		struct duet_node **first = a->run <= b->run ? &a : &b;

		*tail = *first;
		tail = &(*first)->slot[slot].next;
		*first = *tail;
	}
	*tail = a != DUET_LIST_END ? a : b;
	return head;
}

/*
 * Sorts a file's pending nodes by page. Bottom-up merge sort: part[i] holds a
 * sorted list of 2^i nodes. Nobody else touches a node that is on a list.
 */
static struct duet_node *duet_sort(struct duet_node *list, unsigned int slot)
{
	struct duet_node *part[64], *node;
	unsigned int i, used = 0;

	while (list != DUET_LIST_END) {
		node = list;
		list = node->slot[slot].next;
		node->slot[slot].next = DUET_LIST_END;
		for (i = 0; i < used && part[i] != DUET_LIST_END; i++) {
			node = duet_merge(part[i], node, slot);
			part[i] = DUET_LIST_END;
		}
		if (i == used)
			used++;
		part[i] = node;
	}
	node = DUET_LIST_END;
	for (i = 0; i < used; i++)
		node = duet_merge(part[i], node, slot);
	return node;
}

/* Takes the next file off the queue, first come, first served. */
static struct duet_file *duet_next_file(struct duet_task *task)
{
	struct duet_want *want;
	struct duet_file *file;
	unsigned long flags;

	if (!task->todo)
		task->todo = llist_reverse_order(llist_del_all(&task->queue));
	if (!task->todo)
		return NULL;
	file = duet_queued_file(task, task->todo);
	task->todo = task->todo->next;
	want = &file->want[task->slot];

	spin_lock_irqsave(&file->lock, flags);
	/* Asked for again meanwhile, once QUEUED is off nobody would do it. */
	while (want->flags & DUET_WANT_SYNC) {
		spin_unlock_irqrestore(&file->lock, flags);
		duet_sync_file(file, task);
		spin_lock_irqsave(&file->lock, flags);
	}
	want->flags &= ~DUET_WANT_QUEUED;
	task->nodes = want->pending ?: DUET_LIST_END;
	want->pending = NULL;
	spin_unlock_irqrestore(&file->lock, flags);

	task->nodes = duet_sort(task->nodes, task->slot);
	return file;
}

/* The last item of a file that left: nothing of it is owed any more. */
static void duet_file_finish(struct duet_file *file, struct duet_task *task)
{
	struct duet_want *want = &file->want[task->slot];
	unsigned long flags;

	spin_lock_irqsave(&file->lock, flags);
	if (!(want->flags & (DUET_WANT_QUEUED | DUET_WANT_SYNC)))
		want->flags &= ~DUET_WANT_LEFT;
	spin_unlock_irqrestore(&file->lock, flags);
	duet_file_release(file);
}

/* The first node of the file that is being read has been: takes it off. */
static void duet_node_read(struct duet_task *task)
{
	struct duet_node *node = task->nodes;
	struct duet_slot *slot = &node->slot[task->slot];

	lockdep_assert_held(&task->file->lock);
	task->nodes = slot->next;
	slot->next = NULL;
	node->nr_queued--;
	duet_node_gc(node);
}

/*
 * Makes items of the first node of the file that is being read, at most max,
 * and takes the node off the list unless something is left of it.
 */
static unsigned int duet_read_node(struct duet_task *task,
				   struct duet_item *items, unsigned int max)
{
	struct duet_file *file = task->file;
	struct duet_node *node = task->nodes;
	struct duet_news news;
	unsigned int n = 0;
	unsigned long flags;
	u64 left, told = 0;

	spin_lock_irqsave(&file->lock, flags);
	left = duet_node_news(node, task, &news);
	while (left && n < max) {
		u64 page = left & -left;
		struct duet_item *item = &items[n++];

		memset(item, 0, sizeof(*item));
		item->uuid.ino = file->key.ino;
		item->uuid.gen = file->gen;
		item->uuid.tid = task->slot + 1;
		item->idx = (node->run << DUET_RUN_SHIFT) + __ffs64(page);
		item->state = (news.added & page ? DUET_PAGE_ADDED : 0) |
			      (news.removed & page ? DUET_PAGE_REMOVED : 0) |
			      (news.dirty & page ? DUET_PAGE_DIRTY : 0) |
			      (news.flushed & page ? DUET_PAGE_FLUSHED : 0);
		told |= page;
		left &= ~page;
	}
	if (told)
		duet_node_told(node, task, told);
	if (!left)
		duet_node_read(task);
	spin_unlock_irqrestore(&file->lock, flags);
	return n;
}

/*
 * Finds the next node with something to tell, and drops those whose events
 * have cancelled since. False when the task has nothing pending.
 */
static bool duet_next_node(struct duet_task *task)
{
	struct duet_news news;
	unsigned long flags;
	u64 pending;

	lockdep_assert_held(&task->lock);
	for (;;) {
		if (!task->file) {
			task->file = duet_next_file(task);
			if (!task->file)
				return false;
		}
		while (task->nodes != DUET_LIST_END) {
			spin_lock_irqsave(&task->file->lock, flags);
			pending = duet_node_news(task->nodes, task, &news);
			if (!pending)
				duet_node_read(task);
			spin_unlock_irqrestore(&task->file->lock, flags);
			if (pending)
				return true;
			cond_resched();
		}
		duet_file_finish(task->file, task);
		task->file = NULL;
		if (test_bit(DUET_TASK_STOPPED, &task->flags) ||
		    fatal_signal_pending(current))
			return false;
	}
}

/* Whether a read would return something. What comes after this wakes again. */
static bool duet_task_pending(struct duet_task *task)
{
	clear_bit(DUET_TASK_READY, &task->flags);
	smp_mb__after_atomic();	/* pairs with duet_task_wake()'s test-and-set */
	if (task->next_item < task->nr_items)	/* left from a failed copy */
		return true;
	if (test_bit(DUET_TASK_RESCAN, &task->flags))
		duet_scan(task);
	return duet_next_node(task);
}

/* Fills the task's buffer with at most max items; how many it holds then. */
static unsigned int duet_task_fill(struct duet_task *task, unsigned int max)
{
	unsigned int n = 0;

	lockdep_assert_held(&task->lock);
	if (!duet_task_pending(task))
		return 0;
	if (task->next_item == task->nr_items) {
		do {
			n += duet_read_node(task, task->items + n, max - n);
			cond_resched();
		} while (n < max && duet_next_node(task));
		task->next_item = 0;
		task->nr_items = n;
	}
	return min(task->nr_items - task->next_item, max);
}

static ssize_t duet_task_read(struct file *file, char __user *buf,
			      size_t count, loff_t *pos)
{
	const unsigned long wakes = BIT(DUET_TASK_READY) | BIT(DUET_TASK_STOPPED);
	struct duet_task *task = file->private_data;
	size_t max = count / sizeof(struct duet_item);
	ssize_t done = 0;
	unsigned int n;
	int err;

	if (!max)
		return -EINVAL;
	err = mutex_lock_interruptible(&task->read_lock);
	if (err)
		return -EINTR;

	while (max) {
		mutex_lock(&task->lock);
		if (test_bit(DUET_TASK_STOPPED, &task->flags)) {
			mutex_unlock(&task->lock);
			err = -ESHUTDOWN;
			break;
		}
		n = duet_task_fill(task, min_t(size_t, max, DUET_ITEMS));
		mutex_unlock(&task->lock);

		if (n) {
			/* Given away once it is copied: a fault loses nothing. */
			if (copy_to_user(buf + done,
					 task->items + task->next_item,
					 n * sizeof(*task->items))) {
				err = -EFAULT;
				break;
			}
			task->next_item += n;
			task->nr_delivered += n;
			done += n * sizeof(*task->items);
			max -= n;
			if (signal_pending(current))
				break;
			continue;
		}
		if (done)
			break;
		if (test_bit(DUET_TASK_GONE, &task->flags)) {
			err = -ENODEV;
			break;
		}
		if (file->f_flags & O_NONBLOCK) {
			err = -EAGAIN;
			break;
		}
		err = wait_event_interruptible(task->wait,
					       READ_ONCE(task->flags) & wakes);
		if (err) {
			err = -EINTR;
			break;
		}
	}
	mutex_unlock(&task->read_lock);
	return done ?: err;
}

/*
 * Readable means that a read returns something: what was cancelled since is
 * taken away here, where there is time for it.
 */
static __poll_t duet_task_poll(struct file *file, poll_table *wait)
{
	struct duet_task *task = file->private_data;
	__poll_t mask = 0;

	poll_wait(file, &task->wait, wait);
	if (!mutex_trylock(&task->read_lock))
		return 0;	/* somebody reads; he is who would get it */
	mutex_lock(&task->lock);
	if (test_bit(DUET_TASK_STOPPED, &task->flags)) {
		mask = EPOLLHUP | EPOLLERR;
	} else {
		if (duet_task_pending(task))
			mask = EPOLLIN | EPOLLRDNORM;
		else if (test_bit(DUET_TASK_GONE, &task->flags))
			mask = EPOLLHUP;
	}
	mutex_unlock(&task->lock);
	mutex_unlock(&task->read_lock);
	return mask;
}

static const struct file_operations duet_task_fops = {
	.owner = THIS_MODULE,
	.read = duet_task_read,
	.poll = duet_task_poll,
	.unlocked_ioctl = duet_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.release = duet_task_release,
};

/* ---- the bitmap ---- */

int duet_task_done(struct duet_task *task, u64 ino, u32 gen)
{
	struct duet_file *file;
	int err = 0;
	void *old;

	mutex_lock(&task->lock);
	if (test_bit(DUET_TASK_STOPPED, &task->flags)) {
		err = -ESHUTDOWN;
		goto out;
	}
	old = xa_store(&task->done, ino, xa_mk_value(gen), GFP_KERNEL);
	if (xa_is_err(old)) {
		err = xa_err(old);
		goto out;
	}
	if (!old)
		atomic_long_inc(&task->nr_done);
	/* From here on no probe takes it up again: now drop what there is. */
	rcu_read_lock();
	file = duet_file_by_ino(task, ino, gen);
	if (file && !duet_file_hold(file))
		file = NULL;
	rcu_read_unlock();
	if (file) {
		duet_file_forget(file, task);
		duet_file_release(file);
	}
out:
	mutex_unlock(&task->lock);
	return err;
}

int duet_task_undone(struct duet_task *task, u64 ino, u32 gen)
{
	struct super_block *sb;
	struct inode *inode;
	int err = 0;

	mutex_lock(&task->lock);
	if (test_bit(DUET_TASK_STOPPED, &task->flags)) {
		err = -ESHUTDOWN;
		goto out;
	}
	if (!duet_is_done(task, ino, gen))
		goto out;
	xa_erase(&task->done, ino);
	atomic_long_dec(&task->nr_done);
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
out:
	mutex_unlock(&task->lock);
	return err;
}

/* 1 when the file is done or of no interest, 0 when not. */
int duet_task_check(struct duet_task *task, u64 ino, u32 gen)
{
	struct super_block *sb;
	struct dentry *dentry;
	struct duet_file *file;
	struct inode *inode;
	int ret = 1;

	mutex_lock(&task->lock);
	if (test_bit(DUET_TASK_STOPPED, &task->flags)) {
		ret = -ESHUTDOWN;
		goto out;
	}
	if (duet_is_done(task, ino, gen))
		goto out;
	rcu_read_lock();
	file = duet_file_by_ino(task, ino, gen);
	if (file && READ_ONCE(file->inode) &&
	    test_bit(task->slot, file->active.words))
		ret = 0;
	rcu_read_unlock();
	if (!ret)
		goto out;
	inode = duet_inode_of(task, ino, gen, &sb);
	if (!inode)
		goto out;
	dentry = duet_name_of(task, inode, gen);
	if (dentry)
		ret = 0;
	dput(dentry);
	iput(inode);
	deactivate_super(sb);
out:
	mutex_unlock(&task->lock);
	return ret;
}

/* ---- registration ---- */

/*
 * The task that an identity means: with a reference, and only the caller's
 * own, by descriptor or thread group, unless it administers the system.
 */
struct duet_task *duet_task_get(unsigned int id, struct file *file)
{
	struct duet_task *task, *found = ERR_PTR(-ESRCH);

	if (file->f_op == &duet_task_fops) {
		task = file->private_data;
		if (task->slot + 1 == id) {
			kref_get(&task->ref);
			return task;
		}
	}
	mutex_lock(&duet.lock);
	list_for_each_entry(task, &duet.tasks, list) {
		if (task->slot + 1 != id)
			continue;
		if (task->owner != task_tgid(current) &&
		    !capable(CAP_SYS_ADMIN)) {
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

static int duet_check_mask(u32 mask)
{
	if (mask & ~(DUET_EVENTS | DUET_STATES | DUET_FD_NONBLOCK))
		return -EINVAL;
	if (!(mask & (DUET_EVENTS | DUET_STATES)))
		return -EINVAL;
	if (mask & DUET_PAGE_EXISTS &&
	    mask & (DUET_PAGE_ADDED | DUET_PAGE_REMOVED))
		return -EINVAL;
	if (mask & DUET_PAGE_MODIFIED &&
	    mask & (DUET_PAGE_DIRTY | DUET_PAGE_FLUSHED))
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
		copy = kstrdup(at, GFP_KERNEL);
	kfree(buf);
	return copy ?: ERR_PTR(-ENOMEM);
}

static struct duet_task *duet_task_new(const char *name, u32 regmask,
				       const struct path *path)
{
	struct path top = { .mnt = path->mnt, .dentry = path->mnt->mnt_root };
	struct duet_task *task;
	int err;

	task = kzalloc(sizeof(*task), GFP_KERNEL);
	if (!task)
		return ERR_PTR(-ENOMEM);
	kref_init(&task->ref);
	INIT_LIST_HEAD(&task->list);
	xa_init(&task->done);
	init_llist_head(&task->queue);
	init_irq_work(&task->wake, duet_task_wake_work);
	init_waitqueue_head(&task->wait);
	mutex_init(&task->read_lock);
	mutex_init(&task->lock);
	task->nodes = DUET_LIST_END;
	task->regmask = regmask;
	task->events = regmask & DUET_EVENTS;
	task->states = regmask & DUET_STATES;
	if (regmask & DUET_PAGE_EXISTS)
		task->looks |= DUET_PAGE_ADDED | DUET_PAGE_REMOVED;
	if (regmask & DUET_PAGE_MODIFIED)
		task->looks |= DUET_PAGE_DIRTY | DUET_PAGE_FLUSHED |
			       DUET_PAGE_REMOVED;
	task->hooks = duet_hooks_for(regmask);
	task->root = d_inode(path->dentry);
	task->top = d_inode(top.dentry);
	task->owner = get_pid(task_tgid(current));
	strscpy(task->name, name, sizeof(task->name));

	err = -ENOMEM;
	task->items = kmalloc_array(DUET_ITEMS, sizeof(*task->items),
				    GFP_KERNEL);
	if (!task->items)
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

/* Makes the task known to the probes. Undone by duet_task_takedown(). */
static int duet_task_setup(struct duet_task *task, const struct path *path)
{
	unsigned int slot;
	int err;

	lockdep_assert_held(&duet.lock);
	if (!duet.on)
		return -ESHUTDOWN;
	for (slot = 0; slot < duet.max_tasks; slot++)
		if (!rcu_access_pointer(duet.task[slot]))
			break;
	if (slot == duet.max_tasks)
		return -EUSERS;
	task->slot = slot;
	task->fs = duet_fs_get(path->dentry->d_sb);
	if (IS_ERR(task->fs))
		return PTR_ERR(task->fs);
	task->root_mark = duet_pin_inode(task->root);
	if (IS_ERR(task->root_mark)) {
		err = PTR_ERR(task->root_mark);
		goto put_fs;
	}
	task->top_mark = duet_pin_inode(task->top);
	if (IS_ERR(task->top_mark)) {
		err = PTR_ERR(task->top_mark);
		goto unpin_root;
	}
	err = duet_hooks_get(task->hooks);
	if (err)
		goto unpin_top;
	rcu_assign_pointer(duet.task[slot], task);
	err = duet_fs_add_root(task->fs, task);
	if (err)
		goto put_hooks;
	list_add_tail(&task->list, &duet.tasks);
	duet.nr_tasks++;
	return 0;

put_hooks:
	RCU_INIT_POINTER(duet.task[slot], NULL);
	synchronize_rcu();
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
static int duet_reserve_fd(void)
{
	int zero, fd = get_unused_fd_flags(0);

	if (fd)
		return fd;
	zero = fd;
	fd = get_unused_fd_flags(0);
	put_unused_fd(zero);
	return fd;
}

/* Registers a task of the calling process; returns its descriptor. */
int duet_register(const char *name, u32 regmask, const char *where)
{
	struct duet_task *task;
	struct file *file;
	struct path path;
	int err, fd;

	err = duet_check_mask(regmask);
	if (err)
		return err;
	if (!*where)
		return -ENOENT;
	err = kern_path(where, LOOKUP_FOLLOW | LOOKUP_DIRECTORY, &path);
	if (err)
		return err;
	err = path_permission(&path, MAY_READ | MAY_EXEC);
	if (err)
		goto put_path;
	task = duet_task_new(name, regmask, &path);
	if (IS_ERR(task)) {
		err = PTR_ERR(task);
		goto put_path;
	}
	fd = duet_reserve_fd();
	if (fd < 0) {
		err = fd;
		goto put_task;
	}
	task->fd = fd;
	file = anon_inode_getfile("[duet]", &duet_task_fops, task,
				  O_RDONLY | (regmask & DUET_FD_NONBLOCK ?
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
		mutex_lock(&task->lock);
		err = duet_scan(task);
		mutex_unlock(&task->lock);
	}
	path_put(&path);
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
