// SPDX-License-Identifier: GPL-2.0
/*
 * The proof that the hooks are alive: a page of our own is added to a page
 * cache, made dirty, flushed and removed, on a file system that nobody else
 * can see, and each attached hook has to tell of it. A kernel on which a
 * function is inlined, or a tracepoint moved, is found out here and not by a
 * task that waits for ever.
 */
#include <linux/mount.h>
#include <linux/pagemap.h>
#include <linux/pseudo_fs.h>
#include <linux/writeback.h>
#include "duet.h"

#define DUET_PROOF_MAGIC	0x64756574	/* "duet" */

static struct vfsmount *duet_proof_mnt;

static int duet_proof_init_fs(struct fs_context *fc)
{
	return init_pseudo(fc, DUET_PROOF_MAGIC) ? 0 : -ENOMEM;
}

static struct file_system_type duet_proof_type = {
	.name = "duet_proof",
	.init_fs_context = duet_proof_init_fs,
	.kill_sb = kill_anon_super,
};

static const struct address_space_operations duet_proof_aops = {
	.dirty_folio = filemap_dirty_folio,
};

int duet_proof_init(void)
{
	duet_proof_mnt = kern_mount(&duet_proof_type);
	return PTR_ERR_OR_ZERO(duet_proof_mnt);
}

void duet_proof_exit(void)
{
	kern_unmount(duet_proof_mnt);
}

const struct super_block *duet_proof_sb(void)
{
	return duet_proof_mnt->mnt_sb;
}

/* Adds, dirties and flushes a page of the inode. */
static int duet_proof_page(struct inode *inode)
{
	struct address_space *mapping = inode->i_mapping;
	struct folio *folio;
	int err;

	folio = filemap_alloc_folio(GFP_KERNEL, 0);
	if (!folio)
		return -ENOMEM;
	/* Comes back locked. */
	err = filemap_add_folio(mapping, folio, 0, GFP_KERNEL);
	if (!err) {
		folio_mark_uptodate(folio);
		folio_mark_dirty(folio);
		folio_clear_dirty_for_io(folio);
		folio_unlock(folio);
	}
	folio_put(folio);
	return err;
}

/* Does what the hooks are to tell of, and is watched meanwhile. */
int duet_proof_run(void)
{
	struct duet_watched *watched = &duet.watched[DUET_MAX_TASKS];
	unsigned int nr = duet.nr_watched;
	struct inode *inode;
	int err;

	lockdep_assert_held(&duet.lock);
	inode = alloc_anon_inode(duet_proof_mnt->mnt_sb);
	if (IS_ERR(inode))
		return PTR_ERR(inode);
	inode->i_mapping->a_ops = &duet_proof_aops;
	mapping_set_gfp_mask(inode->i_mapping, GFP_KERNEL);

	/* The last place is kept for this. No fs: such events end early. */
	WRITE_ONCE(watched->sb, duet_proof_mnt->mnt_sb);
	duet_set_nr_watched(DUET_MAX_TASKS + 1);
	err = duet_proof_page(inode);
	/* Removes the page, and ends the inode. */
	iput(inode);
	duet_set_nr_watched(nr);
	WRITE_ONCE(watched->sb, NULL);
	return err;
}
