// CUDA kernels on a CPU: fibres for threads, and a scheduler that looks for what a missing barrier leaves open.
//
// Blocks run one after the other, in an order that the seed shuffles. In a block one warp runs until all its threads
// wait at a barrier of the block, or (as the seed has it) only until its next warp-wide operation; the threads of a
// warp run in random order, each until it waits. Round-robin steps would hide a missing __syncthreads: every thread
// would be as far as all others anyway.
//
// Shared memory holds NaN patterns when a block begins, and each array in it is followed by guard bytes. What cp.async
// copies arrives at once or when it is waited for, as the seed has it; until then the place holds NaN patterns.
//
// What this cannot see: bank conflicts, weak memory order between blocks, a wrong operand in a line of PTX.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <vector>
#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {

struct Launch {
    uint32_t grid[3];
    uint32_t threads; // of a block
    uint32_t shared;  // bytes of dynamic shared memory
    uint32_t seed;
};

enum State { READY, AT_WARP, AT_BLOCK, DONE };

struct Copy {
    char *to;
    const char *from;
    uint32_t bytes, valid, group;
};

struct Fibre {
#if defined(__x86_64__)
    void *stack_pointer;
#else
    ucontext_t context;
#endif
    State state;
    const char *what; // the operation that it waits in, or the line of the barrier
    uint32_t parity;  // of the warp-wide operations so far
    uint32_t group;   // of copies that is open
    std::vector<Copy> copies;
};

// What the threads of a warp show each other. A thread is at most one operation ahead of the slowest reader, so two
// copies in turn are enough.
struct Exchange {
    float numbers[32][12];
    uint64_t words[32];
    const void *rows[32];
};

// An array in shared memory: where it lies in a block's memory.
struct Site {
    uint32_t launch = 0;
    uint32_t offset = 0;
};

constexpr uint32_t WARP = 32, STACK = 256 * 1024, MOST_THREADS = 1024, MOST_SHARED = 227 * 1024, GUARD = 64;
constexpr unsigned char POISON = 0xFF, GUARD_BYTE = 0xA5;

struct Machine {
    const Launch *launch;
    void (*body)(const void *);
    const void *arguments;
    uint32_t thread, block[3], launches = 0;
    Fibre fibres[MOST_THREADS];
    Exchange exchanges[MOST_THREADS / WARP][2];
    char *stacks = nullptr;
    alignas(128) char shared[MOST_SHARED + GUARD * 64];
    uint32_t shared_used;
    std::vector<uint32_t> guards; // offsets
    uint64_t random;
    char error[512];
#if defined(__x86_64__)
    void *scheduler;
#else
    ucontext_t scheduler;
#endif
};
static Machine machine;
static std::mutex one_launch;

static inline uint32_t draw(uint32_t n) {
    machine.random ^= machine.random << 13;
    machine.random ^= machine.random >> 7;
    machine.random ^= machine.random << 17;
    return uint32_t((machine.random >> 11) % n);
}

// ---- fibres ---------------------------------------------------------------------------------------------------------

#if defined(__x86_64__)
// Callee-saved registers go on the stack that is left, and come from the one that is entered.
extern "C" void fd_switch_stack(void **left, void *entered);
asm(R"(.text
.local fd_switch_stack
.type fd_switch_stack, @function
fd_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
#endif

static void leave() {
    uint32_t me = machine.thread;
#if defined(__x86_64__)
    fd_switch_stack(&machine.fibres[me].stack_pointer, machine.scheduler);
#else
    swapcontext(&machine.fibres[me].context, &machine.scheduler);
#endif
    machine.thread = me;
}

static void fibre_main() {
    machine.body(machine.arguments);
    machine.fibres[machine.thread].state = DONE;
    leave();
    abort();
}

static void prepare(uint32_t thread) {
    Fibre &fibre = machine.fibres[thread];
    char *stack = machine.stacks + size_t(thread) * STACK;
#if defined(__x86_64__)
    void **top = (void **)(stack + STACK);
    *--top = nullptr; // so that the stack is aligned as after a call
    *--top = (void *)fibre_main;
    for (int i = 0; i < 6; i++) *--top = nullptr;
    fibre.stack_pointer = top;
#else
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = stack;
    fibre.context.uc_stack.ss_size = STACK;
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, fibre_main, 0);
#endif
    fibre.state = READY;
    fibre.parity = fibre.group = 0;
    fibre.copies.clear();
}

static void enter(uint32_t thread) {
    machine.thread = thread;
#if defined(__x86_64__)
    fd_switch_stack(&machine.scheduler, machine.fibres[thread].stack_pointer);
#else
    swapcontext(&machine.scheduler, &machine.fibres[thread].context);
#endif
}

// Ends the launch with a message; the stacks are simply left.
[[noreturn]] static void fail(const char *message) {
    if (!machine.error[0])
        snprintf(machine.error, sizeof machine.error, "%s (block %u %u %u, thread %u)", message, machine.block[0],
                 machine.block[1], machine.block[2], machine.thread);
    machine.fibres[machine.thread].state = DONE;
    leave();
    abort();
}

// ---- what kernels call ----------------------------------------------------------------------------------------------

static void wait(State state, const char *what) {
    Fibre &fibre = machine.fibres[machine.thread];
    fibre.state = state;
    fibre.what = what;
    leave();
}

static inline Exchange &exchange() {
    uint32_t me = machine.thread;
    return machine.exchanges[me / WARP][machine.fibres[me].parity & 1];
}

// Waits for the warp; afterwards `exchange` may be read until the next warp-wide operation.
static inline void meet(const char *what) {
    wait(AT_WARP, what);
    machine.fibres[machine.thread].parity++;
}

static inline Exchange &met() {
    uint32_t me = machine.thread;
    return machine.exchanges[me / WARP][(machine.fibres[me].parity - 1) & 1];
}

static void *shared_array(Site &site, size_t bytes) {
    if (site.launch != machine.launches) {
        site.launch = machine.launches;
        site.offset = (machine.shared_used + 127) & ~127u;
        uint32_t end = site.offset + uint32_t(bytes);
        if (end + GUARD > sizeof machine.shared) fail("more shared memory than a block can have");
        memset(machine.shared + site.offset, POISON, bytes);
        memset(machine.shared + end, GUARD_BYTE, GUARD);
        machine.guards.push_back(end);
        machine.shared_used = end + GUARD;
    }
    return machine.shared + site.offset;
}

static inline void aligned(const void *address, size_t bytes) {
    if ((uintptr_t)address % bytes) fail("an address is not aligned to the width of its access");
}

static void arrive(const Copy &copy) {
    if (copy.valid) memcpy(copy.to, copy.from, copy.valid);
    memset(copy.to + copy.valid, 0, copy.bytes - copy.valid);
}

static void copy_async(void *to, const void *from, uint32_t bytes, uint32_t valid) {
    Fibre &fibre = machine.fibres[machine.thread];
    aligned(to, bytes);
    aligned(from, bytes);
    Copy copy = {(char *)to, (const char *)from, bytes, valid, fibre.group};
    if (draw(2)) return arrive(copy);
    memset(to, POISON, bytes);
    fibre.copies.push_back(copy);
}

// Waits until all but the last `open` groups have arrived.
static void copy_wait(uint32_t open) {
    Fibre &fibre = machine.fibres[machine.thread];
    size_t kept = 0;
    for (const Copy &copy : fibre.copies) {
        if (copy.group + open < fibre.group)
            arrive(copy);
        else
            fibre.copies[kept++] = copy;
    }
    fibre.copies.resize(kept);
}

// ---- scheduler ------------------------------------------------------------------------------------------------------

static void shuffle(uint32_t *order, uint32_t n) {
    for (uint32_t i = n; i > 1; i--) {
        uint32_t j = draw(i), held = order[i - 1];
        order[i - 1] = order[j];
        order[j] = held;
    }
}

// Lets every ready thread of a warp run until it waits. Whether any was.
static bool run_warp(uint32_t first, uint32_t last) {
    uint32_t order[WARP], ready = 0;
    for (uint32_t t = first; t < last; t++)
        if (machine.fibres[t].state == READY) order[ready++] = t;
    shuffle(order, ready);
    for (uint32_t i = 0; i < ready && !machine.error[0]; i++) enter(order[i]);
    return ready > 0;
}

// Releases the threads from `first` to `last` if all that are left wait in `state`. Whether they did.
static bool release(uint32_t first, uint32_t last, State state) {
    const char *what = nullptr;
    bool one_left = false, one_here = false;
    for (uint32_t t = first; t < last; t++) {
        const Fibre &fibre = machine.fibres[t];
        if (fibre.state == DONE) {
            one_left = true;
            continue;
        }
        if (fibre.state != state) return false;
        one_here = true;
        if (what && fibre.what != what && strcmp(what, fibre.what)) {
            machine.thread = t;
            snprintf(machine.error, sizeof machine.error, "threads wait in different places: %s and %s", what, fibre.what);
            return false;
        }
        what = fibre.what;
    }
    if (!one_here) return false;
    if (one_left && state == AT_WARP) {
        snprintf(machine.error, sizeof machine.error, "a thread has left before a warp-wide operation (%s)", what);
        return false;
    }
    for (uint32_t t = first; t < last; t++)
        if (machine.fibres[t].state == state) machine.fibres[t].state = READY;
    return true;
}

static void run_block() {
    uint32_t threads = machine.launch->threads, warps = (threads + WARP - 1) / WARP, order[MOST_THREADS / WARP];
    memset(machine.shared, POISON, machine.shared_used);
    for (uint32_t guard : machine.guards) memset(machine.shared + guard, GUARD_BYTE, GUARD);
    for (uint32_t t = 0; t < threads; t++) prepare(t);
    for (uint32_t w = 0; w < warps; w++) order[w] = w;
    bool far = draw(4) > 0; // a warp runs as far as it can, or to its next warp-wide operation
    while (!machine.error[0]) {
        bool progress = false;
        shuffle(order, warps);
        for (uint32_t i = 0; i < warps && !machine.error[0]; i++) {
            uint32_t first = order[i] * WARP, last = first + WARP < threads ? first + WARP : threads;
            while (run_warp(first, last) && !machine.error[0]) {
                progress = true;
                if (!release(first, last, AT_WARP) || !far) break;
            }
        }
        if (machine.error[0]) return;
        if (release(0, threads, AT_BLOCK)) progress = true;
        if (!progress) {
            bool done = true;
            for (uint32_t t = 0; t < threads; t++) done &= machine.fibres[t].state == DONE;
            if (!done) snprintf(machine.error, sizeof machine.error, "the threads of a block wait for each other");
            break;
        }
    }
    for (uint32_t guard : machine.guards)
        for (uint32_t i = 0; i < GUARD; i++)
            if ((unsigned char)machine.shared[guard + i] != GUARD_BYTE && !machine.error[0])
                snprintf(machine.error, sizeof machine.error, "a write beyond an array in shared memory (block %u %u %u)",
                         machine.block[0], machine.block[1], machine.block[2]);
}

// Runs a kernel; null, or what went wrong.
static const char *run(const Launch *launch, uint32_t threads, const void *arguments, void (*body)(const void *)) {
    std::lock_guard<std::mutex> guard(one_launch);
    machine.error[0] = 0;
    if (launch->threads != threads) {
        snprintf(machine.error, sizeof machine.error, "a block of %u threads was launched, the kernel is for %u",
                 launch->threads, threads);
        return machine.error;
    }
    if (!machine.stacks)
        machine.stacks = (char *)mmap(nullptr, size_t(STACK) * MOST_THREADS, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    machine.launch = launch;
    machine.body = body;
    machine.arguments = arguments;
    machine.launches++;
    machine.guards.clear();
    machine.shared_used = 0;
    machine.random = 0x9E3779B97F4A7C15ull * (launch->seed + 1);
    if (launch->shared) { // dynamic shared memory begins the block's memory
        memset(machine.shared + launch->shared, GUARD_BYTE, GUARD);
        machine.guards.push_back(launch->shared);
        machine.shared_used = launch->shared + GUARD;
    }
    uint64_t blocks = uint64_t(launch->grid[0]) * launch->grid[1] * launch->grid[2];
    // Any step without a common factor visits every block once.
    uint64_t step = blocks > 1 ? 1 + draw(uint32_t(blocks < 1000003 ? blocks : 1000003)) : 1, at = 0;
    auto common = [](uint64_t a, uint64_t b) {
        while (b) {
            uint64_t rest = a % b;
            a = b;
            b = rest;
        }
        return a;
    };
    while (blocks && common(step, blocks) != 1) step++;
    for (uint64_t i = 0; i < blocks && !machine.error[0]; i++) {
        at = (at + step) % blocks;
        machine.block[0] = uint32_t(at % launch->grid[0]);
        machine.block[1] = uint32_t(at / launch->grid[0] % launch->grid[1]);
        machine.block[2] = uint32_t(at / launch->grid[0] / launch->grid[1]);
        run_block();
    }
    return machine.error[0] ? machine.error : nullptr;
}

} // namespace emulator
