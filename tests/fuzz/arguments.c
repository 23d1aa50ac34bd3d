// SPDX-License-Identifier: MIT
/* What calls are made with: tasks, files, paths and numbers that there are, mostly. */
#include "fuzz.h"
#include <stdio.h>
#include <string.h>

/* Any task's identity but that of the task that is to be left alone. */
unsigned some_tid(struct caller *caller, unsigned own)
{
	unsigned tid = own;

	switch (below(&caller->chance, 12)) {
	case 0:
		tid = some_number(caller);
		break;
	case 1:
		tid = 1 + below(&caller->chance, 255);
		break;
	case 2:
	case 3:
		tid = 1 + below(&caller->chance, 16);
		break;
	}
	if (tid != own)
		caller->plain = false;
	return tid == options.spare ? 0 : tid;
}

void remember_file(struct chance *chance, uint64_t ino, uint32_t gen, unsigned tid)
{
	unsigned slot = below(chance, NR_FILES);

	atomic_store(&shared->file[slot].ino, ino);
	atomic_store(&shared->file[slot].gen, gen);
	atomic_store(&shared->file[slot].tid, tid);
}

/* One that somebody was told of a file by, or 0: it may have ended. */
unsigned told_tid(struct caller *caller)
{
	return atomic_load(&shared->file[below(&caller->chance, NR_FILES)].tid);
}

/* Often one that the task was told of, or another before it. */
void some_file(struct caller *caller, unsigned tid, uint64_t *ino, uint32_t *gen)
{
	static const uint64_t odd[] = { 0, 1, 2, 3, 11, 1 << 20, 1ULL << 32, -1ULL, -2ULL,
					1ULL << 63 };
	unsigned slot = below(&caller->chance, NR_FILES);

	for (unsigned i = 0; i < NR_FILES && tid; i++) {
		unsigned other = (slot + i) % NR_FILES;

		if (atomic_load(&shared->file[other].tid) != tid)
			continue;
		slot = other;
		break;
	}
	*ino = atomic_load(&shared->file[slot].ino);
	*gen = atomic_load(&shared->file[slot].gen);
	switch (below(&caller->chance, 16)) {
	case 0:
		*ino = ANY_OF(&caller->chance, odd);
		break;
	case 1:
		*ino = below(&caller->chance, 4000);
		break;
	case 2:
		*gen = any(&caller->chance);
		break;
	}
}

uint32_t some_number(struct caller *caller)
{
	static const uint32_t numbers[] = { 0, 1, 2, 3, 8, 16, 31, 32, 33, 63, 64, 127, 255, 256,
					    4095, 4096, 65535, 65536, 1 << 20, 0x7fffffff,
					    0x80000000, -2U, -1U };

	if (one_in(&caller->chance, 3))
		return 1U << below(&caller->chance, 32);
	return ANY_OF(&caller->chance, numbers);
}

/* Of a directory below the place, or of a file there. */
const char *some_path(struct caller *caller, bool file, char *buf, size_t size)
{
	static const char *const odd[] = { "/", "/proc", "/dev/null", "/nowhere", "/dev/duet", "" };
	static const char *const dirs[] = { "tree", "tree", "tree/d0", "tree/d1", "tree/d2",
					    "out", "out/d3", "loop0/m", "loop1/m",
					    "loop0/m/d", "loop1/m/d", "away/loop0/m/d" };
	unsigned nr = below(&caller->chance, 8);

	if (one_in(&caller->chance, 16)) {
		caller->plain = false;
		return strcpy(buf, ANY_OF(&caller->chance, odd));
	}
	if (one_in(&caller->chance, 32)) {
		caller->plain = false;
		memset(buf, one_in(&caller->chance, 2) ? '/' : 'x', size - 1);
		buf[size - 1] = '\0';
		return buf;
	}
	if (file)
		snprintf(buf, size, "%s/tree/d%u/f%u", options.place, nr % 3, nr);
	else
		snprintf(buf, size, "%s/%s", options.place, ANY_OF(&caller->chance, dirs));
	return buf;
}

/* What a task is told makes sense. */
void check_item(const struct caller *caller, const struct duet_item *item)
{
	const unsigned states = DUET_PAGE_ADDED | DUET_PAGE_REMOVED | DUET_PAGE_DIRTY |
				DUET_PAGE_FLUSHED;
	bool page = item->state && !(item->state & ~states) && item->uuid.ino;
	bool overflow = item->state == DUET_ITEM_OVERFLOW && !item->idx && !item->nr;

	if (!(page || overflow) || !item->uuid.tid || item->pad[0] || item->pad[1] ||
	    item->uuid.pad[0] || item->uuid.pad[1] || item->uuid.pad[2])
		complain(caller, "tells ino %llu state %#x idx %llu nr %u tid %u",
			 (unsigned long long)item->uuid.ino, item->state,
			 (unsigned long long)item->idx, item->nr, item->uuid.tid);
}
