/* SPDX-License-Identifier: GPL-2.0 */
/* What differs between the kernels that the driver is built for. */
#ifndef _DUET_COMPAT_H
#define _DUET_COMPAT_H

#include <linux/fsnotify_backend.h>
#include <linux/ftrace.h>
#include <linux/version.h>

/* The first argument of a function that an ftrace handler was called for. */
static inline void *duet_ftrace_arg0(struct ftrace_regs *fregs)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
	return (void *)ftrace_regs_get_argument(fregs, 0);
#else
	return (void *)fregs->regs.di;
#endif
}

static inline int duet_add_sb_mark(struct fsnotify_mark *mark,
				   struct super_block *sb)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 10, 0)
	return fsnotify_add_mark(mark, sb, FSNOTIFY_OBJ_TYPE_SB, 0);
#else
	return fsnotify_add_mark(mark, &sb->s_fsnotify_marks,
				 FSNOTIFY_OBJ_TYPE_SB, 0, NULL);
#endif
}

#endif /* _DUET_COMPAT_H */
