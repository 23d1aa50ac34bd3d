// SPDX-License-Identifier: MIT
/*
 * The ioctls: each made as it should be more often than not, so that it gets far, and else with one
 * thing or another changed. What comes back is held against what the interface promises.
 */
#include "fuzz.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

/* Words of 32 bits that a mutation leaves alone: addresses, and how much is there. */
#define WORDS(type, field, nr) (((1U << (nr)) - 1) << offsetof(type, field) / 4)

static void mutate(struct caller *caller, void *data, unsigned nr_words, uint32_t fixed)
{
	uint32_t *words = data;

	if (!one_in(&caller->chance, 8))
		return;
	caller->plain = false;
	for (unsigned i = 1 + below(&caller->chance, 2); i; i--) {
		unsigned word = below(&caller->chance, nr_words);

		if (word < 32 && fixed >> word & 1)
			continue;
		if (one_in(&caller->chance, 2))
			words[word] = some_number(caller);
		else
			words[word] ^= 1U << below(&caller->chance, 32);
	}
}

/* ---- the published calls ---- */

static int published(struct caller *caller, int fd, unsigned cmd, const struct lent *lent)
{
	int ret = ioctl(fd, cmd, lent->at);

	record(caller, ret < 0 ? errno : 0);
	check_around(caller, lent);
	return ret;
}

static void call_status(struct caller *caller)
{
	static const unsigned short flags[] = {
		[START] = DUET_STATUS_START, [STOP] = DUET_STATUS_STOP,
		[REPORT] = DUET_STATUS_REPORT, [PRINT_LIST] = DUET_STATUS_PRINT_LIST,
		[PRINT_BMAP] = DUET_STATUS_PRINT_BMAP, [PRINT_ITEM] = DUET_STATUS_PRINT_ITEM,
	};
	static const unsigned short tasks[] = { 0, 16, 16, 32, 32, 64, 255, 1, 256, 65535 };
	static const unsigned short rooms[] = { 0, 1, 2, 3, 8, 16, 300, 65535 };
	static _Thread_local struct {
		struct duet_ioctl_status_args args;
		struct duet_task_attrs attrs[16];
	} given;
	typeof(given) *list;
	struct duet_ioctl_status_args args = {
		.size = sizeof(args),
	};
	size_t size = sizeof(args);
	struct lent lent;
	unsigned tid;
	/* Those of a task, or else any. */
	bool of_task = caller->kind >= PRINT_BMAP || one_in(&caller->chance, 3);
	int fd = descriptor(caller, of_task, &tid), ret;

	if (caller->kind == STOP && caller->root && options.quiet)
		caller->kind = REPORT;
	args.flags = flags[caller->kind];
	if (caller->kind == START) {
		args.maxtasks = ANY_OF(&caller->chance, tasks);
	} else if (caller->kind == PRINT_LIST) {
		args.numtasks = ANY_OF(&caller->chance, rooms);
		size = sizeof(given);
	} else {
		args.id = some_tid(caller, tid);
	}
	mutate(caller, &args, 2, 0);
	/* Only a list has the room that it needs. */
	if ((caller->kind != PRINT_LIST && args.flags == DUET_STATUS_PRINT_LIST) ||
	    (caller->root && options.quiet && args.flags == DUET_STATUS_STOP))
		args.flags = DUET_STATUS_REPORT;
	memset(&given, 0xa5, size);
	given.args = args;
	if (caller->kind == PRINT_LIST && args.numtasks > COUNT(given.attrs)) {
		caller->bad = true;
		lent = lend(caller, 0, size, true);
		memcpy(lent.at, &given, size);
		keep(&lent);
	} else {
		lent = lend_or_not(caller, 0, &given, size);
	}
	ret = published(caller, fd, DUET_IOC_STATUS, &lent);
	if (!lent.room)
		return;
	list = (void *)lent.at;
	if (args.flags != DUET_STATUS_PRINT_LIST || ret < 0) {
		/* A list that fails may have begun. */
		if (changed(&lent, 0, args.flags == DUET_STATUS_PRINT_LIST ? sizeof(args) : size))
			complain(caller, "changes what it was given, and returns %d", ret);
		return;
	}
	if (list->args.numtasks > args.numtasks)
		complain(caller, "fills %u of %u", list->args.numtasks, args.numtasks);
	else if (changed(&lent, sizeof(args) + list->args.numtasks * sizeof(*list->attrs), size))
		complain(caller, "writes more than %u tasks", list->args.numtasks);
}

static void call_init(struct caller *caller)
{
	struct duet_ioctl_init_args args = { .size = sizeof(args) };
	static const unsigned masks[] = {
		DUET_PAGE_EXISTS, DUET_PAGE_MODIFIED, DUET_PAGE_EXISTS | DUET_PAGE_MODIFIED,
		DUET_PAGE_ADDED, DUET_PAGE_ADDED | DUET_PAGE_REMOVED | DUET_PAGE_DIRTY |
		DUET_PAGE_FLUSHED, DUET_PAGE_DIRTY | DUET_PAGE_EXISTS,
	};
	struct lent lent;
	int fd;

	some_path(caller, false, args.path, sizeof(args.path));
	args.regmask = ANY_OF(&caller->chance, masks);
	if (!one_in(&caller->chance, 4))
		args.regmask |= DUET_FD_NONBLOCK;
	strcpy(args.name, "fuzz\n\\ \x01 it");
	if (one_in(&caller->chance, 20)) {
		caller->plain = false;
		memset(one_in(&caller->chance, 2) ? args.name : args.path, 'x', DUET_NAME_LEN);
	}
	if (one_in(&caller->chance, 12)) {
		caller->plain = false;
		args.regmask = some_number(caller);
	}
	mutate(caller, &args, sizeof(args) / 4, 0);
	lent = lend_or_not(caller, 0, &args, sizeof(args));
	fd = published(caller, descriptor(caller, one_in(&caller->chance, 4), NULL),
		       DUET_IOC_INIT, &lent);
	if (changed(&lent, 0, sizeof(args)))
		complain(caller, "changes what it was given");
	if (!fd)
		complain(caller, "returns descriptor 0");
	if (fd >= 0)
		descriptor_put(caller, fd, 0);
}

static void call_bmap(struct caller *caller)
{
	struct duet_ioctl_bmap_args args = { .size = sizeof(args) };
	struct lent lent;
	uint64_t ino;
	unsigned tid;
	int fd = descriptor(caller, !one_in(&caller->chance, 8), &tid), ret;

	tid = tid ?: told_tid(caller);
	args.flags = caller->kind == BMAP_SET ? DUET_BMAP_SET :
		     caller->kind == BMAP_RESET ? DUET_BMAP_RESET : DUET_BMAP_CHECK;
	some_file(caller, tid, &ino, &args.uuid.gen);
	args.uuid.ino = ino;
	args.uuid.tid = some_tid(caller, tid);
	mutate(caller, &args, sizeof(args) / 4, 0);
	if (args.uuid.tid == options.spare)
		args.uuid.tid = 0;
	/* Another flag's errnos are as those of the one that may have the most. */
	if (!caller->plain)
		caller->kind = BMAP_SET;
	lent = lend_or_not(caller, 0, &args, sizeof(args));
	ret = published(caller, fd, DUET_IOC_BMAP, &lent);
	if (changed(&lent, 0, sizeof(args)))
		complain(caller, "changes what it was given");
	if (ret > (args.flags == DUET_BMAP_CHECK))
		complain(caller, "returns %d", ret);
}

static void call_gpath(struct caller *caller)
{
	struct duet_ioctl_gpath_args args = { .size = sizeof(args) }, *back;
	size_t from = offsetof(struct duet_ioctl_gpath_args, path);
	struct lent lent;
	uint64_t ino;
	unsigned tid;
	int fd = descriptor(caller, !one_in(&caller->chance, 8), &tid), ret;

	tid = tid ?: told_tid(caller);
	some_file(caller, tid, &ino, &args.uuid.gen);
	args.uuid.ino = ino;
	args.uuid.tid = some_tid(caller, tid);
	mutate(caller, &args, from / 4, 0);
	if (args.uuid.tid == options.spare)
		args.uuid.tid = 0;
	lent = lend_or_not(caller, 0, &args, sizeof(args));
	ret = published(caller, fd, DUET_IOC_GPATH, &lent);
	if (!lent.room)
		return;
	back = (void *)lent.at;
	if (changed(&lent, 0, ret < 0 ? sizeof(args) : from))
		complain(caller, "changes what it was given");
	if (ret < 0)
		return;
	if (*back->path != '/' || !memchr(back->path, 0, DUET_PATH_LEN))
		complain(caller, "tells no path");
	else if (changed(&lent, from + strlen(back->path) + 1, sizeof(args)))
		complain(caller, "writes behind the path");
}

void call_published(struct caller *caller, enum kind kind)
{
	caller->kind = kind;
	switch (kind) {
	case INIT:
		call_init(caller);
		break;
	case GPATH:
		call_gpath(caller);
		break;
	case BMAP_SET:
	case BMAP_RESET:
	case BMAP_CHECK:
		call_bmap(caller);
		break;
	default:
		call_status(caller);
	}
}

/* ---- the calls from 0x10 on ---- */

static const struct {
	unsigned cmd;
	uint32_t fixed;
	bool of_task;
} ours[NR_KINDS] = {
	[INFO] = { DUET_IOC_INFO },
	[REGISTER] = { DUET_IOC_REGISTER, WORDS(struct duet_register, path, 4) },
	[REGISTER_FILE] = { DUET_IOC_REGISTER, WORDS(struct duet_register, path, 4) },
	[SNAPSHOT] = { DUET_IOC_REGISTER, WORDS(struct duet_register, path, 4) },
	[MARKS_SET] = { DUET_IOC_MARKS, WORDS(struct duet_marks, files, 2) |
			WORDS(struct duet_marks, nr, 1), true },
	[MARKS_RESET] = { DUET_IOC_MARKS, WORDS(struct duet_marks, files, 2) |
			  WORDS(struct duet_marks, nr, 1), true },
	[MARKS_CHECK] = { DUET_IOC_MARKS, WORDS(struct duet_marks, files, 2) |
			  WORDS(struct duet_marks, nr, 1), true },
	[PATHS] = { DUET_IOC_PATHS, WORDS(struct duet_paths, nr, 6), true },
	[RESCAN] = { DUET_IOC_RESCAN, 0, true },
	[END] = { DUET_IOC_END, 0, true },
	[TABLE] = { DUET_IOC_TABLE },
	[DUMP_TASKS] = { DUET_IOC_DUMP_TASKS, WORDS(struct duet_dump, len, 4) },
	[DUMP_NODES] = { DUET_IOC_DUMP_NODES, WORDS(struct duet_dump, len, 4) },
	[DUMP_PENDING] = { DUET_IOC_DUMP_PENDING, WORDS(struct duet_dump, len, 4), true },
	[DUMP_MARKS] = { DUET_IOC_DUMP_MARKS, WORDS(struct duet_dump, len, 4), true },
};

/* Each of them has the task's identity, if any, behind its flags. */
struct head {
	uint32_t flags;
	uint32_t tid;
};

/* A call that is being made: its structure, and what the structure leads to. */
struct call {
	struct caller *caller;
	union {
		struct head head;
		struct duet_info info;
		struct duet_register reg;
		struct duet_marks marks;
		struct duet_paths paths;
		struct duet_rescan rescan;
		struct duet_end end;
		struct duet_table table;
		struct duet_dump dump;
		unsigned char bytes[16384];
	} args;
	size_t size;			/* that the number carries */
	size_t known;
	struct lent files, buf;		/* if any */
	bool scribbled;			/* nothing is sure about the answer */
	int ret;
};

static _Thread_local uint64_t cursors[NR_KINDS];

/* An area with what is said of its size; a lie ends the room, so that nothing else is harmed. */
static uint32_t area(struct call *call, struct lent *lent, unsigned room, const void *content,
		     size_t size, size_t unit)
{
	struct caller *caller = call->caller;

	if (!call->scribbled && !one_in(&caller->chance, 24)) {
		*lent = lend_or_not(caller, room, content, size);
		return size / unit;
	}
	*lent = lend(caller, room, size, true);
	if (content)
		memcpy(lent->at, content, size);
	lent->room = NULL;
	caller->bad = true;
	caller->plain = false;
	return call->scribbled ? size / unit : some_number(caller);
}

static void fill_register(struct call *call)
{
	static const unsigned masks[] = {
		DUET_PAGE_EXISTS, DUET_PAGE_MODIFIED, DUET_PAGE_EXISTS | DUET_PAGE_MODIFIED,
		DUET_PAGE_EXISTS | DUET_PAGE_MODIFIED, DUET_PAGE_ADDED | DUET_PAGE_REMOVED,
		DUET_PAGE_FLUSHED, DUET_PAGE_DIRTY, DUET_PAGE_ADDED | DUET_PAGE_MODIFIED,
	};
	static const int dirs[] = { AT_FDCWD, AT_FDCWD, AT_FDCWD, -1, 0, 3, 100000 };
	struct duet_register *reg = &call->args.reg;
	struct caller *caller = call->caller;
	char path[DUET_PATH_LEN], name[300] = "fuzz\t\x7f\\";

	reg->flags = any(&caller->chance) & (DUET_REGISTER_RANGES | DUET_REGISTER_INHERIT);
	if (!one_in(&caller->chance, 4))
		reg->flags |= DUET_REGISTER_NONBLOCK;
	reg->mask = ANY_OF(&caller->chance, masks);
	if (caller->kind == SNAPSHOT) {
		reg->flags |= DUET_REGISTER_SNAPSHOT;
		reg->mask = masks[below(&caller->chance, 3)];
	} else if (one_in(&caller->chance, 6)) {
		reg->flags |= DUET_REGISTER_NO_SCAN;
	}
	reg->dirfd = ANY_OF(&caller->chance, dirs);
	some_path(caller, caller->kind == REGISTER_FILE, path, sizeof(path));
	call->files = lend_or_not(caller, 1, path, strlen(path) + 1);
	reg->path = (uintptr_t)call->files.at;
	if (one_in(&caller->chance, 24)) {
		caller->plain = false;
		memset(name, 'n', 299);
	}
	if (one_in(&caller->chance, 2)) {
		call->buf = lend_or_not(caller, 2, name, strlen(name) + 1);
		reg->name = (uintptr_t)call->buf.at;
	}
	if (one_in(&caller->chance, 6))
		reg->limit = some_number(caller);
	if (one_in(&caller->chance, 4))
		reg->item_size = sizeof(struct duet_item);
}

static size_t fill_files(struct call *call, unsigned tid, struct duet_file_ref *refs, size_t max)
{
	size_t nr = below(&call->caller->chance, max) + 1;

	for (size_t i = 0; i < nr; i++) {
		uint64_t ino;

		some_file(call->caller, one_in(&call->caller->chance, 2) ? tid : 0, &ino,
			  &refs[i].gen);
		refs[i].ino = ino;
		refs[i].result = any(&call->caller->chance);
	}
	return nr;
}

static void fill(struct call *call, unsigned own)
{
	static const unsigned sizes[] = { 32, 64, 120, 4552, 9104, 16384, 65536, 100000, 128 << 10 };
	static const unsigned path_sizes[] = { 1, 16, 64, 300, 4096, 16384 };
	struct caller *caller = call->caller;
	struct duet_file_ref refs[64];
	struct duet_dump *dump = &call->args.dump;
	size_t nr, len;

	memset(&call->args, 0, sizeof(call->args));
	switch (caller->kind) {
	case REGISTER:
	case REGISTER_FILE:
	case SNAPSHOT:
		fill_register(call);
		break;
	case MARKS_SET:
	case MARKS_RESET:
	case MARKS_CHECK:
		nr = fill_files(call, own, refs, COUNT(refs));
		call->args.marks.flags = caller->kind == MARKS_SET ? DUET_BMAP_SET :
			caller->kind == MARKS_RESET ? DUET_BMAP_RESET : DUET_BMAP_CHECK;
		call->args.marks.nr = area(call, &call->files, 1, refs, nr * sizeof(*refs),
					   sizeof(*refs));
		call->args.marks.files = (uintptr_t)call->files.at;
		break;
	case PATHS:
		nr = fill_files(call, own, refs, COUNT(refs));
		call->args.paths.nr = area(call, &call->files, 1, refs, nr * sizeof(*refs),
					   sizeof(*refs));
		call->args.paths.files = (uintptr_t)call->files.at;
		len = ANY_OF(&caller->chance, path_sizes);
		call->args.paths.len = area(call, &call->buf, 2, NULL, len, 1);
		call->args.paths.buf = (uintptr_t)call->buf.at;
		break;
	case DUMP_TASKS:
	case DUMP_NODES:
	case DUMP_PENDING:
	case DUMP_MARKS:
		dump->size = caller->kind == DUMP_TASKS ? sizeof(struct duet_task_info) :
			     caller->kind == DUMP_NODES ? sizeof(struct duet_node_info) :
			     caller->kind == DUMP_PENDING ? sizeof(struct duet_item) :
			     sizeof(struct duet_file_ref);
		if (one_in(&caller->chance, 6))
			dump->size += below(&caller->chance, 100);
		if (one_in(&caller->chance, 16)) {
			caller->plain = false;
			dump->size = some_number(caller);
		}
		len = ANY_OF(&caller->chance, sizes);
		dump->len = area(call, &call->buf, 2, NULL, len, 1);
		dump->buf = (uintptr_t)call->buf.at;
		dump->nr = any(&caller->chance);
		dump->cursor = cursors[caller->kind];
		if (one_in(&caller->chance, 4))
			dump->cursor = one_in(&caller->chance, 2) ? any(&caller->chance) :
				       some_number(caller);
		if (dump->cursor == DUET_CURSOR_END || one_in(&caller->chance, 4))
			dump->cursor = 0;
		if (caller->kind == DUMP_NODES && one_in(&caller->chance, 4))
			dump->first = some_number(caller);
		if (caller->kind == DUMP_NODES && one_in(&caller->chance, 4))
			dump->end = some_number(caller);
		break;
	default:
		break;
	}
	if (ours[caller->kind].of_task)
		call->args.head.tid = some_tid(caller, one_in(&caller->chance, 2) ? own : 0);
}

/* Whether the structure says something behind what this header knows. */
static bool says_more(const struct call *call)
{
	for (size_t i = call->known; i < call->size; i++)
		if (call->args.bytes[i])
			return true;
	return false;
}

static void vary_size(struct call *call)
{
	static const unsigned more[] = { 1, 4, 8, 64, 1000 };
	struct chance *chance = &call->caller->chance;

	if (!one_in(chance, 8))
		return;
	if (one_in(chance, 2)) {
		call->caller->plain = false;
		call->size = below(chance, call->known);
		return;
	}
	/* As from a header to come; nothing is changed about the call so long as it says 0. */
	call->size = one_in(chance, 8) ? 16383 : call->known + ANY_OF(chance, more);
	if (one_in(chance, 2))
		return;
	call->caller->plain = false;
	call->args.bytes[call->known + below(chance, call->size - call->known)] = 1;
}

static bool is_registration(enum kind kind)
{
	return kind == REGISTER || kind == REGISTER_FILE || kind == SNAPSHOT;
}

/* What came back in the structure itself. */
static void check_structure(const struct call *call, const struct lent *lent, int err)
{
	const struct caller *caller = call->caller;
	size_t told = 0, from = offsetof(struct duet_register, tid);

	if (call->size < call->known && !err)
		complain(caller, "takes a structure of %zu bytes", call->size);
	if (call->size > call->known && says_more(call) && err != E2BIG && err != EBADF &&
	    !caller->bad)
		complain(caller, "does not refuse what it does not know (%s)", strerror(err));
	if (err == E2BIG && !says_more(call))
		complain(caller, "refuses zeros");
	check_around(caller, lent);
	if (is_registration(caller->kind) && !err) {
		if (changed(lent, 0, from) || changed(lent, from + 4, call->size))
			complain(caller, "changes more than the identity");
		return;
	}
	if (!err && _IOC_DIR(ours[caller->kind].cmd) & _IOC_READ)
		told = call->known;
	if (changed(lent, told, call->size))
		complain(caller, "changes its structure of %zu bytes behind %zu: %s", call->size,
			 told, strerror(err));
}

static void check_info(const struct call *call, const struct duet_info *info)
{
	uint64_t secret = info->bytes | info->nr_files | info->nr_nodes;

	for (unsigned i = 0; i < COUNT(info->events); i++)
		secret |= info->events[i] | info->drops[i];
	if (secret && !call->caller->root)
		complain(call->caller, "tells a user of counters");
	if (info->abi_version != DUET_ABI_VERSION)
		complain(call->caller, "says version %u", info->abi_version);
}

static bool is_result(enum kind kind, int result)
{
	switch (kind) {
	case MARKS_SET:
		return !result || result == -ENOSPC || result == -EINVAL || result == -ENOMEM;
	case MARKS_RESET:
		return !result;
	case MARKS_CHECK:
		return !result || result == 1;
	default:
		return result >= 0 || result == -ENOENT || result == -EACCES ||
		       result == -ENAMETOOLONG || result == -ENOMEM;
	}
}

static void check_files(const struct call *call, unsigned nr, unsigned used)
{
	const struct caller *caller = call->caller;
	const struct duet_file_ref *refs = (void *)call->files.at;

	if (!call->files.room)
		return;
	check_around(caller, &call->files);
	if (nr * sizeof(*refs) > call->files.size) {
		complain(caller, "has worked off %u of %zu", nr, call->files.size / sizeof(*refs));
		return;
	}
	if (changed(&call->files, nr * sizeof(*refs), call->files.size))
		complain(caller, "changes more than the %u that it worked off", nr);
	for (unsigned i = 0; i < nr; i++) {
		if (changed(&call->files, i * sizeof(*refs), i * sizeof(*refs) + 12))
			complain(caller, "changes whose result it is");
		/* A mutation may be another call. */
		if (!caller->plain)
			continue;
		if (!is_result(caller->kind, refs[i].result))
			complain(caller, "result %d", refs[i].result);
		else if (caller->kind == PATHS && refs[i].result >= 0 && call->buf.room &&
			 (refs[i].result >= (int)used || call->buf.at[refs[i].result] != '/' ||
			  !memchr(call->buf.at + refs[i].result, 0, used - refs[i].result)))
			complain(caller, "no path at %d of %u", refs[i].result, used);
	}
}

/* What the structure led to, after a success. */
static void check_answer(struct call *call, const struct lent *lent)
{
	struct caller *caller = call->caller;
	unsigned used = 0;

	/* As it is now. */
	memcpy(&call->args, lent->at, call->size);
	switch (caller->kind) {
	case INFO:
		check_info(call, &call->args.info);
		break;
	case MARKS_SET:
	case MARKS_RESET:
	case MARKS_CHECK:
		check_files(call, call->args.marks.nr, 0);
		break;
	case PATHS:
		used = call->args.paths.len;
		check_files(call, call->args.paths.nr, used);
		break;
	case DUMP_TASKS:
	case DUMP_NODES:
	case DUMP_PENDING:
	case DUMP_MARKS:
		used = call->args.dump.nr * call->args.dump.size;
		cursors[caller->kind] = call->args.dump.cursor;
		break;
	default:
		return;
	}
	if (!call->buf.room)
		return;
	if (used > call->buf.size)
		complain(caller, "says %u of %zu bytes", used, call->buf.size);
	else if (changed(&call->buf, used, call->buf.size))
		complain(caller, "writes behind the %u bytes that it says", used);
	for (unsigned at = 0; caller->kind == DUMP_PENDING && at < used;
	     at += call->args.dump.size)
		check_item(caller, (void *)(call->buf.at + at));
}

void call_ours(struct caller *caller, enum kind kind)
{
	static _Thread_local struct call call;
	const uint32_t fixed = ours[kind].fixed;
	struct lent lent;
	unsigned own, cmd, tid = 0;
	void *shared_args = NULL;
	int fd, err;

	caller->kind = kind;
	memset(&call, 0, offsetof(struct call, args));
	call.caller = caller;
	call.files = call.buf = (struct lent){};
	call.size = call.known = _IOC_SIZE(ours[kind].cmd);
	/* A task that ends by chance should not be the one to be left alone. */
	call.scribbled = one_in(&caller->chance, 32) && kind != END && !caller->child;
	fd = descriptor(caller, ours[kind].of_task ? !one_in(&caller->chance, 8) :
			one_in(&caller->chance, 4), &own);
	fill(&call, own);
	mutate(caller, &call.args, call.known / 4, fixed);
	if (!is_registration(kind) && call.args.head.tid && call.args.head.tid == options.spare)
		call.args.head.tid = 0;
	if (call.scribbled)
		shared_args = scribble_begin(&call.args, call.known, fixed);
	if (shared_args) {
		caller->plain = false;
		caller->bad = true;
		err = ioctl(fd, ours[kind].cmd, shared_args);
		scribble_end();
		record(caller, err < 0 ? errno : 0);
		if (err >= 0 && is_registration(kind))
			descriptor_put(caller, err, 0);
		return;
	}
	vary_size(&call);
	lent = lend_or_not(caller, 0, &call.args, call.size);
	cmd = (ours[kind].cmd & ~(_IOC_SIZEMASK << _IOC_SIZESHIFT)) | call.size << _IOC_SIZESHIFT;
	call.ret = ioctl(fd, cmd, lent.at);
	err = call.ret < 0 ? errno : 0;
	record(caller, err);
	if (lent.room) {
		check_structure(&call, &lent, err);
		if (!err && is_registration(kind) && call.size >= call.known)
			memcpy(&tid, lent.at + offsetof(struct duet_register, tid), sizeof(tid));
		if (!err && call.size >= call.known)
			check_answer(&call, &lent);
	}
	if (call.buf.room)
		check_around(caller, &call.buf);
	if (is_registration(kind) && !err) {
		if (!call.ret)
			complain(caller, "returns descriptor 0");
		descriptor_put(caller, call.ret, tid);
	}
}

/* ---- numbers that are no calls ---- */

void call_unknown(struct caller *caller)
{
	/* What every file knows is not ours to try: some write to where the argument says. */
	static const char everybody[] = "Tf\x12\x94Xvx";
	struct lent lent = lend(caller, 0, 64, true);
	unsigned cmd = any(&caller->chance);
	bool known = false;

	caller->kind = UNKNOWN;
	if (!one_in(&caller->chance, 3))
		cmd = (cmd & ~(0xff << _IOC_TYPESHIFT)) | DUET_IOC_MAGIC << _IOC_TYPESHIFT;
	if (one_in(&caller->chance, 2))
		cmd = (cmd & ~0xff) | below(&caller->chance, 0x28);
	for (unsigned i = 0; i < NR_KINDS; i++)
		/* Of any size. */
		known |= ours[i].cmd &&
			 !((cmd ^ ours[i].cmd) & ~(_IOC_SIZEMASK << _IOC_SIZESHIFT));
	if (known || cmd == DUET_IOC_STATUS || cmd == DUET_IOC_INIT || cmd == DUET_IOC_BMAP ||
	    cmd == DUET_IOC_GPATH || (_IOC_TYPE(cmd) && strchr(everybody, _IOC_TYPE(cmd))) ||
	    !_IOC_TYPE(cmd))
		cmd = _IO(DUET_IOC_MAGIC, 0xff);
	keep(&lent);
	record(caller, ioctl(descriptor(caller, one_in(&caller->chance, 2), NULL), cmd, lent.at) < 0 ?
	       errno : 0);
	if (changed(&lent, 0, lent.size))
		complain(caller, "%#x writes", cmd);
}

/* ---- any of them ---- */

void call_any(struct caller *caller)
{
	/* How often, of the sum. */
	static const unsigned char weights[NR_KINDS] = {
		[START] = 20, [STOP] = 6, [REPORT] = 4, [PRINT_LIST] = 6, [PRINT_BMAP] = 6,
		[PRINT_ITEM] = 6, [INIT] = 8, [BMAP_SET] = 16, [BMAP_RESET] = 10,
		[BMAP_CHECK] = 16, [GPATH] = 30, [INFO] = 12, [REGISTER] = 26,
		[REGISTER_FILE] = 8, [SNAPSHOT] = 8, [MARKS_SET] = 10, [MARKS_RESET] = 10,
		[MARKS_CHECK] = 12, [PATHS] = 20, [RESCAN] = 14, [END] = 6, [TABLE] = 6,
		[DUMP_TASKS] = 14, [DUMP_NODES] = 14, [DUMP_PENDING] = 24, [DUMP_MARKS] = 14,
		[UNKNOWN] = 10, [READ] = 90, [POLL] = 36, [EPOLL] = 12, [OPEN] = 8,
		[CLOSE] = 12, [DUP] = 12, [SEND] = 12, [RECEIVE] = 12, [FORK] = 4, [OTHER] = 20,
	};
	unsigned sum = 0, ticket;
	enum kind kind = 0;

	for (unsigned i = 0; i < NR_KINDS; i++)
		sum += weights[i];
	ticket = below(&caller->chance, sum);
	while (ticket >= weights[kind])
		ticket -= weights[kind++];
	caller->plain = true;
	caller->bad = false;
	if (kind <= GPATH)
		call_published(caller, kind);
	else if (kind < UNKNOWN)
		call_ours(caller, kind);
	else if (kind == UNKNOWN)
		call_unknown(caller);
	else
		call_descriptors(caller, kind);
}
