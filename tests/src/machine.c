/*
 * What a machine does to one process: its clock, its disk. Preloaded into servers and daemons by
 * machine.rs, which writes the numbers below into a file that is mapped here.
 *
 * Everything here may be called from a signal handler (PostgreSQL reads the clock in one), so there is
 * no allocation, no lock and no file to be opened: the system calls are made directly.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct machine {
	int64_t clock_offset_us; /* added to the time of day */
	int64_t clock_stands_at_us; /* Unix time; 0: it runs */
	int64_t sync_takes_us; /* so much longer does fsync take */
	int64_t sync_fails; /* errno of the next syncs; 0: they do not fail */
	int64_t room_bytes; /* left on the disk; -1: no limit */
};

static struct machine good = { 0, 0, 0, 0, -1 };
static volatile struct machine *machine = &good;

__attribute__((constructor)) static void
begin(void)
{
	const char *path = getenv("EVERYWRITE_TEST_MACHINE");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *map;

	if (fd < 0)
		return;
	map = mmap(NULL, sizeof(good), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (map != MAP_FAILED)
		machine = map;
}

static void
sleep_us(int64_t us)
{
	struct timespec left = { us / 1000000, us % 1000000 * 1000 };

	while (nanosleep(&left, &left) < 0 && errno == EINTR)
		;
}

int
clock_gettime(clockid_t which, struct timespec *now)
{
	int result = (int)syscall(SYS_clock_gettime, which, now);
	int64_t us = machine->clock_stands_at_us;

	if (result < 0 || (which != CLOCK_REALTIME && which != CLOCK_REALTIME_COARSE))
		return result;
	if (us == 0)
		us = now->tv_sec * INT64_C(1000000) + now->tv_nsec / 1000 + machine->clock_offset_us;
	now->tv_sec = us / 1000000;
	now->tv_nsec = us % 1000000 * 1000;
	return 0;
}

int
gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec precise;

	(void)zone;
	if (clock_gettime(CLOCK_REALTIME, &precise) < 0)
		return -1;
	now->tv_sec = precise.tv_sec;
	now->tv_usec = precise.tv_nsec / 1000;
	return 0;
}

time_t
time(time_t *to)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (to)
		*to = now.tv_sec;
	return now.tv_sec;
}

/* Whether a sync may be made; waits as long as the disk takes. */
static int
may_sync(void)
{
	int error = (int)machine->sync_fails;
	int before = errno;

	if (machine->sync_takes_us > 0)
		sleep_us(machine->sync_takes_us);
	errno = error ? error : before;
	return error == 0;
}

int
fsync(int fd)
{
	return may_sync() ? (int)syscall(SYS_fsync, fd) : -1;
}

int
fdatasync(int fd)
{
	return may_sync() ? (int)syscall(SYS_fdatasync, fd) : -1;
}

/*
 * How much of `wanted` bytes at `offset` (-1: where the file stands) fits on the disk. Only bytes behind the
 * end of a regular file need room. -1, and errno, when there is none.
 */
static ssize_t
fits(int fd, size_t wanted, off_t offset)
{
	struct stat status;
	int64_t room = machine->room_bytes, more;
	int before = errno;

	/* The log on 1 and 2 is the harness's own. */
	if (room < 0 || fd <= 2 || fstat(fd, &status) < 0 || !S_ISREG(status.st_mode)) {
		errno = before;
		return (ssize_t)wanted;
	}
	if (offset < 0)
		offset = fcntl(fd, F_GETFL) & O_APPEND ? status.st_size : lseek(fd, 0, SEEK_CUR);
	more = (int64_t)offset + (int64_t)wanted - status.st_size;
	if (more <= 0)
		return (ssize_t)wanted;
	if (more <= room) {
		__sync_fetch_and_sub(&machine->room_bytes, more);
		return (ssize_t)wanted;
	}
	if ((int64_t)wanted - (more - room) <= 0) {
		errno = ENOSPC;
		return -1;
	}
	machine->room_bytes = 0;
	return (ssize_t)((int64_t)wanted - (more - room));
}

ssize_t
write(int fd, const void *bytes, size_t count)
{
	ssize_t part = fits(fd, count, -1);

	return part < 0 ? -1 : syscall(SYS_write, fd, bytes, (size_t)part);
}

ssize_t
pwrite64(int fd, const void *bytes, size_t count, off_t offset)
{
	ssize_t part = fits(fd, count, offset);

	return part < 0 ? -1 : syscall(SYS_pwrite64, fd, bytes, (size_t)part, offset);
}

ssize_t
pwrite(int fd, const void *bytes, size_t count, off_t offset)
{
	return pwrite64(fd, bytes, count, offset);
}

/* Several pieces at once are written one by one: a short write is always allowed. */
ssize_t
writev(int fd, const struct iovec *pieces, int count)
{
	size_t wanted = 0;

	for (int i = 0; i < count; i++)
		wanted += pieces[i].iov_len;
	if (machine->room_bytes < 0 || fits(fd, wanted, -1) == (ssize_t)wanted)
		return syscall(SYS_writev, fd, pieces, count);
	errno = ENOSPC;
	return -1;
}

ssize_t
pwritev64(int fd, const struct iovec *pieces, int count, off_t offset)
{
	size_t wanted = 0;

	for (int i = 0; i < count; i++)
		wanted += pieces[i].iov_len;
	if (machine->room_bytes < 0 || fits(fd, wanted, offset) == (ssize_t)wanted)
		return syscall(SYS_pwritev, fd, pieces, count, (long)offset, 0L);
	errno = ENOSPC;
	return -1;
}

ssize_t
pwritev(int fd, const struct iovec *pieces, int count, off_t offset)
{
	return pwritev64(fd, pieces, count, offset);
}

int
posix_fallocate64(int fd, off_t offset, off_t length)
{
	int before = errno;
	ssize_t part = fits(fd, (size_t)length, offset);
	int error = 0;

	if (part < length)
		error = ENOSPC;
	else if (syscall(SYS_fallocate, fd, 0, offset, length) < 0)
		error = errno;
	errno = before;
	return error;
}

int
posix_fallocate(int fd, off_t offset, off_t length)
{
	return posix_fallocate64(fd, offset, length);
}
