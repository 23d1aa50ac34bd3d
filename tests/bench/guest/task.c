// SPDX-License-Identifier: MIT
/*
 * Tasks that are there while something else is measured, and the calls that are measured
 * themselves.
 *
 *	task start MAXTASKS
 *	task stop
 *	task resident PATH		registers for EXISTS and reads it all: "resident NS ITEMS PAGES"
 *	task snapshot PATH		the same of a task that is told this and no change
 *	task hold COUNT MASK PATH	registers COUNT tasks, says "ready", then obeys, line by line,
 *					answering with one each:
 *		read			drains the first task: "read NS ITEMS PAGES"
 *		done FILE		marks the file done for all tasks: "done"
 *		doneall DIR FILES	the same for a tree of load: "done"
 *		table			"table LONGEST NODES", of the hash table
 *		paths DIR FILES		get_path of 1,000 files, all over the tree: "paths NS COUNT"
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include "clock.h"
#include "duet.h"

#define ASKED 1000

static struct duet_item items[(4 << 20) / sizeof(struct duet_item)];

struct holder {
	int fd;
	__u32 tid;
};

static int device(void)
{
	int fd = open("/dev/duet", O_RDWR);

	if (fd < 0)
		fail("/dev/duet");
	return fd;
}

static void status(unsigned short flag, unsigned short maxtasks)
{
	struct duet_ioctl_status_args args = {
		.size = sizeof(args), .flags = flag, .maxtasks = maxtasks,
	};

	if (ioctl(device(), DUET_IOC_STATUS, &args) < 0)
		fail("DUET_IOC_STATUS");
}

static struct holder register_task(int dev, __u32 mask, const char *path, __u32 flags)
{
	struct duet_register args = {
		.flags = DUET_REGISTER_RANGES | DUET_REGISTER_NONBLOCK | flags,
		.mask = mask,
		.dirfd = AT_FDCWD,
		.path = (unsigned long)path,
		.name = (unsigned long)"bench",
	};
	struct holder holder;

	holder.fd = ioctl(dev, DUET_IOC_REGISTER, &args);
	if (holder.fd < 0)
		fail("DUET_IOC_REGISTER");
	holder.tid = args.tid;
	return holder;
}

/* Reads all there is; the time is that of the calls alone. */
static void drain(int fd, long long *took, unsigned long *nr, unsigned long *pages)
{
	for (;;) {
		long long start = now();
		ssize_t got = read(fd, items, sizeof(items));

		*took += now() - start;
		if (!got || (got < 0 && errno == EAGAIN))
			return;
		if (got < 0)
			fail("read");
		got /= sizeof(items[0]);
		*nr += got;
		for (ssize_t i = 0; i < got; i++) {
			if (items[i].state & DUET_ITEM_OVERFLOW)
				fprintf(stderr, "task: overflow\n");
			*pages += items[i].nr ? items[i].nr : 1;
		}
	}
}

static void tell_read(const char *what, int fd, long long took)
{
	unsigned long nr = 0, pages = 0;

	drain(fd, &took, &nr, &pages);
	printf("%s %lld %lu %lu\n", what, took, nr, pages);
}

static struct duet_uuid uuid_of(const char *path)
{
	struct duet_uuid uuid = {};
	struct stat st;
	long version;
	int fd = open(path, O_RDONLY);

	if (fd < 0 || fstat(fd, &st) || ioctl(fd, FS_IOC_GETVERSION, &version))
		fail(path);
	close(fd);
	uuid.ino = st.st_ino;
	uuid.gen = version;
	return uuid;
}

static void done(struct holder *holders, int count, const char *path)
{
	struct duet_ioctl_bmap_args args = {
		.size = sizeof(args), .flags = DUET_BMAP_SET, .uuid = uuid_of(path),
	};

	for (int i = 0; i < count; i++) {
		args.uuid.tid = holders[i].tid;
		if (ioctl(holders[i].fd, DUET_IOC_BMAP, &args) < 0)
			fail("DUET_IOC_BMAP");
	}
}

static void name_in_tree(char path[8192], const char *dir, unsigned long i)
{
	snprintf(path, 8192, "%s/%03lu/%03lu", dir, i / 1000, i % 1000);
}

static void paths(struct holder *holder, const char *dir, unsigned long files)
{
	static struct duet_uuid uuids[ASKED];
	static struct duet_ioctl_gpath_args args;
	char path[8192];
	long long start;

	for (unsigned long i = 0; i < ASKED; i++) {
		name_in_tree(path, dir, i * (files / ASKED));
		uuids[i] = uuid_of(path);
		uuids[i].tid = holder->tid;
	}
	args.size = sizeof(args);
	start = now();
	for (int i = 0; i < ASKED; i++) {
		args.uuid = uuids[i];
		if (ioctl(holder->fd, DUET_IOC_GPATH, &args) < 0)
			fail("DUET_IOC_GPATH");
	}
	printf("paths %lld %d\n", now() - start, ASKED);
}

static void tell_table(int dev)
{
	struct duet_table table = {};

	if (ioctl(dev, DUET_IOC_TABLE, &table) < 0)
		fail("DUET_IOC_TABLE");
	printf("table %u %llu\n", table.longest, table.nodes);
}

static void resident(const char *path, __u32 flags)
{
	int dev = device();
	long long start;
	struct holder holder;

	sleep(1);
	start = now();
	holder = register_task(dev, DUET_PAGE_EXISTS, path, flags);

	tell_read("resident", holder.fd, now() - start);
}

static void hold(int count, __u32 mask, const char *path)
{
	struct holder *holders = calloc(count, sizeof(*holders));
	int dev = device();
	char line[8192], name[4096];
	unsigned long files;

	for (int i = 0; i < count; i++)
		holders[i] = register_task(dev, mask, path, 0);
	puts("ready");
	while (fgets(line, sizeof(line), stdin)) {
		if (!strcmp(line, "read\n")) {
			tell_read("read", holders[0].fd, 0);
		} else if (!strcmp(line, "table\n")) {
			tell_table(dev);
		} else if (sscanf(line, "doneall %4095s %lu", name, &files) == 2) {
			char file[8192];

			for (unsigned long i = 0; i < files; i++) {
				name_in_tree(file, name, i);
				done(holders, count, file);
			}
			puts("done");
		} else if (sscanf(line, "done %4095s", name) == 1) {
			done(holders, count, name);
			puts("done");
		} else if (sscanf(line, "paths %4095s %lu", name, &files) == 2) {
			paths(&holders[0], name, files);
		} else {
			fprintf(stderr, "task: cannot understand: %s", line);
			exit(2);
		}
	}
}

int main(int argc, char **argv)
{
	setlinebuf(stdout);
	/* No page fault while something is timed. */
	memset(items, 1, sizeof(items));
	if (argc == 3 && !strcmp(argv[1], "start")) {
		status(DUET_STATUS_START, atoi(argv[2]));
	} else if (argc == 2 && !strcmp(argv[1], "stop")) {
		status(DUET_STATUS_STOP, 0);
	} else if (argc == 3 && !strcmp(argv[1], "resident")) {
		resident(argv[2], 0);
	} else if (argc == 3 && !strcmp(argv[1], "snapshot")) {
		resident(argv[2], DUET_REGISTER_SNAPSHOT);
	} else if (argc == 5 && !strcmp(argv[1], "hold")) {
		hold(atoi(argv[2]), strtoul(argv[3], NULL, 0), argv[4]);
	} else {
		fprintf(stderr, "task: wrong arguments; see task.c\n");
		return 2;
	}
	return 0;
}
