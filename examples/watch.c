// SPDX-License-Identifier: MIT
/*
 * Prints what is cached of the files below a directory, or of one file, and
 * then what changes: a line for each run of pages, with its state and the path.
 *
 * It needs nothing but the interface's header:
 *
 *	cc -O2 -Wall -Wextra -Idriver/uapi -o watch examples/watch.c
 *	./watch /home
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "duet.h"

#define DEVICE "/dev/duet"

/* Says what went wrong, with what, and what helps; returns the exit status. */
static int failed(const char *what, const char *words)
{
	fprintf(stderr, "watch: %s: %s\n", what, words);
	return 1;
}

static const char *words_of(int error)
{
	switch (error) {
	case ESHUTDOWN:
		return "Duet is off; switch it on as root: duet start";
	case ECANCELED:
		return "somebody ended the task";
	case EUSERS:
		return "every task is taken; end one, or start Duet for more: duet start -n";
	case EOPNOTSUPP:
		return "its file system cannot be watched here; duet doctor says more";
	case ENODEV:
		return "it is gone, or its file system was unmounted";
	default:
		return strerror(error);
	}
}

/* Names have any bytes; those that could steer a terminal are printed in octal. */
static void print_path(const char *path)
{
	for (const unsigned char *byte = (const unsigned char *)path; *byte; byte++)
		if (*byte < ' ' || *byte == 127)
			printf("\\%03o", *byte);
		else
			putchar(*byte);
}

static void print_item(int task, const struct duet_item *item)
{
	static const char *const names[] = { "added", "removed", "dirty", "flushed" };
	struct duet_ioctl_gpath_args file = { .size = sizeof(file), .uuid = item->uuid };
	unsigned long long first = item->idx;
	char state[40] = "";

	for (int bit = 0; bit < 4; bit++)
		if (item->state & 1 << bit)
			strcat(strcat(state, *state ? "," : ""), names[bit]);
	if (item->state == DUET_ITEM_OVERFLOW)
		printf("%-16s  %13s  ", "overflow", "?");
	else
		printf("%-16s  %6llu-%-6llu  ", state, first, first + item->nr - 1);

	if (!ioctl(task, DUET_IOC_GPATH, &file))
		print_path(file.path);
	else if (item->uuid.ino)
		printf("(inode %llu, generation %u)", (unsigned long long)item->uuid.ino,
		       item->uuid.gen);
	else
		printf("(files that are not known)");
	putchar('\n');
}

int main(int argc, char **argv)
{
	struct duet_register task = {
		.flags = DUET_REGISTER_RANGES | DUET_REGISTER_NONBLOCK,
		.mask = DUET_PAGE_EXISTS | DUET_PAGE_MODIFIED,
		.dirfd = AT_FDCWD,
		.name = (uintptr_t)"watch.c",
	};
	struct duet_item items[512];
	int device, fd;

	if (argc != 2) {
		fprintf(stderr, "usage: watch PATH\n");
		return 2;
	}
	device = open(DEVICE, O_RDONLY | O_CLOEXEC);
	if (device < 0)
		return failed(DEVICE, errno == EACCES ? "not permitted; be root" :
			      "it cannot be opened; load the module: insmod duet.ko");
	task.path = (uintptr_t)argv[1];
	fd = ioctl(device, DUET_IOC_REGISTER, &task);
	if (fd < 0)
		return failed(argv[1], words_of(errno));

	/* Until a signal: the kernel closes the descriptor, which ends the task. */
	for (struct pollfd wait = { .fd = fd, .events = POLLIN };;) {
		ssize_t bytes;

		/* However poll() ends, read() says why. */
		poll(&wait, 1, -1);
		bytes = read(fd, items, sizeof(items));
		if (bytes < 0 && errno != EAGAIN && errno != EINTR)
			return failed(argv[1], words_of(errno));
		for (ssize_t i = 0; i < bytes / (ssize_t)sizeof(*items); i++)
			print_item(fd, &items[i]);
		if (fflush(stdout))
			return failed("standard output", strerror(errno));
	}
}
