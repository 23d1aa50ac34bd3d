// SPDX-License-Identifier: GPL-2.0
/*
 * How long interrupts or preemption are off in Duet: debugfs's duet_sections.
 * For one processor, under QEMU's -icount, where a tick of the TSC is an
 * instruction.
 *
 * A section begins where a build of Duet with sections.h has either off, and
 * ends where both are on again, as far as Duet is concerned. Where it ended is
 * kept. Duet's probes of tracepoints run in sections of the kernel's: each is
 * measured from a probe before it to one behind it. What an interrupt took
 * meanwhile is neither's, and is left out; so is what the kernel took to
 * allocate or to free, which is told apart.
 *
 * The kernel's own tracers (irqsoff and so on) keep one section, the longest,
 * whoever's it is, with the interrupts within it, and few kernels have them.
 */
#include <linux/cpu.h>
#include <linux/debugfs.h>
#include <linux/jhash.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/stacktrace.h>
#include <linux/tracepoint.h>
#include <linux/uaccess.h>
#include <asm/msr.h>
#include "sections.h"

#define DEPTH	8
#define STACKS	4096

/* The section that Duet is in. */
static struct {
	unsigned int depth;
	u64 begin;
} now;

/* Ticks that are not Duet's, and how deep we are in an interrupt. */
static struct {
	unsigned int depth;
	u64 since;
	u64 ticks;
} away;

/* The same where the kernel allocates or frees. */
static struct {
	u64 begin;
	u64 longest;
	u64 count;
} allocation;

struct stack {
	unsigned int nr;	/* 0: none */
	unsigned long at[DEPTH];
	u64 count;
	u64 longest;
};

static struct stack *stacks;
static u64 lost;		/* for want of room */

/* Shorter sections are not kept. */
static unsigned long least = ULONG_MAX;

/* Duet's probes of tracepoints. */
static struct {
	const char *name;
	u64 begin;
	u64 count;
	u64 sum;
	u64 longest;
} probes[] = {
	{ "mm_filemap_add_to_page_cache" },
	{ "mm_filemap_delete_from_page_cache" },
	{ "writeback_dirty_folio" },
};

static void keep(u64 ticks)
{
	unsigned long at[DEPTH];
	unsigned int nr, i, slot;

	/* Without ourselves. */
	nr = stack_trace_save(at, DEPTH, 2);
	slot = jhash(at, nr * sizeof(at[0]), 0);
	for (i = 0; i < STACKS; i++) {
		struct stack *stack = &stacks[(slot + i) % STACKS];

		if (!stack->nr) {
			stack->nr = nr;
			memcpy(stack->at, at, nr * sizeof(at[0]));
		} else if (stack->nr != nr ||
			   memcmp(stack->at, at, nr * sizeof(at[0]))) {
			continue;
		}
		stack->count++;
		stack->longest = max(stack->longest, ticks);
		return;
	}
	lost++;
}

/* Ticks, without those that are not Duet's. No interrupt comes between. */
static u64 ours(void)
{
	unsigned long flags;
	u64 ticks;

	raw_local_irq_save(flags);
	ticks = rdtsc() - away.ticks;
	raw_local_irq_restore(flags);
	return ticks;
}

/* Those since then are not Duet's, either; how many they are. */
static u64 put_away(u64 since)
{
	unsigned long flags;
	u64 ticks;

	raw_local_irq_save(flags);
	ticks = rdtsc() - away.ticks - since;
	away.ticks += ticks;
	raw_local_irq_restore(flags);
	return ticks;
}

void sections_enter(void)
{
	if (!now.depth++)
		now.begin = ours();
}
EXPORT_SYMBOL_GPL(sections_enter);

void sections_leave(void)
{
	u64 end;

	/* What began elsewhere: sections.h does not know how. */
	if (WARN_ON_ONCE(!now.depth) || --now.depth)
		return;
	end = ours();
	if (end - now.begin < least)
		return;
	/* To unwind takes thousands, perhaps within a probe. */
	keep(end - now.begin);
	put_away(end);
}
EXPORT_SYMBOL_GPL(sections_leave);

void sections_out(void)
{
	allocation.begin = ours();
}
EXPORT_SYMBOL_GPL(sections_out);

void sections_back(void)
{
	u64 ticks = put_away(allocation.begin);

	allocation.count++;
	allocation.longest = max(allocation.longest, ticks);
}
EXPORT_SYMBOL_GPL(sections_back);

static void interrupt_entry(void *data)
{
	if (!away.depth++)
		away.since = rdtsc();
}

static void interrupt_exit(void *data)
{
	if (away.depth && !--away.depth)
		away.ticks += rdtsc() - away.since;
}

static void probe_before(void *data)
{
	typeof(&probes[0]) probe = data;

	probe->begin = ours();
}

static void probe_behind(void *data)
{
	typeof(&probes[0]) probe = data;
	u64 ticks = ours() - probe->begin;

	/* Attached between the two. */
	if (!probe->begin)
		return;
	probe->count++;
	probe->sum += ticks;
	probe->longest = max(probe->longest, ticks);
}

/* What is attached where; a probe may take less than it is told. */
struct point {
	const char *name;
	void *probe;
	int prio;		/* Duet's have the default, 10 */
	void *data;
	struct tracepoint *tp;
	bool attached;
};

#define INTERRUPT(which) \
	{ which "_entry", interrupt_entry }, { which "_exit", interrupt_exit }
#define PROBE(i, which) \
	{ which, probe_before, 20, &probes[i] }, \
	{ which, probe_behind, 5, &probes[i] }

static struct point points[] = {
	INTERRUPT("local_timer"),
	INTERRUPT("reschedule"),
	INTERRUPT("call_function"),
	INTERRUPT("call_function_single"),
	INTERRUPT("irq_work"),
	INTERRUPT("softirq"),
	INTERRUPT("irq_handler"),
	PROBE(0, "mm_filemap_add_to_page_cache"),
	PROBE(1, "mm_filemap_delete_from_page_cache"),
	PROBE(2, "writeback_dirty_folio"),
};

static void find(struct tracepoint *tp, void *data)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(points); i++)
		if (!strcmp(points[i].name, tp->name))
			points[i].tp = tp;
}

static void detach(void)
{
	unsigned int i = ARRAY_SIZE(points);

	while (i--) {
		if (!points[i].attached)
			continue;
		tracepoint_probe_unregister(points[i].tp, points[i].probe,
					    points[i].data);
		points[i].attached = false;
	}
	tracepoint_synchronize_unregister();
}

static int attach(void)
{
	unsigned int i;
	int err;

	for (i = 0; i < ARRAY_SIZE(points); i++) {
		struct point *point = &points[i];

		err = -ENOENT;
		if (point->tp)
			err = tracepoint_probe_register_prio(point->tp,
							     point->probe,
							     point->data,
							     point->prio ?: 10);
		if (err) {
			pr_err("%s: error %d\n", point->name, err);
			detach();
			return err;
		}
		point->attached = true;
	}
	return 0;
}

static int show(struct seq_file *m, void *v)
{
	unsigned int i, j;

	for (i = 0; i < ARRAY_SIZE(probes); i++)
		seq_printf(m, "probe %s %llu %llu %llu\n", probes[i].name,
			   probes[i].longest, probes[i].count, probes[i].sum);
	for (i = 0; i < STACKS; i++) {
		if (!stacks[i].nr)
			continue;
		seq_printf(m, "section %llu %llu", stacks[i].longest,
			   stacks[i].count);
		for (j = 0; j < stacks[i].nr; j++)
			seq_printf(m, "%c%pB", j ? ';' : ' ',
				   (void *)stacks[i].at[j]);
		seq_putc(m, '\n');
	}
	seq_printf(m, "allocation %llu %llu\n", allocation.longest,
		   allocation.count);
	seq_printf(m, "lost %llu\n", lost);
	return 0;
}

static int open(struct inode *inode, struct file *file)
{
	return single_open_size(file, show, NULL, 4 << 20);
}

/* The shortest section that is to be kept. Begins anew. */
static ssize_t set(struct file *file, const char __user *buf, size_t count,
		   loff_t *pos)
{
	unsigned long ticks;
	unsigned int i;
	int err;

	err = kstrtoul_from_user(buf, count, 10, &ticks);
	if (err)
		return err;
	/* One processor, which is here: nothing is kept meanwhile. */
	WRITE_ONCE(least, ULONG_MAX);
	memset(stacks, 0, STACKS * sizeof(*stacks));
	lost = 0;
	allocation.longest = 0;
	allocation.count = 0;
	for (i = 0; i < ARRAY_SIZE(probes); i++) {
		probes[i].count = 0;
		probes[i].sum = 0;
		probes[i].longest = 0;
	}
	WRITE_ONCE(least, ticks);
	return count;
}

static const struct file_operations fops = {
	.owner = THIS_MODULE,
	.open = open,
	.read = seq_read,
	.write = set,
	.llseek = seq_lseek,
	.release = single_release,
};

static struct dentry *debugfs;

static int __init sections_init(void)
{
	int err;

	if (num_online_cpus() != 1)
		return -EINVAL;
	stacks = kvcalloc(STACKS, sizeof(*stacks), GFP_KERNEL);
	if (!stacks)
		return -ENOMEM;
	for_each_kernel_tracepoint(find, NULL);
	err = attach();
	if (err) {
		kvfree(stacks);
		return err;
	}
	debugfs = debugfs_create_file("duet_sections", 0600, NULL, NULL, &fops);
	return 0;
}
module_init(sections_init);

static void __exit sections_exit(void)
{
	debugfs_remove(debugfs);
	detach();
	kvfree(stacks);
}
module_exit(sections_exit);

MODULE_DESCRIPTION("How long interrupts or preemption are off where Duet runs");
MODULE_LICENSE("GPL");
