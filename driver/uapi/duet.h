/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * Duet: which pages of which files the page cache holds, and what happens to
 * them.
 *
 * This header is the one place where the numbers of the interface are
 * written. The four calls below are the published ones: programs built
 * against the original library use them as they stand, so neither a number
 * nor an offset ever changes. The layout is the same for 32-bit and 64-bit
 * callers.
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
/* Not an event: the task's descriptor does not block. */
#define DUET_FD_NONBLOCK	0x0040

/**
 * struct duet_uuid - names a file to the task that was told of it
 * @ino: inode number
 * @gen: inode generation, tells a reused inode number from the old one
 * @tid: identity of the task, 1 to %DUET_MAX_TASKS
 * @pad: ignored on the way in, zero on the way out
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
 * @state: DUET_PAGE_ADDED, _REMOVED, _DIRTY, _FLUSHED, or-ed
 * @pad: zero
 */
struct duet_item {
	struct duet_uuid	uuid;
	__aligned_u64		idx;
	__u16			state;
	__u8			pad[6];
};

#define DUET_STATUS_START	0x0001	/* on, for at most maxtasks tasks */
#define DUET_STATUS_STOP	0x0002	/* off: ends every task */
#define DUET_STATUS_REPORT	0x0004	/* returns 1 when on, 0 when off */
#define DUET_STATUS_PRINT_BMAP	0x0008	/* task id's done files, to the log */
#define DUET_STATUS_PRINT_ITEM	0x0010	/* task id's pending, to the log */
#define DUET_STATUS_PRINT_LIST	0x0020	/* fills the task attributes */

/**
 * struct duet_task_attrs - one task of DUET_STATUS_PRINT_LIST
 * @id: identity of the task
 * @pad: zero
 * @fd: descriptor number that the registration returned
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
 * Returns the task's descriptor, which is above 0.
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
#define DUET_BMAP_CHECK		0x0004	/* 1 when done or of no interest */

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

#define DUET_IOC_MAGIC	0xDE

#define DUET_IOC_STATUS	_IOWR(DUET_IOC_MAGIC, 1, struct duet_ioctl_status_args)
#define DUET_IOC_INIT	_IOWR(DUET_IOC_MAGIC, 2, struct duet_ioctl_init_args)
#define DUET_IOC_BMAP	_IOWR(DUET_IOC_MAGIC, 3, struct duet_ioctl_bmap_args)
#define DUET_IOC_GPATH	_IOWR(DUET_IOC_MAGIC, 4, struct duet_ioctl_gpath_args)

#endif /* _UAPI_DUET_H */
