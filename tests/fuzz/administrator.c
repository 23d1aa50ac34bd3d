// SPDX-License-Identifier: MIT
/* Who sets things in sysfs and looks at all that can be looked at, meanwhile. */
#include "fuzz.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SYSFS "/sys/class/misc/duet"

static void set(struct caller *caller, const char *name, const char *value, size_t len)
{
	char path[100];
	int fd, err = 0;

	snprintf(path, sizeof(path), SYSFS "/%s", name);
	fd = open(path, O_WRONLY);
	if (fd < 0 || write(fd, value, len) < 0)
		err = errno;
	if (fd >= 0)
		close(fd);
	record(caller, err);
}

static void set_something(struct caller *caller)
{
	static const struct {
		const char *name;
		const char *values[10];
	} settings[] = {
		[SYSFS_ENABLED - SYSFS_ENABLED] = { "enabled", { "0", "1", "1", "y", "n", "1\n" } },
		[SYSFS_MAX_TASKS - SYSFS_ENABLED] = { "max_tasks", { "8", "16", "16", "16\n", "64",
								     "0x10", "0", "256" } },
		[SYSFS_LIMIT - SYSFS_ENABLED] = { "limit_bytes", { "0", "0", "0", "16777216",
								   "4194304", "1048576", "65536", "1" } },
		[SYSFS_TASK_LIMIT - SYSFS_ENABLED] = { "task_limit_bytes", { "0", "0", "4194304",
									      "262144", "16384", "1" } },
		[SYSFS_SHARE - SYSFS_ENABLED] = { "user_share_percent", { "0", "0", "25", "50", "100",
									  "1", "101" } },
	};
	static const char *const odd[] = { "", "\n", "-1", "x", "0x", "1 2", "99999999999999999999",
					   "18446744073709551616", "0x-1", "1\n\n", " 1" };
	unsigned which = caller->kind - SYSFS_ENABLED, nr = 0;
	const char *value;
	char junk[5000];

	while (nr < COUNT(settings[0].values) && settings[which].values[nr])
		nr++;
	value = settings[which].values[below(&caller->chance, nr)];
	/* Some of what is odd means off as well: the kernel looks at the first letter. */
	if (options.quiet && caller->kind == SYSFS_ENABLED) {
		value = "1";
	} else if (one_in(&caller->chance, 8)) {
		caller->plain = false;
		value = ANY_OF(&caller->chance, odd);
	} else if (one_in(&caller->chance, 32)) {
		caller->plain = false;
		memset(junk, '9', sizeof(junk));
		set(caller, settings[which].name, junk, 1 + below(&caller->chance, sizeof(junk)));
		return;
	}
	set(caller, settings[which].name, value, strlen(value));
}

/* Reads a file, in pieces of any size. */
static void look_at(struct caller *caller, const char *path)
{
	char buf[4096];
	size_t piece = one_in(&caller->chance, 4) ? 1 + below(&caller->chance, 100) : sizeof(buf);
	int fd = open(path, O_RDONLY), err = fd < 0 ? errno : 0;
	ssize_t nr = 1;

	while (!err && nr) {
		nr = read(fd, buf, piece);
		if (nr < 0)
			err = errno;
	}
	if (fd >= 0)
		close(fd);
	record(caller, err);
}

static void look_at_sysfs(struct caller *caller)
{
	static const char *const files[] = {
		"enabled", "max_tasks", "limit_bytes", "task_limit_bytes", "user_share_percent",
		"tasks", "bytes", "nodes", "files", "longest_chain", "events/added",
		"events/flushed", "drops/limit", "drops/nomem", "uevent",
	};
	static const char *const of_task[] = {
		"name", "path", "mask", "pid", "uid", "limit_bytes", "pending_bytes", "files",
		"done", "delivered", "overflows", "drops",
	};
	char path[200];

	if (one_in(&caller->chance, 2))
		snprintf(path, sizeof(path), SYSFS "/%s", ANY_OF(&caller->chance, files));
	else
		snprintf(path, sizeof(path), SYSFS "/task%u/%s", 1 + below(&caller->chance, 16),
			 ANY_OF(&caller->chance, of_task));
	look_at(caller, path);
}

static void look_at_fdinfo(struct caller *caller)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%u", shared->pid[below(&caller->chance, 2)],
		 3 + below(&caller->chance, 20));
	look_at(caller, path);
}

void administer(struct caller *caller)
{
	static const unsigned char kinds[] = {
		SYSFS_ENABLED, SYSFS_MAX_TASKS, SYSFS_LIMIT, SYSFS_TASK_LIMIT, SYSFS_SHARE,
		SYSFS_READ, SYSFS_READ, SYSFS_READ, FDINFO, FDINFO, CHECK,
	};

	caller->plain = true;
	caller->bad = false;
	caller->kind = ANY_OF(&caller->chance, kinds);
	switch (caller->kind) {
	case SYSFS_READ:
		look_at_sysfs(caller);
		break;
	case FDINFO:
		look_at_fdinfo(caller);
		break;
	case CHECK:
		look_at(caller, "/sys/kernel/debug/duet/check");
		break;
	default:
		set_something(caller);
	}
}
