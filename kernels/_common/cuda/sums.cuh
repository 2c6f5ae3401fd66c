// Sums over the rows of a matrix (rows are pixels, columns channels), the same whatever the layout of the memory.
//
// A block of 256 threads has `lanes` columns (of N channels each) beside each other, and 256 / lanes rows at once. A
// thread adds up trees of some rows, a few of these in a chain, and from then on in float64; threads join in trees.
#pragma once
#include "device.cuh"

constexpr int SUM_THREADS = 256, PANEL = 8, STRETCH = 4 * PANEL; // as in sums.py

// The sum of n numbers, a power of two, in a tree; they are lost.
template <class V, int n> DEVICE V tree(V (&v)[n]) {
    UNROLL for (int half = n / 2; half; half /= 2) UNROLL for (int i = 0; i < half; i++) v[i] += v[i + half];
    return v[0];
}

// The sum of n products, likewise; which of them are fused is not left to the compiler.
template <class V, int n> DEVICE V tree_of_products(const V (&a)[n], const V (&b)[n]) {
    V v[n / 2];
    UNROLL for (int i = 0; i < n / 2; i++) v[i] = fma_of(a[i], b[i], times(a[i + n / 2], b[i + n / 2]));
    return tree(v);
}

// The N sums of each thread, kept[j * SUM_THREADS + THREAD], over the threads with the same column, into
// kept[j * SUM_THREADS + column] for every thread of the block. With `across`, where j counts neighbouring rows, over
// these too, into kept[column]: the order is that of N times as many threads with one sum each.
template <int N, bool across = false> DEVICE void sum_rows(double *kept, int lanes) {
    BARRIER();
    ROLLED for (int half = SUM_THREADS / 2; half >= lanes; half /= 2) {
        if (THREAD < half)
            UNROLL for (int j = 0; j < N; j++) {
                double *own = kept + j * SUM_THREADS + THREAD;
                own[0] += own[half];
            }
        BARRIER();
    }
    if (!across) return;
    if (THREAD < lanes)
        UNROLL for (int half = N / 2; half; half /= 2) UNROLL for (int j = 0; j < half; j++)
            kept[j * SUM_THREADS + THREAD] += kept[(j + half) * SUM_THREADS + THREAD];
    BARRIER();
}

// The sum of value(0), value(1), ... over the threads of a warp, in every lane.
template <class F> DEVICE double warp_total(int n, F value) {
    double sum = 0;
    for (int i = LANE; i < n; i += 32) sum += value(i);
    return warp_sum(sum);
}
