// SPDX-License-Identifier: GPL-2.0
/*
 * Looking in without touching: what there is, in pieces of 64 KiB or what
 * fits the caller's buffer. A cursor says where to go on; what changes
 * meanwhile may be missed.
 */
#include <linux/build_bug.h>
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/mm.h>
#include <linux/pid_namespace.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>
#include "duet.h"

/* What a process may do to files that are not in a user namespace. */
static kernel_cap_t duet_caps(const struct cred *cred)
{
	const kernel_cap_t none = {};

	return cred->user_ns == &init_user_ns ? cred->cap_effective : none;
}

/*
 * Whether a task is the caller's in every respect: the user is the same, and
 * may do no less than when it was registered. What a program with the rights
 * of another user registers is not that of who runs it.
 */
bool duet_is_callers(const struct duet_task *task)
{
	const struct cred *cred = task->cred;
	kuid_t uid = current_uid();

	return !task->privileged && uid_eq(cred->uid, uid) &&
	       uid_eq(cred->euid, uid) && uid_eq(cred->suid, uid) &&
	       cap_issubset(duet_caps(cred), duet_caps(current_cred()));
}

/*
 * Whether the caller may see that there is such a task, and ask it what it may
 * know.
 */
bool duet_may_see(const struct duet_task *task)
{
	return duet_is_callers(task) || duet_is_admin();
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
	info->node_bytes = duet_node_bytes(duet.max_tasks);
	info->file_bytes = duet_file_bytes(duet.max_tasks);
	duet_hooks_state(&info->hooks_found, &info->hooks_alive);
	info->limit = duet.limit;
	info->task_limit = duet.task_limit;
	mutex_unlock(&duet.lock);
	info->page_shift = PAGE_SHIFT;
	info->item_size = sizeof(struct duet_item);
	info->features = DUET_FEATURE_TABLE;
	info->register_flags = DUET_REGISTER_FLAGS;
	info->masks = DUET_EVENTS | DUET_STATES;
	/* They would tell of files that the caller may not know of. */
	if (!duet_is_admin())
		return;
	info->bytes = duet_level(duet_bytes());
	info->nr_files = duet_level(DUET_LEVEL(files));
	info->nr_nodes = duet_level(DUET_LEVEL(nodes));
	for (i = 0; i < DUET_NR_EVENTS; i++)
		info->events[i] = duet_count(offsetof(struct duet_counts,
						      events[i]));
	for (i = 0; i < DUET_NR_DROPS; i++)
		info->drops[i] = duet_count(offsetof(struct duet_counts,
						     drops[i]));
}

/* ---- what a call gathers, and copies out at its end ---- */

/* Sizes in the first version of the interface. */
#define DUET_TASK_INFO_V1	4552
#define DUET_NODE_INFO_V1	120
#define DUET_ITEM_V1		32
#define DUET_FILE_REF_V1	16

static_assert(sizeof(struct duet_task_info) >= DUET_TASK_INFO_V1);
static_assert(sizeof(struct duet_node_info) >= DUET_NODE_INFO_V1);
static_assert(sizeof(struct duet_item) == DUET_ITEM_V1);	/* published */
static_assert(sizeof(struct duet_file_ref) >= DUET_FILE_REF_V1);

struct duet_out {
	struct duet_dump *args;
	size_t size;		/* of a structure here */
	unsigned int nr;
	unsigned int stop;	/* no more of them for now ... */
	unsigned int max;	/* ... nor ever */
	void *buf;
};

/* size: of the structure now; min: in the first version. */
static int duet_out_init(struct duet_out *out, struct duet_dump *args,
			 size_t size, size_t min)
{
	if (args->flags || args->reserved || args->size < min ||
	    args->size > SZ_64K)	/* what it has more is cleared in one go */
		return -EINVAL;
	out->args = args;
	out->size = size;
	out->nr = 0;
	out->max = min_t(size_t, args->len / args->size, SZ_64K / size);
	out->stop = out->max;
	if (!out->max)
		return -EINVAL;
	/* As large as the caller likes: an errno is enough. */
	out->buf = kvmalloc_array(out->max, size, GFP_KERNEL | __GFP_NOWARN);
	return out->buf ? 0 : -ENOMEM;
}

/* Room for one more, zeroed; NULL when there is none. */
static void *duet_out_next(struct duet_out *out)
{
	if (out->nr == out->stop)
		return NULL;
	return memset(out->buf + out->nr++ * out->size, 0, out->size);
}

/* With no lock held: the caller's memory may take its time. */
static int duet_out_copy(struct duet_out *out)
{
	char __user *to = u64_to_user_ptr(out->args->buf);
	size_t theirs = out->args->size, both = min(theirs, out->size);
	unsigned int i;

	for (i = 0; i < out->nr; i++, to += theirs)
		if (copy_to_user(to, out->buf + i * out->size, both) ||
		    clear_user(to + both, theirs - both))
			return -EFAULT;
	out->args->nr = out->nr;
	return 0;
}

/* ---- tasks ---- */

static void duet_task_fill_info(struct duet_task_info *info,
				const struct duet_task *task)
{
	unsigned int i;

	info->tid = task->slot + 1;
	info->mask = task->regmask;
	info->flags = task->regflags;
	info->pid = pid_vnr(task->owner);
	info->uid = from_kuid_munged(current_user_ns(), task->cred->uid);
	if (READ_ONCE(task->fs->sb))
		info->dev = task->fs->dev;
	info->fd = task->fd;
	info->gone = test_bit(DUET_TASK_GONE, &task->flags);
	info->age = ktime_get_boottime_ns() - task->start;
	info->limit = task->limit;
	info->done = atomic_long_read(&task->nr_done);
	info->delivered = READ_ONCE(task->nr_delivered);
	/* They would tell of files that the caller may not know of. */
	if (duet_is_admin()) {
		info->pending = atomic_long_read(&task->pending);
		info->files = duet_files_of(task);
		for (i = 0; i < DUET_NR_DROPS; i++)
			info->drops[i] = duet_drops_for(task, i);
	}
	info->overflows = READ_ONCE(task->nr_overflows);
	info->item_size = sizeof(struct duet_item);
	strscpy(info->name, task->name, sizeof(info->name));
	strscpy(info->path, task->path, sizeof(info->path));
}

/*
 * The cursor is the identity before the next. Over a task's own descriptor it
 * is that task alone, for whoever holds it: he may read what it is told.
 */
int duet_dump_tasks(struct file *file, void *argp, void __user *arg)
{
	struct duet_dump *args = argp;
	struct duet_task *task, *own = duet_task_of(file);
	struct duet_task_info *info;
	struct duet_out out;
	u64 slot;
	int err;

	if (args->tid || args->first || args->end)
		return -EINVAL;
	err = duet_out_init(&out, args, sizeof(*info), DUET_TASK_INFO_V1);
	if (err)
		return err;
	mutex_lock(&duet.lock);
	if (own && test_bit(DUET_TASK_STOPPED, &own->flags)) {
		/* It may have no file system any more, nor its slot. */
		mutex_unlock(&duet.lock);
		kvfree(out.buf);
		return duet_stop_reason(own);
	}
	for (slot = args->cursor; slot < DUET_MAX_TASKS; slot++) {
		task = rcu_dereference_protected(duet.task[slot],
						 lockdep_is_held(&duet.lock));
		if (!task || (own ? task != own : !duet_may_see(task)))
			continue;
		info = duet_out_next(&out);
		if (!info)
			break;
		duet_task_fill_info(info, task);
	}
	mutex_unlock(&duet.lock);
	err = duet_out_copy(&out);
	args->cursor = slot < DUET_MAX_TASKS ? slot : DUET_CURSOR_END;
	kvfree(out.buf);
	return err;
}

/* ---- the table ---- */

/*
 * Where a walk goes on: the bucket, and how many of its structures were put
 * out. Such a cursor is never 0, since a bucket before it is done with, or
 * something of this one was put out.
 */
#define DUET_CURSOR_BITS	20
#define DUET_CURSOR(bucket, done) \
	((u64)(bucket) << DUET_CURSOR_BITS | (done))

/* Structures that are put out with a bucket locked. */
#define DUET_BUCKET_STEP	64

/*
 * Calls fn for the nodes of the buckets that the call says, with the
 * bucket locked, which keeps the node and its file. fn is told how many of a
 * bucket's structures to leave out; it returns false when there is no room.
 * Then the cursor points behind what was put out. As the file's own lock is
 * not taken, what fn reads may be a moment old.
 */
static int duet_walk_buckets(struct duet_out *out,
			     bool (*fn)(struct duet_out *out,
					const struct duet_node *node,
					unsigned long bucket, u32 *skip,
					const struct duet_task *task),
			     const struct duet_task *task)
{
	struct duet_dump *args = out->args;
	u64 bucket = args->cursor ? args->cursor >> DUET_CURSOR_BITS :
				    args->first;
	u32 done = args->cursor & (BIT(DUET_CURSOR_BITS) - 1);
	int err = 0;
	u64 end;

	/* Keeps Duet on, its tables where they are, and the task's slot its. */
	mutex_lock(&duet.lock);
	if (task && test_bit(DUET_TASK_STOPPED, &task->flags))
		err = duet_stop_reason(task);
	else if (!duet.on)
		err = -ESHUTDOWN;
	if (err) {
		mutex_unlock(&duet.lock);
		return err;
	}
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

		out->stop = min(out->max, before + DUET_BUCKET_STEP);
		/* Who adds the first one just now may be passed over. */
		if (!data_race(hlist_bl_empty(head))) {
			/* Taken in probes, hence with interrupts off. */
			local_irq_save(flags);
			duet_bucket_lock(head);
			hlist_bl_for_each_entry(node, pos, head, hash) {
				room = fn(out, node, bucket, &skip, task);
				if (!room)
					break;
			}
			duet_bucket_unlock(head);
			local_irq_restore(flags);
		}
		if (!room)
			done += out->nr - before;
		if (!room && out->nr == out->max)
			break;
		if (room) {
			bucket++;
			done = 0;
			if (bucket % 1024)
				continue;
		}
		cond_resched();
		if (signal_pending(current))
			break;
	}
	mutex_unlock(&duet.lock);
	args->cursor = bucket < end ? DUET_CURSOR(bucket, done) :
				      DUET_CURSOR_END;
	return duet_out_copy(out);
}

/*
 * What follows reads a node without its file's lock, as data_race() says: each
 * word was so a moment ago, and nothing but what is told rests on it.
 */

static bool duet_slot_empty(const struct duet_slot *slot)
{
	return !duet_is_queued(slot) && !data_race(duet_slot_bits(slot));
}

static bool duet_put_node(struct duet_out *out, const struct duet_node *node,
			  unsigned long bucket, u32 *skip, unsigned int slot,
			  u32 dev)
{
	const struct duet_slot *said;
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
	info->cached = data_race(READ_ONCE(node->cached));
	info->dirty = data_race(READ_ONCE(node->dirty));
	if (slot == duet.max_tasks)
		return true;
	info->tid = slot + 1;
	said = duet_slot_seen(node, slot);
	info->queued = duet_is_queued(said);
	data_race(memcpy(info->bits, said->bits, sizeof(said->bits)));
	return true;
}

static bool duet_dump_node(struct duet_out *out, const struct duet_node *node,
			   unsigned long bucket, u32 *skip,
			   const struct duet_task *task)
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
		if (duet_slot_empty(duet_slot_seen(node, i)))
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

	if (args->tid)
		return -EINVAL;
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
			   unsigned long bucket, u32 *skip,
			   const struct duet_task *task)
{
	struct duet_news news;
	struct duet_item item;
	u64 left;

	if (node->file->fs != task->fs ||
	    !duet_is_queued(duet_slot_seen(node, task->slot)))
		return true;
	left = data_race(duet_node_news(node, task, &news));
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

	if (args->first || args->end)
		return -EINVAL;
	task = duet_task_get(args->tid, file, false);
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
	int err, more;
	u32 gen;

	if (args->first || args->end)
		return -EINVAL;
	task = duet_task_get(args->tid, file, false);
	if (IS_ERR(task))
		return PTR_ERR(task);
	if (test_bit(DUET_TASK_STOPPED, &task->flags)) {
		err = duet_stop_reason(task);
		goto put;
	}
	err = duet_out_init(&out, args, sizeof(*ref), DUET_FILE_REF_V1);
	if (err)
		goto put;
	/* A signal may end it early: the cursor says where. */
	while ((more = duet_next_done(task, &ino, &gen)) > 0) {
		cond_resched();
		ref = signal_pending(current) ? NULL : duet_out_next(&out);
		if (!ref)
			break;
		ref->ino = ino++;
		ref->gen = gen;
		ref->result = 1;
	}
	/* What was found up to its end is not all. */
	if (test_bit(DUET_TASK_STOPPED, &task->flags))
		err = duet_stop_reason(task);
	else
		err = duet_out_copy(&out);
	args->cursor = more ? ino : DUET_CURSOR_END;
	kvfree(out.buf);
put:
	duet_task_put(task);
	return err;
}
