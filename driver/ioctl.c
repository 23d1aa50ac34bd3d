// SPDX-License-Identifier: GPL-2.0
/*
 * The published calls: what comes in is checked, what goes out is copied.
 */
#include <linux/capability.h>
#include <linux/limits.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include "duet.h"

/* What follows STATUS's head, task by task, as many as there is room for. */
static int duet_status_list(struct duet_ioctl_status_args *args,
			    struct duet_task_attrs __user *to)
{
	unsigned int room = min_t(unsigned int, args->numtasks, DUET_MAX_TASKS);
	struct duet_task_attrs *attrs;
	struct duet_task *task;
	unsigned int nr = 0;
	int err = 0;

	attrs = kvcalloc(room, sizeof(*attrs), GFP_KERNEL);
	if (room && !attrs)
		return -ENOMEM;
	mutex_lock(&duet.lock);
	list_for_each_entry(task, &duet.tasks, list) {
		if (nr == room)
			break;
		attrs[nr].id = task->slot + 1;
		attrs[nr].fd = task->fd;
		attrs[nr].regmask = task->regmask;
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

/* The published way to look into a task: a summary in the kernel log. */
static int duet_status_print(struct file *file, unsigned int id, bool bitmap)
{
	struct duet_task *task;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	task = duet_task_get(id, file);
	if (IS_ERR(task))
		return PTR_ERR(task);
	if (bitmap)
		pr_info("duet: task %u (%s): %ld files done\n", id, task->name,
			atomic_long_read(&task->nr_done));
	else
		pr_info("duet: task %u (%s): %s, %llu items delivered, %ld dropped\n",
			id, task->name,
			llist_empty(&task->queue) && !READ_ONCE(task->file) ?
			"nothing pending" : "items pending",
			READ_ONCE(task->nr_delivered),
			atomic_long_read(&task->nr_dropped));
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
		return capable(CAP_SYS_ADMIN) ? duet_start(args.maxtasks) :
						-EPERM;
	case DUET_STATUS_STOP:
		return capable(CAP_SYS_ADMIN) ? duet_stop() : -EPERM;
	case DUET_STATUS_REPORT:
		return READ_ONCE(duet.on);
	case DUET_STATUS_PRINT_BMAP:
		return duet_status_print(file, args.id, true);
	case DUET_STATUS_PRINT_ITEM:
		return duet_status_print(file, args.id, false);
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
	struct duet_ioctl_init_args *args;
	int ret;

	args = memdup_user(arg, sizeof(*args));
	if (IS_ERR(args))
		return PTR_ERR(args);
	if (args->size != sizeof(*args))
		ret = -EINVAL;
	else if (strnlen(args->name, sizeof(args->name)) == sizeof(args->name) ||
		 strnlen(args->path, sizeof(args->path)) == sizeof(args->path))
		ret = -ENAMETOOLONG;
	else
		ret = duet_register(args->name, args->regmask, args->path);
	kfree(args);
	return ret;
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
	task = duet_task_get(args.uuid.tid, file);
	if (IS_ERR(task))
		return PTR_ERR(task);

	switch (args.flags) {
	case DUET_BMAP_SET:
		ret = duet_task_done(task, args.uuid.ino, args.uuid.gen);
		break;
	case DUET_BMAP_RESET:
		ret = duet_task_undone(task, args.uuid.ino, args.uuid.gen);
		break;
	case DUET_BMAP_CHECK:
		ret = duet_task_check(task, args.uuid.ino, args.uuid.gen);
		break;
	default:
		ret = -EINVAL;
	}
	duet_task_put(task);
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
	task = duet_task_get(uuid.tid, file);
	if (IS_ERR(task))
		return PTR_ERR(task);

	buf = kmalloc(DUET_PATH_LEN, GFP_KERNEL);
	if (!buf) {
		ret = -ENOMEM;
		goto put;
	}
	mutex_lock(&task->lock);
	if (test_bit(DUET_TASK_STOPPED, &task->flags))
		path = ERR_PTR(-ESHUTDOWN);
	else
		path = duet_path_of(task, uuid.ino, uuid.gen, buf,
				    DUET_PATH_LEN);
	mutex_unlock(&task->lock);
	if (IS_ERR(path))
		ret = PTR_ERR(path);
	else if (copy_to_user(arg->path, path, buf + DUET_PATH_LEN - path))
		ret = -EFAULT;
	kfree(buf);
put:
	duet_task_put(task);
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
	return -ENOTTY;
}
