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
    ROLLED for (int axis = e.axes - 1; axis >= 0; axis--) { // a 64-bit division is some 70 instructions
        i64 rest = i / e.shape[axis], at = i - rest * e.shape[axis];
        UNROLL for (int k = 0; k < N; k++) to[k] += at * views[k].stride[axis];
        i = rest;
    }
}

// out = f(inputs): `views` are N inputs and then the output, all of storage T; f takes an array of N numbers of type S.
template <int N, class F> DEVICE void map(const Extent &e, const View *views, F f) {
    constexpr int WIDTH = Pack<T>::N;
    S v[N];
    if (e.flat == 2) {
        i64 first = i64(BLOCK_X) * ELEMENT_THREADS * ELEMENT_PACKS + THREAD, packs = e.n / WIDTH;
        Pack<T> in[ELEMENT_PACKS][N], out;
        UNROLL for (int j = 0; j < ELEMENT_PACKS; j++) {
            i64 p = first + j * ELEMENT_THREADS;
            if (p < packs) UNROLL for (int k = 0; k < N; k++) in[j][k] = load<Pack<T>>((T *)views[k].at + p * WIDTH);
        }
        UNROLL for (int j = 0; j < ELEMENT_PACKS; j++) {
            i64 p = first + j * ELEMENT_THREADS;
            if (p >= packs) break;
            UNROLL for (int c = 0; c < WIDTH; c++) {
                UNROLL for (int k = 0; k < N; k++) v[k] = widen(in[j][k].at[c]);
                out.at[c] = narrow<T>(f(v));
            }
            store((T *)views[N].at + p * WIDTH, out);
        }
        if (BLOCK_X == 0 && THREAD < e.n - packs * WIDTH) { // what no pack holds
            i64 i = packs * WIDTH + THREAD;
            UNROLL for (int k = 0; k < N; k++) v[k] = widen(((T *)views[k].at)[i]);
            ((T *)views[N].at)[i] = narrow<T>(f(v));
        }
        return;
    }
    ROLLED for (int j = 0; j < ELEMENT_PACKS; j++) {
        i64 i = (i64(BLOCK_X) * ELEMENT_PACKS + j) * ELEMENT_THREADS + THREAD, to[N + 1];
        if (i >= e.n) return;
        if (e.flat) {
            UNROLL for (int k = 0; k <= N; k++) to[k] = i * sizeof(T);
        } else
            offsets<N + 1>(e, views, i, to);
        UNROLL for (int k = 0; k < N; k++) v[k] = widen(*(T *)(views[k].at + to[k]));
        *(T *)(views[N].at + to[N]) = narrow<T>(f(v));
    }
}
