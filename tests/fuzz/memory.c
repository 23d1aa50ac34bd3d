// SPDX-License-Identifier: MIT
/* Where arguments and answers are: good addresses with guards behind them, and bad ones. */
#include "fuzz.h"
#include <err.h>
#include <string.h>
#include <sys/mman.h>

/* Bytes on each side of what is lent that nobody may change. */
#define MARGIN 64

static unsigned char *map(size_t size)
{
	unsigned char *at = mmap(NULL, size + 4096, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED || mprotect(at + size, 4096, PROT_NONE))
		err(1, "no memory");
	return at;
}

void memory_init(struct caller *caller)
{
	for (unsigned i = 0; i < NR_ROOMS; i++) {
		struct room *room = &caller->room[i];

		room->start = map(ROOM_SIZE);
		room->end = room->start + ROOM_SIZE;
		room->was = map(ROOM_SIZE);
		memset(room->start, 0xa5, ROOM_SIZE);
	}
	caller->read_only = map(READ_ONLY_SIZE);
	mprotect(caller->read_only, READ_ONLY_SIZE, PROT_READ);
}

/* At the end of the room, where one byte too many is a fault, or with room behind it. */
struct lent lend(struct caller *caller, unsigned room, size_t size, bool at_end)
{
	struct lent lent = { .room = &caller->room[room], .size = size };

	lent.at = lent.room->end - size;
	if (!at_end && size + 4 * MARGIN < ROOM_SIZE)
		lent.at -= 2 * MARGIN;
	return lent;
}

/* Remembers what is there, for changed() and check_around(). */
void keep(const struct lent *lent)
{
	const struct room *room = lent->room;
	unsigned char *from = lent->at - MARGIN, *to = lent->at + lent->size + MARGIN;

	if (!room)
		return;
	if (from < room->start)
		from = room->start;
	if (to > room->end)
		to = room->end;
	memcpy(room->was + (from - room->start), from, to - from);
}

bool changed(const struct lent *lent, size_t from, size_t to)
{
	const struct room *room = lent->room;

	if (!room || from >= to)
		return false;
	return memcmp(lent->at + from, room->was + (lent->at - room->start) + from, to - from);
}

/* Nothing is written before or behind what was given. */
void check_around(const struct caller *caller, const struct lent *lent)
{
	const struct room *room = lent->room;
	size_t behind = MARGIN;

	if (!room)
		return;
	if (behind > (size_t)(room->end - lent->at) - lent->size)
		behind = room->end - lent->at - lent->size;
	if (changed(lent, lent->size, lent->size + behind))
		complain(caller, "writes behind the %zu bytes that it was given", lent->size);
	if (lent->at - room->start >= MARGIN &&
	    memcmp(lent->at - MARGIN, room->was + (lent->at - room->start) - MARGIN, MARGIN))
		complain(caller, "writes before what it was given");
}

/* As lend(), with what is to be there; or somewhere bad, which it says in caller->bad. */
struct lent lend_or_not(struct caller *caller, unsigned room, const void *content, size_t size)
{
	static const uint64_t nowhere[] = {
		0, 8, 4096, 0x7fffffffefff, 0x7ffffffff000, 0x800000000000, 0x8000000000000000,
		0xffff888000001000, 0xffffc90000000000, 0xffffffff81000000, -4096ULL, -8ULL,
	};
	struct lent lent = lend(caller, room, size, one_in(&caller->chance, 2));
	size_t part;

	if (!one_in(&caller->chance, 24)) {
		if (content)
			memcpy(lent.at, content, size);
		else
			memset(lent.at, 0xa5, size);
		keep(&lent);
		return lent;
	}
	caller->bad = true;
	caller->plain = false;
	lent.room = NULL;
	switch (below(&caller->chance, 4)) {
	case 0:	/* it ends too early */
		part = size ? below(&caller->chance, size) : 0;
		lent.at = caller->room[room].end - part;
		if (content)
			memcpy(lent.at, content, part);
		return lent;
	case 1:	/* it can be read */
		if (size > READ_ONLY_SIZE)
			size = READ_ONLY_SIZE;
		lent.at = caller->read_only + READ_ONLY_SIZE - size;
		if (!content)
			return lent;
		mprotect(caller->read_only, READ_ONLY_SIZE, PROT_READ | PROT_WRITE);
		memcpy(lent.at, content, size);
		mprotect(caller->read_only, READ_ONLY_SIZE, PROT_READ);
		return lent;
	case 2:	/* nothing at all can be done there */
		lent.at = caller->room[room].end + below(&caller->chance, 4096);
		return lent;
	}
	lent.at = (unsigned char *)ANY_OF(&caller->chance, nowhere);
	return lent;
}
