// SPDX-License-Identifier: GPL-2.0
/*
 * The calls: what comes in is checked, what goes out is copied. First the
 * published ones, then ours from 0x10 on.
 */
#include <linux/build_bug.h>
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/limits.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include "duet.h"
#include "trace.h"

/* What follows STATUS's head, task by task, as many as there is room for. */
static int duet_status_list(struct duet_ioctl_status_args *args,
			    struct duet_task_attrs __user *to)
{
	unsigned int room = min_t(unsigned int, args->numtasks, DUET_MAX_TASKS);
	struct duet_task_attrs *attrs;
	struct duet_task *task;
	unsigned int nr = 0;
	int err = 0;

	attrs = kvcalloc(room, sizeof(*attrs), GFP_KERNEL | __GFP_NOWARN);
	if (!attrs)	/* of none, it is not NULL either */
		return -ENOMEM;
	mutex_lock(&duet.lock);
	list_for_each_entry(task, &duet.tasks, list) {
		if (nr == room)
			break;
		if (!duet_may_see(task))
			continue;
		attrs[nr].id = task->slot + 1;
		attrs[nr].fd = task->fd;
		attrs[nr].regmask = task->regmask;
		if (task->regflags & DUET_REGISTER_NONBLOCK)
			attrs[nr].regmask |= DUET_FD_NONBLOCK;
		strscpy(attrs[nr].name, task->name, sizeof(attrs->name));
		strscpy(attrs[nr].path, task->path, sizeof(attrs->path));
		nr++;
	}
	mutex_unlock(&duet.lock);
	/* Without the lock: the caller's memory may take its time. */
	if (copy_to_user(to, attrs, nr * sizeof(*attrs)))
		err = -EFAULT;
	kvfree(attrs);
	args->numtasks = nr;
	return err;
}

/* The published way to look into a task: a summary, to who traces us. */
static int duet_status_print(struct file *file, unsigned int id)
{
	struct duet_task *task;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	task = duet_task_get(id, file, false);
	if (IS_ERR(task))
		return PTR_ERR(task);
	trace_duet_print(task);
	duet_task_put(task);
	return 0;
}

static int duet_ioctl_status(struct file *file,
			     struct duet_ioctl_status_args __user *arg)
{
	struct duet_ioctl_status_args args;
	int ret;

	if (copy_from_user(&args, arg, sizeof(args)))
		return -EFAULT;
	if (args.size != sizeof(args))
		return -EINVAL;

	switch (args.flags) {
	case DUET_STATUS_START:
		if (!capable(CAP_SYS_ADMIN))
			return -EPERM;
		return duet_start(args.maxtasks ?: DUET_DEFAULT_TASKS);
	case DUET_STATUS_STOP:
		return capable(CAP_SYS_ADMIN) ? duet_stop() : -EPERM;
	case DUET_STATUS_REPORT:
		return READ_ONCE(duet.on);
	case DUET_STATUS_PRINT_BMAP:
	case DUET_STATUS_PRINT_ITEM:
		return duet_status_print(file, args.id);
	case DUET_STATUS_PRINT_LIST:
		ret = duet_status_list(&args, (void __user *)(arg + 1));
		if (!ret && put_user(args.numtasks, &arg->numtasks))
			ret = -EFAULT;
		return ret;
	}
	return -EINVAL;
}

static int duet_ioctl_init(struct duet_ioctl_init_args __user *arg)
{
	struct duet_registration reg = {
		.flags = DUET_REGISTER_INHERIT,
		.only_dir = true,
	};
	struct duet_ioctl_init_args *args;
	int ret;

	args = memdup_user(arg, sizeof(*args));
	if (IS_ERR(args))
		return PTR_ERR(args);
	reg.name = args->name;
	reg.where = args->path;
	reg.mask = args->regmask & ~DUET_FD_NONBLOCK;
	if (args->regmask & DUET_FD_NONBLOCK)
		reg.flags |= DUET_REGISTER_NONBLOCK;
	if (args->size != sizeof(*args))
		ret = -EINVAL;
	else if (strnlen(args->name, sizeof(args->name)) == sizeof(args->name) ||
		 strnlen(args->path, sizeof(args->path)) == sizeof(args->path))
		ret = -ENAMETOOLONG;
	else
		ret = duet_register(&reg);
	kfree(args);
	return ret;
}

/* One mark of one file; task->lock. */
static int duet_bmap(struct duet_task *task, u32 op, u64 ino, u32 gen)
{
	switch (op) {
	case DUET_BMAP_SET:
		return duet_task_done(task, ino, gen);
	case DUET_BMAP_RESET:
		return duet_task_undone(task, ino, gen);
	case DUET_BMAP_CHECK:
		return duet_task_check(task, ino, gen);
	}
	return -EINVAL;
}

/* The task of a call, with a reference and its lock; undone by duet_leave(). */
static struct duet_task *duet_enter(struct file *file, unsigned int tid,
				    bool look)
{
	struct duet_task *task = duet_task_get(tid, file, look);
	int err;

	if (IS_ERR(task))
		return task;
	err = duet_task_lock(task);
	if (!err)
		return task;
	duet_task_put(task);
	return ERR_PTR(err);
}

static void duet_leave(struct duet_task *task)
{
	duet_task_unlock(task);
	duet_task_put(task);
}

static int duet_ioctl_bmap(struct file *file,
			   struct duet_ioctl_bmap_args __user *arg)
{
	struct duet_ioctl_bmap_args args;
	struct duet_task *task;
	int ret;

	if (copy_from_user(&args, arg, sizeof(args)))
		return -EFAULT;
	if (args.size != sizeof(args))
		return -EINVAL;
	task = duet_enter(file, args.uuid.tid ?: U8_MAX + 1,
			  args.flags == DUET_BMAP_CHECK);
	if (IS_ERR(task))
		return PTR_ERR(task);
	ret = duet_bmap(task, args.flags, args.uuid.ino, args.uuid.gen);
	duet_leave(task);
	return ret;
}

static int duet_ioctl_gpath(struct file *file,
			    struct duet_ioctl_gpath_args __user *arg)
{
	struct duet_uuid uuid;
	struct duet_task *task;
	char *buf, *path;
	int ret = 0;
	u32 size;

	if (get_user(size, &arg->size) ||
	    copy_from_user(&uuid, &arg->uuid, sizeof(uuid)))
		return -EFAULT;
	if (size != sizeof(*arg))
		return -EINVAL;
	buf = kmalloc(DUET_PATH_LEN, GFP_KERNEL);
	if (!buf)
		return -ENOMEM;
	task = duet_enter(file, uuid.tid ?: U8_MAX + 1, false);
	if (IS_ERR(task)) {
		ret = PTR_ERR(task);
		goto free;
	}
	path = duet_path_of(task, uuid.ino, uuid.gen, buf, DUET_PATH_LEN);
	duet_leave(task);
	if (IS_ERR(path))
		ret = PTR_ERR(path);
	else if (copy_to_user(arg->path, path, buf + DUET_PATH_LEN - path))
		ret = -EFAULT;
free:
	kfree(buf);
	return ret;
}

/* ---- from 0x10 on ---- */

static int duet_ioctl_info(struct file *file, void *argp, void __user *arg)
{
	struct duet_info *info = argp;

	/* All of it is told: a flag would be the first that is asked. */
	if (memchr_inv(info, 0, sizeof(*info)))
		return -EINVAL;
	duet_info_fill(info);
	return 0;
}

static int duet_publish_tid(struct duet_registration *reg)
{
	struct duet_register __user *arg = reg->arg;

	return put_user(reg->tid, &arg->tid) ? -EFAULT : 0;
}

static int duet_ioctl_register(struct file *file, void *argp, void __user *arg)
{
	const struct duet_register *args = argp;
	struct duet_registration reg = {
		.mask = args->mask,
		.flags = args->flags,
		.dirfd = args->dirfd,
		.user_where = u64_to_user_ptr(args->path),
		.limit = args->limit,
		.publish = duet_publish_tid,
		.arg = arg,
	};
	char *name = NULL;
	int ret;

	if (args->flags & ~DUET_REGISTER_FLAGS || args->tid ||
	    memchr_inv(args->reserved, 0, sizeof(args->reserved)))
		return -EINVAL;
	/* The only size so far. A larger one is another structure's. */
	if (args->item_size && args->item_size != sizeof(struct duet_item))
		return -EINVAL;
	if (args->name)
		name = strndup_user(u64_to_user_ptr(args->name), DUET_NAME_LEN);
	if (IS_ERR(name))
		return PTR_ERR(name) == -EINVAL ? -ENAMETOOLONG : PTR_ERR(name);
	reg.name = name ?: "";
	ret = duet_register(&reg);
	kfree(name);
	return ret;
}

static int duet_ioctl_marks(struct file *file, void *argp, void __user *arg)
{
	struct duet_marks *args = argp;
	struct duet_file_ref __user *files = u64_to_user_ptr(args->files);
	struct duet_task *task;
	u32 nr = args->nr, i;
	int err = 0;

	if (args->reserved || !args->flags ||
	    args->flags & (args->flags - 1) || args->flags > DUET_BMAP_CHECK)
		return -EINVAL;
	args->nr = 0;
	for (i = 0; i < nr; i++) {
		struct duet_file_ref ref;

		/* Not under the lock: the caller's memory may take its time. */
		if (copy_from_user(&ref, &files[i], sizeof(ref)))
			return -EFAULT;
		task = duet_enter(file, args->tid,
				  args->flags == DUET_BMAP_CHECK);
		if (IS_ERR(task))
			return PTR_ERR(task);
		ref.result = duet_bmap(task, args->flags, ref.ino, ref.gen);
		duet_leave(task);
		if (put_user(ref.result, &files[i].result))
			return -EFAULT;
		args->nr++;
		cond_resched();
		if (signal_pending(current))
			break;
	}
	return err;
}

static int duet_ioctl_paths(struct file *file, void *argp, void __user *arg)
{
	struct duet_paths *args = argp;
	struct duet_file_ref __user *files = u64_to_user_ptr(args->files);
	char __user *to = u64_to_user_ptr(args->buf);
	u32 nr = args->nr, room = args->len, used = 0, i;
	struct duet_task *task;
	int err = 0;
	char *buf;

	if (args->flags)
		return -EINVAL;
	buf = kmalloc(DUET_PATH_LEN, GFP_KERNEL);
	if (!buf)
		return -ENOMEM;
	for (i = 0; i < nr; i++) {
		struct duet_file_ref ref;
		char *path;

		err = -EFAULT;
		if (copy_from_user(&ref, &files[i], sizeof(ref)))
			break;
		task = duet_enter(file, args->tid, false);
		if (IS_ERR(task)) {
			err = PTR_ERR(task);
			break;
		}
		path = duet_path_of(task, ref.ino, ref.gen, buf, DUET_PATH_LEN);
		duet_leave(task);
		if (IS_ERR(path)) {
			ref.result = PTR_ERR(path);
		} else {
			u32 size = buf + DUET_PATH_LEN - path;

			ref.result = used;
			if (used > S32_MAX || size > room - used) {
				/* What is left comes next time. */
				err = i ? 0 : -ERANGE;
				break;
			}
			if (copy_to_user(to + used, path, size))
				break;
			used += size;
		}
		if (put_user(ref.result, &files[i].result))
			break;
		err = 0;
		cond_resched();
		if (signal_pending(current)) {
			i++;
			break;
		}
	}
	kfree(buf);
	args->nr = i;
	args->len = used;
	return err;
}

static int duet_ioctl_rescan(struct file *file, void *argp, void __user *arg)
{
	const struct duet_rescan *args = argp;
	struct duet_task *task;

	if (args->flags)
		return -EINVAL;
	task = duet_enter(file, args->tid, false);
	if (IS_ERR(task))
		return PTR_ERR(task);
	set_bit(DUET_TASK_RETELL, &task->flags);
	duet_task_rescan(task);
	duet_leave(task);
	return 0;
}

static int duet_ioctl_end(struct file *file, void *argp, void __user *arg)
{
	const struct duet_end *args = argp;
	struct duet_task *task;
	int err = 0;

	if (args->flags || args->reserved)
		return -EINVAL;
	task = duet_task_get(args->tid, file, false);
	if (IS_ERR(task))
		return PTR_ERR(task);
	if (args->pid && pid_vnr(task->owner) != args->pid)
		err = -ESRCH;
	else if (!duet_task_end(task))
		err = duet_stop_reason(task);
	duet_task_put(task);
	return err;
}

/* A call of ours: by its number, whatever size its structure has by now. */
struct duet_call {
	unsigned int cmd;
	unsigned int min;	/* size in the first version */
	int (*call)(struct file *file, void *args, void __user *arg);
	bool answered;		/* it has copied out what it has to say */
};

/*
 * The size in the first version is a number and stays: a structure that has
 * grown since is still taken from those who know it as it was.
 */
#define DUET_CALL_V1(_cmd, _min, _call, _answered)			\
	[_IOC_NR(_cmd)] = {						\
		.cmd = _cmd,						\
		.min = (_min) + BUILD_BUG_ON_ZERO(_IOC_SIZE(_cmd) < (_min)), \
		.call = _call,						\
		.answered = _answered,					\
	}
#define DUET_CALL(_cmd, _min, _call) DUET_CALL_V1(_cmd, _min, _call, false)

static int duet_ioctl_table(struct file *file, void *argp, void __user *arg)
{
	struct duet_table *table = argp;

	if (memchr_inv(table, 0, sizeof(*table)))
		return -EINVAL;
	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	memset(table, 0, sizeof(*table));
	mutex_lock(&duet.lock);
	duet_table_measure(table);
	mutex_unlock(&duet.lock);
	return 0;
}

static const struct duet_call duet_calls[] = {
	DUET_CALL(DUET_IOC_INFO, 304, duet_ioctl_info),
	/* Nothing may fail once the descriptor can be seen. */
	DUET_CALL_V1(DUET_IOC_REGISTER, 56, duet_ioctl_register, true),
	DUET_CALL(DUET_IOC_MARKS, 24, duet_ioctl_marks),
	DUET_CALL(DUET_IOC_PATHS, 32, duet_ioctl_paths),
	DUET_CALL(DUET_IOC_RESCAN, 8, duet_ioctl_rescan),
	DUET_CALL(DUET_IOC_END, 16, duet_ioctl_end),
	DUET_CALL(DUET_IOC_TABLE, 168, duet_ioctl_table),
	DUET_CALL(DUET_IOC_DUMP_TASKS, 56, duet_dump_tasks),
	DUET_CALL(DUET_IOC_DUMP_NODES, 56, duet_dump_nodes),
	DUET_CALL(DUET_IOC_DUMP_PENDING, 56, duet_dump_pending),
	DUET_CALL(DUET_IOC_DUMP_MARKS, 56, duet_dump_marks),
};

/* The largest of their structures. */
union duet_args {
	struct duet_info info;
	struct duet_register reg;
	struct duet_marks marks;
	struct duet_paths paths;
	struct duet_rescan rescan;
	struct duet_end end;
	struct duet_table table;
	struct duet_dump dump;
};

static long duet_ioctl_ours(struct file *file, unsigned int cmd,
			    void __user *argp)
{
	const struct duet_call *call;
	unsigned int size = _IOC_SIZE(cmd), known;
	union duet_args args;
	long ret;

	if (_IOC_NR(cmd) >= ARRAY_SIZE(duet_calls))
		return -ENOTTY;
	call = &duet_calls[_IOC_NR(cmd)];
	if (!call->call ||
	    (cmd & ~IOCSIZE_MASK) != (call->cmd & ~IOCSIZE_MASK))
		return -ENOTTY;
	known = _IOC_SIZE(call->cmd);
	if (size < call->min)
		return -EINVAL;
	/* E2BIG where the caller says something that we do not know. */
	ret = copy_struct_from_user(&args, known, argp, size);
	if (ret)
		return ret;
	ret = call->call(file, &args, argp);
	if (ret < 0 || call->answered || !(_IOC_DIR(cmd) & _IOC_READ))
		return ret;
	if (copy_to_user(argp, &args, min(size, known)))
		return -EFAULT;
	return ret;
}

long duet_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	void __user *argp = (void __user *)arg;

	switch (cmd) {
	case DUET_IOC_STATUS:
		return duet_ioctl_status(file, argp);
	case DUET_IOC_INIT:
		return duet_ioctl_init(argp);
	case DUET_IOC_BMAP:
		return duet_ioctl_bmap(file, argp);
	case DUET_IOC_GPATH:
		return duet_ioctl_gpath(file, argp);
	}
	if (_IOC_TYPE(cmd) != DUET_IOC_MAGIC)
		return -ENOTTY;
	return duet_ioctl_ours(file, cmd, argp);
}
