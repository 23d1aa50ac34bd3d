// SPDX-License-Identifier: GPL-2.0
/*
 * What happened to the pages of the files that somebody wants: one node for
 * each aligned run of 64 pages, in a hash, one copy for all tasks.
 *
 * Everything of a file and of its nodes is under file->lock. The lock is
 * taken in the probes with xa_lock of the same file's page cache held, which
 * the kernel takes in hard interrupts, so interrupts are off. Two CPUs meet
 * on it only where they would meet on that xa_lock. No section under it is
 * longer than one folio or duet_batch() nodes.
 *
 * A bucket is looked at under its own bit lock, which is why a node can be
 * freed at once. Nothing is locked within, and chains are short.
 */
#include <linux/bitmap.h>
#include <linux/hash.h>
#include <linux/mm.h>
#include <linux/random.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include "duet.h"
#include "trace.h"

/* ---- memory ---- */

/*
 * Bytes that a CPU took of the limit ahead of what it charges next, so that
 * CPUs do not meet at each file: duet.charged has them as well. Any CPU may
 * take them back, so they are atomic, on a line that is nearly always its own.
 */
static DEFINE_PER_CPU(atomic_long_t, duet_stock);

#define DUET_STOCK_BYTES	(32L << 10)

/* They were taken back, and there was no room for more: each byte counts. */
static bool duet_stocks_empty __read_mostly;

/* Adds to what is charged if the limit allows. */
static bool duet_charge_all(unsigned long bytes)
{
	long charged = atomic_long_read(&duet.charged);

	/*
	 * Writes nothing where there is no room: all CPUs come here then. Again
	 * only where another CPU got on meanwhile.
	 */
	do {
		if (charged + bytes > READ_ONCE(duet.limit))
			return false;
	} while (!atomic_long_try_cmpxchg(&duet.charged, &charged,
					  charged + bytes));
	return true;
}

/*
 * Whether there may be so many bytes of the limit of all tasks: they are, or a
 * CPU has some that can be taken back. In a probe.
 */
bool duet_has_room(unsigned long bytes)
{
	return atomic_long_read(&duet.charged) + bytes <=
	       READ_ONCE(duet.limit) || !READ_ONCE(duet_stocks_empty);
}

static void duet_stock_add(atomic_long_t *stock, long bytes)
{
	atomic_long_add(bytes, stock);
	smp_mb__after_atomic();	/* a drain sees it, or we see that it began */
	if (READ_ONCE(duet_stocks_empty))
		WRITE_ONCE(duet_stocks_empty, false);
}

/*
 * Takes back what the CPUs have. In a probe as well: it waits for nobody, and
 * the next to come finds nothing to take until a CPU has some again.
 */
void duet_stocks_drain(void)
{
	long bytes = 0;
	int cpu;

	WRITE_ONCE(duet_stocks_empty, true);
	smp_mb();		/* pairs with the one in duet_stock_add() */
	for_each_possible_cpu(cpu) {
		atomic_long_t *stock = per_cpu_ptr(&duet_stock, cpu);

		if (atomic_long_read(stock))
			bytes += atomic_long_xchg(stock, 0);
	}
	if (bytes)
		atomic_long_sub(bytes, &duet.charged);
}

static noinline bool duet_charge_slowly(atomic_long_t *stock,
					unsigned long bytes)
{
	if (duet_charge_all(bytes + DUET_STOCK_BYTES)) {
		duet_stock_add(stock, DUET_STOCK_BYTES);
		return true;
	}
	if (duet_charge_all(bytes))
		return true;
	if (READ_ONCE(duet_stocks_empty))
		return false;
	duet_stocks_drain();
	return duet_charge_all(bytes);
}

/*
 * Takes bytes of the limit of all tasks; false when that would exceed it, or
 * when what is missing is on its way back from a CPU that had it.
 */
bool duet_charge(unsigned long bytes)
{
	/* Perhaps another CPU's by now: it is atomic. */
	atomic_long_t *stock = raw_cpu_ptr(&duet_stock);
	long have = atomic_long_read(stock);

	/* Again only where somebody else got on meanwhile. */
	while (have >= (long)bytes)
		if (atomic_long_try_cmpxchg(stock, &have, have - (long)bytes))
			return true;
	return duet_charge_slowly(stock, bytes);
}

void duet_uncharge(unsigned long bytes)
{
	atomic_long_t *stock = raw_cpu_ptr(&duet_stock);
	long have;

	if (READ_ONCE(duet_stocks_empty)) {
		atomic_long_sub(bytes, &duet.charged);
		return;
	}
	duet_stock_add(stock, bytes);
	/* Not each time: who takes and gives in turns would meet others. */
	have = atomic_long_read(stock);
	if (have > 2 * DUET_STOCK_BYTES &&
	    atomic_long_try_cmpxchg(stock, &have, DUET_STOCK_BYTES))
		atomic_long_sub(have - DUET_STOCK_BYTES, &duet.charged);
}

/*
 * What is in use: what is charged and in no stock. Exact while nothing comes
 * or goes, and never more than the limit.
 */
long duet_bytes(void)
{
	long stocks = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		stocks += atomic_long_read(per_cpu_ptr(&duet_stock, cpu));
	return atomic_long_read(&duet.charged) - stocks;
}

/*
 * Page 0 of every file must spread, and so must the runs of one, whichever
 * somebody chooses: so they are multiplied by what nobody knows. Buckets are
 * told to people, and no address is to be found out from them: none is in.
 */
static struct hlist_bl_head *duet_bucket(const struct duet_file *file, u64 run)
{
	u64 key = run * duet.hash_key + ((u64)file->salt << 32);

	/* Or the keys of what is added up would go on adding up. */
	key ^= key >> 32;
	return &duet.node_buckets[hash_64(key, duet.node_bits)];
}

struct hlist_bl_head *duet_node_bucket(unsigned long i)
{
	return &duet.node_buckets[i];
}

int duet_table_start(void)
{
	unsigned long nodes = duet.limit / duet.node_size;

	/* Odd: so that no bit of what they are multiplied with is lost. */
	duet.hash_key = get_random_u64() | 1;
	duet.salt_key = get_random_u64() | 1;
	/* As many buckets as there can be nodes: chains stay short. */
	duet.node_bits = clamp_t(unsigned int, ilog2(nodes | 1) + 1, 10, 24);
	/* Zeroed heads are empty lists. */
	duet.node_buckets = kvcalloc(1UL << duet.node_bits,
				     sizeof(*duet.node_buckets),
				     GFP_KERNEL | __GFP_NOWARN);
	if (!duet.node_buckets)
		return -ENOMEM;
	duet.node_cache = kmem_cache_create("duet_node", duet.node_size, 0, 0,
					    NULL);
	/* Nothing is taken of it where a first node has all the slots. */
	duet.more_cache = kmem_cache_create("duet_slots",
					    max(duet.more_size, 1U), 0, 0,
					    NULL);
	if (!duet.node_cache || !duet.more_cache) {
		duet_table_stop();
		return -ENOMEM;
	}
	return 0;
}

void duet_table_stop(void)
{
	kmem_cache_destroy(duet.more_cache);
	kmem_cache_destroy(duet.node_cache);
	kvfree(duet.node_buckets);
}

/* Measures every chain. Looks at every bucket: for people. */
void duet_table_measure(struct duet_table *table)
{
	struct hlist_bl_node *pos;
	unsigned long i, flags;

	lockdep_assert_held(&duet.lock);
	table->buckets = duet.on ? 1UL << duet.node_bits : 0;
	table->nodes = duet_level(DUET_LEVEL(nodes));
	for (i = 0; i < table->buckets; i++) {
		struct hlist_bl_head *bucket = &duet.node_buckets[i];
		struct duet_node *node;
		unsigned int len = 0;

		/* As in duet_walk_buckets(). */
		if (!data_race(hlist_bl_empty(bucket))) {
			/* Taken in probes, hence with interrupts off. */
			local_irq_save(flags);
			duet_bucket_lock(bucket);
			hlist_bl_for_each_entry(node, pos, bucket, hash)
				len++;
			duet_bucket_unlock(bucket);
			local_irq_restore(flags);
		}
		table->longest = max(table->longest, len);
		table->chains[min(len, DUET_CHAIN_LENGTHS - 1)]++;
		if (i % 1024 == 0)
			cond_resched();
	}
}

/*
 * Memory, zeroed, that counts against the limit. In a probe: GFP_NOWAIT, may
 * fail, and takes nothing of the reserves.
 */
void *duet_alloc(struct kmem_cache *cache, unsigned int size, gfp_t gfp,
		 enum duet_drop *why)
{
	void *memory;

	if (!duet_charge(size)) {
		*why = DUET_DROP_LIMIT;
		return NULL;
	}
	memory = kmem_cache_zalloc(cache, gfp);
	if (!memory) {
		duet_uncharge(size);
		*why = DUET_DROP_NOMEM;
	}
	return memory;
}

struct duet_node *duet_node_alloc(gfp_t gfp, enum duet_drop *why)
{
	struct duet_node *node = duet_alloc(duet.node_cache, duet.node_size,
					    gfp, why);

	if (node)
		node->more = &node->slot[DUET_FIRST_SLOTS];
	return node;
}

/* A node that is in no file. */
void duet_node_free(struct duet_node *node)
{
	duet_uncharge(duet.node_size);
	kmem_cache_free(duet.node_cache, node);
}

const struct duet_slot duet_no_slot;

/*
 * Gives the node in a file's entry all slots, which it keeps, if it has not
 * got them; file->lock. Once a file, and only where there are more tasks than
 * DUET_FIRST_SLOTS. False without memory.
 */
bool duet_first_grow(struct duet_file *file, enum duet_drop *why)
{
	struct duet_node *node = duet_first_node(file);
	struct duet_slot *more;

	lockdep_assert_held(&file->lock);
	if (node->more)
		return true;
	/* In a probe: as a node, in duet_node_make(). */
	more = duet_alloc(duet.more_cache, duet.more_size, DUET_GFP_PROBE, why);
	if (!more)
		return false;
	/* A dump looks without the lock, and sees what it points to. */
	smp_store_release(&node->more, more);
	return true;
}

struct duet_node *duet_node_find(struct duet_file *file, u64 run)
{
	struct hlist_bl_head *bucket;
	struct hlist_bl_node *pos;
	struct duet_node *node;

	lockdep_assert_held(&file->lock);
	node = file->last;
	if (node && node->run == run)
		return node;
	if (file->nr_nodes <= !!node)
		return NULL;
	bucket = duet_bucket(file, run);
	/* Below file->lock, interrupts are off. */
	duet_bucket_lock(bucket);
	hlist_bl_for_each_entry(node, pos, bucket, hash)
		if (node->file == file && node->run == run)
			break;
	duet_bucket_unlock(bucket);
	if (!pos)
		return NULL;
	file->last = node;
	return node;
}

void duet_node_add(struct duet_file *file, u64 run, struct duet_node *node)
{
	struct hlist_bl_head *bucket = duet_bucket(file, run);

	lockdep_assert_held(&file->lock);
	node->file = file;
	node->run = run;
	list_add_tail(&node->in_file, &file->nodes);
	file->nr_nodes++;
	file->last = node;
	this_cpu_inc(duet_counts.nodes);
	/* Below file->lock, interrupts are off. */
	duet_bucket_lock(bucket);
	hlist_bl_add_head(&node->hash, bucket);
	duet_bucket_unlock(bucket);
}

/* What is so now, as far as somebody asks; the rest is not kept. */
void duet_node_set(struct duet_node *node, u64 cached, u64 dirty)
{
	const struct duet_file *file = node->file;

	lockdep_assert_held(&file->lock);
	node->cached = file->nr_exists ? cached : 0;
	node->dirty = file->nr_modified ? dirty : 0;
}

/* Forgets what nobody keeps up: what was so before may not be so now. */
void duet_node_trim(struct duet_node *node)
{
	duet_node_set(node, node->cached, node->dirty);
}

/* Takes a node away that says nothing any more. */
bool duet_node_gc(struct duet_node *node)
{
	struct duet_file *file = node->file;
	struct hlist_bl_head *bucket;
	unsigned int i, nr;

	lockdep_assert_held(&file->lock);
	if (node->nr_queued || node->cached || node->dirty)
		return false;
	/* Slots of no task say nothing: see duet_count_slots(). */
	nr = READ_ONCE(duet.nr_slots);
	for (i = 0; i < nr; i++)
		if (duet_slot_bits(duet_slot_seen(node, i)))
			return false;
	bucket = duet_bucket(file, node->run);
	/* Below file->lock, interrupts are off. */
	duet_bucket_lock(bucket);
	hlist_bl_del(&node->hash);
	duet_bucket_unlock(bucket);
	list_del(&node->in_file);
	file->nr_nodes--;
	if (file->last == node)
		file->last = NULL;
	this_cpu_dec(duet_counts.nodes);
	if (node == duet_first_node(file))
		node->file = NULL;	/* and all zero, as it was at first */
	else
		duet_node_free(node);
	return true;
}

/*
 * So many nodes are looked at in one section, and so many slots of theirs:
 * where there are more tasks than sixteen, fewer nodes. Most of it is what the
 * kernel takes to free a node.
 */
#define DUET_BATCH		16U
#define DUET_BATCH_SLOTS	256U

unsigned int duet_batch(void)
{
	unsigned int slots = max(READ_ONCE(duet.nr_slots), 1U);

	return clamp(DUET_BATCH_SLOTS / slots, 1U, DUET_BATCH);
}

/* A walk over a file's nodes, in steps. */
struct duet_walk {
	struct duet_file *file;
	unsigned int left;		/* of the nodes that there were at first */
	struct duet_node place;		/* in the list, a node of no file */
};

/*
 * The next nodes. file->lock has interrupts off, and so RCU lets nothing go
 * that fn finds in duet.task[].
 */
static bool duet_walk_step(struct duet_walk *walk,
			   void (*fn)(struct duet_node *node, void *arg),
			   void *arg)
{
	struct list_head *place = &walk->place.in_file;
	struct duet_file *file = walk->file;
	unsigned int batch = duet_batch();
	unsigned long flags;
	bool more;

	/* As in every probe: see the top. */
	spin_lock_irqsave(&file->lock, flags);
	if (list_empty(place)) {
		/* New ones are added at the end: these are the first to come. */
		walk->left = file->nr_nodes;
		list_add(place, &file->nodes);
	}
	while (walk->left && !list_is_last(place, &file->nodes)) {
		struct duet_node *node = list_next_entry(&walk->place, in_file);

		if (!batch--)
			break;
		list_move(place, &node->in_file);
		if (!node->file)	/* another walk's place */
			continue;
		walk->left--;
		fn(node, arg);
	}
	more = walk->left && !list_is_last(place, &file->nodes);
	if (!more)
		list_del(place);
	spin_unlock_irqrestore(&file->lock, flags);
	return more;
}

/*
 * Calls fn for every node that the file has now, with file->lock held, in
 * steps of duet_batch(), between which whoever waits for the CPU has it. Nodes
 * that come meanwhile may or may not be seen. fn may free its node. The caller
 * keeps the file (a hold). Walks do not mind each other: each has its place in
 * the list.
 */
void duet_file_each_node(struct duet_file *file,
			 void (*fn)(struct duet_node *node, void *arg),
			 void *arg)
{
	struct duet_walk walk = { .file = file };

	might_sleep();
	INIT_LIST_HEAD(&walk.place.in_file);
	while (duet_walk_step(&walk, fn, arg))
		cond_resched();
}

/*
 * The same in a function that ftrace calls where it could sleep. Preemption is
 * off if there are other tracers. Without CONFIG_PREEMPTION a trampoline of
 * ftrace is freed though somebody sleeps that came from it.
 */
void duet_file_each_node_traced(struct duet_file *file,
				void (*fn)(struct duet_node *node, void *arg),
				void *arg)
{
	struct duet_walk walk = { .file = file };

	INIT_LIST_HEAD(&walk.place.in_file);
	while (duet_walk_step(&walk, fn, arg))
		if (IS_ENABLED(CONFIG_PREEMPTION) && preemptible())
			cond_resched();
}

/* ---- what a task has to be told ---- */

/* First mark of a file for this task: puts it where the reader looks. */
void duet_queue_file(struct duet_file *file, struct duet_task *task)
{
	struct duet_want *want = &file->want[task->slot];

	lockdep_assert_held(&file->lock);
	if (want->flags & DUET_WANT_QUEUED)
		return;
	want->flags |= DUET_WANT_QUEUED;
	file->holds++;
	atomic_long_add(duet.file_size, &task->pending);
	llist_add(&want->queue, &task->queue);
	duet_task_wake(task);
}

void duet_queue_node(struct duet_node *node, struct duet_task *task)
{
	struct duet_file *file = node->file;
	struct duet_want *want = &file->want[task->slot];
	struct duet_slot *slot = duet_slot_of(node, task->slot);

	lockdep_assert_held(&file->lock);
	if (!duet_is_queued(slot)) {
		slot->next = want->pending ?: DUET_LIST_END;
		want->pending = node;
		node->nr_queued++;
		atomic_long_add(duet.node_size, &task->pending);
	}
	duet_queue_file(file, task);
}

void duet_task_drop(struct duet_task *task, enum duet_drop why)
{
	this_cpu_inc(duet_counts.drops[why]);
	this_cpu_inc(task->counts->drops[why]);
}

/* How often the task was not told something, for a reason. */
long duet_drops_for(const struct duet_task *task, enum duet_drop why)
{
	long sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(per_cpu_ptr(task->counts, cpu)->drops[why]);
	return sum;
}

/* Entries of files that it is active in. */
long duet_files_of(const struct duet_task *task)
{
	long sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(per_cpu_ptr(task->counts, cpu)->files);
	return max(sum, 0L);	/* as duet_level() */
}

/* How often the task was not told something, for any reason. */
long duet_drops(const struct duet_task *task)
{
	long sum = 0;
	unsigned int why;

	for (why = 0; why < DUET_NR_DROPS; why++)
		sum += duet_drops_for(task, why);
	return sum;
}

/* Writes nothing where it is set: all CPUs come here while a task is full. */
static void duet_task_set(struct duet_task *task, unsigned int flag)
{
	if (!test_bit(flag, &task->flags))
		set_bit(flag, &task->flags);
}

/*
 * Something was lost, we do not even know of which file. In a probe. Who
 * needs the truth looks himself, but where that had no room either it would
 * look for ever: then it is told.
 */
void duet_task_lost(struct duet_task *task, enum duet_drop why)
{
	bool starved = test_bit(DUET_TASK_STARVED, &task->flags);

	duet_task_drop(task, why);
	trace_duet_overflow(task, 0, why);
	if (task->events || starved)
		duet_task_set(task, DUET_TASK_LOST);
	if (task->states && !starved)
		duet_task_set(task, DUET_TASK_RESCAN);
	duet_task_wake(task);
}

/* Something of the file was lost: who needs the truth looks himself. */
void duet_want_lost(struct duet_file *file, struct duet_task *task,
		    enum duet_drop why)
{
	struct duet_want *want = &file->want[task->slot];

	lockdep_assert_held(&file->lock);
	if (!(want->flags & DUET_WANT_QUEUED) && duet_is_full(task)) {
		duet_task_lost(task, why);
		return;
	}
	duet_task_drop(task, why);
	trace_duet_overflow(task, file->ino, why);
	if (task->events)
		want->flags |= DUET_WANT_LOST;
	if (task->states)
		want->flags |= DUET_WANT_SYNC;
	duet_queue_file(file, task);
}

/* What the task has to be told of the node, or-ed and one by one. */
u64 duet_node_news(const struct duet_node *node, const struct duet_task *task,
		   struct duet_news *news)
{
	const u64 *bits = duet_slot_seen(node, task->slot)->bits;
	bool left = node->file->want[task->slot].flags & DUET_WANT_LEFT;
	u64 cached = left ? 0 : node->cached;
	u64 dirty = left ? 0 : node->dirty;
	u64 *out = news->bits;

	if (task->states & DUET_PAGE_EXISTS) {
		out[DUET_EVENT_ADDED] = cached & ~bits[DUET_EVENT_ADDED];
		out[DUET_EVENT_REMOVED] = bits[DUET_EVENT_ADDED] & ~cached;
	} else {
		out[DUET_EVENT_ADDED] = bits[DUET_EVENT_ADDED];
		out[DUET_EVENT_REMOVED] = bits[DUET_EVENT_REMOVED];
	}
	if (task->states & DUET_PAGE_MODIFIED) {
		out[DUET_EVENT_DIRTY] = dirty & ~bits[DUET_EVENT_DIRTY];
		out[DUET_EVENT_FLUSHED] = bits[DUET_EVENT_DIRTY] & ~dirty;
	} else {
		out[DUET_EVENT_DIRTY] = bits[DUET_EVENT_DIRTY];
		out[DUET_EVENT_FLUSHED] = bits[DUET_EVENT_FLUSHED];
	}
	return out[DUET_EVENT_ADDED] | out[DUET_EVENT_REMOVED] |
	       out[DUET_EVENT_DIRTY] | out[DUET_EVENT_FLUSHED];
}

/*
 * The node was brought in line with the page cache: whoever has news of it for
 * that, but one task, is told. file->lock.
 */
void duet_node_announce(struct duet_node *node, const struct duet_task *but)
{
	struct duet_file *file = node->file;
	struct duet_task *task;
	struct duet_news news;
	unsigned int i;

	lockdep_assert_held(&file->lock);
	duet_for_each_task(task, i, &file->active) {
		if (task == but || duet_is_queued(duet_slot_seen(node, i)) ||
		    !duet_node_news(node, task, &news))
			continue;
		if (duet_is_full(task))
			duet_want_lost(file, task, DUET_DROP_TASK_LIMIT);
		else
			duet_queue_node(node, task);
	}
}

/* The task has been told its news of these pages of the node. */
void duet_node_told(struct duet_node *node, const struct duet_task *task,
		    u64 pages)
{
	u64 *bits = duet_slot_of(node, task->slot)->bits;
	bool left = node->file->want[task->slot].flags & DUET_WANT_LEFT;
	unsigned int i;

	lockdep_assert_held(&node->file->lock);
	for (i = 0; i < DUET_NR_EVENTS; i++)
		bits[i] &= ~pages;
	if (left)
		return;
	if (task->states & DUET_PAGE_EXISTS)
		bits[DUET_EVENT_ADDED] |= node->cached & pages;
	if (task->states & DUET_PAGE_MODIFIED)
		bits[DUET_EVENT_DIRTY] |= node->dirty & pages;
}

/* The number of pages from first on that are in a set without a gap. */
static unsigned int duet_run_length(u64 set, unsigned int first)
{
	set = ~(set >> first);
	/* Zeros came in from above, so only a whole word has none. */
	return set ? __ffs64(set) : DUET_RUN_PAGES;
}

/* What is news of one page, and which other pages in left have the same. */
static u16 duet_news_of(const struct duet_news *news, u64 left,
			unsigned int page, u64 *same)
{
	u16 state = 0;
	unsigned int i;

	*same = left;
	for (i = 0; i < DUET_NR_EVENTS; i++) {
		u64 bits = news->bits[i];

		if (bits >> page & 1) {
			state |= DUET_EVENT_BIT(i);
			*same &= bits;
		} else {
			*same &= ~bits;
		}
	}
	return state;
}

/*
 * Makes items of the pages in left that are news, at most max, and takes
 * those pages out of left. Pages that follow each other with the same news
 * are one item for a task that asked for that.
 */
unsigned int duet_news_items(const struct duet_node *node,
			     const struct duet_task *task,
			     const struct duet_news *news, u64 *left,
			     struct duet_item *items, unsigned int max)
{
	const bool ranges = task->regflags & DUET_REGISTER_RANGES;
	struct duet_item item = {
		.uuid.ino = node->file->ino,
		.uuid.gen = node->file->gen,
		.uuid.tid = task->slot + 1,
	};
	u64 base = node->run << DUET_RUN_SHIFT;
	u64 pages = *left, same = 0;
	unsigned int n = 0;

	while (pages && n < max) {
		unsigned int first = __ffs64(pages);

		/* Most often all pages of a node have the same news. */
		if (unlikely(!(same >> first & 1)))
			item.state = duet_news_of(news, pages, first, &same);
		item.idx = base + first;
		if (ranges)
			item.nr = duet_run_length(same, first);
		items[n++] = item;
		if (item.nr > 1)
			pages &= ~(GENMASK_ULL(item.nr - 1, 0) << first);
		else
			pages &= pages - 1;
	}
	*left = pages;
	return n;
}
