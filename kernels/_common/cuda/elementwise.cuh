// Element by element over arrays of any strides (elementwise.py makes the arguments).
#pragma once
#include "device.cuh"

constexpr int AXES = 6;

// One array: where its first element is, and the bytes from element to element along each axis.
struct View {
    u8 *at;
    i64 stride[AXES];
};

// What is gone through: n elements of `shape`, the first axis outermost. `flat`: 0 where elements are found by strides, 1
// where they lie one after the other in every array, 2 where 16 bytes of each are also aligned.
struct Extent {
    i64 n;
    i64 shape[AXES];
    int axes;
    int flat;
};

constexpr int ELEMENT_THREADS = 256, ELEMENT_PACKS = 2; // packs of 16 bytes that a thread has in flight

// Bytes from the first element to the i-th, in each of N arrays.
template <int N> DEVICE void offsets(const Extent &e, const View *views, i64 i, i64 (&to)[N]) {
    UNROLL for (int k = 0; k < N; k++) to[k] = 0;
    ROLLED for (int axis = e.axes - 1; axis > 0; axis--) { // a 64-bit division is some 70 instructions
        i64 rest = i / e.shape[axis], at = i - rest * e.shape[axis];
        UNROLL for (int k = 0; k < N; k++) to[k] += at * views[k].stride[axis];
        i = rest;
    }
    UNROLL for (int k = 0; k < N; k++) to[k] += i * views[k].stride[0];
}

template <class A, class B> struct Wider {
    typedef A type;
};
template <> struct Wider<float, double> {
    typedef double type;
};

// out = f(inputs): `views` are N inputs and then the output, of storage T but for the last input, which is of type Last.
// f takes an array of N numbers of type S (double, if the last input is). A pack has 16 bytes of the largest type.
template <int N, class Last = T, class F> DEVICE void map(const Extent &e, const View *views, F f) {
    typedef typename Wider<S, decltype(widen(Last()))>::type V;
    constexpr int WIDTH = 16 / (sizeof(Last) > sizeof(T) ? sizeof(Last) : sizeof(T));
    V v[N];
    if (e.flat == 2) {
        i64 first = i64(BLOCK_X) * ELEMENT_THREADS * ELEMENT_PACKS + THREAD, packs = e.n / WIDTH;
        Pack<T, WIDTH> in[ELEMENT_PACKS][N], out;
        Pack<Last, WIDTH> last[ELEMENT_PACKS];
        UNROLL for (int j = 0; j < ELEMENT_PACKS; j++) {
            i64 p = first + j * ELEMENT_THREADS;
            if (p >= packs) break;
            UNROLL for (int k = 0; k < N - 1; k++) in[j][k] = load<Pack<T, WIDTH>>((T *)views[k].at + p * WIDTH);
            last[j] = load<Pack<Last, WIDTH>>((Last *)views[N - 1].at + p * WIDTH);
        }
        UNROLL for (int j = 0; j < ELEMENT_PACKS; j++) {
            i64 p = first + j * ELEMENT_THREADS;
            if (p >= packs) break;
            UNROLL for (int c = 0; c < WIDTH; c++) {
                UNROLL for (int k = 0; k < N - 1; k++) v[k] = widen(in[j][k].at[c]);
                v[N - 1] = widen(last[j].at[c]);
                out.at[c] = narrow<T>(f(v));
            }
            store((T *)views[N].at + p * WIDTH, out);
        }
        if (BLOCK_X == 0 && THREAD < e.n - packs * WIDTH) { // what no pack holds
            i64 i = packs * WIDTH + THREAD;
            UNROLL for (int k = 0; k < N - 1; k++) v[k] = widen(((T *)views[k].at)[i]);
            v[N - 1] = widen(((Last *)views[N - 1].at)[i]);
            ((T *)views[N].at)[i] = narrow<T>(f(v));
        }
        return;
    }
    ROLLED for (int j = 0; j < ELEMENT_PACKS; j++) {
        i64 i = (i64(BLOCK_X) * ELEMENT_PACKS + j) * ELEMENT_THREADS + THREAD, to[N + 1];
        if (i >= e.n) return;
        if (e.flat) {
            UNROLL for (int k = 0; k <= N; k++) to[k] = i * (k == N - 1 ? sizeof(Last) : sizeof(T));
        } else
            offsets<N + 1>(e, views, i, to);
        UNROLL for (int k = 0; k < N - 1; k++) v[k] = widen(*(T *)(views[k].at + to[k]));
        v[N - 1] = widen(*(Last *)(views[N - 1].at + to[N - 1]));
        *(T *)(views[N].at + to[N]) = narrow<T>(f(v));
    }
}
