/* LD_PRELOAD: spoils the Nth disk system call of a program, as a rule file says.
 *
 * FAULT_TARGET: the path of the one file whose descriptors are meant.
 * FAULT_RULE:   a file with one line, read anew at every call:
 *                   serial operation action value first times start end
 *               operation: write, read, flush. action: error (value: errno), torn (half of it is
 *               done, then errno), short (half of it is done, and said so), delay (value:
 *               milliseconds), hang (until the serial changes); a call that asked not to wait
 *               (RWF_NOWAIT) is told EAGAIN by a disk that is late or hangs. first: the number of the call it
 *               begins with, counted from 1 since the serial changed; times: for so many.
 *               start, end: only calls that touch these bytes; a flush touches all.
 * Each hit appends a byte to the file FAULT_RULE with ".hits" behind it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct rule {
	long serial, value, first, times;
	long long start, end;
	char operation[16], action[16];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long serial, count;

static int read_rule(struct rule *rule)
{
	char text[256];
	const char *path = getenv("FAULT_RULE");
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	ssize_t got;

	if (fd < 0)
		return 0;
	got = syscall(SYS_read, fd, text, sizeof(text) - 1);
	close(fd);
	if (got <= 0)
		return 0;
	text[got] = 0;
	return sscanf(text, "%ld %15s %15s %ld %ld %ld %lld %lld", &rule->serial, rule->operation,
		      rule->action, &rule->value, &rule->first, &rule->times, &rule->start,
		      &rule->end) == 8;
}

static int is_target(int fd)
{
	char name[64], path[PATH_MAX];
	const char *target = getenv("FAULT_TARGET");
	ssize_t length;

	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	length = readlink(name, path, sizeof(path) - 1);
	if (length < 0 || !target)
		return 0;
	path[length] = 0;
	return !strcmp(path, target);
}

static void note_hit(void)
{
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%s.hits", getenv("FAULT_RULE"));
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd >= 0) {
		if (syscall(SYS_write, fd, "x", 1) != 1)
			abort();
		close(fd);
	}
}

static void sleep_ms(long ms)
{
	struct timespec time = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&time, NULL);
}

/* Whether this call is spoilt, and by what. A delay is over when this returns. */
static int spoilt(const char *operation, int fd, long long offset, long long length,
		  struct rule *rule)
{
	int saved = errno, hit;
	struct rule now;

	if (!is_target(fd) || !read_rule(rule) || strcmp(rule->operation, operation) ||
	    (length && (offset >= rule->end || offset + length <= rule->start))) {
		errno = saved;
		return 0;
	}
	pthread_mutex_lock(&lock);
	if (serial != rule->serial) {
		serial = rule->serial;
		count = 0;
	}
	count++;
	hit = count >= rule->first && count - rule->first < rule->times;
	pthread_mutex_unlock(&lock);
	if (hit)
		note_hit();
	if (hit && !strcmp(rule->action, "delay"))
		sleep_ms(rule->value);
	while (hit && !strcmp(rule->action, "hang") && read_rule(&now) &&
	       now.serial == rule->serial)
		sleep_ms(20);
	errno = saved;
	return hit && strcmp(rule->action, "delay") && strcmp(rule->action, "hang");
}

/* Whether such a disk would be waited for: RWF_NOWAIT promises not to. */
static int would_wait(const char *operation, int fd, int flags)
{
	struct rule rule;

	return flags & RWF_NOWAIT && is_target(fd) && read_rule(&rule) &&
	       !strcmp(rule.operation, operation) &&
	       (!strcmp(rule.action, "hang") || !strcmp(rule.action, "delay"));
}

static long long length_of(const struct iovec *iov, int pieces)
{
	long long sum = 0;

	while (pieces--)
		sum += iov[pieces].iov_len;
	return sum;
}

/* Half of a vector of buffers, by the real calls; how much was done, or -1. */
static long long half(int writing, int fd, const struct iovec *iov, int pieces, off_t offset)
{
	long long left = length_of(iov, pieces) / 2, done = 0;

	for (int at = 0; at < pieces && left > 0; at++) {
		size_t size = iov[at].iov_len < (size_t)left ? iov[at].iov_len : (size_t)left;
		ssize_t got = syscall(writing ? SYS_pwrite64 : SYS_pread64, fd, iov[at].iov_base,
				      size, offset + done);

		if (got < 0)
			return -1;
		done += got;
		left -= got;
		if ((size_t)got < size)
			break;
	}
	return done;
}

static int vector(int writing, int fd, const struct iovec *iov, int pieces, off_t offset,
		  ssize_t *answer)
{
	struct rule rule;

	if (!spoilt(writing ? "write" : "read", fd, offset, length_of(iov, pieces), &rule))
		return 0;
	*answer = -1;
	if (strcmp(rule.action, "error")) {
		*answer = half(writing, fd, iov, pieces, offset);
		if (!strcmp(rule.action, "short"))
			return 1;
	}
	*answer = -1;
	errno = rule.value;
	return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define SINGLE(name, writing, buffer_type)                                     \
	ssize_t name(int fd, buffer_type buffer, size_t size, off_t offset)    \
	{                                                                      \
		struct iovec iov = { (void *)buffer, size };                   \
		ssize_t answer;                                                \
		if (vector(writing, fd, &iov, 1, offset, &answer))             \
			return answer;                                         \
		return REAL(name)(fd, buffer, size, offset);                   \
	}
#define MANY(name, writing)                                                    \
	ssize_t name(int fd, const struct iovec *iov, int pieces, off_t offset) \
	{                                                                      \
		ssize_t answer;                                                \
		if (vector(writing, fd, iov, pieces, offset, &answer))         \
			return answer;                                         \
		return REAL(name)(fd, iov, pieces, offset);                    \
	}
#define FLAGGED(name, writing)                                                 \
	ssize_t name(int fd, const struct iovec *iov, int pieces, off_t offset, int flags) \
	{                                                                      \
		ssize_t answer;                                                \
		if (would_wait(writing ? "write" : "read", fd, flags)) {       \
			errno = EAGAIN;                                        \
			return -1;                                             \
		}                                                              \
		if (vector(writing, fd, iov, pieces, offset, &answer))         \
			return answer;                                         \
		return REAL(name)(fd, iov, pieces, offset, flags);             \
	}
#define FLUSH(name)                                                            \
	int name(int fd)                                                       \
	{                                                                      \
		struct rule rule;                                              \
		if (spoilt("flush", fd, 0, 0, &rule)) {                        \
			errno = rule.value;                                    \
			return -1;                                             \
		}                                                              \
		return REAL(name)(fd);                                         \
	}
#define ZERO(name)                                                             \
	int name(int fd, int mode, off_t offset, off_t length)                 \
	{                                                                      \
		struct rule rule;                                              \
		if (spoilt("write", fd, offset, length, &rule)) {              \
			errno = rule.value ? rule.value : EIO;                 \
			return -1;                                             \
		}                                                              \
		return REAL(name)(fd, mode, offset, length);                   \
	}

SINGLE(pwrite, 1, const void *)
SINGLE(pwrite64, 1, const void *)
SINGLE(pread, 0, void *)
SINGLE(pread64, 0, void *)
MANY(pwritev, 1)
MANY(pwritev64, 1)
MANY(preadv, 0)
MANY(preadv64, 0)
FLAGGED(pwritev2, 1)
FLAGGED(pwritev64v2, 1)
FLAGGED(preadv2, 0)
FLAGGED(preadv64v2, 0)
FLUSH(fsync)
FLUSH(fdatasync)
ZERO(fallocate)
ZERO(fallocate64)
