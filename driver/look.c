// SPDX-License-Identifier: GPL-2.0
/*
 * What the page cache itself says of a file.
 *
 * It is looked at under xa_lock, 64 pages at a time. REMOVED and DIRTIED come
 * under the same lock, ADDED after the page can be seen, so whatever races,
 * the later word is the truth.
 */
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include "duet.h"

/*
 * FLUSHED comes before the flag is cleared, with the folio locked: dirty and
 * locked may be clean in a moment. Dirty and unlocked is so until a FLUSHED
 * that waits for file->lock, if the lock was looked at first.
 */
static void duet_look_at_folio(struct folio *folio, u64 pages,
			       struct duet_look *look)
{
	if (folio_test_locked(folio))
		look->locked |= pages;
	/* pairs with the release in folio_unlock() */
	smp_rmb();
	if (folio_test_dirty(folio))
		look->dirty |= pages;
}

/* What is cached of the pages of a run, folio by folio; xa_lock, file->lock. */
void duet_look_at(struct xa_state *xas, u64 first, u64 last,
		  struct duet_look *look)
{
	struct folio *folio;

	/* Bounded by the 64 pages of the run. */
	xas_for_each(xas, folio, last) {
		u64 from, to, pages;

		look->entries++;
		if (xas_retry(xas, folio) || xa_is_value(folio))
			continue;
		if (likely(!folio_test_large(folio))) {
			pages = BIT_ULL(folio->index - first);
		} else {
			from = max_t(u64, folio->index, first) - first;
			to = min_t(u64, folio_next_index(folio) - 1, last) -
			     first;
			pages = GENMASK_ULL(to, from);
		}
		look->cached |= pages;
		duet_look_at_folio(folio, pages, look);
	}
}

/* Neither a shadow nor, where it is that of a leaf, part of a larger folio. */
static bool duet_is_folio(const void *entry)
{
	return entry && !xa_is_value(entry) && !xa_is_internal(entry);
}

/* Whether each of these slots of a leaf has a folio of its own; xa_lock. */
static bool duet_leaf_has(const struct xa_state *xas, u64 pages)
{
	/* Bounded by the 64 pages of the run. */
	for (; pages; pages &= pages - 1)
		if (!duet_is_folio(xa_entry_locked(xas->xa, xas->xa_node,
						   __ffs64(pages))))
			return false;
	return true;
}

/* Which slots of a leaf have a folio; xa_lock. */
static u64 duet_leaf_folios(const struct xa_state *xas)
{
	bool folio = false;
	unsigned int i;
	u64 pages = 0;

	for (i = 0; i < XA_CHUNK_SIZE; i++) {
		const void *entry = xa_entry_locked(xas->xa, xas->xa_node, i);

		/* A sibling has what the slot has that it belongs to. */
		if (!xa_is_sibling(entry))
			folio = duet_is_folio(entry);
		pages |= (u64)folio << i;
	}
	return pages;
}

/*
 * The same of a run that is a leaf of the page cache's tree, without a look at
 * folios that are clean: the leaf counts its entries and the shadows among
 * them, and tags what is dirty, from DIRTIED, under xa_lock, until after
 * FLUSHED. Which clean ones are locked is not said. False where the run is no
 * leaf.
 */
static bool duet_look_at_leaf(struct xa_state *xas,
			      const struct duet_node *node,
			      struct duet_look *look)
{
	const struct xa_node *leaf;
	unsigned long tagged;
	unsigned int nr;

	BUILD_BUG_ON(BITS_PER_LONG != DUET_RUN_PAGES);
	xas_load(xas);
	leaf = xas->xa_node;
	if (XA_CHUNK_SHIFT != DUET_RUN_SHIFT || !xas_is_node(xas) ||
	    leaf->shift)
		return false;
	look->entries++;
	nr = leaf->count - leaf->nr_values;
	if (nr == XA_CHUNK_SIZE) {
		look->cached = ~0ULL;
	} else if (nr && node->file->nr_exists) {
		look->cached = node->cached;
		/* So many, and each where one should be, are just these. */
		if (hweight64(node->cached) != nr ||
		    !duet_leaf_has(xas, node->cached))
			look->cached = duet_leaf_folios(xas);
		look->entries += XA_CHUNK_SIZE / 8;
	}
	tagged = leaf->marks[(__force unsigned int)PAGECACHE_TAG_DIRTY][0];
	/* Bounded by the 64 pages of the run. */
	for (; tagged; tagged &= tagged - 1) {
		unsigned int i = __ffs(tagged);
		struct folio *folio = xa_entry_locked(xas->xa, leaf, i);
		u64 pages = BIT_ULL(i);

		look->entries++;
		if (unlikely(folio_test_large(folio)))
			pages = GENMASK_ULL(i + folio_nr_pages(folio) - 1, i);
		duet_look_at_folio(folio, pages, look);
	}
	return true;
}

/*
 * Brings a node's words in line for a reader who is about to tell of it, and
 * waits for no folio. Where one is locked, "dirty" is believed of events only:
 * FLUSHED may have come, which takes back what was told until then, and the
 * flag not be cleared yet. The file has no inode: mapping is NULL. xa_lock,
 * file->lock. Returns how many entries of the page cache were looked at.
 */
unsigned int duet_node_look(struct duet_node *node, const struct duet_task *task,
			    struct address_space *mapping)
{
	u64 first = node->run << DUET_RUN_SHIFT;
	struct duet_look look = {};
	u64 cached, dirty;

	duet_node_trim(node);
	cached = node->cached;
	dirty = node->dirty;
	if (mapping) {
		XA_STATE(xas, &mapping->i_pages, first);

		if (!duet_look_at_leaf(&xas, node, &look)) {
			xas_reset(&xas);
			duet_look_at(&xas, first, first + DUET_RUN_PAGES - 1,
				     &look);
		}
	}
	duet_node_set(node, look.cached, look.dirty & (~look.locked | dirty));
	if (unlikely(node->cached != cached || node->dirty != dirty))
		duet_node_announce(node, task);
	return look.entries;
}

/* Shadows of evicted pages, of which there may be millions, in one step. */
#define DUET_SHADOW_STEP	1024

/*
 * Finds the first page that is cached from *index on. False when there is
 * none, or no sense in looking for one, to the task if it is for one.
 */
bool duet_next_cached(struct address_space *mapping, unsigned long *index,
		      const struct duet_task *task)
{
	XA_STATE(xas, &mapping->i_pages, *index);
	unsigned int left = DUET_SHADOW_STEP;
	void *entry;

	rcu_read_lock();
	xas_for_each(&xas, entry, ULONG_MAX) {
		if (!xas_retry(&xas, entry) && !xa_is_value(entry))
			break;
		if (--left)
			continue;
		xas_pause(&xas);
		rcu_read_unlock();
		cond_resched();
		if (task ? duet_is_cut_short(task) :
			   fatal_signal_pending(current))
			return false;
		left = DUET_SHADOW_STEP;
		rcu_read_lock();
	}
	rcu_read_unlock();
	*index = xas.xa_index;
	return entry;
}
