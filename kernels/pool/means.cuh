// The mean of each channel of an image, and its gradient.
#pragma once
#include "image.cuh"
#include "sums.cuh"

struct GlobalForward {
    Image x, out;
    Divisor tiles, chunks, width;
    int lanes, channels, chunk; // of a block; channels in all; pixels of a block
    int pixels;
    double *sums; // (N, C, chunks), where there are several
};

template <int WIDTH> DEVICE void global_sums(const GlobalForward &a) {
    SHARED(double, kept, WIDTH *SUM_THREADS);
    i64 chunk = i64(BLOCK_X);
    i64 rest = split(chunk, a.tiles);
    const int tile = int(chunk), image = int(split(rest, a.chunks));
    const int first = int(rest) * a.chunk, last = least(first + a.chunk, a.pixels);
    const int lane = THREAD & (a.lanes - 1), row = THREAD / a.lanes, rows = SUM_THREADS / a.lanes;
    const int channel = (tile * a.lanes + lane) * WIDTH;
    const u8 *from = at(a.x, image, channel, 0, 0);
    double total[WIDTH] = {};
    if (channel < a.channels) {
        S part[WIDTH] = {};
        int panel = 0;
        ROLLED for (int p = first + row; p < last; p += PANEL * rows) {
            Lanes<T, WIDTH> v[PANEL];
            UNROLL for (int i = 0; i < PANEL; i++) {
                UNROLL for (int c = 0; c < WIDTH; c++) v[i].at[c] = narrow<T>(S(0));
                const int pixel = p + i * rows;
                if (pixel >= last) continue;
                const int line = divide(pixel, a.width);
                v[i] = load<Lanes<T, WIDTH>>(from + line * a.x.line + (pixel - line * int(a.width.by)) * a.x.pixel);
            }
            const bool full = ++panel == STRETCH / PANEL;
            UNROLL for (int c = 0; c < WIDTH; c++) {
                S row_values[PANEL];
                UNROLL for (int i = 0; i < PANEL; i++) row_values[i] = widen(v[i].at[c]);
                part[c] += tree(row_values);
                if (full) total[c] += part[c], part[c] = 0;
            }
            if (full) panel = 0;
        }
        UNROLL for (int c = 0; c < WIDTH; c++) total[c] += part[c];
    }
    UNROLL for (int c = 0; c < WIDTH; c++) kept[c * SUM_THREADS + THREAD] = total[c];
    sum_rows<WIDTH>(kept, a.lanes);
    if (THREAD >= a.lanes * WIDTH) return;
    const int own = tile * a.lanes * WIDTH + THREAD;
    if (own >= a.channels) return;
    const double sum = kept[THREAD % WIDTH * SUM_THREADS + THREAD / WIDTH];
    if (a.chunks.by > 1)
        a.sums[(i64(image) * a.channels + own) * a.chunks.by + rest] = sum;
    else
        *(T *)at(a.out, image, own, 0, 0) = narrow<T>(S(sum / a.pixels));
}

KERNEL(global_forward, 256, 2, GlobalForward) { global_sums<Pack<T>::N>(a); }
KERNEL(global_forward_plain, 256, 4, GlobalForward) { global_sums<1>(a); }

struct GlobalJoin {
    Image out;
    i64 means; // images times channels
    Divisor channels;
    int chunks, pixels;
    const double *sums;
};

// A warp for each mean.
KERNEL(global_join, 256, 4, GlobalJoin) {
    i64 channel = i64(BLOCK_X) * (SUM_THREADS / 32) + THREAD / 32;
    const double *sums = a.sums + channel * a.chunks;
    const double sum = warp_total(channel < a.means ? a.chunks : 0, [&](int i) { return sums[i]; });
    if (LANE || channel >= a.means) return;
    const i64 image = split(channel, a.channels);
    *(T *)at(a.out, int(image), int(channel), 0, 0) = narrow<T>(S(sum / a.pixels));
}

struct GlobalBackward {
    i64 items; // threads: as many as dx has elements, or packs of channels
    Divisor inner, middle, outer; // as in Windows
    int planes;
    Image dout, dx;
    S share; // 1 / pixels
};

template <int WIDTH> DEVICE void global_spread(const GlobalBackward &a) {
    i64 i = i64(BLOCK_X) * SUM_THREADS + THREAD;
    if (i >= a.items) return;
    i64 middle = split(i, a.inner), outer = split(middle, a.middle), image = split(outer, a.outer);
    const int channel = WIDTH == 1 && a.planes ? int(outer) : int(i) * WIDTH;
    const int line = WIDTH == 1 && a.planes ? int(middle) : int(outer);
    const int pixel = WIDTH == 1 && a.planes ? int(i) : int(middle);
    auto v = load<Lanes<T, WIDTH>>(at(a.dout, int(image), channel, 0, 0));
    UNROLL for (int c = 0; c < WIDTH; c++) v.at[c] = narrow<T>(widen(v.at[c]) * a.share);
    store(at(a.dx, int(image), channel, line, pixel), v);
}

KERNEL(global_backward, 256, 4, GlobalBackward) { global_spread<Pack<T>::N>(a); }
KERNEL(global_backward_plain, 256, 4, GlobalBackward) { global_spread<1>(a); }
