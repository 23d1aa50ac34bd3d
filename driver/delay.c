// SPDX-License-Identifier: GPL-2.0
/*
 * Debug builds only, what a test cannot have happen otherwise, by parameters in
 * /sys/module/duet/parameters. Dawdling where a race has a narrow window:
 * delay_at says where, delay_us for how long. Missing what a kernel does without
 * a hook: miss says which kind of event.
 */
#include <linux/delay.h>
#include <linux/module.h>
#include <linux/string.h>
#include "duet.h"

/* Interrupts may be off meanwhile: no longer than this, in microseconds. */
#define DUET_DELAY_MOST	5000

static const char * const duet_delay_names[] = {
	[DUET_DELAY_LOOK] = "look",
	[DUET_DELAY_VERDICT] = "verdict",
	[DUET_DELAY_NOBODY] = "nobody",
	[DUET_DELAY_FLUSHED] = "flushed",
};

static char delay_at[16];
module_param_string(delay_at, delay_at, sizeof(delay_at), 0600);
MODULE_PARM_DESC(delay_at, "where to dawdle: look, verdict, nobody or flushed");

static unsigned int delay_us;
module_param(delay_us, uint, 0600);
MODULE_PARM_DESC(delay_us, "for how many microseconds, at most 5000");

void duet_delay(enum duet_delay at)
{
	unsigned int left = min(READ_ONCE(delay_us), DUET_DELAY_MOST);

	if (!left || !sysfs_streq(delay_at, duet_delay_names[at]))
		return;
	for (; left > 1000; left -= 1000)
		udelay(1000);
	udelay(left);
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
