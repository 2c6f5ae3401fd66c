/* The thread pool and the arena behind runtime.h; compiled into _runtime only.
 *
 * Own threads instead of OpenMP: libgomp hangs in a child after fork, clashes with the OpenMP of other libraries in the
 * process, and is missing from Apple's compiler. A worker spins for a few tens of microseconds after its last job (the
 * gap between two layers), then sleeps. A caller that finds the pool taken (another Python thread, or a nested call)
 * runs its tasks itself: the bits are the same. */
#ifndef FASTDL_POOL_H
#define FASTDL_POOL_H

#define FD_RUNTIME_OWNER
#include "runtime.h"
#include <stdlib.h>

#ifndef FD_NO_THREADS
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#else
#define _Atomic
#endif

/* ---- arena ---------------------------------------------------------------------------------------------------- */

typedef struct fd_chunk {
    struct fd_chunk *previous;
    size_t start; /* value of `used` below which this chunk is not needed */
} fd_chunk;

typedef struct {
    char *base; /* the persistent block */
    size_t capacity;
    size_t used;      /* of the base and of the overflow chunks together */
    fd_chunk *chunks; /* overflow, merged into a larger base when the stack is empty again */
    size_t wanted;    /* the largest `used` seen */
} fd_arena;

static __thread fd_arena *fd_my_arena;
static _Atomic size_t fd_in_use, fd_peak, fd_reserved;

static void fd_account(ptrdiff_t bytes) {
#ifndef FD_NO_THREADS
    size_t now = atomic_fetch_add(&fd_in_use, (size_t)bytes) + (size_t)bytes, peak = atomic_load(&fd_peak);
    while (bytes > 0 && now > peak && !atomic_compare_exchange_weak(&fd_peak, &peak, now)) {}
#else
    fd_in_use += (size_t)bytes;
    if (fd_in_use > fd_peak) fd_peak = fd_in_use;
#endif
}

#ifndef FD_NO_THREADS
static pthread_key_t fd_arena_key;
static void fd_arena_free(void *p) {
    fd_arena *a = (fd_arena *)p;
    fd_reserved -= a->capacity;
    free(a->base);
    free(a);
}
#endif

static fd_arena *fd_arena_mine(void) {
    if (!fd_my_arena) {
        fd_my_arena = (fd_arena *)calloc(1, sizeof(fd_arena));
#ifndef FD_NO_THREADS
        if (fd_my_arena) pthread_setspecific(fd_arena_key, fd_my_arena);
#endif
    }
    return fd_my_arena;
}

static void *fd_push(size_t bytes) {
    fd_arena *a = fd_arena_mine();
    /* An odd number of cache lines between two blocks keeps equal-sized blocks off the same cache sets. */
    size_t rounded = (bytes + 63) / 64 * 64 + 64;
    char *p;
    if (!a) return NULL;
    if (rounded < bytes) return NULL;
    if (!a->used && a->wanted > a->capacity) {
        size_t size = (a->wanted + 4095) / 4096 * 4096;
        void *base = NULL;
        if (!posix_memalign(&base, 4096, size)) {
            free(a->base);
            fd_reserved += size - a->capacity;
            a->base = (char *)base;
            a->capacity = size;
        }
    }
    if (!a->chunks && a->used + rounded <= a->capacity) {
        p = a->base + a->used;
    } else {
        void *block = NULL;
        if (posix_memalign(&block, 64, rounded + 64)) return NULL;
        fd_chunk *chunk = (fd_chunk *)block;
        chunk->previous = a->chunks;
        chunk->start = a->used;
        a->chunks = chunk;
        p = (char *)block + 64;
    }
    a->used += rounded;
    if (a->used > a->wanted) a->wanted = a->used;
    fd_account((ptrdiff_t)rounded);
    return p;
}

static size_t fd_mark(void) {
    fd_arena *a = fd_arena_mine();
    return a ? a->used : 0;
}

static void fd_release(size_t mark) {
    fd_arena *a = fd_my_arena;
    if (!a || a->used <= mark) return;
    while (a->chunks && a->chunks->start >= mark) {
        fd_chunk *chunk = a->chunks;
        a->chunks = chunk->previous;
        free(chunk);
    }
    fd_account(-(ptrdiff_t)(a->used - mark));
    a->used = mark;
}

/* ---- parallel_for --------------------------------------------------------------------------------------------- */

/* Waking a sleeping worker costs 5-50 us here: below this much work the calling thread is done first. */
#define FD_SERIAL_BELOW_NS 20000.0
#define FD_SPINS 3000

static int fd_serial(fd_task task, void *context, ptrdiff_t tasks) {
    for (ptrdiff_t i = 0; i < tasks; i++) {
        size_t mark = fd_mark();
        int status = task(context, i);
        fd_release(mark);
        if (status) return status;
    }
    return FD_OK;
}

#ifdef FD_NO_THREADS
static int fd_parallel_for(fd_task task, void *context, ptrdiff_t tasks, int threads, double work) {
    (void)threads;
    (void)work;
    return fd_serial(task, context, tasks);
}
static int fd_pool_init(void) { return 0; }
#else

#define FD_MAX_WORKERS 255

static struct {
    pthread_mutex_t owner; /* held by the thread whose job is running */
    pthread_mutex_t lock;  /* guards what follows */
    pthread_cond_t wake, done;
    int workers, sleeping, open, limit;
    _Atomic int inside; /* changes under the lock; read outside it while spinning */
    fd_task task;
    void *context;
    ptrdiff_t tasks;
    _Atomic ptrdiff_t next;
    _Atomic int status;
    _Atomic unsigned generation;
} fd_pool;

/* A virtual CPU that idles counts as preempted by its host, and Linux then does not wake a thread on it: a worker that
 * last ran on the CPU of the calling thread is woken there and shares it, until the load is balanced many milliseconds
 * later. Here two threads took the time of one in most calls after a pause of 20 ms (2.6 ms for a 1.2 ms convolution).
 * So a worker that sleeps where the caller runs is sent elsewhere first, and is free again when it goes to sleep. */
#if defined(__linux__)
static struct {
    pthread_t thread;
    int asleep, cpu, narrowed;
    cpu_set_t allowed;
} fd_place[FD_MAX_WORKERS];

static void fd_place_start(int id) {
    fd_place[id].thread = pthread_self();
    fd_place[id].asleep = fd_place[id].narrowed = 0;
    if (pthread_getaffinity_np(pthread_self(), sizeof(cpu_set_t), &fd_place[id].allowed)) CPU_ZERO(&fd_place[id].allowed);
}

static void fd_place_sleep(int id) {
    if (fd_place[id].narrowed) pthread_setaffinity_np(pthread_self(), sizeof(cpu_set_t), &fd_place[id].allowed);
    fd_place[id].narrowed = 0;
    fd_place[id].cpu = sched_getcpu();
    fd_place[id].asleep = 1;
}

static void fd_place_awake(int id) { fd_place[id].asleep = 0; }

static void fd_place_forget(void) { memset(fd_place, 0, sizeof(fd_place)); }

static void fd_place_apart(int workers) {
    const int here = sched_getcpu();
    for (int id = 0; id < workers; id++) {
        if (!fd_place[id].asleep || fd_place[id].cpu != here || here < 0 || here >= CPU_SETSIZE) continue;
        cpu_set_t elsewhere = fd_place[id].allowed;
        CPU_CLR(here, &elsewhere);
        if (CPU_COUNT(&elsewhere) == 0) continue;
        fd_place[id].narrowed = !pthread_setaffinity_np(fd_place[id].thread, sizeof(cpu_set_t), &elsewhere);
    }
}
#else
static void fd_place_start(int id) { (void)id; }
static void fd_place_sleep(int id) { (void)id; }
static void fd_place_awake(int id) { (void)id; }
static void fd_place_apart(int workers) { (void)workers; }
static void fd_place_forget(void) {}
#endif

static __thread int fd_in_task;

static inline void fd_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static void fd_drain(void) {
    fd_in_task = 1;
    for (;;) {
        ptrdiff_t i = atomic_fetch_add(&fd_pool.next, 1);
        if (i >= fd_pool.tasks || atomic_load(&fd_pool.status)) break;
        size_t mark = fd_mark();
        int status = fd_pool.task(fd_pool.context, i);
        fd_release(mark);
        if (status) atomic_store(&fd_pool.status, status);
    }
    fd_in_task = 0;
}

static void *fd_worker(void *argument) {
    int id = (int)(intptr_t)argument;
    unsigned seen = 0;
    pthread_mutex_lock(&fd_pool.lock);
    fd_place_start(id);
    pthread_mutex_unlock(&fd_pool.lock);
    for (;;) {
        for (int spin = 0; spin < FD_SPINS && atomic_load_explicit(&fd_pool.generation, memory_order_relaxed) == seen;
             spin++)
            fd_pause();
        pthread_mutex_lock(&fd_pool.lock);
        while (atomic_load(&fd_pool.generation) == seen) {
            fd_pool.sleeping++;
            fd_place_sleep(id);
            pthread_cond_wait(&fd_pool.wake, &fd_pool.lock);
            fd_place_awake(id);
            fd_pool.sleeping--;
        }
        seen = atomic_load(&fd_pool.generation);
        if (fd_pool.open && id < fd_pool.limit) {
            fd_pool.inside++;
            pthread_mutex_unlock(&fd_pool.lock);
            fd_drain();
            pthread_mutex_lock(&fd_pool.lock);
            if (--fd_pool.inside == 0) pthread_cond_signal(&fd_pool.done);
        }
        pthread_mutex_unlock(&fd_pool.lock);
    }
    return NULL;
}

static void fd_pool_grow(int workers) {
    if (workers > FD_MAX_WORKERS) workers = FD_MAX_WORKERS;
    while (fd_pool.workers < workers) {
        pthread_t thread;
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        int failed = pthread_create(&thread, &attributes, fd_worker, (void *)(intptr_t)fd_pool.workers);
        pthread_attr_destroy(&attributes);
        if (failed) break; /* the system allows no more: those that exist share the work */
        fd_pool.workers++;
    }
}

static int fd_parallel_for(fd_task task, void *context, ptrdiff_t tasks, int threads, double work) {
    if (threads > tasks) threads = (int)tasks;
    if (threads <= 1 || work < FD_SERIAL_BELOW_NS || fd_in_task || pthread_mutex_trylock(&fd_pool.owner))
        return fd_serial(task, context, tasks);
    pthread_mutex_lock(&fd_pool.lock);
    fd_pool_grow(threads - 1);
    fd_pool.task = task;
    fd_pool.context = context;
    fd_pool.tasks = tasks;
    fd_pool.limit = threads - 1;
    fd_pool.open = 1;
    atomic_store(&fd_pool.next, 0);
    atomic_store(&fd_pool.status, FD_OK);
    atomic_fetch_add(&fd_pool.generation, 1);
    int sleeping = fd_pool.sleeping;
    if (sleeping) fd_place_apart(fd_pool.limit < fd_pool.workers ? fd_pool.limit : fd_pool.workers);
    pthread_mutex_unlock(&fd_pool.lock);
    if (sleeping) pthread_cond_broadcast(&fd_pool.wake);
    fd_drain();
    pthread_mutex_lock(&fd_pool.lock);
    fd_pool.open = 0; /* a worker that wakes up late finds nothing and is not waited for */
    pthread_mutex_unlock(&fd_pool.lock);
    for (int spin = 0; spin < 2 * FD_SPINS && atomic_load(&fd_pool.inside); spin++) { /* the others' last tasks */
        if (spin < FD_SPINS) fd_pause();
        else sched_yield(); /* to a worker on this CPU; sleeping would invite it to pull this thread onto its own */
    }
    pthread_mutex_lock(&fd_pool.lock);
    while (fd_pool.inside) pthread_cond_wait(&fd_pool.done, &fd_pool.lock);
    pthread_mutex_unlock(&fd_pool.lock);
    int status = atomic_load(&fd_pool.status);
    pthread_mutex_unlock(&fd_pool.owner);
    return status;
}

static void fd_pool_reset(void) {
    pthread_mutex_init(&fd_pool.owner, NULL);
    pthread_mutex_init(&fd_pool.lock, NULL);
    pthread_cond_init(&fd_pool.wake, NULL);
    pthread_cond_init(&fd_pool.done, NULL);
    fd_pool.workers = fd_pool.sleeping = fd_pool.open = 0;
    atomic_store(&fd_pool.inside, 0);
    fd_place_forget();
    atomic_store(&fd_pool.generation, 0);
}

static void fd_before_fork(void) { pthread_mutex_lock(&fd_pool.lock); }
static void fd_after_fork(void) { pthread_mutex_unlock(&fd_pool.lock); }

/* Only the forking thread lives on in the child: it starts with an empty pool. */
static int fd_pool_init(void) {
    fd_pool_reset();
    if (pthread_key_create(&fd_arena_key, fd_arena_free)) return -1;
    return pthread_atfork(fd_before_fork, fd_after_fork, fd_pool_reset);
}
#endif

/* ---- CPU ------------------------------------------------------------------------------------------------------ */

#if defined(__x86_64__)
#include <cpuid.h>
/* 0, 1, 2 for the psABI levels baseline, v3, v4 (v2 adds nothing that the kernels use); the operating system must
 * save the wide registers too, hence XGETBV. */
static int fd_cpu_level(void) {
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return 0;
    int fma = !!(c & bit_FMA), f16c = !!(c & bit_F16C), avx = !!(c & bit_AVX);
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & 6) != 6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    if (!(fma && f16c && avx && (b & bit_AVX2) && (b & bit_BMI) && (b & bit_BMI2))) return 0;
    if (!__get_cpuid(0x80000001u, &a, &low, &c, &d) || !(c & bit_LZCNT)) return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    unsigned need = bit_AVX512F | bit_AVX512BW | bit_AVX512CD | bit_AVX512DQ | bit_AVX512VL;
    return (low & 0xe6) == 0xe6 && (b & need) == need ? 2 : 1;
}
#else
static int fd_cpu_level(void) { return 0; }
#endif

/* Whether the CPU has a feature beyond its level, by the name that Linux shows. */
static int fd_cpu_has(const char *feature) {
#if defined(__x86_64__)
    unsigned a, b, c, d, a1, b1, c1, d1;
    if (fd_cpu_level() < 2 || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    if (!strcmp(feature, "avx512_vnni")) return (c >> 11) & 1;
    if (!strcmp(feature, "avx512_vpopcntdq")) return (c >> 14) & 1;
    if (!strcmp(feature, "avx512_bf16")) return a >= 1 && __get_cpuid_count(7, 1, &a1, &b1, &c1, &d1) && ((a1 >> 5) & 1);
#endif
    return feature == NULL; /* another name */
}

#endif
