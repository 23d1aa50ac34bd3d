// SPDX-License-Identifier: GPL-2.0
/*
 * Where the kernel tells us: three tracepoints, and two exported functions
 * whose entry is traced. Each is attached while a task needs it, and only
 * then. Nothing here keeps a folio: migration swaps folios without a word.
 */
#include <linux/device.h>
#include <linux/ftrace.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/tracepoint.h>
#include <linux/writeback.h>
#include "compat.h"
#include "duet.h"

/* After the folio was inserted, no lock but the folio's held. */
static void duet_probe_added(void *data, struct folio *folio)
{
	duet_page_event(folio, folio->mapping, DUET_PAGE_ADDED);
}

/* Before the folio is removed, xa_lock held, interrupts off. */
static void duet_probe_removed(void *data, struct folio *folio)
{
	duet_page_event(folio, folio->mapping, DUET_PAGE_REMOVED);
}

/* After the folio was marked dirty, xa_lock held, interrupts off. */
static void duet_probe_dirtied(void *data, struct folio *folio,
			       struct address_space *mapping)
{
	duet_page_event(folio, mapping, DUET_PAGE_DIRTY);
}

/*
 * Entry of folio_clear_dirty_for_io(), folio locked, preemptible: write-back
 * begins. It is called for clean folios as well (btrfs), which are no event.
 */
static void duet_enter_clear_dirty(unsigned long ip, unsigned long parent_ip,
				   struct ftrace_ops *ops,
				   struct ftrace_regs *fregs)
{
	struct folio *folio = duet_ftrace_arg0(fregs);
	struct address_space *mapping = folio->mapping;

	if (mapping && folio_test_dirty(folio))
		duet_page_event(folio, mapping, DUET_PAGE_FLUSHED);
}

/* Entry of clear_inode(): every page is gone, the inode follows. */
static void duet_enter_clear_inode(unsigned long ip, unsigned long parent_ip,
				   struct ftrace_ops *ops,
				   struct ftrace_regs *fregs)
{
	duet_inode_evicted(duet_ftrace_arg0(fregs));
}

/*
 * Neither handler calls the function that it traces, so ftrace's own
 * recursion guard, which costs more than the handler, stays off.
 */
static struct ftrace_ops duet_clear_dirty_ops = {
	.func = duet_enter_clear_dirty,
};

static struct ftrace_ops duet_clear_inode_ops = {
	.func = duet_enter_clear_inode,
};

struct duet_hook {
	/* a tracepoint ... */
	const char *tracepoint;
	void *probe;
	struct tracepoint *tp;		/* found at load, NULL if missing */
	/* ... or an exported function */
	void *function;
	struct ftrace_ops *ops;
	bool filtered;
	unsigned int users;		/* duet.lock */
};

static struct duet_hook duet_hooks[DUET_NR_HOOKS] = {
	[DUET_HOOK_ADDED] = {
		.tracepoint = "mm_filemap_add_to_page_cache",
		.probe = duet_probe_added,
	},
	[DUET_HOOK_REMOVED] = {
		.tracepoint = "mm_filemap_delete_from_page_cache",
		.probe = duet_probe_removed,
	},
	[DUET_HOOK_DIRTIED] = {
		.tracepoint = "writeback_dirty_folio",
		.probe = duet_probe_dirtied,
	},
	[DUET_HOOK_FLUSHED] = {
		.function = folio_clear_dirty_for_io,
		.ops = &duet_clear_dirty_ops,
	},
	[DUET_HOOK_EVICTED] = {
		.function = clear_inode,
		.ops = &duet_clear_inode_ops,
	},
};

static void duet_find_tracepoint(struct tracepoint *tp, void *data)
{
	int i;

	for (i = 0; i < DUET_NR_HOOKS; i++)
		if (duet_hooks[i].tracepoint &&
		    !strcmp(duet_hooks[i].tracepoint, tp->name))
			duet_hooks[i].tp = tp;
}

void duet_hooks_init(void)
{
	for_each_kernel_tracepoint(duet_find_tracepoint, NULL);
}

/*
 * The hooks that a mask needs. ADDED is with nearly all: whether a file is
 * below a registered directory can be decided there, and not in REMOVED or
 * DIRTIED, which run under the page cache's lock. A removed page is dirty no
 * longer, so MODIFIED needs REMOVED.
 */
u32 duet_hooks_for(u32 regmask)
{
	u32 hooks = BIT(DUET_HOOK_EVICTED);

	if (regmask & (DUET_EVENTS | DUET_STATES))
		hooks |= BIT(DUET_HOOK_ADDED);
	if (regmask & (DUET_PAGE_REMOVED | DUET_STATES))
		hooks |= BIT(DUET_HOOK_REMOVED);
	if (regmask & (DUET_PAGE_DIRTY | DUET_PAGE_MODIFIED))
		hooks |= BIT(DUET_HOOK_DIRTIED);
	if (regmask & (DUET_PAGE_FLUSHED | DUET_PAGE_MODIFIED))
		hooks |= BIT(DUET_HOOK_FLUSHED);
	return hooks;
}

static int duet_hook_attach(struct duet_hook *hook)
{
	int err;

	if (hook->tracepoint) {
		if (!hook->tp)
			return -EOPNOTSUPP;
		return tracepoint_probe_register(hook->tp, hook->probe, NULL);
	}

	if (!hook->filtered) {
		err = ftrace_set_filter_ip(hook->ops,
					   (unsigned long)hook->function, 0, 0);
		if (err)
			return -EOPNOTSUPP;
		hook->filtered = true;
	}
	return register_ftrace_function(hook->ops);
}

static void duet_hook_detach(struct duet_hook *hook)
{
	if (hook->tracepoint)
		tracepoint_probe_unregister(hook->tp, hook->probe, NULL);
	else
		unregister_ftrace_function(hook->ops);
}

void duet_hooks_put(u32 hooks)
{
	bool detached = false;
	int i;

	lockdep_assert_held(&duet.lock);
	for (i = 0; i < DUET_NR_HOOKS; i++) {
		if (!(hooks & BIT(i)) || --duet_hooks[i].users)
			continue;
		duet_hook_detach(&duet_hooks[i]);
		detached = true;
	}
	/* No probe runs any more when its caller takes the tables away. */
	if (detached)
		tracepoint_synchronize_unregister();
}

/* Attaches what is missing, all or nothing. */
int duet_hooks_get(u32 hooks)
{
	int i, err;

	lockdep_assert_held(&duet.lock);
	for (i = 0; i < DUET_NR_HOOKS; i++) {
		if (!(hooks & BIT(i)))
			continue;
		if (!duet_hooks[i].users) {
			err = duet_hook_attach(&duet_hooks[i]);
			if (err) {
				duet_hooks_put(hooks & (BIT(i) - 1));
				return err;
			}
		}
		duet_hooks[i].users++;
	}
	return 0;
}

/* sysfs: hooks/NAME says attached, detached, or missing on this kernel. */
static ssize_t duet_hook_show(struct device *dev, struct device_attribute *attr,
			      char *buf)
{
	const struct dev_ext_attribute *ext =
		container_of(attr, struct dev_ext_attribute, attr);
	const struct duet_hook *hook = ext->var;
	const char *state = "detached";

	if (hook->tracepoint && !hook->tp)
		state = "missing";
	else if (READ_ONCE(hook->users))
		state = "attached";
	return sysfs_emit(buf, "%s\n", state);
}

#define DUET_HOOK_ATTR(_name, _id)					\
	static struct dev_ext_attribute duet_hook_attr_##_name = {	\
		__ATTR(_name, 0444, duet_hook_show, NULL),		\
		&duet_hooks[_id],					\
	}

DUET_HOOK_ATTR(added, DUET_HOOK_ADDED);
DUET_HOOK_ATTR(removed, DUET_HOOK_REMOVED);
DUET_HOOK_ATTR(dirtied, DUET_HOOK_DIRTIED);
DUET_HOOK_ATTR(flushed, DUET_HOOK_FLUSHED);
DUET_HOOK_ATTR(evicted, DUET_HOOK_EVICTED);

static struct attribute *duet_hooks_attrs[] = {
	&duet_hook_attr_added.attr.attr,
	&duet_hook_attr_removed.attr.attr,
	&duet_hook_attr_dirtied.attr.attr,
	&duet_hook_attr_flushed.attr.attr,
	&duet_hook_attr_evicted.attr.attr,
	NULL,
};

const struct attribute_group duet_hooks_group = {
	.name = "hooks",
	.attrs = duet_hooks_attrs,
};
