// SPDX-License-Identifier: MIT
/*
 * Duet's peers, in the form of `task hold`: says "ready", then answers each line "read" with
 * "read NANOSECONDS COUNT", the time it took to read what was not read yet.
 *
 *	peer OBJECT counts|states|ring|woken
 *	peer DIRECTORY fanotify		of the mount
 *
 * And what is cached now, without having been told, of a tree of load:
 *
 *	peer DIRECTORY mincore|cachestat FILES		"NAME NANOSECONDS PAGES"
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <sys/fanotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include "../guest/clock.h"
#include "peers.h"

#define BATCH 4096
#define SYS_CACHESTAT 451

struct cachestat_range {
	__u64 off, len;
};

struct cachestat {
	__u64 cache, dirty, writeback, evicted, recently_evicted;
};

static unsigned long heard, sum;

/* As a user would: look at it. */
static int hear(void *context, void *data, size_t size)
{
	const struct peer_event *event = data;

	(void)context;
	(void)size;
	sum += event->ino + event->index;
	heard++;
	return 0;
}

static struct ring_buffer *ring;
static int map = -1, group = -1;

static void load_programs(const char *path, const char *name)
{
	struct bpf_object *object = bpf_object__open(path);
	struct bpf_program *program;
	char prefix[32];

	if (!object)
		fail(path);
	snprintf(prefix, sizeof(prefix), "%s_", name);
	bpf_object__for_each_program(program, object)
		bpf_program__set_autoload(program, !strncmp(bpf_program__name(program), prefix,
							    strlen(prefix)));
	if (bpf_object__load(object))
		fail("loading the programs");
	bpf_object__for_each_program(program, object)
		if (bpf_program__autoload(program) && !bpf_program__attach(program))
			fail("attaching a program");
	if (!strcmp(name, "ring") || !strcmp(name, "woken")) {
		ring = ring_buffer__new(bpf_object__find_map_fd_by_name(object, "ring"), hear,
					NULL, NULL);
		if (!ring)
			fail("the ring buffer");
	} else {
		map = bpf_object__find_map_fd_by_name(object, name);
		if (map < 0)
			fail("the map");
	}
}

static void read_map(void)
{
	static char keys[BATCH][24], values[BATCH][8];
	__u32 cursor[6], count;
	void *from = NULL;
	int err;

	do {
		count = BATCH;
		err = bpf_map_lookup_batch(map, from, cursor, keys, values, &count, NULL);
		heard += count;
		from = cursor;
	} while (!err);
	if (errno != ENOENT)
		fail("reading the map");
}

static void read_fanotify(void)
{
	static char buffer[256 << 10];
	ssize_t got;

	while ((got = read(group, buffer, sizeof(buffer))) > 0) {
		struct fanotify_event_metadata *event = (void *)buffer;

		for (; FAN_EVENT_OK(event, got); event = FAN_EVENT_NEXT(event, got)) {
			heard++;
			if (event->fd >= 0)
				close(event->fd);
		}
	}
}

static void read_now(void)
{
	if (ring)
		ring_buffer__consume(ring);
	else if (group >= 0)
		read_fanotify();
	else
		read_map();
}

static void watch_mount(const char *path)
{
	group = fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK | FAN_UNLIMITED_QUEUE, O_RDONLY);
	if (group < 0 || fanotify_mark(group, FAN_MARK_ADD | FAN_MARK_MOUNT,
				       FAN_OPEN | FAN_ACCESS | FAN_MODIFY | FAN_CLOSE,
				       AT_FDCWD, path))
		fail("fanotify");
}

static void obey(int events)
{
	struct pollfd fds[2] = { { .fd = 0, .events = POLLIN }, { .fd = events, .events = POLLIN } };
	char line[64];

	puts("ready");
	while (poll(fds, events >= 0 ? 2 : 1, -1) >= 0) {
		long long start;

		if (events >= 0 && fds[1].revents)
			read_now();
		if (!fds[0].revents)
			continue;
		if (read(0, line, sizeof(line)) <= 0)
			return;
		start = now();
		read_now();
		printf("read %lld %lu\n", now() - start, heard);
		heard = 0;
	}
}

static unsigned long pages_by_mincore(int fd)
{
	static unsigned char vector[1 << 16];
	unsigned long pages = 0;
	struct stat st;
	void *where;

	if (fstat(fd, &st))
		fail("fstat");
	where = mmap(NULL, st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (where == MAP_FAILED || mincore(where, st.st_size, vector))
		fail("mincore");
	for (long i = 0; i < (long)(st.st_size / PAGE); i++)
		pages += vector[i] & 1;
	munmap(where, st.st_size);
	return pages;
}

static unsigned long pages_by_cachestat(int fd)
{
	struct cachestat_range range = { 0, 0 };
	struct cachestat answer;

	if (syscall(SYS_CACHESTAT, fd, &range, &answer, 0))
		fail("cachestat");
	return answer.cache;
}

static void walk(const char *dir, const char *how, unsigned long files)
{
	unsigned long (*pages_of)(int) = strcmp(how, "mincore") ? pages_by_cachestat
								: pages_by_mincore;
	unsigned long pages = 0;
	long long start;
	char path[4096];

	sleep(1);
	start = now();
	for (unsigned long i = 0; i < files; i++) {
		int fd;

		snprintf(path, sizeof(path), "%s/%03lu/%03lu", dir, i / 1000, i % 1000);
		fd = open(path, O_RDONLY);
		if (fd < 0)
			fail(path);
		pages += pages_of(fd);
		close(fd);
	}
	printf("%s %lld %lu\n", how, now() - start, pages);
}

int main(int argc, char **argv)
{
	setlinebuf(stdout);
	if (argc == 4) {
		walk(argv[1], argv[2], strtoul(argv[3], NULL, 0));
	} else if (argc == 3 && !strcmp(argv[2], "fanotify")) {
		watch_mount(argv[1]);
		obey(group);
	} else if (argc == 3) {
		load_programs(argv[1], argv[2]);
		obey(strcmp(argv[2], "woken") ? -1 : ring_buffer__epoll_fd(ring));
	} else {
		fprintf(stderr, "peer: wrong arguments; see peer.c\n");
		return 2;
	}
	return 0;
}
