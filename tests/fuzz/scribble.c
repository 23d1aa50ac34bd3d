// SPDX-License-Identifier: MIT
/*
 * A structure that another thread changes while the kernel reads it, twice perhaps. One call of a
 * process at a time is made so. Addresses stay as they are: they would lead the kernel anywhere.
 */
#include "fuzz.h"
#include <err.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static _Atomic uint32_t *words;
static atomic_flag taken = ATOMIC_FLAG_INIT;
/* Over the two that follow, and each change by the other thread. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t fixed, nr_words;

/* Where the structure is now; NULL when another call has the place. */
void *scribble_begin(const void *content, size_t size, uint32_t fixed_words)
{
	if (!words || size > 128 || atomic_flag_test_and_set(&taken))
		return NULL;
	pthread_mutex_lock(&lock);
	memcpy((void *)words, content, size);
	fixed = fixed_words;
	nr_words = size / sizeof(*words);
	pthread_mutex_unlock(&lock);
	return (void *)words;
}

void scribble_end(void)
{
	pthread_mutex_lock(&lock);
	nr_words = 0;
	pthread_mutex_unlock(&lock);
	atomic_flag_clear(&taken);
}

static void *scribble(void *arg)
{
	static const uint32_t values[] = { 0, 1, 2, 4, 32, 64, 4096, 1 << 20, -1U };
	struct chance chance = chance_of(options.seed, 1000, getpid());

	(void)arg;
	for (unsigned i = 0;; i++) {
		uint32_t word, value = ANY_OF(&chance, values);

		pthread_mutex_lock(&lock);
		word = nr_words ? below(&chance, nr_words) : 32;
		if (word < 32 && !(fixed >> word & 1) && value != options.spare)
			atomic_store(&words[word], value);
		pthread_mutex_unlock(&lock);
		if (word == 32 || i % 64 == 0)
			usleep(300);
	}
	return NULL;
}

void scribble_start(void)
{
	pthread_t thread;

	words = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (words == MAP_FAILED || pthread_create(&thread, NULL, scribble, NULL))
		err(1, "no scribbler");
}
