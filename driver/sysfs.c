// SPDX-License-Identifier: GPL-2.0
/*
 * What sysfs tells of Duet, one value per file, and what can be set there.
 * docs/ABI describes each file. What counts events is for who administers the
 * system: it would tell of files that others may not know of. Nothing is told
 * under a lock that taking the files away could wait for: a task's are taken
 * away below duet.lock.
 */
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/kstrtox.h>
#include <linux/slab.h>
#include <linux/string_helpers.h>
#include <linux/sysfs.h>
#include "duet.h"

/* ---- the device ---- */

static ssize_t enabled_show(struct device *dev, struct device_attribute *attr,
			    char *buf)
{
	return sysfs_emit(buf, "%d\n", READ_ONCE(duet.on));
}

static ssize_t enabled_store(struct device *dev, struct device_attribute *attr,
			     const char *buf, size_t count)
{
	bool on;
	int err;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	err = kstrtobool(buf, &on);
	if (err)
		return err;
	err = on ? duet_start(0) : duet_stop();
	return err && err != -EALREADY ? err : count;
}
static DEVICE_ATTR_RW(enabled);

static ssize_t max_tasks_show(struct device *dev, struct device_attribute *attr,
			      char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(duet.max_tasks));
}

static ssize_t max_tasks_store(struct device *dev,
			       struct device_attribute *attr, const char *buf,
			       size_t count)
{
	unsigned int max_tasks;
	int err;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	err = kstrtouint(buf, 0, &max_tasks);
	if (!err)
		err = duet_set_max_tasks(max_tasks);
	return err ?: count;
}
static DEVICE_ATTR_RW(max_tasks);

static ssize_t duet_limit_store(unsigned long *which, const char *buf,
				size_t count)
{
	unsigned long bytes;
	int err;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	err = kstrtoul(buf, 0, &bytes);
	if (!err)
		err = duet_set_limit(which, bytes);
	return err ?: count;
}

static ssize_t limit_bytes_show(struct device *dev,
				struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%lu\n", READ_ONCE(duet.limit));
}

static ssize_t limit_bytes_store(struct device *dev,
				 struct device_attribute *attr,
				 const char *buf, size_t count)
{
	return duet_limit_store(&duet.limit, buf, count);
}
static DEVICE_ATTR_RW(limit_bytes);

static ssize_t task_limit_bytes_show(struct device *dev,
				     struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%lu\n", READ_ONCE(duet.task_limit));
}

static ssize_t task_limit_bytes_store(struct device *dev,
				      struct device_attribute *attr,
				      const char *buf, size_t count)
{
	return duet_limit_store(&duet.task_limit, buf, count);
}
static DEVICE_ATTR_RW(task_limit_bytes);

static ssize_t user_share_percent_show(struct device *dev,
				       struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(duet.user_share));
}

static ssize_t user_share_percent_store(struct device *dev,
					struct device_attribute *attr,
					const char *buf, size_t count)
{
	unsigned int percent;
	int err;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	err = kstrtouint(buf, 0, &percent);
	if (!err)
		err = duet_set_user_share(percent);
	return err ?: count;
}
static DEVICE_ATTR_RW(user_share_percent);

static ssize_t tasks_show(struct device *dev, struct device_attribute *attr,
			  char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(duet.nr_tasks));
}
static DEVICE_ATTR_RO(tasks);

static ssize_t bytes_show(struct device *dev, struct device_attribute *attr,
			  char *buf)
{
	return sysfs_emit(buf, "%llu\n", duet_level(duet_bytes()));
}
static DEVICE_ATTR_ADMIN_RO(bytes);

static ssize_t nodes_show(struct device *dev, struct device_attribute *attr,
			  char *buf)
{
	return sysfs_emit(buf, "%llu\n", duet_level(DUET_LEVEL(nodes)));
}
static DEVICE_ATTR_ADMIN_RO(nodes);

static ssize_t files_show(struct device *dev, struct device_attribute *attr,
			  char *buf)
{
	return sysfs_emit(buf, "%llu\n", duet_level(DUET_LEVEL(files)));
}
static DEVICE_ATTR_ADMIN_RO(files);

static ssize_t longest_chain_show(struct device *dev,
				  struct device_attribute *attr, char *buf)
{
	struct duet_table table = {};

	mutex_lock(&duet.lock);
	duet_table_measure(&table);
	mutex_unlock(&duet.lock);
	return sysfs_emit(buf, "%u\n", table.longest);
}

/* Looks at every bucket: for who administers the system. */
static DEVICE_ATTR_ADMIN_RO(longest_chain);

static struct attribute *duet_attrs[] = {
	&dev_attr_enabled.attr,
	&dev_attr_max_tasks.attr,
	&dev_attr_limit_bytes.attr,
	&dev_attr_task_limit_bytes.attr,
	&dev_attr_user_share_percent.attr,
	&dev_attr_tasks.attr,
	&dev_attr_files.attr,
	&dev_attr_nodes.attr,
	&dev_attr_bytes.attr,
	&dev_attr_longest_chain.attr,
	NULL,
};

static const struct attribute_group duet_group = {
	.attrs = duet_attrs,
};

/* ---- counters ---- */

/* The sum over all CPUs of a counter, by where it is in duet_counts. */
u64 duet_count(size_t offset)
{
	u64 sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(*(u64 *)((void *)per_cpu_ptr(&duet_counts, cpu) +
					  offset));
	return sum;
}

static ssize_t duet_count_show(struct device *dev,
			       struct device_attribute *attr, char *buf)
{
	const struct dev_ext_attribute *ext =
		container_of(attr, struct dev_ext_attribute, attr);

	return sysfs_emit(buf, "%llu\n", duet_count((size_t)ext->var));
}

#define DUET_COUNT_ATTR(_group, _name, _member)				\
	static struct dev_ext_attribute duet_##_group##_##_name = {	\
		__ATTR(_name, 0400, duet_count_show, NULL),		\
		(void *)offsetof(struct duet_counts, _member),		\
	}

DUET_COUNT_ATTR(events, added, events[DUET_EVENT_ADDED]);
DUET_COUNT_ATTR(events, removed, events[DUET_EVENT_REMOVED]);
DUET_COUNT_ATTR(events, dirtied, events[DUET_EVENT_DIRTY]);
DUET_COUNT_ATTR(events, flushed, events[DUET_EVENT_FLUSHED]);
DUET_COUNT_ATTR(drops, limit, drops[DUET_DROP_LIMIT]);
DUET_COUNT_ATTR(drops, task_limit, drops[DUET_DROP_TASK_LIMIT]);
DUET_COUNT_ATTR(drops, nomem, drops[DUET_DROP_NOMEM]);

static struct attribute *duet_events_attrs[] = {
	&duet_events_added.attr.attr,
	&duet_events_removed.attr.attr,
	&duet_events_dirtied.attr.attr,
	&duet_events_flushed.attr.attr,
	NULL,
};

static const struct attribute_group duet_events_group = {
	.name = "events",
	.attrs = duet_events_attrs,
};

static struct attribute *duet_drops_attrs[] = {
	&duet_drops_limit.attr.attr,
	&duet_drops_task_limit.attr.attr,
	&duet_drops_nomem.attr.attr,
	NULL,
};

static const struct attribute_group duet_drops_group = {
	.name = "drops",
	.attrs = duet_drops_attrs,
};

const struct attribute_group *duet_groups[] = {
	&duet_group,
	&duet_events_group,
	&duet_drops_group,
	&duet_hooks_group,
	NULL,
};

/* ---- a directory per task ---- */

/* By slot, while there is a directory of it. duet.lock, and the directory's. */
static struct duet_task *duet_dir_task[DUET_MAX_TASKS];

#define DUET_DIR_NAME	"task%u"

struct duet_task_attr {
	struct kobj_attribute attr;
	ssize_t (*show)(const struct duet_task *task, char *buf);
};

static ssize_t duet_task_attr_show(struct kobject *kobj,
				   struct kobj_attribute *attr, char *buf)
{
	unsigned int id;

	/* Its name is ours, and its removal waits for us: the task is there. */
	if (sscanf(kobject_name(kobj), DUET_DIR_NAME, &id) != 1)
		return -ENOENT;
	return container_of(attr, struct duet_task_attr, attr)
			->show(duet_dir_task[id - 1], buf);
}

#define DUET_CONTROLS							\
	"\001\002\003\004\005\006\a\b\t\n\v\f\r\016\017\020\021\022\023"	\
	"\024\025\026\027\030\031\032\033\034\035\036\037\177"

/*
 * A name that somebody chose, so that it forges no line and steers no terminal:
 * control characters and backslashes in octal, and spaces too for one word.
 */
size_t duet_escape(char *to, size_t size, const char *name, bool word)
{
	int len = string_escape_mem(name, strlen(name), to, size - 1,
				    ESCAPE_OCTAL,
				    word ? DUET_CONTROLS "\\ " :
					   DUET_CONTROLS "\\");

	/* It says how long it would be. */
	len = min_t(size_t, len, size - 1);
	to[len] = '\0';
	return len;
}

static ssize_t duet_emit_name(char *buf, const char *name)
{
	size_t len = duet_escape(buf, PAGE_SIZE - 1, name, false);

	return len + sysfs_emit_at(buf, len, "\n");
}

#define DUET_TASK_ATTR_AS(_name, _mode, _emit)				\
	static ssize_t duet_show_task_##_name(			\
		const struct duet_task *task, char *buf)		\
	{								\
		return _emit;						\
	}								\
	static struct duet_task_attr duet_attr_task_##_name = {		\
		__ATTR(_name, _mode, duet_task_attr_show, NULL),	\
		duet_show_task_##_name,				\
	}

#define DUET_TASK_ATTR(_name, _mode, _format, _value)			\
	DUET_TASK_ATTR_AS(_name, _mode,					\
			  sysfs_emit(buf, _format "\n", _value))

DUET_TASK_ATTR_AS(name, 0400, duet_emit_name(buf, task->name));
DUET_TASK_ATTR_AS(path, 0400, duet_emit_name(buf, task->path));
DUET_TASK_ATTR(mask, 0444, "%#x", task->regmask);
DUET_TASK_ATTR(pid, 0444, "%d", pid_nr(task->owner));
DUET_TASK_ATTR(uid, 0444, "%u", from_kuid(&init_user_ns, task->cred->uid));
DUET_TASK_ATTR(limit_bytes, 0444, "%lu", task->limit);
DUET_TASK_ATTR(pending_bytes, 0400, "%ld", atomic_long_read(&task->pending));
DUET_TASK_ATTR(files, 0400, "%ld", duet_files_of(task));
DUET_TASK_ATTR(done, 0400, "%ld", atomic_long_read(&task->nr_done));
DUET_TASK_ATTR(delivered, 0400, "%llu", READ_ONCE(task->nr_delivered));
DUET_TASK_ATTR(overflows, 0400, "%llu", READ_ONCE(task->nr_overflows));
DUET_TASK_ATTR(drops, 0400, "%ld", duet_drops(task));

static struct attribute *duet_task_attrs[] = {
	&duet_attr_task_name.attr.attr,
	&duet_attr_task_path.attr.attr,
	&duet_attr_task_mask.attr.attr,
	&duet_attr_task_pid.attr.attr,
	&duet_attr_task_uid.attr.attr,
	&duet_attr_task_limit_bytes.attr.attr,
	&duet_attr_task_pending_bytes.attr.attr,
	&duet_attr_task_files.attr.attr,
	&duet_attr_task_done.attr.attr,
	&duet_attr_task_delivered.attr.attr,
	&duet_attr_task_overflows.attr.attr,
	&duet_attr_task_drops.attr.attr,
	NULL,
};

static const struct attribute_group duet_task_group = {
	.attrs = duet_task_attrs,
};

/*
 * A kobject of the core's own: it may be let go long after the directory is
 * gone, and the module with it.
 */
int duet_sysfs_add(struct duet_task *task)
{
	char name[sizeof(DUET_DIR_NAME) + 8];
	int err;

	lockdep_assert_held(&duet.lock);
	snprintf(name, sizeof(name), DUET_DIR_NAME, task->slot + 1);
	duet_dir_task[task->slot] = task;
	task->dir = kobject_create_and_add(name, &duet_dev()->kobj);
	if (!task->dir)
		return -ENOMEM;
	err = sysfs_create_group(task->dir, &duet_task_group);
	if (err)
		duet_sysfs_del(task);
	return err;
}

void duet_sysfs_del(struct duet_task *task)
{
	if (!task->dir)
		return;
	kobject_del(task->dir);
	kobject_put(task->dir);
	task->dir = NULL;
}

/* ---- telling that something changed ---- */

/* On, off, or a limit: wakes pollers of "enabled", and tells udev. */
void duet_sysfs_changed(void)
{
	char enabled[] = "DUET_ENABLED=0";
	char *env[] = { enabled, NULL };

	/* At the module's end there is no device any more. */
	if (!duet_dev())
		return;
	if (READ_ONCE(duet.on))
		enabled[sizeof(enabled) - 2] = '1';
	sysfs_notify(&duet_dev()->kobj, NULL, "enabled");
	kobject_uevent_env(&duet_dev()->kobj, KOBJ_CHANGE, env);
}

/* A task came or went: wakes pollers of "tasks". */
void duet_sysfs_tasks_changed(void)
{
	if (duet_dev())
		sysfs_notify(&duet_dev()->kobj, NULL, "tasks");
}
