/* Preloaded into a writer: notes every write, truncation, new name, removal and sync below $POWER_CUT_FOLDER, so
 * that a test can rebuild what a disk may hold when the power goes. One record: operation, path length, offset,
 * size, path, data (of a renaming the new path). */
#define _GNU_SOURCE
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include <fcntl.h>

struct head { char operation; char pad; uint16_t path_bytes; uint32_t size; int64_t offset; };

static void note(char operation, const char *path, int64_t offset, const void *data, uint32_t size)
{
    static int log_fd = -1;
    const char *folder = getenv("POWER_CUT_FOLDER");
    if (!folder || strncmp(path, folder, strlen(folder))) return;
    if (log_fd < 0) log_fd = open(getenv("POWER_CUT_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    struct head head = { operation, 0, (uint16_t)strlen(path), size, offset };
    struct iovec parts[3] = { { &head, sizeof head }, { (void *)path, head.path_bytes }, { (void *)data, size } };
    if (writev(log_fd, parts, 3) < 0) abort();
}

static const char *path_of(int fd)
{
    static __thread char path[PATH_MAX];
    char link[64] = "/proc/self/fd/", *end = link + strlen(link);
    int digits = 0;
    for (int n = fd; n || !digits; n /= 10) digits++;
    for (int i = digits, n = fd; i--; n /= 10) end[i] = (char)('0' + n % 10);
    end[digits] = 0;
    ssize_t size = readlink(link, path, sizeof path - 1);
    path[size < 0 ? 0 : size] = 0;
    return path;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset)
{
    ssize_t done = syscall(SYS_pwrite64, fd, data, size, offset);
    if (done > 0) note('w', path_of(fd), offset, data, (uint32_t)done);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return pwrite64(fd, data, size, offset); }

ssize_t write(int fd, const void *data, size_t size)
{
    ssize_t done = syscall(SYS_write, fd, data, size);
    if (done > 0) note('w', path_of(fd), lseek(fd, 0, SEEK_CUR) - done, data, (uint32_t)done);
    return done;
}

int ftruncate64(int fd, off64_t size)
{
    int failed = (int)syscall(SYS_ftruncate, fd, size);
    if (!failed) note('t', path_of(fd), size, "", 0);
    return failed;
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int unlink(const char *path)
{
    int failed = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (!failed) note('u', path, 0, "", 0);
    return failed;
}

int rename(const char *from, const char *to)
{
    int failed = (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (!failed) note('r', from, 0, to, (uint32_t)strlen(to));
    return failed;
}

int fdatasync(int fd)
{
    int failed = (int)syscall(SYS_fdatasync, fd);
    if (!failed) note('s', path_of(fd), 0, "", 0);
    return failed;
}

int fsync(int fd)
{
    int failed = (int)syscall(SYS_fsync, fd);
    if (!failed) note('s', path_of(fd), 0, "", 0);
    return failed;
}
