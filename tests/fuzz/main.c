// SPDX-License-Identifier: MIT
/*
 * fuzz: calls on /dev/duet by root and by a user, from several threads and processes, while files
 * and mounts change under them. See tests/fuzz/README.md.
 */
#include "fuzz.h"
#include <err.h>
#include <errno.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct shared *shared;
struct options options = { .calls = 5000, .user = 4001, .group = 4000 };

#define THREADS 2			/* that call, in each of two processes */

static void *run(void *arg)
{
	struct caller *caller = arg;

	for (unsigned long nr = 1; nr <= caller->nr_calls; nr++) {
		caller->chance = chance_of(options.seed, caller->number, nr);
		atomic_store(&caller->nr, nr);
		caller->call(caller);
		atomic_fetch_add(&shared->calls, 1);
	}
	return NULL;
}

static void nothing(int signal)
{
	(void)signal;
}

/* Runs threads; one that is in the same call for long gets a signal: a read ends, for one thing. */
static void run_all(struct caller *callers, unsigned nr)
{
	struct sigaction action = { .sa_handler = nothing };	/* no SA_RESTART */
	unsigned long seen[THREADS] = {};
	unsigned left = nr;

	sigaction(SIGUSR1, &action, NULL);
	for (unsigned i = 0; i < nr; i++) {
		memory_init(&callers[i]);
		if (pthread_create(&callers[i].thread, NULL, run, &callers[i]))
			err(1, "no thread");
	}
	while (left) {
		usleep(25000);
		for (unsigned i = 0; i < nr; i++) {
			unsigned long now = atomic_load(&callers[i].nr);

			if (!callers[i].thread)
				continue;
			if (!pthread_tryjoin_np(callers[i].thread, NULL)) {
				callers[i].thread = 0;
				left--;
			} else if (now == seen[i]) {
				pthread_kill(callers[i].thread, SIGUSR1);
			}
			seen[i] = now;
		}
	}
}

static void become_user(void)
{
	if (setgroups(1, &options.group) || setresgid(options.user, options.user, options.user) ||
	    setresuid(options.user, options.user, options.user))
		err(1, "no user");
}

/* root: its threads are 0 and 1; the user's 2 and 3; the administrator's is 4. */
static void run_process(unsigned process, const int sockets[2])
{
	static struct caller callers[THREADS];
	const bool administers = process == 2;
	unsigned nr = administers ? 1 : THREADS;

	if (!administers)
		descriptors_init(process == 0, sockets);
	if (process == 1)
		become_user();
	if (!administers)
		scribble_start();
	for (unsigned i = 0; i < nr; i++) {
		callers[i].number = process * THREADS + i;
		callers[i].nr_calls = administers ? options.calls / 16 :
				      (options.calls - options.calls / 16) / (2 * THREADS);
		callers[i].call = administers ? administer : call_any;
		callers[i].root = process != 1;
	}
	run_all(callers, nr);
	exit(0);
}

static bool has_ended_well(const char *what, pid_t pid)
{
	static unsigned long waited;
	int status;

	/* A word now and then: a machine that hangs says no more. */
	while (!waitpid(pid, &status, WNOHANG)) {
		usleep(250000);
		if (++waited % 240)
			continue;
		printf("fuzz: %llu calls\n", shared->calls);
		fflush(stdout);
	}
	if (!status)
		return true;
	fprintf(stderr, "fuzz: %s ended with status %#x\n", what, status);
	return false;
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t value = strtoull(text, &end, 0);

	if (!*text || *end)
		errx(2, "%s is no number", text);
	return value;
}

static void read_options(int argc, char **argv)
{
	static const char usage[] =
		"usage: fuzz [--seed N] [--calls N] [--quiet] [--spare TASK] [--trace] PLACE DISK DISK";
	bool seeded = false;
	int i;

	for (i = 1; i < argc && !strncmp(argv[i], "--", 2); i++) {
		if (!strcmp(argv[i], "--quiet"))
			options.quiet = true;
		else if (!strcmp(argv[i], "--trace"))
			options.trace = true;
		else if (i + 1 == argc)
			errx(2, usage);
		else if (!strcmp(argv[i], "--seed"))
			seeded = true, options.seed = number(argv[++i]);
		else if (!strcmp(argv[i], "--calls"))
			options.calls = number(argv[++i]);
		else if (!strcmp(argv[i], "--spare"))
			options.spare = number(argv[++i]);
		else
			errx(2, usage);
	}
	if (argc - i != 3)
		errx(2, usage);
	options.place = argv[i];
	options.loop[0] = argv[i + 1];
	options.loop[1] = argv[i + 2];
	if (!seeded && getrandom(&options.seed, 4, 0) != 4)
		err(1, "no random number");
}

int main(int argc, char **argv)
{
	static const char *const names[] = { "root", "the user", "the administrator" };
	pid_t pid[COUNT(names)], world;
	bool fine = true;
	int sockets[2];

	read_options(argc, argv);
	/* First of all: should the machine not survive, this is how to have it again. */
	printf("fuzz: seed %llu, %lu calls%s\n", (unsigned long long)options.seed, options.calls,
	       options.quiet ? ", no task is ended for others" : "");
	fflush(stdout);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	if (shared == MAP_FAILED || socketpair(AF_UNIX, SOCK_DGRAM, 0, sockets))
		err(1, "cannot begin");
	world_make();
	for (unsigned i = 0; i < COUNT(names); i++) {
		pid[i] = fork();
		if (!pid[i])
			run_process(i, sockets);
		shared->pid[i] = pid[i];
	}
	world = fork();
	if (!world) {
		world_run();
		exit(0);
	}
	close(sockets[0]);
	close(sockets[1]);
	for (unsigned i = 0; i < COUNT(names); i++)
		fine &= has_ended_well(names[i], pid[i]);
	shared->over = true;
	fine &= has_ended_well("the world", world);
	fine &= report();
	return fine ? 0 : 1;
}
