/* Preloaded into a contender: a disk whose flush takes REPLBLK_BENCH_FLUSH_US longer.
 *
 * Every fsync and fdatasync returns that much later. A flush through io_uring is none of these
 * calls, so io_uring_setup is refused: programs that can do without it use threads, all alike.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>

static void late(void)
{
	const char *text = getenv("REPLBLK_BENCH_FLUSH_US");
	long us = text ? atol(text) : 0;
	struct timespec left = { us / 1000000, us % 1000000 * 1000 };

	while (nanosleep(&left, &left) && errno == EINTR)
		;
}

static int flush(const char *name, int fd)
{
	int (*real)(int) = (int (*)(int)) dlsym(RTLD_NEXT, name);
	int result = real(fd), saved = errno;

	late();
	errno = saved;
	return result;
}

int fdatasync(int fd) { return flush("fdatasync", fd); }
int fsync(int fd) { return flush("fsync", fd); }

long syscall(long number, ...)
{
	long (*real)(long, ...) = (long (*)(long, ...)) dlsym(RTLD_NEXT, "syscall");
	long a[6];
	va_list list;

	if (number == SYS_io_uring_setup) {
		errno = ENOSYS;
		return -1;
	}
	va_start(list, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(list, long);
	va_end(list);
	return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
