// SPDX-License-Identifier: GPL-2.0
/*
 * Whether what the table says is so: debugfs, duet/check. To open the file
 * holds every entry against the page cache, run by run, under the locks that
 * order the two, and changes nothing; to read it tells what was found.
 *
 * Whoever is in the middle of something is in flight, and not a fault: ADDED
 * and FLUSHED come with the folio locked, so pages of locked folios are left
 * out, and a run that a task is still to compare itself (SYNC) is left to it.
 * What little else there is (a folio is marked dirty just before DIRTIED, a
 * scan goes on) is over at the next look.
 */
#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/kdev_t.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include "duet.h"

/* So many are told one by one, the others counted. */
#define DUET_CHECK_DIFFS	512

struct duet_diff {
	const char *what;
	dev_t dev;
	u32 gen;
	u64 ino;
	u64 run;
	u64 table;
	u64 cache;
};

struct duet_check {
	/* who has state in the table, as users of them; fixed */
	unsigned int nr_tasks;
	struct duet_task *task[DUET_MAX_TASKS];
	/* the file that is looked at */
	struct duet_file *file;
	dev_t dev;
	bool compared;
	unsigned int nr_known;
	unsigned int max_known;
	u64 *known;			/* runs that have a node */
	/* what was found */
	u64 nr_files;
	u64 nr_runs;
	u64 nr_put_off;			/* runs that a task is to compare */
	u64 nr_in_flight;		/* pages of locked folios */
	u64 nr_diffs;
	struct duet_diff diff[DUET_CHECK_DIFFS];
};

static void duet_check_differs(struct duet_check *check, const char *what,
			       u64 run, u64 table, u64 cache)
{
	if (check->nr_diffs < DUET_CHECK_DIFFS)
		check->diff[check->nr_diffs] = (struct duet_diff) {
			.what = what,
			.dev = check->dev,
			.ino = check->file->ino,
			.gen = check->file->gen,
			.run = run,
			.table = table,
			.cache = cache,
		};
	check->nr_diffs++;
}

/* The states that the file's two words are kept for, and are right by now. */
static u32 duet_check_states(const struct duet_file *file)
{
	const struct duet_task *task;
	u32 states = 0;
	unsigned int i;

	lockdep_assert_held(&file->lock);
	if (file->dead || file->stale || !file->inode)
		return 0;
	duet_for_each_task(task, i, &file->active)
		if (!test_bit(DUET_TASK_QUIET, &task->flags) &&
		    !(file->want[i].flags & (DUET_WANT_SYNC | DUET_WANT_LOST)))
			states |= task->states;
	return states;
}

/* One run of the file; empty: it was not cached when we came by. */
static void duet_check_run(struct duet_check *check,
			   struct address_space *mapping, u64 run, bool empty)
{
	u64 first = run << DUET_RUN_SHIFT;
	u64 cached = 0, dirty = 0, still;
	struct duet_file *file = check->file;
	struct duet_look look = {};
	struct duet_node *node;
	u32 states;

	XA_STATE(xas, &mapping->i_pages, first);

	rcu_read_lock();
	xas_lock_irq(&xas);
	/* As in duet_sync_locked(), and no longer: one run. */
	spin_lock(&file->lock);
	duet_look_at(&xas, first, first + DUET_RUN_PAGES - 1, &look);
	states = duet_check_states(file);
	node = duet_node_find(file, run);
	if (node) {
		cached = node->cached;
		dirty = node->dirty;
	}
	spin_unlock(&file->lock);
	xas_unlock_irq(&xas);
	rcu_read_unlock();

	if (empty && look.cached)
		return;
	if (!states) {
		/* No decision rests on these: they are counted for people. */
		if (data_race(READ_ONCE(file->nr_exists) ||
			      READ_ONCE(file->nr_modified)))
			check->nr_put_off++;
		return;
	}
	check->compared = true;
	check->nr_runs++;
	check->nr_in_flight += hweight64(look.locked);
	still = ~look.locked;
	/* Nobody keeps up what no task asks for. */
	if (states & DUET_PAGE_EXISTS && (cached ^ look.cached) & still)
		duet_check_differs(check, node ? "cached" : "missing", run,
				   cached, look.cached);
	if (states & DUET_PAGE_MODIFIED && (dirty ^ look.dirty) & still)
		duet_check_differs(check, "dirty", run, dirty, look.dirty);
}

/* Whether a task is still to look at the file, and at all its nodes. */
static bool duet_check_awaited(const struct duet_file *file)
{
	unsigned int i;

	for (i = 0; i < duet.max_tasks; i++)
		if (file->want[i].flags & DUET_WANT_SYNC)
			return true;
	return false;
}

/* Whether a task has news of the node, and is not going to be told. */
static bool duet_check_untold(const struct duet_node *node,
			      const struct duet_task *task)
{
	const unsigned long later = BIT(DUET_TASK_QUIET) |
				    BIT(DUET_TASK_RESCAN) |
				    BIT(DUET_TASK_LOST) |
				    BIT(DUET_TASK_STARVED);
	const unsigned int flags = node->file->want[task->slot].flags;
	struct duet_news news;

	return !duet_is_queued(duet_slot_seen(node, task->slot)) &&
	       !(flags & (DUET_WANT_SYNC | DUET_WANT_LOST)) &&
	       !(READ_ONCE(task->flags) & later) &&
	       duet_node_news(node, task, &news);
}

/* What can be seen of a node alone; file->lock, in steps of some nodes. */
static void duet_check_node(struct duet_node *node, void *arg)
{
	struct duet_check *check = arg;
	struct duet_file *file = node->file;
	u64 words = node->cached | node->dirty, kept = 0;
	const struct duet_task *task;
	u64 told = 0;
	unsigned int i;

	lockdep_assert_held(&file->lock);
	if (check->nr_known < check->max_known)
		check->known[check->nr_known++] = node->run;
	for (i = 0; i < duet.max_tasks; i++)
		told |= duet_slot_bits(duet_slot_seen(node, i));

	if (!file->inode && words)
		duet_check_differs(check, "gone", node->run, words, 0);
	if (file->nr_exists)
		kept |= node->cached;
	if (file->nr_modified)
		kept |= node->dirty;
	if (!node->nr_queued && !told && !kept &&
	    !duet_check_awaited(file))
		duet_check_differs(check, "idle", node->run, words, 0);
	duet_for_each_task(task, i, &file->active) {
		if (!duet_slot_is(node, i))
			duet_check_differs(check, "no slot", node->run, words,
					   told);
		if (duet_check_untold(node, task))
			duet_check_differs(check, "untold", node->run, words,
					   told);
	}
}

/* Every run that is cached, then every one that has a node. */
static int duet_check_file(struct duet_check *check, struct duet_file *file)
{
	struct address_space *mapping = NULL;
	unsigned long index = 0;
	struct duet_pin pin;
	struct inode *inode;
	unsigned int i;
	int err = 0;

	check->file = file;
	check->compared = false;
	check->nr_known = 0;
	check->max_known = duet_nr_nodes(file);
	check->known = kvmalloc_array(check->max_known ?: 1,
				      sizeof(*check->known),
				      GFP_KERNEL | __GFP_NOWARN);
	if (!check->known)
		return -ENOMEM;
	check->dev = 0;
	inode = duet_file_inode(file, &pin);
	if (inode) {
		check->dev = inode->i_sb->s_dev;
		mapping = inode->i_mapping;
	}
	while (inode && duet_next_cached(mapping, &index, NULL)) {
		duet_check_run(check, mapping, index >> DUET_RUN_SHIFT, false);
		index |= DUET_RUN_PAGES - 1;
		if (++index == 0 || fatal_signal_pending(current))
			break;
		cond_resched();
	}
	duet_file_each_node(file, duet_check_node, check);
	for (i = 0; inode && i < check->nr_known; i++) {
		if (fatal_signal_pending(current))
			break;
		duet_check_run(check, mapping, check->known[i], true);
		cond_resched();
	}
	check->nr_files += check->compared;
	if (inode)
		duet_inode_put(inode, &pin);
	kvfree(check->known);
	if (fatal_signal_pending(current))
		err = -EINTR;
	return err;
}

/* Whether the file's fs is that of one of our tasks, who keep it. */
static bool duet_check_has_fs(const struct duet_check *check,
			      const struct duet_fs *fs)
{
	unsigned int i;

	for (i = 0; i < check->nr_tasks; i++)
		if (check->task[i]->fs == fs)
			return true;
	return false;
}

/*
 * As a user of every task there is, which keeps the tables, the file systems
 * and the hook that tells of an inode's end, and does not keep a task from
 * being ended: what it had goes when we are through. duet.lock is not held.
 */
static int duet_check_all(struct duet_check *check)
{
	struct duet_file *file = NULL;
	unsigned long bucket;
	int err = 0;

	check->nr_tasks = duet_tasks_use(check->task);
	if (!check->nr_tasks)
		return 0;	/* perhaps there is no table */
	while ((file = duet_file_next(file, &bucket))) {
		if (duet_check_has_fs(check, file->fs))
			err = duet_check_file(check, file);
		if (err) {
			duet_file_release(file);
			break;
		}
		cond_resched();
	}
	duet_tasks_unuse(check->task, check->nr_tasks);
	return err;
}

/* ---- telling ---- */

static u64 duet_check_lines(const struct duet_check *check)
{
	return min_t(u64, check->nr_diffs, DUET_CHECK_DIFFS);
}

/* A line for each difference, and one for the sum. */
static void *duet_check_start(struct seq_file *m, loff_t *pos)
{
	return *pos <= duet_check_lines(m->private) ? pos : NULL;
}

static void *duet_check_next(struct seq_file *m, void *v, loff_t *pos)
{
	++*pos;
	return duet_check_start(m, pos);
}

static void duet_check_end(struct seq_file *m, void *v)
{
}

static int duet_check_show(struct seq_file *m, void *v)
{
	const struct duet_check *check = m->private;
	const u64 line = *(loff_t *)v, lines = duet_check_lines(check);
	const struct duet_diff *diff = &check->diff[line];

	if (line < lines) {
		seq_printf(m,
			   "%s dev=%u:%u ino=%llu gen=%u run=%llu table=%016llx cache=%016llx\n",
			   diff->what, MAJOR(diff->dev), MINOR(diff->dev),
			   diff->ino, diff->gen, diff->run, diff->table,
			   diff->cache);
		return 0;
	}
	if (lines < check->nr_diffs)
		seq_printf(m, "... and %llu more\n", check->nr_diffs - lines);
	seq_printf(m,
		   "%llu files, %llu runs compared, %llu differ, %llu runs put off, %llu pages in flight\n",
		   check->nr_files, check->nr_runs, check->nr_diffs,
		   check->nr_put_off, check->nr_in_flight);
	return 0;
}

static const struct seq_operations duet_check_seq = {
	.start = duet_check_start,
	.next = duet_check_next,
	.stop = duet_check_end,
	.show = duet_check_show,
};

static int duet_check_open(struct inode *inode, struct file *file)
{
	struct duet_check *check;
	int err;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	check = kvzalloc(sizeof(*check), GFP_KERNEL);
	if (!check)
		return -ENOMEM;
	err = duet_check_all(check);
	if (!err)
		err = seq_open(file, &duet_check_seq);
	if (err) {
		kvfree(check);
		return err;
	}
	((struct seq_file *)file->private_data)->private = check;
	return 0;
}

static int duet_check_release(struct inode *inode, struct file *file)
{
	struct seq_file *m = file->private_data;

	kvfree(m->private);
	return seq_release(inode, file);
}

static const struct file_operations duet_check_fops = {
	.owner = THIS_MODULE,	/* what is open keeps the module */
	.open = duet_check_open,
	.read = seq_read,
	.llseek = seq_lseek,
	.release = duet_check_release,
};

static struct dentry *duet_check_dir;

/* A kernel without debugfs goes without. */
void duet_check_init(void)
{
	duet_check_dir = debugfs_create_dir("duet", NULL);
	debugfs_create_file("check", 0400, duet_check_dir, NULL,
			    &duet_check_fops);
}

void duet_check_exit(void)
{
	debugfs_remove(duet_check_dir);
}
