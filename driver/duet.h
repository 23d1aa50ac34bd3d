/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the driver's files share. Data flows one way:
 *
 *   hooks.c -> event.c -> (verdict.c, file.c, table.c) -> read.c -> a reader
 *
 * Who owns whom, and by which reference:
 *
 *   A task belongs to its descriptor (kref); the calls that act on a task and
 *   the marks on its directory borrow references. What it has in the tables,
 *   its slot, hooks and file system belong to its users (users): the
 *   registration, until it is ended, and calls that work on it.
 *   A watched file system (struct duet_fs) belongs to its tasks (nr_tasks,
 *   under duet.lock) and to its superblock mark, which frees it.
 *   A file's entry belongs to the hash. It goes when its inode is gone or no
 *   task wants it, it has no nodes, and nobody holds it (holds).
 *   A node belongs to its file, and lives while it says something: a page
 *   that is cached or dirty, or something that a task was not told. The first
 *   is part of the file's entry, since most files are small.
 *   Neither an inode nor a mount is ever pinned for longer than a call, but
 *   for the registered directory's inode, by an fsnotify mark that an
 *   unmount and an rmdir take away. An inode is used with the file system
 *   pinned (struct duet_pin): an unmount waits for a look at one file.
 *
 * Locks, outermost first:
 *
 *   task->read_lock (mutex): one read() at a time
 *   duet.lock (mutex): on and off, the list of tasks, the watched file
 *     systems, the attaching of hooks
 *   task->lock (mutex): the reader's end of a task; never waited for with
 *     duet.lock held, since who has it may sleep on what a user controls
 *   sb->s_umount, shared, by duet_fs_pin(): only tried for. Below it nothing
 *     is waited for that a user controls but the disk: no path is walked
 *   a lock of what is found by a hash (duet_key_lock()): with interrupts on,
 *     never where xa_lock is held
 *   inode->i_lock, mapping->i_pages.xa_lock: the kernel's own
 *   file->lock (spinlock, interrupts off since xa_lock may be held): an entry
 *     and its nodes
 *   a node bucket's bit lock, with interrupts off
 */
#ifndef _DUET_H
#define _DUET_H

#include <linux/bitmap.h>
#include <linux/build_bug.h>
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/device.h>
#include <linux/fs.h>
#include <linux/fsnotify_backend.h>
#include <linux/hash.h>
#include <linux/irq_work.h>
#include <linux/jump_label.h>
#include <linux/kernel.h>
#include <linux/kobject.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/list_bl.h>
#include <linux/llist.h>
#include <linux/maple_tree.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/rculist.h>
#include <linux/rculist_nulls.h>
#include <linux/refcount.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include "uapi/duet.h"

#define DUET_EVENTS	(DUET_PAGE_ADDED | DUET_PAGE_REMOVED | \
			 DUET_PAGE_DIRTY | DUET_PAGE_FLUSHED)
#define DUET_STATES	(DUET_PAGE_EXISTS | DUET_PAGE_MODIFIED)

/* What a registration can have. */
#define DUET_REGISTER_FLAGS	(DUET_REGISTER_RANGES | DUET_REGISTER_INHERIT | \
				 DUET_REGISTER_NONBLOCK | \
				 DUET_REGISTER_NO_SCAN | DUET_REGISTER_SNAPSHOT)

/* How many there are: those that programs see have room for more. */
#define DUET_NR_EVENTS	(DUET_EVENT_FLUSHED + 1)
#define DUET_NR_DROPS	(DUET_DROP_NOMEM + 1)

static_assert(DUET_NR_EVENTS <=
	      ARRAY_SIZE(((struct duet_info *)NULL)->events));
static_assert(DUET_NR_EVENTS <=
	      ARRAY_SIZE(((struct duet_node_info *)NULL)->bits));
static_assert(DUET_NR_DROPS <=
	      ARRAY_SIZE(((struct duet_info *)NULL)->drops));
static_assert(DUET_NR_DROPS <=
	      ARRAY_SIZE(((struct duet_task_info *)NULL)->drops));

/* The bit of the published mask that is this event. */
#define DUET_EVENT_BIT(event)	(1U << (event))

/* A node covers an aligned run of 64 pages, one bit of a word each. */
#define DUET_RUN_SHIFT	6
#define DUET_RUN_PAGES	BIT(DUET_RUN_SHIFT)

enum duet_hook_id {
	DUET_HOOK_ADDED = DUET_EVENT_ADDED,
	DUET_HOOK_REMOVED = DUET_EVENT_REMOVED,
	DUET_HOOK_DIRTIED = DUET_EVENT_DIRTY,
	DUET_HOOK_FLUSHED = DUET_EVENT_FLUSHED,
	DUET_HOOK_EVICTED,
	DUET_NR_HOOKS
};

#define DUET_MAP_WORDS	BITS_TO_LONGS(DUET_MAX_TASKS)

/* A set of tasks, by slot (identity less one). */
struct duet_map {
	unsigned long words[DUET_MAP_WORDS];
};

static inline bool duet_map_empty(const struct duet_map *map)
{
	unsigned int i;

	for (i = 0; i < DUET_MAP_WORDS; i++)
		if (map->words[i])
			return false;
	return true;
}

struct duet_node;
struct duet_pin;

/*
 * One task's share of a node. Event-based: what happened to each page and
 * was not read yet. State-based: what the task was told (ADDED: is cached,
 * DIRTY: is dirty), the other word of the pair stays empty.
 */
struct duet_slot {
	u64 bits[DUET_NR_EVENTS];
	/* next on the task's list of this file, NULL when on no list */
	struct duet_node *next;
};

/* Pages of which the slot says something. */
static inline u64 duet_slot_bits(const struct duet_slot *slot)
{
	BUILD_BUG_ON(DUET_NR_EVENTS != 4);
	return slot->bits[DUET_EVENT_ADDED] | slot->bits[DUET_EVENT_REMOVED] |
	       slot->bits[DUET_EVENT_DIRTY] | slot->bits[DUET_EVENT_FLUSHED];
}

/* Ends a list of nodes, so that NULL can mean "on no list". */
#define DUET_LIST_END	((struct duet_node *)1)

/*
 * Whether the node is on the task's list; file->lock, or for a dump. The reader
 * puts that list in order without: links change meanwhile, but none is NULL.
 */
static __always_inline bool duet_is_queued(const struct duet_slot *slot)
{
	return data_race(slot->next);
}

struct duet_node {
	struct hlist_bl_node hash;	/* bucket's bit lock */
	struct duet_file *file;		/* fixed; NULL: the first, not in use */
	u64 run;			/* fixed: page index >> DUET_RUN_SHIFT */
	/* the rest: file->lock */
	struct list_head in_file;
	u64 cached;			/* one copy for all tasks; see nr_exists */
	u64 dirty;
	unsigned int nr_queued;		/* tasks that have it on a list */
	struct duet_slot *more;		/* the slots behind the first few */
	struct duet_slot slot[];	/* duet.max_tasks of them, or those few */
};

/*
 * So many slots has the node in a file's entry, where most tasks are: it is a
 * third of what the entry takes. The others come when a task needs one: see
 * duet_first_grow().
 */
#define DUET_FIRST_SLOTS	2U

/* One task's share of a file. file->lock, but for what is said otherwise. */
struct duet_want {
	struct llist_node queue;	/* on task->queue, while QUEUED */
	struct duet_node *pending;	/* latest first */
	unsigned int asked;		/* task->asked when it was ALLOWED */
	unsigned int flags;
#define DUET_WANT_QUEUED	BIT(0)	/* on the task's queue */
#define DUET_WANT_SYNC		BIT(1)	/* reader compares with the page cache */
#define DUET_WANT_LEFT		BIT(2)	/* was of interest, is to be taken back */
#define DUET_WANT_LOST		BIT(3)	/* an overflow item is due */
#define DUET_WANT_ALLOWED	BIT(4)	/* the task may know of the file */
#define DUET_WANT_NEW		BIT(5)	/* with SYNC: all of it is an event */
#define DUET_WANT_BACK		BIT(6)	/* with NEW: had left, untold so far */
#define DUET_WANT_ASK		BIT(7)	/* whether it still may know of it */
#define DUET_WANT_VERIFY	BIT(8)	/* reader looks its names up again */
#define DUET_WANT_MAYBE		BIT(9)	/* with VERIFY: it may be another's */
#define DUET_WANT_DROP		BIT(10)	/* it was: nothing noted is told */
#define DUET_WANT_TOLD		BIT(11)	/* it was the task's, before eviction */
#define DUET_WANT_FIND		BIT(12)	/* as VERIFY; it stays if none is found */
#define DUET_WANT_FORGET	BIT(13)	/* nothing of it stays: not to join now */
#define DUET_WANT_MISSED	BIT(14)	/* which was to be */
};

/*
 * A name's directory, to find the name again when no dentry is left. The file
 * system is told by its id: a walk may hold an entry for longer than that is
 * watched.
 */
struct duet_origin {
	u64 ino;
	u32 gen;
	u32 fs;
};

struct duet_file {
	struct hlist_nulls_node living;	/* while it has an inode; RCU */
	struct inode *inode;		/* no reference; NULL once it dies */
	u64 ino;			/* fixed, as fs, subvol and gen are */
	u64 subvol;			/* btrfs: which of its trees */
	struct duet_fs *fs;		/* for who has a task that is on it */
	u32 gen;
	u32 epoch;			/* of the verdict in active; READ_ONCE */
	spinlock_t lock;		/* protects what follows, and inode */
	bool dead;			/* is being freed: look again; READ_ONCE */
	bool stale;			/* cached and dirty missed something */
	u8 nr_exists;			/* tasks in active for whom cached, and */
	u8 nr_modified;			/* dirty is kept; if none, it says nothing */
	unsigned int nlink;		/* names that the inode had at last */
	unsigned int holds;		/* readers and walks that need it */
	unsigned int nr_nodes;
	u32 salt;			/* fixed, for the hash of its nodes */
	struct duet_node *last;		/* found last, most often next */
	struct duet_map active;		/* tasks that want its events */
	union {
		struct list_head nodes;
		struct rcu_head rcu;	/* once it has none, and is dead */
	};
	struct duet_origin origin;
	struct hlist_node all;		/* in duet.files; RCU */
	struct duet_want want[];	/* duet.max_tasks, then the first node */
};

static_assert(DUET_MAX_TASKS <= U8_MAX);	/* nr_exists, nr_modified */

/* Where there can be so many tasks: what a node takes, ... */
static inline unsigned int duet_node_bytes(unsigned int max_tasks)
{
	return offsetof(struct duet_node, slot[max_tasks]);
}

/* ... what a file's entry does without its first node, and with it. */
static inline unsigned int duet_first_place(unsigned int max_tasks)
{
	return offsetof(struct duet_file, want[max_tasks]);
}

static inline unsigned int duet_file_bytes(unsigned int max_tasks)
{
	return duet_first_place(max_tasks) +
	       duet_node_bytes(min(max_tasks, DUET_FIRST_SLOTS));
}

/* The registered directories of a file system. Replaced whole, under RCU. */
struct duet_roots {
	struct rcu_head rcu;
	unsigned int nr;
	struct duet_task *task[];
};

#define DUET_MOVES_BITS	6
#define DUET_MOVES	BIT(DUET_MOVES_BITS)

struct duet_fs {
	struct fsnotify_mark mark;	/* on the superblock; frees this */
	struct list_head list;		/* duet.lock */
	unsigned int nr_tasks;		/* duet.lock */
	unsigned int place;		/* in duet.watched */
	struct super_block *sb;		/* NULL once it is shut down */
	u32 dev;			/* fixed: its number, for stat(2) */
	u32 id;				/* fixed: no other has had it */
	struct duet_roots __rcu *roots;
	atomic_t moves[DUET_MOVES];	/* of files: renames, links and so on */
	unsigned long subvol_ino;	/* inode of a subvolume's root, or 0 */
	bool unnamed;			/* files with names that we do not know */
	struct delayed_work listen;	/* begins to hear of opens, then */
	struct fsnotify_mark *opens;
};

/*
 * The watched superblocks, what every event is held against first. A fixed
 * array, so that it can be read with no more than preemption disabled.
 */
struct duet_watched {
	const struct super_block *sb;
	struct duet_fs __rcu *fs;
};

/* A task's, on each CPU by itself, so that probes share no cache line. */
struct duet_task_counts {
	unsigned long drops[DUET_NR_DROPS];	/* what it was not told */
	long files;			/* entries that it is active in */
};

struct duet_task {
	struct kref ref;
	refcount_t users;		/* of what it has; the last takes it away */
	bool forgotten;			/* that was done */
	struct list_head list;		/* duet.lock */
	/* fixed once registered */
	unsigned int slot;		/* identity less one */
	u32 regmask;
	u32 regflags;			/* DUET_REGISTER_* */
	u32 events;			/* event-based part of regmask */
	u32 states;			/* state-based part */
	u32 looks;			/* events that can change its states */
	u32 hooks;			/* mask of duet_hook_id */
	bool privileged;		/* may know of every file */
	int fd;
	u64 start;			/* boot time, nanoseconds */
	struct pid *owner;		/* thread group that registered */
	const struct cred *cred;	/* its credentials */
	struct duet_fs *fs;
	u64 subvol;			/* btrfs: which of its trees */
	struct fsnotify_mark *root_mark;
	struct fsnotify_mark *top_mark;
	struct inode *root;		/* by root_mark; NULL once removed */
	struct inode *top;		/* root of the mount, by top_mark */
	char *prefix;			/* where that mount was */
	char *path;			/* as the registering process saw it */
	char name[DUET_NAME_LEN];
	struct maple_tree marks;	/* inode number -> a mark, marks.c */
	atomic_t asked;			/* answers of before are void */
	unsigned long nr_marks;		/* task->lock */
	atomic_long_t nr_done;
	struct kobject *dir;		/* in sysfs */

	/* the probes' end */
	struct llist_head queue;	/* files with something pending */
	unsigned long flags;
#define DUET_TASK_READY		0	/* woken and not looked at yet */
#define DUET_TASK_STOPPED	1	/* not set up yet, or taken down */
#define DUET_TASK_GONE		2	/* its file system or directory is */
#define DUET_TASK_RESCAN	3	/* look at all inodes again */
#define DUET_TASK_LOST		4	/* an overflow item is due */
#define DUET_TASK_QUIET		5	/* the scan tells nothing */
#define DUET_TASK_RETELL	6	/* it tells everything anew */
#define DUET_TASK_STARVED	7	/* not even a scan had room */
#define DUET_TASK_SHUT		8	/* a directory shut it out of a file */
#define DUET_TASK_ENDED		9	/* by a call or its close, not by a stop */
	struct irq_work wake;
	wait_queue_head_t wait;
	unsigned long limit;		/* bytes that may be pending */
	atomic_long_t pending;		/* bytes of queued nodes and files */
	struct duet_task_counts __percpu *counts;

	struct mutex read_lock;		/* one read() at a time */
	struct mutex lock;		/* protects the reader's end: */
	struct llist_node *todo;	/* files taken off the queue */
	struct duet_file *file;		/* being read */
	struct duet_node *nodes;	/* its nodes, in page order ... */
	bool sorted;			/* ... if this is so */
	struct duet_item *items;	/* read but not copied out yet */
	unsigned int nr_items;
	unsigned int next_item;
	unsigned int name_reads;	/* of directories, that are left */
	unsigned long name_end;		/* no more of them from here on */
	struct list_head snapshot;	/* chunks of what is to be told */
	u64 nr_delivered;
	u64 nr_overflows;
};

#define DUET_ITEMS	(4 * PAGE_SIZE / sizeof(struct duet_item))

/* Counted on each CPU by itself, so that probes share no cache line. */
struct duet_counts {
	u64 events[DUET_NR_EVENTS];
	u64 drops[DUET_NR_DROPS];
	/* what there is: came less what went, perhaps on another CPU */
	u64 files;
	u64 nodes;
};

DECLARE_PER_CPU(struct duet_counts, duet_counts);

/* The whole of it. */
struct duet {
	/* what every event reads */
	unsigned int nr_watched;
	unsigned int epoch;		/* verdicts of older ones are void */
	unsigned int losses;		/* as above, of files without room */
	unsigned int nr_slots;		/* no task has one from here on */
	unsigned int max_tasks;		/* fixed while on, as the next ones */
	unsigned int map_words;
	unsigned int file_bits;
	unsigned int node_bits;
	u64 *nobody;			/* verdicts, see below */
	struct hlist_nulls_head *living;	/* files, by the inode's address */
	struct hlist_head *files;	/* by its number and generation */
	struct hlist_bl_head *node_buckets;
	u64 hash_key;			/* random, for the hashes */
	u64 salt_key;
	unsigned int node_size;
	unsigned int more_size;		/* of the slots that a first node lacks */
	unsigned int file_size;
	unsigned int first_node;	/* where it is in a file's entry */
	struct kmem_cache *node_cache;
	struct kmem_cache *more_cache;
	struct kmem_cache *file_cache;
	struct duet_watched watched[DUET_MAX_TASKS + 1];
	struct duet_task __rcu *task[DUET_MAX_TASKS];

	atomic_long_t charged;		/* bytes, and what the CPUs have ahead */
	unsigned long limit;		/* of that */
	unsigned long task_limit;	/* a new task's */
	unsigned int user_share;	/* percent, of what a user may have */

	struct mutex lock;		/* protects: */
	bool on;
	bool built;			/* there are tables: on, or not quite off */
	unsigned long built_limit;	/* the limit that they were made for */
	DECLARE_BITMAP(slots, DUET_MAX_TASKS);	/* whose tasks have something */
	unsigned int nr_tasks;
	struct list_head tasks;
	struct list_head filesystems;
};

extern struct duet duet;

/* How memory is taken in a probe: nothing waits, and the reserves stay. */
#define DUET_GFP_PROBE	(GFP_NOWAIT | __GFP_NOWARN | __GFP_NOMEMALLOC)

struct duet_slots {
	unsigned int word;
	unsigned long left;		/* of the word */
};

/* The next slot of a map, as long as there is one. */
static __always_inline bool duet_next_slot(struct duet_slots *slots,
					   const struct duet_map *map,
					   unsigned int *slot)
{
	/* Only as many words as max_tasks needs. */
	while (!slots->left) {
		if (++slots->word >= duet.map_words)
			return false;
		slots->left = map->words[slots->word];
	}
	*slot = slots->word * BITS_PER_LONG + __ffs(slots->left);
	slots->left &= slots->left - 1;
	return true;
}

/* A slot may be taken off the map meanwhile. */
#define duet_for_each_slot(slot, map)					\
	for (struct duet_slots _slots = { .left = (map)->words[0] };	\
	     duet_next_slot(&_slots, map, &(slot));)

/*
 * The tasks of a map that have not gone; their slots, too. What is found is
 * there until RCU, or who has preemption or interrupts off, lets it go.
 */
#define duet_for_each_task(found, slot, map)				\
	duet_for_each_slot(slot, map)					\
		if (!((found) = duet_dereference(duet.task[slot]))) {	\
		} else

/* More than one place of duet.watched is in use. */
DECLARE_STATIC_KEY_FALSE(duet_watched_many);

/* The file whose place on the task's queue this is. */
static inline struct duet_file *duet_queued_file(const struct duet_task *task,
						 struct llist_node *queue)
{
	struct duet_want *want = container_of(queue, struct duet_want, queue);

	return container_of(want - task->slot, struct duet_file, want[0]);
}

/* Whether the task is told what is cached once, and of no change. */
static inline bool duet_is_snapshot(const struct duet_task *task)
{
	return task->regflags & DUET_REGISTER_SNAPSHOT;
}

/* Why a task has stopped: it was ended, or Duet was switched off under it. */
static inline int duet_stop_reason(const struct duet_task *task)
{
	return test_bit(DUET_TASK_ENDED, &task->flags) ? -ECANCELED :
							 -ESHUTDOWN;
}

/*
 * Whether the caller administers the system, where "no" is no news: capable()
 * would have that audited.
 */
static inline bool duet_is_admin(void)
{
	return ns_capable_noaudit(&init_user_ns, CAP_SYS_ADMIN);
}

/*
 * What the words of a file say to who does not hold file->lock, where they
 * are changed bit by bit. No decision rests on one: it tells where to look
 * with the lock, or what was so just before, and who changes it later has the
 * task look once more.
 */
static inline unsigned int duet_want_flags(const struct duet_want *want)
{
	return data_race(READ_ONCE(want->flags));
}

static inline bool duet_is_active(const struct duet_file *file,
				  const struct duet_task *task)
{
	return data_race(test_bit(task->slot, file->active.words));
}

static inline bool duet_is_anybodys(const struct duet_file *file)
{
	return !data_race(duet_map_empty(&file->active));
}

static inline unsigned int duet_nr_nodes(const struct duet_file *file)
{
	return data_race(READ_ONCE(file->nr_nodes));
}

/* Whether the task has as much to read as it may. */
static inline bool duet_is_full(const struct duet_task *task)
{
	return atomic_long_read(&task->pending) + duet.node_size >
	       READ_ONCE(task->limit);
}

static inline struct duet_node *duet_first_node(struct duet_file *file)
{
	return (void *)file + duet.first_node;
}

/* Whether the node has a slot of this number: a first node may lack it. */
static __always_inline bool duet_slot_is(const struct duet_node *node,
					 unsigned int i)
{
	return likely(i < DUET_FIRST_SLOTS) || READ_ONCE(node->more);
}

/* A task's slot, which is there if it has joined the file: duet_has_slot(). */
static __always_inline struct duet_slot *duet_slot_of(struct duet_node *node,
						      unsigned int i)
{
	if (likely(i < DUET_FIRST_SLOTS))
		return &node->slot[i];
	return &READ_ONCE(node->more)[i - DUET_FIRST_SLOTS];
}

extern const struct duet_slot duet_no_slot;

/* Any task's, to look at: one that is not there says nothing. */
static inline const struct duet_slot *duet_slot_seen(const struct duet_node *node,
						     unsigned int i)
{
	if (unlikely(!duet_slot_is(node, i)))
		return &duet_no_slot;
	return duet_slot_of((struct duet_node *)node, i);
}

/*
 * What a probe finds it finds with preemption off, others under RCU proper;
 * what takes it away waits for both, as synchronize_rcu() does.
 */
#define duet_dereference(p) \
	rcu_dereference_check(p, rcu_read_lock_sched_held())

/*
 * The cache of "nobody" verdicts: a slot holds the inode's address and the
 * low bits of the epoch in one word, so it is read and written without a
 * lock. A collision forgets a verdict, which is then found again. A word of
 * another kind says that the file's tasks were told of a loss, since there was
 * no room for an entry: see duet_is_lost().
 */
#define DUET_NOBODY_BITS	15
#define DUET_NOBODY_LOST	BIT_ULL(16)	/* no address has this bit */

static_assert(__alignof__(struct inode) > 1);

static inline u64 *duet_nobody_slot(const struct inode *inode)
{
	return &duet.nobody[hash_ptr(inode, DUET_NOBODY_BITS)];
}

/* The bits of an inode's address that differ, above 16 bits of the epoch. */
static inline u64 duet_nobody_word(const struct inode *inode,
				   unsigned int epoch)
{
	return (u64)(uintptr_t)inode << 16 | (u16)epoch;
}

/* Whether duet_is_lost() is worth asking. */
static inline bool duet_may_be_lost(const struct inode *inode)
{
	return READ_ONCE(*duet_nobody_slot(inode)) & DUET_NOBODY_LOST;
}

static inline bool duet_nobody_wants(const struct inode *inode)
{
	return READ_ONCE(*duet_nobody_slot(inode)) ==
	       duet_nobody_word(inode, READ_ONCE(duet.epoch));
}

/*
 * The entry of an inode; RCU, or in a probe. Found by the address, which no
 * other living inode has.
 */
static __always_inline struct duet_file *
duet_file_find(const struct inode *inode)
{
	const unsigned int bucket = hash_ptr(inode, duet.file_bits);
	struct hlist_nulls_node *pos;
	struct duet_file *file;

again:
	hlist_nulls_for_each_entry_rcu(file, pos, &duet.living[bucket], living)
		if (READ_ONCE(file->inode) == inode)
			return file;
	/* An entry that came back under our eyes led to another bucket. */
	if (unlikely(get_nulls_value(pos) != bucket))
		goto again;
	return NULL;
}

/* hooks.c */
int duet_hooks_init(void);
void duet_hooks_exit(void);
int duet_hooks_get(u32 hooks);
void duet_hooks_put(u32 hooks);
void duet_hooks_linger(void);
void duet_hooks_detach(void);
u32 duet_hooks_for(u32 regmask);
void duet_hooks_state(u32 *found, u32 *alive);
void duet_hook_proved(const struct inode *inode, enum duet_hook_id id);
extern const struct attribute_group duet_hooks_group;

/* proof.c */
int duet_proof_init(void);
void duet_proof_exit(void);
int duet_proof_run(void);
const struct super_block *duet_proof_sb(void);

/* event.c */
void duet_page_added(struct folio *folio, struct address_space *mapping);
void duet_page_removed(struct folio *folio, struct address_space *mapping);
void duet_page_dirtied(struct folio *folio, struct address_space *mapping);
void duet_page_flushed(struct folio *folio, struct address_space *mapping);

/*
 * What counts the changes of a file's names. Some files share one: who makes
 * a verdict meanwhile makes it again.
 */
static inline atomic_t *duet_moves(struct duet_fs *fs,
				   const struct inode *inode)
{
	return &fs->moves[hash_ptr(inode, DUET_MOVES_BITS)];
}

/* Verdicts about the file that are being made now are made again. */
static inline void duet_moved(struct duet_fs *fs, const struct inode *inode)
{
	atomic_inc(duet_moves(fs, inode));
	smp_mb__after_atomic();	/* pairs with duet_verdict_holds() */
}

/* verdict.c */

/* How far a walk through names and directories goes. */
struct duet_steps {
	unsigned int left;
	bool cut;			/* there was more */
};

void duet_new_epoch(void);
bool duet_is_lost(const struct inode *inode);
bool duet_loss_take(struct duet_task *task, unsigned int flag);
void duet_nobody_clear(const struct inode *inode);
bool duet_roots_above(const struct duet_fs *fs, const struct dentry *dentry,
		      struct duet_map *map);
bool duet_is_border(const struct duet_fs *fs, const struct inode *inode);
bool duet_is_former(const struct dentry *name, const struct inode *inode);
bool duet_is_below(const struct duet_task *task, const struct dentry *name);
struct dentry *duet_next_name(struct inode *inode, struct dentry *name);
struct dentry *duet_name_below(const struct duet_task *task,
			       struct inode *inode);
bool duet_is_inside(const struct duet_task *task, struct inode *inode);
bool duet_has_name(const struct duet_task *task, struct inode *inode);
struct duet_file *duet_decide(struct duet_fs *fs, struct inode *inode,
			      struct duet_file **spare, unsigned int how);
#define DUET_DECIDE_LEAVE	0x1	/* though it may have names not seen now */
#define DUET_DECIDE_UNNAMED	0x2	/* though no name is known at all */
#define DUET_DECIDE_OPENED	0x4	/* only if something may be unknown */
struct duet_file *duet_decide_added(struct duet_fs *fs, struct inode *inode,
				    unsigned long added);
struct duet_file *duet_decide_slowly(struct duet_fs *fs, struct inode *inode,
				     struct duet_file **spare,
				     unsigned int how);
void duet_decide_for(struct duet_task *task, struct duet_file *file,
		     struct inode *inode, unsigned int how);
void duet_names_changed(struct inode *inode, bool removed);

/* file.c */

/*
 * The buckets of files and the slots of path.c are changed under one of these
 * locks, in process context or a probe that has no lock of the page cache, so
 * with interrupts on. Each has a cache line; a bit lock in each bucket is none
 * that lockdep sees.
 */
struct duet_key_lock {
	spinlock_t lock;
} ____cacheline_aligned_in_smp;

#define DUET_KEY_BITS	8

extern struct duet_key_lock duet_key_locks[1 << DUET_KEY_BITS];

/* The top bits of the hash are those of the bucket and of the slot, too. */
static inline spinlock_t *duet_key_lock(u64 key)
{
	return &duet_key_locks[hash_64(key, DUET_KEY_BITS)].lock;
}

int duet_files_start(void);
void duet_files_stop(void);
struct duet_fs *duet_watched_fs(const struct super_block *sb);
void duet_inode_evicted(struct inode *inode);
bool duet_has_file(const struct inode *inode);
struct duet_file *duet_file_by_ino(struct duet_task *task, u64 ino, u32 gen,
				   bool others);
struct duet_file *duet_file_held(struct duet_task *task, u64 ino, u32 gen);
void duet_file_deactivate(struct duet_file *file, struct duet_task *task);
struct duet_file *duet_file_make(struct duet_fs *fs, struct inode *inode,
				 u64 subvol, struct duet_file **spare,
				 struct duet_file **made, enum duet_drop *why);
struct duet_file *duet_file_alloc(gfp_t gfp, enum duet_drop *why);
void duet_file_free(struct duet_file *file);
bool duet_file_hold(struct duet_file *file);
struct duet_file *duet_file_next(struct duet_file *file, unsigned long *bucket);
void duet_file_release(struct duet_file *file);
bool duet_file_unused(struct duet_file *file);
void duet_file_bury(struct duet_file *file);
void duet_file_forget(struct duet_file *file, struct duet_task *task);
void duet_task_forget(struct duet_task *task);

/* table.c */
int duet_table_start(void);
void duet_table_stop(void);
void duet_table_measure(struct duet_table *table);
bool duet_has_room(unsigned long bytes);
bool duet_charge(unsigned long bytes);
void duet_uncharge(unsigned long bytes);
void duet_stocks_drain(void);
long duet_bytes(void);
void *duet_alloc(struct kmem_cache *cache, unsigned int size, gfp_t gfp,
		 enum duet_drop *why);
struct duet_node *duet_node_alloc(gfp_t gfp, enum duet_drop *why);
void duet_node_free(struct duet_node *node);
struct duet_node *duet_node_find(struct duet_file *file, u64 run);
bool duet_first_grow(struct duet_file *file, enum duet_drop *why);

/* Whether the file's nodes have the task's slot, or get it now; file->lock. */
static inline bool duet_has_slot(struct duet_file *file,
				 const struct duet_task *task,
				 enum duet_drop *why)
{
	return likely(task->slot < DUET_FIRST_SLOTS) ||
	       !duet_first_node(file)->file || duet_first_grow(file, why);
}

/*
 * The node that is part of the file's entry, if it is not in use, and has a
 * slot for each task that may have joined the file; file->lock.
 */
static inline struct duet_node *duet_node_first(struct duet_file *file,
						enum duet_drop *why)
{
	struct duet_node *node = duet_first_node(file);

	lockdep_assert_held(&file->lock);
	if (node->file ||
	    (unlikely(READ_ONCE(duet.nr_slots) > DUET_FIRST_SLOTS) &&
	     !duet_first_grow(file, why)))
		return NULL;
	return node;
}

void duet_node_add(struct duet_file *file, u64 run, struct duet_node *node);
void duet_node_set(struct duet_node *node, u64 cached, u64 dirty);
void duet_node_trim(struct duet_node *node);
bool duet_node_gc(struct duet_node *node);
struct hlist_bl_head *duet_node_bucket(unsigned long i);

/*
 * The lock is a bit of the pointer to the first node: KCSAN would take who tries
 * for it, while its holder walks, for a race with the pointer. Interrupts are
 * off.
 */
static inline void duet_bucket_lock(struct hlist_bl_head *bucket)
{
	hlist_bl_lock(bucket);
	kcsan_disable_current();
}

static inline void duet_bucket_unlock(struct hlist_bl_head *bucket)
{
	hlist_bl_unlock(bucket);
	kcsan_enable_current();
}

void duet_task_drop(struct duet_task *task, enum duet_drop why);
long duet_drops_for(const struct duet_task *task, enum duet_drop why);
long duet_drops(const struct duet_task *task);
long duet_files_of(const struct duet_task *task);
void duet_task_lost(struct duet_task *task, enum duet_drop why);
void duet_want_lost(struct duet_file *file, struct duet_task *task,
		    enum duet_drop why);
void duet_queue_file(struct duet_file *file, struct duet_task *task);
void duet_queue_node(struct duet_node *node, struct duet_task *task);
void duet_node_announce(struct duet_node *node, const struct duet_task *but);
unsigned int duet_batch(void);
void duet_file_each_node(struct duet_file *file,
			 void (*fn)(struct duet_node *node, void *arg),
			 void *arg);
void duet_file_each_node_traced(struct duet_file *file,
				void (*fn)(struct duet_node *node, void *arg),
				void *arg);

/* What a task has to be told of a node's pages. */
struct duet_news {
	u64 bits[DUET_NR_EVENTS];
};

u64 duet_node_news(const struct duet_node *node, const struct duet_task *task,
		   struct duet_news *news);
void duet_node_told(struct duet_node *node, const struct duet_task *task,
		    u64 pages);
unsigned int duet_news_items(const struct duet_node *node,
			     const struct duet_task *task,
			     const struct duet_news *news, u64 *left,
			     struct duet_item *items, unsigned int max);

/* look.c */

/* Which pages of a run are cached, and of those which are dirty or locked. */
struct duet_look {
	u64 cached;
	u64 dirty;
	u64 locked;
	unsigned int entries;	/* of the page cache that were seen for that */
};

void duet_look_at(struct xa_state *xas, u64 first, u64 last,
		  struct duet_look *look);
unsigned int duet_node_look(struct duet_node *node, const struct duet_task *task,
			    struct address_space *mapping);
bool duet_next_cached(struct address_space *mapping, unsigned long *index,
		      const struct duet_task *task);

/* scan.c */
int duet_scan(struct duet_task *task);
void duet_sync_file(struct duet_file *file, struct duet_task *task);
void duet_name_budget(struct duet_task *task);
bool duet_may_read_names(struct duet_task *task);
void duet_verify_names(struct duet_task *task, struct duet_file *file);
struct inode *duet_file_inode(struct duet_file *file, struct duet_pin *pin);
void duet_inode_put(struct inode *inode, struct duet_pin *pin);
bool duet_is_cut_short(const struct duet_task *task);

/* snapshot.c */
void duet_snapshot_inode(struct duet_task *task, struct inode *inode);
unsigned int duet_snapshot_read(struct duet_task *task,
				struct duet_item *items, unsigned int max);
void duet_snapshot_drop(struct duet_task *task);

/* watch.c */
int duet_watch_init(void);
void duet_watch_exit(void);
void duet_watch_settle(void);
struct duet_fs *duet_fs_get(struct super_block *sb);
void duet_fs_put(struct duet_fs *fs);
void duet_fs_unnamed(struct duet_fs *fs);
void duet_set_nr_watched(unsigned int nr);
int duet_fs_add_root(struct duet_fs *fs, struct duet_task *task);
void duet_fs_del_root(struct duet_fs *fs, const struct duet_task *task);
struct fsnotify_mark *duet_pin_inode(struct inode **which,
				     struct duet_task *task);
void duet_unpin_inode(struct fsnotify_mark *mark);

/* A file system that cannot be unmounted meanwhile: see duet_fs_pin(). */
struct duet_pin {
	struct super_block *sb;
	bool frozen;
};

bool duet_fs_pin(struct duet_fs *fs, struct duet_pin *pin);
void duet_fs_unpin(struct duet_pin *pin);
bool duet_fs_is_awaited(const struct duet_pin *pin);

/* path.c */
int duet_path_start(void);
void duet_path_stop(void);
u64 duet_subvol_of(struct inode *inode);
void duet_remember(u64 subvol, u64 ino, u32 gen,
		   const struct duet_origin *origin);
void duet_remember_file(struct duet_file *file);
char *duet_path_of(struct duet_task *task, u64 ino, u32 gen, char *buf,
		   size_t size);
int duet_name_again(struct duet_task *task, u64 ino, u32 gen,
		    struct path *path);
bool duet_is_known(struct duet_task *task, u64 ino, u32 gen);
struct inode *duet_inode_of(struct duet_task *task, u64 ino, u32 gen,
			    struct duet_pin *pin);
int duet_with_name(struct duet_task *task, u64 ino, u32 gen,
		   int (*fn)(struct duet_task *task, struct dentry *dentry,
			     void *arg),
		   void *arg);

/* marks.c */
bool duet_is_marked_silent(struct duet_task *task, u64 ino, u32 gen);

/* Whether the task is to be told nothing of the file. */
static inline bool duet_is_silent(struct duet_task *task, u64 ino, u32 gen)
{
	return !mtree_empty(&task->marks) &&
	       duet_is_marked_silent(task, ino, gen);
}

int duet_task_done(struct duet_task *task, u64 ino, u32 gen);
int duet_task_undone(struct duet_task *task, u64 ino, u32 gen);
int duet_task_check(struct duet_task *task, u64 ino, u32 gen);
bool duet_may_know(const struct duet_task *task, struct inode *inode);
bool duet_is_admitted(const struct duet_task *task,
		      const struct duet_file *file);
struct dentry *duet_reach(const struct duet_task *task, struct inode *inode);
bool duet_may_pass(const struct duet_task *task, struct dentry *name);
bool duet_admit(struct duet_task *task, struct duet_file *file);
void duet_attrs_changed(struct duet_fs *fs, struct inode *inode);
void duet_ways_changed(struct duet_fs *fs, const struct dentry *dir);
void duet_marks_init(struct duet_task *task);
void duet_marks_destroy(struct duet_task *task);
int duet_next_done(struct duet_task *task, unsigned long *ino, u32 *gen);

/* read.c */
extern const struct file_operations duet_task_fops;
struct duet_task *duet_task_of(struct file *file);

/* task.c */

/* What a registration asks for, and how it is answered. */
struct duet_registration {
	const char *name;
	u32 mask;
	u32 flags;			/* DUET_REGISTER_* */
	const char *where;		/* a path in our memory, or ... */
	const char __user *user_where;	/* ... in the caller's */
	int dirfd;
	bool only_dir;
	unsigned long limit;
	u32 tid;			/* comes back */
	/* Tells the caller, before anyone can see the task; may fail. */
	int (*publish)(struct duet_registration *reg);
	void __user *arg;
};

int duet_start(unsigned int max_tasks);
int duet_stop(void);
int duet_set_max_tasks(unsigned int max_tasks);
int duet_set_limit(unsigned long *which, unsigned long bytes);
int duet_set_user_share(unsigned int percent);
void duet_default_limits(void);
int duet_register(struct duet_registration *reg);
struct duet_task *duet_task_get(unsigned int id, struct file *file, bool look);
void duet_task_put(struct duet_task *task);
bool duet_task_end(struct duet_task *task);
int duet_task_lock(struct duet_task *task);
int duet_task_trylock(struct duet_task *task);
void duet_task_unlock(struct duet_task *task);
unsigned int duet_tasks_use(struct duet_task **tasks);
void duet_tasks_unuse(struct duet_task **tasks, unsigned int nr);
void duet_task_wake(struct duet_task *task);
void duet_task_rescan(struct duet_task *task);
int duet_task_release(struct inode *inode, struct file *file);

/* ioctl.c */
long duet_ioctl(struct file *file, unsigned int cmd, unsigned long arg);

/* dump.c */
bool duet_is_callers(const struct duet_task *task);
bool duet_may_see(const struct duet_task *task);
void duet_info_fill(struct duet_info *info);
int duet_dump_tasks(struct file *file, void *args, void __user *arg);
int duet_dump_nodes(struct file *file, void *args, void __user *arg);
int duet_dump_pending(struct file *file, void *args, void __user *arg);
int duet_dump_marks(struct file *file, void *args, void __user *arg);

/* delay.c, of debug builds */
enum duet_delay {
	DUET_DELAY_SPARE,	/* a run that may need a node is looked at next */
	DUET_DELAY_LOOK,	/* what was looked at is not recorded yet */
	DUET_DELAY_LOOKED,	/* a thorough verdict was made, not under RCU */
	DUET_DELAY_VERDICT,	/* a verdict was made, and is not recorded */
	DUET_DELAY_WANTED,	/* who wants it is known, and no entry made */
	DUET_DELAY_NOBODY,	/* it is recorded, and nothing looked at since */
	DUET_DELAY_FLUSHED,	/* FLUSHED is recorded, the flag not cleared */
	DUET_DELAY_MOVED,	/* a file moved, and was not decided about */
	DUET_DELAY_UNNAMED,	/* nobody listened to opens, and shall */
	DUET_DELAY_ORIGIN,	/* half of a file's directory was copied */
	DUET_DELAY_EVICTED,	/* an inode dies, and its entry has it still */
	DUET_DELAY_FREEING,	/* an unmount is in a function of ours */
	DUET_DELAY_WALKED,	/* a walk holds an entry, and looks at it next */
};

#ifdef DUET_DEBUG
void duet_delay(enum duet_delay at);
bool duet_misses(enum duet_event event);
#else
static inline void duet_delay(enum duet_delay at)
{
}

static inline bool duet_misses(enum duet_event event)
{
	return false;
}
#endif

/* check.c */
void duet_check_init(void);
void duet_check_exit(void);

/* sysfs.c */
extern const struct attribute_group *duet_groups[];
int duet_sysfs_add(struct duet_task *task);
void duet_sysfs_del(struct duet_task *task);
size_t duet_escape(char *to, size_t size, const char *name, bool word);
void duet_sysfs_changed(void);
void duet_sysfs_tasks_changed(void);
u64 duet_count(size_t offset);

/* A sum over CPUs of what there is, as it is while nothing comes or goes. */
#define DUET_LEVEL(_member) \
	((s64)duet_count(offsetof(struct duet_counts, _member)))

/*
 * The same for people. Something may be seen to go on one CPU, though it was
 * not seen to come on another: there are not less than none.
 */
static inline u64 duet_level(s64 sum)
{
	return max_t(s64, sum, 0);
}

/* main.c */
struct device *duet_dev(void);

#endif /* _DUET_H */
