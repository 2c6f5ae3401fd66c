// backward_bias: sums over the pixels of each channel, in two steps. Included by _cuda.cu.
#pragma once
#include "device.cuh"

#ifndef TILE_M // a module of its own, without tiles

struct Bias {
    const T *dout;
    S *partial;    // (chunks, channels)
    i64 stride[4]; // n, c, h, w
    i64 pixels, chunk;
    int channels, height, width;
};

// A block sums a chunk of pixels: threads side by side take neighbouring channels, V of them each, the others pixels. The
// sums of a block's rows of threads are added in pairs.
template <int V> DEVICE void chunk_sums(const Bias &a) {
    constexpr int SIDE_BY_SIDE = V == 1 ? 32 : 8, ROWS = 256 / SIDE_BY_SIDE;
    SHARED(S, sums, 256 * V);
    int x = THREAD % SIDE_BY_SIDE, y = THREAD / SIDE_BY_SIDE, c = (BLOCK_Y * SIDE_BY_SIDE + x) * V;
    i64 begin = i64(BLOCK_X) * a.chunk, end = least(a.pixels, begin + a.chunk);
    S sum[V] = {};
    if (c < a.channels) {
        ROLLED for (i64 p = begin + y; p < end; p += ROWS) {
            i64 line = p / a.width, n = line / a.height;
            const T *at = a.dout + n * a.stride[0] + c * a.stride[1] + (line - n * a.height) * a.stride[2] +
                          (p - line * a.width) * a.stride[3];
            if (V == 1) {
                sum[0] += widen(*at);
            } else {
                Pack<T> v = load<Pack<T>>(at);
                UNROLL for (int i = 0; i < V; i++) sum[i] += widen(v.at[i]);
            }
        }
    }
    UNROLL for (int i = 0; i < V; i++) sums[THREAD * V + i] = sum[i];
    ROLLED for (int half = ROWS / 2; half; half /= 2) {
        BARRIER();
        if (y < half)
            UNROLL for (int i = 0; i < V; i++) sums[THREAD * V + i] += sums[(THREAD + half * SIDE_BY_SIDE) * V + i];
    }
    if (y == 0 && c < a.channels)
        UNROLL for (int i = 0; i < V; i++) a.partial[i64(BLOCK_X) * a.channels + c + i] = sums[THREAD * V + i];
}

KERNEL(bias_chunks, 256, 4, Bias) { chunk_sums<1>(a); }
KERNEL(bias_chunks_wide, 256, 4, Bias) { chunk_sums<16 / sizeof(T)>(a); }

struct BiasJoin {
    const S *partial;
    Vector db; // written
    int channels, chunks;
};

// One warp for each channel.
KERNEL(bias_join, 128, 8, BiasJoin) {
    int c = (BLOCK_X * 128 + THREAD) / 32;
    if (c >= a.channels) return; // whole warps
    S sum = 0;
    ROLLED for (int i = LANE; i < a.chunks; i += 32) sum += a.partial[i64(i) * a.channels + c];
    sum = warp_sum(sum);
    if (LANE == 0) put_number(a.db, c, sum);
}

#endif
