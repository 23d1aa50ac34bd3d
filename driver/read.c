// SPDX-License-Identifier: GPL-2.0
/*
 * The reader's end of a task: read() and poll().
 *
 * This is where the work is. The probes only mark and queue; here a file is
 * taken off the queue, compared with the page cache where that was put off,
 * its nodes are put in order, and what has cancelled since is dropped.
 */
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>
#include "duet.h"

/*
 * What is read with interrupts off, in steps: each entry of the page cache that
 * is looked at, and what is left for duet_batch() nodes.
 */
#define DUET_READ_STEPS	128

/* Items that are made in one section, each of which may say something else. */
#define DUET_READ_ITEMS	128

/* Nodes that are put in order between two looks at who waits for the CPU. */
#define DUET_SORT_STEP	256

/* As many runs of nodes as a file can have, which counts them in 32 bits. */
#define DUET_SORT_PARTS	33

/* Putting a task's nodes in order, of which there may be millions. */
struct duet_sort {
	const struct duet_task *task;
	unsigned int steps;
	bool cut_short;		/* there is no sense in going on */
};

/* A list of nodes, and its last one. */
struct duet_chain {
	struct duet_node *first;
	struct duet_node *last;
};

static struct duet_node **duet_node_next(const struct duet_sort *sort,
					 struct duet_node *node)
{
	return &duet_slot_of(node, sort->task->slot)->next;
}

/* An event may look at the link just now: duet_is_queued(). */
static void duet_node_link(const struct duet_sort *sort,
			   struct duet_node *node, struct duet_node *next)
{
	WRITE_ONCE(*duet_node_next(sort, node), next);
}

/* One more node was moved. False when the rest may stay as it is. */
static bool duet_sort_step(struct duet_sort *sort)
{
	if (++sort->steps % DUET_SORT_STEP == 0) {
		cond_resched();
		sort->cut_short = duet_is_cut_short(sort->task);
	}
	return !sort->cut_short;
}

/* Merges two lists in page order; just joins them once that is cut short. */
static struct duet_chain duet_merge(struct duet_sort *sort,
				    struct duet_chain a, struct duet_chain b)
{
	struct duet_node **tail;
	struct duet_chain all;

	tail = &all.first;
	while (!sort->cut_short) {
		/* The one that begins first; where it ends, the other is left. */
		if (b.first->run < a.first->run)
			swap(a, b);
		WRITE_ONCE(*tail, a.first);
		tail = duet_node_next(sort, a.first);
		if (a.first == a.last) {
			WRITE_ONCE(*tail, b.first);
			all.last = b.last;
			return all;
		}
		a.first = *tail;
		duet_sort_step(sort);
	}
	WRITE_ONCE(*tail, a.first);
	duet_node_link(sort, a.last, b.first);
	all.last = b.last;
	return all;
}

/*
 * Takes nodes off a list as long as they go up, or down: those come reversed.
 * Most often that is all of them, since most files are read in sequence.
 */
static struct duet_chain duet_sort_run(struct duet_sort *sort,
				       struct duet_node **list)
{
	struct duet_node *node = *list, *next = *duet_node_next(sort, node);
	struct duet_chain run = { .first = node, .last = node };
	bool down = next != DUET_LIST_END && next->run < node->run;

	while (next != DUET_LIST_END && (next->run < node->run) == down) {
		node = next;
		next = *duet_node_next(sort, node);
		if (down) {
			duet_node_link(sort, node, run.first);
			run.first = node;
		} else {
			run.last = node;
		}
		if (!duet_sort_step(sort))
			break;
	}
	duet_node_link(sort, run.last, DUET_LIST_END);
	*list = next;
	return run;
}

/*
 * Merge sort of the runs that are there: part[i] holds 2^i of them. Cut short
 * they are all there still, in some order.
 */
static noinline struct duet_chain duet_sort_runs(struct duet_sort *sort,
						 struct duet_chain run,
						 struct duet_node *list)
{
	struct duet_chain part[DUET_SORT_PARTS] = { run };
	unsigned int i;

	while (list != DUET_LIST_END && !sort->cut_short) {
		run = duet_sort_run(sort, &list);
		for (i = 0; part[i].first; i++) {
			run = duet_merge(sort, part[i], run);
			part[i].first = NULL;
		}
		part[i] = run;
	}
	/* Smallest first; list is empty, or what there was no sense in. */
	for (i = 0, run.first = NULL; i < ARRAY_SIZE(part); i++) {
		if (!part[i].first)
			continue;
		run = run.first ? duet_merge(sort, part[i], run) : part[i];
	}
	duet_node_link(sort, run.last, list);
	return run;
}

/*
 * Puts the nodes that are being read in page order. False when it was cut
 * short. Nobody else touches a node that is on a list.
 */
static bool duet_sort(struct duet_task *task)
{
	struct duet_sort sort = { .task = task };
	struct duet_node *list = task->nodes;
	struct duet_chain run;

	lockdep_assert_held(&task->lock);
	if (list != DUET_LIST_END) {
		run = duet_sort_run(&sort, &list);
		if (unlikely(list != DUET_LIST_END))
			run = duet_sort_runs(&sort, run, list);
		task->nodes = run.first;
	}
	task->sorted = !sort.cut_short;
	return task->sorted;
}

/*
 * Does what was put off for the reader, who may sleep: asks whether the task
 * may know of the file, looks its names up, compares it with the page cache.
 */
static void duet_catch_up(struct duet_task *task, struct duet_file *file)
{
	struct duet_want *want = &file->want[task->slot];

	if (!duet_admit(task, file))
		return;
	if (unlikely(duet_want_flags(want) &
		     (DUET_WANT_VERIFY | DUET_WANT_FIND)))
		duet_verify_names(task, file);
	if (duet_want_flags(want) & DUET_WANT_SYNC)
		duet_sync_file(file, task);
}

/* Whether there is something to catch up with, which may take its time. */
static bool duet_is_behind(const struct duet_task *task,
			   const struct duet_file *file)
{
	unsigned int flags = duet_want_flags(&file->want[task->slot]);

	return flags & (DUET_WANT_SYNC | DUET_WANT_FIND | DUET_WANT_MAYBE) ||
	       (flags & DUET_WANT_VERIFY && READ_ONCE(file->inode)) ||
	       !duet_is_admitted(task, file);
}

/*
 * The first file of the queue, first come, first served. Once a call *refill
 * lets it see what was queued since.
 */
static struct duet_file *duet_first_file(struct duet_task *task, bool *refill)
{
	lockdep_assert_held(&task->lock);
	if (!task->todo && *refill) {
		task->todo = llist_reverse_order(llist_del_all(&task->queue));
		*refill = false;
	}
	return task->todo ? duet_queued_file(task, task->todo) : NULL;
}

/* Takes the first file off the queue, to be read. */
static void duet_take_file(struct duet_task *task, struct duet_file *file)
{
	struct duet_want *want = &file->want[task->slot];
	unsigned long flags;

	task->todo = task->todo->next;
	atomic_long_sub(duet.file_size, &task->pending);
	/* As in every probe: see table.c. */
	spin_lock_irqsave(&file->lock, flags);
	want->flags &= ~DUET_WANT_QUEUED;
	/* Who wants it is decided anew when its inode comes back. */
	if (!file->inode && !(want->flags & DUET_WANT_MAYBE))
		want->flags &= ~DUET_WANT_VERIFY;
	/* Asked for again meanwhile, or not finished: another time. */
	if (want->flags & (DUET_WANT_SYNC | DUET_WANT_VERIFY | DUET_WANT_FIND))
		duet_queue_file(file, task);
	task->nodes = DUET_LIST_END;
	/* Nothing is told of a file that may be another's. */
	if (want->pending && !(want->flags & DUET_WANT_MAYBE)) {
		task->nodes = want->pending;
		want->pending = NULL;
	}
	spin_unlock_irqrestore(&file->lock, flags);

	task->sorted = false;
	/* The queue's hold is the reader's now. */
	task->file = file;
}

/* The same for the next file, brought in line; false when there is none. */
static bool duet_next_file(struct duet_task *task, bool *refill)
{
	struct duet_file *file = duet_first_file(task, refill);

	if (!file)
		return false;
	duet_catch_up(task, file);
	duet_take_file(task, file);
	return true;
}

static void duet_overflow_item(struct duet_task *task, struct duet_item *item,
			       u64 ino, u32 gen)
{
	memset(item, 0, sizeof(*item));
	item->uuid.ino = ino;
	item->uuid.gen = gen;
	item->uuid.tid = task->slot + 1;
	item->state = DUET_ITEM_OVERFLOW;
	WRITE_ONCE(task->nr_overflows, task->nr_overflows + 1);
}

/* A run may go on in the next node; n items, more of which are new. */
static unsigned int duet_join_runs(struct duet_item *items, unsigned int n,
				   unsigned int more)
{
	struct duet_item *last = items + n - 1, *next = items + n;

	if (!n || !more || !next->nr || last->uuid.ino != next->uuid.ino ||
	    last->uuid.gen != next->uuid.gen || last->state != next->state ||
	    last->idx + last->nr != next->idx ||
	    last->nr > U32_MAX - DUET_RUN_PAGES)
		return n + more;
	last->nr += next->nr;
	memmove(next, next + 1, (more - 1) * sizeof(*next));
	return n + more - 1;
}

enum duet_progress {
	DUET_READ_MORE,		/* more to look at in this file */
	DUET_READ_FULL,		/* there is news, and no room for it */
	DUET_READ_DONE		/* of this file there is nothing left */
};

/*
 * Makes items of the nodes of the file that is being read, in page order, as
 * far as there is room, and takes off what has been told or has cancelled.
 * Of states nothing is told but what is seen now: events say where to look.
 * mapping is the file's page cache, locked, or NULL where nobody has to look,
 * or there is nothing to look at.
 */
static enum duet_progress duet_read_nodes(struct duet_task *task,
					  struct address_space *mapping,
					  struct duet_item *items,
					  unsigned int *nr, unsigned int max)
{
	struct duet_file *file = task->file;
	struct duet_want *want = &file->want[task->slot];
	/* Of a file that left all is told as gone. */
	const bool looks = task->states &&
			   test_bit(task->slot, file->active.words) &&
			   !(want->flags & (DUET_WANT_LEFT | DUET_WANT_DROP));
	const unsigned int node_steps = DUET_READ_STEPS / duet_batch();
	unsigned int n = *nr, steps = 0, room;
	struct duet_node *node;

	lockdep_assert_held(&file->lock);
	if (unlikely(want->flags & DUET_WANT_LOST)) {
		if (n == max)
			return DUET_READ_FULL;
		want->flags &= ~DUET_WANT_LOST;
		duet_overflow_item(task, &items[n++], file->ino, file->gen);
		*nr = n;
	}
	room = min(max, n + DUET_READ_ITEMS);
	while ((node = task->nodes) != DUET_LIST_END) {
		struct duet_slot *slot = duet_slot_of(node, task->slot);
		struct duet_news news;
		u64 pages, left;

		if (max && n == room)	/* poll() has no room, and asks */
			return n < max ? DUET_READ_MORE : DUET_READ_FULL;
		if (steps >= DUET_READ_STEPS)
			return DUET_READ_MORE;
		steps += node_steps;
		pages = duet_node_news(node, task, &news);
		if (pages && looks) {
			steps += duet_node_look(node, task, mapping);
			pages = duet_node_news(node, task, &news);
		}
		if (unlikely(want->flags & DUET_WANT_DROP)) {
			memset(slot->bits, 0, sizeof(slot->bits));
		} else if (pages) {
			left = pages;
			n = duet_join_runs(items, n,
					   duet_news_items(node, task, &news,
							   &left, items + n,
							   room - n));
			*nr = n;
			duet_node_told(node, task, pages & ~left);
			if (left)
				return n < max ? DUET_READ_MORE :
						 DUET_READ_FULL;
		}
		task->nodes = slot->next;
		slot->next = NULL;
		node->nr_queued--;
		atomic_long_sub(duet.node_size, &task->pending);
		duet_node_trim(node);
		duet_node_gc(node);
	}
	want->flags &= ~DUET_WANT_DROP;
	/* The last item of a file that left: nothing of it is owed any more. */
	if (!(want->flags & (DUET_WANT_QUEUED | DUET_WANT_SYNC)))
		want->flags &= ~DUET_WANT_LEFT;
	return DUET_READ_DONE;
}

/* The same, and lets go of the file when it is done; *dead: it is unused. */
static enum duet_progress duet_read_part(struct duet_task *task,
					 struct address_space *mapping,
					 struct duet_item *items,
					 unsigned int *nr, unsigned int max,
					 bool *dead)
{
	struct duet_file *file = task->file;
	enum duet_progress progress;

	progress = duet_read_nodes(task, mapping, items, nr, max);
	if (progress != DUET_READ_DONE)
		return progress;
	task->file = NULL;
	file->holds--;
	*dead = duet_file_unused(file);
	if (*dead)
		WRITE_ONCE(file->dead, true);
	return progress;
}

/* The same for a task that is told states, of a file that has an inode. RCU. */
static enum duet_progress duet_read_states(struct duet_task *task,
					   struct inode *inode,
					   struct duet_item *items,
					   unsigned int *nr, unsigned int max,
					   bool *dead)
{
	struct address_space *mapping = inode->i_mapping;
	enum duet_progress progress = DUET_READ_MORE;
	struct duet_file *file = task->file;

	/*
	 * The locks that a look takes, see duet_sync_locked(). The inode may
	 * die, or be another's by now, but it is an inode until RCU lets go.
	 */
	xa_lock_irq(&mapping->i_pages);
	spin_lock(&file->lock);
	if (likely(file->inode == inode))
		progress = duet_read_part(task, mapping, items, nr, max, dead);
	spin_unlock(&file->lock);
	xa_unlock_irq(&mapping->i_pages);
	return progress;
}

/* The same of any file. */
static enum duet_progress duet_read_file(struct duet_task *task,
					 struct duet_item *items,
					 unsigned int *nr, unsigned int max)
{
	enum duet_progress progress = DUET_READ_MORE;
	struct duet_file *file = task->file;
	struct inode *inode;
	bool dead = false;

	preempt_disable();	/* see duet_file_release() */
	rcu_read_lock();
	inode = task->states ? READ_ONCE(file->inode) : NULL;
	if (inode) {
		progress = duet_read_states(task, inode, items, nr, max, &dead);
	} else {
		/* As in every probe: see table.c. */
		spin_lock_irq(&file->lock);
		if (likely(!task->states || !file->inode))
			progress = duet_read_part(task, NULL, items, nr, max,
						  &dead);
		spin_unlock_irq(&file->lock);
	}
	rcu_read_unlock();
	if (dead)
		duet_file_bury(file);
	preempt_enable();
	return progress;
}

/* As duet_collect(), for a snapshot: what it lacks comes at its end. */
static unsigned int duet_collect_snapshot(struct duet_task *task,
					  struct duet_item *items,
					  unsigned int max)
{
	unsigned int n;

	if (unlikely(test_bit(DUET_TASK_RESCAN, &task->flags))) {
		duet_loss_take(task, DUET_TASK_LOST);
		duet_scan(task);
	}
	n = duet_snapshot_read(task, items, max);
	if (list_empty(&task->snapshot) && n < max &&
	    duet_loss_take(task, DUET_TASK_LOST))
		duet_overflow_item(task, &items[n++], 0, 0);
	return n;
}

/* What comes after this wakes again. */
static void duet_task_look(struct duet_task *task)
{
	clear_bit(DUET_TASK_READY, &task->flags);
	smp_mb__after_atomic();	/* pairs with duet_task_wake()'s test-and-set */
}

/* Fills items with at most max of them, and returns how many. */
static unsigned int duet_collect(struct duet_task *task,
				 struct duet_item *items, unsigned int max)
{
	bool refill = true;
	unsigned int n = 0;

	lockdep_assert_held(&task->lock);
	if (duet_is_snapshot(task))
		return duet_collect_snapshot(task, items, max);
	duet_name_budget(task);
	duet_task_look(task);
	if (unlikely(test_bit(DUET_TASK_LOST, &task->flags)) &&
	    duet_loss_take(task, DUET_TASK_LOST))
		duet_overflow_item(task, &items[n++], 0, 0);
	if (unlikely(test_bit(DUET_TASK_RESCAN, &task->flags)))
		duet_scan(task);
	do {
		if (!task->file && !duet_next_file(task, &refill))
			break;
		/* Whoever reads next goes on with what was cut short. */
		if (!task->sorted && !duet_sort(task))
			break;
		if (duet_read_file(task, items, &n, max) == DUET_READ_FULL)
			break;
		cond_resched();
	} while (n < max && !duet_is_cut_short(task));
	return n;
}

/* Batches of nodes that are looked at to say whether there is something. */
#define DUET_LOOK_STEPS	256

/*
 * Whether a read may return something. This takes away what has cancelled, but
 * waits for nothing: what has to be compared with the page cache, or looked
 * up, may be something, and so may what is behind too much to look at.
 */
static bool duet_task_readable(struct duet_task *task)
{
	const unsigned long due = BIT(DUET_TASK_LOST) | BIT(DUET_TASK_RESCAN);
	unsigned int n = 0, steps;
	struct duet_file *file;
	bool refill = true;

	lockdep_assert_held(&task->lock);
	if (duet_is_snapshot(task))
		return true;
	if (task->next_item < task->nr_items)	/* left from a failed copy */
		return true;
	duet_task_look(task);
	if (READ_ONCE(task->flags) & due)
		return true;
	for (steps = 0; steps < DUET_LOOK_STEPS; steps++) {
		if (!task->file) {
			file = duet_first_file(task, &refill);
			if (!file)
				return false;
			if (duet_is_behind(task, file))
				return true;
			duet_take_file(task, file);
		}
		/* In whatever order they are. */
		if (duet_read_file(task, NULL, &n, 0) == DUET_READ_FULL)
			return true;
		cond_resched();
	}
	return true;
}

/* Fills the task's buffer with at most max items; how many it holds then. */
static unsigned int duet_task_fill(struct duet_task *task, unsigned int max)
{
	lockdep_assert_held(&task->lock);
	if (task->next_item == task->nr_items) {
		task->next_item = 0;
		task->nr_items = 0;
		task->nr_items = duet_collect(task, task->items, max);
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
	if (!(file->f_flags & O_NONBLOCK))
		err = mutex_lock_interruptible(&task->read_lock);
	else
		err = mutex_trylock(&task->read_lock) ? 0 : -EAGAIN;
	if (err)
		return err;

	while (max) {
		err = duet_task_lock(task);
		if (err)
			break;
		n = duet_task_fill(task, min_t(size_t, max, DUET_ITEMS));
		duet_task_unlock(task);

		if (n) {
			/* Given away once it is copied: a fault loses nothing. */
			if (copy_to_user(buf + done,
					 task->items + task->next_item,
					 n * sizeof(*task->items))) {
				err = -EFAULT;
				break;
			}
			task->next_item += n;
			WRITE_ONCE(task->nr_delivered, task->nr_delivered + n);
			done += n * sizeof(*task->items);
			max -= n;
			if (signal_pending(current))
				break;
			continue;
		}
		/* Cut short by the task's end: that is said, not a file's. */
		if (test_bit(DUET_TASK_STOPPED, &task->flags))
			continue;
		/* A snapshot has an end, which is read as of a file. */
		if (done || duet_is_snapshot(task))
			break;
		if (test_bit(DUET_TASK_GONE, &task->flags)) {
			err = -ENODEV;
			break;
		}
		if (file->f_flags & O_NONBLOCK) {
			err = -EAGAIN;
			break;
		}
		if (signal_pending(current)) {
			err = -EINTR;
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
	/* Who polled meanwhile was told that nothing is there for him. */
	if (wq_has_sleeper(&task->wait))
		wake_up_poll(&task->wait, EPOLLIN | EPOLLRDNORM);
	return done ?: err;
}

/* Waits for nothing, whatever the caller said how long it may take. */
static __poll_t duet_task_poll(struct file *file, poll_table *wait)
{
	struct duet_task *task = file->private_data;
	__poll_t mask = 0;

	poll_wait(file, &task->wait, wait);
	/* Said also while somebody reads: who reads may leave after us. */
	if (test_bit(DUET_TASK_STOPPED, &task->flags))
		return EPOLLHUP | EPOLLERR;
	if (!mutex_trylock(&task->read_lock))
		return 0;	/* somebody reads; he is who would get it */
	switch (duet_task_trylock(task)) {
	case 0:
		if (duet_task_readable(task))
			mask = EPOLLIN | EPOLLRDNORM;
		else if (test_bit(DUET_TASK_GONE, &task->flags))
			mask = EPOLLHUP;
		duet_task_unlock(task);
		break;
	case -EBUSY:	/* who works there wakes nobody when he is done */
		mask = EPOLLIN | EPOLLRDNORM;
		break;
	default:
		mask = EPOLLHUP | EPOLLERR;
	}
	mutex_unlock(&task->read_lock);
	return mask;
}

/* What a process that was handed the descriptor has to know; none of it changes. */
static void duet_task_show_fdinfo(struct seq_file *m, struct file *file)
{
	struct duet_task *task = file->private_data;

	seq_printf(m, "duet-task:\t%u\nduet-mask:\t%#x\nduet-flags:\t%#x\n",
		   task->slot + 1, task->regmask, task->regflags);
	seq_printf(m, "duet-item-size:\t%zu\n", sizeof(struct duet_item));
	seq_puts(m, "duet-name:\t");
	seq_escape(m, task->name, "\n\\");
	seq_puts(m, "\nduet-path:\t");
	seq_escape(m, task->path, "\n\\");
	seq_putc(m, '\n');
}

const struct file_operations duet_task_fops = {
	.owner = THIS_MODULE,
	.read = duet_task_read,
	.poll = duet_task_poll,
	.unlocked_ioctl = duet_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.show_fdinfo = duet_task_show_fdinfo,
	.release = duet_task_release,
};

/* The task whose descriptor this is, or NULL. */
struct duet_task *duet_task_of(struct file *file)
{
	return file->f_op == &duet_task_fops ? file->private_data : NULL;
}
