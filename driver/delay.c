// SPDX-License-Identifier: GPL-2.0
/*
 * Debug builds only, what a test cannot have happen otherwise, by parameters in
 * /sys/module/duet/parameters. Dawdling where a race has a narrow window:
 * delay_at names one or more places, delay_us says for how long at most. Who
 * dawdles goes on at once when delay_at names his place no more: a test need not
 * guess how long others take. Missing what a kernel does without a hook: miss
 * says which kind of event.
 */
#include <linux/atomic.h>
#include <linux/delay.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/string.h>
#include "duet.h"

/* No longer than this, in microseconds, as the place allows. */
#define DUET_DELAY_MOST_IRQS	5000		/* interrupts are off */
#define DUET_DELAY_MOST		15000000	/* others wait for RCU */
#define DUET_DELAY_MOST_ASLEEP	60000000

static const struct {
	const char *name;
	bool sleeps;
} duet_delays[] = {
	[DUET_DELAY_SPARE] = { "spare", true },
	[DUET_DELAY_LOOK] = { "look" },
	[DUET_DELAY_LOOKED] = { "looked", true },
	[DUET_DELAY_VERDICT] = { "verdict" },
	[DUET_DELAY_WANTED] = { "wanted" },
	[DUET_DELAY_NOBODY] = { "nobody" },
	[DUET_DELAY_FLUSHED] = { "flushed" },
	[DUET_DELAY_MOVED] = { "moved", true },
	[DUET_DELAY_UNNAMED] = { "unnamed" },
	[DUET_DELAY_ORIGIN] = { "origin" },
	[DUET_DELAY_EVICTED] = { "evicted" },
	[DUET_DELAY_FREEING] = { "freeing", true },
	[DUET_DELAY_WALKED] = { "walked", true },
};

static char delay_at[32];
module_param_string(delay_at, delay_at, sizeof(delay_at), 0600);
MODULE_PARM_DESC(delay_at, "where to dawdle: see docs/debug.md");

static unsigned int delay_us;
module_param(delay_us, uint, 0600);
MODULE_PARM_DESC(delay_us, "for how many microseconds at most");

static int delay_pid;
module_param(delay_pid, int, 0600);
MODULE_PARM_DESC(delay_pid, "the only thread that does, or 0");

static atomic_t duet_delayed;

static int duet_delayed_get(char *buf, const struct kernel_param *kp)
{
	return sysfs_emit(buf, "%d\n", atomic_read(&duet_delayed));
}

static const struct kernel_param_ops duet_delayed_ops = {
	.get = duet_delayed_get,
};

module_param_cb(delayed, &duet_delayed_ops, NULL, 0400);
MODULE_PARM_DESC(delayed, "how often somebody began to");

/* A test may write to it meanwhile: then we see half of it, and look again. */
static bool duet_delay_is_at(const char *name)
{
	const size_t len = strlen(name);
	const char *at = delay_at;

	while (*at) {
		size_t word = strcspn(at, ", \n");

		if (word == len && !strncmp(at, name, len))
			return true;
		at += word;
		at += strspn(at, ", \n");
	}
	return false;
}

void duet_delay(enum duet_delay at)
{
	const char *name = duet_delays[at].name;
	const bool sleeps = duet_delays[at].sleeps;
	unsigned int most = DUET_DELAY_MOST;
	ktime_t end;

	if (!READ_ONCE(delay_us) || !duet_delay_is_at(name) ||
	    (READ_ONCE(delay_pid) && READ_ONCE(delay_pid) != current->pid))
		return;
	if (sleeps)
		most = DUET_DELAY_MOST_ASLEEP;
	else if (irqs_disabled())
		most = DUET_DELAY_MOST_IRQS;
	atomic_inc(&duet_delayed);
	end = ktime_add_us(ktime_get(), min(READ_ONCE(delay_us), most));
	do {
		if (sleeps)
			msleep(1);
		else
			udelay(10);
	} while (ktime_before(ktime_get(), end) && duet_delay_is_at(name));
}

static const char * const duet_miss_names[] = {
	[DUET_EVENT_ADDED] = "added",
	[DUET_EVENT_REMOVED] = "removed",
	[DUET_EVENT_DIRTY] = "dirty",
	[DUET_EVENT_FLUSHED] = "flushed",
};

static char miss[16];
module_param_string(miss, miss, sizeof(miss), 0600);
MODULE_PARM_DESC(miss, "events to miss: added, removed, dirty or flushed");

bool duet_misses(enum duet_event event)
{
	return sysfs_streq(miss, duet_miss_names[event]);
}
