// sgd, momentum, nesterov, adagrad, rmsprop, adam, unscale: see __init__.py. One launch goes through a list of arrays.
// FD_UNSCALE: without the optimizers, which do not update halves.
#include "device.cuh"

constexpr int WORDS = 400, ENTRIES = 96, THREADS = 256, PACKS = 2; // arguments have up to 4 KB
constexpr int WIDTH = Pack<T>::N;

// An entry of `words` is a parameter with K operands: the gradient, the states, the parameter itself; or a gradient.
//     K addresses
//     elements << 8 | axes, the last one innermost; no axes: dense arrays, aligned to 16 bytes
//     of each axis: its size, and the bytes from element to element in each of the K
struct Step {
    u64 words[WORDS];
    u32 at[ENTRIES];    // an entry's first word
    u32 first[ENTRIES]; // and first block
    int entries;
    const double *lr; // or the scale; see given
    const i64 *step;
    double lr_value;
    i64 step_value;
    double by[5];
    int *overflow;
};

// A rule makes its scalars in double, and each is rounded once; v are the operands of one element, which are written
// from the one called FIRST on. Each thread has a rule of its own.

struct Unscale {
    static constexpr int K = 1, FIRST = 0;
    bool found = false;
    static DEVICE void scalars(const double *by, double scale, i64 step, S *s) { s[0] = S(1 / scale); }
    DEVICE void update(const S *s, S *v) {
        found |= v[0] - v[0] != 0; // infinite or NaN
        if constexpr (sizeof(T) == 2)
            v[0] = times_to_odd(v[0], s[0]);
        else
            v[0] *= s[0];
    }
};

#ifndef FD_UNSCALE
struct Sgd {
    static constexpr int K = 2, FIRST = 1;
    static DEVICE void scalars(const double *by, double lr, i64 step, S *s) { s[0] = S(lr); }
    static DEVICE void update(const S *s, S *v) { v[1] -= s[0] * v[0]; }
};

struct Momentum { // by: momentum
    static constexpr int K = 3, FIRST = 1;
    static DEVICE void scalars(const double *by, double lr, i64 step, S *s) { s[0] = S(by[0]), s[1] = S(lr); }
    static DEVICE void update(const S *s, S *v) {
        v[1] = s[0] * v[1] - s[1] * v[0];
        v[2] += v[1];
    }
};

struct Nesterov { // by: momentum, its square, 1 + momentum
    static constexpr int K = 3, FIRST = 1;
    static DEVICE void scalars(const double *by, double lr, i64 step, S *s) {
        s[0] = S(by[0]), s[1] = S(by[1]), s[2] = S(by[2] * lr), s[3] = S(lr);
    }
    static DEVICE void update(const S *s, S *v) {
        v[2] = v[2] + s[1] * v[1] - s[2] * v[0];
        v[1] = s[0] * v[1] - s[3] * v[0];
    }
};

struct Adagrad { // by: eps
    static constexpr int K = 3, FIRST = 1;
    static DEVICE void scalars(const double *by, double lr, i64 step, S *s) { s[0] = S(by[0]), s[1] = S(lr); }
    static DEVICE void update(const S *s, S *v) {
        v[1] += v[0] * v[0];
        v[2] -= s[1] * v[0] / (sqrt_of(v[1]) + s[0]);
    }
};

struct Rmsprop { // by: decay, 1 - decay, eps
    static constexpr int K = 3, FIRST = 1;
    static DEVICE void scalars(const double *by, double lr, i64 step, S *s) {
        s[0] = S(by[0]), s[1] = S(by[1]), s[2] = S(by[2]), s[3] = S(lr);
    }
    static DEVICE void update(const S *s, S *v) {
        v[1] = s[0] * v[1] + s[1] * v[0] * v[0];
        v[2] -= s[3] * v[0] / (sqrt_of(v[1]) + s[2]);
    }
};

struct Adam { // by: 1 - beta1, 1 - beta2, eps, log(beta1), log(beta2)
    static constexpr int K = 4, FIRST = 1;
    static DEVICE void scalars(const double *by, double lr, i64 step, S *s) {
        // 1 - beta**step without a power, whose error is large beside a small difference
        s[3] = S(lr * sqrt(-expm1(step * by[4])) / -expm1(step * by[3]));
        s[0] = S(by[0]), s[1] = S(by[1]), s[2] = S(by[2]);
    }
    static DEVICE void update(const S *s, S *v) {
        v[1] += s[0] * (v[0] - v[1]);
        v[2] += s[1] * (v[0] * v[0] - v[2]);
        v[3] -= s[3] * v[1] / (sqrt_of(v[2]) + s[2]);
    }
};
#endif

template <class Rule> DEVICE Rule step(const Step &a) {
    constexpr int K = Rule::K, FIRST = Rule::FIRST;
    Rule rule;
    SHARED(S, shared, 4);
    int entry = 0, end = a.entries;
    ROLLED while (end - entry > 1) {
        int middle = (entry + end) / 2;
        (BLOCK_X < a.first[middle] ? end : entry) = middle;
    }
    u32 base = a.at[entry], axes = u32(a.words[base + K] & 255);
    i64 n = i64(a.words[base + K] >> 8), packs = axes ? 0 : n / WIDTH, block = BLOCK_X - a.first[entry];
    i64 first = block * (THREADS * PACKS) + THREAD;
    T *to[K];
    UNROLL for (int k = 0; k < K; k++) to[k] = (T *)a.words[base + k];

    Pack<T> in[PACKS][K];
    UNROLL for (int j = 0; j < PACKS; j++) {
        i64 p = first + j * THREADS;
        if (p < packs) UNROLL for (int k = 0; k < K; k++) in[j][k] = load<Pack<T>>(to[k] + p * WIDTH);
    }
    // One thread, as some chips have few units for double; the others' loads are under way.
    if (THREAD == 0) rule.scalars(a.by, given(a.lr, a.lr_value), given(a.step, a.step_value), shared);
    BARRIER();
    S s[4], v[K];
    UNROLL for (int i = 0; i < 4; i++) s[i] = shared[i];

    UNROLL for (int j = 0; j < PACKS; j++) {
        i64 p = first + j * THREADS;
        if (p >= packs) break;
        UNROLL for (int c = 0; c < WIDTH; c++) {
            UNROLL for (int k = 0; k < K; k++) v[k] = widen(in[j][k].at[c]);
            rule.update(s, v);
            UNROLL for (int k = FIRST; k < K; k++) in[j][k].at[c] = narrow<T>(v[k]);
        }
        UNROLL for (int k = FIRST; k < K; k++) store(to[k] + p * WIDTH, in[j][k]);
    }
    // What no pack holds, or one element after the other.
    i64 i = axes ? first : block == 0 ? packs * WIDTH + THREAD : n;
    ROLLED for (int j = 0; j < PACKS && i < n; j++, i += THREADS) {
        i64 rest = i, offset[K];
        UNROLL for (int k = 0; k < K; k++) offset[k] = axes ? 0 : i * i64(sizeof(T));
        ROLLED for (u32 axis = axes; axis-- > 0;) {
            u32 word = base + K + 1 + axis * (K + 1);
            i64 size = i64(a.words[word]), next = axis ? rest / size : 0, here = rest - next * size;
            UNROLL for (int k = 0; k < K; k++) offset[k] += here * i64(a.words[word + 1 + k]);
            rest = next;
        }
        UNROLL for (int k = 0; k < K; k++) v[k] = widen(*(T *)((u8 *)to[k] + offset[k]));
        rule.update(s, v);
        UNROLL for (int k = FIRST; k < K; k++) *(T *)((u8 *)to[k] + offset[k]) = narrow<T>(v[k]);
    }
    return rule;
}

struct Flag {
    int *overflow;
};

KERNEL(unscale_clear, 32, 1, Flag) {
    if (THREAD == 0) *a.overflow = 0;
}
KERNEL(unscale_step, 256, 4, Step) {
    if (step<Unscale>(a).found) *a.overflow = 1; // whoever does stores the same
}

#ifndef FD_UNSCALE
KERNEL(sgd_step, 256, 3, Step) { step<Sgd>(a); }
KERNEL(momentum_step, 256, 3, Step) { step<Momentum>(a); }
KERNEL(nesterov_step, 256, 3, Step) { step<Nesterov>(a); }
KERNEL(adagrad_step, 256, 3, Step) { step<Adagrad>(a); }
KERNEL(rmsprop_step, 256, 3, Step) { step<Rmsprop>(a); }
KERNEL(adam_step, 256, 2, Step) { step<Adam>(a); }
#endif
