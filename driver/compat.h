/* SPDX-License-Identifier: GPL-2.0 */
/* What differs between the kernels that the driver is built for. */
#ifndef _DUET_COMPAT_H
#define _DUET_COMPAT_H

#include <linux/exportfs.h>
#include <linux/fsnotify_backend.h>
#include <linux/ftrace.h>
#include <linux/preempt.h>
#include <linux/version.h>

/*
 * What the hooks tell differs between kernels, and was proved on older ones.
 * Who wants to find out builds with KCFLAGS=-DDUET_ANY_KERNEL.
 */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 0, 0) && !defined(DUET_ANY_KERNEL)
#error "Duet is not proved on Linux 7.0 and later: see docs/install.md"
#endif

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

/* From 6.19 on a tracepoint's probe can be preempted; until then it is not. */
static inline void duet_probe_enter(void)
{
	if (LINUX_VERSION_CODE >= KERNEL_VERSION(6, 19, 0))
		preempt_disable();
}

static inline void duet_probe_leave(void)
{
	if (LINUX_VERSION_CODE >= KERNEL_VERSION(6, 19, 0))
		preempt_enable();
}

/* Where a dentry is on its inode's list. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 0, 0)
#define DUET_D_ALIAS d_alias
#else
#define DUET_D_ALIAS d_u.d_alias
#endif

static inline int duet_encode_fh(struct inode *inode, struct fid *fid, int *len)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 5, 0)
	return exportfs_encode_inode_fh(inode, fid, len, NULL, 0);
#else
	return exportfs_encode_inode_fh(inode, fid, len, NULL);
#endif
}

/* Whether a task with no idmapped mount owns a file or may write it. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
#define DUET_NO_IDMAP (&nop_mnt_idmap)
#else
#define DUET_NO_IDMAP (&init_user_ns)
#endif

#endif /* _DUET_COMPAT_H */
