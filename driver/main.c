// SPDX-License-Identifier: GPL-2.0
/*
 * The module and its device.
 */
#include <linux/miscdevice.h>
#include <linux/module.h>
#define CREATE_TRACE_POINTS
#include "trace.h"

/* Probes take spinlocks with preemption off, which sleep there. */
static_assert(!IS_ENABLED(CONFIG_PREEMPT_RT));

/* A word of a node has a bit for each page, an xarray value a generation. */
static_assert(BITS_PER_LONG == 64);

struct duet duet = {
	.lock = __MUTEX_INITIALIZER(duet.lock),
	.tasks = LIST_HEAD_INIT(duet.tasks),
	.filesystems = LIST_HEAD_INIT(duet.filesystems),
};

static const struct file_operations duet_fops = {
	.owner = THIS_MODULE,
	.open = nonseekable_open,
	.unlocked_ioctl = duet_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice duet_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "duet",
	.fops = &duet_fops,
	.groups = duet_groups,
};

/* What uevents and sysfs notifications are about. */
struct device *duet_dev(void)
{
	return duet_device.this_device;
}

static int __init duet_init(void)
{
	int err;

	duet_default_limits();
	err = duet_watch_init();
	if (err)
		return err;
	err = duet_hooks_init();
	if (err)
		goto exit_watch;
	err = misc_register(&duet_device);
	if (err)
		goto exit_hooks;
	duet_check_init();
	return 0;

exit_hooks:
	duet_hooks_exit();
exit_watch:
	duet_watch_exit();
	return err;
}

static void __exit duet_exit(void)
{
	duet_check_exit();
	/* No descriptor is open any more, so no task is left. */
	misc_deregister(&duet_device);
	duet_device.this_device = NULL;
	duet_stop();
	duet_hooks_exit();
	duet_watch_exit();
	/* The entries' and nodes' callbacks are code of this module. */
	rcu_barrier();
	WARN(duet_bytes() || DUET_LEVEL(nodes) || DUET_LEVEL(files),
	     "duet: leaked %ld bytes, %lld nodes, %lld files\n", duet_bytes(),
	     DUET_LEVEL(nodes), DUET_LEVEL(files));
}

module_init(duet_init);
module_exit(duet_exit);

MODULE_AUTHOR("The Duet developers");
MODULE_DESCRIPTION("Tells programs what the page cache holds and does");
MODULE_LICENSE("GPL");
MODULE_VERSION("0.1.0");
