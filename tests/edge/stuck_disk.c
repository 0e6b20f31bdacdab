/* Preloaded into a box: while the file $STUCK_DISK exists, no sync comes back, as with a card that died. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static int sync_by(long number, int fd)
{
    const char *flag = getenv("STUCK_DISK");
    while (flag && !access(flag, F_OK)) usleep(10000);
    return (int)syscall(number, fd);
}

int fdatasync(int fd) { return sync_by(SYS_fdatasync, fd); }
int fsync(int fd) { return sync_by(SYS_fsync, fd); }
