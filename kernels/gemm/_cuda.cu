// gemm: see __init__.py. a and b are read as rows or as columns of 64-byte stages (matmul.cuh).
#include "matmul.cuh"
#include "epilogue.cuh"

struct Gemm {
    const T *a;
    const T *b;
    T *out;
    S *partial; // (splits, m, n) where depth is split, else null
    i64 pitch_a, pitch_b, stride_m, stride_n; // elements
    int m, n, k, length;                      // length: depth of a split
    int paired;
    Epilogue epilogue;
};

#ifdef TILE_M // the products, a module for each tile

template <bool a_columns, bool b_columns> DEVICE void product(const Gemm &a) {
    int m0 = BLOCK_X * TILE_M, n0 = BLOCK_Y * TILE_N, begin = BLOCK_Z * a.length, end = least(a.k, begin + a.length);
    MatrixLoader<a_columns, TILE_M> left(a.a, a.pitch_a, a.m, end, m0, begin);
    MatrixLoader<b_columns, TILE_N> right(a.b, a.pitch_b, a.n, end, n0, begin);
    Sums sums = {};
    accumulate<a_columns, b_columns>(sums, left, right, int(cut(end - begin, DEPTH)));
    struct Row {
        int m;
        T *out;
        S *partial;
        DEVICE void put(const Gemm &a, int n, S v) const {
            if (m >= a.m || n >= a.n) return;
            if (partial)
                partial[n] = v;
            else
                out[n * a.stride_n] = narrow<T>(finished(a.epilogue, v, n));
        }
    };
    struct Put {
        const Gemm &a;
        DEVICE void operator()(const Row &row, int n, S v) const { row.put(a, n, v); }
        DEVICE void operator()(const Row &row, int n, S v0, S v1) const {
            if (a.paired && !row.partial) {
                if (row.m < a.m && n < a.n)
                    store_pair(row.out + n, finished(a.epilogue, v0, n), finished(a.epilogue, v1, n + 1));
                return;
            }
            row.put(a, n, v0);
            row.put(a, n + 1, v1);
        }
    };
    for_results<a_columns, b_columns>(
        sums, m0, n0,
        [&](int m) {
            return Row{m, a.out + m * a.stride_m, a.partial ? a.partial + (i64(BLOCK_Z) * a.m + m) * a.n : nullptr};
        },
        [&](auto... v) { Put{a}(v...); });
}

KERNEL(gemm_rows_rows, MATMUL_THREADS, RESIDENT, Gemm) { product<false, false>(a); }
KERNEL(gemm_rows_columns, MATMUL_THREADS, RESIDENT, Gemm) { product<false, true>(a); }
KERNEL(gemm_columns_rows, MATMUL_THREADS, RESIDENT, Gemm) { product<true, false>(a); }
KERNEL(gemm_columns_columns, MATMUL_THREADS, RESIDENT, Gemm) { product<true, true>(a); }

#endif

// The sum of the splits, in their order.
struct Join {
    const S *partial;
    T *out;
    i64 stride_m, stride_n;
    int m, n, splits;
    Epilogue epilogue;
};

#ifndef TILE_M

KERNEL(join_splits, 256, 4, Join) {
    i64 i = i64(BLOCK_X) * 256 + THREAD, size = i64(a.m) * a.n;
    if (i >= size) return;
    S sum = a.partial[i];
    ROLLED for (int z = 1; z < a.splits; z++) sum += a.partial[z * size + i];
    i64 m = i / a.n, n = i - m * a.n;
    a.out[m * a.stride_m + n * a.stride_n] = narrow<T>(finished(a.epilogue, sum, n));
}

#endif
