// SPDX-License-Identifier: GPL-2.0
/*
 * Looking in without touching: what there is, in pieces that fit the caller's
 * buffer. A cursor says where to go on; what changes meanwhile may be missed.
 */
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/mm.h>
#include <linux/pid_namespace.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>
#include "duet.h"

/* Whether the caller may see that there is such a task. */
bool duet_may_see(const struct duet_task *task)
{
	return uid_eq(task->cred->uid, current_uid()) || capable(CAP_SYS_ADMIN);
}

void duet_info_fill(struct duet_info *info)
{
	unsigned int i;

	memset(info, 0, sizeof(*info));
	mutex_lock(&duet.lock);
	info->abi_version = DUET_ABI_VERSION;
	info->on = duet.on;
	info->max_tasks = duet.max_tasks;
	info->nr_tasks = duet.nr_tasks;
	info->node_pages = DUET_RUN_PAGES;
	info->node_bytes = offsetof(struct duet_node, slot[duet.max_tasks]);
	info->file_bytes = offsetof(struct duet_file, want[duet.max_tasks]) +
			   info->node_bytes;
	duet_hooks_state(&info->hooks_found, &info->hooks_alive);
	info->limit = duet.limit;
	info->task_limit = duet.task_limit;
	mutex_unlock(&duet.lock);
	info->bytes = atomic_long_read(&duet.bytes);
	info->nr_files = atomic_long_read(&duet.nr_files);
	info->nr_nodes = atomic_long_read(&duet.nr_nodes);
	for (i = 0; i < DUET_NR_EVENTS; i++)
		info->events[i] = duet_count(offsetof(struct duet_counts,
						      events[i]));
	for (i = 0; i < DUET_NR_DROPS; i++)
		info->drops[i] = duet_count(offsetof(struct duet_counts,
						     drops[i]));
}

/* ---- a buffer that is copied out when it is full ---- */

/* Sizes in the first version of the interface. */
#define DUET_TASK_INFO_V1	4512
#define DUET_NODE_INFO_V1	88
#define DUET_ITEM_V1		32
#define DUET_FILE_REF_V1	16

struct duet_out {
	struct duet_dump *args;
	size_t size;		/* of a structure here */
	unsigned int max;	/* as many fit the caller's buffer */
	unsigned int nr;	/* so many are there, or in buf */
	unsigned int in_buf;
	unsigned int buf_max;
	void *buf;
};

/* size: of the structure now; min: in the first version. */
static int duet_out_init(struct duet_out *out, struct duet_dump *args,
			 size_t size, size_t min)
{
	if (args->flags || args->reserved || args->size < min)
		return -EINVAL;
	memset(out, 0, sizeof(*out));
	out->args = args;
	out->size = size;
	out->max = args->len / args->size;
	if (!out->max)
		return -EINVAL;
	args->nr = 0;
	out->buf_max = max_t(size_t, PAGE_SIZE / size, 1);
	out->buf = kvmalloc(out->buf_max * size, GFP_KERNEL);
	return out->buf ? 0 : -ENOMEM;
}

/* Not in atomic context: the caller's memory may take its time. */
static int duet_out_flush(struct duet_out *out)
{
	char __user *to = u64_to_user_ptr(out->args->buf);
	size_t theirs = out->args->size, both = min(theirs, out->size);
	unsigned int i;

	to += (size_t)out->args->nr * theirs;
	for (i = 0; i < out->in_buf; i++, to += theirs)
		if (copy_to_user(to, out->buf + i * out->size, both) ||
		    clear_user(to + both, theirs - both))
			return -EFAULT;
	out->in_buf = 0;
	out->args->nr = out->nr;
	return 0;
}

/* Room for one more, zeroed; NULL when the caller's buffer is full. */
static void *duet_out_next(struct duet_out *out)
{
	if (out->nr == out->max || out->in_buf == out->buf_max)
		return NULL;
	out->nr++;
	return memset(out->buf + out->in_buf++ * out->size, 0, out->size);
}

/* ---- tasks ---- */

static void duet_task_fill_info(struct duet_task_info *info,
				const struct duet_task *task)
{
	struct super_block *sb;
	unsigned int i;

	info->tid = task->slot + 1;
	info->mask = task->regmask;
	info->flags = task->regflags;
	info->pid = pid_vnr(task->owner);
	info->uid = from_kuid_munged(current_user_ns(), task->cred->uid);
	sb = duet_fs_pin(task->fs);
	if (sb) {
		info->dev = new_encode_dev(sb->s_dev);
		deactivate_super(sb);
	}
	info->fd = task->fd;
	info->gone = test_bit(DUET_TASK_GONE, &task->flags);
	info->age = ktime_get_boottime_ns() - task->start;
	info->limit = task->limit;
	info->pending = atomic_long_read(&task->pending);
	info->files = atomic_long_read(&task->nr_files);
	info->done = atomic_long_read(&task->nr_done);
	info->delivered = READ_ONCE(task->nr_delivered);
	for (i = 0; i < DUET_NR_DROPS; i++)
		info->drops[i] = atomic_long_read(&task->drops[i]);
	info->overflows = READ_ONCE(task->nr_overflows);
	strscpy(info->name, task->name, sizeof(info->name));
	strscpy(info->path, task->path, sizeof(info->path));
}

/* The cursor is the identity before the next. */
int duet_dump_tasks(struct file *file, void *argp, void __user *arg)
{
	struct duet_dump *args = argp;
	struct duet_task_info *info;
	struct duet_task *task;
	struct duet_out out;
	unsigned int slot;
	int err;

	err = duet_out_init(&out, args, sizeof(*info), DUET_TASK_INFO_V1);
	if (err)
		return err;
	for (slot = args->cursor; slot < DUET_MAX_TASKS && !err; slot++) {
		if (out.nr == out.max)
			break;
		mutex_lock(&duet.lock);
		task = rcu_dereference_protected(duet.task[slot],
						 lockdep_is_held(&duet.lock));
		if (task && !duet_may_see(task))
			task = NULL;
		if (task)
			duet_task_fill_info(duet_out_next(&out), task);
		mutex_unlock(&duet.lock);
		if (task)
			err = duet_out_flush(&out);
	}
	args->cursor = slot < DUET_MAX_TASKS ? slot : DUET_CURSOR_END;
	kvfree(out.buf);
	return err;
}

/* ---- the table ---- */

/* Keeps Duet on, and its tables where they are, while they are looked at. */
static int duet_table_hold(void)
{
	mutex_lock(&duet.lock);
	if (duet.on)
		return 0;
	mutex_unlock(&duet.lock);
	return -ESHUTDOWN;
}

static void duet_table_let_go(void)
{
	mutex_unlock(&duet.lock);
}

/*
 * Calls fn for the nodes of the buckets that the cursor and end say, with the
 * bucket locked, which keeps the node and its file. fn is told how many of a
 * bucket's structures to leave out; it returns false when there is no room.
 * Then the cursor points behind what was put out. As the file's own lock is
 * not taken, what fn reads may be a moment old.
 */
static int duet_walk_buckets(struct duet_out *out,
			     bool (*fn)(struct duet_out *out,
					const struct duet_node *node,
					unsigned long bucket, u32 *skip,
					void *arg),
			     void *arg)
{
	struct duet_dump *args = out->args;
	u64 bucket = args->cursor >> 20;
	u32 done = args->cursor & (BIT(20) - 1);
	u64 end;
	int err;

	err = duet_table_hold();
	if (err)
		return err;
	end = 1ULL << duet.node_bits;
	if (args->end)
		end = min_t(u64, end, args->end);
	while (bucket < end) {
		struct hlist_bl_head *head = duet_node_bucket(bucket);
		unsigned int before = out->nr;
		struct hlist_bl_node *pos;
		struct duet_node *node;
		unsigned long flags;
		bool room = true;
		u32 skip = done;

		if (!hlist_bl_empty(head)) {
			/* Taken in probes, hence with interrupts off. */
			local_irq_save(flags);
			hlist_bl_lock(head);
			hlist_bl_for_each_entry(node, pos, head, hash) {
				room = fn(out, node, bucket, &skip, arg);
				if (!room)
					break;
			}
			hlist_bl_unlock(head);
			local_irq_restore(flags);
		}
		if (room) {
			bucket++;
			done = 0;
			if (bucket % 1024)
				continue;
			cond_resched();
			if (!signal_pending(current))
				continue;
			break;
		}
		done += out->nr - before;
		if (out->nr == out->max)
			break;
		/* Only the buffer between is full. */
		err = duet_out_flush(out);
		if (err)
			break;
	}
	duet_table_let_go();
	if (!err)
		err = duet_out_flush(out);
	args->cursor = bucket < end ? bucket << 20 | done : DUET_CURSOR_END;
	return err;
}

static bool duet_slot_empty(const struct duet_slot *slot)
{
	return !slot->next && !(slot->bits[DUET_EVENT_ADDED] |
				slot->bits[DUET_EVENT_REMOVED] |
				slot->bits[DUET_EVENT_DIRTY] |
				slot->bits[DUET_EVENT_FLUSHED]);
}

static bool duet_put_node(struct duet_out *out, const struct duet_node *node,
			  unsigned long bucket, u32 *skip, unsigned int slot,
			  u32 dev)
{
	struct duet_node_info *info;

	if (*skip) {
		--*skip;
		return true;
	}
	info = duet_out_next(out);
	if (!info)
		return false;
	info->bucket = bucket;
	info->ino = node->file->ino;
	info->gen = node->file->gen;
	info->dev = dev;
	info->idx = node->run << DUET_RUN_SHIFT;
	info->cached = READ_ONCE(node->cached);
	info->dirty = READ_ONCE(node->dirty);
	if (slot == duet.max_tasks)
		return true;
	info->tid = slot + 1;
	info->queued = !!READ_ONCE(node->slot[slot].next);
	memcpy(info->bits, node->slot[slot].bits, sizeof(info->bits));
	return true;
}

static bool duet_dump_node(struct duet_out *out, const struct duet_node *node,
			   unsigned long bucket, u32 *skip, void *arg)
{
	const struct super_block *sb = READ_ONCE(node->file->fs->sb);
	u32 dev = 0;
	bool any = false;
	unsigned int i;

	rcu_read_lock();	/* superblocks are freed by RCU */
	if (sb && sb == READ_ONCE(node->file->fs->sb))
		dev = new_encode_dev(sb->s_dev);
	rcu_read_unlock();
	for (i = 0; i < duet.max_tasks; i++) {
		if (duet_slot_empty(&node->slot[i]))
			continue;
		any = true;
		if (!duet_put_node(out, node, bucket, skip, i, dev))
			return false;
	}
	return any || duet_put_node(out, node, bucket, skip, i, dev);
}

int duet_dump_nodes(struct file *file, void *argp, void __user *arg)
{
	struct duet_dump *args = argp;
	struct duet_out out;
	int err;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	err = duet_out_init(&out, args, sizeof(struct duet_node_info),
			    DUET_NODE_INFO_V1);
	if (err)
		return err;
	err = duet_walk_buckets(&out, duet_dump_node, NULL);
	kvfree(out.buf);
	return err;
}

/* ---- a task ---- */

static bool duet_dump_news(struct duet_out *out, const struct duet_node *node,
			   unsigned long bucket, u32 *skip, void *arg)
{
	const struct duet_task *task = arg;
	struct duet_news news;
	struct duet_item item;
	u64 left;

	if (node->file->fs != task->fs || !node->slot[task->slot].next)
		return true;
	left = duet_node_news(node, task, &news);
	while (left) {
		struct duet_item *to;

		duet_news_items(node, task, &news, &left, &item, 1);
		if (*skip) {
			--*skip;
			continue;
		}
		to = duet_out_next(out);
		if (!to)
			return false;
		*to = item;
	}
	return true;
}

int duet_dump_pending(struct file *file, void *argp, void __user *arg)
{
	struct duet_dump *args = argp;
	struct duet_task *task;
	struct duet_out out;
	int err;

	task = duet_task_get(args->tid, file);
	if (IS_ERR(task))
		return PTR_ERR(task);
	err = -EPERM;
	/* What it may not know of is found out when it reads. */
	if (!task->privileged && !capable(CAP_SYS_ADMIN))
		goto put;
	err = duet_out_init(&out, args, sizeof(struct duet_item),
			    DUET_ITEM_V1);
	if (err)
		goto put;
	if (test_bit(DUET_TASK_STOPPED, &task->flags))
		err = -ESHUTDOWN;
	else
		err = duet_walk_buckets(&out, duet_dump_news, task);
	kvfree(out.buf);
put:
	duet_task_put(task);
	return err;
}

/* The cursor is the next inode number. */
int duet_dump_marks(struct file *file, void *argp, void __user *arg)
{
	struct duet_dump *args = argp;
	unsigned long ino = args->cursor;
	struct duet_file_ref *ref;
	struct duet_task *task;
	struct duet_out out;
	void *mark;
	int err;

	task = duet_task_get(args->tid, file);
	if (IS_ERR(task))
		return PTR_ERR(task);
	err = -ESHUTDOWN;
	if (test_bit(DUET_TASK_STOPPED, &task->flags))
		goto put;
	err = duet_out_init(&out, args, sizeof(*ref), DUET_FILE_REF_V1);
	if (err)
		goto put;
	for (mark = xa_find(&task->done, &ino, ULONG_MAX, XA_PRESENT); mark;
	     mark = xa_find_after(&task->done, &ino, ULONG_MAX, XA_PRESENT)) {
		cond_resched();
		if (!duet_is_done(task, ino, (u32)xa_to_value(mark)))
			continue;
		if (out.nr == out.max || signal_pending(current))
			break;
		ref = duet_out_next(&out);
		if (!ref) {
			err = duet_out_flush(&out);
			if (err)
				break;
			ref = duet_out_next(&out);
		}
		ref->ino = ino;
		ref->gen = (u32)xa_to_value(mark);
		ref->result = 1;
	}
	if (!err)
		err = duet_out_flush(&out);
	args->cursor = mark ? ino : DUET_CURSOR_END;
	kvfree(out.buf);
put:
	duet_task_put(task);
	return err;
}
