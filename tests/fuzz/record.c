// SPDX-License-Identifier: MIT
/* What was answered: held against docs/interface.md, counted, and told at the end. */
#include "fuzz.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum family {
	STATUS_FAMILY, REGISTRATION_FAMILY, ON_TASK_FAMILY, ON_TASK_SET_FAMILY, PATH_FAMILY,
	MANY_PATHS_FAMILY, ANYBODY_FAMILY, ADMIN_FAMILY, ADMIN_ON_FAMILY, OWN_FAMILY,
	NOTHING_FAMILY, READING_FAMILY, WAITING_FAMILY, EPOLLING_FAMILY, SOCKET_FAMILY,
	WHATEVER_FAMILY, SETTING_FAMILY, LOOKING_FAMILY,
};

/*
 * "Errors" of docs/interface.md, and ABI/testing for sysfs. EFAULT is not here: it is right where
 * an address is bad. EBADF and, for numbers that are unknown, ENOTTY are what every file says.
 */
#define TASK_ERRORS EINVAL, EPERM, ESRCH, ESHUTDOWN, ECANCELED, EINTR, ENOMEM
#define OURS E2BIG

static const unsigned char documented[][20] = {
	/* A mutation makes one of these calls another. */
	[STATUS_FAMILY] = { EINVAL, EPERM, EALREADY, EBUSY, ESRCH, ENOMEM },
	/* Those from ENOENT on are the path's. */
	[REGISTRATION_FAMILY] = { EINVAL, EPERM, ESHUTDOWN, ECANCELED, EUSERS, EDQUOT,
				  ENAMETOOLONG, EOPNOTSUPP, EINTR, ENOMEM, OURS, ENOENT, ENOTDIR,
				  EACCES, ELOOP, EBADF, EMFILE },
	[ON_TASK_FAMILY] = { TASK_ERRORS, OURS },
	[ON_TASK_SET_FAMILY] = { TASK_ERRORS, ENOSPC },
	[PATH_FAMILY] = { TASK_ERRORS, ENOENT, EACCES, ENAMETOOLONG },
	[MANY_PATHS_FAMILY] = { TASK_ERRORS, OURS, ERANGE },
	[ANYBODY_FAMILY] = { EINVAL, OURS },
	[ADMIN_FAMILY] = { EINVAL, EPERM, OURS, ENOMEM },
	[ADMIN_ON_FAMILY] = { EINVAL, EPERM, OURS, ESHUTDOWN, ENOMEM },
	[OWN_FAMILY] = { EINVAL, OURS, ESHUTDOWN, ECANCELED, ENOMEM },
	[NOTHING_FAMILY] = { ENOTTY },
	[READING_FAMILY] = { EINVAL, EAGAIN, EINTR, ENODEV, ESHUTDOWN, ECANCELED, ENOMEM },
	[WAITING_FAMILY] = { EINTR },
	/* EPERM: the device itself cannot be polled, as the kernel has it for files without poll(). */
	[EPOLLING_FAMILY] = { EINTR, EEXIST, ENOENT, EPERM },
	/* Nobody may have sent; too many of ours may be on the way. */
	[SOCKET_FAMILY] = { EAGAIN, EINTR, ETOOMANYREFS },
	[SETTING_FAMILY] = { EINVAL, ERANGE, EBUSY, ENOMEM },
	/* What was to be looked at may be gone; to look may lack memory. */
	[LOOKING_FAMILY] = { ENOENT, ENODEV, ESRCH, ENOMEM, EINTR },
};

enum success { ALWAYS, NEVER_QUIET, NEVER };

#define AS_ROW(name, family, success) { #name, family##_FAMILY, success },
static const struct {
	const char *name;
	enum family family;
	enum success success;
} rows[] = { KINDS(AS_ROW) };

const char *kind_name(enum kind kind)
{
	return rows[kind].name;
}

void complain(const struct caller *caller, const char *format, ...)
{
	char words[400], line[600];
	va_list list;
	int len;

	va_start(list, format);
	vsnprintf(words, sizeof(words), format, list);
	va_end(list);
	len = snprintf(line, sizeof(line), "fuzz: FAULT: seed %llu, thread %u, call %lu, %s: %s\n",
		       (unsigned long long)options.seed, caller->number, caller->nr,
		       kind_name(caller->kind), words);
	/* A few say enough. In one piece, also in a child of a process with threads. */
	if (atomic_fetch_add(&shared->complaints[caller->kind], 1) < 5)
		(void)!write(STDERR_FILENO, line, len);
}

static bool is_documented(const struct caller *caller, int err)
{
	enum family family = rows[caller->kind].family;

	if (family == WHATEVER_FAMILY || (err == EFAULT && caller->bad))
		return true;
	/* Another thread closes what we use; that is no answer of Duet's. */
	if (err == EBADF && family != SETTING_FAMILY)
		return true;
	return memchr(documented[family], err, sizeof(documented[family]));
}

/* Counts a call by its answer: 0 or an error number. */
void record(struct caller *caller, int err)
{
	struct tally *tally = &shared->tally[caller->root][caller->kind];

	if (options.trace)
		dprintf(STDERR_FILENO, "fuzz: %u:%lu %s: %s\n", caller->number, caller->nr,
			kind_name(caller->kind), strerror(err));
	if (!err) {
		atomic_fetch_add(caller->plain ? &tally->fine : &tally->odd, 1);
		return;
	}
	if (err < 0 || err >= NR_ERRNOS || !is_documented(caller, err)) {
		complain(caller, "fails with %s, which is not documented", strerror(err));
		return;
	}
	atomic_fetch_add(&tally->failed[err], 1);
}

/* Tells what was reached; false when something should have been and was not. */
bool report(void)
{
	unsigned complaints = 0;
	bool fine = true;

	printf("%-17s %8s %8s   failures\n", "call", "done", "odd done");
	for (unsigned kind = 0; kind < NR_KINDS; kind++) {
		unsigned done = 0, odd = 0, failed[NR_ERRNOS] = {};

		for (unsigned root = 0; root < 2; root++) {
			struct tally *tally = &shared->tally[root][kind];

			done += tally->fine;
			odd += tally->odd;
			for (unsigned err = 0; err < NR_ERRNOS; err++)
				failed[err] += tally->failed[err];
		}
		complaints += shared->complaints[kind];
		printf("%-17s %8u %8u  ", rows[kind].name, done, odd);
		for (unsigned err = 0; err < NR_ERRNOS; err++)
			if (failed[err])
				printf(" %s=%u", strerrorname_np(err), failed[err]);
		if (!done && (rows[kind].success == ALWAYS ||
			      (rows[kind].success == NEVER_QUIET && !options.quiet))) {
			printf("  NEVER SUCCEEDED");
			fine = false;
		}
		if (done + odd && rows[kind].success == NEVER) {
			printf("  SUCCEEDED");
			fine = false;
		}
		printf("\n");
	}
	printf("%llu calls, %llu disturbances, %u faults; seed %llu\n", shared->calls,
	       shared->disturbances, complaints, (unsigned long long)options.seed);
	fflush(stdout);
	return fine && !complaints;
}
