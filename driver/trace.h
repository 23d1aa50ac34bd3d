/* SPDX-License-Identifier: GPL-2.0 */
/* The module's own tracepoints: what it decided, and why. */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM duet

#if !defined(_DUET_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _DUET_TRACE_H

#include <linux/tracepoint.h>
#include "duet.h"

/* Who wants a file was decided: the first 64 tasks that do. */
TRACE_EVENT(duet_verdict,
	TP_PROTO(const struct inode *inode, unsigned long wanted, bool known,
		 unsigned int steps, bool later),
	TP_ARGS(inode, wanted, known, steps, later),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__field(u64, ino)
		__field(u32, gen)
		__field(unsigned long, wanted)
		__field(bool, known)
		__field(unsigned int, steps)
		__field(bool, later)
	),
	TP_fast_assign(
		__entry->dev = inode->i_sb->s_dev;
		__entry->ino = inode->i_ino;
		__entry->gen = inode->i_generation;
		__entry->wanted = wanted;
		__entry->known = known;
		__entry->steps = steps;
		__entry->later = later;
	),
	TP_printk("dev=%u:%u ino=%llu gen=%u wanted=%#lx name=%s steps=%u%s",
		  MAJOR(__entry->dev), MINOR(__entry->dev), __entry->ino,
		  __entry->gen, __entry->wanted,
		  __entry->known ? "known" : "unknown", __entry->steps,
		  __entry->later ? " later" : "")
);

/* A task was not told something; ino is 0 when we know of no file. */
TRACE_EVENT(duet_overflow,
	TP_PROTO(const struct duet_task *task, u64 ino, unsigned int why),
	TP_ARGS(task, ino, why),
	TP_STRUCT__entry(
		__field(unsigned int, tid)
		__field(u64, ino)
		__field(unsigned int, why)
	),
	TP_fast_assign(
		__entry->tid = task->slot + 1;
		__entry->ino = ino;
		__entry->why = why;
	),
	TP_printk("task=%u ino=%llu why=%s", __entry->tid, __entry->ino,
		  __print_symbolic(__entry->why,
				   { DUET_DROP_LIMIT, "limit" },
				   { DUET_DROP_TASK_LIMIT, "task_limit" },
				   { DUET_DROP_NOMEM, "nomem" }))
);

/* As much of a task's name as a trace shows, once it is one word. */
#define DUET_TRACE_NAME	32

DECLARE_EVENT_CLASS(duet_task_class,
	TP_PROTO(const struct duet_task *task),
	TP_ARGS(task),
	TP_STRUCT__entry(
		__field(unsigned int, tid)
		__field(u32, mask)
		__field(long, files)
		__field(long, done)
		__field(long, pending)
		__field(u64, delivered)
		__array(char, name, DUET_TRACE_NAME)
	),
	TP_fast_assign(
		__entry->tid = task->slot + 1;
		__entry->mask = task->regmask;
		__entry->files = duet_files_of(task);
		__entry->done = atomic_long_read(&task->nr_done);
		__entry->pending = atomic_long_read(&task->pending);
		__entry->delivered = READ_ONCE(task->nr_delivered);
		duet_escape(__entry->name, DUET_TRACE_NAME, task->name, true);
	),
	TP_printk("task=%u name=%s mask=%#x files=%ld done=%ld pending=%ld delivered=%llu",
		  __entry->tid, __entry->name, __entry->mask, __entry->files,
		  __entry->done, __entry->pending, __entry->delivered)
);

DEFINE_EVENT(duet_task_class, duet_task_start,
	TP_PROTO(const struct duet_task *task), TP_ARGS(task));
DEFINE_EVENT(duet_task_class, duet_task_end,
	TP_PROTO(const struct duet_task *task), TP_ARGS(task));
/* Somebody asked for it: DUET_STATUS_PRINT_BMAP, DUET_STATUS_PRINT_ITEM. */
DEFINE_EVENT(duet_task_class, duet_print,
	TP_PROTO(const struct duet_task *task), TP_ARGS(task));

#endif /* _DUET_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
