// SPDX-License-Identifier: GPL-2.0
/*
 * What sysfs tells of Duet, one value per file, under the device.
 */
#include <linux/device.h>
#include <linux/sysfs.h>
#include "duet.h"

static ssize_t enabled_show(struct device *dev, struct device_attribute *attr,
			    char *buf)
{
	return sysfs_emit(buf, "%d\n", READ_ONCE(duet.on));
}
static DEVICE_ATTR_RO(enabled);

static ssize_t max_tasks_show(struct device *dev, struct device_attribute *attr,
			      char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(duet.max_tasks));
}
static DEVICE_ATTR_RO(max_tasks);

static ssize_t tasks_show(struct device *dev, struct device_attribute *attr,
			  char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(duet.nr_tasks));
}
static DEVICE_ATTR_RO(tasks);

static ssize_t bytes_show(struct device *dev, struct device_attribute *attr,
			  char *buf)
{
	return sysfs_emit(buf, "%ld\n", atomic_long_read(&duet.bytes));
}
static DEVICE_ATTR_RO(bytes);

static ssize_t bytes_limit_show(struct device *dev,
				struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%lu\n", READ_ONCE(duet.limit));
}
static DEVICE_ATTR_RO(bytes_limit);

static ssize_t nodes_show(struct device *dev, struct device_attribute *attr,
			  char *buf)
{
	return sysfs_emit(buf, "%ld\n", atomic_long_read(&duet.nr_nodes));
}
static DEVICE_ATTR_RO(nodes);

static ssize_t longest_chain_show(struct device *dev,
				  struct device_attribute *attr, char *buf)
{
	unsigned int longest;

	mutex_lock(&duet.lock);
	longest = duet_table_longest_chain();
	mutex_unlock(&duet.lock);
	return sysfs_emit(buf, "%u\n", longest);
}
static DEVICE_ATTR_RO(longest_chain);

static ssize_t files_show(struct device *dev, struct device_attribute *attr,
			  char *buf)
{
	return sysfs_emit(buf, "%ld\n", atomic_long_read(&duet.nr_files));
}
static DEVICE_ATTR_RO(files);

static ssize_t dropped_show(struct device *dev, struct device_attribute *attr,
			    char *buf)
{
	return sysfs_emit(buf, "%ld\n", atomic_long_read(&duet.nr_dropped));
}
static DEVICE_ATTR_RO(dropped);

static struct attribute *duet_attrs[] = {
	&dev_attr_enabled.attr,
	&dev_attr_max_tasks.attr,
	&dev_attr_tasks.attr,
	&dev_attr_bytes.attr,
	&dev_attr_bytes_limit.attr,
	&dev_attr_nodes.attr,
	&dev_attr_longest_chain.attr,
	&dev_attr_files.attr,
	&dev_attr_dropped.attr,
	NULL,
};

static const struct attribute_group duet_group = {
	.attrs = duet_attrs,
};

const struct attribute_group *duet_groups[] = {
	&duet_group,
	&duet_hooks_group,
	NULL,
};
