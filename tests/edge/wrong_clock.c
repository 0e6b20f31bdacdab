/* Preloaded into a box: its wall clock, boot clock and kernel clock state are what the file $WRONG_CLOCK says,
 * three int64 in a row: nanoseconds added to boot time, wall time minus that boot time, whether the kernel says
 * that it is synchronised. CLOCK_MONOTONIC is left alone, so that nothing that waits notices. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

struct clocks { volatile int64_t boot_add_ns, offset_ns, synced; };

static struct clocks *clocks(void)
{
    static struct clocks *mapped;
    if (!mapped) {
        int fd = open(getenv("WRONG_CLOCK"), O_RDONLY | O_CLOEXEC);
        mapped = mmap(NULL, sizeof *mapped, PROT_READ, MAP_SHARED, fd, 0);
        if (mapped == MAP_FAILED) abort();
        close(fd);
    }
    return mapped;
}

static int64_t boot_ns(void)
{
    struct timespec now;
    syscall(SYS_clock_gettime, CLOCK_BOOTTIME, &now);
    return now.tv_sec * SECOND + now.tv_nsec + clocks()->boot_add_ns;
}

int clock_gettime(clockid_t which, struct timespec *now)
{
    if (which != CLOCK_REALTIME && which != CLOCK_REALTIME_COARSE && which != CLOCK_BOOTTIME)
        return (int)syscall(SYS_clock_gettime, which, now);
    int64_t ns = boot_ns() + (which == CLOCK_BOOTTIME ? 0 : clocks()->offset_ns);
    now->tv_sec = ns / SECOND;
    now->tv_nsec = ns % SECOND;
    return 0;
}

int gettimeofday(struct timeval *now, void *zone)
{
    int64_t ns = boot_ns() + clocks()->offset_ns;
    (void)zone;
    now->tv_sec = ns / SECOND;
    now->tv_usec = ns % SECOND / 1000;
    return 0;
}

time_t time(time_t *now)
{
    time_t s = (boot_ns() + clocks()->offset_ns) / SECOND;
    if (now) *now = s;
    return s;
}

int adjtimex(struct timex *state)
{
    *state = (struct timex) { .status = clocks()->synced ? 0 : STA_UNSYNC, .maxerror = 2000 };
    return clocks()->synced ? TIME_OK : TIME_ERROR;
}
