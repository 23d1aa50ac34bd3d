/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * Duet: which pages of which files the page cache holds, and what happens to
 * them.
 *
 * This header is the one place where the numbers of the interface are
 * written. The first four calls are the published ones: programs built
 * against the original library use them as they stand, so neither a number
 * nor an offset ever changes. Those from 0x10 on may grow: see there. The
 * layout is the same for 32-bit and 64-bit callers.
 */
#ifndef _UAPI_DUET_H
#define _UAPI_DUET_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define DUET_NAME_LEN		255
#define DUET_PATH_LEN		4096

/* A task's identity fits in eight bits and is never 0. */
#define DUET_MAX_TASKS		255
#define DUET_DEFAULT_TASKS	8

/*
 * Event-based: every event since the last read, or-ed per page. These are
 * also the state bits of an item.
 */
#define DUET_PAGE_ADDED		0x0001
#define DUET_PAGE_REMOVED	0x0002
#define DUET_PAGE_DIRTY		0x0004
#define DUET_PAGE_FLUSHED	0x0008
/*
 * State-based: what changed, net, since the task was last told. An item then
 * says ADDED (is cached now), REMOVED (no longer is), DIRTY or FLUSHED (is
 * dirty now, no longer is). Opposite events cancel.
 */
#define DUET_PAGE_MODIFIED	0x0010	/* excludes DIRTY and FLUSHED */
#define DUET_PAGE_EXISTS	0x0020	/* excludes ADDED and REMOVED */
/*
 * Not an event: the task's descriptor does not block. Of INIT alone, and shown
 * again in its list of tasks. DUET_IOC_REGISTER has a flag for it.
 */
#define DUET_FD_NONBLOCK	0x0040

/**
 * struct duet_uuid - names a file to the task that was told of it
 * @ino: inode number
 * @gen: inode generation, tells a reused inode number from the old one
 * @tid: identity of the task, 1 to %DUET_MAX_TASKS
 * @pad: ignored on the way in, zero on the way out
 *
 * The name is published; it is no UUID. Nor is a @tid anywhere in this header
 * a thread's number: it is a task's of Duet.
 */
struct duet_uuid {
	__aligned_u64	ino;
	__u32		gen;
	__u8		tid;
	__u8		pad[3];
};

/**
 * struct duet_item - what read() on a task's descriptor returns, whole items
 * @uuid: the file
 * @idx: index of the page in the file, in units of the page size
 * @state: DUET_PAGE_ADDED, _REMOVED, _DIRTY, _FLUSHED, or-ed; or
 *	%DUET_ITEM_OVERFLOW alone
 * @pad: zero
 * @nr: %DUET_REGISTER_RANGES: pages from @idx on that this is said of; else
 *	zero, and one page is meant
 *
 * An overflow says that the task was not told all: of the file that @uuid
 * names, or, with an inode number of 0, of files that are not known. What
 * comes after it is told as ever; DUET_IOC_RESCAN brings back the rest.
 *
 * It never changes. Who wants more than it says asks for larger items when he
 * registers (duet_register.item_size): such a one is a structure of its own
 * that begins with this one, and duet_info.item_size is the size of the
 * largest. Items of another make, as one that does not repeat the file, will
 * be a flag of the registration.
 */
struct duet_item {
	struct duet_uuid	uuid;
	__aligned_u64		idx;
	__u16			state;
	__u8			pad[2];
	__u32			nr;
};

#define DUET_ITEM_OVERFLOW	0x8000

#define DUET_STATUS_START	0x0001	/* on, for at most maxtasks tasks */
#define DUET_STATUS_STOP	0x0002	/* off: ends every task */
#define DUET_STATUS_REPORT	0x0004	/* returns 1 when on, 0 when off */
#define DUET_STATUS_PRINT_BMAP	0x0008	/* task id, to the trace */
#define DUET_STATUS_PRINT_ITEM	0x0010	/* the same */
#define DUET_STATUS_PRINT_LIST	0x0020	/* fills the task attributes */

/**
 * struct duet_task_attrs - one task of DUET_STATUS_PRINT_LIST
 * @id: identity of the task
 * @pad: zero
 * @fd: number of the descriptor in the process that registered, as it was then
 * @name: human-readable name, ends with a NUL
 * @regmask: registration mask
 * @path: registered directory as the registering process saw it
 */
struct duet_task_attrs {
	__u8	id;
	__u8	pad[3];
	__s32	fd;
	char	name[DUET_NAME_LEN];
	__u8	pad2;
	__u32	regmask;
	char	path[DUET_PATH_LEN];
};

/**
 * struct duet_ioctl_status_args - argument of DUET_IOC_STATUS
 * @size: sizeof(struct duet_ioctl_status_args), also with task attributes
 * @flags: exactly one of DUET_STATUS_*
 * @maxtasks: START: most tasks at a time, 0 is %DUET_DEFAULT_TASKS
 * @id: PRINT_BMAP, PRINT_ITEM: the task
 * @numtasks: PRINT_LIST: room behind this structure, in attributes; comes
 *	back as the number that was filled in
 * @pad: ignored
 * @pad2: ignored
 *
 * The task attributes of PRINT_LIST follow the structure.
 */
struct duet_ioctl_status_args {
	__u32	size;
	__u16	flags;
	__u8	pad[2];
	union {
		__u16	maxtasks;
		__u8	id;
		__u16	numtasks;
	};
	__u8	pad2[2];
};

/**
 * struct duet_ioctl_init_args - argument of DUET_IOC_INIT
 * @size: sizeof(struct duet_ioctl_init_args)
 * @name: human-readable name of the task, ends with a NUL
 * @pad: ignored
 * @regmask: DUET_PAGE_* and DUET_FD_NONBLOCK, or-ed
 * @path: the directory to watch, ends with a NUL
 *
 * Returns the task's descriptor, which is above 0 and stays open over exec.
 */
struct duet_ioctl_init_args {
	__u32	size;
	char	name[DUET_NAME_LEN];
	__u8	pad;
	__u32	regmask;
	char	path[DUET_PATH_LEN];
};

#define DUET_BMAP_SET		0x0001	/* the file is done: no more of it */
#define DUET_BMAP_RESET		0x0002	/* it is not done after all */
/* 1 when done, of no interest, or a file that the task may not know of */
#define DUET_BMAP_CHECK		0x0004

/**
 * struct duet_ioctl_bmap_args - argument of DUET_IOC_BMAP
 * @size: sizeof(struct duet_ioctl_bmap_args)
 * @flags: exactly one of DUET_BMAP_*
 * @pad: ignored
 * @uuid: the file, and the task whose bitmap is meant
 */
struct duet_ioctl_bmap_args {
	__u32	size;
	__u16	flags;
	__u8	pad[2];
	struct duet_uuid uuid;
};

/**
 * struct duet_ioctl_gpath_args - argument of DUET_IOC_GPATH
 * @size: sizeof(struct duet_ioctl_gpath_args)
 * @pad: ignored
 * @uuid: the file, and the task that asks
 * @path: comes back as the file's path, ends with a NUL
 */
struct duet_ioctl_gpath_args {
	__u32	size;
	__u8	pad[4];
	struct duet_uuid uuid;
	char	path[DUET_PATH_LEN];
};

/*
 * The calls from 0x10 on.
 *
 * Their structures may grow at the end, and the size that a call's number
 * carries tells how much the caller knows: what the kernel does not know has
 * to be zero (E2BIG), what the caller does not know is left out. So a
 * structure without reserved fields grows as well as one with some: 0 in what
 * is new means what was so before, and what has to be refused by a kernel that
 * does not know it gets a flag.
 *
 * Unknown flags, reserved fields, and fields that the call does not take or
 * only gives back are EINVAL unless they are zero, so that each can get a
 * meaning. Where a field is ignored for good, its comment says so. Pointers
 * travel as 64-bit numbers.
 *
 * Calls with a @tid act on that task, which is anybody's only for
 * CAP_SYS_ADMIN; marks may be checked of any task of the same user. Over a
 * task's own descriptor 0 means that task.
 */

#define DUET_ABI_VERSION	1

/*
 * Why something was dropped: indices of dropped counters. There is room for
 * eight; those that this header does not know are 0.
 */
enum duet_drop {
	DUET_DROP_LIMIT,	/* the memory limit of all tasks */
	DUET_DROP_TASK_LIMIT,	/* the memory limit of one */
	DUET_DROP_NOMEM		/* an allocation failed */
};

/* Indices of event counters and of bits in duet_info.hooks_*, as above. */
enum duet_event {
	DUET_EVENT_ADDED,
	DUET_EVENT_REMOVED,
	DUET_EVENT_DIRTY,
	DUET_EVENT_FLUSHED
};

/* Bits of duet_info.features. */
/* DUET_IOC_TABLE and DUET_IOC_DUMP_NODES are there: they may go. */
#define DUET_FEATURE_TABLE	0x0001

/**
 * struct duet_info - what there is, and how it is set (DUET_IOC_INFO)
 * @flags: none so far
 * @abi_version: %DUET_ABI_VERSION; this and all that follows is 0 on the way in
 * @on: 1 when on
 * @max_tasks: how many tasks can be registered; the next start's when off
 * @nr_tasks: how many are
 * @node_pages: pages that a node covers. This and the next two say how the
 *	driver keeps things now: they are for people, and may become 0.
 * @node_bytes: size of a node for @max_tasks tasks
 * @file_bytes: size of a file's entry, with its first node for a few tasks
 * @hooks_found: bit for each event whose hook this kernel has
 * @hooks_alive: bit for each event whose hook is attached and proved to work
 * @page_shift: a page, the unit of all indices, is 1 << @page_shift bytes
 * @item_size: bytes of the largest item that a registration can ask for
 * @limit: bytes that files, nodes and marks may take, of all tasks
 * @task_limit: bytes that what one task has not read yet may take, by default;
 *	and the same once more for its marks
 * @bytes: that they take now; this and what is counted from here on is 0
 *	without CAP_SYS_ADMIN
 * @nr_files: entries of files
 * @nr_nodes: nodes, with those within entries
 * @events: folios seen of watched files since the module was loaded, by
 *	enum duet_event
 * @drops: by enum duet_drop, since the module was loaded
 * @features: DUET_FEATURE_*, or-ed; told to all, as the rest
 * @register_flags: DUET_REGISTER_* that a registration can have
 * @masks: DUET_PAGE_* that it can ask for; this kernel may lack a hook: see
 *	@hooks_found
 * @reserved: zero
 *
 * So nobody has to try what there is. A bit means the same for ever; one that
 * is not set is of something that this driver does not have.
 */
struct duet_info {
	__u32		flags;
	__u32		abi_version;
	__u32		on;
	__u32		max_tasks;
	__u32		nr_tasks;
	__u32		node_pages;
	__u32		node_bytes;
	__u32		file_bytes;
	__u32		hooks_found;
	__u32		hooks_alive;
	__u32		page_shift;
	__u32		item_size;
	__aligned_u64	limit;
	__aligned_u64	task_limit;
	__aligned_u64	bytes;
	__aligned_u64	nr_files;
	__aligned_u64	nr_nodes;
	__aligned_u64	events[8];
	__aligned_u64	drops[8];
	__aligned_u64	features;
	__aligned_u64	register_flags;
	__aligned_u64	masks;
	__aligned_u64	reserved[8];
};

#define DUET_REGISTER_RANGES	0x0001	/* items are runs of pages */
#define DUET_REGISTER_INHERIT	0x0002	/* the descriptor stays over exec */
#define DUET_REGISTER_NONBLOCK	0x0004	/* the descriptor does not block */
/*
 * What is cached already is no news: a state-based task knows it. Where
 * something happens during the call, the rest of those 64 pages may be told.
 */
#define DUET_REGISTER_NO_SCAN	0x0008
/*
 * Only what is cached now, and of no change: for a mask of states. Reading
 * ends with 0, as at the end of a file; DUET_IOC_RESCAN begins it again.
 */
#define DUET_REGISTER_SNAPSHOT	0x0010

/**
 * struct duet_register - registers a task (DUET_IOC_REGISTER)
 * @flags: DUET_REGISTER_*
 * @mask: DUET_PAGE_* without %DUET_FD_NONBLOCK
 * @dirfd: what a relative path is relative to, as in openat(2)
 * @tid: comes back as the task's identity; 0 on the way in
 * @path: address of the path of a directory or of a regular file; an empty
 *	one means @dirfd itself
 * @name: address of a human-readable name, shorter than %DUET_NAME_LEN; 0 for
 *	none
 * @limit: bytes that what the task has not read yet may take, 0 for the
 *	default, which is also the most without CAP_SYS_ADMIN. An event may take
 *	it beyond by one node and one file's entry; its marks may take as much
 *	again.
 * @item_size: bytes of an item, 0 for sizeof(struct duet_item), which is all
 *	that there is so far
 * @reserved: zero
 *
 * Returns the task's descriptor, which closes on exec.
 */
struct duet_register {
	__u32		flags;
	__u32		mask;
	__s32		dirfd;
	__u32		tid;
	__aligned_u64	path;
	__aligned_u64	name;
	__aligned_u64	limit;
	__u32		item_size;
	__u32		reserved[3];
};

/**
 * struct duet_file_ref - a file, in a batch
 * @ino: inode number
 * @gen: inode generation
 * @result: comes back: below 0 an error number, else what the call says; what
 *	comes in is ignored, so that a batch can be passed on to another call
 *
 * It never changes, as an item does not.
 */
struct duet_file_ref {
	__aligned_u64	ino;
	__u32		gen;
	__s32		result;
};

/**
 * struct duet_marks - the done marks, many files a call (DUET_IOC_MARKS)
 * @flags: exactly one of DUET_BMAP_*
 * @tid: the task
 * @nr: how many files; comes back as how many were worked off
 * @reserved: zero
 * @files: address of @nr struct duet_file_ref; results are those of
 *	DUET_IOC_BMAP
 */
struct duet_marks {
	__u32		flags;
	__u32		tid;
	__u32		nr;
	__u32		reserved;
	__aligned_u64	files;
};

/**
 * struct duet_paths - the paths of many files a call (DUET_IOC_PATHS)
 * @flags: none so far
 * @tid: the task
 * @nr: how many files; comes back as how many were worked off, which is less
 *	when @buf is full
 * @len: size of @buf; comes back as what of it was used
 * @files: address of @nr struct duet_file_ref; results are offsets in @buf
 * @buf: address of the room for paths, each ends with a NUL
 *
 * Nothing is reserved: it grows at its end, as said above.
 */
struct duet_paths {
	__u32		flags;
	__u32		tid;
	__u32		nr;
	__u32		len;
	__aligned_u64	files;
	__aligned_u64	buf;
};

/**
 * struct duet_rescan - tells a task anew what is cached (DUET_IOC_RESCAN)
 * @flags: none so far
 * @tid: the task
 *
 * A state-based task is told what differs from what it knows; an event-based
 * one is told ADDED and DIRTY of all that is cached and dirty.
 *
 * Nothing is reserved: it grows at its end, as said above.
 */
struct duet_rescan {
	__u32		flags;
	__u32		tid;
};

/**
 * struct duet_end - ends a task, whoever has its descriptor (DUET_IOC_END)
 * @flags: none so far
 * @tid: the task
 * @pid: the process that registered it, as struct duet_task_info has it, or 0
 *	for any: an identity may be another task's by now
 * @reserved: zero
 *
 * Its readers wake with ECANCELED, which every call on it says from then on
 * (ESHUTDOWN is of a task that Duet was switched off under), and all that is
 * left to do with the descriptor is to close it.
 */
struct duet_end {
	__u32		flags;
	__u32		tid;
	__u32		pid;
	__u32		reserved;
};

/**
 * struct duet_dump - looking in, a part at a time (DUET_IOC_DUMP_*)
 * @flags: none so far
 * @tid: the task of %DUET_IOC_DUMP_PENDING and %DUET_IOC_DUMP_MARKS, else 0
 * @cursor: 0 at first, then as it came back; comes back as
 *	%DUET_CURSOR_END at the end. What else is in it is the kernel's own
 *	business: it goes back to the same call, over the same descriptor,
 *	with the same fields, and means nothing to another kernel.
 * @first: %DUET_IOC_DUMP_NODES: the bucket to begin with; else 0
 * @end: %DUET_IOC_DUMP_NODES: the bucket to stop before, 0 for none; else 0
 * @len: size of @buf, in bytes
 * @nr: comes back as the number of structures in @buf; what comes in is
 *	ignored, since the structure is passed again with its cursor
 * @buf: address of room for them
 * @size: size of the structure as the caller knows it: what it does not
 *	know is left out, what the kernel does not know is zero
 * @reserved: zero
 *
 * What changes between the calls may or may not be seen.
 */
struct duet_dump {
	__u32		flags;
	__u32		tid;
	__aligned_u64	cursor;
	__aligned_u64	first;
	__aligned_u64	end;
	__u32		len;
	__u32		nr;
	__aligned_u64	buf;
	__u32		size;
	__u32		reserved;
};

#define DUET_CURSOR_END		(~0ULL)

/**
 * struct duet_task_info - a task (DUET_IOC_DUMP_TASKS)
 * @tid: identity
 * @mask: DUET_PAGE_*
 * @flags: DUET_REGISTER_*
 * @pid: process that registered, in the caller's namespace, 0 if not seen
 * @uid: user that registered, in the caller's namespace
 * @dev: device number of the file system, as stat(2) encodes it
 * @fd: number of the descriptor that the registration returned: in the process
 *	@pid, as it was then, and of no use in another
 * @gone: 1 when the file system or the directory is no more
 * @age: nanoseconds since the registration
 * @limit: bytes that what it has not read may take
 * @pending: bytes that it takes; 0 without CAP_SYS_ADMIN
 * @files: that it wants to hear of and that have been seen; likewise
 * @done: marks
 * @delivered: items
 * @drops: by enum duet_drop; 0 without CAP_SYS_ADMIN
 * @overflows: overflow items that it was given
 * @item_size: bytes of an item that it reads
 * @pad: zero
 * @reserved: zero
 * @name: ends with a NUL
 * @path: as the registering process saw it, ends with a NUL
 */
struct duet_task_info {
	__u32		tid;
	__u32		mask;
	__u32		flags;
	__u32		pid;
	__u32		uid;
	__u32		dev;
	__s32		fd;
	__u32		gone;
	__aligned_u64	age;
	__aligned_u64	limit;
	__aligned_u64	pending;
	__aligned_u64	files;
	__aligned_u64	done;
	__aligned_u64	delivered;
	__aligned_u64	drops[8];
	__aligned_u64	overflows;
	__u32		item_size;
	__u32		pad;
	__aligned_u64	reserved[5];
	char		name[DUET_NAME_LEN + 1];
	char		path[DUET_PATH_LEN];
};

#define DUET_CHAIN_LENGTHS	16

/*
 * Not stable, for debugging: how the driver keeps things, which is its own
 * business and changes with it. DUET_IOC_TABLE, DUET_IOC_DUMP_NODES and their
 * structures may go, or come back as others with other numbers; while they are
 * there, %DUET_FEATURE_TABLE is set. No program that is to last needs them.
 */

/**
 * struct duet_table - the hash table of nodes (DUET_IOC_TABLE)
 * @flags: none so far
 * @longest: nodes in the fullest bucket; this and all that follows is 0 on the
 *	way in
 * @buckets: how many
 * @nodes: how many
 * @chains: buckets by the number of their nodes, the last: so many or more
 * @reserved: zero
 */
struct duet_table {
	__u32		flags;
	__u32		longest;
	__aligned_u64	buckets;
	__aligned_u64	nodes;
	__aligned_u64	chains[DUET_CHAIN_LENGTHS];
	__aligned_u64	reserved[2];
};

/**
 * struct duet_node_info - a task's share of a node (DUET_IOC_DUMP_NODES)
 * @bucket: where it is
 * @ino: the file
 * @gen: its inode's generation
 * @dev: device number of its file system, as stat(2) encodes it
 * @idx: index of the node's first page
 * @tid: the task, or 0 when the node is no task's
 * @queued: 1 when the task has it to read
 * @cached: a bit for each page that is cached, while a task is state-based
 * @dirty: that is dirty, likewise
 * @bits: by enum duet_event: event-based, what was not read yet; state-based,
 *	as what the task knows the page (ADDED, DIRTY)
 */
struct duet_node_info {
	__aligned_u64	bucket;
	__aligned_u64	ino;
	__u32		gen;
	__u32		dev;
	__aligned_u64	idx;
	__u32		tid;
	__u32		queued;
	__aligned_u64	cached;
	__aligned_u64	dirty;
	__aligned_u64	bits[8];
};

#define DUET_IOC_MAGIC	0xDE

#define DUET_IOC_STATUS	_IOWR(DUET_IOC_MAGIC, 1, struct duet_ioctl_status_args)
#define DUET_IOC_INIT	_IOWR(DUET_IOC_MAGIC, 2, struct duet_ioctl_init_args)
#define DUET_IOC_BMAP	_IOWR(DUET_IOC_MAGIC, 3, struct duet_ioctl_bmap_args)
#define DUET_IOC_GPATH	_IOWR(DUET_IOC_MAGIC, 4, struct duet_ioctl_gpath_args)

#define DUET_IOC_INFO		_IOWR(DUET_IOC_MAGIC, 0x10, struct duet_info)
#define DUET_IOC_REGISTER	_IOWR(DUET_IOC_MAGIC, 0x11, struct duet_register)
#define DUET_IOC_MARKS		_IOWR(DUET_IOC_MAGIC, 0x12, struct duet_marks)
#define DUET_IOC_PATHS		_IOWR(DUET_IOC_MAGIC, 0x13, struct duet_paths)
#define DUET_IOC_RESCAN		_IOW(DUET_IOC_MAGIC, 0x14, struct duet_rescan)
#define DUET_IOC_END		_IOW(DUET_IOC_MAGIC, 0x15, struct duet_end)

/* Looking in. */
/*
 * struct duet_task_info: all, or without CAP_SYS_ADMIN the user's own. Over a
 * task's own descriptor that task alone, whoever holds it.
 */
#define DUET_IOC_DUMP_TASKS	_IOWR(DUET_IOC_MAGIC, 0x21, struct duet_dump)
/* struct duet_item: what the task would read now, in the table's order */
#define DUET_IOC_DUMP_PENDING	_IOWR(DUET_IOC_MAGIC, 0x23, struct duet_dump)
/* struct duet_file_ref: the files that are marked done, result is 1 */
#define DUET_IOC_DUMP_MARKS	_IOWR(DUET_IOC_MAGIC, 0x24, struct duet_dump)

/* Not stable: the table and its nodes, only with CAP_SYS_ADMIN. */
#define DUET_IOC_TABLE		_IOWR(DUET_IOC_MAGIC, 0x20, struct duet_table)
/* Not stable: struct duet_node_info, one for each task that a node tells */
#define DUET_IOC_DUMP_NODES	_IOWR(DUET_IOC_MAGIC, 0x22, struct duet_dump)

#endif /* _UAPI_DUET_H */
