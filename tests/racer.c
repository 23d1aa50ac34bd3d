/* SPDX-License-Identifier: MIT */
/*
 * A user who exchanges what is his for links to what is not, as fast as can be, until killed:
 * racer DIRECTORY PAIRS KINDS. In the directory are, for each number below PAIRS, dN and fN, which are
 * his, and lN and sN, links that lead elsewhere; and pN, a FIFO, which is left alone if KINDS is 3.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void exchange(const char *one, const char *other)
{
	if (renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE))
		err(1, "%s, %s", one, other);
}

/* As one does it who has no RENAME_EXCHANGE: away, and back. */
static void in_turn(const char *one, const char *other)
{
	if (rename(one, "away") || rename(other, one) || rename(one, other) || rename("away", one))
		err(1, "%s, %s", one, other);
}

int main(int argc, char **argv)
{
	char d[32], l[32], f[32], s[32], p[32];

	if (argc != 4 || chdir(argv[1]))
		err(1, "%s", argv[1]);
	for (unsigned round = 0;; round++) {
		int n = round % atoi(argv[2]);

		snprintf(d, sizeof(d), "d%d", n);
		snprintf(l, sizeof(l), "l%d", n);
		snprintf(f, sizeof(f), "f%d", n);
		snprintf(s, sizeof(s), "s%d", n);
		snprintf(p, sizeof(p), "p%d", n);
		switch (round / 64 % atoi(argv[3])) {
		case 0:
			in_turn(d, l);
			in_turn(f, s);
			break;
		case 3:
			exchange(f, p);
			break;
		default:
			exchange(d, l);
			exchange(f, s);
		}
	}
}
