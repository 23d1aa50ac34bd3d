// SPDX-License-Identifier: MIT
/*
 * The descriptors of a process, which its threads share and close under each other, and what is done
 * with them that is no ioctl. Those that have to last are far above: a number that was closed and
 * taken anew is Duet's again.
 */
#include "fuzz.h"
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define LASTING 700

static struct {
	atomic_int fd;
	atomic_uint tid;		/* 0: not known */
} slots[NR_SLOTS];

static int out, in, polled, pipes[2];

static int lasting(int fd)
{
	int high = fcntl(fd, F_DUPFD_CLOEXEC, LASTING);

	if (high < 0)
		err(1, "no descriptor");
	close(fd);
	return high;
}

void descriptors_init(bool root, const int sockets[2])
{
	out = lasting(dup(sockets[root]));
	in = lasting(dup(sockets[!root]));
	polled = lasting(epoll_create1(EPOLL_CLOEXEC));
	if (pipe2(pipes, O_NONBLOCK))
		err(1, "pipe");
	for (unsigned i = 0; i < 2; i++)
		pipes[i] = lasting(pipes[i]);
	for (unsigned i = 0; i < NR_SLOTS; i++)
		slots[i].fd = i < NR_DEVICES ? open("/dev/duet", O_RDONLY) : -1;
	if (slots[0].fd < 0)
		err(1, "/dev/duet");
}

/* A task's, with its identity; -1 where there is none, and a closed one at times. */
static int task_descriptor(struct caller *caller, unsigned *tid)
{
	unsigned slot = below(&caller->chance, NR_SLOTS - NR_DEVICES) + NR_DEVICES;
	int fd = -1;

	/* The next one that is open: a thread's calls do not depend on it. */
	for (unsigned i = NR_DEVICES; i < NR_SLOTS && fd < 0; i++) {
		fd = atomic_load(&slots[slot].fd);
		if (tid)
			*tid = atomic_load(&slots[slot].tid);
		if (++slot == NR_SLOTS)
			slot = NR_DEVICES;
	}
	return fd;
}

/* The same, or else, or where there is none, the device's. */
int descriptor(struct caller *caller, bool of_task, unsigned *tid)
{
	int fd = of_task ? task_descriptor(caller, tid) : -1;

	if (fd >= 0)
		return fd;
	if (tid)
		*tid = 0;
	return atomic_load(&slots[below(&caller->chance, NR_DEVICES)].fd);
}

/* What the descriptor itself says: that of INIT, or another process's. */
static unsigned identity(int fd)
{
	struct duet_task_info info = {};
	struct duet_dump dump = {
		.len = sizeof(info),
		.size = sizeof(info),
		.buf = (uintptr_t)&info,
	};

	return ioctl(fd, DUET_IOC_DUMP_TASKS, &dump) ? 0 : info.tid;
}

static void close_one(struct caller *caller, int fd)
{
	const enum kind kind = caller->kind;

	if (fd < 0)
		return;
	caller->kind = CLOSE;
	record(caller, close(fd) ? errno : 0);
	caller->kind = kind;
}

/* Takes a descriptor of a task into the pool; what was in its place is closed. */
void descriptor_put(struct caller *caller, int fd, unsigned tid)
{
	unsigned slot = below(&caller->chance, NR_SLOTS - NR_DEVICES) + NR_DEVICES;

	atomic_store(&slots[slot].tid, tid ?: identity(fd));
	close_one(caller, atomic_exchange(&slots[slot].fd, fd));
}

/* Nothing more can be had of a task that has ended: not for long should that be all there is. */
static void drop(struct caller *caller, int fd)
{
	for (unsigned i = NR_DEVICES; i < NR_SLOTS; i++) {
		int expected = fd;

		if (atomic_compare_exchange_strong(&slots[i].fd, &expected, -1)) {
			close_one(caller, fd);
			return;
		}
	}
}

static void call_open(struct caller *caller)
{
	static const int flags[] = { O_RDONLY, O_RDONLY | O_NONBLOCK, O_RDONLY | O_CLOEXEC };
	int fd = open("/dev/duet", ANY_OF(&caller->chance, flags));

	record(caller, fd < 0 ? errno : 0);
	if (fd < 0)
		return;
	close_one(caller, atomic_exchange(&slots[below(&caller->chance, NR_DEVICES)].fd, fd));
}

static void call_close(struct caller *caller)
{
	unsigned slot = below(&caller->chance, NR_SLOTS - NR_DEVICES) + NR_DEVICES;

	close_one(caller, atomic_exchange(&slots[slot].fd, -1));
}

static void call_dup(struct caller *caller)
{
	unsigned tid;
	int fd = dup(task_descriptor(caller, &tid));

	record(caller, fd < 0 ? errno : 0);
	if (fd >= 0)
		descriptor_put(caller, fd, tid);
}

static void call_send(struct caller *caller)
{
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {};
	struct iovec byte = { "x", 1 };
	struct msghdr message = { .msg_iov = &byte, .msg_iovlen = 1, .msg_control = &control,
				  .msg_controllen = sizeof(control) };
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);
	int fd = task_descriptor(caller, NULL);

	head->cmsg_level = SOL_SOCKET;
	head->cmsg_type = SCM_RIGHTS;
	head->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(head), &fd, sizeof(fd));
	record(caller, sendmsg(out, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? errno : 0);
}

static void call_receive(struct caller *caller)
{
	char room[CMSG_SPACE(sizeof(int))], byte_room;
	struct iovec byte = { &byte_room, 1 };
	struct msghdr message = { .msg_iov = &byte, .msg_iovlen = 1, .msg_control = room,
				  .msg_controllen = sizeof(room) };
	struct cmsghdr *head;
	int fd;

	if (recvmsg(in, &message, MSG_DONTWAIT) < 0) {
		record(caller, errno);
		return;
	}
	record(caller, 0);
	head = CMSG_FIRSTHDR(&message);
	if (!head || head->cmsg_type != SCM_RIGHTS)
		return;
	memcpy(&fd, CMSG_DATA(head), sizeof(fd));
	descriptor_put(caller, fd, 0);
}

/* A child with all that is open here, which makes calls until it is killed in one. */
static void call_fork(struct caller *caller)
{
	unsigned nr = 1 + below(&caller->chance, 20);
	struct itimerval late = {
		.it_value.tv_usec = 2000 + below(&caller->chance, 60000),
	};
	int status;
	pid_t pid;

	if (caller->child)
		return;
	pid = fork();
	if (!pid) {
		caller->child = true;
		signal(SIGALRM, SIG_DFL);
		setitimer(ITIMER_REAL, &late, NULL);
		while (nr--)
			call_any(caller);
		_exit(0);
	}
	if (pid < 0) {
		record(caller, errno);
		return;
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFSIGNALED(status) && WTERMSIG(status) != SIGALRM)
		complain(caller, "the child ended by signal %d", WTERMSIG(status));
	record(caller, 0);
}

static void call_read(struct caller *caller)
{
	static const size_t sizes[] = { 0, 1, 31, 32, 33, 63, 64, 96, 1024, 4096, 4100, 32 << 10,
					64 << 10 };
	static const size_t huge[] = { ROOM_SIZE + 32, 1 << 30, 0x7fffffff, 0x80000000,
				       SIZE_MAX / 2, SIZE_MAX };
	bool is_huge = one_in(&caller->chance, 24);
	bool of_task = !one_in(&caller->chance, 24);
	size_t count = is_huge ? ANY_OF(&caller->chance, huge) : ANY_OF(&caller->chance, sizes);
	int fd = descriptor(caller, of_task, NULL);
	struct lent lent;
	ssize_t done;
	int err;

	if (is_huge) {
		lent = lend(caller, 0, 4096, true);
		lent.room = NULL;
	} else {
		lent = lend_or_not(caller, 0, NULL, count);
	}
	caller->bad |= is_huge;
	caller->plain &= !is_huge && of_task;
	done = read(fd, lent.at, count);
	err = done < 0 ? errno : 0;
	record(caller, err);
	check_around(caller, &lent);
	if (done < 0) {
		if (err != EFAULT && changed(&lent, 0, lent.size))
			complain(caller, "writes and fails with %s", strerror(err));
		if ((err == ESHUTDOWN || err == ECANCELED || err == ENODEV) &&
		    one_in(&caller->chance, 2))
			drop(caller, fd);
		return;
	}
	/* The end of a snapshot alone is nothing. */
	if (done % sizeof(struct duet_item) || (size_t)done > count || count < 32)
		complain(caller, "returns %zd of %zu", done, count);
	if (changed(&lent, done, lent.size))
		complain(caller, "returns %zd and writes behind that", done);
	for (size_t at = 0; lent.room && at + 32 <= (size_t)done && at < lent.size; at += 32) {
		struct duet_item item;

		memcpy(&item, lent.at + at, sizeof(item));
		check_item(caller, &item);
		if (item.uuid.ino && at < 256)
			remember_file(&caller->chance, item.uuid.ino, item.uuid.gen,
				      item.uuid.tid);
	}
}

static void call_poll(struct caller *caller)
{
	const int known = POLLIN | POLLRDNORM | POLLHUP | POLLERR | POLLNVAL;
	static const short events[] = { POLLIN, POLLIN | POLLRDNORM, POLLIN | POLLOUT | POLLPRI, 0,
					-1 };
	struct pollfd polls[3];
	unsigned nr = 1 + below(&caller->chance, COUNT(polls));

	for (unsigned i = 0; i < nr; i++)
		polls[i] = (struct pollfd){
			.fd = descriptor(caller, true, NULL),
			.events = ANY_OF(&caller->chance, events),
		};
	record(caller, poll(polls, nr, below(&caller->chance, 4)) < 0 ? errno : 0);
	for (unsigned i = 0; i < nr; i++)
		/* The device itself is always ready for everything. */
		if (polls[i].revents & ~(known | POLLOUT | POLLWRNORM))
			complain(caller, "revents %#x", polls[i].revents);
}

static void call_epoll(struct caller *caller)
{
	static const int ops[] = { EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD };
	struct epoll_event event = { .events = EPOLLIN | EPOLLET }, events[4];
	int err;

	err = epoll_ctl(polled, ANY_OF(&caller->chance, ops), descriptor(caller, true, NULL),
			&event);
	if (!err && epoll_wait(polled, events, COUNT(events), below(&caller->chance, 3)) < 0)
		err = -1;
	record(caller, err ? errno : 0);
}

/* What a file can be asked for that Duet has nothing to say to. */
static void call_other(struct caller *caller)
{
	int fd = descriptor(caller, !one_in(&caller->chance, 4), NULL), flags;
	struct lent lent = lend_or_not(caller, 0, NULL, 4096);
	struct iovec parts[2] = { { lent.at, 32 }, { lent.at + 32, 4064 } };
	void *map;
	ssize_t ret;

	switch (below(&caller->chance, 12)) {
	case 0:
		ret = write(fd, lent.at, below(&caller->chance, 4096));
		break;
	case 1:
		ret = lseek(fd, any(&caller->chance), below(&caller->chance, 5));
		break;
	case 2:
		map = mmap(NULL, 4096, PROT_READ, one_in(&caller->chance, 2) ? MAP_SHARED :
			   MAP_PRIVATE, fd, 0);
		ret = map == MAP_FAILED ? -1 : munmap(map, 4096);
		break;
	case 3:
		ret = fsync(fd);
		break;
	case 4:
		ret = ftruncate(fd, 0);
		break;
	case 5:
		ret = pread(fd, lent.at, 64, any(&caller->chance) >> 1);
		break;
	case 6:
		ret = pwrite(fd, lent.at, 64, 0);
		break;
	case 7:
		flags = fcntl(fd, F_GETFL);
		/* Most stay as they are to read: who blocks costs time. */
		ret = fcntl(fd, F_SETFL, one_in(&caller->chance, 8) ? flags & ~O_NONBLOCK :
			    flags | O_NONBLOCK);
		break;
	case 8:
		ret = flock(fd, LOCK_EX | LOCK_NB);
		break;
	case 9:
		ret = fcntl(fd, F_SETFL, O_ASYNC | O_NONBLOCK | O_DIRECT);
		break;
	case 10:
		flags = fcntl(fd, F_GETFL);
		ret = flags >= 0 && flags & O_NONBLOCK ? readv(fd, parts, 2) : flags;
		break;
	default:
		ret = splice(fd, NULL, pipes[1], NULL, 4096, SPLICE_F_NONBLOCK);
	}
	record(caller, ret < 0 ? errno : 0);
}

void call_descriptors(struct caller *caller, enum kind kind)
{
	caller->kind = kind;
	switch (kind) {
	case OPEN:
		call_open(caller);
		break;
	case CLOSE:
		call_close(caller);
		break;
	case DUP:
		call_dup(caller);
		break;
	case SEND:
		call_send(caller);
		break;
	case RECEIVE:
		call_receive(caller);
		break;
	case FORK:
		call_fork(caller);
		break;
	case READ:
		call_read(caller);
		break;
	case POLL:
		call_poll(caller);
		break;
	case EPOLL:
		call_epoll(caller);
		break;
	default:
		call_other(caller);
	}
}
