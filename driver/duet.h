/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the driver's files share. Data flows one way:
 *
 *   hooks.c -> interest.c -> table.c -> task.c -> a reader
 *
 * Who owns whom, and by which reference:
 *
 *   A task belongs to its descriptor (kref); the bitmap and path calls borrow
 *   a reference. A stop takes everything from a task but the structure.
 *   A watched file system (struct duet_fs) belongs to its tasks (nr_tasks,
 *   under duet.lock) and to its superblock mark, which frees it.
 *   A file's entry belongs to the two hashes. It goes when its inode is gone
 *   or no task wants it, it has no nodes, and no reader holds it (holds).
 *   A node belongs to its file, and lives while it says something: a page
 *   that is cached or dirty, or something that a task was not told.
 *   Neither an inode nor a mount is ever pinned for longer than a call, but
 *   for the registered directory's inode, by an fsnotify mark that an
 *   unmount takes away.
 *
 * Locks, outermost first:
 *
 *   duet.lock (mutex): on and off, the list of tasks, the watched file
 *     systems, the attaching of hooks
 *   task->read_lock (mutex): one read() at a time
 *   task->lock (mutex): the reader's end of a task
 *   inode->i_lock, mapping->i_pages.xa_lock: the kernel's own
 *   file->lock (spinlock, interrupts off since xa_lock may be held): an entry
 *     and its nodes
 *   a bucket's bit lock
 */
#ifndef _DUET_H
#define _DUET_H

#include <linux/fs.h>
#include <linux/fsnotify_backend.h>
#include <linux/irq_work.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/list_bl.h>
#include <linux/llist.h>
#include <linux/mutex.h>
#include <linux/rhashtable.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/xarray.h>
#include "uapi/duet.h"

#define DUET_EVENTS	(DUET_PAGE_ADDED | DUET_PAGE_REMOVED | \
			 DUET_PAGE_DIRTY | DUET_PAGE_FLUSHED)
#define DUET_STATES	(DUET_PAGE_EXISTS | DUET_PAGE_MODIFIED)

/* A node covers an aligned run of 64 pages, one bit of a word each. */
#define DUET_RUN_SHIFT	6
#define DUET_RUN_PAGES	BIT(DUET_RUN_SHIFT)

enum duet_hook_id {
	DUET_HOOK_ADDED,
	DUET_HOOK_REMOVED,
	DUET_HOOK_DIRTIED,
	DUET_HOOK_FLUSHED,
	DUET_HOOK_EVICTED,
	DUET_NR_HOOKS
};

#define DUET_MAP_WORDS	BITS_TO_LONGS(DUET_MAX_TASKS)

/* A set of tasks, by slot (identity less one). */
struct duet_map {
	unsigned long words[DUET_MAP_WORDS];
};

/* Walks the slots of a map; only as many words as max_tasks needs. */
#define duet_for_each_slot(slot, map)					\
	for_each_set_bit(slot, (map)->words, duet.max_tasks)

struct duet_node;

/*
 * One task's share of a node. Event-based: what happened to each page and
 * was not read yet. State-based: what the task was told (added: is cached,
 * dirty: is dirty), the other word of the pair stays empty.
 */
struct duet_slot {
	u64 added;
	u64 removed;
	u64 dirty;
	u64 flushed;
	/* next on the task's list of this file, NULL when on no list */
	struct duet_node *next;
};

/* Ends a list of nodes, so that NULL can mean "on no list". */
#define DUET_LIST_END	((struct duet_node *)1)

struct duet_node {
	struct hlist_bl_node hash;	/* RCU, bucket's bit lock */
	struct duet_file *file;		/* fixed */
	u64 run;			/* fixed: page index >> DUET_RUN_SHIFT */
	/* the rest: file->lock */
	struct list_head in_file;
	u64 cached;			/* one copy for all state-based tasks */
	u64 dirty;
	unsigned int nr_queued;		/* tasks that have it on a list */
	struct rcu_head rcu;
	struct duet_slot slot[];	/* duet.max_tasks of them */
};

/* One task's share of a file. file->lock, but for what is said otherwise. */
struct duet_want {
	struct llist_node queue;	/* on task->queue, while QUEUED */
	struct duet_node *pending;	/* latest first */
	u8 flags;
#define DUET_WANT_QUEUED	BIT(0)	/* on the task's queue */
#define DUET_WANT_SYNC		BIT(1)	/* reader compares with the page cache */
#define DUET_WANT_LEFT		BIT(2)	/* was of interest, is to be taken back */
};

struct duet_key {
	struct duet_fs *fs;
	u64 ino;
};

/* A name's directory, to find the name again when no dentry is left. */
struct duet_origin {
	u64 ino;
	u32 gen;
};

struct duet_file {
	struct rhash_head by_inode;	/* while the inode lives */
	struct rhlist_head by_ino;
	struct inode *key_inode;	/* key of by_inode, never followed */
	struct duet_key key;		/* key of by_ino */
	u32 gen;
	struct rcu_head rcu;

	spinlock_t lock;		/* protects what follows */
	struct inode *inode;		/* no reference; NULL once it dies */
	u32 epoch;			/* of the verdict in active */
	bool dead;			/* is being freed: look again */
	bool stale;			/* cached and dirty missed something */
	u16 nr_state;			/* state-based tasks in active */
	unsigned int holds;		/* readers and walks that need it */
	unsigned int nr_nodes;
	struct list_head nodes;
	struct duet_node *last;		/* found last, most often next */
	struct duet_origin origin;
	struct duet_map active;		/* tasks that want its events */
	struct duet_want want[];	/* duet.max_tasks of them */
};

/* The registered directories of a file system. Replaced whole, under RCU. */
struct duet_roots {
	struct rcu_head rcu;
	unsigned int nr;
	struct {
		struct inode *inode;
		unsigned int slot;
	} root[];
};

struct duet_fs {
	struct fsnotify_mark mark;	/* on the superblock; frees this */
	struct list_head list;		/* duet.lock */
	unsigned int nr_tasks;		/* duet.lock */
	struct super_block *sb;		/* NULL once it is shut down */
	struct duet_roots __rcu *roots;
	atomic_t moves;			/* renames and links so far */
	unsigned long subvol_ino;	/* inode of a subvolume's root, or 0 */
};

/* The watched superblocks, what every event is held against first. */
struct duet_watched {
	struct rcu_head rcu;
	unsigned int nr;
	struct duet_fs *fs[];
};

struct duet_task {
	struct kref ref;
	struct list_head list;		/* duet.lock */
	/* fixed once registered */
	unsigned int slot;		/* identity less one */
	u32 regmask;
	u32 events;			/* event-based part of regmask */
	u32 states;			/* state-based part */
	u32 looks;			/* events that can change its states */
	u32 hooks;			/* mask of duet_hook_id */
	int fd;
	struct pid *owner;		/* thread group that registered */
	struct duet_fs *fs;
	struct fsnotify_mark *root_mark;
	struct fsnotify_mark *top_mark;
	struct inode *root;		/* pinned by root_mark */
	struct inode *top;		/* root of the mount, by top_mark */
	char *prefix;			/* where that mount was */
	char *path;			/* as the registering process saw it */
	char name[DUET_NAME_LEN];
	struct xarray done;		/* inode number -> generation */
	atomic_long_t nr_done;

	/* the probes' end */
	struct llist_head queue;	/* files with something pending */
	unsigned long flags;
#define DUET_TASK_READY		0	/* woken and not looked at yet */
#define DUET_TASK_STOPPED	1	/* taken down */
#define DUET_TASK_GONE		2	/* its file system is */
#define DUET_TASK_RESCAN	3	/* look at all inodes again */
	struct irq_work wake;
	wait_queue_head_t wait;
	atomic_long_t nr_dropped;

	struct mutex read_lock;		/* one read() at a time */
	struct mutex lock;		/* protects the reader's end: */
	struct llist_node *todo;	/* files taken off the queue */
	struct duet_file *file;		/* being read */
	struct duet_node *nodes;	/* its nodes, in page order */
	struct duet_item *items;	/* read but not copied out yet */
	unsigned int nr_items;
	unsigned int next_item;
	u64 nr_delivered;
};

#define DUET_ITEMS	(PAGE_SIZE / sizeof(struct duet_item))

/* The whole of it. */
struct duet {
	struct mutex lock;		/* protects: */
	bool on;
	unsigned int nr_tasks;
	struct list_head tasks;
	struct list_head filesystems;

	/* fixed while on */
	unsigned int max_tasks;
	unsigned int node_size;
	unsigned int file_size;
	unsigned long limit;		/* bytes for nodes and files */
	unsigned int bucket_bits;
	struct hlist_bl_head *buckets;
	struct rhashtable by_inode;
	struct rhltable by_ino;
	struct kmem_cache *node_cache;
	struct kmem_cache *file_cache;

	/* RCU */
	struct duet_watched __rcu *watched;
	struct duet_task __rcu *task[DUET_MAX_TASKS];

	atomic_t epoch;			/* verdicts of older ones are void */
	atomic_long_t bytes;
	atomic_long_t nr_nodes;
	atomic_long_t nr_files;
	atomic_long_t nr_dropped;
};

extern struct duet duet;

/* The file whose place on the task's queue this is. */
static inline struct duet_file *duet_queued_file(const struct duet_task *task,
						 struct llist_node *queue)
{
	struct duet_want *want = container_of(queue, struct duet_want, queue);

	return container_of(want - task->slot, struct duet_file, want[0]);
}

/* hooks.c */
void duet_hooks_init(void);
int duet_hooks_get(u32 hooks);
void duet_hooks_put(u32 hooks);
u32 duet_hooks_for(u32 regmask);
extern const struct attribute_group duet_hooks_group;

/* interest.c */
void duet_new_epoch(void);
int duet_interest_start(void);
void duet_interest_stop(void);
struct duet_fs *duet_watched_fs(const struct super_block *sb);
void duet_page_event(struct folio *folio, struct address_space *mapping,
		     u32 event);
void duet_inode_evicted(struct inode *inode);
struct duet_file *duet_file_by_inode(const struct inode *inode);
bool duet_has_file(const struct inode *inode);
struct duet_file *duet_file_by_ino(struct duet_task *task, u64 ino, u32 gen);
struct duet_file *duet_decide(struct duet_fs *fs, struct inode *inode,
			      struct duet_file **spare, unsigned int how);
#define DUET_DECIDE_FRESH	0x1	/* no page of it was cached before */
#define DUET_DECIDE_LEAVE	0x2	/* though it may have names not seen now */
#define DUET_DECIDE_UNNAMED	0x4	/* though no name is known at all */
#define DUET_DECIDE_OPENED	0x8	/* only if something may be unknown */
struct duet_file *duet_file_alloc(gfp_t gfp);
void duet_file_free(struct duet_file *file);
bool duet_file_hold(struct duet_file *file);
void duet_file_release(struct duet_file *file);
void duet_file_forget(struct duet_file *file, struct duet_task *task);
void duet_task_forget(struct duet_task *task);
bool duet_is_done(struct duet_task *task, u64 ino, u32 gen);
bool duet_below(const struct dentry *dentry, const struct inode *root);

/* table.c */
int duet_table_start(void);
void duet_table_stop(void);
unsigned int duet_table_longest_chain(void);
struct duet_node *duet_node_alloc(gfp_t gfp);
void duet_node_free(struct duet_node *node);
struct duet_node *duet_node_find(struct duet_file *file, u64 run);
void duet_node_add(struct duet_file *file, u64 run, struct duet_node *node);
bool duet_node_gc(struct duet_node *node);
void duet_file_event(struct duet_file *file, u64 index, u64 nr, u32 event);
void duet_file_lost(struct duet_file *file);
void duet_queue_file(struct duet_file *file, struct duet_task *task);
void duet_queue_node(struct duet_node *node, struct duet_task *task);
void duet_file_each_node(struct duet_file *file,
			 void (*fn)(struct duet_node *node, void *arg),
			 void *arg);

/* What a task has to be told of a node's pages. */
struct duet_news {
	u64 added;
	u64 removed;
	u64 dirty;
	u64 flushed;
};

u64 duet_node_news(const struct duet_node *node, const struct duet_task *task,
		   struct duet_news *news);
void duet_node_told(struct duet_node *node, const struct duet_task *task,
		    u64 pages);

/* scan.c */
int duet_scan(struct duet_task *task);
void duet_sync_file(struct duet_file *file, struct duet_task *task);
struct inode *duet_file_inode(struct duet_file *file, struct super_block **sb);

/* watch.c */
int duet_watch_init(void);
void duet_watch_exit(void);
void duet_watch_settle(void);
struct duet_fs *duet_fs_get(struct super_block *sb);
void duet_fs_put(struct duet_fs *fs);
int duet_fs_add_root(struct duet_fs *fs, const struct duet_task *task);
void duet_fs_del_root(struct duet_fs *fs, const struct duet_task *task);
struct fsnotify_mark *duet_pin_inode(struct inode *inode);
void duet_unpin_inode(struct fsnotify_mark *mark);
struct super_block *duet_fs_pin(struct duet_fs *fs);

/* path.c */
int duet_path_start(void);
void duet_path_stop(void);
void duet_remember_origin(const struct duet_file *file);
char *duet_path_of(struct duet_task *task, u64 ino, u32 gen, char *buf,
		   size_t size);
struct dentry *duet_name_again(struct duet_task *task, u64 ino, u32 gen);
struct dentry *duet_name_of(struct duet_task *task, struct inode *inode,
			    u32 gen);
struct inode *duet_inode_of(struct duet_task *task, u64 ino, u32 gen,
			    struct super_block **sb);

/* task.c */
int duet_start(unsigned int max_tasks);
int duet_stop(void);
int duet_register(const char *name, u32 regmask, const char *path);
struct duet_task *duet_task_get(unsigned int id, struct file *file);
void duet_task_put(struct duet_task *task);
void duet_task_wake(struct duet_task *task);
int duet_task_done(struct duet_task *task, u64 ino, u32 gen);
int duet_task_undone(struct duet_task *task, u64 ino, u32 gen);
int duet_task_check(struct duet_task *task, u64 ino, u32 gen);

/* ioctl.c */
long duet_ioctl(struct file *file, unsigned int cmd, unsigned long arg);

/* status.c */
extern const struct attribute_group *duet_groups[];

#endif /* _DUET_H */
