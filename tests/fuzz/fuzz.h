/* SPDX-License-Identifier: MIT */
/*
 * What the parts of the fuzzer share. Each call is made from a generator of its own, which comes of
 * the seed, the thread's number and the call's: so a thread makes the same calls again, whatever
 * others do meanwhile and whatever was answered.
 */
#ifndef FUZZ_H
#define FUZZ_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "duet.h"

/* ---- chance ---- */

struct chance {
	uint64_t state;
};

/* splitmix64 */
static inline uint64_t any(struct chance *chance)
{
	uint64_t z = chance->state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

static inline struct chance chance_of(uint64_t seed, uint64_t thread, uint64_t call)
{
	struct chance chance = { seed };

	chance.state = any(&chance) + thread * 0xd1342543de82ef95;
	chance.state = any(&chance) + call * 0xaf251af3b0f025b5;
	return chance;
}

static inline unsigned below(struct chance *chance, unsigned n)
{
	return any(chance) % n;
}

static inline bool one_in(struct chance *chance, unsigned n)
{
	return !below(chance, n);
}

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define ANY_OF(chance, array) ((array)[below(chance, COUNT(array))])

/* ---- kinds of calls ---- */

/* The second says with which errnos it may fail: see record.c. The third: it has to succeed. */
#define KINDS(kind)					\
	kind(START, STATUS, NEVER_QUIET)		\
	kind(STOP, STATUS, NEVER_QUIET)			\
	kind(REPORT, STATUS, ALWAYS)			\
	kind(PRINT_LIST, STATUS, ALWAYS)		\
	kind(PRINT_BMAP, STATUS, ALWAYS)		\
	kind(PRINT_ITEM, STATUS, ALWAYS)		\
	kind(INIT, REGISTRATION, ALWAYS)		\
	kind(BMAP_SET, ON_TASK_SET, ALWAYS)		\
	kind(BMAP_RESET, ON_TASK, ALWAYS)		\
	kind(BMAP_CHECK, ON_TASK, ALWAYS)		\
	kind(GPATH, PATH, ALWAYS)			\
	kind(INFO, ANYBODY, ALWAYS)			\
	kind(REGISTER, REGISTRATION, ALWAYS)		\
	kind(REGISTER_FILE, REGISTRATION, ALWAYS)	\
	kind(SNAPSHOT, REGISTRATION, ALWAYS)		\
	kind(MARKS_SET, ON_TASK, ALWAYS)		\
	kind(MARKS_RESET, ON_TASK, ALWAYS)		\
	kind(MARKS_CHECK, ON_TASK, ALWAYS)		\
	kind(PATHS, MANY_PATHS, ALWAYS)			\
	kind(RESCAN, ON_TASK, ALWAYS)			\
	kind(END, ON_TASK, ALWAYS)			\
	kind(TABLE, ADMIN, ALWAYS)			\
	kind(DUMP_TASKS, OWN, ALWAYS)			\
	kind(DUMP_NODES, ADMIN_ON, ALWAYS)		\
	kind(DUMP_PENDING, ON_TASK, ALWAYS)		\
	kind(DUMP_MARKS, ON_TASK, ALWAYS)		\
	kind(UNKNOWN, NOTHING, NEVER)			\
	kind(READ, READING, ALWAYS)			\
	kind(POLL, WAITING, ALWAYS)			\
	kind(EPOLL, EPOLLING, ALWAYS)			\
	kind(OPEN, NOTHING, ALWAYS)			\
	kind(CLOSE, NOTHING, ALWAYS)			\
	kind(DUP, NOTHING, ALWAYS)			\
	kind(SEND, SOCKET, ALWAYS)			\
	kind(RECEIVE, SOCKET, ALWAYS)			\
	kind(FORK, NOTHING, ALWAYS)			\
	kind(OTHER, WHATEVER, ALWAYS)			\
	kind(SYSFS_ENABLED, SETTING, ALWAYS)		\
	kind(SYSFS_MAX_TASKS, SETTING, ALWAYS)		\
	kind(SYSFS_LIMIT, SETTING, ALWAYS)		\
	kind(SYSFS_TASK_LIMIT, SETTING, ALWAYS)		\
	kind(SYSFS_SHARE, SETTING, ALWAYS)		\
	kind(SYSFS_READ, LOOKING, ALWAYS)		\
	kind(FDINFO, LOOKING, ALWAYS)			\
	kind(CHECK, LOOKING, ALWAYS)

#define AS_NAME(name, family, success) name,
enum kind { KINDS(AS_NAME) NR_KINDS };
#undef AS_NAME

/* ---- what all processes share ---- */

#define NR_ERRNOS 134
#define NR_FILES 256

struct tally {
	atomic_uint fine;		/* as it should be made */
	atomic_uint odd;		/* made wrongly, or perhaps; taken all the same */
	atomic_uint failed[NR_ERRNOS];
};

struct shared {
	atomic_bool over;		/* the callers are through */
	atomic_uint complaints[NR_KINDS];
	atomic_ullong calls;
	atomic_ullong disturbances;	/* what the page cache and mounts were put through */
	struct tally tally[2][NR_KINDS];	/* of the user, of root */
	struct {			/* files that there are or were */
		atomic_ullong ino;
		atomic_uint gen;
		atomic_uint tid;	/* of a task that was told of it, or 0 */
	} file[NR_FILES];
	atomic_int pid[3];		/* of the callers */
};

extern struct shared *shared;

/* What the command line says. */
extern struct options {
	uint64_t seed;
	unsigned long calls;
	const char *place;		/* has tree and out */
	const char *loop[2];		/* block devices, formatted */
	unsigned spare;			/* a task that is to be left alone */
	bool quiet;			/* no task is ended but by who has it */
	bool trace;
	unsigned user, group;
} options;

/* ---- a thread that calls ---- */

/* Room that ends where nothing can be written. */
struct room {
	unsigned char *start;
	unsigned char *end;
	unsigned char *was;		/* as it was before the call */
};

#define NR_ROOMS 3
#define ROOM_SIZE (160 << 10)
#define READ_ONLY_SIZE (16 << 10)

struct caller {
	unsigned number;		/* among all threads of all processes */
	unsigned long nr_calls;
	void (*call)(struct caller *caller);
	bool root;
	bool child;			/* after a fork: it does not fork again */
	pthread_t thread;

	struct chance chance;		/* of this call, as are the following */
	atomic_ulong nr;
	enum kind kind;
	bool plain;			/* it is as it should be */
	bool bad;			/* EFAULT is an answer */

	struct room room[NR_ROOMS];
	unsigned char *read_only;
};

/* record.c */
void record(struct caller *caller, int err);
void complain(const struct caller *caller, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
bool report(void);
const char *kind_name(enum kind kind);

/* memory.c */
struct lent {
	const struct room *room;	/* NULL: an address that is not ours to look at */
	unsigned char *at;
	size_t size;
};

void memory_init(struct caller *caller);
struct lent lend(struct caller *caller, unsigned room, size_t size, bool at_end);
struct lent lend_or_not(struct caller *caller, unsigned room, const void *content, size_t size);
void keep(const struct lent *lent);
bool changed(const struct lent *lent, size_t from, size_t to);
void check_around(const struct caller *caller, const struct lent *lent);

/* scribble.c */
void *scribble_begin(const void *content, size_t size, uint32_t fixed_words);
void scribble_end(void);
void scribble_start(void);

/* descriptors.c */
#define NR_SLOTS 16
#define NR_DEVICES 2			/* the first slots have /dev/duet */

void descriptors_init(bool root, const int sockets[2]);
int descriptor(struct caller *caller, bool of_task, unsigned *tid);
void descriptor_put(struct caller *caller, int fd, unsigned tid);
void call_descriptors(struct caller *caller, enum kind kind);

/* calls.c */
void call_any(struct caller *caller);
void call_published(struct caller *caller, enum kind kind);
void call_ours(struct caller *caller, enum kind kind);
void call_unknown(struct caller *caller);

/* arguments.c */
unsigned some_tid(struct caller *caller, unsigned own);
unsigned told_tid(struct caller *caller);
void some_file(struct caller *caller, unsigned tid, uint64_t *ino, uint32_t *gen);
const char *some_path(struct caller *caller, bool file, char *buf, size_t size);
uint32_t some_number(struct caller *caller);
void remember_file(struct chance *chance, uint64_t ino, uint32_t gen, unsigned tid);
void check_item(const struct caller *caller, const struct duet_item *item);

/* administrator.c */
void administer(struct caller *caller);

/* world.c */
void world_make(void);
void world_run(void);

#endif
