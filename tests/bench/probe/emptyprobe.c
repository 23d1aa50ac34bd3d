// SPDX-License-Identifier: GPL-2.0
/*
 * The floor: probes that do nothing, where Duet's do something.
 *
 * The parameter hooks chooses: 1 added, 2 removed, 4 dirty, 8 flushed, or-ed; all by default.
 */
#include <linux/ftrace.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/tracepoint.h>
#include <linux/writeback.h>

static unsigned int hooks = 15;
module_param(hooks, uint, 0444);
MODULE_PARM_DESC(hooks, "1 added, 2 removed, 4 dirty, 8 flushed, or-ed");

static void empty_folio(void *data, struct folio *folio)
{
}

static void empty_dirty(void *data, struct folio *folio,
			struct address_space *mapping)
{
}

static void empty_function(unsigned long ip, unsigned long parent_ip,
			   struct ftrace_ops *ops, struct ftrace_regs *fregs)
{
}

static struct ftrace_ops empty_ops = { .func = empty_function };

static struct {
	const char *name;
	void *probe;
	struct tracepoint *tp;
} points[] = {
	{ "mm_filemap_add_to_page_cache", empty_folio },
	{ "mm_filemap_delete_from_page_cache", empty_folio },
	{ "writeback_dirty_folio", empty_dirty },
};

static void find_point(struct tracepoint *tp, void *data)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(points); i++)
		if (!strcmp(points[i].name, tp->name))
			points[i].tp = tp;
}

static void detach(unsigned int which)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(points); i++)
		if (which & BIT(i))
			tracepoint_probe_unregister(points[i].tp,
						    points[i].probe, NULL);
	if (which & BIT(ARRAY_SIZE(points)))
		unregister_ftrace_function(&empty_ops);
	tracepoint_synchronize_unregister();
}

static int __init emptyprobe_init(void)
{
	int i, err;

	for_each_kernel_tracepoint(find_point, NULL);
	for (i = 0; i < ARRAY_SIZE(points); i++) {
		if (!(hooks & BIT(i)))
			continue;
		err = points[i].tp ? tracepoint_probe_register(points[i].tp,
					points[i].probe, NULL) : -ENOENT;
		if (err) {
			detach(hooks & (BIT(i) - 1));
			return err;
		}
	}
	if (hooks & BIT(i)) {
		err = ftrace_set_filter_ip(&empty_ops,
			(unsigned long)folio_clear_dirty_for_io, 0, 0);
		if (!err)
			err = register_ftrace_function(&empty_ops);
		if (err) {
			detach(hooks & (BIT(i) - 1));
			return err;
		}
	}
	return 0;
}
module_init(emptyprobe_init);

static void __exit emptyprobe_exit(void)
{
	detach(hooks);
}
module_exit(emptyprobe_exit);

MODULE_DESCRIPTION("Empty probes on the page cache, to compare with");
MODULE_LICENSE("GPL");
