// SPDX-License-Identifier: GPL-2.0
/*
 * From a uuid to the inode and to the file's path.
 *
 * While the inode is in memory the entry of the file leads to it. Afterwards,
 * or when no dentry is left, the file system finds it by a file handle, which
 * we put together as its encode_fh() would, with the directory that the name
 * was seen in: so the name is found by reading one directory, and nothing
 * ever walks all inodes.
 */
#include <linux/dcache.h>
#include <linux/exportfs.h>
#include <linux/hash.h>
#include <linux/magic.h>
#include <linux/mm.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include "compat.h"
#include "duet.h"

/*
 * The directories of files whose entries are gone: a lossy table of fixed
 * size, by inode number. A collision costs one path.
 */
struct duet_remembered {
	u64 ino;
	u64 subvol;
	u32 gen;
	struct duet_origin origin;	/* of a file system 0: none */
};

static struct duet_remembered *duet_remembered;
static unsigned int duet_remembered_bits;

/* A 16th of the limit, in powers of two. */
int duet_path_start(void)
{
	unsigned long room = duet.limit / (16 * sizeof(*duet_remembered));

	duet_remembered_bits = clamp_t(unsigned int, ilog2(room | 1), 10, 22);
	duet_remembered = kvcalloc(1UL << duet_remembered_bits,
				   sizeof(*duet_remembered),
				   GFP_KERNEL | __GFP_NOWARN);
	return duet_remembered ? 0 : -ENOMEM;
}

void duet_path_stop(void)
{
	kvfree(duet_remembered);
}

static struct duet_remembered *duet_remembered_slot(u64 ino)
{
	return &duet_remembered[hash_64(ino, duet_remembered_bits)];
}

/* Where a file without an entry was seen. */
void duet_remember(u64 subvol, u64 ino, u32 gen,
		   const struct duet_origin *origin)
{
	struct duet_remembered *slot = duet_remembered_slot(ino);
	spinlock_t *lock = duet_key_lock(ino);

	/* No interrupt comes here, and what a probe waits for is five words. */
	spin_lock(lock);
	slot->subvol = subvol;
	slot->ino = ino;
	slot->gen = gen;
	slot->origin = *origin;
	spin_unlock(lock);
}

/* Where a file was seen last, whole: verdicts replace it. */
static struct duet_origin duet_origin_of(struct duet_file *file)
{
	struct duet_origin origin;
	unsigned long flags;

	/* As in every probe: see table.c. */
	spin_lock_irqsave(&file->lock, flags);
	origin.ino = file->origin.ino;
	duet_delay(DUET_DELAY_ORIGIN);
	origin.gen = file->origin.gen;
	origin.fs = file->origin.fs;
	spin_unlock_irqrestore(&file->lock, flags);
	return origin;
}

/* When an entry dies, or a task is done with it. */
void duet_remember_file(struct duet_file *file)
{
	struct duet_origin origin = duet_origin_of(file);

	if (origin.ino)
		duet_remember(file->subvol, file->ino, file->gen, &origin);
}

static bool duet_recall_origin(const struct duet_task *task, u64 ino, u32 gen,
			       struct duet_origin *origin)
{
	struct duet_remembered *slot = duet_remembered_slot(ino);
	spinlock_t *lock = duet_key_lock(ino);
	bool found;

	spin_lock(lock);
	found = slot->origin.fs == task->fs->id &&
		slot->subvol == task->subvol && slot->ino == ino &&
		slot->gen == gen;
	if (found)
		*origin = slot->origin;
	spin_unlock(lock);
	return found;
}

/* A file handle as ext4 and f2fs, XFS, or btrfs encode it. */
struct duet_handle {
	int type;
	int len;		/* in 32-bit words */
	union {
		struct fid fid;
		struct {
			u64 ino;
			u32 gen;
			u64 parent_ino;
			u32 parent_gen;
		} __packed xfs;
		struct {
			u64 ino;
			u64 subvol;
			u32 gen;
			u64 parent_ino;
			u32 parent_gen;
		} __packed btrfs;
	};
};

#define DUET_XFS_64BIT	0x80	/* XFS_FILEID_TYPE_64FLAG */

/* Which of btrfs' trees the inode is in; 0 elsewhere. */
u64 duet_subvol_of(struct inode *inode)
{
	struct duet_handle handle = {};
	int len = sizeof(handle.btrfs) / sizeof(u32);

	if (inode->i_sb->s_magic != BTRFS_SUPER_MAGIC)
		return 0;
	duet_encode_fh(inode, &handle.fid, &len);
	return handle.btrfs.subvol;
}

/* Returns false where we do not know how to make one. */
static bool duet_handle_make(struct duet_handle *handle, unsigned long magic,
			     const struct duet_task *task, u64 ino, u32 gen,
			     const struct duet_origin *origin)
{
	memset(handle, 0, sizeof(*handle));
	handle->type = origin ? FILEID_INO32_GEN_PARENT : FILEID_INO32_GEN;
	switch (magic) {
	case EXT4_SUPER_MAGIC:
	case F2FS_SUPER_MAGIC:
		handle->len = origin ? 4 : 2;
		handle->fid.i32.ino = ino;
		handle->fid.i32.gen = gen;
		if (origin) {
			handle->fid.i32.parent_ino = origin->ino;
			handle->fid.i32.parent_gen = origin->gen;
		}
		return true;
	case XFS_SUPER_MAGIC:
		handle->type |= DUET_XFS_64BIT;
		handle->len = origin ? 6 : 3;
		handle->xfs.ino = ino;
		handle->xfs.gen = gen;
		if (origin) {
			handle->xfs.parent_ino = origin->ino;
			handle->xfs.parent_gen = origin->gen;
		}
		return true;
	case BTRFS_SUPER_MAGIC:
		handle->type = origin ? FILEID_BTRFS_WITH_PARENT :
					FILEID_BTRFS_WITHOUT_PARENT;
		handle->len = origin ? 8 : 5;
		handle->btrfs.ino = ino;
		handle->btrfs.subvol = task->subvol;
		handle->btrfs.gen = gen;
		if (origin) {
			handle->btrfs.parent_ino = origin->ino;
			handle->btrfs.parent_gen = origin->gen;
		}
		return true;
	}
	return false;
}

/*
 * Whether the file system takes any number for that of an inode, and reads
 * what is there. XFS and btrfs look a number up before they believe it.
 */
static bool duet_trusts_numbers(const struct super_block *sb)
{
	return sb->s_magic == EXT4_SUPER_MAGIC ||
	       sb->s_magic == F2FS_SUPER_MAGIC;
}

/* An inode that is in memory, where it is found by its number alone. */
static struct inode *duet_inode_in_memory(struct super_block *sb, u64 ino)
{
	return duet_trusts_numbers(sb) ? ilookup(sb, ino) : NULL;
}

/*
 * The inode of a file that was below the task's directory once, or that the
 * file system finds out about; it may be read from disk. On f2fs it is not:
 * the number of a file that was deleted may be that of any of its blocks now,
 * and to read such a one marks the file system as broken.
 */
static struct inode *duet_inode_from_disk(struct super_block *sb,
					  const struct duet_task *task, u64 ino,
					  u32 gen)
{
	struct duet_handle handle;
	struct dentry *dentry;
	struct inode *inode;

	if (sb->s_magic == F2FS_SUPER_MAGIC ||
	    !duet_handle_make(&handle, sb->s_magic, task, ino, gen, NULL))
		return NULL;
	dentry = sb->s_export_op->fh_to_dentry(sb, &handle.fid, handle.len,
					       handle.type);
	if (IS_ERR_OR_NULL(dentry))
		return NULL;
	inode = igrab(d_inode(dentry));
	dput(dentry);
	return inode;
}

/*
 * Whether such a file was below the task's directory once: its number is none
 * that the caller made up, which the file system would trust.
 */
bool duet_is_known(struct duet_task *task, u64 ino, u32 gen)
{
	struct duet_origin origin;
	bool known;

	rcu_read_lock();
	known = duet_file_by_ino(task, ino, gen, false);
	rcu_read_unlock();
	return known || duet_recall_origin(task, ino, gen, &origin);
}

/*
 * The inode that a task's uuid names, with a reference and its file system
 * pinned, for duet_inode_put(); NULL when there is none.
 */
struct inode *duet_inode_of(struct duet_task *task, u64 ino, u32 gen,
			    struct duet_pin *pin)
{
	struct inode *inode = NULL;
	struct super_block *sb;
	struct duet_file *file;

	file = duet_file_held(task, ino, gen);
	if (file) {
		inode = duet_file_inode(file, pin);
		duet_file_release(file);
		if (inode)
			return inode;
	}

	if (!duet_fs_pin(task->fs, pin))
		return NULL;
	sb = pin->sb;
	inode = duet_inode_in_memory(sb, ino);
	if (!inode && (!duet_trusts_numbers(sb) ||
		       duet_is_known(task, ino, gen)))
		inode = duet_inode_from_disk(sb, task, ino, gen);
	/* A handle may hold fewer bits of the number than the caller gave. */
	if (inode && inode->i_ino == ino && inode->i_generation == gen &&
	    S_ISREG(inode->i_mode))
		return inode;
	duet_inode_put(inode, pin);
	return NULL;
}

/* The names of a path, from its end: those of one walk, over those of another. */
struct duet_names {
	char *buf;			/* room begins here */
	char *pos;			/* what was written does */
	char *seen;			/* and what the walk before wrote */
	bool same;			/* as it did, so far */
};

static void duet_path_put(struct duet_names *names, const char *name,
			  unsigned int len)
{
	names->pos -= len;
	if (names->pos < names->seen || memcmp(names->pos, name, len))
		names->same = false;
	memcpy(names->pos, name, len);
}

/*
 * Writes the names from a dentry up to the root of the task's mount. Under
 * RCU: the caller finds out whether one changed meanwhile.
 */
static int duet_path_names(const struct duet_task *task, struct dentry *dentry,
			   struct duet_names *names)
{
	const struct inode *root = READ_ONCE(task->root), *inode;
	const struct inode *top = READ_ONCE(task->top);
	struct dentry *parent;
	bool inside = false;

	/* Bounded by the buffer. */
	for (;; dentry = parent) {
		unsigned int len;
		bool fits;

		inode = READ_ONCE(dentry->d_inode);
		inside |= inode == root;
		parent = READ_ONCE(dentry->d_parent);
		if (inode == top || parent == dentry)
			break;
		/* Keeps the name: not to be waited for with another one's. */
		spin_lock(&dentry->d_lock);
		len = dentry->d_name.len;
		fits = names->pos - names->buf >= len + 1;
		if (fits) {
			duet_path_put(names, dentry->d_name.name, len);
			duet_path_put(names, "/", 1);
		}
		spin_unlock(&dentry->d_lock);
		if (!fits)
			return -ENAMETOOLONG;
	}
	/* What was moved out of the mount cannot be said from where that is. */
	return inside && inode == top ? 0 : -ENOENT;
}

/* How often one looks for a path that somebody changes all the time. */
#define DUET_PATH_WALKS	16

/*
 * Writes the path of a dentry to the end of buf, as the registering process
 * would say it. Nobody is kept from renaming, which d_path() does: a path has
 * thousands of names. Where a rename came between, it is what two walks, one
 * after the other, saw: so it was in between. Beyond DUET_PATH_WALKS it is what
 * the last one saw, each name at its moment.
 */
static char *duet_path_render(const struct duet_task *task,
			      struct dentry *dentry, char *buf, size_t size)
{
	size_t prefix = strlen(task->prefix);
	char *end = buf + size - 1;
	struct duet_names names = { .buf = buf + prefix, .pos = end };
	unsigned int seq, walks = 0;
	int err = 0, before;

	*end = '\0';
	do {
		before = err;
		names.seen = names.pos;
		names.pos = end;
		names.same = true;
		rcu_read_lock();
		seq = read_seqbegin(&rename_lock);
		err = duet_path_names(task, dentry, &names);
		rcu_read_unlock();
		names.same &= names.pos == names.seen && err == before;
	} while (read_seqretry(&rename_lock, seq) && !names.same &&
		 ++walks < DUET_PATH_WALKS);
	if (err)
		return ERR_PTR(err);
	names.pos -= prefix;
	return memcpy(names.pos, task->prefix, prefix);
}

static int duet_acceptable(void *arg, struct dentry *dentry)
{
	const struct duet_task *task = arg;

	return duet_is_below(task, dentry);
}

/* f2fs is asked for nothing by number that it would read from disk. */
static bool duet_may_decode(struct super_block *sb, u64 ino, u64 dir)
{
	struct inode *inode, *parent;
	bool may;

	if (sb->s_magic != F2FS_SUPER_MAGIC)
		return true;
	inode = duet_inode_in_memory(sb, ino);
	parent = duet_inode_in_memory(sb, dir);
	may = inode && parent;
	iput(parent);
	iput(inode);
	return may;
}

/* Without memory, nobody knows whether it is there. */
static int duet_not_found(int err)
{
	return err == -ENOMEM ? err : -ENOENT;
}

/*
 * Reads a name from its directory again, so that there is a dentry of it; 0
 * only if it is below the task's directory; it may have moved. If not, ENOENT,
 * or ENOMEM where exportfs says that. It comes with its mount, which is busy
 * until path_put(): an unmount fails meanwhile, which it says. Nothing is
 * pinned: the path may be walked for ever.
 */
int duet_name_again(struct duet_task *task, u64 ino, u32 gen,
		    struct path *path)
{
	const char *where = *task->prefix ? task->prefix : "/";
	struct duet_handle handle;
	struct duet_origin origin;
	struct duet_file *file;
	struct dentry *dentry;
	bool known;
	int err;

	rcu_read_lock();
	/* Others' is kept up where this task is done with the file. */
	file = duet_file_by_ino(task, ino, gen, true);
	if (file)
		origin = duet_origin_of(file);
	known = file && origin.ino;
	rcu_read_unlock();
	if (!known && !duet_recall_origin(task, ino, gen, &origin))
		return -ENOENT;
	/* The mount is looked up anew: a task does not keep it busy. */
	err = kern_path(where, LOOKUP_DIRECTORY, path);
	if (err)
		return duet_not_found(err);
	dentry = NULL;
	if (path->mnt->mnt_sb == READ_ONCE(task->fs->sb) &&
	    duet_may_decode(path->mnt->mnt_sb, ino, origin.ino) &&
	    duet_handle_make(&handle, path->mnt->mnt_sb->s_magic, task, ino,
			     gen, &origin))
		dentry = exportfs_decode_fh(path->mnt, &handle.fid, handle.len,
					    handle.type, duet_acceptable, task);
	if (!IS_ERR_OR_NULL(dentry)) {
		dput(path->dentry);
		path->dentry = dentry;
		if (d_inode(dentry)->i_ino == ino &&
		    d_inode(dentry)->i_generation == gen)
			return 0;
	}
	path_put(path);
	return duet_not_found(PTR_ERR_OR_ZERO(dentry));
}

/*
 * Calls fn with a name of the file that a task's uuid names, which stays
 * meanwhile; where no dentry is left it is read from the directory again.
 * ENOENT when no name of it lies below the task's directory, EACCES when the
 * task may know nothing of it, or could not open it there.
 */
int duet_with_name(struct duet_task *task, u64 ino, u32 gen,
		   int (*fn)(struct duet_task *task, struct dentry *dentry,
			     void *arg),
		   void *arg)
{
	struct dentry *dentry;
	struct duet_pin pin;
	struct inode *inode;
	struct path path;
	int err;
	bool again;

	inode = duet_inode_of(task, ino, gen, &pin);
	if (!inode)
		return -ENOENT;
	/* Who has a deleted file open still has a name that is none. */
	if (!inode->i_nlink)
		dentry = ERR_PTR(-ENOENT);
	else if (task->privileged)
		dentry = duet_name_below(task, inode) ?: ERR_PTR(-ENOENT);
	else
		dentry = duet_reach(task, inode);
	if (!IS_ERR(dentry)) {
		err = duet_may_know(task, inode) ? fn(task, dentry, arg) :
						   -EACCES;
		dput(dentry);
	} else {
		err = PTR_ERR(dentry);
	}
	again = dentry == ERR_PTR(-ENOENT) && inode->i_nlink;
	duet_inode_put(inode, &pin);
	if (!again)
		return err;
	err = duet_name_again(task, ino, gen, &path);
	if (err)
		return err;
	err = duet_may_pass(task, path.dentry) &&
	      duet_may_know(task, d_inode(path.dentry)) ?
		      fn(task, path.dentry, arg) : -EACCES;
	path_put(&path);
	return err;
}

struct duet_rendering {
	char *buf;
	size_t size;
	char *path;
};

static int duet_render(struct duet_task *task, struct dentry *dentry, void *arg)
{
	struct duet_rendering *to = arg;

	to->path = duet_path_render(task, dentry, to->buf, to->size);
	return PTR_ERR_OR_ZERO(to->path);
}

/*
 * The path of the file that a task's uuid names, at the end of buf, or an
 * error, as above.
 */
char *duet_path_of(struct duet_task *task, u64 ino, u32 gen, char *buf,
		   size_t size)
{
	struct duet_rendering to = { .buf = buf, .size = size };
	int err = duet_with_name(task, ino, gen, duet_render, &to);

	return err ? ERR_PTR(err) : to.path;
}
