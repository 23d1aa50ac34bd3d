/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Put before each file of Duet's, in a build of it that is measured: whatever
 * it has interrupts or preemption off by tells sections.c. bounds.py refuses
 * to build where a driver uses what is not here.
 */
#ifndef SECTIONS_H
#define SECTIONS_H

#include <linux/spinlock.h>	/* first: others count on that */
#include <linux/fsnotify_backend.h>	/* what the kernel locks inline is its own */
#include <linux/list_bl.h>
#include <linux/pagemap.h>
#include <linux/preempt.h>
#include <linux/seqlock.h>
#include <linux/slab.h>
#include <linux/xarray.h>

void sections_enter(void);
void sections_leave(void);

/* Where the kernel allocates or frees for who may not wait: not Duet's time. */
void sections_out(void);
void sections_back(void);

static inline void *sections_zalloc(struct kmem_cache *cache, gfp_t gfp)
{
	void *new;

	if (gfpflags_allow_blocking(gfp))
		return kmem_cache_zalloc(cache, gfp);
	sections_out();
	new = kmem_cache_zalloc(cache, gfp);
	sections_back();
	return new;
}

static inline void sections_free(struct kmem_cache *cache, void *object)
{
	if (!irqs_disabled()) {
		kmem_cache_free(cache, object);
		return;
	}
	sections_out();
	kmem_cache_free(cache, object);
	sections_back();
}

static inline void sections_disable(void)
{
	preempt_disable();
	sections_enter();
}

static inline void sections_enable(void)
{
	sections_leave();
	preempt_enable();
}

static inline unsigned long sections_save(void)
{
	unsigned long flags;

	local_irq_save(flags);
	sections_enter();
	return flags;
}

static inline void sections_restore(unsigned long flags)
{
	sections_leave();
	local_irq_restore(flags);
}

static inline unsigned long sections_lock_save(spinlock_t *lock)
{
	unsigned long flags;

	spin_lock_irqsave(lock, flags);
	sections_enter();
	return flags;
}

/* Those that are macros in the kernel ... */
#undef kmem_cache_free
#undef kmem_cache_zalloc
#undef local_irq_restore
#undef local_irq_save
#undef preempt_disable
#undef preempt_enable
#undef spin_lock_irqsave
#define kmem_cache_free(cache, object)	sections_free(cache, object)
#define kmem_cache_zalloc(cache, gfp)	sections_zalloc(cache, gfp)
#define local_irq_restore(flags)	sections_restore(flags)
#define local_irq_save(flags)		((flags) = sections_save())
#define preempt_disable()		sections_disable()
#define preempt_enable()		sections_enable()
#define spin_lock_irqsave(lock, flags)	((flags) = sections_lock_save(lock))

/* ... and those that are functions; xas_lock_irq() and so on are made of these. */
#define SECTIONS_LOCK(call)	do { (call); sections_enter(); } while (0)
#define SECTIONS_UNLOCK(call)	do { sections_leave(); (call); } while (0)
#define hlist_bl_lock(head)	SECTIONS_LOCK((hlist_bl_lock)(head))
#define hlist_bl_unlock(head)	SECTIONS_UNLOCK((hlist_bl_unlock)(head))
#define spin_lock(lock)		SECTIONS_LOCK((spin_lock)(lock))
#define spin_lock_irq(lock)	SECTIONS_LOCK((spin_lock_irq)(lock))
#define spin_unlock(lock)	SECTIONS_UNLOCK((spin_unlock)(lock))
#define spin_unlock_irq(lock)	SECTIONS_UNLOCK((spin_unlock_irq)(lock))
#define spin_unlock_irqrestore(lock, flags) \
	SECTIONS_UNLOCK((spin_unlock_irqrestore)(lock, flags))

/* A rename came between, each time: what is done then is measured, too. */
#define read_seqretry(lock, seq)	((read_seqretry)(lock, seq) || true)

#endif /* SECTIONS_H */
