// SPDX-License-Identifier: MIT
/*
 * The workloads. Each prints lines "KIND NANOSECONDS COUNT": what was done, how long it took, and
 * how many pages or files it was done to. Nothing else is timed.
 *
 *	load insmod FILE OPTIONS
 *	load rmmod NAME			a program of the host's would leave its pages in the cache
 *	load ballast MIB		until it is killed: free memory is single pages, see ballast()
 *	load create FILE BYTES
 *	load tree DIR FILES BYTES	FILES files in directories of a thousand each
 *	load cool			nothing is cached that need not be
 *	load cycle FILE KINDS		reads it cold, writes it, makes it cold again; KINDS is
 *					added,removed, or dirty,flushed, or one of them
 *	load readall FILE		reads it
 *	load readtree DIR FILES		the same of a tree
 *	load odd FILE			cold read of every other page, single pages
 *	load small DIR FILES		read of each file of a tree, then what it takes to drop the cache
 *	load churn DIR SECONDS		a process per CPU writes 1 MiB files over and over
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "clock.h"

#define CHUNK (64UL << 10)

static char buffer[1 << 20];

static int must_open(const char *path, int flags)
{
	int fd = open(path, flags, 0644);

	if (fd < 0)
		fail(path);
	return fd;
}

/*
 * What a page costs to allocate and to free depends on how the kernel has to split and may merge
 * free blocks, which changes from one measurement to the next. So make plenty of single pages whose
 * neighbours are in use: they neither come from larger blocks nor become some.
 */
static void ballast(unsigned long bytes)
{
	char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		fail("mmap");
	madvise(memory, bytes, MADV_NOHUGEPAGE);
	for (unsigned long i = 0; i < bytes; i += PAGE)
		memory[i] = 1;
	for (unsigned long i = 0; i < bytes; i += 2 * PAGE)
		madvise(memory + i, PAGE, MADV_DONTNEED);
	puts("ready");
	fflush(stdout);
	pause();
}

static void create(const char *path, unsigned long bytes)
{
	int fd = must_open(path, O_WRONLY | O_CREAT | O_TRUNC);

	for (; bytes; bytes -= bytes < sizeof(buffer) ? bytes : sizeof(buffer)) {
		size_t len = bytes < sizeof(buffer) ? bytes : sizeof(buffer);

		if (write(fd, buffer, len) != (ssize_t)len)
			fail(path);
	}
	close(fd);
}

/* Bytes of 0: a page that is a hole, which takes no room on the disk. */
static void tree(const char *dir, unsigned long files, unsigned long bytes)
{
	char path[4096];

	for (unsigned long i = 0; i < files; i++) {
		if (i % 1000 == 0) {
			snprintf(path, sizeof(path), "%s/%03lu", dir, i / 1000);
			if (mkdir(path, 0755) && errno != EEXIST)
				fail(path);
		}
		snprintf(path, sizeof(path), "%s/%03lu/%03lu", dir, i / 1000, i % 1000);
		create(path, bytes);
		if (!bytes && truncate(path, PAGE))
			fail(path);
	}
	sync();
}

static void read_all(int fd)
{
	ssize_t got;
	off_t at = 0;

	while ((got = pread(fd, buffer, CHUNK, at)) > 0)
		at += got;
	if (got < 0)
		fail("read");
}

static void overwrite(int fd, off_t size)
{
	for (off_t at = 0; at < size; at += CHUNK)
		if (pwrite(fd, buffer, CHUNK, at) != (ssize_t)CHUNK)
			fail("write");
}

static void report(const char *kind, long long took, unsigned long count)
{
	printf("%s %lld %lu\n", kind, took, count);
}

static void cycle(const char *path, const char *kinds)
{
	int fd = must_open(path, O_RDWR);
	off_t size = lseek(fd, 0, SEEK_END);
	unsigned long pages = size / PAGE;
	long long start, took;

	start = now();
	read_all(fd);
	took = now() - start;
	if (strstr(kinds, "added"))
		report("added", took, pages);

	if (strstr(kinds, "dirty") || strstr(kinds, "flushed")) {
		start = now();
		overwrite(fd, size);
		took = now() - start;
		if (strstr(kinds, "dirty"))
			report("dirty", took, pages);
		start = now();
		if (fsync(fd))
			fail("fsync");
		took = now() - start;
		if (strstr(kinds, "flushed"))
			report("flushed", took, pages);
	}

	/* After a write each page has buffers to be freed with it: another figure. */
	start = now();
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	took = now() - start;
	if (strstr(kinds, "removed"))
		report("removed", took, pages);
}

static void odd(const char *path)
{
	int fd = must_open(path, O_RDONLY);
	off_t size = lseek(fd, 0, SEEK_END);
	long long start;

	posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
	start = now();
	for (off_t at = 0; at < size; at += 2 * PAGE)
		if (pread(fd, buffer, PAGE, at) != (ssize_t)PAGE)
			fail("read");
	report("odd", now() - start, size / PAGE / 2);
}

static void drop_caches(char what)
{
	int fd = must_open("/proc/sys/vm/drop_caches", O_WRONLY);

	if (write(fd, &what, 1) != 1)
		fail("drop_caches");
	close(fd);
}

static void readall(const char *path)
{
	int fd = must_open(path, O_RDONLY);
	long long start = now();

	read_all(fd);
	report("read", now() - start, lseek(fd, 0, SEEK_END) / PAGE);
}

static void read_tree(const char *dir, unsigned long files)
{
	char path[4096];

	for (unsigned long i = 0; i < files; i++) {
		int fd;

		snprintf(path, sizeof(path), "%s/%03lu/%03lu", dir, i / 1000, i % 1000);
		fd = must_open(path, O_RDONLY);
		if (read(fd, buffer, PAGE) != (ssize_t)PAGE)
			fail(path);
		close(fd);
	}
}

static void small(const char *dir, unsigned long files)
{
	long long start = now();

	read_tree(dir, files);
	report("cold", now() - start, files);
	start = now();
	drop_caches('1');
	report("drop", now() - start, files);
}

static void churn(const char *dir, double seconds)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned long *loops = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
				    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	unsigned long total = 0;
	long long start = now();

	if (loops == MAP_FAILED)
		fail("mmap");
	for (long cpu = 0; cpu < cpus; cpu++) {
		char path[4096];
		cpu_set_t set;

		if (fork())
			continue;
		CPU_ZERO(&set);
		CPU_SET(cpu, &set);
		sched_setaffinity(0, sizeof(set), &set);
		snprintf(path, sizeof(path), "%s/churn-%ld", dir, cpu);
		while (now() - start < seconds * 1e9) {
			create(path, sizeof(buffer));
			loops[cpu]++;
		}
		_exit(0);
	}
	while (wait(NULL) > 0)
		;
	start = now() - start;
	for (long cpu = 0; cpu < cpus; cpu++)
		total += loops[cpu];
	report("churn", start, total);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	memset(buffer, 0x55, sizeof(buffer));
	/* What was started before comes to its end first; that takes no time with --icount. */
	sleep(1);
	if (!strcmp(what, "insmod") && argc == 4) {
		if (syscall(SYS_finit_module, must_open(argv[2], O_RDONLY), argv[3], 0))
			fail(argv[2]);
	} else if (!strcmp(what, "rmmod") && argc == 3) {
		if (syscall(SYS_delete_module, argv[2], O_NONBLOCK))
			fail(argv[2]);
	} else if (!strcmp(what, "ballast") && argc == 3) {
		ballast(strtoul(argv[2], NULL, 0) << 20);
	} else if (!strcmp(what, "create") && argc == 4) {
		create(argv[2], strtoul(argv[3], NULL, 0));
		sync();
	} else if (!strcmp(what, "tree") && argc == 5) {
		tree(argv[2], strtoul(argv[3], NULL, 0), strtoul(argv[4], NULL, 0));
	} else if (!strcmp(what, "cool") && argc == 2) {
		sync();
		drop_caches('3');
	} else if (!strcmp(what, "cycle") && argc == 4) {
		cycle(argv[2], argv[3]);
	} else if (!strcmp(what, "readall") && argc == 3) {
		readall(argv[2]);
	} else if (!strcmp(what, "readtree") && argc == 4) {
		read_tree(argv[2], strtoul(argv[3], NULL, 0));
	} else if (!strcmp(what, "odd") && argc == 3) {
		odd(argv[2]);
	} else if (!strcmp(what, "small") && argc == 4) {
		small(argv[2], strtoul(argv[3], NULL, 0));
	} else if (!strcmp(what, "churn") && argc == 4) {
		churn(argv[2], atof(argv[3]));
	} else {
		fprintf(stderr, "load: wrong arguments; see load.c\n");
		return 2;
	}
	return 0;
}
