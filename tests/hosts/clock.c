/* The clock of one host alone, as if somebody had set it: preloaded, it adds the seconds that the
 * file $CLOCK_FILE holds to the time of day. Monotonic clocks go on as they were, as the kernel's
 * do, and what waits until a time of day waits until the real one. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static long offset(void) {
    static __thread long known;
    static __thread time_t looked_at = -1;
    static __thread int looking;
    struct timespec now;
    if (looking) return known; /* opening a file may ask for the time */
    REAL(clock_gettime)(CLOCK_MONOTONIC, &now);
    if (now.tv_sec != looked_at) {
        looking = 1;
        FILE *file = fopen(getenv("CLOCK_FILE"), "r");
        if (file) {
            if (fscanf(file, "%ld", &known) != 1) known = 0;
            fclose(file);
        }
        looked_at = now.tv_sec;
        looking = 0;
    }
    return known;
}

static struct timespec real(const struct timespec *until) {
    struct timespec moved = *until;
    moved.tv_sec -= offset();
    return moved;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = REAL(clock_gettime)(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += offset();
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    int failed = REAL(gettimeofday)(now, zone);
    if (!failed) now->tv_sec += offset();
    return failed;
}

time_t time(time_t *into) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (into) *into = now.tv_sec;
    return now.tv_sec;
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until, struct timespec *left) {
    if (clock != CLOCK_REALTIME || !(flags & TIMER_ABSTIME))
        return REAL(clock_nanosleep)(clock, flags, until, left);
    struct timespec moved = real(until);
    return REAL(clock_nanosleep)(clock, flags, &moved, left);
}

int sem_timedwait(sem_t *sem, const struct timespec *until) {
    struct timespec moved = real(until);
    return REAL(sem_timedwait)(sem, &moved);
}

int pthread_mutex_timedlock(pthread_mutex_t *mutex, const struct timespec *until) {
    struct timespec moved = real(until);
    return REAL(pthread_mutex_timedlock)(mutex, &moved);
}

int pthread_cond_clockwait(
    pthread_cond_t *cond, pthread_mutex_t *mutex, clockid_t clock, const struct timespec *until
) {
    struct timespec moved = clock == CLOCK_REALTIME ? real(until) : *until;
    return REAL(pthread_cond_clockwait)(cond, mutex, clock, &moved);
}

int pthread_cond_timedwait(
    pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *until
) {
    /* Which clock a condition waits by only its maker knows; seconds since a start are fewer. */
    struct timespec moved = until->tv_sec > 1000000000 ? real(until) : *until;
    return REAL(pthread_cond_timedwait)(cond, mutex, &moved);
}
