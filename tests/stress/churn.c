/* SPDX-License-Identifier: MIT */
/*
 * One program of a load that leaves something behind: it does to the files of a directory whatever a
 * program can do to a page cache, until it is ended.
 *
 *   churn DIRECTORY SEED
 *
 * The files are in DIRECTORY/tree, its subdirectories, and DIRECTORY/out. Several may work in the
 * same one; what one misses because another was faster is no fault. A file system that says of itself
 * that it is broken is one: the status is 1 then.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096L
#define DIRS 4
#define FILES 12
/* Pages of a file, at most; a sixteenth of that in most calls. */
#define PAGES 256

static uint64_t state;
static sigjmp_buf gone;
static char data[PAGES / 16 * PAGE];

/* Marsaglia's xorshift64: the same steps for the same seed. */
static unsigned below(unsigned n)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (state >> 32) % n;
}

/* A mapping beyond the end of a file that another one cut. */
static void on_bus(int signal)
{
	(void)signal;
	siglongjmp(gone, 1);
}

static const char *a_dir(char *name)
{
	unsigned n = below(DIRS + 2);

	if (n < DIRS)
		sprintf(name, "tree/d%u", n);
	else
		strcpy(name, n == DIRS ? "tree" : "out");
	return name;
}

static const char *a_name(char *name)
{
	a_dir(name);
	sprintf(name + strlen(name), "/f%u", below(FILES));
	return name;
}

/* Of bytes, so that partial pages occur; most often whole ones. */
static long a_place(void)
{
	long at = below(PAGES) * PAGE;

	return below(3) ? at : at + below(PAGE);
}

static long a_length(void)
{
	long length = (1 + below(PAGES / 16)) * PAGE;

	return below(3) ? length : length - below(PAGE);
}

static void map(int fd)
{
	struct stat status;
	volatile char *at;
	long size;

	if (fstat(fd, &status) || status.st_size < PAGE)
		return;
	size = status.st_size;
	at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		return;
	if (!sigsetjmp(gone, 1)) {
		for (int touches = 8; touches--;) {
			long byte = below(size / PAGE) * PAGE;

			if (below(2))
				at[byte]++;
			else
				(void)at[byte];
		}
		if (!below(4))
			msync((void *)at, size, below(2) ? MS_SYNC : MS_ASYNC);
	}
	munmap((void *)at, size);
}

/* Past the page cache. */
static int direct(const char *name)
{
	static char buffer[16 * PAGE] __attribute__((aligned(4096)));
	int fd = open(name, O_RDWR | O_DIRECT), result;
	long at = below(PAGES) * PAGE, length = (1 + below(16)) * PAGE;

	if (fd < 0)
		return fd;
	result = below(2) ? pread(fd, buffer, length, at) : pwrite(fd, buffer, length, at);
	close(fd);
	return result;
}

static int with_another(int fd, const char *other)
{
	int from = open(other, O_RDONLY), result;
	off_t source = below(PAGES) * PAGE, target = below(PAGES) * PAGE;

	if (from < 0)
		return from;
	if (below(2)) {
		result = copy_file_range(from, &source, fd, &target, a_length(), 0);
	} else {
		struct file_clone_range range = { from, source, 4 * PAGE, target };

		result = ioctl(fd, FICLONERANGE, &range);
	}
	close(from);
	return result;
}

static const int kinds[] = {
	0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
	FALLOC_FL_ZERO_RANGE, FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE,
};

static int allocate(int fd)
{
	int kind = kinds[below(sizeof(kinds) / sizeof(*kinds))];
	long at = a_place(), length = a_length();

	/* Those that move what comes behind want whole blocks. */
	if (kind & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE)) {
		at &= -PAGE;
		length = 4 * PAGE;
	}
	return fallocate(fd, kind, at, length);
}

/* What is done to a file that is open. */
static int on_file(int fd, const char *name)
{
	char other[64];
	long at;

	switch (below(20)) {
	case 0 ... 4:
		at = a_place();
		return pwrite(fd, data, a_length(), at);
	case 5 ... 8:
		at = a_place();
		return pread(fd, data, a_length(), at);
	case 9:
		return ftruncate(fd, a_place());
	case 10:
		return below(2) ? fsync(fd) : fdatasync(fd);
	case 11 ... 12:
		map(fd);
		return 0;
	case 13:
		errno = posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		return -!!errno;
	case 14:
		return readahead(fd, a_place() & -PAGE, a_length());
	case 15:
		return allocate(fd);
	case 16:
		return direct(name);
	case 17:
		return with_another(fd, a_name(other));
	case 18:
		return sync_file_range(fd, a_place() & -PAGE, a_length(), SYNC_FILE_RANGE_WRITE);
	default:
		/* With no name left, and written to. */
		return unlink(name) ? -1 : pwrite(fd, data, a_length(), a_place());
	}
}

/* What is done to names; directories go in and out of the tree. */
static int on_names(void)
{
	char one[64], other[64];
	unsigned flags = 0;

	switch (below(8)) {
	case 0 ... 2:
		if (!below(4))
			flags = RENAME_EXCHANGE;
		return renameat2(AT_FDCWD, a_name(one), AT_FDCWD, a_name(other), flags);
	case 3 ... 4:
		return link(a_name(one), a_name(other));
	case 5:
		return unlink(a_name(one));
	case 6:
		sprintf(one, "tree/d%u", below(DIRS));
		sprintf(other, "out/d%u", below(DIRS));
		return below(2) ? rename(one, other) : rename(other, one);
	default:
		sprintf(one, "tree/d%u", below(DIRS));
		return mkdir(one, 0755);
	}
}

static int step(void)
{
	char name[64];
	int fd, result;

	if (!below(6))
		return on_names();
	fd = open(a_name(name), O_CREAT | O_RDWR, 0644);
	if (fd < 0)
		return fd;
	result = on_file(fd, name);
	if (result >= 0 && !below(3))
		result = on_file(fd, name);
	/* A file may be broken, and not say so before this. */
	return close(fd) ? -1 : result;
}

int main(int argc, char **argv)
{
	if (argc != 3 || chdir(argv[1])) {
		perror("churn DIRECTORY SEED");
		return 2;
	}
	state = strtoull(argv[2], NULL, 0) * 0x9E3779B97F4A7C15 | 1;
	memset(data, 'd', sizeof(data));
	signal(SIGBUS, on_bus);
	mkdir("tree", 0755);
	mkdir("out", 0755);
	for (;;) {
		errno = 0;
		if (step() < 0 &&
		    (errno == EIO || errno == EUCLEAN || errno == ESHUTDOWN || errno == EROFS)) {
			fprintf(stderr, "churn %s: %s\n", argv[1], strerror(errno));
			return 1;
		}
	}
}
