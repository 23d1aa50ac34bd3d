// SPDX-License-Identifier: MIT
/*
 * What goes on meanwhile: files that are read, written, cut, renamed, linked and deleted, caches that
 * are dropped, file systems that come and go. Nothing here is a call on Duet.
 */
#include "fuzz.h"
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define NR_DIRS 4
#define NR_NAMES 8
#define FILE_BYTES (1 << 20)

static void name_any(struct chance *chance, char *path, size_t size)
{
	static const char *const tops[] = { "tree", "tree", "tree", "out", "loop0", "loop1" };
	const char *top = ANY_OF(chance, tops);
	unsigned dir = below(chance, NR_DIRS), nr = below(chance, NR_NAMES);

	if (*top == 'l')
		snprintf(path, size, "%s/m/d/f%u", top, nr);
	else
		snprintf(path, size, "%s/d%u/f%u", top, dir, nr);
}

static void publish(struct chance *chance, int fd)
{
	struct stat stat;
	int gen = 0;

	if (!fstat(fd, &stat) && !ioctl(fd, FS_IOC_GETVERSION, &gen))
		remember_file(chance, stat.st_ino, gen, 0);
}

static void use(struct chance *chance, int fd)
{
	static char bytes[1 << 16];
	off_t at = below(chance, FILE_BYTES);
	size_t len = 1 + below(chance, sizeof(bytes));
	volatile char *map;

	switch (below(chance, 12)) {
	case 0:
	case 1:
	case 2:
		(void)!pwrite(fd, bytes, len, at);
		break;
	case 3:
	case 4:
	case 5:
		(void)!pread(fd, bytes, len, at);
		break;
	case 6:
		fsync(fd);
		break;
	case 7:
		(void)!ftruncate(fd, at);
		break;
	case 8:
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		break;
	case 9:
		fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, len);
		break;
	case 10:
		sync_file_range(fd, at, len, SYNC_FILE_RANGE_WRITE);
		break;
	default:
		(void)!pwrite(fd, bytes, len, 0);
		map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (map == MAP_FAILED)
			break;
		/* To write there would be a signal, should somebody cut the file. */
		madvise((void *)map, 4096, MADV_WILLNEED);
		munmap((void *)map, 4096);
	}
}

static void drop_caches(struct chance *chance)
{
	static const char *const what[] = { "1", "2", "3" };
	int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);

	(void)!write(fd, ANY_OF(chance, what), 1);
	close(fd);
}

static void move_directory(struct chance *chance)
{
	char from[32], to[32];
	unsigned nr = below(chance, NR_DIRS);
	bool in = one_in(chance, 2);

	/* Across the border, or one within another. */
	snprintf(from, sizeof(from), "%s/d%u", in ? "out" : "tree", nr);
	snprintf(to, sizeof(to), "%s/d%u", in ? "tree" : "out", nr);
	if (rename(from, to))
		rename(to, from);
}

static void name(struct chance *chance)
{
	char one[64], other[64];

	name_any(chance, one, sizeof(one));
	name_any(chance, other, sizeof(other));
	switch (below(chance, 10)) {
	case 0:
	case 1:
	case 2:
		rename(one, other);
		break;
	case 3:
		link(one, other);
		break;
	case 4:
	case 5:
		unlink(one);
		break;
	case 6:
		(void)!chown(one, one_in(chance, 2) ? options.user : 0, 0);
		break;
	case 7:
		chmod(one, one_in(chance, 2) ? 0600 : 0666);
		break;
	case 8:
		*strrchr(one, '/') = '\0';
		chmod(one, one_in(chance, 3) ? 0700 : 0755);
		break;
	default:
		move_directory(chance);
	}
}

static void *run_files(void *arg)
{
	struct chance chance = chance_of(options.seed, 100 + (uintptr_t)arg, 0);

	while (!shared->over) {
		char path[64];
		int fd;

		atomic_fetch_add(&shared->disturbances, 1);
		if (one_in(&chance, 200)) {
			drop_caches(&chance);
		} else if (one_in(&chance, 4)) {
			name(&chance);
		} else {
			name_any(&chance, path, sizeof(path));
			fd = open(path, O_RDWR | O_CREAT, 0644);
			if (fd < 0)
				continue;
			for (unsigned i = below(&chance, 5); i; i--)
				use(&chance, fd);
			publish(&chance, fd);
			close(fd);
		}
		/* The callers are whom all this is for. */
		usleep(below(&chance, 2000));
	}
	return NULL;
}

static void mount_one(unsigned nr)
{
	char where[16], dir[20];

	snprintf(where, sizeof(where), "loop%u/m", nr);
	if (mount(options.loop[nr], where, "ext4", 0, NULL))
		return;
	snprintf(dir, sizeof(dir), "%s/d", where);
	mkdir(dir, 0777);
}

/* Renamed, unmounted, mounted: what is registered there loses its place, or is told of another. */
static void *run_mounts(void *arg)
{
	struct chance chance = chance_of(options.seed, 200, 0);

	(void)arg;
	while (!shared->over) {
		unsigned nr = below(&chance, 2);
		char parent[16], where[16], away[24];

		atomic_fetch_add(&shared->disturbances, 1);
		snprintf(parent, sizeof(parent), "loop%u", nr);
		snprintf(where, sizeof(where), "loop%u/m", nr);
		switch (below(&chance, 4)) {
		case 0:
		case 1:
			if (umount2(where, one_in(&chance, 4) ? MNT_DETACH : 0) && errno == EINVAL)
				mount_one(nr);
			break;
		case 2:
			mount_one(nr);
			break;
		default:
			/* The mount point is below what is renamed. */
			snprintf(away, sizeof(away), "away/loop%u", nr);
			if (!rename(parent, away)) {
				usleep(below(&chance, 5000));
				if (rename(away, parent))
					err(1, "%s", away);
			}
		}
		usleep(below(&chance, 40000));
	}
	return NULL;
}

/* What the names are for. */
void world_make(void)
{
	static const char *const tops[] = { "tree", "out", "away", "loop0", "loop1",
					    "loop0/m", "loop1/m" };
	struct chance chance = chance_of(options.seed, 300, 0);

	if (chdir(options.place))
		err(1, "%s", options.place);
	for (unsigned i = 0; i < COUNT(tops); i++)
		mkdir(tops[i], 0755);
	for (unsigned i = 0; i < 2 * NR_DIRS; i++) {
		char path[64];

		snprintf(path, sizeof(path), "%s/d%u", tops[i / NR_DIRS], i % NR_DIRS);
		mkdir(path, 0755);
		for (unsigned nr = 0; nr < NR_NAMES; nr++) {
			int fd;

			snprintf(path, sizeof(path), "%s/d%u/f%u", tops[i / NR_DIRS], i % NR_DIRS, nr);
			fd = open(path, O_RDWR | O_CREAT, 0666);
			if (fd < 0)
				continue;
			(void)!pwrite(fd, path, sizeof(path), below(&chance, FILE_BYTES));
			publish(&chance, fd);
			close(fd);
		}
	}
	for (unsigned nr = 0; nr < 2; nr++)
		mount_one(nr);
}

void world_run(void)
{
	pthread_t threads[3];

	for (uintptr_t i = 0; i < COUNT(threads); i++)
		if (pthread_create(&threads[i], NULL, i ? run_files : run_mounts, (void *)i))
			err(1, "no thread");
	for (unsigned i = 0; i < COUNT(threads); i++)
		pthread_join(threads[i], NULL);
	/* Mounted twice, or hanging on to a descriptor of a moment ago. */
	for (unsigned nr = 0; nr < 2; nr++) {
		char where[16];

		snprintf(where, sizeof(where), "loop%u/m", nr);
		while (!umount2(where, 0) || errno == EBUSY)
			usleep(10000);
	}
}
