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
    int wide; // channels of a pixel are whole pieces of 16 bytes
};

// A block sums a chunk of pixels: threads side by side take neighbouring channels, V of them each, the others pixels. The
// sums of a block's rows of threads are added in pairs. The same order whether the channels are read at once or one by one.
KERNEL(bias_chunks, 256, 4, Bias) {
    constexpr int V = 16 / sizeof(T), SIDE_BY_SIDE = 8, ROWS = 256 / SIDE_BY_SIDE;
    SHARED(S, sums, 256 * V);
    int x = THREAD % SIDE_BY_SIDE, y = THREAD / SIDE_BY_SIDE, c = (BLOCK_Y * SIDE_BY_SIDE + x) * V;
    i64 begin = i64(BLOCK_X) * a.chunk, end = least(a.pixels, begin + a.chunk);
    S sum[V] = {};
    if (c < a.channels) {
        ROLLED for (i64 p = begin + y; p < end; p += ROWS) {
            i64 line = p / a.width, n = line / a.height;
            const T *at = a.dout + n * a.stride[0] + c * a.stride[1] + (line - n * a.height) * a.stride[2] +
                          (p - line * a.width) * a.stride[3];
            if (a.wide) {
                Pack<T> v = load<Pack<T>>(at);
                UNROLL for (int i = 0; i < V; i++) sum[i] += widen(v.at[i]);
            } else
                UNROLL for (int i = 0; i < V; i++)
                    if (c + i < a.channels) sum[i] += widen(at[i * a.stride[1]]);
        }
    }
    UNROLL for (int i = 0; i < V; i++) sums[THREAD * V + i] = sum[i];
    ROLLED for (int half = ROWS / 2; half; half /= 2) {
        BARRIER();
        if (y < half)
            UNROLL for (int i = 0; i < V; i++) sums[THREAD * V + i] += sums[(THREAD + half * SIDE_BY_SIDE) * V + i];
    }
    if (y == 0)
        UNROLL for (int i = 0; i < V; i++)
            if (c + i < a.channels) a.partial[i64(BLOCK_X) * a.channels + c + i] = sums[THREAD * V + i];
}

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
