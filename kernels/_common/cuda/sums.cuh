// Sums over the rows of a matrix (rows are pixels, columns channels), the same whatever the layout of the memory.
//
// A block of 256 threads has `lanes` columns (of N channels each) beside each other, and 256 / lanes rows at once. A
// thread adds up trees of 8 rows, four of these in a chain, and from then on in float64: threads and blocks in trees.
#pragma once
#include "device.cuh"

constexpr int SUM_THREADS = 256, PANEL = 8, STRETCH = 4 * PANEL; // as in sums.py

// Rows `begin` to `end` of a matrix for a block; its columns begin at `column`.
struct Part {
    i64 begin, end;
    int column;
};

template <class V> DEVICE V tree(const V (&v)[PANEL]) {
    return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
}

// v summed over the threads with the same column, into kept[j * SUM_THREADS + column] for every thread of the block.
template <int N> DEVICE void sum_rows(const double (&v)[N], double *kept, int lanes) {
    UNROLL for (int j = 0; j < N; j++) kept[j * SUM_THREADS + THREAD] = v[j];
    BARRIER();
    ROLLED for (int half = SUM_THREADS / 2; half >= lanes; half /= 2) {
        if (THREAD < half)
            UNROLL for (int j = 0; j < N; j++) {
                double *own = kept + j * SUM_THREADS + THREAD;
                own[0] += own[half];
            }
        BARRIER();
    }
}

// The sum of n numbers, `step` apart, over the threads of a warp, in every lane.
template <class F> DEVICE double warp_total(int n, F value) {
    double sum = 0;
    for (int i = LANE; i < n; i += 32) sum += value(i);
    return warp_sum(sum);
}
