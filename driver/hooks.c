// SPDX-License-Identifier: GPL-2.0
/*
 * Where the kernel tells us: three tracepoints, and two exported functions
 * whose entry is traced. Each is attached while a task needs it, and for some
 * seconds more, so that who registers and closes in a loop does not have the
 * kernel's text patched each time. Nothing here keeps a folio: migration swaps
 * folios without a word.
 */
#include <linux/device.h>
#include <linux/ftrace.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/tracepoint.h>
#include <linux/workqueue.h>
#include <linux/writeback.h>
#include "compat.h"
#include "duet.h"

/*
 * Whether a task watches a file system: all that an event elsewhere pays, so
 * one file system, the rule, is made cheapest.
 */
static __always_inline bool duet_is_watched(const struct super_block *sb)
{
	unsigned int i;

	if (READ_ONCE(duet.watched[0].sb) == sb)
		return true;
	if (!static_branch_unlikely(&duet_watched_many))
		return false;
	for (i = 1; i < READ_ONCE(duet.nr_watched); i++)
		if (READ_ONCE(duet.watched[i].sb) == sb)
			return true;
	return false;
}

/* After the folio was inserted, no lock but the folio's held. */
static void duet_probe_added(void *data, struct folio *folio)
{
	struct address_space *mapping = folio->mapping;

	duet_probe_enter();
	if (duet_is_watched(mapping->host->i_sb))
		duet_page_added(folio, mapping);
	duet_probe_leave();
}

/* Before the folio is removed, xa_lock held, interrupts off. */
static void duet_probe_removed(void *data, struct folio *folio)
{
	struct address_space *mapping = folio->mapping;

	if (duet_is_watched(mapping->host->i_sb))
		duet_page_removed(folio, mapping);
}

/* After the folio was marked dirty, xa_lock held, interrupts off. */
static void duet_probe_dirtied(void *data, struct folio *folio,
			       struct address_space *mapping)
{
	if (duet_is_watched(mapping->host->i_sb))
		duet_page_dirtied(folio, mapping);
}

/* Called last, so that what returns before it saves no register. */
static noinline notrace void duet_flushed(struct folio *folio,
					  struct address_space *mapping)
{
	preempt_disable();
	duet_page_flushed(folio, mapping);
	preempt_enable();
}

/*
 * Entry of folio_clear_dirty_for_io(), folio locked, preemptible: write-back
 * begins. It is called for clean folios as well (btrfs), which are no event.
 * What ftrace calls is not traced itself.
 */
static notrace void duet_enter_clear_dirty(unsigned long ip,
					   unsigned long parent_ip,
					   struct ftrace_ops *ops,
					   struct ftrace_regs *fregs)
{
	struct folio *folio = duet_ftrace_arg0(fregs);
	struct address_space *mapping = folio->mapping;

	/* On its way to swap, a folio's mapping is no page cache. */
	if (!mapping || folio_test_anon(folio) || !folio_test_dirty(folio))
		return;
	if (duet_is_watched(mapping->host->i_sb))
		duet_flushed(folio, mapping);
}

/* Entry of clear_inode(): every page is gone, the inode follows. */
static notrace void duet_enter_clear_inode(unsigned long ip,
					   unsigned long parent_ip,
					   struct ftrace_ops *ops,
					   struct ftrace_regs *fregs)
{
	struct inode *inode = duet_ftrace_arg0(fregs);

	if (duet_is_watched(inode->i_sb))
		duet_inode_evicted(inode);
}

/*
 * Neither handler calls the function that it traces, so ftrace's own
 * recursion guard, which costs more than the handler, stays off. PERMANENT:
 * while a task relies on it, the kernel.ftrace_enabled sysctl can not be
 * switched off, and while that is off no task can come to rely on it.
 */
static struct ftrace_ops duet_clear_dirty_ops = {
	.func = duet_enter_clear_dirty,
	.flags = FTRACE_OPS_FL_PERMANENT,
};

static struct ftrace_ops duet_clear_inode_ops = {
	.func = duet_enter_clear_inode,
	.flags = FTRACE_OPS_FL_PERMANENT,
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
	unsigned int users;		/* duet.lock, as the next */
	bool attached;
	bool proved;			/* it told of the proof's page */
	bool silent;			/* it was attached, and did not */
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

int duet_hooks_init(void)
{
	for_each_kernel_tracepoint(duet_find_tracepoint, NULL);
	return duet_proof_init();
}

static void duet_hooks_idle(struct work_struct *work);
static DECLARE_DELAYED_WORK(duet_hooks_work, duet_hooks_idle);

void duet_hooks_exit(void)
{
	int i;

	cancel_delayed_work_sync(&duet_hooks_work);
	for (i = 0; i < DUET_NR_HOOKS; i++)
		if (duet_hooks[i].ops)
			ftrace_free_filter(duet_hooks[i].ops);
	duet_proof_exit();
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
			return err == -ENOMEM ? err : -EOPNOTSUPP;
		hook->filtered = true;
	}
	err = register_ftrace_function(hook->ops);
	/* EBUSY: somebody has switched ftrace off. */
	return err == -EBUSY ? -EOPNOTSUPP : err;
}

static void duet_hook_detach(struct duet_hook *hook)
{
	if (hook->tracepoint)
		tracepoint_probe_unregister(hook->tp, hook->probe, NULL);
	else
		unregister_ftrace_function(hook->ops);
	hook->attached = false;
	hook->proved = false;
}

/* Detaches what nobody needs. */
void duet_hooks_detach(void)
{
	bool detached = false;
	int i;

	lockdep_assert_held(&duet.lock);
	for (i = 0; i < DUET_NR_HOOKS; i++) {
		if (!duet_hooks[i].attached || duet_hooks[i].users)
			continue;
		duet_hook_detach(&duet_hooks[i]);
		detached = true;
	}
	if (duet.nr_watched < 2)
		static_branch_disable(&duet_watched_many);
	/* No probe runs any more when the caller takes the tables away. */
	if (detached)
		tracepoint_synchronize_unregister();
}

static void duet_hooks_idle(struct work_struct *work)
{
	mutex_lock(&duet.lock);
	duet_hooks_detach();
	mutex_unlock(&duet.lock);
}

/* How long what nobody needs is kept, for who may come back. */
#define DUET_HOOKS_LINGER	(5 * HZ)

/* Something is not needed any more: it goes later, or with the tables. */
void duet_hooks_linger(void)
{
	lockdep_assert_held(&duet.lock);
	mod_delayed_work(system_unbound_wq, &duet_hooks_work,
			 DUET_HOOKS_LINGER);
}

void duet_hooks_put(u32 hooks)
{
	bool idle = false;
	int i;

	lockdep_assert_held(&duet.lock);
	for (i = 0; i < DUET_NR_HOOKS; i++)
		if (hooks & BIT(i))
			idle |= !--duet_hooks[i].users;
	if (idle)
		duet_hooks_linger();
}

/* The proof's inode was told of by this hook. In a probe. */
void duet_hook_proved(const struct inode *inode, enum duet_hook_id id)
{
	if (inode->i_sb == duet_proof_sb())
		WRITE_ONCE(duet_hooks[id].proved, true);
}

/* Has every attached hook tell of a page of our own doing. */
static int duet_hooks_prove(void)
{
	int i, err;

	err = duet_proof_run();
	/* At once: every event pays for it. */
	if (duet.nr_watched < 2)
		static_branch_disable(&duet_watched_many);
	if (err)
		return err;
	for (i = 0; i < DUET_NR_HOOKS; i++) {
		struct duet_hook *hook = &duet_hooks[i];

		if (!hook->users)
			continue;
		hook->silent = !READ_ONCE(hook->proved);
		if (hook->silent)
			err = -EOPNOTSUPP;
	}
	return err;
}

/* Attaches what is missing, all or nothing, and has it proved. */
int duet_hooks_get(u32 hooks)
{
	bool attached = false;
	int i, j, err = 0;
	u32 got = 0;

	lockdep_assert_held(&duet.lock);
	for (j = 0; j < DUET_NR_HOOKS; j++) {
		struct duet_hook *hook;

		/* Functions first: where they fail nothing was patched yet. */
		i = (j + DUET_HOOK_FLUSHED) % DUET_NR_HOOKS;
		hook = &duet_hooks[i];
		if (!(hooks & BIT(i)))
			continue;
		if (!hook->attached) {
			err = duet_hook_attach(hook);
			hook->silent = err == -EOPNOTSUPP;
			if (err)
				goto put;
			hook->attached = true;
			attached = true;
		}
		hook->users++;
		got |= BIT(i);
	}
	if (!attached)
		return 0;
	err = duet_hooks_prove();
	if (!err)
		return 0;
put:
	duet_hooks_put(got);
	/* Nobody is to rely on what was attached and not proved. */
	if (attached)
		duet_hooks_detach();
	return err;
}

/* Which events have a hook here, and for which it is attached and proved. */
void duet_hooks_state(u32 *found, u32 *alive)
{
	int i;

	*found = 0;
	*alive = 0;
	for (i = 0; i < DUET_NR_EVENTS; i++) {
		const struct duet_hook *hook = &duet_hooks[i];

		if (hook->tp || hook->function)
			*found |= BIT(i);
		if (READ_ONCE(hook->proved))
			*alive |= BIT(i);
	}
}

/*
 * sysfs: hooks/NAME says alive (attached and proved), detached, silent (could
 * not be attached, or told nothing), or missing on this kernel.
 */
static ssize_t duet_hook_show(struct device *dev, struct device_attribute *attr,
			      char *buf)
{
	const struct dev_ext_attribute *ext =
		container_of(attr, struct dev_ext_attribute, attr);
	const struct duet_hook *hook = ext->var;
	const char *state = "detached";

	if (hook->tracepoint && !hook->tp)
		state = "missing";
	else if (READ_ONCE(hook->proved))
		state = "alive";
	else if (READ_ONCE(hook->silent))
		state = "silent";
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
